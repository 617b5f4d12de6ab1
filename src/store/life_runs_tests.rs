//! Runs of lives: written, finished, asked, merged, damaged, and their filters.

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

/// Which runs have their filters in memory, the oldest first.
fn filters(runs: &LifeRuns) -> Vec<bool> {
    runs.asked().iter().map(|asked| asked.filter.is_some()).collect()
}

#[test]
fn filters_of_runs_that_lie_apart_are_given_back_and_read_again_when_they_are_wanted() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("lives");
    let runs = open(&directory, 0);
    // Ids in order, each second of which is there.
    let of = |round: u64| (1..=100).map(move |number| (u128::from(round * 1_000 + 2 * number), round * 1_000 + number));
    let last = [1, 2, 3].map(|round| checkpoint(&runs, of(round)))[2];
    assert_eq!(filters(&runs), [false, false, true]);
    assert_eq!(filters(&open(&directory, last)), [false, false, true]);
    let jobs = Arc::new(Mutex::new(0));
    let (helpers, stepper) = crate::flow::Helpers::stepped();
    let counted = Arc::clone(&jobs);
    let (reader, _helper) = helpers
        .start("reader", crossbeam::channel::bounded(1), move |()| {
            *counted.lock().unwrap() += 1;
            true
        })
        .unwrap();
    let reader = Arc::new(reader);
    runs.set_reader(Arc::downgrade(&reader));
    let in_vain = |times: u64| {
        (1..=times).for_each(|number| {
            let id = TransferId::from_raw(u128::from(1_000 + 2 * number + 1));
            assert_eq!(runs.life(id).unwrap(), None);
        });
    };
    let read = || runs.read_filters(&mut || Ok(())).unwrap();
    in_vain(15);
    assert!(!stepper.step(0));
    read();
    assert_eq!(filters(&runs), [false, false, true], "nobody wants it");
    in_vain(3);
    assert!(stepper.step(0) && *jobs.lock().unwrap() == 1);
    read();
    assert_eq!(filters(&runs), [true, false, true]);
    // What it rules out keeps it, for as long as it does.
    in_vain(16);
    assert!(!stepper.step(0));
    checkpoint(&runs, of(4));
    assert_eq!(filters(&runs), [true, false, false, true]);
    checkpoint(&runs, of(5));
    assert_eq!(filters(&runs), [false, false, false, false, true]);
    // One that comes beside all needs all, once each was read in vain.
    checkpoint(&runs, [(1_001, 1), (9_999, 2)].into_iter());
    assert_eq!(filters(&runs), [false, false, false, false, true, true]);
    // A run that is merged while its filter is wanted.
    in_vain(20);
    runs.merge(|| Ok(())).unwrap();
    read();
    for (id, head) in (1..=5).flat_map(of).chain([(1_001, 1), (9_999, 2)]) {
        assert_eq!(runs.life(TransferId::from_raw(id)).unwrap(), Some(life(head)));
    }
    // Whoever ends asks nobody any more.
    drop(reader);
    in_vain(40);
    assert_eq!(*jobs.lock().unwrap(), 1);
}

#[test]
fn a_filter_that_the_system_does_not_let_be_read_is_wanted_later_and_a_damaged_one_is_an_error() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("lives");
    let runs = open(&directory, 0);
    for round in [1_000, 2_000] {
        checkpoint(&runs, (1..=100).map(|number| (round + 2 * number, 7)));
    }
    let in_vain = || {
        for number in 1..=16 {
            assert_eq!(runs.life(TransferId::from_raw(1_000 + 2 * number + 1)).unwrap(), None);
        }
    };
    in_vain();
    assert!(runs.read_filters(&mut || Err(io::ErrorKind::Interrupted.into())).is_err(), "who ends reads no further");
    in_vain();
    runs.read_filters(&mut || Err(io::ErrorKind::OutOfMemory.into())).unwrap();
    in_vain();
    runs.read_filters(&mut || Ok(())).unwrap();
    assert_eq!(filters(&runs), [false, true], "not before another checkpoint");
    checkpoint(&runs, [(9_000, 7)].into_iter());
    in_vain();
    let disk = runs.read_filters(&mut || Err(io::ErrorKind::Other.into())).unwrap_err();
    assert_eq!(disk.kind(), io::ErrorKind::InvalidData, "what a disk does not give is damage");
    let path = &files(&directory)[0];
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    assert_eq!(runs.read_filters(&mut || Ok(())).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_block_that_belongs_elsewhere_is_never_believed() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("lives");
    let runs = open(&directory, 0);
    let per_block = 110;
    let at = |block: usize| 64 + block * 4_096..64 + (block + 1) * 4_096;
    // Two runs with the same ids, and so the same first ones.
    let last = [1, 2].map(|round| checkpoint(&runs, (1..=330_u64).map(|id| (u128::from(id), round * 1_000 + id))))[1];
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
