//! The router's actor.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;

use super::ids::Admitted;
use super::known::KnownIds;
use super::repeats::{Lookup, RepeatSender, repeat};
use crate::flow::{Asked, Batch, Inbox, InboxSender, Parcel, Stopped, Submission, Work};
use crate::journal::Group;
use crate::ledger::{Code, NewAccount, Outcome, Sequence, StoredRecord, Transfer, TransferId};
use crate::planted::{self, Bug};
use crate::settlement::{Follower, SettlementHandle, SettlementMessage};
use crate::shard::{Item, ShardHandle};

/// Ids looked up ahead, so that their cache misses overlap.
const LOOKUP_BLOCK: usize = 32;

/// Transfers for one shard after which they are sent, so that the shard need not wait for a long queue.
const TRANSFERS_PER_SEND: usize = 4_096;

/// Told the sequence of each id's durable record. Called on the router's thread; must not block.
pub type FindReply = Box<dyn FnOnce(Vec<Option<Sequence>>) + Send>;

/// A message to the router; see the module for who sends it.
pub enum RouterMessage {
    /// Have these decided, in this order; outcome `i` of the parcel is transfer `i`'s.
    Transfers(Arc<Parcel>, Asked),
    /// Have these opened; outcome `i` of the parcel is account `i`'s.
    Accounts(Arc<Parcel>, Vec<NewAccount>),
    /// Where are the records of these ids?
    Find(Vec<TransferId>, FindReply),
    /// These ids are decided.
    Durable(Arc<Group>),
}

impl std::fmt::Debug for RouterMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Transfers(..) => "Transfers",
            Self::Accounts(..) => "Accounts",
            Self::Find(..) => "Find",
            Self::Durable(_) => "Durable",
        })
    }
}

/// How others speak to the router.
#[derive(Clone, Debug)]
pub struct RouterHandle(InboxSender<RouterMessage>);

impl RouterHandle {
    /// Speaks through this inbox.
    pub fn new(sender: InboxSender<RouterMessage>) -> Self {
        Self(sender)
    }

    /// Hands on a message. Never blocks; the caller holds an admission permit for what it brings.
    pub fn send(&self, message: RouterMessage) -> Result<(), Stopped> {
        self.0.send(message)
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.0.depth()
    }
}

impl Follower for RouterHandle {
    fn durable(&self, group: &Arc<Group>) {
        self.0.leave(RouterMessage::Durable(Arc::clone(group)));
    }

    fn wake(&self) -> Result<(), Stopped> {
        self.0.wake()
    }
}

/// The actor.
#[derive(Debug)]
pub struct RouterActor {
    ids: KnownIds,
    /// Repeats of pending ids.
    waiting: HashMap<TransferId, Vec<Waiting>>,
    /// Transactions about transfers that are pending.
    waiting_originals: HashMap<TransferId, Vec<Vec<Item>>>,
    inbox: Inbox<RouterMessage>,
    shards: Vec<ShardHandle>,
    settlement: SettlementHandle,
    repeats: RepeatSender,
    outgoing: Outgoing,
    /// Of the parcel at hand: what is not new.
    others: Vec<(u32, Admitted)>,
    /// Transfers of a piece.
    piece: usize,
}

#[derive(Debug)]
struct Waiting {
    parcel: Arc<Parcel>,
    index: u32,
    transfer: Transfer,
}

/// What is to be sent at the end of a drain.
#[derive(Debug)]
struct Outgoing {
    transfers: Vec<Submission>,
    accounts: Vec<Batch<NewAccount>>,
    /// Whether the shard waits for the rest of what it was given.
    is_amid: bool,
    /// Per shard.
    orders: Vec<Vec<Vec<Item>>>,
    repeats: Batch<(Transfer, Sequence)>,
    resolved: Batch<Outcome>,
}

