//! What an operator asks for about statements and breaks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::calendar::{date_of, day_of};
use super::commands::{Answer, Person, Problem};
use super::office::Office;
use super::payout_file::write_whole;
use super::ports::{Ports, Snapshot, Trouble};
use super::reconciliation::{BankSide, Break, BreakState, Reconciliation, WRITE_OFF_PURPOSE, break_tag};
use super::settle::derived_id;
use super::statement::{ReadStatements, read_statements};
use super::views::{BreakView, StatementView};
use crate::ledger::{
    BankAccount, BreakAction, BreakEntry, BreakKey, PayoutEntry, PayoutState, Record, Resolution, StatementEntry,
    Transfer, TransferId, padded, unspaced,
};
use crate::planted::{self, Bug};

/// Records followed at a time, so that commands never wait long.
const RECORDS_PER_LOOK: u64 = 500_000;

/// A statement to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Name of the bank account.
    pub account: String,
    /// Name of the mapping; needed for CSV.
    pub mapping: Option<String>,
    /// Whether it is taken although it does not add up, or although some of it cannot be read.
    pub incomplete: bool,
    /// What to do with lines that earlier files had; without it a file that has such is refused.
    pub overlap: Option<Overlap>,
    /// The file.
    pub content: Vec<u8>,
}

/// What to do with lines that earlier files had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// They are the same: leave them out.
    Skip,
    /// They are others that look the same: take them.
    Keep,
}

/// Something to do about a break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakOrder {
    /// Name of the bank account.
    pub account: String,
    /// Which break.
    pub key: String,
    /// What.
    pub action: BreakOrderAction,
    /// Comment, at most 56 bytes.
    pub text: String,
}

/// What to do about a break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BreakOrderAction {
    /// The text is whose it is.
    Assign,
    /// The text is a comment.
    Comment,
    /// Resolve it so; `with` another one when it is matched by hand.
    Resolve {
        /// `write-off`, `rematch` or `accept`.
        how: String,
        /// The other break.
        with: Option<String>,
    },
}

impl<P: Ports> Office<P> {
    fn statement_path(&self, hash: &[u8; 32]) -> PathBuf {
        kept_path(&self.statements, hash)
    }

