//! Waiting until a moment, exactly.
//!
//! The runtime's own timers are exact to a millisecond, which would count as the server's latency, and what is due within the same
//! millisecond would be sent together. One thread sleeps for all who wait, until the next of their moments, and wakes each within some
//! tens of microseconds.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

use tokio::sync::oneshot;

/// A moment, and who waits for it.
type Ask = (Instant, oneshot::Sender<()>);

/// A thread that wakes tasks at their moments. It ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Alarm(Sender<Ask>);

impl Alarm {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (asks, asked) = channel();
        std::thread::Builder::new().name("alarm".to_owned()).spawn(move || wake(&asked))?;
        Ok(Self(asks))
    }

    /// Waits, not at all for what is past.
    pub(crate) async fn until(&self, due: Instant) {
        if due <= Instant::now() {
            return;
        }
        let (waker, woken) = oneshot::channel();
        if self.0.send((due, waker)).is_err() || woken.await.is_err() {
            // The thread is there as long as this is; without it, as exactly as the runtime can.
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

fn wake(asked: &Receiver<Ask>) {
    // By moment; of the same moment in the order in which they came.
    let mut waiting = BTreeMap::new();
    let mut came = 0_u64;
    loop {
        let next = waiting.first_key_value().map(|(&(due, _), _): (&(Instant, u64), _)| due);
        let left = next.map(|due| due.saturating_duration_since(Instant::now()));
        let ask = match left {
            None => asked.recv().map_err(RecvTimeoutError::from),
            Some(left) => asked.recv_timeout(left),
        };
        match ask {
            Ok((due, waker)) => {
                came = came.wrapping_add(1);
                waiting.insert((due, came), waker);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((_, waker)) = waiting.pop_first() {
                    // Whoever does not wait any more is not told.
                    let _told: Result<(), ()> = waker.send(());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
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
        // Who gives up is no reason not to wake the others, by the thread itself.
        let soon = || Instant::now() + Duration::from_millis(5);
        drop(tokio::time::timeout(Duration::ZERO, alarm.until(soon())).await);
        let (due, (waker, woken)) = (soon(), oneshot::channel());
        alarm.0.send((due, waker)).unwrap();
        woken.await.unwrap();
        assert!(Instant::now() >= due);
    }
}