impl RouterActor {
    /// Puts a filled index behind an inbox. The only shard begins with a request of twice as many transfers as are in a `piece`, or more, while the rest of them is looked up.
    pub fn new(
        (ids, piece): (KnownIds, usize),
        inbox: Inbox<RouterMessage>,
        shards: Vec<ShardHandle>,
        settlement: SettlementHandle,
        repeats: RepeatSender,
    ) -> Self {
        let outgoing = Outgoing {
            transfers: shards.iter().map(|_| Submission::default()).collect(),
            is_amid: false,
            accounts: shards.iter().map(|_| Batch::default()).collect(),
            orders: shards.iter().map(|_| Vec::new()).collect(),
            repeats: Batch::default(),
            resolved: Batch::default(),
        };
        let (waiting, waiting_originals) = (HashMap::new(), HashMap::new());
        let (others, piece) = (Vec::new(), piece.max(1));
        Self { ids, waiting, waiting_originals, inbox, shards, settlement, repeats, outgoing, others, piece }
    }

    fn transfers(&mut self, parcel: &Arc<Parcel>, asked: Asked) -> Result<(), Stopped> {
        if !asked.are_single {
            self.mixed(parcel, &asked.transfers);
            return Ok(());
        }
        let Asked { transfers, ids, .. } = asked;
        // Where more waits, the shard has work meanwhile.
        let is_alone = self.shards.len() == 1 && self.inbox.depth() == 0;
        if is_alone && transfers.len() >= self.piece.saturating_mul(2) {
            return self.in_pieces(parcel, &Arc::new(transfers), &ids);
        }
        if self.look_up_all(parcel, 0, (&transfers, &ids))
            && let [only] = self.outgoing.transfers.as_mut_slice()
        {
            only.push_all(parcel, transfers);
        }
        Ok(())
    }

    /// Sends transfers on piece by piece. There is one shard, which waits for the rest with what it has decided.
    fn in_pieces(
        &mut self,
        parcel: &Arc<Parcel>,
        transfers: &Arc<Vec<Transfer>>,
        ids: &[TransferId],
    ) -> Result<(), Stopped> {
        let mut rest: Range<usize> = 0..transfers.len();
        while !rest.is_empty() {
            let (from, to) = (rest.start, rest.start.saturating_add(self.piece).min(rest.end));
            rest.start = to;
            let pieces = (transfers.get(from..to).unwrap_or_default(), ids.get(from..to).unwrap_or_default());
            let are_new = self.look_up_all(parcel, u32::try_from(from).unwrap_or(u32::MAX), pieces);
            if let [only] = self.outgoing.transfers.as_mut_slice() {
                if are_new {
                    only.push_piece(parcel, transfers, from..to);
                }
                only.set_rest(rest.len());
            }
            self.send()?;
        }
        Ok(())
    }

    /// Looks some transfers of a parcel up, the first of which has the outcome `first`. If it answers that they are all new and there is one shard they are still to be sent, otherwise they are where they belong.
    fn look_up_all(
        &mut self,
        parcel: &Arc<Parcel>,
        first: u32,
        (transfers, ids): (&[Transfer], &[TransferId]),
    ) -> bool {
        if ids.is_empty() {
            self.look_up(first, transfers, |transfer| transfer.id);
        } else {
            self.look_up(first, ids, |id| *id);
        }
        if self.others.is_empty() && self.shards.len() == 1 {
            return true;
        }
        let others = std::mem::take(&mut self.others);
        let mut next = others.iter().peekable();
        for (index, transfer) in (first..).zip(transfers) {
            match next.next_if(|(other, _)| *other == index) {
                Some((_, admitted)) => self.route(parcel, index, transfer, *admitted),
                None => self.submit(parcel, index, transfer),
            }
        }
        false
    }

    /// Looks ids of a parcel up, from this outcome on, and notes what is not new.
    fn look_up<T>(&mut self, first: u32, items: &[T], id_of: impl Fn(&T) -> TransferId + Copy) {
        let mut index = first;
        for block in items.chunks(LOOKUP_BLOCK) {
            self.ids.touch(block.iter().map(id_of));
            for id in block.iter().map(id_of) {
                let admitted = if id.is_valid() { self.ids.admit(id) } else { Admitted::Pending };
                if admitted != Admitted::New {
                    self.others.push((index, admitted));
                }
                index = index.wrapping_add(1);
            }
        }
    }

