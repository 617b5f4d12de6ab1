//! Currencies: ISO 4217 by number, letters and decimal places.
//!
//! The table is the crate `iso_currency`; a currency without a minor unit of its own (gold, test codes) counts as having
//! no decimal places. On the wire and on disk a currency is its ISO 4217 number.
//!
//! Not here: own assets by configuration.

/// An ISO 4217 currency.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

/// Why there is no such currency.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CurrencyError {
    /// The letters are not in ISO 4217.
    #[error("`{0}` is not an ISO 4217 currency code")]
    UnknownCode(String),
    /// The number is not in ISO 4217.
    #[error("{0} is not an ISO 4217 currency number")]
    UnknownNumber(u16),
}

impl Currency {
    /// Finds a currency by its letters, in any case.
    pub fn from_code(code: &str) -> Result<Self, CurrencyError> {
        iso_currency::Currency::from_code(&code.to_ascii_uppercase())
            .map(Self)
            .ok_or_else(|| CurrencyError::UnknownCode(code.to_owned()))
    }

    /// Finds a currency by its ISO 4217 number, as it stands on the wire and on disk.
    pub fn from_number(number: u16) -> Result<Self, CurrencyError> {
        iso_currency::Currency::from_numeric(number).map(Self).ok_or(CurrencyError::UnknownNumber(number))
    }

    /// The ISO 4217 number.
    pub fn number(self) -> u16 {
        self.0.numeric()
    }

    /// The three letters.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// The number of decimal places.
    pub fn exponent(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }
}

impl std::fmt::Debug for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl std::fmt::Display for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_come_from_iso_4217() {
        for (code, number, exponent) in
            [("EUR", 978, 2), ("JPY", 392, 0), ("BHD", 48, 3), ("CLF", 990, 4), ("XAU", 959, 0)]
        {
            let currency = Currency::from_code(code).unwrap();
            assert_eq!((currency.number(), currency.exponent()), (number, exponent), "{code}");
            assert_eq!(Currency::from_number(number), Ok(currency));
        }
    }

    #[test]
    fn unknown_currencies_are_named() {
        assert_eq!(Currency::from_code("EURO"), Err(CurrencyError::UnknownCode("EURO".to_owned())));
        assert_eq!(Currency::from_number(1), Err(CurrencyError::UnknownNumber(1)));
    }
}
