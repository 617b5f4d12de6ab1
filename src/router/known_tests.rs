//! Known ids over indexes, runs and merges, with and without room for them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::runs::{MERGED_APART, most_with_one_id};

fn id(number: u64) -> TransferId {
    TransferId::from_raw(u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) | 1)
}

fn in_order(number: u64) -> TransferId {
    TransferId::from_raw(number.into())
}

/// So many more new ids after the last one, each settled at once.
fn add(known: &mut KnownIds, number: &mut u64, many: u64, id: fn(u64) -> TransferId) {
    for _ in 0..many {
        *number += 1;
        known.admit(id(*number));
        known.settle(id(*number), *number);
    }
}

/// Known ids in so many runs of a thousand, every other one in order, and the last number.
fn every_other(directory: &tempfile::TempDir, runs: usize) -> (KnownIds, u64) {
    let mut known = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
    let mut number = 0;
    for _ in 0..runs {
        add(&mut known, &mut number, 1_000, even);
        known.turn_and_wait();
    }
    (known, number)
}

fn even(number: u64) -> TransferId {
    in_order(2 * number)
}

fn take_up_next(known: &mut KnownIds) {
    let done = known.done.recv_timeout(Duration::from_mins(1)).unwrap();
    known.take_up(done);
}

/// Begins one merge after the other, and waits for each, until there is none to begin.
fn merged(known: &mut KnownIds) {
    known.turn();
    while known.is_merging {
        take_up_next(known);
        known.turn();
    }
}

/// Where a file of this name is written, there is no room.
fn full(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    let full = directory.path().join(name);
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    full
}

#[test]
fn an_index_full_of_pending_ids_does_not_take_the_place_of_the_run_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 10, &Helpers::threads()).unwrap();
    add(&mut known, &mut 0, 10, id);
    known.turn_and_wait();
    for number in 11..=30 {
        assert_eq!(known.admit(id(number)), Admitted::New);
    }
    known.turn_and_wait();
    (11..=30).for_each(|number| known.settle(id(number), number));
    known.turn_and_wait();
    drop(known);
    let again = KnownIds::open(directory.path(), 10, &Helpers::threads()).unwrap();
    assert!(again.covers() >= 10, "{}", again.covers());
    for number in 1..=again.covers() {
        assert_eq!(again.find(id(number)), Some(number));
    }
}

#[test]
fn who_writes_an_index_knows_how_full_the_next_is_and_when_somebody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 16, &Helpers::threads()).unwrap();
    let mut number = 0;
    for (many, filled) in [(4, FULL / 4), (8, FULL * 3 / 4)] {
        add(&mut known, &mut number, many, id);
        known.turn();
        assert_eq!(known.signals.filled.load(Relaxed), filled, "with {number}");
    }
    add(&mut known, &mut number, 4, id);
    known.turn();
    assert!(known.writing.is_some());
    assert_eq!(known.signals.filled.load(Relaxed), 0, "the next one is empty");
    known.turn_and_wait();
    assert!(known.writing.is_none() && known.signals.filled.load(Relaxed) == FULL);
}

#[test]
fn ids_are_known_wherever_they_are_and_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 100, &Helpers::threads()).unwrap();
    let mut pending = BTreeSet::new();
    let mut sequence = 0;
    for number in 1..=5_000 {
        assert_eq!(known.admit(id(number)), Admitted::New);
        assert_eq!(known.admit(id(number)), Admitted::Pending);
        pending.insert(number);
        // Some stay pending for long, across indexes that leave.
        if number % 3 != 0 || pending.len() > 150 {
            let settled = pending.pop_first().unwrap();
            sequence += 1;
            known.settle(id(settled), sequence);
        }
        known.turn();
        if number % 97 == 0 {
            known.turn_and_wait();
        }
        let asked = number / 2 + 1;
        let expected = if pending.contains(&asked) { Admitted::Pending } else { Admitted::Known(asked) };
        assert_eq!(known.peek(id(asked)), expected, "{number}");
    }
    known.turn_and_wait();
    let covers = known.covers();
    assert!(covers > 3_000 && known.runs.all().len() < 16, "{covers} {}", known.runs.all().len());
    drop(known);
    let mut again = KnownIds::open(directory.path(), 100, &Helpers::threads()).unwrap();
    assert_eq!(again.covers(), covers);
    for number in 1..=covers {
        assert_eq!(again.find(id(number)), Some(number));
    }
    // As the router asks: block by block, of which one id is in one run, one in another, one in none.
    for number in 1..=covers {
        let block = [number, covers + 1 - number, 10_000 + number];
        again.touch(block.into_iter().map(id));
        let known = [Admitted::Known(block[0]), Admitted::Known(block[1]), Admitted::New];
        assert_eq!(block.map(|number| again.peek(id(number))), known, "{number}");
    }
    assert_eq!(again.admit(id(1)), Admitted::Known(1));
    assert_eq!(again.admit(id(10_000)), Admitted::New);
}

