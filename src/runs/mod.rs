//! Runs: entries with ids, of which there are more than memory holds, in files that are sorted by id, never changed, and merged now and then.
//!
//! The router has its known ids in runs, the store what was given back of transfers.
//!
//! # Invariants
//!
//! 1. A run is whole and durable before it has its name.
//! 2. Runs of a directory form a chain by their numbers; one that is damaged or missing is noticed.
//! 3. What a merge replaces is removed after it is durable, so no moment is without it.
//!
//! # Not here
//!
//! When runs are written, merged and asked: [`crate::router`], [`crate::store`].

mod directory;
mod entries;
mod entry;
mod fences;
mod filter;
mod merging;
mod order;
mod ranges;
mod run;
mod worth;
mod writer;

pub(crate) use directory::{Opened, is_refused, open_all, read_all, visit_all};
pub(crate) use entry::{Entry, IdEntry, Kind};
pub(crate) use filter::{Filter, Key, Seed};
pub(crate) use merging::{APART, MERGED, beside_newest, to_merge, to_merge_alike};
#[cfg(test)]
pub(crate) use merging::{MERGED_APART, most_with_one_id};
pub(crate) use ranges::{NONE, Range, Ranges};
pub(crate) use run::Run;
pub(crate) use worth::Worth;
pub(crate) use writer::BREATHED_AFTER;
