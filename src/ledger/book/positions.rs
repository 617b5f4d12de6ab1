//! Positions: what each participant received and paid in a window.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::signed;
use super::windows::{HOUSE, Participant};
use crate::ledger::Sequence;
use crate::ledger::rows::index_of;

/// What a participant received and paid in a window, minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Paid.
    pub debits: u128,
    /// Received.
    pub credits: u128,
    /// How often it paid.
    pub debit_count: u64,
    /// How often it received.
    pub credit_count: u64,
    /// Left over from windows before; negative when it owes.
    pub carried: i128,
}

impl Position {
    /// What it is to receive, or, when negative, owes.
    pub fn net(&self) -> i128 {
        signed(self.credits).saturating_sub(signed(self.debits)).saturating_add(self.carried)
    }
}

/// The positions of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// By place of the participant; the house first.
    of: Vec<Position>,
    /// Payer and payee, each pair in both directions, where netting is bilateral.
    pairs: BTreeMap<(u32, u32), u128>,
    /// Transfers.
    count: u64,
}

impl Positions {
    /// The position of the participant in a place.
    pub fn of(&self, place: u32) -> Position {
        self.of.get(index_of(place)).copied().unwrap_or_default()
    }

    /// All positions with their places, the house first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Position)> {
        (0..).zip(&self.of)
    }

    /// What each payer paid to each payee, by place.
    pub fn pairs(&self) -> &BTreeMap<(u32, u32), u128> {
        &self.pairs
    }

    /// How many transfers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What those who receive are to receive, minor units.
    pub fn sum(&self) -> u128 {
        let nets = self.of.iter().map(|position| u128::try_from(position.net()).unwrap_or(0));
        nets.fold(0, u128::saturating_add)
    }

    /// What all positions add up to: nothing.
    pub fn total(&self) -> i128 {
        self.of.iter().fold(0, |sum, position| position.net().saturating_add(sum))
    }

    #[inline]
    fn at(&mut self, place: u32) -> &mut Position {
        let place = index_of(place);
        if place >= self.of.len() {
            self.of.resize(place.saturating_add(1), Position::default());
        }
        #[expect(clippy::indexing_slicing, reason = "made long enough just now")]
        &mut self.of[place]
    }

    #[inline]
    pub(super) fn transfer(&mut self, debit: u32, credit: u32, amount: u128, with_pairs: bool) {
        self.count = self.count.saturating_add(1);
        if debit == credit {
            return;
        }
        let from = self.at(debit);
        from.debits = from.debits.saturating_add(amount);
        from.debit_count = from.debit_count.saturating_add(1);
        let to = self.at(credit);
        to.credits = to.credits.saturating_add(amount);
        to.credit_count = to.credit_count.saturating_add(1);
        if with_pairs {
            let pair = self.pairs.entry((debit, credit)).or_default();
            *pair = pair.saturating_add(amount);
        }
    }

    pub(super) fn carry(&mut self, place: u32, amount: i128) {
        let position = self.at(place);
        position.carried = position.carried.saturating_add(amount);
        let house = self.at(HOUSE);
        house.carried = house.carried.saturating_sub(amount);
    }

    /// The digest of what is final: the same positions have the same digest, in whatever order participants registered.
    pub fn digest(&self, window: (u16, u32), last: Sequence, participants: &[Participant]) -> [u8; 32] {
        let id = |place: u32| participants.get(index_of(place)).map_or(0, |participant| participant.id);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"heng window 1");
        hasher.update(&window.0.to_le_bytes()).update(&window.1.to_le_bytes()).update(&last.to_le_bytes());
        hasher.update(&self.count.to_le_bytes());
        let mut rows: Vec<(u32, &Position)> = self.iter().map(|(place, position)| (id(place), position)).collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        for (id, position) in rows.into_iter().filter(|(_, position)| **position != Position::default()) {
            hasher.update(&id.to_le_bytes()).update(&position.debits.to_le_bytes());
            hasher.update(&position.credits.to_le_bytes()).update(&position.carried.to_le_bytes());
            hasher.update(&position.debit_count.to_le_bytes()).update(&position.credit_count.to_le_bytes());
        }
        let pairs: BTreeMap<(u32, u32), u128> =
            self.pairs.iter().map(|(&(payer, payee), &amount)| ((id(payer), id(payee)), amount)).collect();
        for ((payer, payee), amount) in pairs {
            hasher.update(&payer.to_le_bytes()).update(&payee.to_le_bytes()).update(&amount.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}
