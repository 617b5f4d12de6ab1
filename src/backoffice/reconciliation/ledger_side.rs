//! The state of reconciliation, followed from the journal record by record.

use std::collections::BTreeMap;

use super::breaks::{Break, BreakKind, BreakState};
use super::matching::{BankLine, Expected, LineTrouble, Matched, Matcher, Reason, Tolerance};
use crate::backoffice::calendar::day_of;
use crate::backoffice::statement::{ReadStatements, StatementLine, read_statements};
use crate::ledger::{
    AccountId, BankAccount, BreakAction, BreakEntry, BreakKey, GatewayId, Policy, Record, Resolution, Sequence,
    SettlementPurpose, StatementEntry, StoredRecord, Transfer, Window, unpadded,
};

/// What a write-off's transfer has in its `user_data_32`.
pub(in crate::backoffice) const WRITE_OFF_PURPOSE: u32 = 3;

/// One bank account.
#[derive(Debug)]
pub struct BankSide {
    /// As the policy has it.
    pub account: BankAccount,
    /// What is open.
    pub matcher: Matcher,
    /// All breaks by key.
    pub breaks: BTreeMap<BreakKey, Break>,
    /// Matches by reason.
    pub matched: BTreeMap<Reason, u64>,
    /// Imports so far.
    pub statements: Vec<StatementEntry>,
    /// The last day of which there is a line.
    pub latest_day: i32,
    /// Places of entries by their records, for those that have a break.
    entries: BTreeMap<Sequence, u32>,
    lines: BTreeMap<(u32, u32), u32>,
}

/// Reconciliation of all bank accounts at one sequence.
#[derive(Debug, Default)]
pub struct Reconciliation {
    sequence: Sequence,
    policy: Policy,
    policy_parts: Vec<u8>,
    sides: BTreeMap<AccountId, BankSide>,
    /// Transfers that statements show, and who imported those, since someone took them.
    shown: Vec<(u128, GatewayId)>,
}

impl Reconciliation {
    /// The last record followed.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The bank accounts by mirror.
    pub fn sides(&self) -> &BTreeMap<AccountId, BankSide> {
        &self.sides
    }

    /// Transfers that statements show, and who imported those, since the last call.
    pub fn take_shown(&mut self) -> Vec<(u128, GatewayId)> {
        std::mem::take(&mut self.shown)
    }

    /// A bank account by its name.
    pub fn side(&self, name: &str) -> Option<&BankSide> {
        self.sides.values().find(|side| side.account.name == name)
    }

    /// Follows the next record. `file` gives the content of a statement by its hash.
    pub fn follow(&mut self, stored: &StoredRecord, file: impl FnOnce(&[u8; 32]) -> Option<Vec<u8>>) {
        self.sequence = stored.sequence;
        match &stored.record {
            Record::Policy(part) => {
                let whole = part.join(&mut self.policy_parts).ok().flatten();
                if let Some(policy) = whole.and_then(|text| Policy::parse(&text).ok()) {
                    self.change_policy(policy);
                }
            }
            Record::Statement(entry) => {
                let read = (entry.number != 0).then(|| file(&entry.hash)).flatten();
                let mapping = self.policy.csv_mapping(&unpadded(&entry.mapping));
                let currency = self.sides.get(&entry.account).map_or(0, |side| side.account.currency);
                let places = self.policy.exponent(currency).unwrap_or(2);
                let read = read.map(|bytes| read_statements(&bytes, mapping, places)).unwrap_or_default();
                if let Some(side) = self.sides.get_mut(&entry.account) {
                    let shown = side.import(*entry, &read, stored.sequence);
                    self.shown.extend(shown.into_iter().map(|id| (id, entry.by)));
                }
            }
            Record::Break(entry) => {
                if let Some(side) = self.sides.get_mut(&entry.account) {
                    side.act(entry);
                }
            }
            record => {
                if let Some(transfer) = record.done().filter(|transfer| transfer.operation().posts()) {
                    self.posted(transfer, stored);
                }
            }
        }
    }

    fn change_policy(&mut self, policy: Policy) {
        for account in policy.bank_accounts() {
            match self.sides.get_mut(&account.account) {
                Some(side) => side.account = account.clone(),
                None => drop(self.sides.insert(account.account, BankSide::new(account.clone()))),
            }
        }
        self.policy = policy;
    }

