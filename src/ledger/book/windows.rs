//! Settlement windows: to which each transfer belongs, and the positions of participants in them.
//!
//! A scheme has one open window. Every transfer of the scheme that posts belongs to the window that is open at its sequence: the
//! record that closes a window says where it ends, so which transfers are in it follows from the journal alone, however late it
//! is asked. A position is what a participant received and paid in a window; whoever is no participant is *the house*, so that
//! all positions of a window add up to zero.
//!
//! ```text
//! open ──► closing ──► closed ──► settled ──► reconciled
//!   transfers up to     positions    settlement transfers   the bank has done
//!   the record count    by digest    are posted             or returned all
//! ```
//!
//! # Invariants
//!
//! 1. A window's state never goes back; a record that would do so changes nothing.
//! 2. The positions of a window, with what was carried over into it, add up to zero.
//! 3. What a window does not settle is carried over into the window that is open when it is settled.
//!
//! # Not here
//!
//! When a window closes and what is then done: [`crate::backoffice`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::signed;
use crate::ledger::policy::Policy;
use crate::ledger::{
    AccountId, Netting, ParticipantEntry, PayoutEntry, Scheme, Sequence, Slot, Transfer, TransferId, WindowEntry,
    WindowState, unpadded,
};

/// The place of whoever is no participant.
pub const HOUSE: u32 = 0;

/// What a settlement transfer is for, in its `user_data_32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SettlementPurpose {
    /// It settles a position of the window in `user_data_64`.
    Position = 1,
    /// It gives back what the bank refused to pay.
    Return = 2,
}

/// What a participant received and paid in a window, minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Paid.
    pub debits: u128,
    /// Received.
    pub credits: u128,
    /// How often it paid.
    pub debit_count: u64,
    /// How often it received.
    pub credit_count: u64,
    /// Left over from windows before; negative when it owes.
    pub carried: i128,
}

impl Position {
    /// What it is to receive, or, when negative, owes.
    pub fn net(&self) -> i128 {
        signed(self.credits).saturating_sub(signed(self.debits)).saturating_add(self.carried)
    }
}

/// The positions of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// By place of the participant; the house first.
    of: Vec<Position>,
    /// Payer and payee, each pair in both directions, where netting is bilateral.
    pairs: BTreeMap<(u32, u32), u128>,
    /// Transfers.
    count: u64,
}

fn index_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Positions {
    /// The position of the participant in a place.
    pub fn of(&self, place: u32) -> Position {
        self.of.get(index_of(place)).copied().unwrap_or_default()
    }

    /// All positions with their places, the house first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Position)> {
        (0..).zip(&self.of)
    }

    /// What each payer paid to each payee, by place.
    pub fn pairs(&self) -> &BTreeMap<(u32, u32), u128> {
        &self.pairs
    }

    /// How many transfers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What those who receive are to receive, minor units.
    pub fn sum(&self) -> u128 {
        let nets = self.of.iter().map(|position| u128::try_from(position.net()).unwrap_or(0));
        nets.fold(0, u128::saturating_add)
    }

    /// What all positions add up to: nothing.
    pub fn total(&self) -> i128 {
        self.of.iter().fold(0, |sum, position| position.net().saturating_add(sum))
    }

    #[inline]
    fn at(&mut self, place: u32) -> &mut Position {
        let place = index_of(place);
        if place >= self.of.len() {
            self.of.resize(place.saturating_add(1), Position::default());
        }
        #[expect(clippy::indexing_slicing, reason = "made long enough just now")]
        &mut self.of[place]
    }

    #[inline]
    fn transfer(&mut self, debit: u32, credit: u32, amount: u128, with_pairs: bool) {
        self.count = self.count.saturating_add(1);
        if debit == credit {
            return;
        }
        let from = self.at(debit);
        from.debits = from.debits.saturating_add(amount);
        from.debit_count = from.debit_count.saturating_add(1);
        let to = self.at(credit);
        to.credits = to.credits.saturating_add(amount);
        to.credit_count = to.credit_count.saturating_add(1);
        if with_pairs {
            let pair = self.pairs.entry((debit, credit)).or_default();
            *pair = pair.saturating_add(amount);
        }
    }

    fn carry(&mut self, place: u32, amount: i128) {
        let position = self.at(place);
        position.carried = position.carried.saturating_add(amount);
        let house = self.at(HOUSE);
        house.carried = house.carried.saturating_sub(amount);
    }

    /// The digest of what is final: the same positions have the same digest, in whatever order participants registered.
    pub fn digest(&self, window: (u16, u32), last: Sequence, participants: &[Participant]) -> [u8; 32] {
        let id = |place: u32| participants.get(index_of(place)).map_or(0, |participant| participant.id);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"heng window 1");
        hasher.update(&window.0.to_le_bytes()).update(&window.1.to_le_bytes()).update(&last.to_le_bytes());
        hasher.update(&self.count.to_le_bytes());
        let mut rows: Vec<(u32, &Position)> = self.iter().map(|(place, position)| (id(place), position)).collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        for (id, position) in rows.into_iter().filter(|(_, position)| **position != Position::default()) {
            hasher.update(&id.to_le_bytes()).update(&position.debits.to_le_bytes());
            hasher.update(&position.credits.to_le_bytes()).update(&position.carried.to_le_bytes());
            hasher.update(&position.debit_count.to_le_bytes()).update(&position.credit_count.to_le_bytes());
        }
        let pairs: BTreeMap<(u32, u32), u128> =
            self.pairs.iter().map(|(&(payer, payee), &amount)| ((id(payer), id(payee)), amount)).collect();
        for ((payer, payee), amount) in pairs {
            hasher.update(&payer.to_le_bytes()).update(&payee.to_le_bytes()).update(&amount.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// A participant in clearing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    /// Its number; 0 for the house.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Where it is paid.
    pub iban: String,
    /// Its bank.
    pub bic: String,
    /// Its accounts, in the order of registration.
    pub accounts: Vec<AccountId>,
}

/// A window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Number of its scheme.
    pub scheme: u16,
    /// Its number, from 1.
    pub number: u32,
    /// How far it is.
    pub state: WindowState,
    /// Records from here on belong to it.
    pub first: Sequence,
    /// The record that closed it; those before belong to it. 0 while it is open.
    pub last: Sequence,
    /// When it was opened, nanoseconds since 1970 UTC.
    pub opened_ns: u64,
    /// When it was closed, nanoseconds since 1970 UTC.
    pub closed_ns: u64,
    /// Its business day, days since 1970-01-01.
    pub day: i32,
    /// The business day of settlement.
    pub settlement_day: i32,
    /// Final positions; empty while it is open.
    pub positions: Arc<Positions>,
    /// What was settled, by place: negative for what a participant brought.
    pub settled: BTreeMap<u32, i128>,
}

