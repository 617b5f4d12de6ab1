//! Sequence numbers, groups and waiting answers: what the settlement actor knows, without actix, threads or disk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::flow::{AuditReply, Batch, Decided, Parcel};
use crate::journal::{Group, PendingGroup, Spares};
use crate::ledger::{Code, Outcome, RECORD_BYTES, Record, Sequence, is_joined_to_next};
use crate::planted::{self, Bug};

/// A parcel that may be answered now.
pub type Answer = Arc<Parcel>;

/// The ledger's order.
#[derive(Debug)]
pub struct Sequencer {
    /// The group that fills.
    open: PendingGroup,
    /// Full groups that wait for the disk.
    closed: VecDeque<PendingGroup>,
    writing: bool,
    durable: Sequence,
    /// Complete parcels, each with the sequence that must be durable first; in order.
    waiting: VecDeque<(Sequence, Answer)>,
    group_records_max: usize,
    /// The second of the last clock record.
    second: u32,
    spares: Arc<Spares>,
}

impl Sequencer {
    /// Goes on after `durable`; groups have at most `group_records_max` records, unless one atomic step has more.
    pub fn new((durable, second): (Sequence, u32), next_time_ns: u64, group_records_max: usize) -> Self {
        Self {
            open: PendingGroup::new(durable.saturating_add(1), next_time_ns),
            closed: VecDeque::new(),
            writing: false,
            durable,
            waiting: VecDeque::new(),
            group_records_max: group_records_max.max(1),
            second,
            spares: Arc::default(),
        }
    }

    /// The last durable sequence.
    pub fn durable(&self) -> Sequence {
        self.durable
    }

    /// Whether nothing waits for the disk and nobody for an answer.
    pub fn is_idle(&self) -> bool {
        !self.writing && self.open.count() == 0 && self.closed.is_empty() && self.waiting.is_empty()
    }

    /// Appends what a shard decided. `now_ns` is the wall clock; ledger time never goes back whatever it says.
    pub fn decided(&mut self, decided: Decided, now_ns: u64) {
        if decided.second != 0 && decided.second != self.second {
            self.second = decided.second;
            self.record(&Record::Clock { second: decided.second }, now_ns);
        }
        let mut from = 0;
        while from < decided.recorded.len() {
            self.make_room(now_ns);
            let room = self.group_records_max.saturating_sub(self.open.count());
            let mut count = whole_steps(&decided, from, room);
            if count == 0 && self.open.count() > 0 {
                // An atomic step is in one group, so that it is there wholly or not at all.
                self.close(now_ns);
                continue;
            }
            count = count.max(whole_steps(&decided, from, usize::MAX).min(first_step(&decided, from)));
            let bytes = decided
                .records
                .get(from.saturating_mul(RECORD_BYTES)..from.saturating_add(count).saturating_mul(RECORD_BYTES));
            let first = u64::try_from(self.open.count()).unwrap_or(u64::MAX);
            let sequence = self.open.base_sequence().saturating_add(first);
            let time_ns = self.open.time_ns().saturating_add(first);
            self.open.extend(Some(decided.shard), bytes.unwrap_or_default());
            for parcel in fill_outcomes(&decided, from, count, sequence, time_ns) {
                self.wait(parcel);
            }
            from = from.saturating_add(count);
        }
        if let Some(audit) = decided.audit {
            self.open.push_audit(audit);
        }
        self.resolved(&decided.unrecorded);
    }

    /// Takes outcomes without a record. They wait for all that was sequenced before.
    pub fn resolved(&mut self, outcomes: &Batch<Outcome>) {
        for run in outcomes.items().chunk_by(|a, b| a.parcel == b.parcel) {
            let Some(parcel) = run.first().and_then(|first| outcomes.parcel(first.parcel)) else { continue };
            if parcel.settle(run.iter().map(|tagged| (tagged.index, tagged.item))) {
                self.wait(Arc::clone(parcel));
            }
        }
    }

