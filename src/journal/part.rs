//! What a segment holds, as far as it is sound: for copies of it, whole or up to a point.

use super::group::{GROUP_HEADER_BYTES, GroupHeader, Hash, PendingGroup};
use super::segment::{Found, SegmentHeader, group_at, header_after, is_blank};
use crate::ledger::{RECORD_BYTES, Sequence, is_joined_to_next};

/// The sound groups of a segment, from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentPart {
    /// The segment's number, as it says itself.
    pub number: u64,
    /// Sequence of its first record.
    pub base_sequence: Sequence,
    /// Sequence after its last record.
    pub next_sequence: Sequence,
    /// Time of its last record, nanoseconds since 1970 UTC; 0 without one.
    pub last_time_ns: u64,
    /// Hash of the group before its first.
    pub previous_hash: Hash,
    /// Hash of its last group.
    pub last_hash: Hash,
    /// Bytes of header and groups.
    pub end: usize,
    /// The length with which it was made.
    pub segment_bytes: u64,
    /// Whether nothing was written behind the last sound group.
    pub is_whole: bool,
    /// Whether sound groups follow something that is not sound.
    pub goes_on: bool,
}

/// How a segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With a header.
    Header,
    /// Nothing was ever written to it.
    Blank,
    /// Its first group was being written, with the header, when the power went; or is being written now. If none after it was ever written to, it is as good as blank.
    Torn,
    /// The header is damaged: groups are there without it, or the file is cut off.
    Damaged,
}

/// How a segment begins, by all of its bytes: a damaged header must not make it look fresh.
pub fn beginning(segment: &[u8]) -> Beginning {
    if SegmentHeader::decode(segment).is_some() {
        Beginning::Header
    } else if segment.len() < GROUP_HEADER_BYTES {
        Beginning::Damaged
    } else if is_blank(segment) {
        Beginning::Blank
    } else if GroupHeader::decode(segment).is_some() || header_after(segment, 0).is_some() {
        // A group stands behind a segment's header; one at the very beginning went astray.
        Beginning::Damaged
    } else {
        Beginning::Torn
    }
}

/// Looks through a segment's bytes; none when nothing was written there, or its header is not sound.
pub fn sound_part(bytes: &[u8]) -> Option<SegmentPart> {
    let header = SegmentHeader::decode(bytes)?;
    let mut part = SegmentPart {
        number: header.number,
        base_sequence: header.base_sequence,
        next_sequence: header.base_sequence,
        last_time_ns: 0,
        previous_hash: header.previous_hash,
        last_hash: header.previous_hash,
        end: GROUP_HEADER_BYTES,
        segment_bytes: header.segment_bytes,
        is_whole: false,
        goes_on: false,
    };
    while let Found::Group(group, body) = group_at(bytes, part.end) {
        if (group.base_sequence, group.previous_hash) != (part.next_sequence, part.last_hash) {
            part.goes_on = true;
            return Some(part);
        }
        part.last_time_ns =
            group.time_ns.saturating_add(group.next_sequence().saturating_sub(part.next_sequence)).saturating_sub(1);
        (part.next_sequence, part.last_hash) = (group.next_sequence(), group.hash);
        part.end = part.end.saturating_add(GROUP_HEADER_BYTES).saturating_add(body.len());
    }
    part.is_whole = is_blank(bytes.get(part.end..).unwrap_or_default());
    part.goes_on = !part.is_whole && header_after(bytes, part.end).is_some();
    Some(part)
}

/// The hash of the group that ends with this record, if one of these does.
pub fn head_at(bytes: &[u8], last: Sequence) -> Option<Hash> {
    let mut at = GROUP_HEADER_BYTES;
    while let Found::Group(group, body) = group_at(bytes, at) {
        if group.next_sequence() == last.saturating_add(1) {
            return Some(group.hash);
        }
        at = at.saturating_add(GROUP_HEADER_BYTES).saturating_add(body.len());
    }
    None
}

/// The bytes of a segment up to the last record to be kept, none behind it, and whether that is all of it. The group that has this record is written anew
/// when it goes on beyond; an atomic step is kept whole or not at all.
pub fn cut_after(bytes: &[u8], keep: impl Fn(Sequence, u64) -> bool) -> Option<(Vec<u8>, bool)> {
    let header = SegmentHeader::decode(bytes)?;
    let (mut end, mut previous_hash) = (GROUP_HEADER_BYTES, header.previous_hash);
    while let Found::Group(group, body) = group_at(bytes, end) {
        let records = body.as_chunks::<RECORD_BYTES>().0;
        let places = (group.base_sequence..).zip(group.time_ns..);
        let mut kept = places.zip(records).take_while(|((sequence, time_ns), _)| keep(*sequence, *time_ns)).count();
        let amid = records.get(..kept).unwrap_or_default().iter().rev().take_while(|record| is_joined_to_next(record));
        if kept == records.len() {
            previous_hash = group.hash;
            end = end.saturating_add(GROUP_HEADER_BYTES).saturating_add(body.len());
            continue;
        }
        kept = kept.saturating_sub(amid.count());
        let mut cut = bytes.get(..end)?.to_vec();
        if kept > 0 {
            let mut last = PendingGroup::new(group.base_sequence, group.time_ns);
            last.extend(None, body.get(..kept.saturating_mul(RECORD_BYTES))?);
            last.seal(group.epoch, &previous_hash);
            cut.extend_from_slice(last.bytes());
        }
        return Some((cut, false));
    }
    Some((bytes.get(..end)?.to_vec(), true))
}
