//! The judge: the journal's records in order beside a model that shares no code with the ledger, and beside what clients were told.

use std::collections::{BTreeMap, BTreeSet};

use heng::ledger::{BALANCING, Code, Operation, PayoutState, Record, Sequence, StoredRecord, Transfer, Window};

use crate::bank::Bank;
use crate::distributions::{DISTRIBUTION, Distributions, FROM};
use crate::log::{Balance, Log, Told};
use crate::plain::{Ask, Bounds, DAY_S, LEDGER, Model, SECOND_NS, Verb};
use crate::statements::{Statements, WRITE_OFF};
use crate::windows::{PARTICIPANTS, Windows, goes_on};

/// Walks the journal record by record.
pub(crate) struct Judge<'a> {
    log: &'a Log,
    model: Model,
    /// Records of the step that is being gathered.
    step: Vec<(Ask, Code)>,
    gateway: u32,
    seen: BTreeSet<u128>,
    last: (Sequence, u64),
    /// Reads in order of the sequence that they are as of.
    reads: Vec<usize>,
    rooms: Vec<(Sequence, u128)>,
    pub(crate) windows: Windows,
    pub(crate) distributions: Distributions,
    pub(crate) statements: Statements<'a>,
    /// Transfers of the ledger itself that are one step.
    own: Vec<(Transfer, Code)>,
    /// What the ledger's own transfers that were refused were for: their ids are decided for ever.
    own_refused: BTreeSet<(u32, u64, u128)>,
    /// What the ledger took by itself since the step before: from, to, amount.
    charged: Vec<(u128, u128, u128)>,
    /// What is withheld, by the id that the ledger gave it: from whom, how much, until when, of which payment.
    reserves: BTreeMap<u128, (u128, u128, u64, u128)>,
    /// What came back before its time since the last comparison: to whom, and how much.
    brought_back: Vec<(u128, u128)>,
    /// How often something that was withheld came back.
    pub(crate) came_back: u64,
    /// How much was refused by limits, and how often the ledger charged something.
    pub(crate) ruled: (u64, u64),
}

/// The account that may not take in more than was taken out of it.
const MIRROR: u128 = 5;

/// What was asked for: the record of a balancing transfer has that where others have a time, and as its amount what was moved.
fn asked(transfer: &Transfer) -> u128 {
    let balanced = transfer.flags & BALANCING != 0 && transfer.time_ns != 0;
    if balanced { transfer.time_ns.into() } else { transfer.amount }
}

/// What the ledger makes a transfer of its own for: of a settlement its kind, window and participant.
fn purpose(transfer: &Transfer) -> (u32, u64, u128) {
    (transfer.user_data_32, transfer.user_data_64, transfer.user_data_128)
}

/// Whether the ledger does this as a part of a transfer of a step.
fn is_part(transfer: &Transfer) -> bool {
    matches!(transfer.operation(), Operation::Release | Operation::Raise)
}

