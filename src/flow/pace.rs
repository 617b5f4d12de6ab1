//! Pace: how far the ledger may run ahead of the actor that follows it.
//!
//! Durable groups wait in memory until the clearing actor has followed them, and reads wait with them. So the settlement actor
//! writes no further group while the follower is too far behind; what comes in meanwhile is held back by admission.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crate::ledger::Sequence;

/// Records that may be durable and not followed: 16 MB of groups.
const AHEAD_MAX: u64 = 131_072;

/// Where the follower is, shared by both.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    followed: AtomicU64,
    /// Whether someone waits for the follower.
    waiting: AtomicBool,
}

impl Pace {
    /// The follower is at this sequence.
    pub fn new(followed: Sequence) -> Self {
        Self(Arc::new(Shared { followed: AtomicU64::new(followed), waiting: AtomicBool::new(false) }))
    }

    /// Whether more may become durable after `durable`. After a no, [`Self::follow`] will say when to ask again.
    pub fn may_go_on(&self, durable: Sequence) -> bool {
        let near = || durable.saturating_sub(self.0.followed.load(SeqCst)) <= AHEAD_MAX;
        if near() {
            return true;
        }
        self.0.waiting.store(true, SeqCst);
        // The follower may have caught up before it could see that someone waits.
        near()
    }

    /// Notes how far the follower is; answers whether someone waits who may go on now.
    pub fn follow(&self, sequence: Sequence) -> bool {
        self.0.followed.store(sequence, SeqCst);
        self.0.waiting.swap(false, SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_far_ahead_waits_and_is_told() {
        let pace = Pace::new(5);
        assert!(pace.may_go_on(5 + AHEAD_MAX));
        assert!(!pace.follow(6), "nobody waits");
        assert!(!pace.may_go_on(7 + AHEAD_MAX));
        assert!(pace.follow(7), "someone waits");
        assert!(pace.may_go_on(7 + AHEAD_MAX));
    }
}
