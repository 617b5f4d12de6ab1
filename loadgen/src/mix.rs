//! Which operations: fills requests with holds and captures, delayed transfers, transactions, refunds, or all of them.
//!
//! What is about an earlier operation is about one that the same connection sent before. Nothing here is known to have been
//! accepted: the model counts what the answers say, whatever was planned.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heng::ledger::{AccountChange, AccountId, BALANCING, ExchangeRate, LINKED, Operation, Rounding, Transfer};
use rust_decimal::Decimal;

use crate::workload::{Planned, Workload};

/// Earlier operations remembered per connection; the oldest are forgotten.
const REMEMBERED: usize = 100_000;

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mix {
    /// Immediate transfers.
    Plain,
    /// Holds, and captures of the whole; each counts as one operation.
    TwoPhase,
    /// Delayed transfers, some of them cancelled.
    Delayed,
    /// Transactions of two to four transfers; each transfer counts.
    Transactions,
    /// Transfers, and refunds of parts of them.
    Refunds,
    /// All of these and more: half immediate transfers.
    Full,
}

/// What an accepted operation does to its two accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Moves the amount.
    Post,
    /// Sets the amount aside.
    Pend,
    /// Moves the amount out of what was set aside, and gives back so much more.
    Capture(u32),
    /// Gives the amount back.
    Free,
    /// Takes back what was to be moved later.
    Unpost,
    /// Nothing.
    None,
}

/// When delayed transfers arrive.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) after: Duration,
    pub(crate) within: Duration,
    /// The latest due time so far, nanoseconds since 1970 UTC.
    pub(crate) last_ns: Arc<AtomicU64>,
}

impl Due {
    /// For mixes without delayed transfers.
    pub(crate) fn none() -> Self {
        Self { after: Duration::ZERO, within: Duration::ZERO, last_ns: Arc::default() }
    }

    /// Whether they arrive before accounts are compared: then they count as moved, else as set aside.
    pub(crate) fn arrives(&self) -> bool {
        self.after.saturating_add(self.within) <= Duration::from_mins(2)
    }
}

/// An earlier operation.
#[derive(Clone, Copy, Debug)]
struct Earlier {
    transfer: Transfer,
    planned: Planned,
}

/// Fills one connection's requests.
#[derive(Debug)]
pub(crate) struct Mixer {
    workload: Workload,
    mix: Mix,
    due: Due,
    holds: VecDeque<Earlier>,
    /// The newest hold that runs out by itself.
    expiring: Option<Earlier>,
    delayed: VecDeque<Earlier>,
    done: VecDeque<Earlier>,
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn remember(list: &mut VecDeque<Earlier>, earlier: Earlier) {
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(earlier);
}

/// Requests being filled.
pub(crate) struct Filling<'a> {
    pub(crate) transfers: &'a mut Vec<Transfer>,
    pub(crate) planned: &'a mut Vec<Planned>,
}

impl Filling<'_> {
    fn push(&mut self, transfer: Transfer, planned: Planned) -> Earlier {
        self.transfers.push(transfer);
        self.planned.push(planned);
        Earlier { transfer, planned }
    }
}

impl Mixer {
    pub(crate) fn new(workload: Workload, mix: Mix, due: Due) -> Self {
        let (holds, delayed, done) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { workload, mix, due, holds, expiring: None, delayed, done }
    }

    /// Fills a request with so many operations.
    pub(crate) fn fill(&mut self, size: usize, mut filling: Filling<'_>) {
        self.workload.begin_request();
        // Half a request captures what earlier ones held.
        let captures = if self.mix == Mix::TwoPhase { self.holds.len().min(size.div_ceil(2)) } else { 0 };
        for _ in 0..captures {
            self.capture(&mut filling, 1);
        }
        while filling.transfers.len() < size {
            let left = size.saturating_sub(filling.transfers.len());
            let choice = self.workload.below(100);
            match (self.mix, choice) {
                (Mix::Plain, _) | (Mix::Refunds, 20..) | (Mix::Full, 50..) => self.transfer(&mut filling, 0),
                (Mix::TwoPhase, _) | (Mix::Full, 0..10) => self.hold(&mut filling),
                (Mix::Delayed, 0..5) | (Mix::Full, 10..12) => self.cancel(&mut filling),
                (Mix::Delayed, _) | (Mix::Full, 12..17) => self.delay(&mut filling),
                (Mix::Transactions, _) | (Mix::Full, 17..27) => self.transaction(&mut filling, left),
                (Mix::Refunds, _) | (Mix::Full, 27..32) => self.refund(&mut filling),
                (Mix::Full, 32..40) => self.capture(&mut filling, 2),
                (Mix::Full, 40..42) => self.void(&mut filling),
                (Mix::Full, 42..44) => self.raise(&mut filling),
                (Mix::Full, 44..46) => self.transfer(&mut filling, BALANCING),
                (Mix::Full, 46) => self.require(&mut filling),
                (Mix::Full, 47) => self.reverse(&mut filling),
                (Mix::Full, 48) => self.exchange(&mut filling, left),
                (Mix::Full, _) => self.change(&mut filling),
            }
        }
    }

