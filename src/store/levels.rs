//! The store's former levels of accounts, by the record that changed them.

use super::open::{Store, StoreError};
use crate::ledger::{FormerLevel, Sequence, get};

impl Store {
    /// Writes what levels were.
    pub(crate) fn put_levels(&self, levels: &[FormerLevel]) -> Result<(), StoreError> {
        for former in levels {
            let [a, b, c, d] = former.slot.to_be_bytes();
            let put = self.levels.insert(former.until.to_be_bytes(), &[a, b, c, d, former.level]);
            put.map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    /// Forgets some of those up to a record; answers whether there are more.
    pub(super) fn forget_levels(&self, until: Sequence, most: usize) -> Result<bool, StoreError> {
        let mut forgotten = 0_usize;
        for item in self.levels.range(..=until.to_be_bytes()).take(most) {
            let (key, _) = item.map_err(|source| self.error(source))?;
            self.levels.remove(key).map_err(|source| self.error(source))?;
            forgotten = forgotten.saturating_add(1);
        }
        Ok(forgotten == most)
    }

    /// Reads all.
    pub(crate) fn levels(&self) -> Result<Vec<FormerLevel>, StoreError> {
        let read = |item: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = item.map_err(|source| self.error(source))?;
            if (key.len(), value.len()) != (8, 5) {
                return Err(self.damaged("a former level has another length"));
            }
            let [level] = get::<4, 1>(&value);
            let (slot, until) = (u32::from_be_bytes(get::<0, 4>(&value)), u64::from_be_bytes(get::<0, 8>(&key)));
            Ok(FormerLevel { slot, until, level })
        };
        self.levels.iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open_or_set_aside;

    #[test]
    fn what_was_written_is_read_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let all = [3, 300, 70_000].map(|until| FormerLevel { slot: 7, until, level: 2 });
        {
            let (store, (), _) = open_or_set_aside(&path, (1 << 20, None), |_| Ok(())).unwrap();
            store.put_levels(&all).unwrap();
            assert!(!store.forget_levels(3, 2).unwrap());
            store.sync().unwrap();
        }
        let (store, read, _) = open_or_set_aside(&path, (1 << 20, None), Store::levels).unwrap();
        assert_eq!(read, all[1..]);
        assert!(store.forget_levels(70_000, 1).unwrap());
        assert_eq!(store.levels().unwrap(), all[2..], "a part");
        assert!(!store.forget_levels(70_000, 5).unwrap());
        assert_eq!(store.levels().unwrap(), []);
    }
}
