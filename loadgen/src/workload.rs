//! Which transfers: made from a seed, connection by connection.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use heng::ledger::{AccountId, Transfer, TransferId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};

use crate::arguments::{Distribution, Ids};
use crate::mix::Effect;

/// The largest amount, minor units. Small, so that the model's 64-bit totals cannot overflow.
const AMOUNT_MAX: u32 = 10_000;

/// A transfer as the model needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) debit: u32,
    pub(crate) credit: u32,
    pub(crate) amount: u32,
    pub(crate) effect: Effect,
}

/// More connections than one run can have; the distance of one connection's ids.
const CONNECTIONS_MAX: u128 = 1 << 20;

/// Nanoseconds in which ids of time grow by one distance: in less no connection makes a transfer, and so ids stay as late as the clock.
const ID_TICK_NS: u128 = 64;

/// When ids of time begin.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Accounts of a second currency, after the others, for runs with exchange.
pub(crate) const ABROAD: u64 = 10;

/// Makes one connection's transfers.
#[derive(Debug)]
pub(crate) struct Workload {
    rng: SmallRng,
    accounts: u32,
    first_account: u128,
    choose: Choose,
    ids: Ids,
    first_id: u128,
    next_id: u128,
    /// Mixed into random ids, so that runs on one server do not repeat each other's.
    salt: u128,
}

#[derive(Debug)]
enum Choose {
    Uniform,
    Zipf(Zipf<f64>),
    Hot(u32),
}

impl Workload {
    /// The transfers of connection number `connection` of the run with this base: ids and accounts of one run are its own.
    pub(crate) fn new(
        (seed, connection, base): (u64, u64, u128),
        (accounts, distribution, ids): (u64, Distribution, Ids),
    ) -> anyhow::Result<Self> {
        let accounts = u32::try_from(accounts)?;
        let choose = match distribution {
            Distribution::Uniform => Choose::Uniform,
            Distribution::Zipf(exponent) => Choose::Zipf(Zipf::new(f64::from(accounts), exponent)?),
            Distribution::Hot(hot) => Choose::Hot(u32::try_from(hot)?.min(accounts.saturating_sub(1))),
        };
        let first_id = base.wrapping_add(1 << 60).wrapping_add(u128::from(connection));
        let rng = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(connection));
        let salt = base.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        Ok(Self { rng, accounts, first_account: base.wrapping_add(1), choose, ids, first_id, next_id: first_id, salt })
    }

    /// With ids of time that come after those of so long.
    pub(crate) fn after(self, ids: Duration) -> Self {
        let later = (ids.as_nanos() / ID_TICK_NS).saturating_add(1).wrapping_mul(CONNECTIONS_MAX);
        let first_id = self.first_id.wrapping_add(later);
        Self { first_id, next_id: first_id, ..self }
    }

    /// For how long ids of time have come.
    pub(crate) fn ids_came() -> Duration {
        BEGUN.elapsed()
    }

    fn pick(&mut self) -> u32 {
        match &self.choose {
            Choose::Uniform | Choose::Hot(_) => self.rng.random_range(0..self.accounts),
            Choose::Zipf(zipf) => {
                rank(zipf.sample(&mut self.rng)).saturating_sub(1).min(self.accounts.saturating_sub(1))
            }
        }
    }

    fn next_to(&self, account: u32) -> u32 {
        account.wrapping_add(1).checked_rem(self.accounts).unwrap_or(0)
    }

    /// Two accounts of the second currency: the platform's position, and a customer.
    pub(crate) fn abroad(&mut self) -> (u32, u32) {
        let customers = u32::try_from(ABROAD).unwrap_or(2).saturating_sub(1);
        (self.accounts, self.accounts.saturating_add(1).saturating_add(self.rng.random_range(0..customers)))
    }

    /// The account at a place.
    pub(crate) fn account(&self, index: u32) -> AccountId {
        account_id(self.first_account, index)
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.rng.random_range(0..end.max(1))
    }

    /// A request is made now: as with ULID and UUID version 7, its ids are greater than those of all that was made before, whichever connection made it;
    /// but for the last half a millisecond, in which the ids of a full batch are.
    pub(crate) fn begin_request(&mut self) {
        self.catch_up(BEGUN.elapsed());
    }

    fn catch_up(&mut self, elapsed: Duration) {
        let ticks = elapsed.as_nanos() / ID_TICK_NS;
        self.next_id = self.next_id.max(self.first_id.wrapping_add(ticks.wrapping_mul(CONNECTIONS_MAX)));
    }

    /// A transfer id that was not used.
    pub(crate) fn next_id(&mut self) -> TransferId {
        TransferId::from_raw(match self.ids {
            Ids::Time => {
                self.next_id = self.next_id.wrapping_add(CONNECTIONS_MAX);
                self.next_id
            }
            Ids::Random => (self.rng.random::<u128>() ^ self.salt).clamp(1, u128::MAX.wrapping_sub(1)),
        })
    }

    /// Makes one transfer.
    pub(crate) fn make(&mut self) -> (Transfer, Planned) {
        let mut debit = self.pick();
        let mut credit = self.pick();
        if let Choose::Hot(hot) = self.choose {
            // The customer pays the hot account, as every payment pays a fee account.
            credit = self.rng.random_range(0..hot);
        }
        if debit == credit {
            debit = self.next_to(debit);
        }
        if debit == credit {
            credit = self.next_to(credit);
        }
        let amount = self.rng.random_range(1..=AMOUNT_MAX);
        let transfer = Transfer {
            id: self.next_id(),
            debit: account_id(self.first_account, debit),
            credit: account_id(self.first_account, credit),
            amount: amount.into(),
            code: 1,
            ..Transfer::default()
        };
        (transfer, Planned { debit, credit, amount, effect: Effect::Post })
    }
}