impl Window {
    /// What names it.
    pub fn key(&self) -> (u16, u32) {
        (self.scheme, self.number)
    }

    /// Its key in the `user_data_64` of settlement transfers.
    pub fn tag(key: (u16, u32)) -> u64 {
        u64::from(key.0) << 32 | u64::from(key.1)
    }
}

/// Everything about windows at one sequence.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    /// By place; the house first.
    participants: Arc<Vec<Participant>>,
    /// The place of the participant that has an account.
    places: BTreeMap<AccountId, u32>,
    /// The same by slot.
    by_slot: Vec<u32>,
    all: BTreeMap<(u16, u32), Window>,
    /// Scheme, window and positions of those that are open.
    open: Vec<(u16, u32, Positions)>,
    payouts: BTreeMap<TransferId, PayoutEntry>,
    changed: Changed,
}

/// What has changed since the store was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Changed {
    pub(super) participants: bool,
    pub(super) windows: std::collections::BTreeSet<(u16, u32)>,
    pub(super) payouts: std::collections::BTreeSet<TransferId>,
}

impl Windows {
    /// The participants by place, the house first.
    pub fn participants(&self) -> &Arc<Vec<Participant>> {
        &self.participants
    }

    /// A participant's place, by its number.
    pub fn place_of(&self, id: u32) -> Option<u32> {
        let found = self.participants.iter().skip(1).position(|participant| participant.id == id)?;
        u32::try_from(found).ok()?.checked_add(1)
    }

    /// The place of the participant that has an account; the house's when none has.
    pub fn place_of_account(&self, account: AccountId) -> u32 {
        self.places.get(&account).copied().unwrap_or(HOUSE)
    }

    /// A window; an open one with the positions as they are now.
    pub fn window(&self, key: (u16, u32)) -> Option<Window> {
        let window = self.all.get(&key)?;
        Some(match self.open.iter().find(|open| (open.0, open.1) == key) {
            Some((_, _, positions)) => Window { positions: Arc::new(positions.clone()), ..window.clone() },
            None => window.clone(),
        })
    }

    /// All windows by scheme and number, open ones without their positions.
    pub fn windows(&self) -> &BTreeMap<(u16, u32), Window> {
        &self.all
    }

    /// The window of a scheme that is open.
    pub fn open_window(&self, scheme: u16) -> Option<&Window> {
        let number = self.open.iter().find(|open| open.0 == scheme)?.1;
        self.all.get(&(scheme, number))
    }

