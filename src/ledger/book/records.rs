//! What records do to the book that move no money: accounts that open or change, the policy, clearing.

use std::sync::Arc;

use super::rules::check_totals;
use super::{Applied, Book, BookAccount, BookError, FormerLevel};
use crate::ledger::policy::Policy;
use crate::ledger::{AccountChange, AccountState, Code, NewAccount, PolicyPart, Record, Slot, Transfer};

impl Book {
    /// What a record says of participants, windows and payouts.
    pub(super) fn apply_clearing(&mut self, time_ns: u64, record: &Record) -> Result<Applied, BookError> {
        let sequence = self.next();
        if sequence <= self.windows_at {
            return Ok(Applied::default());
        }
        let (what, applied) = match record {
            Record::Participant(entry, by) => {
                let slot = self.accounts.find(entry.account);
                (format!("participant {}", entry.id), self.windows.participant(entry, *by, slot))
            }
            Record::Window(entry) => {
                let applied = self.windows.window_entry(entry, (sequence, time_ns), self.summary.policy);
                (format!("window {} of scheme {}", entry.number, entry.scheme), applied)
            }
            Record::Distribution(entry) => {
                let applied = self.distributions.entry(entry, sequence, self.summary.policy);
                (format!("distribution {}", entry.number), applied)
            }
            Record::Payout(entry) => (format!("payout {}", entry.id), self.windows.payout(entry)),
            _ => return Ok(Applied::default()),
        };
        applied.map_err(|rule| BookError { sequence, rule: format!("{what}: {rule}") })?;
        Ok(Applied::default())
    }

    pub(super) fn apply_change(&mut self, transfer: &Transfer, slot: Option<Slot>) -> Result<Applied, BookError> {
        let sequence = self.sequence;
        let change = AccountChange::of(transfer).map_err(|code| self.broken(transfer, code.meaning()))?;
        let known = slot.and_then(|slot| Some((slot, self.accounts.at(slot)?)));
        let Some((slot, account)) = known else {
            return Err(self.broken(transfer, "changed an account that was never opened"));
        };
        let previous = account.head;
        let applied = Applied { debit_slot: Some(slot), debit_previous: previous, ..Applied::default() };
        if previous >= sequence {
            return Ok(applied);
        }
        let totals = account.totals;
        let closes = change.state == Some(AccountState::Closed);
        let empty =
            totals.debits_posted == totals.credits_posted && totals.debits_pending | totals.credits_pending == 0;
        let was_closed = account.state == AccountState::Closed;
        let level = account.properties.level;
        if change.level.is_some_and(|new| new != level) {
            self.open.levels.note(FormerLevel { slot, until: sequence, level });
        }
        let changed = self.accounts.change(slot, &change, sequence).unwrap_or(account).properties;
        let checked = check_totals((changed.flags, changed.overdraft), &totals);
        if was_closed || (closes && !empty) {
            return Err(self.broken(transfer, "changed an account that is closed, or closed one that is not empty"));
        }
        checked.map_err(|rule| self.broken(transfer, rule))?;
        Ok(applied)
    }

    pub(super) fn apply_account(&mut self, time_ns: u64, properties: &NewAccount) -> Result<Applied, BookError> {
        let sequence = self.next();
        let broken = |rule: &str| BookError { sequence, rule: format!("account {}: {rule}", properties.id) };
        properties.check().map_err(|code| broken(code.meaning()))?;
        if self.policy.exponent(properties.currency).is_none() {
            return Err(broken(Code::CurrencyUnknown.meaning()));
        }
        if let Some(slot) = self.accounts.find(properties.id) {
            // Known from a checkpoint taken after this record; what may change since is not compared.
            let lasting = |of: &NewAccount| NewAccount { level: 0, overdraft: 0, ..*of };
            return match self.account_at(slot) {
                Some(known) if known.head >= sequence && lasting(&known.properties) == lasting(properties) => {
                    Ok(Applied { debit_slot: Some(slot), ..Applied::default() })
                }
                _ => Err(broken("opened twice")),
            };
        }
        let opened = BookAccount { opened_ns: time_ns, head: sequence, ..BookAccount::open(properties) };
        let slot = self.accounts.insert(&opened);
        self.windows.opened_account(properties.id, slot);
        Ok(Applied { debit_slot: Some(slot), ..Applied::default() })
    }

    pub(super) fn apply_policy(&mut self, time_ns: u64, part: &PolicyPart) -> Result<Applied, BookError> {
        let sequence = self.next();
        let broken = |rule: String| BookError { sequence, rule: format!("policy: {rule}") };
        if part.offset == 0 && part.edition > 0 {
            self.open.policy_changed(sequence);
        }
        if sequence <= self.summary_at {
            return Ok(Applied::default());
        }
        if part.offset == 0 {
            self.policy_first = sequence;
        }
        if let Some(text) = part.join(&mut self.policy_parts).map_err(|err| broken(err.to_string()))? {
            let policy = Policy::parse(&text).map_err(|err| broken(err.to_string()))?;
            self.open.tallies.change_policy((&self.policy, part.edition), &policy, sequence);
            let before = std::mem::replace(&mut self.policy, Arc::new(policy));
            self.summary.policy = (self.policy_first, sequence);
            if sequence > self.windows_at {
                self.windows.follow_policy(&self.policy, (sequence, time_ns));
                self.distributions.follow_policy(&before, &self.policy, time_ns);
            }
        }
        Ok(Applied::default())
    }
}
