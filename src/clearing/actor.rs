//! The clearing actor: the core behind an inbox, and the pace of its proofs.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::core::Core;
use super::explain::{detail, explain};
use crate::flow::{AuditReply, Clock, Inbox, InboxSender, Pace, Stopped, Work};
use crate::journal::Group;
use crate::ledger::{AccountId, Book, BookAccount, Order, Sequence, Slot};
use crate::planted::{self, Bug};
use crate::protocol::{AccountDetail, Explained};
use crate::settlement::{Auditor, Follower, SettlementHandle};
use crate::shard::ShardHandle;

/// How often a shard is asked for balances to compare.
const AUDIT_EVERY: Duration = Duration::from_millis(50);

/// Messages after which checkpoints and audits get their turn, also when there is always one more.
const MESSAGES_PER_DRAIN: usize = 64;

/// Messages before the desk with which it is not told more to forget at once.
const FORGET_DEPTH: usize = 16;

/// Accounts compared at a time.
const AUDIT_ACCOUNTS: u32 = 1_024;

/// Audits between proofs that all balances add up to nothing: every ten seconds.
const AUDITS_PER_SUM: u32 = 200;

/// Accounts read at a sequence.
#[derive(Clone, Debug)]
pub struct ReadAccounts {
    /// The balances are as of after this record.
    pub sequence: Sequence,
    /// The accounts that exist, in the order asked for.
    pub accounts: Vec<BookAccount>,
}

/// Given the accounts. Called on the actor's thread; must not block.
pub type ReadReply = Box<dyn FnOnce(ReadAccounts) + Send>;

/// Given an account and its limits. Called on the actor's thread; must not block.
pub type DetailReply = Box<dyn FnOnce(AccountDetail) + Send>;

/// Given the book. Called on the actor's thread; must not block, and be done in a millisecond or two.
pub type Inspection = Box<dyn FnOnce(&Book) + Send>;

/// Given what would happen. Called on the actor's thread; must not block.
pub type ExplainReply = Box<dyn FnOnce(Explained) + Send>;

/// A message to the clearing actor; see the module for who sends it.
pub enum ClearingMessage {
    /// Follow this group.
    Durable(Arc<Group>),
    /// A shard's balances, as of after all groups so far.
    Audit(AuditReply),
    /// Read these accounts.
    Accounts(Vec<AccountId>, ReadReply),
    /// Read accounts in order of opening: from this slot, at most this many.
    List(Slot, u32, ReadReply),
    /// Read an account with what its limits leave.
    Detail(AccountId, DetailReply),
    /// Read anything of the book, in short time.
    Inspect(Inspection),
    /// Say what would become of these transfers.
    Explain(Vec<Order>, ExplainReply),
    /// Make a checkpoint now; told its sequence once it is durable.
    Checkpoint(Sender<Sequence>),
}

impl std::fmt::Debug for ClearingMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Durable(_) => "Durable",
            Self::Audit(_) => "Audit",
            Self::Accounts(..) => "Accounts",
            Self::List(..) => "List",
            Self::Detail(..) => "Detail",
            Self::Inspect(_) => "Inspect",
            Self::Explain(..) => "Explain",
            Self::Checkpoint(_) => "Checkpoint",
        })
    }
}

/// How others speak to the clearing actor.
#[derive(Clone, Debug)]
pub struct ClearingHandle(InboxSender<ClearingMessage>);

impl ClearingHandle {
    /// Speaks through this inbox.
    pub fn new(sender: InboxSender<ClearingMessage>) -> Self {
        Self(sender)
    }

    /// Hands on a message. Never blocks.
    pub fn send(&self, message: ClearingMessage) -> Result<(), Stopped> {
        self.0.send(message)
    }

    /// Says that the store's thread has room again.
    pub fn wake(&self) {
        // Without the actor nobody waits for room.
        let _open = self.0.wake();
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.0.depth()
    }
}

impl Follower for ClearingHandle {
    fn durable(&self, group: &Arc<Group>) {
        self.0.leave(ClearingMessage::Durable(Arc::clone(group)));
    }

    fn wake(&self) -> Result<(), Stopped> {
        self.0.wake()
    }
}

impl Auditor for ClearingHandle {
    fn audit(&self, audit: AuditReply) -> Result<(), Stopped> {
        self.0.send(ClearingMessage::Audit(audit))
    }
}

