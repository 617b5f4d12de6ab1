//! What is said to a shard, by the router, by clearing and by other shards.

use crate::flow::Batch;
use crate::ledger::{NewAccount, Slot, Transfer};

/// A message to a shard; see the module for who sends it.
#[derive(Debug)]
pub enum ShardMessage {
    /// Decide these transfers.
    Submit(Batch<Transfer>),
    /// Open these accounts.
    Open(Batch<NewAccount>),
    /// Credit these legs, whose debit side is reserved at shard `from`.
    Accept {
        /// The debit side's shard.
        from: usize,
        /// The legs.
        legs: Batch<Leg>,
    },
    /// How legs ended that were sent to shard `from`.
    Finish {
        /// The credit side's shard.
        from: usize,
        /// In the order in which it decided.
        ended: Vec<Finished>,
    },
    /// Answer with `Probed` after all that you decided so far.
    Probe {
        /// Who asks.
        from: usize,
    },
    /// All that shard `from` decided before the probe has arrived.
    Probed {
        /// Who was asked.
        from: usize,
    },
    /// Answer with the balances of these slots.
    Audit {
        /// The first slot.
        first: Slot,
        /// How many.
        count: u32,
    },
}

/// The credit side of a transfer whose debit side is reserved.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// The whole transfer.
    pub transfer: Transfer,
    /// The debit account's slot at its shard.
    pub debit_slot: Slot,
    /// The debit account's currency.
    pub currency: u16,
}

/// How a leg ended, for the shard that reserved its debit side.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// The debit account's slot.
    pub debit_slot: Slot,
    /// The amount reserved.
    pub amount: u128,
    /// Post it or give it back.
    pub accepted: bool,
}
