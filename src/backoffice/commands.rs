//! What an operator asks for, and what comes of it.
//!
//! Each command is checked against the state at its turn, recorded with the person's number, and answered when it is durable.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bank_answer::{BankStatus, read_answers};
use super::calendar::Calendar;
use super::office::Office;
use super::ports::{Ports, Snapshot, Trouble};
use super::recon_commands::{BreakOrder, Import};
use super::terms::is_bic;
use super::views::{BreakView, FileView, PayoutView, StatementView};
use crate::ledger::{
    AccountId, AccountState, Book, GatewayId, HOUSE, ParticipantEntry, PayoutEntry, PayoutState, Record, TransferId,
    WindowState, padded, parse_id, unpadded, unspaced,
};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Number of the gateway under which the person is registered.
    pub id: GatewayId,
    /// Its name.
    pub name: String,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Register an account of a participant, or change the participant's name and bank.
    AddParticipant {
        /// The participant's number.
        participant: u32,
        /// The account's id.
        account: String,
        /// Its name, at most 40 bytes.
        name: String,
        /// Where it is paid; empty when by other means.
        iban: String,
        /// Its bank.
        bic: String,
    },
    /// Close the open window of a scheme now.
    CloseWindow {
        /// The scheme's name.
        scheme: String,
    },
    /// Write the payout files of a settled window again; those that are there and right stay as they are.
    WriteFiles {
        /// The scheme's name.
        scheme: String,
        /// The window's number.
        window: u32,
    },
    /// Run a distribution now.
    Distribute {
        /// Its name.
        distribution: String,
    },
    /// Say that the bank has done a payout or collection.
    ConfirmPayout {
        /// The payout's id, 32 hexadecimal digits.
        payout: String,
    },
    /// Say that the bank has refused it.
    RejectPayout {
        /// The payout's id, 32 hexadecimal digits.
        payout: String,
        /// Why, at most 48 bytes.
        reason: String,
    },
    /// Take over what the bank says of payouts: pain.002 or CSV.
    BankAnswers {
        /// The file's content.
        content: String,
    },
    /// Import a bank statement.
    Import(Import),
    /// Match again what is open of a bank account.
    Match {
        /// Its name.
        account: String,
    },
    /// Show breaks.
    Breaks {
        /// Name of the bank account.
        account: String,
        /// In this state only.
        state: Option<String>,
        /// Of this kind only.
        kind: Option<String>,
        /// At most so many, those that are not resolved first.
        limit: usize,
    },
    /// Show what was imported.
    Statements {
        /// Name of the bank account.
        account: String,
    },
    /// Do something about a break.
    Break(BreakOrder),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// It waits for a second person who says the same.
    Proposed,
    /// A window is closing.
    Closing {
        /// The scheme's name.
        scheme: String,
        /// The window's number.
        window: u32,
    },
    /// A distribution is being paid.
    Distributing {
        /// Its name.
        distribution: String,
        /// Minor units.
        amount: String,
    },
    /// Payout files that are there now.
    Files(Vec<FileView>),
    /// A payout as it is now.
    Payout(PayoutView),
    /// A statement was imported and matched.
    Imported {
        /// Its number; 0 when what is open was only matched again.
        statement: u32,
        /// Lines that were read.
        lines: usize,
        /// Matches that it made.
        matched: u64,
        /// Breaks that are not resolved now.
        breaks_open: usize,
        /// What could not be read, with its place.
        wrong: Vec<String>,
    },
    /// Breaks.
    Breaks(Vec<BreakView>),
    /// Imports.
    Statements(Vec<StatementView>),
    /// A file of answers was read.
    Answers {
        /// Payouts that are confirmed now.
        confirmed: usize,
        /// Payouts that wait for a second person.
        proposed: usize,
        /// Payouts that are refused now.
        rejected: usize,
        /// Answers that changed nothing.
        unchanged: usize,
        /// What could not be read, or is about no payout, with its place.
        wrong: Vec<String>,
    },
}

/// Why something was not done, after RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable name of the kind.
    pub code: &'static str,
    /// What happened and what to do.
    pub detail: String,
}

impl Problem {
    /// Something with these properties.
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub(super) fn busy() -> Self {
        Self::new(503, "busy", "too many commands wait; try again in a moment")
    }

