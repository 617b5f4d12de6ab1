//! What has come of a connection and is not taken yet, and the body of a refused request that is not received at all.
//!
//! # Invariants
//!
//! 1. While a body is skipped the buffer is empty: skipping ends just where the next frame begins.
//! 2. A frame that does not come to its end is late, whether it is kept or skipped.
//! 3. All large frames that have begun to arrive fit into the room that there is for them, all connections together.
//!
//! # Not here
//!
//! What frames mean ([`super::session`]).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadHalf};
use tokio::net::tcp::OwnedReadHalf;

use crate::flow::{Admission, Permit};

/// Room before the first frame; ten thousand idle connections hold no more.
pub(super) const FIRST_READ_BYTES: usize = 4 << 10;

/// Bytes read at a time when no frame announces more: of a full batch not more is received before there is known to be room for it.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Bytes read at a time where small frames, of 4 KB at least, come faster than they are taken: what they cost beside their transfers is mostly reading and writing.
const MANY_BYTES: usize = 256 << 10;

/// From so many bytes on, what is missing of a frame is dropped where there is no room for it, instead of received.
pub(super) const LARGE_BYTES: usize = 16 << 10;

/// Bytes dropped with one call.
const SKIP_BYTES: usize = 1 << 20;

/// How long a connection is not taken for idle.
const SHRUNK_AFTER: Duration = Duration::from_secs(1);

/// A stream whose next bytes can be dropped.
pub(super) trait Skip: AsyncRead + Unpin {
    /// Drops up to so many bytes, and returns how many; 0 when the peer has closed. Cancelled, it has dropped nothing.
    async fn skip(&mut self, bytes: usize) -> io::Result<usize>;
}

thread_local! {
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
}

