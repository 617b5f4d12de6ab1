//! What operations see: counters, latency histograms by stage, health, logs.
//!
//! Histograms are recorded per thread and merged when read; percentiles are never averaged. Counting in the hot path is per
//! batch. Times are of requests, microseconds, from the last byte read to the answer handed to the socket.
//!
//! Not here: how they are published ([`crate::ops`]).

mod counters;
mod health;
mod histogram;
mod logs;
mod process;

pub use counters::{Counters, CountersSnapshot};
pub use health::{Health, HealthState};
pub use histogram::{Recorder, Stage, StageSummary, Stages};
pub use logs::{LogFormat, abort_on_panic, chain, guard_panics, init_logs};
pub use process::{ProcessStats, process_stats};

use std::sync::{Arc, Mutex, PoisonError};

/// The balances of all accounts of one class and currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassFunds {
    /// The currency's letters.
    pub currency: String,
    /// The class's name.
    pub class: &'static str,
    /// Credits less debits, minor units.
    pub balance: i128,
}

/// All that is measured in one server.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    counters: Arc<Counters>,
    stages: Stages,
    health: Health,
    funds: Arc<Mutex<Vec<ClassFunds>>>,
}

impl Telemetry {
    /// The counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The histograms.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// The balances by currency and class, as clearing published them last.
    pub fn funds(&self) -> Vec<ClassFunds> {
        self.funds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes the balances by currency and class.
    pub fn set_funds(&self, funds: Vec<ClassFunds>) {
        *self.funds.lock().unwrap_or_else(PoisonError::into_inner) = funds;
    }

    /// The state.
    pub fn health(&self) -> &Health {
        &self.health
    }
}
