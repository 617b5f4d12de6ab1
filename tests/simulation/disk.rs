//! A simulated disk: what was not synced may be lost in part, in any order, and torn; it may refuse, be full or slow, and stop at any write or sync; what it said
//! was written may be found damaged, or somewhere else.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use heng::journal::Disk;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The operating system's number of an input or output error.
const EIO: i32 = 5;

/// What is written whole or not at all.
pub(crate) const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct Segment {
    durable: Vec<u8>,
    live: Vec<u8>,
    /// Written since the last sync: where, and what.
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// What can go wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes.
    Power,
    /// The next write fails, and nothing of it is there.
    Write,
    /// The next write fails when a part of it is there.
    ShortWrite,
    /// The next sync fails, and what it should have made durable may be gone.
    Sync,
    /// No file can be made any more.
    Full,
    /// Another process takes the ledger over, and this one is not told.
    TakeOver,
}

#[cfg(not(feature = "planted"))]
impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::Power, Self::Write, Self::ShortWrite, Self::Sync, Self::Full, Self::TakeOver];
}

/// Writes that are remembered after they were synced.
const RECENT: usize = 12;

/// A write that was synced.
#[derive(Clone, Debug)]
struct Written {
    segment: u64,
    offset: usize,
    before: Vec<u8>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct State {
    segments: BTreeMap<u64, Segment>,
    /// The last writes that were synced, in order.
    recent: VecDeque<Written>,
    rng: StdRng,
    /// Calls so far.
    calls: u64,
    /// What happens at the call after so many.
    armed: Option<(u64, Fault)>,
    /// What has gone wrong, and lasts until the server ends.
    wrong: Option<Fault>,
    /// What the process has that took the ledger over, once one has.
    heir: Option<BTreeMap<u64, Segment>>,
    /// Whether anything has failed since the server started.
    has_failed: bool,
    /// The most that a sync takes, nanoseconds.
    slow_ns: u64,
}

/// Segments on a disk that can be trusted as far as a real one.
#[derive(Debug)]
pub(crate) struct SimDisk {
    state: Mutex<State>,
    now_ns: Arc<AtomicU64>,
}

/// What was written is there for good.
fn trust(segments: &mut BTreeMap<u64, Segment>) {
    for segment in segments.values_mut() {
        segment.durable.clone_from(&segment.live);
        segment.unsynced.clear();
    }
}

fn down() -> io::Error {
    io::Error::other("the power is gone")
}

impl State {
    /// Counts a call; an error when the power goes, or went, at it.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        self.armed = match self.armed {
            Some((0, fault)) => {
                self.goes_wrong(fault);
                None
            }
            Some((left, fault)) => Some((left - 1, fault)),
            None => None,
        };
        if self.wrong == Some(Fault::Power) { Err(down()) } else { Ok(()) }
    }

    fn goes_wrong(&mut self, fault: Fault) {
        if fault != Fault::TakeOver {
            self.wrong = Some(fault);
            return;
        }
        // What was written is read, and made durable.
        let mut heir = self.segments.clone();
        trust(&mut heir);
        self.heir.get_or_insert(heir);
        self.has_failed = true;
    }

    /// Whether this goes wrong now, for once.
    fn is_wrong(&mut self, fault: Fault) -> bool {
        let is_wrong = self.wrong.take_if(|wrong| *wrong == fault).is_some();
        self.has_failed |= is_wrong;
        is_wrong
    }

    /// Keeps of what was not synced what happens to have reached the disk: any sectors of any writes.
    fn lose_unsynced(&mut self) {
        let Self { segments, rng, .. } = self;
        for segment in segments.values_mut() {
            let keep = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4_usize)];
            for (offset, bytes) in std::mem::take(&mut segment.unsynced) {
                let mut at = offset;
                while at < offset + bytes.len() {
                    let end = ((at / SECTOR + 1) * SECTOR).min(offset + bytes.len());
                    if rng.random_bool(keep) {
                        segment.durable[at..end].copy_from_slice(&bytes[at - offset..end - offset]);
                    }
                    at = end;
                }
            }
            segment.live.clone_from(&segment.durable);
        }
    }
}

