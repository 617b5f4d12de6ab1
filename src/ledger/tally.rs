//! Limits: how much and how often, per period, counted for an account, a level, a gateway or a code.
//!
//! A limit names what it counts by selectors (codes, levels, gateways, currency, direction) and for whom (`counted_per`). A
//! *tally* holds the counters of all limits of one scope for one subject, in *buckets*:
//!
//! * `day` and `month` are calendar periods, shifted from UTC by a fixed number of minutes; one bucket each;
//! * a sliding window of w seconds is counted in steps of w/6, rounded up: a bucket for all of the window, one for the current step,
//!   and a ring of the six steps before. So never more than the limit falls into any w seconds; what happened up to w/6 earlier may
//!   still count; and most operations touch the first two buckets only.
//!
//! Time is the ledger's own second ([`super::Record::Clock`]), so counting again from the records gives the same.
//!
//! # Invariants
//!
//! 1. What is counted is posted or set aside in the same atomic step; what is given back unused of a hold, raises included, is taken
//!    out of the period in which the hold was counted, if that is still kept, and not at all if a level has changed meanwhile: so never
//!    more than the limit passes.

use serde::Deserialize;

use super::bucket::{Bucket, SLIDING_BUCKETS, SLIDING_STEPS};
use super::policy::{Policy, PolicyError, amount as minor, invalid};
use super::{AccountId, Code, GatewayId, Slot};

/// Groups of limits that a policy may have: four scopes, two directions.
pub(super) const GROUPS_MAX: usize = 8;
const DAY_S: i64 = 86_400;

/// For whom is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Scope {
    /// Each account.
    Account = 0,
    /// All accounts of a level.
    Level = 1,
    /// Each gateway.
    Gateway = 2,
    /// Each code.
    Code = 3,
}

impl Scope {
    /// All.
    pub const ALL: [Self; 4] = [Self::Account, Self::Level, Self::Gateway, Self::Code];
}

/// For whom a tally counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// What kind of subject.
    pub scope: Scope,
    /// Which: account id, level, gateway number or code.
    pub id: u128,
}

/// Over which period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Each operation alone.
    Once,
    /// A calendar day.
    Day,
    /// A calendar month.
    Month,
    /// The last so many seconds.
    Sliding(u32),
}

/// Which side of an operation counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Direction {
    #[default]
    Debit,
    Credit,
}

/// The most of a limit; all ones for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    sum: u128,
    count: u32,
}

impl Bounds {
    pub(super) fn of(limit: &LimitRule) -> Self {
        Self { sum: limit.sum_max.unwrap_or(u128::MAX), count: limit.count_max.unwrap_or(u32::MAX) }
    }

    /// Whether what was counted is within it; `once` is what is counted for itself alone. What was no operation of its own, as a raise, says nothing of
    /// their number: that may be beyond a bound that was lowered.
    #[inline]
    pub(super) fn hold(self, used: (u128, u32), (once, count): (u128, u32)) -> bool {
        used.0.saturating_add(once) <= self.sum && (count == 0 || used.1 <= self.count)
    }

    #[inline]
    pub(super) fn check(self, used: (u128, u32), amount: u128, count: u32) -> Result<(), Code> {
        if used.0.saturating_add(amount) > self.sum {
            Err(Code::LimitExceeded)
        } else if count > 0 && used.1.saturating_add(count) > self.count {
            Err(Code::LimitCountExceeded)
        } else {
            Ok(())
        }
    }
}

/// A limit as the hot path reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupLimit {
    /// Which limit of the policy.
    pub(super) index: usize,
    /// Its buckets in the tally.
    pub(super) place: std::ops::Range<usize>,
    pub(super) bounds: Bounds,
    currency: u16,
    /// Whether it selects by nothing but its currency.
    selects_all: bool,
}

impl GroupLimit {
    fn new(index: usize, limit: &LimitRule, place: std::ops::Range<usize>) -> Self {
        let selects_all = limit.codes.is_empty() && limit.levels.is_empty() && limit.gateways.is_empty();
        Self { index, place, bounds: Bounds::of(limit), currency: limit.currency, selects_all }
    }

