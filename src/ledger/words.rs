//! Words that are asked at random: many of them lie on huge pages, where the system has these.
//!
//! A word at a random place of many costs the way to its page, too, before it can be read, and on a virtual machine that way is twice as long. On pages of
//! 2 MiB the processor knows the way to all of them by heart. Which pages they lie on changes nothing but time: where the system has no huge
//! pages, or none to spare, they lie on small ones.
//!
//! # Invariants
//!
//! 1. A word is what was last set at its place; before that it is zero.
//!
//! # Not here
//!
//! What the words say ([`super::places`]).

use memmap2::MmapMut;

/// From so many bytes on: below, a page of 2 MiB would mostly be empty, and the processor knows the way to small ones.
const HUGE_FROM: usize = 4 << 20;

/// The bytes of a word, in the order of this machine.
type Word = [u8; 4];

/// As many words as were asked for.
#[derive(Debug)]
pub(super) struct Words(Memory);

#[derive(Debug)]
enum Memory {
    Small(Vec<Word>),
    Huge(MmapMut),
}

impl Words {
    /// So many, all zero. Memory is used as they are asked for.
    pub(super) fn zeroed(words: usize) -> Self {
        let bytes = words.saturating_mul(size_of::<Word>());
        let huge = (bytes >= HUGE_FROM).then(|| huge(bytes)).flatten();
        Self(huge.map_or_else(|| Memory::Small(vec![Word::default(); words]), Memory::Huge))
    }

    #[inline]
    fn all(&self) -> &[Word] {
        match &self.0 {
            Memory::Small(words) => words,
            Memory::Huge(bytes) => bytes.as_chunks().0,
        }
    }

    #[inline]
    fn all_mut(&mut self) -> &mut [Word] {
        match &mut self.0 {
            Memory::Small(words) => words,
            Memory::Huge(bytes) => bytes.as_chunks_mut().0,
        }
    }

    /// How many there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.all().len()
    }

    /// The word at a place; `None` when there is no such place.
    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<u32> {
        self.all().get(at).copied().map(u32::from_ne_bytes)
    }

    /// Sets the word at a place, if there is one.
    #[inline]
    pub(super) fn set(&mut self, at: usize, word: u32) {
        if let Some(kept) = self.all_mut().get_mut(at) {
            *kept = word.to_ne_bytes();
        }
    }

    /// Writes zero to all of them, and so uses all of their memory.
    pub(super) fn clear(&mut self) {
        // Without the box the compiler may know that all is zero already.
        std::hint::black_box(self.all_mut()).fill(Word::default());
    }
}

/// Memory of its own, on huge pages if the system has some; `None` where it gives none.
fn huge(bytes: usize) -> Option<MmapMut> {
    let memory = MmapMut::map_anon(bytes).ok()?;
    // Where the system has none, small ones do.
    #[cfg(target_os = "linux")]
    memory.advise(memmap2::Advice::HugePage).ok();
    Some(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_words_and_few_are_what_was_set() {
        for count in [0, 1, 1_000, HUGE_FROM / size_of::<Word>() - 1, HUGE_FROM / size_of::<Word>(), (3 << 20) + 5] {
            let mut words = Words::zeroed(count);
            assert_eq!(matches!(words.0, Memory::Huge(_)), count * size_of::<Word>() >= HUGE_FROM, "{count}");
            assert_eq!(words.len(), count);
            let some = [0, 1, count / 2, count.saturating_sub(1)].into_iter().filter(|&at| at < count);
            let word = |at: usize| 0x0102_0304 ^ u32::try_from(at).unwrap();
            assert!(some.clone().all(|at| words.get(at) == Some(0)), "{count}");
            some.clone().for_each(|at| words.set(at, word(at)));
            assert!(some.clone().all(|at| words.get(at) == Some(word(at))), "{count}");
            for at in [count, count + 1, usize::MAX / 4 + 1, usize::MAX] {
                words.set(at, 7);
                assert_eq!(words.get(at), None, "{at} of {count}");
            }
            words.clear();
            assert!((0..count).all(|at| words.get(at) == Some(0)), "{count}");
        }
    }
}
