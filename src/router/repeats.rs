//! Repeats: what to answer to a transfer whose id was used before.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Sender, unbounded};

use crate::flow::Batch;
use crate::journal::JournalReader;
use crate::ledger::{Code, Outcome, Record, Sequence, StoredRecord, Transfer};
use crate::settlement::{SettlementHandle, SettlementMessage};
use crate::telemetry::chain;

/// Repeats to look up: each transfer and the sequence of the record with its id. Bounded by admission.
pub type RepeatSender = Sender<Batch<(Transfer, Sequence)>>;

/// The outcome of a transfer whose id has this record: the first outcome again if the content is the same.
pub(super) fn repeat(transfer: &Transfer, first: &StoredRecord) -> Outcome {
    let Record::Transfer { transfer: known, outcome, .. } = &first.record else {
        return Outcome::unrecorded(Code::Internal);
    };
    let same = known == transfer;
    Outcome {
        code: if same { *outcome } else { Code::IdReused },
        repeated: same,
        sequence: first.sequence,
        time_ns: first.time_ns,
    }
}

/// Starts the thread that reads first records from the journal and gives the outcomes of repeats to settlement. It ends when
/// the sender is dropped.
pub fn spawn_resolver(
    reader: Arc<JournalReader>,
    settlement: SettlementHandle,
) -> std::io::Result<(RepeatSender, JoinHandle<()>)> {
    let (sender, work) = unbounded::<Batch<(Transfer, Sequence)>>();
    let run = move || {
        for batch in work {
            let mut resolved = Batch::default();
            for tagged in batch.items() {
                let (transfer, sequence) = &tagged.item;
                let outcome = match reader.read(*sequence) {
                    Ok(Some(first)) => repeat(transfer, &first),
                    Ok(None) => {
                        tracing::error!(sequence, "the journal has no record where the id index points");
                        Outcome::unrecorded(Code::Internal)
                    }
                    Err(err) => {
                        tracing::error!(
                            sequence,
                            err = %chain(&err),
                            "cannot read the first record of a repeated id"
                        );
                        Outcome::unrecorded(Code::Internal)
                    }
                };
                if let Some(parcel) = batch.parcel(tagged.parcel) {
                    resolved.push(parcel, tagged.index, outcome);
                }
            }
            if settlement.send(SettlementMessage::Resolved(resolved)).is_err() {
                break;
            }
        }
    };
    Ok((sender, thread::Builder::new().name("heng-repeats".to_owned()).spawn(run)?))
}
