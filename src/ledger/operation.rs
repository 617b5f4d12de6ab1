//! Operations: what a transfer's flags ask for, and the rules on its fields that need no state.
//!
//! One layout of 128 bytes carries every operation, so that each has an id, an outcome, a place in a transaction and a
//! record like any other. The low four bits of the flags are the operation, the high bits modify it:
//!
//! | number | operation | `related` | `time` | moves |
//! |---|---|---|---|---|
//! | 0 | transfer | | | amount, at once |
//! | 1 | hold | | expiry, 0 for none | nothing; the amount is set aside |
//! | 2 | raise | the hold | | nothing; adds to the hold |
//! | 3 | capture | the hold | | amount, out of the hold |
//! | 4 | void | the hold or delayed transfer | | nothing; gives back what is left |
//! | 5 | delayed | | due time | the amount is set aside and arrives at its time |
//! | 6 | refund | what is refunded | | amount, the way back |
//! | 7 | reversal | what is reversed | | the whole amount, the way back |
//! | 8 | exchange | rate and rounding | quote's expiry | the second leg of a currency exchange |
//! | 9 | require | | | nothing; asks for at least this much available |
//! | 10 | change | | state, level | nothing; changes an account |
//! | 11-15 | made by the ledger | cause | | release, expiry, arrival, fee, withheld reserve |
//!
//! Every record moves one amount in one way, so that an account's totals follow from the records alone.
//!
//! Not here: what needs an account or a hold ([`super::desk`]).

use rust_decimal::{Decimal, RoundingStrategy};

use super::fields::{get, set};
use super::{AccountState, Code, Transfer};
use crate::money::AMOUNT_MAX;

/// Flag: this transfer happens only together with the next one in the request.
pub const LINKED: u16 = 1 << 8;
/// Flag of a capture: what is left of the hold stays held.
pub const MORE: u16 = 1 << 9;
/// Flag of a transfer: the amount is the most to move; what is available is moved.
pub const BALANCING: u16 = 1 << 10;
/// The most transfers in one transaction.
pub const TRANSACTION_MAX: usize = 64;

const OPERATION_BITS: u16 = 0xF;

