//! What the office needs of the engine: a consistent view, transfers of the ledger itself, records, the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::clearing::{ClearingHandle, ClearingMessage};
use crate::engine::Engine;
use crate::flow::{Admission, AnswerSink, Asked, Clock, Parcel, Span};
use crate::journal::JournalReader;
use crate::ledger::{
    Book, Code, Distributions, GatewayId, Grant, Outcome, Participant, PayoutEntry, Policy, Record, Sequence,
    StoredRecord, Transfer, Window,
};
use crate::router::{RouterHandle, RouterMessage};
use crate::settlement::{SettlementHandle, SettlementMessage};

/// Transfers of the ledger itself inside at once: several settlement transactions.
const LEGS_INSIDE_MAX: usize = 1 << 20;

/// How often the office looks, while it waits for the engine, whether that still runs.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);

/// Why a step could not be done now.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The engine stops.
    #[error("the server is stopping")]
    Stopped,
    /// The journal cannot be read.
    #[error("a record cannot be read: {0}")]
    Journal(String),
    /// Something must be done by people first.
    #[error("{0}")]
    Waits(String),
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The state of clearing at one sequence.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The last record in it.
    pub sequence: Sequence,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// The participants by place, the house first.
    pub participants: Arc<Vec<Participant>>,
    /// First and last record of that policy.
    pub policy_at: (Sequence, Sequence),
    /// Windows that are not yet reconciled; open ones without their positions.
    pub windows: Vec<Window>,
    /// Open windows in which something is.
    pub used: Vec<(u16, u32)>,
    /// Payouts of which something is still to come.
    pub payouts: Vec<PayoutEntry>,
    /// The latest runs of distributions.
    pub distributions: Distributions,
}

impl Snapshot {
    /// As the book has it now.
    pub fn of(book: &Book) -> Self {
        Self {
            sequence: book.sequence(),
            policy: Arc::clone(book.policy()),
            participants: Arc::clone(book.windows().participants()),
            policy_at: book.summary().policy,
            payouts: book.windows().unfinished_payouts().copied().collect(),
            windows: book.unfinished_windows().cloned().collect(),
            used: book.windows().used().collect(),
            distributions: book.distributions().clone(),
        }
    }
}

/// What the office needs of the engine. Every call may be repeated after a crash.
pub trait Ports: Send {
    /// The state of clearing now. Records that were answered before are in it.
    fn snapshot(&self) -> Result<Snapshot, Trouble>;
    /// Makes transfers in the name of the ledger; those linked to each other all or none. Answers their outcomes, those of the first time
    /// for what was asked for before, when they are durable. They join the group that fills, so their time may be a moment before what was told last.
    fn submit(&self, transfers: Vec<Transfer>) -> Result<Vec<Code>, Trouble>;
    /// Appends records, none of them before the time that was told last; answers when they are durable.
    fn record(&self, records: &[Record]) -> Result<(), Trouble>;
    /// Runs something on the book and answers its result.
    fn inspect<T: Send + 'static>(&self, read: impl FnOnce(&Book) -> T + Send + 'static) -> Result<T, Trouble>;
    /// Shows the records from one sequence to another, in order.
    fn scan(&self, range: (Sequence, Sequence), visit: &mut dyn FnMut(StoredRecord)) -> Result<(), Trouble>;
    /// The time, nanoseconds since 1970 UTC.
    fn now_ns(&self) -> u64;
}

/// Lets the engine go on, where it has no threads to do so; false when it will not.
pub type Stepping = Arc<dyn Fn() -> bool + Send + Sync>;

/// The ports of a running engine.
pub struct EnginePorts {
    router: RouterHandle,
    settlement: SettlementHandle,
    clearing: ClearingHandle,
    reader: Arc<JournalReader>,
    admission: Arc<Admission>,
    running: Arc<AtomicBool>,
    clock: Clock,
    /// The time last told.
    told_ns: AtomicU64,
    stepping: Option<Stepping>,
}

impl std::fmt::Debug for EnginePorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnginePorts")
    }
}

#[derive(Debug)]
struct Sink(Sender<Vec<Outcome>>);

