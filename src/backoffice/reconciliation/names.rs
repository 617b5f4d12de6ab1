//! What entries of a mirror account are called: the open ones of a name, and what became of those that are matched.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::matching::Tolerance;

/// Fingerprints of names of entries that are matched, with the amounts of the last ones: there are as many as there ever were entries.
#[derive(Debug, Default)]
pub(super) struct Gone(HashMap<u64, i64>);

impl Gone {
    /// Ids are spread already, references count up: both are folded.
    fn key(name: u128) -> u64 {
        let halves = u64::try_from(name >> 64).unwrap_or(0) ^ u64::try_from(name & u128::from(u64::MAX)).unwrap_or(0);
        halves.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    pub(super) fn insert(&mut self, name: u128, amount: i128) {
        let limit = if amount > 0 { i64::MAX } else { i64::MIN };
        self.0.insert(Self::key(name), i64::try_from(amount).unwrap_or(limit));
    }

    pub(super) fn get(&self, name: u128) -> Option<i128> {
        self.0.get(&Self::key(name)).copied().map(i128::from)
    }
}

/// Open entries of one name that are looked at, besides those of a line's amount: a customer's number may be that of a million.
pub(super) const NAMED_MAX: usize = 64;

/// The open entries of one name.
#[derive(Debug)]
pub(super) enum Namesakes {
    /// In no order; at most [`NAMED_MAX`].
    Few(Vec<u32>),
    /// By amount and day.
    Many(BTreeSet<(i128, i32, u32)>),
}

impl Namesakes {
    /// Those that a line of an amount may be about: when there are many, those of its amount if there are any.
    pub(super) fn of(&self, amount: i128, tolerance: Tolerance) -> Vec<u32> {
        let many = match self {
            Self::Few(few) => return few.clone(),
            Self::Many(many) => many,
        };
        let around = i128::try_from(tolerance.amount).unwrap_or(i128::MAX);
        let least = (amount.saturating_sub(around), i32::MIN, 0);
        let fitting = many.range(least..).take_while(|known| known.0 <= amount.saturating_add(around));
        let fitting: Vec<u32> = fitting.map(|known| known.2).take(NAMED_MAX).collect();
        if fitting.is_empty() { many.iter().map(|known| known.2).take(NAMED_MAX).collect() } else { fitting }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }
}
