//! The account actor: the one place where a balance is decided.
//!
//! An [`Account`] owns its balances. It does no I/O, reads no clock and knows nothing of actix: the shard that hosts it
//! delivers one message at a time. Each method below is a message of the actor; nothing else can change an account.
//! (One actix mailbox per account costs about 1.2 µs a message and 1 KB an account; a hosted account 0.1 µs and 72 bytes.)
//!
//! ```text
//!   Reserve ──► (debit account) ──► Accept ──► (credit account) ──► outcome ──► Finish | Release ──► (debit account)
//! ```
//!
//! The two accounts of a transfer may be hosted by different shards. Between `Reserve` and `Finish` or `Release` the
//! debit account does not know how the transfer ends, so some questions have no answer yet: [`Decision::Undecided`].
//! The shard asks again when it knows more. So a refusal is never caused by a transfer that is itself refused later.
//!
//! # Invariants
//!
//! 1. *Conservation*: reserve, accept and finish of one transfer add the same amount to debits and to credits.
//! 2. *Limits*: with `DEBITS_MUST_NOT_EXCEED_CREDITS`, posted and reserved debits together never exceed posted credits;
//!    the mirror flag likewise. No total exceeds 2^96 - 1.
//! 3. `Undecided` is only ever answered while something is reserved.
//!
//! # Not here
//!
//! Whether an id was used before: [`crate::router`]. Hosting: [`crate::shard`]. Durable balances: [`super::Book`].

use super::{AccountFlags, AccountId, Code, NewAccount, get, set};
use crate::money::AMOUNT_MAX;

/// An account as its shard hosts it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Two halves, because a `u128` would be aligned to 16 bytes and the account would not fit a cache line.
    id: [u64; 2],
    /// Digest of the properties, so that a repeated opening is recognised without keeping them here.
    properties: u64,
    debits_posted: Total,
    credits_posted: Total,
    debits_reserved: Total,
    currency: u16,
    flags: AccountFlags,
    /// Whether transfers wait at the shard for a reservation of this account to end.
    parked: bool,
}

/// A total of at most 2^96 - 1 minor units in 12 bytes, so that an account fits a cache line.
#[derive(Clone, Copy, Debug, Default)]
struct Total([u8; 12]);

impl Total {
    #[inline]
    fn new(minor_units: u128) -> Self {
        debug_assert!(minor_units <= AMOUNT_MAX, "totals are checked before they are kept");
        Self(get::<0, 12>(&minor_units.to_le_bytes()))
    }

    #[inline]
    fn get(self) -> u128 {
        let mut bytes = [0; 16];
        set::<0, 12>(&mut bytes, self.0);
        u128::from_le_bytes(bytes)
    }
}

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

impl Account {
    /// Opens an account, with totals from a checkpoint or zero.
    pub fn new(properties: &NewAccount, debits_posted: u128, credits_posted: u128) -> Self {
        Self {
            id: properties.id.halves().into(),
            properties: digest(properties),
            debits_posted: Total::new(debits_posted),
            credits_posted: Total::new(credits_posted),
            debits_reserved: Total::default(),
            currency: properties.currency,
            flags: properties.flags,
            parked: false,
        }
    }

    /// Its id.
    #[inline]
    pub fn id(&self) -> AccountId {
        let [low, high] = self.id;
        AccountId::from_raw(u128::from(low) | u128::from(high) << 64)
    }

    /// Its currency's ISO 4217 number.
    pub fn currency(&self) -> u16 {
        self.currency
    }

    /// Posted debits and credits.
    pub fn posted(&self) -> (u128, u128) {
        (self.debits_posted.get(), self.credits_posted.get())
    }

    /// Whether it was opened with exactly these properties.
    pub fn has_properties(&self, properties: &NewAccount) -> bool {
        self.properties == digest(properties)
    }

    /// Whether transfers wait for this account at its shard.
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// Notes whether transfers wait for this account at its shard.
    pub fn set_parked(&mut self, parked: bool) {
        self.parked = parked;
    }

    /// Sets an amount aside to be debited.
    #[inline]
    pub fn reserve(&mut self, amount: u128) -> Decision {
        let limited = self.flags.has(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS);
        let credits_posted = self.credits_posted.get();
        let reserved = self.debits_reserved.get();
        let certain = self.debits_posted.get().saturating_add(amount);
        if certain > AMOUNT_MAX {
            return Decision::Rejected(Code::BalanceOverflow);
        }
        if limited && certain > credits_posted {
            return Decision::Rejected(Code::InsufficientFunds);
        }
        let at_most = certain.saturating_add(reserved);
        if at_most > AMOUNT_MAX || (limited && at_most > credits_posted) {
            return Decision::Undecided;
        }
        self.debits_reserved = Total::new(reserved.saturating_add(amount));
        Decision::Accepted
    }

    /// Credits an amount of this currency. With `known`, the posted debits are all that count; without, a question that
    /// open reservations may still change is left undecided.
    #[inline]
    pub fn accept(&mut self, amount: u128, currency: u16, known: bool) -> Decision {
        if currency != self.currency {
            return Decision::Rejected(Code::CurrencyMismatch);
        }
        let total = self.credits_posted.get().saturating_add(amount);
        if total > AMOUNT_MAX {
            return Decision::Rejected(Code::BalanceOverflow);
        }
        let debits_posted = self.debits_posted.get();
        if self.flags.has(AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS) && total > debits_posted {
            let hopeless = total > debits_posted.saturating_add(self.debits_reserved.get());
            return if known || hopeless { Decision::Rejected(Code::ExceedsDebits) } else { Decision::Undecided };
        }
        self.credits_posted = Total::new(total);
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
        self.debits_posted = Total::new(self.debits_posted.get().saturating_add(amount));
    }

    /// Gives a reserved amount back.
    ///
    /// # Panics
    ///
    /// When it was not reserved.
    #[inline]
    #[expect(clippy::expect_used, reason = "the shard releases exactly what it reserved")]
    pub fn release(&mut self, amount: u128) {
        let rest = self.debits_reserved.get().checked_sub(amount).expect("only what was reserved is released");
        self.debits_reserved = Total::new(rest);
    }
}

/// A short digest of an account's properties.
fn digest(properties: &NewAccount) -> u64 {
    u64::from_le_bytes(get::<0, 8>(blake3::hash(&properties.encode()).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(flags: AccountFlags, debits: u128, credits: u128) -> Account {
        let properties = NewAccount { id: AccountId::from_raw(1), currency: 978, flags, ..NewAccount::default() };
        Account::new(&properties, debits, credits)
    }

    #[test]
    fn an_account_is_small() {
        assert!(size_of::<Account>() <= 72, "{}", size_of::<Account>());
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
        assert_eq!(account.posted(), (60, 100));
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
    fn an_opening_is_recognised_by_all_its_properties() {
        let properties = NewAccount { id: AccountId::from_raw(1), currency: 978, ..NewAccount::default() };
        let account = Account::new(&properties, 0, 0);
        assert!(account.has_properties(&properties));
        assert!(!account.has_properties(&NewAccount { user_data_32: 1, ..properties }));
        assert!(!account.has_properties(&NewAccount { currency: 840, ..properties }));
    }
}