impl AnswerSink for Sink {
    fn answer(&self, parcel: Arc<Parcel>) {
        let outcomes = parcel.spans().first().map(|span| parcel.outcomes(span)).unwrap_or_default();
        // Who asked may have stopped waiting.
        let _told = self.0.try_send(outcomes);
    }
}

impl EnginePorts {
    /// The ports of this engine.
    pub fn new(engine: &Engine) -> Self {
        Self {
            running: Arc::new(AtomicBool::new(true)),
            router: engine.router.clone(),
            settlement: engine.settlement.clone(),
            clearing: engine.clearing.clone(),
            reader: Arc::clone(&engine.reader),
            admission: Admission::new(LEGS_INSIDE_MAX),
            clock: Clock::default(),
            told_ns: AtomicU64::new(0),
            stepping: None,
        }
    }

    /// The same, for an engine that goes on only when it is told to, by a clock of its own.
    #[must_use]
    pub fn stepped(self, clock: Clock, stepping: Stepping) -> Self {
        Self { clock, stepping: Some(stepping), ..self }
    }

    /// Set to false, it ends whatever waits for the engine.
    pub fn running(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.running)
    }

    /// Waits for an answer, however long it takes, while the engine runs.
    fn wait<T>(&self, answer: &Receiver<T>) -> Result<T, Trouble> {
        while self.running.load(Ordering::Acquire) {
            let Some(step) = &self.stepping else {
                match answer.recv_timeout(LOOK_UP_EVERY) {
                    Ok(answer) => return Ok(answer),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            };
            match answer.try_recv() {
                Ok(answer) => return Ok(answer),
                Err(TryRecvError::Empty) if step() => {}
                Err(_) => break,
            }
        }
        Err(Trouble::Stopped)
    }
}

impl Ports for EnginePorts {
    fn snapshot(&self) -> Result<Snapshot, Trouble> {
        self.inspect(Snapshot::of)
    }

    fn submit(&self, transfers: Vec<Transfer>) -> Result<Vec<Code>, Trouble> {
        let (answer, outcomes) = bounded(1);
        // Its own room, and one call at a time: what does not fit now fits in a moment.
        let full = || Trouble::Waits("settlement transfers of before are still being answered".to_owned());
        let permit = self.admission.admit(transfers.len()).ok_or_else(full)?;
        let span = Span { request_id: 0, answer_kind: 0, first: 0, count: transfers.len() };
        let parcel = Parcel::new((GatewayId(0), Grant::ALL), vec![span], Arc::new(Sink(answer)), permit);
        self.router.send(RouterMessage::Transfers(parcel, Asked::new(transfers))).map_err(|_gone| Trouble::Stopped)?;
        Ok(self.wait(&outcomes)?.iter().map(|outcome| outcome.code).collect())
    }

    fn record(&self, records: &[Record]) -> Result<(), Trouble> {
        let not_before_ns = self.told_ns.load(Ordering::Relaxed);
        let mut waiting = Vec::with_capacity(records.len());
        for record in records {
            let (reply, durable) = bounded(1);
            let message = SettlementMessage::Record { record: Box::new(*record), not_before_ns, reply };
            self.settlement.send(message).map_err(|_gone| Trouble::Stopped)?;
            waiting.push(durable);
        }
        waiting.iter().try_for_each(|durable| self.wait(durable).map(drop))
    }

    fn inspect<T: Send + 'static>(&self, read: impl FnOnce(&Book) -> T + Send + 'static) -> Result<T, Trouble> {
        let (reply, answer) = bounded(1);
        let inspection = Box::new(move |book: &Book| {
            // Who asked may have stopped waiting.
            let _told = reply.try_send(read(book));
        });
        self.clearing.send(ClearingMessage::Inspect(inspection)).map_err(|_gone| Trouble::Stopped)?;
        self.wait(&answer)
    }

    fn scan(&self, (from, until): (Sequence, Sequence), visit: &mut dyn FnMut(StoredRecord)) -> Result<(), Trouble> {
        let scanned = self.reader.scan(from, until, &mut |stored| {
            visit(stored);
            self.running.load(Ordering::Acquire)
        });
        scanned.map(drop).map_err(|err| Trouble::Journal(err.to_string()))
    }

    fn now_ns(&self) -> u64 {
        let now_ns = self.clock.now_ns();
        self.told_ns.store(now_ns, Ordering::Relaxed);
        now_ns
    }
}
