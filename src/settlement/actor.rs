//! The settlement actor: the sequencer behind an inbox.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, TrySendError};

use super::sequencer::{Sequencer, codes};
use super::writer::Writer;
use crate::flow::{AuditReply, Batch, Clock, Decided, Inbox, InboxSender, Pace, Stopped, Work};
use crate::journal::Group;
use crate::ledger::{Outcome, Record, Sequence};
use crate::telemetry::{Counters, Health, Telemetry};

/// A message to the settlement actor; see the module for who sends it.
#[derive(Debug)]
pub enum SettlementMessage {
    /// Append these outcomes.
    Decided(Decided),
    /// Outcomes without a record.
    Resolved(Batch<Outcome>),
    /// Append this record and say when it is durable.
    Record {
        /// What to record.
        record: Box<Record>,
        /// Its time is not before this, nanoseconds since 1970 UTC: what a decision by the clock was decided at.
        not_before_ns: u64,
        /// Told its sequence once durable; dropped when the server stops before.
        reply: Sender<Sequence>,
    },
    /// A group is on disk.
    Durable(Arc<Group>),
    /// The journal has failed: stop.
    Failed(String),
}

/// How others speak to the settlement actor.
#[derive(Clone, Debug)]
pub struct SettlementHandle(InboxSender<SettlementMessage>);

impl SettlementHandle {
    /// Speaks through this inbox.
    pub fn new(sender: InboxSender<SettlementMessage>) -> Self {
        Self(sender)
    }

    /// Hands on a message. Never blocks.
    pub fn send(&self, message: SettlementMessage) -> Result<(), Stopped> {
        self.0.send(message)
    }

    /// Says that clearing has caught up.
    pub fn wake(&self) -> Result<(), Stopped> {
        self.0.wake()
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.0.depth()
    }
}

/// Someone who is shown every durable group, in order, before anyone is answered.
pub trait Follower: Send + std::fmt::Debug {
    /// A group is durable. Must not block, and need not be acted upon before [`Self::wake`].
    fn durable(&self, group: &Arc<Group>);

    /// Look at what was shown. Called some time after those who wait have their answers, see [`SettlementActor`].
    fn wake(&self) -> Result<(), Stopped>;
}

/// Someone who compares balances.
pub trait Auditor: Send + std::fmt::Debug {
    /// Balances as of after every group shown so far. Must not block.
    fn audit(&self, audit: AuditReply) -> Result<(), Stopped>;
}

/// Someone who acts when a time has come.
pub trait Timekeeper: Send + std::fmt::Debug {
    /// It is this time in the ledger: every record from now on is later. Must not block.
    fn tick(&self, now_ns: u64) -> Result<(), Stopped>;
}

/// How often the ledger's time is told: holds expire and delayed transfers arrive at most so much later, plus a write.
const TICK_EVERY: Duration = Duration::from_millis(2);

/// Records of a group that followers need a tenth of a millisecond for: from there on answers would wait for them.
const LARGE_GROUP: usize = 1_024;

/// What followers have been shown and were not woken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shown {
    #[default]
    Nothing,
    SinceTick,
    BeforeTick,
}

impl Shown {
    /// They have been shown a group.
    fn show(&mut self) {
        if *self == Self::Nothing {
            *self = Self::SinceTick;
        }
    }

    /// A tick has passed; whether it is time to wake them.
    fn tick(&mut self) -> bool {
        if *self == Self::SinceTick {
            *self = Self::BeforeTick;
            return false;
        }
        *self == Self::BeforeTick
    }
}

/// The actor.
///
/// It wakes its followers at once for a small group, and where there is more to write. Otherwise they are left alone for one to two ticks, because what they do with a full batch
/// takes longer than the answers' way back to the client, on the same processors. Whoever asks them something wakes them; events, and a repeat that came before its original was durable, wait as long.
#[derive(Debug)]
pub struct SettlementActor {
    sequencer: Sequencer,
    inbox: Inbox<SettlementMessage>,
    writer: Writer,
    followers: Vec<Box<dyn Follower>>,
    auditor: Box<dyn Auditor>,
    timekeeper: Box<dyn Timekeeper>,
    clock: Clock,
    pace: Pace,
    shown: Shown,
    records: Vec<(Sequence, Sender<Sequence>)>,
    counters: Arc<Counters>,
    health: Health,
}

/// Where the settlement actor sends.
#[derive(Debug)]
pub struct SettlementPeers {
    /// Writes groups.
    pub writer: Writer,
    /// Shown every durable group, in this order.
    pub followers: Vec<Box<dyn Follower>>,
    /// Given the shards' balances.
    pub auditor: Box<dyn Auditor>,
    /// Told the time.
    pub timekeeper: Box<dyn Timekeeper>,
    /// Tells the time.
    pub clock: Clock,
    /// How far clearing is.
    pub pace: Pace,
}

