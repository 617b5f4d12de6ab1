//! The desk: decides what needs more than one account, or more than an account.
//!
//! Holds, delayed transfers, refunds, transactions, limits, fees and reserves are decided here, one transaction at a time,
//! while the desk has all accounts concerned for itself ([`Accounts`]). Each step changes accounts at once and notes how to
//! undo it; the first refusal undoes the whole transaction. What was done is left in [`Desk::made`] as records, in order.
//!
//! The desk owns what is open between records: holds and delayed transfers, what was given back of transfers, and the tallies
//! of limits. Like the account it reads no clock: its shard gives it the ledger's time. It does no I/O but for one look into the
//! store at what was given back of the original of a refund, when that was before the last checkpoint.
//!
//! # Invariants
//!
//! 1. A refused transaction changes nothing.
//! 2. A hold's `left` is part of `debits_pending` of its debit account and `credits_pending` of its credit account.
//! 3. All refunds of a transfer together never exceed it; a reversed one is never refunded.
//! 4. What a limit counts never exceeds it.
//!
//! # Not here
//!
//! How accounts come to the desk ([`crate::shard`]); the same state from records alone ([`super::Book`]).

mod charges;
mod due;
mod operations;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::bucket::Bucket;
use super::policy::Policy;
use super::spread::Spread;
use super::tallies::{Before, Tallies};
use super::tally::{Counted, Subject};
use super::{
    Account, AccountId, Code, GatewayId, Grant, Life, LifeStore, Original, Pending, PendingKind, Slot, Table, Transfer,
    TransferId,
};
use crate::planted::{self, Bug};

/// Accounts that the desk has for itself.
pub trait Accounts {
    /// An account.
    fn account(&self, id: AccountId) -> Option<&Account>;
    /// An account, to change.
    fn account_mut(&mut self, id: AccountId) -> Option<&mut Account>;
}

impl Accounts for Table<Account> {
    #[inline]
    fn account(&self, id: AccountId) -> Option<&Account> {
        self.get(self.find(id)?)
    }

    #[inline]
    fn account_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        let slot: Slot = self.find(id)?;
        self.get_mut(slot)
    }
}

/// A transfer to decide, and what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// As its client sent it.
    pub transfer: Transfer,
    /// Who asks.
    pub gateway: GatewayId,
    /// What that gateway may do.
    pub grant: Grant,
    /// The transfer that a refund or reversal is about.
    pub original: Original,
    /// Refuse it with this code: the router knows why.
    pub refused: Option<Code>,
}

/// A record that a decision made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// What was done, with the amount that was moved.
    pub transfer: Transfer,
    /// Which transfer of the transaction it is the outcome of; `None` when the ledger did it by itself.
    pub leg: Option<usize>,
}

/// Why a transaction was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which of its transfers broke a rule.
    pub leg: usize,
    /// Which rule.
    pub code: Code,
    /// Which limit of the policy, when one did.
    pub limit: Option<usize>,
}

/// How to take back one change.
#[derive(Debug)]
enum Undo {
    Account(Account),
    Pending(TransferId, Option<Pending>),
    Life(TransferId, Option<Life>),
    Bucket(Before),
}

/// What is open, and the rules.
#[derive(Debug)]
pub struct Desk {
    policy: Arc<Policy>,
    pendings: Spread<TransferId, Pending>,
    /// Times of pendings, soonest first; what is gone meanwhile is skipped.
    due: BinaryHeap<Reverse<(u64, TransferId)>>,
    /// What was given back since the store was told.
    lives: Spread<TransferId, Life>,
    life_store: Option<Arc<dyn LifeStore>>,
    tallies: Tallies,
    now_ns: u64,
    /// The second in `now_ns`.
    second: u32,
    undo: Vec<Undo>,
    made: Vec<Made>,
    /// The limit that refused last.
    limit: Option<usize>,
}

impl Desk {
    /// A desk where nothing is open.
    pub fn new(policy: Arc<Policy>) -> Self {
        Self {
            pendings: Spread::new(),
            due: BinaryHeap::new(),
            lives: Spread::new(),
            life_store: None,
            tallies: Tallies::new(&policy),
            policy,
            now_ns: 0,
            second: 0,
            undo: Vec::new(),
            made: Vec::new(),
            limit: None,
        }
    }

