//! What clients ask for and what they are told: transfers, accounts to open, outcomes.
//!
//! These hold raw numbers as they stood on the wire: a transfer that breaks a rule must still be recorded with its
//! refusal, byte for byte. [`Transfer::check`] and [`NewAccount::check`] are the rules that need no state.

use super::{AccountId, Code, Sequence, TransferId};
use crate::money::{AMOUNT_MAX, Currency};

/// Moves an amount from the debit account to the credit account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Chosen by the client; decided once for ever. Time-ordered and random ids are both fine.
    pub id: TransferId,
    /// The account that pays.
    pub debit: AccountId,
    /// The account that receives.
    pub credit: AccountId,
    /// In minor units of the accounts' currency; more than 2^96 - 1 is refused.
    pub amount: u128,
    /// Kind of business (payment, fee, ...), the client's own numbering.
    pub code: u16,
    /// No flag is defined yet; other than 0 is refused.
    pub flags: u16,
    /// The client's own.
    pub user_data_32: u32,
    /// The client's own.
    pub user_data_64: u64,
    /// The client's own, often the reference in its own system.
    pub user_data_128: u128,
    /// Reserved; other than 0 is refused.
    pub reserved_128: u128,
    /// Reserved; other than 0 is refused.
    pub reserved_64: u64,
}

impl Transfer {
    /// The first rule, in a fixed order, that this transfer breaks whatever the accounts are.
    #[inline]
    pub fn check(&self) -> Result<(), Code> {
        if self.flags != 0 || self.reserved_128 != 0 || self.reserved_64 != 0 {
            Err(Code::ReservedFieldSet)
        } else if self.debit == self.credit {
            Err(Code::SameAccount)
        } else if self.amount == 0 {
            Err(Code::AmountZero)
        } else if self.amount > AMOUNT_MAX {
            Err(Code::AmountTooLarge)
        } else {
            Ok(())
        }
    }
}

/// What an account's balance may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountFlags(pub u16);

impl AccountFlags {
    /// The account may not go below zero: a customer's or merchant's account.
    pub const DEBITS_MUST_NOT_EXCEED_CREDITS: Self = Self(1);
    /// The mirror: an account that is only ever owed to us, such as our account at a bank.
    pub const CREDITS_MUST_NOT_EXCEED_DEBITS: Self = Self(2);

    const KNOWN: u16 = 3;

    /// Whether all flags of `other` are set.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn is_valid(self) -> bool {
        self.0 & !Self::KNOWN == 0 && self.0 != Self::KNOWN
    }
}

/// An account to open. Its properties never change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewAccount {
    /// Chosen by the client.
    pub id: AccountId,
    /// ISO 4217 number.
    pub currency: u16,
    /// Kind of account, the client's own numbering.
    pub code: u16,
    /// What its balance may be.
    pub flags: AccountFlags,
    /// The client's own.
    pub user_data_32: u32,
    /// The client's own.
    pub user_data_64: u64,
    /// The client's own.
    pub user_data_128: u128,
}

impl NewAccount {
    /// The first rule, in a fixed order, that this account breaks. Refused openings leave no record and use up no id.
    pub fn check(&self) -> Result<(), Code> {
        if !self.id.is_valid() {
            Err(Code::IdInvalid)
        } else if Currency::from_number(self.currency).is_err() {
            Err(Code::CurrencyUnknown)
        } else if self.flags.is_valid() {
            Ok(())
        } else {
            Err(Code::AccountFlagsInvalid)
        }
    }
}

/// What became of one transfer or account opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The code; for a repeat, the code of the first time.
    pub code: Code,
    /// Whether this answers a repeat of something decided before.
    pub repeated: bool,
    /// The ledger sequence of the record; 0 when nothing was recorded.
    pub sequence: Sequence,
    /// The ledger time of the record, nanoseconds since 1970 UTC; 0 when nothing was recorded.
    pub time_ns: u64,
}

impl Outcome {
    /// An outcome of which there is no record.
    pub const fn unrecorded(code: Code) -> Self {
        Self { code, repeated: false, sequence: 0, time_ns: 0 }
    }
}
