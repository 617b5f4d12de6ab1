//! The two helpers of the known ids: one writes full indexes as runs and makes room for new ones, the other merges runs. Whichever is not at work reads
//! filters that are needed again.
//!
//! # Invariants
//!
//! 1. A merge that does not come to its end, because there is no room, something fails or the process ends, leaves all ids where they can be read.
//! 2. A run whose checksums are wrong is set aside before the process ends.
//!
//! # Not here
//!
//! When something is written ([`super::known`]); what is merged ([`crate::runs`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crossbeam::channel::{Sender, unbounded};

use super::IdRun;
use super::ids::IdIndex;
use crate::flow::{Breather, Helper, Helpers, Jobs};
use crate::ledger::Sequence;
use crate::runs::{BREATHED_AFTER, Filter, IdEntry, Seed};

/// A merge rests so many times as long as it works, and more while it is ahead of what comes and no other waits for it; so does the writing of an
/// index that is ahead of the one that fills. Up to a bound: a disk that stands still is no work. What is written at once takes a processor from those
/// who answer: of each index, a fifth of a second.
const MERGE_RESTS: u32 = 2;
const MERGE_RESTS_AHEAD: u32 = 8;
const WRITE_RESTS: u32 = 4;

/// What the helpers are told while they are at work.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The process ends.
    pub(super) ends: AtomicBool,
    /// There are too many runs, so merge without a rest.
    pub(super) is_behind: AtomicBool,
    /// There are enough runs beside each other for a merge; another one, if one is under way already.
    pub(super) is_due: AtomicBool,
    /// How many ids came until now.
    pub(super) came: AtomicUsize,
    /// How many of [`FULL`] parts the next index has, or more when somebody waits: so much of this one should be written.
    pub(super) filled: AtomicUsize,
}

/// Parts of an index.
pub(super) const FULL: usize = 1 << 10;

/// Something for a helper.
pub(super) enum Job {
    /// With the sequences between which its records are.
    Write(Arc<IdIndex>, (Sequence, Sequence)),
    /// Make room for so many ids.
    Prepare(usize),
    Clear(IdIndex),
    /// Read the filter of a run.
    Filter(Arc<IdRun>),
    /// Give back the memory of filters, and the files and memory of runs that were merged.
    Forget(Vec<Filter>, Vec<Arc<IdRun>>),
    Merge(Vec<Arc<IdRun>>),
}

/// What a helper has done.
pub(super) enum Done {
    Written(IdRun, Filter),
    /// There is no room for a run of the records between these sequences; the index is as it was.
    NotWritten(io::Error, (Sequence, Sequence)),
    /// An empty index with room.
    Ready(IdIndex),
    Filter(Arc<IdRun>, Filter),
    NotFilter(Arc<IdRun>, io::Error),
    Merged(Vec<Arc<IdRun>>, IdRun, Filter),
    /// The runs are as they were: there is no room for a merged one, it could not be written, or the process ends.
    NotMerged(io::Error),
    Failed(io::Error),
}

/// What goes on between the parts of a job.
struct Breath {
    signals: Arc<Signals>,
    breather: Breather,
}

impl Breath {
    /// Between the parts of a merge, which ends when the process does: nothing is lost with it.
    fn amid_merge(&self, merged: usize, came_before: usize) -> io::Result<()> {
        self.unless_it_ends()?;
        let came = self.signals.came.load(Relaxed).saturating_sub(came_before);
        let times = merge_rests(merged, came, self.signals.is_due.load(Relaxed));
        self.breather.rest(times, self.signals.is_behind.load(Relaxed));
        Ok(())
    }

    /// Between the parts of what is for nothing when the process ends.
    fn unless_it_ends(&self) -> io::Result<()> {
        if self.signals.ends.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the process ends"));
        }
        Ok(())
    }

    /// Between the parts of a run that is written, which the process waits for when it ends: three times as far as the index that fills. Then this
    /// one is empty long before that is full, and a start after a crash has not much more to read again than if it were written at once.
    fn amid_write(&self, done: usize, parts: usize) {
        let filled = self.signals.filled.load(Relaxed);
        let is_ahead = done.saturating_mul(FULL) > parts.saturating_mul(filled.saturating_mul(3));
        self.breather.rest(WRITE_RESTS, !is_ahead || self.signals.ends.load(Relaxed));
    }
}

