//! The end-of-day report: what happened on a day and how things stood at its end, from the journal alone.
//!
//! Records are applied to a book of its own up to the end of the day (UTC, by ledger time), so the same day gives the same bytes
//! whenever it is asked for, and the numbers are those that a replay proves. A day that is not over is marked as incomplete.
//!
//! CSV follows RFC 4180 with a header: `section,subject,item,count,minor_units,currency`; texts that a spreadsheet would take for a
//! formula are guarded by an apostrophe; numbers are not.

use std::collections::BTreeMap;

use serde::Serialize;

use super::calendar::{DAY_NS, date_of};
use super::payout_file::guarded;
use super::views::{PayoutView, PositionView, WindowView};
use crate::ledger::{AccountClass, Book, BookError, Record, Sequence, StoredRecord, Transfer, WindowState};

/// A count and a sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// The operation.
    pub operation: String,
    /// The code of the business.
    pub code: u16,
    /// The currency's letters.
    pub currency: String,
    /// How many were accepted.
    pub count: u64,
    /// Their sum, minor units.
    pub sum: String,
}

/// A balance at the end of the day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// The participant, or the class.
    pub subject: String,
    /// The account; empty for a class.
    pub account: String,
    /// The currency's letters.
    pub currency: String,
    /// Minor units.
    pub balance: String,
}

/// A transfer that is worth a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LargeTransfer {
    /// Its record.
    pub sequence: Sequence,
    /// Its id.
    pub id: String,
    /// The account that paid.
    pub debit: String,
    /// The account that received.
    pub credit: String,
    /// The currency's letters.
    pub currency: String,
    /// Minor units.
    pub amount: String,
}

/// A day.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DayReport {
    /// The day, UTC.
    pub day: String,
    /// Whether it is over: only then is the report final.
    pub is_complete: bool,
    /// The first record of the day; 0 when there is none.
    pub first_sequence: Sequence,
    /// The last one.
    pub last_sequence: Sequence,
    /// Transfers asked for.
    pub transfers: u64,
    /// Of those accepted.
    pub accepted: u64,
    /// Refusals by code.
    pub refused: BTreeMap<String, u64>,
    /// Accepted postings by operation, code and currency.
    pub volumes: Vec<Volume>,
    /// Windows that were closed on the day.
    pub windows: Vec<WindowView>,
    /// Their positions, by scheme and window.
    pub positions: BTreeMap<String, Vec<PositionView>>,
    /// The payouts of those windows, as they stood at the end of the day.
    pub payouts: Vec<PayoutView>,
    /// Accounts of participants at the end of the day.
    pub balances: Vec<Balance>,
    /// Sums by class of account at the end of the day.
    pub classes: Vec<Balance>,
    /// Open holds and delayed transfers at the end of the day.
    pub open_pendings: usize,
    /// Bank statements imported on the day.
    pub statements: u64,
    /// What people did about breaks on the day, by action.
    pub break_actions: BTreeMap<String, u64>,
    /// Transfers of at least the threshold.
    pub large: Vec<LargeTransfer>,
}

/// Follows the journal from its first record to the end of a day.
#[derive(Debug)]
pub struct DayReporter {
    book: Book,
    report: DayReport,
    begin_ns: u64,
    end_ns: u64,
    /// Minor units from which a transfer is large.
    threshold: Option<u128>,
    volumes: BTreeMap<(&'static str, u16, u16), (u64, u128)>,
    closed: Vec<(u16, u32)>,
}

impl DayReporter {
    /// For a day, counted from 1970-01-01.
    pub fn new(day: i32, threshold: Option<u128>) -> Self {
        let begin_ns = u64::try_from(day).unwrap_or(0).saturating_mul(DAY_NS);
        let report = DayReport { day: date_of(day).to_string(), ..DayReport::default() };
        let end_ns = begin_ns.saturating_add(DAY_NS);
        Self { book: Book::new(), report, begin_ns, end_ns, threshold, volumes: BTreeMap::new(), closed: Vec::new() }
    }

    /// Follows the next record; answers whether the day goes on.
    pub fn follow(&mut self, stored: &StoredRecord) -> Result<bool, BookError> {
        if stored.time_ns >= self.end_ns {
            self.report.is_complete = true;
            return Ok(false);
        }
        self.book.apply(stored.time_ns, &stored.record)?;
        if stored.time_ns >= self.begin_ns {
            self.count(stored);
        }
        Ok(true)
    }

    fn count(&mut self, stored: &StoredRecord) {
        let report = &mut self.report;
        if report.first_sequence == 0 {
            report.first_sequence = stored.sequence;
        }
        report.last_sequence = stored.sequence;
        match &stored.record {
            Record::Transfer { outcome, .. } => {
                report.transfers = report.transfers.saturating_add(1);
                if outcome.is_accepted() {
                    report.accepted = report.accepted.saturating_add(1);
                } else {
                    let count = report.refused.entry(outcome.name().to_owned()).or_default();
                    *count = count.saturating_add(1);
                }
            }
            Record::Window(entry) if entry.state == WindowState::Closing => {
                let key = (entry.scheme, entry.number);
                if !self.closed.contains(&key) {
                    self.closed.push(key);
                }
            }
            Record::Statement(entry) if entry.number != 0 => report.statements = report.statements.saturating_add(1),
            Record::Break(entry) => {
                let count = report.break_actions.entry(entry.action.name().to_owned()).or_default();
                *count = count.saturating_add(1);
            }
            _ => {}
        }
        if let Some(transfer) = stored.record.done().filter(|transfer| transfer.operation().posts()) {
            let transfer = *transfer;
            self.posted(&transfer, stored.sequence);
        }
    }

