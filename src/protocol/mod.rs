#![doc = include_str!("README.md")]
//!
//! # This module
//!
//! Pure: bytes to types and back. Every decoder takes untrusted bytes, allocates no more than those bytes justify, and
//! answers an error code instead of panicking.

mod body;
mod frame;
mod handshake;
mod pieces;
mod query;

pub use body::{
    ACCOUNT_STATE_BYTES, HistoryRequest, ITEMS_HEADER_BYTES, ListRequest, OUTCOME_BYTES, STORED_BYTES,
    check_transactions, decode_accounts, decode_error, decode_ids, decode_new_accounts, decode_outcomes, decode_stored,
    decode_transfers, encode_accounts, encode_error, encode_ids, encode_new_accounts, encode_outcomes, encode_stored,
    encode_transfers,
};
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, Kind, MAGIC, begin_frame, encode_frame, end_frame};
pub use handshake::{DEVELOPMENT_GATEWAY, DEVELOPMENT_KEY, HELLO_BYTES, Hello, KEY_BYTES, WELCOME_BYTES, Welcome};
pub use pieces::TransferPieces;
pub use query::{
    AccountDetail, AccountRequest, Explained, ExplainedOutcome, Query, QueryKind, WAIT_MS_MAX, decode_detail,
    decode_explained, encode_detail, encode_explained,
};

/// An account as it is told: what the book knows of it.
pub use crate::ledger::BookAccount as AccountState;

/// The protocol version that this code speaks.
pub const VERSION: u16 = 1;

/// The most transfers, accounts or ids in one request.
pub const ITEMS_MAX: u32 = 8_190;

/// The longest body of a request: a full batch of transfers.
pub const BODY_BYTES_MAX: u32 = 8 + ITEMS_MAX * 128;

/// The longest body of an answer: an explanation of a full batch with its charges.
pub const ANSWER_BYTES_MAX: u32 = 16 + ITEMS_MAX * 1_024;
