//! The account actor: the one place where a balance is decided.
//!
//! An [`Account`] owns its balances. It does no I/O, reads no clock and knows nothing of actix: the shard that hosts it
//! delivers one message at a time. Each method below is a message of the actor; nothing else can change an account.
//! (One actix mailbox per account costs about 1.2 µs a message and 1 KB an account; a hosted account 0.1 µs and 64 bytes.)
//!
//! ```text
//!   Reserve ──► (debit account) ──► Accept ──► (credit account) ──► outcome ──► Finish | Release ──► (debit account)
//! ```
//!
//! The two accounts of a transfer may be hosted by different shards. Between `Reserve` and `Finish` or `Release` the
//! debit account does not know how the transfer ends, so some questions have no answer yet: [`Decision::Undecided`].
//! The shard asks again when it knows more. So a refusal is never caused by a transfer that is itself refused later.
//!
//! Holds, transactions and all that is not an immediate transfer between two accounts is decided by the
//! [`super::Desk`] while it has every account concerned for itself; then each account is *quiet*, and only the `check_` and
//! plain posting methods are used.
//!
//! # Invariants
//!
//! 1. *Conservation*: reserve, accept and finish of one transfer add the same amount to debits and to credits.
//! 2. *Limits*: with `DEBITS_MUST_NOT_EXCEED_CREDITS`, posted, pending and reserved debits together never exceed posted
//!    credits and overdraft; the mirror flag likewise. No total exceeds 2^96 - 1.
//! 3. `Undecided` is only ever answered while something is reserved.
//!
//! # Not here
//!
//! Whether an id was used before: [`crate::router`]. Hosting: [`crate::shard`]. Durable balances: [`super::Book`].

use super::{
    AccountChange, AccountClass, AccountFlags, AccountId, AccountState, BookAccount, Code, Identified, NewAccount,
    Table, Totals, get,
};
use crate::money::AMOUNT_MAX;
use crate::planted::{self, Bug};

/// An account as its shard hosts it: one cache line, because with many accounts each line is a wait for memory.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Account {
    id: AccountId,
    /// What most accounts have nothing of, most of the time.
    more: Option<Box<More>>,
    /// The lower eight bytes of each total, which are all of it for most accounts; the rest is in `more`.
    low: [u64; 4],
    currency: u16,
    flags: AccountFlags,
    class: AccountClass,
    level: u8,
    state: AccountState,
    /// Whether transfers wait at the shard for this account.
    parked: bool,
}

/// Parts of an account that are mostly zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct More {
    overdraft: u128,
    /// Set aside for transfers whose credit side is being decided at another shard.
    reserved: u128,
    /// The upper four bytes of each total.
    high: [u32; 4],
}

/// Places of the totals.
const DEBITS_POSTED: usize = 0;
const CREDITS_POSTED: usize = 1;
/// Set aside by holds and delayed transfers.
const DEBITS_PENDING: usize = 2;
/// What holds and delayed transfers may bring.
const CREDITS_PENDING: usize = 3;

/// What an account says to a leg of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Done.
    Accepted,
    /// Nothing was changed.
    Rejected(Code),
    /// It depends on how an open reservation of this account ends. Nothing was changed.
    Undecided,
}

impl Identified for Account {
    type Beside = Lasting;

    #[inline]
    fn account_id(&self) -> AccountId {
        self.id()
    }
}

impl Table<Account> {
    /// Takes in an account that is new, or from the book.
    pub fn host(&mut self, account: &BookAccount) {
        self.insert(Account::new(account), Lasting::of(&account.properties));
    }
}

impl Account {
    /// Opens an account, or takes it over from the book.
    pub fn new(account: &BookAccount) -> Self {
        let properties = &account.properties;
        let mut opened = Self {
            id: properties.id,
            more: None,
            low: [0; 4],
            currency: properties.currency,
            flags: properties.flags,
            class: properties.class(),
            level: properties.level,
            state: account.state,
            parked: false,
        };
        opened.set_more(More { overdraft: properties.overdraft, ..More::default() });
        opened.set::<DEBITS_POSTED>(account.totals.debits_posted);
        opened.set::<CREDITS_POSTED>(account.totals.credits_posted);
        opened.set::<DEBITS_PENDING>(account.totals.debits_pending);
        opened.set::<CREDITS_PENDING>(account.totals.credits_pending);
        opened
    }