macro_rules! operations {
    ($($number:literal $variant:ident $name:literal $doc:literal;)*) => {
        /// What a transfer asks for, or what the ledger itself did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Operation {
            $(#[doc = $doc] $variant = $number,)*
        }

        impl Operation {
            /// All, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The operation in the low bits of some flags.
            #[inline]
            pub const fn of(flags: u16) -> Self {
                match flags & OPERATION_BITS {
                    $($number => Self::$variant,)*
                    _ => Self::Transfer,
                }
            }

            /// The name on the command line and in metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

operations! {
    0 Transfer "transfer" "Moves the amount at once.";
    1 Hold "hold" "Sets the amount aside until it is captured, voided or expires.";
    2 Raise "raise" "Adds to a hold.";
    3 Capture "capture" "Moves an amount out of a hold.";
    4 Void "void" "Gives back what is left of a hold or of a delayed transfer.";
    5 Delayed "delayed" "Sets the amount aside; it arrives at its due time.";
    6 Refund "refund" "Moves an amount back to who paid it.";
    7 Reversal "reversal" "Moves the whole amount of an erroneous transfer back.";
    8 Exchange "exchange" "Pays out the other currency of the leg before it.";
    9 Require "require" "Asks for at least this much available; moves nothing.";
    10 Change "change" "Changes an account's state, level or overdraft.";
    11 Release "release" "By the ledger: what a final capture left of its hold is given back.";
    12 Expire "expire" "By the ledger: a hold's time is over.";
    13 Arrive "arrive" "By the ledger: a delayed transfer or a withheld reserve arrives.";
    14 Fee "fee" "By the ledger: a fee or a share of a payment.";
    15 Withhold "withhold" "By the ledger: part of a credit goes into reserve until its release time.";
}

impl Operation {
    /// Whether only the ledger itself does this.
    pub const fn is_internal(self) -> bool {
        matches!(self, Self::Release | Self::Expire | Self::Arrive | Self::Fee | Self::Withhold)
    }

    /// Whether money is set aside that was not before.
    pub const fn is_set_aside(self) -> bool {
        matches!(self, Self::Hold | Self::Raise | Self::Delayed)
    }

    /// Whether money moves from one account to the other.
    pub const fn posts(self) -> bool {
        !self.is_set_aside()
            && !matches!(self, Self::Void | Self::Release | Self::Expire | Self::Require | Self::Change)
    }

    /// Whether the related id names a hold or delayed transfer that is still open.
    pub const fn names_pending(self) -> bool {
        matches!(self, Self::Raise | Self::Capture | Self::Void)
    }

    /// Whether the related id names an earlier transfer, which may be long ago.
    pub const fn names_original(self) -> bool {
        matches!(self, Self::Refund | Self::Reversal)
    }

    /// The modifiers that a client may set with it, besides [`LINKED`].
    const fn modifiers(self) -> u16 {
        match self {
            Self::Capture => MORE,
            Self::Transfer => BALANCING,
            _ => 0,
        }
    }
}

impl Transfer {
    /// The operation.
    #[inline]
    pub const fn operation(&self) -> Operation {
        Operation::of(self.flags)
    }

    /// Whether it happens only together with the next one.
    #[inline]
    pub const fn is_linked(&self) -> bool {
        self.flags & LINKED != 0
    }

    /// Whether it is no part of a transaction, and no refund or reversal.
    #[inline]
    pub fn stands_alone(&self) -> bool {
        !self.is_linked() && !self.operation().names_original()
    }

    /// Whether it has this modifier.
    pub const fn has(&self, modifier: u16) -> bool {
        self.flags & modifier != 0
    }

    /// Whether it is nothing but an immediate transfer of its own.
    #[inline]
    pub const fn is_plain(&self) -> bool {
        self.flags == 0
    }

    /// The first rule, in a fixed order, that this transfer breaks whatever the accounts are.
    #[inline]
    pub fn check(&self) -> Result<(), Code> {
        if self.is_plain() { self.check_plain() } else { self.check_operation() }
    }

    #[inline]
    fn check_plain(&self) -> Result<(), Code> {
        if self.related != 0 || self.time_ns != 0 {
            Err(Code::FieldNotUsed)
        } else if self.debit == self.credit {
            Err(Code::SameAccount)
        } else {
            self.check_amount()
        }
    }

    #[inline]
    fn check_amount(&self) -> Result<(), Code> {
        match self.amount {
            0 => Err(Code::AmountZero),
            amount if amount > AMOUNT_MAX => Err(Code::AmountTooLarge),
            _ => Ok(()),
        }
    }

    fn check_operation(&self) -> Result<(), Code> {
        let operation = self.operation();
        if operation.is_internal() || self.flags & !(OPERATION_BITS | LINKED | operation.modifiers()) != 0 {
            return Err(Code::OperationUnknown);
        }
        let unused = |set: bool| if set { Err(Code::FieldNotUsed) } else { Ok(()) };
        let (has_related, has_time) = (self.related != 0, self.time_ns != 0);
        match operation {
            Operation::Require => {
                unused(has_related || has_time || self.credit.raw() != 0)?;
                return self.check_amount();
            }
            Operation::Change => {
                unused(has_related || self.credit.raw() != 0)?;
                return AccountChange::of(self).map(drop);
            }
            _ => {}
        }
        if self.debit == self.credit {
            return Err(Code::SameAccount);
        }
        match operation {
            Operation::Delayed if !has_time => return Err(Code::TimeMissing),
            Operation::Hold | Operation::Delayed => unused(has_related)?,
            Operation::Exchange => drop(ExchangeRate::decode(self.related).ok_or(Code::RateInvalid)?),
            operation if operation.names_pending() || operation.names_original() => {
                unused(has_time)?;
                if !has_related {
                    return Err(Code::RelatedMissing);
                }
            }
            _ => unused(has_related || has_time)?,
        }
        match operation {
            Operation::Void => unused(self.amount != 0),
            // The bound is kept in the record's eight bytes of time, since the amount there is what was moved.
            Operation::Transfer if self.has(BALANCING) && self.amount > u128::from(u64::MAX) => {
                Err(Code::AmountTooLarge)
            }
            _ => self.check_amount(),
        }
    }

    /// The transfer as its client sent it, from what its accepted record says: amounts that the ledger found out stand in the
    /// record in place of what was asked.
    #[must_use]
    pub fn as_requested(&self, accepted: bool) -> Self {
        match self.operation() {
            Operation::Void if accepted => Self { amount: 0, time_ns: 0, ..*self },
            Operation::Transfer if accepted && self.has(BALANCING) => {
                Self { amount: u128::from(self.time_ns), time_ns: 0, ..*self }
            }
            _ => *self,
        }
    }
}

/// A rate and how to round, as an exchange leg states it in its `related` field.
///
/// Credited amount in major units = debited amount of the leg before in major units × rate, rounded to a minor unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeRate {
    /// Units of the second currency for one unit of the first.
    pub rate: Decimal,
    /// How to round.
    pub rounding: Rounding,
}

impl ExchangeRate {
    /// Reads the field: mantissa (12 bytes), decimal places (1), rounding (1), zero (2).
    pub fn decode(field: u128) -> Option<Self> {
        let bytes = field.to_le_bytes();
        let mut mantissa = [0; 16];
        set::<0, 12>(&mut mantissa, get::<0, 12>(&bytes));
        let [places, rounding, zero, more] = get::<12, 4>(&bytes);
        let mantissa = i128::from_le_bytes(mantissa);
        if mantissa == 0 || (zero, more) != (0, 0) {
            return None;
        }
        let rate = Decimal::try_from_i128_with_scale(mantissa, u32::from(places)).ok()?;
        Some(Self { rate, rounding: Rounding::from_number(rounding)? })
    }

    /// Writes the field.
    pub fn encode(&self) -> u128 {
        let mut bytes = [0; 16];
        set::<0, 12>(&mut bytes, get::<0, 12>(&self.rate.mantissa().unsigned_abs().to_le_bytes()));
        let places = u8::try_from(self.rate.scale()).unwrap_or(0);
        set::<12, 2>(&mut bytes, [places, self.rounding.number()]);
        u128::from_le_bytes(bytes)
    }

    /// What `amount` minor units of a currency with `from` decimal places are in one with `to`; `None` when it cannot be said
    /// exactly before rounding.
    pub fn convert(&self, amount: u128, from: u32, to: u32) -> Option<u128> {
        let units = Decimal::try_from_i128_with_scale(i128::try_from(amount).ok()?, from).ok()?;
        let exact = exact_product(units, self.rate)?;
        minor_units(exact, to, self.rounding)
    }
}

/// A product, or `None` when the decimal would have to round it: `Decimal` loses digits silently near its limit.
pub(super) fn exact_product(a: Decimal, b: Decimal) -> Option<Decimal> {
    let mantissa = a.mantissa().checked_mul(b.mantissa())?;
    Decimal::try_from_i128_with_scale(mantissa, a.scale().checked_add(b.scale())?).ok()
}

/// An exact decimal as minor units of a currency with so many places.
pub(super) fn minor_units(value: Decimal, places: u32, rounding: Rounding) -> Option<u128> {
    let mut rounded = value.round_dp_with_strategy(places, rounding.strategy());
    rounded.rescale(places);
    if rounded.scale() != places {
        return None;
    }
    u128::try_from(rounded.mantissa()).ok()
}

/// How a result between two minor units becomes one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// To the nearer one; a half away from zero.
    #[default]
    HalfUp,
    /// To the nearer one; a half to the even one (banker's rounding).
    HalfEven,
    /// Towards zero.
    Down,
    /// Away from zero.
    Up,
}

impl Rounding {
    const fn strategy(self) -> RoundingStrategy {
        match self {
            Self::HalfUp => RoundingStrategy::MidpointAwayFromZero,
            Self::HalfEven => RoundingStrategy::MidpointNearestEven,
            Self::Down => RoundingStrategy::ToZero,
            Self::Up => RoundingStrategy::AwayFromZero,
        }
    }

    /// The number on the wire and on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::HalfUp => 0,
            Self::HalfEven => 1,
            Self::Down => 2,
            Self::Up => 3,
        }
    }

    /// The rounding of this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::HalfUp),
            1 => Some(Self::HalfEven),
            2 => Some(Self::Down),
            3 => Some(Self::Up),
            _ => None,
        }
    }
}

