//! Rows of counters: one for each subject that a limit counts for, side by side in chunks.
//!
//! All rows are of one length, so a row's number is its place. The row of an account is found by the account's slot where that is
//! known, else by its id; those of levels, gateways and codes are few, and the last one found is kept at hand.
//!
//! Not here: what a limit is and how its periods are counted ([`super::tally`]).

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Slot;
use super::bucket::Bucket;
use super::tally::{Scope, Subject};

/// Rows per chunk: growing never moves a row.
const CHUNK_ROWS: usize = 1_024;

/// Rows by subject.
#[derive(Debug, Default)]
pub(super) struct Rows {
    buckets: usize,
    chunks: Vec<Vec<Bucket>>,
    subjects: Vec<Option<Subject>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// By slot of the account: its row's number and one more; 0 when it is not known.
    by_slot: Vec<u32>,
    /// By scope: the last subject found, and its row.
    last: [Option<(u128, u32)>; 4],
}

/// A number as an index; one that does not fit is beyond every end.
pub(super) fn index_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Rows {
    /// No rows, each of which will have so many buckets.
    pub(super) fn new(buckets: usize) -> Self {
        Self { buckets, ..Self::default() }
    }

    /// The number of places, of rows and free ones.
    pub(super) fn places(&self) -> usize {
        self.subjects.len()
    }

    /// Whose row it is.
    pub(super) fn subject(&self, place: u32) -> Option<Subject> {
        self.subjects.get(index_of(place)).copied().flatten()
    }

    /// The row of a subject.
    pub(super) fn find(&self, subject: Subject) -> Option<u32> {
        let hash = self.hasher.hash_one(subject);
        self.index.find(hash, |&place| self.subject(place) == Some(subject)).copied()
    }

    /// The row of a subject, found without a search or not at all.
    #[inline]
    fn at_hand(&self, subject: Subject, slot: Option<Slot>) -> Option<u32> {
        if subject.scope == Scope::Account {
            self.by_slot.get(index_of(slot?))?.checked_sub(1)
        } else {
            let (id, place) = self.last.get(subject.scope as usize).copied().flatten()?;
            (id == subject.id).then_some(place)
        }
    }

    /// The row of a subject, a new one if it has none; `slot` is that of its account, where known.
    #[inline]
    pub(super) fn place(&mut self, subject: Subject, slot: Option<Slot>) -> u32 {
        if let Some(place) = self.at_hand(subject, slot) {
            return place;
        }
        self.search(subject, slot)
    }

    fn search(&mut self, subject: Subject, slot: Option<Slot>) -> u32 {
        let place = self.find(subject).unwrap_or_else(|| self.add(subject));
        if subject.scope != Scope::Account {
            if let Some(last) = self.last.get_mut(subject.scope as usize) {
                *last = Some((subject.id, place));
            }
        } else if let Some(slot) = slot.map(index_of) {
            if slot >= self.by_slot.len() {
                self.by_slot.resize(slot.saturating_add(1), 0);
            }
            if let Some(known) = self.by_slot.get_mut(slot) {
                *known = place.saturating_add(1);
            }
        }
        place
    }

    /// An empty row for a subject that has none.
    fn add(&mut self, subject: Subject) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| self.add_place());
        if let Some(of) = self.subjects.get_mut(index_of(place)) {
            *of = Some(subject);
        }
        let Self { index, hasher, subjects, .. } = self;
        index.insert_unique(hasher.hash_one(subject), place, |&place| {
            hasher.hash_one(subjects.get(index_of(place)).copied().flatten().unwrap_or(subject))
        });
        place
    }

    fn add_place(&mut self) -> u32 {
        let place = self.subjects.len();
        self.subjects.push(None);
        if place / CHUNK_ROWS >= self.chunks.len() {
            self.chunks.push(Vec::new());
        }
        if let Some(chunk) = self.chunks.last_mut() {
            if place >= CHUNK_ROWS && chunk.is_empty() {
                chunk.reserve_exact(CHUNK_ROWS.saturating_mul(self.buckets));
            }
            chunk.resize(chunk.len().saturating_add(self.buckets), Bucket::default());
        }
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// The next place, free.
    pub(super) fn add_free(&mut self) {
        let place = self.add_place();
        self.free.push(place);
    }

    /// The next place, with a row of a subject that has none.
    pub(super) fn add_row(&mut self, subject: Subject) -> u32 {
        let free = std::mem::take(&mut self.free);
        let place = self.add(subject);
        self.free = free;
        place
    }

    /// A row.
    #[inline]
    pub(super) fn row(&self, place: u32) -> &[Bucket] {
        let place = index_of(place);
        let start = (place % CHUNK_ROWS).wrapping_mul(self.buckets);
        let chunk = self.chunks.get(place / CHUNK_ROWS);
        chunk.and_then(|chunk| chunk.get(start..start.wrapping_add(self.buckets))).unwrap_or_default()
    }

    /// A row, to change.
    #[inline]
    pub(super) fn row_mut(&mut self, place: u32) -> &mut [Bucket] {
        let place = index_of(place);
        let start = (place % CHUNK_ROWS).wrapping_mul(self.buckets);
        let chunk = self.chunks.get_mut(place / CHUNK_ROWS);
        chunk.and_then(|chunk| chunk.get_mut(start..start.wrapping_add(self.buckets))).unwrap_or_default()
    }

    /// Brings an account's row into the cache, if it is at hand; answers it.
    #[inline]
    pub(super) fn touch(&self, slot: Option<Slot>) -> Option<u32> {
        let place = self.at_hand(Subject { scope: Scope::Account, id: 0 }, slot)?;
        // Of most rows the first four buckets are all that is used; they lie in two or three cache lines.
        if let [first, second, _, fourth, ..] = self.row(place) {
            std::hint::black_box((first.sum(), second.part, fourth.part));
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn account(id: u128) -> Subject {
        Subject { scope: Scope::Account, id }
    }

    #[test]
    fn a_subject_has_one_row_however_it_is_found() {
        let mut rows = Rows::new(3);
        for id in 0..3_000_u32 {
            let subject = account(u128::from(id) * 7);
            let slot = Some(id).filter(|id| id % 3 != 0);
            let place = rows.place(subject, slot);
            rows.row_mut(place)[2].part = id + 1;
            assert_eq!(rows.place(subject, None), place);
            assert_eq!(rows.place(subject, Some(id)), place);
            assert_eq!(rows.find(subject), Some(place));
        }
        for id in 0..3_000_u32 {
            let place = rows.place(account(u128::from(id) * 7), Some(id));
            assert_eq!(rows.row(place).iter().map(|bucket| bucket.part).collect::<Vec<_>>(), [0, 0, id + 1]);
        }
        assert_eq!((rows.places(), rows.row(3_000).len()), (3_000, 0));
    }

    #[test]
    fn free_places_are_used_before_new_ones() {
        let mut rows = Rows::new(1);
        let level = Subject { scope: Scope::Level, id: 1 };
        rows.add_free();
        assert_eq!((rows.add_row(account(1)), rows.subject(0)), (1, None));
        assert_eq!((rows.place(level, None), rows.place(level, None)), (0, 0));
        assert_eq!((rows.place(account(2), None), rows.places()), (2, 3));
    }
}
