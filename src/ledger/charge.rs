//! Charges: fees, revenue shares and withheld reserves, computed exactly and rounded once.
//!
//! A fee is a part of a payment, taken from its payer or its payee in the same atomic step, and divided among recipients by
//! ratio. It is computed in [`Decimal`] without losing a digit and rounded once to a minor unit by the rule's rounding. What
//! dividing leaves over goes, one minor unit each, to the recipients in the order of the policy: so the shares always add up
//! to the fee.

use rust_decimal::Decimal;
use serde::Deserialize;

use super::operation::{Rounding, exact_product, minor_units};
use super::policy::{IdText, Policy, PolicyError, amount as minor, invalid, percent};
use super::{AccountClass, AccountId, TransferId};

/// Who pays a fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PaidBy {
    /// The debit account, on top of the payment.
    Payer,
    /// The credit account, out of the payment.
    Payee,
}

/// A fee as the policy's text has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FeeText {
    name: String,
    #[serde(default)]
    codes: Vec<u16>,
    #[serde(default)]
    levels: Vec<u8>,
    currency: String,
    paid_by: PaidBy,
    fee_code: u16,
    #[serde(default)]
    rounding: Rounding,
    fixed: Option<String>,
    percent: Option<String>,
    #[serde(default)]
    tiers: Vec<TierText>,
    min: Option<String>,
    max: Option<String>,
    to: Vec<ShareText>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierText {
    from: String,
    fixed: Option<String>,
    percent: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShareText {
    account: IdText,
    #[serde(default = "one")]
    ratio: u32,
}

const fn one() -> u32 {
    1
}

/// A fee of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeeRule {
    /// What it is called.
    pub name: String,
    pub(super) codes: Vec<u16>,
    levels: Vec<u8>,
    currency: u16,
    places: u32,
    /// Who pays it.
    pub paid_by: PaidBy,
    /// The code of its records.
    pub fee_code: u16,
    rounding: Rounding,
    /// In order of `from`; the last one that the amount reaches counts.
    tiers: Vec<Tier>,
    min: u128,
    max: Option<u128>,
    shares: Vec<(AccountId, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tier {
    from: u128,
    fixed: u128,
    fraction: Decimal,
}

impl FeeText {
    pub(super) fn resolve(&self, policy: &Policy) -> Result<FeeRule, PolicyError> {
        let rule = format!("fee {}", self.name);
        let (currency, places) = policy.currency(&self.currency, &rule)?;
        let amount = |text: &Option<String>| -> Result<Option<u128>, PolicyError> {
            text.as_deref().map(|text| minor(text, places, &rule)).transpose()
        };
        let tier = |from: u128, fixed: &Option<String>, rate: &Option<String>| -> Result<Tier, PolicyError> {
            let fraction = rate.as_deref().map_or(Ok(Decimal::ZERO), |text| percent(text, &rule))?;
            Ok(Tier { from, fixed: amount(fixed)?.unwrap_or(0), fraction })
        };
        let mut tiers = vec![tier(0, &self.fixed, &self.percent)?];
        for text in &self.tiers {
            let from = minor(&text.from, places, &rule)?;
            if tiers.last().is_some_and(|last| last.from >= from) {
                return Err(invalid(&rule, "tiers are in order of `from`, above zero"));
            }
            tiers.push(tier(from, &text.fixed, &text.percent)?);
        }
        Ok(FeeRule {
            name: self.name.clone(),
            codes: self.codes.clone(),
            levels: self.levels.clone(),
            currency,
            places,
            paid_by: self.paid_by,
            fee_code: self.fee_code,
            rounding: self.rounding,
            tiers,
            min: amount(&self.min)?.unwrap_or(0),
            max: amount(&self.max)?,
            shares: shares_of(&self.to, &rule)?,
        })
    }
}

/// Recipients with their ratios; at least one.
pub(super) fn shares_of(texts: &[ShareText], rule: &str) -> Result<Vec<(AccountId, u32)>, PolicyError> {
    if texts.is_empty() || texts.iter().any(|share| share.ratio == 0) {
        return Err(invalid(rule, "it needs recipients with ratios above zero"));
    }
    texts.iter().map(|share| Ok((share.account.resolve(rule)?, share.ratio))).collect()
}

impl FeeRule {
    /// Whether a payment of this code and currency, by an account of this level, bears the fee.
    pub(super) fn applies(&self, code: u16, currency: u16, level: u8) -> bool {
        self.currency == currency
            && (self.codes.is_empty() || self.codes.contains(&code))
            && (self.levels.is_empty() || self.levels.contains(&level))
    }

    /// Who gets it.
    pub(super) fn recipients(&self) -> impl Iterator<Item = AccountId> + '_ {
        self.shares.iter().map(|(account, _)| *account)
    }

    /// The fee on an amount; `None` when it cannot be computed exactly.
    pub(super) fn fee(&self, amount: u128) -> Option<u128> {
        let tier = self.tiers.iter().rev().find(|tier| amount >= tier.from)?;
        let base = Decimal::try_from_i128_with_scale(i128::try_from(amount).ok()?, self.places).ok()?;
        let part = minor_units(exact_product(base, tier.fraction)?, self.places, self.rounding)?;
        let fee = part.checked_add(tier.fixed)?.max(self.min);
        Some(self.max.map_or(fee, |max| fee.min(max)))
    }

    /// The fee divided among its recipients, in their order; they add up to it.
    pub(super) fn divide(&self, fee: u128) -> Vec<(AccountId, u128)> {
        let ratios: Vec<u32> = self.shares.iter().map(|(_, ratio)| *ratio).collect();
        let parts = divide(fee, &ratios);
        self.shares.iter().zip(parts).map(|((account, _), part)| (*account, part)).collect()
    }
}

/// Divides an amount by ratio: each part rounded down, and what is left over one unit each to the first ones.
pub fn divide(amount: u128, ratios: &[u32]) -> Vec<u128> {
    let whole: u128 = ratios.iter().copied().map(u128::from).sum::<u128>().max(1);
    // Quotient and remainder apart, so that nothing overflows: amount is below 2^96 and ratios below 2^32.
    let mut parts: Vec<u128> =
        ratios.iter().map(|&ratio| amount.saturating_mul(u128::from(ratio)).checked_div(whole).unwrap_or(0)).collect();
    let given: u128 = parts.iter().sum();
    let mut left = amount.saturating_sub(given);
    for part in parts.iter_mut().zip(ratios).filter(|(_, ratio)| **ratio > 0).map(|(part, _)| part) {
        if left == 0 {
            break;
        }
        *part = part.saturating_add(1);
        left = left.saturating_sub(1);
    }
    parts
}

/// A rolling reserve as the policy's text has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReserveText {
    name: String,
    percent: String,
    days: u32,
    account: IdText,
    reserve_code: u16,
    #[serde(default)]
    codes: Vec<u16>,
    #[serde(default)]
    levels: Vec<u8>,
    #[serde(default)]
    classes: Vec<AccountClass>,
    #[serde(default)]
    rounding: Rounding,
}

