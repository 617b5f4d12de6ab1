//! Finding where a sequence is in a segment of which little is known, by halving.
//!
//! Groups stand one behind the other at multiples of 128 bytes, their sequences rise, and no record begins like a group's header. So the first
//! header behind any place says on which side of it a sequence is, and a segment of 64 MiB needs some ten small reads where walking over
//! its groups would read all of it. Nothing is believed for this: what is read there is compared with its checksum then, as elsewhere.

use std::io;
use std::ops::Range;

use super::disk::Disk;
use super::group::{GROUP_HEADER_BYTES, GroupHeader, header_bytes};
use super::segment::is_blank;
use crate::ledger::Sequence;

/// Bytes between noted places, over which the reader walks.
pub(super) const NOTE_EVERY_BYTES: u64 = 64 << 10;

/// Bytes read at once: mostly a header is among them.
const READ_BYTES: usize = 16 << 10;

/// First sequence and byte of a group.
pub(super) type Place = (Sequence, u64);

/// Narrows down these bytes of a segment, the first of which is a group's at or before this sequence, until few are left; answers the byte
/// of the last such group that was seen. `seen` is told of each.
pub(super) fn seek(
    disk: &dyn Disk,
    number: u64,
    mut within: Range<u64>,
    sequence: Sequence,
    seen: &mut dyn FnMut(Place),
) -> io::Result<u64> {
    while within.end.saturating_sub(within.start) > NOTE_EVERY_BYTES {
        // A large group is not looked through for another one.
        let mut head = [0; GROUP_HEADER_BYTES];
        disk.read_at(number, within.start, &mut head)?;
        if GroupHeader::decode(&head).is_some_and(|header| sequence < header.next_sequence()) {
            break;
        }
        let half = (within.end.saturating_sub(within.start) / 2).next_multiple_of(header_bytes());
        let middle = within.start.saturating_add(half);
        match first_header(disk, number, middle..within.end)? {
            Some(place) => {
                seen(place);
                if place.0 <= sequence {
                    within.start = place.1;
                } else {
                    within.end = middle;
                }
            }
            None => within.end = middle,
        }
    }
    Ok(within.start)
}

/// The first group that begins in these bytes, unless nothing was written to the first of them.
fn first_header(disk: &dyn Disk, number: u64, mut within: Range<u64>) -> io::Result<Option<Place>> {
    let mut bytes = vec![0; READ_BYTES];
    let first = within.start;
    while within.start < within.end {
        let wanted = usize::try_from(within.end.saturating_sub(within.start)).unwrap_or(READ_BYTES).min(READ_BYTES);
        let read = disk.read_at(number, within.start, bytes.get_mut(..wanted).unwrap_or_default())?;
        let units = bytes.get(..read).unwrap_or_default().chunks_exact(GROUP_HEADER_BYTES);
        for (at, unit) in (within.start..).step_by(GROUP_HEADER_BYTES).zip(units) {
            if let Some(header) = GroupHeader::decode(unit) {
                return Ok(Some((header.base_sequence, at)));
            }
            if at == first && is_blank(unit) {
                return Ok(None);
            }
        }
        if read < wanted {
            break;
        }
        within.start = within.start.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    Ok(None)
}
