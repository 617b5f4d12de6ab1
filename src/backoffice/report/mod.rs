//! The end-of-day report: what happened on a day and how things stood at its end, from the journal and the statements' files alone.
//!
//! Records are applied to a book of its own up to the end of the day (UTC, by ledger time), so the same day gives the same bytes
//! whenever it is asked for, and the numbers are those that a replay proves. A day that is not over is marked as incomplete.
//!
//! | file | subject |
//! |---|---|
//! | `csv` | the report as CSV |
//! | `participants` | a participant's part of the day |
//! | `suspicious` | what watch rules find |

mod csv;
mod participants;
mod suspicious;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

pub use participants::{AccountDay, ParticipantDay, WindowPosition};
pub use suspicious::Finding;

use self::participants::Participants;
use self::suspicious::Watcher;
use super::calendar::{DAY_NS, date_of};
use super::reconciliation::{BreakState, Reconciliation};
use super::views::{BreakView, PayoutView, PositionView, WindowView};
use crate::ledger::{
    AccountClass, Book, BookError, DistributionState, Record, Sequence, StoredRecord, Transfer, TransferId, WindowState,
};

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

/// What external accounts owe against what client funds are owed, at the end of the day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// The currency's letters.
    pub currency: String,
    /// What is owed to clients, minor units.
    pub client_funds: String,
    /// What external accounts, such as custody banks, owe.
    pub external: String,
    /// By how much clients are covered; negative when they are not.
    pub surplus: String,
}

/// How a bank account differed from the ledger at the end of the day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BankBreaks {
    /// Name of the bank account.
    pub account: String,
    /// Those that nobody has resolved.
    pub open: Vec<BreakView>,
    /// Matches until then whose amounts differ, within the tolerance.
    pub tolerated_count: u64,
    /// By how much the bank has more than the ledger in those where it has, minor units.
    pub tolerated_more: String,
    /// By how much it has less in the others, minor units.
    pub tolerated_less: String,
}

/// A distribution that was done or failed on the day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DistributionDay {
    /// Its number.
    pub distribution: u16,
    /// `done` or `failed`.
    pub state: String,
    /// Minor units.
    pub amount: String,
    /// Its record.
    pub sequence: Sequence,
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
    /// Accepted of a hundred that were asked for, with two decimals, rounded down; empty when nothing was asked for.
    pub success_percent: String,
    /// Refusals by code.
    pub refused: BTreeMap<String, u64>,
    /// Accepted postings by operation, code and currency.
    pub volumes: Vec<Volume>,
    /// Windows that reached another state on the day.
    pub windows: Vec<WindowView>,
    /// Positions of those that were closed on the day, by scheme and window.
    pub positions: BTreeMap<String, Vec<PositionView>>,
    /// Payouts of which the day says something, as they stood at its end.
    pub payouts: Vec<PayoutView>,
    /// Accounts of participants at the end of the day.
    pub balances: Vec<Balance>,
    /// Sums by class of account at the end of the day.
    pub classes: Vec<Balance>,
    /// Coverage of client funds at the end of the day.
    pub coverage: Vec<Coverage>,
    /// Open holds and delayed transfers at the end of the day.
    pub open_pendings: usize,
    /// Bank statements imported on the day.
    pub statements: u64,
    /// What people did about breaks on the day, by action.
    pub break_actions: BTreeMap<String, u64>,
    /// Differences to banks that nobody had resolved at the end of the day.
    pub breaks: Vec<BankBreaks>,
    /// Statements' files that were missing or damaged, so that their lines are not in the report.
    pub files_missing: u64,
    /// Distributions of the day.
    pub distributions: Vec<DistributionDay>,
    /// What the policy's watch rules found.
    pub suspicious: Vec<Finding>,
    /// Findings beyond the first ten thousand.
    pub suspicious_omitted: u64,
    /// Participants, where they were asked for.
    pub participants: Vec<ParticipantDay>,
}

