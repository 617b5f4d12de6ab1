//! What was given back of transfers, in runs: those of a checkpoint are written with it, and merged now and then.
//!
//! ```text
//!  put ──► unwritten ──many, or all are there──► unfinished runs ──the checkpoint is durable──► runs that are asked ──► merged
//! ```
//!
//! The runs are numbered from 1 on, and a checkpoint says how far they go. A transfer of which nothing was given back is mostly looked for in no file, because a
//! filter says so, others in one. Filters are in memory while they are worth it ([`Worth`]); others that are wanted again are read by whoever merges.
//!
//! # Invariants
//!
//! 1. A run is asked only once its checkpoint is durable; a start removes those of one that was not finished.
//! 2. The newest run that has a life is the one that is right.
//! 3. Runs are merged only once they are asked, so a start whose checkpoint is the last that was durable finds all of them.
//! 4. What is answered does not depend on which filters are in memory.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

use crate::flow::Jobs;
use crate::journal::sync_directory;
use crate::ledger::{LIFE_BYTES, Life, TransferId, get};
use crate::planted::{self, Bug};
use crate::runs::{
    Entry, Filter, Key, Kind, MERGED, Ranges, Run, Seed, Worth, is_refused, open_all, to_merge_alike, visit_all,
};

/// Lives that are gathered before they are written as a run, with what sorting them takes some 6 MB. Where a checkpoint has very many, as the first one of a store that
/// is made again, twice as many from each eighth run on, up to some 100 MB: each run is an open file.
const GATHERED: usize = 1 << 16;
const GATHERED_MAX: usize = 1 << 20;

/// Lives of the smallest runs that are told apart by their size.
const SMALLEST: usize = 1 << 12;

/// How many are gathered when the checkpoint has so many runs.
fn gathered(runs: usize) -> usize {
    let doubled = u32::try_from(runs / MERGED).unwrap_or(u32::MAX);
    GATHERED.checked_shl(doubled).unwrap_or(GATHERED_MAX).min(GATHERED_MAX)
}

/// A life with its transfer's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LifeEntry {
    id: u128,
    life: Life,
}

impl Ord for LifeEntry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The later one first: it counts.
        let key = |entry: &Self| (entry.id, Reverse(entry.life.head), entry.life.refunded, entry.life.is_over);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for LifeEntry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Entry for LifeEntry {
    const KIND: Kind = Kind {
        name: "life",
        extension: "lives",
        magic: *b"HENGLIF1",
        magic_before: None,
        read_soon: true,
        bound: true,
    };
    const BYTES: usize = 16 + LIFE_BYTES;

    fn id(&self) -> u128 {
        self.id
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&self.life.encode());
    }

    fn read(bytes: &[u8]) -> Self {
        let bytes = bytes.first_chunk::<{ Self::BYTES }>().unwrap_or(&[0; Self::BYTES]);
        Self { id: u128::from_le_bytes(get::<0, 16>(bytes)), life: Life::decode(&get::<16, LIFE_BYTES>(bytes)) }
    }
}

/// A run that is asked.
#[derive(Clone, Debug)]
struct Asked {
    run: Arc<Run<LifeEntry>>,
    filter: Option<Arc<Filter>>,
    worth: Arc<Worth>,
}

impl Asked {
    fn new(run: Run<LifeEntry>, filter: Option<Filter>) -> Self {
        Self { run: Arc::new(run), filter: filter.map(Arc::new), worth: Arc::default() }
    }

    /// What it has of an id. Blocks where it may have it.
    fn find(&self, id: u128, key: &Key) -> io::Result<Option<Life>> {
        if !self.run.ranges().hold(id) {
            return Ok(None);
        }
        if self.filter.as_ref().is_some_and(|filter| !filter.may_have(key)) {
            self.worth.ruled_out(1);
            return Ok(None);
        }
        let found = self.run.look(id)?;
        if found.is_none() && self.filter.is_none() {
            self.worth.was_read_in_vain();
        }
        Ok(found.map(|entry| entry.life))
    }

    fn wants_filter(&self) -> bool {
        self.filter.is_none() && self.worth.wants_filter()
    }
}

