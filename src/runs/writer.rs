//! Writing runs: entries as they come, and of several runs one.
//!
//! # Invariants
//!
//! 1. A file has the name of a run only once all of it is durable; what is left when writing ends before that is removed.
//! 2. A merge, which can wait, leaves room on the disk for those who cannot.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::Entry;
use super::entries::{Entries, least};
use super::fences::Fences;
use super::filter::{Filter, Key, Seed};
use super::order::Looked;
use super::ranges::Gaps;
use super::run::{BLOCK_BYTES, BLOCK_CRC_AT, HEADER_BYTES, Run, TAIL_PIECE, block_crc, file_name, per_block, tail_at};
use crate::journal::{Trickle, WHOLE, let_cache_go, sync_directory};
use crate::ledger::set;

/// Entries after which who writes breathes, or only looks at them: about a quarter of a millisecond of work.
pub(crate) const BREATHED_AFTER: usize = 1 << 11;
const LOOKS_BREATHED_AFTER: usize = 1 << 14;
/// Entries after which the disk has all that there is: some 6 MB, or 1 MB of what is to stay in the cache.
const PASSED_ON_AFTER: usize = 1 << 18;
const PASSED_ON_CACHED_AFTER: usize = 1 << 15;

/// Bytes that a merge leaves free: some segments of the journal, and what a checkpoint writes.
const LEFT_FREE: u64 = 256 << 20;

/// Writes a run as its entries come, in order of id.
struct Writer<E> {
    path: PathBuf,
    /// After which number it is, and what it covers.
    numbers: (u64, u64),
    out: BufWriter<File>,
    block: Vec<u8>,
    fences: Vec<u128>,
    last: Option<E>,
    written: usize,
    /// Of these, how many were given to the disk, and after how many it breathed last.
    passed_on: usize,
    breathed_at: usize,
    trickle: Trickle,
    gaps: Gaps,
    filter: Filter,
    /// Of the ids of the block.
    keys: Vec<Key>,
}

impl<E: Entry> Writer<E> {
    /// For at most so many entries.
    fn new(
        (path, numbers): (PathBuf, (u64, u64)),
        (most, seed): (usize, Seed),
        breathe: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        out.write_all(&[0; HEADER_BYTES])?;
        Ok(Self {
            path,
            numbers,
            out,
            block: Vec::with_capacity(BLOCK_BYTES),
            fences: Vec::new(),
            last: None,
            written: 0,
            passed_on: 0,
            breathed_at: 0,
            trickle: Trickle::default(),
            gaps: Gaps::default(),
            filter: Filter::with_room(most, seed, breathe)?,
            keys: Vec::with_capacity(per_block::<E>()),
        })
    }

