//! Many callers who share a connection, each with one request at a time: the client puts together what they submit while requests are under way.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use heng::client::{BatchingClient, ClientError};
use heng::ledger::{Code, Outcome, Transfer};
use std::sync::atomic::Ordering::Relaxed;
use tokio::task::JoinSet;

use crate::drive::{BUSY_PAUSE, Known, Plan, lock};
use crate::mix::{Filling, Mixer};
use crate::workload::Planned;

/// A caller counts what it was told after so many answers.
const COUNTED: usize = 64;

/// All callers of a connection, and what they make.
#[derive(Debug)]
pub(crate) struct Callers {
    pub(crate) client: BatchingClient,
    pub(crate) mixer: Mixer,
    pub(crate) count: u64,
}

/// What is still to be made.
#[derive(Debug)]
struct Work {
    mixer: Mixer,
    left: u64,
}

/// What a caller was told since it counted last.
#[derive(Debug, Default)]
struct Told {
    outcomes: Vec<Outcome>,
    transfers: Vec<Transfer>,
    planned: Vec<Planned>,
    latencies_us: Vec<u64>,
}

impl Callers {
    /// Drives a plan to its end; answers with the callers, to drive another.
    pub(crate) async fn drive(self, plan: Plan, known: Known) -> Result<Self, ClientError> {
        let Self { client, mixer, count } = self;
        let (known, plan) = (Arc::new(known), Arc::new(plan));
        let work = Arc::new(Mutex::new(Work { mixer, left: plan.transfers }));
        let mut callers = JoinSet::new();
        for _ in 0..count {
            callers.spawn(call(client.clone(), Arc::clone(&work), Arc::clone(&plan), Arc::clone(&known)));
        }
        while let Some(ended) = callers.join_next().await {
            ended.map_err(|err| ClientError::Broken(std::io::Error::other(err)))??;
        }
        let work = Arc::into_inner(work).and_then(|work| work.into_inner().ok());
        let gone = || ClientError::Broken(std::io::Error::other("a caller is still there"));
        Ok(Self { client, mixer: work.ok_or_else(gone)?.mixer, count })
    }
}

/// One caller: the next transfers when the last are answered.
async fn call(
    client: BatchingClient,
    work: Arc<Mutex<Work>>,
    plan: Arc<Plan>,
    known: Arc<Known>,
) -> Result<(), ClientError> {
    let (mut told, mut transfers) = (Told::default(), Vec::new());
    loop {
        transfers.clear();
        {
            let mut work = lock(&work);
            let size = work.left.min(plan.batch);
            if size == 0 {
                break;
            }
            work.left = work.left.saturating_sub(size);
            let filling = Filling { transfers: &mut transfers, planned: &mut told.planned };
            work.mixer.fill(usize::try_from(size).unwrap_or(0), filling);
        }
        let begun = Instant::now();
        submit(&client, &transfers, (&known, &mut told.outcomes)).await?;
        told.latencies_us.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        told.transfers.extend_from_slice(&transfers);
        if told.latencies_us.len() >= COUNTED {
            told.count(&known);
        }
    }
    told.count(&known);
    Ok(())
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
    fn count(&mut self, known: &Known) {
        known.count(&self.outcomes, &self.transfers, &self.planned);
        known.recorder.record(&self.latencies_us);
        self.outcomes.clear();
        self.transfers.clear();
        self.planned.clear();
        self.latencies_us.clear();
    }
}