/// What a report is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportOptions {
    /// The day, counted from 1970-01-01.
    pub day: i32,
    /// Where statements are kept; without it there are no open breaks in the report.
    pub statements: Option<PathBuf>,
    /// Which participants.
    pub participants: Participating,
}

/// Of which participants a report tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Participating {
    /// Of none by itself.
    #[default]
    Nobody,
    /// Of one.
    One(u32),
    /// Of all.
    All,
}

/// How long after its end a day is over: what was sequenced before may still be on its way.
const SLACK_NS: u64 = 10_000_000_000;

/// Follows the journal from its first record to the end of a day.
#[derive(Debug)]
pub struct DayReporter {
    book: Book,
    report: DayReport,
    options: ReportOptions,
    begin_ns: u64,
    end_ns: u64,
    volumes: Sums,
    /// Windows that reached another state, and whether they were closed.
    windows: BTreeMap<(u16, u32), bool>,
    paid: BTreeSet<TransferId>,
    watcher: Watcher,
    participants: Participants,
    reconciliation: Reconciliation,
}

type Sums = BTreeMap<(&'static str, u16, u16), (u64, u128)>;

/// A part of a whole in percent, with two decimals, rounded down.
fn success_percent(accepted: u64, asked: u64) -> String {
    let share = u128::from(accepted).saturating_mul(10_000).checked_div(u128::from(asked));
    share.map_or_else(String::new, |share| format!("{}.{:02}", share / 100, share % 100))
}

fn volumes(sums: Sums, code_of: impl Fn(u16) -> String) -> Vec<Volume> {
    let volumes = sums.into_iter().map(|((operation, code, currency), (count, sum))| Volume {
        operation: operation.to_owned(),
        code,
        currency: code_of(currency),
        count,
        sum: sum.to_string(),
    });
    volumes.collect()
}

impl DayReporter {
    /// For a day.
    pub fn new(options: ReportOptions) -> Self {
        let day = options.day;
        let begin_ns = u64::try_from(day).unwrap_or(0).saturating_mul(DAY_NS);
        Self {
            book: Book::new(),
            report: DayReport { day: date_of(day).to_string(), ..DayReport::default() },
            options,
            begin_ns,
            end_ns: begin_ns.saturating_add(DAY_NS),
            volumes: BTreeMap::new(),
            windows: BTreeMap::new(),
            paid: BTreeSet::new(),
            watcher: Watcher::default(),
            participants: Participants::default(),
            reconciliation: Reconciliation::default(),
        }
    }

    fn has_participants(&self) -> bool {
        self.options.participants != Participating::Nobody
    }

    /// Follows the next record; answers whether the day goes on.
    pub fn follow(&mut self, stored: &StoredRecord) -> Result<bool, BookError> {
        if stored.time_ns >= self.end_ns {
            self.report.is_complete = true;
            return Ok(false);
        }
        let is_of_day = stored.time_ns >= self.begin_ns;
        if is_of_day && self.has_participants() {
            self.participants.begin(&self.book);
        }
        self.book.apply(stored.time_ns, &stored.record)?;
        if let Some(directory) = &self.options.statements {
            let missing = &mut self.report.files_missing;
            self.reconciliation.follow(stored, |hash| {
                let read = super::recon_commands::read_kept(directory, hash);
                *missing = missing.saturating_add(u64::from(read.is_none()));
                read
            });
        }
        if is_of_day {
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
            Record::Transfer { transfer, outcome, .. } => {
                report.transfers = report.transfers.saturating_add(1);
                if outcome.is_accepted() {
                    report.accepted = report.accepted.saturating_add(1);
                } else {
                    let count = report.refused.entry(outcome.name().to_owned()).or_default();
                    *count = count.saturating_add(1);
                }
                if self.has_participants() {
                    self.participants.asked(&self.book, transfer, *outcome);
                }
            }
            Record::Window(entry) => {
                let closed = self.windows.entry((entry.scheme, entry.number)).or_default();
                *closed |= entry.state == WindowState::Closing;
            }
            Record::Payout(entry) => drop(self.paid.insert(entry.id)),
            Record::Statement(entry) if entry.number != 0 => report.statements = report.statements.saturating_add(1),
            Record::Break(entry) => {
                let count = report.break_actions.entry(entry.action.name().to_owned()).or_default();
                *count = count.saturating_add(1);
            }
            Record::Distribution(entry) if entry.state != DistributionState::Planned => {
                report.distributions.push(DistributionDay {
                    distribution: entry.number,
                    state: entry.state.name().to_owned(),
                    amount: entry.amount.to_string(),
                    sequence: stored.sequence,
                });
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
        self.watcher.posted(self.book.policy(), (transfer, currency), sequence);
        if self.has_participants() {
            self.participants.posted(&self.book, transfer, currency);
        }
    }

    fn currency(&self, number: u16) -> String {
        self.book.policy().currency_code(number).map_or_else(|| number.to_string(), str::to_owned)
    }

    /// The report, once the journal or the day has ended. `now_ns` is the time: a day is over when it is, also when nothing came after it.
    pub fn finish(mut self, now_ns: u64) -> DayReport {
        self.report.success_percent = success_percent(self.report.accepted, self.report.transfers);
        self.report.is_complete |= now_ns >= self.end_ns.saturating_add(SLACK_NS);
        let sums = std::mem::take(&mut self.volumes);
        self.report.volumes = volumes(sums, |number| self.currency(number));
        for (key, closed) in std::mem::take(&mut self.windows) {
            let Some(window) = self.book.windows().windows().get(&key) else { continue };
            let view = WindowView::of(&self.book, window);
            if closed {
                let positions = PositionView::of(&self.book, key).unwrap_or_default();
                self.report.positions.insert(format!("{}-{:06}", view.scheme, key.1), positions);
            }
            self.report.windows.push(view);
        }
        self.report.payouts = PayoutView::of_ids(&self.book, &self.paid);
        self.balances();
        self.coverage();
        self.report.open_pendings = self.book.open().pendings.len();
        for side in self.reconciliation.in_force() {
            let open = side.breaks.values().filter(|known| known.state != BreakState::Resolved);
            let open = open.map(|known| BreakView::of(known, self.options.day)).collect();
            self.report.breaks.push(BankBreaks {
                account: side.account.name.clone(),
                open,
                tolerated_count: side.tolerated.count,
                tolerated_more: side.tolerated.more.to_string(),
                tolerated_less: side.tolerated.less.to_string(),
            });
        }
        (self.report.suspicious, self.report.suspicious_omitted) = self.watcher.finish();
        if self.options.participants != Participating::Nobody {
            let only = if let Participating::One(number) = self.options.participants { Some(number) } else { None };
            let cleared = (&self.report.positions, self.report.payouts.as_slice());
            self.report.participants = self.participants.finish(&self.book, only, cleared);
        }
        self.report
    }

    fn balances(&mut self) {
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
    }

    fn coverage(&mut self) {
        let classes = self.book.classes();
        let of = |currency: u16, class: AccountClass| classes.get(&(currency, class as u8)).copied().unwrap_or(0);
        let currencies: BTreeSet<u16> = classes.keys().map(|(currency, _)| *currency).collect();
        let rows = currencies.into_iter().filter_map(|currency| {
            let (owed, external) = (of(currency, AccountClass::ClientFunds), of(currency, AccountClass::External));
            let external = external.saturating_neg();
            (owed != 0).then(|| Coverage {
                currency: self.currency(currency),
                client_funds: owed.to_string(),
                external: external.to_string(),
                surplus: external.saturating_sub(owed).to_string(),
            })
        });
        self.report.coverage = rows.collect();
    }
}
