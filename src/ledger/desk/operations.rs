//! One transfer of a transaction: every operation's rules, in their order.
//!
//! The rules of the debit account come before those of the credit account, as for an immediate transfer between two shards;
//! then limits, then charges.

use super::{Accounts, Desk, Order};
use crate::ledger::policy::Policy;
use crate::ledger::tally::Counted;
use crate::ledger::{
    AccountChange, BALANCING, Code, ExchangeRate, GatewayId, Life, MORE, Operation, Original, Pending, PendingKind,
    SettlementPurpose, Transfer, TransferId,
};
use crate::planted::{self, Bug};

/// Which rules about the two accounts apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    /// All.
    All,
    /// Correcting a mistake: neither freezes nor segregation stand in the way, and what is spent may be owed.
    Correction,
}

impl Desk {
    /// Decides one transfer of a transaction.
    pub(super) fn leg(&mut self, accounts: &mut impl Accounts, orders: &[Order], leg: usize) -> Result<(), Code> {
        let Some(order) = orders.get(leg) else { return Ok(()) };
        let transfer = &order.transfer;
        if let Some(code) = order.refused {
            return Err(code);
        }
        transfer.check()?;
        order.grant.check(transfer)?;
        match transfer.operation() {
            Operation::Transfer => self.transfer(accounts, order, leg),
            Operation::Exchange => self.exchange(accounts, orders, leg),
            Operation::Hold | Operation::Delayed => self.hold(accounts, order, leg),
            Operation::Raise => self.raise(accounts, order, leg),
            Operation::Capture => self.capture(accounts, order, leg),
            Operation::Void => self.void(accounts, order, leg),
            Operation::Refund => self.refund(accounts, order, leg),
            Operation::Reversal => self.reversal(accounts, order, leg),
            Operation::Require => self.require(accounts, order, leg),
            Operation::Change => self.change_account(accounts, order, leg),
            _ => Err(Code::OperationUnknown),
        }
    }

    /// The rules about the two accounts of a movement.
    fn check_accounts(&self, accounts: &impl Accounts, transfer: &Transfer, rules: Rules) -> Result<(), Code> {
        if rules == Rules::All {
            self.policy().check_parties(transfer.debit, transfer.credit)?;
        }
        let debit = accounts.account(transfer.debit).ok_or(Code::DebitAccountUnknown)?;
        match (rules, debit.check_debit_state()) {
            (Rules::All, checked) => checked?,
            (Rules::Correction, Err(Code::DebitAccountClosed)) => return Err(Code::DebitAccountClosed),
            (Rules::Correction, _) => {}
        }
        debit.check_debit(transfer.amount)?;
        let credit = accounts.account(transfer.credit).ok_or(Code::CreditAccountUnknown)?;
        if debit.currency() != credit.currency() {
            return Err(Code::CurrencyMismatch);
        }
        if rules == Rules::All {
            self.policy().check_classes(debit.class(), credit.class(), transfer.code)?;
        }
        match (rules, credit.check_credit_state()) {
            (Rules::All, checked) => checked?,
            (Rules::Correction, Err(Code::CreditAccountClosed)) => return Err(Code::CreditAccountClosed),
            (Rules::Correction, _) => {}
        }
        credit.check_credit(transfer.amount)
    }

    /// Counts a movement towards the limits, if its operation is one that counts.
    fn count_transfer(
        &mut self,
        accounts: &impl Accounts,
        transfer: &Transfer,
        gateway: GatewayId,
    ) -> Result<(), Code> {
        self.counted(accounts, transfer, gateway).map_or(Ok(()), |counted| self.count(&counted))
    }

    /// Checks what a hold has grown to against the limits for one operation, which counted its beginning alone.
    fn check_grown(
        &mut self,
        accounts: &impl Accounts,
        (raise, whole): (&Transfer, u128),
        gateway: GatewayId,
    ) -> Result<(), Code> {
        let counted = self.counted(accounts, raise, gateway);
        counted.map_or(Ok(()), |counted| self.check_once(&Counted { amount: whole, ..counted }))
    }