    /// All payouts by id.
    pub fn payouts(&self) -> &BTreeMap<TransferId, PayoutEntry> {
        &self.payouts
    }

    /// The window of a scheme to which a record belongs.
    pub fn at(&self, scheme: u16, sequence: Sequence) -> Option<&Window> {
        let of_scheme = self.all.range((scheme, 0)..=(scheme, u32::MAX)).map(|(_, window)| window);
        of_scheme.rev().find(|window| window.first <= sequence)
    }

    /// Opens the first window of each scheme that has none.
    pub(super) fn follow_policy(&mut self, policy: &Policy, (sequence, time_ns): (Sequence, u64)) {
        for scheme in policy.schemes() {
            if self.open_window(scheme.number).is_none() {
                self.open_next(scheme.number, (sequence, time_ns));
            }
        }
    }

    fn open_next(&mut self, scheme: u16, (sequence, time_ns): (Sequence, u64)) {
        let last = self.all.range((scheme, 0)..=(scheme, u32::MAX)).next_back().map_or(0, |(key, _)| key.1);
        let number = last.saturating_add(1);
        let window =
            Window { scheme, number, first: sequence.saturating_add(1), opened_ns: time_ns, ..Window::default() };
        self.all.insert((scheme, number), window);
        self.open.push((scheme, number, Positions::default()));
        self.changed.windows.insert((scheme, number));
    }

    pub(super) fn opened_account(&mut self, account: AccountId, slot: Slot) {
        if let Some(&place) = self.places.get(&account) {
            self.set_slot(slot, place);
        }
    }

    pub(super) fn set_slot(&mut self, slot: Slot, place: u32) {
        let slot = index_of(slot);
        if slot >= self.by_slot.len() {
            self.by_slot.resize(slot.saturating_add(1), HOUSE);
        }
        if let Some(known) = self.by_slot.get_mut(slot) {
            *known = place;
        }
    }

    /// Follows a transfer that posts and belongs to a scheme.
    #[inline]
    pub(super) fn transfer(&mut self, scheme: &Scheme, transfer: &Transfer, slots: (Slot, Slot)) {
        let Self { open, by_slot, changed, .. } = self;
        let place = |slot| by_slot.get(index_of(slot)).copied().unwrap_or(HOUSE);
        let Some((_, number, positions)) = open.iter_mut().find(|open| open.0 == scheme.number) else { return };
        if positions.count == 0 {
            changed.windows.insert((scheme.number, *number));
        }
        let with_pairs = scheme.netting == Netting::Bilateral;
        positions.transfer(place(slots.0), place(slots.1), transfer.amount, with_pairs);
    }

    /// Follows a transfer that the ledger itself made to settle or to give back.
    pub(super) fn settlement(&mut self, transfer: &Transfer) {
        let (from, to) = (self.place_of_account(transfer.debit), self.place_of_account(transfer.credit));
        let key = (
            u16::try_from(transfer.user_data_64 >> 32).unwrap_or(0),
            u32::try_from(transfer.user_data_64 & u64::from(u32::MAX)).unwrap_or(0),
        );
        let amount = signed(transfer.amount);
        if transfer.user_data_32 == SettlementPurpose::Position as u32 {
            if let Some(window) = self.all.get_mut(&key) {
                for (place, amount) in [(from, amount), (to, amount.saturating_neg())] {
                    if place != HOUSE {
                        let settled = window.settled.entry(place).or_default();
                        *settled = settled.saturating_add(amount);
                    }
                }
                self.changed.windows.insert(key);
            }
        } else if transfer.user_data_32 == SettlementPurpose::Return as u32
            && let Some((scheme, number, positions)) = self.open.iter_mut().find(|open| open.0 == key.0)
        {
            for (place, amount) in [(from, amount.saturating_neg()), (to, amount)] {
                if place != HOUSE {
                    positions.carry(place, amount);
                }
            }
            self.changed.windows.insert((*scheme, *number));
        }
    }

