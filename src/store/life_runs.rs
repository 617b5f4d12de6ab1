//! What was given back of transfers, in runs: those of a checkpoint are written with it, and merged now and then.
//!
//! ```text
//!  put ──► unwritten ──many, or all are there──► unfinished runs ──the checkpoint is durable──► runs that are asked ──► merged
//! ```
//!
//! The runs are numbered from 1 on, and a checkpoint says how far they go. What is kept in memory of each is a filter, 2 bytes for each life: a transfer of which
//! nothing was given back is mostly looked for in no file, others in one.
//!
//! # Invariants
//!
//! 1. A run is asked only once its checkpoint is durable; a start removes those of one that was not finished.
//! 2. The newest run that has a life is the one that is right.
//! 3. Runs are merged only once they are asked, so a start whose checkpoint is the last that was durable finds all of them.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::journal::sync_directory;
use crate::ledger::{LIFE_BYTES, Life, TransferId, get};
use crate::planted::{self, Bug};
use crate::runs::{Entry, Filter, Key, Kind, MERGED, Run, Seed, open_all, to_merge_alike, visit_all};

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
    filter: Arc<Filter>,
}

impl Asked {
    fn new((run, filter): (Run<LifeEntry>, Filter)) -> Self {
        Self { run: Arc::new(run), filter: Arc::new(filter) }
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
}

impl LifeRuns {
    /// Opens the runs of a directory up to this number, making it if there is none; later ones are removed. Or says which is damaged or missing. Blocks.
    pub(super) fn open(directory: &Path, last: u64) -> io::Result<Result<Self, String>> {
        if !directory.exists() {
            fs::create_dir(directory)?;
            directory.parent().map_or(Ok(()), sync_directory)?;
        }
        let until = Some(last).filter(|_| !planted::is(Bug::UnfinishedBelieved));
        let opened = match open_all(directory, until, |_, _| true)? {
            Ok(opened) => opened,
            Err(what) => return Ok(Err(what)),
        };
        let asked: Vec<_> =
            opened.into_iter().map(|(run, filter)| Asked::new((run, filter.unwrap_or_default()))).collect();
        let seed = asked.last().map_or_else(rand::random, |newest| newest.run.seed());
        if asked.iter().any(|asked| asked.run.seed() != seed) {
            return Ok(Err(format!("the life runs in {} do not belong together", directory.display())));
        }
        let (asked, unfinished) = (RwLock::new(asked.into()), Mutex::default());
        Ok(Ok(Self { directory: directory.to_owned(), seed, asked, unfinished }))
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
        let written = Run::write((&self.directory, self.seed), (entries, memory), numbers, &|_, _| breathe())?;
        runs.push(Asked::new(written));
        unwritten.clear();
        Ok(())
    }

    /// From now on all that was finished is asked: its checkpoint is durable.
    pub(super) fn publish(&self) {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let Unfinished { runs, .. } = std::mem::take(&mut *unfinished);
        let mut asked = self.asked.write().unwrap_or_else(PoisonError::into_inner);
        *asked = asked.iter().cloned().chain(runs).collect();
    }

    /// What was given back of a transfer, as of the last checkpoint that is durable. Blocks where a run may have it.
    pub(super) fn life(&self, id: TransferId) -> io::Result<Option<Life>> {
        let (asked, id) = (self.asked(), id.raw());
        // All of a store have one seed.
        let key = Key::new(id, self.seed);
        let may_have = |asked: &&Asked| asked.run.ranges().hold(id) && asked.filter.may_have(&key);
        for Asked { run, .. } in asked.iter().rev().filter(may_have) {
            if let Some(found) = run.look(id)? {
                return Ok(Some(found.life));
            }
        }
        Ok(None)
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
        let mut made = Some(Asked::new(Run::merge((&self.directory, self.seed), merged, breathe)?));
        let mut asked = self.asked.write().unwrap_or_else(PoisonError::into_inner);
        // It comes in the place of the first of them.
        let next = asked.iter().filter_map(|known| {
            let is_merged = merged.iter().any(|run| Arc::ptr_eq(run, &known.run));
            if is_merged { made.take() } else { Some(known.clone()) }
        });
        let next = next.collect();
        let before = std::mem::replace(&mut *asked, next);
        drop(asked);
        // Who reads does not wait for what is given back now, filters and files.
        drop((before, runs));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// This much more is given back of a transfer, or so many.
        Put(u8, u8),
        /// What was noted is written, though no checkpoint is finished.
        Write,
        /// A checkpoint is finished; where it says no, the process ends before that is durable.
        Checkpoint(bool),
        Merge,
        /// The process ends amid a merge: the merged run is there, and all or some that were merged, too.
        EndAmidMerge(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => (any::<u8>(), any::<u8>()).prop_map(|(id, count)| Step::Put(id, count)),
            2 => Just(Step::Write),
            6 => prop::bool::weighted(0.8).prop_map(Step::Checkpoint),
            3 => Just(Step::Merge),
            1 => any::<u8>().prop_map(Step::EndAmidMerge),
        ];
        prop::collection::vec(step, 0..120)
    }

