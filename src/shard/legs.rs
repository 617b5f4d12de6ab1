//! What is said to a shard, by the router, by clearing, by settlement and by other shards.

use std::sync::Arc;

use crate::flow::{Batch, Parcel, Submission};
use crate::ledger::{Account, AccountClass, AccountId, Life, NewAccount, Order, Slot, Transfer, TransferId};

/// A message to a shard; see the module for who sends it.
#[derive(Debug)]
pub enum ShardMessage {
    /// Decide these transfers. Those of a transaction follow each other in one batch.
    Submit(Submission),
    /// Decide these transactions, of which something is known already.
    Orders(Vec<Vec<Item>>),
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
    /// It is this time in the ledger; to the first shard.
    Tick {
        /// Nanoseconds since 1970 UTC.
        now_ns: u64,
    },
    /// The store has this that was given back of transfers; to the first shard.
    Forget(Vec<(TransferId, Life)>),
    /// Between the desk and the shards, in order.
    Loans(Vec<Loan>),
}

/// What the desk and the shards say to each other about accounts; see `office.rs`.
#[derive(Debug)]
pub enum Loan {
    /// To the desk: decide this transaction, which the first account's home counts as sent if that is open.
    Forward(Vec<Item>, bool),
    /// To a shard: lend this account.
    Ask(AccountId),
    /// To the desk: here it is, or there is none of this id.
    Lend(AccountId, Option<Box<Account>>),
    /// To a shard: here it is back, and so many of its transactions were decided meanwhile.
    Return(Box<Account>, u32),
    /// Credit this leg, whose debit side is reserved at the given shard: the account is, or was, yours.
    Leg(usize, Arc<Parcel>, u32, Box<Leg>),
}

/// A transfer of a transaction and where its outcome belongs.
#[derive(Clone, Debug)]
pub struct Item {
    /// Whose.
    pub parcel: Arc<Parcel>,
    /// Which outcome of it.
    pub index: u32,
    /// What is asked.
    pub order: Order,
}

/// The credit side of a transfer whose debit side is reserved.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// The whole transfer.
    pub transfer: Transfer,
    /// The debit account.
    pub payer: Payer,
}

/// What the credit side needs to know of the debit account.
#[derive(Clone, Copy, Debug)]
pub struct Payer {
    /// Its slot at its shard.
    pub slot: Slot,
    /// Its currency.
    pub currency: u16,
    /// Its class.
    pub class: AccountClass,
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
