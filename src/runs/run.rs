//! A run: entries of one size in a file, sorted by id.
//!
//! ```text
//! header   magic | entries (8) | covers (8) | seed (16) | filter words (8) | after (8) | ranges (8)                64 bytes
//! blocks   as many whole entries as fit, zeros, CRC32C (4)                                                      4,096 bytes each
//! tail     first id of each block (16 each) | ranges, first and last id (32 each) | filter (8 each word) | CRC32C of header and tail (4)
//! ```
//!
//! What an entry is, the magic says ([`Entry`]). First ids and ranges are kept in memory, the filter where whoever asks wants it. An older kind was the
//! same without ranges; such a run has one, from its first id to its last.
//!
//! The CRC32C of a block is of all before it; of a kind that is [bound](Kind), begun with the block's number, `after` and `covers`. Of any kind a block has the first id that is kept of it, its
//! entries are in order, and none is beyond the next block's.
//!
//! A run says what it `covers`, and `after` what: the number with which the one before it ends, so that one that is missing is noticed. What the numbers are is up to
//! whoever writes runs. All that is here can be made again from the journal. A run that is not whole is never believed.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::filter::{Filter, Key, Seed, WORDS};
use super::order::Looked;
use super::ranges::{Gaps, Ranges};
use super::{Entry, Kind};
use crate::journal::{Trickle, WHOLE, let_cache_go, sync_directory};
use crate::ledger::{get, set};

const HEADER_BYTES: usize = 64;
const BLOCK_BYTES: usize = 4_096;
const BLOCK_CRC_AT: usize = BLOCK_BYTES - 4;
/// Entries after which who writes breathes, or only looks at them: about a quarter of a millisecond of work.
pub(crate) const BREATHED_AFTER: usize = 1 << 11;
const LOOKS_BREATHED_AFTER: usize = 1 << 14;
/// Entries after which the disk has all that there is: some 6 MB, or 1 MB of what is to stay in the cache.
const PASSED_ON_AFTER: usize = 1 << 18;
const PASSED_ON_CACHED_AFTER: usize = 1 << 15;
/// Fences or words of the filter that are written at once, or words that are read: half a mebibyte, or one.
const TAIL_PIECE: usize = 1 << 16;
const RANGE_BYTES: usize = 32;

/// A file of entries, ready to be asked.
#[derive(Debug)]
pub(crate) struct Run<E> {
    path: PathBuf,
    file: File,
    entries: usize,
    after: u64,
    covers: u64,
    fences: Vec<u128>,
    ranges: Ranges,
    seed: Seed,
    /// The block that was looked into last: who sends an old file again names its ids one after the other.
    last: Mutex<Option<(usize, Vec<E>)>>,
}

