//! A group: what one sync makes durable.
//!
//! Its header, 128 bytes, little-endian:
//!
//! ```text
//! place  0      8      16             24       32     36        40        48             80    112       124
//!        magic  epoch  base_sequence  time_ns  count  body_crc  reserved  previous_hash  hash  reserved  header_crc
//! ```
//!
//! `hash` is BLAKE3 over places 0..80 and the records, so each group vouches for all before it. The CRCs (CRC32C) find
//! accidents cheaply; the chain finds what was altered with care. Record `i` has sequence `base_sequence + i` and time
//! `time_ns + i`, so times are unique and in order.

use std::sync::Arc;
use std::time::Instant;

use crossbeam::queue::ArrayQueue;

use crate::flow::AuditReply;
use crate::ledger::{RECORD_BYTES, Record, RecordError, Sequence, TransferId, get, record_transfer_id, set};

/// Bytes of a group header and of a segment header.
pub const GROUP_HEADER_BYTES: usize = 128;

/// `HENGGRP1`. Its first two bytes are no record kind.
const MAGIC: u64 = u64::from_le_bytes(*b"HENGGRP1");

/// Groups whose memory is kept while no group needs it.
const SPARES_MAX: usize = 4;

/// Bytes of records up to which it is kept: after a burst of greater ones it is given back.
const SPARE_BYTES_MAX: usize = 16 << 20;

const HASHED: usize = 80;
const CRC_AT: usize = 124;

/// A BLAKE3 hash in the chain.
pub type Hash = [u8; 32];

/// What a group header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Which start of the server wrote it.
    pub epoch: u64,
    /// Sequence of the first record.
    pub base_sequence: Sequence,
    /// Time of the first record, nanoseconds since 1970 UTC.
    pub time_ns: u64,
    /// Number of records.
    pub count: u32,
    /// CRC32C of the records.
    pub body_crc: u32,
    /// Hash of the group before; zero for the first.
    pub previous_hash: Hash,
    /// Hash of this group.
    pub hash: Hash,
}

/// Which shard decided how many records in a row. Not stored: it only helps to compare shards with the records.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The shard, or none for records that no shard decided.
    pub shard: Option<usize>,
    /// The number of records.
    pub count: usize,
}

/// [`GROUP_HEADER_BYTES`], where places are counted; also the place of a segment's first group, behind its header.
pub(super) fn header_bytes() -> u64 {
    u64::try_from(GROUP_HEADER_BYTES).unwrap_or(u64::MAX)
}

/// A group being filled or written.
#[derive(Debug)]
pub struct PendingGroup {
    base_sequence: Sequence,
    time_ns: u64,
    bytes: Vec<u8>,
    /// The transfer id of each record, or an invalid one: the router needs no more, and these lie close together.
    ids: Vec<TransferId>,
    runs: Vec<Run>,
    audits: Vec<(usize, AuditReply)>,
    hash: Hash,
    spares: Option<Arc<Spares>>,
}

/// Memory of groups that nobody reads any more, for the next ones: memory that is used for the first time is dear.
#[derive(Debug)]
pub struct Spares(ArrayQueue<(Vec<u8>, Vec<TransferId>)>);

/// A durable group.
#[derive(Debug)]
pub struct Group {
    inner: PendingGroup,
    /// When its sync returned.
    pub durable_at: Instant,
}

impl GroupHeader {
    /// Reads a header; `None` when these bytes are none or are damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < GROUP_HEADER_BYTES || u64::from_le_bytes(get::<0, 8>(bytes)) != MAGIC {
            return None;
        }
        if u32::from_le_bytes(get::<CRC_AT, 4>(bytes)) != crc32c::crc32c(bytes.get(..CRC_AT)?) {
            return None;
        }
        Some(Self {
            epoch: u64::from_le_bytes(get::<8, 8>(bytes)),
            base_sequence: u64::from_le_bytes(get::<16, 8>(bytes)),
            time_ns: u64::from_le_bytes(get::<24, 8>(bytes)),
            count: u32::from_le_bytes(get::<32, 4>(bytes)),
            body_crc: u32::from_le_bytes(get::<36, 4>(bytes)),
            previous_hash: get::<48, 32>(bytes),
            hash: get::<80, 32>(bytes),
        })
    }

    /// Bytes of the records.
    pub fn body_bytes(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX).saturating_mul(RECORD_BYTES)
    }

    /// Sequence after the last record.
    pub fn next_sequence(&self) -> Sequence {
        self.base_sequence.saturating_add(u64::from(self.count))
    }

    /// The hash that these header fields and these records must have.
    pub fn expected_hash(header: &[u8], body: &[u8]) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header.get(..HASHED).unwrap_or_default());
        hasher.update(body);
        *hasher.finalize().as_bytes()
    }
}

