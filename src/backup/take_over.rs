//! From a data directory whose server cannot be ended to a new one: the old one is given up, its ledger is copied, and whoever served it acknowledges nothing
//! any more.
//!
//! The order is what makes it safe: first the old directory is fenced ([`DataDir::fence`]), then what is new in it is copied. What its server acknowledged
//! before was written before, and is copied; what it writes later it never acknowledges. Whether it stands still, hangs or works on makes no difference.
//! Nearly all is copied, and compared, before the fence: it takes long, and whatever stands in its way is found while the old one may still serve.
//!
//! Nobody serves the new directory, nor makes a backup or a restore of it, before it is whole. Broken off anywhere, the same once more goes on with it.

use std::fs;
use std::io;
use std::path::Path;

use super::restore::check_files;
use super::{BackupError, Made, Manifest, copy, io_error, patiently, segment_path};
use crate::engine::{DataDir, DataDirError};
use crate::journal::{Disk, FileDisk, private_directory, sync_directory};

/// Makes a data directory of another that is given up. `to` does not exist yet, or is a backup of the same ledger, which gets what is new and is a backup no
/// more. Blocks while it copies.
pub fn take_over(from: &Path, to: &Path) -> Result<Made, BackupError> {
    if !from.join("journal").is_dir() {
        return Err(DataDirError::Missing(from.to_owned()).into());
    }
    if let Some(refused) = DataDir::is_no_ledger(from) {
        return Err(refused.into());
    }
    DataDir::check_whole(from)?;
    is_gone(from)?;
    private_directory(to).map_err(io_error(to))?;
    // By one name each, however they are called.
    let (from, to) = (&from.canonicalize().map_err(io_error(from))?, &to.canonicalize().map_err(io_error(to))?);
    for path in [from, to] {
        // Both are noted as text, and found again by it.
        if path.to_str().is_none_or(|text| text.trim_end() != text) {
            return Err(io_error(path)(io::Error::new(io::ErrorKind::InvalidInput, "its name is no plain text")));
        }
    }
    if from.starts_with(to) || to.starts_with(from) {
        return Err(BackupError::Within { from: from.clone(), to: to.clone() });
    }
    // It may be served by now.
    is_done(from, to)?;
    let _own = patiently(|| DataDir::take(to))?;
    begin(from, to)?;
    let go = || {
        copy(from, to, || Ok(()))?;
        check_files(to)?;
        DataDir::fence(from, to)?;
        let made = copy(from, to, || Ok(()))?;
        become_ledger(to)?;
        Ok(made)
    };
    go().map_err(|source| broken_off(from, to, source))
}

/// Whose ledger goes on where.
fn is_fenced_by(from: &Path, to: &Path) -> Result<bool, DataDirError> {
    Ok(DataDir::fenced(from)?.is_some_and(|by| Path::new(&by) == to))
}

/// An error when the ledger went on elsewhere, or was to, and is not there: an empty directory must not be served in its stead.
fn is_gone(from: &Path) -> Result<(), BackupError> {
    let Some(by) = DataDir::fenced(from)? else { return Ok(()) };
    let to = Path::new(&by).to_owned();
    let is_there = to.join("journal").is_dir() && !Manifest::path(&to).exists();
    if is_there || DataDir::heir_of(&to)?.is_some() {
        return Ok(());
    }
    Err(BackupError::Gone { from: from.to_owned(), to })
}

/// An error when the ledger was taken over into this before.
fn is_done(from: &Path, to: &Path) -> Result<(), BackupError> {
    if is_fenced_by(from, to)? && DataDir::heir_of(to)?.is_none() {
        return Err(BackupError::TakenOverBefore { from: from.to_owned(), to: to.to_owned() });
    }
    Ok(())
}

/// Notes what is about to be, if it may.
fn begin(from: &Path, to: &Path) -> Result<(), BackupError> {
    let is_backup = Manifest::read(to)?.is_some();
    match DataDir::heir_of(to)? {
        // Broken off.
        Some(before) if Path::new(&before) == from => return Ok(()),
        Some(before) => return Err(DataDirError::Unfinished { path: to.to_owned(), from: before }.into()),
        None => {}
    }
    is_done(from, to)?;
    DataDir::check_not_fenced(from)?;
    if DataDir::was_served(to) {
        return Err(BackupError::Served(to.to_owned()));
    }
    let is_other = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() != "LOCK");
    if !is_backup && fs::read_dir(to).map_err(io_error(to))?.any(is_other) {
        return Err(BackupError::Occupied(to.to_owned()));
    }
    Ok(DataDir::begin_heir(to, from)?)
}

/// What is told of a failure: if nothing was given up, all is as it was, and a backup is one again.
fn broken_off(from: &Path, to: &Path, source: BackupError) -> BackupError {
    // Who cannot find that out had better try again, too.
    if is_fenced_by(from, to).unwrap_or(true) {
        return BackupError::Unfinished { from: from.to_owned(), to: to.to_owned(), source: Box::new(source) };
    }
    if matches!(Manifest::read(to), Ok(Some(_)))
        && let Err(err) = DataDir::end_heir(to)
    {
        tracing::warn!(%err, "the mark of a take-over that came to nothing is left");
    }
    source
}

/// A whole backup becomes a data directory.
fn become_ledger(to: &Path) -> Result<(), BackupError> {
    let manifest = Manifest::read(to)?.unwrap_or_default();
    // What an interrupted backup left is in no manifest.
    let numbers = FileDisk::read_only(&to.join("journal")).list().map_err(io_error(to))?;
    for number in numbers.into_iter().filter(|number| manifest.segments.iter().all(|kept| kept.number != *number)) {
        let path = segment_path(to, number);
        fs::remove_file(&path).map_err(io_error(&path))?;
    }
    fs::remove_file(Manifest::path(to)).and_then(|()| sync_directory(to)).map_err(io_error(to))?;
    Ok(DataDir::end_heir(to)?)
}
