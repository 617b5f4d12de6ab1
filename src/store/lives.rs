//! The store's lives: what was given back of transfers, by id, read whenever nobody has it in memory.
//!
//! ```text
//! entry of the tree   first id of a block, 0 for the first one (16, big-endian) -> up to 8 of: id (16, big-endian), life (42); in order of id
//! ```
//!
//! An id's block is the last one that does not begin after it. Neighbours share an entry because sled keeps some thirty bytes in memory for
//! each entry of their size, for ever. More of them would write more again when something is given back of old transfers.
//!
//! # Invariants
//!
//! 1. What leaves a block is in its new one before: both for who reads meanwhile, and after a crash, since sled's log ends somewhere. What is
//!    in a block after the beginning of the next one is nothing any more.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Release};

use super::blocks::Checkpoint;
use super::open::{Store, StoreError};
use crate::ledger::{KEPT_LIFE_BYTES, KeptLife, LifeStore, Sequence, TransferId, get, set};
use crate::telemetry::{chain, guard_own_panics};

/// Lives of a block, at most.
const BLOCK_MAX: usize = 8;

const ID_BYTES: usize = 16;

/// An id, and what was given back of it.
type Placed = [u8; ID_BYTES + KEPT_LIFE_BYTES];

type Block = BTreeMap<TransferId, KeptLife>;

fn key_of(id: TransferId) -> [u8; ID_BYTES] {
    id.raw().to_be_bytes()
}

fn id_of(key: &[u8]) -> TransferId {
    TransferId::from_raw(u128::from_be_bytes(get::<0, ID_BYTES>(key)))
}

fn encode((id, life): (&TransferId, &KeptLife)) -> Placed {
    let mut placed = [0; _];
    set::<0, ID_BYTES>(&mut placed, key_of(*id));
    set::<ID_BYTES, KEPT_LIFE_BYTES>(&mut placed, life.encode());
    placed
}

fn life_of(placed: &Placed) -> KeptLife {
    KeptLife::decode(&get::<ID_BYTES, KEPT_LIFE_BYTES>(placed))
}

/// The lives of a block that begins with an id, unless it is damaged.
fn decode(first: TransferId, block: &[u8]) -> Option<&[Placed]> {
    let (placed, rest) = block.as_chunks();
    let is_whole = rest.is_empty() && (1..=BLOCK_MAX).contains(&placed.len());
    let mut ids = placed.iter().map(|placed: &Placed| id_of(placed));
    let is_in_order = ids.clone().is_sorted_by(|before, after| before < after);
    (is_whole && is_in_order && ids.next().is_some_and(|id| id >= first)).then_some(placed)
}

impl Store {
    /// Writes what was given back of transfers; of one that comes twice, the later.
    pub(crate) fn put_lives(&self, lives: &[(TransferId, KeptLife)]) -> Result<(), StoreError> {
        let mut lives: Block = lives.iter().copied().collect();
        while let Some((&first, _)) = lives.first_key_value() {
            let found =
                self.read_block(first, |placed| placed.iter().map(|one| (id_of(one), life_of(one))).collect())?;
            let (begins, mut block): (_, Block) = found.unwrap_or_default();
            let next = self.lives.get_gt(key_of(begins)).map_err(|source| self.error(source))?;
            let mut others = Block::new();
            if let Some(next) = next.map(|(key, _)| id_of(&key)) {
                others = lives.split_off(&next);
                drop(block.split_off(&next));
            }
            let are_last = block.last_key_value().is_none_or(|(last, _)| *last < first);
            block.extend(std::mem::replace(&mut lives, others));
            self.put_block(begins, &block, are_last).map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    /// Writes a block, or several instead of it when it has become too large: full ones where the last ids are the new ones, for those mostly come
    /// in order, or else equal ones.
    fn put_block(&self, begins: TransferId, block: &Block, are_last: bool) -> Result<(), sled::Error> {
        let placed: Vec<Placed> = block.iter().map(encode).collect();
        let parts = placed.len().div_ceil(BLOCK_MAX).max(1);
        let most = if are_last { BLOCK_MAX } else { placed.len().div_ceil(parts) };
        // The last first. A batch would do all at once, but has sled write each to the disk.
        for (number, part) in placed.chunks(most).enumerate().rev() {
            let begins = part.first().filter(|_| number > 0).map_or(begins, |first| id_of(first));
            self.lives.insert(key_of(begins), part.as_flattened())?;
        }
        Ok(())
    }

    /// Reads all that was given back of transfers.
    pub fn read_lives(&self, mut visit: impl FnMut(TransferId, KeptLife)) -> Result<(), StoreError> {
        let mut blocks = self.lives.iter().peekable();
        while let Some(block) = blocks.next() {
            let (key, bytes) = block.map_err(|source| self.error(source))?;
            let next = blocks.peek().and_then(|next| next.as_ref().ok()).map(|(key, _)| id_of(key));
            let placed = self.decode_block(id_of(&key), &bytes)?.iter();
            for placed in placed.take_while(|placed| next.is_none_or(|next| id_of(*placed) < next)) {
                visit(id_of(placed), life_of(placed));
            }
        }
        Ok(())
    }

    /// Makes a checkpoint of what was written before, durably. Blocks.
    pub fn make_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.sync()?;
        self.put_checkpoint(checkpoint)?;
        self.sync()?;
        self.durable.store(checkpoint.sequence, Release);
        Ok(())
    }

    fn read_life(&self, id: TransferId) -> Result<Option<KeptLife>, StoreError> {
        let found = self.read_block(id, |placed| {
            let at = placed.binary_search_by_key(&id, |placed| id_of(placed)).ok()?;
            placed.get(at).map(life_of)
        })?;
        Ok(found.and_then(|(_, life)| life))
    }

    /// Reads the block of an id and where it begins, if there is one. One that is found damaged has the store made again.
    fn read_block<T>(
        &self,
        id: TransferId,
        read: impl FnOnce(&[Placed]) -> T,
    ) -> Result<Option<(TransferId, T)>, StoreError> {
        // Some damage makes sled panic.
        let found = guard_own_panics(AssertUnwindSafe(|| self.lives.range(..=key_of(id)).next_back().transpose()));
        let found = found.map_err(|_panic| self.damaged("sled panicked while reading"));
        let found = found.and_then(|found| found.map_err(|source| self.error(source)));
        let found = found.and_then(|found| {
            let Some((key, bytes)) = found else { return Ok(None) };
            let first = id_of(&key);
            Ok(Some((first, read(self.decode_block(first, &bytes)?))))
        });
        if found.as_ref().is_err_and(is_damage) {
            set_mark(self.path());
        }
        found
    }

    fn decode_block<'a>(&self, first: TransferId, bytes: &'a [u8]) -> Result<&'a [Placed], StoreError> {
        decode(first, bytes).ok_or_else(|| self.damaged("what was given back is not as it was written"))
    }
}

