//! What a shard does with each message: plain functions over hosted accounts, without actix, threads or clock.
//!
//! A transfer between two accounts of this shard is decided at once. For one whose credit account is elsewhere the amount
//! is reserved here and a leg sent there; the other shard decides and tells us. Two cases have to wait:
//!
//! * *Parked*: the debit account could or could not pay, depending on reservations that are still open. The transfer, and
//!   those of the same account behind it, wait here until a reservation ends. Deciding legs never waits for this, so
//!   nothing waits in a circle.
//! * *Probing*: the credit account's mirror limit depends on open reservations. The other shards are asked for all they
//!   decided so far; when all have answered, what is posted then is what counts. Probes are answered at once.
//!
//! What is more than an immediate transfer between two accounts goes to the desk ([`super::office`]), which may have an account
//! for itself meanwhile; what comes for it then waits here like anything parked, but for legs, which are sent on to the desk.
//!
//! # Invariants
//!
//! 1. An outcome is in the output before any message that rests on it, so its sequence is smaller.
//! 2. Every reservation ends exactly once.
//! 3. The order and the codes do not depend on whether the two accounts share a shard: all rules of the debit account
//!    come before all rules of the credit account.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::legs::{Finished, Item, Leg, Loan, Payer, ShardMessage};
use super::office::Office;
use super::sides::credit_leg;
use crate::flow::{AuditReply, Batch, Decided, Parcel, Submission};
use crate::ledger::{
    Account, BookAccount, Code, Decision, Desk, Lasting, NewAccount, Order, Original, Outcome, Policy, Record, Slot,
    Table, Transfer,
};

/// Look-ups done ahead of deciding, so that their cache misses overlap.
pub(super) const LOOKUP_BLOCK: usize = 32;

/// The accounts of one shard and what is on its way between shards.
#[derive(Debug)]
pub struct Core {
    pub(super) shard: usize,
    pub(super) accounts: Table<Account>,
    pub(super) policy: Arc<Policy>,
    /// The desk; the first shard has it.
    pub(super) office: Option<Office>,
    parked: HashMap<Slot, VecDeque<Parked>>,
    /// Accounts that the desk has, or will have as soon as they are quiet.
    pub(super) loans: HashMap<Slot, LoanState>,
    probing: VecDeque<Probing>,
    /// Per shard, how many probes it was sent and has answered.
    probes_sent: Vec<u64>,
    probes_answered: Vec<u64>,
    /// Per shard, how many of its decisions were posted here.
    finished: Vec<u64>,
    /// Whether more is due than was done at once.
    pub(super) is_more_due: bool,
    /// Whether the rest of a request is on its way.
    is_amid: bool,
    pub(super) output: Output,
}

/// An account that the desk has, or will have as soon as it is quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LoanState {
    /// Whether it is at the desk.
    pub(super) is_away: bool,
    /// Transactions of it sent to the desk and not known to be decided.
    pub(super) sent: u32,
}

/// What a shard has to send, in this order: outcomes first, then messages that may rest on them.
#[derive(Debug, Default)]
pub struct Output {
    /// For the settlement actor, in order.
    pub decided: Vec<Decided>,
    /// Per shard: about accounts that the desk borrows.
    pub loans: Vec<Vec<Loan>>,
    /// Per shard: legs to decide.
    pub legs: Vec<Batch<Leg>>,
    /// Per shard: how legs ended.
    pub ended: Vec<Vec<Finished>>,
    /// Per shard: number of probes to send.
    pub probes: Vec<u32>,
    /// Per shard: number of probes to answer.
    pub probed: Vec<u32>,
}

/// Where an outcome belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) parcel: &'a Arc<Parcel>,
    pub(super) index: u32,
}

/// What waits for an account.
#[derive(Debug)]
enum Parked {
    /// An immediate transfer.
    Transfer { parcel: Arc<Parcel>, index: u32, transfer: Transfer },
    /// What is for the desk.
    Transaction(Vec<Item>),
}

#[derive(Debug)]
struct Probing {
    from: usize,
    parcel: Arc<Parcel>,
    index: u32,
    leg: Leg,
    /// Per shard, how many answers there must be before this can be decided.
    needed: Vec<u64>,
}

impl Output {
    fn new(shards: usize) -> Self {
        Self {
            decided: Vec::new(),
            loans: (0..shards).map(|_| Vec::new()).collect(),
            legs: (0..shards).map(|_| Batch::default()).collect(),
            ended: vec![Vec::new(); shards],
            probes: vec![0; shards],
            probed: vec![0; shards],
        }
    }

