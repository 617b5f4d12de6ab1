//! Reads that go to the disk: transfers by id and histories.

use std::sync::atomic::Ordering::Acquire;

use super::listener::GatewayContext;
use crate::journal::JournalError;
use crate::ledger::{
    AccountId, BookAccount, Code, GatewayId, Operation, Record, Sequence, StoredRecord, Totals, Transfer,
};
use crate::protocol::{AccountRequest, Query, QueryKind};
use crate::telemetry::{Health, HealthState, chain};

/// Entries or records looked at for one request; where to go on is answered.
const LOOKED_AT_MAX: usize = 200_000;

/// Records looked at for a page of the life of a transfer, from its own on: about a second.
const LIFE_LOOKED_AT_MAX: usize = 4_000_000;

/// Entries walked back for a balance of the past.
const WALKED_BACK_MAX: usize = 1_000_000;

/// How often it is looked whether the server stops.
const STOP_EVERY: usize = 1_024;

/// What looks through many records gives up when the server stops: its time for that is shorter.
struct Patience<'a> {
    health: &'a Health,
    looked_at: usize,
    is_over: bool,
}

impl<'a> Patience<'a> {
    fn new(context: &'a GatewayContext) -> Self {
        Self { health: context.telemetry.health(), looked_at: 0, is_over: false }
    }

    /// Whether one more record may be looked at.
    fn has(&mut self) -> bool {
        if self.looked_at.is_multiple_of(STOP_EVERY) {
            self.is_over = !matches!(self.health.state(), HealthState::Starting | HealthState::Ready);
            if self.looked_at > 0 {
                // This thread would be given some milliseconds at once, and who decides and answers would wait for their end.
                std::thread::yield_now();
            }
        }
        self.looked_at = self.looked_at.saturating_add(1);
        !self.is_over
    }

    /// What was found, if all of it was looked at that should be.
    fn found<T>(&self, found: T) -> Result<T, Code> {
        if self.is_over { Err(Code::Draining) } else { Ok(found) }
    }
}

/// Reads the records at these sequences; what has none is left out. Blocks.
pub(super) fn read_records(
    context: &GatewayContext,
    sequences: &[Option<Sequence>],
) -> Result<Vec<StoredRecord>, Code> {
    let records = sequences.iter().flatten().map(|&sequence| read_record(context, sequence));
    records.collect()
}

fn read_record(context: &GatewayContext, sequence: Sequence) -> Result<StoredRecord, Code> {
    match context.reader.read(sequence) {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => {
            tracing::error!(sequence, "the journal has no record of this sequence");
            Err(Code::Internal)
        }
        Err(err) => {
            tracing::error!(sequence, err = %chain(&err), "cannot read a record");
            Err(Code::Internal)
        }
    }
}

/// Walks back through an account's history from the record `from`: records, and the sequence to go on from, 0 at the end.
/// A `from` that is no record of this account is malformed. Blocks.
pub(super) fn read_history(
    context: &GatewayContext,
    account: AccountId,
    from: Sequence,
    limit: u32,
) -> Result<(Sequence, Vec<StoredRecord>), Code> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut records = Vec::new();
    let next = walk_back(context, account, from, &mut |stored| {
        records.push(*stored);
        records.len() < limit
    })?;
    Ok((next, records))
}

/// Shows an account's entries from one on, newest first, until `visit` has enough; answers the entry to go on from.
fn walk_back(
    context: &GatewayContext,
    account: AccountId,
    from: Sequence,
    visit: &mut dyn FnMut(&StoredRecord) -> bool,
) -> Result<Sequence, Code> {
    let (mut sequence, mut patience) = (from, Patience::new(context));
    while sequence != 0 && patience.has() {
        let link = context.links.get(sequence).map_err(|err| {
            tracing::error!(sequence, err = %chain(&err), "cannot read the index entry of a record");
            Code::Internal
        })?;
        // Only the caller's cursor can point beyond the end.
        let link = link.ok_or(Code::BodyMalformed)?;
        let stored = read_record(context, sequence)?;
        let previous = match (&stored.record, stored.record.done()) {
            (_, Some(transfer)) if transfer.debit == account => link.debit_previous,
            (_, Some(transfer)) if transfer.credit == account => link.credit_previous,
            (Record::Account { account: opened, .. }, _) if opened.id == account => 0,
            _ => return Err(Code::BodyMalformed),
        };
        sequence = previous;
        if !visit(&stored) {
            break;
        }
    }
    patience.found(sequence)
}

