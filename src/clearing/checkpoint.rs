//! Checkpoints: every account as of one sequence, written a few blocks at a time while the stream goes on.
//!
//! When one begins, all blocks that changed since the last one are to be saved. They are saved in order, a few per drain; but a
//! block that is about to change is saved first. So what is written is exactly the state at the beginning, and nobody waits.

use std::collections::VecDeque;

use crossbeam::channel::Sender;

use crate::ledger::{Book, BookAccount, Sequence, Slot};
use crate::store::{ACCOUNTS_PER_BLOCK, Checkpoint, StoreJob, StoreWriter, account_blocks};

/// Blocks encoded per drain, so that reads never wait long for a checkpoint.
const BLOCKS_PER_DRAIN: usize = 128;

/// A set of block numbers.
#[derive(Debug, Default)]
struct BlockSet {
    words: Vec<u64>,
    len: usize,
}

impl BlockSet {
    #[inline]
    fn place(block: u32) -> (usize, u64) {
        (usize::try_from(block / 64).unwrap_or(usize::MAX), 1 << (block % 64))
    }

    #[inline]
    fn insert(&mut self, block: u32) {
        let (word, bit) = Self::place(block);
        if word >= self.words.len() {
            self.words.resize(word.saturating_add(1), 0);
        }
        if let Some(bits) = self.words.get_mut(word).filter(|bits| **bits & bit == 0) {
            *bits |= bit;
            self.len = self.len.saturating_add(1);
        }
    }

    #[inline]
    fn remove(&mut self, block: u32) -> bool {
        let (word, bit) = Self::place(block);
        let Some(bits) = self.words.get_mut(word).filter(|bits| **bits & bit != 0) else { return false };
        *bits &= !bit;
        self.len = self.len.saturating_sub(1);
        true
    }

    /// The first block at or after this one.
    fn next(&self, from: u32) -> Option<u32> {
        let (first, _) = Self::place(from);
        let words = self.words.iter().enumerate().skip(first);
        words
            .filter_map(|(word, &bits)| {
                let bits = if word == first { bits & (u64::MAX << (from % 64)) } else { bits };
                let base = u32::try_from(word).unwrap_or(u32::MAX).saturating_mul(64);
                (bits != 0).then(|| base.saturating_add(bits.trailing_zeros()))
            })
            .next()
    }
}

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

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Notes that an account is about to change.
    #[inline]
    pub(super) fn will_change(&mut self, slot: Slot, book: &Book, writer: &StoreWriter) {
        let block = slot / ACCOUNTS_PER_BLOCK;
        if self.saving.len > 0 && self.saving.remove(block) {
            self.save(block, book, writer);
        }
        self.changed.insert(block);
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

    /// Begins a checkpoint of the book as it is. The caller has sent the index entries up to here.
    pub(super) fn begin(&mut self, book: &Book, done: Option<Sender<Sequence>>, writer: &StoreWriter) {
        if let Some(running) = &mut self.running {
            // The one that runs is older than what is asked for; the asker waits for the next.
            running.done.extend(done);
            return;
        }
        self.send(StoreJob::Barrier, writer);
        let checkpoint = Checkpoint {
            sequence: book.sequence(),
            accounts: u32::try_from(book.accounts().len()).unwrap_or(u32::MAX),
            turnover: book.turnover().clone(),
        };
        self.last = checkpoint.sequence;
        std::mem::swap(&mut self.changed, &mut self.saving);
        self.running = Some(Running { checkpoint, next_block: 0, done: done.into_iter().collect() });
    }

    /// Writes some more blocks if there is room; answers whether it should be called again without waiting for anything.
    pub(super) fn go_on(&mut self, book: &Book, writer: &StoreWriter) -> bool {
        if !self.flush(writer) {
            return false;
        }
        let Some(running) = &mut self.running else { return false };
        let mut from = running.next_block;
        for _ in 0..BLOCKS_PER_DRAIN {
            let Some(block) = self.saving.next(from) else {
                return self.finish(writer);
            };
            from = block;
            self.saving.remove(block);
            self.save(block, book, writer);
            if !self.backlog.is_empty() {
                break;
            }
        }
        if let Some(running) = &mut self.running {
            running.next_block = from;
        }
        self.backlog.is_empty()
    }

    fn finish(&mut self, writer: &StoreWriter) -> bool {
        if let Some(Running { checkpoint, done, .. }) = self.running.take() {
            let mut done = done.into_iter();
            let first = done.next().unwrap_or_else(|| crossbeam::channel::bounded(1).0);
            self.send(StoreJob::Checkpoint(checkpoint.clone(), first), writer);
            for other in done {
                self.send(StoreJob::Checkpoint(checkpoint.clone(), other), writer);
            }
        }
        false
    }

    fn save(&mut self, block: u32, book: &Book, writer: &StoreWriter) {
        let known = self.running.as_ref().map_or(0, |running| running.checkpoint.accounts);
        if block >= account_blocks(known) {
            // Opened after this checkpoint began; the next one has it.
            return self.changed.insert(block);
        }
        let first = block.saturating_mul(ACCOUNTS_PER_BLOCK);
        let slots = first..first.saturating_add(ACCOUNTS_PER_BLOCK);
        let accounts: Vec<BookAccount> = slots.map_while(|slot| book.accounts().get(slot).copied()).collect();
        self.send(StoreJob::Accounts { block, accounts }, writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sets_are_walked_in_order() {
        let mut set = BlockSet::default();
        for block in [0, 5, 63, 64, 200] {
            set.insert(block);
            set.insert(block);
        }
        assert_eq!(set.len, 5);
        let mut seen = Vec::new();
        let mut from = 0;
        while let Some(block) = set.next(from) {
            seen.push(block);
            assert!(set.remove(block));
            assert!(!set.remove(block));
            from = block;
        }
        assert_eq!((seen, set.len), (vec![0, 5, 63, 64, 200], 0));
    }
}
