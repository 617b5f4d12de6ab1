//! A connection with many requests in flight.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::flow::set_up;
use crate::ledger::{Code, NewAccount, Outcome, Sequence, StoredRecord, Transfer};
use crate::protocol::{
    self, ANSWER_BYTES_MAX, AccountDetail, AccountRequest, AccountState, DEVELOPMENT_GATEWAY, DEVELOPMENT_KEY,
    Explained, FRAME_HEADER_BYTES, FrameHeader, Hello, HistoryRequest, KEY_BYTES, Kind, ListRequest, Query, VERSION,
    Welcome,
};

/// Time for connecting and for the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server could not be asked, or did not understand.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to {address}; is the server running there?")]
    Connect {
        /// Where to.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke; unanswered requests may have been done or not.
    #[error("the connection broke; unanswered requests may have been done or not: send them again with the same ids")]
    Broken(#[source] io::Error),
    /// No answer in time; the request may have been done or not.
    #[error("no answer within {0:?}; the request may have been done or not: send it again with the same ids")]
    TimedOut(Duration),
    /// The server refused the request or the connection. Nothing of the request was decided.
    #[error("refused: {code}: {text} {action}", action = code.action())]
    Refused {
        /// Why.
        code: Code,
        /// For people.
        text: String,
    },
    /// The server sent what this client does not understand.
    #[error("the server's answer is not understood ({0}); use a client of its version")]
    Protocol(Code),
    /// The gateway's name cannot be sent.
    #[error("`{0}` is not a gateway name: 1 to 48 printable characters without spaces")]
    GatewayName(String),
    /// The key cannot be read.
    #[error("a key is 64 hexadecimal digits")]
    Key,
}

/// Who a client is.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The gateway's name.
    pub gateway: String,
    key: [u8; KEY_BYTES],
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, key hidden)", self.gateway)
    }
}

impl Credentials {
    /// A gateway's name and its key.
    pub fn new(gateway: &str, key: [u8; KEY_BYTES]) -> Self {
        Self { gateway: gateway.to_owned(), key }
    }

    /// A gateway's name and its key in hexadecimal, as `heng gateway add` prints it.
    pub fn from_hex(gateway: &str, key: &str) -> Result<Self, ClientError> {
        let bytes = blake3::Hash::from_hex(key.trim()).map_err(|_not_hex| ClientError::Key)?;
        Ok(Self::new(gateway, *bytes.as_bytes()))
    }

    /// The gateway that a server has only when its configuration allows the development key.
    pub fn development() -> Self {
        Self::new(DEVELOPMENT_GATEWAY, DEVELOPMENT_KEY)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of submitted transfers or opened accounts, in their order.
    Outcomes(Vec<Outcome>),
    /// Accounts as of a sequence.
    Accounts(Sequence, Vec<AccountState>),
    /// Records, and the cursor of the next page (0: none).
    Stored(u64, Vec<StoredRecord>),
    /// An account with its limits, or as of some time.
    Detail(Box<AccountDetail>),
    /// What would become of transfers.
    Explained(Explained),
    /// Of a ping.
    Pong,
    /// The request was refused; nothing of it was decided.
    Refused(Code, String),
}

/// An authenticated connection.
#[derive(Debug)]
pub struct Connection {
    sender: RequestSender,
    receiver: AnswerReceiver,
    welcome: Welcome,
}

/// The sending side. Requests are queued in memory until [`Self::flush`].
#[derive(Debug)]
pub struct RequestSender {
    writer: OwnedWriteHalf,
    out: Vec<u8>,
    /// So many bytes of it have been sent.
    sent: usize,
}

/// The receiving side.
#[derive(Debug)]
pub struct AnswerReceiver {
    reader: OwnedReadHalf,
    buffer: BytesMut,
}

impl Connection {
    /// Connects and authenticates.
    pub async fn open(address: impl ToSocketAddrs + std::fmt::Display, who: &Credentials) -> Result<Self, ClientError> {
        let opening = Self::open_unlimited(&address, who);
        tokio::time::timeout(CONNECT_TIMEOUT, opening)
            .await
            .map_err(|_elapsed| ClientError::TimedOut(CONNECT_TIMEOUT))?
    }

