//! Transfers that came together and travel together.
//!
//! # Invariants
//!
//! 1. For all that is gathered there is room inside, and one permit says so.
//! 2. No more is gathered than a full batch, so that one parcel is never greater.
//!
//! # Not here
//!
//! Requests that have not come whole ([`super::coming`]).

use std::sync::Arc;

use super::session::Session;
use crate::flow::{Asked, Parcel, Permit, Span};
use crate::ledger::{Code, RECORD_BYTES, Transfer, TransferId};
use crate::protocol::{ITEMS_MAX, Kind, decode_transfers};
use crate::router::RouterMessage;

/// Transfers that were read together.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    transfers: Vec<Transfer>,
    /// The ids of the first of them, if those were listed.
    ids: Vec<TransferId>,
    spans: Vec<Span>,
    permit: Option<Permit>,
}

impl Session {
    /// Submits the transfers of a request that has come whole.
    pub(super) fn submit(&mut self, request_id: u64, body: &[u8]) -> Result<(), Code> {
        let items_max = usize::try_from(ITEMS_MAX).unwrap_or(usize::MAX);
        if self.gathered.transfers.len().saturating_add(body.len() / RECORD_BYTES) > items_max {
            self.hand_on()?;
        }
        let first = self.gathered.transfers.len();
        let count = decode_transfers(body, &mut self.gathered.transfers)?;
        self.gather(request_id, first, count)
    }

    /// Submits the transfers of a large request; nothing is gathered yet.
    pub(super) fn submit_all(
        &mut self,
        request_id: u64,
        (transfers, ids): (Vec<Transfer>, Option<Vec<TransferId>>),
    ) -> Result<(), Code> {
        self.has_room_in_flight()?;
        let count = transfers.len();
        (self.gathered.transfers, self.gathered.ids) = (transfers, ids.unwrap_or_default());
        self.gather(request_id, 0, count)?;
        self.in_flight = self.in_flight.saturating_add(1);
        Ok(())
    }

    /// Gathers the transfers of a request, if there is room for them; they are the last so many.
    fn gather(&mut self, request_id: u64, first: usize, count: usize) -> Result<(), Code> {
        let Some(permit) = self.room.admit(count) else {
            self.gathered.transfers.truncate(first);
            self.gathered.ids.truncate(first);
            return Err(Code::Busy);
        };
        self.gathered.permit = Some(match self.gathered.permit.take() {
            Some(gathered) => gathered.join(permit),
            None => permit,
        });
        self.gathered.spans.push(Span { request_id, answer_kind: Kind::TransferOutcomes.number(), first, count });
        Ok(())
    }

    /// Hands on the transfers gathered so far.
    pub(super) fn hand_on(&mut self) -> Result<(), Code> {
        let Gathered { transfers, ids, spans, permit } = std::mem::take(&mut self.gathered);
        let Some(permit) = permit else { return Ok(()) };
        let parcel = Parcel::new(self.asker(), spans, Arc::clone(&self.sink), permit);
        self.context
            .router
            .send(RouterMessage::Transfers(parcel, Asked::listed(transfers, ids)))
            .map_err(|_stopped| Code::Draining)
    }
}
