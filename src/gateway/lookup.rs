//! Reads that go to the disk, on threads that may wait, a few at a time.
//!
//! # Invariants
//!
//! 1. No more of them are under way than [`LOOKUPS_MAX`] for a connection and [`ALL_LOOKUPS_MAX`] for all connections: each has a group of the journal
//!    in memory meanwhile. The others wait in the order in which they came.
//! 2. Those that may look through very many records have half of that at most, and as many run as half the processors, or two. Each turn of 2 ms or more rests for as long as it took (100 ms at most).
//!    Those who look for the newest events do it beside these, one at a time.
//! 3. No more than [`WAITS_MAX`] requests wait for events, a quarter of them of one connection. What waits takes no room from what is done.
//! 4. Nothing is begun for a peer that has gone, or once the server drains.
//!
//! # Not here
//!
//! What is looked up ([`super::queries`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::listener::GatewayContext;
use super::outgoing::{Outgoing, error_frame};
use super::tail::{REST_LEAST, REST_MOST, Tail};
use crate::flow::{Admission, Permit};
use crate::ledger::Code;

/// Lookups under way for a connection.
pub(super) const LOOKUPS_MAX: usize = 4;

/// Lookups under way for all connections, and how many of them may be long ones.
const ALL_LOOKUPS_MAX: usize = 16;
const LONG_LOOKUPS_MAX: usize = 8;

/// Requests that wait for events, all connections together.
const WAITS_MAX: usize = 256;

/// The turns of all connections.
#[derive(Clone, Debug)]
pub struct LookupTurns {
    all: Arc<Semaphore>,
    long: Arc<Semaphore>,
    waits: Arc<Admission>,
    /// What those who wait for events look at, one after the other.
    tail: Arc<Mutex<Tail>>,
}

impl Default for LookupTurns {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = |most| Arc::new(Semaphore::new(most));
        Self {
            all: turns(ALL_LOOKUPS_MAX),
            long: turns((processors / 2).clamp(2, LONG_LOOKUPS_MAX)),
            waits: Admission::new(WAITS_MAX),
            tail: Arc::default(),
        }
    }
}

impl LookupTurns {
    /// A connection's share of the requests that may wait for events.
    pub(super) fn share_of_waits(&self) -> Arc<Admission> {
        Admission::share(&self.waits, 1)
    }

    /// Waits for the turn to look at the newest records, and for the rest that the last one owes.
    pub(super) async fn tail(&self) -> OwnedMutexGuard<Tail> {
        let tail = Arc::clone(&self.tail).lock_owned().await;
        if let Some(rest) = tail.rest(Instant::now()) {
            tokio::time::sleep(rest).await;
        }
        tail
    }
}

/// A turn: of the connection, among the long ones, and of all.
pub(super) type Turns = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

/// A connection's way to look things up.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    pub(super) context: Arc<GatewayContext>,
    pub(super) outgoing: mpsc::UnboundedSender<Outgoing>,
    /// Of this connection.
    pub(super) turns: Arc<Semaphore>,
    /// Whether it may look through very many records.
    pub(super) is_long: bool,
    pub(super) drain: watch::Receiver<bool>,
    pub(super) runtime: Handle,
}

impl Lookup {
    /// Makes an answer when it is its turn, and sends it.
    pub(super) fn answer(
        self,
        request_id: u64,
        room: Permit,
        work: impl FnOnce(&GatewayContext) -> Vec<u8> + Send + 'static,
    ) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let frame = self.run(work).await.unwrap_or_else(|code| error_frame(request_id, code));
            // A peer that left gets no answer.
            drop(self.outgoing.send(Outgoing::frame(frame, room)));
        });
    }

    /// Looks something up when it is its turn. It is refused when the server drains before that.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&GatewayContext) -> T + Send + 'static,
    ) -> Result<T, Code> {
        self.run_in(self.turns().await?, work).await
    }

    /// Looks something up in a turn.
    pub(super) async fn run_in<T: Send + 'static>(
        &self,
        (own, long, all): Turns,
        work: impl FnOnce(&GatewayContext) -> T + Send + 'static,
    ) -> Result<T, Code> {
        let runtime = self.runtime.clone();
        self.run_now(move |context| {
            let begun = Instant::now();
            let found = work(context);
            drop((own, all));
            if let Some(long) = long {
                rest(long, begun.elapsed(), &runtime);
            }
            found
        })
        .await
    }

    /// Waits until it is its turn.
    pub(super) async fn turns(&self) -> Result<Turns, Code> {
        // Its own turn first: who waits for that keeps nobody else waiting.
        let own = turn(&self.turns).await?;
        let long = if self.is_long { Some(turn(&self.context.lookups.long).await?) } else { None };
        Ok((own, long, turn(&self.context.lookups.all).await?))
    }

    /// Looks something up that has its turn otherwise. It is refused when the server drains.
    pub(super) async fn run_now<T: Send + 'static>(
        &self,
        work: impl FnOnce(&GatewayContext) -> T + Send + 'static,
    ) -> Result<T, Code> {
        if self.outgoing.is_closed() || *self.drain.borrow() {
            return Err(Code::Draining);
        }
        let context = Arc::clone(&self.context);
        self.runtime.spawn_blocking(move || work(&context)).await.map_err(|_failed| Code::Internal)
    }
}

/// Keeps a long turn for as long again as it took.
fn rest(long: OwnedSemaphorePermit, took: Duration, runtime: &Handle) {
    if took >= REST_LEAST {
        runtime.spawn(async move {
            tokio::time::sleep(took.min(REST_MOST)).await;
            drop(long);
        });
    }
}

/// Waits for a turn; nobody closes them.
async fn turn(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Code> {
    Arc::clone(turns).acquire_owned().await.map_err(|_closed| Code::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_turn_rests_for_as_long_as_it_took() {
        let turns = Arc::new(Semaphore::new(1));
        let millis = Duration::from_millis;
        for (took, rests) in [
            (millis(20), millis(20)),
            (millis(5_000), REST_MOST),
            (REST_LEAST, REST_LEAST),
            (REST_LEAST / 2, Duration::ZERO),
        ] {
            rest(turn(&turns).await.unwrap(), took, &Handle::current());
            let begun = tokio::time::Instant::now();
            drop(turn(&turns).await.unwrap());
            assert!((rests..=rests + millis(1)).contains(&begun.elapsed()), "{took:?}: {:?}", begun.elapsed());
        }
    }
}
