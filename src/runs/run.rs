//! A run: entries of one size in a file, sorted by id.
//!
//! ```text
//! header   magic | entries (8) | covers (8) | seed (16) | filter words (8) | after (8) | ranges (8)                64 bytes
//! blocks   as many whole entries as fit, zeros, CRC32C (4)                                                      4,096 bytes each
//! tail     first id of each block (16 each) | ranges, first and last id (32 each) | filter (8 each word) | CRC32C of header and tail (4)
//! ```
//!
//! What an entry is, the magic says ([`Entry`]). Ranges are kept in memory, some of the first ids ([`super::fences`]), and the filter where whoever asks wants it. An
//! older kind was the same without ranges; such a run has one, from its first id to its last.
//!
//! The CRC32C of a block is of all before it; of a kind that is [bound](Kind), begun with the block's number, `after` and `covers`. Of any kind a block has the first id that the tail says, its
//! entries are in order, and none is beyond the next block's.
//!
//! A run says what it `covers`, and `after` what: the number with which the one before it ends, so that one that is missing is noticed. What the numbers are is up to
//! whoever writes runs. All that is here can be made again from the journal. A run that is not whole is never believed.
//!
//! # Not here
//!
//! How a run is written or made of several ([`super::writer`]), and read from its first entry to its last ([`super::entries`]).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::directory::is_refused;
use super::fences::{Between, FENCE_BYTES, Fences, Group, decode};
use super::filter::{Filter, Seed, WORDS};
use super::ranges::Ranges;
use super::{Entry, Kind};
use crate::ledger::get;

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const BLOCK_BYTES: usize = 4_096;
pub(super) const BLOCK_CRC_AT: usize = BLOCK_BYTES - 4;
/// Fences or words of the filter that are written at once, or words that are read: half a mebibyte, or one.
pub(super) const TAIL_PIECE: usize = 1 << 16;
const RANGE_BYTES: usize = 32;

/// A file of entries, ready to be asked.
#[derive(Debug)]
pub(crate) struct Run<E> {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) entries: usize,
    pub(super) after: u64,
    pub(super) covers: u64,
    pub(super) fences: Fences,
    pub(super) ranges: Ranges,
    pub(super) seed: Seed,
    /// The block that was looked into last: who sends an old file again names its ids one after the other.
    pub(super) last: Mutex<Option<(Between, Vec<E>)>>,
}

/// Entries of a block: what fits before the checksum.
pub(super) const fn per_block<E: Entry>() -> usize {
    match BLOCK_CRC_AT.checked_div(E::BYTES) {
        Some(entries) => entries,
        None => 1,
    }
}

fn damaged<E: Entry>(path: &Path, what: &str) -> io::Error {
    let Kind { name, .. } = E::KIND;
    io::Error::new(io::ErrorKind::InvalidData, format!("the {name} run {} is damaged: {what}", path.display()))
}

/// The checksum of a block of a run, by what it has before the checksum.
pub(super) fn block_crc<E: Entry>(content: &[u8], number: usize, (after, covers): (u64, u64)) -> u32 {
    let mut crc = 0;
    if E::KIND.bound {
        for bound_to in [u64::try_from(number).unwrap_or(u64::MAX), after, covers] {
            crc = crc32c::crc32c_append(crc, &bound_to.to_le_bytes());
        }
    }
    crc32c::crc32c_append(crc, content)
}

/// What comes after the blocks of a file, piece by piece.
struct Tail {
    at: u64,
    /// Of the header and all pieces so far.
    crc: u32,
}

impl Tail {
    fn next(&mut self, file: &File, bytes: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; bytes];
        file.read_exact_at(&mut piece, self.at)?;
        self.at = self.at.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.crc = crc32c::crc32c_append(self.crc, &piece);
        Ok(piece)
    }
}

impl<E: Entry> Run<E> {
    /// Opens a run and reads what is kept of it in memory, with its filter if whoever is told where its ids are wants that.
    pub(crate) fn open(path: &Path, wants: impl FnOnce(&Ranges) -> bool) -> io::Result<(Self, Option<Filter>)> {
        Self::read((path, File::open(path)?), wants, &mut || Ok(()))
    }

