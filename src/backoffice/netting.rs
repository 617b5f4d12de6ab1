//! From positions to who pays whom.
//!
//! Gross: what a participant received is paid out, what it owes is collected, nothing is set off. Bilateral: for each pair the one
//! that owes more pays the difference. Multilateral: each participant has one amount against all others.

use std::collections::BTreeMap;

use crate::ledger::{HOUSE, LegKey, Netting, Positions, Scheme};

/// The most that a balancing transfer moves.
const BALANCING_MAX: u128 = u64::MAX as u128;

/// An amount that is to be settled between a participant and the bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Place of the participant.
    pub place: u32,
    /// Place of the other side, when netting is bilateral; the house for all others.
    pub counterparty: u32,
    /// Whether the participant owes it.
    pub is_collection: bool,
    /// Minor units.
    pub amount: u128,
}

impl Instruction {
    /// What names it in its window.
    pub fn key(&self) -> LegKey {
        (self.place, self.counterparty, self.is_collection)
    }
}

/// The instructions that settle a window: what is collected before what is paid out of it, each in order of participant. Those below the
/// scheme's minimum payout are left for the next window, and so is what one transfer cannot hold. The house settles nothing with itself.
pub fn instructions(scheme: &Scheme, positions: &Positions) -> Vec<Instruction> {
    let mut found = match scheme.netting {
        Netting::Multilateral => multilateral(positions),
        Netting::Gross => gross(positions),
        Netting::Bilateral => bilateral(positions),
    };
    found.retain(|instruction| {
        instruction.amount > 0 && (instruction.is_collection || instruction.amount >= scheme.minimum_payout)
    });
    for instruction in &mut found {
        instruction.amount = instruction.amount.min(BALANCING_MAX);
    }
    found.sort_unstable_by_key(|found| (!found.is_collection, found.place, found.counterparty));
    found
}

fn signed(place: u32, counterparty: u32, net: i128) -> Instruction {
    Instruction { place, counterparty, is_collection: net < 0, amount: net.unsigned_abs() }
}

fn multilateral(positions: &Positions) -> Vec<Instruction> {
    positions.iter().skip(1).map(|(place, position)| signed(place, HOUSE, position.net())).collect()
}

fn gross(positions: &Positions) -> Vec<Instruction> {
    let both = positions.iter().skip(1).map(|(place, position)| {
        // What was carried over is an amount of its own direction.
        let carried = position.carried.unsigned_abs();
        let (more_credit, more_debit) = if position.carried > 0 { (carried, 0) } else { (0, carried) };
        let credit = position.credits.saturating_add(more_credit);
        let debit = position.debits.saturating_add(more_debit);
        [
            Instruction { place, counterparty: HOUSE, is_collection: false, amount: credit },
            Instruction { place, counterparty: HOUSE, is_collection: true, amount: debit },
        ]
    });
    both.flatten().collect()
}

fn bilateral(positions: &Positions) -> Vec<Instruction> {
    let mut nets: BTreeMap<(u32, u32), i128> = BTreeMap::new();
    for (&(payer, payee), &amount) in positions.pairs() {
        let amount = i128::try_from(amount).unwrap_or(i128::MAX);
        for (pair, amount) in [((payee, payer), amount), ((payer, payee), amount.saturating_neg())] {
            let net = nets.entry(pair).or_default();
            *net = net.saturating_add(amount);
        }
    }
    for (place, position) in positions.iter().skip(1) {
        let net = nets.entry((place, HOUSE)).or_default();
        *net = net.saturating_add(position.carried);
    }
    let of_participants = nets.into_iter().filter(|((place, _), _)| *place != HOUSE);
    of_participants.map(|((place, counterparty), net)| signed(place, counterparty, net)).collect()
}
