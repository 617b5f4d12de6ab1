//! Transfers on their way to a shard: as they came, for as long as nobody has to take them apart.
//!
//! A request's transfers are 128 bytes each, and were read by a thread with a cache of its own. So the router looks at a list of their ids
//! alone where they are many, and with one shard what is new goes on to it as a whole, without being copied. Where something of it goes elsewhere (a repeat,
//! a refund, a transaction), and always with several shards, it is put together anew. Where nothing else waits, a large one goes on in pieces, so that the
//! shard decides the first while the router looks at the next.

use std::ops::Range;
use std::sync::Arc;

use super::Parcel;
use crate::ledger::{Transfer, TransferId};

/// Transfers from which on their ids are listed: a few are as quickly looked through.
const LISTED_MIN: usize = 16;

/// The transfers of a parcel, as a session hands them on; transfer `i` has outcome `i`.
#[derive(Debug)]
pub struct Asked {
    /// In the order in which they came.
    pub transfers: Vec<Transfer>,
    /// Their ids, where they are many.
    pub ids: Vec<TransferId>,
    /// Whether each stands for itself: no transactions, no refunds and no reversals.
    pub are_single: bool,
}

impl Asked {
    /// Takes note of what the router asks for.
    pub fn new(transfers: Vec<Transfer>) -> Self {
        let are_single = transfers.iter().all(Transfer::stands_alone);
        let listed = if are_single && transfers.len() >= LISTED_MIN { transfers.as_slice() } else { &[] };
        let ids = listed.iter().map(|transfer| transfer.id).collect();
        Self { transfers, ids, are_single }
    }

    /// The same where somebody has listed the ids of transfers of which each stands for itself; there may have come more.
    pub fn listed(transfers: Vec<Transfer>, ids: Vec<TransferId>) -> Self {
        debug_assert!(
            transfers.iter().zip(&ids).all(|(transfer, id)| transfer.id == *id),
            "the ids of these transfers"
        );
        if ids.len() == transfers.len() && ids.len() >= LISTED_MIN {
            Self { transfers, ids, are_single: true }
        } else {
            Self::new(transfers)
        }
    }
}

/// Transfers for one shard, in order.
#[derive(Debug, Default)]
pub struct Submission {
    parts: Vec<Part>,
    len: usize,
    rest: usize,
}

/// Some of the transfers of one parcel.
#[derive(Debug)]
struct Part {
    parcel: Arc<Parcel>,
    places: Places,
    transfers: Lot,
}

/// Whose transfers they are.
#[derive(Debug)]
enum Lot {
    /// Of this part alone.
    Own(Vec<Transfer>),
    /// These of a request whose others are in other parts.
    Shared(Arc<Vec<Transfer>>, Range<usize>),
}

impl Lot {
    fn all(&self) -> &[Transfer] {
        match self {
            Self::Own(transfers) => transfers,
            Self::Shared(transfers, range) => transfers.get(range.clone()).unwrap_or_default(),
        }
    }
}

/// Which outcomes of their parcel some transfers have.
#[derive(Debug)]
enum Places {
    /// This one and those that follow.
    From(u32),
    /// These.
    Each(Vec<u32>),
}

impl Places {
    fn at(&self, place: usize) -> u32 {
        match self {
            Self::From(first) => first.saturating_add(u32::try_from(place).unwrap_or(u32::MAX)),
            Self::Each(places) => places.get(place).copied().unwrap_or(u32::MAX),
        }
    }

    /// Notes the place of the transfer after `len` others.
    fn push(&mut self, len: usize, index: u32) {
        if self.at(len) == index && matches!(self, Self::From(_)) {
            return;
        }
        if let Self::From(_) = self {
            *self = Self::Each((0..len).map(|place| self.at(place)).collect());
        }
        if let Self::Each(places) = self {
            places.push(index);
        }
    }
}

impl Submission {
    /// Adds a transfer whose outcome is at `index` of its parcel.
    pub fn push(&mut self, parcel: &Arc<Parcel>, index: u32, transfer: Transfer) {
        self.len = self.len.saturating_add(1);
        let last = self.parts.last_mut().filter(|last| Arc::ptr_eq(&last.parcel, parcel));
        if let Some(Part { places, transfers: Lot::Own(transfers), .. }) = last {
            places.push(transfers.len(), index);
            transfers.push(transfer);
        } else {
            self.part(parcel, index, Lot::Own(vec![transfer]));
        }
    }