    /// Its id.
    #[inline]
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// Its currency's number.
    #[inline]
    pub fn currency(&self) -> u16 {
        self.currency
    }

    /// Whose money it holds.
    #[inline]
    pub fn class(&self) -> AccountClass {
        self.class
    }

    /// The level of its customer.
    #[inline]
    pub fn level(&self) -> u8 {
        self.level
    }

    /// What it may take part in.
    #[inline]
    pub fn state(&self) -> AccountState {
        self.state
    }

    /// Its totals.
    pub fn totals(&self) -> Totals {
        Totals {
            debits_posted: self.total::<DEBITS_POSTED>(),
            credits_posted: self.total::<CREDITS_POSTED>(),
            debits_pending: self.total::<DEBITS_PENDING>(),
            credits_pending: self.total::<CREDITS_PENDING>(),
        }
    }

    /// Whether transfers wait for this account at its shard.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// Notes whether transfers wait for this account at its shard.
    pub fn set_parked(&mut self, parked: bool) {
        self.parked = parked;
    }

    /// Whether no transfer is on its way to another shard, so that every question about the account has an answer.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.more().reserved == 0
    }

    #[inline]
    fn total<const PLACE: usize>(&self) -> u128 {
        let low = self.low.get(PLACE).copied().unwrap_or_default();
        let high = self.more.as_ref().and_then(|more| more.high.get(PLACE).copied()).unwrap_or_default();
        u128::from(low) | u128::from(high) << 64
    }

    #[inline]
    fn set<const PLACE: usize>(&mut self, minor_units: u128) {
        assert!(minor_units <= AMOUNT_MAX, "totals are checked before they are kept");
        let bytes = minor_units.to_le_bytes();
        let high = u32::from_le_bytes(get::<8, 4>(&bytes));
        if let Some(place) = self.low.get_mut(PLACE) {
            *place = u64::from_le_bytes(get::<0, 8>(&bytes));
        }
        if high != 0 || self.more.is_some() {
            self.set_high::<PLACE>(high);
        }
    }

    fn set_high<const PLACE: usize>(&mut self, upper: u32) {
        let mut more = self.more();
        if let Some(place) = more.high.get_mut(PLACE).filter(|place| **place != upper) {
            *place = upper;
            self.set_more(more);
        }
    }

    #[inline]
    fn plus<const PLACE: usize>(&mut self, amount: u128) {
        self.set::<PLACE>(self.total::<PLACE>().saturating_add(amount));
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "what is given back was set aside before, or the books are wrong: stop")]
    fn minus<const PLACE: usize>(&mut self, amount: u128) {
        let less = self.total::<PLACE>().checked_sub(amount);
        self.set::<PLACE>(less.expect("only what was set aside is given back"));
    }

    #[inline]
    fn more(&self) -> More {
        self.more.as_deref().copied().unwrap_or_default()
    }

    fn set_more(&mut self, more: More) {
        match &mut self.more {
            _ if more == More::default() => self.more = None,
            Some(known) => **known = more,
            None => self.more = Some(Box::new(more)),
        }
    }

    fn set_reserved(&mut self, reserved: u128) {
        self.set_more(More { reserved, ..self.more() });
    }

    /// Credits and overdraft: what debits, pending debits and reservations must not exceed.
    #[inline]
    fn means(&self) -> u128 {
        self.total::<CREDITS_POSTED>().saturating_add(self.more().overdraft)
    }

    /// What may still be debited; `None` when there is no limit. Only for a quiet account.
    pub fn available(&self) -> Option<u128> {
        let limited = self.flags.has(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS);
        let used = self.total::<DEBITS_POSTED>().saturating_add(self.total::<DEBITS_PENDING>());
        limited.then(|| self.means().saturating_sub(used))
    }

    /// What is there and not held, whatever may be owed beyond it. Only for a quiet account.
    pub fn own_means(&self) -> u128 {
        let used = self.total::<DEBITS_POSTED>().saturating_add(self.total::<DEBITS_PENDING>());
        self.total::<CREDITS_POSTED>().saturating_sub(used)
    }

    /// Whether money may leave it by a new operation.
    #[inline]
    pub fn check_debit_state(&self) -> Result<(), Code> {
        match self.state {
            AccountState::Open => Ok(()),
            AccountState::DebitsFrozen | AccountState::Frozen => Err(Code::DebitAccountFrozen),
            AccountState::Closed => Err(Code::DebitAccountClosed),
        }
    }

    /// Whether money may come to it by a new operation.
    #[inline]
    pub fn check_credit_state(&self) -> Result<(), Code> {
        match self.state {
            AccountState::Open | AccountState::DebitsFrozen => Ok(()),
            AccountState::Frozen => Err(Code::CreditAccountFrozen),
            AccountState::Closed => Err(Code::CreditAccountClosed),
        }
    }

    /// Whether this much more may be debited or set aside. Only for a quiet account.
    pub fn check_debit(&self, amount: u128) -> Result<(), Code> {
        let used = self.total::<DEBITS_POSTED>().saturating_add(self.total::<DEBITS_PENDING>());
        if used.saturating_add(amount) > AMOUNT_MAX {
            Err(Code::BalanceOverflow)
        } else if self.available().is_some_and(|available| amount > available) {
            Err(Code::InsufficientFunds)
        } else {
            Ok(())
        }
    }

    /// Whether this much more may be credited or expected. Only for a quiet account.
    pub fn check_credit(&self, amount: u128) -> Result<(), Code> {
        let total =
            self.total::<CREDITS_POSTED>().saturating_add(self.total::<CREDITS_PENDING>()).saturating_add(amount);
        if total > AMOUNT_MAX {
            Err(Code::BalanceOverflow)
        } else if self.flags.has(AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS) && total > self.total::<DEBITS_POSTED>()
        {
            Err(Code::ExceedsDebits)
        } else {
            Ok(())
        }
    }

    /// Posts a debit that was checked.
    pub fn post_debit(&mut self, amount: u128) {
        self.plus::<DEBITS_POSTED>(amount);
    }

    /// Posts a credit that was checked.
    pub fn post_credit(&mut self, amount: u128) {
        self.plus::<CREDITS_POSTED>(amount);
    }

    /// Sets an amount aside that was checked, as payer.
    pub fn hold_debit(&mut self, amount: u128) {
        self.plus::<DEBITS_PENDING>(amount);
    }

    /// Expects an amount that was checked, as payee.
    pub fn hold_credit(&mut self, amount: u128) {
        self.plus::<CREDITS_PENDING>(amount);
    }

    /// Gives back what was set aside, as payer.
    pub fn free_debit(&mut self, amount: u128) {
        self.minus::<DEBITS_PENDING>(amount);
    }

    /// No longer expects an amount, as payee.
    pub fn free_credit(&mut self, amount: u128) {
        self.minus::<CREDITS_PENDING>(amount);
    }

    /// Changes it; to close it, it must be empty and nothing pending.
    pub fn change(&mut self, change: &AccountChange) -> Result<(), Code> {
        if self.state == AccountState::Closed {
            return Err(Code::DebitAccountClosed);
        }
        if change.state == Some(AccountState::Closed) {
            let totals = self.totals();
            if totals.debits_posted != totals.credits_posted {
                return Err(Code::AccountNotEmpty);
            }
            if totals.debits_pending != 0 || totals.credits_pending != 0 {
                return Err(Code::AccountPending);
            }
        }
        if let Some(overdraft) = change.overdraft {
            if !self.flags.has(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS) {
                return Err(Code::OverdraftInvalid);
            }
            let used = self.total::<DEBITS_POSTED>().saturating_add(self.total::<DEBITS_PENDING>());
            if used > self.total::<CREDITS_POSTED>().saturating_add(overdraft) {
                return Err(Code::InsufficientFunds);
            }
            self.set_more(More { overdraft, ..self.more() });
        }
        self.state = change.state.unwrap_or(self.state);
        self.level = change.level.unwrap_or(self.level);
        Ok(())
    }

    /// Sets an amount aside to be debited.
    #[inline]
    pub fn reserve(&mut self, amount: u128) -> Decision {
        let decision = self.check_reserve(amount);
        if decision == Decision::Accepted {
            self.set_reserved(self.more().reserved.saturating_add(amount));
        }
        decision
    }

    /// What [`Self::reserve`] would say; nothing is set aside. Where both accounts are at hand, a debit can follow at once.
    #[inline]
    pub fn check_reserve(&self, amount: u128) -> Decision {
        if let Err(code) = self.check_debit_state() {
            return Decision::Rejected(code);
        }
        let limited = self.flags.has(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS);
        let means = self.means();
        let reserved = self.more().reserved;
        let held = if planted::is(Bug::HoldNotCounted) { 0 } else { self.total::<DEBITS_PENDING>() };
        let certain = self.total::<DEBITS_POSTED>().saturating_add(held).saturating_add(amount);
        if certain > AMOUNT_MAX {
            return Decision::Rejected(Code::BalanceOverflow);
        }
        if limited && certain > means {
            return Decision::Rejected(Code::InsufficientFunds);
        }
        let at_most = certain.saturating_add(reserved);
        if at_most > AMOUNT_MAX || (limited && at_most > means) {
            return Decision::Undecided;
        }
        Decision::Accepted
    }

    /// Credits an amount of this currency. With `known`, the posted debits are all that count; without, a question that
    /// open reservations may still change is left undecided.
    #[inline]
    pub fn accept(&mut self, amount: u128, currency: u16, known: bool) -> Decision {
        if currency != self.currency {
            return Decision::Rejected(Code::CurrencyMismatch);
        }
        if let Err(code) = self.check_credit_state() {
            return Decision::Rejected(code);
        }
        let posted = self.total::<CREDITS_POSTED>().saturating_add(amount);
        let total = posted.saturating_add(self.total::<CREDITS_PENDING>());
        if total > AMOUNT_MAX {
            return Decision::Rejected(Code::BalanceOverflow);
        }
        let debits_posted = self.total::<DEBITS_POSTED>();
        let is_mirror =
            self.flags.has(AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS) && !planted::is(Bug::MirrorIgnored);
        if is_mirror && total > debits_posted {
            let hopeless = total > debits_posted.saturating_add(self.more().reserved);
            return if known || hopeless { Decision::Rejected(Code::ExceedsDebits) } else { Decision::Undecided };
        }
        self.set::<CREDITS_POSTED>(posted);
        Decision::Accepted
    }

    /// Posts a reserved amount.
    ///
    /// # Panics
    ///
    /// When it was not reserved: the books would be wrong, so the process must stop.
    #[inline]
    pub fn finish(&mut self, amount: u128) {
        self.release(amount);
        self.plus::<DEBITS_POSTED>(amount);
    }

    /// Gives a reserved amount back.
    ///
    /// # Panics
    ///
    /// When it was not reserved.
    #[inline]
    #[expect(clippy::expect_used, reason = "what is given back was set aside before, or the books are wrong: stop")]
    pub fn release(&mut self, amount: u128) {
        let reserved = self.more().reserved.checked_sub(amount);
        self.set_reserved(reserved.expect("only what was set aside is given back"));
    }
}

