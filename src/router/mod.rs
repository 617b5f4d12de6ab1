//! The router: knows which transfer ids were used, and sends each new transfer to the shard of its debit account.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | [`RouterMessage::Transfers`] | sessions | have these decided |
//! | [`RouterMessage::Accounts`] | sessions | have these opened |
//! | [`RouterMessage::Find`] | sessions | where are the records of these ids? |
//! | [`RouterMessage::Durable`] | settlement | these ids are decided for ever |
//!
//! It stands before the shards because an id must be looked up in one place: the same id with another debit account would
//! reach another shard. A repeat never reaches a shard; it is compared with the first record, which a helper thread reads
//! from the journal. What a flood of old ids costs the router is finding them: an id that is not in memory any more is read from its run,
//! one block for 170 neighbours. So it is with the first new ids that lie among old ones, until a helper has read again which ids may be there.
//!
//! A transaction goes to the shard of its first debit account. If one of its ids was used before, its new ids are refused. What
//! is about an earlier transfer waits until that one is durable, and goes to its shard with that one's record.
//!
//! # Invariants
//!
//! 1. An id goes to a shard at most once, for ever: known from the journal, or pending until its record is durable.
//! 2. A repeat is answered from a durable record only.
//!
//! # Not here
//!
//! The order within a shard ([`crate::shard`]); reading the index back at start ([`crate::engine`]).

use std::io;
use std::path::Path;

use crate::ledger::{Sequence, TransferId};
use crate::runs::{IdEntry, Run, read_all};

mod actor;
mod asking;
mod ids;
mod keeping;
mod known;
mod repeats;

pub use actor::{FindReply, RouterActor, RouterHandle, RouterMessage};
pub use ids::{Admitted, IdIndex};
pub use known::{BEHIND_APART, IDS_IN_MEMORY, KnownIds};
pub use repeats::{Lookup, RepeatSender, spawn_resolver};

/// Ids that are known, in a file.
type IdRun = Run<IdEntry>;

/// Reads all ids in the runs of a directory, and changes nothing; answers up to which record the runs have all ids, or `None` when one
/// is damaged or missing, so that the next start makes them again. One id may come twice. Blocks.
pub fn read_known_ids(directory: &Path, mut visit: impl FnMut(TransferId, Sequence)) -> io::Result<Option<Sequence>> {
    read_all(directory, |(id, sequence): IdEntry| visit(TransferId::from_raw(id), sequence))
}
