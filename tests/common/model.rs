//! A ledger written from the documentation alone: `src/protocol/README.md`, the headers of modules, `tests/rules/*.txt`.
//!
//! It shares nothing with the real one: it has maps and plain arithmetic, copies all that it knows before a transaction and
//! takes the copy when one is refused. What the documentation leaves open is marked *observed*.

mod asks;

use std::collections::BTreeMap;

use Verb::{Balancing, Capture, Change, Delayed, Exchange, Hold, More, Pay, Raise, Refund, Require, Reversal, Void};
pub(crate) use asks::{Ask, SECOND_NS, Verb, convert};
use heng::ledger::Code;
use rpds::RedBlackTreeMap;

pub(crate) const DAY_S: u64 = 86_400;

#[allow(dead_code, reason = "not every test has rules")]
pub(crate) const POLICY: &str = include_str!("rules.toml");
/// The same in numbers: the limits, the step of the sliding one, who gets the fee, where a reserve is, what classes permit.
pub(crate) const BOUNDS: Bounds = Bounds { day: (90, 3), sliding: 180 };
pub(crate) const STEP_S: u64 = 10;
/// The most that one operation of an account of level 1 moves or sets aside, with all that a hold has grown by.
const ONCE: u128 = 50;
const SHARES: [(u128, u128); 2] = [(6, 2), (1, 1)];
const RESERVE: u128 = 4;
const PERMITS: [(u8, u8, &[u16]); 6] = [
    (CLIENT, FEE, &[1, 90, 900]),
    (FEE, CLIENT, &[900]),
    (FEE, EXTERNAL, &[901]),
    (EXTERNAL, FEE, &[901]),
    (EXTERNAL, CLIENT, &[0, 1]),
    (CLIENT, EXTERNAL, &[0, 90]),
];

const FREE: u16 = 0;
const LIMITED: u16 = 1;
const MIRROR: u16 = 2;
const UNSAID: u8 = 0;
const CLIENT: u8 = 1;
const EXTERNAL: u8 = 4;
const FEE: u8 = 5;
const CLOSED: u8 = 3;
/// Who asks when the ledger does something for itself: no limit counts that, and it bears no fee.
pub(crate) const LEDGER: u32 = 0;
const EUR: u16 = 978;
const USD: u16 = 840;
/// Id, kind, class, level, currency.
pub(crate) const ACCOUNTS: [(u128, u16, u8, u8, u16); 8] = [
    (1, FREE, EXTERNAL, 0, EUR),
    (2, LIMITED, CLIENT, 1, EUR),
    (3, LIMITED, CLIENT, 1, EUR),
    (4, LIMITED, UNSAID, 0, EUR),
    (5, MIRROR, UNSAID, 0, EUR),
    (6, FREE, FEE, 0, EUR),
    (7, FREE, UNSAID, 0, USD),
    (8, LIMITED, UNSAID, 2, USD),
];

/// What limits allow: sum and count of a day, sum of a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) day: (i128, i128),
    pub(crate) sliding: i128,
}

type Told = Result<(), Code>;

fn ensure(holds: bool, otherwise: Code) -> Told {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    kind: u16,
    class: u8,
    pub(crate) level: u8,
    currency: u16,
    pub(crate) overdraft: u128,
    /// 0 open, 1 debits frozen, 2 frozen, 3 closed.
    pub(crate) state: u8,
    /// Debits posted, credits posted, debits pending, credits pending.
    pub(crate) totals: [u128; 4],
}

impl Account {
    fn available(&self) -> i128 {
        let [debits, credits, held, _] = self.totals.map(u128::cast_signed);
        credits + self.overdraft.cast_signed() - debits - held
    }

    fn check_debit(&self) -> Told {
        ensure(self.state != CLOSED, Code::DebitAccountClosed)?;
        ensure(self.state == 0, Code::DebitAccountFrozen)
    }

    fn check_credit(&self) -> Told {
        ensure(self.state != CLOSED, Code::CreditAccountClosed)?;
        ensure(self.state < 2, Code::CreditAccountFrozen)
    }

    fn check_funds(&self, amount: u128) -> Told {
        ensure(self.kind != LIMITED || self.available() >= amount.cast_signed(), Code::InsufficientFunds)
    }

