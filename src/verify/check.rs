//! The walk's state: a book, the ids and what is to be compared, checked record by record.

use std::collections::BTreeSet;
use std::path::Path;

use hashbrown::HashMap;

use super::{CurrencyReport, Report};
use crate::backoffice::check_files;
use crate::ledger::{
    AccountId, Applied, Book, BookAccount, Code, KeptLife, Life, RECORD_BYTES, Record, Sequence, Transfer, TransferId,
    is_joined_to_next,
};
use crate::money::Currency;
use crate::router::{Admitted, IdIndex, read_known_ids};
use crate::store::{IndexEntry, Store, StoreError};
use crate::telemetry::chain;

/// Sequences, a bit each.
#[derive(Default)]
struct BitSet(Vec<u64>);

impl BitSet {
    fn place(sequence: Sequence) -> (usize, u64) {
        (usize::try_from(sequence / 64).unwrap_or(usize::MAX), 1 << (sequence % 64))
    }

    /// The sequence is that of a record.
    fn insert(&mut self, sequence: Sequence) {
        let (word, bit) = Self::place(sequence);
        if self.0.len() <= word {
            self.0.resize(word.saturating_add(1), 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    fn has(&self, sequence: Sequence) -> bool {
        let (word, bit) = Self::place(sequence);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// The walk's state.
pub(super) struct Check<'a> {
    report: &'a mut Report,
    pub(super) book: Book,
    ids: IdIndex,
    /// What the accounts below are those of.
    whose: &'static str,
    /// The store's or server's accounts, by id, each to be met at its head; removed when met.
    stored: HashMap<AccountId, BookAccount>,
    /// What the store says was given back of transfers, each to be met at its head; removed when met.
    lives: HashMap<TransferId, KeptLife>,
    /// Sequence of the store's checkpoint.
    checkpoint: Sequence,
    /// The store's index entries, in order of sequence.
    index: Vec<IndexEntry>,
    /// By original: what refunds and reversals gave back, and by which accounts.
    given_back: HashMap<TransferId, GivenBack>,
    /// Whether the atomic step that is being read was accepted.
    step: Option<bool>,
    /// Hashes of the statements that were imported.
    statements: BTreeSet<[u8; 32]>,
}

/// What refunds and reversals of one transfer gave back.
#[derive(Clone, Copy)]
struct GivenBack {
    amount: u128,
    debit: AccountId,
    credit: AccountId,
}

impl<'a> Check<'a> {
    /// Compares with a store, if there is one.
    pub(super) fn with_store(store: Option<&Store>, report: &'a mut Report) -> Self {
        let mut check = Self::new("the store", HashMap::new(), report);
        if let Some(store) = store
            && let Err(err) = check.load(store)
        {
            check.report.store =
                format!("cannot be read ({}); the next start makes it again from the journal", chain(&err));
            check.stored.clear();
            check.lives.clear();
            check.checkpoint = 0;
            check.index.clear();
        }
        check
    }

    /// Compares with these accounts.
    pub(super) fn new(whose: &'static str, stored: HashMap<AccountId, BookAccount>, report: &'a mut Report) -> Self {
        Self {
            report,
            book: Book::new(),
            whose,
            ids: IdIndex::new(),
            stored,
            lives: HashMap::new(),
            checkpoint: 0,
            index: Vec::new(),
            given_back: HashMap::new(),
            step: None,
            statements: BTreeSet::new(),
        }
    }

    fn load(&mut self, store: &Store) -> Result<(), StoreError> {
        let checkpoint = store.checkpoint()?.unwrap_or_default();
        self.checkpoint = checkpoint.sequence;
        let stored = &mut self.stored;
        store.read_accounts(checkpoint.accounts, |account| {
            stored.insert(account.properties.id, *account);
        })?;
        let lives = &mut self.lives;
        store.read_lives(|id, life| {
            lives.insert(id, life);
        })?;
        let index = &mut self.index;
        store.read_index((1, store.last_index()?), |_, entry| index.push(entry))?;
        self.report.store = format!(
            "checkpoint at {}, {} accounts, {} index entries",
            checkpoint.sequence,
            checkpoint.accounts,
            self.index.len()
        );
        Ok(())
    }

    /// Follows a group's records up to a sequence; answers whether there may be more.
    pub(super) fn group(&mut self, time_ns: u64, body: &[u8], until: Sequence) -> bool {
        for (time_ns, bytes) in (time_ns..).zip(body.as_chunks::<RECORD_BYTES>().0) {
            if self.book.sequence() >= until {
                break;
            }
            match Record::decode(bytes) {
                Ok(record) => {
                    self.record(time_ns, &record);
                    self.step(&record, is_joined_to_next(bytes));
                }
                Err(err) => {
                    // The sequence goes on, so that what follows is named rightly.
                    self.book.start_at(self.book.sequence().saturating_add(1));
                    self.report.violate(format!("record {}: {err}", self.book.sequence()));
                }
            }
        }
        self.book.sequence() < until
    }

    /// Notes that something is wrong.
    pub(super) fn violate(&mut self, what: String) {
        self.report.violate(what);
    }

    /// Finishes a check that ended after so many groups, amid a step perhaps when it was not to be the last record.
    pub(super) fn finish_at(self, groups: u64, is_whole: bool) {
        self.report.groups = groups;
        self.finish(is_whole);
    }

    /// Whether originals are to be looked at.
    pub(super) fn has_given_back(&self) -> bool {
        !self.given_back.is_empty()
    }

    /// All records of an atomic step are accepted, or none is; and a step is in one group.
    fn step(&mut self, record: &Record, goes_on: bool) {
        let accepted = match record {
            Record::Transfer { outcome, .. } => outcome.is_accepted(),
            _ => true,
        };
        if self.step.is_some_and(|first| first != accepted) {
            let sequence = self.book.sequence();
            self.report.violate(format!("record {sequence}: a transaction happened in part"));
        }
        self.step = goes_on.then_some(accepted);
        if let Record::Transfer { transfer, outcome: Code::Accepted, .. } = record
            && transfer.operation().names_original()
        {
            let of = TransferId::from_raw(transfer.related);
            let first = GivenBack { amount: 0, debit: transfer.credit, credit: transfer.debit };
            let given_back = self.given_back.entry(of).or_insert(first);
            given_back.amount = given_back.amount.saturating_add(transfer.amount);
        }
    }

    /// Compares an original with what was given back of it.
    pub(super) fn original(&mut self, record: &Record) {
        let Record::Transfer { transfer, outcome, .. } = record else { return };
        let Some(given_back) = self.given_back.remove(&transfer.id) else { return };
        let right = outcome.is_accepted()
            && given_back.amount <= transfer.amount
            && (given_back.debit, given_back.credit) == (transfer.debit, transfer.credit);
        if !right {
            let id = transfer.id;
            self.report.violate(format!("transfer {id}: {} given back of {}", given_back.amount, transfer.amount));
        }
    }

    fn record(&mut self, time_ns: u64, record: &Record) {
        let applied = self.book.apply(time_ns, record).unwrap_or_else(|err| {
            self.report.violate(err.to_string());
            Applied::default()
        });
        for note in self.book.take_notes() {
            self.report.violate(note.to_string());
        }
        let sequence = self.book.sequence();
        let entry = IndexEntry { debit_previous: applied.debit_previous, credit_previous: applied.credit_previous };
        if let Record::Transfer { transfer, outcome, .. } = record {
            self.report.transfers = self.report.transfers.saturating_add(1);
            self.report.accepted = self.report.accepted.saturating_add(u64::from(outcome.is_accepted()));
            match self.ids.admit(transfer.id) {
                Admitted::New => self.ids.settle(transfer.id, sequence),
                first => self
                    .report
                    .violate(format!("record {sequence}: transfer {} was decided before ({first:?})", transfer.id)),
            }
        }
        if let Record::Statement(entry) = record
            && entry.number > 0
        {
            self.statements.insert(entry.hash);
        }
        let indexed = usize::try_from(sequence.saturating_sub(1)).ok().and_then(|place| self.index.get(place));
        if indexed.is_some_and(|indexed| *indexed != entry) {
            self.report.violate(format!(
                "record {sequence}: the store's index entry is {indexed:?}, the journal says {entry:?}"
            ));
        }
        for slot in [applied.debit_slot, applied.credit_slot].into_iter().flatten() {
            self.meet(slot);
        }
        if let Record::Transfer { transfer, outcome: Code::Accepted, .. } = record {
            self.meet_life(transfer);
        }
        if sequence == self.checkpoint {
            self.meet_lives();
        }
    }

    /// Compares what was given back with what the store says of it, when the journal is at the last record about that.
    fn meet_life(&mut self, transfer: &Transfer) {
        let (id, sequence) = (TransferId::from_raw(transfer.related), self.book.sequence());
        let Some(stored) = self.lives.get(&id).map(|kept| kept.now).filter(|stored| stored.head == sequence) else {
            return;
        };
        self.compare_life(id, Some(stored));
        if sequence > self.checkpoint {
            self.lives.remove(&id);
        }
    }

    fn compare_life(&mut self, id: TransferId, stored: Option<Life>) {
        let life = self.book.open().lives.get(id);
        // After a crash around a checkpoint, a voided hold has one that says no more than that.
        let of_a_hold = life.is_none() && stored.is_some_and(|stored| stored.is_over && stored.refunded == 0);
        if life != stored && !of_a_hold {
            let sequence = self.book.sequence();
            self.report.violate(format!(
                "record {sequence}: the store says of transfer {id} that {stored:?} was given back, the journal says {life:?}"
            ));
        }
    }

    /// Compares all that was given back with what a start would find, when the journal is at the store's checkpoint. What the checkpoint
    /// has is met then.
    fn meet_lives(&mut self) {
        let mut ids: Vec<TransferId> = self.book.open().lives.newest().map(|(id, _)| id).collect();
        ids.extend(self.lives.keys());
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let stored = self.lives.get(&id).and_then(|kept| kept.at(self.checkpoint));
            self.compare_life(id, stored);
        }
        let checkpoint = self.checkpoint;
        self.lives.retain(|_, kept| kept.now.head > checkpoint);
    }

    /// Compares the id runs with the ids of the records: each with its record, and none missing up to where the runs say that they have all.
    pub(super) fn id_runs(&mut self, directory: &Path) {
        let mut found = BitSet::default();
        let (mut entries, mut wrong) = (0_u64, Vec::new());
        let read = read_known_ids(directory, |id, sequence| {
            entries = entries.saturating_add(1);
            if self.ids.find(id) == Some(sequence) {
                found.insert(sequence);
            } else {
                wrong.push((id, sequence));
            }
        });
        self.report.ids = match &read {
            Ok(Some(covers)) => format!("{entries} in runs, which have all up to record {covers}"),
            Ok(None) => "a run is damaged or missing; the next start makes all again from the journal".to_owned(),
            Err(err) => format!("cannot be read ({err}); the next start makes them again from the journal"),
        };
        let Ok(Some(covers)) = read else { return };
        for (id, sequence) in wrong {
            self.report
                .violate(format!("an id run says that transfer {id} is record {sequence}; the journal does not"));
        }
        let missing = self.ids.entries().find(|(_, sequence)| *sequence <= covers && !found.has(*sequence));
        if let Some((id, sequence)) = missing {
            let id = TransferId::from_raw(id);
            self.report
                .violate(format!("transfer {id}, record {sequence}, is in no id run; it would be decided again"));
        }
    }

    /// Compares the files beside the journal with it.
    pub(super) fn files(&mut self, data_dir: &Path) {
        match check_files(data_dir, &self.statements, self.book.windows()) {
            Ok(found) => {
                if !self.statements.is_empty() || found.payouts > 0 || found.taken > 0 {
                    self.report.files = format!(
                        "{} statements and {} payout files are as they were written; {} payout files were taken away",
                        found.statements, found.payouts, found.taken
                    );
                }
                self.report.damaged_files = found.damaged;
            }
            Err(err) => {
                let what = format!("{}: cannot be read ({err})", data_dir.join("payouts").display());
                self.report.damaged_files.push(what);
            }
        }
    }

    /// Compares an account with the store's when the journal is at that one's head.
    fn meet(&mut self, slot: u32) {
        let Some(account) = self.book.account_at(slot) else { return };
        let stored = self.stored.get(&account.properties.id).filter(|stored| stored.head == account.head);
        if let Some(stored) = stored {
            if *stored != account {
                self.report.violate(format!(
                    "record {}: {} has {stored:?}, the journal gives {account:?}",
                    account.head, self.whose
                ));
            }
            let id = account.properties.id;
            self.stored.remove(&id);
        }
    }

    pub(super) fn finish(self, is_whole: bool) {
        let Self { report, book, whose, stored, lives, index, given_back, step, .. } = self;
        if step.is_some() && is_whole {
            report.violate("the journal ends amid a transaction".to_owned());
        }
        let mut unknown: Vec<_> = given_back.into_keys().collect();
        unknown.sort_unstable();
        for id in unknown {
            report.violate(format!("transfer {id}, of which something was given back, was never decided"));
        }
        for id in book.pending_differences() {
            report.violate(format!("account {id}: its pending totals are not the sums of what is open on it"));
        }
        report.open = book.open().pendings.len();
        report.sequence = book.sequence();
        report.accounts = book.len();
        let mut unmet: Vec<_> = stored.into_values().collect();
        unmet.sort_unstable_by_key(|account| account.head);
        for account in unmet {
            let id = account.properties.id;
            report.violate(format!(
                "the account {id} of {whose} was last touched by record {}, which the journal does not confirm",
                account.head
            ));
        }
        let mut unmet: Vec<_> = lives.into_iter().map(|(id, kept)| (kept.now.head, id)).collect();
        unmet.sort_unstable();
        for (head, id) in unmet {
            report.violate(format!(
                "the store says that record {head} gave back of transfer {id}, which the journal does not confirm"
            ));
        }
        if u64::try_from(index.len()).unwrap_or(u64::MAX) > report.sequence {
            report.violate(format!(
                "the store has followed to sequence {}, the journal ends at {}",
                index.len(),
                report.sequence
            ));
        }
        for (currency, balance_sum) in book.balance_sums() {
            let code = Currency::from_number(currency)
                .map_or_else(|_| currency.to_string(), |currency| currency.code().to_owned());
            let (turnover, transfers) = book.turnover().get(&currency).copied().unwrap_or_default();
            if balance_sum != 0 {
                report.violate(format!("the balances of {code} add up to {balance_sum}, not to 0"));
            }
            report.currencies.insert(code, CurrencyReport { balance_sum, turnover, transfers });
        }
    }
}
