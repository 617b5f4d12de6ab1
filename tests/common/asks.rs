//! What a transfer is to the model: each operation with its fields, how it is sent, and the rules that need no account.

use heng::ledger::{AccountId, Code, LINKED, Transfer, TransferId};

use super::ensure;

pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// What is asked for, with its flags on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub(crate) enum Verb {
    #[default]
    Pay = 0,
    Balancing = 1_024,
    Hold = 1,
    Raise = 2,
    Capture = 3,
    More = 515,
    Void = 4,
    Delayed = 5,
    Refund = 6,
    Reversal = 7,
    Exchange = 8,
    Require = 9,
    Change = 10,
}

/// One transfer as the test asks for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) id: u128,
    pub(crate) verb: Verb,
    pub(crate) debit: u128,
    pub(crate) credit: u128,
    pub(crate) amount: u128,
    pub(crate) code: u16,
    pub(crate) related: u128,
    /// Expiry, due time or end of the quote, seconds; 0 for none.
    pub(crate) time: u64,
    /// Ten thousandths; rounding: 0 half up, 1 half even, 2 down, 3 up.
    pub(crate) rate: (u128, u8),
    /// State, level, and whether the amount is the new overdraft.
    pub(crate) change: (Option<u8>, Option<u8>, bool),
}

impl Ask {
    pub(crate) fn encode(&self, linked: bool) -> Transfer {
        let byte = |value: Option<u8>| u64::from(value.map_or(0, |value| value + 1));
        let change = byte(self.change.0) | byte(self.change.1) << 8 | u64::from(self.change.2) << 16;
        let rate = self.rate.0 | 4 << 96 | u128::from(self.rate.1) << 104;
        Transfer {
            id: TransferId::from_raw(self.id),
            debit: AccountId::from_raw(self.debit),
            credit: AccountId::from_raw(self.credit),
            amount: self.amount,
            code: self.code,
            flags: self.verb as u16 | if linked { LINKED } else { 0 },
            related: if self.verb == Verb::Exchange { rate } else { self.related },
            time_ns: if self.verb == Verb::Change { change } else { self.time * SECOND_NS },
            ..Transfer::default()
        }
    }

    /// The rules that need no account.
    pub(super) fn check(&self) -> Result<(), Code> {
        ensure(self.debit != self.credit, Code::SameAccount)?;
        ensure(self.verb != Verb::Delayed || self.time != 0, Code::TimeMissing)?;
        ensure(self.verb != Verb::Void || self.amount == 0, Code::FieldNotUsed)?;
        ensure(matches!(self.verb, Verb::Void | Verb::Change) || self.amount != 0, Code::AmountZero)
    }
}

/// Minor units of the other currency; both have two decimal places.
pub(crate) fn convert(amount: u128, (rate, rounding): (u128, u8)) -> u128 {
    let (whole, rest) = (amount * rate / 10_000, amount * rate % 10_000);
    let is_up = [rest >= 5_000, rest + whole % 2 > 5_000, false, rest > 0];
    whole + u128::from(is_up[usize::from(rounding)])
}
