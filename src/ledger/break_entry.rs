//! What the journal records of bank statements and of breaks.
//!
//! ```text
//! place      8       9       10        11        12          16           24    32       48     64                  88     92     96
//! statement          skips                       number      hash (32)                   account mapping (24)       lines  wrong  sum
//! break      action  key is  other is  how       statement   place or     other account  other  text (56, from 72)
//!                    a line  a line              of the key  sequence                    statement (64)
//! ```
//!
//! All little-endian; texts are filled up with zero bytes. The gateway at 4 is who did it.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::fields::{get, set};
use super::{AccountId, GatewayId, RECORD_BYTES, Sequence};

/// A statement was imported, or what is open was matched again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatementEntry {
    /// The import's number, from 1 for each bank account; 0 when nothing was imported and what is open was matched again.
    pub number: u32,
    /// BLAKE3 hash of the file, which is kept under it.
    pub hash: [u8; 32],
    /// The bank account's mirror.
    pub account: AccountId,
    /// The mapping by which it was read; empty unless it is CSV.
    pub mapping: [u8; 24],
    /// Lines that were read.
    pub lines: u32,
    /// What could not be read.
    pub wrong: u32,
    /// Sum of the lines, minor units.
    pub sum: i128,
    /// Whether lines that earlier imports had were left out.
    pub skips_known: bool,
    /// Who imported it.
    pub by: GatewayId,
}

/// Which break: that of a statement's line, or of an entry of the mirror account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BreakKey {
    /// A line: number of the import, place in it from 1.
    Line(u32, u32),
    /// The entry of this record.
    Entry(Sequence),
}

impl fmt::Display for BreakKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(statement, place) => write!(f, "L{statement}.{place}"),
            Self::Entry(sequence) => write!(f, "E{sequence}"),
        }
    }
}

/// A text that names no break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a break is named like L3.17, a line of an import, or E12345, an entry of the ledger")]
pub struct BreakKeyError;

impl FromStr for BreakKey {
    type Err = BreakKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let line = || {
            let (statement, place) = text.strip_prefix('L')?.split_once('.')?;
            Some(Self::Line(statement.parse().ok()?, place.parse().ok()?))
        };
        let entry = || text.strip_prefix('E')?.parse().ok().map(Self::Entry);
        line().or_else(entry).ok_or(BreakKeyError)
    }
}

/// What someone did about a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BreakAction {
    /// Said whose it is.
    Assign = 1,
    /// Said something about it.
    Comment = 2,
    /// Proposed a resolution that another person must agree to.
    Propose = 3,
    /// Resolved it.
    Resolve = 4,
}

impl BreakAction {
    const ALL: [Self; 4] = [Self::Assign, Self::Comment, Self::Propose, Self::Resolve];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Assign => "assign",
            Self::Comment => "comment",
            Self::Propose => "propose",
            Self::Resolve => "resolve",
        }
    }
}

/// How a break is resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[repr(u8)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// It came to match by itself.
    #[default]
    Matched = 0,
    /// The difference is posted against the account for that.
    WriteOff = 1,
    /// It is matched with another break by hand.
    Rematch = 2,
    /// It is explained or corrected elsewhere; no money moves.
    Accept = 3,
}

impl Resolution {
    const ALL: [Self; 4] = [Self::Matched, Self::WriteOff, Self::Rematch, Self::Accept];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::WriteOff => "write-off",
            Self::Rematch => "rematch",
            Self::Accept => "accept",
        }
    }

    /// Reads the name of what a person can choose.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name && *known != Self::Matched)
    }
}

/// Someone did something about a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakEntry {
    /// The bank account's mirror.
    pub account: AccountId,
    /// Which break.
    pub key: BreakKey,
    /// What.
    pub action: BreakAction,
    /// How it is resolved.
    pub resolution: Resolution,
    /// With which it is matched by hand.
    pub other: Option<BreakKey>,
    /// Owner, comment.
    pub text: [u8; 56],
    /// Who.
    pub by: GatewayId,
}