    /// Transfers with transactions among them.
    fn mixed(&mut self, parcel: &Arc<Parcel>, transfers: &[Transfer]) {
        let mut index = 0_u32;
        // The transaction that is being gathered; the session has checked that none is left open.
        let mut items = Vec::new();
        for block in transfers.chunks(LOOKUP_BLOCK) {
            self.ids.touch(block.iter().map(|transfer| transfer.id));
            for transfer in block {
                if transfer.is_linked() || !items.is_empty() || transfer.operation().names_original() {
                    items.push(Item::new(parcel, index, *transfer));
                    if !transfer.is_linked() {
                        self.transaction(std::mem::take(&mut items));
                    }
                } else {
                    let id = transfer.id;
                    let admitted = if id.is_valid() { self.ids.admit(id) } else { Admitted::Pending };
                    self.route(parcel, index, transfer, admitted);
                }
                index = index.wrapping_add(1);
            }
        }
    }

    /// A transaction: goes to a shard whole if all its ids are new.
    fn transaction(&mut self, items: Vec<Item>) {
        let mut originals = Vec::with_capacity(items.len());
        for item in &items {
            let about = TransferId::from_raw(item.order.transfer.related);
            let asks = item.order.transfer.operation().names_original() && about.is_valid();
            originals.push(match if asks { self.ids.peek(about) } else { Admitted::New } {
                Admitted::New => None,
                Admitted::Known(sequence) => Some(sequence),
                // Only what came earlier is waited for, so nothing waits in a circle.
                Admitted::Pending => return self.waiting_originals.entry(about).or_default().push(items),
            });
        }
        let mut new = Vec::with_capacity(items.len());
        for item in &items {
            let id = item.order.transfer.id;
            new.push(if id.is_valid() { self.ids.admit(id) } else { Admitted::Pending });
        }
        let shard = items.first().map_or(0, |item| item.order.transfer.debit.shard(self.shards.len()));
        if new.iter().all(|admitted| *admitted == Admitted::New) {
            return self.whole(shard, items, originals);
        }
        for (mut item, admitted) in items.into_iter().zip(new) {
            if admitted == Admitted::New {
                item.order.refused = Some(Code::TransactionFailed);
                if let Some(orders) = self.outgoing.orders.get_mut(shard) {
                    orders.push(vec![item]);
                }
            } else if admitted == Admitted::Pending && item.order.transfer.id.is_valid() {
                self.wait(&item.parcel, item.index, &item.order.transfer);
            } else {
                self.route(&item.parcel, item.index, &item.order.transfer, admitted);
            }
        }
    }

    /// A transaction whose ids are all new.
    fn whole(&mut self, shard: usize, items: Vec<Item>, originals: Vec<Option<Sequence>>) {
        if originals.iter().any(Option::is_some) {
            let lookup = Lookup::Originals(shard, vec![(items, originals)]);
            // When the helper has ended, so will this.
            let _sent = self.repeats.give(lookup);
        } else if let Some(batch) = self.outgoing.transfers.get_mut(shard) {
            for item in items {
                batch.push(&item.parcel, item.index, item.order.transfer);
            }
        }
    }

    #[inline]
    fn submit(&mut self, parcel: &Arc<Parcel>, index: u32, transfer: &Transfer) {
        let shard = transfer.debit.shard(self.shards.len());
        if let Some(submission) = self.outgoing.transfers.get_mut(shard) {
            submission.push(parcel, index, *transfer);
        }
    }

    /// Sends a transfer where it belongs by what is known of its id; an id that is not valid comes as a pending one.
    fn route(&mut self, parcel: &Arc<Parcel>, index: u32, transfer: &Transfer, admitted: Admitted) {
        match admitted {
            _ if !transfer.id.is_valid() => {
                self.outgoing.resolved.push(parcel, index, Outcome::unrecorded(Code::IdInvalid));
            }
            Admitted::New => self.submit(parcel, index, transfer),
            Admitted::Pending if planted::is(Bug::PendingRepeatDecided) => self.submit(parcel, index, transfer),
            Admitted::Pending => self.wait(parcel, index, transfer),
            Admitted::Known(sequence) => self.outgoing.repeats.push(parcel, index, (*transfer, sequence)),
        }
    }

