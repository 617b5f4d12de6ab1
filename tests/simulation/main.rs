//! Deterministic simulation: the real router, shards, settlement, journal, clearing, store and sessions in one thread, on simulated time, disk and network,
//! everything drawn from one seed.
//!
//! The disk loses, tears and reorders what was not synced, refuses, fills up; the power goes at any call, also while recovering; the store and the id
//! runs come back as they were, older, or not at all; connections are cut and carry their bytes in pieces; clients send the same again, also while it is
//! under way; the clock is set both ways; each start has another number of shards. Seven worlds in eight have a scheme whose windows close and are
//! settled, and a bank with its statements; one in four has limits, fees, reserves, classes and a deny-list, half of these with the scheme and half
//! without. After each start, and in the end, a judge (`check.rs`) walks the journal with a model that shares no code with the ledger, and compares it
//! with all that clients were told; what was recovered is compared with a second book (`second.rs`).
//!
//! `HENG_SEEDS=FIRST..LAST cargo test --release --test simulation seeds -- --nocapture` runs more seeds; one that fails prints the shortest run of it
//! that fails, and what happened last.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::integer_division_remainder_used,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test"
)]

mod bank;
mod check;
#[cfg(not(feature = "planted"))]
mod clock;
mod disk;
mod distributions;
mod faults;
mod log;
mod office;
mod peer;
#[path = "../common/model.rs"]
mod plain;
#[cfg(feature = "planted")]
mod planted;
mod policies;
mod second;
#[cfg(not(feature = "planted"))]
mod seeds;
mod server;
mod statements;
mod summary;
mod windows;
mod wishes;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use summary::Summary;
use world::World;

fn memory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { tempfile::tempdir_in(shared).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// One run; an error says what is wrong and what happened.
fn run(seed: u64, steps: usize) -> Result<Summary, (String, String)> {
    run_with(seed, steps, |_| ())
}

/// One run of a world that is changed before it begins.
fn run_with(seed: u64, steps: usize, change: impl FnOnce(&mut World<'_>)) -> Result<Summary, (String, String)> {
    let directory = memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let mut world = World::new(seed, directory.path());
    change(&mut world);
    // What the server holds for impossible ends its process, and is a failure here.
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(world.run(steps))));
    let ended = ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without words")))
    });
    ended.map_err(|what| (what, world.story()))
}
