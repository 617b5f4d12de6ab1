//! A client over a simulated network: its bytes arrive in pieces, late, twice on another connection, or not at all.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use heng::ledger::{Code, Outcome, Sequence, Transfer};
use heng::protocol::{
    AccountState, FRAME_HEADER_BYTES, FrameHeader, Hello, Kind, VERSION, begin_frame, decode_accounts, decode_error,
    decode_outcomes, encode_frame, encode_ids, encode_new_accounts, encode_transfers, end_frame,
};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// What a client waits for.
#[derive(Clone, Debug)]
pub(crate) enum Waiting {
    /// The outcomes of these transactions, in order.
    Transactions(Vec<usize>),
    /// Accounts, read after this was told.
    Read(Sequence),
    /// The opening of the accounts.
    Opening,
}

/// What it was told.
#[derive(Debug)]
pub(crate) enum Heard {
    Outcomes(Waiting, Vec<Outcome>),
    Accounts(Sequence, Sequence, Vec<AccountState>),
    Refused(Waiting, Code),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: DuplexStream,
    out: Vec<u8>,
    input: Vec<u8>,
    waiting: HashMap<u64, Waiting>,
    next: u64,
}

impl Link {
    pub(crate) fn new(stream: DuplexStream, gateway: &str) -> Self {
        let mut link = Self { stream, out: Vec::new(), input: Vec::new(), waiting: HashMap::new(), next: 1 };
        let hello = Hello { version_min: VERSION, version_max: VERSION, gateway: gateway.to_owned(), key: [7; 32] };
        encode_frame(&mut link.out, Kind::Hello, 0, &hello.encode().unwrap());
        link
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// Whom it has not answered, when the connection ends.
    pub(crate) fn abandoned(self) -> Vec<Waiting> {
        // In order of sending, so that a seed is the same each time.
        let mut waiting: Vec<_> = self.waiting.into_iter().collect();
        waiting.sort_unstable_by_key(|(id, _)| *id);
        waiting.into_iter().map(|(_, waiting)| waiting).collect()
    }

    fn request(&mut self, kind: Kind, waiting: Waiting, body: impl FnOnce(&mut Vec<u8>)) {
        let at = begin_frame(&mut self.out);
        body(&mut self.out);
        end_frame(&mut self.out, at, kind, self.next);
        self.waiting.insert(self.next, waiting);
        self.next += 1;
    }

    pub(crate) fn submit(&mut self, transactions: Vec<usize>, transfers: &[Transfer]) {
        let waiting = Waiting::Transactions(transactions);
        self.request(Kind::SubmitTransfers, waiting, |out| encode_transfers(out, transfers.iter()));
    }

    pub(crate) fn open(&mut self, accounts: &[heng::ledger::NewAccount]) {
        self.request(Kind::OpenAccounts, Waiting::Opening, |out| encode_new_accounts(out, accounts));
    }

    pub(crate) fn read(&mut self, ids: impl ExactSizeIterator<Item = u128>, floor: Sequence) {
        self.request(Kind::GetAccounts, Waiting::Read(floor), |out| encode_ids(out, ids));
    }

    /// Lets some bytes go each way. False when the connection has ended.
    pub(crate) async fn carry(&mut self, rng: &mut StdRng) -> bool {
        let piece = rng.random_range(1..=self.out.len().clamp(1, 4_096));
        let Self { stream, out, input, .. } = self;
        poll_fn(|context| {
            if !out.is_empty() {
                match Pin::new(&mut *stream).poll_write(context, &out[..piece.min(out.len())]) {
                    Poll::Ready(Ok(written)) => drop(out.drain(..written)),
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => {}
                }
            }
            let mut bytes = [0; 4_096];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(false),
                Poll::Ready(Ok(())) => {
                    input.extend_from_slice(buffer.filled());
                    Poll::Ready(true)
                }
                Poll::Ready(Err(_)) => Poll::Ready(false),
                Poll::Pending => Poll::Ready(true),
            }
        })
        .await
    }

    /// The next whole answer that has arrived.
    pub(crate) fn hear(&mut self) -> Result<Option<Heard>, String> {
        loop {
            let Some(head) = self.input.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
            let header = FrameHeader::decode(head).map_err(|code| format!("an answer's header: {code}"))?;
            let end = FRAME_HEADER_BYTES + usize::try_from(header.body_bytes).unwrap();
            if self.input.len() < end {
                return Ok(None);
            }
            let frame: Vec<u8> = self.input.drain(..end).collect();
            let body = &frame[FRAME_HEADER_BYTES..];
            let kind = Kind::from_number(header.kind).ok_or("an answer of no kind")?;
            if kind == Kind::Welcome {
                continue;
            }
            let Some(waiting) = self.waiting.remove(&header.request_id) else {
                if kind == Kind::Error && header.request_id == 0 {
                    continue;
                }
                return Err(format!("{kind:?} answers request {}, which nobody waits for", header.request_id));
            };
            let broken = |code: Code| format!("{kind:?} cannot be read: {code}");
            return Ok(Some(match (kind, waiting) {
                (Kind::Error, waiting) => Heard::Refused(waiting, decode_error(body).map_err(broken)?.0),
                (Kind::Accounts, Waiting::Read(floor)) => {
                    let (sequence, accounts) = decode_accounts(body).map_err(broken)?;
                    Heard::Accounts(floor, sequence, accounts)
                }
                (Kind::TransferOutcomes | Kind::AccountOutcomes, waiting) => {
                    Heard::Outcomes(waiting, decode_outcomes(body).map_err(broken)?)
                }
                (kind, waiting) => return Err(format!("{kind:?} answers {waiting:?}")),
            }));
        }
    }
}
