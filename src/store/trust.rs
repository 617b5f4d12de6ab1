//! Whether a store is believed after the machine went down: not if that happened while it was written.
//!
//! sled tells the kernel to write (`sync_file_range`) and writes over what it then takes for durable, so when the power goes, what the last
//! checkpoint had may be gone, in part and without a word. A process that is killed loses nothing by that, since the kernel goes on. So the store
//! notes in which boot of the machine it is used, before anything else is written, and when it is closed.
//!
//! # Not here
//!
//! Damage that is found while reading: [`super::lives`], [`super::open`].

use std::env;
use std::fs;

use super::open::{Store, StoreError};

const BOOT_KEY: &str = "boot";
const CLOSED_KEY: &str = "closed";

/// Which boot of the machine this is: the environment's `HENG_BOOT_ID`, else what Linux calls it; none where neither tells.
pub fn machine_boot() -> Option<String> {
    let told = env::var("HENG_BOOT_ID").ok();
    let told = told.or_else(|| fs::read_to_string("/proc/sys/kernel/random/boot_id").ok());
    told.map(|boot| boot.trim().to_owned()).filter(|boot| !boot.is_empty())
}

impl Store {
    /// Whether the machine went down while the store was used: it was not closed, and this is another boot.
    pub(crate) fn went_down(&self, boot: Option<&str>) -> Result<bool, StoreError> {
        let read = |key| self.meta.get(key).map_err(|source| self.error(source));
        let checkpoint = self.checkpoint()?.unwrap_or_default().sequence;
        // An earlier version neither removes the note of a later one nor makes it, but it makes checkpoints.
        let is_closed = read(CLOSED_KEY)?.is_some_and(|at| *at == checkpoint.to_be_bytes());
        let used_in = read(BOOT_KEY)?;
        Ok(!is_closed && used_in.zip(boot).is_some_and(|(used_in, boot)| *used_in != *boot.as_bytes()))
    }

    /// Notes durably that the store is used in this boot, before it is. Damage when it is not to be believed. Blocks.
    pub(crate) fn begin_use(&self, boot: Option<&str>) -> Result<(), StoreError> {
        if self.went_down(boot)? {
            return Err(self.damaged("the machine went down while it was written"));
        }
        if let Some(boot) = boot {
            self.meta.insert(BOOT_KEY, boot.as_bytes()).map_err(|source| self.error(source))?;
        }
        self.meta.remove(CLOSED_KEY).map_err(|source| self.error(source))?;
        self.sync()
    }

    /// Makes all that was written durable, and notes that nobody writes any more. Blocks.
    pub fn close(&self) -> Result<(), StoreError> {
        self.sync()?;
        let checkpoint = self.checkpoint()?.unwrap_or_default().sequence;
        self.meta.insert(CLOSED_KEY, &checkpoint.to_be_bytes()).map_err(|source| self.error(source))?;
        self.sync()
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
            let (store, (), again) = open_or_set_aside(&path, 1 << 20, |store| store.begin_use(boot)).unwrap();
            (again, store)
        };
        let (again, store) = open(Some("one"));
        store.make_checkpoint(&checkpoint(5)).unwrap();
        assert!(!again);
        drop(store);
        assert!(!open(Some("one")).0, "the process was killed");
        assert!(!open(None).0, "nobody knows");
        assert!(open(Some("two")).0, "the power went");
        let (again, store) = open(Some("two"));
        assert_eq!((again, store.checkpoint().unwrap()), (false, None), "the new one");
        store.make_checkpoint(&checkpoint(7)).unwrap();
        store.close().unwrap();
        drop(store);
        assert!(!open(Some("three")).0, "the power went when it was closed");
        assert!(open(Some("four")).0, "the note is of the last time only");
        let (_, store) = open(Some("four"));
        store.close().unwrap();
        // An earlier version.
        store.make_checkpoint(&checkpoint(9)).unwrap();
        drop(store);
        assert!(open(Some("five")).0);
    }
}