/// Up to where records are durable and may be told.
pub(super) fn durable(context: &GatewayContext) -> Sequence {
    context.telemetry.counters().durable_sequence.load(Acquire)
}

/// Answers a query: records, and the sequence to go on from, 0 at the end. `head` is the account's last entry, where one is asked
/// for. Blocks, but does not wait for events.
pub(super) fn read_query(
    context: &GatewayContext,
    own: GatewayId,
    query: &Query,
    head: Sequence,
) -> Result<(Sequence, Vec<StoredRecord>), Code> {
    match query.kind {
        QueryKind::Entries if query.oldest_first => entries_forward(context, query, head),
        QueryKind::Entries => entries_backward(context, query, head),
        QueryKind::Reference | QueryKind::Events => scan(context, own, query),
        QueryKind::Life => life(context, query, head),
    }
}

fn entries_backward(
    context: &GatewayContext,
    query: &Query,
    head: Sequence,
) -> Result<(Sequence, Vec<StoredRecord>), Code> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let (mut records, mut looked_at) = (Vec::new(), 0_usize);
    let from = if query.from == 0 { head } else { query.from };
    let next = walk_back(context, AccountId::from_raw(query.id), from, &mut |stored| {
        looked_at = looked_at.saturating_add(1);
        if query.selects(GatewayId(0), stored.time_ns, &stored.record) {
            records.push(*stored);
        }
        // Entries before the time asked for are all older still.
        records.len() < limit && looked_at < LOOKED_AT_MAX && stored.time_ns >= query.time_min
    })?;
    let over = records.len() < limit && looked_at < LOOKED_AT_MAX;
    Ok((if over { 0 } else { next }, records))
}

/// Entries from a sequence on, oldest first: the chain leads back only, so what is newer is walked over.
fn entries_forward(
    context: &GatewayContext,
    query: &Query,
    head: Sequence,
) -> Result<(Sequence, Vec<StoredRecord>), Code> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut kept = std::collections::VecDeque::new();
    let (mut walked, mut after) = (0_usize, 0);
    walk_back(context, AccountId::from_raw(query.id), head, &mut |stored| {
        walked = walked.saturating_add(1);
        if stored.sequence < query.from {
            return false;
        }
        if query.selects(GatewayId(0), stored.time_ns, &stored.record) {
            kept.push_front(*stored);
            if kept.len() > limit {
                after = kept.pop_back().map_or(0, |dropped| dropped.sequence);
            }
        }
        walked < WALKED_BACK_MAX
    })?;
    if walked >= WALKED_BACK_MAX { Err(Code::HistoryTooLong) } else { Ok((after, kept.into())) }
}

fn scan(context: &GatewayContext, own: GatewayId, query: &Query) -> Result<(Sequence, Vec<StoredRecord>), Code> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let until = durable(context);
    let (mut records, mut looked_at, mut patience) = (Vec::new(), 0_usize, Patience::new(context));
    let scanned = context.reader.scan(query.from, until, &mut |stored| {
        looked_at = looked_at.saturating_add(1);
        if query.selects(own, stored.time_ns, &stored.record) {
            records.push(stored);
        }
        records.len() < limit && looked_at < LOOKED_AT_MAX && patience.has()
    });
    let next = patience.found(scanned.map_err(|err| unscanned(query.from, &err))?)?;
    // Events go on for ever; a search ends where the ledger does.
    let ends = query.kind == QueryKind::Reference && next > until;
    Ok((if ends { 0 } else { next }, records))
}

/// What is answered where the journal cannot be scanned from a sequence on.
pub(super) fn unscanned(from: Sequence, err: &JournalError) -> Code {
    tracing::error!(from, err = %chain(err), "cannot scan the journal");
    Code::Internal
}

/// How many records there are after the one of this sequence, if there is that one.
pub(super) fn events_behind(context: &GatewayContext, from: Sequence) -> Option<u64> {
    durable(context).checked_sub(from.max(1))
}

