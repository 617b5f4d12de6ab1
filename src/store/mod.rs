//! The store: what is derived from the journal, kept so that a start need not read the whole journal. What there is for each record or refund is in files of ours, the rest is sled's.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `meta` | `format`, `checkpoint`, `indexed` | format version; sequence, number of accounts and summary of the last checkpoint, and its last run of lives; up to where the index reaches |
//! | `accounts` | block number, u32 big-endian | 56 accounts, 124 bytes each, in order of opening |
//! | `pendings` | block number, u32 big-endian | 60 places of 113 bytes: holds, delayed transfers, reserves |
//! | `levels` | sequence of the record, u64 big-endian | slot and level that the account had before it |
//! | `tallies` | block number | 10 tallies of limits, bincode |
//! | `policy` | sequence of its last record, u64, and number of the part, u32, big-endian | a part of the policy's text |
//! | `windows` | length and name of a piece, number of the part | a part of the participants, of a window, a payout; and as of which sequence |
//! | `gateways` | gateway number, u32 big-endian | name, key hash and permissions |
//!
//! Values stay below 7 KiB: sled puts larger ones into files of their own that it never syncs. Nothing of a
//! transfer is there: a tree writes it several times, and keeps some thirty bytes in memory of each entry for ever. Previous records of debit and credit account, 16 bytes for each record, are in a file
//! of ours (`index.rs`), what was given back of transfers in others, sorted by id (`lives/`, `life_runs.rs`). One thread writes ([`spawn_store_writer`]), another merges runs (`merger.rs`); anybody may read.
//!
//! # Invariants
//!
//! 1. Everything here can be made again from the journal. A store that does not open is set aside and made again.
//! 2. sled's `flush` does not survive a power cut by itself; [`Store::sync`] follows it with `fdatasync`.
//! 3. One that was written when the machine went down is not believed: sled may have lost what it had durably (`trust.rs`).
//! 4. A life that cannot be read ends the process, and the next start makes the store again.
//! 5. The index entries of all records that an account has seen, and the levels that it had before, are durable before the account is written.
//!
//! # Not here
//!
//! When a checkpoint is made: [`crate::clearing`].

mod blocks;
mod index;
mod levels;
mod life_runs;
mod links;
mod lives;
mod merger;
mod open;
mod pendings;
mod reached;
mod trust;
mod windows;
mod writer;

pub use blocks::{ACCOUNTS_PER_BLOCK, Checkpoint, IndexEntry, account_blocks};
pub use index::{INDEX_ENTRY_BYTES, INDEX_PER_BLOCK};
pub use links::LinkLog;
pub(crate) use lives::is_marked;
pub use open::{Gateways, Store, StoreError, open_or_set_aside, set_aside};
pub use pendings::OpenTree;
pub use reached::reached;
pub use trust::machine_boot;
pub(crate) use trust::went_down;
pub use writer::{StoreJob, StoreWriter, spawn_store_writer};
