//! What goes out on a connection: answers as the actors hand them over, and the bytes that are written next.
//!
//! # Invariants
//!
//! 1. A whole frame or nothing of it is among the bytes to be written.
//! 2. What is answered holds its room until it is written, an echo as well: in the connection's share, and among what is untaken ([`Admission`]).
//! 3. Nothing is read from a peer that does not take its answers.
//!
//! # Not here
//!
//! When something is written, and what it means that it cannot be ([`super::session`]).

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::listener::GatewayContext;
use crate::clearing::ReadAccounts;
use crate::flow::{Admission, AnswerSink, Parcel, Permit};
use crate::ledger::Code;
use crate::protocol::{Kind, begin_frame, encode_accounts, encode_error, encode_frame, encode_outcomes, end_frame};
use crate::telemetry::{Recorder, Stage};

/// Parcels answered with one write.
const PARCELS_PER_WRITE: usize = 64;

/// Room that is kept for the next answers; pages of a megabyte come now and then, and each connection has its own.
const KEPT_BYTES: usize = 1 << 20;
const SHRUNK_BYTES: usize = 64 << 10;

/// Of what is echoed, so many bytes are an item.
const ECHO_BYTES: usize = 1 << 10;

/// An answer; it holds its room until it is written.
#[derive(Debug)]
pub(super) enum Outgoing {
    Parcel(Arc<Parcel>),
    Accounts { kind: Kind, request_id: u64, read: ReadAccounts, room: Permit },
    Frame { frame: Vec<u8>, room: Permit },
}

impl Outgoing {
    /// An answer that is encoded already.
    pub(super) fn frame(frame: Vec<u8>, room: Permit) -> Self {
        room.arrived();
        Self::Frame { frame, room }
    }

    /// Accounts that were read.
    pub(super) fn accounts((kind, request_id): (Kind, u64), read: ReadAccounts, room: Permit) -> Self {
        room.arrived();
        Self::Accounts { kind, request_id, read, room }
    }
}

/// Takes a connection's outcomes when they are durable.
#[derive(Debug)]
pub(super) struct Sink(pub(super) mpsc::UnboundedSender<Outgoing>);

impl AnswerSink for Sink {
    fn answer(&self, parcel: Arc<Parcel>) {
        // A peer that left does not hear its outcomes; it asks again with the same ids.
        let _gone = self.0.send(Outgoing::Parcel(parcel));
    }
}

/// The frames to write next: answers, welcome, pong, refusals.
pub(super) struct Replies {
    bytes: Vec<u8>,
    /// What is among them, with its room.
    rooms: Vec<Permit>,
    parcels: Vec<Arc<Parcel>>,
    recorder: Recorder,
}

impl Replies {
    pub(super) fn new(context: &GatewayContext) -> Self {
        Self { bytes: Vec::new(), rooms: Vec::new(), parcels: Vec::new(), recorder: recorder(context) }
    }

    pub(super) fn frame(&mut self, kind: Kind, request_id: u64, body: &[u8]) {
        encode_frame(&mut self.bytes, kind, request_id, body);
    }

    /// Sends back what came, if the connection's share has room for it.
    pub(super) fn echo(&mut self, room: &Arc<Admission>, request_id: u64, body: &[u8]) -> Result<(), Code> {
        if !body.is_empty() {
            let echo = room.admit(body.len().div_ceil(ECHO_BYTES)).ok_or(Code::Busy)?;
            echo.arrived();
            self.rooms.push(echo);
        }
        self.frame(Kind::Pong, request_id, body);
        Ok(())
    }

    pub(super) fn refusal(&mut self, request_id: u64, code: Code) {
        encode_refusal(&mut self.bytes, request_id, code);
    }

    /// Encodes an answer, and those that wait behind it, for one write. Returns how many requests they answer.
    pub(super) fn answer(&mut self, first: Outgoing, answers: &mut mpsc::UnboundedReceiver<Outgoing>) -> u32 {
        let mut answered = self.encode(first);
        for _ in 1..PARCELS_PER_WRITE {
            let Ok(outgoing) = answers.try_recv() else { break };
            answered = answered.saturating_add(self.encode(outgoing));
        }
        answered
    }

    fn encode(&mut self, outgoing: Outgoing) -> u32 {
        match outgoing {
            Outgoing::Frame { frame, room } => {
                self.bytes.extend_from_slice(&frame);
                self.rooms.push(room);
                1
            }
            Outgoing::Accounts { kind, request_id, read, room } => {
                let at = begin_frame(&mut self.bytes);
                encode_accounts(&mut self.bytes, read.sequence, &read.accounts);
                end_frame(&mut self.bytes, at, kind, request_id);
                self.rooms.push(room);
                1
            }
            Outgoing::Parcel(parcel) => {
                for span in parcel.spans() {
                    let at = begin_frame(&mut self.bytes);
                    encode_outcomes(&mut self.bytes, &parcel.outcomes(span));
                    let kind = Kind::from_number(span.answer_kind).unwrap_or(Kind::Error);
                    end_frame(&mut self.bytes, at, kind, span.request_id);
                }
                let answered = u32::try_from(parcel.spans().len()).unwrap_or(u32::MAX);
                self.record(&parcel, u64::from(answered));
                self.parcels.push(parcel);
                answered
            }
        }
    }

    fn record(&self, parcel: &Parcel, requests: u64) {
        let times = parcel.times();
        let now = Instant::now();
        let decided = times.decided.unwrap_or(now);
        let durable = times.durable.unwrap_or(now).max(decided);
        let record = |stage, time| self.recorder.record_us_times(stage, time, requests);
        record(Stage::Decided, decided.saturating_duration_since(times.received));
        record(Stage::Durable, durable.saturating_duration_since(decided));
        record(Stage::Answered, now.saturating_duration_since(durable));
        record(Stage::Commit, now.saturating_duration_since(times.received));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes them all; after an error the connection is of no more use.
    pub(super) async fn write(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let written = writer.write_all(&self.bytes).await;
        self.bytes.clear();
        self.rooms.clear();
        self.parcels.clear();
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes.shrink_to(SHRUNK_BYTES);
        }
        written
    }

    /// Keeps little for the next answers.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to(SHRUNK_BYTES);
    }
}

thread_local! {
    /// One recorder per worker thread and telemetry; a process has few servers, so a short list will do.
    static RECORDERS: RefCell<Vec<(usize, Recorder)>> = const { RefCell::new(Vec::new()) };
}

fn recorder(context: &GatewayContext) -> Recorder {
    let key = Arc::as_ptr(context.telemetry.counters()).addr();
    RECORDERS.with_borrow_mut(|recorders| {
        if let Some((_, recorder)) = recorders.iter().find(|(known, _)| *known == key) {
            return recorder.clone();
        }
        let recorder = context.telemetry.stages().recorder();
        recorders.push((key, recorder.clone()));
        recorder
    })
}

/// The answer to a request that was not done.
pub(super) fn error_frame(request_id: u64, code: Code) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_refusal(&mut frame, request_id, code);
    frame
}

fn encode_refusal(frames: &mut Vec<u8>, request_id: u64, code: Code) {
    let at = begin_frame(frames);
    encode_error(frames, code, code.meaning());
    end_frame(frames, at, Kind::Error, request_id);
}
