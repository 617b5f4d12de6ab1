//! The transfer-id index: ids and the sequences of their records, in memory. [`super::known`] keeps it from growing without end.
//!
//! ```text
//! entries   id (16) | sequence (8)       in order of admission: written one after the other, and settled soon after
//! table     place in entries, by hash ([`Places`])               4 bytes a place
//! ```
//!
//! So what is asked at random places is small, and an id that is not there is mostly known from the table alone. Ids become durable mostly in
//! the order in which they were admitted: the next one to be settled is looked for where that one is, and the table is not asked. The hash is keyed at random,
//! so that nobody can choose ids that collide. Who cannot wait for the table to double asks for the room first.

use std::hint::black_box;

use crate::ledger::{Keys, Places, Sequence, TransferId};
use crate::runs::{NONE, Range};

/// Marks an id that was admitted and has no durable record yet.
const PENDING: Sequence = Sequence::MAX;

/// Entries that are passed over for the next id to be settled before the table is asked: with several shards some others come in between.
const NEXT_AMONG: usize = 4;

/// What the index knew of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Never seen; now pending.
    New,
    /// Admitted before, its record is not durable yet.
    Pending,
    /// Its record.
    Known(Sequence),
}

impl Admitted {
    fn from_sequence(sequence: Sequence) -> Self {
        match sequence {
            PENDING => Self::Pending,
            sequence => Self::Known(sequence),
        }
    }
}

/// All ids.
#[derive(Debug)]
pub struct IdIndex {
    entries: Vec<Entry>,
    table: Places,
    pending: usize,
    /// After the entry that was settled last.
    next: usize,
    keys: Keys,
    /// All ids are from the first to the second.
    bounds: Range,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    low: u64,
    high: u64,
    sequence: Sequence,
}

impl Entry {
    fn id(&self) -> u128 {
        u128::from(self.low) | u128::from(self.high) << 64
    }
}

impl Default for IdIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl IdIndex {
    /// An empty index.
    pub fn new() -> Self {
        Self::with_room(0)
    }

    /// An empty index with room for at least so many ids. Memory is used as ids come.
    pub fn with_room(ids: usize) -> Self {
        Self {
            entries: Vec::with_capacity(ids),
            table: Places::with_room(ids),
            pending: 0,
            next: 0,
            keys: Keys::random(),
            bounds: NONE,
        }
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Brings the places of these ids into the cache, all at once.
    #[inline]
    pub fn touch(&self, ids: impl Iterator<Item = TransferId>) {
        let mut seen = 0;
        for id in ids {
            let (low, high) = id.halves();
            seen ^= self.table.first(self.hash(low, high));
        }
        black_box(seen);
    }

    /// Looks an id up, and notes it as pending if it is new. The id must be valid.
    #[inline]
    pub fn admit(&mut self, id: TransferId) -> Admitted {
        let (low, high) = id.halves();
        let hash = self.hash(low, high);
        match self.look(hash, low, high) {
            Ok(number) => Admitted::from_sequence(self.sequence(entry_at(number))),
            Err(place) => {
                self.pending = self.pending.saturating_add(1);
                self.insert(hash, place, Entry { low, high, sequence: PENDING });
                Admitted::New
            }
        }
    }

    /// Whether it may have some id of a range.
    #[inline]
    pub(super) fn may_have(&self, (first, last): Range) -> bool {
        self.bounds.0 <= last && first <= self.bounds.1
    }

    /// Looks an id up and notes nothing.
    #[inline]
    pub fn peek(&self, id: TransferId) -> Admitted {
        if !self.may_have((id.raw(), id.raw())) {
            return Admitted::New;
        }
        let (low, high) = id.halves();
        match self.look(self.hash(low, high), low, high) {
            Ok(number) => Admitted::from_sequence(self.sequence(entry_at(number))),
            Err(_) => Admitted::New,
        }
    }

    /// Notes the record of an id.
    #[inline]
    pub fn settle(&mut self, id: TransferId, sequence: Sequence) {
        if self.settle_next(id, sequence) {
            return;
        }
        let (low, high) = id.halves();
        let hash = self.hash(low, high);
        match self.look(hash, low, high) {
            Ok(number) => self.settle_at(entry_at(number), sequence),
            Err(place) => self.insert(hash, place, Entry { low, high, sequence }),
        }
    }

    /// The same for an id that may be next; answers whether it was.
    #[inline]
    pub fn settle_next(&mut self, id: TransferId, sequence: Sequence) -> bool {
        match self.among_next(id) {
            Some(at) => self.settle_at(at, sequence),
            None => return false,
        }
        true
    }

    fn settle_at(&mut self, at: usize, sequence: Sequence) {
        if let Some(entry) = self.entries.get_mut(at) {
            self.pending = self.pending.saturating_sub(usize::from(entry.sequence == PENDING));
            entry.sequence = sequence;
            self.next = at.saturating_add(1);
        }
    }

    /// Where an id is, if it is among those that are probably settled next.
    #[inline]
    fn among_next(&self, id: TransferId) -> Option<usize> {
        let (low, high) = id.halves();
        let next = self.entries.get(self.next..).unwrap_or_default().iter().take(NEXT_AMONG);
        let at = next.take_while(|entry| entry.low != low || entry.high != high).count().saturating_add(self.next);
        self.entries.get(at).filter(|entry| entry.low == low && entry.high == high).map(|_| at)
    }

    /// Whether these ids are just those that are probably settled next, so that the table will not be asked for them.
    pub fn expects(&self, ids: &[TransferId]) -> bool {
        let next = self.entries.get(self.next..).unwrap_or_default().get(..ids.len()).unwrap_or_default();
        let ends = (ids.first().zip(next.first()), ids.last().zip(next.last()));
        let is_there = |end: Option<(&TransferId, &Entry)>| end.is_some_and(|(id, entry)| entry.id() == id.raw());
        is_there(ends.0) && is_there(ends.1)
    }

    /// Uses the memory of the table, which is asked at random places: a page that is used for the first time costs as much as eight transfers, and
    /// the first batch would pay for thousands.
    pub fn warm(&mut self) {
        self.table.warm();
    }

    /// Uses all of the memory once, where somebody has time for it.
    pub fn warm_all(&mut self) {
        let room = self.entries.capacity();
        self.entries.resize(room, Entry::default());
        black_box(&mut self.entries).clear();
        self.warm();
    }

    /// Forgets all, but keeps the room.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.table.clear();
        (self.pending, self.next) = (0, 0);
        self.bounds = NONE;
    }