    /// Appends one record that no shard decided; answers its sequence.
    pub fn record(&mut self, record: &Record, now_ns: u64) -> Sequence {
        self.make_room(now_ns);
        self.open.extend(None, &record.encode());
        self.open.last_sequence()
    }

    /// The same, not before a time that somebody has decided by, which may be later than the group that fills.
    pub fn record_later(&mut self, record: &Record, now_ns: u64, not_before_ns: u64) -> Sequence {
        let now_ns = now_ns.max(not_before_ns);
        if self.tick(now_ns) < not_before_ns {
            self.close(now_ns);
        }
        self.record(record, now_ns)
    }

    /// The ledger's time: that of the next record, which is `now_ns` unless the ledger is ahead of the clock.
    pub fn tick(&mut self, now_ns: u64) -> u64 {
        self.make_room(now_ns);
        self.open.time_ns().saturating_add(u64::try_from(self.open.count()).unwrap_or(u64::MAX))
    }

    fn close(&mut self, now_ns: u64) {
        let next = self.next_group(now_ns);
        self.closed.push_back(std::mem::replace(&mut self.open, next));
    }

    /// Closes the open group when it is full, and sets an empty one's time.
    fn make_room(&mut self, now_ns: u64) {
        if self.open.count() >= self.group_records_max {
            self.close(now_ns);
        } else if self.open.count() == 0 && (now_ns > self.open.time_ns() || planted::is(Bug::TimeGoesBack)) {
            self.open.begin_at(now_ns);
        }
    }

    /// An empty group after the open one; its time is later than the last record's, whatever the clock says.
    fn next_group(&self, now_ns: u64) -> PendingGroup {
        let count = u64::try_from(self.open.count()).unwrap_or(u64::MAX);
        let after = self.open.time_ns().saturating_add(count);
        let time_ns = if planted::is(Bug::TimeGoesBack) && now_ns > 0 { now_ns } else { now_ns.max(after) };
        // It will probably be as large.
        let room = self.open.count().min(self.group_records_max);
        PendingGroup::with_room(self.open.last_sequence().saturating_add(1), time_ns, room, &self.spares)
    }

    fn wait(&mut self, parcel: Answer) {
        self.waiting.push_back((self.open.last_sequence(), parcel));
    }

    /// The group to write next, if the disk is free and there is one.
    pub fn next_write(&mut self) -> Option<PendingGroup> {
        if self.writing {
            return None;
        }
        let group = match self.closed.pop_front() {
            Some(group) => group,
            None if self.open.count() > 0 => {
                let next = self.next_group(0);
                std::mem::replace(&mut self.open, next)
            }
            None => return None,
        };
        self.writing = true;
        Some(group)
    }

    /// Balances that need not wait for any record.
    pub fn free_audits(&mut self) -> Vec<AuditReply> {
        if self.writing || self.open.count() > 0 || !self.closed.is_empty() {
            Vec::new()
        } else {
            self.open.take_audits()
        }
    }

    /// Notes a durable group.
    pub fn durable_group(&mut self, group: &Group) {
        self.writing = false;
        self.durable = group.last_sequence();
    }

    /// Whether a group is being written, or waits for that.
    pub fn has_more(&self) -> bool {
        self.writing || !self.closed.is_empty() || self.open.count() > 0
    }

    /// The next parcel whose outcomes are all durable.
    pub fn next_answer(&mut self) -> Option<Answer> {
        let ready = self.waiting.front().is_some_and(|(sequence, _)| *sequence <= self.durable)
            || planted::is(Bug::AnsweredBeforeDurable);
        if ready { self.waiting.pop_front().map(|(_, parcel)| parcel) } else { None }
    }
}

/// How many records from `from` on, at most `most`, end with the end of an atomic step.
fn whole_steps(decided: &Decided, from: usize, most: usize) -> usize {
    let count = most.min(decided.recorded.len().saturating_sub(from));
    let records = decided.records.as_chunks::<RECORD_BYTES>().0;
    let records = records.get(from..from.saturating_add(count)).unwrap_or_default();
    let amid = records.iter().rev().take_while(|record| is_joined_to_next(record)).count();
    let amid = if planted::is(Bug::TransactionCut) { 0 } else { amid };
    count.saturating_sub(amid)
}

