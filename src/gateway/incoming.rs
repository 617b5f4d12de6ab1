//! What has come of a connection and is not taken yet, and the body of a refused request that is not received at all.
//!
//! # Invariants
//!
//! 1. While a body is skipped the buffer is empty: skipping ends just where the next frame begins.
//! 2. A frame that does not come to its end is late, whether it is kept or skipped.
//! 3. All large frames that have begun to arrive fit into the room that there is for them, all connections together.
//! 4. Small frames, and those that are taken in pieces, are read into a buffer that all connections of a thread share, which stays in the processor's cache; a connection keeps only what is not taken of it.
//!    It has that buffer no longer than it takes to read and to look through what was read.
//!
//! # Not here
//!
//! What frames mean ([`super::session`]).

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadHalf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;

use super::dribble::Dribble;
use crate::flow::{Admission, Permit};
use crate::protocol::FRAME_HEADER_BYTES;

/// Bytes read at a time after a request that was refused while it came.
const FIRST_READ_BYTES: usize = 4 << 10;

/// Bytes read at a time when no frame announces more: of a full batch not more is received before there is known to be room for it.
const READ_BYTES: usize = 64 << 10;

/// Bytes read at a time where small frames, of 4 KB at least, come faster than they are taken: what they cost beside their transfers is mostly reading and writing.
const MANY_BYTES: usize = 256 << 10;

/// Bytes read at a time of a frame that is taken in pieces: they are taken while they are in the processor's cache.
const PIECE_BYTES: usize = READ_BYTES;

/// From so many bytes on, what is missing of a frame is dropped where there is no room for it, instead of received.
pub(super) const LARGE_BYTES: usize = 16 << 10;

/// Bytes dropped with one call.
const SKIP_BYTES: usize = 1 << 20;

/// How long a connection keeps room of its own that it does not need.
const SHRUNK_AFTER: Duration = Duration::from_secs(1);

/// A stream whose next bytes can be dropped.
pub(super) trait Skip: AsyncRead + Unpin {
    /// Drops up to so many bytes, and returns how many; 0 when the peer has closed. Cancelled, it has dropped nothing.
    async fn skip(&mut self, bytes: usize) -> io::Result<usize>;

    /// Whether there may be something to be read.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

thread_local! {
    /// Where small frames are read; nothing while a connection has it.
    static SHARED: Cell<BytesMut> = Cell::default();
    /// Where what is dropped would go. The kernel is told not to write to it, so it takes no memory there.
    static DROPPED: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; SKIP_BYTES]);
}

impl Skip for OwnedReadHalf {
    /// On Linux the kernel drops the bytes without copying them: a quarter of the time.
    async fn skip(&mut self, bytes: usize) -> io::Result<usize> {
        let stream: &tokio::net::TcpStream = self.as_ref();
        loop {
            stream.readable().await?;
            let dropped = stream.try_io(tokio::io::Interest::READABLE, || drop_bytes(stream, bytes));
            match dropped {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                dropped => return dropped,
            }
        }
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream: &tokio::net::TcpStream = (*self).as_ref();
        stream.poll_read_ready(context)
    }
}

fn drop_bytes(stream: &tokio::net::TcpStream, bytes: usize) -> io::Result<usize> {
    use rustix::net::{RecvFlags, recv};
    let flags = if cfg!(target_os = "linux") { RecvFlags::TRUNC } else { RecvFlags::empty() };
    DROPPED.with_borrow_mut(|dropped| {
        let wanted = dropped.get_mut(..bytes.min(SKIP_BYTES)).unwrap_or_default();
        let (_written, received) = recv(stream, wanted, flags)?;
        Ok(received)
    })
}