/// What has come, and when.
pub(super) struct Incoming {
    /// Frames, the last of which may not be whole.
    pub(super) buffer: BytesMut,
    /// Bytes that are read at most with the next call.
    wanted: usize,
    /// Whether the last read was large and left something behind, as far as one can know.
    is_full: bool,
    /// Whether small frames come faster than they are taken.
    is_many: bool,
    /// Whether the buffer has more room than at first.
    is_grown: bool,
    /// Bytes of a refused body that still come.
    skipping: usize,
    /// Room for a large frame that is not whole.
    room: Option<Permit>,
    pub(super) last_frame: Instant,
    /// When the first byte of a frame came whose last has not.
    pub(super) partial_since: Option<Instant>,
    /// Nothing is read until then.
    pub(super) paused_until: Option<tokio::time::Instant>,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::with_capacity(FIRST_READ_BYTES),
            wanted: READ_BYTES,
            is_full: false,
            is_many: false,
            is_grown: false,
            skipping: 0,
            room: None,
            last_frame: Instant::now(),
            partial_since: None,
            paused_until: None,
        }
    }

    /// Reads what comes next; 0 when the peer has closed.
    pub(super) async fn read(&mut self, reader: &mut impl Skip) -> io::Result<usize> {
        if self.skipping == 0 {
            let room = self.wanted.min(self.spare());
            let read = reader.read_buf(&mut (&mut self.buffer).limit(self.wanted)).await?;
            self.is_full = read >= room && read >= READ_BYTES / 2;
            return Ok(read);
        }
        let skipped = reader.skip(self.skipping).await?;
        self.skipping = self.skipping.saturating_sub(skipped);
        if self.skipping == 0 {
            // What comes next is probably refused, too.
            self.wanted = FIRST_READ_BYTES;
            (self.last_frame, self.partial_since) = (Instant::now(), None);
        }
        Ok(skipped)
    }

    /// Drops the frame in the buffer, and so many bytes of it that have not come.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.buffer.clear();
        self.is_many = false;
        (self.skipping, self.room) = (bytes, None);
    }

    /// Makes room for a frame of which so many bytes have not come. False when it is large and all connections together have too many of these.
    pub(super) fn expect(&mut self, (frame_bytes, missing): (usize, usize), receiving: &Arc<Admission>) -> bool {
        if missing >= LARGE_BYTES && self.room.is_none() {
            self.room = receiving.admit(frame_bytes);
            if self.room.is_none() {
                return false;
            }
        }
        self.buffer.reserve(missing);
        self.is_grown = true;
        if missing >= LARGE_BYTES {
            (self.wanted, self.is_many) = (missing, false);
        } else {
            self.read_on();
        }
        true
    }

    /// Makes room for what comes next, as much as usually does.
    pub(super) fn read_on(&mut self) {
        self.wanted = self.usual();
        let least = if self.is_many { MANY_BYTES / 2 } else { FIRST_READ_BYTES / 2 };
        if self.spare() < least {
            self.buffer.reserve(self.wanted);
            self.is_grown = true;
        }
    }

    fn usual(&self) -> usize {
        if self.is_many { MANY_BYTES } else { READ_BYTES }
    }

    fn spare(&self) -> usize {
        self.buffer.capacity().saturating_sub(self.buffer.len())
    }

    /// Takes a frame that is whole.
    pub(super) fn take(&mut self, frame_bytes: usize) -> BytesMut {
        self.room = None;
        // Not of the smallest: no more of what brings nothing (pings) is taken in one go than without this.
        self.is_many = self.is_full && (FIRST_READ_BYTES..LARGE_BYTES).contains(&frame_bytes);
        self.wanted = self.usual();
        self.buffer.split_to(frame_bytes)
    }

    /// Notes that the buffer was looked through, and where frames in it wait for us.
    pub(super) fn looked_through(&mut self, has_taken: bool, is_behind: bool) {
        if has_taken {
            (self.last_frame, self.partial_since) = (Instant::now(), None);
        }
        // What waits for us is not late.
        let is_partial = self.skipping > 0 || (!self.buffer.is_empty() && !is_behind);
        self.partial_since = is_partial.then(|| self.partial_since.unwrap_or_else(Instant::now));
    }

    /// Gives back the room of a large frame where nothing has come since, and answers whether it did: who is idle keeps no more than who has just come.
    pub(super) fn shrink(&mut self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.last_frame);
        let is_idle = self.buffer.is_empty() && self.is_grown && idle >= SHRUNK_AFTER;
        if is_idle {
            // The buffer's own capacity does not tell: it is what is left behind the frames that were taken.
            self.is_grown = false;
            self.buffer = BytesMut::with_capacity(FIRST_READ_BYTES);
        }
        is_idle
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
        assert!(incoming.expect((1 << 20, missing), &receiving));
        assert_eq!(read_of(&mut incoming, &mut reader).await, missing, "nothing of the next frame");
        drop(incoming.take(1 << 20));
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES);
        incoming.skip(1_000);
        assert_eq!(incoming.read(&mut reader).await.unwrap(), 1_000);
        assert_eq!(read_of(&mut incoming, &mut reader).await, FIRST_READ_BYTES, "of what is probably refused, too");
        incoming.is_full = false;
        drop(incoming.take(100));
        assert!(incoming.expect((5_000, 1_004), &receiving), "a small frame, and those behind it");
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
        incoming.read_on();
        assert!(
            (FIRST_READ_BYTES / 2..READ_BYTES).contains(&incoming.spare()),
            "who sends little keeps his little room"
        );
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &vec![7; 1 << 20]).await.unwrap();
        let all = incoming.spare();
        assert_eq!(read_of(&mut incoming, &mut reader).await, all);
        assert!(!incoming.is_full, "a little room that is just filled tells nothing");
        drop(incoming.take(all));
        incoming.read_on();
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES);
        drop(incoming.take(READ_BYTES - 1));
        assert!(incoming.expect((FIRST_READ_BYTES, FIRST_READ_BYTES - 1), &receiving));
        assert_eq!(read_of(&mut incoming, &mut reader).await, READ_BYTES, "after a large one");
        (0..READ_BYTES / FIRST_READ_BYTES).for_each(|_| drop(incoming.take(FIRST_READ_BYTES)));
        assert!(incoming.expect((FIRST_READ_BYTES, FIRST_READ_BYTES - 1), &receiving));
        assert_eq!(read_of(&mut incoming, &mut reader).await, MANY_BYTES);
        drop(incoming.take(1));
        // One that is not whole goes on with them.
        let many = MANY_BYTES / LARGE_BYTES;
        (0..many).for_each(|_| drop(incoming.take(LARGE_BYTES - 1)));
        assert!(incoming.expect((LARGE_BYTES - 1, LARGE_BYTES - 1 - many), &receiving));
        assert_eq!(read_of(&mut incoming, &mut reader).await, MANY_BYTES);
        // A large one ends it.
        drop(incoming.take(LARGE_BYTES));
        assert!(incoming.expect((1 << 20, 40_000), &receiving));
        assert_eq!(read_of(&mut incoming, &mut reader).await, 40_000);
        drop(incoming.take(LARGE_BYTES));
        incoming.read_on();
        assert_eq!(incoming.wanted, READ_BYTES);
    }

    #[test]
    fn who_is_idle_keeps_no_room_of_a_large_frame() {
        let mut incoming = Incoming::new();
        let after = |incoming: &Incoming, ms| incoming.last_frame + Duration::from_millis(ms);
        let receiving = Admission::new(4 << 20);
        assert!(incoming.expect((1 << 20, 1 << 20), &receiving));
        incoming.buffer.resize(1 << 20, 0);
        let now = after(&incoming, 5_000);
        assert!(!incoming.shrink(now), "there is something in it");
        drop(incoming.take(1 << 20));
        incoming.looked_through(true, false);
        // As for the next frame; the memory is that of the last.
        incoming.buffer.reserve(64 << 10);
        assert!(incoming.buffer.capacity() >= 1 << 20);
        let (early, late) = (after(&incoming, 900), after(&incoming, 1_000));
        assert!(!incoming.shrink(early) && incoming.shrink(late) && !incoming.shrink(late));
        assert_eq!(incoming.buffer.capacity(), FIRST_READ_BYTES);
    }
}
