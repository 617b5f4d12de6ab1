//! Asking the runs: what is kept of them in memory, and what they said of the ids that were touched last.
//!
//! A run's filter says of nearly every id that is not there that it is not. It is in memory while it is worth that ([`Worth`]): of ids in order only those of the
//! newest runs are, of ids in no order all, and so they are when more than some thirty of each run come in none, as those of settlement transfers.
//! What is wanted again a helper reads.
//!
//! # Invariants
//!
//! 1. What is answered does not depend on which filters are in memory.
//!
//! # Not here
//!
//! What a run is ([`crate::runs`]), and when there is a new one ([`super::known`]).

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use super::IdRun;
use crate::ledger::{Sequence, TransferId};
use crate::runs::{Filter, IdEntry, Key, NONE, Opened, Range, Ranges, Seed, Worth};
use crate::telemetry::chain;

/// All runs.
#[derive(Debug)]
pub(super) struct Asking {
    /// The oldest first.
    runs: Vec<Kept>,
    /// Where ids of runs are.
    in_runs: Ranges,
    asked: Asked,
    /// Whether some run was read in vain too often.
    is_filter_wanted: Cell<bool>,
}

/// A run, and what of it is in memory.
#[derive(Debug)]
struct Kept {
    run: Arc<IdRun>,
    filter: Option<Filter>,
    worth: Worth,
    /// Whether its filter is being read.
    is_being_read: bool,
}

/// What the runs said of the ids that were touched last.
#[derive(Debug)]
struct Asked {
    /// In this range are no ids of runs.
    clear: Range,
    /// Those that are where ids of runs are.
    ids: Vec<AskedId>,
    /// The one that is probably looked up next: they are in the order in which they were touched.
    next: Cell<usize>,
}

/// An id that was touched.
#[derive(Debug)]
struct AskedId {
    id: TransferId,
    /// For the filter that was asked last.
    key: Key,
    /// Whether some run may have it.
    may_be: bool,
}

impl Kept {
    fn new((run, filter): Opened<IdEntry>) -> Self {
        Self { run: Arc::new(run), filter, worth: Worth::default(), is_being_read: false }
    }

    /// The record of an id that is in this run.
    fn find(&self, id: TransferId) -> Option<Sequence> {
        if !self.run.ranges().hold(id.raw()) {
            return None;
        }
        let filter = self.filter.as_ref();
        if filter.is_some_and(|filter| !filter.may_have(&Key::new(id.raw(), filter.seed()))) {
            self.worth.ruled_out(1);
            return None;
        }
        let found =
            self.run.look(id.raw()).unwrap_or_else(|err| damaged(&self.run, &err)).map(|(_, sequence)| sequence);
        if found.is_none() && filter.is_none() {
            self.worth.was_read_in_vain();
        }
        found
    }
}

impl Asking {
    /// Those that were opened, the oldest first.
    pub(super) fn of(opened: Vec<Opened<IdEntry>>) -> Self {
        let runs: Vec<_> = opened.into_iter().map(Kept::new).collect();
        let asked = Asked { clear: NONE, ids: Vec::new(), next: Cell::new(0) };
        Self { in_runs: of_all(&runs), runs, asked, is_filter_wanted: Cell::new(false) }
    }

