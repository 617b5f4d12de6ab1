//! What happens by itself when its time has come: holds expire, delayed transfers and reserves arrive.

use std::cmp::Reverse;

use super::operations::internal;
use super::{Accounts, Desk};
use crate::ledger::{Operation, Pending, PendingKind, Transfer, TransferId};

/// Times kept for each thing that is open, beyond some for nothing: most holds are captured long before they would expire.
const TIMES_EACH: usize = 4;
const TIMES_SPARE: usize = 65_536;

impl Desk {
    /// Forgets the times of what is not open any more, when there are too many of them.
    pub(super) fn forget_gone(&mut self) {
        if self.due.len() > self.pendings.len().saturating_mul(TIMES_EACH).saturating_add(TIMES_SPARE) {
            let open = self.pendings.values().filter(|pending| pending.time_ns != 0);
            self.due = open.map(|pending| Reverse((pending.time_ns, pending.id))).collect();
        }
    }

    /// Takes the next thing whose time has come, with its accounts; `None` when there is none.
    pub fn next_due(&mut self) -> Option<Pending> {
        while let Some(&Reverse((time_ns, id))) = self.due.peek().filter(|first| first.0.0 <= self.now_ns) {
            self.due.pop();
            // What was captured or voided meanwhile is not due any more.
            if let Some(pending) = self.pendings.get(&id).filter(|pending| pending.time_ns == time_ns) {
                return Some(*pending);
            }
        }
        None
    }

    /// Does what is due with something open, if it still is; what was done is in [`Self::made`]. Both accounts must be there, and
    /// those of the policy's charges.
    pub fn fall_due(&mut self, accounts: &mut impl Accounts, id: TransferId) {
        self.made.clear();
        self.undo.clear();
        let Some(pending) = self.pendings.get(&id).copied().filter(|pending| pending.time_ns <= self.now_ns) else {
            return;
        };
        if pending.kind == PendingKind::Hold {
            let levels = Self::levels(accounts, pending.debit, pending.credit);
            self.give_back(accounts, &pending, pending.left);
            self.set_pending(id, None);
            self.uncount(accounts, &pending, pending.left);
            self.make_internal(internal(Operation::Expire, &pending, levels));
            return;
        }
        let arrival = self.arrive(accounts, &pending);
        if pending.kind == PendingKind::Delayed {
            let (changes, records) = (self.undo.len(), self.made.len());
            // Money that was promised arrives, also when a fee cannot be taken from it.
            if self.charge_payee(accounts, &arrival, pending.gateway).is_err() {
                self.undo_to(accounts, changes);
                self.made.truncate(records);
            }
        }
        for made in self.made.iter().filter(|made| made.transfer.operation() == Operation::Withhold) {
            self.due.push(Reverse((made.transfer.time_ns, made.transfer.id)));
        }
    }

    /// Posts what is set aside to whom it was promised; answers the record.
    pub(super) fn arrive(&mut self, accounts: &mut impl Accounts, pending: &Pending) -> Transfer {
        let arrival = internal(Operation::Arrive, pending, pending.levels);
        self.give_back(accounts, pending, pending.left);
        self.set_pending(pending.id, None);
        self.post(accounts, &arrival);
        self.make_internal(arrival);
        arrival
    }
}
