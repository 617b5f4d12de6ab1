//! What runs consist of.

use std::fmt::Debug;

use crate::ledger::{Sequence, get};

/// What files of one kind of entry are called, and how they are treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) extension: &'static str,
    /// With what files begin, and older ones, which have no ranges.
    pub(crate) magic: [u8; 8],
    pub(crate) magic_before: Option<[u8; 8]>,
    /// Whether what is written will be read soon, so that it stays in the system's cache.
    pub(crate) read_soon: bool,
    /// Whether the checksum of a block is of its place and its run, too, so that one that belongs elsewhere is always noticed.
    pub(crate) bound: bool,
}

/// An entry. Entries are ordered by id; of those with one id the first counts.
pub(crate) trait Entry: Copy + Debug + Ord + Send + Sync + 'static {
    const KIND: Kind;
    /// How many [`Self::write`] adds.
    const BYTES: usize;

    fn id(&self) -> u128;

    fn write(&self, bytes: &mut Vec<u8>);

    /// From as many bytes.
    fn read(bytes: &[u8]) -> Self;
}

/// An id and the sequence of its record: 24 bytes, both little-endian.
pub(crate) type IdEntry = (u128, Sequence);

impl Entry for IdEntry {
    const KIND: Kind = Kind {
        name: "id",
        extension: "ids",
        magic: *b"HENGIDS3",
        magic_before: Some(*b"HENGIDS2"),
        read_soon: false,
        bound: false,
    };
    const BYTES: usize = 24;

    #[inline]
    fn id(&self) -> u128 {
        self.0
    }

    #[inline]
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.0.to_le_bytes());
        bytes.extend_from_slice(&self.1.to_le_bytes());
    }

    #[inline]
    fn read(bytes: &[u8]) -> Self {
        let bytes = bytes.first_chunk::<24>().unwrap_or(&[0; 24]);
        (u128::from_le_bytes(get::<0, 16>(bytes)), u64::from_le_bytes(get::<16, 8>(bytes)))
    }
}
