//! The data directory, its lock, and how it is given up.
//!
//! Two processes never write one directory: the lock is of the file `LOCK`, and who has it serves. Where that one cannot be ended (it stands still, or is
//! another machine's), its directory is given up instead, for good: `FENCED` says to which directory its ledger goes, and no start takes it any more;
//! then another file takes the place of `LOCK`, by which the process that has the former one knows ([`Guard`]).

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::journal::{Guard, replace_file, sync_directory};

/// Directories above the data directory whose entries are made durable.
const SYNCED_PARENTS: usize = 2;

/// Locked by whoever has the directory.
const LOCK: &str = "LOCK";

/// There when a directory was given up: where its ledger goes on.
const FENCED: &str = "FENCED";

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
    /// It was given up.
    #[error(
        "the data directory {path} was taken over: its ledger goes on in {by}, serve that one; only if that was never served, remove {path}/FENCED, and start again what serves here"
    )]
    TakenOver {
        /// Which.
        path: PathBuf,
        /// Where its ledger goes on.
        by: String,
    },
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
    lock: File,
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
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(io_error)?;
        let taken = Self::locked(path, lock, File::try_lock)?;
        // Now, and not before: who gives it up from now on puts another file in the place of the one that is locked.
        match Self::fenced(path)? {
            Some(by) => Err(DataDirError::TakenOver { path: path.to_owned(), by }),
            None => Ok(taken),
        }
    }

    /// By what this process finds out that the directory was given up meanwhile.
    pub fn guard(&self) -> io::Result<Guard> {
        Guard::new(&self.path.join(LOCK), &self.lock)
    }

    /// Where the ledger of a directory that was given up goes on.
    fn fenced(path: &Path) -> Result<Option<String>, DataDirError> {
        match fs::read_to_string(path.join(FENCED)) {
            Ok(by) => Ok(Some(by.trim_end().to_owned())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Io { path: path.to_owned(), source }),
        }
    }

    /// Gives a directory up in favour of another, whoever has it: whatever a server there acknowledged was written before this returns, and it acknowledges
    /// nothing any more. Given up once, it is not given up to a third.
    pub fn fence(path: &Path, by: &Path) -> Result<(), DataDirError> {
        if Self::manifest(path).is_file() {
            return Err(DataDirError::Backup(path.to_owned()));
        }
        if !path.join("journal").is_dir() {
            return Err(DataDirError::Missing(path.to_owned()));
        }
        let by = by.display().to_string();
        if let Some(before) = Self::fenced(path)?.filter(|before| *before != by) {
            return Err(DataDirError::TakenOver { path: path.to_owned(), by: before });
        }
        let io_error = |source| DataDirError::Io { path: path.to_owned(), source };
        replace_file(&path.join(FENCED), format!("{by}\n").as_bytes()).map_err(io_error)?;
        replace_file(&path.join(LOCK), &[]).map_err(io_error)
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
        let lock = match File::open(path.join(LOCK)) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => File::open(path.join("journal")),
            lock => lock,
        };
        let lock = lock.map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
        Self::locked(path, lock, File::try_lock_shared)
    }

    fn locked(path: &Path, lock: File, take: fn(&File) -> Result<(), TryLockError>) -> Result<Self, DataDirError> {
        match take(&lock) {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
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
