//! The newest records, read once for all who wait for events.
//!
//! # Invariants
//!
//! 1. The records kept follow each other without a gap, up to the last that was read; no more than [`NEAR`] of them are kept.
//! 2. Looking costs a quarter of a processor at most, however many wait: who looks pays for it with a rest of three times as long (100 ms at most), and the next one waits for that.
//!
//! # Not here
//!
//! Who waits, and how long ([`super::events`]); those who are further behind ([`super::queries`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::listener::GatewayContext;
use super::queries::{durable, unscanned};
use crate::journal::JournalError;
use crate::ledger::{Code, GatewayId, Sequence, StoredRecord};
use crate::protocol::Query;

/// Records that are kept. Who is further behind reads the journal.
pub(super) const NEAR: u64 = 16_384;

/// Records that one look reads: more than those that come while it waits for its turn, as long as not very much comes or very many wait.
const READ_MOST: u64 = 4 * NEAR;

/// Records that there is room for when a look is over.
const KEPT_ROOM: usize = 32_768;

/// How many times as long as a look its rest is.
const REST_TIMES: u32 = 3;

/// Who comes so soon after the journal was read looks at what was read then: it looks again in a moment. What there is to look at takes no thread of its own.
const FRESH: Duration = Duration::from_millis(2);
const FRESH_MOST: u64 = 4_096;

/// Rests are taken together: timers are exact to a millisecond. A look that waited for a disk is not paid for in full.
pub(super) const REST_LEAST: Duration = Duration::from_millis(2);
pub(super) const REST_MOST: Duration = Duration::from_millis(100);

/// The newest records that were read.
#[derive(Debug)]
pub(super) struct Tail {
    records: VecDeque<StoredRecord>,
    /// The sequence after them.
    next: Sequence,
    /// When the journal was read up to there.
    read_at: Option<Instant>,
    /// Until when what was looked at is paid for.
    rests_until: Instant,
}

impl Default for Tail {
    fn default() -> Self {
        Self { records: VecDeque::new(), next: 1, read_at: None, rests_until: Instant::now() }
    }
}

