//! Checkpoints: every account that changed, written a few blocks at a time while the stream goes on.
//!
//! A checkpoint at sequence N promises that each account in the store is as of N or later: replaying from N ignores the records
//! that an account has already (its `head` says which). So blocks are written as they are when their turn comes, nothing is
//! copied ahead and nobody waits. What makes this safe is the order: before accounts of one turn are written, the index entries
//! of all records up to then are durable, and the levels that accounts had before they changed. What was given back of transfers is written as of N.

use std::collections::{BTreeSet, VecDeque};

use crossbeam::channel::Sender;

use crate::ledger::{BlockSet, Book, Sequence, Slot};
use crate::store::{ACCOUNTS_PER_BLOCK, Checkpoint, LinkLog, OpenTree, StoreJob, StoreWriter};

/// Blocks encoded per drain, so that reads never wait long for a checkpoint.
const BLOCKS_PER_DRAIN: usize = 128;

/// Lives per job, about 10 KB.
const LIVES_PER_JOB: usize = 80;

/// The checkpoint that is being written, if one is.
#[derive(Debug)]
struct Running {
    checkpoint: Checkpoint,
    next_block: u32,
    done: Vec<Sender<Sequence>>,
}

/// What has changed since the last checkpoint, and the one being written.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    changed: BlockSet,
    saving: BlockSet,
    running: Option<Running>,
    last: Sequence,
    /// Blocks of what is open that changed, to be written after the accounts.
    open_blocks: BTreeSet<(OpenTree, u32)>,
    /// The last policy given to the store.
    policy: Sequence,
    /// Jobs for which the store's thread had no room.
    backlog: VecDeque<StoreJob>,
}

impl Checkpoints {
    pub(super) fn new(last: Sequence) -> Self {
        Self { last, ..Self::default() }
    }

    /// The sequence of the last checkpoint begun.
    pub(super) fn last(&self) -> Sequence {
        self.last
    }

    /// Jobs for which the store's thread had no room.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.len()
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Notes that an account changed.
    #[inline]
    pub(super) fn changed(&mut self, slot: Slot) {
        self.changed.insert(slot / ACCOUNTS_PER_BLOCK);
    }

    /// Hands a job on, in order.
    pub(super) fn send(&mut self, job: StoreJob, writer: &StoreWriter) {
        if !self.backlog.is_empty() {
            return self.backlog.push_back(job);
        }
        if let Err(job) = writer.try_send(job) {
            self.backlog.push_back(job);
        }
    }

    fn flush(&mut self, writer: &StoreWriter) -> bool {
        while let Some(job) = self.backlog.pop_front() {
            if let Err(job) = writer.try_send(job) {
                self.backlog.push_front(job);
                return false;
            }
        }
        true
    }

    /// Begins a checkpoint at the book's sequence.
    pub(super) fn begin(&mut self, book: &mut Book, writer: &StoreWriter, done: Option<Sender<Sequence>>) {
        if done.is_some() {
            writer.hurry();
        }
        if let Some(running) = &mut self.running {
            // Its sequence is older than the caller's; who asks is told of this one.
            running.done.extend(done);
            return;
        }
        let checkpoint = Checkpoint {
            sequence: book.sequence(),
            accounts: u32::try_from(book.len()).unwrap_or(u32::MAX),
            summary: book.summary(),
        };
        let policy = checkpoint.summary.policy.1;
        if policy != 0 && policy != self.policy {
            self.policy = policy;
            self.send(StoreJob::Policy(policy, book.policy().text().to_owned()), writer);
        }
        let windows = book.take_window_pieces();
        if !windows.pieces.is_empty() {
            self.send(StoreJob::Windows(Box::new(windows)), writer);
        }
        for tree in OpenTree::ALL {
            self.open_blocks.extend(tree.take_changed(book.open_mut()).into_iter().map(|block| (tree, block)));
        }
        book.open_mut().lives.begin(checkpoint.sequence);
        // The checkpoint before this one is durable before anything of this one is written.
        if book.open_mut().levels.forget(self.last) {
            self.send(StoreJob::ForgetLevels(self.last), writer);
        }
        self.last = checkpoint.sequence;
        std::mem::swap(&mut self.changed, &mut self.saving);
        self.running = Some(Running { checkpoint, next_block: 0, done: done.into_iter().collect() });
    }

    /// Writes some more blocks if there is room; answers whether it should be called again without waiting for anything.
    pub(super) fn go_on(&mut self, book: &mut Book, links: &LinkLog, writer: &StoreWriter) -> bool {
        if !self.flush(writer) {
            return false;
        }
        let Some(running) = &self.running else { return false };
        let mut next = self.saving.next(running.next_block);
        let (base, bytes) = links.unfinished();
        if !bytes.is_empty() {
            self.send(StoreJob::Index { base, bytes, full: false }, writer);
        }
        let levels = book.open_mut().levels.take_new();
        if !levels.is_empty() {
            self.send(StoreJob::Levels(levels), writer);
        }
        self.send(StoreJob::Barrier, writer);
        for _ in 0..BLOCKS_PER_DRAIN {
            let Some(block) = next else {
                if let Some((tree, block)) = self.open_blocks.pop_first() {
                    self.send(StoreJob::Open { tree, block, bytes: tree.encode(book.open(), block) }, writer);
                    continue;
                }
                let lives = book.open_mut().lives.to_write(LIVES_PER_JOB);
                if lives.is_empty() {
                    self.finish(writer);
                    return false;
                }
                self.send(StoreJob::Lives(lives), writer);
                continue;
            };
            self.saving.remove(block);
            self.changed.remove(block);
            let first = block.saturating_mul(ACCOUNTS_PER_BLOCK);
            self.send(StoreJob::Accounts { block, bytes: book.packed(first, ACCOUNTS_PER_BLOCK) }, writer);
            next = self.saving.next(block);
        }
        if let Some(running) = &mut self.running {
            running.next_block = next.unwrap_or(u32::MAX);
        }
        self.backlog.is_empty()
    }

    fn finish(&mut self, writer: &StoreWriter) {
        if let Some(Running { checkpoint, done, .. }) = self.running.take() {
            self.send(StoreJob::Checkpoint(Box::new(checkpoint), done), writer);
        }
    }
}
