//! The walk's state: a book and what is to be compared, checked record by record; ids at the end, when they are sorted.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use hashbrown::HashMap;

use super::ids::{Entry, SortedIds};
use super::{CurrencyReport, Report};
use crate::backoffice::check_files;
use crate::engine::Stored;
use crate::ledger::{
    AccountId, Applied, Book, BookAccount, Code, Life, RECORD_BYTES, Record, Sequence, TransferId, is_joined_to_next,
};
use crate::money::Currency;
use crate::router::read_known_ids;
use crate::store::{IndexEntry, Store, StoreError};
use crate::telemetry::chain;

/// Index entries that are read at once.
const LINKS_AT_ONCE: u64 = 1 << 14;

/// The store's index entries, read as the walk comes to their records.
struct Links<'a> {
    store: &'a Store,
    last: Sequence,
    first: Sequence,
    piece: Vec<IndexEntry>,
}

impl Links<'_> {
    /// The entry of a record, if there is one. They are asked for in order.
    fn of(&mut self, sequence: Sequence) -> Result<Option<IndexEntry>, StoreError> {
        if sequence == 0 || sequence > self.last {
            return Ok(None);
        }
        let in_piece = |first: Sequence| usize::try_from(sequence.saturating_sub(first)).unwrap_or(usize::MAX);
        if in_piece(self.first) >= self.piece.len() {
            let Self { store, piece, .. } = self;
            piece.clear();
            let to = sequence.saturating_add(LINKS_AT_ONCE).min(self.last);
            store.read_index((sequence, to), |_, entry| piece.push(entry))?;
            self.first = sequence;
        }
        Ok(self.piece.get(in_piece(self.first)).copied())
    }
}

