//! Amounts in minor units, and their one way from and to decimals.
//!
//! [`parse_money`] reads `12.34 EUR`, [`format_minor_units`] writes it. Both are exact: a text with more decimal places
//! than the currency has is refused, never rounded.
//!
//! Not here: rounding rules for fees and exchange, which need a declared mode.

use rust_decimal::Decimal;

use super::currency::{Currency, CurrencyError};

/// The largest amount in minor units: 2^96 - 1, the largest whole number a `Decimal` holds.
pub const AMOUNT_MAX: u128 = (1 << 96) - 1;

/// A whole number of minor units, at most [`AMOUNT_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

/// Why a text or number is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// More than 2^96 - 1 minor units.
    #[error("amount is above 2^96 - 1 minor units")]
    TooLarge,
    /// Below zero: direction is said by debit and credit, never by a sign.
    #[error("amount is negative; direction is said by debit and credit account")]
    Negative,
    /// More decimal places than the currency has.
    #[error("{code} has {exponent} decimal places, the amount has more")]
    TooPrecise {
        /// The currency's letters.
        code: &'static str,
        /// Its number of decimal places.
        exponent: u32,
    },
    /// Not `NUMBER CODE`.
    #[error("`{0}` is not an amount; write it like `12.34 EUR`")]
    Syntax(String),
    /// The letters are no currency.
    #[error(transparent)]
    Currency(#[from] CurrencyError),
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Takes a number of minor units; `None` above [`AMOUNT_MAX`].
    pub const fn new(minor_units: u128) -> Option<Self> {
        if minor_units <= AMOUNT_MAX { Some(Self(minor_units)) } else { None }
    }

    /// The number of minor units.
    pub const fn minor_units(self) -> u128 {
        self.0
    }

    /// The sum, or `None` above [`AMOUNT_MAX`].
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }

    /// The difference, or `None` below zero.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The amount as a decimal in the currency's major unit, exact.
    pub fn to_decimal(self, currency: Currency) -> Decimal {
        // Both fit by construction: at most 96 bits, at most 28 places.
        i128::try_from(self.0)
            .ok()
            .and_then(|units| Decimal::try_from_i128_with_scale(units, currency.exponent()).ok())
            .unwrap_or_default()
    }

    /// Takes a decimal in the currency's major unit; refuses what is not exactly a number of minor units.
    pub fn from_decimal(value: Decimal, currency: Currency) -> Result<Self, AmountError> {
        if value.is_sign_negative() && !value.is_zero() {
            return Err(AmountError::Negative);
        }
        let exponent = currency.exponent();
        let value = value.normalize();
        let missing_places =
            exponent.checked_sub(value.scale()).ok_or(AmountError::TooPrecise { code: currency.code(), exponent })?;
        let factor = 10_u128.checked_pow(missing_places).ok_or(AmountError::TooLarge)?;
        let units = value.mantissa().unsigned_abs().checked_mul(factor).ok_or(AmountError::TooLarge)?;
        Self::new(units).ok_or(AmountError::TooLarge)
    }
}

/// Reads `12.34 EUR` exactly. Letter case of the currency does not matter.
pub fn parse_money(text: &str) -> Result<(Amount, Currency), AmountError> {
    let syntax = || AmountError::Syntax(text.to_owned());
    let mut words = text.split_whitespace();
    let (Some(number), Some(code), None) = (words.next(), words.next(), words.next()) else {
        return Err(syntax());
    };
    let currency = Currency::from_code(code)?;
    // `from_str_exact` refuses what it would have to round; its parser also takes `_`, which no invoice has.
    let digits = number.strip_prefix('-').unwrap_or(number);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(syntax());
    }
    // Well formed, so what does not fit has too many digits.
    let value = Decimal::from_str_exact(number).map_err(|_digits| AmountError::TooLarge)?;
    Ok((Amount::from_decimal(value, currency)?, currency))
}

/// Minor units of an unsigned decimal in major units of a currency with so many decimal places; `None` when it is none or not
/// exact.
pub fn from_major(text: &str, places: u32) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let value = Decimal::from_str_exact(text).ok()?.normalize();
    let missing = places.checked_sub(value.scale())?;
    let units = u128::try_from(value.mantissa()).ok()?.checked_mul(10_u128.checked_pow(missing)?)?;
    (units <= AMOUNT_MAX).then_some(units)
}

