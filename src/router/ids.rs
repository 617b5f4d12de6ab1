//! The transfer-id index: ids and the sequences of their records, in memory. [`super::known`] keeps it from growing without end.
//!
//! Open addressing with linear probing, 24 bytes a place, in 256 parts that grow one at a time: growing a part of an index of
//! ten million ids takes about a millisecond, growing it whole would stop the router for a third of a second. The hash is
//! keyed at random, so that nobody can choose ids that collide.

use std::hint::black_box;

use crate::ledger::{Sequence, TransferId};

const PARTS: usize = 256;

/// Marks an id that was admitted and has no durable record yet.
const PENDING: Sequence = Sequence::MAX;

/// Places of a new part.
const PART_PLACES: usize = 16;

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

/// All ids.
#[derive(Debug)]
pub struct IdIndex {
    parts: Vec<Part>,
    pending: usize,
    keys: (u64, u64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    low: u64,
    high: u64,
    sequence: Sequence,
}

#[derive(Debug)]
struct Part {
    places: Vec<Place>,
    used: usize,
}

impl Default for IdIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl IdIndex {
    /// An empty index.
    pub fn new() -> Self {
        let part = || Part { places: vec![Place::default(); PART_PLACES], used: 0 };
        Self { parts: (0..PARTS).map(|_| part()).collect(), pending: 0, keys: (rand::random(), rand::random()) }
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.used).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Brings the places of these ids into the cache, all at once.
    #[inline]
    pub fn touch(&self, ids: impl Iterator<Item = TransferId>) {
        let mut seen = 0;
        for id in ids {
            let (low, high) = id.halves();
            let hash = self.hash(low, high);
            if let Some(part) = self.parts.get(part_of(hash)) {
                seen ^= part.places.get(part.home(hash)).map_or(0, |place| place.low);
            }
        }
        black_box(seen);
    }

    /// Looks an id up, and notes it as pending if it is new. The id must be valid.
    #[inline]
    pub fn admit(&mut self, id: TransferId) -> Admitted {
        let (low, high) = id.halves();
        let hash = self.hash(low, high);
        let place = self.place(hash, low, high);
        match place.sequence {
            0 => {
                *place = Place { low, high, sequence: PENDING };
                self.pending = self.pending.saturating_add(1);
                self.grow(hash);
                Admitted::New
            }
            PENDING => Admitted::Pending,
            sequence => Admitted::Known(sequence),
        }
    }

    /// Looks an id up and notes nothing.
    pub fn peek(&self, id: TransferId) -> Admitted {
        let (low, high) = id.halves();
        let hash = self.hash(low, high);
        let part = self.parts.get(part_of(hash));
        match part.and_then(|part| part.places.get(part.find(hash, low, high))).map_or(0, |place| place.sequence) {
            0 => Admitted::New,
            PENDING => Admitted::Pending,
            sequence => Admitted::Known(sequence),
        }
    }

    /// Notes the record of an id.
    #[inline]
    pub fn settle(&mut self, id: TransferId, sequence: Sequence) {
        let (low, high) = id.halves();
        let hash = self.hash(low, high);
        let place = self.place(hash, low, high);
        let (is_new, was_pending) = (place.sequence == 0, place.sequence == PENDING);
        *place = Place { low, high, sequence };
        self.pending = self.pending.saturating_sub(usize::from(was_pending));
        if is_new {
            self.grow(hash);
        }
    }

    /// Forgets all, but keeps the room.
    pub fn clear(&mut self) {
        self.parts.iter_mut().for_each(|part| {
            part.places.fill(Place::default());
            part.used = 0;
        });
        self.pending = 0;
    }

    /// How many are pending.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// All ids with their records, in no order; pending ones are left out.
    pub fn entries(&self) -> Vec<(u128, Sequence)> {
        let places = self.parts.iter().flat_map(|part| &part.places);
        let settled = places.filter(|place| place.sequence != 0 && place.sequence != PENDING);
        settled.map(|place| (u128::from(place.low) | u128::from(place.high) << 64, place.sequence)).collect()
    }

    /// The durable record of an id.
    pub fn find(&self, id: TransferId) -> Option<Sequence> {
        let (low, high) = id.halves();
        let hash = self.hash(low, high);
        let part = self.parts.get(part_of(hash))?;
        let place = part.places.get(part.find(hash, low, high))?;
        (place.sequence != 0 && place.sequence != PENDING).then_some(place.sequence)
    }

    #[inline]
    fn hash(&self, low: u64, high: u64) -> u64 {
        // Two folded multiplications, keyed; the second spreads what a zero factor in the first would lose.
        let first = fold(low ^ self.keys.0, high ^ self.keys.1 ^ 0x9E37_79B9_7F4A_7C15);
        fold(first ^ low.rotate_left(32), self.keys.0 | 1) ^ high
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "a hash byte is below the number of parts, and a part is never full")]
    fn place(&mut self, hash: u64, low: u64, high: u64) -> &mut Place {
        let part = self.parts.get_mut(part_of(hash)).expect("256 parts");
        let at = part.find(hash, low, high);
        part.places.get_mut(at).expect("a place")
    }

    /// Counts a new id, and doubles its part when that is three quarters full.
    #[inline]
    fn grow(&mut self, hash: u64) {
        let Self { parts, keys, .. } = self;
        let Some(part) = parts.get_mut(part_of(hash)) else { return };
        part.used = part.used.saturating_add(1);
        if part.used.saturating_mul(4) > part.places.len().saturating_mul(3) {
            let hasher = Self { parts: Vec::new(), pending: 0, keys: *keys };
            part.double(|place| hasher.hash(place.low, place.high));
        }
    }
}

impl Part {
    #[inline]
    fn home(&self, hash: u64) -> usize {
        // The part is chosen by the high byte, so the low bits are still free. Lengths are powers of two.
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & self.places.len().wrapping_sub(1)
    }

    /// The place of an id, or the empty place where it belongs.
    #[inline]
    fn find(&self, hash: u64, low: u64, high: u64) -> usize {
        let mask = self.places.len().wrapping_sub(1);
        let mut at = self.home(hash);
        while let Some(place) = self.places.get(at) {
            if place.sequence == 0 || (place.low == low && place.high == high) {
                break;
            }
            at = at.wrapping_add(1) & mask;
        }
        at
    }

    #[cold]
    fn double(&mut self, hash: impl Fn(&Place) -> u64) {
        let doubled = vec![Place::default(); self.places.len().saturating_mul(2)];
        let old = std::mem::replace(&mut self.places, doubled);
        for place in old.into_iter().filter(|place| place.sequence != 0) {
            let at = self.find(hash(&place), place.low, place.high);
            if let Some(free) = self.places.get_mut(at) {
                *free = place;
            }
        }
    }
}

#[inline]
fn part_of(hash: u64) -> usize {
    usize::from(hash.to_be_bytes()[0])
}

#[inline]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    let bytes = product.to_le_bytes();
    u64::from_le_bytes(crate::ledger::get::<0, 8>(&bytes)) ^ u64::from_le_bytes(crate::ledger::get::<8, 8>(&bytes))
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
