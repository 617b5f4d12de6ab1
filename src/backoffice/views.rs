//! What an operator is shown of windows, positions and payouts. Amounts are minor units, as texts, because JSON numbers end at 2^53.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::calendar::{Calendar, date_of, iso_time};
use super::payout_file::PayoutFile;
use super::ports::Snapshot;
use super::reconciliation::Break;
use crate::ledger::{
    Book, Code, Distribution, DistributionState, Participant, PayoutEntry, Policy, StatementEntry, TransferId, Window,
    WindowState, unpadded,
};

/// A window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowView {
    /// Name of its scheme, or its number when the policy has it no more.
    pub scheme: String,
    /// Its number.
    pub window: u32,
    /// How far it is.
    pub state: String,
    /// The first record that may belong to it.
    pub first_sequence: u64,
    /// The record that closed it; 0 while it is open.
    pub last_sequence: u64,
    /// When it was opened, UTC.
    pub opened: String,
    /// When it was closed, UTC; empty while it is open.
    pub closed: String,
    /// Its business day; empty while it is open.
    pub day: String,
    /// The business day of its settlement; empty while it is open.
    pub settlement_day: String,
    /// Transfers in it.
    pub transfers: u64,
    /// What those who receive are to receive, minor units.
    pub sum: String,
    /// Digest of its positions; empty while it is open.
    pub digest: String,
}

/// A participant's position in a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionView {
    /// The participant's number; 0 for the house.
    pub participant: u32,
    /// Its name.
    pub name: String,
    /// Paid, minor units.
    pub debits: String,
    /// Received, minor units.
    pub credits: String,
    /// How often it paid.
    pub debit_count: u64,
    /// How often it received.
    pub credit_count: u64,
    /// Left over from windows before, minor units.
    pub carried: String,
    /// What it is to receive, or, when negative, owes; minor units.
    pub net: String,
    /// Settled of it, minor units.
    pub settled: String,
}

/// A payout or collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutView {
    /// Its id, which is its end-to-end reference at the bank.
    pub payout: String,
    /// Name of its scheme.
    pub scheme: String,
    /// The window's number.
    pub window: u32,
    /// What became of it.
    pub state: String,
    /// `payout` or `collection`.
    pub direction: String,
    /// The participant's number.
    pub participant: u32,
    /// The participant's name.
    pub name: String,
    /// Minor units.
    pub amount: String,
    /// The currency's letters.
    pub currency: String,
    /// When the bank is to do it.
    pub day: String,
    /// Why the bank refused it.
    pub reason: String,
    /// Number of the gateway under which the person is registered who said so last; 0 for the schedule.
    pub by: u32,
}

/// A distribution and its latest run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistributionView {
    /// Its name.
    pub distribution: String,
    /// From which account.
    pub account: String,
    /// The currency's letters.
    pub currency: String,
    /// Recipients with their ratios.
    pub shares: Vec<(String, u32)>,
    /// How far the latest run is; empty before the first one.
    pub state: String,
    /// When that one was due, or from when on a policy has had it with another account or schedule, UTC.
    pub due: String,
    /// What it divides or divided, minor units.
    pub amount: String,
    /// Why it failed; empty when it did not.
    pub why: String,
    /// When the next one is due, by the schedule or because its latest one, by the policy in force, found less than was planned, UTC; empty when none is.
    pub next: String,
    /// Number of the gateway under which the person is registered who asked for the latest one; 0 for the schedule.
    pub by: u32,
}

impl DistributionView {
    /// All of the policy, in its order.
    pub fn list(book: &Book) -> Vec<Self> {
        let policy = book.policy();
        let view = |distribution: &Distribution| {
            let run = book.distributions().runs().get(&distribution.number).copied().unwrap_or_default();
            let calendar = Calendar::of_distribution(distribution).ok();
            let scheduled = calendar.and_then(|calendar| calendar.next(run.due_ns)).map(|(at_ns, _)| at_ns);
            let next = scheduled.into_iter().chain(run.again_ns(book.summary().policy)).min();
            let is_first = run.planned == 0;
            let some = |text: String| if is_first { String::new() } else { text };
            let failed = run.state == DistributionState::Failed;
            let why = Code::from_number(run.outcome).filter(|_| failed).map(|code| code.name().to_owned());
            Self {
                distribution: distribution.name.clone(),
                account: distribution.account.to_string(),
                currency: policy.currency_code(distribution.currency).unwrap_or_default().to_owned(),
                shares: distribution.shares.iter().map(|(account, ratio)| (account.to_string(), *ratio)).collect(),
                state: some(run.state.name().to_owned()),
                due: some(iso_time(run.due_ns)),
                amount: some(run.amount.to_string()),
                why: why.unwrap_or_default(),
                next: next.map_or_else(String::new, iso_time),
                by: run.by,
            }
        };
        policy.distributions().iter().map(view).collect()
    }
}