    fn push(&mut self, entry: E) -> io::Result<()> {
        let id = entry.id();
        if self.last.is_some_and(|last| last.id() == id) {
            // Known from two runs; the first of them is the one that counts.
            return Ok(());
        }
        if self.block.is_empty() {
            self.fences.push(id);
        }
        entry.write(&mut self.block);
        self.last = Some(entry);
        self.written = self.written.saturating_add(1);
        self.gaps.next(id);
        self.keys.push(Key::new(id, self.filter.seed()));
        if self.block.len() == per_block::<E>().saturating_mul(E::BYTES) { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.filter.add(&mut self.keys);
        self.block.resize(BLOCK_CRC_AT, 0);
        let number = self.fences.len().saturating_sub(1);
        let crc = block_crc::<E>(&self.block, number, self.numbers);
        self.block.extend_from_slice(&crc.to_le_bytes());
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    /// The next entry, and now and then a breath. Then the disk is given what was written since the last time, too, if that is much: all at
    /// once in the end would keep the journal waiting.
    fn push_and_breathe(&mut self, entry: E, breathe: &mut impl FnMut() -> io::Result<()>) -> io::Result<()> {
        self.push(entry)?;
        if self.written.saturating_sub(self.breathed_at) < BREATHED_AFTER {
            return Ok(());
        }
        self.breathed_at = self.written;
        let passed_on_after = if E::KIND.read_soon {
            PASSED_ON_CACHED_AFTER
        } else {
            let whole = self.written.div_ceil(per_block::<E>()).saturating_mul(BLOCK_BYTES);
            let bytes = whole.saturating_sub(self.out.buffer().len());
            self.trickle.written(self.out.get_ref(), u64::try_from(bytes).unwrap_or(u64::MAX));
            PASSED_ON_AFTER
        };
        if self.written.saturating_sub(self.passed_on) >= passed_on_after {
            self.passed_on = self.written;
            self.out.get_ref().sync_data()?;
        }
        breathe()
    }

    /// Makes the file whole and durable, and gives it its name. What is kept of it in memory is there already, its filter too: to read that of a large run
    /// again took seconds of a processor, for memory that was used for the first time.
    fn finish(mut self, name: &Path, breathe: &mut impl FnMut() -> io::Result<()>) -> io::Result<(Run<E>, Filter)> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        // Of several entries with one id there was room for each.
        self.filter.fold(self.written);
        let (after, covers) = self.numbers;
        let mut header = [0; HEADER_BYTES];
        set::<0, 8>(&mut header, E::KIND.magic);
        set::<8, 8>(&mut header, u64::try_from(self.written).unwrap_or(u64::MAX).to_le_bytes());
        set::<16, 8>(&mut header, covers.to_le_bytes());
        let filter = std::mem::take(&mut self.filter);
        let (seed, words) = (filter.seed(), filter.words());
        set::<24, 8>(&mut header, seed.0.to_le_bytes());
        set::<32, 8>(&mut header, seed.1.to_le_bytes());
        set::<40, 8>(&mut header, u64::try_from(words.len()).unwrap_or(u64::MAX).to_le_bytes());
        set::<48, 8>(&mut header, after.to_le_bytes());
        let (fences, ranges) = (std::mem::take(&mut self.fences), std::mem::take(&mut self.gaps).ranges());
        set::<56, 8>(&mut header, u64::try_from(ranges.iter().len()).unwrap_or(u64::MAX).to_le_bytes());
        let mut crc = crc32c::crc32c(&header);
        for piece in fences.chunks(TAIL_PIECE) {
            crc = self.tail(crc, piece.iter().flat_map(|fence| fence.to_le_bytes()))?;
            breathe()?;
        }
        crc = self.tail(crc, ranges.iter().flat_map(|(first, last)| [first, last]).flat_map(u128::to_le_bytes))?;
        for piece in words.chunks(TAIL_PIECE) {
            crc = self.tail(crc, piece.iter().flat_map(|word| word.to_le_bytes()))?;
            breathe()?;
        }
        self.out.write_all(&crc.to_le_bytes())?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        if !E::KIND.read_soon {
            let_cache_go(&file, WHOLE);
        }
        // What may fail comes before it has its name.
        let opened = File::open(&self.path)?;
        fs::rename(&self.path, name)?;
        if let Some(directory) = name.parent() {
            sync_directory(directory)?;
        }
        let run = Run {
            path: name.to_owned(),
            file: opened,
            entries: self.written,
            after,
            covers,
            fences: Fences::of(&fences, tail_at(fences.len())),
            ranges,
            seed,
            last: Mutex::default(),
        };
        Ok((run, filter))
    }

    /// A piece of what comes after the blocks, on the disk; answers the checksum with it.
    fn tail(&mut self, crc: u32, piece: impl Iterator<Item = u8>) -> io::Result<u32> {
        let piece: Vec<u8> = piece.collect();
        self.out.write_all(&piece)?;
        self.out.flush()?;
        self.out.get_ref().sync_data()?;
        Ok(crc32c::crc32c_append(crc, &piece))
    }
}

/// An error where a directory's disk has no room for so much, with so much left.
fn has_room(directory: &Path, bytes: u64, left: u64) -> io::Result<()> {
    let disk = rustix::fs::statvfs(directory)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= bytes.saturating_add(left) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::StorageFull,
        format!("it takes {bytes} bytes and leaves {left} to others, and {free} are free in {}", directory.display()),
    ))
}

/// What was written, or the file removed: only so that it takes no room, the next start removes it, too.
fn or_removed<T>(unfinished: &Path, written: io::Result<T>) -> io::Result<T> {
    if written.is_err() {
        drop(fs::remove_file(unfinished));
    }
    written
}