    /// The rules.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Takes over something open.
    pub fn put_pending(&mut self, pending: Pending) {
        if pending.time_ns != 0 {
            self.due.push(Reverse((pending.time_ns, pending.id)));
        }
        self.pendings.insert(pending.id, pending);
    }

    /// Takes over what was given back.
    pub fn put_life(&mut self, id: TransferId, life: Life) {
        self.lives.insert(id, life);
    }

    /// Says where lives are that it was not given.
    pub fn set_life_store(&mut self, store: Arc<dyn LifeStore>) {
        self.life_store = Some(store);
    }

    /// Forgets lives that the store has, but for those that changed since. Lives only grow, so what looks the same is.
    pub fn forget(&mut self, given_back: &[(TransferId, Life)]) {
        for (id, stored) in given_back {
            let known = self.lives.get(id);
            if known.is_some_and(|known| (known.refunded, known.is_over) == (stored.refunded, stored.is_over)) {
                self.lives.remove(id);
            }
        }
    }

    /// How many lives are in memory.
    pub fn lives(&self) -> usize {
        self.lives.len()
    }

    /// What was given back of a transfer. May read the store, where the resolver has just read it.
    fn life(&self, id: TransferId) -> Life {
        let stored = || self.life_store.as_ref().and_then(|store| store.life(id));
        self.lives.get(&id).copied().or_else(stored).unwrap_or_default()
    }

    /// Takes over a tally.
    pub fn put_tally(&mut self, subject: Subject, buckets: &[Bucket]) {
        self.tallies.put(subject, buckets);
    }

    /// Something open.
    pub fn pending(&self, id: TransferId) -> Option<&Pending> {
        self.pendings.get(&id)
    }

    /// How much is open.
    pub fn pendings(&self) -> usize {
        self.pendings.len()
    }

    /// Says what time it is; it never goes back.
    pub fn set_time(&mut self, now_ns: u64) {
        let early = if planted::is(Bug::DueEarly) { 3_000_000_000 } else { 0 };
        self.now_ns = self.now_ns.max(now_ns.saturating_add(early));
        self.second = u32::try_from(self.now_ns / 1_000_000_000).unwrap_or(u32::MAX);
    }

    /// The second as of which limits are counted.
    #[inline]
    pub fn second(&self) -> u32 {
        self.second
    }

    /// What the last decision did, in order.
    pub fn made(&self) -> &[Made] {
        &self.made
    }

    /// Decides a transaction: all of it or nothing. Every account that it names, and those of the policy's charges, must be there
    /// if they exist at all.
    pub fn decide(&mut self, accounts: &mut impl Accounts, orders: &[Order]) -> Result<(), Refusal> {
        self.made.clear();
        self.undo.clear();
        for leg in 0..orders.len() {
            self.limit = None;
            if let Err(code) = self.leg(accounts, orders, leg) {
                self.undo_to(accounts, usize::from(planted::is(Bug::UndoLost)));
                self.made.clear();
                return Err(Refusal { leg, code, limit: self.limit });
            }
        }
        for made in &self.made {
            let opened = Pending::opened(&made.transfer, GatewayId(0), (0, (0, 0)), 0);
            if let Some(Pending { time_ns, id, .. }) = opened.filter(|opened| opened.time_ns != 0) {
                self.due.push(Reverse((time_ns, id)));
            }
        }
        self.forget_gone();
        Ok(())
    }

    /// Takes back all changes after the first so many.
    fn undo_to(&mut self, accounts: &mut impl Accounts, keep: usize) {
        while self.undo.len() > keep {
            match self.undo.pop() {
                Some(Undo::Account(before)) => {
                    if let Some(account) = accounts.account_mut(before.id()) {
                        *account = before;
                    }
                }
                Some(Undo::Pending(id, before)) => drop(match before {
                    Some(before) => self.pendings.insert(id, before),
                    None => self.pendings.remove(&id),
                }),
                Some(Undo::Life(id, before)) => drop(match before {
                    Some(before) => self.lives.insert(id, before),
                    None => self.lives.remove(&id),
                }),
                Some(Undo::Bucket(before)) => self.tallies.restore(&before),
                None => return,
            }
        }
    }

