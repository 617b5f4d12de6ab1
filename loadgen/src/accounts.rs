//! The accounts of a run: opened before it, compared with the generator's model after it.

use heng::client::Client;
use heng::ledger::NewAccount;

use crate::model::Model;
use crate::report::grouped;
use crate::run::{progress, say};
use crate::workload::account_id;

/// ISO 4217 number of the accounts' currency, EUR.
pub(crate) const CURRENCY: u16 = 978;

/// USD in ISO 4217.
pub(crate) const CURRENCY_ABROAD: u16 = 840;

/// Items per request.
const PAGE: usize = 8_190;

/// Differences shown when accounts are not as they should be.
const DIFFERENCES_SHOWN: usize = 10;

/// Accounts with ids one after the other: those of the first currency, then those of the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// The id of the first one.
    pub(crate) first: u128,
    pub(crate) accounts: u64,
    /// How many of the second currency.
    pub(crate) abroad: u64,
}

impl Range {
    /// How many there are.
    pub(crate) fn all(&self) -> u64 {
        self.accounts.saturating_add(self.abroad)
    }

    fn indexes(&self) -> anyhow::Result<Vec<u32>> {
        Ok((0..u32::try_from(self.all())?).collect())
    }

    /// Opens all.
    pub(crate) async fn open(&self, client: &mut Client) -> anyhow::Result<()> {
        let bar = progress("accounts", self.all())?;
        for page in self.indexes()?.chunks(PAGE) {
            let open = |&index: &u32| NewAccount {
                id: account_id(self.first, index),
                currency: if u64::from(index) < self.accounts { CURRENCY } else { CURRENCY_ABROAD },
                code: 1,
                ..NewAccount::default()
            };
            let outcomes = client.open_accounts(&page.iter().map(open).collect::<Vec<_>>()).await?;
            let refused = outcomes.iter().find(|outcome| !outcome.code.is_accepted());
            anyhow::ensure!(refused.is_none(), "an account was not opened: {refused:?}");
            bar.inc(u64::try_from(page.len())?);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Compares every account with the model; says what differs.
    pub(crate) async fn is_as_known(&self, client: &mut Client, model: &Model) -> anyhow::Result<bool> {
        let bar = progress("verifying", self.all())?;
        let (mut different, mut sum) = (0_usize, 0_i128);
        for page in self.indexes()?.chunks(PAGE) {
            let ids: Vec<u128> = page.iter().map(|&index| account_id(self.first, index).raw()).collect();
            let (_, accounts) = client.accounts(&ids).await?;
            let missing = ids.len().saturating_sub(accounts.len());
            anyhow::ensure!(missing == 0, "{missing} accounts are missing");
            for (&index, account) in page.iter().zip(&accounts) {
                let expected = model.totals(usize::try_from(index)?);
                sum = sum.saturating_add(account.balance());
                let totals = account.totals;
                let found =
                    [totals.debits_posted, totals.credits_posted, totals.debits_pending, totals.credits_pending];
                if found != expected {
                    different = different.saturating_add(1);
                    if different <= DIFFERENCES_SHOWN {
                        say(&format!(
                            "account {}: debits, credits and both pending are {found:?}, accepted were {expected:?}",
                            account.properties.id
                        ));
                    }
                }
            }
            bar.inc(u64::try_from(page.len())?);
        }
        bar.finish_and_clear();
        if different > 0 || sum != 0 {
            say(&format!("{} accounts differ; all balances add up to {sum}", grouped(u64::try_from(different)?)));
        }
        Ok(different == 0 && sum == 0)
    }
}