    fn posted(&mut self, transfer: &Transfer, stored: &StoredRecord) {
        if transfer.amount == 0 {
            return;
        }
        let by_ledger = matches!(stored.record, Record::Transfer { gateway, .. } if gateway.is_ledger());
        let amount = i128::try_from(transfer.amount).unwrap_or(i128::MAX);
        for (account, amount) in [(transfer.debit, amount), (transfer.credit, amount.saturating_neg())] {
            let Some(side) = self.sides.get_mut(&account) else { continue };
            if by_ledger && transfer.user_data_32 == WRITE_OFF_PURPOSE {
                continue;
            }
            let is_payout = by_ledger && transfer.user_data_32 == SettlementPurpose::Payout as u32;
            let day = day_of(stored.time_ns);
            let place = side.matcher.expect(Expected {
                sequence: stored.sequence,
                id: transfer.id.raw(),
                reference: if by_ledger { 0 } else { transfer.user_data_128 },
                batch: if is_payout { transfer.user_data_64 } else { 0 },
                amount,
                day,
                due: day.saturating_add(i32::from(side.account.due_days)),
            });
            side.entries.insert(stored.sequence, place);
        }
    }
}

impl BankSide {
    fn new(account: BankAccount) -> Self {
        Self {
            account,
            matcher: Matcher::default(),
            breaks: BTreeMap::new(),
            matched: BTreeMap::new(),
            statements: Vec::new(),
            latest_day: i32::MIN,
            entries: BTreeMap::new(),
            lines: BTreeMap::new(),
        }
    }

    /// How many breaks nobody has resolved.
    pub fn breaks_open(&self) -> usize {
        self.breaks.values().filter(|known| known.state != BreakState::Resolved).count()
    }

    /// Whether this file was imported before, and as which number.
    pub fn known(&self, hash: &[u8; 32]) -> Option<u32> {
        self.statements.iter().find(|statement| statement.hash == *hash).map(|statement| statement.number)
    }

    fn import(&mut self, entry: StatementEntry, read: &ReadStatements, sequence: Sequence) -> Vec<u128> {
        let lines = read.statements.iter().flat_map(|statement| &statement.lines);
        for (place, line) in (1_u32..).zip(lines) {
            self.latest_day = self.latest_day.max(line.day);
            let (names, batches) = names_in(line);
            let made = BankLine {
                statement: entry.number,
                place,
                day: line.day,
                amount: line.amount,
                names,
                batches,
                is_fee: line.is_fee,
            };
            let number = self.matcher.line(made);
            self.lines.insert((entry.number, place), number);
        }
        if entry.number != 0 {
            self.statements.push(entry);
        }
        self.run(sequence)
    }

    /// Matches what is open; answers the transfers whose lines are there now.
    fn run(&mut self, sequence: Sequence) -> Vec<u128> {
        let tolerance = Tolerance { amount: self.account.amount_tolerance, days: self.account.days_tolerance };
        let (matches, troubles) = self.matcher.run(tolerance);
        for matched in &matches {
            self.note(matched, sequence);
        }
        for (place, trouble) in troubles {
            let Some(line) = self.matcher.bank_line(place) else { continue };
            let (kind, amount) = match trouble {
                LineTrouble::Amount(difference) => (BreakKind::Amount, difference),
                LineTrouble::Duplicate => (BreakKind::Duplicate, line.amount),
                LineTrouble::Extra => (BreakKind::Extra, line.amount),
            };
            let (key, day) = (BreakKey::Line(line.statement, line.place), line.day);
            let known = self.breaks.entry(key).or_insert_with(|| Break::new(key, (kind, amount, day), sequence));
            if known.state == BreakState::Open {
                (known.kind, known.amount) = (kind, amount);
            }
        }
        // An entry whose line is there with another amount is that line's break, not one more.
        let named: std::collections::BTreeSet<u32> = self.named_by_open_lines();
        let overdue: Vec<u32> = self.matcher.overdue(self.latest_day).filter(|place| !named.contains(place)).collect();
        for place in overdue {
            let Some(expected) = self.matcher.expected(place) else { continue };
            let key = BreakKey::Entry(expected.sequence);
            let what = (BreakKind::Missing, expected.amount.saturating_neg(), expected.day);
            self.breaks.entry(key).or_insert_with(|| Break::new(key, what, sequence));
        }
        let shown = matches.iter().flat_map(|matched| &matched.expected);
        shown.filter_map(|place| self.matcher.expected(*place)).map(|expected| expected.id).collect()
    }

    fn named_by_open_lines(&self) -> std::collections::BTreeSet<u32> {
        let open: Vec<u32> = self.matcher.open_lines().collect();
        open.iter()
            .filter_map(|place| self.matcher.bank_line(*place))
            .flat_map(|line| self.matcher.named_open(line))
            .collect()
    }

