//! The load under which a server is broken: every operation, and now and then something that was sent before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use heng::client::{Client, Credentials};
use heng::ledger::Transfer;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::log::Exchange;
use crate::arguments::{Distribution, Ids};
use crate::mix::{Due, Filling, Mix, Mixer};
use crate::workload::{Planned, Workload};

/// Connections at once.
pub(crate) const CONNECTIONS: u64 = 8;

/// Accounts that pay each other: few, so that they clash.
pub(crate) const ACCOUNTS: u64 = 200;

/// The most new transfers in a request.
const BATCH_MAX: usize = 24;

/// Earlier ones that a connection may send again.
const REMEMBERED: usize = 1_000;

/// How long a server that does not answer is waited for: longer than it stands still.
const SILENCE: Duration = Duration::from_secs(40);

/// Pause before connecting again.
const PAUSE: Duration = Duration::from_millis(5);

/// What a connection is to do.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) address: String,
    /// Whether it connects again when it breaks, and sends again what was not answered.
    pub(crate) stays: bool,
    pub(crate) stop: Arc<AtomicBool>,
}

/// What one connection goes on with after a crash.
#[derive(Debug)]
pub(crate) struct Caller {
    mixer: Mixer,
    rng: StdRng,
    earlier: VecDeque<(Transfer, Planned)>,
}

impl Caller {
    pub(crate) fn new(seed: u64, number: u64) -> anyhow::Result<Self> {
        let ids = if seed.is_multiple_of(2) { Ids::Time } else { Ids::Random };
        let workload = Workload::new((seed, number, 0), (ACCOUNTS, Distribution::Zipf(0.99), ids))?;
        // What is delayed stays so for as long as anyone looks.
        let due = Due { after: Duration::from_hours(10_000), within: Duration::from_hours(1), last_ns: Arc::default() };
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number));
        Ok(Self { mixer: Mixer::new(workload, Mix::Full, due), rng, earlier: VecDeque::new() })
    }

    /// Sends until it is told to stop, or the server is gone.
    pub(crate) async fn drive(mut self, order: Order) -> (Self, Vec<Exchange>) {
        let mut exchanges = Vec::new();
        let mut unanswered: Option<Exchange> = None;
        while let Some(mut client) = connect(&order).await {
            while !order.stop.load(Relaxed) {
                let mut exchange = unanswered.take().unwrap_or_else(|| self.make());
                let answer = tokio::time::timeout(SILENCE, client.submit(&exchange.transfers)).await;
                exchange.was_silent = answer.is_err();
                exchange.outcomes = answer.ok().and_then(Result::ok);
                exchange.answered = exchange.outcomes.is_some().then(Instant::now);
                if exchange.outcomes.is_none() && order.stays {
                    unanswered = Some(exchange.again());
                }
                let is_over = exchange.outcomes.is_none();
                exchanges.push(exchange);
                if is_over {
                    break;
                }
            }
            if !order.stays || order.stop.load(Relaxed) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        (self, exchanges)
    }

    fn make(&mut self) -> Exchange {
        let (mut transfers, mut planned) = (Vec::new(), Vec::new());
        let size = self.rng.random_range(1..=BATCH_MAX);
        self.mixer.fill(size, Filling { transfers: &mut transfers, planned: &mut planned });
        let mut is_amid = false;
        for (transfer, planned) in transfers.iter().zip(&planned) {
            // One of a transaction can be sent again only with all of it.
            if !is_amid && !transfer.is_linked() {
                self.earlier.push_back((*transfer, *planned));
            }
            is_amid = transfer.is_linked();
        }
        while self.earlier.len() > REMEMBERED {
            self.earlier.pop_front();
        }
        let mut repeats = 0;
        if self.rng.random_bool(0.3) {
            for _ in 0..self.rng.random_range(1..4) {
                let place = self.rng.random_range(0..self.earlier.len().max(1));
                if let Some((transfer, plan)) = self.earlier.get(place).filter(|(earlier, _)| {
                    // Not one of this request: its first outcome would come with it.
                    !transfers.iter().any(|new| new.id == earlier.id)
                }) {
                    transfers.push(*transfer);
                    planned.push(*plan);
                    repeats = usize::saturating_add(repeats, 1);
                }
            }
        }
        Exchange { transfers, planned, repeats, outcomes: None, answered: None, was_silent: false }
    }
}

/// None when the server is gone, or nobody is to call any more.
async fn connect(order: &Order) -> Option<Client> {
    loop {
        match tokio::time::timeout(SILENCE, Client::connect(order.address.as_str(), &Credentials::development())).await
        {
            Ok(Ok(client)) => return Some(client),
            _ if !order.stays || order.stop.load(Relaxed) => return None,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}
