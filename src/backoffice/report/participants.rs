//! A participant's part of a day: its accounts from the beginning to the end, what it asked for, paid and received. What an account did on the
//! day before it was registered is in its balances and not in what was paid and received.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde::Serialize;

use super::{Sums, Volume};
use crate::backoffice::views::{PayoutView, PositionView};
use crate::ledger::{AccountId, Book, Code, HOUSE, PendingKind, Transfer};

/// An account of a participant on a day, minor units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountDay {
    /// The account.
    pub account: String,
    /// The currency's letters.
    pub currency: String,
    /// Its balance when the day began.
    pub opening: String,
    /// Its balance when the day ended.
    pub closing: String,
    /// Of that, set aside by holds and delayed transfers.
    pub held: String,
    /// What is withheld of it as a reserve, and comes back.
    pub reserve: String,
}

/// A participant's position in a window of the day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowPosition {
    /// Name of the scheme and number of the window.
    pub window: String,
    /// Its position.
    pub position: PositionView,
}

/// A participant on a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParticipantDay {
    /// Its number.
    pub participant: u32,
    /// Its name.
    pub name: String,
    /// Its accounts.
    pub accounts: Vec<AccountDay>,
    /// Transfers asked for with one of its accounts as payer.
    pub asked: u64,
    /// Of those accepted.
    pub accepted: u64,
    /// Of a hundred, as for the whole day.
    pub success_percent: String,
    /// The others, by code.
    pub refused: BTreeMap<String, u64>,
    /// What it paid.
    pub paid: Vec<Volume>,
    /// What it received.
    pub received: Vec<Volume>,
    /// Its positions in the windows that were closed on the day.
    pub positions: Vec<WindowPosition>,
    /// Its payouts of which the day says something.
    pub payouts: Vec<PayoutView>,
}

/// What is counted of one participant.
#[derive(Debug, Default)]
struct Counted {
    asked: u64,
    accepted: u64,
    refused: BTreeMap<&'static str, u64>,
    paid: Sums,
    received: Sums,
}

/// Follows a day for all participants.
#[derive(Debug, Default)]
pub(super) struct Participants {
    /// By slot, when the day began.
    opening: Option<Vec<i128>>,
    by_place: BTreeMap<u32, Counted>,
}

impl Participants {
    /// Notes the balances with which the day begins, before its first record.
    pub(super) fn begin(&mut self, book: &Book) {
        if self.opening.is_none() {
            self.opening = Some(book.accounts().map(|account| account.balance()).collect());
        }
    }

    /// Follows what was asked for.
    pub(super) fn asked(&mut self, book: &Book, transfer: &Transfer, outcome: Code) {
        let place = book.windows().place_of_account(transfer.debit);
        if place == HOUSE {
            return;
        }
        let counted = self.by_place.entry(place).or_default();
        counted.asked = counted.asked.saturating_add(1);
        if outcome.is_accepted() {
            counted.accepted = counted.accepted.saturating_add(1);
        } else {
            let count = counted.refused.entry(outcome.name()).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Follows a posting.
    pub(super) fn posted(&mut self, book: &Book, transfer: &Transfer, currency: u16) {
        let key = (transfer.operation().name(), transfer.code, currency);
        for (account, pays) in [(transfer.debit, true), (transfer.credit, false)] {
            let place = book.windows().place_of_account(account);
            if place == HOUSE {
                continue;
            }
            let counted = self.by_place.entry(place).or_default();
            let sums = if pays { &mut counted.paid } else { &mut counted.received };
            let sum = sums.entry(key).or_default();
            *sum = (sum.0.saturating_add(1), sum.1.saturating_add(transfer.amount));
        }
    }

    /// The participants in order of number, of one or of all.
    pub(super) fn finish(
        mut self,
        book: &Book,
        only: Option<u32>,
        (positions, payouts): (&BTreeMap<String, Vec<PositionView>>, &[PayoutView]),
    ) -> Vec<ParticipantDay> {
        self.begin(book);
        let set_aside = set_aside(book);
        let opening = self.opening.take().unwrap_or_default();
        let code = |number: u16| book.policy().currency_code(number).unwrap_or_default().to_owned();
        let places = (0_u32..).zip(book.windows().participants().iter()).skip(1);
        let mut days: Vec<ParticipantDay> = Vec::new();
        for (place, participant) in places.filter(|(_, known)| only.is_none_or(|only| only == known.id)) {
            let counted = self.by_place.remove(&place).unwrap_or_default();
            let accounts = participant.accounts.iter().filter_map(|id| {
                let account = book.account(*id)?;
                let slot = book.slot_of(*id).and_then(|slot| usize::try_from(slot).ok())?;
                let (held, reserve) = set_aside.get(id).copied().unwrap_or_default();
                Some(AccountDay {
                    account: id.to_string(),
                    currency: code(account.properties.currency),
                    opening: opening.get(slot).copied().unwrap_or(0).to_string(),
                    closing: account.balance().to_string(),
                    held: held.to_string(),
                    reserve: reserve.to_string(),
                })
            });
            let volumes = |sums: Sums| super::volumes(sums, code);
            days.push(ParticipantDay {
                participant: participant.id,
                name: participant.name.clone(),
                accounts: accounts.collect(),
                asked: counted.asked,
                success_percent: super::success_percent(counted.accepted, counted.asked),
                accepted: counted.accepted,
                refused: counted.refused.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
                paid: volumes(counted.paid),
                received: volumes(counted.received),
                positions: Vec::new(),
                payouts: Vec::new(),
            });
        }
        days.sort_by_key(|day| day.participant);
        let of: HashMap<u32, usize> = days.iter().map(|day| day.participant).zip(0..).collect();
        for (window, positions) in positions {
            for position in positions {
                if let Some(day) = of.get(&position.participant).and_then(|place| days.get_mut(*place)) {
                    day.positions.push(WindowPosition { window: window.clone(), position: position.clone() });
                }
            }
        }
        for payout in payouts {
            if let Some(day) = of.get(&payout.participant).and_then(|place| days.get_mut(*place)) {
                day.payouts.push(payout.clone());
            }
        }
        days
    }
}

/// By account: what it has set aside, and what is withheld of it.
fn set_aside(book: &Book) -> HashMap<AccountId, (u128, u128)> {
    let mut sums: HashMap<AccountId, (u128, u128)> = HashMap::new();
    for pending in book.open().pendings.iter() {
        if pending.kind == PendingKind::Reserve {
            let sum = sums.entry(pending.credit).or_default();
            sum.1 = sum.1.saturating_add(pending.left);
        } else {
            let sum = sums.entry(pending.debit).or_default();
            sum.0 = sum.0.saturating_add(pending.left);
        }
    }
    sums
}
