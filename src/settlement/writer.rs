//! Writing groups: small ones at once, on the thread of the settlement actor; others on the journal's thread, while the next one fills.
//!
//! A hand-over to another thread and back costs as much as half a sync. Whoever writes a small group itself answers so much earlier, and
//! delays nothing: what comes meanwhile could not be written before anyway.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam::channel::bounded;

use super::actor::{SettlementHandle, SettlementMessage};
use crate::flow::{Helper, Helpers, Jobs, Stopped};
use crate::journal::{Appended, Journal, PendingGroup, TAKEN_OVER};
use crate::telemetry::{Recorder, Stage};

/// Groups handed over but not written: one is written, none waits, so one place is enough for the hand-over itself.
const WAITING_GROUPS: usize = 1;

/// Records of a group that is written at once.
const AT_ONCE_MAX: usize = 32;

/// Where the writer counts.
#[derive(Clone, Debug)]
pub struct WriterStats {
    /// Time of each append, and records per group.
    pub recorder: Recorder,
}

/// The journal and how far it may be written.
#[derive(Debug)]
struct Appender {
    journal: Box<dyn Journal>,
    epoch: u64,
    stats: WriterStats,
}

impl Appender {
    /// Appends a group; says how that ended. Blocks.
    fn append(&mut self, mut group: PendingGroup) -> SettlementMessage {
        let begun = Instant::now();
        let expected = group.base_sequence();
        let appended = self.journal.append(self.epoch, expected, &mut group);
        self.stats.recorder.record_us(Stage::Append, begun.elapsed());
        let count = u64::try_from(group.count()).unwrap_or(u64::MAX);
        self.stats.recorder.record_value(Stage::GroupRecords, count);
        match appended {
            Appended::Durable => SettlementMessage::Durable(Arc::new(group.into_durable())),
            Appended::Fenced { expected } => SettlementMessage::Failed(format!(
                "another writer has gone on: the journal expects sequence {expected}"
            )),
            Appended::TakenOver => SettlementMessage::Failed(TAKEN_OVER.to_owned()),
            Appended::Unknown(err) => SettlementMessage::Failed(format!(
                "writing or syncing the journal failed ({err}); whether the last group is on disk is decided at the next start"
            )),
            Appended::Failed(err) => SettlementMessage::Failed(format!("the journal cannot be written ({err})")),
        }
    }
}

/// Writes one group at a time.
#[derive(Debug)]
pub struct Writer {
    appender: Arc<Mutex<Appender>>,
    groups: Jobs<PendingGroup>,
}

impl Writer {
    /// Has a group written, the one before it being durable. A small one is when this returns, and the answer is how it ended; of another the
    /// actor is told.
    pub fn write(&self, group: PendingGroup) -> Result<Option<SettlementMessage>, Stopped> {
        if group.count() <= AT_ONCE_MAX {
            return Ok(Some(lock(&self.appender).append(group)));
        }
        self.groups.give(group).map_err(|_err| Stopped)?;
        Ok(None)
    }
}

/// A thread that panicked has ended the process already.
fn lock(appender: &Mutex<Appender>) -> std::sync::MutexGuard<'_, Appender> {
    appender.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the helper that appends groups as they are sent, and tells settlement how each ended. It ends after the first
/// failure, or when the writer is dropped.
pub fn spawn_writer(
    journal: Box<dyn Journal>,
    epoch: u64,
    settlement: SettlementHandle,
    stats: WriterStats,
    helpers: &Helpers,
) -> std::io::Result<(Writer, Helper)> {
    let appender = Arc::new(Mutex::new(Appender { journal, epoch, stats }));
    let own = Arc::clone(&appender);
    let (groups, helper) = helpers.start("heng-journal", bounded::<PendingGroup>(WAITING_GROUPS), move |group| {
        let ended = lock(&own).append(group);
        let failed = matches!(ended, SettlementMessage::Failed(_));
        settlement.send(ended).is_ok() && !failed
    })?;
    Ok((Writer { appender, groups }, helper))
}
