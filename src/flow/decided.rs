//! What a shard tells the settlement actor: outcomes with their records, and balances at a moment of that stream.

use std::sync::Arc;

use super::{Batch, Parcel};
use crate::ledger::{AccountId, Code, Outcome, RECORD_BYTES, Record, Totals, Transfer, encode_decided, join_to_next};

/// What a shard decided, in order, for the settlement actor.
#[derive(Debug, Default)]
pub struct Decided {
    /// Which shard; the number of shards for what the desk decided with accounts of several.
    pub shard: usize,
    /// The second as of which limits counted; 0 when none did.
    pub second: u32,
    /// One code per record; a record that the ledger made by itself belongs to no parcel.
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
    /// Id and totals of each account; those that the desk has at the moment are left out.
    pub accounts: Vec<(AccountId, Totals)>,
    /// For each other shard, how many of its decisions on transfers reserved here have been posted here.
    pub finished: Vec<u64>,
}

impl Decided {
    /// Makes room for so many records.
    pub fn reserve(&mut self, records: usize) {
        self.records.reserve(records.saturating_mul(RECORD_BYTES));
        self.recorded.reserve(records);
    }

    /// Adds a record and its outcome.
    #[inline]
    pub fn record(&mut self, parcel: &Arc<Parcel>, index: u32, record: &Record, code: Code) {
        self.records.extend_from_slice(&record.encode());
        self.recorded.push(parcel, index, code);
        debug_assert_eq!(self.records.len(), self.recorded.len().saturating_mul(RECORD_BYTES));
    }

    /// Adds a client's transfer and its outcome.
    #[inline]
    pub fn transfer(&mut self, parcel: &Arc<Parcel>, index: u32, transfer: &Transfer, code: Code) {
        self.records.extend_from_slice(&encode_decided(transfer, code, parcel.gateway()));
        self.recorded.push(parcel, index, code);
    }

    /// Adds a record that the ledger made by itself.
    pub fn internal(&mut self, record: &Record) {
        self.records.extend_from_slice(&record.encode());
        self.recorded.push_untagged(Code::Accepted);
    }

    /// Says that the record to come belongs to the same atomic step as the last one.
    pub fn join(&mut self) {
        if let Some(last) = self.records.last_chunk_mut::<RECORD_BYTES>() {
            join_to_next(last);
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.recorded.is_empty() && self.unrecorded.is_empty() && self.audit.is_none()
    }
}