/// What a change asks for. In the transfer: state + 1 and level + 1 in the lowest two bytes of `time` (0: leave as it is), 1 in
/// the third when the amount is the new overdraft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// The new state.
    pub state: Option<AccountState>,
    /// The new level.
    pub level: Option<u8>,
    /// The new overdraft, minor units.
    pub overdraft: Option<u128>,
}

impl AccountChange {
    /// Reads it out of a transfer.
    pub fn of(transfer: &Transfer) -> Result<Self, Code> {
        let [state, level, overdraft, rest @ ..] = transfer.time_ns.to_le_bytes();
        let state = match state.checked_sub(1) {
            Some(number) => Some(AccountState::from_number(number).ok_or(Code::ChangeInvalid)?),
            None => None,
        };
        let overdraft = match overdraft {
            0 if transfer.amount == 0 => None,
            1 if transfer.amount > u128::from(u64::MAX) => return Err(Code::AmountTooLarge),
            1 => Some(transfer.amount),
            _ => return Err(Code::ChangeInvalid),
        };
        let change = Self { state, level: level.checked_sub(1), overdraft };
        if rest != [0; 5] || change == Self::default() { Err(Code::ChangeInvalid) } else { Ok(change) }
    }

    /// The transfer that asks for it, but for its id.
    pub fn request(&self, account: super::AccountId) -> Transfer {
        let state = self.state.map_or(0, |state| state.number().saturating_add(1));
        let level = self.level.map_or(0, |level| level.saturating_add(1));
        let time = [state, level, u8::from(self.overdraft.is_some()), 0, 0, 0, 0, 0];
        Transfer {
            debit: account,
            amount: self.overdraft.unwrap_or(0),
            flags: Operation::Change as u16,
            time_ns: u64::from_le_bytes(time),
            ..Transfer::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::AccountId;

    fn asked(operation: Operation) -> Transfer {
        let transfer = Transfer {
            debit: AccountId::from_raw(1),
            credit: AccountId::from_raw(2),
            amount: 5,
            flags: operation as u16,
            ..Transfer::default()
        };
        match operation {
            Operation::Delayed => Transfer { time_ns: 9, ..transfer },
            Operation::Void => Transfer { related: 9, amount: 0, ..transfer },
            Operation::Require => Transfer { credit: AccountId::default(), ..transfer },
            Operation::Change => AccountChange { level: Some(3), ..AccountChange::default() }.request(transfer.debit),
            Operation::Exchange => {
                let rate = ExchangeRate { rate: Decimal::new(11, 1), rounding: Rounding::Down };
                Transfer { related: rate.encode(), ..transfer }
            }
            operation if operation.names_pending() || operation.names_original() => Transfer { related: 9, ..transfer },
            _ => transfer,
        }
    }

    #[test]
    fn each_operation_has_its_fields_and_no_others() {
        for &operation in Operation::ALL {
            let right = asked(operation);
            assert_eq!(Operation::of(operation as u16), operation);
            if operation.is_internal() {
                assert_eq!(right.check(), Err(Code::OperationUnknown), "{operation:?}");
                continue;
            }
            assert_eq!(right.check(), Ok(()), "{operation:?}");
            assert_eq!(Transfer { flags: right.flags | LINKED, ..right }.check(), Ok(()), "{operation:?}");
            let unknown = Transfer { flags: right.flags | 1 << 15, ..right };
            assert_eq!(unknown.check(), Err(Code::OperationUnknown), "{operation:?}");
            if !matches!(operation, Operation::Change | Operation::Void) {
                assert_eq!(Transfer { amount: 0, ..right }.check(), Err(Code::AmountZero), "{operation:?}");
            }
            if right.related == 0 {
                assert_eq!(Transfer { related: 1, ..right }.check(), Err(Code::FieldNotUsed), "{operation:?}");
            }
        }
        for (operation, code) in [
            (Operation::Capture, Code::RelatedMissing),
            (Operation::Refund, Code::RelatedMissing),
            (Operation::Exchange, Code::RateInvalid),
        ] {
            assert_eq!(Transfer { related: 0, ..asked(operation) }.check(), Err(code));
        }
        assert_eq!(Transfer { time_ns: 0, ..asked(Operation::Delayed) }.check(), Err(Code::TimeMissing));
        assert_eq!(Transfer { amount: 7, ..asked(Operation::Void) }.check(), Err(Code::FieldNotUsed));
        let balancing = Transfer { flags: BALANCING, amount: 1 << 64, ..asked(Operation::Transfer) };
        assert_eq!(balancing.check(), Err(Code::AmountTooLarge));
    }

    #[test]
    fn exchange_is_exact_until_it_is_rounded_once() {
        let rate = |text: &str, rounding| ExchangeRate { rate: text.parse().unwrap(), rounding };
        // 10.01 EUR at 1.0850 are 10.86085 USD.
        assert_eq!(rate("1.0850", Rounding::HalfUp).convert(1_001, 2, 2), Some(1_086));
        assert_eq!(rate("1.0850", Rounding::Up).convert(1_001, 2, 2), Some(1_087));
        assert_eq!(rate("157.5", Rounding::HalfEven).convert(101, 2, 0), Some(159), "159.075 yen");
        assert_eq!(rate("2.5", Rounding::HalfEven).convert(1, 0, 0), Some(2));
        assert_eq!(rate("2.5", Rounding::HalfUp).convert(1, 0, 0), Some(3));
        assert_eq!(rate("1.0000000000000000000000000001", Rounding::Down).convert(AMOUNT_MAX, 2, 2), None);
    }

    proptest! {
        #[test]
        fn rates_are_read_as_they_were_written(mantissa in 1..1_i128 << 96, places in 0..=28_u32, mode in 0..4_u8) {
            let rate = Decimal::from_i128_with_scale(mantissa, places);
            let exchange = ExchangeRate { rate, rounding: Rounding::from_number(mode).unwrap() };
            prop_assert_eq!(ExchangeRate::decode(exchange.encode()), Some(exchange));
        }

        #[test]
        fn changes_are_read_as_they_were_written(state in 0..4_u8, level in any::<Option<u8>>(), overdraft in any::<Option<u64>>()) {
            let change = AccountChange {
                state: AccountState::from_number(state), level: level.filter(|&level| level < u8::MAX),
                overdraft: overdraft.map(u128::from),
            };
            prop_assert_eq!(AccountChange::of(&change.request(AccountId::from_raw(1))), Ok(change));
        }
    }
}
