//! Whether a place is still this process's, asked of a file that whoever takes the place over puts another in the stead of.
//!
//! A lock alone does not do it: a process that stood still goes on where it was, and does not know that it was taken for dead. So what it writes
//! counts only if the file is still there afterwards. Whoever takes over puts another file in its place first, and only then reads what was written: so
//! all that was ever acknowledged is read, and nothing is acknowledged from then on.
//!
//! It is right where all see a file system alike: on one machine, and on what is shared coherently. A network file system that keeps attributes of
//! files for seconds is none (NFS, unless it is mounted with `noac`).

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Why a process stops whose place another took over.
pub const TAKEN_OVER: &str = "the data directory is another process's now: its file LOCK is not the one that this one locked (if it was taken over, the file FENCED there says where its ledger goes on); what was not answered is to be sent again, to the server there";

/// The file by which a place is held.
#[derive(Clone, Debug)]
pub struct Guard(Arc<File>);

impl Guard {
    /// Watches the file at a path, which must be the one that is held: it may be another's by now.
    pub fn new(path: &Path, held: &File) -> io::Result<Self> {
        let identity = |data: &Metadata| (data.dev(), data.ino());
        // Opened once more: a duplicate would keep the lock of the one that is held.
        let file = File::open(path)?;
        if identity(&file.metadata()?) != identity(&held.metadata()?) {
            return Err(io::Error::other(format!("{} is another process's now", path.display())));
        }
        Ok(Self(Arc::new(file)))
    }

    /// Whether it is still there. One system call; no path is looked up.
    pub fn is_ours(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.nlink() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::replace_file;

    #[test]
    fn a_file_in_its_stead_is_seen_and_what_is_written_to_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let held = File::create(&path).unwrap();
        let guard = Guard::new(&path, &held).unwrap();
        assert!(guard.is_ours().unwrap());
        std::fs::write(&path, "the same file").unwrap();
        assert!(guard.is_ours().unwrap() && guard.clone().is_ours().unwrap());
        replace_file(&path, &[]).unwrap();
        assert!(!guard.is_ours().unwrap());
        assert!(Guard::new(&path, &held).is_err(), "what is held is not what is there");
        std::fs::remove_file(&path).unwrap();
        assert!(Guard::new(&path, &held).is_err() && !guard.is_ours().unwrap());
    }
}