    fn transfer(&mut self, filling: &mut Filling<'_>, flags: u16) {
        let (transfer, planned) = self.workload.make();
        let earlier = filling.push(Transfer { flags, ..transfer }, planned);
        if matches!(self.mix, Mix::Refunds | Mix::Full) && flags == 0 {
            remember(&mut self.done, earlier);
        }
    }

    fn hold(&mut self, filling: &mut Filling<'_>) {
        let (transfer, planned) = self.workload.make();
        let flags = Operation::Hold as u16;
        let earlier = filling.push(Transfer { flags, ..transfer }, Planned { effect: Effect::Pend, ..planned });
        remember(&mut self.holds, earlier);
    }

    /// Captures one `part`th of the oldest hold, or makes a hold if there is none.
    fn capture(&mut self, filling: &mut Filling<'_>, part: u32) {
        let Some(Earlier { transfer, planned }) = self.holds.pop_front() else { return self.hold(filling) };
        let amount = planned.amount.checked_div(part).unwrap_or(0).max(1);
        let capture = Transfer {
            id: self.workload.next_id(),
            amount: amount.into(),
            flags: Operation::Capture as u16,
            related: transfer.id.raw(),
            ..transfer
        };
        let effect = Effect::Capture(planned.amount.saturating_sub(amount));
        filling.push(capture, Planned { amount, effect, ..planned });
    }

    fn void(&mut self, filling: &mut Filling<'_>) {
        let Some(Earlier { transfer, planned }) = self.holds.pop_front() else { return self.hold(filling) };
        let flags = Operation::Void as u16;
        let void = Transfer { id: self.workload.next_id(), amount: 0, flags, related: transfer.id.raw(), ..transfer };
        filling.push(void, Planned { effect: Effect::Free, ..planned });
    }

    /// Raises the newest hold that runs out by itself, or makes one if there is none. How large it is after that need not be known:
    /// nobody captures or voids it.
    fn raise(&mut self, filling: &mut Filling<'_>) {
        let effect = if self.due.arrives() { Effect::None } else { Effect::Pend };
        if let Some(Earlier { transfer, planned }) = self.expiring.take() {
            let (id, flags) = (self.workload.next_id(), Operation::Raise as u16);
            let raise = Transfer { id, flags, time_ns: 0, related: transfer.id.raw(), ..transfer };
            filling.push(raise, Planned { effect, ..planned });
        } else {
            let (transfer, planned) = self.workload.make();
            let (time_ns, flags) = (self.due_time(), Operation::Hold as u16);
            self.expiring = Some(filling.push(Transfer { flags, time_ns, ..transfer }, Planned { effect, ..planned }));
        }
    }

    fn delay(&mut self, filling: &mut Filling<'_>) {
        let (transfer, planned) = self.workload.make();
        let (time_ns, flags) = (self.due_time(), Operation::Delayed as u16);
        let effect = if self.due.arrives() { Effect::Post } else { Effect::Pend };
        let earlier = filling.push(Transfer { flags, time_ns, ..transfer }, Planned { effect, ..planned });
        remember(&mut self.delayed, earlier);
    }

    /// When the next thing is due, nanoseconds since 1970 UTC.
    fn due_time(&mut self) -> u64 {
        let spread = u64::try_from(self.due.within.as_nanos()).unwrap_or(u64::MAX).max(1);
        let after = u64::try_from(self.due.after.as_nanos()).unwrap_or(u64::MAX);
        let time_ns = now_ns().saturating_add(after).saturating_add(self.workload.below(spread));
        self.due.last_ns.fetch_max(time_ns, Relaxed);
        time_ns
    }

    fn cancel(&mut self, filling: &mut Filling<'_>) {
        let Some(Earlier { transfer, planned }) = self.delayed.pop_back() else { return self.delay(filling) };
        let (id, flags) = (self.workload.next_id(), Operation::Void as u16);
        let void = Transfer { id, amount: 0, flags, time_ns: 0, related: transfer.id.raw(), ..transfer };
        let effect = if self.due.arrives() { Effect::Unpost } else { Effect::Free };
        filling.push(void, Planned { effect, ..planned });
    }