    /// Whether an operation is one that this limit counts.
    #[inline]
    pub(super) fn selects(&self, policy: &Policy, counted: &Counted) -> bool {
        self.currency == counted.currency
            && (self.selects_all || policy.limits.get(self.index).is_some_and(|limit| limit.selects(counted)))
    }
}

impl Direction {
    #[inline]
    fn side(self, counted: &Counted) -> (AccountId, u8) {
        if self == Self::Debit { counted.debit } else { counted.credit }
    }
}

/// Limits that count for the same subject, each with the place of its buckets in that one's tally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LimitGroup {
    pub(super) scope: Scope,
    direction: Direction,
    pub(super) limits: Vec<GroupLimit>,
}

impl LimitGroup {
    /// The slot of the account for which an operation counts, where known.
    #[inline]
    pub(super) fn slot(&self, counted: &Counted) -> Option<Slot> {
        if self.direction == Direction::Debit { counted.slots.0 } else { counted.slots.1 }
    }

    /// For whom an operation counts.
    #[inline]
    pub(super) fn subject(&self, counted: &Counted) -> Subject {
        let (account, level) = self.direction.side(counted);
        let id = match self.scope {
            Scope::Account => account.raw(),
            Scope::Level => u128::from(level),
            Scope::Gateway => u128::from(counted.gateway.0),
            Scope::Code => u128::from(counted.code),
        };
        Subject { scope: self.scope, id }
    }
}

/// The parts of all limits' periods in which a second is; the same second is not computed twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    second: Option<u32>,
    parts: Vec<u32>,
}

impl Parts {
    /// The part of each limit, by index.
    #[inline]
    pub(super) fn at(&mut self, policy: &Policy, second: u32) -> &[u32] {
        if self.second != Some(second) {
            self.second = Some(second);
            self.parts = policy.limits.iter().map(|limit| limit.part(second)).collect();
        }
        &self.parts
    }
}

/// A limit as the policy's text has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitText {
    name: String,
    counted_per: Scope,
    window: String,
    currency: String,
    #[serde(default)]
    direction: Direction,
    #[serde(default)]
    codes: Vec<u16>,
    #[serde(default)]
    levels: Vec<u8>,
    #[serde(default)]
    gateways: Vec<u32>,
    #[serde(default)]
    utc_offset_minutes: i32,
    sum_max: Option<String>,
    count_max: Option<u32>,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRule {
    /// What it is called.
    pub name: String,
    scope: Scope,
    period: Period,
    currency: u16,
    direction: Direction,
    codes: Vec<u16>,
    levels: Vec<u8>,
    gateways: Vec<u32>,
    utc_offset_s: i64,
    /// Most minor units in the period.
    pub sum_max: Option<u128>,
    /// Most operations in the period.
    pub count_max: Option<u32>,
}

impl LimitRule {
    /// Whether both count the same, whatever they are called and let through.
    fn counts_as(&self, other: &Self) -> bool {
        let bounds = (self.sum_max, self.count_max);
        *self == Self { name: self.name.clone(), sum_max: bounds.0, count_max: bounds.1, ..other.clone() }
    }
}

impl LimitText {
    pub(super) fn resolve(&self, policy: &Policy) -> Result<LimitRule, PolicyError> {
        let rule = format!("limit {}", self.name);
        let period = match self.window.as_str() {
            "transaction" => Period::Once,
            "day" => Period::Day,
            "month" => Period::Month,
            sliding => {
                let seconds = sliding.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
                let seconds = seconds.filter(|seconds| (6..=31_622_400_u32).contains(seconds));
                Period::Sliding(seconds.ok_or_else(|| {
                    invalid(&rule, "a window is transaction, day, month, or 6 to 31622400 seconds like \"600s\"")
                })?)
            }
        };
        if self.sum_max.is_none() && self.count_max.is_none() {
            return Err(invalid(&rule, "neither sum_max nor count_max"));
        }
        if self.utc_offset_minutes.abs() > 24 * 60 {
            return Err(invalid(&rule, "utc_offset_minutes is at most a day"));
        }
        let (currency, places) = policy.currency(&self.currency, &rule)?;
        let sum_max = self.sum_max.as_deref().map(|text| minor(text, places, &rule)).transpose()?;
        Ok(LimitRule {
            name: self.name.clone(),
            scope: self.counted_per,
            period,
            currency,
            direction: self.direction,
            codes: self.codes.clone(),
            levels: self.levels.clone(),
            gateways: self.gateways.clone(),
            utc_offset_s: i64::from(self.utc_offset_minutes).saturating_mul(60),
            sum_max,
            count_max: self.count_max,
        })
    }
}

