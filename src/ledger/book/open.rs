//! The book's own account of what is open: holds and delayed transfers, what was given back, and what limits counted.
//!
//! Follows from the records alone, like the balances. An entry knows the last record that touched it; one from a checkpoint
//! ignores records up to that one.

use hashbrown::HashMap;

use super::shelf::Shelf;
use crate::ledger::policy::Policy;
use crate::ledger::tally::{Bucket, Counted, LimitRule, Parts, Scope, Subject, add, take_back, used};
use crate::ledger::{GatewayId, Life, Operation, Pending, PendingKind, Sequence, Transfer, TransferId};

/// Entries per block of the store, so that a block stays below 7 KiB.
pub const PENDINGS_PER_BLOCK: u32 = 60;
/// The same for lives.
pub const LIVES_PER_BLOCK: u32 = 180;
/// The same for tallies, with at most 24 buckets each.
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

/// What is open.
#[derive(Debug)]
pub struct Open {
    /// Holds, delayed transfers, reserves.
    pub pendings: Shelf<TransferId, Pending>,
    /// What was given back.
    pub lives: Shelf<TransferId, (TransferId, Life)>,
    /// What limits counted.
    pub tallies: Shelf<Subject, Tally>,
    parts: Parts,
    /// By scope: the last subject counted, and its place.
    places: [Option<(Subject, u32)>; 4],
}

impl Open {
    pub(super) fn new() -> Self {
        Self {
            pendings: Shelf::new(PENDINGS_PER_BLOCK, |pending| pending.id),
            lives: Shelf::new(LIVES_PER_BLOCK, |life| life.0),
            tallies: Shelf::new(TALLIES_PER_BLOCK, |tally| tally.subject),
            parts: Parts::default(),
            places: [None; 4],
        }
    }

    /// Notes what a record opens.
    pub(super) fn opened(
        &mut self,
        transfer: &Transfer,
        (gateway, second, levels): (GatewayId, u32, (u8, u8)),
        sequence: Sequence,
    ) {
        let opened = Pending::opened(transfer, gateway, (second, levels), sequence);
        let Some(pending) = opened else { return };
        if self.pendings.get(pending.id).is_none_or(|known| known.head < sequence) {
            self.pendings.put(pending);
        }
    }

