//! What a shard tells the settlement actor: outcomes with their records, and balances at a moment of that stream.

use std::sync::Arc;

use super::{Batch, Parcel};
use crate::ledger::{AccountId, Code, Outcome, RECORD_BYTES, Record};

/// What a shard decided, in order, for the settlement actor.
#[derive(Debug, Default)]
pub struct Decided {
    /// Which shard.
    pub shard: usize,
    /// One code per record.
    pub recorded: Batch<Code>,
    /// The encoded records, in the same order.
    pub records: Vec<u8>,
    /// Outcomes that leave no record; they may rest on the records above.
    pub unrecorded: Batch<Outcome>,
    /// Balances as of after the records above.
    pub audit: Option<AuditReply>,
}

/// A shard's balances at one moment of its stream of outcomes.
#[derive(Debug)]
pub struct AuditReply {
    /// Which shard.
    pub shard: usize,
    /// Id, posted debits and posted credits of each account.
    pub accounts: Vec<(AccountId, u128, u128)>,
    /// For each other shard, how many of its decisions on transfers reserved here have been posted here.
    pub finished: Vec<u64>,
}

impl Decided {
    /// Adds a record and its outcome.
    #[inline]
    pub fn record(&mut self, parcel: &Arc<Parcel>, index: u32, record: &Record, code: Code) {
        self.records.extend_from_slice(&record.encode());
        self.recorded.push(parcel, index, code);
        debug_assert_eq!(self.records.len(), self.recorded.len().saturating_mul(RECORD_BYTES));
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.recorded.is_empty() && self.unrecorded.is_empty() && self.audit.is_none()
    }
}
