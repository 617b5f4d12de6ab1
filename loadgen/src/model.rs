//! What the generator knows to have been accepted: totals per account, in minor units.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::mix::Effect;
use crate::workload::Planned;

/// Totals of one account. They may pass below zero for a moment, when answers of two connections cross, so they wrap.
#[derive(Debug, Default)]
struct Totals {
    debits: AtomicU64,
    credits: AtomicU64,
    debits_pending: AtomicU64,
    credits_pending: AtomicU64,
}

/// Totals of all accounts, shared by all connections.
#[derive(Debug)]
pub(crate) struct Model {
    totals: Vec<Totals>,
}

impl Model {
    /// A model with nothing accepted.
    pub(crate) fn new(accounts: u64) -> Self {
        Self { totals: (0..accounts).map(|_| Totals::default()).collect() }
    }

    /// A model that goes on with what [`Self::all`] said.
    pub(crate) fn going_on(all: &[[u64; 4]]) -> Self {
        let totals = |of: &[u64; 4]| {
            let [debits, credits, debits_pending, credits_pending] = of.map(AtomicU64::new);
            Totals { debits, credits, debits_pending, credits_pending }
        };
        Self { totals: all.iter().map(totals).collect() }
    }

    /// Posted debits and credits, then pending ones, of every account.
    pub(crate) fn all(&self) -> Vec<[u64; 4]> {
        self.totals.iter().map(Totals::load).collect()
    }

    /// Notes an accepted operation.
    #[inline]
    pub(crate) fn accepted(&self, planned: &Planned) {
        let place = |index: u32| usize::try_from(index).ok().and_then(|index| self.totals.get(index));
        let (Some(debit), Some(credit)) = (place(planned.debit), place(planned.credit)) else { return };
        let amount = u64::from(planned.amount);
        let post = |amount: u64| {
            debit.debits.fetch_add(amount, Relaxed);
            credit.credits.fetch_add(amount, Relaxed);
        };
        let pend = |amount: u64| {
            debit.debits_pending.fetch_add(amount, Relaxed);
            credit.credits_pending.fetch_add(amount, Relaxed);
        };
        match planned.effect {
            Effect::Post => post(amount),
            Effect::Unpost => post(amount.wrapping_neg()),
            Effect::Pend => pend(amount),
            Effect::Free => pend(amount.wrapping_neg()),
            Effect::Capture(rest) => {
                pend(amount.wrapping_add(u64::from(rest)).wrapping_neg());
                post(amount);
            }
            Effect::None => {}
        }
    }

    /// Posted debits and credits, then pending ones, of the account at a place.
    pub(crate) fn totals(&self, index: usize) -> [u128; 4] {
        self.totals.get(index).map_or([0; 4], |totals| totals.load().map(u128::from))
    }
}

impl Totals {
    fn load(&self) -> [u64; 4] {
        let all = [&self.debits, &self.credits, &self.debits_pending, &self.credits_pending];
        all.map(|total| total.load(Relaxed))
    }
}