    /// Its filter, read again, from the file as it was opened, which may have another name or none by now. Blocks. `breathe` is called between its parts,
    /// and ends it with an error of its own; what the disk does not give is damage, and a system that refuses is none ([`is_refused`]).
    pub(crate) fn filter(&self, breathe: &mut impl FnMut() -> io::Result<()>) -> io::Result<Filter> {
        let read = self.file.try_clone().and_then(|file| Self::read((&self.path, file), |_| true, breathe));
        match read {
            Ok((_, filter)) => Ok(filter.unwrap_or_default()),
            Err(err) if is_refused(&err) => Err(err),
            Err(err) if matches!(err.kind(), io::ErrorKind::Interrupted | io::ErrorKind::InvalidData) => Err(err),
            Err(err) => Err(self.unreadable(&err)),
        }
    }

    fn read(
        (path, file): (&Path, File),
        wants: impl FnOnce(&Ranges) -> bool,
        breathe: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Option<Filter>)> {
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        let magic = get::<0, 8>(&header);
        if magic != E::KIND.magic && Some(magic) != E::KIND.magic_before {
            return Err(damaged::<E>(path, "it is none, or of another version"));
        }
        let number = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        let size = |bytes: [u8; 8]| usize::try_from(number(bytes)).unwrap_or(usize::MAX);
        let (entries, words, ranges) =
            (size(get::<8, 8>(&header)), size(get::<40, 8>(&header)), size(get::<56, 8>(&header)));
        let (blocks, ranges_bytes) = (entries.div_ceil(per_block::<E>()), ranges.saturating_mul(RANGE_BYTES));
        let before_filter = blocks.saturating_mul(FENCE_BYTES).saturating_add(ranges_bytes);
        let tail_bytes = before_filter.saturating_add(words.saturating_mul(8)).saturating_add(4);
        let tail_at = tail_at(blocks);
        if file.metadata()?.len() != tail_at.saturating_add(u64::try_from(tail_bytes).unwrap_or(u64::MAX)) {
            return Err(damaged::<E>(path, "its length is not what it says"));
        }
        let mut tail = Tail { at: tail_at, crc: crc32c::crc32c(&header) };
        let fences = tail.next(&file, before_filter)?;
        let (fences, ranges) = fences.split_at(before_filter.saturating_sub(ranges_bytes));
        let ranges = ranges.as_chunks::<RANGE_BYTES>().0.iter();
        let range =
            |at: &[u8; RANGE_BYTES]| (u128::from_le_bytes(get::<0, 16>(at)), u128::from_le_bytes(get::<16, 16>(at)));
        let mut run = Self {
            path: path.to_owned(),
            file,
            entries,
            after: number(get::<48, 8>(&header)),
            covers: number(get::<16, 8>(&header)),
            fences: Fences::of(&decode(fences).collect::<Vec<_>>(), tail_at),
            ranges: Ranges::of(ranges.map(range)),
            seed: (number(get::<24, 8>(&header)), number(get::<32, 8>(&header))),
            last: Mutex::default(),
        };
        if Some(magic) == E::KIND.magic_before {
            let last = blocks.checked_sub(1).map(|last| run.block(last, &run.group_of(last)?)).transpose()?;
            let last = last.and_then(|(_, block)| block.last().map(E::id));
            run.ranges = Ranges::of(decode(fences).next().zip(last).into_iter());
        }
        let mut filter = wants(&run.ranges).then(|| Filter::with_words(words, run.seed));
        let mut left = words;
        while left > 0 {
            let words = left.min(TAIL_PIECE);
            let bytes = tail.next(&run.file, words.saturating_mul(8))?;
            if let Some(filter) = &mut filter {
                filter.extend(&bytes);
            }
            breathe()?;
            left = left.saturating_sub(words);
        }
        let crc = tail.crc;
        if tail.next(&run.file, 4)? != crc.to_le_bytes() {
            return Err(damaged::<E>(path, "its checksum is wrong"));
        }
        if entries > 0 && (run.ranges.is_empty() || words == 0 || !words.is_multiple_of(WORDS)) {
            return Err(damaged::<E>(path, "it does not say where its entries are"));
        }
        Ok((run, filter))
    }