impl Tail {
    /// How long the next look has to wait.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        Some(self.rests_until.saturating_duration_since(now)).filter(|&rest| rest >= REST_LEAST)
    }

    /// Records from where a query begins on that it selects, and the sequence to go on from. Blocks.
    pub(super) fn look(
        &mut self,
        context: &GatewayContext,
        own: GatewayId,
        query: &Query,
    ) -> Result<(Sequence, Vec<StoredRecord>), Code> {
        let begun = Instant::now();
        let until = durable(context);
        let scan = |from, visit: &mut dyn FnMut(StoredRecord) -> bool| context.reader.scan(from, until, visit);
        let found = self.read(scan, own, query).map_err(|err| unscanned(query.from, &err));
        self.pay(begun, Instant::now());
        found
    }

    /// The same among the records that are here, if they were read just now and there are not many to look at. That nothing is found counts only
    /// where all that is known is here.
    pub(super) fn look_again(
        &mut self,
        own: GatewayId,
        query: &Query,
        (known, now): (Sequence, Instant),
    ) -> Option<(Sequence, Vec<StoredRecord>)> {
        let from = query.from.max(1);
        let is_fresh = self.read_at.is_some_and(|read_at| now.saturating_duration_since(read_at) < FRESH);
        let is_here = self.first() <= from && self.next.checked_sub(from).is_some_and(|count| count <= FRESH_MOST);
        if !is_fresh || !is_here {
            return None;
        }
        let found = self.select(from, own, query);
        self.pay(now, Instant::now());
        Some(found).filter(|(_, records)| self.next > known || !records.is_empty())
    }

    /// Owes a rest for a look that began and ended then.
    fn pay(&mut self, begun: Instant, ended: Instant) {
        let owed = self.rests_until.saturating_duration_since(begun);
        let more = ended.saturating_duration_since(begun).saturating_mul(REST_TIMES);
        self.rests_until = ended.checked_add(owed.saturating_add(more).min(REST_MOST)).unwrap_or(ended);
    }

    fn read(
        &mut self,
        scan: impl FnOnce(Sequence, &mut dyn FnMut(StoredRecord) -> bool) -> Result<Sequence, JournalError>,
        own: GatewayId,
        query: &Query,
    ) -> Result<(Sequence, Vec<StoredRecord>), JournalError> {
        let from = query.from.max(1);
        if self.first() > from || self.next < from {
            (self.records, self.next) = (VecDeque::new(), from);
        }
        let (records, mut count, begun) = (&mut self.records, 0_u64, Instant::now());
        let scanned = scan(self.next, &mut |stored| {
            records.push_back(stored);
            count = count.saturating_add(1);
            count < READ_MOST
        });
        self.next = scanned.inspect_err(|_| *self = Self::default())?;
        self.read_at = Some(begun);
        let found = self.select(from, own, query);
        let over = self.records.len().saturating_sub(usize::try_from(NEAR).unwrap_or(usize::MAX));
        self.records.drain(..over);
        self.records.shrink_to(KEPT_ROOM);
        Ok(found)
    }

    /// What the query selects of the records from one on that is here, and the sequence to go on from.
    fn select(&self, from: Sequence, own: GatewayId, query: &Query) -> (Sequence, Vec<StoredRecord>) {
        let before = usize::try_from(from.saturating_sub(self.first())).unwrap_or(usize::MAX);
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let selected = |stored: &&StoredRecord| query.selects(own, stored.time_ns, &stored.record);
        let found: Vec<_> = self.records.iter().skip(before).filter(selected).take(limit).copied().collect();
        let last = found.last().filter(|_| found.len() >= limit);
        let next = last.map_or(self.next, |last| last.sequence.saturating_add(1));
        (next, found)
    }

    /// The sequence of the first record that is kept, or would be.
    fn first(&self) -> Sequence {
        self.records.front().map_or(self.next, |first| first.sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{Record, Transfer, TransferId};
    use crate::protocol::QueryKind;

    fn stored(sequence: Sequence) -> StoredRecord {
        let transfer = Transfer { id: TransferId::from_raw(sequence.into()), ..Transfer::default() };
        let gateway = GatewayId(u32::try_from(sequence % 3).unwrap());
        StoredRecord {
            sequence,
            time_ns: sequence,
            record: Record::Transfer { transfer, gateway, outcome: Code::Accepted },
        }
    }

    proptest! {
        /// Whoever looks, from wherever, as the ledger grows: each finds what the journal has, and nothing is read twice for those who are not behind.
        #[test]
        fn who_looks_finds_what_a_scan_finds(looks in prop::collection::vec((0_u64..40, 0_u64..60, 0_u32..4, 1_u32..20), 1..40)) {
            let mut tail = Tail::default();
            let (mut durable, mut is_first) = (0, true);
            for (more, back, own, limit) in looks {
                durable += more;
                let from = durable.saturating_sub(back);
                let query = Query { from, ..Query::new(QueryKind::Events, 0, limit) };
                let was_near = (tail.first()..=tail.next).contains(&from.max(1)) && !is_first;
                let (next, mut read) = (tail.next, Vec::new());
                let scan = |from: Sequence, visit: &mut dyn FnMut(StoredRecord) -> bool| {
                    for sequence in from..=durable {
                        read.push(sequence);
                        visit(stored(sequence));
                    }
                    Ok(from.max(durable + 1))
                };
                let found = tail.read(scan, GatewayId(own), &query).unwrap();
                is_first = false;
                prop_assert!(!was_near || read.iter().all(|&sequence| sequence >= next));
                let all = (from.max(1)..=durable).map(stored).filter(|stored| query.selects(GatewayId(own), stored.time_ns, &stored.record));
                let wanted: Vec<_> = all.take(limit as usize).collect();
                let end = if wanted.len() == limit as usize { wanted.last().unwrap().sequence } else { durable.max(from.max(1) - 1) };
                prop_assert_eq!(&found, &(end + 1, wanted));
                // Who comes at once finds the same without reading; later it is read again.
                let (now, again) = (Instant::now(), |tail: &mut Tail, now| tail.look_again(GatewayId(own), &query, (durable, now)));
                tail.read_at = Some(now);
                let (at_once, later) = (again(&mut tail, now), again(&mut tail, now + FRESH));
                prop_assert_eq!((at_once, later), (Some(found), None));
            }
        }
    }

    #[test]
    fn no_more_than_the_newest_are_kept_and_an_error_forgets_them() {
        let mut tail = Tail::default();
        let query = Query::new(QueryKind::Events, 0, 10);
        let until = |durable: Sequence| {
            move |from: Sequence, visit: &mut dyn FnMut(StoredRecord) -> bool| {
                assert!((from..=durable).all(|sequence| visit(stored(sequence))));
                Ok(durable + 1)
            }
        };
        // Until it is enough.
        let counted = |durable: Sequence| {
            move |from: Sequence, visit: &mut dyn FnMut(StoredRecord) -> bool| {
                Ok((from..=durable).find(|&sequence| !visit(stored(sequence))).map_or(durable + 1, |last| last + 1))
            }
        };
        tail.read(until(NEAR + 50), GatewayId(1), &query).unwrap();
        assert_eq!((tail.first(), tail.next), (51, NEAR + 51));
        let (next, _) =
            tail.read(counted(READ_MOST * 3), GatewayId(1), &Query { from: 60, limit: 0, ..query }).unwrap();
        assert_eq!((tail.next, tail.first(), next), (NEAR + 51 + READ_MOST, 51 + READ_MOST, NEAR + 51 + READ_MOST));
        assert!(tail.records.capacity() <= 2 * KEPT_ROOM);
        let again =
            |tail: &mut Tail, from| tail.look_again(GatewayId(1), &Query { from, ..query }, (0, Instant::now()));
        tail.read_at = Some(Instant::now() + FRESH);
        let next = tail.next;
        assert!(again(&mut tail, next - FRESH_MOST).is_some() && again(&mut tail, next).is_some());
        let among = |tail: &mut Tail, known| {
            tail.look_again(GatewayId(4), &Query { from: next - 1, ..query }, (known, Instant::now()))
        };
        assert!(among(&mut tail, next - 1).is_some() && among(&mut tail, next).is_none(), "{next} may be one of them");
        assert!(again(&mut tail, next - FRESH_MOST - 1).is_none() && again(&mut tail, next + 1).is_none());
        tail = Tail::default();
        tail.read(until(60), GatewayId(1), &Query { from: 50, ..query }).unwrap();
        tail.read_at = Some(Instant::now() + FRESH);
        assert!(again(&mut tail, 50).is_some() && again(&mut tail, 49).is_none(), "what is not here is read");
        tail = Tail::default();
        tail.read(until(NEAR + 50), GatewayId(1), &query).unwrap();
        let damaged = |_: Sequence, visit: &mut dyn FnMut(StoredRecord) -> bool| {
            visit(stored(NEAR + 51));
            Err(JournalError::Damaged { place: String::new(), offset: 0, what: String::new() })
        };
        assert!(tail.read(damaged, GatewayId(1), &Query { from: NEAR, ..query }).is_err());
        assert_eq!((tail.first(), tail.next), (1, 1));
    }

    #[test]
    fn a_look_is_paid_for_with_a_rest() {
        let now = Instant::now();
        let tail = |rest| Tail { rests_until: now + rest, ..Tail::default() };
        assert_eq!(tail(REST_LEAST).rest(now), Some(REST_LEAST));
        assert_eq!((tail(REST_LEAST / 2).rest(now), tail(REST_LEAST).rest(now + 2 * REST_LEAST)), (None, None));
        // Small looks add up, and one that waited for a disk does not keep everybody waiting.
        let (mut tail, short) = (tail(Duration::ZERO), REST_LEAST / 4);
        tail.pay(now, now + short);
        assert_eq!(tail.rest(now + short), None);
        tail.pay(now + short, now + 2 * short);
        assert_eq!(tail.rest(now + 2 * short), Some(6 * short));
        tail.pay(now, now + Duration::from_secs(1));
        assert_eq!(tail.rest(now + Duration::from_secs(1)), Some(REST_MOST));
    }
}
