//! The office: how accounts come to the desk, which decides what needs more than an immediate transfer.
//!
//! The desk stands at the first shard. With one shard every account is there and a transaction is decided at once. With
//! several, accounts are lent:
//!
//! ```text
//!  home of an account                        the first shard
//!  transaction ──► Forward ────────────────► waits for its accounts
//!  when quiet: away, Lend ◄────── Ask ─────  asks for those that are missing
//!                    └─────────────────────► all here: decided, outcomes out
//!  here again, what waited goes on ◄─ Return as soon as nothing at the desk needs it
//! ```
//!
//! While an account is away, what would debit it is sent to the desk, too, where what has the same first account is decided in
//! order; so is a leg that credits it. So reservations always end, every account asked for becomes quiet and comes, and nothing
//! waits in a circle: transactions wait for accounts, accounts for reservations, reservations for nobody.
//!
//! # Invariants
//!
//! 1. An account is in one place: at home, or at the desk.
//! 2. The outcome of a transaction is sent before the accounts that it changed go home.
//! 3. An account that came home decides nothing by itself before all is decided that it had sent to the desk.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::core::{Core, Origin};
use super::legs::{Item, Leg, Loan};
use super::sides::credit_leg;
use crate::ledger::{
    Account, AccountId, Accounts, Code, Decision, Desk, GatewayId, Operation, Order, Pending, Record, Refusal, Slot,
    Transfer, TransferId,
};

/// Due things done at a time, so that what falls due together does not hold others up.
const DUE_AT_A_TIME: usize = 64;

/// The desk and the accounts that it borrowed.
#[derive(Debug)]
pub(super) struct Office {
    pub(super) desk: Desk,
    guests: Guests,
    works: HashMap<u64, Work>,
    /// Works with the same first account, in order; only the first of them may be done.
    order: HashMap<AccountId, VecDeque<u64>>,
    next_work: u64,
    orders: Vec<Order>,
}

/// Accounts at the desk, or asked for.
#[derive(Debug, Default)]
struct Guests(HashMap<AccountId, Guest>);

#[derive(Debug, Default)]
struct Guest {
    /// Whether it, or the news that there is none, has come.
    is_here: bool,
    account: Option<Box<Account>>,
    /// Works that wait for it to come.
    waiting: Vec<u64>,
    /// Works that need it.
    users: usize,
    /// Works decided that its home counts as sent, since it came.
    decided: u32,
}

/// What the desk is to do.
#[derive(Debug)]
struct Work {
    what: What,
    accounts: Vec<AccountId>,
    missing: usize,
    /// Whose order it keeps: the account that would pay first.
    first: Option<AccountId>,
    /// Whether that account's home counts it among what it sent.
    is_counted: bool,
}

#[derive(Debug)]
enum What {
    /// And whether its home counts it among what it sent.
    Transaction(Vec<Item>, bool),
    Due(TransferId),
}

impl Accounts for Guests {
    fn account(&self, id: AccountId) -> Option<&Account> {
        self.0.get(&id)?.account.as_deref()
    }

    fn account_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        self.0.get_mut(&id)?.account.as_deref_mut()
    }
}

impl Office {
    pub(super) fn new(desk: Desk) -> Self {
        let (guests, works, order) = (Guests::default(), HashMap::new(), HashMap::new());
        Self { desk, guests, works, order, next_work: 0, orders: Vec::new() }
    }

    /// Whether nothing waits and no account is borrowed.
    pub(super) fn is_idle(&self) -> bool {
        self.works.is_empty() && self.guests.0.is_empty() && self.order.is_empty()
    }
}

impl Office {
    /// A work, if it is its turn and all its accounts are here.
    fn take_ready(&mut self, number: u64) -> Option<Work> {
        let work = self.works.get(&number)?;
        let front = work.first.map(|first| self.order.get(&first).and_then(VecDeque::front));
        let ready = work.missing == 0 && front.is_none_or(|front| front == Some(&number));
        if ready { self.works.remove(&number) } else { None }
    }

    /// Notes that a work is done; answers the one behind it.
    fn done(&mut self, work: &Work) -> Option<u64> {
        for id in &work.accounts {
            if let Some(guest) = self.guests.0.get_mut(id) {
                guest.users = guest.users.saturating_sub(1);
            }
        }
        let first = work.first?;
        if let Some(guest) = self.guests.0.get_mut(&first).filter(|_| work.is_counted) {
            guest.decided = guest.decided.saturating_add(1);
        }
        let order = self.order.get_mut(&first)?;
        order.pop_front();
        let next = order.front().copied();
        if next.is_none() {
            self.order.remove(&first);
        }
        next
    }
}

