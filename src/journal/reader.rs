//! Reading single records back by sequence.
//!
//! The reader knows for each segment its first sequence, and a group's place about every 64 KiB; between those it walks over
//! group headers. For segments from before the start of this process the places are found once, when first asked for.
//! Reads block on the disk: call from a thread that may wait.
//!
//! Nothing is believed before the checksum of its group was compared, which is done once for each group that single records are asked of, and
//! each time for groups that are read whole.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hashbrown::HashSet;

use super::disk::Disk;
use super::group::{GROUP_HEADER_BYTES, GroupHeader};
use super::recovery::JournalError;
use super::segment::{Found, group_at, is_blank};
use crate::ledger::{RECORD_BYTES, Record, Sequence, StoredRecord};
use crate::planted::{self, Bug};

/// Bytes between noted places.
const NOTE_EVERY_BYTES: u64 = 64 << 10;

/// Groups known to be sound; beyond that all are compared again.
const SOUND_MAX: usize = 1 << 16;

/// Reads records by sequence, from any thread.
#[derive(Debug)]
pub struct JournalReader {
    disk: Arc<dyn Disk>,
    segments: RwLock<Vec<Segment>>,
    /// Held while a segment is read whole, so that many who ask do not each read it.
    finding: Mutex<()>,
    /// Segment and byte of groups whose checksum was compared.
    sound: Mutex<HashSet<(u64, u64)>>,
}

/// What is known of where a sequence is.
enum Noted {
    Place(u64, u64),
    NotLooked,
    Nowhere,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    base_sequence: Sequence,
    /// First sequence and byte of some groups, in order. Empty: not looked for yet.
    places: Vec<(Sequence, u64)>,
}

impl JournalReader {
    /// A reader that knows no segment yet.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self { disk, segments: RwLock::default(), finding: Mutex::default(), sound: Mutex::default() })
    }

    /// Notes a segment and its first sequence; in order.
    pub(super) fn note_segment(&self, number: u64, base_sequence: Sequence) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if segments.last().is_none_or(|last| last.number < number) {
            segments.push(Segment { number, base_sequence, places: Vec::new() });
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
            segment.places.push((sequence, offset));
        }
    }

    /// Reads one durable record; `None` when the journal has no such sequence. Blocks.
    pub fn read(&self, sequence: Sequence) -> Result<Option<StoredRecord>, JournalError> {
        let Some((number, mut offset)) = self.place(sequence)? else { return Ok(None) };
        let io = |source| JournalError::Io { place: self.disk.name(number), source };
        loop {
            let mut bytes = [0; GROUP_HEADER_BYTES];
            self.disk.read_at(number, offset, &mut bytes).map_err(io)?;
            let Some(header) = GroupHeader::decode(&bytes) else {
                // Nothing was written here, or what was is not there any more.
                return if is_blank(&bytes) { Ok(None) } else { Err(self.damaged(number, offset)) };
            };
            let body = offset.saturating_add(u64::try_from(GROUP_HEADER_BYTES).unwrap_or(0));
            if sequence >= header.next_sequence() {
                offset = body.saturating_add(u64::try_from(header.body_bytes()).unwrap_or(u64::MAX));
                continue;
            }
            let Some(place) = sequence.checked_sub(header.base_sequence) else { return Ok(None) };
            self.compare_once((number, offset), &header)?;
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
            let io = |source| JournalError::Io { place: self.disk.name(number), source };
            let mut head = [0; GROUP_HEADER_BYTES];
            self.disk.read_at(number, offset, &mut head).map_err(io)?;
            let Some(header) = GroupHeader::decode(&head) else {
                // The end of a segment, or what was written here is not there any more.
                let later = self.place(sequence)?.filter(|place| place.0 > number);
                known = Some(later.ok_or_else(|| self.damaged(number, offset))?);
                continue;
            };
            let body = offset.saturating_add(u64::try_from(GROUP_HEADER_BYTES).unwrap_or(0));
            let after = body.saturating_add(u64::try_from(header.body_bytes()).unwrap_or(u64::MAX));
            if sequence < header.base_sequence {
                return Err(self.damaged(number, offset));
            }
            if sequence >= header.next_sequence() {
                known = Some((number, after));
                continue;
            }
            let mut bytes = vec![0; header.body_bytes()];
            self.disk.read_at(number, body, &mut bytes).map_err(io)?;
            if crc32c::crc32c(&bytes) != header.body_crc {
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
        let at = offset.saturating_add(u64::try_from(GROUP_HEADER_BYTES).unwrap_or(0));
        let read = self.disk.read_at(number, at, &mut body);
        let read = read.map_err(|source| JournalError::Io { place: self.disk.name(number), source })?;
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
        match self.noted_place(sequence) {
            Noted::Place(number, offset) => return Ok(Some((number, offset))),
            Noted::Nowhere => return Ok(None),
            Noted::NotLooked => {}
        }
        let _one_at_a_time = self.finding.lock().unwrap_or_else(PoisonError::into_inner);
        let number = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let after = segments.partition_point(|segment| segment.base_sequence <= sequence);
            let Some(segment) = after.checked_sub(1).and_then(|index| segments.get(index)) else { return Ok(None) };
            if !segment.places.is_empty() {
                return Ok(Some((segment.number, nearest(&segment.places, sequence))));
            }
            segment.number
        };
        let places = self.find_places(number)?;
        let offset = nearest(&places, sequence);
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = segments.iter_mut().find(|segment| segment.number == number && segment.places.is_empty())
        {
            segment.places = places;
        }
        Ok(Some((number, offset)))
    }

    fn noted_place(&self, sequence: Sequence) -> Noted {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.base_sequence <= sequence);
        match after.checked_sub(1).and_then(|index| segments.get(index)) {
            None => Noted::Nowhere,
            Some(segment) if segment.places.is_empty() => Noted::NotLooked,
            Some(segment) => Noted::Place(segment.number, nearest(&segment.places, sequence)),
        }
    }

    fn find_places(&self, number: u64) -> Result<Vec<(Sequence, u64)>, JournalError> {
        let io = |source| JournalError::Io { place: self.disk.name(number), source };
        let mut bytes = vec![0; usize::try_from(self.disk.size(number).map_err(io)?).unwrap_or(0)];
        self.disk.read_at(number, 0, &mut bytes).map_err(io)?;
        let mut places: Vec<(Sequence, u64)> = Vec::new();
        let mut offset = GROUP_HEADER_BYTES;
        while let Found::Group(header, body) = group_at(&bytes, offset) {
            let place = u64::try_from(offset).unwrap_or(u64::MAX);
            if places.last().is_none_or(|last| place >= last.1.saturating_add(NOTE_EVERY_BYTES)) {
                places.push((header.base_sequence, place));
            }
            offset = offset.saturating_add(GROUP_HEADER_BYTES).saturating_add(body.len());
        }
        Ok(places)
    }
}

fn nearest(places: &[(Sequence, u64)], sequence: Sequence) -> u64 {
    let after = places.partition_point(|place| place.0 <= sequence);
    let first = u64::try_from(GROUP_HEADER_BYTES).unwrap_or(0);
    after.checked_sub(1).and_then(|index| places.get(index)).map_or(first, |place| place.1)
}