#[test]
fn an_id_that_was_not_touched_is_found_between_those_that_were() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 100, &Helpers::threads()).unwrap();
    add(&mut known, &mut 0, 100, |number| in_order(2 * number));
    known.turn_and_wait();
    // As a refund asks for what it is about, beside new ids of its block.
    known.touch([41, 43, 61].map(in_order).into_iter());
    assert_eq!(known.peek(in_order(42)), Admitted::Known(21));
    assert_eq!([41, 43, 61].map(|number| known.admit(in_order(number))), [Admitted::New; 3]);
    assert_eq!(known.peek(in_order(60)), Admitted::Known(30));
    (101..).zip([41, 43, 61]).for_each(|(sequence, number)| known.settle(in_order(number), sequence));
    // Touched before a run has it, and asked for afterwards.
    known.touch([301, 302].map(in_order).into_iter());
    add(&mut known, &mut 300, 200, in_order);
    known.turn_and_wait();
    assert_eq!((known.runs.all().len(), known.active.len()), (2, 0));
    assert_eq!(known.peek(in_order(301)), Admitted::Known(301));
    known.touch([301, 501].map(in_order).into_iter());
    assert_eq!(
        [301, 501, 400].map(|number| known.peek(in_order(number))),
        [Admitted::Known(301), Admitted::New, Admitted::Known(400)]
    );
}

#[test]
fn runs_of_other_seeds_are_asked_as_those_of_ones_own() {
    let directory = tempfile::tempdir().unwrap();
    // As programs of before left them: each has a seed of its own.
    for (seed, base) in [((1, 2), 0), ((3, 4), 100), ((5, 6), 200)] {
        let entries = (base + 1..=base + 100).map(|number| (id(number).raw(), number));
        IdRun::write((directory.path(), seed), (entries, &mut Vec::new()), (base, base + 100), &|_, _| {}).unwrap();
    }
    let mut known = KnownIds::open(directory.path(), 100, &Helpers::threads()).unwrap();
    for number in 1..=300 {
        let block = [number, 301 - number, 1_000 + number];
        known.touch(block.into_iter().map(id));
        let found = [Admitted::Known(block[0]), Admitted::Known(block[1]), Admitted::New];
        assert_eq!(block.map(|number| known.peek(id(number))), found);
    }
}

#[test]
fn of_many_runs_that_wait_the_oldest_are_merged_first() {
    let directory = tempfile::tempdir().unwrap();
    let runs: Vec<_> = (0..5 * MERGED as u64)
        .map(|run| {
            // The second eight lie apart, among those in which one id may be.
            let apart = (8..16).contains(&run);
            let entries = (run * 100 + 1..=run * 100 + 100)
                .map(move |number| (if apart { in_order(number) } else { id(number) }.raw(), number));
            let records = (run * 100, run * 100 + 100);
            let written = IdRun::write((directory.path(), (1, 2)), (entries, &mut Vec::new()), records, &|_, _| {});
            Arc::new(written.unwrap().0)
        })
        .collect();
    let merged =
        |runs: &[Arc<IdRun>]| to_merge(runs, 100).map(|merged| (merged[0].after(), merged.last().unwrap().covers()));
    assert_eq!(merged(&runs), Some((0, 800)));
    assert_eq!(merged(&runs[1..]), Some((100, 1_700)), "with what lies between");
    assert_eq!(merged(&runs[8..]), Some((1_600, 2_400)), "and not with what lies before");
    assert_eq!(merged(&runs[..7]), None);
}

#[test]
fn callers_who_count_each_on_their_own_have_runs_that_lie_apart() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
    // Each of three at a pace of its own, and one of them far away.
    let of_caller = |number: u64| match number % 4 {
        0 => in_order(number / 4),
        1 => TransferId::from_raw((1 << 90) + u128::from(number / 4)),
        _ => in_order(1_000_000 + number / 4 * 2 + number % 4),
    };
    let mut number = 0;
    for _ in 0..2 * MERGED {
        add(&mut known, &mut number, 1_000, of_caller);
        known.turn_and_wait();
        merged(&mut known);
    }
    assert_eq!((known.runs.all().len(), most_with_one_id(&known.runs.all())), (2 * MERGED, 1));
    assert!((1..=number).all(|number| known.find(of_caller(number)) == Some(number)));
    known.touch((number + 1..=number + 4).map(of_caller));
    assert!(known.runs.asked().is_empty(), "no run is asked about new ones");
    known.touch([7, number + 1].map(of_caller).into_iter());
    assert_eq!(known.runs.asked(), [(of_caller(7), true)]);
}

