//! The state of reconciliation, followed from the journal record by record.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::{HashMap, HashSet};

use super::alike::Alike;
use super::breaks::{Break, BreakKind, BreakState, Tolerated};
use super::matching::{BankLine, Expected, LineTrouble, Matched, Matcher, Reason, Tolerance};
use crate::backoffice::calendar::{Calendar, day_of};
use crate::backoffice::statement::{ReadStatements, StatementLine, read_statements};
use crate::ledger::{
    AccountId, BankAccount, BreakAction, BreakEntry, BreakKey, GatewayId, Operation, PayoutState, Policy, Record,
    Resolution, Sequence, SettlementPurpose, StatementEntry, StoredRecord, Transfer, Window, unpadded,
};

/// What a write-off's transfer has in its `user_data_32`; `user_data_128` says which break it is about, `user_data_64` who confirmed it.
pub(in crate::backoffice) const WRITE_OFF_PURPOSE: u32 = 3;

/// Days by which a line may be of later than its import.
const DAYS_AHEAD_MAX: i32 = 31;

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
    /// Matches whose amounts differ.
    pub tolerated: Tolerated,
    /// Imports so far.
    pub statements: Vec<StatementEntry>,
    /// Numbers of those whose file is missing or damaged: their lines are left out.
    pub left_out: Vec<u32>,
    /// The day up to which the bank has told all.
    pub latest_day: i32,
    /// The last closing balance that a statement had, minor units.
    pub closing: Option<i128>,
    /// Fingerprints of all lines.
    known_lines: HashSet<u64>,
    calendar: Option<Calendar>,
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
    /// Participants that are paid by file.
    paid_by_file: BTreeSet<u32>,
    /// Transfers that statements show, and who imported those, since someone took them.
    shown: Vec<(u128, GatewayId)>,
    /// Imports of which another number of lines is read now than when they were made, and how many.
    misread: Vec<(u32, usize)>,
}

impl Reconciliation {
    /// The last record followed.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Transfers that statements show, and who imported those, since the last call.
    pub fn take_shown(&mut self) -> Vec<(u128, GatewayId)> {
        std::mem::take(&mut self.shown)
    }

    /// Imports of which another number of lines is read now than when they were made, since the last call.
    pub fn take_misread(&mut self) -> Vec<(u32, usize)> {
        std::mem::take(&mut self.misread)
    }

    /// A bank account by its name.
    pub fn side(&self, name: &str) -> Option<&BankSide> {
        self.sides.get(&self.policy.bank_account(name)?.account)
    }

    /// The bank accounts that the policy has, in its order.
    pub fn in_force(&self) -> impl Iterator<Item = &BankSide> {
        self.policy.bank_accounts().iter().filter_map(|account| self.sides.get(&account.account))
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
                let is_left_out = entry.number != 0 && read.is_none();
                let mapping = self.policy.csv_mapping(&unpadded(&entry.mapping));
                let currency = self.sides.get(&entry.account).map_or(0, |side| side.account.currency);
                let places = self.policy.exponent(currency).unwrap_or(2);
                let read = read.map(|bytes| read_statements(&bytes, mapping, places)).unwrap_or_default();
                let lines: usize = read.statements.iter().map(|statement| statement.lines.len()).sum();
                if u32::try_from(lines) != Ok(entry.lines) {
                    self.misread.push((entry.number, lines));
                }
                if let Some(side) = self.sides.get_mut(&entry.account) {
                    side.left_out.extend(is_left_out.then_some(entry.number));
                    let shown = side.import(*entry, read, stored);
                    self.shown.extend(shown.into_iter().map(|id| (id, entry.by)));
                }
            }
            Record::Break(entry) => {
                if let Some(side) = self.sides.get_mut(&entry.account) {
                    let shown = side.act(entry, stored.sequence);
                    self.shown.extend(shown.into_iter().map(|id| (id, entry.by)));
                }
            }
            Record::Participant(entry, _) if !entry.is_proposed => {
                if entry.iban == [0; 34] {
                    self.paid_by_file.remove(&entry.id);
                } else {
                    self.paid_by_file.insert(entry.id);
                }
            }
            Record::Payout(entry) if entry.state == PayoutState::Rejected => {
                self.sides.values_mut().for_each(|side| side.matcher.leave_batch(entry.id.raw()));
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
                Some(side) => side.change(account),
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
            let purpose = if by_ledger { transfer.user_data_32 } else { 0 };
            if purpose == WRITE_OFF_PURPOSE {
                if let Some(key) = break_key(transfer.user_data_128) {
                    let by = GatewayId(u32::try_from(transfer.user_data_64).unwrap_or(0));
                    if let Some(shown) = side.written_off(key, by, stored.sequence) {
                        self.shown.extend(shown.into_iter().map(|id| (id, by)));
                        continue;
                    }
                } else {
                    continue;
                }
            }
            let participant = u32::try_from(transfer.user_data_128 & u128::from(u32::MAX)).unwrap_or(0);
            let in_file = purpose == SettlementPurpose::Payout as u32 && self.paid_by_file.contains(&participant);
            let is_return = purpose == SettlementPurpose::Return as u32;
            let day = side.day(stored.time_ns);
            let place = side.matcher.expect(Expected {
                sequence: stored.sequence,
                // What arrives is the ledger's own record of a delayed transfer, which is what gateway and bank know.
                id: if transfer.operation() == Operation::Arrive { transfer.related } else { transfer.id.raw() },
                reference: if by_ledger && !is_return { 0 } else { transfer.user_data_128 },
                batch: if in_file { transfer.user_data_64 } else { 0 },
                is_return,
                amount,
                day,
                due: side.due(day),
            });
            side.entries.insert(stored.sequence, place);
        }
    }
}

