//! A frame that comes in little pieces is read ever more seldom, so that many peers who send one a byte at a time cost others little.
//!
//! # Invariants
//!
//! 1. No frame takes more than twice the time for it, nor more than a second more.
//! 2. What came of a frame in time is looked at before it is called late.
//!
//! # Not here
//!
//! When a frame is late ([`super::session`]).

use std::time::Duration;

use tokio::time::Instant;

/// A frame is dribbled when so many reads in a row bring fewer bytes of it than this, and it has been coming for at least so long.
const READS: u32 = 4;
const BYTES: usize = 256;
const TIME: Duration = Duration::from_millis(10);

const REST_MAX: Duration = Duration::from_secs(1);

/// Counts the reads of a frame.
#[derive(Debug)]
pub(super) struct Dribble {
    /// Reads in a row that brought little; none once a rest was ended because the frame is late, and no other follows.
    reads: Option<u32>,
}

impl Dribble {
    /// Of a frame that has not begun.
    pub(super) fn new() -> Self {
        Self { reads: Some(0) }
    }

    /// Notes that so many bytes were read.
    pub(super) fn note(&mut self, bytes: usize) {
        self.reads = self.reads.map(|reads| if bytes < BYTES { reads.saturating_add(1) } else { 0 });
    }

    /// Until when nothing more is read of a frame that has been coming since then: for as long as that.
    pub(super) fn rest(&self, since: Instant) -> Option<Instant> {
        let coming = since.elapsed();
        let is_dribbled = self.reads.is_some_and(|reads| reads >= READS) && coming >= TIME;
        is_dribbled.then(|| Instant::now().checked_add(coming.min(REST_MAX))).flatten()
    }

    /// Ends a pause because the frame is late, once, as the rest of it may have come meanwhile. False when there is none to end.
    pub(super) fn look_once_more(&mut self, paused_until: &mut Option<Instant>) -> bool {
        let ends = self.reads.is_some() && paused_until.take().is_some();
        self.reads = self.reads.filter(|_| !ends);
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frame_rests_for_as_long_as_it_has_been_coming() {
        let pass = async |ms| tokio::time::advance(Duration::from_millis(ms)).await;
        let after = |ms| Some(Instant::now() + Duration::from_millis(ms));
        let (mut dribble, begun) = (Dribble::new(), Instant::now());
        for _ in 0..3 {
            dribble.note(1);
            pass(3).await;
            assert_eq!(dribble.rest(begun), None, "a few small pieces are usual");
        }
        dribble.note(BYTES - 1);
        assert_eq!(dribble.rest(begun), None, "it has just begun");
        pass(1).await;
        assert_eq!(dribble.rest(begun), after(10));
        pass(990).await;
        assert_eq!(dribble.rest(begun), after(1_000));
        pass(10_000).await;
        assert_eq!(dribble.rest(begun), after(1_000));
        dribble.note(BYTES);
        assert_eq!(dribble.rest(begun), None, "that was more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_ended_once() {
        let (mut dribble, begun) = (Dribble::new(), Instant::now());
        (0..READS).for_each(|_| dribble.note(1));
        tokio::time::advance(TIME).await;
        assert!(!dribble.look_once_more(&mut None), "there is none");
        let mut pause = dribble.rest(begun);
        assert!(pause.is_some() && dribble.look_once_more(&mut pause) && pause.is_none());
        (0..READS).for_each(|_| dribble.note(1));
        assert_eq!(dribble.rest(begun), None);
        let mut other = Some(Instant::now());
        assert!(!dribble.look_once_more(&mut other) && other.is_some());
    }
}