    /// Notes what a record does to something open; answers how that was before. `horizon` is up to where a checkpoint may have
    /// forgotten what is closed.
    pub(super) fn acted(
        &mut self,
        (transfer, levels): (&Transfer, (u8, u8)),
        sequence: Sequence,
        horizon: Sequence,
    ) -> Result<Option<Pending>, &'static str> {
        let id = TransferId::from_raw(transfer.related);
        let Some(&before) = self.pendings.get(id) else {
            return if sequence <= horizon { Ok(None) } else { Err("it is about nothing that is open") };
        };
        if before.head >= sequence {
            return Ok(None);
        }
        if (before.debit, before.credit) != (transfer.debit, transfer.credit) {
            return Err("its accounts are not those of what it is about");
        }
        let amount = transfer.amount;
        let mut after = Pending { head: sequence, ..before };
        let mut closes = false;
        match transfer.operation() {
            Operation::Raise => after = after.raised(amount, levels),
            operation => {
                after.left = after.left.checked_sub(amount).ok_or("more than what is set aside")?;
                if operation == Operation::Capture {
                    after.captured = after.captured.saturating_add(amount);
                }
                closes = after.left == 0;
            }
        }
        let suits = match transfer.operation() {
            Operation::Arrive => before.kind != PendingKind::Hold,
            Operation::Void => before.kind != PendingKind::Reserve,
            _ => before.kind == PendingKind::Hold,
        };
        if !suits {
            return Err("it cannot be done to what it is about");
        }
        if closes {
            self.pendings.remove(id);
        } else {
            self.pendings.put(after);
        }
        Ok(Some(before))
    }

    /// Notes what a refund, a reversal or a void gives back.
    pub(super) fn gave_back(&mut self, transfer: &Transfer, sequence: Sequence) -> Result<(), &'static str> {
        let id = TransferId::from_raw(transfer.related);
        let life = self.lives.get(id).map(|life| life.1).unwrap_or_default();
        if life.head >= sequence {
            return Ok(());
        }
        if life.is_over {
            return Err("what it is about was reversed before");
        }
        let refund = transfer.operation() == Operation::Refund;
        let refunded = life.refunded.saturating_add(if refund { transfer.amount } else { 0 });
        self.lives.put((id, Life { refunded, is_over: !refund, head: sequence }));
        Ok(())
    }

    /// Brings what counts a record for its payer into the cache.
    #[inline]
    pub(super) fn touch(&self, debit: crate::ledger::AccountId) -> u32 {
        let subject = Subject { scope: Scope::Account, id: debit.raw() };
        let tally = self.tallies.get(subject);
        let ends = tally.map(|tally| (tally.buckets.first(), tally.buckets.last()));
        ends.map_or(0, |(first, last)| first.map_or(0, |bucket| bucket.part) ^ last.map_or(0, |bucket| bucket.part))
    }

    /// Counts a record towards every limit about it, each of which must hold.
    pub(super) fn count(
        &mut self,
        policy: &Policy,
        (policy_at, sequence): (Sequence, Sequence),
        counted: &Counted,
    ) -> Result<(), &'static str> {
        let mut exceeded = false;
        self.each(policy, (policy_at, sequence), counted, |limit, buckets, part| {
            add(buckets, part, counted.amount, counted.count);
            let used = used(buckets, part);
            let once = if buckets.is_empty() { counted.amount } else { 0 };
            exceeded |= limit.check(used, once, 0).is_err() || limit.count_max.is_some_and(|max| used.1 > max);
        });
        if exceeded { Err("it exceeds a limit of the policy") } else { Ok(()) }
    }

    /// Takes what was not used out of the limits that counted it.
    pub(super) fn uncount(&mut self, policy: &Policy, at: (Sequence, Sequence), counted: &Counted) {
        self.each(policy, at, counted, |_, buckets, part| take_back(buckets, part, counted.amount, counted.count));
    }

    /// Shows each limit about a record with its buckets, unless its tally has seen the record.
    fn each(
        &mut self,
        policy: &Policy,
        (policy_at, sequence): (Sequence, Sequence),
        counted: &Counted,
        mut change: impl FnMut(&LimitRule, &mut [Bucket], u32),
    ) {
        let Self { tallies, parts, places, .. } = self;
        let parts = parts.at(policy, counted.second);
        // Groups of one scope may share a subject; what counts for it in this record counts in each.
        let mut mine: [Option<u32>; 8] = [None; 8];
        for (number, group) in policy.groups().iter().enumerate() {
            let subject = group.subject(counted);
            let cached = places.get(group.scope as usize).copied().flatten().filter(|(last, _)| *last == subject);
            let place = cached.map_or_else(
                || {
                    tallies.place_or_put(subject, || Tally {
                        subject,
                        head: 0,
                        policy: policy_at,
                        buckets: vec![Bucket::default(); policy.buckets(subject.scope)],
                    })
                },
                |(_, place)| place,
            );
            if let Some(cache) = places.get_mut(group.scope as usize) {
                *cache = Some((subject, place));
            }
            let Some(tally) = tallies.at_mut(place) else { continue };
            if tally.head >= sequence && !mine.contains(&Some(place)) {
                continue;
            }
            tally.head = sequence;
            if let Some(seen) = mine.get_mut(number) {
                *seen = Some(place);
            }
            for own in group.limits.iter().filter(|own| own.selects(policy, counted)) {
                let (Some(limit), Some(&part)) = (policy.limits.get(own.index), parts.get(own.index)) else { continue };
                if let Some(buckets) = tally.buckets.get_mut(own.place.clone()) {
                    change(limit, buckets, part);
                }
            }
        }
    }

    /// Lays all tallies out for another policy, whose last record is `policy_at`.
    pub(super) fn change_policy(&mut self, before: &Policy, after: &Policy, policy_at: Sequence) {
        (self.parts, self.places) = (Parts::default(), [None; 4]);
        let old: Vec<Tally> = self.tallies.iter().filter(|tally| tally.policy < policy_at).cloned().collect();
        for tally in old {
            let buckets = after.carry_over(before, tally.subject.scope, &tally.buckets);
            if buckets.is_empty() {
                self.tallies.remove(tally.subject);
            } else {
                self.tallies.put(Tally { buckets, policy: policy_at, ..tally });
            }
        }
    }
}

/// Sums of what is open by account, to be compared with the accounts: pending debits and credits.
pub(super) fn pending_sums(open: &Open) -> HashMap<crate::ledger::AccountId, (u128, u128)> {
    let mut sums: HashMap<_, (u128, u128)> = HashMap::new();
    for pending in open.pendings.iter() {
        let debit = sums.entry(pending.debit).or_default();
        debit.0 = debit.0.saturating_add(pending.left);
        let credit = sums.entry(pending.credit).or_default();
        credit.1 = credit.1.saturating_add(pending.left);
    }
    sums
}

/// The limits about a subject, with what was used of each as of a second.
pub(super) fn used_of(open: &Open, policy: &Policy, counted: &Counted, scopes: &[Scope]) -> Vec<super::LimitUse> {
    let mut uses = Vec::new();
    for group in policy.groups().iter().filter(|group| scopes.contains(&group.scope)) {
        let tally = open.tallies.get(group.subject(counted));
        for own in group.limits.iter().filter(|own| own.selects(policy, counted)) {
            let Some(limit) = policy.limits.get(own.index) else { continue };
            let buckets = tally.and_then(|tally| tally.buckets.get(own.place.clone())).unwrap_or_default();
            let now = used(buckets, limit.part(counted.second));
            uses.push((limit.name.clone(), now, (limit.sum_max, limit.count_max)));
        }
    }
    uses
}