impl BankSide {
    fn new(account: BankAccount) -> Self {
        Self {
            calendar: Calendar::of_bank_account(&account).ok(),
            closing: None,
            known_lines: HashSet::new(),
            account,
            matcher: Matcher::default(),
            breaks: BTreeMap::new(),
            matched: BTreeMap::new(),
            tolerated: Tolerated::default(),
            statements: Vec::new(),
            left_out: Vec::new(),
            latest_day: i32::MIN,
            entries: BTreeMap::new(),
            lines: BTreeMap::new(),
        }
    }

    fn change(&mut self, account: &BankAccount) {
        self.calendar = Calendar::of_bank_account(account).ok();
        self.account = account.clone();
    }

    /// The day in which a time falls at the bank.
    fn day(&self, ns: u64) -> i32 {
        self.calendar.as_ref().map_or_else(|| day_of(ns), |calendar| calendar.local_day(ns))
    }

    /// The last day that a line may have at this time: one of the next century is a mistake, and would make everything else overdue.
    pub fn latest_possible(&self, ns: u64) -> i32 {
        self.day(ns).saturating_add(DAYS_AHEAD_MAX)
    }

    /// The last day on which the line of an entry of this day is in time.
    fn due(&self, day: i32) -> i32 {
        let plain = day.saturating_add(i32::from(self.account.due_days));
        self.calendar.as_ref().map_or(plain, |calendar| calendar.settlement_day(day))
    }

    /// How many lines of a file were imported before.
    pub fn lines_known(&self, read: &ReadStatements) -> usize {
        let mut seen = HashMap::new();
        let lines = read.statements.iter().flat_map(|statement| &statement.lines);
        lines.filter(|line| self.known_lines.contains(&Alike::of(line, &mut seen).next())).count()
    }

    /// How many breaks nobody has resolved.
    pub fn breaks_open(&self) -> usize {
        self.breaks.values().filter(|known| known.state != BreakState::Resolved).count()
    }

    /// Whether this file was imported before, and as which number.
    pub fn known(&self, hash: &[u8; 32]) -> Option<u32> {
        self.statements.iter().find(|statement| statement.hash == *hash).map(|statement| statement.number)
    }

