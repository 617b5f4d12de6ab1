//! Looking up a block of records ahead of [`Book::apply`], each step in a loop of its own, so that their cache misses overlap.

use super::{AccountId, Book, Slot};
use crate::ledger::TransferId;

/// The accounts that a transfer debits and credits.
pub type Parties = (AccountId, AccountId);

impl Book {
    /// Finds the slots that a transfer will touch.
    #[inline]
    pub fn find_both(&self, (debit, credit): Parties) -> (Option<Slot>, Option<Slot>) {
        (self.accounts.table.find(debit), self.accounts.table.find(credit))
    }

    /// Guesses the slots that a transfer will touch, ahead of [`Self::apply`], by the hashes of their ids alone.
    #[inline]
    pub fn guess_both(&self, (debit, credit): Parties) -> (Option<Slot>, Option<Slot>) {
        (self.accounts.table.guess(debit), self.accounts.table.guess(credit))
    }

    /// The slots that a transfer will touch, given [`Self::guess_both`] of it.
    #[inline]
    pub fn confirm_both(
        &self,
        (debit, credit): Parties,
        guess: (Option<Slot>, Option<Slot>),
    ) -> (Option<Slot>, Option<Slot>) {
        (self.accounts.table.confirm(debit, guess.0), self.accounts.table.confirm(credit, guess.1))
    }

    /// Brings a hold or delayed transfer that a record is about into the cache, ahead of [`Self::apply`].
    #[inline]
    pub fn touch_about(&self, about: Option<TransferId>) {
        if let Some(about) = about {
            std::hint::black_box(self.open.pendings.get(about).map(|pending| pending.head));
        }
    }

    /// Brings what limits count for some payers into the cache, ahead of [`Self::apply`].
    #[inline]
    pub fn touch_limits(&self, debits: impl Iterator<Item = Option<Slot>>) {
        if self.policy.has_limits() {
            debits.for_each(|debit| self.open.tallies.touch(debit));
        }
    }
}