/// What is to be counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Who pays, and at which level.
    pub debit: (AccountId, u8),
    /// Who receives, and at which level.
    pub credit: (AccountId, u8),
    /// The slots of the two, where known.
    pub slots: (Option<Slot>, Option<Slot>),
    /// Who asks.
    pub gateway: GatewayId,
    /// Kind of business.
    pub code: u16,
    /// Of the accounts.
    pub currency: u16,
    /// Minor units.
    pub amount: u128,
    /// How often it counts: 1, or 0 when it adds to what was counted.
    pub count: u32,
    /// The ledger's second.
    pub second: u32,
}

impl LimitRule {
    /// How many buckets it needs.
    pub(super) fn buckets(&self) -> usize {
        match self.period {
            Period::Once => 0,
            Period::Day | Period::Month => 1,
            Period::Sliding(_) => SLIDING_BUCKETS,
        }
    }

    /// Whether an operation is one that this limit counts.
    #[inline]
    pub(super) fn selects(&self, counted: &Counted) -> bool {
        let (_, level) = self.direction.side(counted);
        self.currency == counted.currency
            && (self.codes.is_empty() || self.codes.contains(&counted.code))
            && (self.levels.is_empty() || self.levels.contains(&level))
            && (self.gateways.is_empty() || self.gateways.contains(&counted.gateway.0))
    }

    /// The number of the part of the period in which a second is, from 1.
    pub(super) fn part(&self, second: u32) -> u32 {
        let local = i64::from(second).saturating_add(self.utc_offset_s).max(0);
        let part = match self.period {
            Period::Once => 0,
            Period::Day => local.div_euclid(DAY_S),
            Period::Month => month_of(local.div_euclid(DAY_S)),
            Period::Sliding(seconds) => i64::from(second).div_euclid(i64::from(seconds.div_ceil(SLIDING_STEPS).max(1))),
        };
        u32::try_from(part).unwrap_or(0).saturating_add(1)
    }
}

impl Policy {
    pub(super) fn count_buckets(&self, scope: Scope) -> usize {
        self.limits.iter().filter(|limit| limit.scope == scope).map(LimitRule::buckets).sum()
    }

    /// Checks an amount against the limits that count each operation alone; answers which one it passes.
    pub(super) fn check_once(&self, counted: &Counted) -> Result<(), (usize, Code)> {
        let once = self.limits.iter().enumerate().filter(|(_, limit)| limit.period == Period::Once);
        once.filter(|(_, limit)| limit.selects(counted)).try_for_each(|(index, limit)| {
            Bounds::of(limit).check((0, 0), counted.amount, 0).map_err(|code| (index, code))
        })
    }

    /// The limits with the place of their buckets in the tallies of their scope.
    pub(super) fn limits_with_places(&self) -> impl Iterator<Item = (&LimitRule, std::ops::Range<usize>)> {
        let mut used = [0_usize; 4];
        self.limits.iter().map(move |limit| {
            let first = used.get(limit.scope as usize).copied().unwrap_or(0);
            let end = first.saturating_add(limit.buckets());
            if let Some(place) = used.get_mut(limit.scope as usize) {
                *place = end;
            }
            (limit, first..end)
        })
    }

