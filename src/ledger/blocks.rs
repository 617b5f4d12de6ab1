//! Which blocks of the store changed: a set of block numbers, one bit each, walked in order.

use std::collections::BTreeSet;

/// A set of block numbers.
#[derive(Debug, Default)]
pub struct BlockSet {
    words: Vec<u64>,
}

impl BlockSet {
    #[inline]
    fn place(block: u32) -> (usize, u64) {
        (usize::try_from(block / 64).unwrap_or(usize::MAX), 1 << (block % 64))
    }

    /// Adds a block.
    #[inline]
    pub fn insert(&mut self, block: u32) {
        let (word, bit) = Self::place(block);
        if word >= self.words.len() {
            self.words.resize(word.saturating_add(1), 0);
        }
        if let Some(bits) = self.words.get_mut(word) {
            *bits |= bit;
        }
    }

    /// Takes a block out; answers whether it was there.
    pub fn remove(&mut self, block: u32) -> bool {
        let (word, bit) = Self::place(block);
        let Some(bits) = self.words.get_mut(word).filter(|bits| **bits & bit != 0) else { return false };
        *bits &= !bit;
        true
    }

    /// Takes all blocks out, in order.
    pub fn take_all(&mut self) -> BTreeSet<u32> {
        let taken = std::mem::take(self);
        std::iter::successors(taken.next(0), |&block| taken.next(block.saturating_add(1))).collect()
    }

    /// The first block at or after this one.
    pub fn next(&self, from: u32) -> Option<u32> {
        let (first, _) = Self::place(from);
        let mut words = self.words.iter().enumerate().skip(first);
        words.find_map(|(word, &bits)| {
            let bits = if word == first { bits & (u64::MAX << (from % 64)) } else { bits };
            let base = u32::try_from(word).unwrap_or(u32::MAX).saturating_mul(64);
            (bits != 0).then(|| base.saturating_add(bits.trailing_zeros()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sets_are_walked_in_order() {
        let mut set = BlockSet::default();
        for block in [0, 5, 63, 64, 200] {
            set.insert(block);
            set.insert(block);
        }
        let mut seen = Vec::new();
        let mut from = 0;
        while let Some(block) = set.next(from) {
            seen.push(block);
            assert!(set.remove(block));
            assert!(!set.remove(block));
            from = block;
        }
        assert_eq!((seen, set.next(0)), (vec![0, 5, 63, 64, 200], None));
    }
}