#[test]
fn of_ids_in_order_the_filter_of_the_newest_run_is_in_memory_and_another_while_it_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut known, mut number) = every_other(&directory, 4);
    assert_eq!(known.runs.filters(), [false, false, false, true]);
    // As the router asks: known ones cost nothing more without a filter.
    for of in 1..=number / 2 {
        known.touch([of, number + 1 - of].map(even).into_iter());
        assert_eq!([of, number + 1 - of].map(|number| known.find(even(number))), [Some(of), Some(number + 1 - of)]);
    }
    known.turn();
    assert!(known.runs.next_wanted().is_none());
    // New ones where old ones are, touched or not.
    let late = |of: u64| in_order(2 * of + 101);
    for of in 0..16 {
        assert!(known.runs.next_wanted().is_none(), "{of}");
        if of % 2 == 0 {
            known.touch([late(of), even(of + 1)].into_iter());
        }
        assert_eq!(known.admit(late(of)), Admitted::New);
        assert_eq!(known.admit(even(of + 1)), Admitted::Known(of + 1));
    }
    known.turn();
    assert!(known.runs.next_wanted().is_none(), "it is being read");
    while known.runs.filters() != [true, false, false, true] {
        take_up_next(&mut known);
    }
    (0..16).for_each(|of| known.settle(late(of), number + 1 + of));
    let mut sequence = number + 16;
    for filters in [vec![true, false, false, false, true], vec![false, false, false, false, false, true]] {
        for _ in known.active.len()..1_000 {
            (number, sequence) = (number + 1, sequence + 1);
            known.admit(even(number));
            known.settle(even(number), sequence);
        }
        known.turn_and_wait();
        assert_eq!(known.runs.filters(), filters);
        drop(known);
        known = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
        assert_eq!(known.runs.filters(), filters, "opened again");
    }
    assert!((0..16).all(|of| known.find(late(of)) == Some(4_001 + of) && known.find(in_order(1 + 2 * of)).is_none()));
}

#[test]
fn of_ids_in_no_order_all_filters_are_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
    let mut number = 0;
    for run in 1..MERGED {
        add(&mut known, &mut number, 1_000, id);
        known.turn_and_wait();
        assert_eq!(known.runs.filters(), vec![true; run]);
    }
    drop(known);
    let known = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
    assert_eq!(known.runs.filters(), [true; MERGED - 1]);
}

#[test]
fn a_filter_whose_run_was_merged_meanwhile_is_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 10, &Helpers::threads()).unwrap();
    let mut number = 0;
    for _ in 1..MERGED {
        add(&mut known, &mut number, 10, id);
        known.turn_and_wait();
    }
    add(&mut known, &mut number, 10, id);
    known.turn_and_wait();
    let gone = known.runs.all();
    merged(&mut known);
    assert_eq!((gone.len(), known.runs.all().len()), (MERGED, 1));
    // The file of each is gone, and of the newest another has its name by now.
    for run in gone {
        let filter = run.filter(&mut || Ok(())).unwrap();
        known.take_up(Done::NotFilter(Arc::clone(&run), io::ErrorKind::InvalidData.into()));
        known.take_up(Done::Filter(run, filter));
    }
    assert_eq!(known.runs.filters(), [true]);
    assert!((1..=number).all(|number| known.find(id(number)) == Some(number)) && known.find(id(number + 1)).is_none());
}

#[test]
fn a_filter_that_cannot_be_read_now_is_given_up_for_a_while_and_a_damaged_run_ends_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let (mut known, _) = every_other(&directory, 2);
    let run = known.runs.all().swap_remove(0);
    let ask_in_vain = |known: &mut KnownIds| (0..16).for_each(|of| assert!(known.find(in_order(2 * of + 3)).is_none()));
    ask_in_vain(&mut known);
    assert!(known.runs.next_wanted().is_some_and(|wanted| Arc::ptr_eq(&wanted, &run)));
    known.take_up(Done::NotFilter(Arc::clone(&run), io::ErrorKind::Other.into()));
    ask_in_vain(&mut known);
    assert!(known.runs.next_wanted().is_none(), "not before another run comes");
    let damaged = Done::NotFilter(run, io::ErrorKind::InvalidData.into());
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| known.take_up(damaged)));
    assert!(ended.is_err());
    drop(known);
    let again = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
    assert!(again.is_empty(), "what is missing is made again from the journal");
}

