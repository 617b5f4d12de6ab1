//! The data directory and its lock.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::journal::sync_directory;

/// Directories above the data directory whose entries are made durable.
const SYNCED_PARENTS: usize = 2;

/// Whether a directory that cannot be synced is none in which this program, or whoever installs it, makes entries.
fn is_of_others(err: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(err.kind(), PermissionDenied | InvalidInput | Unsupported | ReadOnlyFilesystem)
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "the data directory {0} is in use by another process; stop that server first, or choose another --data-dir"
    )]
    InUse(PathBuf),
    /// There is none.
    #[error("there is no data directory {0}; `heng serve` makes one")]
    Missing(PathBuf),
    /// It is a backup.
    #[error("{0} is a backup: make a data directory of it with `heng restore --from {0} --data-dir DIRECTORY`")]
    Backup(PathBuf),
    /// It began as a backup, and a server has written there.
    #[error(
        "{0} began as a backup and has been served from: if it is your ledger, move its manifest.json away, and make backups elsewhere; do not restore from it, since what came there is not in its manifest"
    )]
    ServedBackup(PathBuf),
    /// The file system refuses.
    #[error("cannot use the data directory {path}: {source}; check that it exists and that this user may write there")]
    Io {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A data directory that this process alone uses.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked until dropped.
    _lock: File,
}

impl DataDir {
    /// Takes a directory for writing, making it if there is none. A backup is refused: it would go on without its ledger.
    pub fn create(path: &Path) -> Result<Self, DataDirError> {
        if Self::manifest(path).is_file() {
            let wrong = if Self::was_served(path) { DataDirError::ServedBackup } else { DataDirError::Backup };
            return Err(wrong(path.to_owned()));
        }
        Self::take(path)
    }

    /// Whether a server has written there: what it makes of a journal is there.
    pub fn was_served(path: &Path) -> bool {
        path.join("store").exists() || path.join("ids").exists()
    }

    /// Takes a directory for writing, whatever it is, making it if there is none.
    pub fn take(path: &Path) -> Result<Self, DataDirError> {
        let io_error = |source| DataDirError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(io_error)?;
        // At every start: whoever made the directories, or a start that was broken off, may not have.
        for parent in path.canonicalize().map_err(io_error)?.ancestors().skip(1).take(SYNCED_PARENTS) {
            match sync_directory(parent) {
                // Not ours to read, or of a kind that is made elsewhere and keeps no entries of ours.
                Err(err) if is_of_others(&err) => break,
                synced => synced.map_err(io_error)?,
            }
        }
        let lock =
            File::options().create(true).truncate(false).write(true).open(path.join("LOCK")).map_err(io_error)?;
        Self::locked(path, lock, File::try_lock)
    }

    /// Takes a directory that exists, for writing.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        if path.join("journal").is_dir() { Self::create(path) } else { Err(DataDirError::Missing(path.to_owned())) }
    }

    /// Takes a directory that exists for reading only; other readers may have it too.
    pub fn read_only(path: &Path) -> Result<Self, DataDirError> {
        if !path.join("journal").is_dir() {
            return Err(DataDirError::Missing(path.to_owned()));
        }
        // Whoever writes makes the file first; a copy that nobody has served from yet has none.
        let lock = match File::open(path.join("LOCK")) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => File::open(path.join("journal")),
            lock => lock,
        };
        let lock = lock.map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
        Self::locked(path, lock, File::try_lock_shared)
    }

    fn locked(path: &Path, lock: File, take: fn(&File) -> Result<(), TryLockError>) -> Result<Self, DataDirError> {
        match take(&lock) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(DataDirError::Io { path: path.to_owned(), source }),
        }
    }

    /// The manifest, where a directory is a backup.
    pub fn manifest(path: &Path) -> PathBuf {
        path.join("manifest.json")
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the journal is.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Where the runs of known ids are.
    pub fn ids(&self) -> PathBuf {
        self.path.join("ids")
    }

    /// Where the store is.
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Where administration speaks to a running server.
    pub fn admin_socket(path: &Path) -> PathBuf {
        path.join("admin.sock")
    }
}
