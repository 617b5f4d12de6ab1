//! Watch rules: which transfers, or which sums of a day, a report lists for those who look after money laundering.
//!
//! One form says all: transfers of some codes and sizes are grouped by who paid, who received, or both, and a group is listed when there
//! are enough of them, or enough money, or enough different counterparties.
//!
//! ```toml
//! [[watch]]                      # each transfer of 10,000 euro or more
//! name = "large"
//! currency = "EUR"
//! amount_min = "10000.00"
//!
//! [[watch]]                      # three or more a day by one payer just below that
//! name = "structuring"
//! currency = "EUR"
//! amount_min = "8000.00"
//! amount_below = "10000.00"
//! per = "payer"
//! count_min = 3
//! ```
//!
//! Not here: making the report ([`crate::backoffice`]).

use serde::Deserialize;

use super::policy::{Policy, PolicyError, amount as minor, invalid};
use super::{AccountId, Transfer};

/// Most rules in a policy.
const WATCHES_MAX: usize = 64;

/// What is counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchPer {
    /// Nothing: each transfer by itself.
    #[default]
    Transfer,
    /// What an account paid.
    Payer,
    /// What an account received.
    Payee,
    /// What one account paid to another.
    Pair,
}

/// A watch rule as the policy's text has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchText {
    name: String,
    currency: String,
    #[serde(default)]
    codes: Vec<u16>,
    amount_min: Option<String>,
    amount_below: Option<String>,
    #[serde(default)]
    per: WatchPer,
    #[serde(default)]
    count_min: u64,
    sum_min: Option<String>,
    #[serde(default)]
    counterparties_min: usize,
}

/// A watch rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRule {
    /// What it is called.
    pub name: String,
    /// The currency's number.
    pub currency: u16,
    /// Which codes; empty for all.
    pub codes: Vec<u16>,
    /// From which amount, minor units.
    pub amount_min: u128,
    /// Below which amount.
    pub amount_below: Option<u128>,
    /// What is counted together.
    pub per: WatchPer,
    /// How many transfers make it worth a look.
    pub count_min: u64,
    /// And which sum, minor units.
    pub sum_min: u128,
    /// And how many different counterparties.
    pub counterparties_min: usize,
}

impl WatchText {
    fn resolve(self, policy: &Policy) -> Result<WatchRule, PolicyError> {
        let rule = format!("watch {}", self.name);
        let (currency, places) = policy.currency(&self.currency, &rule)?;
        let amount = |text: Option<String>| text.map(|text| minor(&text, places, &rule)).transpose();
        if self.name.is_empty() || self.name.len() > 40 {
            return Err(invalid(&rule, "a name has 1 to 40 bytes"));
        }
        let bounded = self.amount_min.is_some() || self.count_min > 0 || self.sum_min.is_some();
        if !bounded && self.counterparties_min == 0 {
            return Err(invalid(
                &rule,
                "it would list everything: amount_min, count_min, sum_min or counterparties_min",
            ));
        }
        if self.per == WatchPer::Transfer && (self.count_min > 1 || self.counterparties_min > 1) {
            return Err(invalid(&rule, "counting needs per = \"payer\", \"payee\" or \"pair\""));
        }
        Ok(WatchRule {
            amount_min: amount(self.amount_min)?.unwrap_or(0),
            amount_below: amount(self.amount_below)?,
            sum_min: amount(self.sum_min)?.unwrap_or(0),
            name: self.name,
            currency,
            codes: self.codes,
            per: self.per,
            count_min: self.count_min,
            counterparties_min: self.counterparties_min,
        })
    }
}

/// Reads the watch rules of a policy, whose assets are known.
pub(super) fn watches(texts: Vec<WatchText>, policy: &Policy) -> Result<Vec<WatchRule>, PolicyError> {
    if texts.len() > WATCHES_MAX {
        return Err(invalid("watch", "at most 64 rules"));
    }
    texts.into_iter().map(|text| text.resolve(policy)).collect()
}

impl WatchRule {
    /// Whether a posting in a currency is one of those that are looked at.
    pub fn selects(&self, transfer: &Transfer, currency: u16) -> bool {
        self.currency == currency
            && (self.codes.is_empty() || self.codes.contains(&transfer.code))
            && transfer.amount >= self.amount_min
            && self.amount_below.is_none_or(|below| transfer.amount < below)
    }

    /// With what a transfer is counted together; the second is 0 unless both count.
    pub fn group(&self, transfer: &Transfer) -> (AccountId, AccountId) {
        match self.per {
            WatchPer::Payer => (transfer.debit, AccountId::from_raw(0)),
            WatchPer::Payee => (AccountId::from_raw(0), transfer.credit),
            WatchPer::Transfer | WatchPer::Pair => (transfer.debit, transfer.credit),
        }
    }

    /// Whether a group is worth a look.
    pub fn holds(&self, count: u64, sum: u128, counterparties: usize) -> bool {
        count >= self.count_min && sum >= self.sum_min && counterparties >= self.counterparties_min
    }
}

impl Policy {
    /// The watch rules, in order.
    pub fn watches(&self) -> &[WatchRule] {
        &self.watches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_in_watch_rules_are_named() {
        let rule = "[[watch]]\nname = \"x\"\ncurrency = \"EUR\"\n";
        for (more, what) in [
            ("", "list everything"),
            ("count_min = 3", "counting needs per"),
            ("amount_min = \"0.001\"", "amount"),
            ("amount_min = \"1\"\nper = \"bank\"", "unknown variant"),
        ] {
            let error = Policy::parse(&format!("{rule}{more}")).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
