//! The latest run of each distribution.
//!
//! # Invariants
//!
//! 1. A run is planned once, and later than the one before it; what comes twice or too late changes nothing.
//! 2. A run that is done has moved what was planned, one that failed has moved nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ledger::policy::Policy;
use crate::ledger::{Code, DistributionEntry, DistributionState, GatewayId, Sequence, Transfer};

/// A run of a distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistributionRun {
    /// How far it is.
    pub state: DistributionState,
    /// When it was due, nanoseconds since 1970 UTC.
    pub due_ns: u64,
    /// What is to be divided, minor units.
    pub amount: u128,
    /// What was paid of it.
    pub moved: u128,
    /// The record that planned it; 0 before the first run.
    pub planned: Sequence,
    /// First and last record of the policy by which it is done.
    pub policy: (Sequence, Sequence),
    /// Number of the outcome's code, when it failed.
    pub outcome: u16,
    /// Who asked.
    pub by: u32,
}

/// The latest runs, by number of the distribution.
#[derive(Clone, Debug, Default)]
pub struct Distributions {
    runs: BTreeMap<u16, DistributionRun>,
}

impl Distributions {
    /// The latest run of each.
    pub fn runs(&self) -> &BTreeMap<u16, DistributionRun> {
        &self.runs
    }

    /// From when on runs are due: a distribution that is new, or has another account or schedule, has none before.
    pub(super) fn follow_policy(&mut self, before: &Policy, policy: &Policy, time_ns: u64) {
        for distribution in policy.distributions() {
            let known = before.distributions().iter().find(|known| known.number == distribution.number);
            let same = known.is_some_and(|known| {
                (known.account, &known.schedule) == (distribution.account, &distribution.schedule)
            });
            let run = self.runs.entry(distribution.number).or_default();
            if !same && run.state != DistributionState::Planned {
                run.due_ns = run.due_ns.max(time_ns);
            }
        }
    }

    /// Applies what a record says of a run.
    pub(super) fn entry(
        &mut self,
        entry: &DistributionEntry,
        sequence: Sequence,
        policy: (Sequence, Sequence),
    ) -> Result<(), &'static str> {
        let run = self.runs.get_mut(&entry.number).ok_or("a distribution that no policy had")?;
        match entry.state {
            DistributionState::Planned if run.state != DistributionState::Planned && entry.due_ns > run.due_ns => {
                *run = DistributionRun {
                    state: DistributionState::Planned,
                    due_ns: entry.due_ns,
                    amount: entry.amount,
                    moved: 0,
                    planned: sequence,
                    policy,
                    outcome: Code::Accepted.number(),
                    by: entry.by.0,
                };
            }
            DistributionState::Done | DistributionState::Failed
                if run.state == DistributionState::Planned && entry.due_ns == run.due_ns =>
            {
                let expected = if entry.state == DistributionState::Done { run.amount } else { 0 };
                if run.moved != expected {
                    return Err("a distribution has moved another amount than it says");
                }
                (run.state, run.outcome) = (entry.state, entry.outcome.number());
            }
            _ => {}
        }
        Ok(())
    }

    /// Follows a transfer that the ledger made for a run.
    pub(super) fn transfer(&mut self, transfer: &Transfer) {
        let number = u16::try_from(transfer.user_data_128).unwrap_or(0);
        if let Some(run) = self.runs.get_mut(&number).filter(|run| run.due_ns == transfer.user_data_64) {
            run.moved = run.moved.saturating_add(transfer.amount);
        }
    }

    /// Takes over the runs from the store.
    pub(super) fn load(&mut self, runs: BTreeMap<u16, DistributionRun>) {
        self.runs = runs;
    }
}

/// After so long a run that found less than was planned is planned anew, nanoseconds.
const AGAIN_AFTER_NS: u64 = 60_000_000_000;

impl DistributionRun {
    /// When one of the schedule is planned anew, if it is: what was spent after it was planned is nobody's mistake. Not by another policy (these are
    /// the first and last record of the one in force) than that by which it was done: another account or time is another distribution's.
    pub fn again_ns(&self, policy: (Sequence, Sequence)) -> Option<u64> {
        let is_short = self.state == DistributionState::Failed && self.outcome == Code::RequirementNotMet.number();
        let is_same = self.by().is_ledger() && self.policy == policy;
        (is_short && is_same).then(|| self.due_ns.saturating_add(AGAIN_AFTER_NS))
    }

    /// Who asked.
    pub fn by(&self) -> GatewayId {
        GatewayId(self.by)
    }
}
