//! A shelf: entries with a key in numbered places, of which a checkpoint writes those blocks that changed.

use std::collections::BTreeSet;
use std::hash::Hash;

use crate::ledger::BlockSet;
use crate::ledger::spread::Spread;

/// Entries by key; a place that was given up is used again.
#[derive(Debug)]
pub struct Shelf<K, T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
    index: Spread<K, u32>,
    changed: BlockSet,
    per_block: u32,
    key_of: fn(&T) -> K,
}

impl<K: Copy + Eq + Hash, T> Shelf<K, T> {
    pub(super) fn new(per_block: u32, key_of: fn(&T) -> K) -> Self {
        let (places, free) = (Vec::new(), Vec::new());
        Self { places, free, index: Spread::new(), changed: BlockSet::default(), per_block: per_block.max(1), key_of }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// An entry.
    #[inline]
    pub fn get(&self, key: K) -> Option<&T> {
        self.at(*self.index.get(&key)?)
    }

    fn at(&self, place: u32) -> Option<&T> {
        self.places.get(usize::try_from(place).ok()?)?.as_ref()
    }

    fn touch(&mut self, place: u32) {
        self.changed.insert(place.checked_div(self.per_block).unwrap_or(0));
    }

    /// Puts an entry in the place of the one with its key, or in a free one.
    pub fn put(&mut self, entry: T) {
        let key = (self.key_of)(&entry);
        let known = self.index.get(&key).copied();
        let place = known.unwrap_or_else(|| {
            let next = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
            let place = self.free.pop().unwrap_or(next);
            self.index.insert(key, place);
            place
        });
        self.set(place, Some(entry));
    }

    /// Takes an entry away.
    pub fn remove(&mut self, key: K) {
        if let Some(place) = self.index.remove(&key) {
            self.set(place, None);
            self.free.push(place);
        }
    }

    fn set(&mut self, place: u32, entry: Option<T>) {
        let at = usize::try_from(place).unwrap_or(usize::MAX);
        if at == self.places.len() {
            self.places.push(entry);
        } else if let Some(old) = self.places.get_mut(at) {
            *old = entry;
        }
        self.touch(place);
    }

    /// Takes over the next place, as the store has it; in order. Of two entries with one key the later one counts, by `newer`.
    pub fn load(&mut self, entry: Option<T>, newer: impl Fn(&T, &T) -> bool) {
        let place = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        let entry = entry.filter(|entry| {
            let key = (self.key_of)(entry);
            let Some(&known) = self.index.get(&key) else { return true };
            // It moved while a checkpoint was written, which was then not finished.
            let is_newer = self.at(known).is_none_or(|known| newer(entry, known));
            if is_newer {
                self.remove(key);
            } else {
                // The older one is not to be found there again.
                self.touch(place);
            }
            is_newer
        });
        match &entry {
            Some(entry) => drop(self.index.insert((self.key_of)(entry), place)),
            None => self.free.push(place),
        }
        self.places.push(entry);
    }

    /// All entries in order of place.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    /// The number of blocks.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX).div_ceil(self.per_block)
    }

    /// The places of a block.
    pub fn block(&self, block: u32) -> impl Iterator<Item = Option<&T>> {
        let first = usize::try_from(block.saturating_mul(self.per_block)).unwrap_or(usize::MAX);
        let count = usize::try_from(self.per_block).unwrap_or(1);
        self.places.iter().skip(first).take(count).map(Option::as_ref)
    }

    /// The numbers of the blocks that changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<u32> {
        self.changed.take_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_changes_are_told_once() {
        let mut shelf = Shelf::new(2, |entry: &(u8, u8)| entry.0);
        for key in 1..=4 {
            shelf.put((key, 0));
        }
        assert_eq!(shelf.take_changed(), BTreeSet::from([0, 1]));
        shelf.remove(1);
        shelf.put((9, 9));
        shelf.put((9, 8));
        assert_eq!(shelf.take_changed(), BTreeSet::from([0]));
        assert_eq!(shelf.block(0).collect::<Vec<_>>(), [Some(&(9, 8)), Some(&(2, 0))]);
        assert_eq!((shelf.len(), shelf.blocks(), shelf.get(1)), (4, 2, None));
    }

    #[test]
    fn of_two_loaded_entries_the_newer_one_counts() {
        for entries in [[(1, 5), (1, 6)], [(1, 6), (1, 5)]] {
            let mut shelf = Shelf::new(2, |entry: &(u8, u8)| entry.0);
            for entry in entries {
                shelf.load(Some(entry), |a, b| a.1 > b.1);
            }
            assert_eq!((shelf.get(1), shelf.len()), (Some(&(1, 6)), 1));
            shelf.put((2, 2));
            assert_eq!(shelf.blocks(), 1, "the other place is free");
        }
    }
}
