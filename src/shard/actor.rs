//! The shard's actor: takes what waits, lets the core decide, sends what came of it.

use super::core::Core;
use super::legs::{Item, ShardMessage};
use crate::flow::{Batch, Inbox, InboxSender, Stopped, Submission, Work};
use crate::ledger::{Life, NewAccount, Slot, TransferId};
use crate::planted::{self, Bug};
use crate::settlement::{SettlementHandle, SettlementMessage, Timekeeper};

/// Drained messages after which a shard sends what it has, so that the next stages need not wait for a long queue.
const MESSAGES_PER_SEND: usize = 64;

/// Where a shard sends.
#[derive(Clone, Debug)]
pub struct ShardPeers {
    /// Outcomes.
    pub settlement: SettlementHandle,
    /// All shards, this one included, in order.
    pub shards: Vec<InboxSender<ShardMessage>>,
}

/// The actor.
#[derive(Debug)]
pub struct ShardActor {
    core: Core,
    shard: usize,
    inbox: Inbox<ShardMessage>,
    peers: ShardPeers,
}

/// How others speak to a shard.
#[derive(Clone, Debug)]
pub struct ShardHandle(InboxSender<ShardMessage>);

impl ShardHandle {
    /// Speaks through this inbox.
    pub fn new(sender: InboxSender<ShardMessage>) -> Self {
        Self(sender)
    }

    /// Has transfers decided whose debit accounts are hosted there. Never blocks; outcomes go to their parcels.
    pub fn submit(&self, transfers: Submission) -> Result<(), Stopped> {
        self.0.send(ShardMessage::Submit(transfers))
    }

    /// Has transactions decided of which something is known already. Never blocks; outcomes go to their parcels.
    pub fn order(&self, transactions: Vec<Vec<Item>>) -> Result<(), Stopped> {
        self.0.send(ShardMessage::Orders(transactions))
    }

    /// Has accounts opened. Never blocks; outcomes go to their parcels.
    pub fn open(&self, accounts: Batch<NewAccount>) -> Result<(), Stopped> {
        self.0.send(ShardMessage::Open(accounts))
    }

    /// Asks for the balances of some slots; the reply comes with the ledger's stream.
    pub fn audit(&self, first: Slot, count: u32) -> Result<(), Stopped> {
        self.0.send(ShardMessage::Audit { first, count })
    }

    /// Has the desk forget what was given back of transfers, as far as it is still this; only the first shard has one.
    pub fn forget(&self, given_back: Vec<(TransferId, Life)>) -> Result<(), Stopped> {
        self.0.send(ShardMessage::Forget(given_back))
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.0.depth()
    }
}

impl Timekeeper for ShardHandle {
    fn tick(&self, now_ns: u64) -> Result<(), Stopped> {
        self.0.send(ShardMessage::Tick { now_ns })
    }
}

/// Messages before settlement with which nothing more falls due for now.
const AHEAD_MAX: usize = 64;

impl ShardActor {
    /// Puts a filled core behind an inbox.
    pub fn new(shard: usize, core: Core, inbox: Inbox<ShardMessage>, peers: ShardPeers) -> Self {
        Self { core, shard, inbox, peers }
    }

    /// Sends outcomes first: what goes to other shards may rest on them.
    fn send(&mut self) -> Result<(), Stopped> {
        let output = self.core.take_output();
        for decided in output.decided.into_iter().filter(|decided| !decided.is_empty()) {
            self.peers.settlement.send(SettlementMessage::Decided(decided))?;
        }
        let from = self.shard;
        for (peer, ended) in self.peers.shards.iter().zip(output.ended) {
            if !ended.is_empty() && !planted::is(Bug::FinishLost) {
                peer.send(ShardMessage::Finish { from, ended })?;
            }
        }
        for (peer, count) in self.peers.shards.iter().zip(output.probed) {
            (0..count).try_for_each(|_| peer.send(ShardMessage::Probed { from }))?;
        }
        for (peer, legs) in self.peers.shards.iter().zip(output.legs) {
            if !legs.is_empty() {
                peer.send(ShardMessage::Accept { from, legs })?;
            }
        }
        for (peer, loans) in self.peers.shards.iter().zip(output.loans) {
            if !loans.is_empty() {
                peer.send(ShardMessage::Loans(loans))?;
            }
        }
        for (peer, count) in self.peers.shards.iter().zip(output.probes) {
            (0..count).try_for_each(|_| peer.send(ShardMessage::Probe { from }))?;
        }
        Ok(())
    }
}

impl Work for ShardActor {
    fn is_waiting(&self) -> bool {
        self.inbox.depth() > 0
    }

    fn drain(&mut self) {
        self.inbox.begin_drain();
        let mut handled = 0_usize;
        let mut open = Ok(());
        // What falls due together is done between the drains of others' messages.
        self.core.do_due();
        for _ in 0..self.inbox.depth() {
            let Some(message) = self.inbox.pop() else { break };
            // An audit is a moment in the stream: nothing decided later may go out with it.
            let moment = matches!(message, ShardMessage::Audit { .. });
            let was_amid = self.core.is_amid();
            self.core.handle(message);
            handled = handled.saturating_add(1);
            let is_whole = was_amid && !self.core.is_amid();
            if moment || is_whole || handled.is_multiple_of(MESSAGES_PER_SEND) {
                open = open.and(self.send());
            }
        }
        // What is decided of a request waits for the rest, which the router is looking up: one group is written, and synced, sooner than two.
        if !self.core.is_amid() {
            open = open.and(self.send());
        }
        // Not further ahead of settlement than this; the next tick goes on, or the rest of that request.
        if self.core.is_more_due() && !self.core.is_amid() && self.peers.settlement.depth() < AHEAD_MAX {
            open = open.and(self.peers.shards.get(self.shard).map_or(Ok(()), InboxSender::wake));
        }
        if open.is_err() {
            tracing::debug!(shard = self.shard, "a peer has stopped; outcomes are dropped, nobody was answered");
        }
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
