//! Settlement: outcomes get their place in the ledger, become durable, and only then are told.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | [`SettlementMessage::Decided`] | shards | append these outcomes, in this order |
//! | [`SettlementMessage::Resolved`] | router | outcomes that need no record, such as those of repeats |
//! | [`SettlementMessage::Record`] | administration | append a record that no shard decides |
//! | [`SettlementMessage::Durable`] | journal thread | a group is on disk (small groups settlement writes itself) |
//! | [`SettlementMessage::Failed`] | journal thread | it is not, or nobody knows: stop |
//!
//! While one group is being written the next one fills; when the disk is ready the next is closed and sent. There is no
//! timer: the disk sets the pace. Messages wait in an inbox that admission bounds.
//!
//! # Invariants
//!
//! 1. The order in which outcomes arrive is the ledger sequence, without a gap.
//! 2. Followers (clearing, router) are given a durable group before any answer that rests on it is sent, so whoever reads
//!    after an answer finds it.
//! 3. No more than a fixed number of records is durable and not followed by clearing ([`crate::flow::Pace`]).
//! 4. An answer that rests on a record waits for it, also when it has no record of its own.
//!
//! # Not here
//!
//! Deciding ([`crate::shard`]), files ([`crate::journal`]).

mod actor;
mod sequencer;
mod writer;

pub use actor::{Auditor, Follower, SettlementActor, SettlementHandle, SettlementMessage, SettlementPeers, Timekeeper};
pub use sequencer::{Answer, Sequencer, fill_outcomes};
pub use writer::{Writer, WriterStats, spawn_writer};
