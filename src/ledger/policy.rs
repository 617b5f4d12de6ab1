//! The policy: the rules of the business that are not in the code, read from a text that the journal keeps.
//!
//! The text is TOML (`config/policy.toml` shows every key). It is recorded in the journal before it is in force, so that
//! replaying applies to each record the rules of its time. Amounts in it are decimals of a currency, never floating point.
//!
//! ```toml
//! [[limit]]                     # at most so much in a day for each account of level 1
//! name = "basic-day"
//! counted_per = "account"
//! levels = [1]
//! currency = "EUR"
//! window = "day"
//! sum_max = "1000.00"
//! ```
//!
//! Not here: counting against limits ([`super::tally`]), computing charges ([`super::charge`]).

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use serde::Deserialize;

use super::bank::{BankAccount, BankAccountText, CsvMapping, bank_accounts, check_mappings};
use super::charge::{FeeRule, FeeText, ReserveRule, ReserveText, reserve_ids};
use super::distribution::{Distribution, DistributionText, distributions};
use super::schedule::{CalendarText, check_calendars};
use super::scheme::{Scheme, SchemeText, schemes};
use super::tally::{LimitGroup, LimitRule, LimitText, Scope};
use super::watch::{WatchRule, WatchText, watches};
use super::{AccountClass, AccountId, Code, Operation, Transfer, TransferId, parse_id};
use crate::money::{Currency, from_major};

/// Places of reserves, and ids for each, under which what was withheld is looked for.
const RESERVE_PLACES: usize = 16;
const RESERVE_IDS: usize = 8;

/// Buckets that the rules of one scope may need: keeps an account's counters small.
const SCOPE_BUCKETS_MAX: usize = 24;

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is not TOML of this shape; the text says where.
    #[error("{0}")]
    Syntax(String),
    /// A value is out of its range.
    #[error("{rule}: {what}")]
    Value {
        /// Which rule of the policy.
        rule: String,
        /// What is wrong with it.
        what: String,
    },
}

/// An account id in a policy: a number, or a text for what a TOML number cannot hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum IdText {
    Number(u64),
    Text(String),
}

impl IdText {
    pub(super) fn resolve(&self, rule: &str) -> Result<AccountId, PolicyError> {
        let id = match self {
            Self::Number(number) => Some(u128::from(*number)).filter(|&id| id != 0),
            Self::Text(text) => parse_id(text),
        };
        id.map(AccountId::from_raw).ok_or_else(|| invalid(rule, "not an account id"))
    }
}

pub(super) fn invalid(rule: &str, what: &str) -> PolicyError {
    PolicyError::Value { rule: rule.to_owned(), what: what.to_owned() }
}

/// The text as serde reads it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PolicyText {
    capture_tolerance_percent: Option<String>,
    deny_accounts: Vec<IdText>,
    deny_pairs: Vec<(IdText, IdText)>,
    segregation: Option<SegregationText>,
    reversal: ReversalText,
    asset: Vec<Asset>,
    limit: Vec<LimitText>,
    fee: Vec<FeeText>,
    reserve: Vec<ReserveText>,
    calendar: Vec<CalendarText>,
    scheme: Vec<SchemeText>,
    distribution: Vec<DistributionText>,
    bank_account: Vec<BankAccountText>,
    statement_csv: Vec<CsvMapping>,
    watch: Vec<WatchText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SegregationText {
    permit: Vec<Permit>,
}

/// Codes that may move money from one class to another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Permit {
    from: AccountClass,
    to: AccountClass,
    codes: Vec<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReversalText {
    receivable: Vec<ReceivableText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceivableText {
    currency: String,
    account: IdText,
}

/// A currency of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// Its number, from 1000 on: ISO 4217 uses those below.
    pub number: u16,
    /// Its letters, which are not those of an ISO 4217 currency.
    pub code: String,
    /// Its decimal places, at most 18.
    pub exponent: u32,
}

/// The rules in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    text: String,
    capture_tolerance: Decimal,
    deny_accounts: BTreeSet<AccountId>,
    deny_pairs: BTreeSet<(AccountId, AccountId)>,
    segregation: Option<Vec<Permit>>,
    /// By currency: who owes what a reversal could not take back.
    receivables: Vec<(u16, AccountId)>,
    assets: Vec<Asset>,
    pub(super) limits: Vec<LimitRule>,
    pub(super) fees: Vec<FeeRule>,
    pub(super) reserves: Vec<ReserveRule>,
    pub(super) schemes: Vec<Scheme>,
    distributions: Vec<Distribution>,
    pub(super) bank_accounts: Vec<BankAccount>,
    pub(super) csv_mappings: Vec<CsvMapping>,
    pub(super) watches: Vec<WatchRule>,
    groups: Vec<LimitGroup>,
    /// By scope: how many buckets a tally has.
    buckets: [usize; 4],
}

