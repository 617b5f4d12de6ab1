//! The book's tallies: what limits counted, with the last record that did, in numbered places of which a checkpoint writes the
//! blocks that changed.
//!
//! # Invariants
//!
//! 1. A tally that has seen a record (`head`) ignores it, so that replaying from before a checkpoint counts nothing twice.
//! 2. All rows are laid out by the policy in force. A tally that a checkpoint wrote under a later policy waits until that is read.

use std::collections::BTreeSet;

use crate::ledger::bucket::{Bucket, add, take_back, used};
use crate::ledger::policy::Policy;
use crate::ledger::rows::{Rows, index_of};
use crate::ledger::tally::{Counted, GROUPS_MAX, GroupLimit, Parts, Subject};
use crate::ledger::{BlockSet, Sequence, Slot};

/// Tallies per block of the store, so that a block stays below 7 KiB with the most buckets that a tally can have.
pub const TALLIES_PER_BLOCK: u32 = 10;

/// What the limits of one scope counted for a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// For whom.
    pub subject: Subject,
    /// The last record that counted.
    pub head: Sequence,
    /// The last record of the policy that laid the buckets out.
    pub policy: Sequence,
    /// The buckets.
    pub buckets: Vec<Bucket>,
}

/// Tallies in numbered places.
#[derive(Debug, Default)]
pub struct Counters {
    rows: Rows,
    /// By place.
    heads: Vec<Sequence>,
    /// The last record of the policy in force.
    policy: Sequence,
    /// By scope: buckets of a tally.
    buckets: [usize; 4],
    changed: BlockSet,
    parts: Parts,
    /// As the store has them, until the policy is known by which they are laid out.
    loaded: Vec<Option<Tally>>,
    /// Laid out by a policy that is still to come.
    ahead: Vec<Tally>,
}

impl Counters {
    /// The tally in a place.
    fn at(&self, place: u32) -> Option<Tally> {
        let subject = self.rows.subject(place)?;
        let head = self.heads.get(index_of(place)).copied().unwrap_or(0);
        let buckets = self.buckets_of(subject, self.rows.row(place)).to_vec();
        Some(Tally { subject, head, policy: self.policy, buckets })
    }