impl PendingGroup {
    /// An empty group.
    pub fn new(base_sequence: Sequence, time_ns: u64) -> Self {
        Self::in_memory(base_sequence, time_ns, (vec![0; GROUP_HEADER_BYTES], Vec::new()), None)
    }

    /// An empty group with room for so many records, because growing would copy them. Its memory comes from these spares and goes back there.
    pub fn with_room(base_sequence: Sequence, time_ns: u64, records: usize, spares: &Arc<Spares>) -> Self {
        let (mut bytes, mut ids) = spares.0.pop().unwrap_or_default();
        bytes.reserve(records.saturating_mul(RECORD_BYTES).saturating_add(GROUP_HEADER_BYTES));
        bytes.resize(GROUP_HEADER_BYTES, 0);
        ids.reserve(records);
        Self::in_memory(base_sequence, time_ns, (bytes, ids), Some(Arc::clone(spares)))
    }

    fn in_memory(
        base_sequence: Sequence,
        time_ns: u64,
        (bytes, ids): (Vec<u8>, Vec<TransferId>),
        spares: Option<Arc<Spares>>,
    ) -> Self {
        Self { base_sequence, time_ns, bytes, ids, runs: Vec::new(), audits: Vec::new(), hash: [0; 32], spares }
    }

    /// Adds encoded records decided by one shard.
    pub fn extend(&mut self, shard: Option<usize>, records: &[u8]) {
        debug_assert_eq!(records.len() % RECORD_BYTES, 0);
        self.bytes.extend_from_slice(records);
        self.ids.extend(records.as_chunks::<RECORD_BYTES>().0.iter().map(record_transfer_id));
        self.runs.push(Run { shard, count: records.len() / RECORD_BYTES });
    }

    /// Adds balances as of after the records so far.
    pub fn push_audit(&mut self, audit: AuditReply) {
        self.audits.push((self.count(), audit));
    }

    /// Takes the audits out, when there are no records for them to wait for.
    pub fn take_audits(&mut self) -> Vec<AuditReply> {
        std::mem::take(&mut self.audits).into_iter().map(|(_, audit)| audit).collect()
    }

    /// Says when its first record is, nanoseconds since 1970 UTC; only while there is none.
    pub fn begin_at(&mut self, time_ns: u64) {
        debug_assert_eq!(self.count(), 0, "the times of records never change");
        self.time_ns = time_ns;
    }

    /// Sequence of the first record.
    pub fn base_sequence(&self) -> Sequence {
        self.base_sequence
    }

    /// Time of the first record, nanoseconds since 1970 UTC.
    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Sequence of the last record.
    pub fn last_sequence(&self) -> Sequence {
        self.base_sequence.saturating_add(u64::try_from(self.count()).unwrap_or(u64::MAX)).saturating_sub(1)
    }

    /// Number of records.
    pub fn count(&self) -> usize {
        self.bytes.len().saturating_sub(GROUP_HEADER_BYTES) / RECORD_BYTES
    }

    /// Fills in the header and links the group to the one before. Done by the journal, in the order of writing.
    pub fn seal(&mut self, epoch: u64, previous_hash: &Hash) {
        let (header, body) = self.bytes.split_at_mut(GROUP_HEADER_BYTES);
        let count = u32::try_from(body.len() / RECORD_BYTES).unwrap_or(u32::MAX);
        set::<0, 8>(header, MAGIC.to_le_bytes());
        set::<8, 8>(header, epoch.to_le_bytes());
        set::<16, 8>(header, self.base_sequence.to_le_bytes());
        set::<24, 8>(header, self.time_ns.to_le_bytes());
        set::<32, 4>(header, count.to_le_bytes());
        set::<36, 4>(header, crc32c::crc32c(body).to_le_bytes());
        set::<48, 32>(header, *previous_hash);
        self.hash = GroupHeader::expected_hash(header, body);
        set::<80, 32>(header, self.hash);
        let crc = crc32c::crc32c(header.get(..CRC_AT).unwrap_or_default());
        set::<CRC_AT, 4>(header, crc.to_le_bytes());
    }

