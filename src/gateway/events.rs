//! Waiting for events: records that a gateway, or an account, has not seen yet.
//!
//! # Invariants
//!
//! 1. A request that waits keeps no thread busy, whatever there is room for: where it cannot look, it sleeps.
//! 2. Frames that wait until less is being read come before the next look, and are told when one has ended.
//! 3. A request looks every [`EVENTS_EVERY`] at most. However many wait, the newest records are read once for all ([`super::tail`]).
//! 4. *Nothing* is only said by who has looked, and of what was there when it was asked as long as that takes no more than [`FIRST_LOOKS`]: where there was no turn or no room
//!    to look at any of it, the answer is *busy*. What was looked at need not be looked at again: the answer says from where to ask.
//! 5. A server that drains does not wait for what may happen, nor does a connection whose peer has ended: the answer says from where to ask again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::lookup::Lookup;
use super::queries::{durable, events_behind, read_query};
use super::session::READING_MAX;
use super::tail::NEAR;
use crate::flow::{Admission, Permit};
use crate::ledger::{Code, GatewayId, Sequence, StoredRecord};
use crate::protocol::Query;

/// How often a request that waits looks whether there is something new.
const EVENTS_EVERY: Duration = Duration::from_millis(5);

/// How long what was there already is looked at, also by who does not want to wait.
const FIRST_LOOKS: Duration = Duration::from_secs(5);

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

/// What came of a look.
enum Look {
    /// There is nothing yet, as far as was looked.
    Nothing,
    /// There may be something, but there was no turn, or no room.
    Not,
    Read(Result<(Sequence, Vec<StoredRecord>), Code>, Permit),
}

impl EventsRequest {
    /// Waits until there is something, as long as the query says; answers it with its room, and the sequence to ask from next.
    pub(super) async fn wait(&self, mut query: Query) -> (Result<(Sequence, Vec<StoredRecord>), Code>, Option<Permit>) {
        let begun = Instant::now();
        let deadline = begun.checked_add(Duration::from_millis(query.wait_ms.into()));
        let (asked_from, known) = (query.from, durable(&self.lookup.context));
        let patient = deadline.max(begun.checked_add(FIRST_LOOKS));
        let until = |from: Sequence| if from.max(1) <= known { patient } else { deadline };
        query.limit = query.limit.min(EVENTS_MAX);
        loop {
            let turn_until = until(query.from);
            let look = self.look(&mut query, (known, turn_until)).await;
            let is_unknown = matches!(look, Look::Not) && query.from == asked_from;
            match look {
                // From where to ask again is said all the same, below.
                Look::Nothing | Look::Not | Look::Read(Err(Code::Draining), _) => {}
                Look::Read(read, page) => return (read, Some(page)),
            }
            let ends = *self.lookup.drain.borrow() || self.signs.has_ended.load(Relaxed);
            let is_late = until(query.from).is_none_or(|until| Instant::now() >= until);
            if ends || is_late || self.lookup.outgoing.is_closed() {
                let nothing = if is_unknown { Err(Code::Busy) } else { Ok((query.from.max(1), Vec::new())) };
                return (nothing, None);
            }
            tokio::time::sleep(EVENTS_EVERY).await;
        }
    }

    /// Looks once, if there may be something. Where there is nothing, the query goes on where that ended.
    async fn look(&self, query: &mut Query, (known, turn_until): (Sequence, Option<Instant>)) -> Look {
        let Some(behind) = events_behind(&self.lookup.context, query.from) else { return Look::Nothing };
        let Some((read, page)) = self.read(query, (behind, known), turn_until).await else { return Look::Not };
        match read {
            Ok((next, records)) if records.is_empty() => {
                // What was looked at need not be looked at again.
                query.from = next;
                drop(page);
                self.signs.less.notify_one();
                Look::Nothing
            }
            read => Look::Read(read, page),
        }
    }

    /// Reads what there is, at least what was known when it was asked, in its turn and with room for it, if both are to be had until then.
    async fn read(
        &self,
        query: &Query,
        (behind, known): (u64, Sequence),
        turn_until: Option<Instant>,
    ) -> Option<(Result<(Sequence, Vec<StoredRecord>), Code>, Permit)> {
        let until = turn_until.filter(|_| self.may_read())?.into();
        let (own, asked) = (self.own, *query);
        // The turn first, and then the room: nobody keeps others out while he waits.
        let tail = if behind < NEAR {
            let tail = tokio::time::timeout_at(until, self.lookup.context.lookups.tail()).await.ok()?;
            // More may have come meanwhile than is read for all.
            Some(tail).filter(|_| events_behind(&self.lookup.context, query.from).is_none_or(|behind| behind < NEAR))
        } else {
            None
        };
        let (page, read) = if let Some(mut tail) = tail {
            let page = self.room_for(query)?;
            if let Some(found) = tail.look_again(own, &asked, (known, Instant::now())) {
                return Some((Ok(found), page));
            }
            (page, self.lookup.run_now(move |context| tail.look(context, own, &asked)).await)
        } else {
            let turns = tokio::time::timeout_at(until, self.lookup.turns()).await.ok()?.ok()?;
            let look = move |context: &_| read_query(context, own, &asked, 0);
            (self.room_for(query)?, self.lookup.run_in(turns, look).await)
        };
        Some((read.and_then(|read| read), page))
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
