//! The journal against a disk in memory that can fail, tear and flip.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use proptest::prelude::*;

use super::*;
use crate::journal::window::WINDOW_BYTES;
use crate::journal::{Appended, FileJournal, Journal, JournalOptions, PendingGroup};
use crate::ledger::{AccountId, Code, GatewayId, RECORD_BYTES, Record, Transfer, TransferId};

const SEGMENT_BYTES: u64 = 4_096;

/// Segments in memory. Writes may be made to fail from the nth on.
#[derive(Debug, Default)]
struct MemoryDisk {
    segments: Mutex<BTreeMap<u64, Vec<u8>>>,
    calls_left: Mutex<Option<usize>>,
    /// Calls that found no room.
    refused: AtomicUsize,
    read_bytes: AtomicUsize,
    /// After so many looks it is another's.
    looks_left: Mutex<Option<usize>>,
}

impl MemoryDisk {
    fn spend(&self) -> io::Result<()> {
        match self.calls_left.lock().unwrap().as_mut() {
            Some(0) => {
                self.refused.fetch_add(1, Relaxed);
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn with<T>(&self, number: u64, act: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        self.segments.lock().unwrap().get_mut(&number).map(act).ok_or(io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.segments.lock().unwrap().keys().copied().collect())
    }
    fn create(&self, number: u64, bytes: u64, _: &dyn Fn(u64)) -> io::Result<()> {
        self.spend()?;
        self.segments.lock().unwrap().insert(number, vec![0; usize::try_from(bytes).unwrap()]);
        Ok(())
    }
    fn size(&self, number: u64) -> io::Result<u64> {
        self.with(number, |bytes| bytes.len() as u64)
    }
    fn read_at(&self, number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(number, |bytes| {
            let rest = &bytes[usize::try_from(offset).unwrap().min(bytes.len())..];
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            self.read_bytes.fetch_add(read, Relaxed);
            read
        })
    }
    fn write_at(&self, number: u64, offset: u64, written: &[u8]) -> io::Result<()> {
        self.spend()?;
        let offset = usize::try_from(offset).unwrap();
        self.with(number, |bytes| {
            let end = offset + written.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[offset..end].copy_from_slice(written);
        })
    }
    fn sync(&self, _: u64) -> io::Result<()> {
        self.spend()
    }
    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
    fn cool(&self, _: u64, _: std::ops::Range<u64>) {}
    fn name(&self, number: u64) -> String {
        format!("segment {number}")
    }
    fn is_ours(&self) -> io::Result<bool> {
        let mut left = self.looks_left.lock().unwrap();
        let is_ours = *left != Some(0);
        *left = left.map(|left| left.saturating_sub(1));
        Ok(is_ours)
    }
}

fn record(id: u64) -> Record {
    let transfer = Transfer {
        id: TransferId::from_raw(id.into()),
        debit: AccountId::from_raw(1),
        credit: AccountId::from_raw(2),
        amount: u128::from(id) * 3,
        ..Transfer::default()
    };
    Record::Transfer { transfer, outcome: Code::Accepted, gateway: GatewayId(7) }
}

fn group(first: u64, count: u64) -> PendingGroup {
    let mut group = PendingGroup::new(first, first * 10);
    (first..first + count).for_each(|id| group.extend(None, &record(id).encode()));
    group
}

fn start() -> (Arc<MemoryDisk>, Arc<dyn Disk>) {
    let memory = Arc::new(MemoryDisk::default());
    let disk: Arc<dyn Disk> = Arc::clone(&memory) as Arc<dyn Disk>;
    (memory, disk)
}

type Reopened = (Vec<u64>, FileJournal, Arc<JournalReader>, Recovered);

fn reopen(disk: &Arc<dyn Disk>) -> Result<Reopened, JournalError> {
    reopen_with(disk, SEGMENT_BYTES)
}

fn reopen_with(disk: &Arc<dyn Disk>, segment_bytes: u64) -> Result<Reopened, JournalError> {
    let reader = JournalReader::new(Arc::clone(disk));
    let mut ids = Vec::new();
    let recovered = recover(disk, &reader, (0, 0), &mut |_, body| {
        for bytes in body.chunks_exact(RECORD_BYTES) {
            let Record::Transfer { transfer, .. } = Record::decode(bytes.first_chunk().unwrap())? else {
                unreachable!()
            };
            ids.push(u64::try_from(transfer.id.raw())?);
        }
        Ok(())
    })?;
    let options = JournalOptions { segment_bytes, ahead: true };
    let journal = FileJournal::open(Arc::clone(disk), options, recovered.tail, Arc::clone(&reader)).unwrap();
    Ok((ids, journal, reader, recovered))
}

#[test]
fn a_disk_that_was_full_when_the_next_segment_was_to_be_made_stops_nobody_once_it_has_room() {
    let (memory, disk) = start();
    fill(&disk, &[1]);
    memory.segments.lock().unwrap().remove(&2).unwrap();
    let reader = JournalReader::new(Arc::clone(&disk));
    let recovered = recover(&disk, &reader, (0, 0), &mut |_, _| Ok(())).unwrap();
    *memory.calls_left.lock().unwrap() = Some(0);
    let options = JournalOptions { segment_bytes: SEGMENT_BYTES, ahead: true };
    let mut journal = FileJournal::open(Arc::clone(&disk), options, recovered.tail, reader).unwrap();
    while memory.refused.load(Relaxed) == 0 {
        std::thread::yield_now();
    }
    *memory.calls_left.lock().unwrap() = None;
    let mut next = 2;
    while journal.tail().segment == 1 {
        let epoch = journal.epoch();
        let appended = journal.append(epoch, next, &mut group(next, 1));
        assert!(matches!(appended, Appended::Durable), "{appended:?}");
        next += 1;
    }
    drop(journal);
    let (ids, ..) = reopen(&disk).unwrap();
    assert_eq!(ids.len() as u64, next - 1);
}

/// Appends groups of these sizes; answers how many records are durable.
fn fill(disk: &Arc<dyn Disk>, sizes: &[u64]) -> u64 {
    fill_with(disk, SEGMENT_BYTES, sizes)
}

fn fill_with(disk: &Arc<dyn Disk>, segment_bytes: u64, sizes: &[u64]) -> u64 {
    let (ids, mut journal, _, _) = reopen_with(disk, segment_bytes).unwrap();
    let mut next = ids.len() as u64 + 1;
    for &size in sizes {
        let mut group = group(next, size);
        let epoch = journal.epoch();
        match journal.append(epoch, next, &mut group) {
            Appended::Durable => next += size,
            _ => break,
        }
    }
    next - 1
}

#[test]
fn what_was_appended_is_recovered_across_segments_and_restarts() {
    let (_, disk) = start();
    assert_eq!(fill(&disk, &[1, 5, 20, 20, 3]), 49);
    assert_eq!(fill(&disk, &[30, 1]), 80);
    let (ids, journal, reader, recovered) = reopen(&disk).unwrap();
    assert_eq!(ids, (1..=80).collect::<Vec<_>>());
    assert_eq!((recovered.tail.next_sequence, recovered.torn_bytes, journal.epoch()), (81, 0, 3));
    for sequence in 1..=80 {
        let stored = reader.read(sequence).unwrap().unwrap();
        assert_eq!((stored.sequence, stored.record), (sequence, record(sequence)));
    }
    assert_eq!(reader.read(81).unwrap(), None);
    assert_eq!(reader.read(0).unwrap(), None);
}

#[test]
fn recovery_from_a_later_sequence_begins_at_its_segment_and_reads_older_records_on_demand() {
    let (_, disk) = start();
    fill(&disk, &[20, 20, 20, 20]);
    let reader = JournalReader::new(Arc::clone(&disk));
    let mut first = None;
    recover(&disk, &reader, (61, 80), &mut |group, _| {
        first = first.or(Some(group.base_sequence));
        Ok(())
    })
    .unwrap();
    assert_eq!(first, Some(41), "the segment of the record before, for the chain");
    assert_eq!(reader.read(3).unwrap().map(|stored| stored.record), Some(record(3)));
}

/// A reader that recovered from the end only, so that it knows nothing of older segments than where they begin.
/// A start that begins at a late segment finds earlier records by the headers of theirs.
#[test]
fn a_header_that_is_damaged_is_refused_also_where_nothing_is_read_at_first() {
    let (memory, disk) = start();
    let last = fill(&disk, &[7; 40]);
    let used: Vec<u64> = {
        let segments = memory.segments.lock().unwrap();
        segments.iter().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)).map(|(number, _)| *number).collect()
    };
    assert!(used.len() >= 4, "{used:?}");
    let from_the_end = || recover(&disk, &JournalReader::new(Arc::clone(&disk)), (last, 0), &mut |_, _| Ok(()));
    from_the_end().unwrap();
    for &number in &used {
        let sound = memory.segments.lock().unwrap()[&number].clone();
        let other = memory.segments.lock().unwrap()[&if number == 1 { 2 } else { number - 1 }].clone();
        let mut flipped = sound.clone();
        flipped[3] ^= 1;
        let mut of_another = sound.clone();
        of_another[..128].copy_from_slice(&other[..128]);
        for damaged in [flipped, of_another] {
            memory.segments.lock().unwrap().insert(number, damaged);
            let refused = from_the_end();
            assert!(matches!(refused, Err(JournalError::Damaged { .. })), "segment {number}: {refused:?}");
        }
        memory.segments.lock().unwrap().insert(number, sound);
    }
    from_the_end().unwrap();
}

/// The first group of a segment was torn, and its header stayed.
#[test]
fn a_segment_with_nothing_but_its_header_is_written_to_also_by_what_does_not_fit() {
    let (memory, disk) = start();
    fill(&disk, &[3; 2]);
    {
        let mut segments = memory.segments.lock().unwrap();
        let bytes = segments.get_mut(&1).unwrap();
        bytes[128..].fill(0);
        bytes[300] = 1;
    }
    let many = 2 * SEGMENT_BYTES / 128;
    assert_eq!(fill_with(&disk, 8 * SEGMENT_BYTES, &[many]), many);
    let (ids, _, _, recovered) = reopen(&disk).unwrap();
    assert_eq!((ids.len() as u64, recovered.tail.segment), (many, 1));
}

fn at_the_end(disk: &Arc<dyn Disk>, last: u64) -> Arc<JournalReader> {
    let reader = JournalReader::new(Arc::clone(disk));
    recover(disk, &reader, (last + 1, last), &mut |_, _| Ok(())).unwrap();
    reader
}

#[test]
fn an_old_record_is_found_without_reading_its_segment() {
    const SEGMENT: u64 = 4 << 20;
    let (memory, disk) = start();
    let groups = 2 * SEGMENT / (GROUP_HEADER_BYTES + RECORD_BYTES) as u64;
    let last = fill_with(&disk, SEGMENT, &vec![1; usize::try_from(groups).unwrap()]);
    let reader = at_the_end(&disk, last);
    let read_for = |sequence| {
        let before = memory.read_bytes.load(Relaxed);
        assert_eq!(reader.read(sequence).unwrap().map(|stored| stored.record), Some(record(sequence)));
        memory.read_bytes.load(Relaxed) - before
    };
    let (first, again) = (read_for(9_000), read_for(9_001));
    assert!(first < 400_000 && again < 100_000, "{first}, {again} bytes");
}

#[test]
fn a_large_old_group_is_looked_through_once() {
    const SEGMENT: u64 = 4 << 20;
    let (memory, disk) = start();
    let last = fill_with(&disk, SEGMENT, &[1, 1, 20_000, 1, 20_000, 20_000]);
    let reader = at_the_end(&disk, last);
    let read_for = |sequence| {
        let before = memory.read_bytes.load(Relaxed);
        assert_eq!(reader.read(sequence).unwrap().map(|stored| stored.record), Some(record(sequence)));
        memory.read_bytes.load(Relaxed) - before
    };
    read_for(9_000);
    let again = read_for(9_001);
    assert!(again < 10_000, "{again} bytes");
}

#[test]
fn who_goes_through_records_reads_each_byte_once() {
    const SEGMENT: u64 = 4 << 20;
    let (memory, disk) = start();
    let (small, large) = (vec![1; 4_000], [8_190; 2]);
    let last = fill_with(&disk, SEGMENT, &[small.as_slice(), &large, &small].concat());
    let reader = at_the_end(&disk, last);
    // Where its first group is, is sought.
    reader.scan(1, 1, &mut |_| true).unwrap();
    let before = memory.read_bytes.load(Relaxed);
    reader.scan(1, 1, &mut |_| true).unwrap();
    let one = memory.read_bytes.load(Relaxed) - before;
    assert!(one < 10_000, "{one} bytes for one record");
    let (before, mut records, mut most) = (memory.read_bytes.load(Relaxed), 0, 0);
    let mut read = before;
    reader
        .scan(1, last, &mut |_| {
            let now = memory.read_bytes.load(Relaxed);
            (records, most, read) = (records + 1, most.max(now - read), now);
            true
        })
        .unwrap();
    assert_eq!(records, 8_000 + 2 * 8_190);
    let bytes = records * RECORD_BYTES + (8_000 + 2) * GROUP_HEADER_BYTES;
    let all = read - before;
    assert!((bytes..bytes + 4 * WINDOW_BYTES).contains(&all), "{all} of {bytes}");
    assert!(most < 8_190 * RECORD_BYTES + 2 * WINDOW_BYTES, "{most} at once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the sizes of the groups and the order in which is asked, a record of a segment that nobody walked over is the one that was written.
    #[test]
    fn old_records_are_found(sizes in prop::collection::vec(prop_oneof![1..4_u64, 1..900_u64], 1..60), asked in prop::collection::vec(any::<u64>(), 1..40)) {
        const SEGMENT: u64 = 1 << 20;
        let (_, disk) = start();
        let last = fill_with(&disk, SEGMENT, &sizes);
        let reader = at_the_end(&disk, last);
        for sequence in asked.iter().map(|asked| asked % (last + 1)) {
            let expected = (sequence > 0).then(|| record(sequence));
            prop_assert_eq!(reader.read(sequence).unwrap().map(|stored| stored.record), expected);
        }
        let mut next = asked[0] % last + 1;
        let until = reader.scan(next, last, &mut |stored| {
            assert_eq!((stored.sequence, stored.record), (next, record(next)));
            next += 1;
            true
        });
        prop_assert_eq!((until.unwrap(), next), (last + 1, last + 1));
        prop_assert_eq!(reader.read(last + 1).unwrap(), None);
    }
}

#[test]
fn a_fenced_writer_writes_nothing() {
    let (_, disk) = start();
    let (_, mut journal, _, _) = reopen(&disk).unwrap();
    let epoch = journal.epoch();
    assert!(matches!(journal.append(epoch + 1, 1, &mut group(1, 1)), Appended::Fenced { expected: 1 }));
    assert!(matches!(journal.append(epoch, 2, &mut group(2, 1)), Appended::Fenced { expected: 1 }));
    assert!(matches!(journal.append(epoch, 1, &mut group(1, 1)), Appended::Durable));
    assert_eq!(reopen(&disk).unwrap().0, [1]);
}

/// Before it is written, or after; in the latter case it is there, and nobody was told so.
#[test]
fn a_group_does_not_count_once_the_journal_was_taken_over() {
    for looks in 0..12 {
        let (memory, disk) = start();
        let (_, mut journal, _, _) = reopen(&disk).unwrap();
        let epoch = journal.epoch();
        *memory.looks_left.lock().unwrap() = Some(looks);
        let counted = (1..=12).step_by(2).take_while(|&first| {
            let appended = journal.append(epoch, first, &mut group(first, 2));
            assert!(matches!(appended, Appended::Durable | Appended::TakenOver), "{appended:?}");
            matches!(appended, Appended::Durable)
        });
        let counted = counted.count() as u64;
        assert_eq!(counted, looks as u64 / 2);
        let next = counted * 2 + 1;
        assert!(matches!(journal.append(epoch, next, &mut group(next, 2)), Appended::Failed(_)), "it came back");
        drop(journal);
        let there = counted * 2 + if looks % 2 == 1 { 2 } else { 0 };
        assert_eq!(reopen(&disk).unwrap().0, (1..=there).collect::<Vec<_>>());
    }
}

#[test]
fn the_first_failed_call_ends_writing_and_nothing_durable_is_lost() {
    for calls in 0..40 {
        let (memory, disk) = start();
        drop(reopen(&disk).unwrap());
        *memory.calls_left.lock().unwrap() = Some(calls);
        let (_, mut journal, _, _) = reopen(&disk).unwrap();
        let mut durable = 0;
        let mut failed = false;
        for first in (1..200).step_by(5) {
            let epoch = journal.epoch();
            match journal.append(epoch, first, &mut group(first, 5)) {
                Appended::Durable => {
                    assert!(!failed, "durable after a failure");
                    durable = first + 4;
                }
                _ => failed = true,
            }
        }
        assert!(failed);
        *memory.calls_left.lock().unwrap() = None;
        let (ids, ..) = reopen(&disk).unwrap();
        assert!(ids.len() as u64 >= durable, "{calls} calls: {durable} durable, {} found", ids.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// A last group of which only some 512-byte sectors reached the disk is cut, and writing goes on.
    #[test]
    fn a_torn_last_group_is_cut(sizes in prop::collection::vec(1..12_u64, 0..12), last in 1..12_u64, kept in any::<u64>()) {
        let (memory, disk) = start();
        let durable = fill(&disk, &sizes);
        let before = memory.segments.lock().unwrap().clone();
        fill(&disk, &[last]);
        let mut torn = false;
        for (number, bytes) in memory.segments.lock().unwrap().iter_mut() {
            let old = before.get(number).cloned().unwrap_or_else(|| vec![0; bytes.len()]);
            for (sector, (new, old)) in bytes.chunks_mut(512).zip(old.chunks(512)).enumerate() {
                if new != old && kept >> (sector % 64) & 1 == 0 {
                    new.copy_from_slice(old);
                    torn = true;
                }
            }
        }
        let (ids, ..) = reopen(&disk).unwrap();
        let all = durable + if torn { 0 } else { last };
        prop_assert_eq!(ids, (1..=all).collect::<Vec<_>>());
        // From a checkpoint at the end the walk must know epoch and time all the same.
        let reader = JournalReader::new(Arc::clone(&disk));
        let recovered = recover(&disk, &reader, (all + 1, all), &mut |_, _| Ok(())).unwrap();
        prop_assert_eq!(recovered.tail.next_sequence, all + 1);
        prop_assert!(all == 0 || (recovered.tail.epoch > 0 && recovered.tail.next_time_ns > 0));
        prop_assert_eq!(fill(&disk, &[3]), all + 3);
        prop_assert_eq!(reopen(&disk).unwrap().0.len() as u64, all + 3);
    }

    /// A changed byte in any group but the last is refused with its place; nothing is cut.
    #[test]
    fn damage_before_the_last_group_is_refused(sizes in prop::collection::vec(1..12_u64, 2..12), at in any::<usize>(), bit in 0..8_u8) {
        let (memory, disk) = start();
        fill(&disk, &sizes);
        let (_, _, _, recovered) = reopen(&disk).unwrap();
        let last = sizes[sizes.len() - 1];
        let last_bytes = GROUP_HEADER_BYTES as u64 + last * RECORD_BYTES as u64;
        let mut places = Vec::new();
        let image = memory.segments.lock().unwrap().clone();
        for (number, bytes) in &image {
            let used = match number.cmp(&recovered.tail.segment) {
                std::cmp::Ordering::Less => bytes.len(),
                std::cmp::Ordering::Equal => usize::try_from(recovered.tail.offset - last_bytes).unwrap(),
                std::cmp::Ordering::Greater => 0,
            };
            // A segment header is written with the first group, so if that is the last it may be torn too.
            let whole = if used == GROUP_HEADER_BYTES { 0 } else { used };
            places.extend((0..whole).map(|offset| (*number, offset)));
        }
        prop_assume!(!places.is_empty());
        let (number, offset) = places[at % places.len()];
        memory.segments.lock().unwrap().get_mut(&number).unwrap()[offset] ^= 1 << bit;
        let damaged = memory.segments.lock().unwrap().clone();
        prop_assert!(matches!(reopen(&disk), Err(JournalError::Damaged { .. })), "segment {} byte {}", number, offset);
        prop_assert!(damaged == *memory.segments.lock().unwrap(), "nothing is repaired");
    }
}

#[test]
fn a_record_read_alone_is_never_believed_from_a_damaged_group() {
    let (memory, disk) = start();
    assert_eq!(fill(&disk, &[3, 5]), 8);
    for bit in [0, 700, 8 * (RECORD_BYTES + 40), 8 * (2 * RECORD_BYTES + 127) + 7] {
        let (_, journal, _, _) = reopen(&disk).unwrap();
        drop(journal);
        // The records of the second group, after the segment's header, the first group and its own header.
        let at = 3 * GROUP_HEADER_BYTES + 3 * RECORD_BYTES + bit / 8;
        let flip = || memory.with(1, |bytes| bytes[at] ^= 1 << (bit % 8)).unwrap();
        let reader = JournalReader::new(Arc::clone(&disk));
        recover(&disk, &reader, (0, 0), &mut |_, _| Ok(())).unwrap();
        flip();
        assert_eq!(reader.read(2).unwrap().map(|stored| stored.record), Some(record(2)));
        for sequence in 4..=8 {
            assert!(matches!(reader.read(sequence), Err(JournalError::Damaged { .. })), "bit {bit}, {sequence}");
        }
        let scanned = reader.scan(1, 8, &mut |stored| stored.sequence <= 3);
        assert!(matches!(scanned, Err(JournalError::Damaged { .. })), "bit {bit}: {scanned:?}");
        flip();
    }
}

#[test]
fn reading_ends_where_the_header_of_a_group_is_damaged() {
    let (memory, disk) = start();
    assert_eq!(fill(&disk, &[3, 5]), 8);
    // That of the second group, after the segment's and the first group.
    let header = 2 * GROUP_HEADER_BYTES + 3 * RECORD_BYTES;
    let reader = || {
        let reader = JournalReader::new(Arc::clone(&disk));
        recover(&disk, &reader, (0, 0), &mut |_, _| Ok(())).unwrap();
        reader
    };
    for byte in 0..GROUP_HEADER_BYTES {
        let reader = reader();
        let flip = || memory.with(1, |bytes| bytes[header + byte] ^= 1 << (byte % 8)).unwrap();
        flip();
        let mut shown = 0;
        let scanned = reader.scan(1, 8, &mut |_| {
            shown += 1;
            true
        });
        assert!(matches!(scanned, Err(JournalError::Damaged { .. })), "byte {byte}: {scanned:?}");
        assert_eq!(shown, 3);
        assert!(matches!(reader.read(4), Err(JournalError::Damaged { .. })), "byte {byte}");
        flip();
    }
    let sound = memory.with(1, |bytes| bytes.clone()).unwrap();
    let is_damaged = |reader: &JournalReader, until| {
        let scanned = reader.scan(1, until, &mut |_| true);
        assert!(matches!(scanned, Err(JournalError::Damaged { .. })), "{scanned:?}");
    };
    is_damaged(&reader(), 9);
    let zeroed = reader();
    memory.with(1, |bytes| bytes[header..header + GROUP_HEADER_BYTES].fill(0)).unwrap();
    is_damaged(&zeroed, 8);
    assert!(zeroed.read(4).unwrap().is_none());
    memory.with(1, |bytes| bytes.clone_from(&sound)).unwrap();
    let moved = reader();
    memory.with(1, |bytes| bytes.copy_within(header.., GROUP_HEADER_BYTES)).unwrap();
    is_damaged(&moved, 8);
}

#[test]
fn a_group_that_went_to_another_place_is_noticed() {
    let (memory, disk) = start();
    fill(&disk, &[3, 5, 2]);
    let (_, journal, _, recovered) = reopen(&disk).unwrap();
    drop(journal);
    let image = memory.segments.lock().unwrap().clone();
    let (segment, end) = (recovered.tail.segment, usize::try_from(recovered.tail.offset).unwrap());
    let bytes = GROUP_HEADER_BYTES + 2 * RECORD_BYTES;
    let begin = end - bytes;
    assert!(image.len() > 1, "the next segment is one of the places");
    for (&number, content) in &image {
        for place in
            (0..=content.len() - bytes).step_by(RECORD_BYTES).filter(|place| (number, *place) != (segment, begin))
        {
            let mut moved = image.clone();
            let group = moved[&segment][begin..end].to_vec();
            moved.get_mut(&segment).unwrap()[begin..end].fill(0);
            moved.get_mut(&number).unwrap()[place..place + bytes].copy_from_slice(&group);
            *memory.segments.lock().unwrap() = moved;
            assert!(matches!(reopen(&disk), Err(JournalError::Damaged { .. })), "segment {number} byte {place}");
        }
    }
}
