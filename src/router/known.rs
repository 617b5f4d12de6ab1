//! All ids ever decided, in bounded memory: the newest in an index, older ones in runs on disk.
//!
//! ```text
//!  admit ──► active ──full──► leaving (its last pending ids become durable) ──► written as a run ──► merged with others
//! ```
//!
//! An id is looked for in the active index, in the one that leaves, in the one being written, and in the runs ([`super::asking`]). Runs are written
//! by one thread and merged by another, so that a long merge does not keep ids in memory. An id is looked for only in runs that have a range of ids where
//! it would be. So when eight of about one size may all have one, they become one; when the ids of each caller come in their order, runs lie apart, and of 256 the oldest sixty-four do. An id is
//! merged hardly ever. A merge that fails leaves the runs as they are, and is tried again when there is one more.
//!
//! # Invariants
//!
//! 1. An id that was settled is found for ever.
//! 2. All ids of records up to [`KnownIds::covers`] are in runs.
//!
//! # Not here
//!
//! What an index ([`super::ids`]) and a run are, which runs are merged ([`crate::runs`]), and the two helpers ([`super::keeping`]).

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam::channel::{Receiver, unbounded};

use super::IdRun;
use super::asking::{Asking, around, unreadable};
use super::ids::{Admitted, IdIndex};
use super::keeping::{Done, FULL, Job, Signals, start};
use crate::flow::{Helper, Helpers, Jobs};
use crate::ledger::{Sequence, TransferId};
use crate::planted::{self, Bug};
use crate::runs::{APART, Filter, MERGED, Ranges, beside_newest, open_all, to_merge};

/// Ids of an index that is full, where nothing else is said: about 64 MB with its table.
pub const IDS_IN_MEMORY: usize = 2 << 20;

/// Runs of about one size in which one id may be, from which on a merge does not rest any more.
const BEHIND: usize = 2 * MERGED;

/// Runs, each of which is an open file, from which on a merge does not rest any more.
pub const BEHIND_APART: usize = 2 * APART;

/// A run for which there was no room is tried again when so small a part of an index has come since.
const TRIED_AGAIN: usize = 16;

/// All ids.
#[derive(Debug)]
pub struct KnownIds {
    active: IdIndex,
    /// Empty, with room for as many as one that is full.
    spare: Option<IdIndex>,
    /// Whether the first spare one was asked for; later ones are those that were written.
    is_prepared: bool,
    active_max: usize,
    /// How many ids full indexes had.
    left: usize,
    /// Full, with ids that are still pending, and all records up to this sequence settled when it left.
    leaving: Option<(IdIndex, Sequence)>,
    /// Full and settled, being written.
    writing: Option<Arc<IdIndex>>,
    /// There was no room for that: the sequences between which its records are, and with how many ids in `active` it is tried again.
    unwritten: Option<((Sequence, Sequence), usize)>,
    runs: Asking,
    is_merging: bool,
    /// There is a run since it was last looked whether there are enough to merge.
    has_new_run: bool,
    settled: Sequence,
    workers: Option<Workers>,
    done: Receiver<Done>,
    /// What the helpers are told while they are at work.
    signals: Arc<Signals>,
    helpers: Helpers,
    started: Vec<Helper>,
}

/// The two helpers: one writes, one merges.
#[derive(Debug)]
struct Workers {
    writer: Jobs<Job>,
    merger: Jobs<Job>,
}

