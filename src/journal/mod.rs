//! The journal: the truth. Groups of records, appended, synced, chained by hash, kept for ever.
//!
//! ```text
//! journal/000000000001.journal   segment header │ group │ group │ ... │ zeros
//! journal/000000000002.journal   segment header │ group │ ...
//! group                          header (128 bytes) │ record (128 bytes) × count
//! ```
//!
//! One thread appends ([`FileJournal`]): one write and one `fdatasync` per group, and nothing is told to anyone before it
//! returned. Segments are filled with zeros ahead of use, so that a sync writes data and no file-system metadata. History is
//! read from here ([`JournalReader`]); nothing else keeps a record.
//!
//! # Invariants
//!
//! 1. Sequences are without gap from the first group to the last, and each group holds the hash of the one before.
//! 2. At most one group is unsynced. So only the last one can be torn; it is cut at recovery, and was never answered.
//! 3. Damage anywhere else is found by checksum, refused with its place, never believed and never cut.
//! 4. After a failed write or sync the journal is not written again by this process: what is on disk is unknown.
//! 5. A group counts only if the directory was still this process's after it was synced ([`Guard`]): what is written later is nobody's.
//! 6. A sector that is written again with the same bytes keeps them: the tail of a group shares a sector with the next.
//!
//! # Not here
//!
//! What goes into a group and when it is closed: [`crate::settlement`]. The trait [`Journal`] is the seam for keeping it
//! elsewhere.

mod ahead;
mod disk;
mod file;
mod group;
mod guard;
mod part;
mod reader;
mod recovery;
mod seek;
mod segment;
mod window;

pub use disk::{Disk, FileDisk};
pub(crate) use disk::{Trickle, WHOLE, let_cache_go, private_directory, rename_new, replace_file, sync_directory};
pub use file::{FileJournal, JournalOptions};
pub use group::{GROUP_HEADER_BYTES, Group, GroupHeader, Hash, PendingGroup, Run, Spares};
pub use guard::{Guard, TAKEN_OVER};
pub use part::{Beginning, SegmentPart, beginning, cut_after, head_at, sound_part};
pub use reader::JournalReader;
pub use recovery::{JournalError, Recovered, Tail, recover, walk};
pub use segment::FORMAT_VERSION;

use crate::ledger::Sequence;

/// How an append ended.
#[derive(Debug)]
pub enum Appended {
    /// On disk; may be answered.
    Durable,
    /// Another writer owns the journal, or has gone on from another sequence. Nothing was written.
    Fenced {
        /// The sequence that the journal expects.
        expected: Sequence,
    },
    /// Another process took the journal over. What is written here counts for nothing, whether it came before that or later.
    TakenOver,
    /// It may be there or not. Never retried: recovery decides.
    Unknown(std::io::Error),
    /// Nothing was written.
    Failed(std::io::Error),
}

/// Where groups are made durable.
pub trait Journal: Send + std::fmt::Debug {
    /// Appends a group as writer `epoch`, whose first record must have sequence `expected`. Blocks until the answer is known;
    /// appends are made one after another.
    fn append(&mut self, epoch: u64, expected: Sequence, group: &mut PendingGroup) -> Appended;
}