    /// Changes an account that is known to be there, and notes how it was.
    fn change(&mut self, accounts: &mut impl Accounts, id: AccountId, change: impl FnOnce(&mut Account)) {
        let account = accounts.account_mut(id);
        assert!(account.is_some(), "account {id} is not at the desk");
        if let Some(account) = account {
            self.undo.push(Undo::Account(account.clone()));
            change(account);
        }
    }

    /// The levels of two accounts, as limits count them now.
    fn levels(accounts: &impl Accounts, debit: AccountId, credit: AccountId) -> (u8, u8) {
        let level = |id| accounts.account(id).map_or(0, Account::level);
        (level(debit), level(credit))
    }

    fn set_pending(&mut self, id: TransferId, pending: Option<Pending>) {
        let before = match pending {
            Some(pending) => self.pendings.insert(id, pending),
            None => self.pendings.remove(&id),
        };
        self.undo.push(Undo::Pending(id, before));
    }

    fn set_life(&mut self, id: TransferId, life: Life) {
        let before = self.lives.insert(id, life);
        self.undo.push(Undo::Life(id, before));
    }

    /// Posts an amount from one account to the other; both are there and were checked.
    fn post(&mut self, accounts: &mut impl Accounts, transfer: &Transfer) {
        self.change(accounts, transfer.debit, |debit| debit.post_debit(transfer.amount));
        self.change(accounts, transfer.credit, |credit| credit.post_credit(transfer.amount));
    }

    /// Sets an amount aside between two accounts; both are there and were checked.
    fn set_aside(&mut self, accounts: &mut impl Accounts, transfer: &Transfer) {
        self.change(accounts, transfer.debit, |debit| debit.hold_debit(transfer.amount));
        self.change(accounts, transfer.credit, |credit| credit.hold_credit(transfer.amount));
    }

    /// Gives back what was set aside between two accounts.
    fn give_back(&mut self, accounts: &mut impl Accounts, pending: &Pending, amount: u128) {
        self.change(accounts, pending.debit, |debit| debit.free_debit(amount));
        self.change(accounts, pending.credit, |credit| credit.free_credit(amount));
    }

    fn make(&mut self, leg: usize, transfer: Transfer) {
        self.made.push(Made { transfer, leg: Some(leg) });
    }

    fn make_internal(&mut self, transfer: Transfer) {
        self.made.push(Made { transfer, leg: None });
    }

    /// Counts an operation towards every limit about it, or refuses it and counts nothing.
    fn count(&mut self, counted: &Counted) -> Result<(), Code> {
        let Self { policy, tallies, undo, limit, .. } = self;
        if policy.has_limits() {
            tallies.before(policy, counted, |before| undo.push(Undo::Bucket(before)));
            tallies.count(policy, counted).map_err(|(index, code)| {
                *limit = Some(index);
                code
            })?;
        }
        Ok(())
    }

    /// Checks an amount against the limits for one operation alone.
    fn check_once(&mut self, counted: &Counted) -> Result<(), Code> {
        self.policy.check_once(counted).map_err(|(index, code)| {
            self.limit = Some(index);
            code
        })
    }

    /// Decides an immediate transfer that no charge is about, between two accounts that are here: the short way for what could be
    /// decided by the two accounts alone if there were no limits. The rules and their order are those of the long way.
    pub fn decide_plain(
        &mut self,
        accounts: &mut Table<Account>,
        (transfer, gateway, grant): (&Transfer, GatewayId, &Grant),
        slots: (Option<Slot>, Option<Slot>),
    ) -> Result<(), Code> {
        transfer.check()?;
        grant.check(transfer)?;
        self.policy.check_parties(transfer.debit, transfer.credit)?;
        let debit = slots.0.and_then(|slot| accounts.get(slot)).ok_or(Code::DebitAccountUnknown)?;
        debit.check_debit_state()?;
        debit.check_debit(transfer.amount)?;
        let credit = slots.1.and_then(|slot| accounts.get(slot)).ok_or(Code::CreditAccountUnknown)?;
        if debit.currency() != credit.currency() {
            return Err(Code::CurrencyMismatch);
        }
        self.policy.check_classes(debit.class(), credit.class(), transfer.code)?;
        credit.check_credit_state()?;
        credit.check_credit(transfer.amount)?;
        let counted = Counted {
            debit: (transfer.debit, debit.level()),
            credit: (transfer.credit, credit.level()),
            slots,
            gateway,
            code: transfer.code,
            currency: debit.currency(),
            amount: transfer.amount,
            count: 1,
            second: self.second,
        };
        let Self { policy, tallies, .. } = self;
        if !gateway.is_ledger() || planted::is(Bug::SettlementLimited) {
            tallies.count(policy, &counted).map_err(|(_, code)| code)?;
        }
        if let Some(debit) = slots.0.and_then(|slot| accounts.get_mut(slot)) {
            debit.post_debit(transfer.amount);
        }
        if let Some(credit) = slots.1.and_then(|slot| accounts.get_mut(slot)) {
            credit.post_credit(transfer.amount);
        }
        Ok(())
    }

