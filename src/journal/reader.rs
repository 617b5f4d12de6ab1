//! Reading single records back by sequence.
//!
//! The reader knows for each segment its first sequence, and a group's place about every 64 KiB; between those it walks over
//! group headers. In segments from before the start of this process a place is sought when it is asked for ([`super::seek`]), and noted.
//! Reads block on the disk: call from a thread that may wait.
//!
//! Nothing is believed before the checksum of its group was compared, which is done once for each group that single records are asked of, and
//! each time for groups that are read whole.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hashbrown::HashSet;

use super::disk::Disk;
use super::group::{GROUP_HEADER_BYTES, GroupHeader, header_bytes};
use super::recovery::JournalError;
use super::seek::{NOTE_EVERY_BYTES, Place, seek};
use super::segment::is_blank;
use super::window::Window;
use crate::ledger::{RECORD_BYTES, Record, Sequence, StoredRecord};
use crate::planted::{self, Bug};

/// Groups known to be sound; beyond that all are compared again.
const SOUND_MAX: usize = 1 << 16;

/// Reads records by sequence, from any thread.
#[derive(Debug)]
pub struct JournalReader {
    disk: Arc<dyn Disk>,
    segments: RwLock<Vec<Segment>>,
    /// Segment and byte of groups whose checksum was compared.
    sound: Mutex<HashSet<(u64, u64)>>,
}

/// Where the group is that is noted after another one.
enum Next {
    /// A few headers behind it.
    IsNear,
    At(u64),
    IsUnknown,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    base_sequence: Sequence,
    /// Some groups, in order.
    places: Vec<Place>,
    /// Whether these are all that are noted of a segment that was walked or written from its first group on; else there may be more between them.
    is_whole: bool,
}

