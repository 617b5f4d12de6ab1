//! Whether a run's filter is worth its memory: two bytes for each entry.
//!
//! It is needed while ids are asked for that lie where the run has some and that it has not: those of the newest run tell, and what the filter ruled out since
//! the last run came. Where a run has no filter, it is read for each id that may be in it; once some were not there, the filter is wanted again. So when
//! ids come in order (`UUIDv7`, ULID, counters), the filters of the newest runs are in memory, however many others there are; when they come in no order,
//! all are.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::ranges::Ranges;

/// Ids that a run without its filter was read for in vain after which that is read again, or that a filter ruled out so that it stays: a few that come late
/// cost less than a filter of some megabytes.
const IN_VAIN: u32 = 16;

/// A filter that cannot be read is not wanted before the next run comes, however often its run is read in vain.
const GIVEN_UP: u32 = u32::MAX;

/// What a run was asked for and does not have. Where several threads count, a few may be missing, or of those before the last run came.
#[derive(Debug, Default)]
pub(crate) struct Worth {
    /// How often the run was read for an id that is not there, since it has no filter.
    in_vain: AtomicU32,
    /// How many ids its filter ruled out since the last run came.
    ruled_out: AtomicU32,
}

fn add(count: &AtomicU32, more: u32) {
    count.store(count.load(Relaxed).saturating_add(more), Relaxed);
}

impl Worth {
    /// Without a filter the run was read for an id that is not there.
    pub(crate) fn was_read_in_vain(&self) {
        add(&self.in_vain, 1);
    }

    /// So many ids were ruled out by the filter. Where that is known to be worth it, nothing is written that other threads read.
    #[inline]
    pub(crate) fn ruled_out(&self, ids: u32) {
        if ids > 0 && self.ruled_out.load(Relaxed) < IN_VAIN {
            add(&self.ruled_out, ids);
        }
    }

    /// Whether the filter, which is not in memory, should be read again.
    #[inline]
    pub(crate) fn wants_filter(&self) -> bool {
        (IN_VAIN..GIVEN_UP).contains(&self.in_vain.load(Relaxed))
    }

    /// The filter was read: what was read in vain before does not count any more.
    pub(crate) fn filter_was_read(&self) {
        self.in_vain.store(0, Relaxed);
    }

    /// The filter could not be read, and is not wanted before the next run comes.
    pub(crate) fn give_up(&self) {
        self.in_vain.store(GIVEN_UP, Relaxed);
    }

    /// A newer run came, whose ids lie there: whether the filter of this one stays. It is counted anew from here on.
    pub(crate) fn is_filter_needed(&self, newest: &Ranges, own: &Ranges) -> bool {
        self.in_vain.store(0, Relaxed);
        self.ruled_out.swap(0, Relaxed) >= IN_VAIN || newest.lie_beside(own)
    }

    /// How many ids the filter ruled out since the last run came.
    #[cfg(test)]
    pub(crate) fn all_ruled_out(&self) -> u32 {
        self.ruled_out.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_stays_beside_the_newest_run_and_where_it_ruled_out_many() {
        let ranges = |first, last| Ranges::of([(first, last)].into_iter());
        let (own, beside, apart) = (ranges(1, 10), ranges(10, 20), ranges(11, 20));
        let worth = Worth::default();
        assert!(worth.is_filter_needed(&beside, &own) && !worth.is_filter_needed(&apart, &own));
        worth.ruled_out(IN_VAIN - 1);
        assert!(!worth.is_filter_needed(&apart, &own));
        worth.ruled_out(IN_VAIN - 1);
        worth.ruled_out(1);
        assert!(worth.is_filter_needed(&apart, &own), "since the last run came");
        assert!(!worth.is_filter_needed(&apart, &own), "not before that");
    }

    #[test]
    fn a_filter_is_wanted_once_its_run_was_read_in_vain_some_times() {
        let worth = Worth::default();
        let read = |times| (0..times).for_each(|_| worth.was_read_in_vain());
        read(IN_VAIN - 1);
        assert!(!worth.wants_filter());
        read(1);
        assert!(worth.wants_filter());
        worth.filter_was_read();
        assert!(!worth.wants_filter());
        // One that cannot be read is asked for once for each run that comes.
        worth.give_up();
        read(3 * IN_VAIN);
        assert!(!worth.wants_filter());
        worth.is_filter_needed(&Ranges::default(), &Ranges::default());
        read(IN_VAIN);
        assert!(worth.wants_filter());
    }
}