/// What is not durable yet.
#[derive(Debug, Default)]
struct Unfinished {
    unwritten: Vec<LifeEntry>,
    runs: Vec<Asked>,
    /// For sorting them.
    memory: Vec<LifeEntry>,
}

/// All lives of a store.
#[derive(Debug)]
pub(super) struct LifeRuns {
    directory: PathBuf,
    seed: Seed,
    /// The oldest first.
    asked: RwLock<Arc<[Asked]>>,
    unfinished: Mutex<Unfinished>,
    /// Has filters read that are wanted.
    reader: OnceLock<Weak<Jobs<()>>>,
}

impl LifeRuns {
    /// Opens the runs of a directory up to this number, making it if there is none; later ones are removed. Or says which is damaged or missing. Blocks.
    pub(super) fn open(directory: &Path, last: u64) -> io::Result<Result<Self, String>> {
        if !directory.exists() {
            fs::create_dir(directory)?;
            directory.parent().map_or(Ok(()), sync_directory)?;
        }
        let until = Some(last).filter(|_| !planted::is(Bug::UnfinishedBelieved));
        let opened = match open_all(directory, until, Ranges::lie_beside)? {
            Ok(opened) => opened,
            Err(what) => return Ok(Err(what)),
        };
        let asked: Vec<_> = opened.into_iter().map(|(run, filter)| Asked::new(run, filter)).collect();
        let seed = asked.last().map_or_else(rand::random, |newest| newest.run.seed());
        if asked.iter().any(|asked| asked.run.seed() != seed) {
            return Ok(Err(format!("the life runs in {} do not belong together", directory.display())));
        }
        let (asked, unfinished) = (RwLock::new(asked.into()), Mutex::default());
        Ok(Ok(Self { directory: directory.to_owned(), seed, asked, unfinished, reader: OnceLock::new() }))
    }

    /// From now on whoever does these jobs reads the filters that are wanted.
    pub(super) fn set_reader(&self, reader: Weak<Jobs<()>>) {
        // The first one stays: a store has one.
        let _first = self.reader.set(reader);
    }