    /// Resolves the breaks of what came to match, and notes what came too late.
    fn note(&mut self, matched: &Matched, sequence: Sequence) {
        let count = self.matched.entry(matched.reason).or_default();
        *count = count.saturating_add(1);
        let lines: Vec<(BreakKey, i32)> = matched
            .lines
            .iter()
            .filter_map(|place| self.matcher.bank_line(*place))
            .map(|line| (BreakKey::Line(line.statement, line.place), line.day))
            .collect();
        for (key, _) in &lines {
            self.matched_break(*key);
        }
        let arrived = lines.iter().map(|(_, day)| *day).max().unwrap_or(i32::MIN);
        for place in &matched.expected {
            let Some(expected) = self.matcher.expected(*place) else { continue };
            let (key, due, day) = (BreakKey::Entry(expected.sequence), expected.due, expected.day);
            if arrived > due {
                let late = Break::new(key, (BreakKind::Late, 0, day), sequence);
                let known = self.breaks.entry(key).or_insert(late);
                (known.kind, known.amount) = (BreakKind::Late, 0);
            } else {
                self.matched_break(key);
                self.entries.remove(&key_sequence(key));
            }
        }
    }

    fn matched_break(&mut self, key: BreakKey) {
        if let Some(known) = self.breaks.get_mut(&key) {
            (known.state, known.resolution) = (BreakState::Resolved, Resolution::Matched);
        }
    }

    fn act(&mut self, entry: &BreakEntry) {
        let Some(known) = self.breaks.get_mut(&entry.key) else { return };
        known.apply(entry);
        if entry.action != BreakAction::Resolve {
            return;
        }
        let named = match entry.key {
            BreakKey::Line(..) => self.entries_of(entry.key),
            BreakKey::Entry(_) => Vec::new(),
        };
        self.close(entry.key);
        // With a difference that is written off, or accepted, the entry has its line.
        for place in named {
            self.matcher.close_expected(place);
        }
        if let Some(other) = entry.other {
            self.close(other);
            if let Some(known) = self.breaks.get_mut(&other) {
                (known.state, known.resolution, known.by) = (BreakState::Resolved, entry.resolution, entry.by);
            }
            let count = self.matched.entry(Reason::ByHand).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// The one open entry that a line with an amount break names.
    fn entries_of(&self, key: BreakKey) -> Vec<u32> {
        let is_amount = self.breaks.get(&key).is_some_and(|known| known.kind == BreakKind::Amount);
        let line = self.line_place(key).and_then(|place| self.matcher.bank_line(place)).filter(|_| is_amount);
        line.map(|line| self.matcher.named_open(line)).unwrap_or_default()
    }

    fn line_place(&self, key: BreakKey) -> Option<u32> {
        match key {
            BreakKey::Line(statement, place) => self.lines.get(&(statement, place)).copied(),
            BreakKey::Entry(_) => None,
        }
    }

    fn close(&mut self, key: BreakKey) {
        match key {
            BreakKey::Line(..) => {
                if let Some(place) = self.line_place(key) {
                    self.matcher.close_line(place);
                }
            }
            BreakKey::Entry(sequence) => {
                if let Some(&place) = self.entries.get(&sequence) {
                    self.matcher.close_expected(place);
                }
            }
        }
    }

    /// By how much the bank has more, of a break that is not resolved; `None` when there is no such break.
    pub fn unresolved(&self, key: BreakKey) -> Option<&Break> {
        self.breaks.get(&key).filter(|known| known.state != BreakState::Resolved)
    }
}

fn key_sequence(key: BreakKey) -> Sequence {
    match key {
        BreakKey::Entry(sequence) => sequence,
        BreakKey::Line(..) => 0,
    }
}

/// What a line names: ids of 32 hexadecimal digits, numbers of four digits or more, and payout files by their message ids.
pub fn names_in(line: &StatementLine) -> (Vec<u128>, Vec<u64>) {
    let (mut names, mut batches) = (Vec::new(), Vec::new());
    for text in [&line.reference, &line.text] {
        for word in text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-') {
            if let [scheme, number, digest] = *word.split('-').collect::<Vec<_>>()
                && (scheme.len(), number.len(), digest.len()) == (5, 6, 8)
                && let (Ok(scheme), Ok(number)) = (scheme.parse::<u16>(), number.parse::<u32>())
            {
                batches.push(Window::tag((scheme, number)));
                continue;
            }
            for part in word.split('-') {
                let id = if part.len() == 32 { u128::from_str_radix(part, 16).ok() } else { None };
                let decimal = || (part.len() >= 4).then(|| part.parse::<u128>().ok()).flatten();
                names.extend(id.or_else(decimal).filter(|name| *name != 0));
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    (names, batches)
}
