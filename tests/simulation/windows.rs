//! The judge's part about windows: positions from nothing but what accounts had before and after each record.
//!
//! All euros belong to one scheme; three accounts are participants, everyone else is the house. What a participant's account gained between two closings,
//! with what was carried over, is its position; each is settled at most once, by no more than it is, and what is left is carried over.

use std::collections::{BTreeMap, BTreeSet};

use heng::ledger::{
    Code, LINKED, PayoutEntry, PayoutState, SettlementPurpose, Transfer, Window, WindowEntry, WindowState,
};

use crate::check::ensure;
use crate::plain::SECOND_NS;

/// Participants, called as their accounts.
pub(crate) const PARTICIPANTS: [u128; 3] = [2, 3, 4];

type Positions = BTreeMap<u128, i128>;

/// A window that is used closes after so long.
const EVERY_S: u64 = 30;

#[derive(Debug, Default)]
struct Closed {
    state: WindowState,
    positions: Positions,
    settled: Positions,
}

#[derive(Debug)]
struct Leg {
    window: u32,
    participant: u128,
    amount: u128,
    is_collection: bool,
    state: Option<PayoutState>,
    is_returned: bool,
}

/// All windows so far.
#[derive(Debug)]
pub(crate) struct Windows {
    registered: BTreeSet<u128>,
    number: u32,
    open: Positions,
    closed: BTreeMap<u32, Closed>,
    /// When the last one closed.
    closed_ns: u64,
    legs: BTreeMap<u128, Leg>,
}

fn receivers(positions: &Positions) -> i128 {
    let house = -positions.values().sum::<i128>();
    positions.values().copied().chain([house]).map(|position| position.max(0)).sum()
}

fn number(key: u64) -> u32 {
    u32::try_from(key & u64::from(u32::MAX)).unwrap()
}

impl Windows {
    pub(crate) fn new() -> Self {
        let (registered, open, closed, legs) = (BTreeSet::new(), Positions::new(), BTreeMap::new(), BTreeMap::new());
        Self { registered, number: 1, open, closed, closed_ns: 0, legs }
    }

    /// How many were closed.
    pub(crate) fn closed(&self) -> u64 {
        u64::from(self.number - 1)
    }

    /// All payouts, and how far each is.
    pub(crate) fn payouts(&self) -> impl Iterator<Item = (u128, Option<PayoutState>)> {
        self.legs.iter().map(|(id, leg)| (*id, leg.state))
    }

    /// How many positions were settled.
    pub(crate) fn settled(&self) -> u64 {
        u64::try_from(self.legs.len()).unwrap()
    }

    pub(crate) fn register(&mut self, participant: u32) {
        self.registered.insert(participant.into());
    }

    /// An account gained so much by what is no settlement.
    pub(crate) fn gained(&mut self, account: u128, amount: i128) {
        if amount != 0 && self.registered.contains(&account) {
            *self.open.entry(account).or_default() += amount;
        }
    }

    pub(crate) fn enter(&mut self, entry: &WindowEntry, time_ns: u64) -> Result<(), String> {
        let what = || format!("window {} is {:?}: {entry:?}", entry.number, entry.state);
        if entry.state == WindowState::Closing {
            // One that closes twice says so late.
            if entry.number == self.number {
                ensure(time_ns >= self.closed_ns + EVERY_S * SECOND_NS, || {
                    format!("{} at {time_ns}, and the one before closed at {}", what(), self.closed_ns)
                })?;
                self.closed_ns = time_ns;
                let positions = std::mem::take(&mut self.open);
                self.closed
                    .insert(self.number, Closed { state: WindowState::Closing, positions, settled: Positions::new() });
                self.number += 1;
            }
            return ensure(entry.number < self.number, || format!("{}, and {} is open", what(), self.number));
        }
        let window = self.closed.get_mut(&entry.number).ok_or_else(what)?;
        if entry.state <= window.state {
            return Ok(());
        }
        ensure(entry.state as u8 == window.state as u8 + 1, || format!("{} after {:?}", what(), window.state))?;
        window.state = entry.state;
        match entry.state {
            WindowState::Closed => {
                let sum = receivers(&window.positions);
                ensure(i128::try_from(entry.sum) == Ok(sum), || {
                    format!("{}, and positions are {:?}", what(), window.positions)
                })?;
            }
            WindowState::Settled => {
                for (participant, position) in &window.positions {
                    let left = position - window.settled.get(participant).copied().unwrap_or(0);
                    *self.open.entry(*participant).or_default() += left;
                }
                let unpaid = self.legs.values().find(|leg| leg.window == entry.number && leg.state.is_none());
                ensure(unpaid.is_none(), || format!("{}, and of {unpaid:?} the bank was not told", what()))?;
            }
            WindowState::Reconciled => {
                let is_done = |leg: &&Leg| !matches!(leg.state, Some(PayoutState::Confirmed | PayoutState::Returned));
                let open = self.legs.values().filter(|leg| leg.window == entry.number).find(is_done);
                ensure(open.is_none(), || format!("{}, and {open:?} is open", what()))?;
            }
            WindowState::Open | WindowState::Closing => {}
        }
        Ok(())
    }