    /// What limits count of a movement, if they do.
    fn counted(&self, accounts: &impl Accounts, transfer: &Transfer, gateway: GatewayId) -> Option<Counted> {
        let is_free = gateway.is_ledger() && !planted::is(Bug::SettlementLimited);
        if !self.policy().has_limits() || is_free || !Policy::counts(transfer.operation()) {
            return None;
        }
        let (debit, credit) = (accounts.account(transfer.debit)?, accounts.account(transfer.credit)?);
        Some(Counted {
            slots: (None, None),
            debit: (transfer.debit, debit.level()),
            credit: (transfer.credit, credit.level()),
            gateway,
            code: transfer.code,
            currency: debit.currency(),
            amount: transfer.amount,
            count: u32::from(transfer.operation() != Operation::Raise),
            second: self.second(),
        })
    }

    fn transfer(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let asked = &order.transfer;
        let mut transfer = *asked;
        if asked.has(BALANCING) {
            let debit = accounts.account(asked.debit).ok_or(Code::DebitAccountUnknown)?;
            // What the ledger pays out is what is there when it is decided, whatever may be owed. What it collects comes from the bank's mirror.
            let is_collected = asked.user_data_32 == SettlementPurpose::Collection as u32;
            let is_payout = order.gateway.is_ledger() && !is_collected;
            let available = if is_payout { Some(debit.own_means()) } else { debit.available() };
            transfer.amount = available.map_or(asked.amount, |available| available.min(asked.amount));
            transfer.time_ns = u64::try_from(asked.amount).unwrap_or(u64::MAX);
        }
        self.check_accounts(accounts, &transfer, Rules::All)?;
        if transfer.amount == 0 {
            self.make(leg, transfer);
            return Ok(());
        }
        self.count_transfer(accounts, &transfer, order.gateway)?;
        self.post(accounts, &transfer);
        self.make(leg, transfer);
        if order.gateway.is_ledger() { Ok(()) } else { self.charge(accounts, &transfer, order.gateway) }
    }

    fn exchange(&mut self, accounts: &mut impl Accounts, orders: &[Order], leg: usize) -> Result<(), Code> {
        let Some(order) = orders.get(leg) else { return Ok(()) };
        let transfer = &order.transfer;
        let rate = ExchangeRate::decode(transfer.related).ok_or(Code::RateInvalid)?;
        if self.is_over(transfer) {
            return Err(Code::QuoteExpired);
        }
        // The other side of the exchange is the leg before, as it was done.
        let before = leg.checked_sub(1);
        let paid = self.made.iter().rev().find(|made| made.leg.is_some() && made.leg == before);
        let paid = paid.filter(|paid| paid.transfer.operation() == Operation::Transfer).ok_or(Code::RateMismatch)?;
        self.check_accounts(accounts, transfer, Rules::All)?;
        let currency = |id| accounts.account(id).map(super::Account::currency);
        let from = currency(paid.transfer.debit).and_then(|number| self.policy().exponent(number));
        let to = currency(transfer.debit).and_then(|number| self.policy().exponent(number));
        let (from, to) = (from.ok_or(Code::CurrencyUnknown)?, to.ok_or(Code::CurrencyUnknown)?);
        match rate.convert(paid.transfer.amount, from, to) {
            None => return Err(Code::RateInvalid),
            Some(amount) if amount != transfer.amount => return Err(Code::RateMismatch),
            Some(_) => {}
        }
        self.count_transfer(accounts, transfer, order.gateway)?;
        self.post(accounts, transfer);
        self.make(leg, *transfer);
        Ok(())
    }

    /// Whether the time of a transfer has come.
    fn is_over(&self, transfer: &Transfer) -> bool {
        transfer.time_ns != 0 && transfer.time_ns <= self.now_ns && !planted::is(Bug::OverTaken)
    }

    fn hold(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let transfer = &order.transfer;
        if transfer.operation() == Operation::Hold && self.is_over(transfer) {
            return Err(Code::TimePast);
        }
        if self.pending(transfer.id).is_some() {
            // A reserve has this id, which the ledger chose.
            return Err(Code::IdReused);
        }
        self.check_accounts(accounts, transfer, Rules::All)?;
        self.count_transfer(accounts, transfer, order.gateway)?;
        self.set_aside(accounts, transfer);
        let counted = (self.second(), Self::levels(accounts, transfer.debit, transfer.credit));
        self.set_pending(transfer.id, Pending::opened(transfer, order.gateway, counted, 0));
        self.make(leg, *transfer);
        if transfer.operation() == Operation::Delayed { self.charge_payer(accounts, transfer) } else { Ok(()) }
    }