impl SettlementActor {
    /// Puts a sequencer behind an inbox.
    pub fn new(
        sequencer: Sequencer,
        inbox: Inbox<SettlementMessage>,
        peers: SettlementPeers,
        telemetry: &Telemetry,
    ) -> Self {
        let SettlementPeers { writer, followers, auditor, timekeeper, clock, pace } = peers;
        let (counters, health) = (Arc::clone(telemetry.counters()), telemetry.health().clone());
        let (shown, records) = (Shown::default(), Vec::new());
        Self { sequencer, inbox, writer, followers, auditor, timekeeper, clock, pace, shown, records, counters, health }
    }

    fn handle_message(&mut self, message: SettlementMessage) -> Result<(), Stopped> {
        match message {
            SettlementMessage::Decided(decided) => {
                self.counters.count_outcomes(codes(&decided));
                self.sequencer.decided(decided, self.clock.now_ns());
            }
            SettlementMessage::Resolved(outcomes) => {
                self.counters.count_outcomes(outcomes.items().iter().map(|tagged| tagged.item.code));
                self.sequencer.resolved(&outcomes);
            }
            SettlementMessage::Record { record, not_before_ns, reply } => {
                let sequence = self.sequencer.record_later(&record, self.clock.now_ns(), not_before_ns);
                self.records.push((sequence, reply));
            }
            SettlementMessage::Durable(group) => self.durable(&group)?,
            SettlementMessage::Failed(reason) => {
                self.health.fail(&reason);
                return Err(Stopped);
            }
        }
        Ok(())
    }

    fn durable(&mut self, group: &Arc<Group>) -> Result<(), Stopped> {
        self.sequencer.durable_group(group);
        self.followers.iter().for_each(|follower| follower.durable(group));
        self.counters.durable(group.last_sequence());
        let durable = group.last_sequence();
        self.records.retain(|(sequence, reply)| {
            let waits = *sequence > durable;
            // Nobody waits any more when this fails; the record is there all the same.
            waits || reply.try_send(*sequence).is_err_and(|err| matches!(err, TrySendError::Full(_)))
        });
        while let Some(parcel) = self.sequencer.next_answer() {
            parcel.answer(group.durable_at);
        }
        if group.count() < LARGE_GROUP {
            return self.wake_followers();
        }
        self.shown.show();
        Ok(())
    }

    fn wake_followers(&mut self) -> Result<(), Stopped> {
        self.shown = Shown::Nothing;
        self.followers.iter().try_for_each(|follower| follower.wake())
    }

    /// Gives the disk its next group, and answers what rests on nothing that is still to be written.
    fn go_on(&mut self) -> Result<(), Stopped> {
        while self.pace.may_go_on(self.sequencer.durable())
            && let Some(group) = self.sequencer.next_write()
        {
            match self.writer.write(group)? {
                Some(ended) => self.handle_message(ended)?,
                None => break,
            }
        }
        self.sequencer.free_audits().into_iter().try_for_each(|audit| self.auditor.audit(audit))?;
        while let Some(parcel) = self.sequencer.next_answer() {
            parcel.answer(std::time::Instant::now());
        }
        // Under load they are never idle. And they may be what it waits for.
        if self.sequencer.has_more() && self.shown != Shown::Nothing { self.wake_followers() } else { Ok(()) }
    }
}

impl Work for SettlementActor {
    fn is_waiting(&self) -> bool {
        self.inbox.depth() > 0
    }

    fn tick_every(&self) -> Option<Duration> {
        Some(TICK_EVERY)
    }

    fn tick(&mut self) {
        // When a follower or the shard has stopped, so will this.
        let _woken = if self.shown.tick() { self.wake_followers() } else { Ok(()) };
        let _told = self.timekeeper.tick(self.sequencer.tick(self.clock.now_ns()));
    }

    fn drain(&mut self) {
        self.inbox.begin_drain();
        for _ in 0..self.inbox.depth() {
            let Some(message) = self.inbox.pop() else { break };
            // A durable group frees the disk: the next one goes out before the rest of the inbox is looked at.
            let frees_disk = matches!(message, SettlementMessage::Durable(_));
            let handled = self.handle_message(message).and_then(|()| if frees_disk { self.go_on() } else { Ok(()) });
            if handled.is_err() {
                return;
            }
        }
        if self.go_on().is_err() {
            tracing::debug!("a follower or the journal has stopped; nothing more is answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_waits_for_the_second_tick_from_then() {
        let mut shown = Shown::default();
        assert!(!shown.tick() && !shown.tick(), "nothing was shown");
        shown.show();
        assert!(!shown.tick(), "it may be a moment ago");
        shown.show();
        assert!(shown.tick(), "what came in between does not put it off");
        assert!(shown.tick(), "they are not woken yet");
    }
}
