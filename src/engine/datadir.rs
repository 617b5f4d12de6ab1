//! The data directory, its lock, and how it is given up.
//!
//! Two processes never write one directory: the lock is of the file `LOCK`, and of the directory, and who has it serves. Where that one cannot be ended (it stands still, or is
//! another machine's), its directory is given up instead, for good: `FENCED` says to which directory its ledger goes, and no start takes it any more;
//! then `LOCK` is written to, by which the process that has it knows ([`Guard`]). Its lock stays: as long as it lives, nobody else writes there. The directory
//! to which a ledger goes has `TAKING_OVER` until it is whole, and is served by nobody before.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::journal::{Guard, private_directory, rename_new, replace_file, sync_directory};

/// Directories above the data directory whose entries are made durable.
const SYNCED_PARENTS: usize = 2;

/// Locked by whoever has the directory.
const LOCK: &str = "LOCK";

/// There when a directory was given up: where its ledger goes on.
const FENCED: &str = "FENCED";

/// There while a ledger is being taken over into a directory: from which one.
const TAKING_OVER: &str = "TAKING_OVER";

/// What a file of a directory says, if it is there.
fn read_note(path: &Path, name: &str) -> Result<Option<String>, DataDirError> {
    match fs::read_to_string(path.join(name)) {
        Ok(said) => Ok(Some(said.trim_end().to_owned())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataDirError::Io { path: path.to_owned(), source }),
    }
}

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
        "the data directory {path} was given up: its ledger goes on in {by}, serve that one; only if that was never served, remove it, end what served here, remove {path}/FENCED and start again"
    )]
    TakenOver {
        /// Which.
        path: PathBuf,
        /// Where its ledger goes on.
        by: String,
    },
    /// A ledger is being taken over into it.
    #[error(
        "the ledger of {from} is being taken over into {path}, and that is not finished: give the same command again (heng take-over --from {from} --data-dir {path}), or, where {from} has no file FENCED, remove {path}/TAKING_OVER"
    )]
    Unfinished {
        /// Which.
        path: PathBuf,
        /// Whose ledger.
        from: String,
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
    /// The directory itself, locked, too, by who writes: somebody may remove `LOCK`.
    _itself: Option<File>,
    /// Its length when it was taken.
    lock_bytes: u64,
}

impl DataDir {
    /// Takes a directory for writing, making it if there is none. A backup is refused: it would go on without its ledger.
    pub fn create(path: &Path) -> Result<Self, DataDirError> {
        if let Some(refused) = Self::is_no_ledger(path) {
            return Err(refused);
        }
        let taken = Self::take(path)?;
        Self::check_whole(path)?;
        Ok(taken)
    }

    /// What a directory with a manifest is instead of one that is served.
    pub fn is_no_ledger(path: &Path) -> Option<DataDirError> {
        let wrong = if Self::was_served(path) { DataDirError::ServedBackup } else { DataDirError::Backup };
        // What is not finished has a manifest, too, and is told as such.
        let is_backup = Self::manifest(path).is_file() && !path.join(TAKING_OVER).exists();
        is_backup.then(|| wrong(path.to_owned()))
    }

    /// Whether a server has written there: what it makes of a journal is there.
    pub fn was_served(path: &Path) -> bool {
        path.join("store").exists() || path.join("ids").exists()
    }

    /// Takes a directory for writing, whatever it is, making it, for its owner alone, if there is none.
    pub fn take(path: &Path) -> Result<Self, DataDirError> {
        let io_error = |source| DataDirError::Io { path: path.to_owned(), source };
        private_directory(path).map_err(io_error)?;
        // At every start: whoever made the directories, or a start that was broken off, may not have.
        for parent in path.canonicalize().map_err(io_error)?.ancestors().skip(1).take(SYNCED_PARENTS) {
            match sync_directory(parent) {
                // Not ours to read, or of a kind that is made elsewhere and keeps no entries of ours.
                Err(err) if is_of_others(&err) => break,
                synced => synced.map_err(io_error)?,
            }
        }
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(io_error)?;
        let itself = File::open(path).map_err(io_error)?;
        if matches!(itself.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(DataDirError::InUse(path.to_owned()));
        }
        // Where directories cannot be locked, the file alone is.
        let taken = Self { _itself: Some(itself), ..Self::locked(path, lock, File::try_lock)? };
        // Now, and not before: who gives it up from now on makes the file longer than it was when it was locked.
        Self::check_not_fenced(path)?;
        Ok(taken)
    }