impl Policy {
    /// Reads a policy. Every mistake in it is an error, none is ignored.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let read: PolicyText = toml::from_str(text).map_err(|err| PolicyError::Syntax(err.to_string()))?;
        let mut policy = Self { text: text.to_owned(), ..Self::default() };
        for asset in read.asset {
            let rule = format!("asset {}", asset.code);
            if asset.number < 1_000 {
                return Err(invalid(&rule, "its number is below 1000, where ISO 4217 has its own"));
            }
            let letters = !asset.code.is_empty() && asset.code.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !letters || asset.exponent > 18 || Currency::from_code(&asset.code).is_ok() {
                return Err(invalid(
                    &rule,
                    "letters and digits that ISO 4217 does not use, and at most 18 decimal places",
                ));
            }
            if policy.assets.iter().any(|known| known.number == asset.number || known.code == asset.code) {
                return Err(invalid(&rule, "its number or code is used twice"));
            }
            policy.assets.push(asset);
        }
        let tolerance = read.capture_tolerance_percent.as_deref().unwrap_or("0");
        policy.capture_tolerance = percent(tolerance, "capture_tolerance_percent")?;
        for id in &read.deny_accounts {
            policy.deny_accounts.insert(id.resolve("deny_accounts")?);
        }
        for (one, other) in &read.deny_pairs {
            let (one, other) = (one.resolve("deny_pairs")?, other.resolve("deny_pairs")?);
            policy.deny_pairs.insert((one.min(other), one.max(other)));
        }
        policy.segregation = read.segregation.map(|segregation| segregation.permit);
        for receivable in read.reversal.receivable {
            let (currency, _) = policy.currency(&receivable.currency, "reversal")?;
            policy.receivables.push((currency, receivable.account.resolve("reversal")?));
        }
        policy.limits = read.limit.iter().map(|limit| limit.resolve(&policy)).collect::<Result<_, _>>()?;
        policy.fees = read.fee.iter().map(|fee| fee.resolve(&policy)).collect::<Result<_, _>>()?;
        policy.reserves = read.reserve.iter().map(ReserveText::resolve).collect::<Result<_, _>>()?;
        check_calendars(&read.calendar)?;
        policy.schemes = schemes(read.scheme, &policy, &read.calendar)?;
        policy.distributions = distributions(read.distribution, &policy, &read.calendar)?;
        policy.bank_accounts = bank_accounts(read.bank_account, &policy, &read.calendar)?;
        check_mappings(&read.statement_csv)?;
        policy.csv_mappings = read.statement_csv;
        policy.watches = watches(read.watch, &policy)?;
        policy.groups = policy.limit_groups();
        policy.buckets = Scope::ALL.map(|scope| policy.count_buckets(scope));
        for scope in Scope::ALL {
            if policy.buckets(scope) > SCOPE_BUCKETS_MAX {
                return Err(invalid(
                    "limit",
                    "too many limits of one scope: sliding ones count 8, others 1, at most 24 in all",
                ));
            }
        }
        Ok(policy)
    }

    /// The text it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Number and decimal places of a currency or asset by its letters.
    pub(super) fn currency(&self, code: &str, rule: &str) -> Result<(u16, u32), PolicyError> {
        if let Some(asset) = self.assets.iter().find(|asset| asset.code == code) {
            return Ok((asset.number, asset.exponent));
        }
        let currency = Currency::from_code(code).map_err(|err| invalid(rule, &err.to_string()))?;
        Ok((currency.number(), currency.exponent()))
    }

    /// The decimal places of a currency or asset; `None` when there is none of this number.
    pub fn exponent(&self, number: u16) -> Option<u32> {
        let asset = self.assets.iter().find(|asset| asset.number == number);
        asset.map(|asset| asset.exponent).or_else(|| Currency::from_number(number).ok().map(Currency::exponent))
    }

    /// The letters of a currency or asset.
    pub fn currency_code(&self, number: u16) -> Option<&str> {
        let asset = self.assets.iter().find(|asset| asset.number == number);
        asset.map(|asset| asset.code.as_str()).or_else(|| Currency::from_number(number).ok().map(Currency::code))
    }

    /// The assets.
    pub fn assets(&self) -> &[Asset] {
        &self.assets
    }

    /// Whether transfers must be followed for clearing.
    #[inline]
    pub(super) fn clears(&self) -> bool {
        !self.schemes.is_empty() || !self.distributions.is_empty()
    }

    /// The distributions, in order.
    pub fn distributions(&self) -> &[Distribution] {
        &self.distributions
    }

    /// How much of a hold of this size may be captured in all.
    pub(super) fn capture_max(&self, held: u128) -> u128 {
        let exact = i128::try_from(held).ok().and_then(|held| Decimal::try_from_i128_with_scale(held, 0).ok());
        let more = exact.and_then(|held| held.checked_mul(self.capture_tolerance));
        let more = more.and_then(|more| u128::try_from(more.trunc().mantissa()).ok());
        held.saturating_add(more.unwrap_or(0))
    }

    /// Who owes what a reversal could not take back, in this currency.
    pub(super) fn receivable(&self, currency: u16) -> Option<AccountId> {
        self.receivables.iter().find(|(of, _)| *of == currency).map(|(_, account)| *account)
    }

    /// The name of a limit, by its index.
    pub fn limit_name(&self, index: usize) -> Option<&str> {
        self.limits.get(index).map(|limit| limit.name.as_str())
    }

    /// The accounts that charges and reversals may need besides those of a transfer.
    pub fn named_accounts(&self) -> impl Iterator<Item = AccountId> + '_ {
        let fees = self.fees.iter().flat_map(FeeRule::recipients);
        let reserves = self.reserves.iter().map(|reserve| reserve.account);
        fees.chain(reserves).chain(self.receivables.iter().map(|(_, account)| *account))
    }

    /// The ids under which something may be withheld of a payment, also by rules that a policy before this one had at other places. Who holds
    /// something under the first ones, which he can compute, has his reserve come back on its day and not with a reversal.
    pub fn reserves_of(&self, payment: TransferId) -> impl Iterator<Item = TransferId> {
        let places = if self.reserves.is_empty() { 0 } else { self.reserves.len().max(RESERVE_PLACES) };
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        (0..places).flat_map(move |place| reserve_ids(payment, place).take(RESERVE_IDS))
    }

    /// The limits in groups that count for the same subject.
    #[inline]
    pub(super) fn groups(&self) -> &[LimitGroup] {
        &self.groups
    }

    /// How many buckets a tally of this scope has.
    #[inline]
    pub fn buckets(&self, scope: Scope) -> usize {
        self.buckets.get(scope as usize).copied().unwrap_or(0)
    }

    /// How many buckets a row of counters has, whatever its scope.
    pub(super) fn row_buckets(&self) -> usize {
        self.buckets.into_iter().max().unwrap_or(0)
    }

    /// Whether any limit is to be counted.
    #[inline]
    pub fn has_limits(&self) -> bool {
        !self.limits.is_empty()
    }

    /// Whether an immediate transfer between two accounts can be decided by the two alone: no limit counts it, nothing is charged
    /// and nothing withheld.
    #[inline]
    pub fn leaves_alone(&self, transfer: &Transfer) -> bool {
        transfer.is_plain() && self.limits.is_empty() && self.charges_nothing(transfer)
    }

    /// Whether neither fee nor reserve is about transfers of this code.
    #[inline]
    pub fn charges_nothing(&self, transfer: &Transfer) -> bool {
        self.reserves.is_empty()
            && !self.fees.iter().any(|fee| fee.codes.is_empty() || fee.codes.contains(&transfer.code))
    }

    /// Whether these two may deal with each other at all.
    #[inline]
    pub fn check_parties(&self, debit: AccountId, credit: AccountId) -> Result<(), Code> {
        if self.deny_accounts.is_empty() && self.deny_pairs.is_empty() {
            return Ok(());
        }
        let denied = self.deny_accounts.contains(&debit)
            || self.deny_accounts.contains(&credit)
            || self.deny_pairs.contains(&(debit.min(credit), debit.max(credit)));
        if denied { Err(Code::Denied) } else { Ok(()) }
    }

    /// Whether a code may move money between two classes.
    #[inline]
    pub fn check_classes(&self, from: AccountClass, to: AccountClass, code: u16) -> Result<(), Code> {
        let Some(permits) = &self.segregation else { return Ok(()) };
        let unsaid = from == AccountClass::Unspecified || to == AccountClass::Unspecified;
        let permitted = from == to
            || unsaid
            || permits.iter().any(|permit| (permit.from, permit.to) == (from, to) && permit.codes.contains(&code));
        if permitted { Ok(()) } else { Err(Code::ClassNotPermitted) }
    }

    /// Whether an operation counts towards limits: where money leaves by a decision of its owner.
    pub(super) const fn counts(operation: Operation) -> bool {
        matches!(
            operation,
            Operation::Transfer | Operation::Hold | Operation::Raise | Operation::Delayed | Operation::Exchange
        )
    }
}