    /// Brings what a transfer is about into the cache.
    #[inline]
    pub fn touch_about(&self, transfer: &Transfer) {
        if transfer.operation().names_pending() {
            let pending = self.pendings.get(&TransferId::from_raw(transfer.related));
            std::hint::black_box(pending.map(|pending| pending.left));
        }
    }

    /// Brings what counts for an account into the cache.
    #[inline]
    pub fn touch(&self, debit: Option<Slot>) {
        self.tallies.touch(debit);
    }

    /// Takes what a hold did not use out of the limits that counted it.
    fn uncount(&mut self, accounts: &impl Accounts, pending: &Pending, amount: u128) {
        let wholly = pending.captured == 0 && amount == pending.left;
        if !self.policy.has_limits() || pending.kind == PendingKind::Reserve || planted::is(Bug::UncountLost) {
            return;
        }
        let levels = Self::levels(accounts, pending.debit, pending.credit);
        let currency = accounts.account(pending.debit).map_or(0, Account::currency);
        if levels != pending.levels {
            return;
        }
        let counted = Counted {
            debit: (pending.debit, levels.0),
            credit: (pending.credit, levels.1),
            slots: (None, None),
            gateway: pending.gateway,
            code: pending.code,
            currency,
            amount,
            count: u32::from(wholly),
            second: pending.second,
        };
        let Self { policy, tallies, undo, .. } = self;
        tallies.before(policy, &counted, |before| undo.push(Undo::Bucket(before)));
        tallies.take_back(policy, &counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{BookAccount, NewAccount, Operation, Sequence};

    /// A store where a transfer has this life, by its id.
    #[derive(Debug)]
    struct Stored(TransferId, Life);

    impl LifeStore for Stored {
        fn life(&self, id: TransferId) -> Option<Life> {
            (id == self.0).then_some(self.1)
        }

        fn checkpoint(&self) -> Sequence {
            self.1.head
        }
    }

    /// Two accounts that may owe anything.
    fn pair() -> (Table<Account>, [AccountId; 2]) {
        let (mut accounts, ids) = (Table::new(), [1, 2].map(AccountId::from_raw));
        for id in ids {
            let opened = NewAccount { id, currency: 978, code: 1, ..NewAccount::default() };
            accounts.host(&BookAccount::open(&opened));
        }
        (accounts, ids)
    }

    #[test]
    fn times_of_what_is_gone_are_not_kept_until_they_come() {
        let (mut accounts, [debtor, creditor]) = pair();
        let mut desk = Desk::new(Arc::default());
        let mut decide = |desk: &mut Desk, id: u128, operation: Operation, transfer: Transfer| {
            let id = TransferId::from_raw(id);
            let transfer = Transfer { id, debit: debtor, credit: creditor, flags: operation as u16, ..transfer };
            let original = Original::NotAsked;
            let order = Order { transfer, gateway: GatewayId(1), grant: Grant::ALL, original, refused: None };
            desk.decide(&mut accounts, &[order]).unwrap();
        };
        let far = u64::MAX - 1;
        for number in 1..=70_000 {
            let time_ns = if number == 1 { 50 } else { far };
            decide(&mut desk, number, Operation::Hold, Transfer { amount: 1, time_ns, ..Transfer::default() });
            if number > 2 {
                let related = number;
                decide(&mut desk, number + 1_000_000, Operation::Void, Transfer { related, ..Transfer::default() });
            }
        }
        assert_eq!(desk.pendings.len(), 2);
        assert!(desk.due.len() < 66_000, "{}", desk.due.len());
        desk.set_time(60);
        assert_eq!(desk.next_due().map(|due| due.id.raw()), Some(1), "what is open falls due as before");
        assert!(desk.next_due().is_none());
        desk.set_time(far);
        assert_eq!(desk.next_due().map(|due| due.id.raw()), Some(2));
    }

    /// Many may be due at once, as after a pause, and are done one after the other.
    #[test]
    fn what_is_due_is_neither_cancelled_nor_captured_before_its_turn() {
        let (mut accounts, [debtor, creditor]) = pair();
        let mut desk = Desk::new(Arc::default());
        let mut decide = |desk: &mut Desk, id: u128, operation: Operation, transfer: Transfer| {
            let id = TransferId::from_raw(id);
            let transfer = Transfer { id, debit: debtor, credit: creditor, flags: operation as u16, ..transfer };
            let order = Order {
                transfer,
                gateway: GatewayId(1),
                grant: Grant::ALL,
                original: Original::NotAsked,
                refused: None,
            };
            desk.decide(&mut accounts, &[order]).map_err(|refusal| refusal.code)
        };
        let until = Transfer { amount: 1, time_ns: 50, ..Transfer::default() };
        let of = |related| Transfer { related, ..Transfer::default() };
        for (id, operation) in [(1, Operation::Delayed), (2, Operation::Delayed), (3, Operation::Hold)] {
            decide(&mut desk, id, operation, until).unwrap();
        }
        desk.set_time(49);
        assert_eq!(decide(&mut desk, 11, Operation::Void, of(1)), Ok(()));
        desk.set_time(50);
        for (id, operation, related) in
            [(12, Operation::Void, 2), (13, Operation::Void, 3), (14, Operation::Capture, 3)]
        {
            let transfer = Transfer { amount: u128::from(operation == Operation::Capture), ..of(related) };
            assert_eq!(decide(&mut desk, id, operation, transfer), Err(Code::HoldNotOpen), "{operation:?}");
        }
        assert_eq!(desk.next_due().map(|due| due.id.raw()), Some(2), "it arrives");
    }

    #[test]
    fn what_the_store_has_is_forgotten_and_still_counts() {
        let (mut accounts, [debtor, creditor]) = pair();
        let paid = Transfer {
            id: TransferId::from_raw(7),
            debit: debtor,
            credit: creditor,
            amount: 10,
            code: 1,
            ..Transfer::default()
        };
        let mut desk = Desk::new(Arc::default());
        let mut next_id = 100;
        let mut refund = |desk: &mut Desk, amount| {
            next_id += 1;
            let (debit, credit, flags) = (creditor, debtor, Operation::Refund as u16);
            let transfer =
                Transfer { id: TransferId::from_raw(next_id), debit, credit, amount, flags, related: 7, ..paid };
            let original = Original::Known { transfer: paid, accepted: true };
            let order = Order { transfer, gateway: GatewayId(1), grant: Grant::ALL, original, refused: None };
            desk.decide(&mut accounts, &[order]).map_err(|refusal| refusal.code)
        };
        assert_eq!(refund(&mut desk, 3), Ok(()));
        let stored = Life { refunded: 3, is_over: false, head: 20 };
        assert_eq!(refund(&mut desk, 2), Ok(()));
        desk.forget(&[(paid.id, stored)]);
        assert_eq!(desk.lives(), 1, "it has changed since");
        let stored = Life { refunded: 5, ..stored };
        desk.set_life_store(Arc::new(Stored(paid.id, stored)));
        desk.forget(&[(paid.id, stored)]);
        assert_eq!(desk.lives(), 0);
        assert_eq!(refund(&mut desk, 6), Err(Code::RefundTooLarge));
        assert_eq!((desk.lives(), refund(&mut desk, 5), desk.lives()), (0, Ok(()), 1));
        assert_eq!(refund(&mut desk, 1), Err(Code::RefundTooLarge));
    }
}
