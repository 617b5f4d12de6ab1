//! Offline verification: walks the journal from the first group, rebuilds everything and checks every invariant.
//!
//! Read-only: the directory is locked for reading, and the store is checked in a temporary copy, because opening one writes. The
//! journal is the truth, so what is wrong in it is an error; a store that does not open is only noted, since a start makes it
//! again, but one that contradicts the journal is an error.
//!
//! Shares the book, the id index and the formats with the server; shares nothing with the account actor that decided.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use hashbrown::HashMap;
use serde::Serialize;

use crate::engine::{DataDir, DataDirError};
use crate::journal::{FileDisk, walk};
use crate::ledger::{
    AccountId, Book, BookAccount, Code, RECORD_BYTES, Record, Sequence, TransferId, is_joined_to_next,
};
use crate::money::Currency;
use crate::router::{Admitted, IdIndex};
use crate::store::{IndexEntry, Store, StoreError};
use crate::telemetry::chain;

/// Violations listed; more are only counted.
const VIOLATIONS_LISTED: usize = 100;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whether every invariant holds.
    pub ok: bool,
    /// Journal groups read.
    pub groups: u64,
    /// Sequence of the last record.
    pub sequence: Sequence,
    /// Accounts opened.
    pub accounts: usize,
    /// Transfers decided.
    pub transfers: u64,
    /// Of these, accepted.
    pub accepted: u64,
    /// Holds, delayed transfers and reserves that are open.
    pub open: usize,
    /// Bytes of a torn group at the end, which a start will cut; it was never answered.
    pub torn_bytes: u64,
    /// Hash of the last group, hexadecimal: it vouches for every record.
    pub head_hash: String,
    /// By currency code.
    pub currencies: BTreeMap<String, CurrencyReport>,
    /// What was said of the store.
    pub store: String,
    /// What is wrong, in order of sequence; the first are listed.
    pub violations: Vec<String>,
    /// How many violations there are.
    pub violation_count: u64,
}

/// One currency's totals, minor units.
#[derive(Debug, Default, Serialize)]
pub struct CurrencyReport {
    /// Sum of all balances; must be 0.
    pub balance_sum: i128,
    /// Sum of accepted amounts.
    pub turnover: u128,
    /// Accepted transfers.
    pub transfers: u64,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory cannot be had.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store could not be copied.
    #[error("cannot copy the store to a temporary directory")]
    Copy(#[source] io::Error),
}

impl Report {
    fn violate(&mut self, what: String) {
        self.violation_count = self.violation_count.saturating_add(1);
        if self.violations.len() < VIOLATIONS_LISTED {
            self.violations.push(what);
        }
    }
}

/// Verifies a data directory that no server uses. Blocks; reads the whole journal.
pub fn verify(data_dir: &Path) -> Result<Report, VerifyError> {
    let directory = DataDir::read_only(data_dir)?;
    let mut report = Report::default();
    let copied = StoreCopy::open(&directory, &mut report)?;
    let mut check = Check::new(copied.as_ref().map(|copy| &copy.store), &mut report);
    let disk = FileDisk::read_only(&directory.journal());
    let walked = walk(&disk, 1, &mut |header, body| {
        check.group(header.time_ns, body);
        Ok(())
    });
    if !check.given_back.is_empty() {
        // Originals may be long before what was given back, so they are looked at in a second walk.
        let second = walk(&disk, 1, &mut |_, body| {
            for record in body.as_chunks::<RECORD_BYTES>().0.iter().filter_map(|bytes| Record::decode(bytes).ok()) {
                check.original(&record);
            }
            Ok(())
        });
        // What is wrong with the journal was found by the first walk.
        drop(second);
    }
    check.finish();
    match walked {
        Ok(recovered) => {
            report.groups = recovered.groups;
            report.torn_bytes = recovered.torn_bytes;
            report.head_hash = blake3::Hash::from_bytes(recovered.tail.previous_hash).to_hex().to_string();
        }
        Err(err) => report.violate(chain(&err)),
    }
    report.ok = report.violation_count == 0;
    Ok(report)
}

/// A store opened from a copy, which is removed afterwards.
struct StoreCopy {
    store: Store,
    _directory: tempfile::TempDir,
}

impl StoreCopy {
    fn open(directory: &DataDir, report: &mut Report) -> Result<Option<Self>, VerifyError> {
        if !directory.store().is_dir() {
            "missing; the next start makes it again from the journal".clone_into(&mut report.store);
            return Ok(None);
        }
        let copy = tempfile::tempdir().map_err(VerifyError::Copy)?;
        copy_directory(&directory.store(), copy.path()).map_err(VerifyError::Copy)?;
        match Store::open(copy.path(), 32 << 20) {
            Ok(store) => Ok(Some(Self { store, _directory: copy })),
            Err(err) => {
                report.store =
                    format!("cannot be used ({}); the next start makes it again from the journal", chain(&err));
                Ok(None)
            }
        }
    }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).map(drop)?;
        }
    }
    Ok(())
}

