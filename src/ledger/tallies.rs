//! The desk's tallies: what every limit has counted, checked and changed without a second look-up.
//!
//! Not here: what a limit is and how its periods are counted ([`super::tally`]); the book's own tallies ([`super::Tally`]).

use hashbrown::HashMap;

use super::policy::Policy;
use super::tally::{Bucket, Counted, Parts, Scope, Subject, add, bucket_of, take_back, used};
use super::{AccountId, Code};

/// The tallies of a desk: those of one scope side by side, found by subject.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    scopes: [ScopeTallies; 4],
    parts: Parts,
}

#[derive(Debug, Default)]
struct ScopeTallies {
    index: HashMap<u128, usize>,
    /// The last one found: levels, gateways and codes are few.
    last: Option<(u128, usize)>,
    buckets: Vec<Bucket>,
}

/// The bucket of a limit before it was changed, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    scope: Scope,
    at: usize,
    bucket: Bucket,
}

impl ScopeTallies {
    /// Where the tally of a subject begins; a new one is empty.
    #[inline]
    fn place(&mut self, id: u128, buckets: usize) -> usize {
        if let Some((last, place)) = self.last
            && last == id
        {
            return place;
        }
        let next = self.buckets.len();
        let place = *self.index.entry(id).or_insert(next);
        if place == next {
            self.buckets.resize(next.saturating_add(buckets), Bucket::default());
        }
        self.last = Some((id, place));
        place
    }
}

impl Tallies {
    /// Takes over a tally.
    pub(super) fn put(&mut self, subject: Subject, buckets: &[Bucket]) {
        if let Some(scope) = self.scopes.get_mut(subject.scope as usize) {
            let place = scope.place(subject.id, buckets.len());
            if let Some(own) = scope.buckets.get_mut(place..place.saturating_add(buckets.len())) {
                own.copy_from_slice(buckets);
            }
        }
    }

    /// Checks an operation against every limit about it; the index of the first that refuses, and its code.
    #[inline]
    pub(super) fn check(&mut self, policy: &Policy, counted: &Counted) -> Result<(), (usize, Code)> {
        let parts = self.parts.at(policy, counted.second);
        for group in policy.groups() {
            let subject = group.subject(counted);
            let Some(scope) = self.scopes.get_mut(group.scope as usize) else { continue };
            let first = scope.place(subject.id, policy.buckets(group.scope));
            for limit in &group.limits {
                if !limit.selects(policy, counted) {
                    continue;
                }
                let own = first.saturating_add(limit.place.start)..first.saturating_add(limit.place.end);
                let part = parts.get(limit.index).copied().unwrap_or(0);
                let used = used(scope.buckets.get(own).unwrap_or_default(), part);
                limit.bounds.check(used, counted.amount, counted.count).map_err(|code| (limit.index, code))?;
            }
        }
        Ok(())
    }

    /// Adds an operation that was checked, or with `back` takes it out again; tells how each bucket was.
    #[inline]
    pub(super) fn count(&mut self, policy: &Policy, counted: &Counted, back: bool, mut before: impl FnMut(Before)) {
        let parts = self.parts.at(policy, counted.second);
        for group in policy.groups() {
            let subject = group.subject(counted);
            let Some(scope) = self.scopes.get_mut(group.scope as usize) else { continue };
            let first = scope.place(subject.id, policy.buckets(group.scope));
            for limit in group.limits.iter().filter(|limit| !limit.place.is_empty()) {
                if !limit.selects(policy, counted) {
                    continue;
                }
                let part = parts.get(limit.index).copied().unwrap_or(0);
                let start = first.saturating_add(limit.place.start);
                let Some(own) = scope.buckets.get_mut(start..first.saturating_add(limit.place.end)) else { continue };
                let touched = if own.len() > 1 { [Some(0), Some(bucket_of(part))] } else { [Some(0), None] };
                for offset in touched.into_iter().flatten() {
                    if let Some(bucket) = own.get(offset) {
                        before(Before { scope: group.scope, at: start.saturating_add(offset), bucket: *bucket });
                    }
                }
                if back {
                    take_back(own, part, counted.amount, counted.count);
                } else {
                    add(own, part, counted.amount, counted.count);
                }
            }
        }
    }

    /// Brings what counts an operation for its accounts into the cache.
    #[inline]
    pub(super) fn touch(&self, policy: &Policy, debit: AccountId) -> u32 {
        let scope = self.scopes.first();
        let place = scope.and_then(|scope| scope.index.get(&debit.raw()));
        let end = place.map(|place| place.saturating_add(policy.buckets(Scope::Account)).saturating_sub(1));
        let bucket = |at: Option<usize>| scope.and_then(|scope| scope.buckets.get(at?)).map_or(0, |bucket| bucket.part);
        bucket(place.copied()) ^ bucket(end)
    }

    /// Puts a bucket back.
    pub(super) fn restore(&mut self, before: Before) {
        let scope = self.scopes.get_mut(before.scope as usize);
        if let Some(bucket) = scope.and_then(|scope| scope.buckets.get_mut(before.at)) {
            *bucket = before.bucket;
        }
    }
}