    fn asked(&self) -> Arc<[Asked]> {
        Arc::clone(&self.asked.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes lives of the next checkpoint, and writes those noted before where they are many. Blocks. `breathe` is called now and then.
    pub(super) fn put(&self, lives: &[(TransferId, Life)], breathe: &impl Fn()) -> io::Result<()> {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.unwritten.extend(lives.iter().map(|(id, life)| LifeEntry { id: id.raw(), life: *life }));
        if unfinished.unwritten.len() >= gathered(unfinished.runs.len()) {
            self.write(&mut unfinished, breathe)
        } else {
            Ok(())
        }
    }

    /// Makes all that was noted durable, and answers the number of the last run. Blocks. `breathe` is called now and then.
    pub(super) fn finish(&self, breathe: &impl Fn()) -> io::Result<u64> {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&mut unfinished, breathe)?;
        Ok(self.last(&unfinished))
    }

    fn last(&self, unfinished: &Unfinished) -> u64 {
        let of = |runs: &[Asked]| runs.last().map(|newest| newest.run.covers());
        of(&unfinished.runs).or_else(|| of(&self.asked())).unwrap_or(0)
    }

    fn write(&self, unfinished: &mut Unfinished, breathe: &impl Fn()) -> io::Result<()> {
        if unfinished.unwritten.is_empty() {
            return Ok(());
        }
        let last = self.last(unfinished);
        let Unfinished { unwritten, runs, memory } = unfinished;
        let (entries, numbers) = (unwritten.iter().copied(), (last, last.saturating_add(1)));
        let (run, filter) = Run::write((&self.directory, self.seed), (entries, memory), numbers, &|_, _| breathe())?;
        runs.push(Asked::new(run, Some(filter)));
        unwritten.clear();
        Ok(())
    }

    /// From now on all that was finished is asked: its checkpoint is durable. Filters that are not needed any more are given back.
    pub(super) fn publish(&self) {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let Unfinished { runs, .. } = std::mem::take(&mut *unfinished);
        if runs.is_empty() {
            return;
        }
        let new: Ranges = Ranges::of(runs.iter().flat_map(|new| new.run.ranges().iter()));
        let still_needed = |asked: &Asked| {
            let is_needed = asked.worth.is_filter_needed(&new, asked.run.ranges());
            Asked { filter: asked.filter.clone().filter(|_| is_needed), ..asked.clone() }
        };
        self.change(|asked| asked.iter().map(still_needed).chain(runs).collect());
    }

    /// What was given back of a transfer, as of the last checkpoint that is durable. Blocks where a run may have it.
    pub(super) fn life(&self, id: TransferId) -> io::Result<Option<Life>> {
        let (asked, id) = (self.asked(), id.raw());
        // All of a store have one seed.
        let key = Key::new(id, self.seed);
        let (mut found, mut is_filter_wanted) = (None, false);
        for asked in asked.iter().rev() {
            found = asked.find(id, &key)?;
            is_filter_wanted |= asked.wants_filter();
            if found.is_some() {
                break;
            }
        }
        if is_filter_wanted && let Some(reader) = self.reader.get().and_then(Weak::upgrade) {
            // One job that waits is for all of them.
            let _waits_already = reader.give(());
        }
        Ok(found)
    }

    /// Reads the filters that are wanted again; one that the system does not let it read now is not wanted before the next checkpoint. Blocks. `breathe` is called
    /// now and then, and ends it with an error.
    pub(super) fn read_filters(&self, breathe: &mut impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let wanted: Vec<_> = self.asked().iter().filter(|asked| asked.wants_filter()).cloned().collect();
        for Asked { run, worth, .. } in wanted {
            let filter = match run.filter(breathe) {
                Ok(filter) => Arc::new(filter),
                Err(err) if is_refused(&err) => {
                    worth.give_up();
                    tracing::warn!(%err, "the filter of a run of lives cannot be read now, so that refunds take longer; tried again after the next checkpoint");
                    continue;
                }
                Err(err) => return Err(err),
            };
            worth.filter_was_read();
            let with_it = |asked: &Asked| {
                let filter = Some(&filter).filter(|_| Arc::ptr_eq(&asked.run, &run)).or(asked.filter.as_ref()).cloned();
                Asked { filter, ..asked.clone() }
            };
            self.change(|asked| asked.iter().map(with_it).collect());
        }
        Ok(())
    }

    /// Puts others in the place of the runs that are asked. What is given back then, filters and files, mostly nobody waits for who reads.
    fn change(&self, next: impl FnOnce(&[Asked]) -> Arc<[Asked]>) {
        let mut asked = self.asked.write().unwrap_or_else(PoisonError::into_inner);
        let next = next(&asked);
        let before = std::mem::replace(&mut *asked, next);
        drop(asked);
        drop(before);
    }

    /// Visits all lives, of each transfer the one that is right last. Blocks.
    pub(super) fn visit(&self, mut visit: impl FnMut(TransferId, Life)) -> io::Result<()> {
        let asked = self.asked();
        visit_all(asked.iter().map(|asked| &*asked.run), |LifeEntry { id, life }| visit(TransferId::from_raw(id), life))
    }

    /// Makes one run of several if there are enough; answers whether there were. Blocks. `breathe` is called now and then, and ends it with an error.
    pub(super) fn merge(&self, breathe: impl FnMut() -> io::Result<()>) -> io::Result<bool> {
        let runs: Vec<_> = self.asked().iter().map(|asked| Arc::clone(&asked.run)).collect();
        let Some(merged) = to_merge_alike(&runs, SMALLEST) else { return Ok(false) };
        let (run, filter) = Run::merge((&self.directory, self.seed), merged, breathe)?;
        let mut made = Some(Asked::new(run, Some(filter)));
        // It comes in the place of the first of them.
        let in_its_place = |known: &Asked| {
            let is_merged = merged.iter().any(|run| Arc::ptr_eq(run, &known.run));
            if is_merged { made.take() } else { Some(known.clone()) }
        };
        self.change(|asked| asked.iter().filter_map(in_its_place).collect());
        Ok(true)
    }
}

#[cfg(test)]
#[path = "life_runs_tests.rs"]
mod tests;
