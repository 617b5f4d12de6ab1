//! The book's own account of what is open: holds and delayed transfers, what was given back, and what limits counted.
//!
//! Follows from the records alone, like the balances. An entry knows the last record that touched it; one from a checkpoint
//! ignores records up to that one.

use hashbrown::HashMap;

use super::counters::Counters;
use super::levels::FormerLevels;
use super::lives::Lives;
use super::shelf::Shelf;
use crate::ledger::bucket::used;
use crate::ledger::policy::Policy;
use crate::ledger::tally::{Counted, Scope};
use crate::ledger::{GatewayId, Life, Operation, Pending, PendingKind, Sequence, Transfer, TransferId};

/// Entries per block of the store, so that a block stays below 7 KiB.
pub const PENDINGS_PER_BLOCK: u32 = 60;
/// What is open.
#[derive(Debug)]
pub struct Open {
    /// Holds, delayed transfers, reserves.
    pub pendings: Shelf<TransferId, Pending>,
    /// What was given back.
    pub lives: Lives,
    /// What levels of accounts were before they were changed.
    pub levels: FormerLevels,
    /// What limits counted.
    pub tallies: Counters,
}

impl Open {
    pub(super) fn new() -> Self {
        Self {
            pendings: Shelf::new(PENDINGS_PER_BLOCK, |pending| pending.id),
            lives: Lives::new(),
            levels: FormerLevels::default(),
            tallies: Counters::default(),
        }
    }

    /// Notes what a record opens.
    pub(super) fn opened(
        &mut self,
        transfer: &Transfer,
        (gateway, second, levels): (GatewayId, u32, (u8, u8)),
        sequence: Sequence,
    ) {
        let opened = Pending::opened(transfer, gateway, (second, levels), sequence);
        let Some(pending) = opened else { return };
        if self.pendings.get(pending.id).is_none_or(|known| known.head < sequence) {
            self.pendings.put(pending);
        }
    }

    /// Another policy: nobody knows which of its limits have counted what is open now, so nothing is given back of that.
    pub(super) fn policy_changed(&mut self, sequence: Sequence) {
        let counted = |pending: &&Pending| pending.kind != PendingKind::Reserve && pending.head < sequence;
        let open: Vec<Pending> = self.pendings.iter().filter(counted).copied().collect();
        for pending in open {
            self.pendings.put(Pending { levels: Pending::MIXED, head: sequence, ..pending });
        }
    }

    /// Notes what a record does to something open; answers how that was before. `horizon` is up to where a checkpoint may have
    /// forgotten what is closed.
    pub(super) fn acted(
        &mut self,
        (transfer, levels): (&Transfer, (u8, u8)),
        sequence: Sequence,
        horizon: Sequence,
    ) -> Result<Option<Pending>, &'static str> {
        let id = TransferId::from_raw(transfer.related);
        let Some(&before) = self.pendings.get(id) else {
            return if sequence <= horizon { Ok(None) } else { Err("it is about nothing that is open") };
        };
        if before.head >= sequence {
            return Ok(None);
        }
        if (before.debit, before.credit) != (transfer.debit, transfer.credit) {
            return Err("its accounts are not those of what it is about");
        }
        let amount = transfer.amount;
        let mut after = Pending { head: sequence, ..before };
        let mut closes = false;
        match transfer.operation() {
            Operation::Raise => after = after.raised(amount, levels),
            operation => {
                after.left = after.left.checked_sub(amount).ok_or("more than what is set aside")?;
                if operation == Operation::Capture {
                    after.captured = after.captured.saturating_add(amount);
                }
                closes = after.left == 0;
            }
        }
        let suits = match transfer.operation() {
            Operation::Arrive => before.kind != PendingKind::Hold,
            Operation::Void => before.kind != PendingKind::Reserve,
            _ => before.kind == PendingKind::Hold,
        };
        if !suits {
            return Err("it cannot be done to what it is about");
        }
        if closes {
            self.pendings.remove(id);
        } else {
            self.pendings.put(after);
        }
        Ok(Some(before))
    }

    /// Notes what a refund, a reversal or a void gives back. Of what was open until now nothing was given back before.
    pub(super) fn gave_back(
        &mut self,
        transfer: &Transfer,
        (sequence, was_open): (Sequence, bool),
    ) -> Result<(), &'static str> {
        let id = TransferId::from_raw(transfer.related);
        let before = if was_open { None } else { self.lives.get(id) };
        let life = before.unwrap_or_default();
        if life.head >= sequence {
            return Ok(());
        }
        if life.is_over {
            return Err("what it is about was reversed before");
        }
        let refund = transfer.operation() == Operation::Refund;
        let refunded = life.refunded.saturating_add(if refund { transfer.amount } else { 0 });
        self.lives.put(id, Life { refunded, is_over: !refund, head: sequence }, before);
        Ok(())
    }
}

/// Sums of what is open by account, to be compared with the accounts: pending debits and credits.
pub(super) fn pending_sums(open: &Open) -> HashMap<crate::ledger::AccountId, (u128, u128)> {
    let mut sums: HashMap<_, (u128, u128)> = HashMap::new();
    for pending in open.pendings.iter() {
        let debit = sums.entry(pending.debit).or_default();
        debit.0 = debit.0.saturating_add(pending.left);
        let credit = sums.entry(pending.credit).or_default();
        credit.1 = credit.1.saturating_add(pending.left);
    }
    sums
}

/// The limits about a subject, with what was used of each as of a second.
pub(super) fn used_of(open: &Open, policy: &Policy, counted: &Counted, scopes: &[Scope]) -> Vec<super::LimitUse> {
    let mut uses = Vec::new();
    for group in policy.groups().iter().filter(|group| scopes.contains(&group.scope)) {
        let tally = open.tallies.get(group.subject(counted));
        for own in group.limits.iter().filter(|own| own.selects(policy, counted)) {
            let Some(limit) = policy.limits.get(own.index) else { continue };
            let buckets = tally.as_ref().and_then(|tally| tally.buckets.get(own.place.clone())).unwrap_or_default();
            let now = used(buckets, limit.part(counted.second));
            uses.push((limit.name.clone(), now, (limit.sum_max, limit.count_max)));
        }
    }
    uses
}