impl<S: AsyncRead + Unpin> Skip for ReadHalf<S> {
    async fn skip(&mut self, bytes: usize) -> io::Result<usize> {
        let mut dropped = vec![0; bytes.min(FIRST_READ_BYTES)];
        self.read(&mut dropped).await
    }

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What comes lately, by the last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lately {
    /// Large frames, which are read where they are kept.
    Large,
    /// Small ones.
    Small,
    /// Small ones, faster than they are taken.
    Many,
}

/// What has come, and when.
pub(super) struct Incoming {
    /// Frames, the last of which may not be whole.
    pub(super) buffer: BytesMut,
    /// While the buffer is the thread's: where what is not taken of it is kept.
    own: Option<BytesMut>,
    lately: Lately,
    /// Bytes that are read at most with the next call.
    wanted: usize,
    /// Whether the last read was large and left something behind, as far as one can know.
    is_full: bool,
    /// Whether the connection's own buffer has room.
    is_grown: bool,
    /// Bytes of a refused body that still come.
    skipping: usize,
    /// Whether the buffer begins amid the body of a frame that is taken in pieces.
    is_amid: bool,
    /// Frames that were taken, or dropped, since that was last asked.
    taken: u32,
    dribble: Dribble,
    /// Room for a large frame that is not whole.
    room: Option<Permit>,
    /// When the connection's own buffer was last needed, and when for a large frame, if it has the room of one.
    own_used: Instant,
    large_used: Option<Instant>,
    pub(super) last_frame: Instant,
    /// When the first byte of a frame came whose last has not.
    pub(super) partial_since: Option<Instant>,
    /// Nothing is read until then.
    pub(super) paused_until: Option<Instant>,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            own: None,
            lately: Lately::Small,
            wanted: READ_BYTES,
            is_full: false,
            is_grown: false,
            skipping: 0,
            is_amid: false,
            taken: 0,
            dribble: Dribble::new(),
            room: None,
            own_used: Instant::now(),
            large_used: None,
            last_frame: Instant::now(),
            partial_since: None,
            paused_until: None,
        }
    }

    /// Reads what comes next; 0 when the peer has closed.
    pub(super) async fn read(&mut self, reader: &mut impl Skip) -> io::Result<usize> {
        if self.skipping == 0 {
            let read = std::future::poll_fn(|context| self.poll_read(reader, context)).await?;
            self.is_full = read >= self.wanted && read >= READ_BYTES;
            self.dribble.note(read);
            return Ok(read);
        }
        let skipped = reader.skip(self.skipping).await?;
        self.dribble.note(skipped);
        self.skipping = self.skipping.saturating_sub(skipped);
        if self.skipping == 0 {
            // What comes next is probably refused, too.
            self.wanted = FIRST_READ_BYTES;
            self.end_frame();
        }
        Ok(skipped)
    }

    /// Until when nothing more is read of the frame that is coming, because it is dribbled.
    pub(super) fn rest(&self) -> Option<Instant> {
        self.partial_since.and_then(|since| self.dribble.rest(since))
    }

    /// Ends a pause because the frame is late, once, as the rest of it may have come meanwhile. False when there is none to end.
    pub(super) fn look_once_more(&mut self) -> bool {
        self.dribble.look_once_more(&mut self.paused_until)
    }

    fn poll_read(&mut self, reader: &mut impl Skip, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(reader.poll_ready(context))?;
        self.give_back();
        if self.lately != Lately::Large && self.buffer.len() < LARGE_BYTES {
            self.borrow();
        } else if self.spare() < FIRST_READ_BYTES / 2 {
            self.grow(self.wanted);
        }
        let read = pin!(reader.read_buf(&mut (&mut self.buffer).limit(self.wanted))).poll(context);
        if !matches!(read, Poll::Ready(Ok(1..))) {
            self.give_back();
        }
        read
    }

    /// Takes the thread's buffer.
    fn borrow(&mut self) {
        let mut shared = SHARED.take();
        shared.clear();
        shared.reserve(MANY_BYTES.saturating_add(LARGE_BYTES));
        shared.extend_from_slice(&self.buffer);
        self.own = Some(std::mem::replace(&mut self.buffer, shared));
    }

    /// Gives it back, and keeps what is not taken of it.
    fn give_back(&mut self) {
        let Some(mut own) = self.own.take() else { return };
        own.clear();
        own.extend_from_slice(&self.buffer);
        self.is_grown |= !own.is_empty();
        SHARED.set(std::mem::replace(&mut self.buffer, own));
    }

    /// Makes room in the connection's own buffer for so many bytes more.
    fn grow(&mut self, bytes: usize) {
        if let Some(own) = &mut self.own {
            own.clear();
            own.reserve(self.buffer.len().saturating_add(bytes));
            self.give_back();
        }
        self.buffer.reserve(bytes);
        self.is_grown = true;
    }

    /// Drops the frame in the buffer, and so many bytes of it that have not come.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.buffer.clear();
        self.lately = Lately::Large;
        (self.skipping, self.room) = (bytes, None);
        self.taken = self.taken.saturating_add(1);
    }

    /// Makes room for a frame of which so many bytes have not come; for one that is large, and then taken in pieces, nowhere but where it is counted: its
    /// header is taken. False when it is large and all connections together have too many of these.
    pub(super) fn expect(
        &mut self,
        (frame_bytes, missing): (usize, usize),
        (receiving, in_pieces): (&Arc<Admission>, bool),
    ) -> bool {
        if missing < LARGE_BYTES {
            self.wanted = self.usual();
            if self.own.is_none() {
                self.grow(missing);
            }
            return true;
        }
        if self.room.is_none() {
            self.room = receiving.admit(frame_bytes);
        }
        if self.room.is_none() {
            return false;
        }
        if in_pieces {
            self.buffer.advance(FRAME_HEADER_BYTES);
            (self.is_amid, self.lately) = (true, Lately::Small);
            return true;
        }
        self.grow(missing);
        (self.wanted, self.lately, self.large_used) = (missing, Lately::Large, Some(Instant::now()));
        true
    }

    /// Takes so many bytes of a frame that is taken in pieces, of which then so many are missing, those in the buffer among them.
    pub(super) fn take_piece(&mut self, bytes: usize, missing: usize) {
        self.buffer.advance(bytes);
        self.wanted = missing.saturating_sub(self.buffer.len()).min(PIECE_BYTES);
    }

    /// The frame that was taken in pieces has come to its end.
    pub(super) fn end_pieces(&mut self) {
        (self.room, self.is_amid, self.is_full) = (None, false, false);
        self.taken = self.taken.saturating_add(1);
        self.wanted = self.usual();
    }

    fn usual(&self) -> usize {
        if self.lately == Lately::Many { MANY_BYTES } else { READ_BYTES }
    }

    fn spare(&self) -> usize {
        self.buffer.capacity().saturating_sub(self.buffer.len())
    }

    /// Takes a frame that is whole.
    pub(super) fn take(&mut self, frame_bytes: usize) -> BytesMut {
        self.room = None;
        self.taken = self.taken.saturating_add(1);
        self.lately = match frame_bytes {
            LARGE_BYTES.. => Lately::Large,
            // Not of the smallest: no more of what brings nothing (pings) is taken in one go than without this.
            FIRST_READ_BYTES.. if self.is_full => Lately::Many,
            _ => Lately::Small,
        };
        self.wanted = self.usual();
        self.buffer.split_to(frame_bytes)
    }

    /// Notes that the buffer was looked through, and where frames in it wait for us.
    pub(super) fn looked_through(&mut self, is_behind: bool) {
        if std::mem::take(&mut self.taken) > 0 {
            self.end_frame();
        }
        let is_own = self.own.is_none();
        self.give_back();
        if is_own || !self.buffer.is_empty() {
            self.own_used = Instant::now();
        }
        if self.buffer.len() >= LARGE_BYTES || self.room.is_some() {
            self.large_used = Some(self.own_used);
        }
        // What waits for us is not late.
        let is_partial = self.skipping > 0 || ((self.is_amid || !self.buffer.is_empty()) && !is_behind);
        self.partial_since = is_partial.then(|| self.partial_since.unwrap_or_else(Instant::now));
    }

    /// Gives back the connection's own room where it was not needed lately, and answers whether it did: who is idle keeps no more than who has just come.
    pub(super) fn shrink(&mut self, now: Instant) -> bool {
        let is_over = |used| now.saturating_duration_since(used) >= SHRUNK_AFTER;
        let is_idle = self.buffer.is_empty() && is_over(self.own_used);
        // Who always leaves the beginning of a small frame in it does not keep it for that either.
        let is_small = self.buffer.len() < LARGE_BYTES && self.room.is_none() && self.large_used.is_some_and(is_over);
        let is_over = self.is_grown && (is_idle || is_small);
        if is_over {
            // The buffer's own capacity does not tell: it is what is left behind the frames that were taken.
            (self.is_grown, self.large_used) = (false, None);
            self.buffer = BytesMut::from(self.buffer.as_ref());
            self.lately = Lately::Small;
        }
        is_over
    }

    fn end_frame(&mut self) {
        (self.last_frame, self.partial_since) = (Instant::now(), None);
        self.dribble = Dribble::new();
    }

    /// Nothing was read for so long, so a peer is not late for it.
    pub(super) fn stood_still(&mut self, time: Duration) {
        self.partial_since = self.partial_since.and_then(|since| since.checked_add(time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one read takes of more than enough.
    async fn read_of(incoming: &mut Incoming, reader: &mut impl Skip) -> usize {
        let before = incoming.buffer.len();
        let read = incoming.read(reader).await.unwrap();
        assert_eq!(incoming.buffer.len() - before, if incoming.skipping > 0 { 0 } else { read });
        read
    }

    #[tokio::test]
    async fn no_more_of_a_large_frame_than_its_beginning_is_read_before_there_is_room_for_it() {
        let (ours, mut theirs) = tokio::io::duplex(8 << 20);
        let (mut reader, _writer) = tokio::io::split(ours);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &vec![7; 8 << 20]).await.unwrap();
        let (mut incoming, receiving) = (Incoming::new(), Admission::new(4 << 20));
        // Memory is there for much more than is read.
        incoming.buffer.reserve(4 << 20);
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES);
        let missing = (1 << 20) - READ_BYTES;
        assert!(incoming.expect((1 << 20, missing), (&receiving, false)));
        assert_eq!(read_of(&mut incoming, &mut reader).await, missing, "nothing of the next frame");
        drop(incoming.take(1 << 20));
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES);
        incoming.skip(1_000);
        assert_eq!(incoming.read(&mut reader).await.unwrap(), 1_000);
        assert_eq!(read_of(&mut incoming, &mut reader).await, FIRST_READ_BYTES, "of what is probably refused, too");
        incoming.is_full = false;
        drop(incoming.take(100));
        assert!(incoming.expect((5_000, 1_004), (&receiving, false)), "a small frame, and those behind it");
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES);
    }

    #[tokio::test]
    async fn where_small_frames_come_faster_than_they_are_taken_many_are_read_at_once() {
        let (ours, mut theirs) = tokio::io::duplex(8 << 20);
        let (mut reader, _writer) = tokio::io::split(ours);
        let (mut incoming, receiving) = (Incoming::new(), Admission::new(4 << 20));
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &[7; 1_000]).await.unwrap();
        assert_eq!(read_of(&mut incoming, &mut reader).await, 1_000, "there was room for more");
        drop(incoming.take(1_000));
        assert!(!incoming.is_full);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &vec![7; 2 << 20]).await.unwrap();
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES);
        drop(incoming.take(FIRST_READ_BYTES - 1));
        assert!(incoming.lately == Lately::Small, "of the smallest not");
        drop(incoming.take(READ_BYTES - FIRST_READ_BYTES + 1));
        assert!(incoming.expect((FIRST_READ_BYTES, FIRST_READ_BYTES - 1), (&receiving, false)));
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES, "after a large one");
        (0..READ_BYTES / FIRST_READ_BYTES).for_each(|_| drop(incoming.take(FIRST_READ_BYTES)));
        assert!(incoming.expect((FIRST_READ_BYTES, FIRST_READ_BYTES - 1), (&receiving, false)));
        assert_eq!(read_of(&mut incoming, &mut reader).await, MANY_BYTES);
        // One that is not whole goes on with them.
        let many = MANY_BYTES / LARGE_BYTES;
        (0..many).for_each(|_| drop(incoming.take(LARGE_BYTES - 1)));
        assert!(incoming.expect((LARGE_BYTES - 1, LARGE_BYTES - 1 - many), (&receiving, false)));
        assert_eq!(read_of(&mut incoming, &mut reader).await, MANY_BYTES);
        // A large one ends it.
        drop(incoming.take(LARGE_BYTES));
        assert!(incoming.expect((1 << 20, 40_000), (&receiving, false)));
        assert_eq!(read_of(&mut incoming, &mut reader).await, 40_000);
        drop(incoming.take(LARGE_BYTES));
        assert_eq!(incoming.wanted, READ_BYTES);
    }

    #[tokio::test]
    async fn small_frames_are_read_where_all_of_a_thread_are_and_what_is_left_of_them_is_ones_own() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (mut reader, _writer) = tokio::io::split(ours);
        let (mut incoming, receiving) = (Incoming::new(), Admission::new(4 << 20));
        let sent: Vec<u8> = (0..100_000_u32).map(|place| (place % 251) as u8).collect();
        let mut rest = sent.as_slice();
        let mut give = async |bytes| {
            let (now, later) = rest.split_at(bytes);
            rest = later;
            tokio::io::AsyncWriteExt::write_all(&mut theirs, now).await.unwrap();
        };
        let mut taken = Vec::new();
        assert!(tokio::time::timeout(Duration::ZERO, incoming.read(&mut reader)).await.is_err());
        assert_eq!((incoming.buffer.capacity(), incoming.own.is_some()), (0, false), "while nothing comes");
        let mut frames = [1_000, 3_500, 100, 15_000, 17_000, 9_000, 1_000].into_iter().peekable();
        for (bytes, is_left) in
            [(1_500, true), (3_000, false), (600, true), (14_500, false), (17_000, false), (9_900, true)]
        {
            give(bytes).await;
            assert_eq!(incoming.read(&mut reader).await.unwrap(), bytes);
            while let Some(frame) = frames.next_if(|&frame| frame <= incoming.buffer.len()) {
                taken.extend_from_slice(&incoming.take(frame));
            }
            let frame = frames.peek().copied().unwrap();
            assert_eq!(!incoming.buffer.is_empty(), is_left);
            assert!(!is_left || incoming.expect((frame, frame - incoming.buffer.len()), (&receiving, false)));
            incoming.looked_through(false);
            assert_eq!((incoming.own.is_none(), incoming.buffer.is_empty()), (true, !is_left));
        }
        // Two on one thread do not mix.
        let mut other = Incoming::new();
        give(7_000).await;
        assert_eq!(incoming.read(&mut reader).await.unwrap(), 7_000);
        let (others, mut of_other) = tokio::io::duplex(1 << 20);
        tokio::io::AsyncWriteExt::write_all(&mut of_other, &[255; 9_000]).await.unwrap();
        let (mut others, _writer) = tokio::io::split(others);
        assert_eq!(other.read(&mut others).await.unwrap(), 9_000);
        incoming.looked_through(false);
        other.looked_through(false);
        assert_eq!((other.buffer.as_ref(), other.own.is_some()), ([255; 9_000].as_slice(), false));
        // A large one goes on in the connection's own.
        assert!(incoming.expect((60_000, 50_000), (&receiving, false)) && incoming.own.is_none());
        give(45_000).await;
        assert_eq!(incoming.read(&mut reader).await.unwrap(), 45_000);
        taken.extend_from_slice(&incoming.buffer);
        assert!(incoming.own.is_none() && taken == sent[..98_500], "{}", taken.len());
    }

    #[tokio::test]
    async fn a_frame_that_is_taken_in_pieces_is_late_from_its_first_byte_on_and_is_kept_nowhere() {
        const BYTES: usize = 1 << 20;
        let (ours, mut theirs) = tokio::io::duplex(4 << 20);
        let (mut reader, _writer) = tokio::io::split(ours);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &vec![7; 2 * BYTES]).await.unwrap();
        let (mut incoming, receiving) = (Incoming::new(), Admission::new(4 << 20));
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES);
        assert!(incoming.expect((BYTES, BYTES - READ_BYTES), (&receiving, true)));
        assert_eq!((incoming.buffer.len(), receiving.inside()), (READ_BYTES - FRAME_HEADER_BYTES, BYTES));
        let mut missing = BYTES - FRAME_HEADER_BYTES;
        let mut since = None;
        loop {
            // All but a part of a transfer.
            let bytes = incoming.buffer.len() - if missing > incoming.buffer.len() { 50 } else { 0 };
            missing -= bytes;
            incoming.take_piece(bytes, missing);
            incoming.looked_through(false);
            since = since.or(incoming.partial_since);
            assert!(since.is_some() && incoming.partial_since == since);
            assert!(incoming.buffer.capacity() < FIRST_READ_BYTES && incoming.own.is_none());
            if missing == 0 {
                break;
            }
            assert!(read_of(&mut incoming, &mut reader).await <= PIECE_BYTES);
        }
        assert!(incoming.buffer.is_empty(), "nothing of the next frame");
        incoming.end_pieces();
        incoming.looked_through(false);
        assert_eq!((incoming.partial_since, receiving.inside()), (None, 0));
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_is_dribbled_rests_also_if_it_is_refused() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let (mut reader, _writer) = tokio::io::split(ours);
        let mut incoming = Incoming::new();
        let mut give = async |incoming: &mut Incoming, times| {
            for _ in 0..times {
                tokio::io::AsyncWriteExt::write_all(&mut theirs, &[7]).await.unwrap();
                assert_eq!(incoming.read(&mut reader).await.unwrap(), 1);
                incoming.looked_through(false);
                tokio::time::advance(Duration::from_millis(100)).await;
            }
        };
        let after = |ms| Some(Instant::now() + Duration::from_millis(ms));
        give(&mut incoming, 4).await;
        assert_eq!(incoming.rest(), after(400));
        incoming.paused_until = incoming.rest();
        assert!(incoming.look_once_more() && incoming.paused_until.is_none() && incoming.rest().is_none());
        // The next frame is another one.
        incoming.skip(100);
        incoming.looked_through(false);
        give(&mut incoming, 3).await;
        assert_eq!(incoming.rest(), None);
        give(&mut incoming, 1).await;
        assert_eq!(incoming.rest(), after(400));
        give(&mut incoming, 96 + 3).await;
        assert_eq!((incoming.skipping, incoming.rest()), (0, None), "of the next one three");
    }

    #[test]
    fn who_is_idle_keeps_no_room_of_a_large_frame() {
        let mut incoming = Incoming::new();
        let after = |incoming: &Incoming, ms| incoming.own_used + Duration::from_millis(ms);
        let receiving = Admission::new(4 << 20);
        assert!(incoming.expect((1 << 20, 1 << 20), (&receiving, false)));
        incoming.buffer.resize(1 << 20, 0);
        let now = after(&incoming, 5_000);
        assert!(!incoming.shrink(now), "there is something in it");
        drop(incoming.take(1 << 20));
        incoming.looked_through(false);
        // As for the next frame; the memory is that of the last.
        incoming.buffer.reserve(64 << 10);
        assert!(incoming.buffer.capacity() >= 1 << 20);
        let (early, late) = (after(&incoming, 900), after(&incoming, 1_000));
        assert!(!incoming.shrink(early) && incoming.shrink(late) && !incoming.shrink(late));
        assert_eq!((incoming.buffer.capacity(), incoming.lately), (0, Lately::Small));
        // Nor who always leaves the beginning of a small one there.
        assert!(incoming.expect((1 << 20, 1 << 20), (&receiving, false)));
        incoming.buffer.resize((1 << 20) + 100, 7);
        drop(incoming.take(1 << 20));
        incoming.looked_through(false);
        let large = incoming.large_used.unwrap();
        let (early, late) = (large + Duration::from_millis(900), large + SHRUNK_AFTER);
        incoming.own_used = late;
        assert!(!incoming.shrink(early) && incoming.shrink(late) && !incoming.shrink(late));
        assert!(incoming.buffer.as_ref() == [7; 100] && incoming.buffer.capacity() < FIRST_READ_BYTES);
    }
}
