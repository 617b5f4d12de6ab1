//! Bytes of a segment that are read together, for who goes through its groups in order.
//!
//! A journal of small groups is read with few calls, and each call is small: what is to be durable waits for the same disk. Bytes that are in a window are as they
//! were when they were read, so nothing must be looked for in it that was not durable by then. Who wants only the newest few records reads little for them.

use std::io;

use super::disk::Disk;

/// Bytes read with the first call; with each one after it twice as many, ...
const FIRST_BYTES: usize = 8 << 10;

/// ... up to so many.
pub(super) const WINDOW_BYTES: usize = 128 << 10;

/// A part of a segment.
#[derive(Debug, Default)]
pub(super) struct Window {
    number: u64,
    start: u64,
    bytes: Vec<u8>,
    /// Bytes read with the last call.
    wanted: usize,
}

impl Window {
    /// So many bytes of a segment, from one on; fewer only at the end of the file. Blocks.
    pub(super) fn get(&mut self, disk: &dyn Disk, (number, from): (u64, u64), count: usize) -> io::Result<&[u8]> {
        let mut first = self.place(number, from);
        if first.saturating_add(count) > self.bytes.len() {
            self.bytes.drain(..first);
            (self.number, self.start, first) = (number, from, 0);
            self.read_on(disk, count)?;
        }
        let until = first.saturating_add(count).min(self.bytes.len());
        Ok(self.bytes.get(first..until).unwrap_or_default())
    }

    /// Where a byte of a segment is; behind the last one if it is not here.
    fn place(&self, number: u64, byte: u64) -> usize {
        let behind = byte.checked_sub(self.start).filter(|_| number == self.number);
        let place = behind.and_then(|behind| usize::try_from(behind).ok());
        place.unwrap_or(usize::MAX).min(self.bytes.len())
    }

    /// Reads what comes next, until so many bytes are here.
    fn read_on(&mut self, disk: &dyn Disk, count: usize) -> io::Result<()> {
        while self.bytes.len() < count {
            let known = self.bytes.len();
            let next = self.start.saturating_add(u64::try_from(known).unwrap_or(u64::MAX));
            self.wanted = self.wanted.saturating_mul(2).clamp(FIRST_BYTES, WINDOW_BYTES);
            self.bytes.resize(known.saturating_add(self.wanted), 0);
            let read = disk.read_at(self.number, next, self.bytes.get_mut(known..).unwrap_or_default());
            self.bytes.truncate(known.saturating_add(*read.as_ref().unwrap_or(&0)));
            if read? < self.wanted {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::FileDisk;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Whatever is asked for in whichever order, it is what the file has, and less of it only at its end.
        #[test]
        fn what_is_asked_for_is_what_is_there(
            lengths in (1..400_000_usize, 1..400_000_usize),
            asked in prop::collection::vec((0..2_u64, any::<prop::sample::Index>(), prop_oneof![1..300_usize, 1..300_000_usize], any::<bool>()), 1..40),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let disk = FileDisk::create(directory.path()).unwrap();
            let pattern = |number: usize, length: usize| -> Vec<u8> { (0..length).map(|byte| (byte * 7 / 3 + number * 91) as u8).collect() };
            let files = [pattern(0, lengths.0), pattern(1, lengths.1)];
            for (number, bytes) in (0..).zip(&files) {
                std::fs::write(disk.name(number), bytes).unwrap();
            }
            let (mut window, mut next) = (Window::default(), [0; 2]);
            for (number, place, count, goes_on) in asked {
                let (file, next) = (&files[number as usize], &mut next[number as usize]);
                // As one who goes through it, or somewhere else.
                let from = if goes_on { *next } else { place.index(file.len() + 1) };
                let expected = &file[from..file.len().min(from + count)];
                prop_assert!(window.get(&disk, (number, from as u64), count).unwrap() == expected);
                *next = from + expected.len();
            }
            prop_assert!(window.bytes.len() < 300_000 + WINDOW_BYTES);
            prop_assert!(window.get(&disk, (7, 0), 1).is_err());
            prop_assert!(window.get(&disk, (0, 0), 1).unwrap() == &files[0][..1], "after an error");
        }
    }
}
