//! Clearing and reconciliation: follows the durable stream and proves that the books balance.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | [`ClearingMessage::Durable`] | settlement | a group is durable: follow it |
//! | [`ClearingMessage::Audit`] | settlement | a shard's balances at this point of the stream |
//! | [`ClearingMessage::Accounts`], [`ClearingMessage::List`] | sessions | read accounts at one sequence |
//! | [`ClearingMessage::Detail`] | sessions | read an account with what its limits leave |
//! | [`ClearingMessage::Inspect`] | back office | read windows, positions, payouts |
//! | [`ClearingMessage::Explain`] | sessions | what would become of these transfers? |
//! | [`ClearingMessage::Checkpoint`] | drain | make a checkpoint now |
//!
//! The actor keeps a [`crate::ledger::Book`] beside the shards' accounts. So it can prove continuously that both agree, read
//! any number of accounts at one sequence without disturbing a shard, and write checkpoints without stopping anyone. What
//! is read is durable, and whoever was answered before asking finds what the answer said.
//!
//! # Invariants
//!
//! 1. Records are applied in order of sequence, without a gap; a record that contradicts the book is counted and reported.
//! 2. A checkpoint holds every account as of its sequence or later, and says for each as of which record.
//!
//! # Not here
//!
//! What is done when a window has closed: [`crate::backoffice`]. The store's bytes: [`crate::store`].

mod actor;
mod checkpoint;
mod core;
mod explain;
mod proof;

pub use self::actor::{
    ClearingActor, ClearingHandle, ClearingMessage, ClearingOptions, DetailReply, ExplainReply, Inspection,
    ReadAccounts, ReadReply,
};
pub use self::core::Core;