#[test]
fn a_filter_that_rules_out_what_is_only_looked_up_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (mut known, mut number) = every_other(&directory, 1);
    let mut more = |known: &mut KnownIds| {
        add(known, &mut number, 1_000, even);
        known.turn_and_wait();
        known.runs.filters()
    };
    // Some touched, some not; of one in a thousand the filter does not know it.
    let asked = (0..1_000_u64).take_while(|of| {
        if of % 2 == 0 {
            known.touch([in_order(2 * of + 3)].into_iter());
        }
        assert!(known.find(in_order(2 * of + 3)).is_none());
        known.runs.ruled_out() != [16]
    });
    assert!((15..25).contains(&asked.count()));
    assert_eq!(more(&mut known), [true, true]);
    assert_eq!(more(&mut known), [false, false, true]);
}

#[test]
fn runs_that_lie_apart_are_merged_late_and_an_end_does_not_wait_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
    let id = in_order;
    let mut number = 0;
    let mut run = |known: &mut KnownIds| {
        add(known, &mut number, 1_000, id);
        known.turn_and_wait();
    };
    (1..APART).for_each(|_| run(&mut known));
    known.turn();
    assert_eq!((known.runs.all().len(), known.is_merging), (APART - 1, false));
    run(&mut known);
    // As at the end of the process: it is broken off, and begun again by whoever opens it next.
    known.signals.ends.store(true, Relaxed);
    known.turn();
    assert!(known.is_merging);
    drop(known);
    let mut known = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
    assert_eq!(known.runs.all().len(), APART);
    merged(&mut known);
    assert_eq!(known.runs.all().len(), 1 + APART - MERGED_APART);
    assert_eq!(known.runs.all()[0].len(), 1_000 * MERGED_APART, "the oldest");
    assert!((1..=256_000).all(|number| known.find(id(number)) == Some(number)));
    assert_eq!(known.find(id(256_001)), None);
}

#[test]
fn small_runs_among_large_ones_are_merged_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 10, &Helpers::threads()).unwrap();
    let mut number = 0;
    for phase in 0..2 * MERGED {
        // Eight in which one id may be make a small run among many that lie apart.
        let is_ordered = phase % 2 == 1;
        for _ in 0..if is_ordered { MERGED_APART } else { MERGED } {
            add(&mut known, &mut number, 10, if is_ordered { in_order } else { id });
            known.turn_and_wait();
            merged(&mut known);
        }
    }
    assert!(
        known.runs.all().len() < 2 * APART && most_with_one_id(&known.runs.all()) < 2 * MERGED,
        "{}",
        known.runs.all().len()
    );
    assert_eq!(known.len(), usize::try_from(number).unwrap());
}

#[test]
fn a_run_without_room_is_tried_again_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 100, &Helpers::threads()).unwrap();
    let full = full(&directory, "new.tmp");
    let mut number = 0;
    let mut more = |known: &mut KnownIds, ids: u64| {
        add(known, &mut number, ids, id);
        known.turn();
        number
    };
    more(&mut known, 100);
    while known.unwritten.is_none() {
        take_up_next(&mut known);
    }
    assert!(known.runs.all().is_empty() && full.symlink_metadata().is_err());
    let number = more(&mut known, 1);
    assert!(known.unwritten.is_some(), "not tried again at once");
    assert!((1..=number).all(|number| known.find(id(number)) == Some(number)));
    let number = more(&mut known, 20);
    assert!(known.unwritten.is_none());
    known.turn_and_wait();
    assert_eq!((known.runs.all().len(), known.covers()), (1, 100));
    assert!((1..=number).all(|number| known.find(id(number)) == Some(number)));
}

#[test]
fn a_merge_without_room_waits_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = KnownIds::open(directory.path(), 10, &Helpers::threads()).unwrap();
    let full = full(&directory, "merged.tmp");
    let mut number = 0;
    let mut run = |known: &mut KnownIds| {
        add(known, &mut number, 10, id);
        known.turn_and_wait();
    };
    (0..MERGED).for_each(|_| run(&mut known));
    merged(&mut known);
    assert_eq!((known.runs.all().len(), full.symlink_metadata().is_ok()), (MERGED, false), "what was begun is removed");
    known.turn();
    assert!(!known.is_merging, "not tried again at once");
    run(&mut known);
    merged(&mut known);
    assert!(known.runs.all().len() < MERGED, "{}", known.runs.all().len());
    assert!((1..=number).all(|number| known.find(id(number)) == Some(number)));
}