    /// Follows the journal up to a sequence; answers whether it is there.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, most: u64) -> Result<bool, Trouble> {
        if snapshot.policy.bank_accounts().is_empty() {
            return Ok(true);
        }
        let from = self.reconciliation.sequence().saturating_add(1);
        let until = snapshot.sequence.min(from.saturating_add(most).saturating_sub(1));
        let directory = self.statements.clone();
        let mut missing = None;
        let reconciliation = &mut self.reconciliation;
        self.ports.scan((from, until), &mut |stored| {
            reconciliation.follow(&stored, |hash| {
                let read = read_kept(&directory, hash);
                if read.is_none() {
                    missing = Some(kept_path(&directory, hash));
                }
                read
            });
        })?;
        if let Some(path) = missing {
            self.say(&format!("the statement {} is missing or damaged; its lines are left out", path.display()));
        }
        for (number, lines) in self.reconciliation.take_misread() {
            self.say(&format!("of statement {number} there are {lines} lines now and were others when it was imported; look at its breaks"));
        }
        Ok(self.reconciliation.sequence() >= snapshot.sequence)
    }

    /// Follows some of the journal, and hears of payouts that statements show.
    pub(super) fn reconcile(&mut self, snapshot: &Snapshot) -> Result<bool, Trouble> {
        let is_there = self.follow(snapshot, RECORDS_PER_LOOK)?;
        if !is_there {
            return Ok(true);
        }
        let shown = self.reconciliation.take_shown();
        let mut records = Vec::new();
        let issued = snapshot.payouts.iter().filter(|payout| payout.state == PayoutState::Issued);
        let issued: BTreeMap<u128, &PayoutEntry> = issued.map(|payout| (payout.id.raw(), payout)).collect();
        for (id, by) in shown.into_iter().filter(|_| !planted::is(Bug::ShownForgotten)) {
            let Some(&payout) = issued.get(&id) else { continue };
            let needs_two = self.needs_two(snapshot, payout);
            let state = if needs_two { PayoutState::Proposed } else { PayoutState::Confirmed };
            records.push(Record::Payout(PayoutEntry { state, by, ..*payout }));
        }
        let some = !records.is_empty();
        self.ports.record(&records)?;
        Ok(some)
    }

    /// Follows the whole journal.
    fn catch_up(&mut self) -> Result<Snapshot, Problem> {
        loop {
            let snapshot = self.ports.snapshot()?;
            if snapshot.policy.bank_accounts().is_empty() {
                return Err(Problem::new(409, "conflict", "the policy has no bank_account"));
            }
            if self.follow(&snapshot, u64::MAX)? {
                return Ok(snapshot);
            }
        }
    }

    fn bank_side(&self, name: &str) -> Result<&BankSide, Problem> {
        let side = self.reconciliation.side(name);
        side.ok_or_else(|| Problem::new(404, "unknown", format!("the policy has no bank_account `{name}`")))
    }

    pub(super) fn import(&mut self, import: &Import, person: &Person) -> Result<Answer, Problem> {
        let invalid = |what: String| Problem::new(400, "invalid", what);
        let snapshot = self.catch_up()?;
        let side = self.bank_side(&import.account)?;
        let hash = *blake3::hash(&import.content).as_bytes();
        if let Some(number) = side.known(&hash).filter(|_| !planted::is(Bug::StatementTwice)) {
            if self.restore(&hash, &import.content)? {
                return self.match_again(&import.account, person);
            }
            let what = format!("this file was imported before, as statement {number}; nothing was changed");
            return Err(Problem::new(409, "duplicate", what));
        }
        let name = import.mapping.as_deref().unwrap_or_default();
        let mapping = snapshot.policy.csv_mapping(name);
        if mapping.is_none() && !name.is_empty() {
            return Err(Problem::new(404, "unknown", format!("the policy has no statement_csv `{name}`")));
        }
        let account = side.account.clone();
        let places = snapshot.policy.exponent(account.currency).unwrap_or(2);
        let read = read_statements(&import.content, mapping, places);
        let lines: usize = read.statements.iter().map(|statement| statement.lines.len()).sum();
        if lines == 0 && !read.wrong.is_empty() {
            let first = read.wrong.first().cloned().unwrap_or_default();
            return Err(invalid(format!("nothing in it can be read: {first}")));
        }
        let currency = snapshot.policy.currency_code(account.currency).unwrap_or_default();
        check_account(&read, &account, currency).map_err(invalid)?;
        self.check_lines(import, &read)?;
        let side = self.bank_side(&import.account)?;
        let told = read.wrong.iter().chain(&read.repeated).cloned().chain(gap(side, &read)).collect();
        let number = side.statements.iter().map(|statement| statement.number).max().unwrap_or(0).saturating_add(1);
        write_whole(&self.statement_path(&hash), &import.content)?;
        let entry = StatementEntry {
            number,
            hash,
            account: account.account,
            mapping: padded(name).ok_or_else(|| invalid("a mapping's name has at most 24 bytes".to_owned()))?,
            lines: u32::try_from(lines).unwrap_or(u32::MAX),
            wrong: u32::try_from(read.wrong.len()).unwrap_or(u32::MAX),
            sum: read.statements.iter().fold(0, |sum, statement| statement.sum().saturating_add(sum)),
            skips_known: import.overlap == Some(Overlap::Skip),
            by: person.id,
        };
        let before = self.counts(&import.account);
        self.ports.record(&[Record::Statement(entry)])?;
        self.catch_up()?;
        let after = self.counts(&import.account);
        Ok(Answer::Imported {
            statement: number,
            lines,
            matched: after.0.saturating_sub(before.0),
            breaks_open: after.1,
            wrong: told,
        })
    }

    /// Refuses lines that cannot be read, and lines of earlier files, unless someone says what to do.
    fn check_lines(&self, import: &Import, read: &ReadStatements) -> Result<(), Problem> {
        if !read.wrong.is_empty() && !import.incomplete {
            let (count, first) = (read.wrong.len(), read.wrong.first().cloned().unwrap_or_default());
            let what = format!(
                "{count} lines cannot be read, the first: {first}; mend the file or the mapping, or import it as incomplete: the same \
                 file with those lines mended is then another one, of which the lines that are known are skipped"
            );
            return Err(Problem::new(422, "unreadable_lines", what));
        }
        let difference =
            read.statements.iter().filter_map(super::statement::Statement::difference).find(|off| *off != 0);
        if let Some(off) = difference.filter(|_| !import.incomplete) {
            let what = format!(
                "opening balance and lines miss the closing balance by {off} minor units; import it as incomplete if you know why"
            );
            return Err(Problem::new(422, "does_not_add_up", what));
        }
        let side = self.bank_side(&import.account)?;
        let latest = side.latest_possible(self.ports.now_ns());
        if let Some(line) = read.statements.iter().flat_map(|of| &of.lines).find(|line| line.day > latest) {
            let (number, day) = (line.line, date_of(line.day));
            let what = format!("line {number} is of {day}, more than a month ahead; mend its day or the date_format");
            return Err(Problem::new(422, "unreadable_lines", what));
        }
        if let Some(number) = side.left_out.first().filter(|_| import.overlap.is_none()) {
            let what = format!(
                "the file of statement {number} is missing or damaged, so which lines of this one are known cannot be told: import that file again \
                 first, or put it back from a backup and start again; where it is lost for good, say overlap=skip (lines that it had are the same) \
                 or overlap=keep (they are others)"
            );
            return Err(Problem::new(409, "overlap", what));
        }
        let known = side.lines_known(read);
        if known > 0 && import.overlap.is_none() {
            let what = format!(
                "{known} lines of it are in earlier imports; say with overlap=skip that they are the same, or with overlap=keep that \
                 they are others"
            );
            return Err(Problem::new(409, "overlap", what));
        }
        Ok(())
    }

    /// Puts a file back that was imported and is missing or damaged; answers whether it was.
    fn restore(&mut self, hash: &[u8; 32], content: &[u8]) -> Result<bool, Problem> {
        let path = self.statement_path(hash);
        if read_kept(&self.statements, hash).is_some() {
            return Ok(false);
        }
        write_whole(&path, content)?;
        // Its lines were left out: everything is followed anew.
        self.reconciliation = Reconciliation::default();
        Ok(true)
    }

    /// How many matches there are, and how many breaks are not resolved.
    fn counts(&self, account: &str) -> (u64, usize) {
        self.reconciliation.side(account).map_or((0, 0), |side| (side.matched.values().sum(), side.breaks_open()))
    }

    /// Matches again what is open, with entries that came after the last import.
    pub(super) fn match_again(&mut self, account: &str, person: &Person) -> Result<Answer, Problem> {
        self.catch_up()?;
        let entry = StatementEntry {
            number: 0,
            hash: [0; 32],
            account: self.bank_side(account)?.account.account,
            mapping: [0; 24],
            lines: 0,
            wrong: 0,
            sum: 0,
            skips_known: false,
            by: person.id,
        };
        let before = self.counts(account);
        self.ports.record(&[Record::Statement(entry)])?;
        self.catch_up()?;
        let after = self.counts(account);
        let matched = after.0.saturating_sub(before.0);
        Ok(Answer::Imported { statement: 0, lines: 0, matched, breaks_open: after.1, wrong: Vec::new() })
    }

    pub(super) fn breaks(
        &mut self,
        account: &str,
        (state, kind): (Option<&str>, Option<&str>),
        limit: usize,
    ) -> Result<Answer, Problem> {
        self.catch_up()?;
        let today = day_of(self.ports.now_ns());
        let side = self.bank_side(account)?;
        let wanted = side.breaks.values().filter(|known| {
            state.is_none_or(|state| known.state.name() == state) && kind.is_none_or(|kind| known.kind.name() == kind)
        });
        let (resolved, open): (Vec<&Break>, Vec<&Break>) =
            wanted.partition(|known| known.state == BreakState::Resolved);
        let shown = open.into_iter().chain(resolved).take(limit);
        Ok(Answer::Breaks(shown.map(|known| BreakView::of(known, today)).collect()))
    }

    pub(super) fn statements(&mut self, account: &str) -> Result<Answer, Problem> {
        self.catch_up()?;
        let side = self.bank_side(account)?;
        Ok(Answer::Statements(side.statements.iter().map(StatementView::of).collect()))
    }

    pub(super) fn act(&mut self, order: &BreakOrder, person: &Person) -> Result<Answer, Problem> {
        let invalid = |what: &str| Problem::new(400, "invalid", what);
        self.catch_up()?;
        let side = self.bank_side(&order.account)?;
        let account = side.account.clone();
        let key: BreakKey = order.key.parse().map_err(|err| Problem::new(400, "invalid", format!("{err}")))?;
        let known = side.unresolved(key).cloned();
        let known = known.ok_or_else(|| Problem::new(404, "unknown", format!("{key} is no break that is open")))?;
        let text = padded(&order.text).ok_or_else(|| invalid("a text has at most 56 bytes"))?;
        let (action, resolution, other) = match &order.action {
            BreakOrderAction::Assign => (BreakAction::Assign, Resolution::Matched, None),
            BreakOrderAction::Comment => (BreakAction::Comment, Resolution::Matched, None),
            BreakOrderAction::Resolve { how, with } => {
                let how = Resolution::from_name(how).ok_or_else(|| invalid("how is write-off, rematch or accept"))?;
                let (action, other) = self.resolve((&account, &known), (how, with.as_deref()), person)?;
                (action, how, other)
            }
        };
        let entry = BreakEntry { account: account.account, key, action, resolution, other, text, by: person.id };
        self.ports.record(&[Record::Break(entry)])?;
        self.catch_up()?;
        let today = day_of(self.ports.now_ns());
        let known = self.bank_side(&order.account)?.breaks.get(&key).map(|known| BreakView::of(known, today));
        Ok(Answer::Breaks(known.into_iter().collect()))
    }

    /// What resolving comes to: proposed, or done; a write-off is posted here.
    fn resolve(
        &self,
        (account, known): (&BankAccount, &Break),
        (how, with): (Resolution, Option<&str>),
        person: &Person,
    ) -> Result<(BreakAction, Option<BreakKey>), Problem> {
        let conflict = |what: String| Problem::new(409, "conflict", what);
        let other: Option<BreakKey> =
            with.map(str::parse).transpose().map_err(|err| Problem::new(400, "invalid", format!("{err}")))?;
        match (how, other) {
            (Resolution::Rematch, Some(other)) => {
                let unknown = || Problem::new(404, "unknown", format!("{other} is no break that is open"));
                let with = self.bank_side(&account.name)?.unresolved(other).ok_or_else(unknown)?;
                let off = known.amount.saturating_add(with.amount);
                if other == known.key || off.unsigned_abs() > account.amount_tolerance {
                    return Err(conflict(format!(
                        "{} and {other} do not offset each other: {off} minor units are left",
                        known.key
                    )));
                }
                Ok((BreakAction::Resolve, Some(other)))
            }
            (Resolution::Rematch, None) => Err(Problem::new(400, "invalid", "a rematch names the other break")),
            (_, Some(_)) => Err(Problem::new(400, "invalid", "only a rematch names another break")),
            (Resolution::WriteOff, None) => {
                if known.state != BreakState::Proposed || known.resolution != Resolution::WriteOff {
                    return Ok((BreakAction::Propose, None));
                }
                if known.by == person.id && !planted::is(Bug::OnePersonWritesOff) {
                    let what = "you proposed this write-off yourself; another person must confirm it";
                    return Err(Problem::new(403, "second_person_needed", what));
                }
                self.write_off(account, known, person)?;
                Ok((BreakAction::Resolve, None))
            }
            _ => Ok((BreakAction::Resolve, None)),
        }
    }

    /// Posts the difference. Its transfer says which break it is about: following it resolves the break, so that it is posted once.
    fn write_off(&self, account: &BankAccount, known: &Break, person: &Person) -> Result<(), Problem> {
        let against = account.write_off_account.ok_or_else(|| {
            Problem::new(409, "conflict", format!("bank_account `{}` has no write_off_account", account.name))
        })?;
        if known.amount == 0 {
            return Ok(());
        }
        // What the bank has more arrives on its mirror.
        let (debit, credit) = if known.amount > 0 { (account.account, against) } else { (against, account.account) };
        // A refusal is remembered by its id for ever, so each attempt has another one.
        let sequence = self.reconciliation.sequence().to_le_bytes();
        let (mirror, key) = (account.account.raw().to_le_bytes(), known.key.to_string());
        let id = derived_id(b"heng write-off 2", &[&mirror, key.as_bytes(), &sequence]);
        let transfer = Transfer {
            id: TransferId::from_raw(id.raw()),
            debit,
            credit,
            amount: known.amount.unsigned_abs(),
            code: account.write_off_code,
            user_data_128: break_tag(known.key),
            user_data_64: u64::from(person.id.0),
            user_data_32: WRITE_OFF_PURPOSE,
            ..Transfer::default()
        };
        let settled = self.ports.submit(vec![transfer])?;
        match settled.iter().find(|code| !code.is_accepted()) {
            None => Ok(()),
            Some(refused) => {
                Err(Problem::new(409, "conflict", format!("the ledger refused the write-off: {}", refused.meaning())))
            }
        }
    }
}

