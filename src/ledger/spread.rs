//! A map in parts, so that growing it never stops the world: a part of a map of five million entries grows in a few
//! milliseconds, the whole would take seconds.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashMap};

const PARTS: u64 = 256;

/// A map whose parts grow one at a time.
#[derive(Debug)]
pub(super) struct Spread<K, V> {
    parts: Vec<HashMap<K, V>>,
    hasher: DefaultHashBuilder,
    len: usize,
}

impl<K: Eq + Hash, V> Spread<K, V> {
    pub(super) fn new() -> Self {
        let parts = (0..PARTS).map(|_| HashMap::new()).collect();
        Self { parts, hasher: DefaultHashBuilder::default(), len: 0 }
    }

    #[inline]
    fn part(&self, key: &K) -> usize {
        usize::try_from(self.hasher.hash_one(key) % PARTS).unwrap_or(0)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.parts.get(self.part(key))?.get(key)
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(HashMap::values)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = self.part(&key);
        let before = self.parts.get_mut(part)?.insert(key, value);
        self.len = self.len.saturating_add(usize::from(before.is_none()));
        before
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let part = self.part(key);
        let part = self.parts.get_mut(part)?;
        let removed = part.remove(key);
        if part.is_empty() {
            // What it grew to once is not kept for ever.
            *part = HashMap::new();
        }
        self.len = self.len.saturating_sub(usize::from(removed.is_some()));
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_in_whatever_part() {
        let mut spread = Spread::new();
        for key in 0..10_000_u128 {
            assert_eq!(spread.insert(key << 40, key), None);
        }
        assert_eq!(spread.insert(7 << 40, 8), Some(7));
        for key in 0..10_000_u128 {
            assert_eq!(spread.get(&(key << 40)), Some(&if key == 7 { 8 } else { key }));
        }
        assert_eq!(spread.values().count(), 10_000);
        assert_eq!((spread.remove(&(3 << 40)), spread.remove(&(3 << 40)), spread.len()), (Some(3), None, 9_999));
    }
}