    fn files(directory: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn merge_all(runs: &LifeRuns) {
        while runs.merge(|| Ok(())).unwrap() {}
    }

    fn life(sequence: u64) -> Life {
        Life { refunded: u128::from(sequence) * 3, is_over: sequence.is_multiple_of(2), head: sequence }
    }

    fn open(directory: &Path, last: u64) -> LifeRuns {
        LifeRuns::open(directory, last).unwrap().unwrap()
    }

    /// Makes a checkpoint with these lives; answers its last run.
    fn checkpoint(runs: &LifeRuns, lives: impl Iterator<Item = (u128, u64)>) -> u64 {
        let lives: Vec<_> = lives.map(|(id, head)| (TransferId::from_raw(id), life(head))).collect();
        lives.chunks(1_000).for_each(|part| runs.put(part, &|| ()).unwrap());
        let last = runs.finish(&|| ()).unwrap();
        runs.publish();
        last
    }

    #[test]
    fn of_two_that_were_noted_for_one_checkpoint_the_later_counts() {
        let above = tempfile::tempdir().unwrap();
        let runs = open(&above.path().join("lives"), 0);
        // In order of id, and in none.
        for ids in [[1, 1, 2, 3, 3, 4], [14, 11, 11, 13, 12, 11]] {
            checkpoint(&runs, ids.into_iter().zip(1..));
            for id in ids {
                let last = ids.iter().rposition(|other| *other == id).unwrap();
                let expected = life(u64::try_from(last).unwrap() + 1);
                assert_eq!(runs.life(TransferId::from_raw(id)).unwrap(), Some(expected), "{id}");
            }
        }
    }

    #[test]
    fn the_more_a_checkpoint_has_the_larger_are_its_runs() {
        let k = [0, 7, 8, 16, 31, 32, 100, 1_000, usize::MAX].map(|runs| gathered(runs) >> 10);
        assert_eq!(k, [64, 64, 128, 256, 512, 1_024, 1_024, 1_024, 1_024]);
        // Forty million, as a store that is made again may have.
        let most: usize = (0..70).map(gathered).sum();
        assert!(most > 40_000_000, "{most}");
    }

    #[test]
    fn many_that_wait_are_merged_in_parts() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("lives");
        let runs = open(&directory, 0);
        for sequence in 1..=70 {
            checkpoint(&runs, [(u128::from(sequence % 50), sequence)].into_iter());
        }
        assert!(runs.merge(|| Ok(())).unwrap());
        assert_eq!(files(&directory).len(), 7, "the oldest 64 are one");
        for id in 0..50 {
            let last = if id == 0 {
                50
            } else if id <= 20 {
                id + 50
            } else {
                id
            };
            assert_eq!(runs.life(TransferId::from_raw(u128::from(id))).unwrap(), Some(life(last)));
        }
    }

    #[test]
    fn many_lives_of_one_checkpoint_are_several_runs() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("lives");
        let runs = open(&directory, 0);
        let many = u64::try_from(GATHERED).unwrap() * 5 / 2;
        let spread = |number: u64| u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let last = checkpoint(&runs, (1..=many).map(|number| (spread(number), number)));
        assert_eq!(last, 3);
        for number in (1..=many).step_by(101) {
            assert_eq!(runs.life(TransferId::from_raw(spread(number))).unwrap(), Some(life(number)));
        }
        fs::remove_file(&files(&directory)[0]).unwrap();
        let what = LifeRuns::open(&directory, last).unwrap().unwrap_err();
        assert!(what.contains("the life run that ends at 1 is missing in "), "{what}");
    }