impl Core {
    /// Has a transaction decided whose first account, if it exists, is in this slot and free.
    #[expect(clippy::wrong_self_convention, reason = "it brings something to the desk; nothing is converted")]
    pub(super) fn to_desk(&mut self, first: Option<Slot>, items: Vec<Item>) {
        if self.shards() == 1 {
            return self.decide_here(&items);
        }
        if let Some(slot) = first {
            // What comes after it for the same account goes the same way, until all of it is decided.
            self.promise(slot);
            if let Some(loan) = self.loans.get_mut(&slot) {
                loan.sent = loan.sent.saturating_add(1);
            }
        }
        // An account that is not open yet has no loan, and may be open when this is decided.
        let is_counted = first.is_some();
        if self.office.is_some() {
            self.take_up(What::Transaction(items, is_counted));
        } else {
            self.tell(0, Loan::Forward(items, is_counted));
        }
        if let Some(slot) = first {
            self.lend_if_quiet(slot);
        }
    }

    fn tell(&mut self, shard: usize, loan: Loan) {
        if shard == self.shard {
            self.loan(loan);
        } else if let Some(loans) = self.output.loans.get_mut(shard) {
            loans.push(loan);
        }
    }

    /// Handles a message between desk and shard.
    pub(super) fn loan(&mut self, loan: Loan) {
        match loan {
            Loan::Forward(items, is_counted) => self.take_up(What::Transaction(items, is_counted)),
            Loan::Ask(id) => match self.accounts.find(id) {
                None => self.tell(0, Loan::Lend(id, None)),
                Some(slot) if self.loans.contains_key(&slot) => {}
                Some(slot) => {
                    self.promise(slot);
                    self.lend_if_quiet(slot);
                }
            },
            Loan::Lend(id, account) => self.arrived(id, account),
            Loan::Return(account, decided) => self.came_home(*account, decided),
            Loan::Leg(from, parcel, index, leg) => {
                let origin = Origin { parcel: &parcel, index };
                let id = leg.transfer.credit;
                if self.office.as_ref().is_some_and(|office| office.guests.account(id).is_some()) {
                    return self.credit_guest(from, origin, &leg);
                }
                let home = id.shard(self.shards());
                if home == self.shard {
                    let slot = self.accounts.find(id);
                    self.credit(from, origin, *leg, slot);
                } else {
                    self.tell(home, Loan::Leg(from, Arc::clone(origin.parcel), index, leg));
                }
            }
        }
    }

    /// An account has come back; if what it sent to the desk is not all decided, it goes there again.
    fn came_home(&mut self, account: Account, decided: u32) {
        let Some(slot) = self.accounts.find(account.id()) else { return };
        if let Some(place) = self.accounts.get_mut(slot) {
            *place = account;
        }
        let Some(loan) = self.loans.get_mut(&slot) else { return };
        loan.is_away = false;
        debug_assert!(loan.sent >= decided, "only what was sent is decided");
        loan.sent = loan.sent.saturating_sub(decided);
        if loan.sent > 0 {
            self.lend_if_quiet(slot);
        } else {
            self.loans.remove(&slot);
            self.unpark(slot);
        }
    }

    /// Sends a promised account to the desk if nothing of it is reserved.
    pub(super) fn lend_if_quiet(&mut self, slot: Slot) {
        let Some(account) = self.accounts.get(slot).filter(|account| account.is_quiet()) else { return };
        let account = Box::new(account.clone());
        let Some(loan) = self.loans.get_mut(&slot).filter(|loan| !loan.is_away) else { return };
        loan.is_away = true;
        self.tell(0, Loan::Lend(account.id(), Some(account)));
    }

    /// Sends a leg on whose credit account is at the desk.
    pub(super) fn leg_to_desk(&mut self, from: usize, origin: Origin<'_>, leg: Leg) {
        self.tell(0, Loan::Leg(from, Arc::clone(origin.parcel), origin.index, Box::new(leg)));
    }

