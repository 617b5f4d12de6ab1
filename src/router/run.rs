//! A run: ids and sequences in a file, sorted by id.
//!
//! ```text
//! header   magic "HENGIDS3" | ids (8) | covers (8) | seed (16) | filter words (8) | after (8) | ranges (8)    64 bytes
//! blocks   170 entries of id (16) and sequence (8), zeros (12), CRC32C of all before (4)           4,096 bytes each
//! tail     first id of each block (16 each) | ranges, first and last id (32 each) | filter (8 each word) | CRC32C of header and tail (4)
//! ```
//!
//! First ids and ranges are kept in memory, the filter only while it is needed ([`super::asking`]). "HENGIDS2" was the same without
//! ranges; such a run has one, from its first id to its last.
//!
//! A run holds the ids of the records from `after` + 1 to `covers`, and younger ones that were pending when its index was full; so that one that is missing is noticed: an id in it would be taken for new.
//! All that is here can be made again from the journal. A run that is not whole is never believed; one of which a block cannot be read is set
//! aside before the process ends, and the next start makes all of them again.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::filter::{Filter, Key, Seed, WORDS};
use super::order::Looked;
use super::ranges::{Gaps, Ranges};
use crate::journal::{Trickle, WHOLE, let_cache_go};
use crate::ledger::{Sequence, get, set};

const MAGIC: [u8; 8] = *b"HENGIDS3";
/// The same without ranges.
const MAGIC_BEFORE: [u8; 8] = *b"HENGIDS2";
const HEADER_BYTES: usize = 64;
const BLOCK_BYTES: usize = 4_096;
const ENTRY_BYTES: usize = 24;
/// Entries of a block: what fits before the checksum.
const PER_BLOCK: usize = 170;
const BLOCK_CRC_AT: usize = BLOCK_BYTES - 4;
/// Entries after which who writes breathes, or only looks at them: about a quarter of a millisecond of work.
pub(super) const BREATHED_AFTER: usize = 1 << 11;
const LOOKS_BREATHED_AFTER: usize = 1 << 14;
/// Entries after which the disk has all that there is: some 6 MB.
const PASSED_ON_AFTER: usize = 1 << 18;
/// Fences or words of the filter that are written at once, or words that are read: half a mebibyte, or one.
const TAIL_PIECE: usize = 1 << 16;
const RANGE_BYTES: usize = 32;

/// An id and the sequence of its record.
pub(super) type Entry = (u128, Sequence);

/// A file of ids, ready to be asked.
#[derive(Debug)]
pub(super) struct Run {
    path: PathBuf,
    file: File,
    ids: usize,
    after: Sequence,
    covers: Sequence,
    fences: Vec<u128>,
    ranges: Ranges,
    seed: Seed,
    /// The block that was looked into last: who sends an old file again names its ids one after the other.
    last: Mutex<Option<(usize, Vec<Entry>)>>,
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the id run {} is damaged: {what}", path.display()))
}

/// Writes a run as its entries come, in order of id.
struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    block: Vec<u8>,
    fences: Vec<u128>,
    last: u128,
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

impl Writer {
    /// For at most so many ids.
    fn new(
        path: PathBuf,
        (most, seed): (usize, Seed),
        breathe: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        out.write_all(&[0; HEADER_BYTES])?;
        Ok(Self {
            path,
            out,
            block: Vec::with_capacity(BLOCK_BYTES),
            fences: Vec::new(),
            last: 0,
            written: 0,
            passed_on: 0,
            breathed_at: 0,
            trickle: Trickle::default(),
            gaps: Gaps::default(),
            filter: Filter::with_room(most, seed, breathe)?,
            keys: Vec::with_capacity(PER_BLOCK),
        })
    }

