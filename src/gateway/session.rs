//! One connection, from its first byte to its last.
//!
//! Requests that came together travel together: all `SubmitTransfers` frames found in the buffer after one read become one
//! parcel (up to a full batch), come back together and are answered with one write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, watch};

use super::coming::Coming;
use super::events::Signs;
use super::gathered::Gathered;
use super::handshake::greet;
use super::incoming::{Incoming, LARGE_BYTES, Skip};
use super::listener::{GatewayContext, drained};
use super::lookup::LOOKUPS_MAX;
use super::outgoing::{Outgoing, Replies, Sink};
use crate::flow::{Admission, AnswerSink, Awake, Parcel, Permit, Span};
use crate::ledger::{Code, GatewayEntry, GatewayId, Grant, NewAccount, RECORD_BYTES};
use crate::protocol::{
    AccountRequest, BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, HELLO_BYTES, HistoryRequest, ITEMS_MAX, Kind,
    ListRequest, Query, decode_ids, decode_new_accounts,
};
use crate::router::RouterMessage;

/// Frames that bring nothing, pings and what is refused, after which a connection is not read from until its interval is over: 10,000 a second. A refused
/// body counts as one more for each page, or for each four pages that were not received.
const IDLE_FRAMES_MAX: u32 = 1_000;
const IDLE_FRAMES_EVERY: Duration = Duration::from_millis(100);
const PAGE_BYTES: usize = 4_096;

/// A connection gets 2.5 million accounts or records a second; what it asks for beyond that is not read.
const LOOKUP_TIME: Duration = Duration::from_nanos(400);

/// It rests when it is so far ahead: timers are exact to a millisecond.
const LOOKUP_AHEAD: Duration = Duration::from_micros(1_500);

/// Items being read for a connection after which nothing more of what it sends is looked at: one full page. Whoever asks for much and does not take it
/// has a few of them made, not all.
pub(super) const READING_MAX: usize = 8_190;

/// Time for a peer to close after we did.
const LINGER: Duration = Duration::from_secs(1);

/// Time for a peer to take an answer where all that may be untaken is, and how often that is looked at.
const UNTAKEN_TIME: Duration = Duration::from_secs(1);
const UNTAKEN_LOOK: Duration = Duration::from_millis(250);

/// While it looks out for an answer, a session leaves its thread to other sessions so often: to do it takes as long as several looks, and wakes another thread.
const TURN: Duration = Duration::from_micros(30);

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The peer closed it.
    ByPeer,
    /// The server drains.
    Drained,
    /// The peer was told this, and the connection closed.
    Refused(Code),
    /// The peer did not take its answers in time.
    WriteTimeout,
    /// The connection broke.
    Broken(io::Error),
}

/// How far a buffer was looked through.
enum Parsed {
    /// Every frame that has come whole was taken.
    All,
    /// Frames wait in it until less is being read.
    Behind,
}

/// A connection's state.
pub(super) struct Session {
    pub(super) context: Arc<GatewayContext>,
    /// Who has said hello, with which key, and what it may do, as of this version of the gateways.
    gateway: Option<GatewayEntry>,
    version: u64,
    /// This connection's share of what may be inside.
    pub(super) room: Arc<Admission>,
    /// The part of it that is being read.
    pub(super) reading: Arc<Admission>,
    /// This connection's share of those who wait for events.
    pub(super) waits: Arc<Admission>,
    /// Lookups for it that may be under way on threads that wait.
    pub(super) lookups: Arc<Semaphore>,
    pub(super) drain: watch::Receiver<bool>,
    /// Whether frames wait in the buffer until less is being read.
    pub(super) signs: Arc<Signs>,
    /// Bounded by the requests in flight.
    pub(super) outgoing: mpsc::UnboundedSender<Outgoing>,
    pub(super) sink: Arc<dyn AnswerSink>,
    pub(super) in_flight: u32,
    awake: Awake,
    /// Frames that brought nothing since then.
    idle_frames: (u32, Instant),
    /// Until when it has had what it asked for.
    asked_until: Instant,
    /// A large request that has come in part; nothing is gathered meanwhile.
    coming: Option<Coming>,
    pub(super) gathered: Gathered,
    replies: Replies,
}

