//! The desk's tallies: what every limit has counted, checked and changed without a second look-up.
//!
//! Not here: what a limit is and how its periods are counted ([`super::tally`]); the book's own tallies ([`super::Tally`]).

use super::bucket::{Bucket, add, take_back, touched, used};
use super::policy::Policy;
use super::rows::Rows;
use super::tally::{Counted, GROUPS_MAX, Parts, Subject};
use super::{Code, Slot};

/// The tallies of a desk.
#[derive(Debug)]
pub(super) struct Tallies {
    rows: Rows,
    parts: Parts,
}

/// A bucket before it was changed, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    row: u32,
    at: usize,
    bucket: Bucket,
}

impl Tallies {
    pub(super) fn new(policy: &Policy) -> Self {
        Self { rows: Rows::new(policy.row_buckets()), parts: Parts::default() }
    }

    /// Takes over a tally.
    pub(super) fn put(&mut self, subject: Subject, buckets: &[Bucket]) {
        let row = self.rows.place(subject, None);
        for (own, bucket) in self.rows.row_mut(row).iter_mut().zip(buckets) {
            *own = *bucket;
        }
    }

    /// Counts an operation towards every limit about it, or answers the index of the first that refuses, and its code, and counts
    /// nothing.
    #[inline]
    pub(super) fn count(&mut self, policy: &Policy, counted: &Counted) -> Result<(), (usize, Code)> {
        let Self { rows, parts } = self;
        let parts = parts.at(policy, counted.second);
        let mut places = [0; GROUPS_MAX];
        for (group, place) in policy.groups().iter().zip(&mut places) {
            *place = rows.place(group.subject(counted), group.slot(counted));
            let row = rows.row(*place);
            for limit in group.limits.iter().filter(|limit| limit.selects(policy, counted)) {
                let part = parts.get(limit.index).copied().unwrap_or(0);
                let used = used(row.get(limit.place.clone()).unwrap_or_default(), part);
                limit.bounds.check(used, counted.amount, counted.count).map_err(|code| (limit.index, code))?;
            }
        }
        for (group, &place) in policy.groups().iter().zip(&places) {
            let row = rows.row_mut(place);
            for limit in group.limits.iter().filter(|limit| limit.selects(policy, counted)) {
                let part = parts.get(limit.index).copied().unwrap_or(0);
                if let Some(own) = row.get_mut(limit.place.clone()) {
                    add(own, part, counted.amount, counted.count);
                }
            }
        }
        Ok(())
    }

    /// Takes what was not used out of every limit that counted it.
    pub(super) fn take_back(&mut self, policy: &Policy, counted: &Counted) {
        let parts = self.parts.at(policy, counted.second);
        for group in policy.groups() {
            let place = self.rows.place(group.subject(counted), group.slot(counted));
            let row = self.rows.row_mut(place);
            for limit in group.limits.iter().filter(|limit| limit.selects(policy, counted)) {
                let part = parts.get(limit.index).copied().unwrap_or(0);
                if let Some(own) = row.get_mut(limit.place.clone()) {
                    take_back(own, part, counted.amount, counted.count);
                }
            }
        }
    }

    /// Tells how the buckets are that an operation may change.
    pub(super) fn before(&mut self, policy: &Policy, counted: &Counted, mut tell: impl FnMut(Before)) {
        let Self { rows, parts } = self;
        let parts = parts.at(policy, counted.second);
        for group in policy.groups() {
            let row = rows.place(group.subject(counted), group.slot(counted));
            for limit in group.limits.iter().filter(|limit| limit.selects(policy, counted)) {
                let part = parts.get(limit.index).copied().unwrap_or(0);
                let buckets = rows.row(row).get(limit.place.clone()).unwrap_or_default();
                for place in touched(buckets, part) {
                    if let Some(bucket) = buckets.get(place) {
                        tell(Before { row, at: limit.place.start.saturating_add(place), bucket: *bucket });
                    }
                }
            }
        }
    }

    /// Brings what counts for an account into the cache.
    #[inline]
    pub(super) fn touch(&self, debit: Option<Slot>) {
        self.rows.touch(debit);
    }

    /// Puts buckets back.
    pub(super) fn restore(&mut self, before: &Before) {
        if let Some(bucket) = self.rows.row_mut(before.row).get_mut(before.at) {
            *bucket = before.bucket;
        }
    }
}
