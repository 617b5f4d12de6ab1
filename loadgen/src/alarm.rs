//! Waiting until a moment, exactly.
//!
//! The runtime's own timers are exact to a millisecond, which would count as the server's latency, and what is due within the same
//! millisecond would be sent together. One thread sleeps for all who wait, until the next of their moments, and wakes each within some
//! tens of microseconds.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

/// Who waits, by moment; of the same moment in the order in which they came.
#[derive(Debug, Default)]
struct Waiting {
    by_moment: BTreeMap<(Instant, u64), oneshot::Sender<()>>,
    came: u64,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    is_earlier: Condvar,
}

impl Shared {
    /// Changes who waits. The thread is woken only where that changes until when it may sleep: mostly a later moment comes.
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let next = |waiting: &Waiting| waiting.by_moment.first_key_value().map(|(&key, _)| key);
        let before = next(&waiting);
        change(&mut waiting);
        if waiting.is_over || next(&waiting) != before {
            self.is_earlier.notify_one();
        }
    }

    fn wake(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while !waiting.is_over {
            let now = Instant::now();
            if let Some(first) = waiting.by_moment.first_entry().filter(|first| first.key().0 <= now) {
                let waker = first.remove();
                drop(waiting);
                // Whoever does not wait any more is not told.
                let _told: Result<(), ()> = waker.send(());
                waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let next = waiting.by_moment.first_key_value().map(|(&(due, _), _)| due);
            waiting = match next {
                Some(due) => {
                    let left = due.saturating_duration_since(now);
                    self.is_earlier.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.is_earlier.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Ends the thread when the last alarm is dropped.
#[derive(Debug)]
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.change(|waiting| waiting.is_over = true);
    }
}

/// A thread that wakes tasks at their moments. It ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Alarm(Arc<Ending>);

impl Alarm {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("alarm".to_owned()).spawn(move || of_thread.wake())?;
        Ok(Self(Arc::new(Ending(shared))))
    }

    /// Waits, not at all for what is past.
    pub(crate) async fn until(&self, due: Instant) {
        if due <= Instant::now() {
            return;
        }
        let (waker, woken) = oneshot::channel();
        self.0.0.change(|waiting| {
            waiting.came = waiting.came.wrapping_add(1);
            waiting.by_moment.insert((due, waiting.came), waker);
        });
        if woken.await.is_err() {
            // The thread is there as long as this is; without it, as exactly as the runtime can.
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn many_are_woken_each_once_and_never_early() {
        let alarm = Alarm::start().unwrap();
        let begun = Instant::now();
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        for number in [3_u32, 0, 7, 1, 1, 9, 2, 0] {
            let (alarm, told) = (alarm.clone(), told.clone());
            tokio::spawn(async move {
                let due = begun + Duration::from_millis(20) * number;
                alarm.until(due).await;
                told.send((number, Instant::now() >= due)).unwrap();
            });
        }
        drop(told);
        let mut woken = Vec::new();
        while let Some((number, was_in_time)) = hears.recv().await {
            assert!(was_in_time);
            woken.push(number);
        }
        woken.sort_unstable();
        assert_eq!(woken, [0, 0, 1, 1, 2, 3, 7, 9]);
        // An earlier moment is not kept waiting for a later one.
        let (late, _kept) = oneshot::channel();
        alarm.0.0.change(|waiting| drop(waiting.by_moment.insert((begun + Duration::from_mins(10), 0), late)));
        let soon_after = alarm.until(Instant::now() + Duration::from_millis(50));
        assert!(tokio::time::timeout(Duration::from_mins(1), soon_after).await.is_ok());
        // Who gives up is no reason not to wake the others, by the thread itself.
        let soon = || Instant::now() + Duration::from_millis(5);
        drop(tokio::time::timeout(Duration::ZERO, alarm.until(soon())).await);
        let (due, (waker, woken)) = (soon(), oneshot::channel());
        alarm.0.0.change(|waiting| drop(waiting.by_moment.insert((due, 0), waker)));
        woken.await.unwrap();
        assert!(Instant::now() >= due);
    }
}
