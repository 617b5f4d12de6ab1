//! The store's blocks of what is open, and the policy's text.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::open::{Store, StoreError};
use crate::ledger::{
    Bucket, Open, PENDING_BYTES, PENDINGS_PER_BLOCK, Pending, Scope, Sequence, Subject, TALLIES_PER_BLOCK, Tally, get,
};

/// Bytes of a policy in one value, below what sled would put into a file of its own.
const POLICY_VALUE_BYTES: usize = 4_096;

/// Which of the trees of what is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpenTree {
    /// Holds, delayed transfers, reserves.
    Pendings = 0,
    /// What limits counted.
    Tallies = 1,
}

/// A tally in the store.
#[derive(Serialize, Deserialize)]
struct StoredTally {
    scope: u8,
    id: u128,
    head: Sequence,
    policy: Sequence,
    buckets: Vec<(u32, u32, u128)>,
}

impl OpenTree {
    /// All.
    pub const ALL: [Self; 2] = [Self::Pendings, Self::Tallies];

    /// The blocks that changed since the last call.
    pub fn take_changed(self, open: &mut Open) -> BTreeSet<u32> {
        match self {
            Self::Pendings => open.pendings.take_changed(),
            Self::Tallies => open.tallies.take_changed(),
        }
    }

    /// The number of blocks there are.
    pub fn blocks(self, open: &Open) -> u32 {
        match self {
            Self::Pendings => open.pendings.blocks(),
            Self::Tallies => open.tallies.blocks(),
        }
    }

    /// The bytes of a block.
    pub fn encode(self, open: &Open, block: u32) -> Vec<u8> {
        match self {
            Self::Pendings => {
                let places = open.pendings.block(block);
                places.flat_map(|place| place.map_or([0; PENDING_BYTES], Pending::encode)).collect()
            }
            Self::Tallies => {
                let places: Vec<Option<StoredTally>> =
                    open.tallies.block(block).map(|place| place.as_ref().map(StoredTally::from)).collect();
                bincode::serde::encode_to_vec(&places, bincode::config::legacy()).unwrap_or_default()
            }
        }
    }
}

impl From<&Tally> for StoredTally {
    fn from(tally: &Tally) -> Self {
        Self {
            scope: tally.subject.scope as u8,
            id: tally.subject.id,
            head: tally.head,
            policy: tally.policy,
            buckets: tally.buckets.iter().map(|bucket| (bucket.part, bucket.count, bucket.sum())).collect(),
        }
    }
}

impl StoredTally {
    fn tally(self) -> Option<Tally> {
        let scope = Scope::ALL.get(usize::from(self.scope)).copied()?;
        let buckets = self.buckets.into_iter().map(|(part, count, sum)| Bucket::new(part, count, sum)).collect();
        Some(Tally { subject: Subject { scope, id: self.id }, head: self.head, policy: self.policy, buckets })
    }
}

impl Store {
    /// Writes a block of what is open.
    pub(crate) fn put_open(&self, tree: OpenTree, block: u32, bytes: Vec<u8>) -> Result<(), StoreError> {
        let Some(tree) = self.open.get(tree as usize) else { return Ok(()) };
        tree.insert(block.to_be_bytes(), bytes).map(drop).map_err(|source| self.error(source))
    }

    /// Reads all that is open into an empty book. A block that was never written is empty.
    pub fn read_open(&self, open: &mut Open) -> Result<(), StoreError> {
        for (which, tree) in OpenTree::ALL.into_iter().zip(&self.open) {
            let mut next = 0_u32;
            for item in tree {
                let (key, bytes) = item.map_err(|source| self.error(source))?;
                let number = u32::from_be_bytes(get::<0, 4>(&key));
                while next < number {
                    load_block(which, None, open).map_err(|what| self.damaged(what))?;
                    next = next.saturating_add(1);
                }
                load_block(which, Some(&bytes), open).map_err(|what| self.damaged(what))?;
                next = number.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Writes a policy's text, by the sequence of its last record.
    pub(crate) fn put_policy(&self, sequence: Sequence, text: &str) -> Result<(), StoreError> {
        for (number, part) in (0_u32..).zip(text.as_bytes().chunks(POLICY_VALUE_BYTES)) {
            let key = [&sequence.to_be_bytes()[..], &number.to_be_bytes()[..]].concat();
            self.policy.insert(key, part).map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    /// Reads a policy's text, by the sequence of its last record.
    pub fn policy(&self, sequence: Sequence) -> Result<String, StoreError> {
        let mut bytes = Vec::new();
        for item in self.policy.scan_prefix(sequence.to_be_bytes()) {
            let (_, part) = item.map_err(|source| self.error(source))?;
            bytes.extend_from_slice(&part);
        }
        String::from_utf8(bytes).map_err(|_err| self.damaged("the policy is no text"))
    }
}

/// Loads the next block, or an empty one. All places of a block are there but in the last one.
fn load_block(tree: OpenTree, bytes: Option<&sled::IVec>, open: &mut Open) -> Result<(), &'static str> {
    let empty = |places: u32| 0..usize::try_from(places).unwrap_or(0);
    match (tree, bytes) {
        (OpenTree::Pendings, None) => empty(PENDINGS_PER_BLOCK).for_each(|_| open.pendings.load(None, |_, _| true)),
        (OpenTree::Tallies, None) => empty(TALLIES_PER_BLOCK).for_each(|_| open.tallies.load(None)),
        (OpenTree::Pendings, Some(bytes)) => {
            for place in padded::<PENDING_BYTES>(bytes, PENDINGS_PER_BLOCK) {
                open.pendings.load(Pending::decode(&place), |a, b| a.head > b.head);
            }
        }
        (OpenTree::Tallies, Some(bytes)) => {
            let decoded = bincode::serde::decode_from_slice(bytes, bincode::config::legacy());
            let (mut places, _): (Vec<Option<StoredTally>>, usize) = decoded.map_err(|_err| "a block of tallies")?;
            places.resize_with(usize::try_from(TALLIES_PER_BLOCK).unwrap_or(0).max(places.len()), || None);
            for place in places {
                open.tallies.load(place.and_then(StoredTally::tally));
            }
        }
    }
    Ok(())
}

/// The places of a block, the last block filled up with empty ones.
fn padded<const N: usize>(bytes: &[u8], places: u32) -> impl Iterator<Item = [u8; N]> + '_ {
    let places = usize::try_from(places).unwrap_or(0);
    bytes.as_chunks::<N>().0.iter().copied().chain(std::iter::repeat([0; N])).take(places)
}
