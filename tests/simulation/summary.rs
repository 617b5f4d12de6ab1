//! What runs came to.

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) starts: u64,
    pub(crate) answered: u64,
    pub(crate) records: u64,
    pub(crate) reads: u64,
    pub(crate) damages: u64,
    /// Times that sled's files were torn by a power cut.
    pub(crate) torn: u64,
    /// Ledgers that were taken over.
    pub(crate) taken_over: u64,
    /// Windows that were closed.
    pub(crate) windows: u64,
    /// Positions that were settled.
    pub(crate) settled: u64,
    /// Lines of bank statements, and differences that were written off.
    pub(crate) lines: u64,
    pub(crate) written_off: u64,
    /// Transfers that limits refused.
    pub(crate) limited: u64,
    /// Fees and what was withheld, and how often something of that came back.
    pub(crate) charged: u64,
    pub(crate) came_back: u64,
    /// Distributions that moved something.
    pub(crate) distributed: u64,
    /// Those that found less than was planned.
    pub(crate) short: u64,
    /// Simulated seconds.
    pub(crate) seconds: u64,
    /// Writes, syncs and new files of the journal until the last fault.
    pub(crate) calls: u64,
    /// Of all that happened, in order.
    pub(crate) trace: u64,
}

impl Summary {
    /// Adds what another run came to; its calls and its trace are its own.
    #[cfg(not(feature = "planted"))]
    pub(crate) fn add(&mut self, one: &Self) {
        self.starts += one.starts;
        self.answered += one.answered;
        self.records += one.records;
        self.reads += one.reads;
        self.damages += one.damages;
        self.torn += one.torn;
        self.taken_over += one.taken_over;
        self.windows += one.windows;
        self.settled += one.settled;
        self.lines += one.lines;
        self.written_off += one.written_off;
        self.limited += one.limited;
        self.charged += one.charged;
        self.came_back += one.came_back;
        self.distributed += one.distributed;
        self.short += one.short;
        self.seconds += one.seconds;
    }
}
