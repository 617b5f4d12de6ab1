//! The bytes of the store's values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ledger::{AccountFlags, AccountId, BookAccount, NewAccount, Sequence, TransferId, get, set};

/// Accounts per block.
pub const ACCOUNTS_PER_BLOCK: u32 = 64;
/// Bytes of an account in a block.
const ACCOUNT_BYTES: usize = 98;

/// Index entries per block.
pub const INDEX_PER_BLOCK: usize = 216;
/// Bytes of an index entry.
pub const INDEX_ENTRY_BYTES: usize = 32;

/// What a checkpoint is: the accounts of the `accounts` tree, up to this number of them, are at least at this sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Sequence of the last record in it.
    pub sequence: Sequence,
    /// Number of accounts.
    pub accounts: u32,
    /// Per currency number: sum of accepted amounts, and how many.
    pub turnover: BTreeMap<u16, (u128, u64)>,
}

/// What is kept of one record besides the record: how to find it, and its account's records before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// The transfer id, invalid when the record is no transfer.
    pub id: TransferId,
    /// The record before in the debit account's history, 0 for none.
    pub debit_previous: Sequence,
    /// The record before in the credit account's history, 0 for none.
    pub credit_previous: Sequence,
}

impl IndexEntry {
    pub(super) fn encode(&self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        set::<0, 16>(&mut bytes, self.id.raw().to_le_bytes());
        set::<16, 8>(&mut bytes, self.debit_previous.to_le_bytes());
        set::<24, 8>(&mut bytes, self.credit_previous.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; INDEX_ENTRY_BYTES]) -> Self {
        Self {
            id: TransferId::from_raw(u128::from_le_bytes(get::<0, 16>(bytes))),
            debit_previous: u64::from_le_bytes(get::<16, 8>(bytes)),
            credit_previous: u64::from_le_bytes(get::<24, 8>(bytes)),
        }
    }
}

/// The first sequence of the index block that holds a sequence.
pub(super) fn index_block_base(sequence: Sequence) -> Sequence {
    let per_block = u64::try_from(INDEX_PER_BLOCK).unwrap_or(1);
    let block = sequence.saturating_sub(1).checked_div(per_block).unwrap_or(0);
    block.saturating_mul(per_block).saturating_add(1)
}

/// The number of blocks that hold this many accounts.
pub fn account_blocks(accounts: u32) -> u32 {
    accounts.div_ceil(ACCOUNTS_PER_BLOCK)
}

pub(super) fn encode_account(account: &BookAccount) -> [u8; ACCOUNT_BYTES] {
    let mut bytes = [0; ACCOUNT_BYTES];
    let properties = &account.properties;
    set::<0, 16>(&mut bytes, properties.id.raw().to_le_bytes());
    set::<16, 16>(&mut bytes, properties.user_data_128.to_le_bytes());
    set::<32, 16>(&mut bytes, account.debits_posted.to_le_bytes());
    set::<48, 16>(&mut bytes, account.credits_posted.to_le_bytes());
    set::<64, 8>(&mut bytes, properties.user_data_64.to_le_bytes());
    set::<72, 8>(&mut bytes, account.opened_ns.to_le_bytes());
    set::<80, 8>(&mut bytes, account.head.to_le_bytes());
    set::<88, 4>(&mut bytes, properties.user_data_32.to_le_bytes());
    set::<92, 2>(&mut bytes, properties.currency.to_le_bytes());
    set::<94, 2>(&mut bytes, properties.code.to_le_bytes());
    set::<96, 2>(&mut bytes, properties.flags.0.to_le_bytes());
    bytes
}

pub(super) fn decode_accounts(block: &[u8]) -> impl Iterator<Item = BookAccount> + '_ {
    block.chunks_exact(ACCOUNT_BYTES).map(|bytes| BookAccount {
        properties: NewAccount {
            id: AccountId::from_raw(u128::from_le_bytes(get::<0, 16>(bytes))),
            user_data_128: u128::from_le_bytes(get::<16, 16>(bytes)),
            user_data_64: u64::from_le_bytes(get::<64, 8>(bytes)),
            user_data_32: u32::from_le_bytes(get::<88, 4>(bytes)),
            currency: u16::from_le_bytes(get::<92, 2>(bytes)),
            code: u16::from_le_bytes(get::<94, 2>(bytes)),
            flags: AccountFlags(u16::from_le_bytes(get::<96, 2>(bytes))),
        },
        debits_posted: u128::from_le_bytes(get::<32, 16>(bytes)),
        credits_posted: u128::from_le_bytes(get::<48, 16>(bytes)),
        opened_ns: u64::from_le_bytes(get::<72, 8>(bytes)),
        head: u64::from_le_bytes(get::<80, 8>(bytes)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_read_as_they_were_written(wide in any::<[u128; 4]>(), mid in any::<[u64; 3]>(), small in any::<(u32, u16, u16, u16)>()) {
            let account = BookAccount {
                properties: NewAccount {
                    id: AccountId::from_raw(wide[0]), user_data_128: wide[1], user_data_64: mid[0], user_data_32: small.0,
                    currency: small.1, code: small.2, flags: AccountFlags(small.3),
                },
                debits_posted: wide[2], credits_posted: wide[3], opened_ns: mid[1], head: mid[2],
            };
            prop_assert_eq!(decode_accounts(&encode_account(&account)).collect::<Vec<_>>(), [account]);
            let entry = IndexEntry { id: TransferId::from_raw(wide[0]), debit_previous: mid[0], credit_previous: mid[1] };
            prop_assert_eq!(IndexEntry::decode(&entry.encode()), entry);
        }
    }

    #[test]
    fn index_blocks_begin_at_one() {
        assert_eq!([1, 216, 217, 432, 433].map(index_block_base), [1, 1, 217, 217, 433]);
    }
}
