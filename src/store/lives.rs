//! The store's lives: what was given back of transfers, by id, read whenever nobody has it in memory.

use std::fs;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Release};

use super::blocks::Checkpoint;
use super::open::{Store, StoreError};
use super::reached::note_reached;
use crate::ledger::{KeptLife, LifeStore, Sequence, TransferId, get};
use crate::telemetry::{chain, guard_own_panics};

impl Store {
    /// Writes what was given back of transfers.
    pub(crate) fn put_lives(&self, lives: &[(TransferId, KeptLife)]) -> Result<(), StoreError> {
        for (id, life) in lives {
            let put = self.lives.insert(id.raw().to_be_bytes(), &life.encode()[..]);
            put.map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    /// Reads all that was given back of transfers.
    pub fn read_lives(&self, mut visit: impl FnMut(TransferId, KeptLife)) -> Result<(), StoreError> {
        for item in &self.lives {
            let (key, bytes) = item.map_err(|source| self.error(source))?;
            let id = TransferId::from_raw(u128::from_be_bytes(get::<0, 16>(&key)));
            visit(id, self.decode(&bytes)?);
        }
        Ok(())
    }

    /// Makes a checkpoint of what was written before, durably, and notes beside the store how far the journal reaches. Blocks.
    pub fn make_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.sync()?;
        self.put_checkpoint(checkpoint)?;
        self.sync()?;
        let noted = note_reached(self.path(), checkpoint.sequence);
        noted.map_err(|source| StoreError::Io { path: self.path().to_owned(), source })?;
        self.durable.store(checkpoint.sequence, Release);
        Ok(())
    }

    fn read_life(&self, id: TransferId) -> Result<Option<KeptLife>, StoreError> {
        // Some damage makes sled panic.
        let read = guard_own_panics(AssertUnwindSafe(|| self.lives.get(id.raw().to_be_bytes())));
        let bytes = read.map_err(|_panic| self.damaged("sled panicked while reading"))?;
        let bytes = bytes.map_err(|source| self.error(source))?;
        bytes.map(|bytes| self.decode(&bytes)).transpose()
    }

    fn decode(&self, bytes: &[u8]) -> Result<KeptLife, StoreError> {
        let bytes = bytes.try_into().map_err(|_err| self.damaged("what was given back has another length"))?;
        Ok(KeptLife::decode(bytes))
    }
}

/// The file that says that a store was found damaged while it was in use.
fn mark(path: &Path) -> PathBuf {
    path.with_extension("distrusted")
}

/// Whether a store was found damaged while it was in use, or may be.
pub(crate) fn is_marked(path: &Path) -> bool {
    mark(path).exists()
}

/// Has the next start make the store again from the journal.
fn set_mark(path: &Path) {
    let marked = fs::write(mark(path), []);
    tracing::error!(?marked, "the store is not to be trusted; the next start makes it again from the journal");
}

/// After a write or a sync that failed the kernel may take for clean what the disk does not have, and nobody is told again: such a store is not
/// trusted. A disk that is full says so before anything is taken.
pub(super) fn distrust_after(path: &Path, err: &StoreError) {
    let (StoreError::Sled { source: sled::Error::Io(source), .. } | StoreError::Io { source, .. }) = err else {
        return;
    };
    if !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        set_mark(path);
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

/// Whether an error tells of what the store contains. An operating system that refuses, as when the disk is full, says nothing of that.
fn is_damage(err: &StoreError) -> bool {
    match err {
        StoreError::Sled { source: sled::Error::Io(source), .. } => source.kind() == io::ErrorKind::UnexpectedEof,
        _ => true,
    }
}

impl LifeStore for Store {
    #[expect(
        clippy::panic,
        reason = "neither refusing for ever nor paying twice is right: stop whole, and make the store again"
    )]
    fn kept(&self, id: TransferId) -> Option<KeptLife> {
        self.read_life(id).unwrap_or_else(|err| {
            if is_damage(&err) {
                set_mark(self.path());
            }
            panic!("the store cannot be read: {}", chain(&err))
        })
    }

    fn checkpoint(&self) -> Sequence {
        self.durable.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Life;
    use crate::store::open_or_set_aside;

    #[test]
    fn lives_are_as_of_the_last_checkpoint_and_a_distrusted_store_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let life = |refunded, head| Life { refunded, is_over: false, head };
        let [known, other] = [1, 2].map(TransferId::from_raw);
        let open = || open_or_set_aside(&path, (1 << 20, None), |_| Ok(())).unwrap();
        {
            let (store, (), _) = open();
            store.put_lives(&[(known, KeptLife { now: life(5, 10), before: Life::default() })]).unwrap();
            assert_eq!((store.life(known), store.life(other)), (None, None), "no checkpoint has it yet");
            store.make_checkpoint(&Checkpoint { sequence: 10, ..Checkpoint::default() }).unwrap();
            assert_eq!(store.life(known), Some(life(5, 10)));
            store.put_lives(&[(known, KeptLife { now: life(7, 12), before: life(5, 10) })]).unwrap();
        }
        {
            let (store, (), again) = open();
            assert_eq!((store.life(known), again), (Some(life(5, 10)), false), "of the checkpoint that was finished");
        }
        fs::write(mark(&path), []).unwrap();
        let (store, (), again) = open();
        assert_eq!((store.life(known), again), (None, true));
        drop(store);
        assert!(!open().2, "once");
    }
}