    fn check_room(&self, amount: u128) -> Told {
        let [debits, credits, _, incoming] = self.totals;
        ensure(self.kind != MIRROR || credits + incoming + amount <= debits, Code::ExceedsDebits)
    }
}

/// What became of a transfer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    /// As it was asked for, with the amount that was moved or set aside.
    pub(crate) ask: Ask,
    pub(crate) has_moved: bool,
    pub(crate) refunded: u128,
    /// Nothing can be given back any more.
    pub(crate) is_over: bool,
    /// Of a hold or delayed transfer: whether it is open, and how much of it is.
    pub(crate) is_open: bool,
    pub(crate) left: u128,
    pub(crate) held: u128,
    pub(crate) captured: u128,
    pub(crate) gateway: u32,
    /// When limits counted it, and the levels of payer and payee then.
    pub(crate) counted: (u64, u8, u8),
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) rules: bool,
    pub(crate) bounds: Bounds,
    pub(crate) now: u64,
    /// Whether that is the time by which the ledger decides; else it is that of the record, which may be later.
    pub(crate) is_punctual: bool,
    /// The second as of which limits count, where it is not that of now.
    pub(crate) clock: Option<u64>,
    pub(crate) gateway: u32,
    pub(crate) accounts: BTreeMap<u128, Account>,
    pub(crate) items: RedBlackTreeMap<u128, Item>,
    /// By limit (0 day, 1 sliding), subject and period: sum and count.
    counts: BTreeMap<(u8, u128, u64), (i128, i128)>,
    /// What the ledger took by itself from payees: from, to, amount.
    pub(crate) charged: Vec<(u128, u128, u128)>,
    /// What is withheld of which payment: from whom, how much, until which second.
    pub(crate) withheld: RedBlackTreeMap<u128, (u128, u128, u64)>,
    /// What came back with a reversal: to whom, and how much.
    pub(crate) brought_back: Vec<(u128, u128)>,
}

impl Model {
    pub(crate) fn new(rules: bool) -> Self {
        let account =
            |(id, kind, class, level, currency)| (id, Account { kind, class, level, currency, ..Account::default() });
        let accounts = ACCOUNTS.into_iter().map(account).collect();
        let (items, counts, bounds) = (RedBlackTreeMap::new(), BTreeMap::new(), BOUNDS);
        let (charged, withheld, brought_back) = (Vec::new(), RedBlackTreeMap::new(), Vec::new());
        Self {
            rules,
            bounds,
            now: 1_000,
            is_punctual: false,
            clock: None,
            gateway: 1,
            accounts,
            items,
            counts,
            charged,
            withheld,
            brought_back,
        }
    }

    /// Decides a transaction.
    pub(crate) fn submit(&mut self, asks: &[Ask]) -> Vec<Code> {
        let before = self.clone();
        for (index, ask) in asks.iter().enumerate() {
            let Err(code) = ask.check().and_then(|()| self.decide(asks, index)) else { continue };
            *self = before;
            for ask in asks {
                self.note(ask, ask.amount, false);
            }
            return (0..asks.len()).map(|other| if other == index { code } else { Code::TransactionFailed }).collect();
        }
        vec![Code::Accepted; asks.len()]
    }

    fn decide(&mut self, asks: &[Ask], index: usize) -> Told {
        let ask = &asks[index];
        match ask.verb {
            Pay | Balancing | Hold | Delayed | Exchange => self.pay(asks, index),
            Raise => self.raise(ask),
            Capture | More => self.capture(ask),
            Void => self.void(ask),
            Refund | Reversal => self.give_back(asks, ask),
            Change => self.change(ask),
            Require => {
                let account = self.accounts.get(&ask.debit).ok_or(Code::DebitAccountUnknown)?;
                // Observed: where nothing keeps from paying, there is always enough. The ledger asks for what is there, and not for what may be owed.
                let own = account.available() - account.overdraft.cast_signed();
                let has = self.gateway != LEDGER || own >= ask.amount.cast_signed();
                ensure(has && account.check_funds(ask.amount).is_ok(), Code::RequirementNotMet)?;
                self.note(ask, 0, false);
                Ok(())
            }
        }
    }

    /// Whether something is open although its time is over.
    #[allow(dead_code, reason = "not every test waits for that")]
    pub(crate) fn is_due(&self, id: u128, second: u64) -> bool {
        let item = self.items.get(&id);
        item.is_some_and(|item| item.is_open && item.ask.time != 0 && item.ask.time <= second)
    }

