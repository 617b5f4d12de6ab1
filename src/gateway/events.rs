//! Waiting for events: records that a gateway, or an account, has not seen yet.
//!
//! # Invariants
//!
//! 1. A request that waits keeps no thread busy, whatever there is room for: where it cannot look, it sleeps.
//! 2. Frames that wait until less is being read come before the next look, and are told when one has ended.
//! 3. A server that drains does not wait for what may happen: the answer says from where to ask again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::lookup::Lookup;
use super::queries::{may_have_events, read_query};
use super::session::READING_MAX;
use crate::flow::{Admission, Permit};
use crate::ledger::{Code, GatewayId, Sequence, StoredRecord};
use crate::protocol::Query;

/// How often a request that waits looks whether there is something new.
const EVENTS_EVERY: Duration = Duration::from_millis(5);

/// Records of a page: beside the request itself, and another page, it fits into the smallest share.
const EVENTS_MAX: u32 = 4_000;

/// Frames that wait until less is being read for their connection.
#[derive(Debug, Default)]
pub(super) struct Behind {
    pub(super) is_behind: AtomicBool,
    /// Less is being read than before.
    pub(super) less: Notify,
}

/// A request that waits for events.
pub(super) struct EventsRequest {
    pub(super) own: GatewayId,
    pub(super) lookup: Lookup,
    pub(super) reading: Arc<Admission>,
    pub(super) behind: Arc<Behind>,
}

impl EventsRequest {
    /// Waits until there is something, as long as the query says; answers it with its room, and the sequence to ask from next.
    pub(super) async fn wait(&self, mut query: Query) -> (Result<(Sequence, Vec<StoredRecord>), Code>, Option<Permit>) {
        let deadline = Instant::now().checked_add(Duration::from_millis(query.wait_ms.into()));
        query.limit = query.limit.min(EVENTS_MAX);
        loop {
            if let Some(page) = self.room_for(&query) {
                let (own, asked) = (self.own, query);
                let read = self.lookup.run(move |context| read_query(context, own, &asked, 0)).await;
                match read.and_then(|read| read) {
                    // From where to ask again is said all the same, below.
                    Err(Code::Draining) => {}
                    Ok((next, records)) if records.is_empty() => {
                        // What was looked at need not be looked at again.
                        query.from = next;
                        drop(page);
                        self.behind.less.notify_one();
                    }
                    read => return (read, Some(page)),
                }
            } else {
                tokio::time::sleep(EVENTS_EVERY).await;
            }
            let is_over = *self.lookup.drain.borrow() || deadline.is_none_or(|deadline| Instant::now() >= deadline);
            if is_over || self.lookup.outgoing.is_closed() {
                return (Ok((query.from.max(1), Vec::new())), None);
            }
        }
    }

    /// Room for a page, when there may be something in it and nothing comes before it.
    fn room_for(&self, query: &Query) -> Option<Permit> {
        let may_look = may_have_events(&self.lookup.context, query.from)
            && self.reading.inside() < READING_MAX
            && !self.behind.is_behind.load(Relaxed);
        may_look.then(|| self.reading.admit(usize::try_from(query.limit).unwrap_or(usize::MAX))).flatten()
    }
}
