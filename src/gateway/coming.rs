//! Large requests, whose transfers are read while they come.
//!
//! # Invariants
//!
//! 1. What a request's body says is believed only when all of it has come; until then its transfers are kept beside those that go on.
//! 2. It is answered when it is whole, and only then is there room taken for it.
//!
//! # Not here
//!
//! Where the bytes come from, and when a frame is late ([`super::incoming`]); requests that are whole ([`super::session`]).

use std::sync::atomic::Ordering::Relaxed;

use super::incoming::Incoming;
use super::session::Session;
use crate::ledger::Code;
use crate::protocol::{FrameHeader, Kind, TransferPieces, VERSION};

/// A request of which some has come.
#[derive(Debug)]
pub(super) struct Coming {
    header: FrameHeader,
    pieces: TransferPieces,
}

impl Coming {
    /// A request that can be read while it comes, if this one can.
    pub(super) fn of(header: &FrameHeader) -> Option<Self> {
        let is_of_transfers = header.kind == Kind::SubmitTransfers.number() && header.version == VERSION;
        let pieces = || TransferPieces::new(usize::try_from(header.body_bytes).unwrap_or(usize::MAX));
        is_of_transfers.then(|| Self { header: *header, pieces: pieces() })
    }

    /// Takes what has come of it; whether that is all.
    pub(super) fn go_on(&mut self, incoming: &mut Incoming) -> bool {
        let read = self.pieces.read(&incoming.buffer);
        incoming.take_piece(read, self.pieces.missing());
        self.pieces.missing() == 0
    }
}

impl Session {
    /// Answers a request that has come whole, or hands it on.
    pub(super) fn come(&mut self, Coming { header, pieces }: Coming) {
        self.context.telemetry.counters().requests_total.fetch_add(1, Relaxed);
        let done = if self.is_too_much(&header) {
            Err(Code::Busy)
        } else {
            pieces.finish(header.body_crc).and_then(|transfers| self.submit_all(header.request_id, transfers))
        };
        if let Err(code) = done {
            self.refuse_body(header.request_id, code, usize::try_from(header.body_bytes).unwrap_or(usize::MAX));
        }
    }
}
