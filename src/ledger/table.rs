//! Accounts in slots: a slot number never changes, and an id finds its slot.
//!
//! Slots live in chunks, so that growing moves no account but those of the first chunk; the index costs 5 to 11 bytes for each ([`super::places`]), and
//! doubles now and then.

use std::fmt::Debug;

use super::{AccountId, Keys, Places};

/// Accounts per chunk; a power of two.
const CHUNK_SLOTS: usize = 4_096;

/// The place of an account in its table.
pub type Slot = u32;

/// What stands in a table: something that has an account's id.
pub trait Identified {
    /// What is kept of each beside it, because little asks for it.
    type Beside: Copy + Debug;

    /// The id.
    fn account_id(&self) -> AccountId;
}

/// Values with an account id, in slots.
#[derive(Debug)]
pub struct Table<A: Identified> {
    chunks: Vec<Vec<A>>,
    beside: Vec<A::Beside>,
    index: Places,
    keys: Keys,
}

impl<A: Identified> Default for Table<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Identified> Table<A> {
    /// An empty table.
    pub fn new() -> Self {
        Self { chunks: Vec::new(), beside: Vec::new(), index: Places::default(), keys: Keys::random() }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The slot of an id.
    #[inline]
    pub fn find(&self, id: AccountId) -> Option<Slot> {
        self.look(self.keys.hash(id.halves()), id).ok()
    }

    #[inline]
    fn look(&self, hash: u64, id: AccountId) -> Result<Slot, usize> {
        self.index.find(hash, |slot| self.get(slot).is_some_and(|value| value.account_id() == id))
    }

    /// The slot to which the hash of an id leads, without a look at what is there. Whoever looks many up asks for all guesses first, and
    /// then has them confirmed: so their cache misses overlap.
    #[inline]
    pub fn guess(&self, id: AccountId) -> Option<Slot> {
        self.index.find(self.keys.hash(id.halves()), |_| true).ok()
    }

    /// The slot of an id, given [`Self::guess`] of it.
    #[inline]
    pub fn confirm(&self, id: AccountId, guess: Option<Slot>) -> Option<Slot> {
        let value = self.get(guess?)?;
        if value.account_id() == id { guess } else { self.find(id) }
    }

    /// The value in a slot.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&A> {
        value_in(&self.chunks, slot)
    }

    /// What is kept beside the value in a slot.
    pub fn beside(&self, slot: Slot) -> Option<A::Beside> {
        self.beside.get(usize::try_from(slot).ok()?).copied()
    }

    /// The value in a slot, to change.
    #[inline]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut A> {
        let place = usize::try_from(slot).unwrap_or(usize::MAX);
        self.chunks.get_mut(place / CHUNK_SLOTS)?.get_mut(place % CHUNK_SLOTS)
    }

    /// Adds a value whose id is not there yet, and answers its slot: the number of values before it.
    ///
    /// # Panics
    ///
    /// When the id is there already, or with 2^32 - 1 values.
    pub fn insert(&mut self, value: A, beside: A::Beside) -> Slot {
        let id = value.account_id();
        let hash = self.keys.hash(id.halves());
        let found = self.look(hash, id);
        assert_eq!(found.ok(), None, "account {id} inserted twice");
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_SLOTS) {
            // Small tables stay small: the first chunk grows, later ones are allocated whole.
            self.chunks.push(if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(CHUNK_SLOTS) });
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(value);
        }
        self.beside.push(beside);
        let Self { chunks, index, keys, .. } = self;
        let slot = index.insert(hash, found.err().unwrap_or(0), |slot| {
            value_in(chunks, slot).map_or(0, |value| keys.hash(value.account_id().halves()))
        });
        debug_assert!(self.get(slot).is_some_and(|value| value.account_id() == id), "its number is its place");
        slot
    }

    /// All values in order of slot.
    pub fn iter(&self) -> impl Iterator<Item = &A> {
        self.chunks.iter().flatten()
    }
}

#[inline]
fn value_in<A>(chunks: &[Vec<A>], slot: Slot) -> Option<&A> {
    let place = usize::try_from(slot).unwrap_or(usize::MAX);
    chunks.get(place / CHUNK_SLOTS)?.get(place % CHUNK_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Identified for AccountId {
        type Beside = u128;

        fn account_id(&self) -> AccountId {
            *self
        }
    }

    #[test]
    fn every_inserted_id_is_found_in_its_slot() {
        let mut table: Table<AccountId> = Table::new();
        for number in 1..=20_000_u128 {
            let slot = table.insert(AccountId::from_raw(number * 7), number);
            assert_eq!(u128::from(slot), number - 1);
        }
        for number in 1..=20_000_u128 {
            let slot = table.find(AccountId::from_raw(number * 7)).unwrap();
            assert_eq!(u128::from(slot), number - 1);
            assert_eq!((table.get(slot), table.beside(slot)), (Some(&AccountId::from_raw(number * 7)), Some(number)));
            // A guess that is wrong is put right.
            for guess in [table.guess(AccountId::from_raw(number * 7)), Some(0)] {
                assert_eq!(table.confirm(AccountId::from_raw(number * 7), guess), Some(slot));
            }
        }
        for unknown in (1..2_000).filter(|number| number % 7 != 0).map(AccountId::from_raw) {
            assert_eq!((table.find(unknown), table.confirm(unknown, table.guess(unknown))), (None, None));
        }
        assert_eq!(table.iter().count(), 20_000);
    }
}