    /// Credits an account that is at the desk.
    fn credit_guest(&mut self, from: usize, origin: Origin<'_>, leg: &Leg) {
        let Some(office) = &mut self.office else { return };
        let decision = match office.guests.account_mut(leg.transfer.credit) {
            None => Decision::Rejected(Code::CreditAccountUnknown),
            // It came because nothing of it is reserved.
            Some(credit) => credit_leg(&self.policy, credit, (&leg.transfer, leg.payer), true),
        };
        let code = match decision {
            Decision::Accepted => Code::Accepted,
            Decision::Rejected(code) => code,
            Decision::Undecided => Code::ExceedsDebits,
        };
        self.end(from, origin, leg, code);
    }

    /// Does something at the desk as soon as its accounts are there.
    fn take_up(&mut self, what: What) {
        let Some(office) = &mut self.office else { return };
        let mut accounts: Vec<AccountId> = match &what {
            What::Transaction(items, _) => {
                items.iter().flat_map(|item| [item.order.transfer.debit, item.order.transfer.credit]).collect()
            }
            What::Due(id) => {
                office.desk.pending(*id).map_or_else(Vec::new, |pending| vec![pending.debit, pending.credit])
            }
        };
        let may_charge = match &what {
            What::Transaction(items, _) => items.iter().any(|item| {
                let transfer = &item.order.transfer;
                transfer.operation() == Operation::Reversal || !self.policy.charges_nothing(transfer)
            }),
            What::Due(_) => true,
        };
        if may_charge {
            accounts.extend(self.policy.named_accounts());
        }
        accounts.retain(|id| id.is_valid());
        accounts.sort_unstable();
        accounts.dedup();
        let number = office.next_work;
        office.next_work = number.wrapping_add(1);
        let mut asked = Vec::new();
        let mut missing = 0_usize;
        for &id in &accounts {
            let is_new = !office.guests.0.contains_key(&id);
            let guest = office.guests.0.entry(id).or_default();
            guest.users = guest.users.saturating_add(1);
            if guest.is_here && guest.account.is_some() {
                continue;
            }
            // One that did not exist may have been opened since.
            if is_new || guest.is_here {
                guest.is_here = false;
                asked.push(id);
            }
            guest.waiting.push(number);
            missing = missing.saturating_add(1);
        }
        let (first, is_counted) = match &what {
            What::Transaction(items, is_counted) => (items.first().map(|item| item.order.transfer.debit), *is_counted),
            What::Due(_) => (None, false),
        };
        if let Some(first) = first {
            office.order.entry(first).or_default().push_back(number);
        }
        office.works.insert(number, Work { what, accounts, missing, first, is_counted });
        self.perform(number);
        for id in asked {
            self.tell(id.shard(self.shards()), Loan::Ask(id));
        }
    }

    /// An account, or the news that there is none, has come to the desk.
    fn arrived(&mut self, id: AccountId, account: Option<Box<Account>>) {
        let Some(office) = &mut self.office else { return };
        let guest = office.guests.0.entry(id).or_default();
        guest.is_here = true;
        guest.account = account;
        let waiting = std::mem::take(&mut guest.waiting);
        for number in &waiting {
            if let Some(work) = office.works.get_mut(number) {
                work.missing = work.missing.saturating_sub(1);
            }
        }
        for number in waiting {
            self.perform(number);
        }
        self.send_home(&[id]);
    }

    /// Does a work if it is its turn and all its accounts are here, and what may be done next because of it.
    fn perform(&mut self, number: u64) {
        let mut next = Some(number);
        while let Some(number) = next.take() {
            let Some(mut office) = self.office.take() else { return };
            let Some(work) = office.take_ready(number) else {
                self.office = Some(office);
                return;
            };
            match &work.what {
                What::Transaction(items, _) => {
                    office.orders.clear();
                    office.orders.extend(items.iter().map(|item| item.order));
                    let decided = office.desk.decide(&mut office.guests, &office.orders);
                    self.emit(&office.desk, items, decided);
                }
                What::Due(id) => {
                    office.desk.fall_due(&mut office.guests, *id);
                    self.emit_due(&office.desk);
                }
            }
            next = office.done(&work);
            self.office = Some(office);
            self.send_home(&work.accounts);
        }
    }

    /// Gives accounts back that nothing at the desk needs.
    fn send_home(&mut self, ids: &[AccountId]) {
        for &id in ids {
            let Some(office) = &mut self.office else { return };
            let free = office.guests.0.get(&id).is_some_and(|guest| guest.is_here && guest.users == 0);
            if !free {
                continue;
            }
            if let Some(guest) = office.guests.0.remove(&id)
                && let Some(account) = guest.account
            {
                self.tell(id.shard(self.shards()), Loan::Return(account, guest.decided));
            }
        }
    }

