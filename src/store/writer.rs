//! The store's thread: writes blocks and checkpoints, so that nobody else waits for sled.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Sender, TrySendError, bounded};

use super::blocks::Checkpoint;
use super::links::LinkLog;
use super::lives::distrust_after;
use super::merger::spawn_merger;
use super::open::{Store, StoreError};
use super::pendings::OpenTree;
use crate::flow::{Helper, Helpers, Jobs, REST_MAX};
use crate::ledger::{FormerLevel, GatewayEntry, Life, Sequence, TransferId, WindowPieces};
use crate::planted::{self, Bug};
use crate::telemetry::{Telemetry, chain};

/// Jobs that may wait: blocks of 7 KB, so at most 3.5 MB.
const JOBS_MAX: usize = 512;

/// After so much work for a checkpoint the thread rests, twice as long, unless there is a hurry: at once it would take a processor from those who answer,
/// for half a second with what was given back of a hundred thousand transfers.
const RESTED_AFTER: Duration = Duration::from_micros(500);
const RESTS: u32 = 2;
/// Former levels that are written, or forgotten, between two looks at that.
const LEVELS_AT_ONCE: usize = 64;

/// Something to write, in order.
#[derive(Debug)]
pub enum StoreJob {
    /// Index entries from this sequence on; `full` ones are forgotten in memory once written.
    Index {
        /// First sequence.
        base: Sequence,
        /// Encoded entries.
        bytes: Vec<u8>,
        /// Whether the block is full.
        full: bool,
    },
    /// All before this is durable before anything after it is written.
    Barrier,
    /// A block of accounts.
    Accounts {
        /// Its number.
        block: u32,
        /// Its packed accounts.
        bytes: Vec<u8>,
    },
    /// A block of what is open.
    Open {
        /// Of which tree.
        tree: OpenTree,
        /// Its number.
        block: u32,
        /// Its places.
        bytes: Vec<u8>,
    },
    /// What levels of accounts were.
    Levels(Vec<FormerLevel>),
    /// Levels up to this record are not asked for any more.
    ForgetLevels(Sequence),
    /// What was given back of transfers.
    Lives(Vec<(TransferId, Life)>),
    /// A policy's text, by the sequence of its last record.
    Policy(Sequence, String),
    /// What changed of windows, as of the sequence of the checkpoint that is being written.
    Windows(Box<WindowPieces>),
    /// A gateway.
    Gateway(Box<GatewayEntry>),
    /// All blocks of a checkpoint are written: make it so, and tell that it is.
    Checkpoint(Box<Checkpoint>, Vec<Sender<Sequence>>),
}

/// How the clearing actor speaks to the store's thread.
#[derive(Clone, Debug)]
pub struct StoreWriter {
    jobs: Jobs<StoreJob>,
    /// Whether a job was refused since `on_room` was last called.
    refused: Arc<AtomicBool>,
    /// Whether the checkpoint that is being written is waited for.
    hurries: Arc<AtomicBool>,
}

