//! The index of histories: a file beside sled's, written once from its beginning to its end.
//!
//! ```text
//! sector of 512 bytes, little-endian
//! place  0                          496     504      508
//!        31 entries of 16 bytes     number  entries  CRC32C of all before
//! ```
//!
//! Entry `n` is that of record `n`, so entries need no keys, and a file needs a third of the writing that a tree does. How far it reaches durably stands in the
//! store's `meta`; what is behind that may be anything.
//!
//! # Invariants
//!
//! 1. A sector is written whole, and only ever with more entries than before: one that a power cut did not let through has those that were durable.
//! 2. Up to where `meta` says, every sector has its number, its entries and their checksum, or the store is damaged.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Mutex, PoisonError};

use super::blocks::IndexEntry;
use crate::journal::{Trickle, WHOLE, let_cache_go};
use crate::ledger::{Sequence, get, set};
use crate::planted::{self, Bug};

/// Bytes of an entry.
pub const INDEX_ENTRY_BYTES: usize = 16;

/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;

/// Entries of a sector.
const PER_SECTOR: usize = 31;

/// Entries that are handed over together: sixteen sectors, two pages.
pub const INDEX_PER_BLOCK: usize = 16 * PER_SECTOR;

/// Bytes read at a time by whoever reads all.
const READ_BYTES: usize = 2_048 * SECTOR_BYTES;

const NAME: &str = "index";

/// The file.
#[derive(Debug)]
pub(super) struct IndexFile {
    file: File,
    /// The last entry written.
    written: AtomicU64,
    trickle: Mutex<Trickle>,
}

/// What is wrong with it.
#[derive(Debug)]
pub(super) enum IndexTrouble {
    Io(io::Error),
    /// The sector in which this entry should be.
    Damaged(Sequence),
}

impl From<io::Error> for IndexTrouble {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The sector of an entry, and its place there.
fn place_of(sequence: Sequence) -> (u64, usize) {
    let place = sequence.saturating_sub(1);
    let per_sector = wide(PER_SECTOR);
    let sector = place.checked_div(per_sector).unwrap_or(0);
    (sector, usize::try_from(place.saturating_sub(sector.saturating_mul(per_sector))).unwrap_or(0))
}

/// The first sequence of the block that holds a sequence.
pub(super) fn index_block_base(sequence: Sequence) -> Sequence {
    let per_block = wide(INDEX_PER_BLOCK);
    let block = sequence.saturating_sub(1).checked_div(per_block).unwrap_or(0);
    block.saturating_mul(per_block).saturating_add(1)
}

fn encode(number: u64, entries: &[u8]) -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    if let Some(room) = sector.get_mut(..entries.len()) {
        room.copy_from_slice(entries);
    }
    set::<496, 8>(&mut sector, number.to_le_bytes());
    let count = u32::try_from(entries.len() / INDEX_ENTRY_BYTES).unwrap_or(0);
    set::<504, 4>(&mut sector, count.to_le_bytes());
    let crc = crc32c::crc32c(sector.get(..508).unwrap_or_default());
    set::<508, 4>(&mut sector, crc.to_le_bytes());
    sector
}

/// The entries of a sector; none when it is not that sector, or not sound.
fn decode(number: u64, sector: &[u8; SECTOR_BYTES]) -> Option<&[u8]> {
    let count = usize::try_from(u32::from_le_bytes(get::<504, 4>(sector))).ok()?;
    let is_sound = planted::is(Bug::IndexBelieved)
        || u32::from_le_bytes(get::<508, 4>(sector)) == crc32c::crc32c(sector.get(..508)?)
            && u64::from_le_bytes(get::<496, 8>(sector)) == number;
    if is_sound && count <= PER_SECTOR { sector.get(..count.saturating_mul(INDEX_ENTRY_BYTES)) } else { None }
}

fn entries_in(sector: &[u8]) -> impl Iterator<Item = IndexEntry> + '_ {
    sector.as_chunks::<INDEX_ENTRY_BYTES>().0.iter().map(IndexEntry::decode)
}

