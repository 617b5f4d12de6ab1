//! Bytes for the parser `camt053`.
#![no_main]

#[path = "../parsers.rs"]
#[allow(dead_code, reason = "each target has one parser")]
mod parsers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parsers::camt053(bytes));