/// The walk's state.
pub(super) struct Check<'a> {
    report: &'a mut Report,
    pub(super) book: Book,
    ids: SortedIds,
    /// Why the ids cannot be sorted: then nothing can be said of them, and the walk ends.
    trouble: Option<io::Error>,
    /// What the accounts below are those of.
    whose: &'static str,
    /// What a start would find: what the store has, and the records after that.
    found: Option<Book>,
    /// The store's or server's accounts, by id, each to be met at its head, and whether it was.
    stored: HashMap<AccountId, (BookAccount, bool)>,
    /// What these accounts have for sure: all records up to this one. A start goes on from here.
    stored_until: Sequence,
    /// What the store says was given back of transfers, to be met at its checkpoint; removed when met.
    lives: HashMap<TransferId, Life>,
    /// Sequence of the store's checkpoint.
    checkpoint: Sequence,
    links: Option<Links<'a>>,
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
    pub(super) fn with_store(store: Option<&'a Store>, report: &'a mut Report) -> Self {
        let mut check = Self::new("the store", (HashMap::new(), 0), report);
        if let Some(store) = store
            && let Err(err) = check.load(store)
        {
            check.forget_store(&err);
        }
        check
    }

    /// Compares with the store no more: it cannot be read.
    fn forget_store(&mut self, err: &StoreError) {
        self.report.store = format!("cannot be read ({}); `heng rebuild` makes it again from the journal", chain(err));
        self.stored.clear();
        self.lives.clear();
        (self.checkpoint, self.stored_until) = (0, 0);
        self.found = None;
        self.links = None;
    }

    /// Compares with these accounts, which have all up to a record, and perhaps more.
    pub(super) fn new(
        whose: &'static str,
        (stored, stored_until): (HashMap<AccountId, BookAccount>, Sequence),
        report: &'a mut Report,
    ) -> Self {
        Self {
            report,
            book: Book::new(),
            whose,
            found: None,
            ids: SortedIds::default(),
            trouble: None,
            stored: stored.into_iter().map(|(id, account)| (id, (account, false))).collect(),
            stored_until,
            lives: HashMap::new(),
            checkpoint: 0,
            links: None,
            given_back: HashMap::new(),
            step: None,
            statements: BTreeSet::new(),
        }
    }

    fn load(&mut self, store: &'a Store) -> Result<(), StoreError> {
        let found = Stored::load(store)?;
        (self.checkpoint, self.stored_until) = (found.checkpoint, found.applied());
        self.stored.extend(found.book.accounts().map(|account| (account.properties.id, (account, false))));
        let accounts = found.book.len();
        self.found = Some(found.book);
        let lives = &mut self.lives;
        store.read_lives(|id, life| {
            lives.insert(id, life);
        })?;
        let last = store.last_index()?;
        // Whether all can be read: of a store that is damaged anywhere nothing is compared. Of this a start reads the end only.
        if let Err(err) = store.read_index((1, last), |_, _| ()) {
            self.violate(format!(
                "the histories of accounts cannot be read ({}); `heng rebuild` makes them again from the journal",
                chain(&err)
            ));
            return Err(err);
        }
        self.links = Some(Links { store, last, first: 0, piece: Vec::new() });
        self.report.store = format!("checkpoint at {}, {accounts} accounts, {last} index entries", self.checkpoint);
        Ok(())
    }

    /// Follows a group's records up to a sequence; answers whether there may be more.
    pub(super) fn group(&mut self, time_ns: u64, body: &[u8], until: Sequence) -> bool {
        for (time_ns, bytes) in (time_ns..).zip(body.as_chunks::<RECORD_BYTES>().0) {
            if self.book.sequence() >= until {
                return false;
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
        if self.step.take().is_some() {
            let sequence = self.book.sequence();
            self.report.violate(format!(
                "record {sequence}: a transaction goes on beyond its group, of which a crash may leave a part"
            ));
        }
        self.book.sequence() < until && self.trouble.is_none()
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
        if let Some(found) = self.found.as_mut().filter(|found| found.sequence() < sequence) {
            if let Err(err) = found.apply(time_ns, record) {
                self.report.violate(format!("record {sequence}: a start would not follow it: {err}"));
            }
            // The same as above.
            drop(found.take_notes());
        }
        let entry = IndexEntry { debit_previous: applied.debit_previous, credit_previous: applied.credit_previous };
        if let Record::Transfer { transfer, outcome, .. } = record {
            self.report.transfers = self.report.transfers.saturating_add(1);
            self.report.accepted = self.report.accepted.saturating_add(u64::from(outcome.is_accepted()));
            if self.trouble.is_none() {
                self.trouble = self.ids.push((transfer.id, sequence)).err();
            }
        }
        if let Record::Statement(entry) = record
            && entry.number > 0
        {
            self.statements.insert(entry.hash);
        }
        let indexed = self.links.as_mut().map(|links| links.of(sequence)).transpose().unwrap_or_else(|err| {
            self.forget_store(&err);
            None
        });
        let indexed = indexed.flatten();
        if indexed.is_some_and(|indexed| indexed != entry) {
            self.report.violate(format!(
                "record {sequence}: the store's index entry is {indexed:?}, the journal says {entry:?}"
            ));
        }
        for slot in [applied.debit_slot, applied.credit_slot].into_iter().flatten() {
            self.meet(slot);
        }
        if sequence == self.checkpoint {
            self.meet_lives();
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

    /// Compares all that was given back with what the store says, when the journal is at its checkpoint.
    fn meet_lives(&mut self) {
        let mut ids: Vec<TransferId> = self.book.open().lives.newest().map(|(id, _)| id).collect();
        ids.extend(self.lives.keys());
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let stored = self.lives.remove(&id);
            self.compare_life(id, stored);
        }
    }

    /// No id was decided twice. With the directory of id runs, also compares these with the ids of the records: each with its record, and none
    /// missing up to where the runs say that they have all. An error is one of the temporary file in which ids are sorted.
    pub(super) fn ids(&mut self, runs: Option<&Path>) -> io::Result<()> {
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        let (known, covers) = match runs {
            Some(directory) => self.known_ids(directory)?,
            None => (SortedIds::default(), 0),
        };
        let mut known = known.in_order()?.peekable();
        let (mut first, mut missing) = (None, None);
        for entry in std::mem::take(&mut self.ids).in_order()? {
            let entry = entry?;
            let (id, sequence) = entry;
            if let Some((_, first)) = first.filter(|&(before, _)| before == id) {
                self.violate(format!("record {sequence}: transfer {id} was decided before, as record {first}"));
                continue;
            }
            first = Some(entry);
            let mut is_known = false;
            while let Some(until_here) = known.next_if(|known| known.as_ref().map_or(true, |known| *known <= entry)) {
                let found = until_here?;
                if found == entry {
                    is_known = true;
                } else {
                    self.known_wrongly(found);
                }
            }
            if sequence <= covers && !is_known {
                missing.get_or_insert(entry);
            }
        }
        for rest in known {
            self.known_wrongly(rest?);
        }
        if let Some((id, sequence)) = missing {
            self.violate(format!("transfer {id}, record {sequence}, is in no id run; it would be decided again"));
        }
        Ok(())
    }

    fn known_wrongly(&mut self, (id, sequence): Entry) {
        self.violate(format!("an id run says that transfer {id} is record {sequence}; the journal does not"));
    }

    /// The ids of the runs, and up to where these have all; none if the next start makes them again.
    fn known_ids(&mut self, directory: &Path) -> io::Result<(SortedIds, Sequence)> {
        let (mut known, mut sorted, mut entries) = (SortedIds::default(), Ok(()), 0_u64);
        let read = read_known_ids(directory, |id, sequence| {
            entries = entries.saturating_add(1);
            if sorted.is_ok() {
                sorted = known.push((id, sequence));
            }
        });
        sorted?;
        self.report.ids = match &read {
            Ok(Some(covers)) => format!("{entries} in runs, which have all up to record {covers}"),
            Ok(None) => "a run is damaged or missing; the next start makes all again from the journal".to_owned(),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                "none here; the first start makes them from the journal".to_owned()
            }
            Err(err) => format!("cannot be read ({err})"),
        };
        Ok(match read {
            Ok(Some(covers)) => (known, covers),
            _ => (SortedIds::default(), 0),
        })
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

    /// Compares an account with the store's when the journal is at that one's head; and it is not touched again by what the store has for sure.
    fn meet(&mut self, slot: u32) {
        let Some(account) = self.book.account_at(slot) else { return };
        let Self { report, whose, stored, stored_until, .. } = self;
        let (id, head) = (account.properties.id, account.head);
        match stored.get_mut(&id) {
            Some((stored, is_met)) if stored.head == head => {
                if *stored != account {
                    report.violate(format!("record {head}: {whose} has {stored:?}, the journal gives {account:?}"));
                }
                *is_met = true;
            }
            Some((stored, true)) if head <= *stored_until => report.violate(format!(
                "record {head} touches the account {id}, which {whose} has as of record {}, although it has all up to {stored_until}",
                stored.head
            )),
            None if head <= *stored_until => report
                .violate(format!("record {head} touches the account {id}, which {whose} does not have, although it has all up to {stored_until}")),
            Some(_) | None => {}
        }
    }

    /// Compares what a start would find, besides accounts, with what the whole journal gives.
    fn meet_found(&mut self) {
        let Some(found) = self.found.take().filter(|found| found.sequence() == self.book.sequence()) else { return };
        for what in found.state().differences(&self.book.state()) {
            self.report.violate(format!(
                "a start would find other {what} than the journal gives; `heng rebuild` makes the store again"
            ));
        }
    }

    pub(super) fn finish(mut self, is_whole: bool) {
        self.meet_found();
        let Self { report, book, whose, stored, lives, links, given_back, step, .. } = self;
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
        let mut unmet: Vec<_> =
            stored.into_values().filter(|(_, is_met)| !is_met).map(|(account, _)| account).collect();
        unmet.sort_unstable_by_key(|account| account.head);
        for account in unmet {
            let id = account.properties.id;
            report.violate(format!(
                "the account {id} of {whose} was last touched by record {}, which the journal does not confirm",
                account.head
            ));
        }
        let mut unmet: Vec<_> = lives.into_iter().map(|(id, life)| (life.head, id)).collect();
        unmet.sort_unstable();
        for (head, id) in unmet {
            report.violate(format!(
                "the store says that record {head} gave back of transfer {id}, which the journal does not confirm"
            ));
        }
        if let Some(last) = links.map(|links| links.last).filter(|&last| last > report.sequence) {
            let sequence = report.sequence;
            report.violate(format!("the store has followed to sequence {last}, the journal ends at {sequence}"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{GatewayId, Transfer};

    /// What is said of these ids, each refused.
    fn said_of(ids: &[u128]) -> Vec<String> {
        let mut report = Report::default();
        let mut check = Check::new("nobody", (HashMap::new(), 0), &mut report);
        for &id in ids {
            let transfer = Transfer { id: TransferId::from_raw(id), ..Transfer::default() };
            let record = Record::Transfer { transfer, outcome: Code::DebitAccountUnknown, gateway: GatewayId(1) };
            assert!(check.group(1, &record.encode(), Sequence::MAX));
        }
        check.ids(None).unwrap();
        check.finish(true);
        report.violations
    }

    #[test]
    fn an_id_that_was_decided_twice() {
        assert!(said_of(&[7, 9, 8]).is_empty());
        let twice = |id: u128, sequence| {
            format!("record {sequence}: transfer {} was decided before, as record 1", TransferId::from_raw(id))
        };
        assert_eq!(said_of(&[7, 9, 7, 8]), [twice(7, 3)]);
        assert_eq!(said_of(&[7, 7, 8, 7]), [twice(7, 2), twice(7, 4)]);
    }
}
