//! The book: every account's balance at one ledger sequence, rebuilt from records alone.
//!
//! [`Book::apply`] takes the journal's records in order and checks each against the rules, sharing no code with the
//! account actor that decided it. The clearing actor keeps a book beside the shards (reads and checkpoints come from it,
//! and the two are compared for ever); recovery and `heng verify` build one from the journal.
//!
//! # Invariants
//!
//! 1. Per currency, the sum of all balances is zero: each accepted record adds the same to debits and credits.
//! 2. `sequence` grows by one per record; an account's `head` is the last record that touched it.
//! 3. An account loaded from a checkpoint at its head ignores records up to that head, so that replaying from before the
//!    checkpoint gives the same state.
//!
//! # Not here
//!
//! Whether an id was decided twice: `heng verify` and the [`crate::router`] keep the ids.

use std::collections::BTreeMap;

use super::table::{Slot, Table};
use super::{
    AccountFlags, AccountId, Code, GatewayEntry, GatewayId, NewAccount, PackedAccount, Record, Sequence, Transfer,
};
use crate::money::AMOUNT_MAX;

/// An account at the book's sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookAccount {
    /// Its properties.
    pub properties: NewAccount,
    /// Sum of the debit entries, minor units.
    pub debits_posted: u128,
    /// Sum of the credit entries, minor units.
    pub credits_posted: u128,
    /// When it was opened, nanoseconds since 1970 UTC.
    pub opened_ns: u64,
    /// The last record that touched it.
    pub head: Sequence,
}

impl BookAccount {
    /// Credits less debits, minor units. Both are below 2^96, so this always fits.
    pub fn balance(&self) -> i128 {
        let signed = |total: u128| i128::try_from(total).unwrap_or(i128::MAX);
        signed(self.credits_posted).saturating_sub(signed(self.debits_posted))
    }
}

/// What a record touched: slots and, for each, the record that touched it before (0: none). The chain through these is
/// the account's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Slot of the debit account or of the opened account.
    pub debit_slot: Option<Slot>,
    /// Slot of the credit account.
    pub credit_slot: Option<Slot>,
    /// The record before in the debit account's history.
    pub debit_previous: Sequence,
    /// The record before in the credit account's history.
    pub credit_previous: Sequence,
}

/// A record that contradicts the records before it. The text names the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {sequence}: {rule}")]
pub struct BookError {
    /// Which record.
    pub sequence: Sequence,
    /// Which rule.
    pub rule: String,
}

/// Balances at one sequence.
#[derive(Debug)]
pub struct Book {
    accounts: Table<PackedAccount>,
    gateways: BTreeMap<GatewayId, GatewayEntry>,
    /// Per currency: the sum of accepted amounts and their number.
    turnover: BTreeMap<u16, (u128, u64)>,
    /// Records up to here are in `turnover` already.
    turnover_at: Sequence,
    sequence: Sequence,
}

impl Default for Book {
    fn default() -> Self {
        Self::new()
    }
}

impl Book {
    /// The book before the first record.
    pub fn new() -> Self {
        Self {
            accounts: Table::new(PackedAccount::id),
            gateways: BTreeMap::new(),
            turnover: BTreeMap::new(),
            turnover_at: 0,
            sequence: 0,
        }
    }

    /// The last record applied.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Says where the records to come begin: the next one is `sequence + 1`.
    pub fn start_at(&mut self, sequence: Sequence) {
        self.sequence = sequence;
    }

    /// The number of accounts.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether there is no account.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// All accounts in order of opening.
    pub fn accounts(&self) -> impl Iterator<Item = BookAccount> {
        self.accounts.iter().map(BookAccount::from)
    }

    /// The account in a slot.
    pub fn account_at(&self, slot: Slot) -> Option<BookAccount> {
        self.accounts.get(slot).map(BookAccount::from)
    }

    /// The packed bytes of some accounts, in order of slot.
    pub fn packed(&self, first: Slot, count: u32) -> Vec<u8> {
        let slots = first..first.saturating_add(count);
        slots.map_while(|slot| self.accounts.get(slot)).flat_map(PackedAccount::bytes).copied().collect()
    }

    /// The gateways in order of number.
    pub fn gateways(&self) -> impl Iterator<Item = &GatewayEntry> {
        self.gateways.values()
    }

    /// Per currency number: sum of accepted amounts, and how many.
    pub fn turnover(&self) -> &BTreeMap<u16, (u128, u64)> {
        &self.turnover
    }

