//! The runs of a directory: which of them count and which are leftovers, and all ids in them.
//!
//! Runs form a chain: each says after which record its ids begin, and that is where the one before it ends. One that is damaged or missing
//! makes all of them worthless, because an id in it would be taken for new; they are made again from the journal then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::run::{Entries, Run};
use crate::ledger::{Sequence, TransferId};

/// What is in a directory.
struct Found {
    /// The runs, oldest first; `None` when one of them is damaged or missing.
    whole: Option<Vec<Run>>,
    /// Files that nothing needs any more.
    leftovers: Vec<PathBuf>,
}

fn look(directory: &Path) -> io::Result<Found> {
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
    let mut runs = Vec::new();
    // The newest first: each says where the one before it must end.
    let mut wanted = None;
    for path in paths.into_iter().rev() {
        match Run::open(&path) {
            // Merged into a newer one, and left by a process that ended then.
            Ok(run) if wanted.is_some_and(|wanted| run.covers() > wanted) => leftovers.push(path),
            Ok(run) if wanted.is_some_and(|wanted| run.covers() < wanted) => break,
            Ok(run) => {
                wanted = Some(run.after());
                runs.push(run);
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

/// The runs in a directory, oldest first; leftovers of writing are removed. `None` when one of them is damaged or missing.
pub(super) fn open_all(directory: &Path) -> io::Result<Option<Vec<Run>>> {
    let Found { whole, leftovers } = look(directory)?;
    leftovers.iter().try_for_each(fs::remove_file)?;
    Ok(whole)
}

/// Reads all ids in the runs of a directory, and changes nothing; answers up to which record the runs have all ids, or `None` when one
/// is damaged or missing, so that the next start makes them again. One id may come twice. Blocks.
pub fn read_known_ids(directory: &Path, mut visit: impl FnMut(TransferId, Sequence)) -> io::Result<Option<Sequence>> {
    let Some(runs) = look(directory)?.whole else { return Ok(None) };
    for run in &runs {
        let mut entries = Entries::new(run)?;
        while let Some((id, sequence)) = entries.next() {
            visit(TransferId::from_raw(id), sequence);
            entries.advance()?;
        }
    }
    Ok(Some(runs.last().map_or(0, Run::covers)))
}