    pub(super) fn stopping() -> Self {
        Self::new(503, "stopping", "the server is stopping; look after its restart whether this was done")
    }

    fn unknown(what: impl Into<String>) -> Self {
        Self::new(404, "unknown", what)
    }

    fn invalid(what: impl Into<String>) -> Self {
        Self::new(400, "invalid", what)
    }

    fn conflict(what: impl Into<String>) -> Self {
        Self::new(409, "conflict", what)
    }
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Stopped => Self::stopping(),
            other => Self::new(500, "internal", other.to_string()),
        }
    }
}

/// Whether XML 1.0 can have a character.
fn is_xml(letter: char) -> bool {
    !matches!(letter, '\u{fffe}' | '\u{ffff}')
}

fn payout_id(text: &str) -> Result<TransferId, Problem> {
    let id = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
    id.map(TransferId::from_raw)
        .ok_or_else(|| Problem::invalid(format!("`{text}` is no payout's id: those have 32 hexadecimal digits")))
}

impl<P: Ports> Office<P> {
    /// Does what is asked for.
    pub fn perform(&mut self, command: Command, person: &Person) -> Result<Answer, Problem> {
        match command {
            Command::AddParticipant { participant, account, name, iban, bic } => {
                self.add_participant((participant, &account), [&name, &iban, &bic], person)
            }
            Command::CloseWindow { scheme } => self.close_window(&scheme, person),
            Command::WriteFiles { scheme, window } => self.write_files((&scheme, window)),
            Command::Distribute { distribution } => self.distribute_now(&distribution, person),
            Command::ConfirmPayout { payout } => {
                let snapshot = self.ports.snapshot()?;
                let payout = find(&snapshot, &payout)?;
                let state = self.said_by(&snapshot, &payout, person, PayoutState::Confirmed)?;
                self.change(&snapshot, &payout, PayoutEntry { state, by: person.id, ..payout })
            }
            Command::RejectPayout { payout, reason } => {
                let snapshot = self.ports.snapshot()?;
                let payout = find(&snapshot, &payout).or_else(|_finished| self.find_finished(&payout))?;
                let reason = padded(&reason).ok_or_else(|| Problem::invalid("a reason has at most 48 bytes"))?;
                let state = self.said_by(&snapshot, &payout, person, PayoutState::Rejected)?;
                self.change(&snapshot, &payout, PayoutEntry { state, reason, by: person.id, ..payout })
            }
            Command::BankAnswers { content } => self.bank_answers(&content, person),
            Command::Import(import) => self.import(&import, person),
            Command::Match { account } => self.match_again(&account, person),
            Command::Breaks { account, state, kind, limit } => {
                self.breaks(&account, (state.as_deref(), kind.as_deref()), limit)
            }
            Command::Statements { account } => self.statements(&account),
            Command::Break(order) => self.act(&order, person),
        }
    }

    fn add_participant(
        &mut self,
        (participant, account): (u32, &str),
        [name, iban, bic]: [&str; 3],
        person: &Person,
    ) -> Result<Answer, Problem> {
        let account = parse_id(account).map(AccountId::from_raw);
        let account = account.ok_or_else(|| Problem::invalid("the account's id is a number, decimal or 0x"))?;
        let iban = unspaced(iban);
        if !iban.is_empty() && iban.parse::<iban::Iban>().is_err() {
            return Err(Problem::invalid(format!("`{iban}` is no IBAN: its check digits or its length are wrong")));
        }
        if !bic.is_empty() && !is_bic(bic) {
            return Err(Problem::invalid(format!("`{bic}` is no BIC: it has 8 or 11 capital letters and digits")));
        }
        let printable = !name.trim().is_empty() && !name.chars().any(|letter| letter.is_control() || !is_xml(letter));
        let name = padded(name).filter(|_| printable).ok_or_else(|| Problem::invalid("a name has 1 to 40 bytes"))?;
        let (iban, bic) = (padded(&iban).unwrap_or([0; 34]), padded(bic).unwrap_or([0; 11]));
        if participant == 0 {
            return Err(Problem::invalid("a participant's number is 1 or more"));
        }
        let entry = ParticipantEntry { id: participant, account, name, iban, bic, is_proposed: false };
        let known = self.ports.inspect(move |book| Known::of(book, &entry))?;
        let Some(currency) = known.currency else {
            return Err(Problem::unknown(format!("there is no account {account}; open it first")));
        };
        if known.is_of_another {
            return Err(Problem::conflict(format!("account {account} is another participant's")));
        }
        if let Some(other) = known.other {
            let what = format!(
                "the participant is settled through account {other} in currency {currency}; close that one first"
            );
            return Err(Problem::conflict(what));
        }
        // Where money goes is changed by two persons.
        let by_another = known.proposed.is_some_and(|(proposed, by)| {
            by != person.id && ParticipantEntry { is_proposed: false, ..proposed } == entry
        });
        if known.changes_bank && !by_another {
            self.ports.record(&[Record::Participant(ParticipantEntry { is_proposed: true, ..entry }, person.id)])?;
            return Ok(Answer::Proposed);
        }
        self.ports.record(&[Record::Participant(entry, person.id)])?;
        Ok(Answer::Done)
    }

