//! Following the stream: book, index entries, proof and checkpoints, without actix.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam::channel::Sender;

use super::checkpoint::Checkpoints;
use super::proof::Proof;
use crate::flow::AuditReply;
use crate::journal::Group;
use crate::ledger::{
    AccountClass, Applied, Book, BookError, Code, GatewayId, Life, Record, Sequence, Slot, Transfer, TransferId,
    accepted_parties, record_about,
};
use crate::store::{Gateways, IndexEntry, LinkLog, StoreJob, StoreWriter};
use crate::telemetry::{ClassFunds, Telemetry};

/// Records looked up ahead, so that their cache misses overlap.
const LOOKUP_BLOCK: usize = 32;

/// Lives that the desk is told at a time to forget: about a tenth of a millisecond of its time.
const FORGOTTEN_AT_A_TIME: usize = 1_024;

/// Jobs that may wait for the store's thread before the ledger is held back: 28 MB.
const BACKLOG_MAX: usize = 4_096;

/// Jobs that wait for the store's thread from which on it does not rest.
const BACKLOG_LARGE: usize = BACKLOG_MAX / 4;

/// What the clearing actor knows.
#[derive(Debug)]
pub struct Core {
    book: Book,
    links: Arc<LinkLog>,
    writer: StoreWriter,
    gateways: Gateways,
    proof: Proof,
    checkpoints: Checkpoints,
    checkpoint_records: u64,
    telemetry: Telemetry,
}

impl Core {
    /// Goes on from a recovered book; `checkpoint` is the sequence that the store has, `shards` how many decide.
    pub fn new(
        book: Book,
        checkpoint: Sequence,
        (shards, checkpoint_records): (usize, u64),
        (links, writer, gateways): (Arc<LinkLog>, StoreWriter, Gateways),
        telemetry: Telemetry,
    ) -> Self {
        let mut checkpoints = Checkpoints::new(checkpoint);
        // What was replayed after the checkpoint has changed since.
        let replayed = (0..).zip(book.accounts()).filter(|(_, account)| account.head > checkpoint);
        let slots: Vec<Slot> = replayed.map(|(slot, _)| slot).collect();
        for slot in slots {
            checkpoints.changed(slot);
        }
        let core = Self {
            book,
            links,
            writer,
            gateways,
            proof: Proof::new(shards),
            checkpoints,
            checkpoint_records,
            telemetry,
        };
        core.publish();
        core
    }

    /// The balances at the book's sequence.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Follows a durable group.
    pub fn durable(&mut self, group: &Group) {
        if group.base_sequence() != self.book.sequence().saturating_add(1) {
            let what = format!("group begins at {} after {}", group.base_sequence(), self.book.sequence());
            self.violated(group.base_sequence(), &what);
        }
        let mut entries = Vec::with_capacity(group.count());
        let mut audits = group.audits().iter().peekable();
        let mut records = group.records();
        let mut ahead = Vec::with_capacity(LOOKUP_BLOCK);
        let mut time_ns = group.time_ns();
        let mut runs = group.runs().iter().flat_map(|run| std::iter::repeat_n(run.shard, run.count));
        while entries.len() < group.count() {
            while let Some((_, audit)) = audits.next_if(|(place, _)| *place <= entries.len()) {
                self.audit(audit);
            }
            // A block ends where an audit wants to see the book.
            let until_audit = audits.peek().map_or(usize::MAX, |(place, _)| place.saturating_sub(entries.len()));
            let block = LOOKUP_BLOCK.min(until_audit).min(group.count().saturating_sub(entries.len()));
            let mut seen = 0;
            for bytes in records.by_ref().take(block) {
                // Its second half lies in a cache line of its own.
                seen ^= bytes.last().copied().unwrap_or(0);
                let guess = accepted_parties(bytes).map_or((None, None), |parties| self.book.guess_both(parties));
                ahead.push((bytes, guess));
            }
            std::hint::black_box(seen);
            for (bytes, slots) in &mut ahead {
                if let Some(parties) = accepted_parties(bytes) {
                    *slots = self.book.confirm_both(parties, *slots);
                }
            }
            for (bytes, _) in &ahead {
                self.book.touch_about(record_about(bytes));
            }
            self.book.touch_limits(ahead.iter().map(|(_, slots)| slots.0));
            for (bytes, slots) in ahead.drain(..) {
                let decider = runs.next().flatten();
                let entry = match Record::decode(bytes) {
                    Ok(Record::Transfer { transfer, outcome, gateway }) => {
                        self.transfer((&transfer, outcome, gateway), slots, decider)
                    }
                    Ok(record) => self.other(time_ns, &record),
                    Err(err) => {
                        self.violated(self.book.sequence().saturating_add(1), &err.to_string());
                        IndexEntry::default()
                    }
                };
                entries.push(entry);
                time_ns = time_ns.saturating_add(1);
            }
        }
        audits.for_each(|(_, audit)| self.audit(audit));
        for note in self.book.take_notes() {
            self.violated(note.sequence, &note.rule);
        }
        for (base, bytes) in self.links.append(&entries) {
            self.checkpoints.send(StoreJob::Index { base, bytes, full: true }, &self.writer);
        }
        self.publish();
    }