impl JournalReader {
    /// A reader that knows no segment yet.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self { disk, segments: RwLock::default(), sound: Mutex::default() })
    }

    /// Notes a segment and its first sequence; in order.
    pub(super) fn note_segment(&self, number: u64, base_sequence: Sequence) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if segments.last().is_none_or(|last| last.number < number) {
            segments.push(Segment { number, base_sequence, places: Vec::new(), is_whole: false });
        }
    }

    /// Notes where a group is, if that is far enough from the last noted one; in order within a segment.
    pub(super) fn note(&self, number: u64, sequence: Sequence, offset: u64) {
        let last_noted = |segment: &Segment| segment.places.last().map(|place| place.1);
        {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let known = segments.iter().rfind(|segment| segment.number == number);
            if known.and_then(last_noted).is_some_and(|last| offset < last.saturating_add(NOTE_EVERY_BYTES)) {
                return;
            }
        }
        self.note_segment(number, sequence);
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = segments.iter_mut().rfind(|segment| segment.number == number) {
            segment.is_whole |= segment.places.is_empty() && offset == header_bytes();
            segment.places.push((sequence, offset));
        }
    }

    /// Reads one durable record; `None` when the journal has no such sequence. Blocks.
    pub fn read(&self, sequence: Sequence) -> Result<Option<StoredRecord>, JournalError> {
        let Some((number, noted)) = self.place(sequence)? else { return Ok(None) };
        let mut offset = noted;
        let io = |source| self.unreadable(number, source);
        loop {
            let mut bytes = [0; GROUP_HEADER_BYTES];
            self.disk.read_at(number, offset, &mut bytes).map_err(io)?;
            let Some(header) = GroupHeader::decode(&bytes) else {
                // Nothing was written here, or what was is not there any more.
                return if is_blank(&bytes) { Ok(None) } else { Err(self.damaged(number, offset)) };
            };
            let body = offset.saturating_add(header_bytes());
            if sequence >= header.next_sequence() {
                offset = body.saturating_add(u64::try_from(header.body_bytes()).unwrap_or(u64::MAX));
                continue;
            }
            let Some(place) = sequence.checked_sub(header.base_sequence) else { return Ok(None) };
            self.compare_once((number, offset), &header)?;
            let body_bytes = u64::try_from(header.body_bytes()).unwrap_or(u64::MAX);
            if offset != noted && body_bytes >= NOTE_EVERY_BYTES {
                // A large one wherever it is: for the next record of it, it would be looked through again.
                self.keep(number, &[(header.base_sequence, offset)], 1);
            }
            let mut bytes = [0; RECORD_BYTES];
            let at = body.saturating_add(place.saturating_mul(u64::try_from(RECORD_BYTES).unwrap_or(0)));
            self.disk.read_at(number, at, &mut bytes).map_err(io)?;
            let record = Record::decode(&bytes).map_err(|source| JournalError::Content {
                place: self.disk.name(number),
                offset: at,
                source: Box::new(source),
            })?;
            return Ok(Some(StoredRecord { sequence, time_ns: header.time_ns.saturating_add(place), record }));
        }
    }

    /// Reads records in order, from `from` to `until`, until `visit` says that it has enough (answers false); answers the sequence after the
    /// last one shown. All of them are known to be durable: one that is not there is damage. Blocks.
    pub fn scan(
        &self,
        from: Sequence,
        until: Sequence,
        visit: &mut dyn FnMut(StoredRecord) -> bool,
    ) -> Result<Sequence, JournalError> {
        let mut sequence = from.max(1);
        let mut known: Option<(u64, u64)> = None;
        let mut window = Window::default();
        while sequence <= until {
            let place = match known.take() {
                Some(place) => place,
                None => self.place(sequence)?.ok_or_else(|| JournalError::Damaged {
                    place: "the journal".to_owned(),
                    offset: 0,
                    what: format!("record {sequence} is in no segment"),
                })?,
            };
            let (number, offset) = place;
            let io = |source| self.unreadable(number, source);
            let head = window.get(&*self.disk, place, GROUP_HEADER_BYTES).map_err(io)?;
            let Some(header) = GroupHeader::decode(head) else {
                // The end of a segment, or what was written here is not there any more.
                let later = self.place(sequence)?.filter(|place| place.0 > number);
                known = Some(later.ok_or_else(|| self.damaged(number, offset))?);
                continue;
            };
            let body = offset.saturating_add(header_bytes());
            let after = body.saturating_add(u64::try_from(header.body_bytes()).unwrap_or(u64::MAX));
            if sequence < header.base_sequence {
                return Err(self.damaged(number, offset));
            }
            if sequence >= header.next_sequence() {
                known = Some((number, after));
                continue;
            }
            let bytes = window.get(&*self.disk, (number, body), header.body_bytes()).map_err(io)?;
            if bytes.len() < header.body_bytes() || crc32c::crc32c(bytes) != header.body_crc {
                return Err(self.damaged(number, offset));
            }
            let skipped = usize::try_from(sequence.saturating_sub(header.base_sequence)).unwrap_or(usize::MAX);
            for record in bytes.as_chunks::<RECORD_BYTES>().0.iter().skip(skipped) {
                let place = sequence.saturating_sub(header.base_sequence);
                let record = Record::decode(record).map_err(|source| JournalError::Content {
                    place: self.disk.name(number),
                    offset: body,
                    source: Box::new(source),
                })?;
                let time_ns = header.time_ns.saturating_add(place);
                let goes_on = visit(StoredRecord { sequence, time_ns, record });
                sequence = sequence.saturating_add(1);
                if !goes_on || sequence > until {
                    return Ok(sequence);
                }
            }
            known = Some((number, after));
        }
        Ok(sequence)
    }

    fn damaged(&self, number: u64, offset: u64) -> JournalError {
        let what = "the group that a record is read from is not as it was written".to_owned();
        JournalError::Damaged { place: self.disk.name(number), offset, what }
    }

    /// Compares a group with its checksum, unless that was done before.
    fn compare_once(&self, place: (u64, u64), header: &GroupHeader) -> Result<(), JournalError> {
        let sound = || self.sound.lock().unwrap_or_else(PoisonError::into_inner);
        if sound().contains(&place) {
            return Ok(());
        }
        let (number, offset) = place;
        let mut body = vec![0; header.body_bytes()];
        let at = offset.saturating_add(header_bytes());
        let read = self.disk.read_at(number, at, &mut body);
        let read = read.map_err(|source| self.unreadable(number, source))?;
        let is_sound = planted::is(Bug::ReadUnchecked) || crc32c::crc32c(&body) == header.body_crc;
        if read < body.len() || !is_sound {
            return Err(self.damaged(number, offset));
        }
        let mut sound = sound();
        if sound.len() >= SOUND_MAX {
            sound.clear();
        }
        sound.insert(place);
        Ok(())
    }

    /// Segment and byte of a group at or before the one with this sequence.
    fn place(&self, sequence: Sequence) -> Result<Option<(u64, u64)>, JournalError> {
        let Some((number, nearest, next)) = self.noted(sequence) else { return Ok(None) };
        let within = match next {
            Next::IsNear => return Ok(Some((number, nearest))),
            Next::At(next) => nearest..next,
            Next::IsUnknown => nearest..self.disk.size(number).map_err(|source| self.unreadable(number, source))?,
        };
        let mut seen = Vec::new();
        let found = seek(&*self.disk, number, within, sequence, &mut |place| seen.push(place));
        let offset = found.map_err(|source| self.unreadable(number, source))?;
        if !seen.is_empty() {
            self.keep(number, &seen, NOTE_EVERY_BYTES);
        }
        Ok(Some((number, offset)))
    }

    /// The segment in which a sequence is, the byte of the nearest group at or before it that is noted, and where the next noted one is.
    fn noted(&self, sequence: Sequence) -> Option<(u64, u64, Next)> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.base_sequence <= sequence);
        let segment = after.checked_sub(1).and_then(|index| segments.get(index))?;
        let after = segment.places.partition_point(|place| place.0 <= sequence);
        let nearest = after.checked_sub(1).and_then(|index| segment.places.get(index));
        let next = match segment.places.get(after) {
            _ if segment.is_whole => Next::IsNear,
            Some(place) => Next::At(place.1),
            None => Next::IsUnknown,
        };
        Some((segment.number, nearest.map_or(header_bytes(), |place| place.1), next))
    }

    /// Notes groups that were seen, so that the next search begins nearer; not those that lie nearer than so to a noted one.
    fn keep(&self, number: u64, seen: &[Place], apart: u64) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let Some(segment) = segments.iter_mut().rfind(|segment| segment.number == number) else { return };
        for &(sequence, offset) in seen {
            let at = segment.places.partition_point(|place| place.1 < offset);
            let before = at.checked_sub(1).and_then(|index| segment.places.get(index));
            let is_near = |place: Option<&Place>| place.is_some_and(|place| place.1.abs_diff(offset) < apart);
            if !is_near(before) && !is_near(segment.places.get(at)) {
                segment.places.insert(at, (sequence, offset));
            }
        }
    }

    fn unreadable(&self, number: u64, source: std::io::Error) -> JournalError {
        JournalError::Io { place: self.disk.name(number), source }
    }
}