    /// The limits in groups that count for the same subject.
    pub(super) fn limit_groups(&self) -> Vec<LimitGroup> {
        let mut groups: Vec<LimitGroup> = Vec::new();
        for (index, (limit, place)) in self.limits_with_places().enumerate() {
            let known =
                groups.iter_mut().find(|group| (group.scope, group.direction) == (limit.scope, limit.direction));
            let limit_of_group = GroupLimit::new(index, limit, place);
            match known {
                Some(group) => group.limits.push(limit_of_group),
                None => groups.push(LimitGroup {
                    scope: limit.scope,
                    direction: limit.direction,
                    limits: vec![limit_of_group],
                }),
            }
        }
        groups
    }

    /// The buckets of a tally under this policy, from one under the policy before, by the edition of its record ([`crate::ledger::EDITION`]).
    pub(super) fn carry_over(&self, (before, edition): (&Self, u32), scope: Scope, buckets: &[Bucket]) -> Vec<Bucket> {
        let mut carried = vec![Bucket::default(); self.buckets(scope)];
        for (limit, place) in self.limits_with_places().filter(|(limit, _)| limit.scope == scope) {
            let same = before.limits_with_places().find(|(old, _)| *old == limit);
            let old = same.or_else(|| before.limits_with_places().find(|(old, _)| edition > 0 && old.counts_as(limit)));
            if let Some((_, old)) = old
                && let (Some(to), Some(from)) = (carried.get_mut(place), buckets.get(old))
            {
                to.copy_from_slice(from);
            }
        }
        carried
    }
}

/// The number of the month of a day since 1970, from 0. After Howard Hinnant, "chrono-compatible low-level date algorithms".
fn month_of(day: i64) -> i64 {
    let shifted = day.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let leap = (of_era / 1_460).saturating_sub(of_era / 36_524).saturating_add(of_era / 146_096);
    let year_of_era = of_era.saturating_sub(leap) / 365;
    let before = year_of_era.saturating_mul(365).saturating_add(year_of_era / 4).saturating_sub(year_of_era / 100);
    let of_year = of_era.saturating_sub(before);
    let from_march = of_year.saturating_mul(5).saturating_add(2) / 153;
    let year = era.saturating_mul(400).saturating_add(year_of_era);
    // March is month 2 of its year, counted from 0; January and February belong to the year after.
    year.saturating_sub(1_970).saturating_mul(12).saturating_add(from_march).saturating_add(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_on_their_first_day() {
        // 1970-01-01, 1970-02-01, 2000-02-29, 2000-03-01, 2026-11-30, 2026-12-01.
        for (day, month) in [(0, 0), (31, 1), (11_016, 361), (11_017, 362), (20_787, 682), (20_788, 683)] {
            assert_eq!(month_of(day), month, "{day}");
        }
    }

    #[test]
    fn limits_that_stay_go_on_under_another_policy() {
        let limit = |name: &str, window: &str| {
            format!(
                "[[limit]]\nname = \"{name}\"\ncounted_per = \"account\"\ncurrency = \"EUR\"\nwindow = \"{window}\"\ncount_max = 3\n"
            )
        };
        let before = Policy::parse(&(limit("a", "day") + &limit("b", "60s"))).unwrap();
        let after = Policy::parse(&(limit("c", "month") + &limit("b", "60s"))).unwrap();
        let buckets: Vec<_> = (1..=9).map(|part| Bucket::new(part, part, 0)).collect();
        let parts = |after: &Policy, edition| -> Vec<u32> {
            let carried = after.carry_over((&before, edition), Scope::Account, &buckets);
            carried.iter().map(|bucket| bucket.part).collect()
        };
        assert_eq!(parts(&after, 1), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
        // Another name and another bound: it has counted the same, which was not seen before edition 1.
        let renamed = limit("d", "day").replace("count_max = 3", "count_max = 4\nsum_max = \"5.00\"");
        let after = Policy::parse(&(limit("b", "60s") + &renamed)).unwrap();
        assert_eq!(parts(&after, 1), [2, 3, 4, 5, 6, 7, 8, 9, 1]);
        assert_eq!(parts(&after, 0), [2, 3, 4, 5, 6, 7, 8, 9, 0]);
    }
}
