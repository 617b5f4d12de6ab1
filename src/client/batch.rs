//! Calls of many callers that go together in one request, and where each hears of its own.
//!
//! # Invariants
//!
//! 1. A caller that waits is woken after what became of the batch is there, and not only before: it looks once more with the lock in its hand.
//! 2. What became of a batch is said once.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use super::connection::ClientError;
use crate::ledger::{Code, Outcome};

/// What became of a batch: an outcome for each transfer, or the same for all.
type Ended<F> = Result<Vec<Outcome>, F>;

/// Calls that go together.
#[derive(Debug)]
pub(super) struct Batch<F> {
    ended: OnceLock<Ended<F>>,
    waiting: Mutex<Waiting>,
}

/// Who waits for a batch: tasks, and for how many calls each. Those of one task mostly come one after the other.
#[derive(Debug, Default)]
struct Waiting(Vec<(Waker, usize)>);

/// A call's part of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The number of its task among those who wait.
    task: usize,
    /// Its transfers.
    first: usize,
    count: usize,
}

impl<F> Batch<F> {
    /// One for which about so many tasks will wait.
    pub(super) fn new(tasks: usize) -> Self {
        Self { ended: OnceLock::new(), waiting: Mutex::new(Waiting(Vec::with_capacity(tasks))) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tasks wait for it, and whether that is more than one call.
    pub(super) fn size(&self) -> (usize, bool) {
        let Waiting(tasks) = &*self.waiting();
        (tasks.len(), tasks.len() > 1 || tasks.first().is_some_and(|(_, calls)| *calls > 1))
    }

    /// Takes in a call of so many transfers behind `first` others, before the batch is sent.
    pub(super) fn join(&self, (first, count): (usize, usize), caller: &Waker) -> Part {
        Part { task: self.waiting().join(caller), first, count }
    }

    /// Says what became of it, and wakes everybody.
    pub(super) fn end(&self, ended: Ended<F>) {
        // Who said it first was right.
        drop(self.ended.set(ended));
        let Waiting(tasks) = std::mem::take(&mut *self.waiting());
        for (task, _) in tasks {
            task.wake();
        }
    }

    /// What became of a call, when that is known.
    pub(super) fn poll(&self, part: &mut Part, context: &Context<'_>) -> Poll<Result<&[Outcome], &F>> {
        if let Some(own) = self.own(*part) {
            return Poll::Ready(own);
        }
        part.task = self.waiting().renew(part.task, context.waker());
        // It may have ended just before, with the wakers of then.
        self.own(*part).map_or(Poll::Pending, Poll::Ready)
    }

    fn own(&self, Part { first, count, .. }: Part) -> Option<Result<&[Outcome], &F>> {
        let outcomes = match self.ended.get()? {
            Ok(outcomes) => outcomes,
            Err(failure) => return Some(Err(failure)),
        };
        Some(Ok(outcomes.get(first..first.saturating_add(count)).unwrap_or_default()))
    }
}

impl Waiting {
    /// A task waits for one call more.
    fn join(&mut self, caller: &Waker) -> usize {
        match self.0.last_mut().filter(|(task, _)| task.will_wake(caller)) {
            Some((_, calls)) => *calls = calls.saturating_add(1),
            None => self.0.push((caller.clone(), 1)),
        }
        self.0.len().saturating_sub(1)
    }

    /// A call for which one task waited is waited for by this one, which may be the same.
    fn renew(&mut self, task: usize, caller: &Waker) -> usize {
        match self.0.get_mut(task) {
            Some((waker, calls)) if *calls > 1 && !waker.will_wake(caller) => {
                *calls = calls.saturating_sub(1);
                self.join(caller)
            }
            Some((waker, _)) => {
                waker.clone_from(caller);
                task
            }
            None => task,
        }
    }
}

/// The outcome of a single transfer.
pub(super) fn only(outcomes: &[Outcome]) -> Result<Outcome, ClientError> {
    outcomes.first().copied().ok_or(ClientError::Protocol(Code::BodyMalformed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn outcomes(count: u64) -> Vec<Outcome> {
        (1..=count).map(|sequence| Outcome { sequence, ..Outcome::unrecorded(Code::Accepted) }).collect()
    }

    #[test]
    fn each_call_has_its_own_part() {
        let (batch, nobody) = (Batch::<Code>::new(2), Waker::noop());
        let mut parts = [batch.join((0, 1), nobody), batch.join((1, 3), nobody), batch.join((4, 1), nobody)];
        assert!(parts.iter_mut().all(|part| batch.poll(part, &Context::from_waker(nobody)).is_pending()));
        batch.end(Ok(outcomes(5)));
        let told = parts.map(|mut part| match batch.poll(&mut part, &Context::from_waker(nobody)) {
            Poll::Ready(Ok(own)) => own.iter().map(|outcome| outcome.sequence).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        });
        assert_eq!(told, [vec![1], vec![2, 3, 4], vec![5]]);
        // What is said later changes nothing.
        batch.end(Err(Code::Internal));
        assert!(matches!(batch.poll(&mut parts[0], &Context::from_waker(nobody)), Poll::Ready(Ok(_))));
    }

    #[test]
    fn who_waits_is_woken_where_it_waits_now() {
        let (batch, before, now) = (Batch::<Code>::new(1), Arc::new(Woken::default()), Arc::new(Woken::default()));
        let mut part = batch.join((0, 1), &Arc::clone(&before).into());
        let moved = Arc::clone(&now).into();
        assert!(batch.poll(&mut part, &Context::from_waker(&moved)).is_pending());
        batch.end(Err(Code::Internal));
        assert_eq!((before.0.load(Relaxed), now.0.load(Relaxed)), (0, 1));
        assert!(matches!(batch.poll(&mut part, &Context::from_waker(&moved)), Poll::Ready(Err(Code::Internal))));
    }

    #[test]
    fn calls_of_a_task_have_one_waker_until_one_of_them_moves() {
        let (batch, first, second) = (Batch::<Code>::new(1), Arc::new(Woken::default()), Arc::new(Woken::default()));
        let [one, other] = [&first, &second].map(|task| Waker::from(Arc::clone(task)));
        let mut parts = [0, 1, 2].map(|number| batch.join((number, 1), &one));
        assert_eq!(batch.size(), (1, true));
        // The second call goes back and forth; the others stay where they are.
        for _ in 0..10 {
            for task in [&other, &one] {
                assert!(batch.poll(&mut parts[1], &Context::from_waker(task)).is_pending());
            }
        }
        assert!(batch.size().0 <= 3, "{:?}", batch.size());
        assert!(batch.poll(&mut parts[1], &Context::from_waker(&other)).is_pending());
        batch.end(Ok(outcomes(3)));
        assert_eq!(second.0.load(Relaxed), 1);
        assert!(first.0.load(Relaxed) > 0);
        let told = parts.map(|mut part| match batch.poll(&mut part, &Context::from_waker(&one)) {
            Poll::Ready(Ok(own)) => own[0].sequence,
            other => panic!("{other:?}"),
        });
        assert_eq!(told, [1, 2, 3]);
    }
}