    /// How many are pending.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// All ids with their records, in order of admission; pending ones are left out.
    pub fn entries(&self) -> impl Iterator<Item = (u128, Sequence)> + Clone + '_ {
        let settled = self.entries.iter().filter(|entry| entry.sequence != PENDING);
        settled.map(|entry| (entry.id(), entry.sequence))
    }

    /// The durable record of an id.
    pub fn find(&self, id: TransferId) -> Option<Sequence> {
        match self.peek(id) {
            Admitted::Known(sequence) => Some(sequence),
            Admitted::New | Admitted::Pending => None,
        }
    }

    fn sequence(&self, at: usize) -> Sequence {
        self.entries.get(at).map_or(PENDING, |entry| entry.sequence)
    }

    #[inline]
    fn hash(&self, low: u64, high: u64) -> u64 {
        self.keys.hash((low, high))
    }

    #[inline]
    fn look(&self, hash: u64, low: u64, high: u64) -> Result<u32, usize> {
        self.table.find(hash, |number| {
            self.entries.get(entry_at(number)).is_some_and(|entry| entry.low == low && entry.high == high)
        })
    }

    #[inline]
    fn insert(&mut self, hash: u64, free: usize, entry: Entry) {
        let id = entry.id();
        self.bounds = (self.bounds.0.min(id), self.bounds.1.max(id));
        self.entries.push(entry);
        let (entries, keys) = (&self.entries, self.keys);
        let number = self.table.insert(hash, free, |number| {
            entries.get(entry_at(number)).map_or(0, |entry| keys.hash((entry.low, entry.high)))
        });
        debug_assert_eq!(entry_at(number).saturating_add(1), entries.len(), "each entry has the number of its place");
    }
}

#[inline]
fn entry_at(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_agrees_with_a_map(acts in prop::collection::vec((0..3_u8, 1..40_u128, 1..1_000_u64), 1..300)) {
            let mut index = IdIndex::new();
            let mut map = std::collections::BTreeMap::new();
            for (act, id, sequence) in acts {
                // Small and huge ids that differ in one half only.
                let raw = if id % 2 == 0 { id } else { id << 64 };
                let id = TransferId::from_raw(raw);
                match act {
                    0 => {
                        let expected = match map.get(&raw) {
                            None => Admitted::New,
                            Some(&PENDING) => Admitted::Pending,
                            Some(&known) => Admitted::Known(known),
                        };
                        map.entry(raw).or_insert(PENDING);
                        prop_assert_eq!(index.admit(id), expected);
                    }
                    1 => {
                        index.settle(id, sequence);
                        map.insert(raw, sequence);
                    }
                    _ => prop_assert_eq!(index.find(id), map.get(&raw).copied().filter(|&known| known != PENDING)),
                }
                prop_assert_eq!(index.len(), map.len());
            }
        }
    }

    #[test]
    fn a_hundred_thousand_ids_are_all_found_after_growing() {
        let mut index = IdIndex::new();
        for number in 1..=100_000_u64 {
            assert_eq!(index.admit(TransferId::from_raw(u128::from(number) << 40)), Admitted::New);
            index.settle(TransferId::from_raw(u128::from(number) << 40), number);
        }
        for number in 1..=100_000_u64 {
            assert_eq!(index.admit(TransferId::from_raw(u128::from(number) << 40)), Admitted::Known(number));
        }
        index.touch((1..100).map(TransferId::from_raw));
        assert_eq!(index.len(), 100_000);
    }
}
