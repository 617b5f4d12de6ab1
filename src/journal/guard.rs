//! Whether a place is still this process's, asked of a file that whoever takes the place over writes to.
//!
//! A lock alone does not do it: a process that stood still goes on where it was, and does not know that it was taken for dead. So what it writes
//! counts only if the file is as it was afterwards. Whoever takes over makes the file longer first, and only then reads what was written: so all that
//! was ever acknowledged is read, and nothing is acknowledged from then on. The file stays where it is and the lock on it with whoever has it: nobody else
//! writes there until that process has ended.
//!
//! It is right where all see a file system alike: on one machine, and on what is shared coherently. A network file system that keeps attributes of
//! files for seconds is none (NFS).

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Why a process stops whose place another took over.
pub const TAKEN_OVER: &str = "the data directory was taken over by another process (the file FENCED there says where its ledger goes on), or its file LOCK was removed; what was not answered is to be sent again, to the server that has the ledger";

/// The file by which a place is held.
#[derive(Clone, Debug)]
pub struct Guard {
    file: Arc<File>,
    /// Its length when it was taken.
    length: u64,
}

impl Guard {
    /// Watches the file at a path, which must be the one that is held, and had this length when it was taken.
    pub fn new(path: &Path, held: &File, length: u64) -> io::Result<Self> {
        let identity = |data: &Metadata| (data.dev(), data.ino());
        // Opened once more: a duplicate would keep the lock of the one that is held.
        let file = File::open(path)?;
        if identity(&file.metadata()?) != identity(&held.metadata()?) {
            return Err(io::Error::other(format!("{} is another file now", path.display())));
        }
        Ok(Self { file: Arc::new(file), length })
    }

    /// Whether it is still there and as it was. One system call; no path is looked up.
    pub fn is_ours(&self) -> io::Result<bool> {
        let data = self.file.metadata()?;
        Ok(data.len() == self.length && data.nlink() > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_grows_or_goes_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let held = File::create(&path).unwrap();
        let guard = Guard::new(&path, &held, 0).unwrap();
        assert!(guard.is_ours().unwrap() && guard.clone().is_ours().unwrap());
        // Another name of it changes nothing.
        std::fs::hard_link(&path, directory.path().join("kept")).unwrap();
        assert!(guard.is_ours().unwrap());
        File::options().append(true).open(&path).unwrap().write_all(b"taken\n").unwrap();
        assert!(!guard.is_ours().unwrap());

        let again = Guard::new(&path, &held, 6).unwrap();
        assert!(again.is_ours().unwrap(), "who takes it later takes it as it is");
        std::fs::remove_file(directory.path().join("kept")).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!again.is_ours().unwrap());
        File::create(&path).unwrap();
        assert!(Guard::new(&path, &held, 6).is_err(), "what is held is not what is there");
    }
}
