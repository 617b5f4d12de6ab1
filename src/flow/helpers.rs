//! Helpers: the threads beside the actors. What blocks is done there, one job after the other.
//!
//! A helper without a job sleeps, and whoever gives it one wakes it ([`Jobs`]). The channel's own waiting gives way several times before it sleeps, and where
//! others want the processor each time costs a slice of theirs: 2 - 5 ms, for which a group was not written.
//!
//! A simulation has the same jobs done in steps, one at a time and when it likes ([`Helpers::stepped`]).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError};
use crossbeam::sync::{Parker, Unparker};

/// Does one job if there is one; answers whether it did, none when there will be no more.
type Step = Box<dyn FnMut() -> Option<bool> + Send>;

/// Where helpers run.
#[derive(Clone, Debug, Default)]
pub struct Helpers(Option<Stepper>);

/// Helpers that do a job when they are told to.
#[derive(Clone, Default)]
pub struct Stepper(Arc<Mutex<Vec<Option<Step>>>>);

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stepper")
    }
}

/// A helper that was started.
#[derive(Debug)]
pub struct Helper(Option<JoinHandle<()>>);

impl Helper {
    /// Returns when it has ended, which it does when nobody can give it work any more. One that is stepped has no end of its own.
    pub fn join(self) {
        if let Some(thread) = self.0 {
            // A thread that panicked has ended the process already.
            let _ended = thread.join();
        }
    }
}

/// Gives a helper jobs. When all are dropped, it ends.
pub struct Jobs<J> {
    /// There until it is dropped.
    jobs: Option<Sender<J>>,
    /// None where the helper is stepped.
    wakes: Option<Unparker>,
}

impl<J> std::fmt::Debug for Jobs<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Jobs")
    }
}

impl<J> Clone for Jobs<J> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), wakes: self.wakes.clone() }
    }
}

impl<J> Jobs<J> {
    /// Gives a job, or it back: where there is no room, or the helper has ended. Never blocks.
    pub fn give(&self, job: J) -> Result<(), TrySendError<J>> {
        match &self.jobs {
            Some(jobs) => jobs.try_send(job)?,
            None => return Err(TrySendError::Disconnected(job)),
        }
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        if let Some(sleeper) = &self.wakes {
            sleeper.unpark();
        }
    }
}

impl<J> Drop for Jobs<J> {
    fn drop(&mut self) {
        // First there is nobody, and then it is told.
        self.jobs = None;
        self.wake();
    }
}

impl Helpers {
    /// Threads of their own.
    pub fn threads() -> Self {
        Self(None)
    }

    /// Steps, taken by the answer.
    pub fn stepped() -> (Self, Stepper) {
        let stepper = Stepper::default();
        (Self(Some(stepper.clone())), stepper)
    }

    /// Whether each is a thread.
    pub fn are_threads(&self) -> bool {
        self.0.is_none()
    }

    /// Starts a helper that performs the jobs of a channel in order until `perform` answers no, or nobody can send any more.
    pub fn start<J: Send + 'static>(
        &self,
        name: &str,
        (jobs, work): (Sender<J>, Receiver<J>),
        mut perform: impl FnMut(J) -> bool + Send + 'static,
    ) -> io::Result<(Jobs<J>, Helper)> {
        match &self.0 {
            None => {
                let parker = Parker::new();
                let jobs = Jobs { jobs: Some(jobs), wakes: Some(parker.unparker().clone()) };
                let run = move || {
                    loop {
                        match work.try_recv() {
                            Ok(job) => {
                                if !perform(job) {
                                    return;
                                }
                            }
                            // Whoever gives one wakes it afterwards, so none is overlooked.
                            Err(TryRecvError::Empty) => parker.park(),
                            Err(TryRecvError::Disconnected) => return,
                        }
                    }
                };
                Ok((jobs, Helper(Some(thread::Builder::new().name(name.to_owned()).spawn(run)?))))
            }
            Some(stepper) => {
                let step = move || match work.try_recv() {
                    Ok(job) => perform(job).then_some(true),
                    Err(TryRecvError::Empty) => Some(false),
                    Err(TryRecvError::Disconnected) => None,
                };
                lock(&stepper.0).push(Some(Box::new(step)));
                Ok((Jobs { jobs: Some(jobs), wakes: None }, Helper(None)))
            }
        }
    }

    /// Waits for something that a helper sends; none when there will be nothing.
    pub fn wait<T>(&self, from: &Receiver<T>) -> Option<T> {
        let Some(stepper) = &self.0 else { return from.recv().ok() };
        loop {
            match from.try_recv() {
                Ok(sent) => return Some(sent),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {
                    if !(0..stepper.len()).any(|helper| stepper.step(helper)) {
                        return from.try_recv().ok();
                    }
                }
            }
        }
    }
}

impl Stepper {
    /// How many helpers there are.
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has a helper do one job; answers whether there was one.
    pub fn step(&self, helper: usize) -> bool {
        // Taken out, so that what it does may step others.
        let Some(mut step) = lock(&self.0).get_mut(helper).and_then(Option::take) else { return false };
        let did = step();
        if did.is_some()
            && let Some(place) = lock(&self.0).get_mut(helper)
        {
            *place = Some(step);
        }
        did == Some(true)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::{bounded, unbounded};

    use super::*;

    #[test]
    fn every_job_is_done_in_order_and_the_helper_ends_with_the_last_who_could_give_one() {
        let (told, done) = unbounded();
        let (jobs, helper) = Helpers::threads().start("test", unbounded(), move |job| told.send(job).is_ok()).unwrap();
        let other = jobs.clone();
        for job in 0..20_000 {
            [&jobs, &other][job % 2].give(job).unwrap();
            // It sleeps before each of some, and goes on to the next of others.
            if job % 3 == 0 {
                assert_eq!(done.iter().find(|done| *done == job), Some(job), "or none, if it sleeps for ever");
            }
        }
        drop((jobs, other));
        helper.join();
        assert_eq!(done.iter().last(), Some(19_999));
    }

    #[test]
    fn a_helper_that_answers_no_takes_no_more() {
        let (jobs, helper) = Helpers::threads().start("test", bounded(1), |is_more| is_more).unwrap();
        jobs.give(false).unwrap();
        helper.join();
        assert!(matches!(jobs.give(true), Err(TrySendError::Disconnected(true))));
    }
}