fn scheme_name(policy: &Policy, number: u16) -> String {
    policy.scheme(number).map_or_else(|| number.to_string(), |scheme| scheme.name.clone())
}

impl WindowView {
    /// All windows of a scheme, or of all, the latest first, at most so many.
    pub fn list(book: &Book, scheme: Option<&str>, most: usize) -> Vec<Self> {
        let windows = book.windows().windows().values().rev();
        let named =
            windows.filter(|window| scheme.is_none_or(|name| scheme_name(book.policy(), window.scheme) == name));
        named.take(most).map(|window| Self::of(book, window)).collect()
    }

    /// A window as the book has it.
    pub fn of(book: &Book, window: &Window) -> Self {
        let whole = book.windows().window(window.key());
        let positions = whole.map(|whole| whole.positions).unwrap_or_default();
        let is_open = window.state == WindowState::Open;
        let when = |text: String| if is_open { String::new() } else { text };
        Self {
            scheme: scheme_name(book.policy(), window.scheme),
            window: window.number,
            state: window.state.name().to_owned(),
            first_sequence: window.first,
            last_sequence: window.last,
            opened: iso_time(window.opened_ns),
            closed: when(iso_time(window.closed_ns)),
            day: when(date_of(window.day).to_string()),
            settlement_day: when(date_of(window.settlement_day).to_string()),
            transfers: positions.count(),
            sum: positions.sum().to_string(),
            digest: if window.state < WindowState::Closed {
                String::new()
            } else {
                blake3::Hash::from_bytes(window.digest).to_hex().to_string()
            },
        }
    }
}

impl PositionView {
    /// The positions of a window, in order of participant; `None` when there is no such window.
    pub fn list(book: &Book, scheme: &str, number: u32) -> Option<Vec<Self>> {
        let scheme = book.policy().schemes().iter().find(|known| known.name == scheme)?.number;
        Self::of(book, (scheme, number))
    }

    /// The same by the number of the scheme, which the policy may not have any more.
    pub fn of(book: &Book, key: (u16, u32)) -> Option<Vec<Self>> {
        let window = book.windows().window(key)?;
        let participants = book.windows().participants();
        let views = window.positions.iter().map(|(place, position)| {
            let participant = participants.get(usize::try_from(place).unwrap_or(usize::MAX));
            Self {
                participant: participant.map_or(0, |participant| participant.id),
                name: participant.map(|participant| participant.name.clone()).unwrap_or_default(),
                debits: position.debits.to_string(),
                credits: position.credits.to_string(),
                debit_count: position.debit_count,
                credit_count: position.credit_count,
                carried: position.carried.to_string(),
                net: position.net().to_string(),
                settled: window.settled(place).to_string(),
            }
        });
        let mut views: Vec<Self> = views.collect();
        views.sort_by_key(|view| view.participant);
        Some(views)
    }
}

impl PayoutView {
    /// A payout as an answer shows it.
    pub fn of(snapshot: &Snapshot, payout: &PayoutEntry) -> Self {
        let participant = snapshot.participants.iter().find(|known| known.id == payout.participant);
        Self::new(&snapshot.policy, participant, payout)
    }

    /// Payouts of a scheme, a window and a state, or of all; at most so many.
    pub fn list(
        book: &Book,
        (scheme, window, state): (Option<&str>, Option<u32>, Option<&str>),
        most: usize,
    ) -> Vec<Self> {
        let views = book.windows().payouts().values().filter(|payout| {
            scheme.is_none_or(|name| scheme_name(book.policy(), payout.window.0) == name)
                && window.is_none_or(|number| payout.window.1 == number)
                && state.is_none_or(|state| payout.state.name() == state)
        });
        let windows = book.windows();
        let mut found: Vec<&PayoutEntry> = views.collect();
        found.sort_unstable_by_key(|payout| {
            (payout.window, payout.participant, payout.counterparty, payout.is_collection)
        });
        let found = found.into_iter().take(most);
        found.map(|payout| Self::new(book.policy(), windows.participant_of(payout.participant), payout)).collect()
    }

