//! The two sides of an immediate transfer: the credit side of one that was debited here or at another shard, and how it ends.
//!
//! Not here: the debit side and what waits for an account ([`super::core`]).

use super::core::{Core, LOOKUP_BLOCK, Origin};
use super::legs::{Finished, Leg, Payer};
use crate::flow::Batch;
use crate::ledger::{Account, Code, Decision, Policy, Slot, Transfer};

impl Core {
    /// Decides a transfer whose debit side was checked and whose credit side is hosted here too; only what has to wait is reserved.
    #[inline]
    pub(super) fn both_here(
        &mut self,
        origin: Origin<'_>,
        (transfer, payer): (&Transfer, Payer),
        credit_slot: Option<Slot>,
    ) {
        let amount = transfer.amount;
        let decision = match credit_slot.and_then(|slot| Some((slot, self.accounts.get_mut(slot)?))) {
            None => Decision::Rejected(Code::CreditAccountUnknown),
            Some((slot, credit)) if credit.is_parked() && self.loans.get(&slot).is_some_and(|loan| loan.is_away) => {
                Decision::Undecided
            }
            Some((_, credit)) => credit_leg(&self.policy, credit, (transfer, payer), false),
        };
        let debit = self.accounts.get_mut(payer.slot);
        match (decision, debit) {
            (Decision::Accepted, Some(debit)) => {
                debit.post_debit(amount);
                self.decide(origin, transfer, Code::Accepted);
            }
            (Decision::Undecided, Some(debit)) => {
                debit.reserve(amount);
                self.credit(self.shard, origin, Leg { transfer: *transfer, payer }, credit_slot);
            }
            (Decision::Rejected(code), _) => self.decide(origin, transfer, code),
            // It was found a moment ago, and no account ever goes.
            (_, None) => debug_assert!(false, "a debit account is gone"),
        }
    }

    pub(super) fn accept(&mut self, from: usize, legs: &Batch<Leg>) {
        for block in legs.items().chunks(LOOKUP_BLOCK) {
            let mut slots = [None; LOOKUP_BLOCK];
            for (found, tagged) in slots.iter_mut().zip(block) {
                *found = self.accounts.find(tagged.item.transfer.credit);
            }
            for (slot, tagged) in slots.iter().zip(block) {
                if let Some(parcel) = legs.parcel(tagged.parcel) {
                    self.credit(from, Origin { parcel, index: tagged.index }, tagged.item, *slot);
                }
            }
        }
    }

    /// Credits a leg whose debit side is reserved at shard `from`, which may be this one, and ends it.
    #[inline]
    pub(super) fn credit(&mut self, from: usize, origin: Origin<'_>, leg: Leg, slot: Option<Slot>) {
        let decision = match slot.and_then(|slot| Some((slot, self.accounts.get_mut(slot)?))) {
            None => Decision::Rejected(Code::CreditAccountUnknown),
            Some((slot, credit)) if credit.is_parked() && self.loans.get(&slot).is_some_and(|loan| loan.is_away) => {
                return self.leg_to_desk(from, origin, leg);
            }
            Some((_, credit)) => credit_leg(&self.policy, credit, (&leg.transfer, leg.payer), false),
        };
        match decision {
            Decision::Accepted => self.end(from, origin, &leg, Code::Accepted),
            Decision::Rejected(code) => self.end(from, origin, &leg, code),
            Decision::Undecided => self.probe(from, origin, leg),
        }
    }

    /// Emits the outcome of a leg and tells the debit side.
    #[inline]
    pub(super) fn end(&mut self, from: usize, origin: Origin<'_>, leg: &Leg, code: Code) {
        self.decide(origin, &leg.transfer, code);
        let ended = Finished { debit_slot: leg.payer.slot, amount: leg.transfer.amount, accepted: code.is_accepted() };
        if from == self.shard {
            self.end_reservation(&ended);
        } else if let Some(list) = self.output.ended.get_mut(from) {
            list.push(ended);
        }
    }
}

/// What a credit account says to a leg; the debit account's rules were met where it is.
#[inline]
pub(super) fn credit_leg(
    policy: &Policy,
    credit: &mut Account,
    (transfer, payer): (&Transfer, Payer),
    known: bool,
) -> Decision {
    if payer.currency != credit.currency() {
        return Decision::Rejected(Code::CurrencyMismatch);
    }
    match policy.check_classes(payer.class, credit.class(), transfer.code) {
        Err(code) => Decision::Rejected(code),
        Ok(()) => credit.accept(transfer.amount, payer.currency, known),
    }
}