/// A short digest of the properties of an account that never change, by which a repeated opening is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting(u64);

impl Lasting {
    /// Of these properties.
    pub fn of(properties: &NewAccount) -> Self {
        let lasting = NewAccount { level: 0, overdraft: 0, ..*properties };
        Self(u64::from_le_bytes(get::<0, 8>(blake3::hash(&lasting.encode()).as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(flags: AccountFlags, debits: u128, credits: u128) -> Account {
        let properties = NewAccount { id: AccountId::from_raw(1), currency: 978, flags, ..NewAccount::default() };
        let totals = Totals { debits_posted: debits, credits_posted: credits, ..Totals::default() };
        Account::new(&BookAccount { totals, ..BookAccount::open(&properties) })
    }

    #[test]
    fn an_account_is_one_cache_line() {
        assert_eq!((size_of::<Account>(), align_of::<Account>()), (64, 64));
    }

    #[test]
    fn a_reservation_counts_until_it_is_finished_or_released() {
        let mut account = account(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS, 0, 100);
        assert_eq!(account.reserve(60), Decision::Accepted);
        assert_eq!(account.reserve(60), Decision::Undecided, "released, it would be enough");
        assert_eq!(account.reserve(101), Decision::Rejected(Code::InsufficientFunds), "never enough");
        account.release(60);
        assert_eq!(account.reserve(60), Decision::Accepted);
        account.finish(60);
        assert_eq!(account.reserve(60), Decision::Rejected(Code::InsufficientFunds));
        assert_eq!((account.totals().debits_posted, account.totals().credits_posted), (60, 100));
    }

    #[test]
    fn the_mirror_limit_waits_for_what_is_reserved() {
        let mut account = account(AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS, 50, 0);
        assert_eq!(account.accept(51, 978, false), Decision::Rejected(Code::ExceedsDebits));
        assert_eq!(account.reserve(10), Decision::Accepted);
        assert_eq!(account.accept(51, 978, false), Decision::Undecided);
        assert_eq!(account.accept(51, 978, true), Decision::Rejected(Code::ExceedsDebits));
        account.finish(10);
        assert_eq!(account.accept(51, 978, false), Decision::Accepted);
    }

    #[test]
    fn totals_never_pass_what_a_decimal_holds() {
        let mut account = account(AccountFlags::default(), AMOUNT_MAX, AMOUNT_MAX);
        assert_eq!(account.reserve(1), Decision::Rejected(Code::BalanceOverflow));
        assert_eq!(account.accept(1, 978, false), Decision::Rejected(Code::BalanceOverflow));
        assert_eq!(account.accept(1, 840, false), Decision::Rejected(Code::CurrencyMismatch));
    }

    #[test]
    fn a_total_is_whole_on_both_sides_of_eight_bytes() {
        let edge = u128::from(u64::MAX);
        let mut account = account(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS, 0, edge);
        assert!(account.more.is_none(), "what fits eight bytes needs no more");
        account.post_credit(2);
        assert_eq!((account.totals().credits_posted, account.available()), (edge + 2, Some(edge + 2)));
        assert_eq!(account.reserve(edge + 3), Decision::Rejected(Code::InsufficientFunds));
        assert_eq!(account.reserve(edge + 2), Decision::Accepted);
        account.finish(edge + 2);
        account.hold_credit(edge + 1);
        account.free_credit(edge + 1);
        let totals = account.totals();
        assert_eq!((totals.debits_posted, totals.credits_posted, totals.credits_pending), (edge + 2, edge + 2, 0));
        let far = AMOUNT_MAX - edge - 2;
        account.post_credit(far);
        account.post_debit(far);
        assert_eq!((account.totals().debits_posted, account.totals().credits_posted), (AMOUNT_MAX, AMOUNT_MAX));
    }

    #[test]
    fn an_opening_is_recognised_by_all_its_properties() {
        let properties = NewAccount { id: AccountId::from_raw(1), currency: 978, ..NewAccount::default() };
        let lasting = Lasting::of(&properties);
        assert_eq!(Lasting::of(&NewAccount { level: 3, overdraft: 5, ..properties }), lasting, "these change");
        assert_ne!(Lasting::of(&NewAccount { user_data_32: 1, ..properties }), lasting);
        assert_ne!(Lasting::of(&NewAccount { currency: 840, ..properties }), lasting);
    }
}
