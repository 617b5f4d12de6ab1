//! The store's lives and checkpoints, and what is done where it cannot be read or written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::blocks::Checkpoint;
use super::open::{Store, StoreError};
use super::reached::note_reached;
use crate::flow::Jobs;
use crate::ledger::{Life, LifeStore, Sequence, TransferId};
use crate::runs::is_refused;
use crate::telemetry::chain;

impl Store {
    /// Writes what was given back of transfers, for the next checkpoint. Blocks. `breathe` is called now and then.
    pub(crate) fn put_lives(&self, lives: &[(TransferId, Life)], breathe: &impl Fn()) -> Result<(), StoreError> {
        self.lives.put(lives, breathe).map_err(|source| self.runs_error(source))
    }

    /// Reads all that was given back of transfers, of each what is right last. Blocks.
    pub fn read_lives(&self, visit: impl FnMut(TransferId, Life)) -> Result<(), StoreError> {
        self.lives.visit(visit).map_err(|source| self.runs_error(source))
    }

    /// Makes durable what was noted with [`Self::put_lives`], and answers the number of its last run. Blocks. `breathe` is called now and then.
    pub(super) fn finish_lives(&self, breathe: &impl Fn()) -> Result<u64, StoreError> {
        self.lives.finish(breathe).map_err(|source| self.runs_error(source))
    }

    /// Makes a checkpoint of what was written before, durably, and notes beside the store how far the journal reaches. Blocks.
    pub fn make_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let last_run = self.finish_lives(&|| ())?;
        self.sync()?;
        self.put_checkpoint(checkpoint, last_run)?;
        self.sync()?;
        let noted = note_reached(self.path(), checkpoint.sequence);
        noted.map_err(|source| StoreError::Io { path: self.path().to_owned(), source })?;
        // In this order: once a checkpoint is durable, others forget what it has.
        self.lives.publish();
        self.durable.store(checkpoint.sequence, Release);
        Ok(())
    }

    /// Makes one run of several, if there are many; answers whether there were. Blocks. `breathe` is called now and then, and ends it with an error.
    pub(super) fn merge_lives(&self, breathe: impl FnMut() -> io::Result<()>) -> Result<bool, StoreError> {
        self.lives.merge(breathe).map_err(|source| self.runs_error(source))
    }

    /// Has filters of runs read by whoever does these jobs, once they are wanted.
    pub(super) fn set_filter_reader(&self, reader: Weak<Jobs<()>>) {
        self.lives.set_reader(reader);
    }

    /// Reads the filters of runs that are wanted again. Blocks. `breathe` is called now and then, and ends it with an error.
    pub(super) fn read_life_filters(&self, breathe: &mut impl FnMut() -> io::Result<()>) -> Result<(), StoreError> {
        self.lives.read_filters(breathe).map_err(|source| self.runs_error(source))
    }

    fn runs_error(&self, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => self.damaged(&source.to_string()),
            _ => StoreError::Io { path: self.path().to_owned(), source },
        }
    }

    /// Ends the process: what was given back of a transfer cannot be read.
    #[cold]
    #[expect(
        clippy::panic,
        reason = "neither refusing for ever nor paying twice is right: stop whole, and make the store again"
    )]
    pub(super) fn unreadable(&self, err: &StoreError) -> ! {
        let again = if set_mark(self.path()) { "the next start" } else { "`heng rebuild`" };
        panic!("the store cannot be read: {}; {again} makes it again from the journal", chain(err))
    }
}

/// The file that says that a store could not be read or written while it was in use.
fn mark(path: &Path) -> PathBuf {
    path.with_extension("distrusted")
}

/// Whether a store could not be read or written while it was in use.
pub(crate) fn is_marked(path: &Path) -> bool {
    mark(path).exists()
}

/// Has the next start make the store again from the journal; answers whether that could be noted.
fn set_mark(path: &Path) -> bool {
    let marked = fs::write(mark(path), []);
    tracing::error!(
        ?marked,
        "the store is not to be trusted; once that is noted, the next start makes it again from the journal"
    );
    marked.is_ok()
}

/// After a write or a sync that failed the kernel may take for clean what the disk does not have, and nobody is told again: such a store is not
/// trusted. A disk that is full, or a system that refuses, says so to a write before anything is taken; whose sync failed is another kind of error.
pub(super) fn distrust_after(path: &Path, err: &StoreError) {
    let (StoreError::Sled { source: sled::Error::Io(source), .. } | StoreError::Io { source, .. }) = err else {
        return;
    };
    if !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) && !is_refused(source) {
        set_mark(path);
    }
}

impl Store {
    /// What was read is damaged, and others need not end for it: the next start makes the store again.
    pub(super) fn distrust_damaged(&self, err: &StoreError) {
        if matches!(err, StoreError::Damaged { .. }) && !is_marked(self.path()) {
            set_mark(self.path());
        }
    }
}

/// Once the store is set aside.
pub(super) fn clear_mark(path: &Path) -> io::Result<()> {
    remove_if_there(&mark(path))
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

impl LifeStore for Store {
    fn life(&self, id: TransferId) -> Option<Life> {
        self.lives.life(id).unwrap_or_else(|source| self.unreadable(&self.runs_error(source)))
    }

    fn checkpoint(&self) -> Sequence {
        self.durable.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::unsynced;
    use crate::store::open_or_set_aside;

    #[test]
    fn a_store_is_trusted_after_a_write_that_found_no_room_and_not_after_a_sync() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let no_room = || io::Error::from(io::ErrorKind::StorageFull);
        distrust_after(&path, &StoreError::Io { path: path.clone(), source: no_room() });
        assert!(!is_marked(&path));
        distrust_after(&path, &StoreError::Io { path: path.clone(), source: unsynced(no_room()) });
        assert!(is_marked(&path));
    }

    #[test]
    fn lives_are_as_of_the_last_checkpoint_and_a_distrusted_store_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let life = |refunded, head| Life { refunded, is_over: false, head };
        let [known, other] = [1, 2].map(TransferId::from_raw);
        let open = || open_or_set_aside(&path, (1 << 20, None), |_| Ok(())).unwrap();
        {
            let (store, (), _) = open();
            store.put_lives(&[(known, life(5, 10))], &|| ()).unwrap();
            assert_eq!((store.life(known), store.life(other)), (None, None), "no checkpoint has it yet");
            store.make_checkpoint(&Checkpoint { sequence: 10, ..Checkpoint::default() }).unwrap();
            assert_eq!(store.life(known), Some(life(5, 10)));
            store.put_lives(&[(known, life(7, 12))], &|| ()).unwrap();
            store.finish_lives(&|| ()).unwrap();
            assert_eq!(store.life(known), Some(life(5, 10)));
        }
        {
            let (store, (), again) = open();
            assert_eq!((store.life(known), again), (Some(life(5, 10)), false), "of the checkpoint that was finished");
            store.put_lives(&[(known, life(8, 13)), (other, life(1, 14))], &|| ()).unwrap();
            store.make_checkpoint(&Checkpoint { sequence: 14, ..Checkpoint::default() }).unwrap();
            let mut read = Vec::new();
            store.read_lives(|id, life| read.push((id, life))).unwrap();
            assert_eq!(read, [(known, life(5, 10)), (known, life(8, 13)), (other, life(1, 14))]);
        }
        fs::write(mark(&path), []).unwrap();
        let (store, (), again) = open();
        assert_eq!((store.life(known), again), (None, true));
        drop(store);
        assert!(!open().2, "once");
    }
}
