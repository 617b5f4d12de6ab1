//! Waiting for events: records that a gateway, or an account, has not seen yet.
//!
//! # Invariants
//!
//! 1. A request that waits keeps no thread busy, whatever there is room for: where it cannot look, it sleeps.
//! 2. Frames that wait until less is being read come before the next look, and are told when one has ended.
//! 3. A request looks every [`EVENTS_EVERY`] at most. However many wait, the newest records are read once for all ([`super::tail`]).
//! 4. A server that drains does not wait for what may happen, nor does a connection whose peer has ended: the answer says from where to ask again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::lookup::Lookup;
use super::queries::{events_behind, read_query};
use super::session::READING_MAX;
use super::tail::NEAR;
use crate::flow::{Admission, Permit};
use crate::ledger::{Code, GatewayId, Sequence, StoredRecord};
use crate::protocol::Query;

/// How often a request that waits looks whether there is something new.
const EVENTS_EVERY: Duration = Duration::from_millis(5);

/// How long the turn for the first look is waited for at least.
const FIRST_TURN: Duration = Duration::from_secs(5);

/// Records of a page: beside another page it fits into the smallest share.
const EVENTS_MAX: u32 = 4_000;

/// What requests that wait look out for: frames of their connection that wait until less is being read, and its end.
#[derive(Debug, Default)]
pub(super) struct Signs {
    pub(super) is_behind: AtomicBool,
    /// Less is being read than before.
    pub(super) less: Notify,
    /// The peer sends nothing more: nobody waits for what may happen.
    pub(super) has_ended: AtomicBool,
}

/// A request that waits for events.
pub(super) struct EventsRequest {
    pub(super) own: GatewayId,
    pub(super) lookup: Lookup,
    pub(super) reading: Arc<Admission>,
    pub(super) signs: Arc<Signs>,
}

impl EventsRequest {
    /// Waits until there is something, as long as the query says; answers it with its room, and the sequence to ask from next.
    pub(super) async fn wait(&self, mut query: Query) -> (Result<(Sequence, Vec<StoredRecord>), Code>, Option<Permit>) {
        let begun = Instant::now();
        let deadline = begun.checked_add(Duration::from_millis(query.wait_ms.into()));
        // Whoever does not want to wait looks once all the same, however many do.
        let mut turn_until = deadline.max(begun.checked_add(FIRST_TURN));
        query.limit = query.limit.min(EVENTS_MAX);
        loop {
            match self.look(&mut query, turn_until.take().or(deadline)).await {
                // From where to ask again is said all the same, below.
                None | Some((Err(Code::Draining), _)) => {}
                Some((read, page)) => return (read, Some(page)),
            }
            let is_over = *self.lookup.drain.borrow()
                || self.signs.has_ended.load(Relaxed)
                || deadline.is_none_or(|deadline| Instant::now() >= deadline);
            if is_over || self.lookup.outgoing.is_closed() {
                return (Ok((query.from.max(1), Vec::new())), None);
            }
            tokio::time::sleep(EVENTS_EVERY).await;
        }
    }

    /// Looks once, if there may be something; `None` when there is not, and then the query goes on where it ended.
    async fn look(
        &self,
        query: &mut Query,
        turn_until: Option<Instant>,
    ) -> Option<(Result<(Sequence, Vec<StoredRecord>), Code>, Permit)> {
        let behind = events_behind(&self.lookup.context, query.from).filter(|_| self.may_read())?;
        let (own, asked) = (self.own, *query);
        // The turn first, and then the room: nobody keeps others out while he waits.
        let until = turn_until?.into();
        let tail = if behind < NEAR {
            let tail = tokio::time::timeout_at(until, self.lookup.context.lookups.tail()).await.ok()?;
            // More may have come meanwhile than is read for all.
            Some(tail).filter(|_| events_behind(&self.lookup.context, query.from).is_none_or(|behind| behind < NEAR))
        } else {
            None
        };
        let (page, read) = if let Some(mut tail) = tail {
            (self.room_for(query)?, self.lookup.run_now(move |context| tail.look(context, own, &asked)).await)
        } else {
            let turns = tokio::time::timeout_at(until, self.lookup.turns()).await.ok()?.ok()?;
            let look = move |context: &_| read_query(context, own, &asked, 0);
            (self.room_for(query)?, self.lookup.run_in(turns, look).await)
        };
        match read.and_then(|read| read) {
            Ok((next, records)) if records.is_empty() => {
                // What was looked at need not be looked at again.
                query.from = next;
                drop(page);
                self.signs.less.notify_one();
                None
            }
            read => Some((read, page)),
        }
    }

    /// Whether less than enough is being read for the connection, and nothing comes before more.
    fn may_read(&self) -> bool {
        self.reading.inside() < READING_MAX && !self.signs.is_behind.load(Relaxed)
    }

    fn room_for(&self, query: &Query) -> Option<Permit> {
        let is_wanted = self.may_read();
        is_wanted.then(|| self.reading.admit(usize::try_from(query.limit).unwrap_or(usize::MAX))).flatten()
    }
}
