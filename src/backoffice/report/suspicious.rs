//! What watch rules find on a day.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::ledger::{AccountId, Policy, Sequence, Transfer, WatchPer, WatchRule};

/// Findings in a report; more are only counted.
const FINDINGS_MAX: usize = 10_000;

/// Records named as evidence of one finding.
const EVIDENCE_MAX: usize = 100;

/// Something that a watch rule found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's name.
    pub rule: String,
    /// Who paid; empty when the rule is about who received.
    pub payer: String,
    /// Who received; empty when the rule is about who paid.
    pub payee: String,
    /// The currency's letters.
    pub currency: String,
    /// How many transfers.
    pub count: u64,
    /// Their sum, minor units.
    pub sum: String,
    /// With how many others.
    pub counterparties: usize,
    /// Their records; the first hundred.
    pub records: Vec<Sequence>,
}

#[derive(Debug, Default)]
struct Group {
    count: u64,
    sum: u128,
    others: BTreeSet<AccountId>,
    records: Vec<Sequence>,
}

/// Which rule, whom it is about, and of rules about single transfers, which record.
type Key = (usize, AccountId, AccountId, Sequence);

/// Follows the postings of a day.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    /// All rules that were in force on the day.
    rules: Vec<WatchRule>,
    /// Those in force now.
    in_force: Vec<usize>,
    policy: Option<Arc<Policy>>,
    groups: BTreeMap<Key, Group>,
    /// Of them, those of single transfers.
    singles: usize,
    omitted: u64,
}

impl Watcher {
    fn follow_policy(&mut self, policy: &Arc<Policy>) {
        if self.policy.as_ref().is_some_and(|known| Arc::ptr_eq(known, policy)) {
            return;
        }
        self.policy = Some(Arc::clone(policy));
        self.in_force.clear();
        for rule in policy.watches() {
            let place = self.rules.iter().position(|known| known == rule).unwrap_or_else(|| {
                self.rules.push(rule.clone());
                self.rules.len().saturating_sub(1)
            });
            self.in_force.push(place);
        }
    }

    /// Follows a posting in a currency, under the policy of its time.
    pub(super) fn posted(&mut self, policy: &Arc<Policy>, (transfer, currency): (&Transfer, u16), sequence: Sequence) {
        self.follow_policy(policy);
        for &place in &self.in_force {
            let Some(rule) = self.rules.get(place).filter(|rule| rule.selects(transfer, currency)) else { continue };
            let (from, to) = rule.group(transfer);
            let single = rule.per == WatchPer::Transfer;
            if single {
                if !rule.holds(1, transfer.amount, 1) {
                    continue;
                }
                if self.singles >= FINDINGS_MAX {
                    self.omitted = self.omitted.saturating_add(1);
                    continue;
                }
                self.singles = self.singles.saturating_add(1);
            }
            let group = self.groups.entry((place, from, to, if single { sequence } else { 0 })).or_default();
            group.count = group.count.saturating_add(1);
            group.sum = group.sum.saturating_add(transfer.amount);
            let other = if rule.per == WatchPer::Payee { transfer.debit } else { transfer.credit };
            if group.others.len() < rule.counterparties_min.max(1) {
                group.others.insert(other);
            }
            if group.records.len() < EVIDENCE_MAX {
                group.records.push(sequence);
            }
        }
    }

    /// What was found, in order of rule and account, and how much was left out.
    pub(super) fn finish(self) -> (Vec<Finding>, u64) {
        let Self { rules, groups, policy, mut omitted, .. } = self;
        let mut findings = Vec::new();
        for ((place, payer, payee, _), group) in groups {
            let Some(rule) = rules.get(place) else { continue };
            if !rule.holds(group.count, group.sum, group.others.len()) {
                continue;
            }
            if findings.len() >= FINDINGS_MAX {
                omitted = omitted.saturating_add(1);
                continue;
            }
            let name = |id: AccountId| if id.raw() == 0 { String::new() } else { id.to_string() };
            let currency = policy.as_ref().and_then(|policy| policy.currency_code(rule.currency));
            findings.push(Finding {
                rule: rule.name.clone(),
                payer: name(payer),
                payee: name(payee),
                currency: currency.unwrap_or_default().to_owned(),
                count: group.count,
                sum: group.sum.to_string(),
                counterparties: group.others.len(),
                records: group.records,
            });
        }
        (findings, omitted)
    }
}
