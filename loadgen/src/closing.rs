//! Windows that close beside the load: what closing costs those who post, told apart in one and the same run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::measure::Recorder;
use crate::office::Office;
use crate::report::{Latency, grouped, time};
use crate::workload::account_id;

/// The policy of `--participants`: one scheme that takes all transfers.
pub(crate) const POLICY: &str = "[[scheme]]\nname = \"all\"\nnumber = 1\ncurrency = \"EUR\"\nsettlement_account = 4000000000\n\
    settle_after_days = 1\npayout_format = \"csv\"\n";

/// A request that is under way within this time after a window began to close is counted as near.
const NEAR: Duration = Duration::from_millis(200);

/// When a window last closed, and latencies near that and far from it.
#[derive(Debug)]
pub(crate) struct Closing {
    begun: Instant,
    /// Microseconds since `begun`; 0 before the first one.
    last_us: AtomicU64,
    closed: AtomicU64,
    pub(crate) near: Recorder,
    pub(crate) far: Recorder,
}

/// What closing windows did to latencies.
#[derive(Debug, Serialize)]
pub(crate) struct ClosingReport {
    /// Windows closed.
    pub(crate) closed: u64,
    /// Participants in each.
    pub(crate) participants: u64,
    /// Requests under way within 200 ms after a window began to close.
    pub(crate) near_us: Latency,
    /// All others.
    pub(crate) far_us: Latency,
}

impl ClosingReport {
    pub(crate) fn describe(&self) -> String {
        let (near, far) = (&self.near_us, &self.far_us);
        format!(
            "{} closed, {} participants each; p99 {} of {} requests near that, {} of {} others",
            self.closed,
            grouped(self.participants),
            time(near.p99),
            grouped(near.count),
            time(far.p99),
            grouped(far.count)
        )
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Closing {
    pub(crate) fn new() -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            begun: Instant::now(),
            last_us: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            near: Recorder::new()?,
            far: Recorder::new()?,
        }))
    }

    /// Records a request that was answered now.
    pub(crate) fn record(&self, intended: Instant, latency_us: u64) {
        let last = self.last_us.load(Relaxed);
        let intended = micros(intended.saturating_duration_since(self.begun));
        let is_near = last > 0 && intended <= last.saturating_add(micros(NEAR));
        if is_near { &self.near } else { &self.far }.record(&[latency_us]);
    }

    /// What came of it.
    pub(crate) fn report(&self, participants: u64) -> ClosingReport {
        ClosingReport {
            closed: self.closed.load(Relaxed),
            participants,
            near_us: self.near.latency(),
            far_us: self.far.latency(),
        }
    }
}

/// Registers the first accounts of a run as participants, each with one. Blocks.
pub(crate) fn register(office: &Office, first: u128, participants: u64) -> anyhow::Result<()> {
    for index in 0..u32::try_from(participants)? {
        let number = index.saturating_add(1);
        let account = account_id(first, index).to_string();
        office.post(
            "/clearing/participants",
            &json!({ "participant": number, "account": account, "name": format!("Participant {number}") }),
        )?;
    }
    Ok(())
}

/// Closes windows on a thread of its own.
#[derive(Debug)]
pub(crate) struct Closer {
    pub(crate) closing: Arc<Closing>,
    office: Office,
    every: Duration,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Closer {
    pub(crate) fn new(office: Office, every: Duration) -> anyhow::Result<Self> {
        let (closing, stop) = (Closing::new()?, Arc::new(AtomicBool::new(false)));
        Ok(Self { closing, office, every, stop, thread: None })
    }

    /// Begins to close windows at a steady pace.
    pub(crate) fn start(mut self) -> Self {
        let (office, closing) = (self.office.clone(), Arc::clone(&self.closing));
        let (every, stop) = (self.every, Arc::clone(&self.stop));
        self.thread = Some(std::thread::spawn(move || close_windows(&office, &closing, every, &stop)));
        self
    }

    /// Ends, and says what came of it.
    pub(crate) fn stop(mut self, participants: u64) -> anyhow::Result<ClosingReport> {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_panic| anyhow::anyhow!("closing windows ended in a panic"))??;
        }
        Ok(self.closing.report(participants))
    }
}

fn close_windows(office: &Office, closing: &Closing, every: Duration, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut next = Instant::now().checked_add(every);
    while let Some(at) = next {
        while Instant::now() < at {
            if stop.load(Relaxed) {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        closing.last_us.store(micros(closing.begun.elapsed()).max(1), Relaxed);
        office.post("/clearing/windows/all/close", &json!({}))?;
        closing.closed.fetch_add(1, Relaxed);
        next = at.checked_add(every);
    }
    Ok(())
}
