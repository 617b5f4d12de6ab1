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
//! # Invariants
//!
//! 1. An outcome is in the output before any message that rests on it, so its sequence is smaller.
//! 2. Every reservation ends exactly once.
//! 3. The order and the codes do not depend on whether the two accounts share a shard: all rules of the debit account
//!    come before all rules of the credit account.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::legs::{Finished, Leg, ShardMessage};
use crate::flow::{AuditReply, Batch, Decided, Parcel};
use crate::ledger::{Account, BookAccount, Code, Decision, NewAccount, Outcome, Record, Slot, Table, Transfer};

/// Look-ups done ahead of deciding, so that their cache misses overlap.
const LOOKUP_BLOCK: usize = 32;

/// The accounts of one shard and what is on its way between shards.
#[derive(Debug)]
pub struct Core {
    shard: usize,
    accounts: Table<Account>,
    parked: HashMap<Slot, VecDeque<Parked>>,
    probing: VecDeque<Probing>,
    /// Per shard, how many probes it was sent and has answered.
    probes_sent: Vec<u64>,
    probes_answered: Vec<u64>,
    /// Per shard, how many of its decisions were posted here.
    finished: Vec<u64>,
    output: Output,
}

/// What a shard has to send, in this order: outcomes first, then messages that may rest on them.
#[derive(Debug, Default)]
pub struct Output {
    /// For the settlement actor.
    pub decided: Decided,
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
struct Origin<'a> {
    parcel: &'a Arc<Parcel>,
    index: u32,
}

#[derive(Debug)]
struct Parked {
    parcel: Arc<Parcel>,
    index: u32,
    transfer: Transfer,
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
    fn new(shard: usize, shards: usize) -> Self {
        Self {
            decided: Decided { shard, ..Decided::default() },
            legs: (0..shards).map(|_| Batch::default()).collect(),
            ended: vec![Vec::new(); shards],
            probes: vec![0; shards],
            probed: vec![0; shards],
        }
    }
}

impl Core {
    /// An empty shard, one of `shards`.
    pub fn new(shard: usize, shards: usize) -> Self {
        Self {
            shard,
            accounts: Table::new(Account::id),
            parked: HashMap::new(),
            probing: VecDeque::new(),
            probes_sent: vec![0; shards],
            probes_answered: vec![0; shards],
            finished: vec![0; shards],
            output: Output::new(shard, shards),
        }
    }

    /// Hosts an account from the book; only before the first message.
    pub fn host(&mut self, account: &BookAccount) {
        self.accounts.insert(Account::new(&account.properties, account.debits_posted, account.credits_posted));
    }

    /// The number of accounts hosted.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// What is to be sent since the last call.
    pub fn take_output(&mut self) -> Output {
        let empty = Output::new(self.shard, self.shards());
        std::mem::replace(&mut self.output, empty)
    }

