//! Many callers who share a connection, each with one request at a time: the client puts together what they submit while requests are under way.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heng::client::{BatchingClient, ClientError};
use heng::ledger::{Code, Outcome, Transfer};
use std::sync::atomic::Ordering::Relaxed;
use tokio::task::JoinSet;

use crate::drive::{BUSY_PAUSE, Known, Plan, lock};
use crate::mix::{Filling, Mixer};
use crate::workload::Planned;

/// Answers that are counted together.
const COUNTED: usize = 4_096;

/// All callers of a connection, and what they make.
#[derive(Debug)]
pub(crate) struct Callers {
    pub(crate) client: BatchingClient,
    pub(crate) mixer: Mixer,
    pub(crate) count: u64,
}

/// What is still to be made, and what was told: all callers look at the same memory, because each has its turn seldom.
#[derive(Debug)]
struct Work {
    mixer: Mixer,
    left: u64,
    told: Told,
}

/// What callers were told and nobody has counted yet.
#[derive(Debug, Default)]
struct Told {
    outcomes: Vec<Outcome>,
    transfers: Vec<Transfer>,
    planned: Vec<Planned>,
    latencies_us: Vec<u64>,
}

/// A caller's request, and its answer.
#[derive(Debug, Default)]
struct Asked {
    transfers: Vec<Transfer>,
    planned: Vec<Planned>,
    outcomes: Vec<Outcome>,
}

impl Callers {
    /// Drives a plan to its end; answers with the callers, to drive another.
    pub(crate) async fn drive(self, plan: Plan, known: Known) -> Result<Self, ClientError> {
        let Self { client, mixer, count } = self;
        let (known, plan) = (Arc::new(known), Arc::new(plan));
        let work = Arc::new(Mutex::new(Work { mixer, left: plan.transfers, told: Told::default() }));
        let mut callers = JoinSet::new();
        for _ in 0..count {
            callers.spawn(call(client.clone(), Arc::clone(&work), Arc::clone(&plan), Arc::clone(&known)));
        }
        while let Some(ended) = callers.join_next().await {
            ended.map_err(|err| ClientError::Broken(std::io::Error::other(err)))??;
        }
        let work = Arc::into_inner(work).and_then(|work| work.into_inner().ok());
        let gone = || ClientError::Broken(std::io::Error::other("a caller is still there"));
        let work = work.ok_or_else(gone)?;
        work.told.count(&known);
        Ok(Self { client, mixer: work.mixer, count })
    }
}

/// One caller: the next transfers when the last are answered.
async fn call(
    client: BatchingClient,
    work: Arc<Mutex<Work>>,
    plan: Arc<Plan>,
    known: Arc<Known>,
) -> Result<(), ClientError> {
    let mut asked = Asked::default();
    let mut begun = Instant::now();
    loop {
        let now = Instant::now();
        let (told, goes_on) = lock(&work).turn(&mut asked, plan.batch, now.saturating_duration_since(begun));
        if let Some(told) = told {
            told.count(&known);
        }
        if !goes_on {
            return Ok(());
        }
        begun = now;
        submit(&client, &asked.transfers, (&known, &mut asked.outcomes)).await?;
    }
}

impl Work {
    /// Takes what a caller was told, if it was, and gives it the next to ask for, if there is more; sometimes with much that is to be counted.
    fn turn(&mut self, asked: &mut Asked, batch: u64, took: Duration) -> (Option<Told>, bool) {
        if !asked.outcomes.is_empty() {
            self.told.outcomes.append(&mut asked.outcomes);
            self.told.transfers.append(&mut asked.transfers);
            self.told.planned.append(&mut asked.planned);
            self.told.latencies_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        let full = (self.told.outcomes.len() >= COUNTED).then(|| std::mem::take(&mut self.told));
        let size = self.left.min(batch);
        self.left = self.left.saturating_sub(size);
        let filling = Filling { transfers: &mut asked.transfers, planned: &mut asked.planned };
        self.mixer.fill(usize::try_from(size).unwrap_or(0), filling);
        (full, size > 0)
    }
}

/// Until it is answered with outcomes.
async fn submit(
    client: &BatchingClient,
    transfers: &[Transfer],
    (known, outcomes): (&Known, &mut Vec<Outcome>),
) -> Result<(), ClientError> {
    loop {
        let answer = if let [transfer] = transfers {
            client.submit_one(*transfer).await.map(|outcome| outcomes.push(outcome))
        } else {
            client.submit(transfers.to_vec()).await.map(|more| outcomes.extend(more))
        };
        match answer {
            Err(ClientError::Refused { code: Code::Busy, .. }) => {
                known.counts.busy.fetch_add(1, Relaxed);
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

impl Told {
    fn count(&self, known: &Known) {
        known.count(&self.outcomes, &self.transfers, &self.planned);
        known.recorder.record(&self.latencies_us);
    }
}
