//! Why a backup, a restore or a take-over was not made.

use std::io;
use std::path::{Path, PathBuf};

use crate::engine::DataDirError;
use crate::ledger::Sequence;

/// Why a backup, or a restore, was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A directory cannot be had.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file cannot be read or written.
    #[error("cannot read or write {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The journal is not what it should be.
    #[error(
        "{path} is damaged at byte {offset}: nothing more was copied; see `heng verify`, and keep the backups that are there"
    )]
    Damaged {
        /// Which segment.
        path: PathBuf,
        /// Which byte.
        offset: usize,
    },
    /// A segment is not there.
    #[error("{0} is missing: nothing more was copied; see `heng verify`, and keep the backups that are there")]
    Missing(PathBuf),
    /// The journal has lost its end.
    #[error(
        "the journal of {path} ends at sequence {ledger}, but was durable up to {reached} when the last checkpoint was made: its end is lost, and nothing is made of the rest; see `heng verify`, and keep the backups that are there"
    )]
    Lost {
        /// Of which data directory.
        path: PathBuf,
        /// Its last record.
        ledger: Sequence,
        /// What was durable.
        reached: Sequence,
    },
    /// The backup is of something else.
    #[error("{0} is a backup of another ledger: choose another directory")]
    AnotherLedger(PathBuf),
    /// A server has written there.
    #[error(
        "{0} has been a server's data directory, and what came there is in no backup: choose another directory; if it is your ledger, move its manifest.json away"
    )]
    Served(PathBuf),
    /// The ledger has less than the backup: it was lost, or restored to a point.
    #[error(
        "the ledger ends at sequence {ledger}, the backup at {backup}: it was kept as it is; back up into another directory"
    )]
    Shorter {
        /// The ledger's last record.
        ledger: Sequence,
        /// The backup's.
        backup: Sequence,
    },
    /// The manifest cannot be read.
    #[error("the manifest {path} cannot be used: {what}")]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A file of the backup is not as its manifest says.
    #[error("{path} is not as the manifest says: {what}; do not use this backup")]
    Changed {
        /// Which.
        path: PathBuf,
        /// What is different.
        what: &'static str,
    },
    /// Something is there already.
    #[error("{0} is not empty: a restore goes into a directory that does not exist yet")]
    NotEmpty(PathBuf),
    /// Something is there that is not a backup.
    #[error(
        "{0} is neither empty nor a backup: take over into a directory that does not exist yet, or into a backup of that ledger"
    )]
    Occupied(PathBuf),
    /// One is in the other.
    #[error("{from} and {to} lie in one another: take over into a directory beside it")]
    Within {
        /// What is given up.
        from: PathBuf,
        /// What goes on.
        to: PathBuf,
    },
    /// It was done before.
    #[error("the ledger of {from} was taken over into {to} before: serve that")]
    TakenOverBefore {
        /// What is given up.
        from: PathBuf,
        /// What goes on.
        to: PathBuf,
    },
    /// What went on, or was to, is not there.
    #[error(
        "{from} was given up for {to}, and there is no ledger there now: if it was served, bring it back (is its file system mounted?); only if it never was, remove {from}/FENCED and give the same command again"
    )]
    Gone {
        /// What is given up.
        from: PathBuf,
        /// Where its ledger should be.
        to: PathBuf,
    },
    /// The directory is being given up, and its ledger is not whole elsewhere.
    #[error(
        "{from} is taken over in part: its server may acknowledge, or not any more, and nobody serves {to} yet; mend the cause and give the same command again"
    )]
    Unfinished {
        /// What is given up.
        from: PathBuf,
        /// What is to go on.
        to: PathBuf,
        /// Why not.
        source: Box<BackupError>,
    },
    /// It cannot be put in its place when it is whole.
    #[error(
        "{0} is where a file system is mounted, and cannot be put in place as a whole: restore into a directory below it"
    )]
    MountPoint(PathBuf),
    /// The point is not in the backup.
    #[error("the backup ends at sequence {last}, before the point that was asked for")]
    Beyond {
        /// Its last record.
        last: Sequence,
    },
    /// The point is before the backup's first record.
    #[error("the backup has nothing up to the point that was asked for: its first record is later")]
    Before,
}

/// An error at a path.
pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError + '_ {
    move |source| BackupError::Io { path: path.to_owned(), source }
}
