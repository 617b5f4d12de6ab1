//! From a data directory whose server cannot be ended to a new one: the old one is given up, its ledger is copied, and whoever served it acknowledges nothing
//! any more.
//!
//! The order is what makes it safe: first the old directory is fenced ([`DataDir::fence`]), then it is copied. What its server acknowledged before was
//! written before, and is copied; what it writes later it never acknowledges. Whether it stands still, hangs or works on makes no difference.

use std::fs;
use std::path::Path;

use super::{BackupError, Made, Manifest, backup, io_error};
use crate::engine::DataDir;
use crate::journal::sync_directory;

/// Makes a data directory of another that is given up. `to` does not exist yet, or is a backup of the same ledger, which gets what is new. Blocks while it
/// copies. When it fails after the old one was given up, the same once more goes on with it.
pub fn take_over(from: &Path, to: &Path) -> Result<Made, BackupError> {
    let own = std::path::absolute(to).map_err(io_error(to))?;
    // All that can be known to be wrong is found before anything is given up.
    let is_backup = Manifest::read(to)?.is_some();
    if !is_backup && fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(BackupError::Occupied(to.to_owned()));
    }
    if DataDir::was_served(to) {
        return Err(BackupError::Served(to.to_owned()));
    }
    fs::create_dir_all(to).map_err(io_error(to))?;
    DataDir::fence(from, &own)?;
    let finish = || {
        if !is_backup {
            // Nobody serves a backup, so nobody serves this before it is whole.
            Manifest::empty().write(to)?;
        }
        let made = backup(from, to)?;
        fs::remove_file(Manifest::path(to)).and_then(|()| sync_directory(to)).map_err(io_error(to))?;
        Ok(made)
    };
    finish().map_err(|source| BackupError::Unfinished { from: from.to_owned(), source: Box::new(source) })
}