/// How many times as long as it works a merge rests. The next one of as many ids is due when so many more have come, so this one has until then; it is
/// ahead while it has merged a quarter more than came since it began.
fn merge_rests(merged: usize, came: usize, is_due: bool) -> u32 {
    let is_ahead = merged > came.saturating_add(came / 4);
    if is_ahead && !is_due { MERGE_RESTS_AHEAD } else { MERGE_RESTS }
}

/// Starts a helper that does jobs until nobody can give it any. Runs that it writes have this seed.
pub(super) fn start(
    name: &str,
    (directory, seed, signals): (&Path, Seed, &Arc<Signals>),
    told: Sender<Done>,
    helpers: &Helpers,
) -> io::Result<(Jobs<Job>, Helper)> {
    let directory: PathBuf = directory.to_owned();
    let breath = Breath { signals: Arc::clone(signals), breather: Breather::new(helpers) };
    // Kept from job to job: memory that is used for the first time is dear.
    let mut memory = Vec::new();
    helpers.start(name, unbounded(), move |job| {
        breath.breather.begin();
        let done = perform((&directory, seed), job, &mut memory, &breath).unwrap_or_else(|err| Some(Done::Failed(err)));
        done.is_none_or(|done| told.send(done).is_ok())
    })
}

/// Does a job, and answers what there is to be told of it.
fn perform(
    (directory, seed): (&Path, Seed),
    job: Job,
    memory: &mut Vec<IdEntry>,
    breath: &Breath,
) -> io::Result<Option<Done>> {
    let done = match job {
        Job::Write(index, records) => {
            let written = IdRun::write((directory, seed), (index.entries(), memory), records, &|done, parts| {
                breath.amid_write(done, parts);
            });
            // Whoever is told can have it whole.
            drop(index);
            match written {
                Err(err) if matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    Done::NotWritten(err, records)
                }
                written => {
                    let (run, filter) = written?;
                    Done::Written(run, filter)
                }
            }
        }
        Job::Prepare(ids) => {
            let mut index = IdIndex::with_room(ids);
            index.warm_all();
            Done::Ready(index)
        }
        Job::Clear(mut index) => {
            index.clear();
            Done::Ready(index)
        }
        Job::Filter(run) => match run.filter(&mut || breath.unless_it_ends()) {
            Ok(filter) => Done::Filter(run, filter),
            Err(err) => Done::NotFilter(run, err),
        },
        Job::Forget(filters, runs) => {
            drop((filters, runs));
            return Ok(None);
        }
        Job::Merge(runs) => merge((directory, seed), runs, breath)?,
    };
    Ok(Some(done))
}

fn merge((directory, seed): (&Path, Seed), runs: Vec<Arc<IdRun>>, breath: &Breath) -> io::Result<Done> {
    let (came_before, mut merged) = (breath.signals.came.load(Relaxed), 0_usize);
    let breathe = || {
        merged = merged.saturating_add(BREATHED_AFTER);
        breath.amid_merge(merged, came_before)
    };
    match IdRun::merge((directory, seed), &runs, breathe) {
        Ok((merged, filter)) => Ok(Done::Merged(runs, merged, filter)),
        Err(err) if err.kind() == io::ErrorKind::InvalidData => {
            for run in &runs {
                run.set_aside();
            }
            Err(err)
        }
        // The runs can all be read, only they are more than one would like.
        Err(err) => Ok(Done::NotMerged(err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_rests_long_while_it_is_ahead_and_nothing_waits_for_it() {
        let ahead = [(1, 0, false), (126, 100, false)];
        let not = [(0, 0, false), (125, 100, false), (126, 100, true)];
        assert!(ahead.iter().all(|&(merged, came, due)| merge_rests(merged, came, due) == MERGE_RESTS_AHEAD));
        assert!(not.iter().all(|&(merged, came, due)| merge_rests(merged, came, due) == MERGE_RESTS));
    }
}