    /// Payouts by their ids, in order of window and participant.
    pub fn of_ids(book: &Book, ids: &BTreeSet<TransferId>) -> Vec<Self> {
        let windows = book.windows();
        let mut found: Vec<&PayoutEntry> = ids.iter().filter_map(|id| windows.payouts().get(id)).collect();
        found.sort_unstable_by_key(|payout| (payout.window, payout.participant, payout.counterparty, payout.id));
        let view = |payout: &PayoutEntry| Self::new(book.policy(), windows.participant_of(payout.participant), payout);
        found.into_iter().map(view).collect()
    }

    fn new(policy: &Policy, participant: Option<&Participant>, payout: &PayoutEntry) -> Self {
        let currency = policy.scheme(payout.window.0).and_then(|scheme| policy.currency_code(scheme.currency));
        Self {
            payout: super::payout_file::reference(payout),
            scheme: scheme_name(policy, payout.window.0),
            window: payout.window.1,
            state: payout.state.name().to_owned(),
            direction: if payout.is_collection { "collection" } else { "payout" }.to_owned(),
            participant: payout.participant,
            name: participant.map(|participant| participant.name.clone()).unwrap_or_default(),
            amount: payout.amount.to_string(),
            currency: currency.unwrap_or_default().to_owned(),
            day: date_of(payout.day).to_string(),
            reason: unpadded(&payout.reason),
            by: payout.by.0,
        }
    }
}

/// A break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakView {
    /// What names it: `L3.17`, a line of an import, or `E12345`, an entry of the ledger.
    #[serde(rename = "break")]
    pub key: String,
    /// `missing`, `extra`, `amount`, `duplicate`, `late` or `returned`.
    pub kind: String,
    /// By how much the bank has more than the ledger, minor units.
    pub amount: String,
    /// The day of the line or entry.
    pub day: String,
    /// Days since then.
    pub age_days: i32,
    /// `open`, `proposed` or `resolved`.
    pub state: String,
    /// How it is, or is to be, resolved; empty while that is open.
    pub resolution: String,
    /// Whose it is.
    pub owner: String,
    /// Number of the gateway under which the person is registered who proposed or resolved it.
    pub by: u32,
    /// What was said.
    pub comments: Vec<String>,
}

impl BreakView {
    /// A break as of a day.
    pub fn of(known: &Break, today: i32) -> Self {
        let is_open = known.state == super::reconciliation::BreakState::Open;
        Self {
            key: known.key.to_string(),
            kind: known.kind.name().to_owned(),
            amount: known.amount.to_string(),
            day: date_of(known.day).to_string(),
            age_days: today.saturating_sub(known.day),
            state: known.state.name().to_owned(),
            resolution: if is_open { String::new() } else { known.resolution.name().to_owned() },
            owner: known.owner.clone(),
            by: known.by.0,
            comments: known.comments.iter().map(|(by, text)| format!("{}: {text}", by.0)).collect(),
        }
    }
}

/// An import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementView {
    /// Its number.
    pub statement: u32,
    /// BLAKE3 hash of the file, which is kept under it in `data/statements`.
    pub hash: String,
    /// Lines that were read.
    pub lines: u32,
    /// What could not be read.
    pub wrong: u32,
    /// Sum of the lines, minor units.
    pub sum: String,
    /// Number of the gateway under which the person is registered who imported it.
    pub by: u32,
}

impl StatementView {
    /// An import as the journal has it.
    pub fn of(entry: &StatementEntry) -> Self {
        Self {
            statement: entry.number,
            hash: blake3::Hash::from_bytes(entry.hash).to_hex().to_string(),
            lines: entry.lines,
            wrong: entry.wrong,
            sum: entry.sum.to_string(),
            by: entry.by.0,
        }
    }
}

/// A payout file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileView {
    /// Where it is, at the server.
    pub path: String,
    /// Payouts or collections in it.
    pub count: usize,
    /// Their sum, minor units.
    pub sum: String,
}

impl FileView {
    /// A file that was written.
    pub(super) fn of(file: &PayoutFile) -> Self {
        Self { path: file.path.display().to_string(), count: file.count, sum: file.sum.to_string() }
    }
}