impl KnownIds {
    /// Opens the runs of a directory, making it if there is none. Damaged runs are all removed: what they held is given again by
    /// [`Self::settle`]. An index is full with `active_max` ids.
    pub fn open(directory: &Path, active_max: usize, helpers: &Helpers) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let whole = open_all(directory, None, Ranges::lie_beside)?;
        if let Err(what) = &whole {
            tracing::warn!(%what, "the known ids are made again from the journal");
            fs::remove_dir_all(directory)?;
            fs::create_dir_all(directory)?;
        }
        let runs = Asking::of(whole.unwrap_or_default());
        let (told, done) = unbounded();
        let signals = Arc::new(Signals::default());
        let seed = runs.seed().unwrap_or_else(rand::random);
        let (writer, writing) = start("heng-ids", (directory, seed, &signals), told.clone(), helpers)?;
        let (merger, merging) = start("heng-ids-merge", (directory, seed, &signals), told, helpers)?;
        let mut active = IdIndex::with_room(active_max);
        active.warm();
        Ok(Self {
            active,
            spare: None,
            is_prepared: false,
            active_max,
            left: 0,
            leaving: None,
            writing: None,
            unwritten: None,
            settled: runs.covers(),
            runs,
            is_merging: false,
            has_new_run: true,
            workers: Some(Workers { writer, merger }),
            done,
            signals,
            helpers: helpers.clone(),
            started: vec![writing, merging],
        })
    }

    /// All ids of records up to this one are in runs.
    pub fn covers(&self) -> Sequence {
        self.runs.covers()
    }

    /// The number of ids; one that is in memory and in a run is counted twice.
    pub fn len(&self) -> usize {
        let leaving = self.leaving.as_ref().map_or(0, |(index, _)| index.len());
        let writing = self.writing.as_ref().map_or(0, |index| index.len());
        self.runs.ids().saturating_add(self.active.len()).saturating_add(leaving).saturating_add(writing)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks the runs about these ids, and brings what else is asked about them into the cache, all at once.
    #[inline]
    pub fn touch(&mut self, ids: impl Iterator<Item = TransferId> + Clone) {
        let block = around(ids.clone());
        self.runs.touch(ids.clone(), block);
        let older = [self.leaving.as_ref().map(|(leaving, _)| leaving), self.writing.as_deref()];
        for index in older.into_iter().flatten().filter(|index| index.may_have(block)) {
            index.touch(ids.clone());
        }
        self.active.touch(ids);
    }

    /// The same for ids that are to be settled: those are in memory, and mostly in order.
    #[inline]
    pub fn touch_pending(&self, ids: &[TransferId]) {
        if !self.active.expects(ids) {
            self.active.touch(ids.iter().copied());
        }
    }

    /// What is known of an id outside the active index.
    #[inline]
    fn older(&self, id: TransferId) -> Admitted {
        if let Some((leaving, _)) = &self.leaving {
            match leaving.peek(id) {
                Admitted::New => {}
                known => return known,
            }
        }
        if let Some(sequence) = self.writing.as_ref().and_then(|index| index.find(id)) {
            return Admitted::Known(sequence);
        }
        if planted::is(Bug::RunsNotAsked) {
            return Admitted::New;
        }
        self.runs.find(id).map_or(Admitted::New, Admitted::Known)
    }

    /// Looks an id up, and notes it as pending if it is new. The id must be valid. May read the disk; hardly ever for a new id, but for some that lie where
    /// old ones do.
    #[inline]
    pub fn admit(&mut self, id: TransferId) -> Admitted {
        match self.older(id) {
            Admitted::New => self.active.admit(id),
            known => known,
        }
    }

    /// Looks an id up and notes nothing.
    pub fn peek(&self, id: TransferId) -> Admitted {
        match self.active.peek(id) {
            Admitted::New => self.older(id),
            known => known,
        }
    }

    /// The durable record of an id.
    pub fn find(&self, id: TransferId) -> Option<Sequence> {
        match self.peek(id) {
            Admitted::Known(sequence) => Some(sequence),
            Admitted::New | Admitted::Pending => None,
        }
    }

    /// Notes the record of an id; sequences come in order.
    #[inline]
    pub fn settle(&mut self, id: TransferId, sequence: Sequence) {
        self.settled = sequence;
        if let Some((leaving, _)) = &mut self.leaving {
            if leaving.settle_next(id, sequence) {
                return;
            }
            if leaving.peek(id) == Admitted::Pending {
                return leaving.settle(id, sequence);
            }
        }
        self.active.settle(id, sequence);
    }

    /// Lets a full index leave and takes up what the thread has done; never blocks. Called now and then.
    pub fn turn(&mut self) {
        while let Ok(done) = self.done.try_recv() {
            self.take_up(done);
        }
        if !self.is_prepared && self.active.len() >= self.active_max / 2 {
            self.is_prepared = true;
            self.give(Job::Prepare(self.active_max));
        }
        if let Some((records, _)) = self.unwritten.take_if(|(_, ids)| self.active.len() >= *ids)
            && let Some(index) = &self.writing
        {
            self.give(Job::Write(Arc::clone(index), records));
        }
        // A run is called by the last record that it covers: one that covered no more than the one before would take its place.
        let is_free = self.leaving.is_none() && self.writing.is_none() && self.settled > self.covers();
        if self.active.len() >= self.active_max && is_free {
            let next = self.spare.take().unwrap_or_else(|| IdIndex::with_room(self.active_max));
            self.left = self.left.saturating_add(self.active.len());
            self.leaving = Some((std::mem::replace(&mut self.active, next), self.settled));
        }
        if self.leaving.as_ref().is_some_and(|(leaving, _)| leaving.pending() == 0)
            && let Some((leaving, covers)) = self.leaving.take()
        {
            let leaving = Arc::new(leaving);
            self.writing = Some(Arc::clone(&leaving));
            self.give(Job::Write(leaving, (self.covers(), covers)));
        }
        self.signals.came.store(self.left.saturating_add(self.active.len()), Relaxed);
        // Two full ones would be more than the memory that was promised.
        let filled = self.active.len().saturating_mul(FULL).checked_div(self.active_max).unwrap_or(FULL);
        self.signals.filled.store(filled, Relaxed);
        while let Some(run) = self.runs.next_wanted() {
            self.give(Job::Filter(run));
        }
        if self.has_new_run && !self.is_merging {
            self.has_new_run = false;
            self.merge_if_many();
        }
    }

    /// Like [`Self::turn`], but waits for what is being written: while recovering there is no hurry, but a bound.
    pub fn turn_and_wait(&mut self) {
        self.turn();
        self.signals.filled.store(FULL, Relaxed);
        while self.writing.is_some() && self.unwritten.is_none() {
            match self.helpers.wait(&self.done) {
                Some(Done::NotWritten(err, _)) => unreadable(&err),
                Some(done) => self.take_up(done),
                None => return,
            }
        }
    }

    fn give(&self, job: Job) {
        if let Some(workers) = &self.workers {
            let worker = match job {
                Job::Merge(_) => &workers.merger,
                // The router should not wait for it until an index is written, nor, longer, until runs are merged.
                Job::Filter(_) if !self.is_merging => &workers.merger,
                _ => &workers.writer,
            };
            // The threads end only with this.
            let _taken = worker.give(job);
        }
    }

    fn take_up(&mut self, done: Done) {
        match done {
            Done::Written(run, filter) => {
                // The thread has let go of it.
                if let Some(written) = self.writing.take().and_then(Arc::into_inner) {
                    self.give(Job::Clear(written));
                }
                self.add_run(Vec::new(), (run, filter));
            }
            Done::NotWritten(err, records) => {
                let ids = self.active.len().saturating_add(self.active_max / TRIED_AGAIN).saturating_add(1);
                self.unwritten = Some((records, ids));
                tracing::error!(%err, "there is no room for known ids, which stay in memory; tried again after some more");
            }
            Done::Ready(index) => self.spare = Some(index),
            Done::Filter(run, filter) => {
                let unneeded = self.runs.take_up_filter(&run, filter);
                self.forget(unneeded.into_iter().collect(), vec![run]);
            }
            Done::NotFilter(run, err) => {
                self.runs.go_on_without_filter(&run, &err);
                self.forget(Vec::new(), vec![run]);
            }
            Done::Merged(merged, run, filter) => {
                self.is_merging = false;
                self.add_run(merged, (run, filter));
            }
            Done::NotMerged(err) => {
                self.is_merging = false;
                tracing::warn!(%err, runs = self.runs.all().len(), "id runs cannot be merged now; tried again after the next one");
            }
            Done::Failed(err) => unreadable(&err),
        }
    }

    /// Has a helper give back what takes long to give back: much memory, large files.
    fn forget(&self, filters: Vec<Filter>, runs: Vec<Arc<IdRun>>) {
        if !filters.is_empty() || !runs.is_empty() {
            self.give(Job::Forget(filters, runs));
        }
    }

    /// Takes up a run in the place of those that were merged into it.
    fn add_run(&mut self, merged: Vec<Arc<IdRun>>, run: (IdRun, Filter)) {
        let unneeded = self.runs.add(&merged, run);
        self.forget(unneeded, merged);
        self.has_new_run = true;
        let runs = self.runs.all();
        let beside = beside_newest(&runs, self.active_max);
        self.signals.is_due.store(beside >= MERGED, Relaxed);
        self.signals.is_behind.store(beside >= BEHIND || runs.len() >= BEHIND_APART, Relaxed);
    }

    fn merge_if_many(&mut self) {
        if let Some(merged) = to_merge(&self.runs.all(), self.active_max) {
            self.is_merging = true;
            self.give(Job::Merge(merged.to_vec()));
        }
    }
}

impl Drop for KnownIds {
    fn drop(&mut self) {
        self.workers = None;
        self.signals.ends.store(true, Relaxed);
        self.started.drain(..).for_each(Helper::join);
    }
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