    /// Header and records, as sealed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash, as sealed.
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// Says that it is durable.
    pub fn into_durable(self) -> Group {
        Group { inner: self, durable_at: Instant::now() }
    }
}

impl Drop for PendingGroup {
    fn drop(&mut self) {
        if let Some(spares) = self.spares.as_ref().filter(|_| self.bytes.capacity() <= SPARE_BYTES_MAX) {
            self.bytes.clear();
            self.ids.clear();
            // What there is no place for is not needed.
            drop(spares.0.push((std::mem::take(&mut self.bytes), std::mem::take(&mut self.ids))));
        }
    }
}

impl Default for Spares {
    fn default() -> Self {
        Self(ArrayQueue::new(SPARES_MAX))
    }
}

impl Group {
    /// Sequence of the first record.
    pub fn base_sequence(&self) -> Sequence {
        self.inner.base_sequence
    }

    /// Time of the first record.
    pub fn time_ns(&self) -> u64 {
        self.inner.time_ns
    }

    /// Sequence of the last record.
    pub fn last_sequence(&self) -> Sequence {
        self.inner.last_sequence()
    }

    /// The encoded records in order.
    pub fn records(&self) -> impl Iterator<Item = &[u8; RECORD_BYTES]> {
        let body = self.inner.bytes.get(GROUP_HEADER_BYTES..).unwrap_or_default();
        body.as_chunks::<RECORD_BYTES>().0.iter()
    }

    /// The transfer id of each record in order; an invalid id where the record is not a transfer.
    pub fn transfer_ids(&self) -> &[TransferId] {
        &self.inner.ids
    }

    /// Record at this place in the group.
    pub fn record(&self, place: usize) -> Option<Result<Record, RecordError>> {
        let body = self.inner.bytes.get(GROUP_HEADER_BYTES..)?;
        body.as_chunks::<RECORD_BYTES>().0.get(place).map(Record::decode)
    }

    /// Number of records.
    pub fn count(&self) -> usize {
        self.inner.count()
    }

    /// Which shard decided which records.
    pub fn runs(&self) -> &[Run] {
        &self.inner.runs
    }

    /// Balances, each with the number of this group's records that come before it.
    pub fn audits(&self) -> &[(usize, AuditReply)] {
        &self.inner.audits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_was_sealed_and_notices_each_flipped_bit() {
        let mut group = PendingGroup::new(17, 1_000);
        group.extend(None, &[7; RECORD_BYTES * 3]);
        group.seal(5, &[9; 32]);
        let header = GroupHeader::decode(group.bytes()).unwrap();
        assert_eq!((header.epoch, header.base_sequence, header.time_ns, header.count), (5, 17, 1_000, 3));
        assert_eq!((header.next_sequence(), header.previous_hash), (20, [9; 32]));
        let (head, body) = group.bytes().split_at(GROUP_HEADER_BYTES);
        assert_eq!(GroupHeader::expected_hash(head, body), header.hash);
        for bit in 0..GROUP_HEADER_BYTES * 8 {
            let mut damaged = group.bytes().to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn a_group_in_memory_of_another_begins_empty() {
        let (mut fresh, spares) = (PendingGroup::new(18, 2_000), Arc::default());
        let mut first = PendingGroup::with_room(17, 1_000, 100, &spares);
        first.extend(Some(3), &[7; RECORD_BYTES * 100]);
        first.seal(5, &[9; 32]);
        let memory = first.bytes().as_ptr();
        drop(first.into_durable());
        let mut second = PendingGroup::with_room(18, 2_000, 50, &spares);
        assert_eq!(second.bytes().as_ptr(), memory, "it is used again");
        assert_eq!(second.count(), 0);
        for group in [&mut second, &mut fresh] {
            group.extend(None, &[8; RECORD_BYTES]);
            group.seal(6, &[4; 32]);
        }
        assert_eq!(second.bytes(), fresh.bytes());
        let (second, fresh) = (second.into_durable(), fresh.into_durable());
        assert_eq!(second.transfer_ids(), fresh.transfer_ids());
        assert_eq!((second.runs().len(), second.audits().len()), (1, 0));
    }
}
