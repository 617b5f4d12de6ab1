//! One connection: a task that sends and a task that receives.
//!
//! They are two, because a peer that only sends while the server only sends would stand still for ever. The window is a
//! semaphore; what is in flight is kept by request id. A request answered *busy* is sent again after a pause, and its latency
//! still counts from its first intended time.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use heng::client::{Answer, AnswerReceiver, ClientError, RequestSender};
use heng::ledger::{Code, Outcome, Transfer};
use tokio::sync::Semaphore;

use crate::alarm::Alarm;
use crate::closing::Closing;
use crate::measure::Recorder;
use crate::mix::{Filling, Mixer, operation_name};
use crate::model::Model;
use crate::workload::Planned;

/// Bytes queued after which they are sent, although more is due.
const FLUSH_BYTES: usize = 256 << 10;

/// How long before its time a request is made where there is time: not beside the answers to the last one, on the same processors.
const MADE_BEFORE: Duration = Duration::from_millis(4);

/// Pause before a request that was answered busy is sent again; it doubles while all are answered so, up to the longest.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(2);
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(64);

/// What all connections count together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) answered: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) repeated: AtomicU64,
    pub(crate) busy: AtomicU64,
    /// By operation and outcome.
    pub(crate) operations: Mutex<Operations>,
}

/// How many of each operation had which outcome.
pub(crate) type Operations = BTreeMap<&'static str, BTreeMap<&'static str, u64>>;

/// Where a connection notes what it is told.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) model: Arc<Model>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) recorder: Arc<Recorder>,
    /// Windows that close beside the load.
    pub(crate) closing: Option<Arc<Closing>>,
}

/// One connection's part of a run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) transfers: u64,
    pub(crate) batch: u64,
    pub(crate) in_flight: usize,
    /// Time between the intended sends of this connection's requests; none: as fast as answers come.
    pub(crate) interval: Option<Duration>,
    /// What waits for intended times exactly, for the wake-up of a thread a time; none: the runtime's timers.
    pub(crate) alarm: Option<Alarm>,
    /// The intended time of its first request.
    pub(crate) start: Instant,
}

#[derive(Debug)]
struct Request {
    intended: Instant,
    transfers: Vec<Transfer>,
    planned: Vec<Planned>,
}

/// What the two tasks share.
#[derive(Debug)]
struct Window {
    room: Semaphore,
    requests: Mutex<HashMap<u64, Request>>,
    /// Answered busy, to be sent again.
    again: Mutex<Vec<Request>>,
    /// Answered; their memory serves the next ones, because what is used for the first time is dear.
    emptied: Mutex<Vec<Request>>,
}

impl Window {
    /// A request without transfers.
    fn empty(&self, intended: Instant) -> Request {
        match lock(&self.emptied).pop() {
            Some(Request { mut transfers, mut planned, .. }) => {
                transfers.clear();
                planned.clear();
                Request { intended, transfers, planned }
            }
            None => Request { intended, transfers: Vec::new(), planned: Vec::new() },
        }
    }
}

/// A connection and what it makes.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: RequestSender,
    pub(crate) receiver: AnswerReceiver,
    pub(crate) mixer: Mixer,
    pub(crate) next_request: u64,
}

impl Connection {
    /// Drives a plan to its end; answers with the connection, to drive another.
    pub(crate) async fn drive(self, plan: Plan, known: &Known) -> Result<Self, ClientError> {
        let Self { sender, receiver, mixer, next_request } = self;
        let window = Arc::new(Window {
            room: Semaphore::new(plan.in_flight),
            requests: Mutex::default(),
            again: Mutex::default(),
            emptied: Mutex::default(),
        });
        let total = plan.transfers;
        let sending = tokio::spawn(send(sender, mixer, plan, next_request, Arc::clone(&window)));
        let receiving = receive(receiver, total, &window, known).await;
        if receiving.is_err() {
            // The window never opens again.
            sending.abort();
        }
        let receiver = receiving?;
        let (sender, mixer, next_request) =
            sending.await.map_err(|err| ClientError::Broken(std::io::Error::other(err)))??;
        Ok(Self { sender, receiver, mixer, next_request })
    }
}

