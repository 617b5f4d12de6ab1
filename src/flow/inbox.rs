//! Inboxes: how actors on different threads hand each other work.
//!
//! A sender pushes its message on a lock-free queue and, unless that is on its way already, sends the actor one [`Drain`]
//! through its actix mailbox. The actor then takes everything that waits. So a busy actor is woken once for many messages
//! (a wake-up of a parked thread costs 10-25 µs, a push 20-50 ns), its mailbox holds at most a few `Drain`s, and all that
//! came meanwhile is handed on together.
//!
//! Messages of one sender are taken in the order they were pushed. If one push happened before another, on whatever
//! threads, it is taken first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use actix::prelude::{Message, Recipient, SendError};
use crossbeam::queue::SegQueue;

/// Take what waits in your inbox. The one actix message of the hot path.
#[derive(Clone, Copy, Debug)]
pub struct Drain;

impl Message for Drain {
    type Result = ();
}

/// The actor takes no more work: the process is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("actor has stopped")]
pub struct Stopped;

#[derive(Debug)]
struct Shared<T> {
    queue: SegQueue<T>,
    scheduled: AtomicBool,
    actor: OnceLock<Recipient<Drain>>,
}

/// The receiving side, owned by the actor.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Shared<T>>);

/// A sending side; all clones are alike.
#[derive(Debug)]
pub struct InboxSender<T>(Arc<Shared<T>>);

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Makes an inbox. Actors know each other's inboxes before they start; what is sent before [`InboxSender::connect`] waits.
pub fn inbox<T>() -> (InboxSender<T>, Inbox<T>) {
    let queue = SegQueue::new();
    let shared = Arc::new(Shared { queue, scheduled: AtomicBool::new(false), actor: OnceLock::new() });
    (InboxSender(Arc::clone(&shared)), Inbox(shared))
}

impl<T> InboxSender<T> {
    /// Says which actor to wake, for all senders of this inbox, and wakes it for what waits already. The first call counts.
    pub fn connect(&self, actor: Recipient<Drain>) -> Result<(), Stopped> {
        // A second actor for one inbox would be a mistake in the wiring; the first keeps it.
        let _first = self.0.actor.set(actor);
        self.wake()
    }

    /// Leaves a message without waking the actor, which is to be done soon. Never blocks.
    pub fn leave(&self, message: T) {
        self.0.queue.push(message);
    }

    /// Hands on a message. Never blocks.
    pub fn send(&self, message: T) -> Result<(), Stopped> {
        self.0.queue.push(message);
        self.wake()
    }

    /// Has the actor drain its inbox even if nothing waits.
    pub fn wake(&self) -> Result<(), Stopped> {
        let Some(actor) = self.0.actor.get() else { return Ok(()) };
        if self.0.scheduled.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        match actor.try_send(Drain) {
            // A full mailbox holds a `Drain`, which will find the message.
            Ok(()) | Err(SendError::Full(_)) => Ok(()),
            Err(SendError::Closed(_)) => Err(Stopped),
        }
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.0.queue.len()
    }
}

impl<T> Inbox<T> {
    /// Begins a drain: messages pushed from now on wake the actor again.
    pub fn begin_drain(&self) {
        // A swap and not a store: reading what a sender's swap wrote makes that sender's push visible here.
        self.0.scheduled.swap(false, Ordering::AcqRel);
    }

    /// How many messages wait. What comes after [`Self::begin_drain`] wakes the actor again, so a drain may end with these.
    pub fn depth(&self) -> usize {
        self.0.queue.len()
    }

    /// Takes the next message.
    pub fn pop(&self) -> Option<T> {
        self.0.queue.pop()
    }
}