/// How many records from `from` on belong to the first atomic step.
fn first_step(decided: &Decided, from: usize) -> usize {
    let records = decided.records.as_chunks::<RECORD_BYTES>().0.get(from..).unwrap_or_default();
    records.iter().take_while(|record| is_joined_to_next(record)).count().saturating_add(1)
}

/// Gives the outcomes `from..from + count` to their parcels; answers the parcels that are complete now. The first of them has
/// this sequence and time.
pub fn fill_outcomes(decided: &Decided, from: usize, count: usize, sequence: Sequence, time_ns: u64) -> Vec<Answer> {
    let mut complete = Vec::new();
    let mut offset = 0_u64;
    let items = decided.recorded.items().get(from..from.saturating_add(count)).unwrap_or_default();
    for run in items.chunk_by(|a, b| a.parcel == b.parcel) {
        let first = offset;
        offset = offset.saturating_add(u64::try_from(run.len()).unwrap_or(0));
        // What the ledger made by itself is nobody's outcome.
        let Some(parcel) = run.first().and_then(|first| decided.recorded.parcel(first.parcel)) else { continue };
        let outcomes = (first..).zip(run).map(|(place, tagged)| {
            let outcome = Outcome {
                code: tagged.item,
                repeated: false,
                sequence: sequence.saturating_add(place),
                time_ns: time_ns.saturating_add(place),
            };
            (tagged.index, outcome)
        });
        if parcel.settle(outcomes) {
            complete.push(Arc::clone(parcel));
        }
    }
    complete
}