/// A rolling reserve of the policy: part of each credit is held back for some days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReserveRule {
    /// What it is called.
    pub name: String,
    fraction: Decimal,
    /// For how long, nanoseconds.
    pub(super) lasts_ns: u64,
    /// Where it is kept.
    pub account: AccountId,
    /// The code of its records.
    pub reserve_code: u16,
    codes: Vec<u16>,
    levels: Vec<u8>,
    classes: Vec<AccountClass>,
    rounding: Rounding,
}

impl ReserveText {
    pub(super) fn resolve(&self) -> Result<ReserveRule, PolicyError> {
        let rule = format!("reserve {}", self.name);
        if self.days == 0 || self.days > 3_660 {
            return Err(invalid(&rule, "a reserve is kept for 1 to 3660 days"));
        }
        Ok(ReserveRule {
            name: self.name.clone(),
            fraction: percent(&self.percent, &rule)?,
            lasts_ns: u64::from(self.days).saturating_mul(86_400_000_000_000),
            account: self.account.resolve(&rule)?,
            reserve_code: self.reserve_code,
            codes: self.codes.clone(),
            levels: self.levels.clone(),
            classes: self.classes.clone(),
            rounding: self.rounding,
        })
    }
}

/// The ids that what a rule withholds of a payment may have, in order: it has the first one that nothing open had.
pub(super) fn reserve_ids(cause: TransferId, place: u32) -> impl Iterator<Item = TransferId> {
    (0..u32::MAX).map(move |again| TransferId::derived(cause, place.wrapping_add(again.wrapping_mul(1_000_003))))
}