    /// A transfer is refused, whatever this would have said.
    #[allow(dead_code, reason = "not every test has several shards at work")]
    pub(crate) fn refuse(&mut self, ask: &Ask) {
        self.note(ask, ask.amount, false);
    }

    fn note(&mut self, ask: &Ask, amount: u128, has_moved: bool) {
        self.items.insert_mut(ask.id, Item { ask: Ask { amount, ..*ask }, has_moved, ..Item::default() });
    }

    fn total(&mut self, id: u128, which: usize, amount: i128) {
        let total = &mut self.accounts.get_mut(&id).unwrap().totals[which];
        *total = total.checked_add_signed(amount).unwrap();
    }

    fn post(&mut self, debit: u128, credit: u128, amount: u128) {
        self.total(debit, 0, amount.cast_signed());
        self.total(credit, 1, amount.cast_signed());
    }

    fn set_aside(&mut self, ask: &Ask, amount: i128) {
        self.total(ask.debit, 2, amount);
        self.total(ask.credit, 3, amount);
    }

    fn check_classes(&self, debit: u128, credit: u128, code: u16) -> Told {
        let (from, to) = (self.accounts[&debit].class, self.accounts[&credit].class);
        let permits = PERMITS.iter().any(|permit| (permit.0, permit.1) == (from, to) && permit.2.contains(&code));
        let permitted = permits || from == to || from == UNSAID || to == UNSAID;
        ensure(!self.rules || permitted, Code::ClassNotPermitted)
    }

    /// The rules of the payer, then those of the payee. Observed: their order.
    fn check_accounts(&self, ask: &Ask, amount: u128) -> Told {
        let debit = self.accounts.get(&ask.debit).ok_or(Code::DebitAccountUnknown)?;
        let denied = self.rules && [(3, 5), (5, 3)].contains(&(ask.debit, ask.credit));
        ensure(!denied, Code::Denied)?;
        debit.check_debit()?;
        debit.check_funds(amount)?;
        let credit = self.accounts.get(&ask.credit).ok_or(Code::CreditAccountUnknown)?;
        ensure(credit.currency == debit.currency, Code::CurrencyMismatch)?;
        self.check_classes(ask.debit, ask.credit, ask.code)?;
        credit.check_credit()?;
        credit.check_room(amount)
    }

    /// Transfers, legs of exchanges, and what sets aside.
    fn pay(&mut self, asks: &[Ask], index: usize) -> Told {
        let ask = &asks[index];
        let is_late = ask.time != 0 && ask.time <= self.now;
        ensure(ask.verb != Hold || !is_late, Code::TimePast)?;
        ensure(ask.verb != Exchange || !is_late, Code::QuoteExpired)?;
        let leg = index.checked_sub(1).map(|before| &asks[before]).filter(|leg| matches!(leg.verb, Pay | Balancing));
        ensure(ask.verb != Exchange || leg.is_some(), Code::RateMismatch)?;
        let mut amount = ask.amount;
        if let Some(debit) = self.accounts.get(&ask.debit)
            && (ask.verb, debit.kind) == (Balancing, LIMITED)
        {
            // The ledger pays nothing out of an overdraft.
            let overdraft = if self.gateway == LEDGER { debit.overdraft.cast_signed() } else { 0 };
            amount = amount.min(u128::try_from(debit.available() - overdraft).unwrap_or(0));
        }
        self.check_accounts(ask, amount)?;
        // Observed: a wrong amount is told after all about the accounts, a missing leg before.
        let suits = |leg: &Ask| convert(self.items[&leg.id].ask.amount, ask.rate) == amount;
        ensure(ask.verb != Exchange || leg.is_some_and(suits), Code::RateMismatch)?;
        // Observed: a balancing transfer of nothing is not counted, and nothing that could be refunded.
        self.count(ask, amount, i128::from(amount > 0))?;
        let sets_aside = matches!(ask.verb, Hold | Delayed);
        self.note(ask, amount, !sets_aside && amount > 0);
        if sets_aside {
            self.set_aside(ask, amount.cast_signed());
            let counted = (self.second(), self.accounts[&ask.debit].level, self.accounts[&ask.credit].level);
            let item = self.items.get_mut(&ask.id).unwrap();
            (item.is_open, item.left, item.held) = (true, amount, amount);
            (item.gateway, item.counted) = (self.gateway, counted);
            return Ok(());
        }
        self.post(ask.debit, ask.credit, amount);
        self.charge(ask, amount)
    }

