//! One request at a time.

use std::io;
use std::time::Duration;

use tokio::net::ToSocketAddrs;

use super::connection::{Answer, AnswerReceiver, ClientError, Connection, Credentials, RequestSender};
use crate::ledger::{AccountId, Code, NewAccount, Outcome, Sequence, StoredRecord, Transfer};
use crate::protocol::{
    AccountDetail, AccountRequest, AccountState, Explained, HistoryRequest, ITEMS_MAX, ListRequest, Query, QueryKind,
};

/// Time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Wait before a request that was answered busy is sent again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A connection for one request at a time. Requests answered busy are sent again until the time limit, except those that wait for events.
#[derive(Debug)]
pub struct Client {
    sender: RequestSender,
    receiver: AnswerReceiver,
    last_id: u64,
}

impl Client {
    /// Connects and authenticates.
    pub async fn connect(
        address: impl ToSocketAddrs + std::fmt::Display,
        who: &Credentials,
    ) -> Result<Self, ClientError> {
        let (sender, receiver) = Connection::open(address, who).await?.split();
        Ok(Self { sender, receiver, last_id: 0 })
    }

    /// Submits at most [`ITEMS_MAX`] transfers.
    pub async fn submit(&mut self, transfers: &[Transfer]) -> Result<Vec<Outcome>, ClientError> {
        match self.ask(|sender, id| sender.submit(id, transfers)).await? {
            Answer::Outcomes(outcomes) if outcomes.len() == transfers.len() => Ok(outcomes),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Opens at most [`ITEMS_MAX`] accounts.
    pub async fn open_accounts(&mut self, accounts: &[NewAccount]) -> Result<Vec<Outcome>, ClientError> {
        match self.ask(|sender, id| sender.open_accounts(id, accounts)).await? {
            Answer::Outcomes(outcomes) if outcomes.len() == accounts.len() => Ok(outcomes),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Reads accounts at one sequence; those that do not exist are left out.
    pub async fn accounts(&mut self, ids: &[u128]) -> Result<(Sequence, Vec<AccountState>), ClientError> {
        match self.ask(|sender, id| sender.get_accounts(id, ids)).await? {
            Answer::Accounts(sequence, accounts) => Ok((sequence, accounts)),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Reads a page of accounts in order of opening.
    pub async fn list_accounts(&mut self, page: ListRequest) -> Result<(Sequence, Vec<AccountState>), ClientError> {
        match self.ask(|sender, id| sender.list_accounts(id, &page)).await? {
            Answer::Accounts(sequence, accounts) => Ok((sequence, accounts)),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Reads all accounts, page by page; each page is of one sequence.
    pub async fn all_accounts(&mut self) -> Result<Vec<AccountState>, ClientError> {
        let mut all = Vec::new();
        loop {
            let from = u32::try_from(all.len()).unwrap_or(u32::MAX);
            let (_, page) = self.list_accounts(ListRequest { from, limit: ITEMS_MAX }).await?;
            let last = page.len() < usize::try_from(ITEMS_MAX).unwrap_or(usize::MAX);
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    /// Reads transfers with their first outcomes; those never decided are left out.
    pub async fn transfers(&mut self, ids: &[u128]) -> Result<Vec<StoredRecord>, ClientError> {
        match self.ask(|sender, id| sender.get_transfers(id, ids)).await? {
            Answer::Stored(_, records) => Ok(records),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Reads a page of an account's history, newest first: the cursor to go on from (0: none) and the records.
    pub async fn history(
        &mut self,
        account: AccountId,
        from: u64,
        limit: u32,
    ) -> Result<(u64, Vec<StoredRecord>), ClientError> {
        let page = HistoryRequest { account, from, limit };
        match self.ask(|sender, id| sender.history(id, &page)).await? {
            Answer::Stored(cursor, records) => Ok((cursor, records)),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Reads records: a page of them, and the sequence to go on from (0: no more; events go on for ever).
    pub async fn query(&mut self, query: &Query) -> Result<(Sequence, Vec<StoredRecord>), ClientError> {
        let request = |sender: &mut RequestSender, id| sender.query(id, query);
        // Who waits may be told busy after all that time.
        let is_wait = query.kind == QueryKind::Events;
        match if is_wait { in_time(self.ask_once(&request)).await } else { self.ask(request).await }? {
            Answer::Stored(next, records) => Ok((next, records)),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Waits up to `wait_ms` for the next events of this gateway, or of an account, from a sequence on; answers them and the
    /// sequence to ask from next. Keep that, and nothing is lost or told twice, whatever happens to the connection. Where so many wait that there
    /// is no place for it, or there was no time to look at what has come, it is refused as *busy*: ask again after a second or so.
    pub async fn events(
        &mut self,
        account: Option<AccountId>,
        from: Sequence,
        wait_ms: u32,
    ) -> Result<(Sequence, Vec<StoredRecord>), ClientError> {
        let id = account.map_or(0, AccountId::raw);
        self.query(&Query { wait_ms, from, ..Query::new(QueryKind::Events, id, ITEMS_MAX) }).await
    }

    /// Reads an account with what its limits leave, or as it was.
    pub async fn account(&mut self, request: &AccountRequest) -> Result<AccountDetail, ClientError> {
        match self.ask(|sender, id| sender.get_account(id, request)).await? {
            Answer::Detail(detail) => Ok(*detail),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Asks what would become of at most 128 transfers; posts nothing.
    pub async fn explain(&mut self, transfers: &[Transfer]) -> Result<Explained, ClientError> {
        match self.ask(|sender, id| sender.explain(id, transfers)).await? {
            Answer::Explained(explained) => Ok(explained),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    /// Asks whether the server is there.
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        match self.ask(RequestSender::ping).await? {
            Answer::Pong => Ok(()),
            _ => Err(ClientError::Protocol(Code::BodyMalformed)),
        }
    }

    async fn ask(&mut self, request: impl Fn(&mut RequestSender, u64)) -> Result<Answer, ClientError> {
        in_time(async {
            loop {
                match self.ask_once(&request).await {
                    Err(ClientError::Refused { code: Code::Busy, .. }) => tokio::time::sleep(BUSY_PAUSE).await,
                    answered => return answered,
                }
            }
        })
        .await
    }

    async fn ask_once(&mut self, request: &impl Fn(&mut RequestSender, u64)) -> Result<Answer, ClientError> {
        self.last_id = self.last_id.wrapping_add(1);
        request(&mut self.sender, self.last_id);
        self.sender.flush().await?;
        loop {
            let (id, answer) = self.receiver.next().await?;
            match answer {
                // Of an earlier request that timed out.
                _ if id != self.last_id && id != 0 => {}
                // The connection, and not this request, of which nobody knows whether it was done.
                Answer::Refused(code, text) if id == 0 => {
                    let why = format!("the server closes it: {code}: {text}");
                    return Err(ClientError::Broken(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
                }
                Answer::Refused(code, text) => return Err(ClientError::Refused { code, text }),
                answer => return Ok(answer),
            }
        }
    }
}

async fn in_time(asking: impl Future<Output = Result<Answer, ClientError>>) -> Result<Answer, ClientError> {
    tokio::time::timeout(ANSWER_TIMEOUT, asking).await.map_err(|_elapsed| ClientError::TimedOut(ANSWER_TIMEOUT))?
}