    /// By what this process finds out that the directory was given up meanwhile.
    pub fn guard(&self) -> io::Result<Guard> {
        Guard::new(&self.path.join(LOCK), &self.lock, self.lock_bytes)
    }

    /// Where the ledger of a directory that was given up goes on.
    pub fn fenced(path: &Path) -> Result<Option<String>, DataDirError> {
        read_note(path, FENCED)
    }

    /// An error when it was given up: what it has, its heir has, and goes on with.
    pub fn check_not_fenced(path: &Path) -> Result<(), DataDirError> {
        match Self::fenced(path)? {
            Some(by) => Err(DataDirError::TakenOver { path: path.to_owned(), by }),
            None => Ok(()),
        }
    }

    /// An error while a ledger is being taken over into it.
    pub fn check_whole(path: &Path) -> Result<(), DataDirError> {
        match Self::heir_of(path)? {
            Some(from) => Err(DataDirError::Unfinished { path: path.to_owned(), from }),
            None => Ok(()),
        }
    }

    /// Whose ledger is being taken over into a directory, if that is not finished.
    pub fn heir_of(path: &Path) -> Result<Option<String>, DataDirError> {
        read_note(path, TAKING_OVER)
    }

    /// Notes durably that the ledger of another directory is being taken over into this one, so that nobody serves it before it is whole.
    pub fn begin_heir(path: &Path, of: &Path) -> Result<(), DataDirError> {
        let io_error = |source| DataDirError::Io { path: path.to_owned(), source };
        replace_file(&path.join(TAKING_OVER), format!("{}\n", of.display()).as_bytes()).map_err(io_error)
    }

    /// It is whole, or is not to become one.
    pub fn end_heir(path: &Path) -> Result<(), DataDirError> {
        let io_error = |source| DataDirError::Io { path: path.to_owned(), source };
        fs::remove_file(path.join(TAKING_OVER)).and_then(|()| sync_directory(path)).map_err(io_error)
    }

    /// Gives a directory up in favour of another, whoever has it: whatever a server there acknowledged was written before this returns, and it acknowledges
    /// nothing any more. Given up once, it is not given up to a third.
    pub fn fence(path: &Path, by: &Path) -> Result<(), DataDirError> {
        let io_error = |source| DataDirError::Io { path: path.to_owned(), source };
        let by = by.display().to_string();
        let note = || {
            // One of several that try at once has its name there.
            let (own, fenced) = (path.join(format!("{FENCED}.{}", std::process::id())), path.join(FENCED));
            replace_file(&own, format!("{by}\n").as_bytes())?;
            match rename_new(&own, &fenced) {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(&own),
                noted => noted.and_then(|()| sync_directory(path)),
            }
        };
        if Self::fenced(path)?.is_none() {
            note().map_err(io_error)?;
        }
        if let Some(before) = Self::fenced(path)?.filter(|before| *before != by) {
            return Err(DataDirError::TakenOver { path: path.to_owned(), by: before });
        }
        let tell = || {
            let mut lock = File::options().create(true).append(true).open(path.join(LOCK))?;
            lock.write_all(b"taken over\n")?;
            lock.sync_all()?;
            sync_directory(path)
        };
        tell().map_err(io_error)
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
            Ok(()) => {
                let io_error = |source| DataDirError::Io { path: path.to_owned(), source };
                let lock_bytes = lock.metadata().map_err(io_error)?.len();
                Ok(Self { path: path.to_owned(), lock, _itself: None, lock_bytes })
            }
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