    /// The runs, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<IdRun>> {
        self.runs.iter().map(|kept| Arc::clone(&kept.run)).collect()
    }

    /// All ids of records up to this one are in runs.
    pub(super) fn covers(&self) -> Sequence {
        self.runs.last().map_or(0, |newest| newest.run.covers())
    }

    /// The number of ids.
    pub(super) fn ids(&self) -> usize {
        self.runs.iter().map(|kept| kept.run.len()).sum()
    }

    /// What the filter of the newest is keyed by.
    pub(super) fn seed(&self) -> Option<Seed> {
        self.runs.last().map(|newest| newest.run.seed())
    }

    /// Puts a run, with its filter, in the place of those that were merged into it, and answers the filters that are not needed any more.
    pub(super) fn add(&mut self, merged: &[Arc<IdRun>], (run, filter): (IdRun, Filter)) -> Vec<Filter> {
        let is_gone = |kept: &mut Kept| merged.iter().any(|gone| Arc::ptr_eq(gone, &kept.run));
        let mut unneeded: Vec<_> = self.runs.extract_if(.., is_gone).filter_map(|kept| kept.filter).collect();
        self.runs.push(Kept::new((run, Some(filter))));
        self.runs.sort_by_key(|kept| kept.run.covers());
        self.in_runs = of_all(&self.runs);
        self.asked.forget();
        if let Some(newest) = self.runs.last().map(|newest| Arc::clone(&newest.run)) {
            unneeded.extend(self.runs.iter_mut().filter_map(|kept| {
                let is_needed = kept.worth.is_filter_needed(newest.ranges(), kept.run.ranges());
                if is_needed { None } else { kept.filter.take() }
            }));
        }
        unneeded
    }

    /// Whose filters are in memory.
    #[cfg(test)]
    pub(super) fn filters(&self) -> Vec<bool> {
        self.runs.iter().map(|kept| kept.filter.is_some()).collect()
    }

    /// How many ids each filter ruled out since the last run came.
    #[cfg(test)]
    pub(super) fn ruled_out(&self) -> Vec<u32> {
        self.runs.iter().map(|kept| kept.worth.all_ruled_out()).collect()
    }

    /// About which of the ids that were touched last runs were asked, and whether one may have it.
    #[cfg(test)]
    pub(super) fn asked(&self) -> Vec<(TransferId, bool)> {
        self.asked.ids.iter().map(|asked| (asked.id, asked.may_be)).collect()
    }

    /// A run whose filter is to be read, if there is one; each is answered once.
    pub(super) fn next_wanted(&mut self) -> Option<Arc<IdRun>> {
        if !self.is_filter_wanted.get() {
            return None;
        }
        let is_wanted = |kept: &&mut Kept| kept.filter.is_none() && !kept.is_being_read && kept.worth.wants_filter();
        let Some(kept) = self.runs.iter_mut().find(is_wanted) else {
            self.is_filter_wanted.set(false);
            return None;
        };
        kept.is_being_read = true;
        Some(Arc::clone(&kept.run))
    }

    /// Takes up a filter that was read, or answers it where its run is gone.
    pub(super) fn take_up_filter(&mut self, run: &Arc<IdRun>, filter: Filter) -> Option<Filter> {
        let Some(kept) = self.was_read(run) else { return Some(filter) };
        kept.worth.filter_was_read();
        kept.filter.replace(filter)
    }

    /// A filter could not be read. Without it the run can be asked all the same, unless it is damaged.
    pub(super) fn go_on_without_filter(&mut self, run: &Arc<IdRun>, err: &io::Error) {
        let Some(kept) = self.was_read(run) else { return };
        kept.worth.give_up();
        if matches!(err.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
            damaged(run, err);
        }
        tracing::warn!(%err, "the filter of an id run cannot be read now, so that new ids of old times take longer; tried again once another run came");
    }

    /// A run whose filter is not being read any more, unless it is gone.
    fn was_read(&mut self, run: &Arc<IdRun>) -> Option<&mut Kept> {
        let kept = self.runs.iter_mut().find(|kept| Arc::ptr_eq(&kept.run, run))?;
        kept.is_being_read = false;
        Some(kept)
    }

    /// Asks about some ids, all at once; they are in this range.
    #[inline]
    pub(super) fn touch(&mut self, ids: impl Iterator<Item = TransferId> + Clone, block: Range) {
        self.asked.forget();
        if self.in_runs.meet(block) {
            // A few that span far would be looked for in all runs.
            let held = ids.filter(|id| self.in_runs.hold(id.raw()));
            let block = around(held.clone());
            self.asked.ask(self.runs.iter().filter(|kept| kept.run.ranges().meet(block)), held);
        } else {
            self.asked.clear = block;
        }
    }

    /// The record of an id. Reads a run only where it may be.
    #[inline]
    pub(super) fn find(&self, id: TransferId) -> Option<Sequence> {
        if !self.asked.answer(id).unwrap_or_else(|| self.in_runs.hold(id.raw())) {
            return None;
        }
        // The newest first: repeats are mostly young.
        self.runs.iter().rev().find_map(|kept| {
            let found = kept.find(id);
            self.is_filter_wanted.set(self.is_filter_wanted.get() || kept.worth.wants_filter());
            found
        })
    }
}

impl Asked {
    fn forget(&mut self) {
        self.clear = NONE;
        self.ids.clear();
        self.next.set(0);
    }

    #[inline]
    fn ask<'r>(&mut self, runs: impl Iterator<Item = &'r Kept> + Clone, ids: impl Iterator<Item = TransferId>) {
        let mut seed = runs.clone().find_map(|kept| kept.filter.as_ref()).map_or((0, 0), Filter::seed);
        self.ids.extend(ids.map(|id| AskedId { id, key: Key::new(id.raw(), seed), may_be: false }));
        for Kept { run, filter, worth, .. } in runs {
            let Some(filter) = filter else {
                self.ids.iter_mut().for_each(|asked| asked.may_be |= run.ranges().hold(asked.id.raw()));
                continue;
            };
            // Mostly all have the same.
            if filter.seed() != seed {
                seed = filter.seed();
                self.ids.iter_mut().for_each(|asked| asked.key = Key::new(asked.id.raw(), seed));
            }
            let mut missing = 0_u32;
            for asked in &mut self.ids {
                let (is_held, may_have) = (run.ranges().hold(asked.id.raw()), filter.may_have(&asked.key));
                asked.may_be |= is_held && may_have;
                missing = missing.saturating_add(u32::from(is_held && !may_have));
            }
            worth.ruled_out(missing);
        }
    }

    /// Whether some run may have an id, if that was asked.
    #[inline]
    fn answer(&self, id: TransferId) -> Option<bool> {
        if self.clear.0 <= id.raw() && id.raw() <= self.clear.1 {
            return Some(false);
        }
        let is_it = |at: &usize| self.ids.get(*at).is_some_and(|asked| asked.id == id);
        let at = Some(self.next.get()).filter(is_it).or_else(|| (0..self.ids.len()).find(is_it))?;
        self.next.set(at.saturating_add(1));
        self.ids.get(at).map(|asked| asked.may_be)
    }
}

/// A run that cannot be read is made again by the next start, with all others.
#[cold]
fn damaged(run: &IdRun, err: &io::Error) -> ! {
    run.set_aside();
    unreadable(err)
}

/// An id that cannot be looked up must not be taken for new: a repeat would be done twice. The next start makes the runs again.
#[cold]
#[expect(clippy::panic, reason = "going on could do a transfer twice; a panic ends the process")]
pub(super) fn unreadable(err: &io::Error) -> ! {
    tracing::error!(err = %chain(err), "the known ids cannot be read or written");
    panic!("the known ids cannot be read or written: {err}");
}

/// The range of some ids.
pub(super) fn around(ids: impl Iterator<Item = TransferId>) -> Range {
    ids.fold(NONE, |range, id| (range.0.min(id.raw()), range.1.max(id.raw())))
}

/// Where the ids of these runs are.
fn of_all(runs: &[Kept]) -> Ranges {
    Ranges::of(runs.iter().flat_map(|kept| kept.run.ranges().iter()))
}

#[cfg(test)]
#[path = "asking_tests.rs"]
mod tests;
