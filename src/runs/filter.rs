//! Which ids may be in a run: a Bloom filter in lines of one cache line.
//!
//! About one in a thousand ids that are not there is said to be. The hash is keyed by a seed, so that nobody can choose ids that always are.
//! Filters with the same seed are asked with the same key, which is the greater part of the work.

use std::io;

use crate::ledger::{TransferId, fold};

/// Bits for each id.
const BITS_PER_ID: usize = 16;
/// Words of a line.
pub(crate) const WORDS: usize = 8;
/// Bits of a line for each id.
const HASHES: u32 = 6;

/// Lines that are made ready at once: a quarter of a mebibyte.
const PIECE: usize = 1 << 12;

/// Lines are a multiple of this, so that a filter can be folded as often as eight runs with the same ids need.
const FOLDED: usize = 8;

fn lines_for(ids: usize) -> usize {
    ids.saturating_mul(BITS_PER_ID).div_ceil(WORDS.saturating_mul(64)).max(1)
}

/// What keys the hash.
pub(crate) type Seed = (u64, u64);

/// What filters of one seed are asked for an id: where its line is, as a part of 2^64, and its bits in that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    part: u64,
    bits: [u64; WORDS],
}

impl Key {
    #[inline]
    pub(crate) fn new(id: u128, seed: Seed) -> Self {
        let (low, high) = TransferId::from_raw(id).halves();
        let part = fold(low ^ seed.0, high ^ seed.1 ^ 0x9E37_79B9_7F4A_7C15);
        let places = fold(part ^ low.rotate_left(32), seed.0 | 1) ^ high.wrapping_mul(seed.1 | 1);
        let mut bits = [0; WORDS];
        for hash in 0..HASHES {
            let place = usize::try_from(places.rotate_right(hash.wrapping_mul(9)) & 0x1FF).unwrap_or(0);
            if let Some(word) = bits.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
        }
        Self { part, bits }
    }
}

/// The filter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    lines: Vec<[u64; WORDS]>,
    seed: Seed,
}

impl Filter {
    /// For at most so many ids, none of which is there. All of the memory is written once, with a breath between the pieces: a page that is read before
    /// it is written is one that many share, and when it is written then, all processors are stopped to forget where it was.
    pub(crate) fn with_room(ids: usize, seed: Seed, breathe: &mut impl FnMut() -> io::Result<()>) -> io::Result<Self> {
        let whole = lines_for(ids).next_multiple_of(FOLDED);
        let mut lines = Vec::with_capacity(whole);
        while lines.len() < whole {
            lines.resize(lines.len().saturating_add(PIECE).min(whole), [0; WORDS]);
            breathe()?;
        }
        Ok(Self { lines, seed })
    }

    /// Makes it smaller where it has room for many more ids than these, which are all that were added. Whoever halves it halves where each line is.
    pub(crate) fn fold(&mut self, ids: usize) {
        while self.lines.len().is_multiple_of(2) && self.lines.len() / 2 >= lines_for(ids) {
            let both = self.lines.as_chunks::<2>().0.iter();
            let of_both = |[line, other]: &[[u64; WORDS]; 2]| {
                let mut line = *line;
                line.iter_mut().zip(other).for_each(|(word, bits)| *word |= bits);
                line
            };
            self.lines = both.map(of_both).collect();
        }
    }

    /// One that is given so many words with [`Self::extend`].
    pub(crate) fn with_words(words: usize, seed: Seed) -> Self {
        Self { lines: Vec::with_capacity(words / WORDS), seed }
    }

    /// Gives it more words, which are whole lines, each word in little-endian order.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let word = |line: &[[u8; 8]], at| line.get(at).copied().map_or(0, u64::from_le_bytes);
        let lines = bytes.as_chunks::<8>().0.as_chunks::<WORDS>().0.iter();
        self.lines.extend(lines.map(|line| std::array::from_fn::<_, WORDS, _>(|at| word(line, at))));
    }

    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    pub(crate) fn words(&self) -> &[u64] {
        self.lines.as_flattened()
    }

    #[inline]
    fn line(&self, key: &Key) -> usize {
        let lines = u64::try_from(self.lines.len()).unwrap_or(1);
        usize::try_from(u128::from(key.part).wrapping_mul(u128::from(lines)) >> 64).unwrap_or(0)
    }

    /// Adds ids, whose keys are then forgotten, in a loop so short that the cache misses overlap.
    pub(crate) fn add(&mut self, keys: &mut Vec<Key>) {
        for key in keys.drain(..) {
            let line = self.line(&key);
            let words = self.lines.get_mut(line).into_iter().flatten();
            words.zip(key.bits).for_each(|(word, bits)| *word |= bits);
        }
    }

    /// Whether an id may be there. Nothing depends on a part of the answer, so that who asks about many waits for their lines together.
    #[inline]
    pub(crate) fn may_have(&self, key: &Key) -> bool {
        let line = self.lines.get(self.line(key)).unwrap_or(&[u64::MAX; WORDS]);
        line.iter().zip(key.bits).fold(0, |missing, (word, bits)| missing | (!word & bits)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_were_added_may_be_there_and_few_others() {
        let seed = (rand::random(), rand::random());
        let key = |number: u64| {
            let id = u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            Key::new(id, seed)
        };
        let mut filter = Filter::with_room(100_000, seed, &mut || Ok(())).unwrap();
        filter.add(&mut (1..=100_000).map(key).collect());
        let bytes: Vec<u8> = filter.words().iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut again = Filter::with_words(filter.words().len(), filter.seed());
        bytes.chunks(640).for_each(|piece| again.extend(piece));
        assert_eq!(again, filter);
        assert!((1..=100_000).all(|number| filter.may_have(&key(number))));
        // With an eighth of them it is folded, three times.
        let of = |room| {
            let mut filter = Filter::with_room(room, seed, &mut || Ok(())).unwrap();
            filter.add(&mut (1..=102_400).map(key).collect());
            filter
        };
        let (mut folded, apart) = (of(819_200), of(102_400));
        folded.fold(102_400);
        assert!(folded == apart);
        folded.fold(60_000);
        assert!(folded == apart, "half would be too little");
        let wrong = (200_000..300_000).filter(|&number| filter.may_have(&key(number))).count();
        assert!(wrong < 600, "{wrong} of 100,000");
    }
}