impl Session {
    /// Serves a connection to its end.
    pub(super) async fn run(
        (mut reader, mut writer): (impl Skip, impl AsyncWrite + Unpin),
        context: Arc<GatewayContext>,
        drain: watch::Receiver<bool>,
    ) -> Ended {
        let (outgoing, answers) = mpsc::unbounded_channel();
        let room = Admission::share(&context.admission, usize::try_from(ITEMS_MAX).unwrap_or(usize::MAX));
        let mut session = Self {
            replies: Replies::new(&context),
            reading: Admission::part(&room),
            waits: context.lookups.share_of_waits(),
            awake: Awake::new(context.limits.stay_awake, &context.admission),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            drain: drain.clone(),
            signs: Arc::default(),
            room,
            context,
            gateway: None,
            version: 0,
            sink: Arc::new(Sink(outgoing.clone())),
            outgoing,
            in_flight: 0,
            idle_frames: (0, Instant::now()),
            asked_until: Instant::now(),
            coming: None,
            gathered: Gathered::default(),
        };
        let ended = session.serve(&mut reader, &mut writer, answers, drain).await;
        match &ended {
            Ended::Refused(code) => tracing::debug!(%code, "refusing a peer"),
            Ended::Broken(err) => tracing::debug!(%err, "connection broke"),
            _ => {}
        }
        // What was written is to arrive; a peer that is gone does not matter any more.
        let _closed = tokio::time::timeout(session.context.limits.write_timeout, writer.shutdown()).await;
        if matches!(ended, Ended::Drained | Ended::Refused(_)) {
            // Closing with unread bytes makes the kernel reset the connection, and the peer would lose answers that it has not read
            // yet. So what still comes is read and dropped until the peer closes too.
            let _lingered = tokio::time::timeout(LINGER, discard(&mut reader)).await;
        }
        ended
    }