/// A transfer and all that was done about it, oldest first. `first` is its record; what is about it comes later in the journal.
fn life(context: &GatewayContext, query: &Query, first: Sequence) -> Result<(Sequence, Vec<StoredRecord>), Code> {
    let root = read_record(context, first)?;
    let Record::Transfer { transfer, .. } = &root.record else { return Err(Code::BodyMalformed) };
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut about = std::collections::BTreeSet::from([transfer.id.raw()]);
    let mut records: Vec<_> = (query.from <= first).then_some(root).into_iter().collect();
    let (mut next, mut looked_at, until) = (first.saturating_add(1), 0_usize, durable(context));
    let mut patience = Patience::new(context);
    if records.len() < limit {
        // Oldest first, because what is about a capture comes after the capture; what an earlier page told says what this one is about.
        let scanned = context.reader.scan(next, until, &mut |stored| {
            looked_at = looked_at.saturating_add(1);
            if let Record::Transfer { transfer, .. } | Record::Internal { transfer, .. } = &stored.record {
                let is_about = transfer.operation() != Operation::Exchange && about.contains(&transfer.related);
                if is_about {
                    about.insert(transfer.id.raw());
                    records.extend((stored.sequence >= query.from).then_some(stored));
                }
            }
            records.len() < limit && looked_at < LIFE_LOOKED_AT_MAX && patience.has()
        });
        next = patience.found(scanned.map_err(|err| unscanned(first, &err))?)?;
    }
    if next > until {
        return Ok((0, records));
    }
    // A part of a life would be taken for the whole.
    if records.len() < limit { Err(Code::HistoryTooLong) } else { Ok((next, records)) }
}

/// An account as it was after a record or at the end of a time, found by taking its later entries back. State, level and overdraft
/// are those of now.
pub(super) fn account_at(
    context: &GatewayContext,
    request: &AccountRequest,
    now: &BookAccount,
) -> Result<BookAccount, Code> {
    let mut then = *now;
    let mut walked = 0_usize;
    let sequence = if request.sequence == 0 { Sequence::MAX } else { request.sequence };
    let time_ns = if request.time_ns == 0 { u64::MAX } else { request.time_ns };
    let mut head = 0;
    walk_back(context, request.account, now.head, &mut |stored| {
        walked = walked.saturating_add(1);
        if stored.sequence <= sequence && stored.time_ns <= time_ns {
            head = stored.sequence;
            return false;
        }
        if let Some(transfer) = stored.record.done() {
            take_back(&mut then.totals, request.account, transfer);
        }
        walked < WALKED_BACK_MAX
    })?;
    if walked >= WALKED_BACK_MAX {
        return Err(Code::HistoryTooLong);
    }
    Ok(BookAccount { head, ..then })
}

/// Takes one entry out of an account's totals.
fn take_back(totals: &mut Totals, account: AccountId, transfer: &Transfer) {
    let amount = transfer.amount;
    let operation = transfer.operation();
    let pays = transfer.debit == account;
    let (posted, pending, returning) = if pays {
        (&mut totals.debits_posted, &mut totals.debits_pending, &mut totals.credits_pending)
    } else {
        (&mut totals.credits_posted, &mut totals.credits_pending, &mut totals.debits_pending)
    };
    match operation {
        Operation::Hold | Operation::Raise | Operation::Delayed => *pending = pending.saturating_sub(amount),
        Operation::Void | Operation::Release | Operation::Expire => *pending = pending.saturating_add(amount),
        Operation::Capture | Operation::Arrive => {
            *posted = posted.saturating_sub(amount);
            *pending = pending.saturating_add(amount);
        }
        Operation::Withhold => {
            *posted = posted.saturating_sub(amount);
            *returning = returning.saturating_sub(amount);
        }
        Operation::Change | Operation::Require => {}
        _ => *posted = posted.saturating_sub(amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_through_many_records_gives_up_when_the_server_stops() {
        let health = Health::default();
        for ends in [HealthState::Draining, HealthState::Failed("a disk".to_owned())] {
            health.set(HealthState::Ready);
            let mut patience = Patience { health: &health, looked_at: 0, is_over: false };
            assert!((0..10 * STOP_EVERY).all(|_| patience.has()) && patience.found(()).is_ok());
            health.set(ends);
            assert!((0..=STOP_EVERY).any(|_| !patience.has()));
            assert_eq!(patience.found(()), Err(Code::Draining));
        }
    }
}
