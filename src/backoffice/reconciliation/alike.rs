//! Lines of bank statements that are alike, in one file and in several that overlap.
//!
//! A bank writes two payments of one amount on one day as two lines that are the same, and lists both again in its file of the week.

use hashbrown::HashMap;

use crate::backoffice::statement::StatementLine;

/// Lines with one day, amount and texts. What tells them apart is how many such lines there are before each.
pub(super) struct Alike<'a> {
    bytes: Vec<u8>,
    /// How many there were.
    count: &'a mut u32,
}

fn hash(bytes: &[u8]) -> u64 {
    blake3::hash(bytes).as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl<'a> Alike<'a> {
    /// Those like a line, by how many of each were seen in a file.
    pub(super) fn of(line: &StatementLine, seen: &'a mut HashMap<u64, u32>) -> Self {
        let mut bytes = [line.day.to_le_bytes().as_slice(), &line.amount.to_le_bytes()].concat();
        bytes.extend_from_slice(line.reference.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(line.text.as_bytes());
        let count = seen.entry(hash(&bytes)).or_default();
        Self { bytes, count }
    }

    /// What tells the next one apart.
    pub(super) fn next(&mut self) -> u64 {
        *self.count = self.count.saturating_add(1);
        let Self { bytes, count } = self;
        let length = bytes.len();
        bytes.extend_from_slice(&count.to_le_bytes());
        let fingerprint = hash(bytes);
        bytes.truncate(length);
        fingerprint
    }
}