    /// Where its ids are.
    pub(crate) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// What it covers, with those before it.
    pub(crate) fn covers(&self) -> u64 {
        self.covers
    }

    /// What those before it cover.
    pub(crate) fn after(&self) -> u64 {
        self.after
    }

    /// What its filter is keyed by.
    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    /// Has the next start make the runs again. Called when this one cannot be read.
    pub(crate) fn set_aside(&self) {
        let aside = self.path.with_extension("damaged");
        if let Err(err) = fs::rename(&self.path, &aside) {
            tracing::error!(path = %self.path.display(), %err, "a damaged run could not be set aside; remove it");
        }
    }

    /// What it has of an id, read from the file. Blocks.
    #[cold]
    pub(crate) fn look(&self, id: u128) -> io::Result<Option<E>> {
        let find = |block: &[E]| block.binary_search_by_key(&id, E::id).ok().and_then(|at| block.get(at)).copied();
        let is_there = |(first, next): Between| first <= id && next.is_none_or(|next| id < next);
        // Nobody waits for another who reads.
        if let Ok(last) = self.last.try_lock()
            && let Some((_, block)) = last.as_ref().filter(|(between, _)| is_there(*between))
        {
            return Ok(find(block));
        }
        let group = self.fences.find(id, &self.file).map_err(|err| self.unreadable(&err))?;
        let Some(group) = group else { return Ok(None) };
        let (between, block) = self.block(group.block_of(id), &group)?;
        let found = find(&block);
        if let Ok(mut last) = self.last.try_lock() {
            *last = Some((between, block));
        }
        Ok(found)
    }

    /// A file that is open and cannot be read is as good as damaged, whoever reads it.
    fn unreadable(&self, err: &io::Error) -> io::Error {
        damaged::<E>(&self.path, &format!("it cannot be read: {err}"))
    }

    pub(super) fn group_of(&self, block: usize) -> io::Result<Group> {
        self.fences.group_of(block, &self.file).map_err(|err| self.unreadable(&err))
    }

    /// A block of this group, and between which ids it is.
    pub(super) fn block(&self, number: usize, group: &Group) -> io::Result<(Between, Vec<E>)> {
        let mut bytes = [0; BLOCK_BYTES];
        let at = number.saturating_mul(BLOCK_BYTES).saturating_add(HEADER_BYTES);
        let read = self.file.read_exact_at(&mut bytes, u64::try_from(at).unwrap_or(u64::MAX));
        read.map_err(|err| self.unreadable(&err))?;
        let (content, crc) = bytes.split_at(BLOCK_CRC_AT);
        if block_crc::<E>(content, number, (self.after, self.covers)).to_le_bytes() != crc {
            return Err(damaged::<E>(&self.path, "the checksum of a block is wrong"));
        }
        let count = self.entries.saturating_sub(number.saturating_mul(per_block::<E>())).min(per_block::<E>());
        let entries: Vec<E> = content.chunks_exact(E::BYTES).take(count).map(E::read).collect();
        let ends = entries.first().map(E::id).zip(entries.last().map(E::id));
        let is_it = |(first, next): &Between| {
            ends.is_some_and(|(begin, end)| begin == *first && next.is_none_or(|next| end < next))
        };
        let between = group.between(number).filter(is_it);
        match between.filter(|_| entries.is_sorted_by(|entry, next| entry.id() < next.id())) {
            Some(between) => Ok((between, entries)),
            None => Err(damaged::<E>(&self.path, "a block is where another one belongs")),
        }
    }
}

/// Where the tail of a file with so many blocks begins.
pub(super) fn tail_at(blocks: usize) -> u64 {
    u64::try_from(blocks.saturating_mul(BLOCK_BYTES).saturating_add(HEADER_BYTES)).unwrap_or(u64::MAX)
}

pub(super) fn file_name<E: Entry>(covers: u64) -> String {
    format!("{covers:020}.{}", E::KIND.extension)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
