//! Bugs planted on purpose, to show that the simulation finds such ones (`tests/simulation/planted.rs` has the table).
//!
//! They are there only with the feature `planted`, which nothing but that test is built with, and one at a time. Without it [`is`] is no at
//! compile time, and nothing of this is in the program.

#[cfg(feature = "planted")]
use std::sync::atomic::{AtomicU8, Ordering};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// A group is not synced before it is answered.
    SyncSkipped = 1,
    /// A sync that failed is taken for one that did not.
    SyncErrorSwallowed,
    /// After a sync it is not asked whether the ledger was taken over.
    FenceNotAsked,
    /// Transfers are answered while their group is still to be written.
    AnsweredBeforeDurable,
    /// A start knows only ids that are in runs.
    IdsForgotten,
    /// Ids in runs are not looked for.
    RunsNotAsked,
    /// A repeat of an id that is being decided is decided too.
    PendingRepeatDecided,
    /// The sums of a group are not compared while recovering.
    TornGroupBelieved,
    /// A group may end amid a transaction.
    TransactionCut,
    /// Reads do not wait for the last group that was answered.
    StaleRead,
    /// What is held can be spent.
    HoldNotCounted,
    /// A void leaves the amount held.
    ReleaseLost,
    /// A final capture leaves the rest held.
    RestNotReleased,
    /// What was refunded before does not count.
    RefundNotCounted,
    /// What is withheld can be spent.
    ReserveSpendable,
    /// A reversal leaves in reserve what was withheld of its payment.
    ReserveKept,
    /// What is held is distributed.
    HeldDistributed,
    /// A refused transaction leaves what it did first.
    UndoLost,
    /// Holds expire and delayed transfers arrive three seconds early.
    DueEarly,
    /// A hold that would be over, or a quote that is, is taken all the same.
    OverTaken,
    /// The ledger's time follows the clock back.
    TimeGoesBack,
    /// A transfer between shards is never finished at the shard of its debit account.
    FinishLost,
    /// A start forgets one of the open holds and delayed transfers.
    OpenForgotten,
    /// A start forgets what limits counted.
    TalliesForgotten,
    /// What a hold did not use is not taken out of the limits that counted it.
    UncountLost,
    /// Checkpoints after the first do not write accounts.
    AccountsNotWritten,
    /// Checkpoints do not write what was given back of transfers.
    LivesNotWritten,
    /// What an unfinished checkpoint wrote of what was given back is believed.
    UnfinishedBelieved,
    /// A record is skipped while replaying.
    RecordSkipped,
    /// A limit on what a mirror account takes in is not kept.
    MirrorIgnored,
    /// Repeats are answered with the time of now.
    RepeatRestamped,
    /// What a window had when it closed is in the next one too.
    WindowTwice,
    /// Fees, and what is withheld, are in no window.
    ChargesNotCleared,
    /// Limits count what the ledger does to settle.
    SettlementLimited,
    /// What a window did not settle is not carried over.
    CarryLost,
    /// A checkpoint does not write what counted in the open window.
    WindowNotWritten,
    /// A statement that was imported is imported again.
    StatementTwice,
    /// What a statement shows is not taken for done.
    ShownForgotten,
    /// One person is enough for a write-off.
    OnePersonWritesOff,
    /// A record is read without a look at its group's checksum.
    ReadUnchecked,
    /// Sectors of the index of histories are taken for what they should be.
    IndexBelieved,
}

#[cfg(feature = "planted")]
static PLANTED: AtomicU8 = AtomicU8::new(0);

#[cfg(feature = "planted")]
static LATE: std::sync::Mutex<Option<Box<dyn std::any::Any + Send>>> = std::sync::Mutex::new(None);

/// Plants a bug instead of the one before, for the whole process.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    *LATE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
}

/// Whether this one is planted.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8
}

/// With the bug planted, what was given the time before; without, what is given.
#[cfg(feature = "planted")]
pub fn late<T: Send + 'static>(bug: Bug, value: T) -> Option<T> {
    if !is(bug) {
        return Some(value);
    }
    let before = LATE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(Box::new(value));
    before.and_then(|before| before.downcast().ok()).map(|before| *before)
}

/// What is given.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn late<T>(_: Bug, value: T) -> Option<T> {
    Some(value)
}

/// Whether this one is planted: it is not.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn is(_: Bug) -> bool {
    false
}
