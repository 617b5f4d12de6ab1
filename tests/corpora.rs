//! The corpora of the fuzz targets, replayed through the same parsers, with every corpus also cut short and with bits flipped.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a failed expectation is a failed test"
)]

#[path = "fuzz/parsers.rs"]
mod parsers;

use std::fs;
use std::path::Path;

/// Cuts and flips of each file.
const CHANGES: usize = 64;

#[test]
fn what_was_found_before_is_read_or_refused() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, parse) in parsers::PARSERS {
        let mut files = 0;
        for entry in fs::read_dir(corpora.join(name)).unwrap() {
            let mut bytes = fs::read(entry.unwrap().path()).unwrap();
            parse(&bytes);
            for change in 1..=CHANGES.min(bytes.len()) {
                let at = bytes.len() * change / (CHANGES + 1);
                parse(&bytes[..at]);
                bytes[at] ^= 1 << (change % 8);
                parse(&bytes);
                bytes[at] ^= 1 << (change % 8);
            }
            files += 1;
        }
        assert!(files >= 3, "{name} has {files} files");
    }
}
