//! Many callers who share a connection, each with one transfer at a time: the client puts together what they submit while requests are under way.
//!
//! A task looks after up to [`GROUP_MAX`] of them: thousands of tasks would mostly wait for their memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use heng::client::{BatchingClient, ClientError, Submitting};
use heng::ledger::{Code, Outcome, Transfer};
use tokio::task::JoinSet;
use tokio::time::Sleep;

use crate::drive::{BUSY_PAUSE, Known, Plan, lock};
use crate::mix::{Filling, Mixer};
use crate::workload::Planned;

/// Answers that are counted together.
const COUNTED: usize = 4_096;

/// Tasks that look after callers, if there are so many.
const GROUPS: usize = 64;

/// Callers that a task looks after at most.
const GROUP_MAX: usize = 128;

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
    /// Room to make the next in.
    one: Asked,
}

/// What callers were told and nobody has counted yet.
#[derive(Debug, Default)]
struct Told {
    outcomes: Vec<Outcome>,
    transfers: Vec<Transfer>,
    planned: Vec<Planned>,
    latencies_us: Vec<u64>,
}

/// What is to be asked for next.
#[derive(Debug, Default)]
struct Asked {
    transfers: Vec<Transfer>,
    planned: Vec<Planned>,
}

/// One caller.
#[derive(Debug)]
enum Caller<'a> {
    Free,
    Waits {
        call: Submitting<'a>,
        planned: Planned,
        begun: Instant,
    },
    /// Was answered busy.
    Rests {
        transfer: Transfer,
        planned: Planned,
        begun: Instant,
        until: Pin<Box<Sleep>>,
    },
}

impl Callers {
    /// Drives a plan to its end; answers with the callers, to drive another.
    pub(crate) async fn drive(self, plan: Plan, known: Known) -> Result<Self, ClientError> {
        let Self { client, mixer, count } = self;
        let known = Arc::new(known);
        let work =
            Arc::new(Mutex::new(Work { mixer, left: plan.transfers, told: Told::default(), one: Asked::default() }));
        let mut groups = JoinSet::new();
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        let size = left.div_ceil(GROUPS).min(GROUP_MAX);
        while left > 0 {
            groups.spawn(look_after(client.clone(), Arc::clone(&work), Arc::clone(&known), size.min(left)));
            left = left.saturating_sub(size);
        }
        while let Some(ended) = groups.join_next().await {
            ended.map_err(|err| ClientError::Broken(std::io::Error::other(err)))??;
        }
        let work = Arc::into_inner(work).and_then(|work| work.into_inner().ok());
        let gone = || ClientError::Broken(std::io::Error::other("a caller is still there"));
        let work = work.ok_or_else(gone)?;
        work.told.count(&known);
        Ok(Self { client, mixer: work.mixer, count })
    }
}

/// Looks after so many callers, until there is nothing more to ask for and all are answered.
async fn look_after(
    client: BatchingClient,
    work: Arc<Mutex<Work>>,
    known: Arc<Known>,
    count: usize,
) -> Result<(), ClientError> {
    let mut callers: Vec<Caller<'_>> = (0..count).map(|_| Caller::Free).collect();
    let (mut told, mut asked) = (Told::default(), Asked::default());
    poll_fn(|context| {
        let now = Instant::now();
        let mut free = 0;
        for caller in &mut callers {
            if let Err(err) = caller.hear((&client, now), context, (&mut told, &known)) {
                return Poll::Ready(Err(err));
            }
            free = u64::from(matches!(caller, Caller::Free)).saturating_add(free);
        }
        if free == 0 {
            return Poll::Pending;
        }
        let full = lock(&work).turn(&mut told, free, &mut asked);
        if let Some(full) = full {
            full.count(&known);
        }
        let idle = callers.iter_mut().filter(|caller| matches!(caller, Caller::Free));
        for ((caller, transfer), planned) in idle.zip(asked.transfers.drain(..)).zip(asked.planned.drain(..)) {
            *caller = Caller::Waits { call: client.submit_one(transfer), planned, begun: now };
            if let Err(err) = caller.hear((&client, now), context, (&mut told, &known)) {
                return Poll::Ready(Err(err));
            }
        }
        let is_done = callers.iter().all(|caller| matches!(caller, Caller::Free));
        if is_done { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

impl<'a> Caller<'a> {
    /// Looks whether there is an answer, and takes it.
    fn hear(
        &mut self,
        (client, now): (&'a BatchingClient, Instant),
        context: &mut Context<'_>,
        (told, known): (&mut Told, &Known),
    ) -> Result<(), ClientError> {
        if let Self::Rests { transfer, planned, begun, until } = self
            && until.as_mut().poll(context).is_ready()
        {
            *self = Self::Waits { call: client.submit_one(*transfer), planned: *planned, begun: *begun };
        }
        let Self::Waits { call, planned, begun } = self else { return Ok(()) };
        let Poll::Ready(answer) = Pin::new(&mut *call).poll(context) else { return Ok(()) };
        let (transfer, planned, begun) = (*call.transfer(), *planned, *begun);
        match answer {
            Ok(outcome) => {
                told.add((outcome, transfer, planned), now.saturating_duration_since(begun));
                *self = Self::Free;
            }
            Err(ClientError::Refused { code: Code::Busy, .. }) => {
                known.counts.busy.fetch_add(1, Relaxed);
                let mut until = Box::pin(tokio::time::sleep(BUSY_PAUSE));
                // It is just begun, and wakes this task when it is over.
                let _pending = until.as_mut().poll(context);
                *self = Self::Rests { transfer, planned, begun, until };
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }
}

impl Work {
    /// Takes what callers were told, and gives the next to ask for, as far as there is more; sometimes with much that is to be counted.
    fn turn(&mut self, told: &mut Told, free: u64, asked: &mut Asked) -> Option<Told> {
        self.told.append(told);
        let full = (self.told.outcomes.len() >= COUNTED).then(|| std::mem::take(&mut self.told));
        let size = self.left.min(free);
        self.left = self.left.saturating_sub(size);
        // One by one: what belongs together would not stay so.
        for _ in 0..size {
            let Asked { transfers, planned } = &mut self.one;
            self.mixer.fill(1, Filling { transfers, planned });
            asked.transfers.append(transfers);
            asked.planned.append(planned);
        }
        full
    }
}

impl Told {
    fn add(&mut self, (outcome, transfer, planned): (Outcome, Transfer, Planned), took: Duration) {
        self.outcomes.push(outcome);
        self.transfers.push(transfer);
        self.planned.push(planned);
        self.latencies_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn append(&mut self, more: &mut Self) {
        self.outcomes.append(&mut more.outcomes);
        self.transfers.append(&mut more.transfers);
        self.planned.append(&mut more.planned);
        self.latencies_us.append(&mut more.latencies_us);
    }

    fn count(&self, known: &Known) {
        known.count(&self.outcomes, &self.transfers, &self.planned);
        known.recorder.record(&self.latencies_us);
    }
}