    /// A repeat of a pending id waits for that one's record.
    fn wait(&mut self, parcel: &Arc<Parcel>, index: u32, transfer: &Transfer) {
        let waiting = Waiting { parcel: Arc::clone(parcel), index, transfer: *transfer };
        self.waiting.entry(transfer.id).or_default().push(waiting);
    }

    fn durable(&mut self, group: &Group) {
        let mut sequence = group.base_sequence();
        for ids in group.transfer_ids().chunks(LOOKUP_BLOCK) {
            self.ids.touch_pending(ids);
            for &id in ids {
                if id.is_valid() {
                    self.ids.settle(id, sequence);
                    if !self.waiting.is_empty() {
                        self.answer_waiting(group, id, sequence);
                    }
                    if !self.waiting_originals.is_empty() {
                        let ready = self.waiting_originals.remove(&id).into_iter().flatten();
                        ready.for_each(|items| self.transaction(items));
                    }
                }
                sequence = sequence.saturating_add(1);
            }
        }
    }

    fn answer_waiting(&mut self, group: &Group, id: TransferId, sequence: Sequence) {
        let Some(waiting) = self.waiting.remove(&id) else { return };
        let place = sequence.saturating_sub(group.base_sequence());
        let record = usize::try_from(place).ok().and_then(|place| group.record(place)).and_then(Result::ok);
        let Some(record) = record else { return };
        let first = StoredRecord { sequence, time_ns: group.time_ns().saturating_add(place), record };
        for Waiting { parcel, index, transfer } in waiting {
            self.outgoing.resolved.push(&parcel, index, repeat(&transfer, &first));
        }
    }

    fn handle_message(&mut self, message: RouterMessage) -> Result<(), Stopped> {
        match message {
            RouterMessage::Transfers(parcel, asked) => self.transfers(&parcel, asked)?,
            RouterMessage::Accounts(parcel, accounts) => {
                for (index, account) in (0..).zip(accounts) {
                    if let Some(batch) = self.outgoing.accounts.get_mut(account.id.shard(self.shards.len())) {
                        batch.push(&parcel, index, account);
                    }
                }
                // Transfers that come after the accounts were asked for must find them.
                return self.send();
            }
            RouterMessage::Find(ids, reply) => reply(ids.into_iter().map(|id| self.ids.find(id)).collect()),
            RouterMessage::Durable(group) => {
                self.durable(&group);
                // Not only at the end of a drain: under full load there is none.
                self.ids.turn();
            }
        }
        let full = self.outgoing.transfers.iter().any(|batch| batch.len() >= TRANSFERS_PER_SEND);
        if full { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), Stopped> {
        for (shard, batch) in self.shards.iter().zip(&mut self.outgoing.transfers) {
            // Also an empty one, when the shard waits for it.
            if !batch.is_empty() || self.outgoing.is_amid {
                self.outgoing.is_amid = batch.rest() > 0;
                shard.submit(std::mem::take(batch))?;
            }
        }
        for (shard, orders) in self.shards.iter().zip(&mut self.outgoing.orders) {
            if !orders.is_empty() {
                shard.order(std::mem::take(orders))?;
            }
        }
        for (shard, batch) in self.shards.iter().zip(&mut self.outgoing.accounts) {
            if !batch.is_empty() {
                shard.open(std::mem::take(batch))?;
            }
        }
        if !self.outgoing.repeats.is_empty() {
            let repeats = std::mem::take(&mut self.outgoing.repeats);
            self.repeats.give(Lookup::Repeats(repeats)).map_err(|_gone| Stopped)?;
        }
        if !self.outgoing.resolved.is_empty() {
            self.settlement.send(SettlementMessage::Resolved(std::mem::take(&mut self.outgoing.resolved)))?;
        }
        Ok(())
    }
}

impl Work for RouterActor {
    fn is_waiting(&self) -> bool {
        self.inbox.depth() > 0
    }

    fn drain(&mut self) {
        self.inbox.begin_drain();
        let mut open = Ok(());
        for _ in 0..self.inbox.depth() {
            let Some(message) = self.inbox.pop() else { break };
            open = open.and(self.handle_message(message));
        }
        self.ids.turn();
        if open.and(self.send()).is_err() {
            tracing::debug!("a peer of the router has stopped; nobody is answered any more");
        }
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