impl StatementEntry {
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], by: GatewayId) -> Self {
        Self {
            number: u32::from_le_bytes(get::<12, 4>(bytes)),
            hash: get::<16, 32>(bytes),
            account: AccountId::from_raw(u128::from_le_bytes(get::<48, 16>(bytes))),
            skips_known: get::<9, 1>(bytes) == [1],
            mapping: get::<64, 24>(bytes),
            lines: u32::from_le_bytes(get::<88, 4>(bytes)),
            wrong: u32::from_le_bytes(get::<92, 4>(bytes)),
            sum: i128::from_le_bytes(get::<96, 16>(bytes)),
            by,
        }
    }

    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        set::<9, 1>(&mut bytes, [u8::from(self.skips_known)]);
        set::<12, 4>(&mut bytes, self.number.to_le_bytes());
        set::<16, 32>(&mut bytes, self.hash);
        set::<48, 16>(&mut bytes, self.account.raw().to_le_bytes());
        set::<64, 24>(&mut bytes, self.mapping);
        set::<88, 4>(&mut bytes, self.lines.to_le_bytes());
        set::<92, 4>(&mut bytes, self.wrong.to_le_bytes());
        set::<96, 16>(&mut bytes, self.sum.to_le_bytes());
        bytes
    }
}

/// A key as whether it is a line, its statement, and its place or sequence.
fn parts(key: BreakKey) -> (u8, u32, u64) {
    match key {
        BreakKey::Line(statement, place) => (1, statement, u64::from(place)),
        BreakKey::Entry(sequence) => (2, 0, sequence),
    }
}

fn key((kind, statement, number): (u8, u32, u64)) -> Option<BreakKey> {
    match kind {
        1 => u32::try_from(number).ok().map(|place| BreakKey::Line(statement, place)),
        2 => Some(BreakKey::Entry(number)),
        _ => None,
    }
}

impl BreakEntry {
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], by: GatewayId) -> Option<Self> {
        let [action, kind, other, how] = get::<8, 4>(bytes);
        let statement = u32::from_le_bytes(get::<12, 4>(bytes));
        let other_statement = u32::from_le_bytes(get::<64, 4>(bytes));
        Some(Self {
            account: AccountId::from_raw(u128::from_le_bytes(get::<32, 16>(bytes))),
            key: key((kind, statement, u64::from_le_bytes(get::<16, 8>(bytes))))?,
            action: BreakAction::ALL.into_iter().find(|known| *known as u8 == action)?,
            resolution: Resolution::ALL.into_iter().find(|known| *known as u8 == how)?,
            other: key((other, other_statement, u64::from_le_bytes(get::<24, 8>(bytes)))),
            text: get::<72, 56>(bytes),
            by,
        })
    }

    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let (kind, statement, number) = parts(self.key);
        let (other, other_statement, other_number) = self.other.map_or((0, 0, 0), parts);
        set::<8, 4>(&mut bytes, [self.action as u8, kind, other, self.resolution as u8]);
        set::<12, 4>(&mut bytes, statement.to_le_bytes());
        set::<16, 8>(&mut bytes, number.to_le_bytes());
        set::<24, 8>(&mut bytes, other_number.to_le_bytes());
        set::<32, 16>(&mut bytes, self.account.raw().to_le_bytes());
        set::<64, 4>(&mut bytes, other_statement.to_le_bytes());
        set::<72, 56>(&mut bytes, self.text);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{Record, padded};

    fn any_key() -> impl Strategy<Value = BreakKey> {
        prop_oneof![
            any::<(u32, u32)>().prop_map(|(statement, place)| BreakKey::Line(statement, place)),
            any::<u64>().prop_map(BreakKey::Entry),
        ]
    }

    proptest! {
        #[test]
        fn entries_are_read_as_they_were_written(
            account in any::<u128>(), small in any::<[u32; 4]>(), hash in any::<[u8; 32]>(), sum in any::<i128>(),
            key in any_key(), other in prop::option::of(any_key()), which in 0..4_usize, text in "[a-z]{0,24}",
        ) {
            let (account, by) = (AccountId::from_raw(account), GatewayId(small[0]));
            let statement = StatementEntry {
                number: small[1], hash, account, mapping: padded(&text).unwrap(), lines: small[2], wrong: small[3], sum,
                skips_known: which == 1, by,
            };
            let entry = BreakEntry {
                account, key, action: BreakAction::ALL[which], resolution: Resolution::ALL[which], other,
                text: padded(&text).unwrap(), by,
            };
            for record in [Record::Statement(statement), Record::Break(entry)] {
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
            }
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn what_names_no_break_is_refused() {
        for text in ["", "L3", "L3.", "E", "X1", "E-1"] {
            assert_eq!(text.parse::<BreakKey>(), Err(BreakKeyError), "{text}");
        }
    }
}