    /// Handles one message.
    pub fn handle(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Submit(batch) => self.submit(&batch),
            ShardMessage::Open(batch) => self.open(&batch),
            ShardMessage::Accept { from, legs } => self.accept(from, &legs),
            ShardMessage::Finish { from, ended } => self.finish(from, &ended),
            ShardMessage::Probe { from } => add(&mut self.output.probed, from),
            ShardMessage::Probed { from } => self.probed(from),
            ShardMessage::Audit { first, count } => self.audit(first, count),
        }
    }

    fn shards(&self) -> usize {
        self.finished.len()
    }

    fn open(&mut self, batch: &Batch<NewAccount>) {
        for tagged in batch.items() {
            let Some(parcel) = batch.parcel(tagged.parcel) else { continue };
            let account = &tagged.item;
            let known = self.accounts.find(account.id).and_then(|slot| self.accounts.get(slot));
            let outcome = match (account.check(), known) {
                (Err(code), _) => Outcome::unrecorded(code),
                (Ok(()), Some(known)) if known.has_properties(account) => {
                    Outcome { repeated: true, ..Outcome::unrecorded(Code::Accepted) }
                }
                (Ok(()), Some(_)) => Outcome::unrecorded(Code::AccountIdReused),
                (Ok(()), None) => {
                    self.accounts.insert(Account::new(account, 0, 0));
                    let record = Record::Account { account: *account, gateway: parcel.gateway() };
                    self.output.decided.record(parcel, tagged.index, &record, Code::Accepted);
                    continue;
                }
            };
            self.output.decided.unrecorded.push(parcel, tagged.index, outcome);
        }
    }

    fn submit(&mut self, batch: &Batch<Transfer>) {
        self.output.decided.records.reserve(batch.len().saturating_mul(crate::ledger::RECORD_BYTES));
        for block in batch.items().chunks(LOOKUP_BLOCK) {
            let mut slots = [(None, None); LOOKUP_BLOCK];
            for (found, tagged) in slots.iter_mut().zip(block) {
                *found = (self.accounts.find(tagged.item.debit), self.local(&tagged.item));
            }
            for (slots, tagged) in slots.iter().zip(block) {
                if let Some(parcel) = batch.parcel(tagged.parcel) {
                    self.transfer(Origin { parcel, index: tagged.index }, &tagged.item, *slots);
                }
            }
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
        if let Err(code) = transfer.check() {
            return self.decide(origin, transfer, code);
        }
        let Some((slot, debit)) = debit_slot.and_then(|slot| Some((slot, self.accounts.get_mut(slot)?))) else {
            return self.decide(origin, transfer, Code::DebitAccountUnknown);
        };
        if debit.is_parked() {
            return self.park(slot, origin, transfer);
        }
        let currency = debit.currency();
        match debit.reserve(transfer.amount) {
            Decision::Rejected(code) => self.decide(origin, transfer, code),
            Decision::Undecided => {
                debit.set_parked(true);
                self.park(slot, origin, transfer);
            }
            Decision::Accepted => {
                let leg = Leg { transfer: *transfer, debit_slot: slot, currency };
                let home = transfer.credit.shard(self.shards());
                if home == self.shard {
                    self.credit(home, origin, leg, credit_slot);
                } else if let Some(legs) = self.output.legs.get_mut(home) {
                    legs.push(origin.parcel, origin.index, leg);
                }
            }
        }
    }

    fn accept(&mut self, from: usize, legs: &Batch<Leg>) {
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
    fn credit(&mut self, from: usize, origin: Origin<'_>, leg: Leg, slot: Option<Slot>) {
        let decision = match slot.and_then(|slot| self.accounts.get_mut(slot)) {
            None => Decision::Rejected(Code::CreditAccountUnknown),
            Some(credit) => credit.accept(leg.transfer.amount, leg.currency, false),
        };
        match decision {
            Decision::Accepted => self.end(from, origin, &leg, Code::Accepted),
            Decision::Rejected(code) => self.end(from, origin, &leg, code),
            Decision::Undecided => self.probe(from, origin, leg),
        }
    }

    /// Emits the outcome of a leg and tells the debit side.
    #[inline]
    fn end(&mut self, from: usize, origin: Origin<'_>, leg: &Leg, code: Code) {
        self.decide(origin, &leg.transfer, code);
        let ended = Finished { debit_slot: leg.debit_slot, amount: leg.transfer.amount, accepted: code.is_accepted() };
        if from == self.shard {
            self.end_reservation(&ended);
        } else if let Some(list) = self.output.ended.get_mut(from) {
            list.push(ended);
        }
    }

    #[inline]
    fn decide(&mut self, Origin { parcel, index }: Origin<'_>, transfer: &Transfer, code: Code) {
        let record = Record::Transfer { transfer: *transfer, outcome: code, gateway: parcel.gateway() };
        self.output.decided.record(parcel, index, &record, code);
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
    fn end_reservation(&mut self, ended: &Finished) {
        let Some(account) = self.accounts.get_mut(ended.debit_slot) else { return };
        if ended.accepted {
            account.finish(ended.amount);
        } else {
            account.release(ended.amount);
        }
        if account.is_parked() {
            self.unpark(ended.debit_slot);
        }
    }

    fn park(&mut self, slot: Slot, origin: Origin<'_>, transfer: &Transfer) {
        let waiting = Parked { parcel: Arc::clone(origin.parcel), index: origin.index, transfer: *transfer };
        self.parked.entry(slot).or_default().push_back(waiting);
    }

    /// Takes up what waited for a reservation of this account, until something has to wait again.
    fn unpark(&mut self, slot: Slot) {
        let Some(mut waiting) = self.parked.remove(&slot) else { return };
        if let Some(account) = self.accounts.get_mut(slot) {
            account.set_parked(false);
        }
        while let Some(next) = waiting.pop_front() {
            let credit_slot = self.local(&next.transfer);
            let origin = Origin { parcel: &next.parcel, index: next.index };
            self.transfer(origin, &next.transfer, (Some(slot), credit_slot));
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

    fn probe(&mut self, from: usize, origin: Origin<'_>, leg: Leg) {
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
            let code = match slot.and_then(|slot| self.accounts.get_mut(slot)) {
                None => Code::CreditAccountUnknown,
                Some(credit) => match credit.accept(leg.transfer.amount, leg.currency, true) {
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
        let accounts = (first..end).map_while(|slot| self.accounts.get(slot));
        let accounts: Vec<_> = accounts.map(|account| (account.id(), account.posted().0, account.posted().1)).collect();
        self.output.decided.audit = Some(AuditReply { shard: self.shard, accounts, finished: self.finished.clone() });
    }
}

fn add(counts: &mut [u32], place: usize) {
    if let Some(count) = counts.get_mut(place) {
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
