//! The store's pieces of windows, participants and payouts: written in one step with the sequence as of which they are.
//!
//! sled keeps large values in files of their own, so pieces are cut into parts; a part's key is that of its piece and its number.

use std::collections::BTreeMap;

use super::open::{Store, StoreError};
use crate::ledger::{WindowPieces, get};

/// Bytes of a part, below what sled would put into a file of its own.
const PART_BYTES: usize = 4_096;

/// The key under which the sequence is kept.
const AS_OF_KEY: &[u8] = b"as of";

impl Store {
    /// Writes pieces, all or none of them.
    pub(crate) fn put_windows(&self, windows: &WindowPieces) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, bytes) in &windows.pieces {
            for old in self.windows.scan_prefix(prefix(key)).keys().skip(bytes.len().div_ceil(PART_BYTES).max(1)) {
                batch.remove(old.map_err(|source| self.error(source))?);
            }
            if bytes.is_empty() {
                batch.insert([&prefix(key)[..], &[0; 4]].concat(), &[]);
            }
            for (number, part) in (0_u32..).zip(bytes.chunks(PART_BYTES)) {
                batch.insert([&prefix(key)[..], &number.to_be_bytes()].concat(), part);
            }
        }
        batch.insert(AS_OF_KEY, &windows.as_of.to_be_bytes());
        self.windows.apply_batch(batch).map_err(|source| self.error(source))
    }

    /// Reads all pieces.
    pub fn windows(&self) -> Result<WindowPieces, StoreError> {
        let mut read = WindowPieces::default();
        let mut pieces: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for item in &self.windows {
            let (key, bytes) = item.map_err(|source| self.error(source))?;
            if key == AS_OF_KEY {
                read.as_of = u64::from_be_bytes(get::<0, 8>(&bytes));
                continue;
            }
            let piece = key.get(2..key.len().saturating_sub(4)).unwrap_or_default();
            pieces.entry(piece.to_vec()).or_default().extend_from_slice(&bytes);
        }
        read.pieces = pieces.into_iter().collect();
        Ok(read)
    }
}

/// The beginning of the keys of a piece's parts: its length first, so that no piece's key begins like another's.
fn prefix(key: &[u8]) -> Vec<u8> {
    let len = u16::try_from(key.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes()[..], key].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_as_they_were_last_written() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(store.windows().unwrap(), WindowPieces::default());
        let piece = |key: &str, byte: u8, len: usize| (key.as_bytes().to_vec(), vec![byte; len]);
        store.put_windows(&WindowPieces { as_of: 5, pieces: vec![piece("a", 1, 9_000), piece("ab", 2, 10)] }).unwrap();
        store
            .put_windows(&WindowPieces { as_of: 9, pieces: vec![piece("a", 3, 5_000), piece("b", 4, 4_096)] })
            .unwrap();
        let expected = vec![piece("a", 3, 5_000), piece("ab", 2, 10), piece("b", 4, 4_096)];
        assert_eq!(store.windows().unwrap(), WindowPieces { as_of: 9, pieces: expected });
    }
}
