//! Reads that go to the disk: transfers by id and histories.

use super::listener::GatewayContext;
use crate::ledger::{AccountId, Code, Record, Sequence, StoredRecord};
use crate::telemetry::chain;

/// Reads the records at these sequences; what has none is left out. Blocks.
pub(super) fn read_records(
    context: &GatewayContext,
    sequences: &[Option<Sequence>],
) -> Result<Vec<StoredRecord>, Code> {
    let records = sequences.iter().flatten().map(|&sequence| read_record(context, sequence));
    records.collect()
}

fn read_record(context: &GatewayContext, sequence: Sequence) -> Result<StoredRecord, Code> {
    match context.reader.read(sequence) {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => {
            tracing::error!(sequence, "the journal has no record of this sequence");
            Err(Code::Internal)
        }
        Err(err) => {
            tracing::error!(sequence, err = %chain(&err), "cannot read a record");
            Err(Code::Internal)
        }
    }
}

/// Walks back through an account's history from the record `from`: records, and the sequence to go on from, 0 at the end.
/// A `from` that is no record of this account is malformed. Blocks.
pub(super) fn read_history(
    context: &GatewayContext,
    account: AccountId,
    from: Sequence,
    limit: u32,
) -> Result<(Sequence, Vec<StoredRecord>), Code> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut records = Vec::new();
    let mut sequence = from;
    while sequence != 0 && records.len() < limit {
        let link = context.links.get(sequence).map_err(|err| {
            tracing::error!(sequence, err = %chain(&err), "cannot read the index entry of a record");
            Code::Internal
        })?;
        // Only the caller's cursor can point beyond the end.
        let link = link.ok_or(Code::BodyMalformed)?;
        let stored = read_record(context, sequence)?;
        let previous = match (&stored.record, stored.record.done()) {
            (_, Some(transfer)) if transfer.debit == account => link.debit_previous,
            (_, Some(transfer)) if transfer.credit == account => link.credit_previous,
            (Record::Account { account: opened, .. }, _) if opened.id == account => 0,
            _ => return Err(Code::BodyMalformed),
        };
        records.push(stored);
        sequence = previous;
    }
    Ok((sequence, records))
}
