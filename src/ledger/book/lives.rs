//! The book's lives: what was given back of transfers, in memory from the record that did it until a checkpoint has it durably.
//!
//! ```text
//!  put ──► recent ──begin──► saving: written a part at a time ──durable──► told to the desk a part at a time, forgotten
//!                                                                          (from here on the store is asked)
//! ```
//!
//! # Invariants
//!
//! 1. What is asked for is found in the newest of recent, saving, store that has it.
//! 2. Nothing is forgotten before the checkpoint with it is durable.
//! 3. `sum` is over all lives with refunds, wherever they are.

use std::collections::VecDeque;
use std::sync::Arc;

use super::state::Sum;
use crate::ledger::life::{Life, LifeStore};
use crate::ledger::spread::Spread;
use crate::ledger::{Sequence, TransferId};

/// What changed between the beginnings of two checkpoints.
#[derive(Debug)]
struct Generation {
    lives: Spread<TransferId, Life>,
    /// The ids in order of their first change.
    order: Vec<TransferId>,
    /// Sequence of its checkpoint.
    checkpoint: Sequence,
    written: usize,
    told: usize,
}

/// What was given back of transfers.
#[derive(Debug)]
pub struct Lives {
    recent: Generation,
    /// Oldest first.
    saving: VecDeque<Generation>,
    store: Option<Arc<dyn LifeStore>>,
    sum: Sum,
}

impl Generation {
    fn new() -> Self {
        Self { lives: Spread::new(), order: Vec::new(), checkpoint: 0, written: 0, told: 0 }
    }

    fn part(&self, from: usize, most: usize) -> impl Iterator<Item = (TransferId, Life)> {
        let ids = self.order.iter().skip(from).take(most);
        ids.filter_map(|id| Some((*id, *self.lives.get(id)?)))
    }
}

impl Lives {
    pub(super) fn new() -> Self {
        Self { recent: Generation::new(), saving: VecDeque::new(), store: None, sum: Sum::default() }
    }

    /// Goes on from a checkpoint in a store, with its sum.
    pub(super) fn load(&mut self, store: Arc<dyn LifeStore>, sum: Sum) {
        (self.store, self.sum) = (Some(store), sum);
    }

    /// What was given back of a transfer, if anything was. May read the store.
    pub fn get(&self, id: TransferId) -> Option<Life> {
        let mut newest = std::iter::once(&self.recent).chain(self.saving.iter().rev());
        let in_memory = newest.find_map(|generation| generation.lives.get(&id));
        match (in_memory, &self.store) {
            (Some(life), _) => Some(*life),
            (None, Some(store)) => store.life(id),
            (None, None) => None,
        }
    }

    /// Notes that this is given back of a transfer now, and was before.
    pub(super) fn put(&mut self, id: TransferId, now: Life, before: Option<Life>) {
        if let Some(before) = before.filter(|before| before.refunded > 0) {
            self.sum.take(&before.named(id));
        }
        if now.refunded > 0 {
            self.sum.add(&now.named(id));
        }
        if self.recent.lives.insert(id, now).is_none() {
            self.recent.order.push(id);
        }
    }

    /// All with refunds, wherever they are: how many, and the sum of their fingerprints.
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// How many are in memory.
    pub fn in_memory(&self) -> usize {
        let saving: usize = self.saving.iter().map(|generation| generation.order.len()).sum();
        self.recent.order.len().saturating_add(saving)
    }

    /// Those in memory, each as it is now; in order of their first change.
    pub fn newest(&self) -> impl Iterator<Item = (TransferId, Life)> {
        let oldest_first = self.saving.iter().chain([&self.recent]);
        oldest_first.flat_map(|generation| generation.part(0, usize::MAX))
    }

    /// Begins the checkpoint at a sequence: what changed up to now is its.
    pub fn begin(&mut self, checkpoint: Sequence) {
        if !self.recent.order.is_empty() {
            let changed = std::mem::replace(&mut self.recent, Generation::new());
            self.saving.push_back(Generation { checkpoint, ..changed });
        }
    }

    /// The next to write for the checkpoint begun last, at most so many; none when all are written.
    pub fn to_write(&mut self, most: usize) -> Vec<(TransferId, Life)> {
        let Some(generation) = self.saving.back_mut() else { return Vec::new() };
        let part: Vec<_> = generation.part(generation.written, most).collect();
        generation.written = generation.written.saturating_add(part.len());
        part
    }

