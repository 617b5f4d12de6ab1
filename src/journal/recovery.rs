//! Reading the journal from a sequence to its end, and finding where the next group goes.
//!
//! What stands after the last whole group is either nothing, or a group that was being written when the power went: *torn*.
//! A torn group was never answered; it is cut. But only the very last thing written can be torn: when anything sound comes
//! after it, it is damage, and recovery refuses with the place and leaves every byte as it is.

use std::sync::Arc;

use super::disk::Disk;
use super::group::{GROUP_HEADER_BYTES, GroupHeader, Hash};
use super::part::{Beginning, beginning};
use super::reader::JournalReader;
use super::segment::{FORMAT_VERSION, Found, SegmentHeader, group_at, header_after, is_blank};
use crate::ledger::Sequence;

/// What is said of a segment that lost its header.
const HEADER_DAMAGED: &str = "the segment header is damaged";

/// Where the next group goes and what it must link to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The segment.
    pub segment: u64,
    /// Byte in it; 0 when the segment has no header yet.
    pub offset: u64,
    /// Sequence of the next record.
    pub next_sequence: Sequence,
    /// Hash of the last group.
    pub previous_hash: Hash,
    /// Time after the last record, nanoseconds since 1970 UTC.
    pub next_time_ns: u64,
    /// Epoch of the last group.
    pub epoch: u64,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The end of the journal.
    pub tail: Tail,
    /// Number of groups walked over.
    pub groups: u64,
    /// Bytes of a torn group at the tail, 0 when there is none.
    pub torn_bytes: u64,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk does not answer.
    #[error("cannot read or write the journal at {place}")]
    Io {
        /// Which file.
        place: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What was durable has changed. Nothing was cut or repaired.
    #[error(
        "journal is damaged at {place}, byte {offset}: {what}; nothing was changed. Restore this file from a backup; `heng verify` lists what is sound"
    )]
    Damaged {
        /// Which file.
        place: String,
        /// Which byte of it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Written by a newer version of this program.
    #[error("{place} has journal format {version}, this program reads up to {FORMAT_VERSION}; use a newer version")]
    Newer {
        /// Which file.
        place: String,
        /// Its version.
        version: u64,
    },
    /// What the groups contain cannot be used.
    #[error("journal group at {place}, byte {offset} cannot be used")]
    Content {
        /// Which file.
        place: String,
        /// Which byte of it.
        offset: u64,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

type Visit<'a> = dyn FnMut(&GroupHeader, &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

/// Walks all groups from the segment that holds sequence `from`, in order, and changes nothing. The visitor sees whole
/// groups, so also records before `from`.
pub fn walk(disk: &dyn Disk, from: Sequence, visit: &mut Visit<'_>) -> Result<Recovered, JournalError> {
    Ok(Walk::new(disk)?.run(from, None, visit)?.0)
}

/// Walks like [`walk`], notes in the reader where groups are, cuts a torn group at the tail, and makes what remains durable: what was
/// read may have come from the page cache of a process that ended, or failed, before its sync. `followed` is what is
/// known from elsewhere to have been durable: a journal that ends before it has lost something, and nothing is cut.
pub fn recover(
    disk: &Arc<dyn Disk>,
    reader: &JournalReader,
    (from, followed): (Sequence, Sequence),
    visit: &mut Visit<'_>,
) -> Result<Recovered, JournalError> {
    let (recovered, last_group) = Walk::new(disk.as_ref())?.run(from, Some(reader), visit)?;
    let last = recovered.tail.next_sequence.saturating_sub(1);
    if last < followed {
        let Tail { segment, offset, .. } = recovered.tail;
        let what = format!("the journal ends at sequence {last}, but {followed} was durable before");
        return Err(JournalError::Damaged { place: disk.name(segment), offset, what });
    }
    if recovered.torn_bytes > 0 {
        let Tail { segment, offset, .. } = recovered.tail;
        let zeros = vec![0; usize::try_from(recovered.torn_bytes).unwrap_or(0)];
        tracing::warn!(
            segment,
            offset,
            torn_bytes = recovered.torn_bytes,
            "cutting a torn group that was never answered"
        );
        let cut = disk.write_at(segment, offset, &zeros).and_then(|()| disk.sync(segment));
        cut.map_err(|source| JournalError::Io { place: disk.name(segment), source })?;
    }
    if let Some(last_group) = last_group {
        let written = write_again(disk.as_ref(), &last_group);
        written.map_err(|source| JournalError::Io { place: disk.name(last_group.segment), source })?;
    }
    // Also where nothing was written yet: a start that was broken off may have left names that only the cache knows.
    disk.sync_names().map_err(|source| JournalError::Io { place: disk.name(recovered.tail.segment), source })?;
    Ok(recovered)
}

/// Where the last whole group is, with its segment's header if it is the first.
struct LastGroup {
    segment: u64,
    from: u64,
    to: u64,
}

/// Writes the last group once more and syncs it. After a failed sync the kernel takes its pages for clean although the disk does not
/// have them, so that only writing them again makes sure.
fn write_again(disk: &dyn Disk, group: &LastGroup) -> std::io::Result<()> {
    let mut bytes = vec![0; usize::try_from(group.to.saturating_sub(group.from)).unwrap_or(0)];
    disk.read_at(group.segment, group.from, &mut bytes)?;
    disk.write_at(group.segment, group.from, &bytes)?;
    disk.sync(group.segment)
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    last_group: Option<LastGroup>,
    segments: Vec<u64>,
    headers: Vec<Option<SegmentHeader>>,
    recovered: Recovered,
}

/// A segment in memory.
struct Read<'a> {
    number: u64,
    bytes: &'a [u8],
    is_first: bool,
    /// Whether a later segment was ever written.
    later_is_used: bool,
}

impl<'a> Walk<'a> {
    fn new(disk: &'a dyn Disk) -> Result<Self, JournalError> {
        let segments =
            disk.list().map_err(|source| JournalError::Io { place: "the journal directory".to_owned(), source })?;
        let mut headers = Vec::new();
        for &number in &segments {
            let mut bytes = [0; GROUP_HEADER_BYTES];
            disk.read_at(number, 0, &mut bytes)
                .map_err(|source| JournalError::Io { place: disk.name(number), source })?;
            let header = SegmentHeader::decode(&bytes);
            if let Some(header) = header.filter(|header| header.version > FORMAT_VERSION) {
                return Err(JournalError::Newer { place: disk.name(number), version: header.version });
            }
            headers.push(header);
        }
        let tail = Tail { segment: 1, offset: 0, next_sequence: 1, previous_hash: [0; 32], next_time_ns: 0, epoch: 0 };
        Ok(Self { disk, last_group: None, segments, headers, recovered: Recovered { tail, groups: 0, torn_bytes: 0 } })
    }

    fn run(
        mut self,
        from: Sequence,
        reader: Option<&JournalReader>,
        visit: &mut Visit<'_>,
    ) -> Result<(Recovered, Option<LastGroup>), JournalError> {
        // The group before `from` is walked too: the chain, the epoch and the time go on from it.
        let before = from.saturating_sub(1).max(1);
        let first = self.headers.iter().rposition(|header| header.is_some_and(|header| header.base_sequence <= before));
        let first = first.unwrap_or(0);
        for (place, number) in self.segments.iter().enumerate() {
            let expected = u64::try_from(place).unwrap_or(u64::MAX).saturating_add(1);
            if *number != expected {
                return Err(self.damaged(*number, 0, &format!("segment {expected} is missing")));
            }
        }
        // Also where nothing is read at first: records are looked for by what these say.
        let used = self.headers.iter().rposition(Option::is_some).unwrap_or(0);
        for (number, header) in self.segments.iter().zip(&self.headers).take(used) {
            match header {
                None => return Err(self.damaged(*number, 0, HEADER_DAMAGED)),
                Some(header) => self.is_own(*number, header)?,
            }
        }
        if let (Some(reader), headers) = (reader, &self.headers) {
            headers.iter().flatten().for_each(|header| reader.note_segment(header.number, header.base_sequence));
        }
        for (place, number) in self.segments.clone().into_iter().enumerate().skip(first) {
            let bytes = self.read(number)?;
            let later_is_used = self.is_used_after(place)?;
            let read = Read { number, bytes: &bytes, is_first: place == first, later_is_used };
            let goes_on = self.segment(&read, reader, visit)?;
            if !goes_on {
                break;
            }
        }
        Ok((self.recovered, self.last_group))
    }

    /// Whether anything was ever written to a segment after this place. Without a sound header every byte is looked at: a damaged
    /// header must not make a segment look fresh.
    fn is_used_after(&self, place: usize) -> Result<bool, JournalError> {
        for (header, number) in self.headers.iter().zip(&self.segments).skip(place.saturating_add(1)) {
            if header.is_some() || !is_blank(&self.read(*number)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Walks one segment; answers whether the next one follows.
    fn segment(
        &mut self,
        read: &Read<'_>,
        reader: Option<&JournalReader>,
        visit: &mut Visit<'_>,
    ) -> Result<bool, JournalError> {
        let &Read { number, bytes, is_first, later_is_used } = read;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if bytes.len() < GROUP_HEADER_BYTES {
            return Err(self.damaged(number, length, "the file is cut off: segments are made at their full length"));
        }
        let Some(header) = SegmentHeader::decode(bytes) else {
            return self.unused_segment(number, bytes, later_is_used);
        };
        self.is_own(number, &header)?;
        if length < header.segment_bytes {
            let what = format!("the file is cut off: it was made with {} bytes", header.segment_bytes);
            return Err(self.damaged(number, length, &what));
        }
        let tail = &mut self.recovered.tail;
        if is_first {
            (tail.next_sequence, tail.previous_hash) = (header.base_sequence, header.previous_hash);
        } else if (header.base_sequence, header.previous_hash) != (tail.next_sequence, tail.previous_hash) {
            return Err(self.damaged(number, 0, "it does not continue the segment before it"));
        }
        let mut offset = GROUP_HEADER_BYTES;
        loop {
            let place = u64::try_from(offset).unwrap_or(u64::MAX);
            match group_at(bytes, offset) {
                Found::Group(group, body) => {
                    self.link(number, place, &group)?;
                    visit(&group, body).map_err(|source| JournalError::Content {
                        place: self.disk.name(number),
                        offset: place,
                        source,
                    })?;
                    if let Some(reader) = reader {
                        reader.note(number, group.base_sequence, place);
                    }
                    let from = if offset == GROUP_HEADER_BYTES { 0 } else { place };
                    offset = offset.saturating_add(GROUP_HEADER_BYTES).saturating_add(body.len());
                    let to = u64::try_from(offset).unwrap_or(u64::MAX);
                    self.last_group = Some(LastGroup { segment: number, from, to });
                }
                found => {
                    (self.recovered.tail.segment, self.recovered.tail.offset) = (number, place);
                    return self.end(read, offset, &found);
                }
            }
        }
    }

    /// An error where a header belongs to another segment.
    fn is_own(&self, number: u64, header: &SegmentHeader) -> Result<(), JournalError> {
        if header.number == number {
            return Ok(());
        }
        Err(self.damaged(number, 0, &format!("this is segment {}", header.number)))
    }

    /// A segment that no group begins: fresh, or torn with its first group.
    fn unused_segment(&mut self, number: u64, bytes: &[u8], later_is_used: bool) -> Result<bool, JournalError> {
        (self.recovered.tail.segment, self.recovered.tail.offset) = (number, 0);
        if later_is_used || beginning(bytes) == Beginning::Damaged {
            return Err(self.damaged(number, 0, HEADER_DAMAGED));
        }
        self.recovered.torn_bytes = written_bytes(bytes);
        Ok(false)
    }

    /// Decides what the first place without a sound group is: the end, a torn group, or damage.
    fn end(&mut self, read: &Read<'_>, offset: usize, found: &Found<'_>) -> Result<bool, JournalError> {
        let &Read { number, bytes, later_is_used, .. } = read;
        let place = u64::try_from(offset).unwrap_or(u64::MAX);
        let what = match found {
            Found::Bad(what) => format!("group of sequence {}: {what}", self.recovered.tail.next_sequence),
            _ => format!("group of sequence {} is missing", self.recovered.tail.next_sequence),
        };
        if let Some(after) = header_after(bytes, offset) {
            return Err(self.damaged(number, place, &format!("{what}, and sound groups follow at byte {after}")));
        }
        let rest = bytes.get(offset..).unwrap_or_default();
        if later_is_used {
            return if is_blank(rest) {
                Ok(true)
            } else {
                Err(self.damaged(number, place, &format!("{what}, and a later segment is in use")))
            };
        }
        self.recovered.torn_bytes = written_bytes(rest);
        Ok(false)
    }

    fn link(&mut self, number: u64, place: u64, group: &GroupHeader) -> Result<(), JournalError> {
        let tail = self.recovered.tail;
        if group.base_sequence != tail.next_sequence {
            let what = format!("sequence {} follows {}", group.base_sequence, tail.next_sequence.saturating_sub(1));
            return Err(self.damaged(number, place, &what));
        }
        if group.previous_hash != tail.previous_hash {
            return Err(self.damaged(
                number,
                place,
                &format!("the hash chain is broken before sequence {}", group.base_sequence),
            ));
        }
        if group.epoch < tail.epoch || group.time_ns < tail.next_time_ns {
            return Err(self.damaged(number, place, "epoch or time goes backwards"));
        }
        let tail = &mut self.recovered.tail;
        tail.next_sequence = group.next_sequence();
        tail.previous_hash = group.hash;
        tail.next_time_ns = group.time_ns.saturating_add(u64::from(group.count));
        tail.epoch = group.epoch;
        self.recovered.groups = self.recovered.groups.saturating_add(1);
        Ok(())
    }

    fn read(&self, number: u64) -> Result<Vec<u8>, JournalError> {
        let io = |source| JournalError::Io { place: self.disk.name(number), source };
        let size = self.disk.size(number).map_err(io)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let read = self.disk.read_at(number, 0, &mut bytes).map_err(io)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn damaged(&self, number: u64, offset: u64, what: &str) -> JournalError {
        JournalError::Damaged { place: self.disk.name(number), offset, what: what.to_owned() }
    }
}

/// Bytes up to the last that is not zero.
fn written_bytes(bytes: &[u8]) -> u64 {
    let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
    u64::try_from(written).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
