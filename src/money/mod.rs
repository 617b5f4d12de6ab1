//! Money: whole minor units inside, decimals for people.
//!
//! An [`Amount`] is a whole number of minor units (cents, fils, yen), at most 2^96 - 1, so that each one is exactly a
//! [`rust_decimal::Decimal`]. A [`Currency`] is an ISO 4217 currency and gives the number of decimal places. There is no
//! floating point anywhere in this crate's handling of money.
//!
//! # Invariants
//!
//! 1. Every `Amount` fits a `Decimal` without losing a digit; parsing what was printed gives the same amount.
//! 2. Arithmetic is checked: it answers `None` and never wraps.
//!
//! # Not here
//!
//! Balances (sums on an account): [`crate::ledger`].

mod amount;
mod currency;

pub use amount::{AMOUNT_MAX, Amount, AmountError, format_minor_units, from_major, parse_money};
pub use currency::{Currency, CurrencyError};