pub(crate) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl<'a> Judge<'a> {
    /// `bounds` are those of the rules in force, if rules are.
    pub(crate) fn new((log, bank): (&'a Log, &'a Bank), bounds: Option<Bounds>) -> Self {
        let mut reads: Vec<usize> = (0..log.reads.len()).collect();
        reads.sort_by_key(|&read| std::cmp::Reverse(log.reads[read].sequence));
        let (step, seen) = (Vec::new(), BTreeSet::new());
        let (mut model, windows, own) = (Model::new(bounds.is_some()), Windows::new(), Vec::new());
        model.bounds = bounds.unwrap_or(model.bounds);
        let (rooms, charged, statements) = (vec![(0, 0)], Vec::new(), Statements::new(bank));
        let (gateway, last, ruled, reserves, came_back) = (1, (0, 0), (0, 0), BTreeMap::new(), 0);
        Self {
            log,
            model,
            step,
            gateway,
            seen,
            last,
            reads,
            rooms,
            windows,
            distributions: Distributions::default(),
            statements,
            own,
            own_refused: BTreeSet::new(),
            charged,
            reserves,
            brought_back: Vec::new(),
            came_back,
            ruled,
        }
    }

    /// The next record.
    pub(crate) fn record(&mut self, stored: &StoredRecord) -> Result<(), String> {
        let (sequence, time_ns) = (stored.sequence, stored.time_ns);
        ensure(sequence == self.last.0 + 1, || format!("record {sequence} comes after {}", self.last.0))?;
        ensure(time_ns > self.last.1, || format!("record {sequence} is not later than the one before"))?;
        self.last = (sequence, time_ns);
        let second = time_ns / SECOND_NS;
        self.model.now = second;
        let before = self.balances();
        self.distributions.has(self.model.accounts[&FROM].totals, sequence);
        if let Record::Internal { transfer, .. } = &stored.record
            && matches!(transfer.operation(), Operation::Fee | Operation::Withhold)
        {
            self.take(transfer)?;
            return self.compare_reads();
        }
        let ends_capture = |record: &Record| matches!(record, Record::Internal { transfer, .. } if transfer.operation() == Operation::Release);
        if self.step.is_empty() && self.brought_back.is_empty() && !ends_capture(&stored.record) {
            self.compare_charges()?;
        }
        match &stored.record {
            Record::Transfer { transfer, outcome, gateway } if gateway.0 == LEDGER => {
                self.own(*transfer, *outcome)?;
                return self.compare_reads();
            }
            Record::Participant(entry, _) => self.windows.register(entry.id),
            Record::Window(entry) => {
                ensure(!self.is_amid(), || format!("a window changes amid a transaction, at {sequence}"))?;
                self.windows.enter(entry, time_ns).map_err(|what| format!("record {sequence}: {what}"))?;
            }
            Record::Payout(entry) => {
                if entry.state == PayoutState::Confirmed {
                    self.statements.confirmed(entry.id.raw())?;
                }
                self.windows.payout(entry).map_err(|what| format!("record {sequence}: {what}"))?;
            }
            Record::Statement(entry) => {
                self.statements.import(entry).map_err(|what| format!("record {sequence}: {what}"))?;
            }
            Record::Distribution(entry) => {
                self.distributions.enter(entry, self.last).map_err(|what| format!("record {sequence}: {what}"))?;
            }
            Record::Break(entry) => {
                self.statements.act(entry).map_err(|what| format!("record {sequence}: {what}"))?;
            }
            Record::Transfer { transfer, outcome, gateway } => {
                let told = Told { code: *outcome, sequence, time_ns };
                self.transfer(transfer.id.raw(), told, gateway.0)?;
            }
            Record::Internal { transfer, .. } => {
                self.internal(transfer)?;
            }
            Record::Clock { second } => self.model.clock = Some(u64::from(*second)),
            _ => {}
        }
        for ((account, before), after) in PARTICIPANTS.into_iter().zip(before).zip(self.balances()) {
            self.windows.gained(account, after - before);
        }
        self.compare_reads()
    }

    /// The ledger takes a fee, or withholds something.
    fn take(&mut self, transfer: &Transfer) -> Result<(), String> {
        self.charged.push((transfer.debit.raw(), transfer.credit.raw(), transfer.amount));
        if transfer.operation() == Operation::Withhold {
            let withheld = (transfer.debit.raw(), transfer.amount, transfer.time_ns, transfer.related);
            ensure(self.reserves.insert(transfer.id.raw(), withheld).is_none(), || {
                format!("record {}: {} is withheld twice", self.last.0, transfer.id)
            })?;
        }
        Ok(())
    }

    /// The ledger does something by itself.
    fn internal(&mut self, transfer: &Transfer) -> Result<(), String> {
        let ((sequence, time_ns), id) = (self.last, transfer.related);
        let reserve = self.reserves.remove(&id);
        ensure(reserve.is_none() || transfer.operation() == Operation::Arrive, || {
            format!("record {sequence}: {id} does not come back")
        })?;
        if let Some((payee, part, until, _)) = reserve
            && (until > time_ns || self.is_amid())
        {
            // Only a reversal brings it back early, or amid a transaction: it must follow, and the model does so with that.
            self.brought_back.push((payee, part));
            self.came_back += 1;
            return Ok(());
        }
        let is_alone = !self.is_amid() || is_part(transfer);
        ensure(is_alone, || format!("record {sequence} is amid a transaction"))?;
        if let Some((payee, part, _, cause)) = reserve {
            ensure(self.model.withheld.get(&cause).is_some_and(|own| (own.0, own.1) == (payee, part)), || {
                format!("record {sequence}: {id} comes back, which is not withheld")
            })?;
            self.model.come_back(cause);
            self.came_back += 1;
        } else if matches!(transfer.operation(), Operation::Expire | Operation::Arrive) {
            ensure(self.model.is_due(id, time_ns / SECOND_NS), || {
                format!("record {sequence}: {id} falls due too early or twice")
            })?;
            self.model.fall_due(id);
        }
        Ok(())
    }

    /// What was charged for the last step is what the model charges.
    fn compare_charges(&mut self) -> Result<(), String> {
        let sequence = self.last.0;
        let (charged, expected) = (std::mem::take(&mut self.charged), std::mem::take(&mut self.model.charged));
        self.ruled.1 += u64::try_from(charged.len()).unwrap();
        ensure(charged == expected, || {
            format!("{charged:?} was charged before record {sequence}, where the documentation says {expected:?}")
        })?;
        if charged.is_empty() {
            return Ok(());
        }
        self.compare_withheld()
    }

    /// What is withheld is what the model withholds. The ledger reckons from the moment of the decision: it is not before the second as of which
    /// limits count, nor after the record.
    fn compare_withheld(&self) -> Result<(), String> {
        let latest = (self.last.1 + DAY_S * SECOND_NS) / SECOND_NS;
        for known in self.reserves.values() {
            let (payee, part, until, cause) = known;
            let is_so = |own: &(u128, u128, u64)| {
                (own.0, own.1) == (*payee, *part) && (own.2..=latest).contains(&(until / SECOND_NS))
            };
            ensure(self.model.withheld.get(cause).is_some_and(is_so), || {
                format!("record {}: {known:?} is withheld, where the documentation says otherwise", self.last.0)
            })?;
        }
        let (count, expected) = (self.reserves.len(), self.model.withheld.size());
        ensure(count == expected, || format!("{count} are withheld at record {}, and not {expected}", self.last.0))
    }

    /// Whether the journal is amid a transaction.
    fn is_amid(&self) -> bool {
        !(self.step.is_empty() && self.own.is_empty() && self.brought_back.is_empty())
    }

    fn balances(&self) -> [i128; 3] {
        PARTICIPANTS.map(|id| {
            let [debits, credits, ..] = self.model.accounts[&id].totals;
            i128::try_from(credits).unwrap() - i128::try_from(debits).unwrap()
        })
    }

    /// A transfer that the ledger made to settle a window, to give back what the bank refused, or to write off what it does not explain.
    fn own(&mut self, transfer: Transfer, code: Code) -> Result<(), String> {
        let sequence = self.last.0;
        let id = transfer.id.raw();
        ensure(self.step.is_empty() && self.brought_back.is_empty() && self.seen.insert(id), || {
            format!("record {sequence}: {id} amid another or twice")
        })?;
        // With an id that is known none of it happens, and only those are recorded whose ids are new; then it is tried anew.
        let is_anew = self.own.iter().any(|(other, _)| purpose(other) == purpose(&transfer));
        if self.is_own_part() && (code.is_accepted() || is_anew && transfer.user_data_32 != DISTRIBUTION) {
            self.partly_known()?;
        }
        self.own.push((transfer, code));
        if goes_on(&transfer) {
            return Ok(());
        }
        if self.is_own_part() {
            return self.partly_known();
        }
        let step = std::mem::take(&mut self.own);
        let verb = |transfer: &Transfer| match transfer.operation() {
            Operation::Require => Verb::Require,
            _ if transfer.flags & BALANCING != 0 => Verb::Balancing,
            _ => Verb::Pay,
        };
        let asks = step.iter().map(|(transfer, _)| Ask {
            id: transfer.id.raw(),
            verb: verb(transfer),
            debit: transfer.debit.raw(),
            credit: transfer.credit.raw(),
            amount: asked(transfer),
            code: transfer.code,
            ..Ask::default()
        });
        let gateway = std::mem::replace(&mut self.model.gateway, LEDGER);
        let expected = self.model.submit(&asks.collect::<Vec<_>>());
        self.model.gateway = gateway;
        for ((transfer, code), expected) in step.iter().zip(&expected) {
            ensure(code == expected, || format!("record {sequence}: {code} and not {expected} for {transfer:?}"))?;
            if !code.is_accepted() {
                self.own_refused.insert(purpose(transfer));
            }
            let done = match transfer.user_data_32 {
                WRITE_OFF => self.statements.write_off(transfer, *code),
                DISTRIBUTION => self.distributions.own(transfer, *code),
                _ => self.windows.own(transfer, *code),
            };
            done.map_err(|what| format!("record {sequence}: {what}"))?;
        }
        self.note_room();
        Ok(())
    }

    /// Whether nothing recorded of the ledger's own transaction says why it was refused.
    fn is_own_part(&self) -> bool {
        !self.own.is_empty() && self.own.iter().all(|(_, code)| *code == Code::TransactionFailed)
    }

    /// That is all that is recorded of it: another part must have been refused before.
    fn partly_known(&mut self) -> Result<(), String> {
        let part = std::mem::take(&mut self.own);
        let whole = purpose(&part[0].0);
        let of_window = (whole.0, whole.1, 0)..=(whole.0, whole.1, u128::MAX);
        let known = self.own_refused.range(of_window).any(|known| part.iter().all(|(own, _)| purpose(own) != *known));
        ensure(known, || format!("a part of a transaction is recorded before {}: {part:?}", self.last.0))
    }

    fn transfer(&mut self, id: u128, told: Told, gateway: u32) -> Result<(), String> {
        let sequence = told.sequence;
        let &(number, place) =
            self.log.by_id.get(&id).ok_or_else(|| format!("record {sequence}: nobody asked for {id}"))?;
        let transaction = &self.log.transactions[number];
        ensure(self.seen.insert(id), || format!("transfer {id} is recorded a second time at {sequence}"))?;
        ensure(place == self.step.len(), || format!("record {sequence}: {id} is not where its transaction goes on"))?;
        ensure(gateway == transaction.gateway, || format!("record {sequence} names gateway {gateway}"))?;
        let floor = transaction.floor.unwrap_or(Sequence::MAX);
        ensure(sequence > floor, || format!("{id} at {sequence} was sent after {floor} was answered"))?;
        if let Some(first) = transaction.told[place] {
            ensure(first == told, || format!("{id} was answered {first:?} and is recorded {told:?}"))?;
        }
        self.ruled.0 += u64::from(matches!(told.code, Code::LimitExceeded | Code::LimitCountExceeded));
        self.step.push((transaction.asks[place], told.code));
        if self.step.len() < transaction.asks.len() {
            return Ok(());
        }
        let step = std::mem::take(&mut self.step);
        let asks: Vec<Ask> = step.iter().map(|(ask, _)| *ask).collect();
        self.gateway = gateway;
        self.model.gateway = gateway;
        let before = self.model.clone();
        let is_told = |expected: &[Code]| step.iter().zip(expected).all(|((_, code), expected)| code == expected);
        let mut expected = self.model.submit(&asks);
        let documented = expected.clone();
        // A shard decides a moment before the record gets its time: what was in time then is so. It is not before the second of an earlier decision.
        let timed = asks.iter().filter(|ask| matches!(ask.verb, Verb::Hold | Verb::Exchange));
        let moments = timed.map(|ask| ask.time.saturating_sub(1));
        let decided = before.clock.unwrap_or(1)..before.now;
        let moments: Vec<u64> = moments.filter(|moment| decided.contains(moment)).collect();
        for moment in std::iter::once(before.now).chain(moments.iter().copied()) {
            if !is_told(&expected) {
                expected = self.expected_at(&before, (moment, before.clock), &step);
            }
        }
        let is_refused = step.iter().all(|(_, code)| !code.is_accepted());
        for second in before.clock.filter(|_| is_refused).unwrap_or(before.now)..before.now {
            // A refusal counts nowhere, so it may be of a second that no record tells, and of a moment before its record at once; what counts
            // limits is as of that second too.
            let moments = moments.iter().copied().filter(|moment| *moment > second);
            for moment in std::iter::once(before.now).chain(moments) {
                if !is_told(&expected) {
                    expected = self.expected_at(&before, (moment, Some(second + 1)), &step);
                }
            }
        }
        let was_accepted = [&documented, &expected].into_iter().any(|codes| **codes == [Code::Accepted]);
        if let [(ask, Code::ExceedsDebits)] = step.as_slice()
            && was_accepted
            && self.had_no_room(ask, floor)
        {
            self.model = before;
            self.model.refuse(ask);
            expected = vec![Code::ExceedsDebits];
        }
        ensure(is_told(&expected), || {
            let told: Vec<_> = step.iter().map(|(_, code)| code.name()).collect();
            let documented: Vec<_> = documented.iter().map(|code| code.name()).collect();
            format!("record {sequence}: {told:?} where the documentation says {documented:?}, for {asks:?}")
        })?;
        let (back, expected) = (std::mem::take(&mut self.brought_back), std::mem::take(&mut self.model.brought_back));
        ensure(back == expected, || {
            format!(
                "{back:?} came back with record {sequence}, where the documentation says {expected:?}, for {asks:?}"
            )
        })?;
        self.note_room();
        Ok(())
    }

    /// What becomes of a step at another moment, with limits as of another second. A hold whose time is over is not open any more, also a moment before
    /// the record that says so, where that was told.
    fn expected_at(&mut self, before: &Model, (now, clock): (u64, Option<u64>), step: &[(Ask, Code)]) -> Vec<Code> {
        let refused = step.iter().filter(|(_, code)| *code == Code::HoldNotOpen).map(|(ask, _)| ask.related);
        let over: Vec<u128> = refused.filter(|id| before.is_due(*id, now)).collect();
        self.model = before.clone();
        (self.model.now, self.model.clock) = (now, clock);
        self.open(&over, false);
        let asks: Vec<Ask> = step.iter().map(|(ask, _)| *ask).collect();
        let expected = self.model.submit(&asks);
        self.open(&over, true);
        self.model.clock = before.clock;
        expected
    }

    /// How much more the mirror account may take in, after each record that changed it.
    fn note_room(&mut self) {
        let [debits, credits, _, incoming] = self.model.accounts[&MIRROR].totals;
        let room = debits.saturating_sub(credits + incoming);
        if self.rooms.last().is_none_or(|last| last.1 != room) {
            self.rooms.push((self.last.0, room));
        }
    }

    /// Whether a mirror account had no room for a transfer at a moment after it was sent: with several shards, such a refusal may be as of before its
    /// record.
    fn had_no_room(&self, ask: &Ask, floor: Sequence) -> bool {
        let until = self.rooms.iter().skip(1).map(|room| room.0).chain([Sequence::MAX]);
        let mut since = self.rooms.iter().zip(until).filter(|(_, until)| *until > floor);
        ask.credit == MIRROR && since.any(|(room, _)| room.1 < ask.amount)
    }

    fn open(&mut self, ids: &[u128], is_open: bool) {
        for id in ids {
            self.model.items.get_mut(id).unwrap().is_open = is_open;
        }
    }

    fn compare_reads(&mut self) -> Result<(), String> {
        while let Some(&read) = self.reads.last()
            && self.log.reads[read].sequence <= self.last.0
        {
            self.reads.pop();
            let read = &self.log.reads[read];
            let is_whole = !self.is_amid() && self.charged == self.model.charged;
            ensure(is_whole, || format!("a read is as of {}, amid a transaction", read.sequence))?;
            ensure(read.sequence >= read.floor, || {
                format!("a read after the answer of {} is as of {}", read.floor, read.sequence)
            })?;
            if read.sequence == self.last.0 {
                self.compare(&read.balances)?;
            }
        }
        Ok(())
    }

    fn compare(&self, balances: &[Balance]) -> Result<(), String> {
        for (id, totals, state, level, overdraft) in balances {
            let own = self.model.accounts.get(id).ok_or_else(|| format!("account {id} is unknown"))?;
            let same = (own.totals, own.state, own.level, own.overdraft) == (*totals, *state, *level, *overdraft);
            ensure(same, || {
                format!("account {id} as of {}: {totals:?}, and the model has {:?}", self.last.0, own.totals)
            })?;
        }
        Ok(())
    }

    /// After the last record: what was recovered of the accounts is what the model has, and nothing that was answered is missing.
    pub(crate) fn ends_here(&mut self, balances: &[Balance]) -> Result<(), String> {
        self.compare_charges()?;
        ensure(!self.is_amid(), || format!("the journal ends amid a transaction: {:?}", self.step))?;
        for transaction in &self.log.transactions {
            for (ask, told) in transaction.asks.iter().zip(&transaction.told) {
                ensure(told.is_none() || self.seen.contains(&ask.id), || {
                    format!("{} was answered {told:?} and is not in the journal", ask.id)
                })?;
            }
        }
        self.compare(balances)
    }

    /// After the last record of all.
    pub(crate) fn finish(&mut self, balances: &[Balance]) -> Result<(), String> {
        self.ends_here(balances)?;
        ensure(balances.len() == self.model.accounts.len(), || format!("{} accounts", balances.len()))?;
        let sum = |which: usize| balances.iter().map(|balance| balance.1[which]).sum::<u128>();
        ensure(sum(0) == sum(1) && sum(2) == sum(3), || format!("money was made or destroyed: {balances:?}"))
    }

    /// The server's windows are those that were found. `ids` are the participants' by place.
    pub(crate) fn compare_windows(&self, windows: &[Window], ids: &[u128]) -> Result<(), String> {
        windows.iter().try_for_each(|window| self.windows.compare(window, ids))
    }

    /// What is still open although its time is over.
    pub(crate) fn overdue(&self, second: u64) -> Option<u128> {
        let late = |item: &&crate::plain::Item| item.is_open && item.ask.time != 0 && item.ask.time + 5 <= second;
        let withheld = self.reserves.iter().find(|(_, (_, _, until, _))| until / SECOND_NS + 5 <= second);
        self.model.items.values().find(late).map(|item| item.ask.id).or(withheld.map(|(id, _)| *id))
    }
}