impl ReserveRule {
    /// Whether a credit of this code to an account of this class and level is reserved in part.
    pub(super) fn applies(&self, code: u16, class: AccountClass, level: u8) -> bool {
        (self.codes.is_empty() || self.codes.contains(&code))
            && (self.levels.is_empty() || self.levels.contains(&level))
            && (self.classes.is_empty() || self.classes.contains(&class))
    }

    /// The part of an amount that is withheld.
    pub(super) fn part(&self, amount: u128) -> Option<u128> {
        let base = Decimal::try_from_i128_with_scale(i128::try_from(amount).ok()?, 0).ok()?;
        minor_units(exact_product(base, self.fraction)?, 0, self.rounding)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::AMOUNT_MAX;

    fn fee(text: &str) -> FeeRule {
        let text = format!(
            "[[fee]]\nname = \"f\"\ncurrency = \"EUR\"\npaid_by = \"payee\"\nfee_code = 9\n{text}\nto = [{{ account = 8, ratio = 2 }}, {{ account = 9 }}]"
        );
        Policy::parse(&text).unwrap().fees.remove(0)
    }

    #[test]
    fn fees_are_fixed_by_percent_in_tiers_and_bounded() {
        let rule = fee("fixed = \"0.25\"\npercent = \"1.4\"\nmin = \"0.30\"\nmax = \"5.00\"");
        assert_eq!(
            [100, 1_000, 10_000, 1_000_000].map(|amount| rule.fee(amount)),
            [Some(30), Some(39), Some(165), Some(500)]
        );
        let tiers = fee(
            "percent = \"2\"\ntiers = [{ from = \"100.00\", percent = \"1\" }, { from = \"1000.00\", fixed = \"3.00\" }]",
        );
        assert_eq!([9_999, 10_000, 100_000].map(|amount| tiers.fee(amount)), [Some(200), Some(100), Some(300)]);
        let half = |rounding: &str| fee(&format!("percent = \"0.5\"\nrounding = \"{rounding}\"")).fee(100);
        assert_eq!(["half-up", "half-even", "down", "up"].map(half), [Some(1), Some(0), Some(0), Some(1)]);
        assert_eq!(rule.divide(100), [(AccountId::from_raw(8), 67), (AccountId::from_raw(9), 33)]);
    }

    #[test]
    fn what_is_withheld_is_looked_for_also_where_its_rule_was_before() {
        let payment = TransferId::from_raw(77);
        let rule = "[[reserve]]\nname = \"r\"\npercent = \"10\"\ndays = 1\naccount = 8\nreserve_code = 9";
        let policy = Policy::parse(rule).unwrap();
        for place in [0, 1, 15] {
            let withheld = reserve_ids(payment, place).nth(1).unwrap();
            assert!(policy.reserves_of(payment).any(|id| id == withheld), "place {place}");
        }
        assert_eq!(Policy::default().reserves_of(payment).count(), 0, "there is nothing to look for");
    }

    #[test]
    fn mistakes_in_fees_are_named() {
        for (text, what) in [
            ("to = []", "recipients"),
            ("to = [{ account = 8 }]\ntiers = [{ from = \"0\" }]", "in order"),
            ("to = [{ account = 8 }]\nfixed = \"0.001\"", "not an amount"),
        ] {
            let text = format!("[[fee]]\nname = \"f\"\ncurrency = \"EUR\"\npaid_by = \"payer\"\nfee_code = 9\n{text}");
            let error = Policy::parse(&text).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("fee f"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_unit_is_lost_in_dividing(amount in 0..=AMOUNT_MAX, ratios in prop::collection::vec(1..=u32::MAX, 1..8)) {
            let parts = divide(amount, &ratios);
            prop_assert_eq!(parts.iter().sum::<u128>(), amount);
            let whole: u128 = ratios.iter().copied().map(u128::from).sum();
            for (part, ratio) in parts.iter().zip(&ratios) {
                // Within one unit of the exact share.
                let exact = amount / whole * u128::from(*ratio);
                prop_assert!(part + 1 >= exact);
            }
        }
    }
}