    /// Adds an account from a checkpoint, in order of slot. The caller has checked that the id is new.
    pub fn load_account(&mut self, account: PackedAccount) {
        self.accounts.insert(account);
    }

    /// Adds a gateway from the store.
    pub fn load_gateway(&mut self, gateway: GatewayEntry) {
        self.gateways.insert(gateway.id, gateway);
    }

    /// Sets the turnover from a checkpoint at this sequence.
    pub fn load_turnover(&mut self, sequence: Sequence, turnover: BTreeMap<u16, (u128, u64)>) {
        self.turnover_at = sequence;
        self.turnover = turnover;
    }

    /// Finds an account.
    pub fn account(&self, id: AccountId) -> Option<BookAccount> {
        self.account_at(self.accounts.find(id)?)
    }

    /// Finds the slots that a transfer will touch, ahead of [`Self::apply`], to have them in the cache.
    #[inline]
    pub fn find_both(&self, transfer: &Transfer) -> (Option<Slot>, Option<Slot>) {
        (self.accounts.find(transfer.debit), self.accounts.find(transfer.credit))
    }

    /// Applies the next record.
    pub fn apply(&mut self, time_ns: u64, record: &Record) -> Result<Applied, BookError> {
        match record {
            Record::Transfer { transfer, outcome, .. } => {
                let slots = if outcome.is_accepted() { self.find_both(transfer) } else { (None, None) };
                self.apply_transfer(transfer, *outcome, slots)
            }
            Record::Account { account, .. } => self.apply_account(time_ns, account),
            Record::Gateway(entry) => {
                self.next();
                self.gateways.insert(entry.id, *entry);
                Ok(Applied::default())
            }
        }
    }

    /// Applies a transfer whose slots are known from [`Self::find_both`].
    #[inline]
    pub fn apply_transfer(
        &mut self,
        transfer: &Transfer,
        outcome: Code,
        (debit_slot, credit_slot): (Option<Slot>, Option<Slot>),
    ) -> Result<Applied, BookError> {
        let sequence = self.next();
        if !outcome.is_accepted() {
            return Ok(Applied::default());
        }
        let broken = |rule: &str| BookError { sequence, rule: format!("transfer {}: {rule}", transfer.id) };
        transfer.check().map_err(|code| broken(code.meaning()))?;
        let (Some(debit_slot), Some(credit_slot)) = (debit_slot, credit_slot) else {
            return Err(broken("accepted between accounts of which one was never opened"));
        };
        let mut applied =
            Applied { debit_slot: Some(debit_slot), credit_slot: Some(credit_slot), ..Applied::default() };
        let currency = self.accounts.get(debit_slot).map(PackedAccount::currency);
        if self.accounts.get(credit_slot).map(PackedAccount::currency) != currency {
            return Err(broken("accepted between accounts of different currencies"));
        }
        if let Some(debit) = self.accounts.get_mut(debit_slot) {
            applied.debit_previous = post(debit, (transfer.amount, 0), sequence).map_err(broken)?;
        }
        if let Some(credit) = self.accounts.get_mut(credit_slot) {
            applied.credit_previous = post(credit, (0, transfer.amount), sequence).map_err(broken)?;
        }
        if sequence > self.turnover_at {
            let turnover = self.turnover.entry(currency.unwrap_or_default()).or_default();
            *turnover = (turnover.0.saturating_add(transfer.amount), turnover.1.saturating_add(1));
        }
        Ok(applied)
    }

    fn apply_account(&mut self, time_ns: u64, properties: &NewAccount) -> Result<Applied, BookError> {
        let sequence = self.next();
        let broken = |rule: &str| BookError { sequence, rule: format!("account {}: {rule}", properties.id) };
        properties.check().map_err(|code| broken(code.meaning()))?;
        if let Some(slot) = self.accounts.find(properties.id) {
            // Known from a checkpoint taken after this record.
            return match self.account_at(slot) {
                Some(known) if known.head >= sequence && known.properties == *properties => {
                    Ok(Applied { debit_slot: Some(slot), ..Applied::default() })
                }
                _ => Err(broken("opened twice")),
            };
        }
        let opened =
            BookAccount { properties: *properties, opened_ns: time_ns, head: sequence, ..BookAccount::default() };
        let slot = self.accounts.insert(PackedAccount::from(&opened));
        Ok(Applied { debit_slot: Some(slot), ..Applied::default() })
    }

    fn next(&mut self) -> Sequence {
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }

