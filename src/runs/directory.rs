//! The runs of a directory: which of them count and which are leftovers, and all entries in them.
//!
//! Runs form a chain: each says after which number it begins, and that is where the one before it ends. One that is damaged or missing
//! makes all of them worthless, because what it had would be taken for something that never was; they are made again from the journal then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::entries::Entries;
use super::entry::Entry;
use super::filter::Filter;
use super::ranges::Ranges;
use super::run::Run;

/// A run, and its filter if that was wanted.
pub(crate) type Opened<E> = (Run<E>, Option<Filter>);

/// What is in a directory.
struct Found<E> {
    /// The runs, oldest first, and the filters that were wanted; or which of them is damaged or missing.
    whole: Result<Vec<Opened<E>>, String>,
    /// Files that nothing needs any more.
    leftovers: Vec<PathBuf>,
}

/// Runs that cover more than `until`, if there is such a bound, are leftovers. Filters are wanted by whoever is told where the entries of the newest run are,
/// and those of one.
fn look<E: Entry>(
    directory: &Path,
    until: Option<u64>,
    wants_filter: impl Fn(&Ranges, &Ranges) -> bool,
) -> io::Result<Found<E>> {
    let (mut paths, mut leftovers) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(extension) if extension == E::KIND.extension => paths.push(path),
            Some("tmp") => leftovers.push(path),
            _ => {}
        }
    }
    paths.sort();
    let mut runs: Vec<Opened<E>> = Vec::new();
    // The newest first: each says where the one before it must end.
    let mut wanted = until;
    for path in paths.into_iter().rev() {
        let newest = runs.first().map(|(newest, _)| newest.ranges());
        match Run::open(&path, |ranges| wants_filter(newest.unwrap_or(ranges), ranges)) {
            // Merged into a newer one, and left by a process that ended then; or beyond what counts.
            Ok((run, _)) if wanted.is_some_and(|wanted| run.covers() > wanted) => leftovers.push(path),
            Ok((run, _)) if wanted.is_some_and(|wanted| run.covers() < wanted) => break,
            Ok(opened) => {
                wanted = Some(opened.0.after());
                runs.push(opened);
            }
            Err(err) if is_refused(&err) => return Err(at(&path, &err)),
            Err(err) => return Ok(Found { whole: Err(at(&path, &err).to_string()), leftovers }),
        }
    }
    if let Some(number) = wanted.filter(|&wanted| wanted > 0) {
        let whole =
            Err(format!("the {} run that ends at {number} is missing in {}", E::KIND.name, directory.display()));
        return Ok(Found { whole, leftovers });
    }
    runs.reverse();
    Ok(Found { whole: Ok(runs), leftovers })
}

/// Whether an error tells nothing of what a file has: the operating system has no more of something, or does not permit it.
pub(crate) fn is_refused(err: &io::Error) -> bool {
    use rustix::io::Errno;
    let kinds = [io::ErrorKind::PermissionDenied, io::ErrorKind::OutOfMemory];
    let numbers = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    kinds.contains(&err.kind()) || err.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// An error, with the file that it is about.
fn at(path: &Path, err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), format!("{}: {err}", path.display()))
}

/// The runs in a directory, oldest first, with the filters that are wanted; those that cover more than `until`, if there is such a bound, and leftovers of writing
/// are removed. Or which of them is damaged or missing; an error is one of a system that refuses. Blocks.
pub(crate) fn open_all<E: Entry>(
    directory: &Path,
    until: Option<u64>,
    wants_filter: impl Fn(&Ranges, &Ranges) -> bool,
) -> io::Result<Result<Vec<Opened<E>>, String>> {
    let Found { whole, leftovers } = look(directory, until, wants_filter)?;
    leftovers.iter().try_for_each(|path| fs::remove_file(path).map_err(|err| at(path, &err)))?;
    Ok(whole)
}

/// Reads all entries in the runs of a directory, and changes nothing; answers what the runs cover, or `None` when one
/// is damaged or missing, so that the next start makes them again. One id may come twice. Blocks.
pub(crate) fn read_all<E: Entry>(directory: &Path, visit: impl FnMut(E)) -> io::Result<Option<u64>> {
    let Ok(runs) = look(directory, None, |_, _| false)?.whole else { return Ok(None) };
    visit_all(runs.iter().map(|(run, _)| run), visit)?;
    Ok(Some(runs.last().map_or(0, |(newest, _)| newest.covers())))
}

/// Reads all entries of some runs, one after the other. Blocks.
pub(crate) fn visit_all<'r, E: Entry>(
    runs: impl Iterator<Item = &'r Run<E>>,
    mut visit: impl FnMut(E),
) -> io::Result<()> {
    for run in runs {
        let mut entries = Entries::new(run)?;
        while let Some(entry) = entries.next() {
            visit(entry);
            entries.advance()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_system_that_refuses_is_no_damage_and_a_disk_that_cannot_be_read_is() {
        let refused = |err: Errno| is_refused(&io::Error::from_raw_os_error(err.raw_os_error()));
        assert!(
            [Errno::MFILE, Errno::NFILE, Errno::ACCESS, Errno::PERM, Errno::NOMEM].map(refused).iter().all(|is| *is)
        );
        assert!(![Errno::IO, Errno::NOENT, Errno::UCLEAN].map(refused).iter().any(|is| *is));
        assert!(!is_refused(&io::ErrorKind::InvalidData.into()));
    }
}