    /// What a capture, raise or void is about.
    fn pending(&self, ask: &Ask) -> Result<Item, Code> {
        // What is due is not open any more, also before the record that says so.
        let is_due = self.is_punctual && self.is_due(ask.related, self.now);
        let item = self.items.get(&ask.related).filter(|item| item.is_open && !is_due).ok_or(Code::HoldNotOpen)?;
        ensure(item.ask.verb == Hold || ask.verb == Void, Code::HoldKindMismatch)?;
        let named = (item.ask.debit, item.ask.credit, item.ask.code) == (ask.debit, ask.credit, ask.code);
        // Observed: what is captured beyond a hold is like a raise.
        let raises = ask.verb == Raise || ask.amount > item.left;
        let is_too_much = matches!(ask.verb, Capture | More) && item.captured + ask.amount > self.capture_max(item);
        ensure(named && (is_too_much || !raises || item.gateway == self.gateway), Code::HoldMismatch)?;
        ensure(!is_too_much, Code::CaptureTooLarge)?;
        Ok(item.clone())
    }

    fn capture_max(&self, item: &Item) -> u128 {
        item.held + if self.rules { item.held * 20 / 100 } else { 0 }
    }

    fn raise(&mut self, ask: &Ask) -> Told {
        let held = self.pending(ask)?.held;
        self.check_accounts(ask, ask.amount)?;
        self.check_grown(ask, held + ask.amount)?;
        self.count(ask, ask.amount, 0)?; // Observed: a raise is no operation of its own.
        self.set_aside(ask, ask.amount.cast_signed());
        let item = self.items.get_mut(&ask.related).unwrap();
        item.left += ask.amount;
        item.held += ask.amount;
        self.mix_levels(ask);
        self.note(ask, 0, false);
        Ok(())
    }

    /// What a hold has grown to is one operation for the limit of one.
    fn check_grown(&self, ask: &Ask, whole: u128) -> Told {
        let account = &self.accounts[&ask.debit];
        let is_limited = self.rules && account.currency == EUR && account.level == 1 && self.gateway != LEDGER;
        ensure(!is_limited || whole <= ONCE, Code::LimitExceeded)
    }

    /// Of what was counted with several levels, limits get nothing back.
    fn mix_levels(&mut self, ask: &Ask) {
        let levels = (self.accounts[&ask.debit].level, self.accounts[&ask.credit].level);
        let counted = &mut self.items.get_mut(&ask.related).unwrap().counted;
        if (counted.1, counted.2) != levels {
            (counted.1, counted.2) = (u8::MAX, u8::MAX);
        }
    }

    fn capture(&mut self, ask: &Ask) -> Told {
        let Item { left, captured, .. } = self.pending(ask)?;
        let within = ask.amount.min(left);
        let beyond = ask.amount - within;
        if beyond > 0 {
            self.check_accounts(ask, beyond)?;
            self.check_grown(ask, captured + ask.amount)?;
            self.count(ask, beyond, 0)?;
            self.mix_levels(ask);
        }
        self.set_aside(ask, -within.cast_signed());
        self.post(ask.debit, ask.credit, ask.amount);
        let item = self.items.get_mut(&ask.related).unwrap();
        item.left -= within;
        item.captured += ask.amount;
        if ask.verb == Capture || item.left == 0 {
            self.release(ask.related);
        }
        self.note(ask, ask.amount, true);
        self.charge(ask, ask.amount)
    }

    fn void(&mut self, ask: &Ask) -> Told {
        self.pending(ask)?;
        self.release(ask.related);
        let item = self.items.get_mut(&ask.related).unwrap();
        item.is_over = item.ask.verb == Delayed;
        self.note(ask, 0, false);
        Ok(())
    }

    /// Gives back what is left, also of what limits counted, unless a level has changed.
    fn release(&mut self, id: u128) {
        let item = self.items.get_mut(&id).unwrap();
        item.is_open = false;
        let Item { ask, left, captured, gateway, counted, .. } = *item;
        self.set_aside(&ask, -left.cast_signed());
        if (self.accounts[&ask.debit].level, self.accounts[&ask.credit].level) == (counted.1, counted.2) {
            self.tally(&ask, gateway, counted.0, (-left.cast_signed(), -i128::from(captured == 0)));
        }
    }