    /// The next that are durable and that nobody need keep in memory any more, at most so many.
    pub fn to_forget(&mut self, most: usize) -> Vec<(TransferId, Life)> {
        let durable = self.store.as_ref().map_or(0, |store| store.checkpoint());
        let Some(oldest) = self.saving.front_mut().filter(|oldest| oldest.checkpoint <= durable) else {
            return Vec::new();
        };
        let part: Vec<_> = oldest.part(oldest.told, most).collect();
        oldest.told = oldest.told.saturating_add(part.len());
        if oldest.told >= oldest.order.len() {
            self.saving.pop_front();
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    /// A store that may stop amid a checkpoint.
    #[derive(Debug, Default)]
    struct Shelf(Mutex<(BTreeMap<TransferId, Life>, Sequence)>);

    impl LifeStore for Shelf {
        fn life(&self, id: TransferId) -> Option<Life> {
            self.0.lock().unwrap().0.get(&id).copied()
        }

        fn checkpoint(&self) -> Sequence {
            self.0.lock().unwrap().1
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Refund(u8),
        Begin,
        Write,
        Finish,
        Forget,
        Crash,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0..6_u8).prop_map(Step::Refund), 2 => Just(Step::Begin), 4 => Just(Step::Write),
            2 => Just(Step::Finish), 3 => Just(Step::Forget), 1 => Just(Step::Crash),
        ];
        prop::collection::vec(step, 0..80)
    }

    fn refund(lives: &mut Lives, sequence: Sequence, id: TransferId) {
        let before = lives.get(id);
        // As in replay: what is in it already is not done again.
        if before.is_none_or(|before| before.head < sequence) {
            let refunded = before.map_or(0, |before| before.refunded) + u128::from(sequence);
            lives.put(id, Life { refunded, is_over: false, head: sequence }, before);
        }
    }

    proptest! {
        /// Whatever happens between the steps of checkpoints, also when one is never finished, all lives and their sum are those of the records.
        #[test]
        fn lives_are_those_of_the_records(steps in steps()) {
            let store = Arc::new(Shelf::default());
            let (mut lives, mut records) = (Lives::new(), Vec::new());
            lives.load(Arc::clone(&store) as Arc<dyn LifeStore>, Sum::default());
            // The checkpoint being written: its sequence, its sum, and whether all is written; and what is.
            let (mut running, mut durable_sum, mut written_lives) = (None, Sum::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Refund(id) => {
                        let id = TransferId::from_raw(u128::from(id) + 1);
                        records.push(id);
                        refund(&mut lives, u64::try_from(records.len()).unwrap(), id);
                    }
                    Step::Begin if running.is_none() => {
                        let sequence = u64::try_from(records.len()).unwrap();
                        lives.begin(sequence);
                        running = Some((sequence, lives.sum(), false));
                    }
                    Step::Write => {
                        if let Some((_, _, written)) = &mut running {
                            let part = lives.to_write(2);
                            *written = part.is_empty();
                            written_lives.extend(part);
                        }
                    }
                    Step::Finish => {
                        if let Some((sequence, sum, true)) = running {
                            let mut durable = store.0.lock().unwrap();
                            durable.0.extend(written_lives.drain(..));
                            durable.1 = sequence;
                            (running, durable_sum) = (None, sum);
                        }
                    }
                    Step::Forget => drop(lives.to_forget(2)),
                    Step::Crash => {
                        lives = Lives::new();
                        running = None;
                        written_lives.clear();
                        lives.load(Arc::clone(&store) as Arc<dyn LifeStore>, durable_sum);
                        let from = store.checkpoint();
                        for (sequence, id) in (1..).zip(&records).skip(usize::try_from(from).unwrap()) {
                            refund(&mut lives, sequence, *id);
                        }
                    }
                    Step::Begin => {}
                }
                let mut expected = Lives::new();
                for (sequence, id) in (1..).zip(&records) {
                    refund(&mut expected, sequence, *id);
                }
                for id in (1..=6).map(TransferId::from_raw) {
                    prop_assert_eq!(lives.get(id), expected.get(id));
                }
                prop_assert_eq!(lives.sum(), expected.sum());
            }
            if running.is_none() {
                lives.begin(u64::try_from(records.len()).unwrap());
            }
            while !lives.to_write(9).is_empty() {}
            store.0.lock().unwrap().1 = u64::MAX;
            while !lives.to_forget(9).is_empty() {}
            let left = lives.recent.order.len();
            prop_assert_eq!((lives.in_memory(), lives.saving.len()), (left, 0));
        }
    }
}
