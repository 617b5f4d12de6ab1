//! One connection of a soak: requests at their times, one after the other, across restarts of the server.
//!
//! What was sent and not answered is sent again with the same ids, until it is answered: so each is counted once, whatever became of the
//! server meanwhile, and latency counts from the first intended time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use heng::client::{Client, ClientError, Credentials};
use heng::ledger::{Code, Outcome, Transfer};
use tokio::sync::watch;

use super::report::Report;
use super::standing::Standing;
use crate::drive::Counts;
use crate::measure::Recorder;
use crate::mix::{Filling, Mixer};
use crate::model::Model;
use crate::workload::Planned;

/// One request in so many is followed by a read of the accounts that it was about.
const READ_EVERY: u64 = 16;

/// How long a server may be away before that is a failure.
const AWAY_MAX: Duration = Duration::from_mins(2);

/// Pause before asking again.
const PAUSE: Duration = Duration::from_millis(10);

/// What all callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) model: Model,
    pub(crate) counts: Counts,
    pub(crate) recorder: Recorder,
    /// Connections made again because one broke.
    pub(crate) reconnects: AtomicU64,
    pub(crate) reads: AtomicU64,
    /// Answers to what was sent again that were decided before the connection broke.
    pub(crate) decided_before: AtomicU64,
    pub(crate) stop: AtomicBool,
    /// Windows that the parts before have closed.
    pub(super) windows_before: u64,
}

impl Shared {
    /// For so many accounts, or those of the parts before, from which everything is counted on.
    pub(super) fn new(accounts: u64, earlier: Option<&Standing>) -> anyhow::Result<Self> {
        let report = earlier.map(|earlier| &earlier.report);
        let from = |count: fn(&Report) -> u64| AtomicU64::new(report.map_or(0, count));
        Ok(Self {
            model: earlier.map_or_else(|| Model::new(accounts), |earlier| Model::going_on(&earlier.totals)),
            counts: Counts {
                answered: from(|report| report.answered),
                accepted: from(|report| report.accepted),
                refused: from(|report| report.refused),
                busy: from(|report| report.busy),
                ..Counts::default()
            },
            recorder: Recorder::new()?,
            reconnects: from(|report| report.reconnects),
            reads: from(|report| report.reads),
            decided_before: from(|report| report.decided_before),
            stop: AtomicBool::new(false),
            windows_before: report.map_or(0, |report| report.windows_closed),
        })
    }
}

/// When a caller sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The intended time of the first request.
    pub(crate) start: Instant,
    /// Time between two; none: as fast as answers come.
    pub(crate) interval: Option<Duration>,
    /// Transfers in each.
    pub(crate) batch: usize,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) mixer: Mixer,
    pub(crate) shared: Arc<Shared>,
    /// Where the server is now.
    pub(crate) address: watch::Receiver<String>,
}

impl Caller {
    /// Sends until it is told to stop; what was sent is answered then.
    pub(crate) async fn drive(mut self, pace: Pace) -> anyhow::Result<Self> {
        let mut client = self.connect().await?;
        let (mut transfers, mut planned) = (Vec::new(), Vec::new());
        let mut sent = 0_u64;
        while !self.shared.stop.load(Relaxed) {
            let intended = match pace.interval {
                Some(interval) => {
                    let after = interval.as_nanos().saturating_mul(sent.into());
                    let after = Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX));
                    let due = pace.start.checked_add(after).unwrap_or(pace.start);
                    tokio::time::sleep_until(due.into()).await;
                    due
                }
                None => Instant::now(),
            };
            sent = sent.saturating_add(1);
            transfers.clear();
            planned.clear();
            self.mixer.fill(pace.batch, Filling { transfers: &mut transfers, planned: &mut planned });
            let outcomes = self.submit(&mut client, &transfers).await?;
            let latency_us = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.shared.recorder.record(&[latency_us]);
            self.note(&outcomes, &transfers, &planned);
            if sent.is_multiple_of(READ_EVERY) {
                self.read(&mut client, &transfers).await?;
            }
        }
        Ok(self)
    }

    /// Connects to wherever the server is.
    async fn connect(&self) -> anyhow::Result<Client> {
        let begun = Instant::now();
        loop {
            let address = self.address.borrow().clone();
            match Client::connect(address.as_str(), &Credentials::development()).await {
                Ok(client) => return Ok(client),
                Err(err) if begun.elapsed() > AWAY_MAX => return Err(err.into()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Connects again after a break.
    async fn reconnect(&self) -> anyhow::Result<Client> {
        self.shared.reconnects.fetch_add(1, Relaxed);
        tokio::time::sleep(PAUSE).await;
        self.connect().await
    }

    /// Sends until there is an answer.
    async fn submit(&self, client: &mut Client, transfers: &[Transfer]) -> anyhow::Result<Vec<Outcome>> {
        loop {
            match client.submit(transfers).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(ClientError::Refused { code: Code::Busy, .. }) => {
                    self.shared.counts.busy.fetch_add(1, Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(err) if is_break(&err) => *client = self.reconnect().await?,
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// Counts a request's only answer.
    fn note(&self, outcomes: &[Outcome], transfers: &[Transfer], planned: &[Planned]) {
        self.shared.counts.add(outcomes, transfers);
        for (outcome, planned) in outcomes.iter().zip(planned) {
            if outcome.code.is_accepted() {
                self.shared.model.accepted(planned);
            }
            self.shared.decided_before.fetch_add(u64::from(outcome.repeated), Relaxed);
        }
    }

    /// Reads accounts; one that is not there is a failure.
    async fn read(&self, client: &mut Client, transfers: &[Transfer]) -> anyhow::Result<()> {
        let ids: Vec<u128> = transfers.iter().map(|transfer| transfer.debit.raw()).collect();
        loop {
            match client.accounts(&ids).await {
                Ok((_, accounts)) => {
                    anyhow::ensure!(!accounts.is_empty(), "none of {ids:?} was found");
                    self.shared.reads.fetch_add(1, Relaxed);
                    return Ok(());
                }
                Err(ClientError::Refused { code: Code::Busy, .. }) => tokio::time::sleep(PAUSE).await,
                Err(err) if is_break(&err) => *client = self.reconnect().await?,
                Err(err) => return Err(err.into()),
            }
        }
    }
}

/// Whether the connection is gone, and not the request at fault.
fn is_break(err: &ClientError) -> bool {
    matches!(
        err,
        ClientError::Broken(_) | ClientError::Refused { code: Code::Draining, .. } | ClientError::Connect { .. }
    )
}
