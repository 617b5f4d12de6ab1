//! What the generator knows to have been accepted: debits and credits per account, in minor units.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Totals of one account.
#[derive(Debug, Default)]
struct Totals {
    debits: AtomicU64,
    credits: AtomicU64,
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

    /// Notes an accepted transfer between the accounts at these places.
    #[inline]
    pub(crate) fn accepted(&self, debit: u32, credit: u32, amount: u32) {
        let place = |index: u32| usize::try_from(index).ok().and_then(|index| self.totals.get(index));
        if let (Some(debit), Some(credit)) = (place(debit), place(credit)) {
            debit.debits.fetch_add(u64::from(amount), Relaxed);
            credit.credits.fetch_add(u64::from(amount), Relaxed);
        }
    }

    /// Debits and credits of the account at a place.
    pub(crate) fn totals(&self, index: usize) -> (u128, u128) {
        let totals = self.totals.get(index);
        totals.map_or((0, 0), |totals| (totals.debits.load(Relaxed).into(), totals.credits.load(Relaxed).into()))
    }
}