    /// The hold or delayed transfer that an operation names.
    fn named(&self, transfer: &Transfer) -> Result<Pending, Code> {
        let pending = self.pending(TransferId::from_raw(transfer.related)).ok_or(Code::HoldNotOpen)?;
        if pending.kind != PendingKind::Reserve && pending.time_ns != 0 && pending.time_ns <= self.now_ns {
            // Its expiry, or arrival, is recorded next, however many are due before it.
            return Err(Code::HoldNotOpen);
        }
        let suits = match pending.kind {
            PendingKind::Hold => true,
            PendingKind::Delayed => transfer.operation() == Operation::Void,
            PendingKind::Reserve => false,
        };
        if !suits {
            Err(Code::HoldKindMismatch)
        } else if (pending.debit, pending.credit, pending.code) == (transfer.debit, transfer.credit, transfer.code) {
            // The code decides over classes, limits and fees, so it is that of the hold for all that comes of it.
            Ok(*pending)
        } else {
            Err(Code::HoldMismatch)
        }
    }

    fn raise(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let transfer = &order.transfer;
        let pending = self.named(transfer)?;
        if order.gateway != pending.gateway {
            // Limits count it for the gateway of the hold, and give it back there.
            return Err(Code::HoldMismatch);
        }
        self.check_accounts(accounts, transfer, Rules::All)?;
        self.check_grown(accounts, (transfer, pending.held.saturating_add(transfer.amount)), order.gateway)?;
        self.count_transfer(accounts, transfer, order.gateway)?;
        self.set_aside(accounts, transfer);
        let levels = Self::levels(accounts, transfer.debit, transfer.credit);
        self.set_pending(pending.id, Some(pending.raised(transfer.amount, levels)));
        self.make(leg, *transfer);
        Ok(())
    }

    fn capture(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let transfer = &order.transfer;
        let mut pending = self.named(transfer)?;
        let captured = pending.captured.saturating_add(transfer.amount);
        if transfer.amount > pending.left {
            if captured > self.policy().capture_max(pending.held) {
                return Err(Code::CaptureTooLarge);
            }
            if order.gateway != pending.gateway {
                return Err(Code::HoldMismatch);
            }
            self.stretch(accounts, &mut pending, transfer)?;
        }
        self.give_back(accounts, &pending, transfer.amount);
        self.post(accounts, transfer);
        self.make(leg, *transfer);
        pending.left = pending.left.saturating_sub(transfer.amount);
        pending.captured = captured;
        if pending.left > 0 && !transfer.has(MORE) && !planted::is(Bug::RestNotReleased) {
            let rest = internal(Operation::Release, &pending, Self::levels(accounts, pending.debit, pending.credit));
            self.give_back(accounts, &pending, pending.left);
            self.uncount(accounts, &pending, pending.left);
            self.make_internal(rest);
            pending.left = 0;
        }
        self.set_pending(pending.id, (pending.left > 0).then_some(pending));
        self.charge(accounts, transfer, order.gateway)
    }

    /// Makes a hold as large as a capture that the tolerance allows.
    fn stretch(&mut self, accounts: &mut impl Accounts, pending: &mut Pending, capture: &Transfer) -> Result<(), Code> {
        let more = capture.amount.saturating_sub(pending.left);
        let raise = Transfer { amount: more, ..internal(Operation::Raise, pending, pending.levels) };
        // It is new money, under all the rules for that.
        self.check_accounts(accounts, &raise, Rules::All)?;
        self.check_grown(accounts, (&raise, pending.captured.saturating_add(capture.amount)), pending.gateway)?;
        self.count_transfer(accounts, &raise, pending.gateway)?;
        self.set_aside(accounts, &raise);
        self.make_internal(raise);
        // What was held before counts for the tolerance, so only the levels and what is left change.
        let levels = Self::levels(accounts, pending.debit, pending.credit);
        pending.levels = pending.raised(more, levels).levels;
        pending.left = capture.amount;
        Ok(())
    }

