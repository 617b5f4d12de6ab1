//! The ledger: what an account, a transfer and an outcome are, and the rules by which one becomes the other.
//!
//! Everything here is pure: no I/O, no clock, no actix, no tokio, no sled. The same messages in the same order give the
//! same outcomes everywhere, which is what recovery and verification rely on.
//!
//! | file | subject |
//! |---|---|
//! | `account` | the account actor: the one place where a balance is decided |
//! | `bank` | bank accounts that the ledger mirrors, and how files about them are read |
//! | `blocks` | which blocks of the store changed |
//! | `book` | the balances at one ledger sequence, and what is open, rebuilt from records alone |
//! | `break_entry` | what the journal records of bank statements and breaks |
//! | `bucket` | what a limit counted in one part of its period |
//! | `charge` | fees, shares, withheld reserves: exact, rounded once |
//! | `clearing_entry` | what the journal records of participants, windows and payouts |
//! | `code` | the stable table of outcome and error codes |
//! | `desk` | decides what needs more than one account: holds, transactions, refunds, limits |
//! | `distribution` | what is divided by ratio on a schedule, and what the journal records of it |
//! | `grant` | what a gateway may do |
//! | `id` | identifiers |
//! | `operation` | what a transfer's flags ask for |
//! | `packed` | an account in one cache line, and 52 bytes more if it needs them |
//! | `pending` | what is open between records |
//! | `places` | numbers by hash, in four bytes a place |
//! | `policy` | the rules of the business, read from a text that the journal keeps |
//! | `record` | the 128 bytes of each journal entry, shared with the wire |
//! | `rows` | rows of counters, one for each subject of limits |
//! | `schedule` | local times, business days, calendars |
//! | `scheme` | which transfers are cleared together, and how |
//! | `spread` | a map that grows without stopping the world |
//! | `table` | accounts in slots, found by id |
//! | `tallies` | what limits have counted, for the desk |
//! | `tally` | limits: counting per period |
//! | `watch` | what reports list for those who look after money laundering |
//! | `transfer` | a transfer, an account to open, an outcome |
//! | `words` | words that are asked at random, on huge pages |
//!
//! # Not here
//!
//! Order and durability: [`crate::settlement`], [`crate::journal`]. Hosting and mailboxes: [`crate::shard`].

mod account;
mod bank;
mod blocks;
mod book;
mod break_entry;
mod bucket;
mod charge;
mod clearing_entry;
mod code;
mod desk;
mod distribution;
mod fields;
mod grant;
mod id;
mod life;
mod operation;
mod packed;
mod pending;
mod places;
mod policy;
mod record;
mod rows;
mod schedule;
mod scheme;
mod spread;
mod table;
mod tallies;
mod tally;
mod transfer;
mod watch;
mod words;

pub use account::{Account, Decision, Lasting};
pub(crate) use bank::unspaced;
pub use bank::{BankAccount, CsvMapping};
pub use blocks::BlockSet;
pub use book::{
    Applied, Book, BookAccount, BookError, BookState, BookSummary, Counters, DistributionRun, Distributions,
    FormerLevel, FormerLevels, HOUSE, Leg, LegKey, LimitUse, Lives, Open, PENDINGS_PER_BLOCK, Participant, Parties,
    Piece, PieceError, Position, Positions, SettlementPurpose, Shelf, Sum, TALLIES_PER_BLOCK, Tally, Totals, Window,
    WindowPieces, Windows,
};
pub use break_entry::{BreakAction, BreakEntry, BreakKey, Resolution, StatementEntry};
pub use bucket::Bucket;
pub use charge::divide;
pub use clearing_entry::{ParticipantEntry, PayoutEntry, PayoutState, WindowEntry, WindowState, padded, unpadded};
pub use code::Code;
pub use desk::{Accounts, Desk, Made, Order, Refusal};
pub use distribution::{Distribution, DistributionEntry, DistributionState};
pub use fields::{get, set};
pub use grant::{Grant, GrantChange};
pub use id::{AccountId, GatewayId, Sequence, TransferId, parse_id};
pub use life::{LIFE_BYTES, Life, LifeStore};
pub use operation::{AccountChange, BALANCING, ExchangeRate, LINKED, MORE, Operation, Rounding, TRANSACTION_MAX};
pub use packed::{AccountMore, PackedAccount, STORED_BYTES, decode_account, encode_account};
pub use pending::{Original, PENDING_BYTES, Pending, PendingKind, read_counted};
pub use places::{Keys, Places, fold};
pub use policy::{Asset, Policy, PolicyError};
pub use record::{
    EDITION, GatewayEntry, POLICY_PART_BYTES, PolicyPart, PolicyPartError, RECORD_BYTES, Record, RecordError,
    StoredRecord, accepted_parties, encode_decided, is_joined_to_next, join_to_next, record_about, record_transfer_id,
};
pub use schedule::{Recurrence, Schedule};
pub use scheme::{Atomicity, Netting, PayerText, PayoutFormat, Scheme};
pub use table::{Identified, Slot, Table};
pub use tally::{Counted, LimitRule, Period, Scope, Subject};
pub use transfer::{AccountClass, AccountFlags, AccountState, NewAccount, Outcome, Transfer};
pub use watch::{WatchPer, WatchRule};