    #[test]
    fn a_block_that_belongs_elsewhere_is_never_believed() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("lives");
        let runs = open(&directory, 0);
        let per_block = 110;
        let at = |block: usize| 64 + block * 4_096..64 + (block + 1) * 4_096;
        // Two runs with the same ids, and so the same first ones.
        let last =
            [1, 2].map(|round| checkpoint(&runs, (1..=330_u64).map(|id| (u128::from(id), round * 1_000 + id))))[1];
        let paths = files(&directory);
        let [first, second] = [0, 1].map(|place| fs::read(&paths[place]).unwrap());
        let within = [at(0), at(1), at(2)].map(|place| second[place].to_vec());
        for (place, block) in [(1, &within[0]), (0, &within[1]), (2, &within[1]), (1, &first[at(1)].to_vec())] {
            let mut bytes = second.clone();
            bytes[at(place)].copy_from_slice(block);
            fs::write(&paths[1], bytes).unwrap();
            let runs = open(&directory, last);
            for id in 1..=330_u128 {
                let is_there = usize::try_from(id - 1).unwrap() / per_block == place;
                let found = runs.life(TransferId::from_raw(id));
                assert_eq!(found.is_err(), is_there, "{id}: {found:?}");
            }
            assert!(runs.visit(|_, _| ()).is_err());
        }
    }

    /// Threads that ask while runs are written, merged and replaced: what was durable before they asked is there, or something later.
    #[test]
    fn who_asks_amid_writing_and_merging_finds_what_was_durable() {
        let above = tempfile::tempdir().unwrap();
        let runs = open(&above.path().join("lives"), 0);
        let durable = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for reader in 0..2_u128 {
                let (runs, durable) = (&runs, &durable);
                scope.spawn(move || {
                    let mut asked = reader;
                    loop {
                        let before = durable.load(std::sync::atomic::Ordering::Acquire);
                        asked = asked.wrapping_mul(5).wrapping_add(3) % 500;
                        let found = runs.life(TransferId::from_raw(asked + 1)).unwrap();
                        assert!(found.map_or(0, |found| found.head) >= before);
                        if before == 60 {
                            return;
                        }
                    }
                });
            }
            scope.spawn(|| {
                while durable.load(std::sync::atomic::Ordering::Acquire) < 60 {
                    runs.merge(|| Ok(())).unwrap();
                }
            });
            for round in 1..=60 {
                checkpoint(&runs, (1..=500).map(|id| (id, round)));
                durable.store(round, std::sync::atomic::Ordering::Release);
            }
        });
    }

    proptest! {
        /// Whatever is written, merged and left unfinished: what is asked is what checkpoints have, and after a start, too.
        #[test]
        fn lives_are_those_of_the_last_checkpoint(steps in steps()) {
            let above = tempfile::tempdir().unwrap();
            let directory = above.path().join("lives");
            let mut runs = open(&directory, 0);
            let (mut durable, mut noted) = (BTreeMap::new(), BTreeMap::new());
            let (mut last_run, mut sequence) = (0, 0);
            for step in steps {
                match step {
                    Step::Put(first, count) => {
                        for id in (u128::from(first)..).take(usize::from(count % 9)) {
                            let id = TransferId::from_raw(1 + id % 40);
                            // Of one checkpoint each is given once, as it is then.
                            if let Entry::Vacant(free) = noted.entry(id) {
                                sequence += 1;
                                let life = life(sequence);
                                free.insert(life);
                                runs.put(&[(id, life)], &|| ()).unwrap();
                            }
                        }
                    }
                    Step::Write => drop(runs.finish(&|| ()).unwrap()),
                    Step::Checkpoint(is_durable) => {
                        let last = runs.finish(&|| ()).unwrap();
                        if is_durable {
                            last_run = last;
                            runs.publish();
                            durable.append(&mut noted);
                        } else {
                            runs = open(&directory, last_run);
                            noted.clear();
                        }
                    }
                    Step::Merge => merge_all(&runs),
                    Step::EndAmidMerge(which) => {
                        let before: Vec<_> = files(&directory).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
                        merge_all(&runs);
                        let kept = before.iter().skip(usize::from(which) % (before.len() + 1)).filter(|(_, path)| !path.exists());
                        kept.for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
                        runs = open(&directory, last_run);
                        noted.clear();
                    }
                }
                for id in (1..=41).map(TransferId::from_raw) {
                    prop_assert_eq!(runs.life(id).unwrap(), durable.get(&id).copied());
                }
            }
            let again = open(&directory, last_run);
            let mut read = BTreeMap::new();
            again.visit(|id, life| { read.insert(id, life); }).unwrap();
            prop_assert_eq!(read, durable);
        }
    }
}
