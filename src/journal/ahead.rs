//! The next segment, made by a helper thread while this one fills.
//!
//! Its zeros are written as this one fills, half as fast again: made at once, they keep the disk from the journal and a processor from
//! those who answer for some hundredths of a second, of each segment. Where nothing is written to this one, it is there after a second or two for
//! each 64 MiB.
//!
//! # Not here
//!
//! Changing over to it ([`super::file`]); how it is made ([`super::disk`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::disk::{Disk, WHOLE};

/// The next segment, the one being written, and the ones before that stay in the operating system's cache.
const SEGMENTS_WARM: u64 = 4;

/// How far the next segment is when nothing is written to this one yet.
const LEAD_BYTES: u64 = 2 << 20;

/// How long it rests at once, and how often for one part of it, at most.
const REST: Duration = Duration::from_millis(1);
const RESTS: usize = 20;

/// How far this segment is, and whether somebody waits for the next.
#[derive(Debug, Default)]
struct Pace {
    written: AtomicU64,
    is_awaited: AtomicBool,
}

impl Pace {
    /// Rests while more of the next segment is made than this one needs, and answers how often.
    fn keep(&self, made: u64) -> usize {
        for rests in 0..RESTS {
            let written = self.written.load(Relaxed);
            let enough = written.saturating_add(written / 2).saturating_add(LEAD_BYTES);
            if made <= enough || self.is_awaited.load(Relaxed) {
                return rests;
            }
            thread::park_timeout(REST);
        }
        RESTS
    }
}

/// The next segment: a thread that makes it ready, or nothing if it is; or why there is no thread.
#[derive(Debug)]
pub(super) struct Ahead {
    pace: Arc<Pace>,
    bytes: u64,
    thread: io::Result<Option<JoinHandle<io::Result<()>>>>,
}

impl Ahead {
    /// One that is there already.
    pub(super) fn ready() -> Self {
        Self { pace: Arc::default(), bytes: 0, thread: Ok(None) }
    }

    /// Makes a segment of a number, with so many bytes, on a thread of its own or before this returns. Where there is no thread, [`Self::wait`] says so.
    pub(super) fn start(disk: Arc<dyn Disk>, (number, bytes): (u64, u64), on_thread: bool) -> io::Result<Self> {
        let pace = Arc::<Pace>::default();
        let kept = Arc::clone(&pace);
        let make = move || {
            let cold = number.checked_sub(SEGMENTS_WARM);
            let cool = |range| {
                if let Some(cold) = cold {
                    disk.cool(cold, range);
                }
            };
            let breathe = |made: u64| {
                // As little by little as this one is made.
                cool(0..made);
                if on_thread {
                    kept.keep(made);
                }
            };
            disk.create(number, bytes, &breathe).inspect_err(|err| {
                tracing::warn!(number, %err, "the next journal segment cannot be made; it is tried again when this one is full, and then nothing more is written");
            })?;
            cool(WHOLE);
            Ok(())
        };
        if !on_thread {
            make()?;
            return Ok(Self::ready());
        }
        let thread = thread::Builder::new().name("heng-segment".to_owned()).spawn(make);
        let thread = thread.map(Some).inspect_err(|err| {
            tracing::warn!(number, %err, "no thread to make the next journal segment; it is made when this one is full");
        });
        Ok(Self { pace, bytes, thread })
    }

    /// Tells how many bytes of this segment are written, and of how many.
    pub(super) fn is_written(&self, bytes: u64, of: u64) {
        // Of one that is longer, as large a part.
        let longer = self.bytes.div_ceil(of.max(1)).max(1);
        self.pace.written.store(bytes.saturating_mul(longer), Relaxed);
    }

    /// Returns when the segment is ready.
    pub(super) fn wait(self) -> io::Result<()> {
        let Some(thread) = self.thread? else { return Ok(()) };
        self.pace.is_awaited.store(true, Relaxed);
        thread.thread().unpark();
        thread.join().map_err(|_panic| io::Error::other("the thread that prepares segments has ended"))?
    }
}

#[cfg(test)]
mod tests {
    use super::super::FileDisk;
    use super::*;

    #[test]
    fn the_next_segment_is_made_as_this_one_fills_or_when_somebody_waits() {
        let pace = Pace::default();
        assert_eq!([LEAD_BYTES, LEAD_BYTES + 1].map(|made| pace.keep(made)), [0, RESTS], "or after a while");
        pace.written.store(2 << 20, Relaxed);
        let enough = LEAD_BYTES + (3 << 20);
        assert_eq!([enough, enough + 1].map(|made| pace.keep(made)), [0, RESTS]);
        pace.is_awaited.store(true, Relaxed);
        assert_eq!(pace.keep(u64::MAX), 0);
    }

    #[test]
    fn one_that_is_longer_is_made_as_much_faster() {
        let next = Ahead { pace: Arc::default(), bytes: 1 << 30, thread: Ok(None) };
        for (of, written) in [(1 << 24, 64 << 10), (1 << 30, 1 << 10), (1 << 32, 1 << 10), (0, 1 << 40)] {
            next.is_written(1 << 10, of);
            assert_eq!(next.pace.written.load(Relaxed), written);
        }
    }

    #[test]
    fn it_is_whole_when_it_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(FileDisk::create(directory.path()).unwrap());
        for (number, on_thread) in [(1, true), (2, false)] {
            let next = Ahead::start(disk.clone(), (number, 8 << 20), on_thread).unwrap();
            next.wait().unwrap();
            assert_eq!(disk.size(number).unwrap(), 8 << 20);
        }
        let again = Ahead::start(disk, (1, 8 << 20), true).unwrap();
        assert_eq!(again.wait().unwrap_err().kind(), io::ErrorKind::AlreadyExists, "it is never made over one");
    }
}