/// Writes signed minor units as `-12.34 EUR`. Exact for every `i128`.
pub fn format_minor_units(minor_units: i128, currency: Currency) -> String {
    let places = usize::try_from(currency.exponent()).unwrap_or(0);
    let sign = if minor_units < 0 { "-" } else { "" };
    let mut digits = format!("{:0width$}", minor_units.unsigned_abs(), width = places.saturating_add(1));
    if places > 0 {
        digits.insert(digits.len().saturating_sub(places), '.');
    }
    format!("{sign}{digits} {code}", code = currency.code())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn currency(code: &str) -> Currency {
        Currency::from_code(code).unwrap()
    }

    #[test]
    fn amounts_are_read_exactly_in_each_exponent() {
        for (text, minor_units) in [
            ("12.34 EUR", 1234),
            ("12.3 EUR", 1230),
            ("12 eur", 1200),
            ("0.01 EUR", 1),
            ("7 JPY", 7),
            ("1.234 BHD", 1234),
            ("792281625142643375935439503.35 EUR", AMOUNT_MAX),
        ] {
            assert_eq!(parse_money(text).map(|(amount, _)| amount.minor_units()), Ok(minor_units), "{text}");
        }
    }

    #[test]
    fn major_units_are_read_exactly_or_not_at_all() {
        assert_eq!(from_major("12.30", 2), Some(1_230));
        assert_eq!(from_major("5", 18), Some(5_000_000_000_000_000_000));
        assert_eq!(from_major("7.00", 0), Some(7));
        for text in ["1.234", "-1", "", "1.", ".5", "1e3", "79228162514264337593543950336"] {
            assert_eq!(from_major(text, 2), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_exactly_an_amount_is_refused() {
        assert!(matches!(parse_money("12.345 EUR"), Err(AmountError::TooPrecise { exponent: 2, .. })));
        assert!(matches!(parse_money("1.5 JPY"), Err(AmountError::TooPrecise { exponent: 0, .. })));
        assert_eq!(parse_money("-1 EUR"), Err(AmountError::Negative));
        assert_eq!(parse_money("792281625142643375935439503.36 EUR"), Err(AmountError::TooLarge));
        assert_eq!(parse_money("99999999999999999999999999999999 EUR"), Err(AmountError::TooLarge));
        for text in [
            "",
            "12",
            "EUR",
            "1 2 EUR",
            "1,5 EUR",
            "1_000 EUR",
            "1e3 EUR",
            "NaN EUR",
            "+1 EUR",
            "1. EUR",
            ".5 EUR",
            "1.2.3 EUR",
            "-- EUR",
        ] {
            assert!(matches!(parse_money(text), Err(AmountError::Syntax(_) | AmountError::Currency(_))), "{text}");
        }
    }

    #[test]
    fn sums_above_the_limit_are_none() {
        let most = Amount::new(AMOUNT_MAX).unwrap();
        let one = Amount::new(1).unwrap();
        assert_eq!(most.checked_add(one), None);
        assert_eq!(Amount::ZERO.checked_sub(one), None);
        assert_eq!(Amount::new(AMOUNT_MAX + 1), None);
    }

    #[test]
    fn signed_sums_are_written_with_all_their_places() {
        assert_eq!(format_minor_units(-5, currency("EUR")), "-0.05 EUR");
        assert_eq!(format_minor_units(123, currency("JPY")), "123 JPY");
        assert_eq!(format_minor_units(1_000, currency("KWD")), "1.000 KWD");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(units in 0..=AMOUNT_MAX, code in prop::sample::select(vec!["EUR", "JPY", "BHD", "CLF"])) {
            let amount = Amount::new(units).unwrap();
            let text = format_minor_units(i128::try_from(units).unwrap(), currency(code));
            prop_assert_eq!(parse_money(&text), Ok((amount, currency(code))));
            prop_assert_eq!(Amount::from_decimal(amount.to_decimal(currency(code)), currency(code)), Ok(amount));
        }
    }
}
