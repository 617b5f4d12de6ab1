//! Which runs are merged into one: those of about one size in which one id may be, because each is asked; or the oldest of very many that lie apart. Or, where that is
//! asked for, those of about one size wherever their ids lie.
//!
//! # Invariants
//!
//! 1. Runs that are merged follow each other in age, so that the merged one covers what it says.
//!
//! # Not here
//!
//! How they are merged ([`super::writer`]), and how fast.

use std::sync::Arc;

use super::entry::Entry;
use super::ranges::most_beside;
use super::run::Run;

/// Runs of about one size in which one id may be: so many are merged into one.
pub(crate) const MERGED: usize = 8;

/// Runs of about one size that lie apart, from which on the oldest of them are merged, and how many: only so that there are not too many files, and
/// not so many at once that what they have in memory twice meanwhile is much.
pub(crate) const APART: usize = 256;
pub(crate) const MERGED_APART: usize = 64;

/// The runs that are about as large as the newest, or smaller and among those; and the same of all before these. `unit` is the length of the smallest.
fn alike<E: Entry>(runs: &[Arc<Run<E>>], unit: usize) -> [&[Arc<Run<E>>]; 2] {
    let level = |run: &Arc<Run<E>>| run.len().checked_div(unit.max(1)).unwrap_or(0).max(1).ilog(MERGED);
    let split = |runs: &[Arc<Run<E>>]| {
        let newest = runs.last().map(level);
        runs.iter().rposition(|run| Some(level(run)) > newest).map_or(0, |larger| larger.saturating_add(1))
    };
    let (before, newest) = runs.split_at(split(runs));
    let (_, older) = before.split_at(split(before));
    [newest, older]
}

/// Those that are to be merged, the oldest first as all are, if there are enough.
pub(crate) fn to_merge<E: Entry>(runs: &[Arc<Run<E>>], unit: usize) -> Option<&[Arc<Run<E>>]> {
    alike(runs, unit).into_iter().find_map(|alike| beside(alike).or_else(|| apart(alike)))
}

/// Those of about one size, wherever their ids lie, the oldest first, if there are enough.
pub(crate) fn to_merge_alike<E: Entry>(runs: &[Arc<Run<E>>], unit: usize) -> Option<&[Arc<Run<E>>]> {
    let alike = alike(runs, unit).into_iter().find(|alike| alike.len() >= MERGED)?;
    alike.get(..alike.len().min(MERGED_APART))
}

/// In how many runs that are about as large as the newest one id may be.
pub(crate) fn beside_newest<E: Entry>(runs: &[Arc<Run<E>>], unit: usize) -> usize {
    let [newest, _] = alike(runs, unit);
    most_with_one_id(newest)
}

/// In how many of these runs one id may be, at most.
pub(crate) fn most_with_one_id<E: Entry>(runs: &[Arc<Run<E>>]) -> usize {
    most_beside(runs.iter().flat_map(|run| run.ranges().iter()))
}

/// The oldest in which one id may be, with what lies between them. The oldest, so that of many that wait none is merged again and again.
fn beside<E: Entry>(alike: &[Arc<Run<E>>]) -> Option<&[Arc<Run<E>>]> {
    let is_enough = |runs: &[Arc<Run<E>>]| most_with_one_id(runs) >= MERGED;
    if !is_enough(alike) {
        return None;
    }
    let oldest: Vec<_> = (0..=alike.len()).filter_map(|end| alike.get(..end)).collect();
    let oldest = oldest.get(oldest.partition_point(|oldest| !is_enough(oldest)))?;
    let newest: Vec<_> = (0..=oldest.len()).filter_map(|begin| oldest.get(begin..)).collect();
    let merged = newest.get(newest.partition_point(|newest| is_enough(newest)).checked_sub(1)?)?;
    // With more between them, to ask them costs less.
    (merged.len() <= 2 * MERGED_APART).then_some(merged)
}

fn apart<E: Entry>(alike: &[Arc<Run<E>>]) -> Option<&[Arc<Run<E>>]> {
    if alike.len() >= APART { alike.get(..MERGED_APART) } else { None }
}
