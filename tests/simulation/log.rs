//! What clients sent and were told.

use std::collections::BTreeMap;

use heng::ledger::{Code, Outcome, Sequence};

use crate::plain::Ask;

/// What an answer says of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: Code,
    pub(crate) sequence: Sequence,
    pub(crate) time_ns: u64,
}

/// Transfers that are one step.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) asks: Vec<Ask>,
    pub(crate) gateway: u32,
    /// The highest sequence that anybody was told when this was first sent: its records come later.
    pub(crate) floor: Option<Sequence>,
    pub(crate) told: Vec<Option<Told>>,
    /// Which of them were answered as new: that is said once, though maybe after it was said to be a repeat.
    new: Vec<bool>,
}

impl Transaction {
    pub(crate) fn is_answered(&self) -> bool {
        self.told.iter().all(Option::is_some)
    }
}

/// Balances as they were told: id, the four totals, state, level, overdraft.
pub(crate) type Balance = (u128, [u128; 4], u8, u8, u128);

/// A read that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) floor: Sequence,
    pub(crate) sequence: Sequence,
    pub(crate) balances: Vec<Balance>,
}

/// All of one run.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) transactions: Vec<Transaction>,
    /// Transaction and place in it, by transfer id.
    pub(crate) by_id: BTreeMap<u128, (usize, usize)>,
    pub(crate) reads: Vec<Read>,
    /// The highest sequence that anybody was told.
    pub(crate) told_max: Sequence,
    /// Ids come in their order, so that runs of known ids lie apart.
    pub(crate) is_ordered: bool,
}

impl Log {
    /// A new id; several for one transaction count from 0.
    pub(crate) fn new_id(&self, place: usize) -> u128 {
        let number = u64::try_from(self.by_id.len() + place + 1).unwrap();
        u128::from(number.wrapping_mul(if self.is_ordered { 7_919 } else { 0x9E37_79B9_7F4A_7C15 }))
    }

    pub(crate) fn add(&mut self, asks: Vec<Ask>, gateway: u32) -> usize {
        let number = self.transactions.len();
        for (place, ask) in asks.iter().enumerate() {
            self.by_id.insert(ask.id, (number, place));
        }
        let told = vec![None; asks.len()];
        let new = vec![false; asks.len()];
        self.transactions.push(Transaction { asks, gateway, floor: None, told, new });
        number
    }

    /// Notes an answer; an error when it contradicts an earlier one.
    pub(crate) fn hear(&mut self, (number, place): (usize, usize), outcome: &Outcome) -> Result<(), String> {
        let transaction = &mut self.transactions[number];
        let told = Told { code: outcome.code, sequence: outcome.sequence, time_ns: outcome.time_ns };
        if told.sequence == 0 {
            // Nothing was recorded, so nothing is promised.
            return Ok(());
        }
        let id = transaction.asks[place].id;
        match transaction.told[place] {
            Some(first) if first != told => {
                return Err(format!("transfer {id} was first answered {first:?}, then {told:?}"));
            }
            _ if !outcome.repeated && std::mem::replace(&mut transaction.new[place], true) => {
                return Err(format!("transfer {id} was answered as new twice: {told:?}"));
            }
            _ => transaction.told[place] = Some(told),
        }
        self.told_max = self.told_max.max(told.sequence);
        Ok(())
    }
}
