//! Ids and the sequences of their records, more than memory takes, in order.
//!
//! What is given is sorted in parts. A full part goes to a file without a name in a temporary directory, and the parts are merged when all
//! are read. So the memory is that of one part and of a piece of each other, and the disk takes 24 bytes for each id.
//!
//! # Not here
//!
//! What ids are compared with: [`super::check`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::ledger::{Sequence, TransferId, get};

/// An id and the sequence of its record.
pub(super) type Entry = (TransferId, Sequence);

const ENTRY_BYTES: usize = 24;

/// Entries of a part: 64 MiB while it is in memory.
const PART: usize = 1 << 21;

/// Entries of a piece that is read at once while parts are merged: 96 KiB of each.
const PIECE: usize = 1 << 12;

/// Entries in order, whatever the order in which they were given.
#[derive(Debug)]
pub(super) struct SortedIds {
    directory: PathBuf,
    most: usize,
    part: Vec<Entry>,
    spilled: Option<Spilled>,
}

/// The parts that were full, one after the other in a file.
#[derive(Debug)]
struct Spilled {
    file: File,
    parts: u64,
}

impl Default for SortedIds {
    /// None yet. What memory does not take goes to the directory for temporary files, where nothing is left of it.
    fn default() -> Self {
        Self::with_parts_of(PART, std::env::temp_dir())
    }
}

impl SortedIds {
    fn with_parts_of(most: usize, directory: PathBuf) -> Self {
        Self { directory, most, part: Vec::new(), spilled: None }
    }

    /// One more.
    pub(super) fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.part.len() >= self.most {
            self.spill()?;
        }
        self.part.push(entry);
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            none => none.insert(Spilled { file: tempfile::tempfile_in(&self.directory)?, parts: 0 }),
        };
        self.part.sort_unstable();
        let mut out = BufWriter::new(&spilled.file);
        for (id, sequence) in &self.part {
            out.write_all(&id.raw().to_le_bytes())?;
            out.write_all(&sequence.to_le_bytes())?;
        }
        out.flush()?;
        spilled.parts = spilled.parts.saturating_add(1);
        self.part.clear();
        Ok(())
    }

    /// All of them, in order of id, those of one id in order of sequence. After an error, what follows is not to be believed.
    pub(super) fn in_order(mut self) -> io::Result<InOrder> {
        self.part.sort_unstable();
        let bytes = part_bytes(self.most);
        let mut parts = vec![Part { at: 0, end: 0, piece: self.part.into_iter() }];
        parts.extend((0..self.spilled.as_ref().map_or(0, |spilled| spilled.parts)).map(|part| {
            let at = part.saturating_mul(bytes);
            Part { at, end: at.saturating_add(bytes), piece: Vec::new().into_iter() }
        }));
        let mut merged = InOrder { file: self.spilled.map(|spilled| spilled.file), parts, next: BinaryHeap::new() };
        for (place, part) in merged.parts.iter_mut().enumerate() {
            if let Some(entry) = part.next(merged.file.as_ref())? {
                merged.next.push(Reverse((entry, place)));
            }
        }
        Ok(merged)
    }
}

fn part_bytes(entries: usize) -> u64 {
    u64::try_from(entries.saturating_mul(ENTRY_BYTES)).unwrap_or(u64::MAX)
}

/// What is left of a part: a piece of it, and the rest in the file.
#[derive(Debug)]
struct Part {
    at: u64,
    end: u64,
    piece: std::vec::IntoIter<Entry>,
}

impl Part {
    fn next(&mut self, file: Option<&File>) -> io::Result<Option<Entry>> {
        if self.piece.len() == 0
            && let Some(file) = file
            && self.at < self.end
        {
            let bytes = self.end.saturating_sub(self.at).min(part_bytes(PIECE));
            let mut piece = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut piece, self.at)?;
            self.at = self.at.saturating_add(bytes);
            let entries = piece.as_chunks::<ENTRY_BYTES>().0.iter().map(|entry| {
                let id = TransferId::from_raw(u128::from_le_bytes(get::<0, 16>(entry)));
                (id, u64::from_le_bytes(get::<16, 8>(entry)))
            });
            self.piece = entries.collect::<Vec<_>>().into_iter();
        }
        Ok(self.piece.next())
    }
}

/// Entries in order, merged from all parts.
#[derive(Debug)]
pub(super) struct InOrder {
    file: Option<File>,
    parts: Vec<Part>,
    /// The next entry of each part that has one, the least on top.
    next: BinaryHeap<Reverse<(Entry, usize)>>,
}

impl Iterator for InOrder {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut least = self.next.peek_mut()?;
        let Reverse((entry, place)) = *least;
        let following = self.parts.get_mut(place).map(|part| part.next(self.file.as_ref()));
        match following.transpose().map(Option::flatten) {
            Ok(Some(following)) => *least = Reverse((following, place)),
            Ok(None) => drop(PeekMut::pop(least)),
            Err(err) => return Some(Err(err)),
        }
        Some(Ok(entry))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(given: &[(u128, Sequence)], most: usize) -> Vec<Entry> {
        let mut ids = SortedIds::with_parts_of(most, std::env::temp_dir());
        for &(id, sequence) in given {
            ids.push((TransferId::from_raw(id), sequence)).unwrap();
        }
        ids.in_order().unwrap().map(Result::unwrap).collect()
    }

    proptest! {
        /// All that was given, in order, however small the parts are.
        #[test]
        fn in_order(given in prop::collection::vec((0..40_u128, 0..5_u64), 0..100), most in 1..30_usize) {
            let mut expected: Vec<Entry> =
                given.iter().map(|&(id, sequence)| (TransferId::from_raw(id), sequence)).collect();
            expected.sort_unstable();
            prop_assert_eq!(sorted(&given, most), expected);
        }
    }

    #[test]
    fn more_than_a_piece_of_each_part() {
        let count = u64::try_from(PIECE).unwrap() * 10;
        // Neighbours come from different parts, and high halves of ids are in order, too.
        let given: Vec<_> = (0..count).map(|n| (u128::from(n.wrapping_mul(7_919) % count) << 64, n)).collect();
        let mut expected = given.clone();
        expected.sort_unstable();
        let found = sorted(&given, PIECE * 3 + 1);
        assert!(found.iter().map(|(id, sequence)| (id.raw(), *sequence)).eq(expected));
    }

    #[test]
    fn nowhere_to_put_them() {
        let mut ids = SortedIds::with_parts_of(2, PathBuf::from("/nonexistent"));
        let mut push = |id| ids.push((TransferId::from_raw(id), 1));
        push(1).unwrap();
        push(2).unwrap();
        assert_eq!(push(3).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
