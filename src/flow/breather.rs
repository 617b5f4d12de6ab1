//! Rests of what works long in the background: at once it would take a processor from those who answer.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::helpers::Helpers;

/// A rest is no longer than this: a disk that stands still is no work.
pub const REST_MAX: Duration = Duration::from_millis(20);

/// Rests in proportion to what was worked; not at all where helpers are no threads.
#[derive(Debug)]
pub struct Breather {
    is_thread: bool,
    since: Cell<Instant>,
}

impl Breather {
    /// For a helper among these.
    pub fn new(helpers: &Helpers) -> Self {
        Self { is_thread: helpers.are_threads(), since: Cell::new(Instant::now()) }
    }

    /// Work begins.
    pub fn begin(&self) {
        self.since.set(Instant::now());
    }

    /// Rests so many times as long as was worked since it began, or rested last, unless there is a hurry. Blocks, for [`REST_MAX`] at most.
    #[expect(
        clippy::disallowed_methods,
        reason = "on a thread of its own; who waits for its end waits for one rest at most"
    )]
    pub fn rest(&self, times: u32, hurries: bool) {
        if self.is_thread && !hurries {
            std::thread::sleep(self.since.get().elapsed().saturating_mul(times).min(REST_MAX));
        }
        self.begin();
    }
}
