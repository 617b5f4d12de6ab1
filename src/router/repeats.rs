//! Repeats: what to answer to a transfer whose id was used before.

use std::sync::Arc;

use crossbeam::channel::unbounded;

use crate::flow::{Batch, Helper, Helpers, Jobs};
use crate::journal::JournalReader;
use crate::ledger::{Code, LifeStore, Original, Outcome, Record, Sequence, StoredRecord, Transfer, TransferId};
use crate::planted::{self, Bug};
use crate::settlement::{SettlementHandle, SettlementMessage};
use crate::shard::{Item, ShardHandle};
use crate::telemetry::chain;

/// Something that needs earlier records.
#[derive(Debug)]
pub enum Lookup {
    /// Repeats: each transfer and the sequence of the record with its id.
    Repeats(Batch<(Transfer, Sequence)>),
    /// Transactions with refunds or reversals, for a shard; for each transfer the sequence of what it is about.
    Originals(usize, Vec<(Vec<Item>, Vec<Option<Sequence>>)>),
}

/// What to look up. Bounded by admission.
pub type RepeatSender = Jobs<Lookup>;

/// What is said when the first outcome cannot be read: that there is one, and where, but not which. Who asks again is told.
fn unreadable(sequence: Sequence) -> Outcome {
    Outcome { repeated: true, sequence, ..Outcome::unrecorded(Code::Internal) }
}

/// The outcome of a transfer whose id has this record: the first outcome again if the content is the same, whoever sent it.
pub(super) fn repeat(transfer: &Transfer, first: &StoredRecord) -> Outcome {
    let Record::Transfer { transfer: known, outcome, .. } = &first.record else { return unreadable(first.sequence) };
    let same = known.as_requested(outcome.is_accepted()) == *transfer;
    Outcome {
        code: if same { *outcome } else { Code::IdReused },
        repeated: same,
        sequence: first.sequence,
        time_ns: first.time_ns.saturating_add(u64::from(planted::is(Bug::RepeatRestamped))),
    }
}

/// Starts the helper that reads earlier records from the journal: it gives the outcomes of repeats to settlement, and refunds
/// with what they are about to their shards. It ends when the sender is dropped.
pub fn spawn_resolver(
    (reader, lives): (Arc<JournalReader>, Arc<dyn LifeStore>),
    settlement: SettlementHandle,
    shards: Vec<ShardHandle>,
    helpers: &Helpers,
) -> std::io::Result<(RepeatSender, Helper)> {
    helpers.start("heng-repeats", unbounded::<Lookup>(), move |lookup| {
        let sent = match lookup {
            Lookup::Repeats(batch) => settlement.send(SettlementMessage::Resolved(resolve_repeats(&reader, &batch))),
            Lookup::Originals(shard, transactions) => {
                let orders = transactions.into_iter().map(|(items, of)| with_originals((&reader, &*lives), items, of));
                let orders = orders.collect();
                shards.get(shard).map_or(Ok(()), |shard| shard.order(orders))
            }
        };
        sent.is_ok()
    })
}

fn read(reader: &JournalReader, sequence: Sequence) -> Option<StoredRecord> {
    match reader.read(sequence) {
        Ok(Some(stored)) => Some(stored),
        Ok(None) => {
            tracing::error!(sequence, "the journal has no record where the id index points");
            None
        }
        Err(err) => {
            tracing::error!(sequence, err = %chain(&err), "cannot read an earlier record");
            None
        }
    }
}

fn resolve_repeats(reader: &JournalReader, batch: &Batch<(Transfer, Sequence)>) -> Batch<Outcome> {
    let mut resolved = Batch::default();
    for tagged in batch.items() {
        let (transfer, sequence) = &tagged.item;
        let first = read(reader, *sequence);
        let outcome = first.map_or(unreadable(*sequence), |first| repeat(transfer, &first));
        if let Some(parcel) = batch.parcel(tagged.parcel) {
            resolved.push(parcel, tagged.index, outcome);
        }
    }
    resolved
}

/// Refusing for ever because the disk could not be read once would be wrong, and so would going on without.
#[expect(clippy::panic, reason = "the journal cannot be read: stop whole, and recover")]
fn with_originals(
    (reader, lives): (&JournalReader, &dyn LifeStore),
    mut items: Vec<Item>,
    of: Vec<Option<Sequence>>,
) -> Vec<Item> {
    for (item, sequence) in items.iter_mut().zip(of) {
        let Some(sequence) = sequence else { continue };
        let Some(stored) = read(reader, sequence) else { panic!("record {sequence} cannot be read") };
        // The desk reads it when it decides, and should not wait for the disk.
        let _brought_into_the_cache = lives.life(TransferId::from_raw(item.order.transfer.related));
        item.order.original = Original::of(&stored.record, item.order.gateway);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::testing::parcel;
    use crate::journal::FileDisk;

    #[test]
    fn a_repeat_whose_first_outcome_cannot_be_read_is_not_told_that_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let reader = JournalReader::new(Arc::new(FileDisk::create(directory.path()).unwrap()));
        let mut batch = Batch::default();
        batch.push(&parcel(1), 0, (Transfer::default(), 7));
        let resolved = resolve_repeats(&reader, &batch);
        let outcome = resolved.items().first().unwrap().item;
        assert_eq!(outcome, Outcome { code: Code::Internal, repeated: true, sequence: 7, time_ns: 0 });
    }
}