    /// Per currency number, the sum of all balances; each must be zero.
    pub fn balance_sums(&self) -> BTreeMap<u16, i128> {
        let mut sums = BTreeMap::new();
        for account in self.accounts() {
            let sum: &mut i128 = sums.entry(account.properties.currency).or_default();
            *sum = sum.saturating_add(account.balance());
        }
        sums
    }
}

/// Adds a debit and a credit to an account unless it has seen this record already; answers its head before.
#[inline]
fn post(
    account: &mut PackedAccount,
    (debit, credit): (u128, u128),
    sequence: Sequence,
) -> Result<Sequence, &'static str> {
    let previous = account.head();
    if sequence > previous {
        let (debits, credits) = account.totals();
        let totals = (debits.saturating_add(debit), credits.saturating_add(credit));
        account.update(totals, sequence);
        check_limits(account.flags(), totals)?;
    }
    Ok(previous)
}

#[inline]
fn check_limits(flags: AccountFlags, (debits, credits): (u128, u128)) -> Result<(), &'static str> {
    if debits > AMOUNT_MAX || credits > AMOUNT_MAX {
        Err("a total passes 2^96 - 1")
    } else if flags.has(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS) && debits > credits {
        Err("the debit account's debits exceed its credits")
    } else if flags.has(AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS) && credits > debits {
        Err("the credit account's credits exceed its debits")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::TransferId;

    fn open(id: u128, flags: u16) -> Record {
        let account = NewAccount {
            id: AccountId::from_raw(id),
            currency: 978,
            flags: AccountFlags(flags),
            ..NewAccount::default()
        };
        Record::Account { account, gateway: GatewayId(1) }
    }

    fn accepted(id: u128, debit: u128, credit: u128, amount: u128) -> Record {
        let transfer = Transfer {
            id: TransferId::from_raw(id),
            debit: AccountId::from_raw(debit),
            credit: AccountId::from_raw(credit),
            amount,
            ..Transfer::default()
        };
        Record::Transfer { transfer, outcome: Code::Accepted, gateway: GatewayId(1) }
    }

    fn book(records: &[Record]) -> Result<Book, BookError> {
        let mut book = Book::new();
        records.iter().try_for_each(|record| book.apply(7, record).map(drop))?;
        Ok(book)
    }

    #[test]
    fn records_move_balances_and_link_the_history() {
        let mut book = book(&[open(1, 0), open(2, 1), accepted(9, 1, 2, 50)]).unwrap();
        let applied = book.apply(7, &accepted(10, 2, 1, 20)).unwrap();
        assert_eq!((applied.debit_previous, applied.credit_previous), (3, 3));
        assert_eq!(book.account(AccountId::from_raw(2)).map(|account| account.balance()), Some(30));
        assert_eq!(book.balance_sums(), BTreeMap::from([(978, 0)]));
        assert_eq!(book.turnover(), &BTreeMap::from([(978, (70, 2))]));
    }

    #[test]
    fn records_that_break_a_rule_are_named() {
        for (records, rule) in [
            (vec![open(1, 0), open(1, 0)], "opened twice"),
            (vec![open(1, 0), accepted(9, 1, 2, 5)], "never opened"),
            (vec![open(1, 0), open(2, 1), accepted(9, 2, 1, 5)], "debits exceed its credits"),
            (vec![open(1, 0), open(2, 2), accepted(9, 1, 2, 5)], "credits exceed its debits"),
            (vec![open(1, 0), open(2, 0), accepted(9, 1, 2, 0)], "amount is zero"),
            (vec![open(1, 0), open(2, 0), accepted(9, 1, 2, AMOUNT_MAX), accepted(10, 1, 2, 1)], "passes 2^96"),
        ] {
            let error = book(&records).map(drop).unwrap_err();
            assert!(error.rule.contains(rule), "{error}");
            assert_eq!(error.sequence, u64::try_from(records.len()).unwrap());
        }
    }

    #[test]
    fn replay_from_before_a_checkpoint_gives_the_same_book() {
        let records =
            [open(1, 0), open(2, 1), accepted(9, 1, 2, 50), accepted(10, 2, 1, 20), open(3, 0), accepted(11, 1, 3, 4)];
        let whole = book(&records).unwrap();
        let mut restored = Book::new();
        for account in whole.accounts().take(2) {
            restored.load_account(PackedAccount::from(&account));
        }
        restored.load_turnover(3, BTreeMap::from([(978, (50, 1))]));
        restored.start_at(1);
        for record in &records[1..] {
            restored.apply(7, record).unwrap();
        }
        assert!(restored.accounts().eq(whole.accounts()));
        assert_eq!(restored.turnover(), whole.turnover());
    }
}
