//! Whether a store is believed after the machine went down: not if that happened while it was written.
//!
//! sled tells the kernel to write (`sync_file_range`) and writes over what it then takes for durable, so when the power goes, what the last
//! checkpoint had may be gone, in part and without a word. A process that is killed loses nothing by that, since the kernel goes on. So a file
//! beside the store, `store.used`, says in which boot of the machine it is used; it is durable before the store is written, and removed when that is closed.
//!
//! # Not here
//!
//! Damage that is found while reading: [`super::lives`], [`super::open`].

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::lives::{distrust_after, remove_if_there};
use super::open::{Store, StoreError};
use crate::journal::{replace_file, sync_directory};
use crate::telemetry::chain;

fn note(store: &Path) -> PathBuf {
    store.with_extension("used")
}

fn sync_place_of(store: &Path) -> io::Result<()> {
    store.parent().map_or(Ok(()), sync_directory)
}

/// Forgets that a store was used, durably.
pub(super) fn clear_note(store: &Path) -> io::Result<()> {
    remove_if_there(&note(store))?;
    sync_place_of(store)
}

/// The boot in which a store is used that was not closed, as its note has it.
fn used_in(store: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(note(store)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        used_in => used_in.map(Some),
    }
}

/// Whether the machine went down while a store was used: it was not closed, and this is another boot, or nobody knows which.
pub(crate) fn went_down(store: &Path, boot: Option<&str>) -> io::Result<bool> {
    if let Err(err) = fs::symlink_metadata(store) {
        return if err.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(err) };
    }
    Ok(used_in(store)?.is_some_and(|used_in| Some(&*used_in) != boot.map(str::as_bytes)))
}

/// Which boot of the machine this is: the environment's `HENG_BOOT_ID`, else what Linux calls it; none where neither tells.
pub fn machine_boot() -> Option<String> {
    let system = || fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let some = |boot: String| Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty());
    env::var("HENG_BOOT_ID").ok().and_then(some).or_else(|| system().and_then(some))
}

/// Notes durably that a store is used in this boot, before it is. Damage when it is not to be believed. Blocks.
pub(super) fn begin_use(store: &Path, boot: Option<&str>) -> Result<(), StoreError> {
    let io_error = |source| StoreError::Io { path: note(store), source };
    if went_down(store, boot).map_err(io_error)? {
        let what = "the machine went down while it was written".to_owned();
        return Err(StoreError::Damaged { path: store.to_owned(), what });
    }
    let Some(boot) = boot else { return Ok(()) };
    let is_noted = used_in(store).map_err(io_error)?.is_some_and(|used_in| used_in == boot.as_bytes());
    // Who wrote it may have been killed before it was durable.
    let noted = if is_noted { sync_place_of(store) } else { replace_file(&note(store), boot.as_bytes()) };
    noted.map_err(io_error)
}

impl Store {
    /// Makes all that was written durable, and notes that nobody writes any more. Where that fails it is only said: nothing is lost, but a start in
    /// another boot makes the store again, and so does the next one after a failed sync. Blocks.
    pub fn close(&self) {
        let cleared = || clear_note(self.path()).map_err(|source| StoreError::Io { path: note(self.path()), source });
        if let Err(err) = self.sync().and_then(|()| cleared()) {
            distrust_after(self.path(), &err);
            tracing::warn!(err = %chain(&err), "the store is not closed; should the machine go down now, the next start makes it again from the journal");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::{Checkpoint, open_or_set_aside};

    #[test]
    fn a_store_is_believed_unless_the_machine_went_down_while_it_was_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let checkpoint = |sequence| Checkpoint { sequence, ..Checkpoint::default() };
        // Whether it was made again, and the store.
        let open = |boot: Option<&str>| {
            let (store, (), again) = open_or_set_aside(&path, (1 << 20, boot), |_| Ok(())).unwrap();
            (again, store)
        };
        let (again, store) = open(Some("one"));
        store.make_checkpoint(&checkpoint(5)).unwrap();
        assert!(!again);
        drop(store);
        assert!(!open(Some("one")).0, "the process was killed");
        assert!(!open(Some("one")).0, "and again");
        assert!(open(Some("two")).0, "the power went");
        let (again, store) = open(Some("two"));
        assert_eq!((again, store.checkpoint().unwrap()), (false, None), "the new one");
        store.make_checkpoint(&checkpoint(7)).unwrap();
        store.close();
        drop(store);
        assert!(!open(Some("three")).0, "the power went when it was closed");
        assert!(open(Some("four")).0, "the note is of the last time only");
        // A note that was being written is nobody's.
        std::fs::write(super::note(&path), []).unwrap();
        assert!(open(Some("four")).0);
        super::super::set_aside(&path).unwrap();
        assert!(!open(Some("five")).0, "a new one");
        std::fs::remove_dir_all(&path).unwrap();
        assert!(!open(Some("six")).0, "somebody removed it");
        assert!(open(None).0, "nobody knows whether it is the same boot");
        assert!(!open(None).0, "where nothing tells, nothing is noted");
    }
}