    fn import(&mut self, entry: StatementEntry, read: ReadStatements, stored: &StoredRecord) -> Vec<u128> {
        let ahead = self.latest_possible(stored.time_ns);
        for statement in &read.statements {
            self.latest_day = self.latest_day.max(statement.until.unwrap_or(i32::MIN).min(ahead));
            self.closing = statement.closing.or(self.closing);
        }
        let mut seen = HashMap::new();
        // Lines go as they are taken over: there may be millions.
        let lines = read.statements.into_iter().flat_map(|statement| statement.lines);
        for (place, line) in (1_u32..).zip(lines) {
            self.latest_day = self.latest_day.max(line.day.min(ahead));
            let mut alike = Alike::of(&line, &mut seen);
            let mut is_new = self.known_lines.insert(alike.next());
            while !is_new && !entry.skips_known {
                // One more than earlier files have: a later file that has all of them has no new one.
                is_new = self.known_lines.insert(alike.next());
            }
            if !is_new {
                continue;
            }
            let Named { names, maybe, batches } = names_in(&line);
            let made = BankLine {
                statement: entry.number,
                place,
                day: line.day,
                amount: line.amount,
                names: names.into(),
                maybe: maybe.into(),
                batches: batches.into(),
                is_fee: line.is_fee,
            };
            let number = self.matcher.line(made);
            self.lines.insert((entry.number, place), number);
        }
        if entry.number != 0 {
            self.statements.push(entry);
        }
        self.run(stored.sequence)
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
                LineTrouble::Returned => (BreakKind::Returned, line.amount),
                LineTrouble::Extra => (BreakKind::Extra, line.amount),
            };
            let (key, day) = (BreakKey::Line(line.statement, line.place), line.day);
            let known = self.breaks.entry(key).or_insert_with(|| Break::new(key, (kind, amount, day), sequence));
            if known.state != BreakState::Resolved && (known.kind, known.amount) != (kind, amount) {
                // What was proposed was about something else.
                (known.state, known.kind, known.amount) = (BreakState::Open, kind, amount);
            }
        }
        self.find_missing(sequence);
        // What an amount alone says is no proof that it was this payout.
        let sure = |matched: &&Matched| {
            let by_name = [Reason::Reference, Reason::ReferenceInParts, Reason::References, Reason::Batch];
            by_name.contains(&matched.reason)
        };
        let shown = matches.iter().filter(sure).flat_map(|matched| &matched.expected);
        shown.filter_map(|place| self.matcher.expected(*place)).map(|expected| expected.id).collect()
    }

    /// Finds entries that the bank should have done by now.
    fn find_missing(&mut self, sequence: Sequence) {
        let overdue: Vec<u32> = self.matcher.overdue(self.latest_day).collect();
        for place in &overdue {
            if let Some(payout) = self.matcher.payout_of(*place).filter(|payout| self.matcher.is_expected(*payout)) {
                // Refused before it was booked: there will be a line for neither.
                let both = Matched { reason: Reason::ReturnedUnbooked, expected: vec![payout, *place], lines: vec![] };
                both.expected.iter().for_each(|place| self.matcher.close_expected(*place));
                self.note(&both, sequence);
            }
        }
        // An entry whose line is there with another amount is that line's break, not one more.
        let named = self.in_differences();
        for place in &named {
            let sequence = self.matcher.expected(*place).map_or(0, |expected| expected.sequence);
            let key = BreakKey::Entry(sequence);
            if self.unresolved(key).is_some_and(|known| known.kind == BreakKind::Missing) {
                self.matched_break(key);
            }
        }
        for place in overdue.into_iter().filter(|place| !named.contains(place) && self.matcher.is_expected(*place)) {
            let Some(expected) = self.matcher.expected(place) else { continue };
            let key = BreakKey::Entry(expected.sequence);
            let what = (BreakKind::Missing, expected.amount.saturating_neg(), expected.day);
            let known = self.breaks.entry(key).or_insert_with(|| Break::new(key, what, sequence));
            if known.state == BreakState::Resolved {
                // The line that seemed to be about it was about something else.
                known.state = BreakState::Open;
            }
        }
    }

    /// Entries that are part of the difference of an open line: what is known to be wrong with them is told there.
    fn in_differences(&self) -> BTreeSet<u32> {
        self.matcher.open_lines().flat_map(|line| self.matcher.owned_by(line)).collect()
    }

    /// Resolves the breaks of what came to match, and notes what came too late.
    fn note(&mut self, matched: &Matched, sequence: Sequence) {
        let count = self.matched.entry(matched.reason).or_default();
        *count = count.saturating_add(1);
        self.tolerated.add(self.matcher.more_of(matched));
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
                if known.kind != BreakKind::Late {
                    // What was decided or proposed was about what is not so any more.
                    (known.kind, known.amount, known.state) = (BreakKind::Late, 0, BreakState::Open);
                }
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

    /// Does what a record says about a break; answers the transfers whose lines are there now.
    fn act(&mut self, entry: &BreakEntry, sequence: Sequence) -> Vec<u128> {
        // Two belong together as long as neither has come to match otherwise.
        if entry.other.is_some_and(|other| self.unresolved(entry.key).is_none() || self.unresolved(other).is_none()) {
            return Vec::new();
        }
        if entry.action == BreakAction::Resolve {
            self.known_or_new(entry.key, sequence);
        }
        let Some(known) = self.breaks.get_mut(&entry.key) else { return Vec::new() };
        let (was_open, more) = (known.state != BreakState::Resolved, known.amount);
        known.apply(entry);
        if entry.action != BreakAction::Resolve || !was_open {
            return Vec::new();
        }
        let mut closed = self.close_with_named(entry.key);
        if let Some(other) = entry.other {
            closed |= self.close_with_named(other);
            if let Some(known) = self.breaks.get_mut(&other) {
                self.tolerated.add(more.saturating_add(known.amount));
                (known.state, known.resolution, known.by) = (BreakState::Resolved, entry.resolution, entry.by);
            }
            let count = self.matched.entry(Reason::ByHand).or_default();
            *count = count.saturating_add(1);
        }
        if closed { self.run(sequence) } else { Vec::new() }
    }

    /// A decision about one break is never dropped: of one that is not found any more, because files are read otherwise now, one is made.
    fn known_or_new(&mut self, key: BreakKey, sequence: Sequence) {
        let kind = if matches!(key, BreakKey::Line(..)) { BreakKind::Extra } else { BreakKind::Missing };
        self.breaks.entry(key).or_insert_with(|| Break::new(key, (kind, 0, self.latest_day.max(0)), sequence));
    }

    /// The difference of a break was posted: it is resolved, whatever comes of the record that says so.
    /// `None` when there is no such difference (any more: it came to match, or its file was lost and is there again): then the bank is to have a line
    /// of the write-off too, and what it has not is told.
    fn written_off(&mut self, key: BreakKey, by: GatewayId, sequence: Sequence) -> Option<Vec<u128>> {
        let known = self.breaks.get_mut(&key).filter(|known| known.state != BreakState::Resolved)?;
        (known.state, known.resolution, known.by) = (BreakState::Resolved, Resolution::WriteOff, by);
        let closed = self.close_with_named(key);
        Some(if closed { self.run(sequence) } else { Vec::new() })
    }

    /// Closes what a break is about. With a difference that is written off, or accepted, an entry has its line.
    /// Answers whether entries were closed, which other lines may be about.
    fn close_with_named(&mut self, key: BreakKey) -> bool {
        let owned = self.entries_of(key);
        let some = !owned.is_empty();
        self.close(key);
        for place in owned {
            self.matcher.close_expected(place);
            let sequence = self.matcher.expected(place).map_or(0, |expected| expected.sequence);
            if self.unresolved(BreakKey::Entry(sequence)).is_some() {
                self.matched_break(BreakKey::Entry(sequence));
            }
        }
        some
    }

    /// The open entries that the difference of a line with an amount break contains.
    fn entries_of(&self, key: BreakKey) -> Vec<u32> {
        let is_amount = self.breaks.get(&key).is_some_and(|known| known.kind == BreakKind::Amount);
        let line = self.line_place(key).filter(|_| is_amount);
        line.map(|line| self.matcher.owned_by(line)).unwrap_or_default()
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

/// Which break a write-off is about, in the `user_data_128` of its transfer.
pub(in crate::backoffice) fn break_tag(key: BreakKey) -> u128 {
    match key {
        BreakKey::Line(statement, place) => 1 << 64 | u128::from(statement) << 32 | u128::from(place),
        BreakKey::Entry(sequence) => 2 << 64 | u128::from(sequence),
    }
}

fn break_key(tag: u128) -> Option<BreakKey> {
    let low = u64::try_from(tag & u128::from(u64::MAX)).ok()?;
    match tag >> 64 {
        1 => Some(BreakKey::Line(u32::try_from(low >> 32).ok()?, u32::try_from(low & u64::from(u32::MAX)).ok()?)),
        2 => Some(BreakKey::Entry(low)),
        _ => None,
    }
}

/// What a line names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Ids of 32 hexadecimal digits, and numbers of nine digits or more: nothing else looks like them.
    pub names: Vec<u128>,
    /// Numbers of four to eight digits, which may be dates and other things.
    pub maybe: Vec<u128>,
    /// Payout files by their message ids.
    pub batches: Vec<u64>,
}

/// Digits from which a number is surely a reference: a day has eight.
const SURE_DIGITS: usize = 9;

/// What a line names.
pub fn names_in(line: &StatementLine) -> Named {
    let mut named = Named::default();
    for text in [&line.reference, &line.text] {
        for word in text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-') {
            if let [scheme, number, digest] = *word.split('-').collect::<Vec<_>>()
                && (scheme.len(), number.len(), digest.len()) == (5, 6, 8)
                && let (Ok(scheme), Ok(number)) = (scheme.parse::<u16>(), number.parse::<u32>())
            {
                named.batches.push(Window::tag((scheme, number)));
                continue;
            }
            for part in word.split('-') {
                let id = if part.len() == 32 { u128::from_str_radix(part, 16).ok() } else { None };
                let number = part.parse::<u128>().ok().filter(|_| part.len() >= 4);
                match (id, number) {
                    (Some(id), _) if id != 0 => named.names.push(id),
                    (None, Some(number)) if number != 0 && part.len() >= SURE_DIGITS => named.names.push(number),
                    (None, Some(number)) if number != 0 => named.maybe.push(number),
                    _ => {}
                }
            }
        }
    }
    for list in [&mut named.names, &mut named.maybe] {
        list.sort_unstable();
        list.dedup();
    }
    named
}

#[cfg(test)]
#[path = "following_tests.rs"]
mod tests;
