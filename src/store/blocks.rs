//! The bytes of the store's values.

use serde::{Deserialize, Serialize};

use super::index::INDEX_ENTRY_BYTES;
use crate::ledger::{BookAccount, BookSummary, STORED_BYTES, Sequence, decode_account, get, set};

/// Accounts per block.
pub const ACCOUNTS_PER_BLOCK: u32 = 56;

/// What a checkpoint is: the accounts of the `accounts` tree, up to this number of them, are at least at this sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Sequence of the last record in it.
    pub sequence: Sequence,
    /// Number of accounts.
    pub accounts: u32,
    /// What the book knows besides.
    pub summary: BookSummary,
}

/// What is kept of one record besides the record: its accounts' records before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// The record before in the debit account's history, 0 for none.
    pub debit_previous: Sequence,
    /// The record before in the credit account's history, 0 for none.
    pub credit_previous: Sequence,
}

impl IndexEntry {
    pub(super) fn encode(&self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        set::<0, 8>(&mut bytes, self.debit_previous.to_le_bytes());
        set::<8, 8>(&mut bytes, self.credit_previous.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; INDEX_ENTRY_BYTES]) -> Self {
        Self {
            debit_previous: u64::from_le_bytes(get::<0, 8>(bytes)),
            credit_previous: u64::from_le_bytes(get::<8, 8>(bytes)),
        }
    }
}

/// The number of blocks that hold this many accounts.
pub fn account_blocks(accounts: u32) -> u32 {
    accounts.div_ceil(ACCOUNTS_PER_BLOCK)
}

pub(super) fn decode_accounts(block: &[u8]) -> impl Iterator<Item = BookAccount> + '_ {
    block.as_chunks::<STORED_BYTES>().0.iter().map(decode_account)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_are_read_as_they_were_written(previous in any::<[u64; 2]>()) {
            let entry = IndexEntry { debit_previous: previous[0], credit_previous: previous[1] };
            prop_assert_eq!(IndexEntry::decode(&entry.encode()), entry);
        }
    }
}
