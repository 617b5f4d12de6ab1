//! Segments: the header that begins one, and finding the groups in one.
//!
//! The header, 128 bytes, little-endian, written together with the segment's first group:
//!
//! ```text
//! place  0      8        16      24             32             64             72        124
//!        magic  version  number  base_sequence  previous_hash  segment_bytes  reserved  header_crc
//! ```
//!
//! `segment_bytes` is the length with which the file was made, so that an end cut off later does not look like an end; 0 says nothing.

use super::group::{GROUP_HEADER_BYTES, GroupHeader, Hash};
use crate::ledger::{Sequence, get, set};
use crate::planted::{self, Bug};

/// The version of segments and groups that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;

/// `HENGSEG1`.
const MAGIC: u64 = u64::from_le_bytes(*b"HENGSEG1");
const CRC_AT: usize = 124;

/// What a segment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) version: u64,
    pub(super) number: u64,
    pub(super) base_sequence: Sequence,
    pub(super) previous_hash: Hash,
    pub(super) segment_bytes: u64,
}

/// What stands at a place of a segment.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A whole group: its header and its records.
    Group(GroupHeader, &'a [u8]),
    /// Nothing was ever written here.
    Blank,
    /// Something that is no whole group, and why.
    Bad(&'static str),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; GROUP_HEADER_BYTES] {
        let mut bytes = [0; GROUP_HEADER_BYTES];
        set::<0, 8>(&mut bytes, MAGIC.to_le_bytes());
        set::<8, 8>(&mut bytes, self.version.to_le_bytes());
        set::<16, 8>(&mut bytes, self.number.to_le_bytes());
        set::<24, 8>(&mut bytes, self.base_sequence.to_le_bytes());
        set::<32, 32>(&mut bytes, self.previous_hash);
        set::<64, 8>(&mut bytes, self.segment_bytes.to_le_bytes());
        let crc = crc32c::crc32c(bytes.get(..CRC_AT).unwrap_or_default());
        set::<CRC_AT, 4>(&mut bytes, crc.to_le_bytes());
        bytes
    }

    /// `None` when these bytes are no segment header or are damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let sound = bytes.len() >= GROUP_HEADER_BYTES
            && u64::from_le_bytes(get::<0, 8>(bytes)) == MAGIC
            && u32::from_le_bytes(get::<CRC_AT, 4>(bytes)) == crc32c::crc32c(bytes.get(..CRC_AT)?);
        sound.then(|| Self {
            version: u64::from_le_bytes(get::<8, 8>(bytes)),
            number: u64::from_le_bytes(get::<16, 8>(bytes)),
            base_sequence: u64::from_le_bytes(get::<24, 8>(bytes)),
            previous_hash: get::<32, 32>(bytes),
            segment_bytes: u64::from_le_bytes(get::<64, 8>(bytes)),
        })
    }
}

/// Looks for a group at a place.
pub(super) fn group_at(segment: &[u8], offset: usize) -> Found<'_> {
    let rest = segment.get(offset..).unwrap_or_default();
    let Some(header_bytes) = rest.get(..GROUP_HEADER_BYTES) else { return Found::Blank };
    if header_bytes.iter().all(|&byte| byte == 0) {
        return Found::Blank;
    }
    let Some(header) = GroupHeader::decode(header_bytes) else { return Found::Bad("its header is damaged") };
    let end = GROUP_HEADER_BYTES.saturating_add(header.body_bytes());
    let Some(body) = rest.get(GROUP_HEADER_BYTES..end) else { return Found::Bad("it is longer than its segment") };
    if planted::is(Bug::TornGroupBelieved) {
        return Found::Group(header, body);
    }
    if header.count == 0 || crc32c::crc32c(body) != header.body_crc {
        return Found::Bad("its records are damaged");
    }
    if GroupHeader::expected_hash(header_bytes, body) != header.hash {
        return Found::Bad("its hash is wrong");
    }
    Found::Group(header, body)
}

/// The place of the first sound group header after `offset`, if any. Records never look like one.
pub(super) fn header_after(segment: &[u8], offset: usize) -> Option<usize> {
    let first = offset.saturating_add(GROUP_HEADER_BYTES);
    let mut places = (first..segment.len()).step_by(GROUP_HEADER_BYTES);
    places.find(|&place| segment.get(place..).is_some_and(|bytes| GroupHeader::decode(bytes).is_some()))
}

/// Whether nothing was ever written from here on.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    // Whole words first: segments are tens of megabytes.
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_headers_are_read_back_and_notice_damage() {
        let header =
            SegmentHeader { version: 1, number: 7, base_sequence: 99, previous_hash: [3; 32], segment_bytes: 4_096 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        for bit in 0..GROUP_HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged), None, "bit {bit}");
        }
    }
}