    /// What is decided next; a new part when somebody else decided last.
    #[inline]
    pub(super) fn decided(&mut self, shard: usize) -> &mut Decided {
        if self.decided.last().is_none_or(|last| last.shard != shard) {
            self.decided.push(Decided { shard, ..Decided::default() });
        }
        #[expect(clippy::expect_used, reason = "one was pushed above if there was none")]
        self.decided.last_mut().expect("a part")
    }

    /// Begins a new part, because limits count as of another second from here on.
    pub(super) fn next_second(&mut self, shard: usize) {
        self.decided.push(Decided { shard, ..Decided::default() });
    }
}

impl Core {
    /// An empty shard, one of `shards`. The first one has the desk.
    pub fn new(shard: usize, shards: usize, policy: &Arc<Policy>) -> Self {
        Self {
            shard,
            accounts: Table::new(),
            policy: Arc::clone(policy),
            office: (shard == 0).then(|| Office::new(Desk::new(Arc::clone(policy)))),
            parked: HashMap::new(),
            loans: HashMap::new(),
            probing: VecDeque::new(),
            probes_sent: vec![0; shards],
            probes_answered: vec![0; shards],
            finished: vec![0; shards],
            is_more_due: false,
            is_amid: false,
            output: Output::new(shards),
        }
    }

    /// Does some more of what is due, if there is more.
    pub fn do_due(&mut self) {
        if self.is_more_due {
            self.go_on_due();
        }
    }

    /// Whether more is due than was done so far.
    pub fn is_more_due(&self) -> bool {
        self.is_more_due
    }

    /// Whether a rest of what was submitted last follows at once, if only to say that nothing of it is new: what was decided is better sent with that.
    pub fn is_amid(&self) -> bool {
        self.is_amid
    }

    /// Hosts an account from the book; only before the first message.
    pub fn host(&mut self, account: &BookAccount) {
        self.accounts.host(account);
    }

    /// The desk, to put in what is open; only at the first shard.
    pub fn desk_mut(&mut self) -> Option<&mut Desk> {
        self.office.as_mut().map(|office| &mut office.desk)
    }

    /// The number of accounts hosted.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// Whether nothing waits here for another message.
    pub fn is_idle(&self) -> bool {
        self.parked.is_empty()
            && self.probing.is_empty()
            && self.loans.is_empty()
            && self.office.as_ref().is_none_or(Office::is_idle)
            && self.accounts.iter().all(|account| account.is_quiet() && !account.is_parked())
    }

    /// What is to be sent since the last call.
    pub fn take_output(&mut self) -> Output {
        let empty = Output::new(self.shards());
        std::mem::replace(&mut self.output, empty)
    }