    fn buckets_of<'row>(&self, subject: Subject, row: &'row [Bucket]) -> &'row [Bucket] {
        let count = self.buckets.get(subject.scope as usize).copied().unwrap_or(0);
        row.get(..count).unwrap_or_default()
    }

    /// The tally of a subject.
    pub fn get(&self, subject: Subject) -> Option<Tally> {
        self.at(self.rows.find(subject)?)
    }

    fn places(&self) -> u32 {
        u32::try_from(self.rows.places()).unwrap_or(u32::MAX)
    }

    /// All tallies in order of place.
    pub fn iter(&self) -> impl Iterator<Item = Tally> + '_ {
        (0..self.places()).filter_map(|place| self.at(place))
    }

    /// The number of blocks.
    pub fn blocks(&self) -> u32 {
        self.places().div_ceil(TALLIES_PER_BLOCK)
    }

    /// The places of a block.
    pub fn block(&self, block: u32) -> impl Iterator<Item = Option<Tally>> + '_ {
        let first = block.saturating_mul(TALLIES_PER_BLOCK);
        (first..first.saturating_add(TALLIES_PER_BLOCK).min(self.places())).map(|place| self.at(place))
    }

    /// The numbers of the blocks that changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<u32> {
        self.changed.take_all()
    }

    /// Takes over the next place, as the store has it; in order, and before the policy is known.
    pub fn load(&mut self, tally: Option<Tally>) {
        self.loaded.push(tally);
    }

    /// Lays out what was loaded by the policy in force, whose last record is `at`.
    pub(super) fn lay_out(&mut self, policy: &Policy, at: Sequence) {
        let loaded = std::mem::take(&mut self.loaded);
        *self = Self { ahead: std::mem::take(&mut self.ahead), ..Self::of(policy, at) };
        for place in loaded {
            match place {
                Some(tally) if tally.policy > at => {
                    self.rows.add_free();
                    self.ahead.push(tally);
                }
                // It moved while a checkpoint was written, which was then not finished.
                Some(tally) if self.rows.find(tally.subject).is_some() => {
                    self.rows.add_free();
                    self.put(&tally);
                }
                Some(tally) if policy.buckets(tally.subject.scope) > 0 => {
                    self.rows.add_row(tally.subject);
                    self.put(&tally);
                }
                _ => self.rows.add_free(),
            }
        }
    }

    fn of(policy: &Policy, at: Sequence) -> Self {
        let buckets = crate::ledger::Scope::ALL.map(|scope| policy.buckets(scope));
        Self { rows: Rows::new(policy.row_buckets()), policy: at, buckets, ..Self::default() }
    }

    /// Puts a tally into its row unless what is there has seen more.
    fn put(&mut self, tally: &Tally) {
        let place = self.rows.place(tally.subject, None);
        let head = self.head_mut(place);
        if *head > tally.head {
            return;
        }
        *head = tally.head;
        for (own, bucket) in self.rows.row_mut(place).iter_mut().zip(&tally.buckets) {
            *own = *bucket;
        }
        self.changed.insert(place / TALLIES_PER_BLOCK);
    }

    #[inline]
    fn head_mut(&mut self, place: u32) -> &mut Sequence {
        let place = index_of(place);
        if place >= self.heads.len() {
            self.heads.resize(place.saturating_add(1), 0);
        }
        #[expect(clippy::indexing_slicing, reason = "made long enough just now")]
        &mut self.heads[place]
    }

    /// Lays all tallies out for another policy, whose last record is `at`.
    pub(super) fn change_policy(&mut self, (before, edition): (&Policy, u32), after: &Policy, at: Sequence) {
        let old: Vec<Option<Tally>> = (0..self.places()).map(|place| self.at(place)).collect();
        let ahead = std::mem::take(&mut self.ahead);
        *self = Self::of(after, at);
        for (place, tally) in (0_u32..).zip(old) {
            self.changed.insert(place / TALLIES_PER_BLOCK);
            match tally.filter(|tally| after.buckets(tally.subject.scope) > 0) {
                Some(tally) => {
                    self.rows.add_row(tally.subject);
                    let buckets = after.carry_over((before, edition), tally.subject.scope, &tally.buckets);
                    self.put(&Tally { buckets, ..tally });
                }
                None => self.rows.add_free(),
            }
        }
        let (now, later): (Vec<Tally>, _) = ahead.into_iter().partition(|tally| tally.policy <= at);
        for tally in &now {
            self.put(tally);
        }
        self.ahead = later;
    }

    /// Brings what counts for an account into the cache.
    #[inline]
    pub(super) fn touch(&self, debit: Option<Slot>) {
        if let Some(place) = self.rows.touch(debit) {
            std::hint::black_box(self.heads.get(index_of(place)).copied());
        }
    }

    /// Counts a record towards every limit about it; answers whether each of them holds.
    pub(super) fn count(&mut self, policy: &Policy, sequence: Sequence, counted: &Counted) -> bool {
        let mut hold = true;
        self.each(policy, sequence, counted, |limit, buckets, part| {
            add(buckets, part, counted.amount, counted.count);
            let once = if buckets.is_empty() { counted.amount } else { 0 };
            hold &= limit.bounds.hold(used(buckets, part), (once, counted.count));
        });
        hold
    }

    /// Takes what was not used out of the limits that counted it.
    pub(super) fn uncount(&mut self, policy: &Policy, sequence: Sequence, counted: &Counted) {
        self.each(policy, sequence, counted, |_, buckets, part| {
            take_back(buckets, part, counted.amount, counted.count);
        });
    }

    /// Shows each limit about a record with its buckets, unless its tally has seen the record.
    #[inline]
    fn each(
        &mut self,
        policy: &Policy,
        sequence: Sequence,
        counted: &Counted,
        mut change: impl FnMut(&GroupLimit, &mut [Bucket], u32),
    ) {
        // Groups of one scope may share a subject; what counts for it in this record counts in each.
        let mut mine = [u32::MAX; GROUPS_MAX];
        for (number, group) in policy.groups().iter().enumerate() {
            let place = self.rows.place(group.subject(counted), group.slot(counted));
            let head = self.head_mut(place);
            if *head >= sequence && !mine.contains(&place) {
                continue;
            }
            *head = sequence;
            if let Some(seen) = mine.get_mut(number) {
                *seen = place;
            }
            self.changed.insert(place / TALLIES_PER_BLOCK);
            let parts = self.parts.at(policy, counted.second);
            let row = self.rows.row_mut(place);
            for limit in group.limits.iter().filter(|limit| limit.selects(policy, counted)) {
                let part = parts.get(limit.index).copied().unwrap_or(0);
                if let Some(buckets) = row.get_mut(limit.place.clone()) {
                    change(limit, buckets, part);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AccountId, GatewayId, Scope};

    fn policy(limits: &[(&str, &str)]) -> Policy {
        let text = limits.iter().map(|(scope, window)| {
            format!(
                "[[limit]]\nname = \"{scope} {window}\"\ncounted_per = \"{scope}\"\ncurrency = \"EUR\"\nwindow = \"{window}\"\ncount_max = 9\n"
            )
        });
        Policy::parse(&text.collect::<String>()).unwrap()
    }

    fn counted(debit: u32) -> Counted {
        let id = |raw| AccountId::from_raw(u128::from(raw) + 1);
        Counted {
            debit: (id(debit), 1),
            credit: (id(99), 1),
            slots: (Some(debit), Some(99)),
            gateway: GatewayId(1),
            code: 1,
            currency: 978,
            amount: 10,
            count: 1,
            second: 5,
        }
    }

    #[test]
    fn replay_across_a_change_of_policy_counts_as_the_first_time() {
        let (before, after) =
            (policy(&[("account", "day"), ("level", "day")]), policy(&[("account", "60s"), ("account", "day")]));
        let mut first = Counters::of(&before, 1);
        let mut stored = Vec::new();
        // Records 2 to 5, another policy at 6, records 7 to 9; a checkpoint begins after 3 and takes its time.
        for sequence in 2..=9 {
            if sequence == 6 {
                first.change_policy((&before, 1), &after, 6);
            } else {
                let policy = if sequence < 6 { &before } else { &after };
                assert!(first.count(policy, sequence, &counted(u32::try_from(sequence % 3).unwrap())));
            }
            if matches!(sequence, 3 | 7) {
                stored.push(first.block(0).collect::<Vec<_>>());
            }
        }
        let ends: Vec<_> = first.iter().collect();
        assert_eq!(ends.len(), 3, "levels are not counted any more: {ends:?}");
        // Of each place the checkpoint may have what was there early or late.
        for choice in 0..16_usize {
            let mut again = Counters::default();
            for place in 0..4 {
                let from = &stored[choice >> place & 1];
                again.load(from.get(place).cloned().flatten());
            }
            again.lay_out(&before, 1);
            for sequence in 4..=9 {
                if sequence == 6 {
                    again.change_policy((&before, 1), &after, 6);
                } else {
                    let policy = if sequence < 6 { &before } else { &after };
                    assert!(again.count(policy, sequence, &counted(u32::try_from(sequence % 3).unwrap())));
                }
            }
            for tally in &ends {
                assert_eq!(again.get(tally.subject).as_ref(), Some(tally), "{choice}");
            }
            assert_eq!(again.get(Subject { scope: Scope::Level, id: 1 }), None);
        }
    }
}