    async fn open_unlimited(
        address: &(impl ToSocketAddrs + std::fmt::Display),
        who: &Credentials,
    ) -> Result<Self, ClientError> {
        let hello = Hello { version_min: VERSION, version_max: VERSION, gateway: who.gateway.clone(), key: who.key };
        let hello = hello.encode().ok_or_else(|| ClientError::GatewayName(who.gateway.clone()))?;
        let connected = TcpStream::connect(address).await.and_then(|stream| {
            // Without a peer it is broken already, which the first read tells.
            stream.peer_addr().map_or(Ok(()), |peer| set_up(&stream, peer.ip()))?;
            Ok(stream)
        });
        let stream = connected.map_err(|source| ClientError::Connect { address: address.to_string(), source })?;
        let (reader, writer) = stream.into_split();
        let mut sender = RequestSender { writer, out: Vec::new(), sent: 0 };
        let mut receiver = AnswerReceiver { reader, buffer: BytesMut::new() };
        protocol::encode_frame(&mut sender.out, Kind::Hello, 0, &hello);
        sender.flush().await?;
        let (header, body) = receiver.frame().await?;
        match Kind::from_number(header.kind) {
            Some(Kind::Welcome) => {
                let welcome = Welcome::decode(&body).map_err(ClientError::Protocol)?;
                Ok(Self { sender, receiver, welcome })
            }
            Some(Kind::Error) => {
                let (code, text) = protocol::decode_error(&body).map_err(ClientError::Protocol)?;
                Err(ClientError::Refused { code, text })
            }
            _ => Err(ClientError::Protocol(Code::KindUnknown)),
        }
    }

    /// What the server grants.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The two sides, for use by two tasks.
    pub fn split(self) -> (RequestSender, AnswerReceiver) {
        (self.sender, self.receiver)
    }
}

impl RequestSender {
    /// Queues transfers, at most [`crate::protocol::ITEMS_MAX`].
    pub fn submit(&mut self, request_id: u64, transfers: &[Transfer]) {
        self.request(Kind::SubmitTransfers, request_id, |out| protocol::encode_transfers(out, transfers.iter()));
    }

    /// Queues accounts to open.
    pub fn open_accounts(&mut self, request_id: u64, accounts: &[NewAccount]) {
        self.request(Kind::OpenAccounts, request_id, |out| protocol::encode_new_accounts(out, accounts));
    }

    /// Queues a read of accounts.
    pub fn get_accounts(&mut self, request_id: u64, ids: &[u128]) {
        self.request(Kind::GetAccounts, request_id, |out| protocol::encode_ids(out, ids.iter().copied()));
    }

    /// Queues a read of transfers.
    pub fn get_transfers(&mut self, request_id: u64, ids: &[u128]) {
        self.request(Kind::GetTransfers, request_id, |out| protocol::encode_ids(out, ids.iter().copied()));
    }

    /// Queues a read of an account's history.
    pub fn history(&mut self, request_id: u64, page: &HistoryRequest) {
        self.request(Kind::AccountHistory, request_id, |out| out.extend_from_slice(&page.encode()));
    }

    /// Queues a read of accounts in order of opening.
    pub fn list_accounts(&mut self, request_id: u64, page: &ListRequest) {
        self.request(Kind::ListAccounts, request_id, |out| out.extend_from_slice(&page.encode()));
    }

    /// Queues a query for records.
    pub fn query(&mut self, request_id: u64, query: &Query) {
        self.request(Kind::Query, request_id, |out| out.extend_from_slice(&query.encode()));
    }

    /// Queues a read of one account with its limits, or as of some time.
    pub fn get_account(&mut self, request_id: u64, request: &AccountRequest) {
        self.request(Kind::GetAccount, request_id, |out| out.extend_from_slice(&request.encode()));
    }