fn kept_path(directory: &Path, hash: &[u8; 32]) -> PathBuf {
    directory.join(blake3::Hash::from_bytes(*hash).to_hex().as_str())
}

/// A statement that was kept under its hash; `None` when it is missing or damaged.
pub(super) fn read_kept(directory: &Path, hash: &[u8; 32]) -> Option<Vec<u8>> {
    fs::read(kept_path(directory, hash)).ok().filter(|bytes| blake3::hash(bytes).as_bytes() == hash)
}

/// What is to be said when a statement does not begin where the one before ended.
fn gap(side: &BankSide, read: &ReadStatements) -> Option<String> {
    let opening = read.statements.first()?.opening?;
    let closing = side.closing.filter(|closing| *closing != opening)?;
    Some(format!(
        "the opening balance {opening} is not the closing balance {closing} of the statement before: one may be missing"
    ))
}

fn check_account(read: &ReadStatements, account: &BankAccount, currency: &str) -> Result<(), String> {
    for statement in &read.statements {
        let iban = unspaced(&statement.account);
        let says_another = !iban.is_empty() && !iban.ends_with(&account.iban);
        if !account.iban.is_empty() && says_another {
            return Err(format!("it is about account {iban}, not about {}", account.iban));
        }
        if !statement.currency.is_empty() && statement.currency != currency {
            return Err(format!("it is in {}, the account in {currency}", statement.currency));
        }
    }
    Ok(())
}