    /// Handles one message.
    pub fn handle(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Submit(batch) => self.submit(&batch),
            ShardMessage::Orders(transactions) => transactions.into_iter().for_each(|items| self.transaction(items)),
            ShardMessage::Tick { now_ns } => self.tick(now_ns),
            ShardMessage::Forget(given_back) => {
                if let Some(desk) = self.desk_mut() {
                    desk.forget(&given_back);
                }
            }
            ShardMessage::Loans(loans) => loans.into_iter().for_each(|loan| self.loan(loan)),
            ShardMessage::Open(batch) => self.open(&batch),
            ShardMessage::Accept { from, legs } => self.accept(from, &legs),
            ShardMessage::Finish { from, ended } => self.finish(from, &ended),
            ShardMessage::Probe { from } => add(&mut self.output.probed, from),
            ShardMessage::Probed { from } => self.probed(from),
            ShardMessage::Audit { first, count } => self.audit(first, count),
        }
    }

    pub(super) fn shards(&self) -> usize {
        self.finished.len()
    }

    fn open(&mut self, batch: &Batch<NewAccount>) {
        for tagged in batch.items() {
            let Some(parcel) = batch.parcel(tagged.parcel) else { continue };
            let account = &tagged.item;
            let known = self.accounts.find(account.id).and_then(|slot| self.accounts.beside(slot));
            let outcome = match (self.check_opening(account, parcel), known) {
                (Err(code), _) => Outcome::unrecorded(code),
                (Ok(()), Some(known)) if known == Lasting::of(account) => {
                    Outcome { repeated: true, ..Outcome::unrecorded(Code::Accepted) }
                }
                (Ok(()), Some(_)) => Outcome::unrecorded(Code::AccountIdReused),
                (Ok(()), None) => {
                    self.accounts.host(&BookAccount::open(account));
                    let record = Record::Account { account: *account, gateway: parcel.gateway() };
                    self.output.decided(self.shard).record(parcel, tagged.index, &record, Code::Accepted);
                    continue;
                }
            };
            self.output.decided(self.shard).unrecorded.push(parcel, tagged.index, outcome);
        }
    }

    fn check_opening(&self, account: &NewAccount, parcel: &Parcel) -> Result<(), Code> {
        account.check()?;
        if self.policy.exponent(account.currency).is_none() {
            Err(Code::CurrencyUnknown)
        } else if parcel.grant().may_open() {
            Ok(())
        } else {
            Err(Code::OperationNotPermitted)
        }
    }

    fn submit(&mut self, submission: &Submission) {
        self.is_amid = submission.rest() > 0;
        self.output.decided(self.shard).reserve(submission.len().saturating_add(submission.rest()));
        let mut items = submission.items();
        let mut block: Vec<(Origin<'_>, &Transfer)> = Vec::with_capacity(LOOKUP_BLOCK);
        // The transaction that is being gathered; it may go on beyond a block.
        let mut transaction = Vec::new();
        loop {
            block.clear();
            let some = items.by_ref().take(LOOKUP_BLOCK);
            block.extend(some.map(|(parcel, index, transfer)| (Origin { parcel, index }, transfer)));
            if block.is_empty() {
                break;
            }
            let slots = self.look_up(&block);
            for (&(origin, transfer), &slots) in block.iter().zip(&slots) {
                if transaction.is_empty() && self.decide_single(origin, transfer, slots) {
                    continue;
                }
                transaction.push(Item::new(origin.parcel, origin.index, *transfer));
                if transfer.is_linked() {
                    continue;
                }
                if self.shards() == 1 && !self.waits(&transaction) {
                    // At once, so the memory serves the next one.
                    self.decide_here(&transaction);
                    transaction.clear();
                } else {
                    self.transaction(std::mem::take(&mut transaction));
                }
            }
        }
        if !transaction.is_empty() {
            self.transaction(transaction);
        }
    }

    /// The slots of a block of transfers, in loops of their own, so short that the cache misses overlap.
    #[inline]
    fn look_up(&self, block: &[(Origin<'_>, &Transfer)]) -> [(Option<Slot>, Option<Slot>); LOOKUP_BLOCK] {
        let mut slots = [(None, None); LOOKUP_BLOCK];
        let mut seen = 0;
        for (found, (_, transfer)) in slots.iter_mut().zip(block) {
            // A transfer lies in two cache lines.
            seen ^= transfer.flags;
            let is_local = transfer.credit.shard(self.shards()) == self.shard;
            let credit = if is_local { self.accounts.guess(transfer.credit) } else { None };
            *found = (self.accounts.guess(transfer.debit), credit);
        }
        std::hint::black_box(seen);
        for ((debit, credit), (_, transfer)) in slots.iter_mut().zip(block) {
            *debit = self.accounts.confirm(transfer.debit, *debit);
            *credit = self.accounts.confirm(transfer.credit, *credit);
        }
        if let Some(office) = &self.office {
            for (_, transfer) in block {
                office.desk.touch_about(transfer);
            }
            if self.policy.has_limits() {
                for (debit, _) in &slots {
                    office.desk.touch(*debit);
                }
            }
        }
        slots
    }

    /// Decides a transfer that is no transaction and needs no desk; answers whether it is such a one.
    #[inline]
    fn decide_single(&mut self, origin: Origin<'_>, transfer: &Transfer, slots: (Option<Slot>, Option<Slot>)) -> bool {
        if self.policy.leaves_alone(transfer) {
            self.transfer(origin, transfer, slots);
            return true;
        }
        let is_counted = transfer.is_plain() && self.shards() == 1 && self.policy.charges_nothing(transfer);
        if is_counted {
            self.counted(origin, transfer, slots);
        }
        is_counted
    }

    /// Whether an account is at the desk.
    fn is_away(&self, slot: Slot) -> bool {
        self.loans.get(&slot).is_some_and(|loan| loan.is_away)
    }

    /// Whether what comes for an account must wait here; for one that the desk has, or will have, it goes there instead.
    fn is_waited_for(&self, slot: Slot) -> bool {
        self.accounts.get(slot).is_some_and(Account::is_parked) && !self.loans.contains_key(&slot)
    }

    /// Whether a transaction comes behind others that wait for its first account.
    fn waits(&self, items: &[Item]) -> bool {
        let first = items.first().and_then(|item| self.accounts.find(item.order.transfer.debit));
        first.is_some_and(|slot| self.is_waited_for(slot))
    }

    /// Brings a transaction to the desk; behind what waits for its first account.
    pub(super) fn transaction(&mut self, items: Vec<Item>) {
        let first = items.first().and_then(|item| self.accounts.find(item.order.transfer.debit));
        match first {
            Some(slot) if self.is_waited_for(slot) => {
                self.parked.entry(slot).or_default().push_back(Parked::Transaction(items));
            }
            first => self.to_desk(first, items),
        }
    }

    /// The credit account's slot if it is hosted here.
    #[inline]
    fn local(&self, transfer: &Transfer) -> Option<Slot> {
        if transfer.credit.shard(self.shards()) == self.shard { self.accounts.find(transfer.credit) } else { None }
    }

    #[inline]
    fn transfer(&mut self, origin: Origin<'_>, transfer: &Transfer, slots: (Option<Slot>, Option<Slot>)) {
        let (debit_slot, credit_slot) = slots;
        let home = transfer.credit.shard(self.shards());
        let is_here = home == self.shard;
        let checked = transfer.check().and_then(|()| origin.parcel.grant().check(transfer));
        let checked = checked.and_then(|()| self.policy.check_parties(transfer.debit, transfer.credit));
        if let Err(code) = checked {
            return self.decide(origin, transfer, code);
        }
        let Some((slot, debit)) = debit_slot.and_then(|slot| Some((slot, self.accounts.get_mut(slot)?))) else {
            return self.decide(origin, transfer, Code::DebitAccountUnknown);
        };
        if debit.is_parked() {
            // If it is, or will be, at the desk, this goes there after it.
            return if self.loans.contains_key(&slot) {
                self.to_desk(Some(slot), vec![Item::new(origin.parcel, origin.index, *transfer)]);
            } else {
                self.park(slot, origin, transfer);
            };
        }
        let (currency, class) = (debit.currency(), debit.class());
        let decision = if is_here { debit.check_reserve(transfer.amount) } else { debit.reserve(transfer.amount) };
        match decision {
            Decision::Rejected(code) => self.decide(origin, transfer, code),
            Decision::Undecided => {
                debit.set_parked(true);
                self.park(slot, origin, transfer);
            }
            Decision::Accepted => {
                let payer = Payer { slot, currency, class };
                if is_here {
                    self.both_here(origin, (transfer, payer), credit_slot);
                } else if let Some(legs) = self.output.legs.get_mut(home) {
                    legs.push(origin.parcel, origin.index, Leg { transfer: *transfer, payer });
                }
            }
        }
    }

    #[inline]
    pub(super) fn decide(&mut self, Origin { parcel, index }: Origin<'_>, transfer: &Transfer, code: Code) {
        self.output.decided(self.shard).transfer(parcel, index, transfer, code);
    }

    fn finish(&mut self, from: usize, ended: &[Finished]) {
        if let Some(count) = self.finished.get_mut(from) {
            *count = count.saturating_add(u64::try_from(ended.len()).unwrap_or(0));
        }
        for leg in ended {
            self.end_reservation(leg);
        }
    }

    #[inline]
    pub(super) fn end_reservation(&mut self, ended: &Finished) {
        let Some(account) = self.accounts.get_mut(ended.debit_slot) else { return };
        if ended.accepted {
            account.finish(ended.amount);
        } else {
            account.release(ended.amount);
        }
        if !account.is_parked() {
            return;
        }
        if self.loans.contains_key(&ended.debit_slot) {
            self.lend_if_quiet(ended.debit_slot);
        } else {
            self.unpark(ended.debit_slot);
        }
    }

    fn park(&mut self, slot: Slot, origin: Origin<'_>, transfer: &Transfer) {
        let waiting = Parked::Transfer { parcel: Arc::clone(origin.parcel), index: origin.index, transfer: *transfer };
        self.parked.entry(slot).or_default().push_back(waiting);
    }

    /// Takes up what waited for this account, until something has to wait again.
    pub(super) fn unpark(&mut self, slot: Slot) {
        if let Some(account) = self.accounts.get_mut(slot) {
            account.set_parked(false);
        }
        let Some(mut waiting) = self.parked.remove(&slot) else { return };
        while let Some(next) = waiting.pop_front() {
            match next {
                Parked::Transfer { parcel, index, transfer } => {
                    let credit_slot = self.local(&transfer);
                    self.transfer(Origin { parcel: &parcel, index }, &transfer, (Some(slot), credit_slot));
                }
                Parked::Transaction(items) => self.to_desk(Some(slot), items),
            }
            if self.loans.contains_key(&slot) {
                // The account goes to the desk, and all that waits with it.
                return self.parked_to_desk(slot, waiting);
            }
            if self.accounts.get(slot).is_some_and(Account::is_parked) {
                // It waits again, still before those behind it.
                for again in self.parked.remove(&slot).into_iter().flatten().rev() {
                    waiting.push_front(again);
                }
                self.parked.insert(slot, waiting);
                return;
            }
        }
    }

    /// Sends to the desk what waits for an account that goes there, in order.
    fn parked_to_desk(&mut self, slot: Slot, waiting: VecDeque<Parked>) {
        for next in waiting {
            let items = match next {
                Parked::Transfer { parcel, index, transfer } => vec![Item::new(&parcel, index, transfer)],
                Parked::Transaction(items) => items,
            };
            self.to_desk(Some(slot), items);
        }
    }

    /// Notes that an account goes to the desk; what waits for it goes there, and so will what comes for it.
    pub(super) fn promise(&mut self, slot: Slot) {
        if self.loans.contains_key(&slot) {
            return;
        }
        self.loans.insert(slot, LoanState::default());
        if let Some(account) = self.accounts.get_mut(slot) {
            account.set_parked(true);
        }
        let waiting = self.parked.remove(&slot).unwrap_or_default();
        self.parked_to_desk(slot, waiting);
    }

    pub(super) fn probe(&mut self, from: usize, origin: Origin<'_>, leg: Leg) {
        for (shard, sent) in self.probes_sent.iter_mut().enumerate().filter(|&(shard, _)| shard != self.shard) {
            add(&mut self.output.probes, shard);
            *sent = sent.saturating_add(1);
        }
        let (parcel, index) = (Arc::clone(origin.parcel), origin.index);
        let needed = self.probes_sent.clone();
        self.probing.push_back(Probing { from, parcel, index, leg, needed });
        self.decide_probed();
    }

    fn probed(&mut self, from: usize) {
        if let Some(answered) = self.probes_answered.get_mut(from) {
            *answered = answered.saturating_add(1);
        }
        self.decide_probed();
    }

    /// Decides the legs for which every answer is in. Alone, a shard has nobody to ask.
    fn decide_probed(&mut self) {
        // Answers come in the order of the probes, so those that have waited longest are ready first.
        while let Some(first) = self.probing.front()
            && first.needed.iter().zip(&self.probes_answered).all(|(needed, answered)| answered >= needed)
            && let Some(Probing { from, parcel, index, leg, .. }) = self.probing.pop_front()
        {
            let slot = self.accounts.find(leg.transfer.credit);
            if slot.is_some_and(|slot| self.is_away(slot)) {
                self.leg_to_desk(from, Origin { parcel: &parcel, index }, leg);
                continue;
            }
            let code = match slot.and_then(|slot| self.accounts.get_mut(slot)) {
                None => Code::CreditAccountUnknown,
                Some(credit) => match credit_leg(&self.policy, credit, (&leg.transfer, leg.payer), true) {
                    Decision::Accepted => Code::Accepted,
                    Decision::Rejected(code) => code,
                    Decision::Undecided => Code::ExceedsDebits,
                },
            };
            self.end(from, Origin { parcel: &parcel, index }, &leg, code);
        }
    }

    fn audit(&mut self, first: Slot, count: u32) {
        let end = first.saturating_add(count);
        let accounts = (first..end).map_while(|slot| Some((slot, self.accounts.get(slot)?)));
        let here = accounts.filter(|(slot, _)| !self.is_away(*slot));
        let accounts: Vec<_> = here.map(|(_, account)| (account.id(), account.totals())).collect();
        let reply = AuditReply { shard: self.shard, accounts, finished: self.finished.clone() };
        self.output.decided(self.shard).audit = Some(reply);
    }
}

impl Item {
    /// A transfer of which nothing is known but what it says.
    pub fn new(parcel: &Arc<Parcel>, index: u32, transfer: Transfer) -> Self {
        let (gateway, grant) = (parcel.gateway(), *parcel.grant());
        let order = Order { transfer, gateway, grant, original: Original::NotAsked, refused: None };
        Self { parcel: Arc::clone(parcel), index, order }
    }
}

fn add(counts: &mut [u32], place: usize) {
    if let Some(count) = counts.get_mut(place) {
        *count = count.saturating_add(1);
    }
}