impl<E: Entry> Run<E> {
    /// Writes entries, in whatever order they come, as a run after the first number that covers up to the second.
    /// The memory is that of [`Looked::in_order`]. Blocks. `breathe` is called now and then, with how much is done of how much.
    pub(crate) fn write(
        (directory, seed): (&Path, Seed),
        (entries, memory): (impl Iterator<Item = E> + Clone, &mut Vec<E>),
        numbers: (u64, u64),
        breathe: &impl Fn(usize, usize),
    ) -> io::Result<(Self, Filter)> {
        let unfinished = directory.join("new.tmp");
        // Each is looked at three times before it is written, which takes eight times as long as a look.
        let (looks, parts) = (Cell::new(0_usize), entries.size_hint().1.unwrap_or(0).saturating_mul(3 + 8));
        let entries = entries.inspect(|_| {
            looks.set(looks.get().saturating_add(1));
            if looks.get().is_multiple_of(LOOKS_BREATHED_AFTER) {
                breathe(looks.get(), parts);
            }
        });
        let mut written = 0_usize;
        let mut and_go_on = || {
            written = written.saturating_add(BREATHED_AFTER);
            breathe(looks.get().saturating_add(written.saturating_mul(8)), parts);
            Ok(())
        };
        let write = || {
            let looked = Looked::at(entries.clone());
            let mut writer = Writer::new((unfinished.clone(), numbers), (looked.count, seed), &mut and_go_on)?;
            looked.in_order(entries, memory, |entry| writer.push_and_breathe(entry, &mut and_go_on))?;
            writer.finish(&directory.join(file_name::<E>(numbers.1)), &mut and_go_on)
        };
        or_removed(&unfinished, write())
    }

    /// Writes one run with all that is in some, and removes those. Of what several have about one id, the first in [`Entry`]'s order stays. Blocks.
    /// Where there is no room for it and for others beside it, the error is [`io::ErrorKind::StorageFull`]. `breathe` is called after each [`BREATHED_AFTER`] entries and some more times, and ends it with an error.
    pub(crate) fn merge(
        (directory, seed): (&Path, Seed),
        runs: &[Arc<Self>],
        breathe: impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Filter)> {
        let unfinished = directory.join("merged.tmp");
        let mut bytes = 0_u64;
        for run in runs {
            bytes = bytes.saturating_add(run.file.metadata()?.len());
        }
        has_room(directory, bytes, LEFT_FREE)?;
        let merged = or_removed(&unfinished, Self::write_merged((&unfinished, seed), runs, breathe))?;
        for run in runs.iter().filter(|run| run.path != merged.0.path) {
            match fs::remove_file(&run.path) {
                // Gone since a merge that broke off just here.
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %run.path.display(), %err, "a run that was merged is left; the next start removes it");
                }
                _ => {}
            }
        }
        Ok(merged)
    }

    fn write_merged(
        (unfinished, seed): (&Path, Seed),
        runs: &[Arc<Self>],
        mut breathe: impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Filter)> {
        let after = runs.iter().map(|run| run.after).min().unwrap_or(0);
        let covers = runs.iter().map(|run| run.covers).max().unwrap_or(0);
        let entries = runs.iter().map(|run| run.len()).sum();
        let mut writer = Writer::new((unfinished.to_owned(), (after, covers)), (entries, seed), &mut breathe)?;
        let mut readers = runs.iter().map(|run| Entries::new(run)).collect::<io::Result<Vec<_>>>()?;
        while let Some((least, until)) = least(&mut readers) {
            while let Some(entry) = least.next().filter(|entry| until.is_none_or(|until| *entry <= until)) {
                writer.push_and_breathe(entry, &mut breathe)?;
                least.advance()?;
            }
        }
        breathe()?;
        writer.finish(&unfinished.with_file_name(file_name::<E>(covers)), &mut breathe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_only_where_some_is_left_for_others() {
        let directory = tempfile::tempdir().unwrap();
        has_room(directory.path(), 1, 0).unwrap();
        for (bytes, left) in [(u64::MAX, 0), (0, u64::MAX), (1 << 62, 1 << 62)] {
            let refused = has_room(directory.path(), bytes, left).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
            assert!(refused.to_string().contains(&format!("it takes {bytes} bytes and leaves {left} to others")));
        }
    }
}
