//! Shards: each an actix actor alone on its own thread, hosting account actors.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | [`ShardMessage::Submit`] | router | decide these transfers, whose debit accounts are hosted here; if a rest of them follows, what comes of these is sent with that |
//! | [`ShardMessage::Orders`] | router | the same, for those of which the router knows something already |
//! | [`ShardMessage::Open`] | router | open these accounts |
//! | [`ShardMessage::Accept`] | another shard | the debit side is reserved: credit the account hosted here, and decide |
//! | [`ShardMessage::Finish`] | another shard | how transfers ended whose debit side was reserved here |
//! | [`ShardMessage::Probe`], [`ShardMessage::Probed`] | another shard | tell me all that you decided so far |
//! | [`ShardMessage::Loans`] | another shard | accounts go to the desk and come back (`office.rs`) |
//! | [`ShardMessage::Tick`] | settlement | what time it is in the ledger; to the first shard |
//! | [`ShardMessage::Audit`] | clearing | what are the balances of these slots? |
//!
//! Messages wait in an inbox ([`crate::flow`]) that admission bounds; a shard never blocks and never refuses.
//!
//! # Ordering
//!
//! Transfers of one debit account are decided in the order in which they came. Transfers of different debit accounts may
//! be decided in any order, also within one request: one that spends what another brings in belongs in a later request, or in
//! one transaction. Refunds and reversals are looked up first, so they may be decided after what was sent later.
//!
//! # Not here
//!
//! The rules of an account ([`crate::ledger`]), sequence and durability ([`crate::settlement`]).

mod actor;
mod core;
mod legs;
mod office;
mod sides;

pub use self::actor::{ShardActor, ShardHandle, ShardPeers};
pub use self::core::{Core, Output};
pub use self::legs::{Finished, Item, Leg, Loan, ShardMessage};
