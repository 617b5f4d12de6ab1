//! The two helpers of the known ids: one writes full indexes as runs and makes room for new ones, the other merges runs.
//!
//! # Invariants
//!
//! 1. A merge that does not come to its end, because there is no room, something fails or the process ends, leaves all ids where they can be read.
//! 2. A run whose checksums are wrong is set aside before the process ends.
//!
//! # Not here
//!
//! When something is written or merged ([`super::known`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, unbounded};

use super::ids::IdIndex;
use super::run::{Entry, Run};
use crate::flow::{Helper, Helpers};
use crate::ledger::Sequence;

/// A merge without hurry rests so many times as long as it works, up to a bound: a disk that stands still is no work.
const RESTS: u32 = 2;
const REST_MAX: Duration = Duration::from_millis(20);

/// What a merge is told while it goes on.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The process ends.
    pub(super) ends: AtomicBool,
    /// There are too many runs.
    pub(super) hurries: AtomicBool,
}

/// Something for a helper.
pub(super) enum Job {
    /// With the sequences between which its records are.
    Write(Arc<IdIndex>, (Sequence, Sequence)),
    /// Make room for so many ids.
    Prepare(usize),
    Clear(IdIndex),
    Merge(Vec<Arc<Run>>),
}

/// What a helper has done.
pub(super) enum Done {
    Written(Run),
    /// There is no room for a run of the records between these sequences; the index is as it was.
    NotWritten(io::Error, (Sequence, Sequence)),
    /// An empty index with room.
    Ready(IdIndex),
    Merged(Vec<Arc<Run>>, Run),
    /// The runs are as they were: there is no room for a merged one, it could not be written, or the process ends.
    NotMerged(io::Error),
    Failed(io::Error),
}

/// What goes on between the parts of a merge.
struct Breath {
    signals: Arc<Signals>,
    /// Whether this is a thread, which could rest.
    is_thread: bool,
    since: Instant,
}

impl Breath {
    #[expect(
        clippy::disallowed_methods,
        reason = "on a thread of its own; who waits for its end waits for one rest at most"
    )]
    fn take(&mut self) -> io::Result<()> {
        if self.signals.ends.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the process ends"));
        }
        if self.is_thread && !self.signals.hurries.load(Relaxed) {
            std::thread::sleep(self.since.elapsed().saturating_mul(RESTS).min(REST_MAX));
        }
        self.since = Instant::now();
        Ok(())
    }
}

/// Starts a helper that does jobs until nobody can give it any.
pub(super) fn start(
    name: &str,
    (directory, signals): (&Path, &Arc<Signals>),
    told: Sender<Done>,
    helpers: &Helpers,
) -> io::Result<(Sender<Job>, Helper)> {
    let (jobs, work) = unbounded();
    let directory: PathBuf = directory.to_owned();
    let mut breath = Breath { signals: Arc::clone(signals), is_thread: helpers.are_threads(), since: Instant::now() };
    // Kept from job to job: memory that is used for the first time is dear.
    let mut memory = Vec::new();
    let helper = helpers.start(name, work, move |job| {
        breath.since = Instant::now();
        let done = perform(&directory, job, &mut memory, &mut breath).unwrap_or_else(Done::Failed);
        told.send(done).is_ok()
    })?;
    Ok((jobs, helper))
}

fn perform(directory: &Path, job: Job, memory: &mut Vec<Entry>, breath: &mut Breath) -> io::Result<Done> {
    match job {
        Job::Write(index, records) => {
            let written = Run::write(directory, (index.entries(), memory), records);
            // Whoever is told can have it whole.
            drop(index);
            match written {
                Err(err) if matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    Ok(Done::NotWritten(err, records))
                }
                written => Ok(Done::Written(written?)),
            }
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
        Job::Merge(runs) => match Run::merge(directory, &runs, || breath.take()) {
            Ok(merged) => Ok(Done::Merged(runs, merged)),
            Err(err) if err.kind() == io::ErrorKind::InvalidData => {
                for run in &runs {
                    run.set_aside();
                }
                Err(err)
            }
            // The runs can all be read, only they are more than one would like.
            Err(err) => Ok(Done::NotMerged(err)),
        },
    }
}