    /// Decides a transaction whose accounts are all here, because there is one shard.
    pub(super) fn decide_here(&mut self, items: &[Item]) {
        let Some(mut office) = self.office.take() else { return };
        office.orders.clear();
        office.orders.extend(items.iter().map(|item| item.order));
        let decided = office.desk.decide(&mut self.accounts, &office.orders);
        self.emit(&office.desk, items, decided);
        self.office = Some(office);
    }

    /// Decides an immediate transfer that limits count, because there is one shard and nothing is charged.
    #[inline]
    pub(super) fn counted(&mut self, origin: Origin<'_>, transfer: &Transfer, slots: (Option<Slot>, Option<Slot>)) {
        let Some(office) = &mut self.office else { return };
        let parcel = origin.parcel;
        let asked = (transfer, parcel.gateway(), parcel.grant());
        let outcome = office.desk.decide_plain(&mut self.accounts, asked, slots);
        let (second, code) = (office.desk.second(), outcome.err().unwrap_or(Code::Accepted));
        if code.is_accepted() {
            self.count_as_of(second);
        }
        let decider = self.decider();
        self.output.decided(decider).transfer(parcel, origin.index, transfer, code);
    }

    /// What is decided next is counted as of this second: settlement notes it before those records.
    #[inline]
    fn count_as_of(&mut self, second: u32) {
        let decider = self.decider();
        let output = self.output.decided(decider);
        if output.second != second {
            if !output.is_empty() {
                self.output.next_second(decider);
            }
            self.output.decided(decider).second = second;
        }
    }

    /// It is later; some of what is due happens.
    pub(super) fn tick(&mut self, now_ns: u64) {
        if let Some(office) = &mut self.office {
            office.desk.set_time(now_ns);
            self.go_on_due();
        }
    }

    /// Some more of what is due happens. Whether there may be more is in `is_more_due`.
    pub(super) fn go_on_due(&mut self) {
        self.is_more_due = false;
        for _ in 0..DUE_AT_A_TIME {
            let Some(office) = &mut self.office else { return };
            let Some(Pending { id, .. }) = office.desk.next_due() else { return };
            if self.shards() > 1 {
                self.take_up(What::Due(id));
            } else if let Some(mut office) = self.office.take() {
                office.desk.fall_due(&mut self.accounts, id);
                self.emit_due(&office.desk);
                self.office = Some(office);
            }
        }
        self.is_more_due = true;
    }

    /// Who decides, as settlement and clearing know it: with several shards the desk is nobody's shard.
    fn decider(&self) -> usize {
        if self.shards() == 1 { self.shard } else { self.shards() }
    }

    /// Emits the records of a transaction and tells its outcomes.
    fn emit(&mut self, desk: &Desk, items: &[Item], result: Result<(), Refusal>) {
        let decider = self.decider();
        let output = self.output.decided(decider);
        let mut first = true;
        let mut joined = |output: &mut crate::flow::Decided| {
            if !std::mem::take(&mut first) {
                output.join();
            }
        };
        if let Err(refusal) = result {
            for (leg, Item { parcel, index, order }) in items.iter().enumerate() {
                joined(output);
                let code = if leg == refusal.leg { refusal.code } else { Code::TransactionFailed };
                output.transfer(parcel, *index, &order.transfer, code);
            }
            return;
        }
        if desk.policy().has_limits() {
            self.count_as_of(desk.second());
        }
        let output = self.output.decided(decider);
        let gateway = items.first().map_or(GatewayId(0), |item| item.order.gateway);
        for made in desk.made() {
            joined(output);
            match made.leg.and_then(|leg| items.get(leg)) {
                Some(Item { parcel, index, .. }) => {
                    output.transfer(parcel, *index, &made.transfer, Code::Accepted);
                }
                None => output.internal(&Record::Internal { transfer: made.transfer, gateway }),
            }
        }
    }

    fn emit_due(&mut self, desk: &Desk) {
        let decider = self.decider();
        let output = self.output.decided(decider);
        for (place, made) in desk.made().iter().enumerate() {
            if place > 0 {
                output.join();
            }
            output.internal(&Record::Internal { transfer: made.transfer, gateway: GatewayId(0) });
        }
    }
}