    fn void(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let pending = self.named(&order.transfer)?;
        if !planted::is(Bug::ReleaseLost) {
            self.give_back(accounts, &pending, pending.left);
        }
        self.uncount(accounts, &pending, pending.left);
        self.set_pending(pending.id, None);
        if pending.kind == PendingKind::Delayed {
            // It will never have arrived, so nothing can be refunded of it.
            self.set_life(pending.id, Life { is_over: true, ..Life::default() });
        }
        let counted = pending.counted(pending.left, Self::levels(accounts, pending.debit, pending.credit));
        self.make(leg, Transfer { amount: pending.left, time_ns: counted, ..order.transfer });
        Ok(())
    }

    /// What has been given back of the original so far, if it is one and this is about it.
    fn original(&self, order: &Order) -> Result<(u128, Life), Code> {
        let transfer = &order.transfer;
        let original = match &order.original {
            Original::Known { transfer, accepted: true } => transfer,
            Original::Known { accepted: false, .. } => return Err(Code::OriginalNotPosted),
            Original::NotAsked | Original::Unknown => return Err(Code::OriginalUnknown),
        };
        let moved = match original.operation() {
            Operation::Transfer | Operation::Capture | Operation::Exchange => original.amount,
            Operation::Delayed if self.pending(original.id).is_none() => original.amount,
            _ => 0,
        };
        if moved == 0 {
            return Err(Code::OriginalNotPosted);
        }
        if (original.debit, original.credit) != (transfer.credit, transfer.debit) {
            return Err(Code::OriginalMismatch);
        }
        let life = self.life(original.id);
        if life.is_over { Err(Code::AlreadyReversed) } else { Ok((moved, life)) }
    }

    fn refund(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let transfer = &order.transfer;
        let (moved, life) = self.original(order)?;
        let before = if planted::is(Bug::RefundNotCounted) { 0 } else { life.refunded };
        let refunded = before.saturating_add(transfer.amount);
        if refunded > moved {
            return Err(Code::RefundTooLarge);
        }
        self.check_accounts(accounts, transfer, Rules::All)?;
        self.post(accounts, transfer);
        self.set_life(TransferId::from_raw(transfer.related), Life { refunded, ..life });
        self.make(leg, *transfer);
        Ok(())
    }

    fn reversal(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let transfer = &order.transfer;
        let (moved, life) = self.original(order)?;
        if life.refunded != 0 {
            return Err(Code::AlreadyReversed);
        }
        if transfer.amount != moved {
            return Err(Code::OriginalMismatch);
        }
        self.bring_back(accounts, transfer);
        let checked = self.check_accounts(accounts, transfer, Rules::Correction);
        if checked == Err(Code::InsufficientFunds) {
            self.borrow_for(accounts, transfer)?;
            self.check_accounts(accounts, transfer, Rules::Correction)?;
        } else {
            checked?;
        }
        self.post(accounts, transfer);
        self.set_life(TransferId::from_raw(transfer.related), Life { is_over: true, ..life });
        self.make(leg, *transfer);
        Ok(())
    }

    /// Has the policy's receivable account lend what the debit account lacks, so that a reversal can go through.
    fn borrow_for(&mut self, accounts: &mut impl Accounts, reversal: &Transfer) -> Result<(), Code> {
        let debit = accounts.account(reversal.debit).ok_or(Code::DebitAccountUnknown)?;
        let lender = self.policy().receivable(debit.currency()).ok_or(Code::InsufficientFunds)?;
        let lacking = reversal.amount.saturating_sub(debit.available().unwrap_or(reversal.amount));
        let loan = Transfer {
            id: TransferId::derived(reversal.id, u32::MAX),
            debit: lender,
            credit: reversal.debit,
            amount: lacking,
            code: reversal.code,
            related: reversal.id.raw(),
            ..Transfer::default()
        };
        self.check_accounts(accounts, &loan, Rules::Correction)?;
        self.post(accounts, &loan);
        self.make_internal(loan);
        Ok(())
    }