    fn push(&mut self, (id, sequence): Entry) -> io::Result<()> {
        if self.written > 0 && id == self.last {
            // Known from two runs, with the same record.
            return Ok(());
        }
        if self.block.is_empty() {
            self.fences.push(id);
        }
        self.block.extend_from_slice(&id.to_le_bytes());
        self.block.extend_from_slice(&sequence.to_le_bytes());
        self.last = id;
        self.written = self.written.saturating_add(1);
        self.gaps.next(id);
        self.keys.push(Key::new(id, self.filter.seed()));
        if self.block.len() == PER_BLOCK.saturating_mul(ENTRY_BYTES) { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.filter.add(&mut self.keys);
        self.block.resize(BLOCK_CRC_AT, 0);
        let crc = crc32c::crc32c(&self.block);
        self.block.extend_from_slice(&crc.to_le_bytes());
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    /// The next entry, and now and then a breath. Then the disk is given what was written since the last time, too, if that is much: all at
    /// once in the end would keep the journal waiting.
    fn push_and_breathe(&mut self, entry: Entry, breathe: &mut impl FnMut() -> io::Result<()>) -> io::Result<()> {
        self.push(entry)?;
        if self.written.saturating_sub(self.breathed_at) < BREATHED_AFTER {
            return Ok(());
        }
        self.breathed_at = self.written;
        let bytes =
            self.written.div_ceil(PER_BLOCK).saturating_mul(BLOCK_BYTES).saturating_sub(self.out.buffer().len());
        self.trickle.written(self.out.get_ref(), u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.written.saturating_sub(self.passed_on) >= PASSED_ON_AFTER {
            self.passed_on = self.written;
            self.out.get_ref().sync_data()?;
        }
        breathe()
    }

    /// Makes the file whole and durable, and gives it its name. What is kept of it in memory is there already, its filter too: to read that of a large run
    /// again took seconds of a processor, for memory that was used for the first time.
    fn finish(
        mut self,
        (after, covers): (Sequence, Sequence),
        name: &Path,
        breathe: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Run, Filter)> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let mut header = [0; HEADER_BYTES];
        set::<0, 8>(&mut header, MAGIC);
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
        let_cache_go(&file, WHOLE);
        fs::rename(&self.path, name)?;
        if let Some(directory) = name.parent() {
            File::open(directory)?.sync_all()?;
        }
        let run = Run {
            path: name.to_owned(),
            file: File::open(name)?,
            ids: self.written,
            after,
            covers,
            fences,
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

/// What was written, or the file removed: only so that it takes no room, the next start removes it, too.
fn or_removed<T>(unfinished: &Path, written: io::Result<T>) -> io::Result<T> {
    if written.is_err() {
        drop(fs::remove_file(unfinished));
    }
    written
}

impl Run {
    /// Writes entries, in whatever order they come, as a run with the ids of all records after the first sequence and up to the second.
    /// The memory is that of [`Looked::in_order`]. Blocks. `breathe` is called now and then, with how much is done of how much.
    pub(super) fn write(
        (directory, seed): (&Path, Seed),
        (entries, memory): (impl Iterator<Item = Entry> + Clone, &mut Vec<Entry>),
        records: (Sequence, Sequence),
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
            let mut writer = Writer::new(unfinished.clone(), (looked.count, seed), &mut and_go_on)?;
            looked.in_order(entries, memory, |entry| writer.push_and_breathe(entry, &mut and_go_on))?;
            writer.finish(records, &directory.join(name(records.1)), &mut and_go_on)
        };
        or_removed(&unfinished, write())
    }

    /// Writes one run with all that is in some, and removes those. Blocks. `breathe` is called after each [`BREATHED_AFTER`] ids and some more times,
    /// and ends it with an error.
    pub(super) fn merge(
        (directory, seed): (&Path, Seed),
        runs: &[std::sync::Arc<Self>],
        breathe: impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Filter)> {
        let unfinished = directory.join("merged.tmp");
        let merged = or_removed(&unfinished, Self::write_merged((&unfinished, seed), runs, breathe))?;
        for run in runs.iter().filter(|run| run.path != merged.0.path) {
            match fs::remove_file(&run.path) {
                // Gone since a merge that broke off just here.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(merged)
    }

    fn write_merged(
        (unfinished, seed): (&Path, Seed),
        runs: &[std::sync::Arc<Self>],
        mut breathe: impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Filter)> {
        let after = runs.iter().map(|run| run.after).min().unwrap_or(0);
        let covers = runs.iter().map(|run| run.covers).max().unwrap_or(0);
        let ids = runs.iter().map(|run| run.ids).sum();
        let mut writer = Writer::new(unfinished.to_owned(), (ids, seed), &mut breathe)?;
        let mut readers = runs.iter().map(|run| Entries::new(run)).collect::<io::Result<Vec<_>>>()?;
        while let Some((least, until)) = least(&mut readers) {
            while let Some(entry) = least.next.filter(|entry| until.is_none_or(|until| *entry <= until)) {
                writer.push_and_breathe(entry, &mut breathe)?;
                least.advance()?;
            }
        }
        breathe()?;
        writer.finish((after, covers), &unfinished.with_file_name(name(covers)), &mut breathe)
    }

    /// Opens a run and reads what is kept of it in memory, with its filter if whoever is told where its ids are wants that.
    pub(super) fn open(path: &Path, wants: impl FnOnce(&Ranges) -> bool) -> io::Result<(Self, Option<Filter>)> {
        Self::read((path, File::open(path)?), wants, &mut || Ok(()))
    }

    /// Its filter, read again, from the file as it was opened, which may have another name or none by now. Blocks. `breathe` is called between its parts,
    /// and ends it with an error.
    pub(super) fn filter(&self, breathe: &mut impl FnMut() -> io::Result<()>) -> io::Result<Filter> {
        let (_, filter) = Self::read((&self.path, self.file.try_clone()?), |_| true, breathe)?;
        Ok(filter.unwrap_or_default())
    }

    fn read(
        (path, file): (&Path, File),
        wants: impl FnOnce(&Ranges) -> bool,
        breathe: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Option<Filter>)> {
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        let magic = get::<0, 8>(&header);
        if magic != MAGIC && magic != MAGIC_BEFORE {
            return Err(damaged(path, "it is none, or of another version"));
        }
        let number = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        let size = |bytes: [u8; 8]| usize::try_from(number(bytes)).unwrap_or(usize::MAX);
        let (ids, words, ranges) =
            (size(get::<8, 8>(&header)), size(get::<40, 8>(&header)), size(get::<56, 8>(&header)));
        let (blocks, ranges_bytes) = (ids.div_ceil(PER_BLOCK), ranges.saturating_mul(RANGE_BYTES));
        let before_filter = blocks.saturating_mul(16).saturating_add(ranges_bytes);
        let tail_bytes = before_filter.saturating_add(words.saturating_mul(8)).saturating_add(4);
        let tail_at = blocks.saturating_mul(BLOCK_BYTES).saturating_add(HEADER_BYTES);
        let tail_at = u64::try_from(tail_at).unwrap_or(u64::MAX);
        if file.metadata()?.len() != tail_at.saturating_add(u64::try_from(tail_bytes).unwrap_or(u64::MAX)) {
            return Err(damaged(path, "its length is not what it says"));
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
            ids,
            after: number(get::<48, 8>(&header)),
            covers: number(get::<16, 8>(&header)),
            fences: fences.as_chunks::<16>().0.iter().map(|bytes| u128::from_le_bytes(*bytes)).collect(),
            ranges: Ranges::of(ranges.map(range)),
            seed: (number(get::<24, 8>(&header)), number(get::<32, 8>(&header))),
            last: Mutex::default(),
        };
        if magic == MAGIC_BEFORE {
            let first = run.fences.first().copied();
            let last = blocks.checked_sub(1).map(|last| run.block(last)).transpose()?;
            let last = last.and_then(|block| block.last().map(|entry| entry.0));
            run.ranges = Ranges::of(first.zip(last).into_iter());
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
            return Err(damaged(path, "its checksum is wrong"));
        }
        if ids > 0 && (run.ranges.is_empty() || words == 0 || !words.is_multiple_of(WORDS)) {
            return Err(damaged(path, "it does not say where its ids are"));
        }
        Ok((run, filter))
    }

    /// Where its ids are.
    pub(super) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The number of ids.
    pub(super) fn len(&self) -> usize {
        self.ids
    }

    /// All records up to this one have their ids in this run or an older one.
    pub(super) fn covers(&self) -> Sequence {
        self.covers
    }

    /// Its ids are those of the records after this one.
    pub(super) fn after(&self) -> Sequence {
        self.after
    }

    /// What its filter is keyed by.
    pub(super) fn seed(&self) -> Seed {
        self.seed
    }

    /// Has the next start make the runs again. Called when this one cannot be read.
    pub(super) fn set_aside(&self) {
        let aside = self.path.with_extension("damaged");
        if let Err(err) = fs::rename(&self.path, &aside) {
            tracing::error!(path = %self.path.display(), %err, "a damaged id run could not be set aside; remove it");
        }
    }

    /// The record of an id, read from the file.
    #[cold]
    pub(super) fn look(&self, id: u128) -> io::Result<Option<Sequence>> {
        let after = self.fences.partition_point(|&fence| fence <= id);
        let Some(number) = after.checked_sub(1) else { return Ok(None) };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(known, _)| *known != number) {
            *last = Some((number, self.block(number)?));
        }
        let block = last.as_ref().map_or(&[][..], |(_, block)| block);
        Ok(block.binary_search_by_key(&id, |entry| entry.0).ok().and_then(|at| block.get(at)).map(|entry| entry.1))
    }

    fn block(&self, number: usize) -> io::Result<Vec<Entry>> {
        let mut bytes = [0; BLOCK_BYTES];
        let at = number.saturating_mul(BLOCK_BYTES).saturating_add(HEADER_BYTES);
        self.file.read_exact_at(&mut bytes, u64::try_from(at).unwrap_or(u64::MAX))?;
        let (content, crc) = bytes.split_at(BLOCK_CRC_AT);
        if crc32c::crc32c(content).to_le_bytes() != crc {
            return Err(damaged(&self.path, "the checksum of a block is wrong"));
        }
        let count = self.ids.saturating_sub(number.saturating_mul(PER_BLOCK)).min(PER_BLOCK);
        let entries = content.as_chunks::<ENTRY_BYTES>().0.iter().take(count);
        Ok(entries
            .map(|entry| (u128::from_le_bytes(get::<0, 16>(entry)), u64::from_le_bytes(get::<16, 8>(entry))))
            .collect())
    }
}

fn name(covers: Sequence) -> String {
    format!("{covers:020}.ids")
}

/// A run's entries in order.
pub(super) struct Entries<'a> {
    run: &'a Run,
    number: usize,
    block: std::vec::IntoIter<Entry>,
    next: Option<Entry>,
}

impl<'a> Entries<'a> {
    pub(super) fn new(run: &'a Run) -> io::Result<Self> {
        let mut entries = Self { run, number: 0, block: Vec::new().into_iter(), next: None };
        entries.advance()?;
        Ok(entries)
    }

    /// The entry that is next.
    pub(super) fn next(&self) -> Option<Entry> {
        self.next
    }

    pub(super) fn advance(&mut self) -> io::Result<()> {
        self.next = self.block.next();
        if self.next.is_none() && self.number < self.run.fences.len() {
            self.block = self.run.block(self.number)?.into_iter();
            self.number = self.number.saturating_add(1);
            self.next = self.block.next();
        }
        Ok(())
    }
}

/// The one whose entry is next, and the next entry of the others: up to there nobody else need be asked.
fn least<'r, 'a>(readers: &'r mut [Entries<'a>]) -> Option<(&'r mut Entries<'a>, Option<Entry>)> {
    let (mut least, mut until) = (None, None);
    for reader in readers.iter_mut().filter(|reader| reader.next.is_some()) {
        let least_so_far = least.as_ref().and_then(|least: &&mut Entries<'_>| least.next);
        if least_so_far.is_none_or(|so_far| reader.next < Some(so_far)) {
            (least, until) = (Some(reader), least_so_far);
        } else if until.is_none_or(|until| reader.next < Some(until)) {
            until = reader.next;
        }
    }
    least.map(|least| (least, until))
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