    /// Queues the question what would become of transfers.
    pub fn explain(&mut self, request_id: u64, transfers: &[Transfer]) {
        self.request(Kind::Explain, request_id, |out| protocol::encode_transfers(out, transfers.iter()));
    }

    /// Queues a ping.
    pub fn ping(&mut self, request_id: u64) {
        self.request(Kind::Ping, request_id, |_| ());
    }

    fn request(&mut self, kind: Kind, request_id: u64, body: impl FnOnce(&mut Vec<u8>)) {
        let at = protocol::begin_frame(&mut self.out);
        body(&mut self.out);
        protocol::end_frame(&mut self.out, at, kind, request_id);
    }

    /// Bytes queued.
    pub fn queued_bytes(&self) -> usize {
        self.out.len().saturating_sub(self.sent)
    }

    /// Sends what is queued. Given up, it goes on where it was when it is called again.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.writer.write(rest).await.map_err(ClientError::Broken)? {
                0 => return Err(ClientError::Broken(io::ErrorKind::WriteZero.into())),
                sent => self.sent = self.sent.saturating_add(sent),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }
}

impl AnswerReceiver {
    /// Waits for the next answer.
    pub async fn next(&mut self) -> Result<(u64, Answer), ClientError> {
        let (header, body) = self.frame().await?;
        Ok((header.request_id, decode_answer(&header, &body)?))
    }

    /// The next answer if it has arrived whole already.
    pub fn try_next(&mut self) -> Result<Option<(u64, Answer)>, ClientError> {
        match self.take_frame()? {
            Some((header, body)) => Ok(Some((header.request_id, decode_answer(&header, &body)?))),
            None => Ok(None),
        }
    }

    async fn frame(&mut self) -> Result<(FrameHeader, BytesMut), ClientError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            let read = self.reader.read_buf(&mut self.buffer).await.map_err(ClientError::Broken)?;
            if read == 0 {
                return Err(ClientError::Broken(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(FrameHeader, BytesMut)>, ClientError> {
        let Some(head) = self.buffer.first_chunk::<FRAME_HEADER_BYTES>() else {
            self.buffer.reserve(64 << 10);
            return Ok(None);
        };
        let header = FrameHeader::decode(head).map_err(ClientError::Protocol)?;
        if header.body_bytes > ANSWER_BYTES_MAX {
            return Err(ClientError::Protocol(Code::FrameTooLarge));
        }
        let bytes = FRAME_HEADER_BYTES.saturating_add(usize::try_from(header.body_bytes).unwrap_or(usize::MAX));
        if self.buffer.len() < bytes {
            self.buffer.reserve(bytes.saturating_sub(self.buffer.len()));
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(bytes);
        let body = frame.split_off(FRAME_HEADER_BYTES);
        if header.matches(&body) { Ok(Some((header, body))) } else { Err(ClientError::Protocol(Code::BodyCorrupt)) }
    }
}

fn decode_answer(header: &FrameHeader, body: &[u8]) -> Result<Answer, ClientError> {
    let answer = match Kind::from_number(header.kind) {
        Some(Kind::TransferOutcomes | Kind::AccountOutcomes) => protocol::decode_outcomes(body).map(Answer::Outcomes),
        Some(Kind::Accounts | Kind::AccountPage) => {
            protocol::decode_accounts(body).map(|(sequence, accounts)| Answer::Accounts(sequence, accounts))
        }
        Some(Kind::Transfers | Kind::History | Kind::Records) => {
            protocol::decode_stored(body).map(|(cursor, records)| Answer::Stored(cursor, records))
        }
        Some(Kind::AccountDetail) => protocol::decode_detail(body).map(|detail| Answer::Detail(Box::new(detail))),
        Some(Kind::Explained) => protocol::decode_explained(body).map(Answer::Explained),
        Some(Kind::Pong) => Ok(Answer::Pong),
        Some(Kind::Error) => protocol::decode_error(body).map(|(code, text)| Answer::Refused(code, text)),
        _ => Err(Code::KindUnknown),
    };
    answer.map_err(ClientError::Protocol)
}