    fn require(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let transfer = &order.transfer;
        let account = accounts.account(transfer.debit).ok_or(Code::DebitAccountUnknown)?;
        // The ledger asks for what is there, as where it pays out.
        let available = if order.gateway.is_ledger() { Some(account.own_means()) } else { account.available() };
        if available.is_some_and(|available| available < transfer.amount) {
            return Err(Code::RequirementNotMet);
        }
        self.make(leg, *transfer);
        Ok(())
    }

    fn change_account(&mut self, accounts: &mut impl Accounts, order: &Order, leg: usize) -> Result<(), Code> {
        let change = AccountChange::of(&order.transfer)?;
        accounts.account(order.transfer.debit).ok_or(Code::DebitAccountUnknown)?;
        let mut changed = Ok(());
        self.change(accounts, order.transfer.debit, |account| changed = account.change(&change));
        changed?;
        self.make(leg, order.transfer);
        Ok(())
    }
}

/// A record of the ledger's own about something open.
pub(super) fn internal(operation: Operation, pending: &Pending, levels: (u8, u8)) -> Transfer {
    let gives_back = matches!(operation, Operation::Release | Operation::Expire);
    Transfer {
        time_ns: if gives_back { pending.counted(pending.left, levels) } else { 0 },
        debit: pending.debit,
        credit: pending.credit,
        amount: pending.left,
        code: pending.code,
        flags: operation as u16,
        related: pending.id.raw(),
        ..Transfer::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::{Account, AccountFlags, AccountId, BookAccount, Grant, NewAccount, Table, Totals};

    /// What the ledger pays out, or asks for, is there and not held, whatever may be owed.
    #[test]
    fn the_ledger_pays_from_nothing_but_what_is_there() {
        let limited = AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS;
        for (flags, overdraft) in [(AccountFlags(0), 0), (limited, 0), (limited, 1_000)] {
            let [payer, other] = [1, 2].map(AccountId::from_raw);
            let submit = |gateway, operation: u16, purpose: SettlementPurpose, amount| {
                let mut accounts: Table<Account> = Table::new();
                let account = |id| NewAccount { id, currency: 978, code: 1, flags, overdraft, ..NewAccount::default() };
                let totals = Totals { credits_posted: 150, debits_posted: 50, debits_pending: 30, ..Totals::default() };
                accounts.host(&BookAccount { totals, ..BookAccount::open(&account(payer)) });
                accounts.host(&BookAccount::open(&account(other)));
                let credit = if operation == BALANCING { other } else { AccountId::default() };
                let (id, user_data_32) = (TransferId::from_raw(9), purpose as u32);
                let transfer = Transfer {
                    id,
                    debit: payer,
                    credit,
                    amount,
                    code: 7,
                    flags: operation,
                    user_data_32,
                    ..Transfer::default()
                };
                let original = Original::NotAsked;
                let order = Order { transfer, gateway: GatewayId(gateway), grant: Grant::ALL, original, refused: None };
                let mut desk = Desk::new(Arc::default());
                desk.decide(&mut accounts, &[order]).map_err(|refusal| refusal.code)?;
                Ok(desk.made().first().map_or(0, |made| made.transfer.amount))
            };
            let require = Operation::Require as u16;
            let most = if flags.has(limited) { 70 + overdraft } else { 5_000 };
            assert_eq!(submit(0, BALANCING, SettlementPurpose::Payout, 5_000), Ok(70), "{flags:?} {overdraft}");
            assert_eq!(submit(0, BALANCING, SettlementPurpose::Collection, 5_000), Ok(most), "the bank may owe");
            assert_eq!(submit(1, BALANCING, SettlementPurpose::Payout, 5_000), Ok(most), "nobody else's is a payout");
            assert_eq!(submit(0, require, SettlementPurpose::Distribution, 70), Ok(70));
            assert_eq!(submit(0, require, SettlementPurpose::Distribution, 71), Err(Code::RequirementNotMet));
            assert_eq!(
                submit(1, require, SettlementPurpose::Distribution, most),
                Ok(most),
                "what may be owed is available"
            );
        }
    }
}