    /// Applies what a record says of a participant. `slot` is that of its account, if it is open.
    pub(super) fn participant(&mut self, entry: &ParticipantEntry, slot: Option<Slot>) -> Result<(), &'static str> {
        let participants = Arc::make_mut(&mut self.participants);
        if participants.is_empty() {
            participants.push(Participant { name: "house".to_owned(), ..Participant::default() });
        }
        if entry.id == 0 {
            return Err("a participant without a number");
        }
        let known = participants.iter().position(|participant| participant.id == entry.id);
        let place = known.unwrap_or_else(|| {
            participants.push(Participant { id: entry.id, ..Participant::default() });
            participants.len().saturating_sub(1)
        });
        let number = u32::try_from(place).unwrap_or(HOUSE);
        if self.places.get(&entry.account).is_some_and(|&of| of != number) {
            return Err("an account of two participants");
        }
        if let Some(participant) = participants.get_mut(place) {
            participant.name = unpadded(&entry.name);
            participant.iban = unpadded(&entry.iban);
            participant.bic = unpadded(&entry.bic);
            if !participant.accounts.contains(&entry.account) {
                participant.accounts.push(entry.account);
            }
        }
        self.places.insert(entry.account, number);
        if let Some(slot) = slot {
            self.set_slot(slot, number);
        }
        self.changed.participants = true;
        Ok(())
    }

    /// Applies what a record says of a window. What comes twice or too late changes nothing.
    pub(super) fn window_entry(
        &mut self,
        entry: &WindowEntry,
        (sequence, time_ns): (Sequence, u64),
    ) -> Result<(), &'static str> {
        let key = (entry.scheme, entry.number);
        let Some(window) = self.all.get_mut(&key) else { return Err("a window that was never opened") };
        if entry.state <= window.state {
            return Ok(());
        }
        if entry.state as u8 != (window.state as u8).saturating_add(1) {
            return Err("a window skipped a state");
        }
        window.state = entry.state;
        self.changed.windows.insert(key);
        match entry.state {
            WindowState::Closing => {
                (window.last, window.closed_ns) = (sequence, time_ns);
                (window.day, window.settlement_day) = (entry.day, entry.settlement_day);
                if let Some(place) = self.open.iter().position(|open| (open.0, open.1) == key) {
                    window.positions = Arc::new(self.open.swap_remove(place).2);
                }
                self.open_next(entry.scheme, (sequence, time_ns));
            }
            WindowState::Closed => {
                let positions = &window.positions;
                if positions.total() != 0 {
                    return Err("the positions of a window do not add up to zero");
                }
                let digest = positions.digest(key, window.last, &self.participants);
                if (digest, positions.sum(), positions.count()) != (entry.digest, entry.sum, entry.count) {
                    return Err("a window was closed with other positions than its transfers make");
                }
            }
            WindowState::Settled => {
                let left = window.positions.iter().skip(1).filter_map(|(place, position)| {
                    let settled = window.settled.get(&place).copied().unwrap_or(0);
                    Some((place, position.net().saturating_sub(settled))).filter(|(_, left)| *left != 0)
                });
                let left: Vec<(u32, i128)> = left.collect();
                if let Some((scheme, number, positions)) = self.open.iter_mut().find(|open| open.0 == entry.scheme) {
                    for (place, amount) in left {
                        positions.carry(place, amount);
                    }
                    self.changed.windows.insert((*scheme, *number));
                }
            }
            WindowState::Open | WindowState::Reconciled => {}
        }
        Ok(())
    }

    /// Applies what a record says of a payout. What comes twice or too late changes nothing.
    pub(super) fn payout(&mut self, entry: &PayoutEntry) -> Result<(), &'static str> {
        match self.payouts.get_mut(&entry.id) {
            None if entry.state == crate::ledger::PayoutState::Issued => {
                self.payouts.insert(entry.id, *entry);
            }
            None => return Err("a payout that was never issued"),
            Some(known) => {
                let same = |of: &PayoutEntry| (of.window, of.participant, of.amount, of.is_collection);
                if same(known) != same(entry) {
                    return Err("a payout changed what it pays");
                }
                if known.state.may_become(entry.state) {
                    *known = *entry;
                }
            }
        }
        self.changed.payouts.insert(entry.id);
        Ok(())
    }

    pub(super) fn take_changed(&mut self) -> Changed {
        let mut changed = std::mem::take(&mut self.changed);
        // What counts is not noted one by one.
        changed.windows.extend(self.open.iter().filter(|open| open.2.count > 0).map(|open| (open.0, open.1)));
        changed
    }

    /// Takes over participants from the store.
    pub(super) fn load_participants(&mut self, participants: Vec<Participant>) {
        for (place, participant) in (0_u32..).zip(&participants) {
            self.places.extend(participant.accounts.iter().map(|&account| (account, place)));
        }
        self.participants = Arc::new(participants);
    }

    /// Takes over a window from the store.
    pub(super) fn load_window(&mut self, mut window: Window) {
        if window.state == WindowState::Open {
            let positions = Arc::unwrap_or_clone(std::mem::take(&mut window.positions));
            self.open.push((window.scheme, window.number, positions));
        }
        self.all.insert(window.key(), window);
    }

    /// Takes over a payout from the store.
    pub(super) fn load_payout(&mut self, payout: PayoutEntry) {
        self.payouts.insert(payout.id, payout);
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = (AccountId, u32)> + '_ {
        self.places.iter().map(|(&account, &place)| (account, place))
    }
}