    async fn serve(
        &mut self,
        reader: &mut impl Skip,
        writer: &mut (impl AsyncWrite + Unpin),
        mut answers: mpsc::UnboundedReceiver<Outgoing>,
        mut drain: watch::Receiver<bool>,
    ) -> Ended {
        let mut incoming = Incoming::new();
        let mut clock = tokio::time::interval(self.tick());
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut draining, mut ended_at) = (false, None::<Instant>);
        let signs = Arc::clone(&self.signs);
        loop {
            let is_behind = signs.is_behind.load(Relaxed) && !draining;
            let is_taking = !draining && ended_at.is_none() && incoming.paused_until.is_none() && !is_behind;
            let mut has_come = false;
            tokio::select! {
                biased;
                () = drained(&mut drain), if !draining => draining = true,
                // Once it drains only what is inside is waited for, and what has come in part is not late.
                _ = clock.tick(), if !draining => {
                    if incoming.shrink(tokio::time::Instant::now()) {
                        self.replies.shrink();
                    }
                    let partial = incoming.partial_since.map(|since| since.elapsed());
                    let is_overdue =
                        self.is_overdue(incoming.last_frame.elapsed(), partial) && !incoming.look_once_more();
                    let looked = if is_overdue { Err(Code::TimedOut) } else { self.look_at_gateway() };
                    if let Err(code) = looked {
                        self.refuse(0, code);
                        return self.write(writer).await.map_or_else(|ended| ended, |()| Ended::Refused(code));
                    }
                }
                Some(first) = answers.recv() => {
                    self.in_flight = self.in_flight.saturating_sub(self.replies.answer(first, &mut answers));
                    ended_at = ended_at.map(|_| Instant::now());
                    if self.in_flight == 0 {
                        // Who waited for this was not idle meanwhile.
                        incoming.last_frame = tokio::time::Instant::now();
                    }
                }
                () = signs.less.notified(), if is_behind => {}
                () = until(incoming.paused_until), if incoming.paused_until.is_some() => incoming.paused_until = None,
                read = incoming.read(reader), if is_taking => match read {
                    Ok(0) => {
                        // It may have closed only its half, and wait for answers; if not, writing fails.
                        ended_at = Some(Instant::now());
                        signs.has_ended.store(true, Relaxed);
                    }
                    Err(err) => return Ended::Broken(err),
                    Ok(_) => has_come = true,
                },
            }
            has_come |= is_behind && self.reading.inside() < READING_MAX;
            if has_come && let Err(code) = self.take(&mut incoming) {
                self.refuse(0, code);
                return self.write(writer).await.map_or_else(|ended| ended, |()| Ended::Refused(code));
            }
            let begun = Instant::now();
            if let Err(ended) = self.write(writer).await {
                return ended;
            }
            incoming.stood_still(begun.elapsed());
            if signs.is_behind.load(Relaxed) && self.reading.inside() < READING_MAX {
                // What was written makes room for the frames that wait.
                signs.less.notify_one();
            }
            if self.coming.is_none() {
                self.look_out(&answers).await;
            }
            if self.in_flight == 0 && (draining || ended_at.is_some()) {
                return if draining { Ended::Drained } else { Ended::ByPeer };
            }
            // Where it is gone, it does not keep its place for long.
            if ended_at.is_some_and(|at| at.elapsed() >= self.context.limits.write_timeout) {
                return Ended::ByPeer;
            }
        }
    }

    /// Who sends one transfer at a time is answered sooner if this thread is awake when the disk has it. Others on this thread go on meanwhile.
    async fn look_out(&mut self, answers: &mpsc::UnboundedReceiver<Outgoing>) {
        if self.in_flight != 1 || self.context.admission.parcels() > 1 {
            return;
        }
        let Some(until) = self.awake.begin() else { return };
        while answers.is_empty() && Instant::now() < until {
            let turn = Instant::now().checked_add(TURN).unwrap_or(until);
            while answers.is_empty() && Instant::now() < turn {
                std::thread::yield_now();
            }
            if answers.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        self.awake.end(!answers.is_empty());
    }

    /// Takes what has come, and hands it on. An error closes the connection.
    fn take(&mut self, incoming: &mut Incoming) -> Result<(), Code> {
        self.look_at_gateway()?;
        let parsed = self.parse(incoming);
        let is_behind = matches!(parsed, Ok(Parsed::Behind));
        self.signs.is_behind.store(is_behind, Relaxed);
        incoming.looked_through(is_behind);
        parsed.and_then(|_| self.hand_on())?;
        incoming.paused_until = self.pause().max(incoming.rest());
        Ok(())
    }

    /// Until when nothing more is read from a peer that asks for much, or sends too much that brings nothing; it is answered all the same.
    fn pause(&mut self) -> Option<tokio::time::Instant> {
        let now = Instant::now();
        let ahead = self.asked_until.saturating_duration_since(now);
        let rested = (ahead >= LOOKUP_AHEAD).then_some(self.asked_until);
        let (count, since) = self.idle_frames;
        let over = since.checked_add(IDLE_FRAMES_EVERY)?;
        let is_over = now >= over;
        if is_over {
            self.idle_frames = (0, now);
        }
        rested.max((!is_over && count >= IDLE_FRAMES_MAX).then_some(over)).map(Into::into)
    }

    /// How often deadlines are looked at: a quarter of the shortest, at most once a second.
    fn tick(&self) -> Duration {
        let limits = &self.context.limits;
        let shortest = limits.handshake_timeout.min(limits.idle_timeout).min(limits.frame_timeout);
        shortest.checked_div(4).unwrap_or_default().clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    fn is_overdue(&self, since_frame: Duration, partial: Option<Duration>) -> bool {
        let limits = &self.context.limits;
        match (self.gateway, partial) {
            (None, _) => since_frame >= limits.handshake_timeout,
            (Some(_), Some(partial)) => partial >= limits.frame_timeout,
            (Some(_), None) => self.in_flight == 0 && since_frame >= limits.idle_timeout,
        }
    }

    /// Takes all whole frames out of the buffer. An error closes the connection.
    fn parse(&mut self, incoming: &mut Incoming) -> Result<Parsed, Code> {
        loop {
            if let Some(coming) = &mut self.coming {
                if !coming.go_on(incoming) {
                    return Ok(Parsed::All);
                }
                if self.reading.inside() >= READING_MAX {
                    return Ok(Parsed::Behind);
                }
                incoming.end_pieces();
                if let Some(coming) = self.coming.take() {
                    self.come(coming);
                }
                continue;
            }
            let buffer = &mut incoming.buffer;
            let Some(head) = buffer.first_chunk::<FRAME_HEADER_BYTES>() else {
                // Even the first bytes tell a stray peer.
                let known = buffer.len().min(crate::protocol::MAGIC.len());
                if buffer.get(..known) != crate::protocol::MAGIC.get(..known) {
                    return Err(Code::BadMagic);
                }
                return Ok(Parsed::All);
            };
            let header = FrameHeader::decode(head)?;
            if self.gateway.is_none() {
                check_first(&header)?;
            } else if header.body_bytes > BODY_BYTES_MAX {
                return Err(Code::FrameTooLarge);
            }
            let frame_bytes =
                FRAME_HEADER_BYTES.saturating_add(usize::try_from(header.body_bytes).unwrap_or(usize::MAX));
            if let Some(missing) = frame_bytes.checked_sub(buffer.len()).filter(|&missing| missing > 0) {
                let is_large = missing >= LARGE_BYTES;
                let is_too_much = is_large && self.is_too_much(&header);
                let coming = if is_large && self.gateway.is_some() { Coming::of(&header) } else { None };
                let room = (&self.context.receiving, coming.is_some());
                if is_too_much || !incoming.expect((frame_bytes, missing), room) {
                    self.context.telemetry.counters().requests_total.fetch_add(1, Relaxed);
                    let cost = incoming.buffer.len().saturating_add(missing / 4);
                    self.refuse_body(header.request_id, Code::Busy, cost);
                    incoming.skip(missing);
                } else if coming.is_some() {
                    self.hand_on()?;
                    self.coming = coming;
                    continue;
                }
                return Ok(Parsed::All);
            }
            if self.reading.inside() >= READING_MAX {
                return Ok(Parsed::Behind);
            }
            let frame = incoming.take(frame_bytes);
            self.frame(&header, frame.get(FRAME_HEADER_BYTES..).unwrap_or_default())?;
        }
    }

    fn frame(&mut self, header: &FrameHeader, body: &[u8]) -> Result<(), Code> {
        let id = header.request_id;
        if self.gateway.is_none() {
            if !header.matches(body) {
                return Err(Code::BodyCorrupt);
            }
            // Before it is looked up: what changes meanwhile is looked at again.
            self.version = self.context.gateways.version();
            let (gateway, welcome) = greet(&self.context, header, body)?;
            self.gateway = Some(gateway);
            self.replies.frame(Kind::Welcome, id, &welcome.encode());
            return Ok(());
        }
        self.context.telemetry.counters().requests_total.fetch_add(1, Relaxed);
        // Under overload most requests are refused: that must cost little, so their bodies are not looked at.
        let done = if self.is_too_much(header) {
            Err(Code::Busy)
        } else if header.matches(body) {
            self.request(header, body)
        } else {
            Err(Code::BodyCorrupt)
        };
        match done {
            // These cannot be told from an attack or a lost place in the stream.
            Err(code @ (Code::HandshakeRepeated | Code::VersionUnsupported)) => Err(code),
            Err(code) => {
                self.refuse_body(id, code, body.len());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn request(&mut self, header: &FrameHeader, body: &[u8]) -> Result<(), Code> {
        let id = header.request_id;
        if header.version != crate::protocol::VERSION {
            return Err(Code::VersionUnsupported);
        }
        let kind = Kind::from_number(header.kind).ok_or(Code::KindUnknown)?;
        match kind {
            Kind::Ping => {
                self.idle_frames.0 = self.idle_frames.0.saturating_add(1);
                return self.replies.echo(&self.room, id, body);
            }
            Kind::Hello => return Err(Code::HandshakeRepeated),
            _ => {}
        }
        self.has_room_in_flight()?;
        match kind {
            Kind::SubmitTransfers => self.submit(id, body)?,
            Kind::OpenAccounts => self.open(id, decode_new_accounts(body)?)?,
            Kind::GetAccounts => self.get_accounts(id, &decode_ids(body)?)?,
            Kind::ListAccounts => self.list_accounts(id, ListRequest::decode(body)?)?,
            Kind::GetTransfers => self.get_transfers(id, &decode_ids(body)?)?,
            Kind::AccountHistory => self.history(id, HistoryRequest::decode(body)?)?,
            Kind::Query => self.query(id, Query::decode(body)?)?,
            Kind::GetAccount => self.get_account(id, AccountRequest::decode(body)?)?,
            Kind::Explain => self.explain(id, body)?,
            _ => return Err(Code::KindUnknown),
        }
        self.in_flight = self.in_flight.saturating_add(1);
        Ok(())
    }

    pub(super) fn has_room_in_flight(&self) -> Result<(), Code> {
        if self.in_flight < self.context.limits.requests_in_flight_max { Ok(()) } else { Err(Code::Busy) }
    }

    /// Looks again at what the gateway may do, if gateways were changed. One that has another key by now says hello with it, on another connection.
    fn look_at_gateway(&mut self) -> Result<(), Code> {
        let version = self.context.gateways.version();
        let Some(known) = self.gateway.filter(|_| self.version != version) else { return Ok(()) };
        let now = self.context.gateways.get(known.id).filter(|now| now.key_hash == known.key_hash);
        self.gateway = Some(now.ok_or(Code::AuthenticationFailed)?);
        self.version = version;
        Ok(())
    }

    /// Who asks, and what it may do.
    pub(super) fn asker(&self) -> (GatewayId, Grant) {
        const NOTHING: Grant = Grant { operations: 0, amount_max: 0 };
        self.gateway.map_or((GatewayId::default(), NOTHING), |gateway| (gateway.id, gateway.grant))
    }

    fn open(&mut self, request_id: u64, accounts: Vec<NewAccount>) -> Result<(), Code> {
        // In the order of the frames: transfers before these must not find the accounts.
        self.hand_on()?;
        let count = accounts.len();
        if !self.room.has_room_for_parcel(count) {
            return Err(Code::Busy);
        }
        let permit = self.room.admit(count).ok_or(Code::Busy)?;
        let span = Span { request_id, answer_kind: Kind::AccountOutcomes.number(), first: 0, count };
        let parcel = Parcel::new(self.asker(), vec![span], Arc::clone(&self.sink), permit);
        self.context.router.send(RouterMessage::Accounts(parcel, accounts)).map_err(|_stopped| Code::Draining)
    }

    /// Whether there is no room for the transfers that a frame announces.
    pub(super) fn is_too_much(&self, header: &FrameHeader) -> bool {
        let body_bytes = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
        header.kind == Kind::SubmitTransfers.number() && !self.room.has_room_for_parcel(body_bytes / RECORD_BYTES)
    }

    /// Room for so many items that are read for a request.
    pub(super) fn read_room(&mut self, items: usize) -> Result<Permit, Code> {
        let room = self.reading.admit(items).ok_or(Code::Busy)?;
        let time = LOOKUP_TIME.saturating_mul(u32::try_from(items).unwrap_or(u32::MAX));
        let from = self.asked_until.max(Instant::now());
        self.asked_until = from.checked_add(time).unwrap_or(from);
        Ok(room)
    }

    /// Refuses a request, and counts what it cost to receive.
    pub(super) fn refuse_body(&mut self, request_id: u64, code: Code, bytes: usize) {
        let pages = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX);
        self.idle_frames.0 = self.idle_frames.0.saturating_add(pages);
        self.refuse(request_id, code);
    }

    fn refuse(&mut self, request_id: u64, code: Code) {
        self.context.telemetry.counters().requests_refused_total.fetch_add(1, Relaxed);
        self.idle_frames.0 = self.idle_frames.0.saturating_add(1);
        self.replies.refusal(request_id, code);
    }

    /// Writes what there is to write. While the peer does not take it, nothing more is read from it; nor is it waited for as long as otherwise while those who
    /// do not take their answers have as much as there may be.
    async fn write(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), Ended> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let (limit, begun) = (self.context.limits.write_timeout, Instant::now());
        let mut write = std::pin::pin!(self.replies.write(writer));
        loop {
            if let Ok(written) = tokio::time::timeout(limit.min(UNTAKEN_LOOK), &mut write).await {
                return written.map_err(Ended::Broken);
            }
            let waited = begun.elapsed();
            if waited >= limit || (waited >= UNTAKEN_TIME && self.room.must_be_taken()) {
                return Err(Ended::WriteTimeout);
            }
        }
    }
}

/// Waits for a moment, if there is one to wait for.
async fn until(moment: Option<tokio::time::Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment).await;
    }
}

/// Reads and drops what comes until the peer closes.
async fn discard(reader: &mut (impl AsyncRead + Unpin)) {
    let mut dropped = [0; 4_096];
    while reader.read(&mut dropped).await.is_ok_and(|read| read > 0) {}
}

/// What a peer that nobody knows yet may announce: a hello, nothing longer.
fn check_first(header: &FrameHeader) -> Result<(), Code> {
    if header.kind != Kind::Hello.number() {
        Err(Code::HandshakeExpected)
    } else if usize::try_from(header.body_bytes) == Ok(HELLO_BYTES) {
        Ok(())
    } else {
        Err(Code::BodyMalformed)
    }
}
