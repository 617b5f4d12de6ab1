//! The thread that merges runs of lives, beside the one that writes them: a merge may take long, and what is written meanwhile must not wait. It reads the
//! filters that are wanted again, too, also amid a merge: until then refunds read runs in vain.
//!
//! # Invariants
//!
//! 1. A merge that does not come to its end leaves all runs as they are.
//!
//! # Not here
//!
//! Which runs are merged, and how: [`crate::store`] and the runs below it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam::channel::bounded;

use super::open::{Store, StoreError};
use crate::flow::{Breather, Helper, Helpers, Jobs};
use crate::telemetry::chain;

/// A merge rests so many times as long as it works: nobody waits for it.
const RESTS: u32 = 4;

/// Has runs merged. When it is dropped, what is being merged is left.
#[derive(Debug)]
pub(super) struct Merger {
    /// Whoever finds that a filter is wanted has it, too, as long as this is there.
    looks: Arc<Jobs<()>>,
    ends: Arc<AtomicBool>,
}

impl Merger {
    /// There are new runs.
    pub(super) fn look(&self) {
        // One look that waits finds them all.
        let _waits_already = self.looks.give(());
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
    }
}

/// Starts the helper.
pub(super) fn spawn_merger(store: Store, helpers: &Helpers) -> io::Result<(Merger, Helper)> {
    let ends = Arc::new(AtomicBool::new(false));
    let (is_ending, breather) = (Arc::clone(&ends), Breather::new(helpers));
    let read_by = store.clone();
    let (looks, helper) = helpers.start("heng-lives", bounded(1), move |()| {
        breather.begin();
        let mut breathe = || {
            if is_ending.load(Relaxed) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the process ends"));
            }
            breather.rest(RESTS, false);
            Ok(())
        };
        read_filters(&store, &mut breathe);
        let mut and_read = || {
            breathe()?;
            read_filters(&store, &mut breathe);
            Ok(())
        };
        while go_on(&store, &mut and_read) {}
        true
    })?;
    let looks = Arc::new(looks);
    read_by.set_filter_reader(Arc::downgrade(&looks));
    let merger = Merger { looks, ends };
    // What an end left unmerged.
    merger.look();
    Ok((merger, helper))
}

/// Reads the filters that are wanted.
fn read_filters(store: &Store, breathe: &mut impl FnMut() -> io::Result<()>) {
    // Another error is that the process ends.
    if let Err(err @ StoreError::Damaged { .. }) = store.read_life_filters(breathe) {
        store.unreadable(&err);
    }
}

/// Merges some runs; answers whether there may be more.
fn go_on(store: &Store, breathe: &mut impl FnMut() -> io::Result<()>) -> bool {
    match store.merge_lives(breathe) {
        Ok(merged) => merged,
        Err(err @ StoreError::Damaged { .. }) => store.unreadable(&err),
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::Interrupted => false,
        Err(err) => {
            tracing::warn!(err = %chain(&err), "runs of lives are not merged, and read one by one; tried again at the next checkpoint");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ledger::{Life, LifeStore, TransferId};
    use crate::store::Checkpoint;

    /// Each life of a process may have no more than one checkpoint, that of its drain, after which nothing is merged.
    #[test]
    fn runs_that_an_end_left_are_merged_by_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let files = || fs::read_dir(path.join("lives")).unwrap().count();
        let life = |head| Life { refunded: 1, is_over: false, head };
        for sequence in 1..=8 {
            let store = Store::open(&path, 1 << 20).unwrap();
            store.put_lives(&[(TransferId::from_raw(u128::from(sequence)), life(sequence))], &|| ()).unwrap();
            store.make_checkpoint(&Checkpoint { sequence, ..Checkpoint::default() }).unwrap();
        }
        assert_eq!(files(), 8);
        let store = Store::open(&path, 1 << 20).unwrap();
        let (helpers, stepper) = Helpers::stepped();
        let (merger, _helper) = spawn_merger(store.clone(), &helpers).unwrap();
        assert!(stepper.step(0));
        assert_eq!(files(), 1);
        assert!((1..=8).all(|head| store.life(TransferId::from_raw(u128::from(head))) == Some(life(head))));
        assert!(!stepper.step(0), "once");
        merger.look();
        assert!(stepper.step(0) && files() == 1);
    }
}
