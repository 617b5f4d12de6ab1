//! The runs of a directory: which of them count and which are leftovers, and all ids in them.
//!
//! Runs form a chain: each says after which record its ids begin, and that is where the one before it ends. One that is damaged or missing
//! makes all of them worthless, because an id in it would be taken for new; they are made again from the journal then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::filter::Filter;
use super::ranges::Ranges;
use super::run::{Entries, Run};
use crate::ledger::{Sequence, TransferId};

/// A run, and its filter if that was wanted.
pub(super) type Opened = (Run, Option<Filter>);

/// What is in a directory.
struct Found {
    /// The runs, oldest first, and the filters that were wanted; `None` when one of them is damaged or missing.
    whole: Option<Vec<Opened>>,
    /// Files that nothing needs any more.
    leftovers: Vec<PathBuf>,
}

/// Filters are wanted by whoever is told where the ids of the newest run are, and those of one.
fn look(directory: &Path, wants_filter: impl Fn(&Ranges, &Ranges) -> bool) -> io::Result<Found> {
    let (mut paths, mut leftovers) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("ids") => paths.push(path),
            Some("tmp") => leftovers.push(path),
            _ => {}
        }
    }
    paths.sort();
    let mut runs: Vec<Opened> = Vec::new();
    // The newest first: each says where the one before it must end.
    let mut wanted = None;
    for path in paths.into_iter().rev() {
        let newest = runs.first().map(|(newest, _)| newest.ranges());
        match Run::open(&path, |ranges| wants_filter(newest.unwrap_or(ranges), ranges)) {
            // Merged into a newer one, and left by a process that ended then.
            Ok((run, _)) if wanted.is_some_and(|wanted| run.covers() > wanted) => leftovers.push(path),
            Ok((run, _)) if wanted.is_some_and(|wanted| run.covers() < wanted) => break,
            Ok(opened) => {
                wanted = Some(opened.0.after());
                runs.push(opened);
            }
            Err(err) => {
                tracing::warn!(path = %path.display(), %err, "an id run cannot be used; all are made again");
                return Ok(Found { whole: None, leftovers });
            }
        }
    }
    if let Some(sequence) = wanted.filter(|&wanted| wanted > 0) {
        tracing::warn!(sequence, "the id run that ends here is missing; all are made again");
        return Ok(Found { whole: None, leftovers });
    }
    runs.reverse();
    Ok(Found { whole: Some(runs), leftovers })
}

/// The runs in a directory, oldest first, with the filters that are needed; leftovers of writing are removed. `None` when one of them is damaged or missing.
pub(super) fn open_all(directory: &Path) -> io::Result<Option<Vec<Opened>>> {
    let Found { whole, leftovers } = look(directory, Ranges::lie_beside)?;
    leftovers.iter().try_for_each(fs::remove_file)?;
    Ok(whole)
}

/// Reads all ids in the runs of a directory, and changes nothing; answers up to which record the runs have all ids, or `None` when one
/// is damaged or missing, so that the next start makes them again. One id may come twice. Blocks.
pub fn read_known_ids(directory: &Path, mut visit: impl FnMut(TransferId, Sequence)) -> io::Result<Option<Sequence>> {
    let Some(runs) = look(directory, |_, _| false)?.whole else { return Ok(None) };
    for (run, _) in &runs {
        let mut entries = Entries::new(run)?;
        while let Some((id, sequence)) = entries.next() {
            visit(TransferId::from_raw(id), sequence);
            entries.advance()?;
        }
    }
    Ok(Some(runs.last().map_or(0, |(newest, _)| newest.covers())))
}