impl IndexFile {
    /// Opens or makes the file in a store's directory.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, written: AtomicU64::new(0), trickle: Mutex::default() })
    }

    /// The last entry written since it was opened; 0 for none.
    pub(super) fn written(&self) -> Sequence {
        self.written.load(Acquire)
    }

    /// Writes entries from the beginning of a block on.
    pub(super) fn put(&self, base: Sequence, bytes: &[u8]) -> io::Result<()> {
        let (first, _) = place_of(base);
        let sectors = (first..).zip(bytes.chunks(PER_SECTOR.saturating_mul(INDEX_ENTRY_BYTES)));
        let encoded: Vec<u8> = sectors.flat_map(|(number, entries)| encode(number, entries)).collect();
        let begin = first.saturating_mul(wide(SECTOR_BYTES));
        self.file.write_all_at(&encoded, begin)?;
        // Not this block, which may be written again.
        self.trickle.lock().unwrap_or_else(PoisonError::into_inner).written(&self.file, begin);
        let last = base.saturating_add(wide(bytes.len() / INDEX_ENTRY_BYTES)).saturating_sub(1);
        self.written.fetch_max(last, Release);
        Ok(())
    }

    /// Makes what was written durable. Blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        let_cache_go(&self.file, WHOLE);
        Ok(())
    }

    /// The entry of a record, up to which the file reaches durably or has been written.
    pub(super) fn get(&self, sequence: Sequence) -> Result<IndexEntry, IndexTrouble> {
        let (number, place) = place_of(sequence);
        let mut sector = [0; SECTOR_BYTES];
        match self.file.read_exact_at(&mut sector, number.saturating_mul(wide(SECTOR_BYTES))) {
            Err(err) if err.kind() != io::ErrorKind::UnexpectedEof => return Err(err.into()),
            _ => {}
        }
        let entries = decode(number, &sector);
        entries.and_then(|entries| entries_in(entries).nth(place)).ok_or(IndexTrouble::Damaged(sequence))
    }

    /// Reads the entries of all records of a range, in order.
    pub(super) fn read(
        &self,
        (from, to): (Sequence, Sequence),
        mut visit: impl FnMut(Sequence, IndexEntry),
    ) -> Result<(), IndexTrouble> {
        let mut next = from.max(1);
        let mut buffer = vec![0; READ_BYTES];
        while next <= to {
            let (mut number, _) = place_of(next);
            let wanted = place_of(to).0.saturating_sub(number).saturating_add(1).saturating_mul(wide(SECTOR_BYTES));
            let length = usize::try_from(wanted).unwrap_or(READ_BYTES).min(READ_BYTES);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            match self.file.read_exact_at(piece, number.saturating_mul(wide(SECTOR_BYTES))) {
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Err(IndexTrouble::Damaged(next)),
                read => read?,
            }
            for sector in piece.as_chunks::<SECTOR_BYTES>().0 {
                let entries = decode(number, sector).ok_or(IndexTrouble::Damaged(next))?;
                let (_, place) = place_of(next);
                for entry in entries_in(entries).skip(place) {
                    if next <= to {
                        visit(next, entry);
                        next = next.saturating_add(1);
                    }
                }
                number = number.saturating_add(1);
                if next <= to && place_of(next).0 != number {
                    return Err(IndexTrouble::Damaged(next));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(sequence: Sequence) -> IndexEntry {
        IndexEntry { debit_previous: sequence.saturating_mul(3) % 1_009, credit_previous: sequence / 2 }
    }

    fn bytes(from: Sequence, to: Sequence) -> Vec<u8> {
        (from..=to).flat_map(|sequence| entry(sequence).encode()).collect()
    }

    /// Writes entries up to one, as the store's thread does: full blocks, and then what is not full, again and again.
    fn fill(index: &IndexFile, last: Sequence, step: Sequence) {
        let mut end = step.min(last);
        let mut base = 1;
        loop {
            let block_end = base + wide(INDEX_PER_BLOCK) - 1;
            index.put(base, &bytes(base, end.min(block_end))).unwrap();
            if end >= block_end {
                base = block_end + 1;
                if base > last {
                    break;
                }
            } else if end == last {
                break;
            }
            end = (end + step).min(last).max(base);
        }
    }

    #[test]
    fn blocks_begin_where_sectors_do() {
        let per_block = wide(INDEX_PER_BLOCK);
        let bases = [1, per_block, per_block + 1, 2 * per_block, 2 * per_block + 1].map(index_block_base);
        assert_eq!(bases, [1, 1, per_block + 1, per_block + 1, 2 * per_block + 1]);
        assert_eq!([1, 31, 32, 62, 63].map(place_of), [(0, 0), (0, 30), (1, 0), (1, 30), (2, 0)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn entries_are_read_as_they_were_written(
            last in 1..2_000_u64, step in 1..700_u64, from in 1..2_000_u64, bit in any::<prop::sample::Index>(),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let index = IndexFile::open(directory.path()).unwrap();
            fill(&index, last, step);
            prop_assert_eq!(index.written(), last);
            let index = IndexFile::open(directory.path()).unwrap();
            let mut seen = Vec::new();
            index.read((from, last), |sequence, entry| seen.push((sequence, entry))).unwrap();
            prop_assert_eq!(seen, (from..=last).map(|sequence| (sequence, entry(sequence))).collect::<Vec<_>>());
            prop_assert_eq!(index.get(last).unwrap(), entry(last));
            let beyond = index.read((1, last + 1), |_, _| {});
            prop_assert!(index.get(last + 1).is_err() && beyond.is_err());

            // Any bit that is changed is noticed by whoever reads all, and by whoever reads that sector.
            let path = directory.path().join(NAME);
            let mut content = std::fs::read(&path).unwrap();
            let bit = bit.index(content.len() * 8);
            content[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &content).unwrap();
            let all = index.read((1, last), |_, _| {});
            prop_assert!(all.is_err());
            let damaged = wide(bit / 8 / SECTOR_BYTES) * wide(PER_SECTOR) + 1;
            prop_assert!(matches!(index.get(damaged), Err(IndexTrouble::Damaged(found)) if found == damaged));
        }
    }

    #[test]
    fn a_sector_that_is_another_or_missing_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let index = IndexFile::open(directory.path()).unwrap();
        fill(&index, 300, 300);
        let path = directory.path().join(NAME);
        let content = std::fs::read(&path).unwrap();
        let mut exchanged = content.clone();
        exchanged.copy_within(0..SECTOR_BYTES, SECTOR_BYTES);
        std::fs::write(&path, &exchanged).unwrap();
        assert!(matches!(index.read((1, 300), |_, _| {}), Err(IndexTrouble::Damaged(32))));
        std::fs::write(&path, &content[..content.len() - 1]).unwrap();
        assert!(index.read((1, 300), |_, _| {}).is_err() && index.get(300).is_err() && index.get(1).is_ok());
    }
}