    fn close_window(&mut self, name: &str, person: &Person) -> Result<Answer, Problem> {
        let snapshot = self.ports.snapshot()?;
        let scheme = snapshot.policy.schemes().iter().find(|scheme| scheme.name == name);
        let scheme = scheme.ok_or_else(|| Problem::unknown(format!("the policy has no scheme `{name}`")))?;
        let open =
            |window: &&crate::ledger::Window| window.scheme == scheme.number && window.state == WindowState::Open;
        let window = snapshot.windows.iter().find(open);
        let window = window.ok_or_else(|| Problem::conflict(format!("scheme `{name}` has no open window")))?;
        let calendar = Calendar::of_scheme(scheme).map_err(|err| Problem::conflict(err.to_string()))?;
        let day = calendar.day_at(self.ports.now_ns());
        self.close(window, day, calendar.settlement_day(day), person.id)?;
        Ok(Answer::Closing { scheme: name.to_owned(), window: window.number })
    }

    /// A payout that is confirmed, and that the bank may give back after all.
    fn find_finished(&self, id: &str) -> Result<PayoutEntry, Problem> {
        let id = payout_id(id)?;
        let found = self.ports.inspect(move |book| book.windows().payouts().get(&id).copied())?;
        found.ok_or_else(|| Problem::unknown(format!("there is no payout {:032x}", id.raw())))
    }

    fn change(&mut self, snapshot: &Snapshot, before: &PayoutEntry, entry: PayoutEntry) -> Result<Answer, Problem> {
        if before.state == entry.state {
            return Ok(Answer::Payout(PayoutView::of(snapshot, before)));
        }
        if !before.state.may_become(entry.state) {
            let what = format!("the payout is {} and cannot become {}", before.state.name(), entry.state.name());
            return Err(Problem::conflict(what));
        }
        self.ports.record(&[Record::Payout(entry)])?;
        Ok(Answer::Payout(PayoutView::of(snapshot, &entry)))
    }

    /// Whether two persons must say what became of a payout, by the scheme as it was when the payout's window closed.
    pub(super) fn needs_two(&mut self, snapshot: &Snapshot, payout: &PayoutEntry) -> bool {
        let policy = self.terms(snapshot, payout.window);
        let scheme = policy.ok().and_then(|policy| policy.scheme(payout.window.0).cloned());
        // When nobody knows any more what the limit was, there are two.
        scheme.is_none_or(|scheme| scheme.confirm_above.is_some_and(|limit| payout.amount > limit))
    }

    /// What a payout becomes when this person says that it is confirmed, or rejected.
    fn said_by(
        &mut self,
        snapshot: &Snapshot,
        payout: &PayoutEntry,
        person: &Person,
        end: PayoutState,
    ) -> Result<PayoutState, Problem> {
        let window = snapshot.windows.iter().find(|window| window.key() == payout.window);
        if window.is_some_and(|window| window.state < WindowState::Settled) {
            return Err(Problem::conflict(
                "the payout's file is not written yet, so no bank can know of it; try again later",
            ));
        }
        let proposed =
            if end == PayoutState::Confirmed { PayoutState::Proposed } else { PayoutState::RejectionProposed };
        if payout.state == proposed {
            if payout.by == person.id {
                let what = "you proposed this yourself; another person must say so too";
                return Err(Problem::new(403, "second_person_needed", what));
            }
            return Ok(end);
        }
        let waits =
            matches!(payout.state, PayoutState::Issued | PayoutState::Proposed | PayoutState::RejectionProposed);
        // What was confirmed is taken back by two persons, however small it is.
        let again = payout.state == PayoutState::Confirmed && end == PayoutState::Rejected;
        // And what one person has proposed is turned round by a proposal, not at once.
        let turned = matches!(payout.state, PayoutState::Proposed | PayoutState::RejectionProposed);
        Ok(if again || turned || (waits && self.needs_two(snapshot, payout)) { proposed } else { end })
    }