/// What the actor needs besides its core.
#[derive(Clone, Debug)]
pub struct ClearingOptions {
    /// The shards to compare with.
    pub shards: Vec<ShardHandle>,
    /// Waits when clearing is too far behind.
    pub settlement: SettlementHandle,
    /// How far clearing is.
    pub pace: Pace,
    /// Its own inbox, to go on with a checkpoint after others had their turn.
    pub own: ClearingHandle,
    /// As of when limits are shown.
    pub clock: Clock,
}

/// The actor.
#[derive(Debug)]
pub struct ClearingActor {
    core: Core,
    inbox: Inbox<ClearingMessage>,
    options: ClearingOptions,
    /// The shard and slot to compare next.
    next_audit: (usize, Slot),
    audits: u32,
}

impl ClearingActor {
    /// Puts a core behind an inbox.
    pub fn new(core: Core, inbox: Inbox<ClearingMessage>, options: ClearingOptions) -> Self {
        Self { core, inbox, options, next_audit: (0, 0), audits: 0 }
    }

    fn audit_next(&mut self) {
        self.core.publish_funds();
        let (shard, slot) = self.next_audit;
        if let Some(handle) = self.options.shards.get(shard) {
            // When the shard has stopped, so will this.
            let _asked = handle.audit(slot, AUDIT_ACCOUNTS);
        }
        // The same slots of each shard in turn; beyond the end a shard answers with nothing, and all begin again.
        let following = shard.saturating_add(1);
        self.next_audit = if following < self.options.shards.len() {
            (following, slot)
        } else {
            let next = slot.saturating_add(AUDIT_ACCOUNTS);
            (0, if usize::try_from(next).is_ok_and(|next| next < self.core.book().len()) { next } else { 0 })
        };
        self.audits = self.audits.wrapping_add(1);
        if self.audits.is_multiple_of(AUDITS_PER_SUM) {
            self.core.prove_sums();
        }
    }

    /// Has the desk forget some of what the store has; answers whether there is more, and the desk has time for it at once. While it has
    /// not, it is told so much with each drain.
    fn forget(&mut self) -> bool {
        let given_back = self.core.given_back();
        let is_some = !given_back.is_empty();
        if let Some(desk) = self.options.shards.first().filter(|_| is_some) {
            // When the shard has stopped, so will this.
            let _told = desk.forget(given_back);
        }
        is_some && self.options.shards.first().is_some_and(|desk| desk.depth() <= FORGET_DEPTH)
    }

    fn handle_message(&mut self, message: ClearingMessage) {
        match message {
            ClearingMessage::Durable(group) => {
                if let Some(group) = planted::late(Bug::StaleRead, group) {
                    self.core.durable(&group);
                }
            }
            ClearingMessage::Audit(audit) => self.core.audit(&audit),
            ClearingMessage::Accounts(ids, reply) => {
                let book = self.core.book();
                let accounts = ids.into_iter().filter_map(|id| book.account(id)).collect();
                reply(ReadAccounts { sequence: book.sequence(), accounts });
            }
            ClearingMessage::List(from, count, reply) => {
                let book = self.core.book();
                let slots = from..from.saturating_add(count);
                let accounts = slots.map_while(|slot| book.account_at(slot)).collect();
                reply(ReadAccounts { sequence: book.sequence(), accounts });
            }
            ClearingMessage::Detail(id, reply) => reply(detail(self.core.book(), id, self.options.clock.now_ns())),
            ClearingMessage::Inspect(inspection) => inspection(self.core.book()),
            ClearingMessage::Explain(orders, reply) => {
                reply(explain(self.core.book(), &orders, self.options.clock.now_ns()));
            }
            ClearingMessage::Checkpoint(done) => self.core.begin_checkpoint(Some(done)),
        }
    }
}

impl Work for ClearingActor {
    fn tick_every(&self) -> Option<Duration> {
        Some(AUDIT_EVERY)
    }

    fn tick(&mut self) {
        self.audit_next();
        if self.forget() {
            self.options.own.wake();
        }
    }

    fn drain(&mut self) {
        self.inbox.begin_drain();
        let mut handled = 0_usize;
        while handled < MESSAGES_PER_DRAIN
            && let Some(message) = self.inbox.pop()
        {
            self.handle_message(message);
            handled = handled.saturating_add(1);
        }
        let more_to_write = self.core.checkpoint_if_due();
        // While the store is behind, settlement is not told how far this is, so that what waits to be written is bounded.
        if self.core.is_store_near() && self.options.pace.follow(self.core.book().sequence()) {
            // When settlement has stopped, so will this.
            let _woken = self.options.settlement.wake();
        }
        if self.forget() || more_to_write || handled == MESSAGES_PER_DRAIN {
            self.options.own.wake();
        }
    }
}