impl StoreWriter {
    /// Hands on a job, or gives it back when there is no room. Never blocks.
    pub fn try_send(&self, job: StoreJob) -> Result<(), StoreJob> {
        match self.jobs.give(job) {
            Err(TrySendError::Full(job)) => {
                self.refused.store(true, Release);
                Err(job)
            }
            // The thread has failed and the process is ending; whoever waits for the job learns it when the job is dropped.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Has the checkpoint that is being written go on without rests.
    pub fn hurry(&self) {
        self.hurries.store(true, Relaxed);
    }
}

/// When the thread rests.
struct Rests {
    /// Since the last rest.
    worked: Duration,
    hurries: Arc<AtomicBool>,
}

impl Rests {
    /// How long to rest after a job that took so long.
    fn after(&mut self, job: Kind, took: Duration) -> Option<Duration> {
        match job {
            Kind::Part => self.worked = self.worked.saturating_add(took),
            Kind::End => self.hurries.store(false, Relaxed),
            Kind::Other => {}
        }
        if self.worked < RESTED_AFTER {
            return None;
        }
        let rest = std::mem::take(&mut self.worked).saturating_mul(RESTS).min(REST_MAX);
        (!self.hurries.load(Relaxed)).then_some(rest)
    }
}

/// How the thread works and rests.
struct Pace {
    rests: RefCell<Rests>,
    since: Cell<Instant>,
    is_thread: bool,
}

impl Pace {
    /// A job, or a part of one, begins.
    fn begin(&self) {
        self.since.set(Instant::now());
    }

    /// What was done since was of this kind. Rests when it is time to.
    fn done(&self, kind: Kind) {
        let rest = self.rests.borrow_mut().after(kind, self.since.get().elapsed());
        if let Some(rest) = rest.filter(|_| self.is_thread) {
            sleep(rest);
        }
        self.begin();
    }
}

/// What a job is to a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One of its many parts.
    Part,
    End,
    Other,
}

impl StoreJob {
    fn kind(&self) -> Kind {
        match self {
            Self::Accounts { .. } | Self::Open { .. } | Self::Levels(_) | Self::ForgetLevels(_) | Self::Lives(_) => {
                Kind::Part
            }
            Self::Checkpoint(..) => Kind::End,
            _ => Kind::Other,
        }
    }
}

/// Starts the helper, and the one that merges what it writes. `on_room` is called when there is room again after a job was refused. A failing store ends the process: the
/// next start sets it aside. The helpers end when the last sender is dropped.
pub fn spawn_store_writer(
    store: Store,
    links: Arc<LinkLog>,
    telemetry: Telemetry,
    on_room: impl Fn() + Send + 'static,
    helpers: &Helpers,
) -> std::io::Result<(StoreWriter, [Helper; 2])> {
    let (merger, merging) = spawn_merger(store.clone(), helpers)?;
    let (jobs, work) = bounded(JOBS_MAX);
    let refused = Arc::new(AtomicBool::new(false));
    let (waiting, is_refused) = (work.clone(), Arc::clone(&refused));
    let hurries = Arc::new(AtomicBool::new(false));
    let rests = RefCell::new(Rests { worked: Duration::ZERO, hurries: Arc::clone(&hurries) });
    let pace = Pace { rests, since: Cell::new(Instant::now()), is_thread: helpers.are_threads() };
    let (jobs, helper) = helpers.start("heng-store", (jobs, work), move |job: StoreJob| {
        let mut left = Some(job);
        while let Some(job) = left.take() {
            let kind = job.kind();
            pace.begin();
            match perform((&store, &pace), &links, &telemetry, job) {
                Ok(more) => left = more,
                Err(err) => {
                    distrust_after(store.path(), &err);
                    let why = chain(&err);
                    telemetry.health().fail(&format!("the store cannot be written ({why}); the journal is whole"));
                    return false;
                }
            }
            if waiting.len() <= JOBS_MAX / 2 && is_refused.swap(false, AcqRel) {
                on_room();
            }
            if kind == Kind::End {
                merger.look();
            }
            pace.done(kind);
        }
        true
    })?;
    Ok((StoreWriter { jobs, refused, hurries }, [merging, helper]))
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own; who waits for a checkpoint has it hurry")]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Does a job, or a part of one that takes long; answers what is left of it.
fn perform(
    (store, pace): (&Store, &Pace),
    links: &LinkLog,
    telemetry: &Telemetry,
    job: StoreJob,
) -> Result<Option<StoreJob>, StoreError> {
    match job {
        StoreJob::Index { base, bytes, full } => {
            store.put_index(base, &bytes)?;
            if full {
                links.written(base);
            }
        }
        StoreJob::Barrier => store.sync()?,
        StoreJob::Accounts { .. }
            if planted::is(Bug::AccountsNotWritten) && telemetry.counters().checkpoint_sequence.load(Relaxed) > 0 => {}
        StoreJob::Accounts { block, bytes } => store.put_accounts(block, bytes)?,
        StoreJob::Open { tree, block, bytes } => store.put_open(tree, block, bytes)?,
        StoreJob::Levels(mut levels) => {
            store.put_levels(&levels.split_off(levels.len().saturating_sub(LEVELS_AT_ONCE)))?;
            return Ok((!levels.is_empty()).then_some(StoreJob::Levels(levels)));
        }
        StoreJob::ForgetLevels(until) => {
            return Ok(store.forget_levels(until, LEVELS_AT_ONCE)?.then_some(StoreJob::ForgetLevels(until)));
        }
        StoreJob::Lives(_) if planted::is(Bug::LivesNotWritten) => {}
        StoreJob::Lives(lives) => store.put_lives(&lives, &|| pace.done(Kind::Part))?,
        StoreJob::Policy(sequence, text) => store.put_policy(sequence, &text)?,
        StoreJob::Windows(pieces) => store.put_windows(&pieces)?,
        StoreJob::Gateway(entry) => store.put_gateway(&entry)?,
        StoreJob::Checkpoint(checkpoint, done) => {
            store.finish_lives(&|| pace.done(Kind::Part))?;
            store.make_checkpoint(&checkpoint)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            telemetry.counters().checkpoint_time_s.store(now, Relaxed);
            telemetry.counters().checkpoint_sequence.store(checkpoint.sequence, Relaxed);
            for waiting in done {
                // Who asked may have stopped waiting.
                let _told = waiting.try_send(checkpoint.sequence);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_rests_amid_a_checkpoint_unless_that_is_waited_for() {
        let hurries = Arc::new(AtomicBool::new(false));
        let mut rests = Rests { worked: Duration::ZERO, hurries: Arc::clone(&hurries) };
        let us = Duration::from_micros;
        assert_eq!(
            [us(200), us(299), us(101)].map(|took| rests.after(Kind::Part, took)),
            [None, None, Some(us(1_200))]
        );
        assert_eq!(rests.after(Kind::Other, us(900_000)), None, "the disk");
        assert_eq!(rests.after(Kind::Part, us(900_000)), Some(REST_MAX));
        hurries.store(true, Relaxed);
        assert_eq!([us(600), us(400), us(700)].map(|took| rests.after(Kind::Part, took)), [None; 3]);
        assert_eq!(rests.after(Kind::End, us(5)), None);
        assert_eq!(rests.after(Kind::Part, us(600)), Some(us(1_200)), "the next one");
    }
}
