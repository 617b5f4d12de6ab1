//! What clients ask for and what they are told: transfers, accounts to open, outcomes.
//!
//! These hold raw numbers as they stood on the wire: a transfer that breaks a rule must still be recorded with its
//! refusal, byte for byte. [`Transfer::check`] and [`NewAccount::check`] are the rules that need no state.

use super::{AccountId, Code, Sequence, TransferId};

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
    /// The operation and its modifiers; see [`super::Operation`].
    pub flags: u16,
    /// The client's own.
    pub user_data_32: u32,
    /// The client's own.
    pub user_data_64: u64,
    /// The client's own, often the reference in its own system.
    pub user_data_128: u128,
    /// Depends on the operation: the hold or transfer that it is about, or the rate of an exchange; else 0.
    pub related: u128,
    /// Depends on the operation: a time, nanoseconds since 1970 UTC, or what to change of an account; else 0.
    pub time_ns: u64,
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

/// Whose money an account holds. Movements between classes are only for the codes that the policy permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum AccountClass {
    /// Not said; no rule of segregation applies.
    #[default]
    Unspecified = 0,
    /// Money that belongs to clients.
    ClientFunds = 1,
    /// The platform's own.
    PlatformOwn = 2,
    /// Set aside against risk.
    Reserve = 3,
    /// The world outside: banks, card schemes, custody.
    External = 4,
    /// Earned fees.
    Fee = 5,
    /// To be explained.
    Suspense = 6,
}

impl AccountClass {
    /// All, in order of number.
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::ClientFunds,
        Self::PlatformOwn,
        Self::Reserve,
        Self::External,
        Self::Fee,
        Self::Suspense,
    ];

    /// The number on the wire and on disk.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The class of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::ClientFunds => "client-funds",
            Self::PlatformOwn => "platform-own",
            Self::Reserve => "reserve",
            Self::External => "external",
            Self::Fee => "fee",
            Self::Suspense => "suspense",
        }
    }
}

/// What an account may take part in. What was set aside before a freeze still arrives or is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AccountState {
    /// Everything.
    #[default]
    Open = 0,
    /// Credits only.
    DebitsFrozen = 1,
    /// Nothing.
    Frozen = 2,
    /// Nothing, for ever.
    Closed = 3,
}

impl AccountState {
    /// All, in order of number.
    pub const ALL: [Self; 4] = [Self::Open, Self::DebitsFrozen, Self::Frozen, Self::Closed];

    /// The number on the wire and on disk.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The state of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::DebitsFrozen => "debits-frozen",
            Self::Frozen => "frozen",
            Self::Closed => "closed",
        }
    }
}

/// An account to open. Level, overdraft and state may change later, nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewAccount {
    /// Chosen by the client.
    pub id: AccountId,
    /// ISO 4217 number, or that of an asset of the policy.
    pub currency: u16,
    /// Kind of account, the client's own numbering.
    pub code: u16,
    /// What its balance may be.
    pub flags: AccountFlags,
    /// Whose money it holds; a number that is no class is refused.
    pub class: u8,
    /// Level of its customer, for limits and fees.
    pub level: u8,
    /// How far below zero an account that must not be overdrawn may go all the same, minor units; at most 2^64 - 1.
    pub overdraft: u128,
    /// The client's own.
    pub user_data_32: u32,
    /// The client's own.
    pub user_data_64: u64,
    /// The client's own.
    pub user_data_128: u128,
}

impl NewAccount {
    /// The first rule, in a fixed order, that this account breaks, whatever its currency. Refused openings leave no record
    /// and use up no id.
    pub fn check(&self) -> Result<(), Code> {
        let limited = self.flags.has(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS);
        if !self.id.is_valid() {
            Err(Code::IdInvalid)
        } else if !self.flags.is_valid() {
            Err(Code::AccountFlagsInvalid)
        } else if AccountClass::from_number(self.class).is_none() || self.level == u8::MAX {
            Err(Code::ClassInvalid)
        } else if self.overdraft > u128::from(u64::MAX) || (self.overdraft != 0 && !limited) {
            Err(Code::OverdraftInvalid)
        } else {
            Ok(())
        }
    }

    /// Its class.
    pub fn class(&self) -> AccountClass {
        AccountClass::from_number(self.class).unwrap_or_default()
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