/// The id of the account at a place of this run.
pub(crate) fn account_id(first_account: u128, index: u32) -> AccountId {
    AccountId::from_raw(first_account.wrapping_add(index.into()))
}

/// A Zipf sample as a whole number; samples are whole and at least 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole, at least 1, at most the number of accounts"
)]
fn rank(sample: f64) -> u32 {
    sample as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_transfers_and_no_account_pays_itself() {
        for distribution in
            [Distribution::Uniform, Distribution::Zipf(0.99), Distribution::Hot(1), Distribution::Hot(9)]
        {
            let make = || {
                let mut workload = Workload::new((7, 1, 0), (10, distribution, Ids::Random)).unwrap();
                (0..2_000).map(|_| workload.make().0).collect::<Vec<_>>()
            };
            let transfers = make();
            assert_eq!(transfers, make());
            assert!(transfers.iter().all(|transfer| transfer.check().is_ok()), "{distribution:?}");
            if distribution == Distribution::Hot(1) {
                assert!(transfers.iter().all(|transfer| transfer.credit == AccountId::from_raw(1)));
            }
        }
    }

    #[test]
    fn what_is_made_later_has_a_greater_id_whichever_connection_makes_it() {
        let connection = |number| Workload::new((7, number, 0), (10, Distribution::Uniform, Ids::Time)).unwrap();
        let (mut busy, mut idle) = (connection(1), connection(2));
        let request = |of: &mut Workload, us, size: usize| -> Vec<u128> {
            of.catch_up(Duration::from_micros(us));
            (0..size).map(|_| of.next_id().raw()).collect()
        };
        let made = [
            request(&mut busy, 0, 8_190),
            // 8,190 ticks of 64 ns.
            request(&mut idle, 525, 100),
            request(&mut busy, 2_000, 8_190),
            // The clock stood still: still none twice.
            request(&mut busy, 2_000, 100),
            request(&mut idle, 3_000, 100),
        ];
        assert!(made.concat().is_sorted_by(|one, next| one < next), "{made:?}");
    }
}
