//! The two helpers of the known ids: one writes full indexes as runs and makes room for new ones, the other merges runs.
//!
//! # Invariants
//!
//! 1. A merge that ends early, because there is no room or the process ends, leaves the runs as they were.
//! 2. A run that cannot be read is set aside before the process ends.
//!
//! # Not here
//!
//! When something is written or merged ([`super::known`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use crossbeam::channel::{Sender, unbounded};

use super::ids::IdIndex;
use super::run::{Entry, Run};
use crate::flow::{Helper, Helpers};
use crate::ledger::Sequence;

/// A merge without hurry rests so many times as long as it works.
const RESTS: u32 = 2;

/// Something for a helper.
pub(super) enum Job {
    /// With the sequences between which its records are.
    Write(Arc<IdIndex>, (Sequence, Sequence)),
    /// Make room for so many ids.
    Prepare(usize),
    Clear(IdIndex),
    Merge {
        runs: Vec<Arc<Run>>,
        is_urgent: bool,
    },
}

/// What a helper has done.
pub(super) enum Done {
    Written(Run),
    /// An empty index with room.
    Ready(IdIndex),
    Merged(Vec<Arc<Run>>, Run),
    /// The disk has no room for a merged run, or the process ends.
    NotMerged(io::Error),
    Failed(io::Error),
}

/// What goes on between the parts of a merge.
struct Breath {
    ends: Arc<AtomicBool>,
    /// Whether there is a thread that could rest.
    rests: bool,
    since: Instant,
}

impl Breath {
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own, for which nobody waits")]
    fn take(&mut self) -> io::Result<()> {
        if self.ends.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the process ends"));
        }
        if self.rests {
            std::thread::sleep(self.since.elapsed().saturating_mul(RESTS));
            self.since = Instant::now();
        }
        Ok(())
    }
}

/// Starts a helper that does jobs until nobody can give it any.
pub(super) fn start(
    name: &str,
    (directory, ends): (&Path, &Arc<AtomicBool>),
    told: Sender<Done>,
    helpers: &Helpers,
) -> io::Result<(Sender<Job>, Helper)> {
    let (jobs, work) = unbounded();
    let (directory, ends): (PathBuf, _) = (directory.to_owned(), Arc::clone(ends));
    let are_threads = helpers.are_threads();
    // Kept from job to job: memory that is used for the first time is dear.
    let mut entries = Vec::new();
    let helper = helpers.start(name, work, move |job| {
        let rests = are_threads && matches!(job, Job::Merge { is_urgent: false, .. });
        let breath = Breath { ends: Arc::clone(&ends), rests, since: Instant::now() };
        let done = perform(&directory, job, &mut entries, breath).unwrap_or_else(Done::Failed);
        told.send(done).is_ok()
    })?;
    Ok((jobs, helper))
}

fn perform(directory: &Path, job: Job, entries: &mut Vec<Entry>, mut breath: Breath) -> io::Result<Done> {
    use io::ErrorKind::{Interrupted, InvalidData, QuotaExceeded, StorageFull};

    match job {
        Job::Write(index, records) => {
            entries.clear();
            entries.extend(index.entries());
            // Whoever asks for it next can have it whole.
            drop(index);
            Ok(Done::Written(Run::write(directory, entries, records)?))
        }
        Job::Prepare(ids) => {
            let mut index = IdIndex::with_room(ids);
            index.warm_all();
            Ok(Done::Ready(index))
        }
        Job::Clear(mut index) => {
            index.clear();
            Ok(Done::Ready(index))
        }
        Job::Merge { runs, .. } => {
            match Run::merge(directory, &runs, || breath.take()) {
                Ok(merged) => Ok(Done::Merged(runs, merged)),
                // The runs are all there, only more than one would like.
                Err(err) if matches!(err.kind(), StorageFull | QuotaExceeded | Interrupted) => Ok(Done::NotMerged(err)),
                Err(err) => {
                    if err.kind() == InvalidData {
                        for run in &runs {
                            run.set_aside();
                        }
                    }
                    Err(err)
                }
            }
        }
    }
}