    /// A transfer of the ledger itself.
    pub(crate) fn own(&mut self, transfer: &Transfer, code: Code) -> Result<(), String> {
        if !code.is_accepted() {
            return Ok(());
        }
        let amount = i128::try_from(transfer.amount).unwrap();
        if transfer.user_data_32 == SettlementPurpose::Return as u32 {
            let leg = self.legs.get_mut(&transfer.user_data_128).ok_or("money of no payout comes back")?;
            let is_refused = leg.state == Some(PayoutState::Rejected) && !leg.is_returned;
            ensure(is_refused && leg.amount == transfer.amount, || format!("{leg:?} comes back by {transfer:?}"))?;
            leg.is_returned = true;
            *self.open.entry(leg.participant).or_default() += if leg.is_collection { -amount } else { amount };
            return Ok(());
        }
        let is_collection = transfer.user_data_32 == SettlementPurpose::Collection as u32;
        let window = number(transfer.user_data_64);
        let participant = transfer.user_data_128 & u128::from(u64::MAX);
        let closed = self.closed.get_mut(&window).ok_or_else(|| format!("{transfer:?} settles an open window"))?;
        let position = closed.positions.get(&participant).copied().unwrap_or(0);
        let most = if is_collection { -position } else { position };
        ensure(closed.state == WindowState::Closed && amount <= most, || {
            format!("{transfer:?} settles a position of {position} of a window that is {:?}", closed.state)
        })?;
        let settled = if is_collection { -amount } else { amount };
        let is_new = closed.settled.insert(participant, settled).is_none();
        ensure(is_new, || format!("participant {participant} is settled twice in window {window}"))?;
        let account = if is_collection { transfer.credit } else { transfer.debit };
        ensure(account.raw() == participant, || format!("{transfer:?} is another participant's"))?;
        if transfer.amount == 0 {
            // There was nothing to take: all of the position is carried over, and no bank is told.
            return Ok(());
        }
        let leg = Leg { window, participant, amount: transfer.amount, is_collection, state: None, is_returned: false };
        self.legs.insert(transfer.id.raw(), leg);
        Ok(())
    }

    pub(crate) fn payout(&mut self, entry: &PayoutEntry) -> Result<(), String> {
        let id = entry.id.raw();
        let leg = self.legs.get_mut(&id).ok_or_else(|| format!("{entry:?} pays what was not settled"))?;
        let is_same = (entry.amount, u128::from(entry.participant), entry.is_collection)
            == (leg.amount, leg.participant, leg.is_collection);
        ensure(is_same && entry.window == (1, leg.window), || format!("{entry:?} pays {leg:?}"))?;
        ensure(entry.state != PayoutState::Returned || leg.is_returned, || format!("{entry:?}, and {leg:?}"))?;
        // What comes twice or too late changes nothing.
        if leg.state.is_none_or(|state| state.may_become(entry.state)) {
            leg.state = Some(entry.state);
        }
        Ok(())
    }

    /// What the server has of a window is what it was found to be.
    pub(crate) fn compare(&self, window: &Window, ids: &[u128]) -> Result<(), String> {
        let places = window.positions.iter().filter(|(place, _)| *place > 0);
        let found: Positions =
            places.map(|(place, position)| (ids[usize::try_from(place).unwrap()], position.net())).collect();
        let none = Positions::new();
        let (own, state) = match self.closed.get(&window.number) {
            Some(closed) => (&closed.positions, closed.state),
            None if window.number == self.number => (&self.open, WindowState::Open),
            None => (&none, WindowState::Reconciled),
        };
        let nets =
            |of: &Positions| of.iter().filter(|(_, net)| **net != 0).map(|(id, net)| (*id, *net)).collect::<Vec<_>>();
        ensure(nets(&found) == nets(own) && window.state == state, || {
            format!(
                "window {} is {:?} with {found:?}, and was found {state:?} with {own:?}",
                window.number, window.state
            )
        })
    }
}

/// Whether more of the same step follows.
pub(crate) fn goes_on(transfer: &Transfer) -> bool {
    transfer.flags & LINKED != 0
}
