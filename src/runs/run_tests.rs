//! Runs: written, merged, asked, damaged.

use std::sync::Arc;

use super::super::directory;
use super::super::ranges::Ranges;
use super::*;
use crate::ledger::{Sequence, set};
use crate::runs::{IdEntry, Key};

type Run = super::Run<IdEntry>;

fn open_all(directory: &Path) -> io::Result<Option<Vec<directory::Opened<IdEntry>>>> {
    Ok(directory::open_all(directory, None, Ranges::lie_beside)?.ok())
}

fn spread(number: u64) -> u128 {
    u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

fn write(directory: &Path, entries: impl Iterator<Item = IdEntry> + Clone, records: (Sequence, Sequence)) -> Run {
    Run::write((directory, (3, 4)), (entries, &mut Vec::new()), records, &|_, _| {}).unwrap().0
}

/// The record of an id that may be there, as ranges and filter say.
fn find(run: &Run, id: u128) -> io::Result<Option<Sequence>> {
    let may_have = run.ranges().hold(id) && run.filter(&mut || Ok(()))?.may_have(&Key::new(id, run.seed()));
    if may_have { run.look(id).map(|found| found.map(|entry| entry.1)) } else { Ok(None) }
}

#[test]
fn what_is_kept_in_memory_is_what_an_opened_one_has() {
    let directory = tempfile::tempdir().unwrap();
    for many in [0_u64, 1, 170, 171, 70_000] {
        let entries = (1..=many).map(|number| (spread(number), number));
        let records = (many, many + 1);
        let (written, filter) =
            Run::write((directory.path(), (3, 4)), (entries, &mut Vec::new()), records, &|_, _| {}).unwrap();
        let (opened, opened_filter) = Run::open(&written.path, |ranges| *ranges == written.ranges).unwrap();
        assert_eq!(
            (written.entries, written.after, written.covers, &written.ranges),
            (opened.entries, opened.after, opened.covers, &opened.ranges)
        );
        assert_eq!(
            (&written.fences, written.seed, Some(&filter)),
            (&opened.fences, opened.seed, opened_filter.as_ref())
        );
        let (without, nothing) = Run::open(&written.path, |_| false).unwrap();
        assert!(nothing.is_none() && without.filter(&mut || Ok(())).unwrap() == filter);
    }
}

#[test]
fn what_was_written_is_found_and_nothing_else_also_after_merging() {
    let directory = tempfile::tempdir().unwrap();
    let run = |from: u64| {
        let entries = (from..from + 1_000).map(|number| (spread(number), number));
        Arc::new(write(directory.path(), entries, (from - 1, from + 999)))
    };
    let runs = [run(1), run(1_001), run(2_001)];
    let check = |runs: &[Arc<Run>]| {
        for number in 1..=4_000 {
            let found: Vec<_> = runs.iter().filter_map(|run| find(run, spread(number)).unwrap()).collect();
            assert_eq!(found, if number <= 3_000 { vec![number] } else { vec![] });
        }
    };
    check(&runs);
    let merged = Arc::new(Run::merge((directory.path(), (5, 6)), &runs, || Ok(())).unwrap().0);
    assert_eq!((merged.len(), merged.covers()), (3_000, 3_000));
    check(std::slice::from_ref(&merged));
    let opened = open_all(directory.path()).unwrap().unwrap();
    assert_eq!(opened.len(), 1, "the merged ones are gone");
    // One that is missing is noticed; one that was merged and is still there is not believed twice.
    let later = run(3_001);
    let whole = fs::read(&later.path).unwrap();
    fs::remove_file(&merged.path).unwrap();
    assert!(open_all(directory.path()).unwrap().is_none());
    let again = run(1);
    run(1_001);
    Run::merge((directory.path(), (5, 6)), &[run(1), run(1_001), run(2_001)], || Ok(())).unwrap();
    fs::write(&again.path, fs::read(run(1).path.clone()).unwrap()).unwrap();
    fs::write(&later.path, whole).unwrap();
    assert_eq!(open_all(directory.path()).unwrap().unwrap().len(), 2);
    assert!(!again.path.exists());
    fs::remove_file(&later.path).unwrap();
    check(&[Arc::new(opened.into_iter().next().unwrap().0)]);
}

#[test]
fn what_is_in_two_runs_is_once_in_the_merged_one() {
    let directory = tempfile::tempdir().unwrap();
    // They overlap by less than a block, by a whole one, and by more, and share their first or last ids.
    for (first, second) in [(1..=500, 400..=900), (1..=340, 171..=340), (1..=340, 1..=170), (1..=170, 1..=900)] {
        let last = *first.end().max(second.end());
        let run = |ids: std::ops::RangeInclusive<u64>, covers| {
            let entries = ids.map(|number| (u128::from(number), number));
            Arc::new(write(directory.path(), entries, (covers - 1, covers)))
        };
        let runs = [run(first, 1), run(second, 2)];
        let (merged, _) = Run::merge((directory.path(), (5, 6)), &runs, || Ok(())).unwrap();
        assert_eq!(u64::try_from(merged.len()), Ok(last));
        let found = |number: u64| find(&merged, number.into()).unwrap();
        assert!((1..=last).all(|number| found(number) == Some(number)) && found(last + 1).is_none());
    }
}

#[test]
fn one_of_the_format_before_is_opened_and_has_one_range() {
    let directory = tempfile::tempdir().unwrap();
    // Two callers who are far apart.
    let ids = (1..=400_u64).map(|number| (u128::from(number) + if number > 200 { 1 << 100 } else { 0 }, number));
    let run = write(directory.path(), ids.clone(), (0, 9));
    assert_eq!(run.ranges.iter().len(), 2);
    let mut bytes = fs::read(&run.path).unwrap();
    set::<0, 8>(&mut bytes, IdEntry::KIND.magic_before.unwrap());
    set::<56, 8>(&mut bytes, [0; 8]);
    let tail_at = HEADER_BYTES + 3 * BLOCK_BYTES;
    bytes.drain(tail_at + 3 * 16..tail_at + 3 * 16 + 2 * RANGE_BYTES);
    let crc_at = bytes.len() - 4;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..HEADER_BYTES]), &bytes[tail_at..crc_at]);
    bytes[crc_at..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&run.path, bytes).unwrap();
    let (opened, _) = Run::open(&run.path, |_| true).unwrap();
    assert_eq!(opened.ranges, Ranges::of([(1, 400 + (1 << 100))].into_iter()));
    assert!(ids.clone().all(|(id, number)| find(&opened, id).unwrap() == Some(number)));
    let (merged, _) = Run::merge((directory.path(), (5, 6)), &[Arc::new(opened)], || Ok(())).unwrap();
    assert_eq!(merged.ranges, run.ranges);
}