    /// Refunds and reversals. Observed: the order of these rules.
    fn give_back(&mut self, asks: &[Ask], ask: &Ask) -> Told {
        let is_new = asks.iter().any(|other| other.id == ask.related);
        let first = self.items.get(&ask.related).filter(|_| !is_new).ok_or(Code::OriginalUnknown)?;
        let whole = ask.verb == Reversal;
        ensure((first.ask.debit, first.ask.credit) == (ask.credit, ask.debit), Code::OriginalMismatch)?;
        ensure(!first.is_over && (!whole || first.refunded == 0), Code::AlreadyReversed)?;
        ensure(first.has_moved, Code::OriginalNotPosted)?;
        ensure(!whole || ask.amount == first.ask.amount, Code::OriginalMismatch)?;
        ensure(first.refunded + ask.amount <= first.ask.amount, Code::RefundTooLarge)?;
        if whole {
            if let Some((payee, part, _)) = self.withheld.get(&ask.related).copied() {
                self.come_back(ask.related);
                self.brought_back.push((payee, part));
            }
            // Observed: a freeze does not stand in the way, but what is closed stays closed.
            let (debit, credit) = (&self.accounts[&ask.debit], &self.accounts[&ask.credit]);
            ensure(debit.state != CLOSED, Code::DebitAccountClosed)?;
            debit.check_funds(ask.amount)?;
            ensure(credit.state != CLOSED, Code::CreditAccountClosed)?;
            credit.check_room(ask.amount)?;
        } else {
            self.check_accounts(ask, ask.amount)?;
        }
        let first = self.items.get_mut(&ask.related).unwrap();
        first.refunded += ask.amount;
        first.is_over = whole;
        self.post(ask.debit, ask.credit, ask.amount);
        self.note(ask, ask.amount, false);
        Ok(())
    }

    fn change(&mut self, ask: &Ask) -> Told {
        let account = self.accounts.get_mut(&ask.debit).ok_or(Code::DebitAccountUnknown)?;
        let (state, level, overdraft) = ask.change;
        ensure(account.state != CLOSED, Code::DebitAccountClosed)?;
        let [debits, credits, held, incoming] = account.totals;
        ensure(state != Some(CLOSED) || debits == credits, Code::AccountNotEmpty)?;
        ensure(state != Some(CLOSED) || held + incoming == 0, Code::AccountPending)?;
        ensure(!overdraft || account.kind == LIMITED, Code::OverdraftInvalid)?;
        account.overdraft = if overdraft { ask.amount } else { account.overdraft };
        account.check_funds(0)?;
        account.state = state.unwrap_or(account.state);
        account.level = level.unwrap_or(account.level);
        self.note(ask, 0, false);
        Ok(())
    }

    fn second(&self) -> u64 {
        self.clock.unwrap_or(self.now)
    }

    /// Adds to what the limits have counted.
    fn tally(&mut self, ask: &Ask, gateway: u32, second: u64, (sum, count): (i128, i128)) {
        let account = &self.accounts[&ask.debit];
        if !self.rules || account.currency != EUR {
            return;
        }
        let day = (account.level == 1).then_some((0, ask.debit, second / DAY_S));
        for key in day.into_iter().chain([(1, u128::from(gateway), second / STEP_S)]) {
            let counted = self.counts.entry(key).or_default();
            *counted = (counted.0 + sum, counted.1 + count);
        }
    }

    /// Counts what is to be paid or set aside, and refuses what is too much.
    fn count(&mut self, ask: &Ask, amount: u128, times: i128) -> Told {
        let account = &self.accounts[&ask.debit];
        let is_counted = self.rules && account.currency == EUR && self.gateway != LEDGER;
        let of_day = is_counted && account.level == 1;
        let (second, bounds) = (self.second(), self.bounds);
        ensure(!of_day || amount <= ONCE, Code::LimitExceeded)?;
        if is_counted {
            self.tally(ask, self.gateway, second, (amount.cast_signed(), times));
        }
        let day = self.counts.get(&(0, ask.debit, second / DAY_S)).copied().unwrap_or_default();
        ensure(!of_day || day.0 <= bounds.day.0, Code::LimitExceeded)?;
        ensure(!of_day || day.1 <= bounds.day.1, Code::LimitCountExceeded)?;
        let (gateway, step) = (u128::from(self.gateway), second / STEP_S);
        let window = self.counts.range((1, gateway, step - 6)..=(1, gateway, step));
        let sum: i128 = window.map(|(_, counted)| counted.0).sum();
        ensure(!is_counted || sum <= bounds.sliding, Code::LimitExceeded)
    }

