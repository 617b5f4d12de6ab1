//! What a record does to its two accounts, and the rules that must hold afterwards.

use crate::ledger::policy::Policy;
use crate::ledger::{AccountFlags, AccountState, Operation, PackedAccount, Sequence, Totals, Transfer};
use crate::money::AMOUNT_MAX;

/// What a record adds to the four totals; each record moves one amount in one way.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four independent effects, read on the hot path")]
pub(super) struct Effect {
    amount: u128,
    /// Posted debits of the one account and credits of the other grow.
    pub(super) posts: bool,
    /// Pending ones grow.
    opens: bool,
    /// Pending ones shrink.
    closes: bool,
    /// Pending ones grow the other way round: what is withheld will come back.
    returns: bool,
}

impl Effect {
    #[inline]
    pub(super) fn of(transfer: &Transfer) -> Self {
        let operation = transfer.operation();
        let closes = matches!(
            operation,
            Operation::Capture | Operation::Arrive | Operation::Void | Operation::Release | Operation::Expire
        );
        let opens = operation.is_set_aside();
        Self {
            amount: transfer.amount,
            posts: operation.posts(),
            opens,
            closes,
            returns: operation == Operation::Withhold,
        }
    }

    /// Changes the debit account's totals.
    #[inline]
    pub(super) fn on_debit(&self, totals: &mut Totals) -> Result<(), &'static str> {
        let Totals { debits_posted, debits_pending, credits_pending, .. } = totals;
        self.change(debits_posted, debits_pending, credits_pending)
    }

    /// Changes the credit account's totals.
    #[inline]
    pub(super) fn on_credit(&self, totals: &mut Totals) -> Result<(), &'static str> {
        let Totals { credits_posted, credits_pending, debits_pending, .. } = totals;
        self.change(credits_posted, credits_pending, debits_pending)
    }

    #[inline]
    fn change(&self, posted: &mut u128, pending: &mut u128, returning: &mut u128) -> Result<(), &'static str> {
        if self.posts {
            *posted = posted.saturating_add(self.amount);
        }
        if self.opens {
            *pending = pending.saturating_add(self.amount);
        }
        if self.closes {
            *pending = pending.checked_sub(self.amount).ok_or("more is given back than was set aside")?;
        }
        if self.returns {
            *returning = returning.saturating_add(self.amount);
        }
        Ok(())
    }
}

/// The rules about the totals of an account with these flags and this overdraft, which hold after every record.
#[inline]
pub(super) fn check_totals((flags, overdraft): (AccountFlags, u128), totals: &Totals) -> Result<(), &'static str> {
    let &Totals { debits_posted, credits_posted, debits_pending, credits_pending } = totals;
    let debits = debits_posted.saturating_add(debits_pending);
    let credits = credits_posted.saturating_add(credits_pending);
    if debits > AMOUNT_MAX || credits > AMOUNT_MAX {
        Err("a total passes 2^96 - 1")
    } else if flags.has(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS)
        && debits > credits_posted.saturating_add(overdraft)
    {
        Err("the debit account's debits exceed its credits")
    } else if flags.has(AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS) && credits > debits_posted {
        Err("the credit account's credits exceed its debits")
    } else {
        Ok(())
    }
}

/// The rules about who may pay whom, for what moves new money. An account that is ahead of the record says nothing about it.
#[inline]
pub(super) fn check_parties(
    policy: &Policy,
    transfer: &Transfer,
    by_client: bool,
    (debit, credit): (&PackedAccount, &PackedAccount),
    sequence: Sequence,
) -> Result<(), &'static str> {
    let operation = transfer.operation();
    let charge = matches!(operation, Operation::Fee | Operation::Withhold);
    let new_money = by_client
        && (operation.is_set_aside()
            || matches!(operation, Operation::Transfer | Operation::Exchange | Operation::Refund));
    if !new_money && !charge {
        return Ok(());
    }
    let (debit_known, credit_known) = (debit.head() < sequence, credit.head() < sequence);
    if new_money && debit_known && debit.state() != AccountState::Open {
        return Err("the debit account may not be debited");
    }
    if credit_known && matches!(credit.state(), AccountState::Frozen | AccountState::Closed) {
        return Err("the credit account may not be credited");
    }
    if new_money && policy.check_parties(transfer.debit, transfer.credit).is_err() {
        return Err("the two parties are denied");
    }
    let class = |account: &PackedAccount| crate::ledger::AccountClass::from_number(account.class()).unwrap_or_default();
    policy
        .check_classes(class(debit), class(credit), transfer.code)
        .map_err(|_code| "its code may not move money between these classes")
}