    fn posted(&mut self, transfer: &Transfer, sequence: Sequence) {
        let currency = self.book.account(transfer.debit).map_or(0, |account| account.properties.currency);
        let volume = self.volumes.entry((transfer.operation().name(), transfer.code, currency)).or_default();
        *volume = (volume.0.saturating_add(1), volume.1.saturating_add(transfer.amount));
        if self.threshold.is_some_and(|threshold| transfer.amount >= threshold) {
            let large = LargeTransfer {
                sequence,
                id: transfer.id.to_string(),
                debit: transfer.debit.to_string(),
                credit: transfer.credit.to_string(),
                currency: self.currency(currency),
                amount: transfer.amount.to_string(),
            };
            self.report.large.push(large);
        }
    }

    fn currency(&self, number: u16) -> String {
        self.book.policy().currency_code(number).map_or_else(|| number.to_string(), str::to_owned)
    }

    /// The report, once the journal or the day has ended.
    pub fn finish(mut self) -> DayReport {
        let volumes = std::mem::take(&mut self.volumes);
        let volumes = volumes.into_iter().map(|((operation, code, currency), (count, sum))| Volume {
            operation: operation.to_owned(),
            code,
            currency: self.currency(currency),
            count,
            sum: sum.to_string(),
        });
        self.report.volumes = volumes.collect();
        for key in std::mem::take(&mut self.closed) {
            let Some(window) = self.book.windows().windows().get(&key) else { continue };
            let view = WindowView::of(&self.book, window);
            let positions = PositionView::list(&self.book, &view.scheme, key.1).unwrap_or_default();
            self.report.positions.insert(format!("{}-{:06}", view.scheme, key.1), positions);
            let which = (Some(view.scheme.as_str()), Some(key.1), None);
            self.report.payouts.extend(PayoutView::list(&self.book, which, usize::MAX));
            self.report.windows.push(view);
        }
        for participant in self.book.windows().participants().iter().skip(1) {
            for account in participant.accounts.iter().filter_map(|id| self.book.account(*id)) {
                self.report.balances.push(Balance {
                    subject: participant.id.to_string(),
                    account: account.properties.id.to_string(),
                    currency: self.currency(account.properties.currency),
                    balance: account.balance().to_string(),
                });
            }
        }
        let classes = self.book.classes().iter().map(|(&(currency, class), balance)| Balance {
            subject: AccountClass::from_number(class).unwrap_or_default().name().to_owned(),
            account: String::new(),
            currency: self.currency(currency),
            balance: balance.to_string(),
        });
        self.report.classes = classes.collect();
        self.report.open_pendings = self.book.open().pendings.len();
        self.report
    }
}

impl DayReport {
    /// The report as CSV.
    pub fn csv(&self) -> Vec<u8> {
        let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        let mut row = |fields: [&str; 6]| {
            // A vector takes everything.
            let _written = out.write_record(fields.map(guarded));
        };
        row(["section", "subject", "item", "count", "minor_units", "currency"]);
        let complete = if self.is_complete { "complete" } else { "incomplete" };
        let records = match self.first_sequence {
            0 => 0,
            first => self.last_sequence.saturating_sub(first).saturating_add(1),
        };
        row(["day", &self.day, complete, &records.to_string(), "", ""]);
        row(["transfers", "", "asked", &self.transfers.to_string(), "", ""]);
        row(["transfers", "", "accepted", &self.accepted.to_string(), "", ""]);
        for (code, count) in &self.refused {
            row(["refused", code, "", &count.to_string(), "", ""]);
        }
        for volume in &self.volumes {
            let (code, count) = (volume.code.to_string(), volume.count.to_string());
            row(["volume", &volume.operation, &code, &count, &volume.sum, &volume.currency]);
        }
        for window in &self.windows {
            let name = format!("{} {}", window.scheme, window.window);
            row(["window", &name, &window.state, &window.transfers.to_string(), &window.sum, ""]);
        }
        for (window, positions) in &self.positions {
            for position in positions {
                let count = position.debit_count.saturating_add(position.credit_count).to_string();
                row(["position", window, &position.participant.to_string(), &count, &position.net, ""]);
            }
        }
        for payout in &self.payouts {
            row(["payout", &payout.payout, &payout.state, "1", &payout.amount, &payout.currency]);
        }
        for balance in &self.balances {
            row(["balance", &balance.subject, &balance.account, "", &balance.balance, &balance.currency]);
        }
        for class in &self.classes {
            row(["class", &class.subject, "", "", &class.balance, &class.currency]);
        }
        row(["open", "", "pendings", &self.open_pendings.to_string(), "", ""]);
        row(["bank", "", "statements", &self.statements.to_string(), "", ""]);
        for (action, count) in &self.break_actions {
            row(["bank", "breaks", action, &count.to_string(), "", ""]);
        }
        for large in &self.large {
            let pair = format!("{} to {}", large.debit, large.credit);
            row(["large", &large.id, &pair, &large.sequence.to_string(), &large.amount, &large.currency]);
        }
        out.into_inner().unwrap_or_default()
    }
}
