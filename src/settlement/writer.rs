//! The journal's thread: the one place that blocks on the disk.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam::channel::{Sender, bounded};

use super::actor::{SettlementHandle, SettlementMessage};
use crate::journal::{Appended, Journal, PendingGroup};
use crate::telemetry::{Recorder, Stage};

/// Groups handed over but not written: one is written, none waits, so one place is enough for the hand-over itself.
const WAITING_GROUPS: usize = 1;

/// Where the writer counts.
#[derive(Clone, Debug)]
pub struct WriterStats {
    /// Time of each append, and records per group.
    pub recorder: Recorder,
}

/// Starts the thread that appends groups as they are sent, and tells settlement how each ended. It ends after the first
/// failure, or when the sender is dropped.
pub fn spawn_writer(
    mut journal: Box<dyn Journal>,
    epoch: u64,
    settlement: SettlementHandle,
    stats: WriterStats,
) -> std::io::Result<(Sender<PendingGroup>, JoinHandle<()>)> {
    let (groups, work) = bounded::<PendingGroup>(WAITING_GROUPS);
    let run = move || {
        while let Ok(mut group) = work.recv() {
            let begun = Instant::now();
            let expected = group.base_sequence();
            let appended = journal.append(epoch, expected, &mut group);
            stats.recorder.record_us(Stage::Append, begun.elapsed());
            let count = u64::try_from(group.count()).unwrap_or(u64::MAX);
            stats.recorder.record_value(Stage::GroupRecords, count);
            let message = match appended {
                Appended::Durable => SettlementMessage::Durable(Arc::new(group.into_durable())),
                Appended::Fenced { expected } => SettlementMessage::Failed(format!(
                    "another writer has gone on: the journal expects sequence {expected}"
                )),
                Appended::Unknown(err) => SettlementMessage::Failed(format!(
                    "writing or syncing the journal failed ({err}); whether the last group is on disk is decided at the next start"
                )),
                Appended::Failed(err) => SettlementMessage::Failed(format!("the journal cannot be written ({err})")),
            };
            let failed = matches!(message, SettlementMessage::Failed(_));
            if settlement.send(message).is_err() || failed {
                break;
            }
        }
    };
    let thread = thread::Builder::new().name("heng-journal".to_owned()).spawn(run)?;
    Ok((groups, thread))
}
