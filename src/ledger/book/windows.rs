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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::positions::Positions;
use super::signed;
use crate::ledger::policy::Policy;
use crate::ledger::rows::index_of;
use crate::ledger::{
    AccountId, GatewayId, Netting, Operation, ParticipantEntry, PayoutEntry, Scheme, Sequence, Slot, Transfer,
    TransferId, WindowEntry, WindowState, unpadded,
};
use crate::planted::{self, Bug};

/// The place of whoever is no participant.
pub const HOUSE: u32 = 0;

/// What a settlement transfer is for, in its `user_data_32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SettlementPurpose {
    /// It settles what a participant is to receive of the window in `user_data_64`; participant and other side are in `user_data_128`.
    Payout = 1,
    /// It gives back what the bank refused to pay; which payout is in `user_data_128`.
    Return = 2,
    /// It settles what a participant owes.
    Collection = 4,
    /// It divides what is on an account; number of the distribution and when it was due are in `user_data_128` and `user_data_64`.
    Distribution = 8,
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
    /// First and last record of the policy by which it was closed, and by which it is settled.
    pub policy: (Sequence, Sequence),
    /// Digest of its positions, once closed.
    pub digest: [u8; 32],
    /// Final positions; empty while it is open.
    pub positions: Arc<Positions>,
    /// What was settled.
    pub legs: Arc<BTreeMap<LegKey, Leg>>,
}

/// What a settlement transfer settles: place of the participant, of the other side where netting is bilateral, and whether the
/// participant owes it.
pub type LegKey = (u32, u32, bool);

/// What was settled by one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// The transfer.
    pub id: TransferId,
    /// Minor units.
    pub amount: u128,
}

impl Window {
    /// What names it.
    pub fn key(&self) -> (u16, u32) {
        (self.scheme, self.number)
    }

    /// What was settled of a participant's position: negative for what it brought.
    pub fn settled(&self, place: u32) -> i128 {
        let legs = self.legs.range((place, 0, false)..=(place, u32::MAX, true));
        legs.fold(0, |sum, ((_, _, is_collection), leg)| {
            let amount = signed(leg.amount);
            if *is_collection { sum.saturating_sub(amount) } else { sum.saturating_add(amount) }
        })
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
    /// Payouts of which something is still to come.
    unfinished: BTreeSet<TransferId>,
    /// Payouts whose money is back.
    returned: BTreeSet<TransferId>,
    /// By number of the participant.
    numbers: BTreeMap<u32, u32>,
    /// Changes of a participant's name or bank that wait for a second person.
    proposed: BTreeMap<u32, (ParticipantEntry, GatewayId)>,
    changed: Changed,
}

/// What has changed since the store was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Changed {
    pub(super) participants: bool,
    pub(super) windows: BTreeSet<(u16, u32)>,
    pub(super) payouts: BTreeSet<TransferId>,
}

impl Windows {
    /// The participants by place, the house first.
    pub fn participants(&self) -> &Arc<Vec<Participant>> {
        &self.participants
    }

