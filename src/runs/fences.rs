//! With which id each block of a run begins.
//!
//! Fences are in the file, one after the other. In memory is only the first of each [`GROUP`], with the checksum of the whole group; the others are read
//! when somebody looks for an id: so a billion ids take three megabytes, and not ninety.
//!
//! # Invariants
//!
//! 1. Fences are those that there were when the file was written or opened, or an error: a group that the disk has changed since then is noticed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Fences that are read at once: a kibibyte.
const GROUP: usize = 64;
pub(super) const FENCE_BYTES: usize = 16;

/// The first id of a block, and that of the next one, if there is one.
pub(super) type Between = (u128, Option<u128>);

/// What is kept of a file's fences.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fences {
    /// Where they are in the file.
    at: u64,
    count: usize,
    groups: Vec<Kept>,
}

/// Of a group: its first fence, and the CRC32C of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    first: u128,
    crc: u32,
}

/// The fences of a group, read.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The number of the first one's block.
    begins: usize,
    fences: Vec<u128>,
    /// The first fence of the next group.
    next: Option<u128>,
}

impl Fences {
    /// These, which a file has from there on.
    pub(super) fn of(all: &[u128], at: u64) -> Self {
        let kept = |group: &[u128]| {
            let crc = group.iter().fold(0, |crc, fence| crc32c::crc32c_append(crc, &fence.to_le_bytes()));
            Kept { first: group.first().copied().unwrap_or_default(), crc }
        };
        Self { at, count: all.len(), groups: all.chunks(GROUP).map(kept).collect() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The fences around the one of this block. Blocks.
    pub(super) fn group_of(&self, block: usize, file: &File) -> io::Result<Group> {
        self.read(block / GROUP, file)
    }

    /// The fences among which that of an id's block is, unless the id comes before all. Blocks.
    pub(super) fn find(&self, id: u128, file: &File) -> io::Result<Option<Group>> {
        let after = self.groups.partition_point(|kept| kept.first <= id);
        after.checked_sub(1).map(|group| self.read(group, file)).transpose()
    }

    fn read(&self, number: usize, file: &File) -> io::Result<Group> {
        let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let begins = number.saturating_mul(GROUP);
        let kept = self.groups.get(number).ok_or_else(|| damaged("there is no such block"))?;
        let mut bytes = [0; GROUP * FENCE_BYTES];
        let count = self.count.saturating_sub(begins).min(GROUP);
        let (bytes, _) = bytes.split_at_mut(count.saturating_mul(FENCE_BYTES));
        let at = u64::try_from(begins.saturating_mul(FENCE_BYTES)).unwrap_or(u64::MAX);
        file.read_exact_at(bytes, self.at.saturating_add(at))?;
        if crc32c::crc32c(bytes) != kept.crc {
            return Err(damaged("the checksum of the blocks' first ids is wrong"));
        }
        let fences = decode(bytes).collect();
        Ok(Group { begins, fences, next: self.groups.get(number.saturating_add(1)).map(|next| next.first) })
    }
}

impl Group {
    /// The block of an id that belongs to one of these.
    pub(super) fn block_of(&self, id: u128) -> usize {
        let after = self.fences.partition_point(|fence| *fence <= id);
        self.begins.saturating_add(after.saturating_sub(1))
    }

    /// Between which ids a block of these is.
    pub(super) fn between(&self, block: usize) -> Option<Between> {
        let at = block.checked_sub(self.begins)?;
        let next = self.fences.get(at.saturating_add(1)).copied();
        self.fences.get(at).map(|fence| (*fence, next.or(self.next)))
    }
}

/// Fences as they are in a file.
pub(super) fn decode(bytes: &[u8]) -> impl Iterator<Item = u128> + '_ {
    bytes.as_chunks::<FENCE_BYTES>().0.iter().map(|bytes| u128::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_between_its_fences_and_a_change_is_noticed() {
        for count in [0_usize, 1, 63, 64, 65, 128, 1_000] {
            let file = tempfile::tempfile().unwrap();
            let all: Vec<u128> = (1..=count).map(|number| u128::try_from(number).unwrap() * 10).collect();
            let bytes: Vec<u8> = all.iter().flat_map(|fence| fence.to_le_bytes()).collect();
            file.write_all_at(&bytes, 7).unwrap();
            let fences = Fences::of(&all, 7);
            assert_eq!(fences.len(), count);
            assert!(fences.find(9, &file).unwrap().is_none());
            for (block, fence) in all.iter().enumerate() {
                let between = Some((*fence, all.get(block + 1).copied()));
                assert_eq!(fences.group_of(block, &file).unwrap().between(block), between);
                for id in [*fence, fence + 9] {
                    let group = fences.find(id, &file).unwrap().unwrap();
                    assert_eq!((group.block_of(id), group.between(block)), (block, between));
                }
            }
            assert!(fences.group_of(count.next_multiple_of(GROUP), &file).is_err());
            for at in [0, count / 2, count.saturating_sub(1)].into_iter().filter(|at| *at < count) {
                let place = 7 + u64::try_from(at * FENCE_BYTES).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, place).unwrap();
                file.write_all_at(&[byte[0] ^ 1], place).unwrap();
                let is_refused: Vec<_> = (0..count)
                    .filter(|block| fences.group_of(*block, &file).is_err())
                    .map(|block| block / GROUP)
                    .collect();
                assert!(is_refused.contains(&(at / GROUP)) && is_refused.iter().all(|group| *group == at / GROUP));
                assert!(fences.find(all[at], &file).is_err());
                file.write_all_at(&byte, place).unwrap();
            }
        }
    }
}