/// Entries of a block: what fits before the checksum.
const fn per_block<E: Entry>() -> usize {
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
fn block_crc<E: Entry>(content: &[u8], number: usize, (after, covers): (u64, u64)) -> u32 {
    let mut crc = 0;
    if E::KIND.bound {
        for bound_to in [u64::try_from(number).unwrap_or(u64::MAX), after, covers] {
            crc = crc32c::crc32c_append(crc, &bound_to.to_le_bytes());
        }
    }
    crc32c::crc32c_append(crc, content)
}

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
    /// `breathe` is called after each [`BREATHED_AFTER`] entries and some more times, and ends it with an error.
    pub(crate) fn merge(
        (directory, seed): (&Path, Seed),
        runs: &[std::sync::Arc<Self>],
        breathe: impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Filter)> {
        let unfinished = directory.join("merged.tmp");
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
        runs: &[std::sync::Arc<Self>],
        mut breathe: impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Filter)> {
        let after = runs.iter().map(|run| run.after).min().unwrap_or(0);
        let covers = runs.iter().map(|run| run.covers).max().unwrap_or(0);
        let entries = runs.iter().map(|run| run.entries).sum();
        let mut writer = Writer::new((unfinished.to_owned(), (after, covers)), (entries, seed), &mut breathe)?;
        let mut readers = runs.iter().map(|run| Entries::new(run)).collect::<io::Result<Vec<_>>>()?;
        while let Some((least, until)) = least(&mut readers) {
            while let Some(entry) = least.next.filter(|entry| until.is_none_or(|until| *entry <= until)) {
                writer.push_and_breathe(entry, &mut breathe)?;
                least.advance()?;
            }
        }
        breathe()?;
        writer.finish(&unfinished.with_file_name(file_name::<E>(covers)), &mut breathe)
    }

    /// Opens a run and reads what is kept of it in memory, with its filter if whoever is told where its ids are wants that.
    pub(crate) fn open(path: &Path, wants: impl FnOnce(&Ranges) -> bool) -> io::Result<(Self, Option<Filter>)> {
        Self::read((path, File::open(path)?), wants, &mut || Ok(()))
    }

    /// Its filter, read again, from the file as it was opened, which may have another name or none by now. Blocks. `breathe` is called between its parts,
    /// and ends it with an error.
    pub(crate) fn filter(&self, breathe: &mut impl FnMut() -> io::Result<()>) -> io::Result<Filter> {
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
        if magic != E::KIND.magic && Some(magic) != E::KIND.magic_before {
            return Err(damaged::<E>(path, "it is none, or of another version"));
        }
        let number = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        let size = |bytes: [u8; 8]| usize::try_from(number(bytes)).unwrap_or(usize::MAX);
        let (entries, words, ranges) =
            (size(get::<8, 8>(&header)), size(get::<40, 8>(&header)), size(get::<56, 8>(&header)));
        let (blocks, ranges_bytes) = (entries.div_ceil(per_block::<E>()), ranges.saturating_mul(RANGE_BYTES));
        let before_filter = blocks.saturating_mul(16).saturating_add(ranges_bytes);
        let tail_bytes = before_filter.saturating_add(words.saturating_mul(8)).saturating_add(4);
        let tail_at = blocks.saturating_mul(BLOCK_BYTES).saturating_add(HEADER_BYTES);
        let tail_at = u64::try_from(tail_at).unwrap_or(u64::MAX);
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
            fences: fences.as_chunks::<16>().0.iter().map(|bytes| u128::from_le_bytes(*bytes)).collect(),
            ranges: Ranges::of(ranges.map(range)),
            seed: (number(get::<24, 8>(&header)), number(get::<32, 8>(&header))),
            last: Mutex::default(),
        };
        if Some(magic) == E::KIND.magic_before {
            let first = run.fences.first().copied();
            let last = blocks.checked_sub(1).map(|last| run.block(last)).transpose()?;
            let last = last.and_then(|block| block.last().map(E::id));
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

    /// What it has of an id, read from the file.
    #[cold]
    pub(crate) fn look(&self, id: u128) -> io::Result<Option<E>> {
        let after = self.fences.partition_point(|&fence| fence <= id);
        let Some(number) = after.checked_sub(1) else { return Ok(None) };
        let find = |block: &[E]| block.binary_search_by_key(&id, E::id).ok().and_then(|at| block.get(at)).copied();
        // Nobody waits for another who reads.
        if let Ok(last) = self.last.try_lock()
            && let Some((_, block)) = last.as_ref().filter(|(known, _)| *known == number)
        {
            return Ok(find(block));
        }
        let block = self.block(number)?;
        let found = find(&block);
        if let Ok(mut last) = self.last.try_lock() {
            *last = Some((number, block));
        }
        Ok(found)
    }

    fn block(&self, number: usize) -> io::Result<Vec<E>> {
        let mut bytes = [0; BLOCK_BYTES];
        let at = number.saturating_mul(BLOCK_BYTES).saturating_add(HEADER_BYTES);
        let read = self.file.read_exact_at(&mut bytes, u64::try_from(at).unwrap_or(u64::MAX));
        // A file that is open and cannot be read is as good as damaged, whoever reads it.
        read.map_err(|err| damaged::<E>(&self.path, &format!("a block cannot be read: {err}")))?;
        let (content, crc) = bytes.split_at(BLOCK_CRC_AT);
        if block_crc::<E>(content, number, (self.after, self.covers)).to_le_bytes() != crc {
            return Err(damaged::<E>(&self.path, "the checksum of a block is wrong"));
        }
        let count = self.entries.saturating_sub(number.saturating_mul(per_block::<E>())).min(per_block::<E>());
        let entries: Vec<E> = content.chunks_exact(E::BYTES).take(count).map(E::read).collect();
        let first_and_next = [number, number.saturating_add(1)].map(|number| self.fences.get(number));
        let is_first = entries.first().map(E::id).as_ref() == first_and_next[0];
        let is_before_next = first_and_next[1].is_none_or(|next| entries.last().map(E::id).as_ref() < Some(next));
        if !is_first || !is_before_next || !entries.is_sorted_by(|entry, next| entry.id() < next.id()) {
            return Err(damaged::<E>(&self.path, "a block is where another one belongs"));
        }
        Ok(entries)
    }
}

fn file_name<E: Entry>(covers: u64) -> String {
    format!("{covers:020}.{}", E::KIND.extension)
}

/// A run's entries in order.
pub(crate) struct Entries<'a, E> {
    run: &'a Run<E>,
    number: usize,
    block: std::vec::IntoIter<E>,
    next: Option<E>,
}

impl<'a, E: Entry> Entries<'a, E> {
    pub(crate) fn new(run: &'a Run<E>) -> io::Result<Self> {
        let mut entries = Self { run, number: 0, block: Vec::new().into_iter(), next: None };
        entries.advance()?;
        Ok(entries)
    }

    /// The entry that is next.
    pub(crate) fn next(&self) -> Option<E> {
        self.next
    }

    pub(crate) fn advance(&mut self) -> io::Result<()> {
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
fn least<'r, 'a, E: Entry>(readers: &'r mut [Entries<'a, E>]) -> Option<(&'r mut Entries<'a, E>, Option<E>)> {
    let (mut least, mut until) = (None, None);
    for reader in readers.iter_mut().filter(|reader| reader.next.is_some()) {
        let least_so_far = least.as_ref().and_then(|least: &&mut Entries<'_, E>| least.next);
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
