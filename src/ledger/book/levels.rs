//! Levels that accounts had before they were changed.
//!
//! A checkpoint at sequence N has each account as of N or later, and limits count a record by the levels that its accounts had then. So a replay from N
//! must know what a level was before a change that the account in the store has seen already.
//!
//! # Invariants
//!
//! 1. As of each record after the last durable checkpoint, [`FormerLevels::as_of`] answers the levels that the accounts had then.
//! 2. What [`FormerLevels::take_new`] gives is durable before any account with that change is written.

use std::collections::BTreeMap;

use crate::ledger::{Sequence, Slot};

/// The level that an account had until a record changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerLevel {
    /// The account's slot.
    pub slot: Slot,
    /// The record that changed it.
    pub until: Sequence,
    /// The level before.
    pub level: u8,
}

/// All that a replay may ask for.
#[derive(Debug, Default)]
pub struct FormerLevels {
    /// Whether there is a store, so that there will be replays.
    is_kept: bool,
    levels: BTreeMap<(Slot, Sequence), u8>,
    /// Not yet taken to be written.
    new: Vec<FormerLevel>,
}

impl FormerLevels {
    /// Goes on from what a store has; without this nothing is kept.
    pub fn load(&mut self, known: impl IntoIterator<Item = FormerLevel>) {
        self.is_kept = true;
        self.levels.extend(known.into_iter().map(|former| ((former.slot, former.until), former.level)));
    }

    /// Notes what a record changes.
    pub(super) fn note(&mut self, former: FormerLevel) {
        if self.is_kept {
            self.levels.insert((former.slot, former.until), former.level);
            self.new.push(former);
        }
    }

    /// The level of an account as of a record, given its level after the last record that it has seen.
    #[inline]
    pub(super) fn as_of(&self, sequence: Sequence, slot: Slot, (level, head): (u8, Sequence)) -> u8 {
        if head < sequence { level } else { self.before(sequence, slot).unwrap_or(level) }
    }

    #[cold]
    fn before(&self, sequence: Sequence, slot: Slot) -> Option<u8> {
        self.levels.range((slot, sequence)..=(slot, Sequence::MAX)).next().map(|(_, level)| *level)
    }

    /// Those that were noted since the last call.
    pub fn take_new(&mut self) -> Vec<FormerLevel> {
        std::mem::take(&mut self.new)
    }

    /// Forgets what no replay from this checkpoint asks for; answers whether there was anything.
    pub fn forget(&mut self, checkpoint: Sequence) -> bool {
        let before = self.levels.len();
        self.levels.retain(|(_, until), _| *until > checkpoint);
        self.levels.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_the_record() {
        let mut levels = FormerLevels::default();
        let former = |slot, until, level| FormerLevel { slot, until, level };
        levels.note(former(1, 5, 0));
        assert_eq!(levels.as_of(4, 1, (3, 5)), 3, "without a store nothing is kept");
        levels.load([former(1, 10, 0)]);
        levels.note(former(1, 20, 1));
        levels.note(former(2, 15, 7));
        assert_eq!(levels.take_new(), [former(1, 20, 1), former(2, 15, 7)]);
        assert_eq!(levels.take_new(), []);
        // Account 1 went from 0 over 1 to 2, account 2 from 7 to 8; both were written after record 50.
        let as_of = |levels: &FormerLevels, sequence| {
            [(1, 2), (2, 8)].map(|(slot, now)| levels.as_of(sequence, slot, (now, 50)))
        };
        for (sequence, both) in [(9, [0, 7]), (11, [1, 7]), (16, [1, 8]), (21, [2, 8]), (99, [2, 8])] {
            assert_eq!(as_of(&levels, sequence), both, "as of {sequence}");
        }
        assert_eq!(levels.as_of(9, 1, (0, 8)), 0, "an account that has seen nothing later knows best");
        assert_eq!(levels.as_of(12, 1, (1, 11)), 1);
        assert!(levels.forget(10) && !levels.forget(10));
        assert_eq!(as_of(&levels, 11), [1, 7], "what comes later is still known");
        assert!(levels.forget(20));
        assert_eq!(as_of(&levels, 11), [2, 8]);
    }
}