    /// A participant's place, by its number.
    pub fn place_of(&self, id: u32) -> Option<u32> {
        self.numbers.get(&id).copied()
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

    /// Open windows to which transfers belong.
    pub fn used(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        self.open.iter().filter(|open| open.2.count() > 0).map(|open| (open.0, open.1))
    }

    /// All payouts by id.
    pub fn payouts(&self) -> &BTreeMap<TransferId, PayoutEntry> {
        &self.payouts
    }

    /// A participant, by its number.
    pub fn participant_of(&self, id: u32) -> Option<&Participant> {
        self.participants.get(index_of(self.place_of(id)?))
    }

    /// Payouts that are neither confirmed nor returned.
    pub fn unfinished_payouts(&self) -> impl Iterator<Item = &PayoutEntry> {
        self.unfinished.iter().filter_map(|id| self.payouts.get(id))
    }

    /// Whether the money of a payout was given back already.
    pub fn is_returned(&self, payout: TransferId) -> bool {
        self.returned.contains(&payout)
    }

    /// The change of a participant that waits for a second person, and who proposed it.
    pub fn proposed(&self, id: u32) -> Option<&(ParticipantEntry, GatewayId)> {
        self.proposed.get(&id)
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
        if planted::is(Bug::ChargesNotCleared) && matches!(transfer.operation(), Operation::Fee | Operation::Withhold) {
            return;
        }
        let Self { open, by_slot, changed, .. } = self;
        let place = |slot| by_slot.get(index_of(slot)).copied().unwrap_or(HOUSE);
        let Some((_, number, positions)) = open.iter_mut().find(|open| open.0 == scheme.number) else { return };
        if positions.count() == 0 {
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
        let is_collection = transfer.user_data_32 == SettlementPurpose::Collection as u32;
        if is_collection || transfer.user_data_32 == SettlementPurpose::Payout as u32 {
            let number = u32::try_from(transfer.user_data_128 & u128::from(u64::MAX)).unwrap_or(0);
            let place = self.place_of(number).unwrap_or(HOUSE);
            let other = u32::try_from(transfer.user_data_128 >> 64).unwrap_or(0);
            let other = if other == 0 { HOUSE } else { self.place_of(other).unwrap_or(HOUSE) };
            if let Some(window) = self.all.get_mut(&key) {
                let leg = Leg { id: transfer.id, amount: transfer.amount };
                Arc::make_mut(&mut window.legs).insert((place, other, is_collection), leg);
                self.changed.windows.insert(key);
            }
        } else if transfer.user_data_32 == SettlementPurpose::Return as u32 {
            self.returned.insert(TransferId::from_raw(transfer.user_data_128));
            self.changed.payouts.insert(TransferId::from_raw(transfer.user_data_128));
            let open = self.open.iter_mut().find(|open| open.0 == key.0);
            let Some((scheme, number, positions)) = open else { return };
            for (place, amount) in [(from, amount.saturating_neg()), (to, amount)] {
                if place != HOUSE {
                    positions.carry(place, amount);
                }
            }
            self.changed.windows.insert((*scheme, *number));
        }
    }

    /// Applies what a record says of a participant. `slot` is that of its account, if it is open.
    pub(super) fn participant(
        &mut self,
        entry: &ParticipantEntry,
        by: GatewayId,
        slot: Option<Slot>,
    ) -> Result<(), &'static str> {
        if entry.id == 0 {
            return Err("a participant without a number");
        }
        self.changed.participants = true;
        if entry.is_proposed {
            self.proposed.insert(entry.id, (*entry, by));
            return Ok(());
        }
        self.proposed.remove(&entry.id);
        let participants = Arc::make_mut(&mut self.participants);
        if participants.is_empty() {
            participants.push(Participant { name: "house".to_owned(), ..Participant::default() });
        }
        let number = *self.numbers.entry(entry.id).or_insert_with(|| {
            participants.push(Participant { id: entry.id, ..Participant::default() });
            u32::try_from(participants.len().saturating_sub(1)).unwrap_or(HOUSE)
        });
        if self.places.get(&entry.account).is_some_and(|&of| of != number) {
            return Err("an account of two participants");
        }
        if let Some(participant) = participants.get_mut(index_of(number)) {
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
        Ok(())
    }

    /// Applies what a record says of a window. What comes twice or too late changes nothing.
    pub(super) fn window_entry(
        &mut self,
        entry: &WindowEntry,
        (sequence, time_ns): (Sequence, u64),
        policy: (Sequence, Sequence),
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
        let mut was = None;
        match entry.state {
            WindowState::Closing => {
                (window.last, window.closed_ns) = (sequence, time_ns);
                (window.day, window.settlement_day) = (entry.day, entry.settlement_day);
                window.policy = policy;
                if let Some(place) = self.open.iter().position(|open| (open.0, open.1) == key) {
                    window.positions = Arc::new(self.open.swap_remove(place).2);
                    was = planted::is(Bug::WindowTwice).then(|| Positions::clone(&window.positions));
                }
                self.open_next(entry.scheme, (sequence, time_ns));
                if let (Some(was), Some(open)) = (was, self.open.last_mut()) {
                    open.2 = was;
                }
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
                window.digest = digest;
            }
            WindowState::Settled => {
                let left = window.positions.iter().skip(1).filter_map(|(place, position)| {
                    let left = position.net().saturating_sub(window.settled(place));
                    Some((place, left)).filter(|(_, left)| *left != 0 && !planted::is(Bug::CarryLost))
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
        self.noted(entry.id);
        self.changed.payouts.insert(entry.id);
        Ok(())
    }

    /// Keeps the list of payouts of which something is still to come.
    fn noted(&mut self, id: TransferId) {
        if self.payouts.get(&id).is_some_and(|payout| !payout.state.is_final()) {
            self.unfinished.insert(id);
        } else {
            self.unfinished.remove(&id);
        }
    }

    pub(super) fn take_changed(&mut self) -> Changed {
        let mut changed = std::mem::take(&mut self.changed);
        // What counts is not noted one by one.
        if !planted::is(Bug::WindowNotWritten) {
            changed.windows.extend(self.used());
        }
        changed
    }

    /// Takes over participants from the store.
    pub(super) fn load_participants(&mut self, participants: Vec<Participant>) {
        for (place, participant) in (0_u32..).zip(&participants) {
            self.places.extend(participant.accounts.iter().map(|&account| (account, place)));
            if place != HOUSE {
                self.numbers.insert(participant.id, place);
            }
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
    pub(super) fn load_payout(&mut self, payout: PayoutEntry, is_returned: bool) {
        self.payouts.insert(payout.id, payout);
        self.noted(payout.id);
        if is_returned {
            self.returned.insert(payout.id);
        }
    }

    /// Takes over changes that wait for a second person.
    pub(super) fn load_proposed(&mut self, entry: ParticipantEntry, by: GatewayId) {
        self.proposed.insert(entry.id, (entry, by));
    }

    pub(super) fn all_proposed(&self) -> impl Iterator<Item = &(ParticipantEntry, GatewayId)> {
        self.proposed.values()
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = (AccountId, u32)> + '_ {
        self.places.iter().map(|(&account, &place)| (account, place))
    }
}