impl SimDisk {
    pub(crate) fn new(seed: u64, now_ns: Arc<AtomicU64>) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ 0xD15C);
        let (segments, recent) = (BTreeMap::new(), VecDeque::new());
        let (armed, wrong, heir) = (None, None, None);
        let state = State { segments, recent, rng, calls: 0, armed, wrong, heir, has_failed: false, slow_ns: 0 };
        Self { state: Mutex::new(state), now_ns }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets something go wrong at the call after so many.
    pub(crate) fn arm(&self, calls: u64, fault: Fault) {
        self.state().armed = Some((calls, fault));
    }

    /// Lets something go wrong from now on.
    pub(crate) fn fail(&self, fault: Fault) {
        let mut state = self.state();
        if state.wrong != Some(Fault::Power) {
            state.goes_wrong(fault);
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn mend(&self) {
        let mut state = self.state();
        if state.wrong != Some(Fault::Power) {
            (state.armed, state.wrong, state.slow_ns) = (None, None, 0);
        }
    }

    /// How often it was called.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Lets a sync take up to so long.
    pub(crate) fn slow(&self, most_ns: u64) {
        self.state().slow_ns = most_ns;
    }

    /// Whether it has refused anything that was written or synced since the server started.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// Whether another process has the ledger.
    pub(crate) fn is_taken_over(&self) -> bool {
        self.state().heir.is_some()
    }

    pub(crate) fn is_down(&self) -> bool {
        self.state().wrong == Some(Fault::Power)
    }

    /// The process ended: with the power, or by itself, when the operating system still has what was written, but has not made it durable. If its
    /// ledger was taken over, the heir is the one that starts.
    pub(crate) fn restart(&self, with_power: bool) {
        let mut state = self.state();
        if with_power || state.wrong == Some(Fault::Power) {
            state.lose_unsynced();
        }
        if let Some(heir) = state.heir.take() {
            state.segments = heir;
            state.recent.clear();
        }
        (state.armed, state.wrong, state.has_failed) = (None, None, false);
    }

    /// The same bytes as if one of the last writes had gone to another place of the disk, by whole sectors, and those after it to theirs.
    pub(crate) fn misdirected(&self, rng: &mut StdRng) -> Option<Self> {
        let state = self.state();
        let (mut segments, recent) = (state.segments.clone(), state.recent.clone());
        drop(state);
        let chosen = rng.random_range(0..recent.len().max(1));
        let Written { segment, offset, before, bytes } = recent.get(chosen)?;
        let numbers: Vec<u64> = segments.keys().copied().collect();
        let target = numbers[rng.random_range(0..numbers.len())];
        let room = segments[&target].durable.len().checked_sub(bytes.len() + offset % SECTOR)?;
        let place = rng.random_range(0..=room / SECTOR) * SECTOR + offset % SECTOR;
        // What was written later stands where it was written.
        let overlaps = |later: &Written, (number, from): (u64, usize)| {
            later.segment == number && later.offset < from + bytes.len() && from < later.offset + later.bytes.len()
        };
        let is_over = |later: &Written| overlaps(later, (*segment, *offset)) || overlaps(later, (target, place));
        if (target, place) == (*segment, *offset) || recent.iter().skip(chosen + 1).any(is_over) {
            return None;
        }
        segments.get_mut(segment)?.durable[*offset..offset + bytes.len()].copy_from_slice(before);
        segments.get_mut(&target)?.durable[place..place + bytes.len()].copy_from_slice(bytes);
        Some(Self::found(segments, rng.random()))
    }

    /// The same bytes, as they are when the power is gone and nothing more is lost.
    pub(crate) fn copy(&self) -> Self {
        Self::found(self.state().segments.clone(), 0)
    }

    /// Writes the segments as files, as a server on a real disk would have them.
    pub(crate) fn export(&self, directory: &Path) {
        for (number, segment) in &self.state().segments {
            fs::write(directory.join(format!("{number:012}.journal")), &segment.durable).unwrap();
        }
    }

    /// A disk on which this is found.
    fn found(mut segments: BTreeMap<u64, Segment>, seed: u64) -> Self {
        for segment in segments.values_mut() {
            segment.live.clone_from(&segment.durable);
            segment.unsynced.clear();
        }
        let copy = Self::new(seed, Arc::default());
        copy.state().segments = segments;
        copy
    }

    /// The same bytes with one fault in them at rest, before a place: a bit, a sector of zeros, or two sectors exchanged.
    pub(crate) fn damaged(&self, rng: &mut StdRng, (last, until): (u64, usize)) -> Option<Self> {
        let mut segments = self.state().segments.clone();
        let end = |segment: &Segment| segment.durable.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let whole: Vec<(u64, usize)> = segments
            .range(..=last)
            .map(|(number, segment)| (*number, if *number == last { until } else { end(segment) }))
            .filter(|(_, end)| *end > 2 * SECTOR)
            .collect();
        let (number, end) = *whole.get(rng.random_range(0..whole.len().max(1)))?;
        let bytes = &mut segments.get_mut(&number)?.durable;
        let before = bytes.clone();
        let sectors = end / SECTOR;
        match rng.random_range(0..3) {
            0 => bytes[rng.random_range(0..end)] ^= 1 << rng.random_range(0..8),
            1 => {
                let sector = rng.random_range(0..sectors) * SECTOR;
                bytes[sector..sector + SECTOR].fill(0);
            }
            _ => {
                let (a, b) = (rng.random_range(0..sectors) * SECTOR, rng.random_range(0..sectors) * SECTOR);
                for place in 0..SECTOR {
                    bytes.swap(a + place, b + place);
                }
            }
        }
        if *bytes == before {
            return None;
        }
        Some(Self::found(segments, rng.random()))
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.state().segments.keys().copied().collect())
    }

    fn create(&self, number: u64, bytes: u64, _: &dyn Fn(u64)) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        if state.wrong == Some(Fault::Full) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let zeros = vec![0; usize::try_from(bytes).unwrap()];
        let segment = Segment { durable: zeros.clone(), live: zeros, unsynced: Vec::new() };
        assert!(state.segments.insert(number, segment).is_none(), "segment {number} is made over one that is there");
        Ok(())
    }

    fn size(&self, number: u64) -> io::Result<u64> {
        let state = self.state();
        let segment = state.segments.get(&number).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        Ok(segment.live.len() as u64)
    }

    fn read_at(&self, number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.state();
        let segment = state.segments.get(&number).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        let rest = segment.live.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, number: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let called = state.call();
        // The write at which the power goes may have reached the disk in part.
        if called.is_err() && state.rng.random_bool(0.5) {
            return called;
        }
        if state.is_wrong(Fault::Write) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let is_short = state.is_wrong(Fault::ShortWrite);
        let written = if is_short { state.rng.random_range(0..bytes.len().max(1)) } else { bytes.len() };
        let bytes = &bytes[..written];
        let offset = usize::try_from(offset).unwrap();
        let segment = state.segments.get_mut(&number).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        segment.live[offset..offset + bytes.len()].copy_from_slice(bytes);
        segment.unsynced.push((offset, bytes.to_vec()));
        if is_short { Err(io::Error::from_raw_os_error(EIO)) } else { called }
    }

    fn sync(&self, number: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.slow_ns > 0 {
            let most = state.slow_ns;
            self.now_ns.fetch_add(state.rng.random_range(0..most), Ordering::Relaxed);
        }
        state.call()?;
        if state.is_wrong(Fault::Sync) {
            // The operating system forgets that the pages were dirty: a second sync would answer that all is well.
            state.segments.get_mut(&number).ok_or(io::Error::from(io::ErrorKind::NotFound))?.unsynced.clear();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let State { segments, recent, .. } = &mut *state;
        let segment = segments.get_mut(&number).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        for (offset, bytes) in std::mem::take(&mut segment.unsynced) {
            let place = &mut segment.durable[offset..offset + bytes.len()];
            let before = place.to_vec();
            place.copy_from_slice(&bytes);
            recent.push_back(Written { segment: number, offset, before, bytes });
        }
        recent.drain(..recent.len().saturating_sub(RECENT));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn cool(&self, _: u64, _: std::ops::Range<u64>) {}

    fn name(&self, number: u64) -> String {
        format!("simulated segment {number}")
    }

    fn is_ours(&self) -> io::Result<bool> {
        Ok(!self.is_taken_over())
    }
}
