//! Seeds that hold, and how one that does not is told.

use std::ops::Range;
use std::time::Instant;

use crate::run;
use crate::world::Summary;

/// Steps of a run.
const STEPS: usize = 4_000;

/// Seeds of the suite.
const SEEDS: Range<u64> = 0..24;

/// Another number of steps, when one is asked for: what happens last differs.
fn steps() -> usize {
    std::env::var("HENG_STEPS").map_or(STEPS, |steps| steps.parse().expect("HENG_STEPS is a number"))
}

/// The shortest run of a seed that fails, tried in a row of lengths.
fn shortest(seed: u64) -> String {
    let mut steps = 50;
    while steps < self::steps() {
        if let Err((what, story)) = run(seed, steps) {
            return format!("seed {seed}, {steps} steps: {what}\n{story}");
        }
        steps += steps / 4;
    }
    let steps = self::steps();
    match run(seed, steps) {
        Err((what, story)) => format!("seed {seed}, {steps} steps: {what}\n{story}"),
        Ok(_) => format!("seed {seed} fails sometimes"),
    }
}

fn seeds() -> Range<u64> {
    let Ok(asked) = std::env::var("HENG_SEEDS") else { return SEEDS };
    let (first, last) = asked.split_once("..").expect("HENG_SEEDS is FIRST..LAST");
    first.parse().unwrap()..last.parse().unwrap()
}

#[test]
fn seeds_hold() {
    let begun = Instant::now();
    let mut all = Summary::default();
    for seed in seeds() {
        let ended = run(seed, steps());
        let Ok(one) = ended else { panic!("{}", shortest(seed)) };
        all.starts += one.starts;
        all.answered += one.answered;
        all.records += one.records;
        all.reads += one.reads;
        all.damages += one.damages;
        all.windows += one.windows;
        all.settled += one.settled;
        all.lines += one.lines;
        all.written_off += one.written_off;
        all.limited += one.limited;
        all.charged += one.charged;
        all.seconds += one.seconds;
    }
    println!("{:?}: {all:?} in {:.1} s", seeds(), begun.elapsed().as_secs_f64());
    let cleared = [all.windows, all.settled, all.lines, all.written_off];
    let all_kinds = [[all.records, all.reads, all.limited, all.charged], cleared].concat();
    assert!(seeds() != SEEDS || !all_kinds.contains(&0), "{all:?}");
}

#[test]
fn a_seed_is_the_same_each_time() {
    for seed in 0..5 {
        assert_eq!(run(seed, STEPS).unwrap(), run(seed, STEPS).unwrap(), "seed {seed}");
    }
}