    fn bank_answers(&mut self, content: &str, person: &Person) -> Result<Answer, Problem> {
        let (answers, mut wrong) = read_answers(content.as_bytes());
        let snapshot = self.ports.snapshot()?;
        let (mut confirmed, mut proposed, mut rejected, mut unchanged) = (0_usize, 0_usize, 0_usize, 0_usize);
        let mut records = Vec::new();
        let mut waiting: BTreeMap<TransferId, &PayoutEntry> =
            snapshot.payouts.iter().map(|payout| (payout.id, payout)).collect();
        for answer in answers {
            let Some(payout) = waiting.remove(&answer.payout) else {
                wrong.push(format!(
                    "{:032x} is no payout that waits for an answer, or is in the file twice",
                    answer.payout.raw()
                ));
                continue;
            };
            let mut entry = PayoutEntry { by: person.id, ..*payout };
            let end = match answer.status {
                BankStatus::Paid => PayoutState::Confirmed,
                BankStatus::Refused => PayoutState::Rejected,
                BankStatus::Underway(_) => payout.state,
            };
            if end != payout.state {
                entry.state = self.said_by(&snapshot, payout, person, end).unwrap_or(payout.state);
            }
            if end == PayoutState::Rejected {
                let short: String = answer.reason.chars().take(12).collect();
                entry.reason = padded(&short).unwrap_or([0; 48]);
            }
            if !payout.state.may_become(entry.state) {
                unchanged = unchanged.saturating_add(1);
                continue;
            }
            let count = match entry.state {
                PayoutState::Confirmed => &mut confirmed,
                PayoutState::Rejected => &mut rejected,
                _ => &mut proposed,
            };
            *count = count.saturating_add(1);
            records.push(Record::Payout(entry));
        }
        self.ports.record(&records)?;
        Ok(Answer::Answers { confirmed, proposed, rejected, unchanged, wrong })
    }
}

fn find(snapshot: &Snapshot, id: &str) -> Result<PayoutEntry, Problem> {
    let id = payout_id(id)?;
    let found = snapshot.payouts.iter().find(|payout| payout.id == id).copied();
    found.ok_or_else(|| Problem::unknown(format!("there is no payout {:032x} that still waits for its bank", id.raw())))
}

/// What the book knows about the account and the participant of an entry.
struct Known {
    /// Of the account, if it is there.
    currency: Option<u16>,
    /// Whether it is another participant's.
    is_of_another: bool,
    /// Another account of the participant in that currency that is not closed.
    other: Option<AccountId>,
    /// Whether the participant has another name or bank.
    changes_bank: bool,
    proposed: Option<(ParticipantEntry, GatewayId)>,
}

impl Known {
    fn of(book: &Book, entry: &ParticipantEntry) -> Self {
        let windows = book.windows();
        let currency = book.account(entry.account).map(|account| account.properties.currency);
        let place = windows.place_of_account(entry.account);
        let participant = windows.participant_of(entry.id);
        let mut accounts = participant.into_iter().flat_map(|known| &known.accounts);
        let other = accounts.find(|id| {
            let open = book.account(**id).filter(|account| account.state != AccountState::Closed);
            **id != entry.account && open.map(|account| account.properties.currency) == currency
        });
        let text = |bytes: &[u8]| unpadded(bytes);
        Self {
            currency,
            is_of_another: place != HOUSE && windows.place_of(entry.id) != Some(place),
            other: other.copied(),
            changes_bank: participant.is_some_and(|known| {
                (&known.name, &known.iban, &known.bic) != (&text(&entry.name), &text(&entry.iban), &text(&entry.bic))
            }),
            proposed: windows.proposed(entry.id).copied(),
        }
    }
}
