//! Fees and withheld reserves, posted in the same step as the payment that bears them, and what comes back with its reversal.

use std::sync::Arc;

use super::{Accounts, Desk};
use crate::ledger::charge::{PaidBy, ReserveRule, reserve_ids};
use crate::ledger::{AccountId, Code, GatewayId, Operation, Pending, PendingKind, Transfer, TransferId};
use crate::planted::{self, Bug};

impl Desk {
    /// Charges a payment that was just posted: fees of both sides, then reserves.
    pub(super) fn charge(
        &mut self,
        accounts: &mut impl Accounts,
        payment: &Transfer,
        gateway: GatewayId,
    ) -> Result<(), Code> {
        self.charge_payer(accounts, payment)?;
        self.charge_payee(accounts, payment, gateway)
    }

    /// Takes the fees that the payer bears on top.
    pub(super) fn charge_payer(&mut self, accounts: &mut impl Accounts, payment: &Transfer) -> Result<(), Code> {
        self.take_fees(accounts, payment, PaidBy::Payer)
    }

    /// Takes the fees that the payee bears out of the payment, and withholds reserves.
    pub(super) fn charge_payee(
        &mut self,
        accounts: &mut impl Accounts,
        payment: &Transfer,
        gateway: GatewayId,
    ) -> Result<(), Code> {
        self.take_fees(accounts, payment, PaidBy::Payee)?;
        let policy = Arc::clone(self.policy());
        for (rule, place) in policy.reserves.iter().zip(0_u32..) {
            self.withhold(accounts, payment, (rule, place), gateway)?;
        }
        Ok(())
    }

    fn take_fees(&mut self, accounts: &mut impl Accounts, payment: &Transfer, by: PaidBy) -> Result<(), Code> {
        if self.policy().fees.is_empty() {
            return Ok(());
        }
        let policy = Arc::clone(self.policy());
        let bearer = if by == PaidBy::Payer { payment.debit } else { payment.credit };
        let mut left = payment.amount;
        for rule in policy.fees.iter().filter(|rule| rule.paid_by == by) {
            let Some(account) = accounts.account(bearer) else { continue };
            if !rule.applies(payment.code, account.currency(), account.level()) {
                continue;
            }
            let fee = rule.fee(payment.amount).ok_or(Code::FeeExceedsAmount)?;
            if by == PaidBy::Payee {
                left = left.checked_sub(fee).ok_or(Code::FeeExceedsAmount)?;
            }
            for (recipient, part) in rule.divide(fee) {
                let leg =
                    Transfer { code: rule.fee_code, ..caused(Operation::Fee, payment, (bearer, recipient), part) };
                self.post_charge(accounts, &leg)?;
            }
        }
        Ok(())
    }

    fn withhold(
        &mut self,
        accounts: &mut impl Accounts,
        payment: &Transfer,
        (rule, place): (&ReserveRule, u32),
        gateway: GatewayId,
    ) -> Result<(), Code> {
        let Some(payee) = accounts.account(payment.credit) else { return Ok(()) };
        // A reserve is one of its account's currency.
        let is_other = accounts.account(rule.account).is_some_and(|reserve| reserve.currency() != payee.currency());
        if is_other || payment.credit == rule.account || !rule.applies(payment.code, payee.class(), payee.level()) {
            return Ok(());
        }
        let part = rule.part(payment.amount).ok_or(Code::FeeExceedsAmount)?;
        // Its id is known to whoever can compute it, so a client may have used it.
        let id = reserve_ids(cause_of(payment), place).find(|id| self.pending(*id).is_none()).unwrap_or_default();
        let leg = Transfer {
            id,
            code: rule.reserve_code,
            time_ns: self.now_ns.saturating_add(rule.lasts_ns),
            ..caused(Operation::Withhold, payment, (payment.credit, rule.account), part)
        };
        self.post_charge(accounts, &leg)?;
        if part > 0 {
            // What is in reserve is promised back, so it cannot be spent from there.
            let pending = Pending::opened(&leg, gateway, (self.second(), (0, 0)), 0);
            let back = Transfer { debit: leg.credit, credit: leg.debit, ..leg };
            accounts.account(back.debit).ok_or(Code::DebitAccountUnknown)?.check_debit(part)?;
            accounts.account(back.credit).ok_or(Code::CreditAccountUnknown)?.check_credit(part)?;
            if !planted::is(Bug::ReserveSpendable) {
                self.set_aside(accounts, &back);
            }
            self.set_pending(leg.id, pending);
        }
        Ok(())
    }

    /// Brings back what is withheld of a transfer that is now reversed, so that its payee has that to give back, too. Only reserves whose
    /// accounts the policy names are at the desk; what is withheld elsewhere comes back on its day.
    pub(super) fn bring_back(&mut self, accounts: &mut impl Accounts, reversal: &Transfer) {
        let policy = Arc::clone(self.policy());
        let is_of_it = |pending: &Pending| {
            pending.kind == PendingKind::Reserve
                && pending.credit == reversal.debit
                && policy.reserves.iter().any(|rule| rule.account == pending.debit)
                && !planted::is(Bug::ReserveKept)
        };
        for id in policy.reserves_of(TransferId::from_raw(reversal.related)) {
            if let Some(reserve) = self.pending(id).copied().filter(is_of_it) {
                self.arrive(accounts, &reserve);
            }
        }
    }

    /// Posts a charge under the rules of its own code; nothing for an amount of zero.
    fn post_charge(&mut self, accounts: &mut impl Accounts, leg: &Transfer) -> Result<(), Code> {
        if leg.amount == 0 || leg.debit == leg.credit {
            return Ok(());
        }
        let debit = accounts.account(leg.debit).ok_or(Code::DebitAccountUnknown)?;
        debit.check_debit(leg.amount)?;
        let credit = accounts.account(leg.credit).ok_or(Code::CreditAccountUnknown)?;
        if debit.currency() != credit.currency() {
            return Err(Code::CurrencyMismatch);
        }
        self.policy().check_classes(debit.class(), credit.class(), leg.code)?;
        credit.check_credit_state()?;
        credit.check_credit(leg.amount)?;
        self.post(accounts, leg);
        self.make_internal(*leg);
        Ok(())
    }
}

/// The id of what a charge is about: an arrival's is that of the transfer that arrives.
fn cause_of(payment: &Transfer) -> TransferId {
    if payment.operation() == Operation::Arrive { TransferId::from_raw(payment.related) } else { payment.id }
}

fn caused(operation: Operation, payment: &Transfer, between: (AccountId, AccountId), amount: u128) -> Transfer {
    Transfer {
        debit: between.0,
        credit: between.1,
        amount,
        flags: operation as u16,
        related: cause_of(payment).raw(),
        user_data_128: payment.user_data_128,
        ..Transfer::default()
    }
}