    fn transaction(&mut self, filling: &mut Filling<'_>, left: usize) {
        let wanted = usize::try_from(self.workload.below(3)).unwrap_or(0).saturating_add(2);
        let legs = wanted.min(left);
        for leg in 1..=legs {
            let (transfer, planned) = self.workload.make();
            let flags = if leg < legs { LINKED } else { 0 };
            filling.push(Transfer { flags, ..transfer }, planned);
        }
    }

    fn refund(&mut self, filling: &mut Filling<'_>) {
        self.give_back(filling, Operation::Refund, |amount| amount.div_ceil(2));
    }

    fn reverse(&mut self, filling: &mut Filling<'_>) {
        self.give_back(filling, Operation::Reversal, |amount| amount);
    }

    /// Moves so much of the oldest transfer back, or makes one if there is none.
    fn give_back(&mut self, filling: &mut Filling<'_>, operation: Operation, part: fn(u32) -> u32) {
        let Some(Earlier { transfer, planned }) = self.done.pop_front() else { return self.transfer(filling, 0) };
        let amount = part(planned.amount);
        let back = Transfer {
            id: self.workload.next_id(),
            debit: transfer.credit,
            credit: transfer.debit,
            amount: amount.into(),
            flags: operation as u16,
            related: transfer.id.raw(),
            ..transfer
        };
        let Planned { debit, credit, .. } = planned;
        filling.push(back, Planned { debit: credit, credit: debit, amount, ..planned });
    }

    /// Someone pays one currency to the platform's position, and is paid twice as much of the other from its other position.
    fn exchange(&mut self, filling: &mut Filling<'_>, left: usize) {
        if left < 2 {
            return self.transfer(filling, 0);
        }
        let (paid, planned) = self.workload.make();
        filling.push(Transfer { flags: LINKED, ..paid }, planned);
        let (debit, credit) = self.workload.abroad();
        let amount = planned.amount.saturating_mul(2);
        let rate = ExchangeRate { rate: Decimal::TWO, rounding: Rounding::HalfUp };
        let bought = Transfer {
            id: self.workload.next_id(),
            debit: self.workload.account(debit),
            credit: self.workload.account(credit),
            amount: amount.into(),
            flags: Operation::Exchange as u16,
            related: rate.encode(),
            ..paid
        };
        filling.push(bought, Planned { debit, credit, amount, ..planned });
    }

    /// Changes the level of an account, which no limit looks at.
    fn change(&mut self, filling: &mut Filling<'_>) {
        let (transfer, planned) = self.workload.make();
        let level = u8::try_from(self.workload.below(4)).ok();
        let change = AccountChange { level, ..AccountChange::default() };
        let asked = Transfer { id: transfer.id, code: transfer.code, ..change.request(transfer.debit) };
        filling.push(asked, Planned { effect: Effect::None, ..planned });
    }

    fn require(&mut self, filling: &mut Filling<'_>) {
        let (transfer, planned) = self.workload.make();
        let flags = Operation::Require as u16;
        let require = Transfer { credit: AccountId::default(), flags, ..transfer };
        filling.push(require, Planned { effect: Effect::None, ..planned });
    }
}

/// The operation of a transfer as the report calls it: a linked transfer is one of a transaction.
pub(crate) fn operation_name(transfer: &Transfer) -> &'static str {
    match transfer.operation() {
        Operation::Transfer if transfer.has(BALANCING) => "balancing",
        Operation::Transfer if transfer.is_linked() => "linked",
        operation => operation.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Distribution, Ids};

    #[test]
    fn every_mix_fills_requests_with_well_formed_operations() {
        for mix in [Mix::Plain, Mix::TwoPhase, Mix::Delayed, Mix::Transactions, Mix::Refunds, Mix::Full] {
            let workload = Workload::new((7, 1, 0), (100, Distribution::Uniform, Ids::Time)).unwrap();
            let due = Due { after: Duration::from_secs(1), within: Duration::from_secs(1), last_ns: Arc::default() };
            let mut mixer = Mixer::new(workload, mix, due);
            for size in [1, 2, 7, 500, 500] {
                let (mut transfers, mut planned) = (Vec::new(), Vec::new());
                mixer.fill(size, Filling { transfers: &mut transfers, planned: &mut planned });
                assert_eq!((transfers.len(), planned.len()), (size, size), "{mix:?}");
                assert!(transfers.iter().all(|transfer| transfer.check().is_ok()), "{mix:?}");
                assert!(!transfers.last().unwrap().is_linked(), "{mix:?}");
            }
        }
    }
}