/// The amount that is meant where none is given.
pub(super) fn nothing() -> String {
    "0".to_owned()
}

/// Checks the name and number by which a rule is known.
pub(super) fn check_name(name: &str, number: u16, rule: &str) -> Result<(), PolicyError> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if name.is_empty() || name.len() > 24 || !letters || number == 0 {
        return Err(invalid(rule, "a name has 1 to 24 letters, digits and hyphens, a number is 1 or more"));
    }
    Ok(())
}

/// Minor units of an amount in major units.
pub(super) fn amount(text: &str, places: u32, rule: &str) -> Result<u128, PolicyError> {
    from_major(text, places).ok_or_else(|| invalid(rule, "not an amount of its currency"))
}

/// A percentage between 0 and 100 as a fraction.
pub(super) fn percent(text: &str, rule: &str) -> Result<Decimal, PolicyError> {
    let percent: Decimal = text.parse().map_err(|_err| invalid(rule, "not a percentage"))?;
    if percent.is_sign_negative() || percent > Decimal::ONE_HUNDRED || percent.scale() > 8 {
        return Err(invalid(rule, "a percentage is 0 to 100, with at most eight decimal places"));
    }
    let fraction = Decimal::try_from_i128_with_scale(percent.mantissa(), percent.scale().saturating_add(2));
    fraction.map_err(|_err| invalid(rule, "not a percentage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_in_a_policy_are_named() {
        for (text, what) in [
            ("nonsense = 1", "nonsense"),
            ("[[asset]]\nnumber = 5\ncode = \"PTS\"\nexponent = 0", "below 1000"),
            ("[[asset]]\nnumber = 1005\ncode = \"EUR\"\nexponent = 0", "ISO 4217"),
            ("capture_tolerance_percent = \"120\"", "0 to 100"),
            ("deny_accounts = [\"x\"]", "not an account id"),
            ("[[reversal.receivable]]\ncurrency = \"EURO\"\naccount = 5", "EURO"),
        ] {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn the_shipped_policy_can_be_used() {
        let policy = Policy::parse(include_str!("../../config/policy.toml")).unwrap();
        let counts = (policy.limits.len(), policy.fees.len(), policy.reserves.len(), policy.assets.len());
        assert_eq!((counts, policy.schemes.len()), ((2, 1, 1, 1), 1));
        assert_eq!(policy.currency_code(1_001), Some("POINTS"));
        assert_eq!(policy.named_accounts().count(), 4);
    }

    #[test]
    fn classes_and_parties_are_checked_when_the_policy_says_so() {
        let (client, own) = (AccountClass::ClientFunds, AccountClass::PlatformOwn);
        let id = AccountId::from_raw;
        assert_eq!(Policy::default().check_classes(client, own, 1), Ok(()));
        let policy = Policy::parse(
            "deny_accounts = [7]\ndeny_pairs = [[1, \"0x2\"]]\ncapture_tolerance_percent = \"15\"
            [[segregation.permit]]\nfrom = \"client-funds\"\nto = \"platform-own\"\ncodes = [9]",
        )
        .unwrap();
        assert_eq!(policy.check_classes(client, own, 9), Ok(()));
        assert_eq!(policy.check_classes(client, own, 1), Err(Code::ClassNotPermitted));
        assert_eq!(policy.check_classes(own, client, 9), Err(Code::ClassNotPermitted));
        assert_eq!(policy.check_classes(client, AccountClass::Unspecified, 1), Ok(()));
        assert_eq!(policy.check_parties(id(2), id(1)), Err(Code::Denied));
        assert_eq!(policy.check_parties(id(7), id(1)), Err(Code::Denied));
        assert_eq!(policy.check_parties(id(3), id(1)), Ok(()));
        assert_eq!((policy.capture_max(100), policy.capture_max(3)), (115, 3));
    }
}
