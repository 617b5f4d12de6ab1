//! The ledger: what an account, a transfer and an outcome are, and the rules by which one becomes the other.
//!
//! Everything here is pure: no I/O, no clock, no actix, no tokio, no sled. The same messages in the same order give the
//! same outcomes everywhere, which is what recovery and verification rely on.
//!
//! | file | subject |
//! |---|---|
//! | `account` | the account actor: the one place where a balance is decided |
//! | `book` | the balances at one ledger sequence, rebuilt from records alone |
//! | `code` | the stable table of outcome and error codes |
//! | `id` | identifiers |
//! | `packed` | an account in 98 bytes |
//! | `record` | the 128 bytes of each journal entry, shared with the wire |
//! | `table` | accounts in slots, found by id |
//! | `transfer` | a transfer, an account to open, an outcome |
//!
//! # Not here
//!
//! Order and durability: [`crate::settlement`], [`crate::journal`]. Hosting and mailboxes: [`crate::shard`].

mod account;
mod book;
mod code;
mod fields;
mod id;
mod packed;
mod record;
mod table;
mod transfer;

pub use account::{Account, Decision};
pub use book::{Applied, Book, BookAccount, BookError};
pub use code::Code;
pub use fields::{get, set};
pub use id::{AccountId, GatewayId, Sequence, TransferId, parse_id};
pub use packed::{PACKED_BYTES, PackedAccount};
pub use record::{GatewayEntry, RECORD_BYTES, Record, RecordError, StoredRecord, record_transfer_id};
pub use table::{Slot, Table};
pub use transfer::{AccountFlags, NewAccount, Outcome, Transfer};