async fn send(
    mut sender: RequestSender,
    mut mixer: Mixer,
    plan: Plan,
    mut next_request: u64,
    window: Arc<Window>,
) -> Result<(RequestSender, Mixer, u64), ClientError> {
    let mut left = plan.transfers;
    let mut sent = 0_u32;
    // Every request answered busy comes back here, so the end is when nothing is left and nothing in flight.
    loop {
        let Ok(permit) = window.room.acquire().await else { break };
        permit.forget();
        let again = lock(&window.again).pop();
        let mut early = None;
        let request = match again {
            Some(request) => request,
            None if left > 0 => {
                let due = plan.interval.and_then(|interval| plan.start.checked_add(interval.saturating_mul(sent)));
                let intended = due.unwrap_or_else(Instant::now);
                early = due.filter(|due| Instant::now() < *due);
                if early.is_some() {
                    sender.flush().await?;
                }
                if let Some(begin) = early.and_then(|due| due.checked_sub(MADE_BEFORE))
                    && begin.saturating_duration_since(Instant::now()) > MADE_BEFORE
                {
                    tokio::time::sleep_until(begin.into()).await;
                }
                sent = sent.saturating_add(1);
                let size = left.min(plan.batch);
                left = left.saturating_sub(size);
                let capacity = usize::try_from(size).unwrap_or(0);
                let mut request = window.empty(intended);
                mixer.fill(capacity, Filling { transfers: &mut request.transfers, planned: &mut request.planned });
                request
            }
            None => {
                // Nothing to send unless something comes back busy.
                window.room.add_permits(1);
                // Room is given back after what was answered busy is in `again`.
                if window.room.available_permits() == plan.in_flight && lock(&window.again).is_empty() {
                    break;
                }
                sender.flush().await?;
                tokio::time::sleep(BUSY_PAUSE).await;
                continue;
            }
        };
        next_request = next_request.wrapping_add(1);
        sender.submit(next_request, &request.transfers);
        lock(&window.requests).insert(next_request, request);
        if let Some(due) = early {
            match &plan.alarm {
                Some(alarm) => alarm.until(due).await,
                None => tokio::time::sleep_until(due.into()).await,
            }
        }
        if early.is_some() || sender.queued_bytes() >= FLUSH_BYTES || window.room.available_permits() == 0 {
            sender.flush().await?;
        }
    }
    sender.flush().await?;
    Ok((sender, mixer, next_request))
}

async fn receive(
    mut receiver: AnswerReceiver,
    total: u64,
    window: &Window,
    known: &Known,
) -> Result<AnswerReceiver, ClientError> {
    let mut answered = 0_u64;
    let mut latencies_us = Vec::new();
    let mut pause = BUSY_PAUSE;
    while answered < total {
        let mut next = Some(receiver.next().await?);
        let (mut freed, mut busy) = (0_usize, 0_usize);
        while let Some((id, answer)) = next {
            let request = lock(&window.requests).remove(&id);
            let Some(request) = request else { return Err(ClientError::Protocol(Code::BodyMalformed)) };
            match answer {
                Answer::Outcomes(outcomes) if outcomes.len() == request.planned.len() => {
                    let latency = request.intended.elapsed();
                    let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                    latencies_us.push(latency_us);
                    if let Some(closing) = &known.closing {
                        closing.record(request.intended, latency_us);
                    }
                    known.count(&outcomes, &request.transfers, &request.planned);
                    answered = answered.saturating_add(u64::try_from(outcomes.len()).unwrap_or(0));
                    lock(&window.emptied).push(request);
                    freed = freed.saturating_add(1);
                }
                Answer::Refused(Code::Busy, _) => {
                    known.counts.busy.fetch_add(1, Relaxed);
                    lock(&window.again).push(request);
                    busy = busy.saturating_add(1);
                }
                Answer::Refused(code, text) => return Err(ClientError::Refused { code, text }),
                _ => return Err(ClientError::Protocol(Code::BodyMalformed)),
            }
            next = receiver.try_next()?;
        }
        known.recorder.record(&latencies_us);
        latencies_us.clear();
        window.room.add_permits(freed);
        if freed > 0 {
            pause = BUSY_PAUSE;
        }
        if busy > 0 {
            // One pause for all that came together.
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(BUSY_PAUSE_MAX);
            window.room.add_permits(busy);
        }
    }
    Ok(receiver)
}

impl Known {
    /// Counts what was answered.
    pub(crate) fn count(&self, outcomes: &[Outcome], transfers: &[Transfer], planned: &[Planned]) {
        self.counts.add(outcomes, transfers);
        for (outcome, planned) in outcomes.iter().zip(planned) {
            // A repeat was accepted, and counted, the first time.
            if outcome.code.is_accepted() && !outcome.repeated {
                self.model.accepted(planned);
            }
        }
    }
}

impl Counts {
    /// Counts what a request was answered.
    pub(crate) fn add(&self, outcomes: &[Outcome], transfers: &[Transfer]) {
        let (mut accepted, mut repeated) = (0_u64, 0_u64);
        let mut operations = Operations::new();
        let mut note = |(operation, code): (_, Code), alike: u64| {
            let count = operations.entry(operation).or_default().entry(code.name()).or_default();
            *count = count.saturating_add(alike);
        };
        // Most are like the one before.
        let (mut last, mut alike) = (("", Code::Accepted), 0_u64);
        for (outcome, transfer) in outcomes.iter().zip(transfers) {
            let this = (operation_name(transfer), outcome.code);
            if this != last && alike > 0 {
                note(last, alike);
                alike = 0;
            }
            (last, alike) = (this, alike.saturating_add(1));
            repeated = repeated.saturating_add(u64::from(outcome.repeated));
            accepted = accepted.saturating_add(u64::from(outcome.code.is_accepted()));
        }
        if alike > 0 {
            note(last, alike);
        }
        let all = u64::try_from(outcomes.len()).unwrap_or(0);
        self.answered.fetch_add(all, Relaxed);
        self.accepted.fetch_add(accepted, Relaxed);
        self.refused.fetch_add(all.saturating_sub(accepted), Relaxed);
        self.repeated.fetch_add(repeated, Relaxed);
        let mut all = lock(&self.operations);
        for (operation, outcomes) in operations {
            for (outcome, more) in outcomes {
                let count = all.entry(operation).or_default().entry(outcome).or_default();
                *count = count.saturating_add(more);
            }
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
