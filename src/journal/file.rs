//! The journal in segment files: the one writer.
//!
//! The next segment is made ready while this one fills ([`super::ahead`]), so that changing over costs nothing. When it cannot be made, as on a
//! disk that is full just then, that is said a whole segment ahead, and tried once more when it is needed.

use std::io;
use std::sync::Arc;

use super::ahead::Ahead;
use super::disk::Disk;
use super::group::{PendingGroup, header_bytes};
use super::reader::JournalReader;
use super::recovery::Tail;
use super::segment::{FORMAT_VERSION, SegmentHeader};
use super::{Appended, Journal};
use crate::ledger::Sequence;
use crate::planted::{self, Bug};

/// How the journal writes.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Whether a thread makes the next segment while this one fills; else it is made when this one is begun.
    pub ahead: bool,
}

/// The journal in segment files.
#[derive(Debug)]
pub struct FileJournal {
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    reader: Arc<JournalReader>,
    tail: Tail,
    /// Length of the segment that is written now.
    segment_bytes: u64,
    next_segment: Option<Ahead>,
    broken: bool,
}

impl FileJournal {
    /// Goes on after `tail`, as writer of the epoch after the tail's.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        tail: Tail,
        reader: Arc<JournalReader>,
    ) -> io::Result<Self> {
        let numbers = disk.list()?;
        if !numbers.contains(&tail.segment) {
            disk.create(tail.segment, options.segment_bytes, &|_| {})?;
        }
        let segment_bytes = disk.size(tail.segment)?;
        let mut journal = Self { disk, options, reader, tail, segment_bytes, next_segment: None, broken: false };
        journal.tail.epoch = journal.tail.epoch.saturating_add(1);
        journal.prepare_next(&numbers)?;
        Ok(journal)
    }

    /// The epoch in which this writer appends.
    pub fn epoch(&self) -> u64 {
        self.tail.epoch
    }

    /// Where the next group goes.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    fn prepare_next(&mut self, existing: &[u64]) -> io::Result<()> {
        let number = self.tail.segment.saturating_add(1);
        self.next_segment = Some(if existing.contains(&number) {
            Ahead::ready()
        } else {
            let next = Ahead::start(Arc::clone(&self.disk), (number, self.options.segment_bytes), self.options.ahead)?;
            next.is_written(self.tail.offset, self.segment_bytes);
            next
        });
        Ok(())
    }

    /// Goes on in the next segment, waiting for it if it is not ready.
    fn roll(&mut self) -> io::Result<()> {
        let ready = self.next_segment.take().ok_or_else(|| io::Error::other("no next segment"))?;
        let number = self.tail.segment.saturating_add(1);
        if let Err(err) = ready.wait() {
            // Nothing of it was written, so it may be tried again; but one that has its name has failed later, and is not trusted.
            if self.disk.list()?.contains(&number) {
                return Err(err);
            }
            self.disk.create(number, self.options.segment_bytes, &|_| {})?;
        }
        self.tail.segment = number;
        self.tail.offset = 0;
        self.segment_bytes = self.disk.size(self.tail.segment)?;
        let numbers = self.disk.list()?;
        self.prepare_next(&numbers)
    }

    /// How an append ends where the journal is not this process's any more, or that cannot be found out.
    fn taken_over(&mut self, unknown: fn(io::Error) -> Appended) -> Option<Appended> {
        let ended = match self.disk.is_ours() {
            Ok(true) => return None,
            Ok(false) => Appended::TakenOver,
            Err(err) => unknown(err),
        };
        self.broken = true;
        Some(ended)
    }

    fn write(&mut self, group: &PendingGroup) -> io::Result<()> {
        let Tail { segment, offset, .. } = self.tail;
        if offset == 0 {
            let header = SegmentHeader {
                version: FORMAT_VERSION,
                number: segment,
                base_sequence: group.base_sequence(),
                previous_hash: self.tail.previous_hash,
                segment_bytes: self.segment_bytes,
            };
            let mut bytes = header.encode().to_vec();
            bytes.extend_from_slice(group.bytes());
            self.disk.write_at(segment, 0, &bytes)?;
        } else {
            self.disk.write_at(segment, offset, group.bytes())?;
        }
        let synced = if planted::is(Bug::SyncSkipped) { Ok(()) } else { self.disk.sync(segment) };
        if planted::is(Bug::SyncErrorSwallowed) { Ok(()) } else { synced }
    }
}

impl Drop for FileJournal {
    /// Waits for the helper thread: a segment made after another journal was opened here would take that one's place.
    fn drop(&mut self) {
        if let Some(Err(err)) = self.next_segment.take().map(Ahead::wait) {
            tracing::warn!(%err, "the next journal segment could not be made ready");
        }
    }
}

impl Journal for FileJournal {
    fn append(&mut self, epoch: u64, expected: Sequence, group: &mut PendingGroup) -> Appended {
        if self.broken {
            return Appended::Failed(io::Error::other("an earlier write failed; restart to recover"));
        }
        if epoch != self.tail.epoch || expected != self.tail.next_sequence || group.base_sequence() != expected {
            return Appended::Fenced { expected: self.tail.next_sequence };
        }
        if let Some(ended) = self.taken_over(Appended::Failed) {
            return ended;
        }
        group.seal(epoch, &self.tail.previous_hash);
        let bytes = u64::try_from(group.bytes().len()).unwrap_or(u64::MAX);
        // A segment that holds nothing, or only its header after its first group was cut, is never left: what follows it would look like damage.
        if self.tail.offset > header_bytes()
            && self.tail.offset.saturating_add(bytes) > self.segment_bytes
            && let Err(err) = self.roll()
        {
            self.broken = true;
            return Appended::Failed(err);
        }
        if let Err(err) = self.write(group) {
            self.broken = true;
            return Appended::Unknown(err);
        }
        if !planted::is(Bug::FenceNotAsked)
            && let Some(ended) = self.taken_over(Appended::Unknown)
        {
            return ended;
        }
        let place = if self.tail.offset == 0 { header_bytes() } else { self.tail.offset };
        self.reader.note(self.tail.segment, expected, place);
        self.tail.offset = place.saturating_add(bytes);
        if let Some(next) = &self.next_segment {
            next.is_written(self.tail.offset, self.segment_bytes);
        }
        self.tail.previous_hash = *group.hash();
        self.tail.next_sequence = group.last_sequence().saturating_add(1);
        Appended::Durable
    }
}