    /// Takes the fee of a payment from its payee, and withholds a part of it.
    fn charge(&mut self, ask: &Ask, amount: u128) -> Told {
        // Observed: neither nothing nor the leg that pays out the other currency bears a fee.
        let bears = self.rules && amount > 0 && ask.code == 1 && ask.verb != Exchange && self.gateway != LEDGER;
        if !bears || self.accounts[&ask.credit].currency != EUR {
            return Ok(());
        }
        let fee = (amount + 5) / 10 + 3;
        ensure(fee <= amount, Code::FeeExceedsAmount)?;
        let whole: u128 = SHARES.iter().map(|share| share.1).sum();
        let mut parts = SHARES.map(|(to, ratio)| (to, fee * ratio / whole));
        let left = fee - parts.iter().map(|part| part.1).sum::<u128>();
        parts.iter_mut().zip(0..left).for_each(|(part, _)| part.1 += 1);
        // Observed: a share is subject to the rules of its recipient and of segregation; nobody pays it to himself.
        for (to, part) in parts.into_iter().filter(|(to, part)| *part > 0 && *to != ask.credit) {
            self.check_classes(ask.credit, to, 90)?;
            self.accounts[&to].check_credit()?;
            self.post(ask.credit, to, part);
            self.charged.push((ask.credit, to, part));
        }
        self.withhold(ask, (amount + 5) / 10)
    }

    /// Puts a part of a payment into reserve for a day.
    fn withhold(&mut self, payment: &Ask, part: u128) -> Told {
        let payee = payment.credit;
        if part == 0 || self.accounts[&payee].class != CLIENT {
            return Ok(());
        }
        // Observed: a freeze of the payee does not keep it from being withheld, and that of the reserve does.
        self.accounts[&payee].check_funds(part)?;
        self.accounts[&RESERVE].check_credit()?;
        self.post(payee, RESERVE, part);
        self.set_aside(&Ask { debit: RESERVE, credit: payee, ..Ask::default() }, part.cast_signed());
        self.charged.push((payee, RESERVE, part));
        self.withheld.insert_mut(payment.id, (payee, part, self.second() + DAY_S));
        Ok(())
    }

    /// What was withheld of a payment comes back.
    pub(crate) fn come_back(&mut self, cause: u128) {
        let (payee, part, _) = self.withheld[&cause];
        self.withheld.remove_mut(&cause);
        self.set_aside(&Ask { debit: RESERVE, credit: payee, ..Ask::default() }, -part.cast_signed());
        self.post(RESERVE, payee, part);
    }

    /// Lets time pass: holds expire, delayed transfers arrive.
    #[allow(dead_code, reason = "not every test tells the time itself")]
    pub(crate) fn tick(&mut self, now: u64) {
        self.now = now;
        let due = |item: &&Item| item.is_open && item.ask.time != 0 && item.ask.time <= now;
        for id in self.items.values().filter(due).map(|item| item.ask.id).collect::<Vec<_>>() {
            self.fall_due(id);
        }
        let over = self.withheld.iter().filter(|(_, (.., until))| *until <= now).map(|(cause, _)| *cause);
        for cause in over.collect::<Vec<_>>() {
            self.come_back(cause);
        }
    }

    /// Lets one hold expire, or one delayed transfer arrive.
    pub(crate) fn fall_due(&mut self, id: u128) {
        let item = self.items.get_mut(&id).unwrap();
        let ask = item.ask;
        if ask.verb == Hold {
            return self.release(id);
        }
        (item.is_open, item.has_moved) = (false, true);
        self.set_aside(&ask, -ask.amount.cast_signed());
        self.post(ask.debit, ask.credit, ask.amount);
        // Observed: what cannot bear its fee arrives without.
        let before = self.clone();
        if self.charge(&ask, ask.amount).is_err() {
            *self = before;
        }
    }
}