#[test]
fn a_block_in_another_ones_place_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), (1..=500).map(|number| (spread(number), number)), (0, 9)).path;
    let whole = fs::read(&path).unwrap();
    let at = |block: usize| HEADER_BYTES + block * BLOCK_BYTES..HEADER_BYTES + (block + 1) * BLOCK_BYTES;
    for (from, to) in [(0, 1), (1, 0), (2, 1), (0, 2)] {
        let mut bytes = whole.clone();
        bytes.copy_within(at(from), at(to).start);
        fs::write(&path, bytes).unwrap();
        let (run, _) = Run::open(&path, |_| true).unwrap();
        let noticed = (1..=500).filter(|number| find(&run, spread(*number)).is_err()).count();
        assert_eq!(noticed, if to == 2 { 160 } else { 170 });
    }
}

#[test]
fn damage_is_an_error_and_never_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), (1..=500).map(|number| (spread(number), number)), (0, 9)).path;
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        // Damage is found also where the filter is not wanted.
        let [with, without] = [true, false].map(|wants| Run::open(&path, |_| wants));
        assert_eq!(with.is_ok(), without.is_ok(), "byte {at}");
        if let Ok((run, _)) = without {
            for number in 1..=500 {
                let found = find(&run, spread(number));
                assert!(found.is_err() || found.is_ok_and(|found| found == Some(number)), "byte {at}");
            }
        }
    }
    // What changes under one that is open, the first ids of its blocks among that.
    fs::write(&path, &whole).unwrap();
    let (run, _) = Run::open(&path, |_| false).unwrap();
    let fences_at = HEADER_BYTES + 3 * BLOCK_BYTES;
    for at in (HEADER_BYTES..fences_at + 3 * FENCE_BYTES).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        fs::write(&path, &bytes).unwrap();
        *run.last.lock().unwrap() = None;
        let found: Vec<_> = (1..=500).map(|number| (number, run.look(spread(number)))).collect();
        let is_right = |(number, found): &(u64, io::Result<Option<IdEntry>>)| match found {
            Ok(found) => found.is_some_and(|entry| entry.1 == *number),
            Err(_) => true,
        };
        assert!(found.iter().all(is_right), "byte {at}");
        assert!(found.iter().all(|(_, found)| found.is_err()) == (at >= fences_at), "byte {at}");
    }
    // One that opens and cannot be read is set aside, so that the next start makes it again.
    let mut bytes = whole.clone();
    bytes[HEADER_BYTES + 7] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (run, _) = Run::open(&path, |_| false).unwrap();
    assert!((1..=500).any(|number| find(&run, spread(number)).is_err()));
    run.set_aside();
    assert!(open_all(directory.path()).unwrap().unwrap().is_empty());
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(Run::open(&path, |_| false).is_err());
    assert!(open_all(directory.path()).unwrap().is_none());
}