/// The codes of a decided batch, for counting.
pub(super) fn codes(decided: &Decided) -> impl Iterator<Item = Code> + '_ {
    let asked = decided.recorded.items().iter().filter(|tagged| decided.recorded.parcel(tagged.parcel).is_some());
    let recorded = asked.map(|tagged| tagged.item);
    recorded.chain(decided.unrecorded.items().iter().map(|tagged| tagged.item.code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::testing::parcel;
    use crate::ledger::{GatewayId, Transfer, TransferId};

    fn decided(parcel: &Arc<Parcel>, ids: std::ops::Range<u32>) -> Decided {
        let mut decided = Decided::default();
        for id in ids {
            let transfer = Transfer { id: TransferId::from_raw(u128::from(id) + 1), ..Transfer::default() };
            let record = Record::Transfer { transfer, outcome: Code::Accepted, gateway: GatewayId(1) };
            decided.record(parcel, id, &record, Code::Accepted);
        }
        decided
    }

    #[test]
    fn nothing_is_answered_before_it_is_durable() {
        let mut sequencer = Sequencer::new((0, 0), 0, 100);
        let first = parcel(3);
        sequencer.decided(decided(&first, 0..3), 50);
        assert!(sequencer.next_answer().is_none(), "decided only");
        let group = sequencer.next_write().unwrap();
        assert!(sequencer.next_answer().is_none(), "being written");
        assert!(sequencer.next_write().is_none(), "one group at a time");
        // What needs no record of its own still waits for all that was sequenced before it.
        let repeat = parcel(1);
        let mut resolved = Batch::default();
        resolved.push(&repeat, 0, Outcome::unrecorded(Code::IdReused));
        sequencer.resolved(&resolved);
        assert!(sequencer.next_answer().is_none(), "rests on what is being written");
        sequencer.durable_group(&group.into_durable());
        let answered = [sequencer.next_answer().unwrap(), sequencer.next_answer().unwrap()];
        assert!(Arc::ptr_eq(&answered[0], &first) && Arc::ptr_eq(&answered[1], &repeat));
        assert!(sequencer.next_answer().is_none() && sequencer.is_idle());
        let outcomes = first.outcomes(&first.spans()[0]);
        assert_eq!(
            outcomes.iter().map(|outcome| (outcome.sequence, outcome.time_ns)).collect::<Vec<_>>(),
            [(1, 50), (2, 51), (3, 52)]
        );
        // With nothing under way there is nothing to wait for.
        sequencer.resolved(&{
            let mut resolved = Batch::default();
            resolved.push(&parcel(1), 0, Outcome::unrecorded(Code::IdInvalid));
            resolved
        });
        assert!(sequencer.next_answer().is_some());
    }

    #[test]
    fn groups_are_bounded_and_sequence_and_time_go_on_without_a_gap() {
        let mut sequencer = Sequencer::new((7, 0), 1_000, 4);
        let all = parcel(10);
        // The clock is behind the ledger and then goes back.
        sequencer.decided(decided(&all, 0..10), 10);
        let (mut next_sequence, mut next_time) = (8, 1_000);
        for expected in [4, 4, 2] {
            assert!(sequencer.next_answer().is_none(), "the parcel is in three groups");
            let group = sequencer.next_write().unwrap();
            assert_eq!((group.count(), group.base_sequence()), (expected, next_sequence));
            assert!(group.time_ns() >= next_time);
            next_sequence = group.last_sequence() + 1;
            next_time = group.time_ns() + expected as u64;
            sequencer.durable_group(&group.into_durable());
        }
        assert!(sequencer.next_answer().is_some_and(|answered| Arc::ptr_eq(&answered, &all)));
        assert_eq!(sequencer.durable(), 17);
    }

    #[test]
    fn a_record_is_not_before_what_it_was_decided_by() {
        let mut sequencer = Sequencer::new((0, 0), 0, 100);
        sequencer.decided(decided(&parcel(3), 0..3), 50);
        let record = Record::Clock { second: 1 };
        // The group that fills is of 50; the clock is set back in between.
        assert_eq!(sequencer.record_later(&record, 40, 70), 4);
        assert_eq!(sequencer.record_later(&record, 40, 70), 5);
        assert_eq!(sequencer.record_later(&record, 40, 60), 6);
        let (first, second) = (sequencer.next_write().unwrap(), sequencer.closed.len());
        assert_eq!((first.count(), first.time_ns(), second), (3, 50, 0));
        sequencer.durable_group(&first.into_durable());
        let second = sequencer.next_write().unwrap();
        assert_eq!((second.count(), second.time_ns()), (3, 70));
    }

    #[test]
    fn an_atomic_step_is_never_in_two_groups() {
        for most in [1, 3, 4, 5] {
            let mut sequencer = Sequencer::new((0, 0), 0, most);
            let all = parcel(10);
            let mut steps = Decided::default();
            for id in 0..10 {
                if ![0, 2, 5, 9].contains(&id) {
                    steps.join();
                }
                steps.recorded.push(&all, id, Code::Accepted);
                steps.records.extend_from_slice(&Record::Clock { second: id }.encode());
            }
            sequencer.decided(steps, 10);
            let mut sizes = Vec::new();
            while let Some(group) = sequencer.next_write() {
                sizes.push(group.count());
                sequencer.durable_group(&group.into_durable());
            }
            // The steps have 2, 3, 4 and 1 records.
            let expected: &[usize] = match most {
                5 => &[5, 5],
                _ => &[2, 3, 4, 1],
            };
            assert_eq!(sizes, expected, "{most}");
        }
    }

    #[test]
    fn a_new_second_is_recorded_before_what_counts_in_it() {
        let mut sequencer = Sequencer::new((0, 5), 0, 100);
        for second in [5, 6, 6] {
            let mut counted = decided(&parcel(1), 0..1);
            counted.second = second;
            sequencer.decided(counted, 10);
        }
        let group = sequencer.next_write().unwrap().into_durable();
        let kinds: Vec<bool> =
            group.records().map(|bytes| matches!(Record::decode(bytes), Ok(Record::Clock { second: 6 }))).collect();
        assert_eq!(kinds, [false, true, false, false]);
        assert_eq!(sequencer.tick(3), 14, "ledger time never goes back");
        assert_eq!(sequencer.tick(3_000), 3_000);
    }
}
