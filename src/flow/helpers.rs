//! Helpers: the threads beside the actors. What blocks is done there, one job after the other.
//!
//! A simulation has the same jobs done in steps, one at a time and when it likes ([`Helpers::stepped`]).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, TryRecvError};

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

    /// Starts a helper that performs jobs in order until `perform` answers no, or nobody can send any more.
    pub fn start<J: Send + 'static>(
        &self,
        name: &str,
        work: Receiver<J>,
        mut perform: impl FnMut(J) -> bool + Send + 'static,
    ) -> io::Result<Helper> {
        match &self.0 {
            None => {
                let run = move || while work.recv().is_ok_and(&mut perform) {};
                Ok(Helper(Some(thread::Builder::new().name(name.to_owned()).spawn(run)?)))
            }
            Some(stepper) => {
                let step = move || match work.try_recv() {
                    Ok(job) => perform(job).then_some(true),
                    Err(TryRecvError::Empty) => Some(false),
                    Err(TryRecvError::Disconnected) => None,
                };
                lock(&stepper.0).push(Some(Box::new(step)));
                Ok(Helper(None))
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
