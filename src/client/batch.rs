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
    /// Who waits, by the number of its call.
    waiting: Mutex<Vec<Waker>>,
}

/// A call's part of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Its number among the calls.
    call: usize,
    /// Its transfers.
    first: usize,
    count: usize,
}

impl<F> Batch<F> {
    /// One for about so many calls.
    pub(super) fn new(calls: usize) -> Self {
        Self { ended: OnceLock::new(), waiting: Mutex::new(Vec::with_capacity(calls)) }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls there are.
    pub(super) fn calls(&self) -> usize {
        self.waiting().len()
    }

    /// Takes in a call of so many transfers behind `first` others, before the batch is sent.
    pub(super) fn join(&self, (first, count): (usize, usize), caller: &Waker) -> Part {
        let mut waiting = self.waiting();
        let call = waiting.len();
        waiting.push(caller.clone());
        Part { call, first, count }
    }

    /// Says what became of it, and wakes everybody.
    pub(super) fn end(&self, ended: Ended<F>) {
        // Who said it first was right.
        drop(self.ended.set(ended));
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// What became of a call, when that is known.
    pub(super) fn poll(&self, part: Part, context: &Context<'_>) -> Poll<Result<&[Outcome], &F>> {
        if let Some(own) = self.own(part) {
            return Poll::Ready(own);
        }
        if let Some(caller) = self.waiting().get_mut(part.call) {
            caller.clone_from(context.waker());
        }
        // It may have ended just before, with the wakers of then.
        self.own(part).map_or(Poll::Pending, Poll::Ready)
    }

    fn own(&self, Part { first, count, .. }: Part) -> Option<Result<&[Outcome], &F>> {
        let outcomes = match self.ended.get()? {
            Ok(outcomes) => outcomes,
            Err(failure) => return Some(Err(failure)),
        };
        Some(Ok(outcomes.get(first..first.saturating_add(count)).unwrap_or_default()))
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
        let parts = [batch.join((0, 1), nobody), batch.join((1, 3), nobody), batch.join((4, 1), nobody)];
        assert!(parts.iter().all(|part| batch.poll(*part, &Context::from_waker(nobody)).is_pending()));
        batch.end(Ok(outcomes(5)));
        let told = parts.map(|part| match batch.poll(part, &Context::from_waker(nobody)) {
            Poll::Ready(Ok(own)) => own.iter().map(|outcome| outcome.sequence).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        });
        assert_eq!(told, [vec![1], vec![2, 3, 4], vec![5]]);
        // What is said later changes nothing.
        batch.end(Err(Code::Internal));
        assert!(matches!(batch.poll(parts[0], &Context::from_waker(nobody)), Poll::Ready(Ok(_))));
    }

    #[test]
    fn who_waits_is_woken_where_it_waits_now() {
        let (batch, before, now) = (Batch::<Code>::new(1), Arc::new(Woken::default()), Arc::new(Woken::default()));
        let part = batch.join((0, 1), &Arc::clone(&before).into());
        let moved = Arc::clone(&now).into();
        assert!(batch.poll(part, &Context::from_waker(&moved)).is_pending());
        batch.end(Err(Code::Internal));
        assert_eq!((before.0.load(Relaxed), now.0.load(Relaxed)), (0, 1));
        assert!(matches!(batch.poll(part, &Context::from_waker(&moved)), Poll::Ready(Err(Code::Internal))));
    }
}