/// The file that says that a store was found damaged while it was in use.
fn mark(path: &Path) -> PathBuf {
    path.with_extension("distrusted")
}

/// Whether a store was found damaged while it was in use, or may be.
pub(super) fn is_marked(path: &Path) -> bool {
    mark(path).exists()
}

/// Has the next start make the store again from the journal.
fn set_mark(path: &Path) {
    let marked = fs::write(mark(path), []);
    tracing::error!(?marked, "the store is not to be trusted; the next start makes it again from the journal");
}

/// After a write or a sync that failed the kernel may take for clean what the disk does not have, and nobody is told again: such a store is not
/// trusted. A disk that is full says so before anything is taken.
pub(super) fn distrust_after(path: &Path, err: &StoreError) {
    let (StoreError::Sled { source: sled::Error::Io(source), .. } | StoreError::Io { source, .. }) = err else {
        return;
    };
    if !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        set_mark(path);
    }
}

/// Once the store is set aside.
pub(super) fn clear_mark(path: &Path) -> io::Result<()> {
    match fs::remove_file(mark(path)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// Whether an error tells of what the store contains. An operating system that refuses, as when the disk is full, says nothing of that.
fn is_damage(err: &StoreError) -> bool {
    match err {
        StoreError::Sled { source: sled::Error::Io(source), .. } => source.kind() == io::ErrorKind::UnexpectedEof,
        _ => true,
    }
}

impl LifeStore for Store {
    #[expect(
        clippy::panic,
        reason = "neither refusing for ever nor paying twice is right: stop whole, and make the store again"
    )]
    fn kept(&self, id: TransferId) -> Option<KeptLife> {
        self.read_life(id).unwrap_or_else(|err| panic!("the store cannot be read: {}", chain(&err)))
    }

    fn checkpoint(&self) -> Sequence {
        self.durable.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ledger::Life;
    use crate::store::open_or_set_aside;

    fn at(head: Sequence) -> KeptLife {
        KeptLife { now: Life { refunded: u128::from(head), is_over: false, head }, before: Life::default() }
    }

    fn all(store: &Store) -> BTreeMap<TransferId, KeptLife> {
        let mut all = BTreeMap::new();
        store.read_lives(|id, life| assert!(all.insert(id, life).is_none(), "{id} twice")).unwrap();
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Ids in order, in none, and far from each other: the last that was written of each.
        #[test]
        fn lives_are_found_as_they_were_written_last(
            jobs in prop::collection::vec(prop_oneof![
                prop::collection::vec(1..200_u128, 0..40), (1..200_u128, 1..40_u128).prop_map(|(from, many)| (from..from + many).collect()),
                prop::collection::vec(any::<u128>(), 0..40),
            ], 0..8),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(&directory.path().join("store"), 1 << 20).unwrap();
            let (mut expected, mut head) = (BTreeMap::new(), 0);
            for ids in jobs {
                let job: Vec<_> = ids.into_iter().map(|id| {
                    head += 1;
                    (TransferId::from_raw(id), at(head))
                }).collect();
                store.put_lives(&job).unwrap();
                expected.extend(job);
            }
            prop_assert_eq!(&all(&store), &expected);
            for id in expected.keys().flat_map(|id| [id.raw(), id.raw() ^ 1, id.raw().wrapping_add(9)]) {
                let id = TransferId::from_raw(id);
                prop_assert_eq!(store.kept(id), expected.get(&id).copied());
            }
            // Halves at least, but for the last ones of each job.
            prop_assert!(store.lives.len() <= expected.len() / (BLOCK_MAX / 2) + 8);
        }

        /// Never a panic, and nothing that was not written like this.
        #[test]
        fn any_bytes_are_a_block_or_none(
            mut bytes in prop::collection::vec(0..3_u8, 0..58 * 10), first in any::<u128>(), is_whole in any::<bool>(),
        ) {
            let first = TransferId::from_raw(first >> 7);
            if is_whole {
                bytes.truncate(bytes.len() / 58 * 58);
            }
            let keys: Vec<_> = bytes.chunks(58).map(|placed| placed[..16.min(placed.len())].to_vec()).collect();
            let is_block = bytes.len().is_multiple_of(58) && (1..=8).contains(&keys.len())
                && keys.is_sorted_by(|a, b| a < b) && keys[0][..] >= key_of(first)[..];
            prop_assert_eq!(decode(first, &bytes).is_some(), is_block);
        }
    }

    #[test]
    fn what_left_a_block_before_a_crash_is_what_it_is_in_the_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store"), 1 << 20).unwrap();
        let put = |ids: &[u128], head| {
            store.put_lives(&ids.iter().map(|id| (TransferId::from_raw(*id), at(head))).collect::<Vec<_>>()).unwrap();
        };
        put(&[10, 20, 30, 40, 50, 60, 70, 80], 1);
        let before = store.lives.get([0; 16]).unwrap().unwrap();
        put(&[15], 2);
        assert_eq!(store.lives.len(), 2);
        // The first was not written any more.
        store.lives.insert([0; 16], before).unwrap();
        put(&[60], 3);
        let found = |ids: &[u128]| ids.iter().map(|id| store.kept(TransferId::from_raw(*id))).collect::<Vec<_>>();
        let expected = [(10, 1), (20, 1), (30, 1), (40, 1), (50, 1), (60, 3), (70, 1), (80, 1)];
        assert_eq!(found(&[10, 40, 50, 60, 80]), [1, 1, 1, 3, 1].map(|head| Some(at(head))));
        assert_eq!(all(&store), expected.map(|(id, head)| (TransferId::from_raw(id), at(head))).into());
        put(&[15, 25], 4);
        assert_eq!(store.lives.get([0; 16]).unwrap().unwrap().len(), 58 * 6, "10 to 40 and the new ones");
        assert_eq!(found(&[15, 25, 60]), [4, 4, 3].map(|head| Some(at(head))));
    }

    #[test]
    fn ids_in_order_fill_blocks_and_a_damaged_one_has_the_store_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store"), 1 << 20).unwrap();
        let job = |from: u128, to: u128| (from..to).map(|id| (TransferId::from_raw(id), at(9))).collect::<Vec<_>>();
        for from in (100..200).step_by(5) {
            store.put_lives(&job(from, from + 5)).unwrap();
        }
        assert_eq!((all(&store).len(), store.lives.len()), (100, 13), "full but for the last");
        let (key, block) = store.lives.get_lt(150_u128.to_be_bytes()).unwrap().unwrap();
        store.lives.insert(key, &block[1..]).unwrap();
        assert!(store.put_lives(&job(190, 200)).is_ok() && !is_marked(store.path()));
        let err = store.put_lives(&job(149, 150)).unwrap_err();
        assert!(matches!(err, StoreError::Damaged { .. }), "{err}");
        assert!(is_marked(store.path()));
        assert!(store.read_lives(|_, _| ()).is_err());
    }

    #[test]
    fn lives_are_as_of_the_last_checkpoint_and_a_distrusted_store_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let life = |refunded, head| Life { refunded, is_over: false, head };
        let [known, other] = [1, 2].map(TransferId::from_raw);
        let open = || open_or_set_aside(&path, 1 << 20, |_| Ok(())).unwrap();
        {
            let (store, (), _) = open();
            store.put_lives(&[(known, KeptLife { now: life(5, 10), before: Life::default() })]).unwrap();
            assert_eq!((store.life(known), store.life(other)), (None, None), "no checkpoint has it yet");
            store.make_checkpoint(&Checkpoint { sequence: 10, ..Checkpoint::default() }).unwrap();
            assert_eq!(store.life(known), Some(life(5, 10)));
            store.put_lives(&[(known, KeptLife { now: life(7, 12), before: life(5, 10) })]).unwrap();
        }
        {
            let (store, (), again) = open();
            assert_eq!((store.life(known), again), (Some(life(5, 10)), false), "of the checkpoint that was finished");
        }
        fs::write(mark(&path), []).unwrap();
        let (store, (), again) = open();
        assert_eq!((store.life(known), again), (None, true));
        drop(store);
        assert!(!open().2, "once");
    }
}
