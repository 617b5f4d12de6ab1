//! Parcels: requests on their way, and the outcomes gathered for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Permit;
use crate::ledger::{Code, GatewayId, Grant, Outcome};

/// Where a parcel goes when all its outcomes are durable.
pub trait AnswerSink: Send + Sync + std::fmt::Debug {
    /// Takes the parcel back. Called once per parcel, from the settlement actor's thread; must not block.
    fn answer(&self, parcel: Arc<Parcel>);
}

/// One request of a parcel: which outcomes are its own.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The client's request id.
    pub request_id: u64,
    /// The kind of the answer frame.
    pub answer_kind: u16,
    /// Index of its first outcome.
    pub first: usize,
    /// Number of its outcomes.
    pub count: usize,
}

/// When a parcel passed each stage.
#[derive(Clone, Copy, Debug)]
pub struct ParcelTimes {
    /// Its last byte was read.
    pub received: Instant,
    /// Its last outcome was decided and sequenced.
    pub decided: Option<Instant>,
    /// The group with its last outcome was durable.
    pub durable: Option<Instant>,
}

/// One or more requests, read together and answered together.
#[derive(Debug)]
pub struct Parcel {
    gateway: GatewayId,
    grant: Grant,
    spans: Vec<Span>,
    sink: Arc<dyn AnswerSink>,
    state: Mutex<State>,
    permit: Permit,
}

#[derive(Debug)]
struct State {
    outcomes: Vec<Option<Outcome>>,
    open: usize,
    times: ParcelTimes,
}

impl Parcel {
    /// A parcel whose outcomes are all open.
    pub fn new(
        (gateway, grant): (GatewayId, Grant),
        spans: Vec<Span>,
        sink: Arc<dyn AnswerSink>,
        permit: Permit,
    ) -> Arc<Self> {
        let open = spans.iter().map(|span| span.count).sum();
        let times = ParcelTimes { received: Instant::now(), decided: None, durable: None };
        let state = Mutex::new(State { outcomes: vec![None; open], open, times });
        Arc::new(Self { gateway, grant, spans, sink, state, permit: permit.for_parcel() })
    }

    /// Who asked.
    pub fn gateway(&self) -> GatewayId {
        self.gateway
    }

    /// What the asker may do.
    #[inline]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The requests in it.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Notes the outcomes of some items; answers whether the parcel is complete now. One lock for all of them.
    ///
    /// # Panics
    ///
    /// When an item already has an outcome: the books would be wrong, so the process must stop.
    pub fn settle(&self, outcomes: impl IntoIterator<Item = (u32, Outcome)>) -> bool {
        let mut state = self.lock();
        for (index, outcome) in outcomes {
            let place = usize::try_from(index).ok().and_then(|index| state.outcomes.get_mut(index));
            let before = place.map(|place| place.replace(outcome));
            assert!(matches!(before, Some(None)), "item {index} decided twice or not in the parcel");
            state.open = state.open.saturating_sub(1);
        }
        if state.open == 0 {
            state.times.decided = Some(Instant::now());
        }
        state.open == 0
    }

    /// Sends the parcel back to its session.
    pub fn answer(self: Arc<Self>, durable: Instant) {
        self.lock().times.durable = Some(durable);
        self.permit.arrived();
        let sink = Arc::clone(&self.sink);
        sink.answer(self);
    }

    /// The outcomes of one span, in order of the request.
    pub fn outcomes(&self, span: &Span) -> Vec<Outcome> {
        let state = self.lock();
        let outcomes = state.outcomes.iter().skip(span.first).take(span.count);
        outcomes.map(|outcome| outcome.unwrap_or(Outcome::unrecorded(Code::Internal))).collect()
    }

    /// When it passed each stage so far.
    pub fn times(&self) -> ParcelTimes {
        self.lock().times
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic ends the process, so a poisoned lock is only ever seen while it ends.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::flow::Admission;

    #[derive(Debug)]
    struct Nobody;

    impl AnswerSink for Nobody {
        fn answer(&self, _: Arc<Parcel>) {}
    }

    /// One request of so many items, of whose answer nobody hears.
    pub(crate) fn parcel(count: usize) -> Arc<Parcel> {
        let span = Span { request_id: 1, answer_kind: 0, first: 0, count };
        let permit = Admission::new(count).admit(count).unwrap();
        Parcel::new((GatewayId(1), Grant::ALL), vec![span], Arc::new(Nobody), permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Admission;

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<Arc<Parcel>>>);

    impl AnswerSink for Kept {
        fn answer(&self, parcel: Arc<Parcel>) {
            self.0.lock().unwrap().push(parcel);
        }
    }

    #[test]
    fn what_is_answered_keeps_nobody_else_out() {
        let admission = Admission::new(80);
        let kept = Arc::new(Kept::default());
        let parcel = || {
            let span = Span { request_id: 1, answer_kind: 0, first: 0, count: 8 };
            let sink = Arc::clone(&kept) as Arc<dyn AnswerSink>;
            Parcel::new((GatewayId::default(), Grant::ALL), vec![span], sink, admission.admit(8).unwrap())
        };
        let parcels: Vec<_> = (0..10).map(|_| parcel()).collect();
        assert!(!admission.has_room_for_parcel(8) && admission.is_crowded());
        parcels.into_iter().take(9).for_each(|parcel| parcel.answer(Instant::now()));
        assert_eq!((admission.inside(), admission.has_room_for_parcel(8)), (0, true), "the tenth is gone");
        assert_eq!((admission.untaken(), admission.parcels()), (72, 9));
        kept.0.lock().unwrap().clear();
        assert_eq!((admission.untaken(), admission.parcels()), (0, 0));
    }
}