    /// Adds all transfers of a parcel, without copying them.
    pub fn push_all(&mut self, parcel: &Arc<Parcel>, transfers: Vec<Transfer>) {
        self.len = self.len.saturating_add(transfers.len());
        self.part(parcel, 0, Lot::Own(transfers));
    }

    /// Adds some of the transfers of a parcel, without copying them.
    pub fn push_piece(&mut self, parcel: &Arc<Parcel>, transfers: &Arc<Vec<Transfer>>, piece: Range<usize>) {
        self.len = self.len.saturating_add(piece.len());
        let first = u32::try_from(piece.start).unwrap_or(u32::MAX);
        self.part(parcel, first, Lot::Shared(Arc::clone(transfers), piece));
    }

    fn part(&mut self, parcel: &Arc<Parcel>, first: u32, transfers: Lot) {
        self.parts.push(Part { parcel: Arc::clone(parcel), places: Places::From(first), transfers });
    }

    /// Says that up to so many more follow at once, with which these are to go on: those of them that are new.
    pub fn set_rest(&mut self, rest: usize) {
        self.rest = rest;
    }

    /// How many more may follow at once; 0 for none.
    pub fn rest(&self) -> usize {
        self.rest
    }

    /// Each transfer with its parcel and the place of its outcome there, in order.
    pub fn items(&self) -> impl Iterator<Item = (&Arc<Parcel>, u32, &Transfer)> {
        self.parts.iter().flat_map(|Part { parcel, places, transfers }| {
            transfers.all().iter().enumerate().map(move |(place, transfer)| (parcel, places.at(place), transfer))
        })
    }

    /// The number of transfers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::testing::parcel;
    use crate::ledger::LINKED;

    fn transfer(id: u32) -> Transfer {
        Transfer { id: TransferId::from_raw(id.into()), ..Transfer::default() }
    }

    #[test]
    fn each_transfer_keeps_its_parcel_and_place_however_it_was_added() {
        let (first, second) = (parcel(9), parcel(3));
        let mut submission = Submission::default();
        for index in [0, 1, 4, 5, 8] {
            submission.push(&first, index, transfer(index));
        }
        submission.push_all(&second, (0..3).map(transfer).collect());
        for index in [2, 3] {
            submission.push(&first, index, transfer(index));
        }
        let shared = Arc::new((0..9).map(transfer).collect());
        submission.push_piece(&first, &shared, 6..8);
        submission.push(&first, 8, transfer(8));
        let expected = [
            [(0, 0), (0, 1), (0, 4), (0, 5), (0, 8)].as_slice(),
            &[(1, 0), (1, 1), (1, 2)],
            &[(0, 2), (0, 3), (0, 6), (0, 7), (0, 8)],
        ]
        .concat();
        let items: Vec<_> = submission
            .items()
            .map(|(parcel, index, transfer)| {
                assert_eq!(transfer.id.raw(), u128::from(index));
                (u32::from(Arc::ptr_eq(parcel, &second)), index)
            })
            .collect();
        assert_eq!(items, expected);
        assert_eq!((submission.len(), submission.is_empty(), Submission::default().is_empty()), (13, false, true));
    }

    #[test]
    fn what_is_more_than_single_transfers_is_noticed() {
        let many: Vec<Transfer> = (0..20).map(transfer).collect();
        let asked = Asked::new(many.clone());
        assert!(asked.are_single && asked.ids.len() == 20);
        let linked = Transfer { flags: LINKED, ..transfer(1) };
        let about = Transfer { flags: crate::ledger::Operation::Refund as u16, ..transfer(1) };
        for other in [linked, about] {
            let asked = Asked::new(many.iter().copied().chain([other]).collect());
            assert!(!asked.are_single && asked.ids.is_empty());
        }
        assert!(Asked::new(many[..3].to_vec()).ids.is_empty(), "few need no list");
    }
}
