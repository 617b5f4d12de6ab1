//! Seeds that hold, and how one that does not is told.

use std::ops::Range;
use std::time::Instant;

use crate::run;
use crate::world::Summary;

/// Steps of a run.
const STEPS: usize = 4_000;

/// Seeds of the suite.
const SEEDS: Range<u64> = 0..24;

/// The shortest run of a seed that fails, tried in a row of lengths.
fn shortest(seed: u64) -> String {
    let mut steps = 50;
    while steps < STEPS {
        if let Err((what, story)) = run(seed, steps) {
            return format!("seed {seed}, {steps} steps: {what}\n{story}");
        }
        steps += steps / 4;
    }
    match run(seed, STEPS) {
        Err((what, story)) => format!("seed {seed}, {STEPS} steps: {what}\n{story}"),
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
        let ended = run(seed, STEPS);
        let Ok(one) = ended else { panic!("{}", shortest(seed)) };
        all.starts += one.starts;
        all.answered += one.answered;
        all.records += one.records;
        all.reads += one.reads;
        all.damages += one.damages;
        all.windows += one.windows;
        all.settled += one.settled;
        all.limited += one.limited;
        all.charged += one.charged;
        all.seconds += one.seconds;
    }
    println!("{:?}: {all:?} in {:.1} s", seeds(), begun.elapsed().as_secs_f64());
    assert!(
        all.records > 0 && all.reads > 0 && all.windows > 0 && all.settled > 0 && all.limited > 0 && all.charged > 0
    );
}

#[test]
fn a_seed_is_the_same_each_time() {
    for seed in 0..5 {
        assert_eq!(run(seed, STEPS).unwrap(), run(seed, STEPS).unwrap(), "seed {seed}");
    }
}
