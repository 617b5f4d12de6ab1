//! The index entries of records: the newest in memory, the rest in the store.
//!
//! The clearing actor appends; the store's thread writes whole blocks and then forgets them here. Readers may be anywhere.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use super::blocks::IndexEntry;
use super::index::{INDEX_ENTRY_BYTES, INDEX_PER_BLOCK, index_block_base};
use super::open::{Store, StoreError};
use crate::ledger::Sequence;

/// Index entries by sequence.
#[derive(Debug)]
pub struct LinkLog {
    store: Store,
    recent: RwLock<Recent>,
}

#[derive(Debug)]
struct Recent {
    /// Sequence of the first entry; always the beginning of a block.
    base: Sequence,
    entries: VecDeque<[u8; INDEX_ENTRY_BYTES]>,
    /// Sequence after the last block handed out to be written.
    handed_out: Sequence,
}

/// A block to write: its first sequence and its bytes.
pub(crate) type IndexBlock = (Sequence, Vec<u8>);

impl LinkLog {
    /// Goes on after the entries in the store, of which there are those up to `last`. Entries of the last, unfinished block are
    /// taken into memory again.
    pub fn new(store: Store, last: Sequence) -> Result<Self, StoreError> {
        let base = index_block_base(last.saturating_add(1));
        let mut entries = VecDeque::new();
        store.read_index((base, last), |_, entry| entries.push_back(entry.encode()))?;
        let recent = Recent { base, entries, handed_out: base };
        Ok(Self { store, recent: RwLock::new(recent) })
    }

    /// Appends the entries of the records after the last one; answers the blocks that are full now.
    pub(crate) fn append(&self, entries: &[IndexEntry]) -> Vec<IndexBlock> {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.entries.extend(entries.iter().map(IndexEntry::encode));
        let mut full = Vec::new();
        while recent.end() >= recent.handed_out.saturating_add(block_len()) {
            let base = recent.handed_out;
            full.push((base, recent.bytes(base, INDEX_PER_BLOCK)));
            recent.handed_out = base.saturating_add(block_len());
        }
        full
    }

    /// The block that is not full yet.
    pub(crate) fn unfinished(&self) -> IndexBlock {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        (recent.handed_out, recent.bytes(recent.handed_out, INDEX_PER_BLOCK))
    }

    /// Forgets a block that the store has now.
    pub(super) fn written(&self, base: Sequence) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        if recent.base == base && recent.handed_out > base {
            let forgotten = INDEX_PER_BLOCK.min(recent.entries.len());
            recent.entries.drain(..forgotten);
            recent.base = base.saturating_add(block_len());
        }
    }

    /// The entry of a durable record. May read the store; where that is damaged, the next start makes it again.
    pub fn get(&self, sequence: Sequence) -> Result<Option<IndexEntry>, StoreError> {
        {
            let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
            if sequence >= recent.base {
                let place = usize::try_from(sequence.saturating_sub(recent.base)).unwrap_or(usize::MAX);
                return Ok(recent.entries.get(place).map(IndexEntry::decode));
            }
        }
        self.store.index_entry(sequence).inspect_err(|err| self.store.distrust_damaged(err)).map(Some)
    }
}

fn block_len() -> u64 {
    u64::try_from(INDEX_PER_BLOCK).unwrap_or(1)
}

impl Recent {
    /// Sequence after the last entry.
    fn end(&self) -> Sequence {
        self.base.saturating_add(u64::try_from(self.entries.len()).unwrap_or(0))
    }

    fn bytes(&self, base: Sequence, entries: usize) -> Vec<u8> {
        let skipped = usize::try_from(base.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skipped).take(entries).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Checkpoint, open_or_set_aside};

    #[test]
    fn a_damaged_index_is_an_error_of_one_read_and_has_the_next_start_make_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let open = || open_or_set_aside(&path, (1 << 20, None), |_| Ok(())).unwrap();
        let entry = IndexEntry { debit_previous: 5, credit_previous: 7 };
        let (store, (), _) = open();
        let links = LinkLog::new(store.clone(), 0).unwrap();
        for (base, bytes) in links.append(&vec![entry; 2 * INDEX_PER_BLOCK]) {
            store.put_full_index(&links, base, &bytes).unwrap();
        }
        store.make_checkpoint(&Checkpoint { sequence: block_len(), ..Checkpoint::default() }).unwrap();
        assert_eq!((links.get(1).unwrap(), links.get(block_len()).unwrap()), (Some(entry), Some(entry)));
        let file = path.join("index");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(matches!(links.get(1), Err(StoreError::Damaged { .. })) && links.get(1).is_err());
        assert_eq!(links.get(block_len()).unwrap(), Some(entry), "what is not damaged is read");
        drop((links, store));
        assert!(open().2, "made again");
        assert!(!open().2, "once");
    }
}