    #[inline]
    fn transfer(
        &mut self,
        (transfer, outcome, gateway): (&Transfer, Code, GatewayId),
        slots: (Option<Slot>, Option<Slot>),
        decider: Option<usize>,
    ) -> IndexEntry {
        if let Some(decider) = decider {
            self.proof.decided(decider, transfer, outcome.is_accepted());
        }
        // An account that was opened by one of the records looked up ahead is only there now.
        let opened_ahead = outcome.is_accepted() && (slots.0.is_none() || slots.1.is_none());
        let slots = if opened_ahead { self.book.find_both((transfer.debit, transfer.credit)) } else { slots };
        let applied = self.book.apply_transfer((transfer, outcome, gateway), slots);
        let applied = self.applied(applied);
        for slot in [applied.debit_slot, applied.credit_slot].into_iter().flatten() {
            self.checkpoints.changed(slot);
        }
        IndexEntry { debit_previous: applied.debit_previous, credit_previous: applied.credit_previous }
    }

    fn other(&mut self, time_ns: u64, record: &Record) -> IndexEntry {
        if let Record::Gateway(entry) = record {
            self.gateways.put(self.book.sequence().saturating_add(1), *entry);
            self.checkpoints.send(StoreJob::Gateway(Box::new(*entry)), &self.writer);
        }
        let applied = self.book.apply(time_ns, record);
        let Applied { debit_slot, credit_slot, debit_previous, credit_previous } = self.applied(applied);
        for slot in [debit_slot, credit_slot].into_iter().flatten() {
            self.checkpoints.changed(slot);
        }
        IndexEntry { debit_previous, credit_previous }
    }

    fn applied(&mut self, applied: Result<Applied, BookError>) -> Applied {
        applied.unwrap_or_else(|err| {
            self.violated(err.sequence, &err.rule);
            Applied::default()
        })
    }

    /// Compares a shard's balances with the book as it is now.
    pub fn audit(&mut self, audit: &AuditReply) {
        let differences = self.proof.compare(audit, &self.book);
        let counters = self.telemetry.counters();
        counters.audited_accounts_total.fetch_add(u64::try_from(audit.accounts.len()).unwrap_or(0), Relaxed);
        counters.audited_sequence.store(self.book.sequence(), Relaxed);
        for difference in differences {
            let head = self.book.account(difference.account).map_or(0, |account| account.head);
            let what = format!("shard {} and book differ: {difference:?}", audit.shard);
            self.violated(head, &what);
        }
    }

    /// Proves that per currency all balances add up to nothing.
    pub fn prove_sums(&mut self) {
        for (currency, sum) in self.book.balance_sums() {
            if sum != 0 {
                self.violated(self.book.sequence(), &format!("the balances of currency {currency} add up to {sum}"));
            }
        }
    }

    fn violated(&self, sequence: Sequence, what: &str) {
        self.telemetry.counters().invariant_violations_total.fetch_add(1, Relaxed);
        tracing::error!(sequence, what, "the books do not balance");
    }

    /// Begins a checkpoint if enough was done since the last one, and goes on with one that runs; answers whether to call again
    /// at once.
    pub fn checkpoint_if_due(&mut self) -> bool {
        let since = self.book.sequence().saturating_sub(self.checkpoints.last());
        if since >= self.checkpoint_records && !self.checkpoints.is_running() && !self.book.is_amid_policy() {
            self.begin_checkpoint(None);
        } else if since >= self.checkpoint_records || self.checkpoints.backlog() >= BACKLOG_LARGE {
            self.writer.hurry();
        }
        self.checkpoints.go_on(&mut self.book, &self.links, &self.writer)
    }

    /// Begins a checkpoint now.
    pub fn begin_checkpoint(&mut self, done: Option<Sender<Sequence>>) {
        self.prove_sums();
        self.checkpoints.begin(&mut self.book, &self.writer, done);
    }

    /// Some of what was given back that is durable in the store now and need not be kept in memory any more.
    pub fn given_back(&mut self) -> Vec<(TransferId, Life)> {
        let given_back = self.book.open_mut().lives.to_forget(FORGOTTEN_AT_A_TIME);
        if !given_back.is_empty() {
            self.publish();
        }
        given_back
    }

    /// Whether few jobs wait for the store's thread.
    pub fn is_store_near(&self) -> bool {
        self.checkpoints.backlog() <= BACKLOG_MAX
    }

    /// Publishes the balances by currency and class, for coverage of client funds.
    pub fn publish_funds(&self) {
        let policy = self.book.policy();
        let funds = self.book.classes().iter().map(|(&(currency, class), &balance)| ClassFunds {
            currency: policy.currency_code(currency).map_or_else(|| currency.to_string(), str::to_owned),
            class: AccountClass::from_number(class).unwrap_or_default().name(),
            balance,
        });
        self.telemetry.set_funds(funds.collect());
    }

    fn publish(&self) {
        let counters = self.telemetry.counters();
        counters.cleared_sequence.store(self.book.sequence(), Relaxed);
        let open = self.book.open();
        counters.open_pendings.store(u64::try_from(open.pendings.len()).unwrap_or(u64::MAX), Relaxed);
        let given_back = u64::try_from(open.lives.in_memory()).unwrap_or(u64::MAX);
        counters.given_back_in_memory.store(given_back, Relaxed);
        counters.accounts.store(u64::try_from(self.book.len()).unwrap_or(0), Relaxed);
    }
}