/// The walk's state.
struct Check<'a> {
    report: &'a mut Report,
    book: Book,
    ids: IdIndex,
    /// The store's accounts, by id, each to be met at its head; removed when met.
    stored: HashMap<AccountId, BookAccount>,
    /// The store's index entries, in order of sequence.
    index: Vec<IndexEntry>,
    /// By original: what refunds and reversals gave back, and by which accounts.
    given_back: HashMap<TransferId, GivenBack>,
    /// Whether the atomic step that is being read was accepted.
    step: Option<bool>,
}

/// What refunds and reversals of one transfer gave back.
#[derive(Clone, Copy)]
struct GivenBack {
    amount: u128,
    debit: AccountId,
    credit: AccountId,
}

impl<'a> Check<'a> {
    fn new(store: Option<&Store>, report: &'a mut Report) -> Self {
        let mut check = Self {
            report,
            book: Book::new(),
            ids: IdIndex::new(),
            stored: HashMap::new(),
            index: Vec::new(),
            given_back: HashMap::new(),
            step: None,
        };
        if let Some(store) = store
            && let Err(err) = check.load(store)
        {
            check.report.store =
                format!("cannot be read ({}); the next start makes it again from the journal", chain(&err));
            check.stored.clear();
            check.index.clear();
        }
        check
    }

    fn load(&mut self, store: &Store) -> Result<(), StoreError> {
        let checkpoint = store.checkpoint()?.unwrap_or_default();
        let stored = &mut self.stored;
        store.read_accounts(checkpoint.accounts, |account| {
            stored.insert(account.id(), BookAccount::from(&account));
        })?;
        let index = &mut self.index;
        store.read_index(1, |_, entry| index.push(entry))?;
        self.report.store = format!(
            "checkpoint at {}, {} accounts, {} index entries",
            checkpoint.sequence,
            checkpoint.accounts,
            self.index.len()
        );
        Ok(())
    }

    fn group(&mut self, time_ns: u64, body: &[u8]) {
        for (time_ns, bytes) in (time_ns..).zip(body.as_chunks::<RECORD_BYTES>().0) {
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
    fn original(&mut self, record: &Record) {
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
            crate::ledger::Applied::default()
        });
        for note in self.book.take_notes() {
            self.report.violate(note.to_string());
        }
        let sequence = self.book.sequence();
        let mut entry = IndexEntry {
            debit_previous: applied.debit_previous,
            credit_previous: applied.credit_previous,
            ..IndexEntry::default()
        };
        if let Record::Transfer { transfer, outcome, .. } = record {
            entry.id = transfer.id;
            self.report.transfers = self.report.transfers.saturating_add(1);
            self.report.accepted = self.report.accepted.saturating_add(u64::from(outcome.is_accepted()));
            match self.ids.admit(transfer.id) {
                Admitted::New => self.ids.settle(transfer.id, sequence),
                first => self
                    .report
                    .violate(format!("record {sequence}: transfer {} was decided before ({first:?})", transfer.id)),
            }
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
    }

    /// Compares an account with the store's when the journal is at that one's head.
    fn meet(&mut self, slot: u32) {
        let Some(account) = self.book.account_at(slot) else { return };
        let stored = self.stored.get(&account.properties.id).filter(|stored| stored.head == account.head);
        if let Some(stored) = stored {
            if *stored != account {
                self.report.violate(format!(
                    "record {}: the store has {stored:?}, the journal gives {account:?}",
                    account.head
                ));
            }
            let id = account.properties.id;
            self.stored.remove(&id);
        }
    }

    fn finish(self) {
        let Self { report, book, stored, index, given_back, step, .. } = self;
        if step.is_some() {
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
                "the store's account {id} was last touched by record {}, which the journal does not confirm",
                account.head
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
