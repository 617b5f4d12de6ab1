//! One connection for many callers: what they ask for while requests are under way goes together in the next one.
//!
//! A caller waits for its own outcomes only. Transfers of one call stay together and in order; calls of different callers are in the order in
//! which they came. Two requests are under way at a time, and under load they grow by themselves. When the connection breaks everybody who waits is told, and everybody who calls afterwards; nothing is sent again by itself.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connection::{Answer, AnswerReceiver, ClientError, Connection, Credentials, RequestSender};
use crate::ledger::{Code, Outcome, Transfer};
use crate::protocol::check_transactions;

/// Requests under way at a time.
const REQUESTS: usize = 2;

/// Calls that wait to be sent; who comes then waits to be let in.
const CALLS_MAX: usize = 32_768;

/// Time for an answer, and for the server to take a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the receiving side looks whether an answer is late.
const LOOK: Duration = Duration::from_secs(1);

/// A client that many tasks may use at once. Cheap to clone; the connection is closed when the last clone is gone and all is answered.
#[derive(Clone, Debug)]
pub struct BatchingClient {
    calls: mpsc::Sender<Call>,
    items_max: usize,
}

/// What a caller wants, and where it waits. Most are single transfers, which a copy serves better than an allocation.
#[derive(Debug)]
enum Call {
    One(Transfer, oneshot::Sender<Result<Outcome, ClientError>>),
    Some(Vec<Transfer>, oneshot::Sender<Result<Vec<Outcome>, ClientError>>),
}

/// A caller whose transfers are under way.
#[derive(Debug)]
enum Waiting {
    One(oneshot::Sender<Result<Outcome, ClientError>>),
    Some(usize, oneshot::Sender<Result<Vec<Outcome>, ClientError>>),
}

/// What the two tasks of a connection share.
#[derive(Debug)]
struct Shared {
    room: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Callers by request, in the order of their transfers, and since when they wait.
    requests: HashMap<u64, (Instant, Vec<Waiting>)>,
    /// Why nothing more is answered.
    failure: Option<Failure>,
}

/// A [`ClientError`] that can be told to many.
#[derive(Clone, Debug)]
enum Failure {
    Broken(io::ErrorKind),
    TimedOut,
    Refused(Code, String),
    Protocol(Code),
}

impl Failure {
    fn of(err: &ClientError) -> Self {
        match err {
            ClientError::Broken(source) | ClientError::Connect { source, .. } => Self::Broken(source.kind()),
            ClientError::TimedOut(_) => Self::TimedOut,
            ClientError::Refused { code, text } => Self::Refused(*code, text.clone()),
            ClientError::Protocol(code) => Self::Protocol(*code),
            ClientError::GatewayName(_) | ClientError::Key => Self::Protocol(Code::Internal),
        }
    }

    fn error(&self) -> ClientError {
        match self {
            Self::Broken(kind) => ClientError::Broken((*kind).into()),
            Self::TimedOut => ClientError::TimedOut(ANSWER_TIMEOUT),
            Self::Refused(code, text) => ClientError::Refused { code: *code, text: text.clone() },
            Self::Protocol(code) => ClientError::Protocol(*code),
        }
    }
}

impl BatchingClient {
    /// Connects and authenticates. The connection lives on the runtime that this is called on.
    pub async fn connect(
        address: impl tokio::net::ToSocketAddrs + std::fmt::Display,
        who: &Credentials,
    ) -> Result<Self, ClientError> {
        let connection = Connection::open(address, who).await?;
        let items_max = usize::try_from(connection.welcome().items_max).unwrap_or(1);
        let keep_alive = Duration::from_millis((connection.welcome().idle_timeout_ms >> 1).into());
        let (sender, receiver) = connection.split();
        let (calls, inbox) = mpsc::channel(CALLS_MAX);
        let shared = Arc::new(Shared { room: Semaphore::new(REQUESTS), state: Mutex::default() });
        tokio::spawn(receive(receiver, Arc::clone(&shared)));
        let sending = Sending { sender, inbox, items_max, keep_alive, shared };
        tokio::spawn(sending.run());
        Ok(Self { calls, items_max })
    }

    /// Submits a transfer and waits for its outcome, which is durable. A `Refused` error means that nothing of it was decided, any other that it
    /// may have been: send it again with the same id.
    pub async fn submit_one(&self, transfer: Transfer) -> Result<Outcome, ClientError> {
        check_transactions(&[transfer]).map_err(refused)?;
        let (tell, told) = oneshot::channel();
        self.call(Call::One(transfer, tell)).await?;
        told.await.unwrap_or_else(|_gone| Err(gone()))
    }

    /// The same with several, whole transactions among them; at most as many as a request may have ([`crate::protocol::ITEMS_MAX`]).
    pub async fn submit(&self, transfers: Vec<Transfer>) -> Result<Vec<Outcome>, ClientError> {
        if transfers.is_empty() {
            return Ok(Vec::new());
        }
        if transfers.len() > self.items_max {
            return Err(refused(Code::BodyMalformed));
        }
        check_transactions(&transfers).map_err(refused)?;
        let (tell, told) = oneshot::channel();
        self.call(Call::Some(transfers, tell)).await?;
        told.await.unwrap_or_else(|_gone| Err(gone()))
    }

    async fn call(&self, call: Call) -> Result<(), ClientError> {
        self.calls.send(call).await.map_err(|_gone| gone())
    }
}

fn gone() -> ClientError {
    ClientError::Broken(io::ErrorKind::NotConnected.into())
}

fn refused(code: Code) -> ClientError {
    ClientError::Refused { code, text: code.meaning().to_owned() }
}

fn tell_all(all: impl IntoIterator<Item = Waiting>, mut tell: impl FnMut(Waiting)) {
    for waiting in all {
        tell(waiting);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who waits, and lets the sending side go on to its end.
    fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        let requests = std::mem::take(&mut state.requests);
        let failure = state.failure.get_or_insert(failure).clone();
        drop(state);
        tell_all(requests.into_values().flat_map(|(_, waiting)| waiting), |waiting| waiting.fail(&failure));
        self.room.close();
    }
}

impl Waiting {
    // A caller that is gone does not want to know.
    fn fail(self, failure: &Failure) {
        match self {
            Self::One(tell) => drop(tell.send(Err(failure.error()))),
            Self::Some(_, tell) => drop(tell.send(Err(failure.error()))),
        }
    }

    /// Takes what is its own of the outcomes.
    fn tell(self, outcomes: &mut impl Iterator<Item = Outcome>) {
        match self {
            Self::One(tell) => {
                let outcome = outcomes.next().ok_or(ClientError::Protocol(Code::BodyMalformed));
                drop(tell.send(outcome));
            }
            Self::Some(count, tell) => drop(tell.send(Ok(outcomes.take(count).collect()))),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Some(count, _) => *count,
        }
    }
}

/// The sending side.
struct Sending {
    sender: RequestSender,
    inbox: mpsc::Receiver<Call>,
    items_max: usize,
    /// Without a call for so long a ping is sent.
    keep_alive: Duration,
    shared: Arc<Shared>,
}

impl Sending {
    async fn run(mut self) {
        let (mut calls, mut transfers, mut request) = (Vec::new(), Vec::new(), 0_u64);
        loop {
            let Ok(permit) = self.shared.room.acquire().await else { break };
            permit.forget();
            if calls.is_empty() && !self.wait(&mut calls).await {
                break;
            }
            request = request.wrapping_add(1);
            let waiting = self.pack(&mut calls, &mut transfers);
            {
                let mut state = self.shared.lock();
                if let Some(failure) = state.failure.clone() {
                    drop(state);
                    tell_all(waiting, |waiting| waiting.fail(&failure));
                    break;
                }
                state.requests.insert(request, (Instant::now(), waiting));
            }
            self.sender.submit(request, &transfers);
            self.flush().await;
        }
        self.end(calls).await;
    }

    /// Waits for calls, and takes as many as one request may have; no when there will be none any more.
    async fn wait(&mut self, calls: &mut Vec<Call>) -> bool {
        loop {
            match tokio::time::timeout(self.keep_alive, self.inbox.recv_many(calls, self.items_max)).await {
                Ok(count) => return count > 0,
                Err(_elapsed) => {
                    self.sender.ping(0);
                    self.flush().await;
                    if self.shared.lock().failure.is_some() {
                        return false;
                    }
                }
            }
        }
    }

    /// Sends what is queued; a peer that does not take it is as good as gone.
    async fn flush(&mut self) {
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, self.sender.flush()).await;
        if let Err(err) = sent.unwrap_or(Err(ClientError::TimedOut(ANSWER_TIMEOUT))) {
            self.shared.fail(Failure::of(&err));
        }
    }

    /// Fills a request from the front of the calls; what does not fit stays.
    fn pack(&self, calls: &mut Vec<Call>, transfers: &mut Vec<Transfer>) -> Vec<Waiting> {
        transfers.clear();
        let fits = |call: &Call, room: usize| match call {
            Call::One(..) => room > 0,
            Call::Some(transfers, _) => transfers.len() <= room,
        };
        let mut left = self.items_max;
        let count = calls.iter().take_while(|call| {
            let does = fits(call, left);
            left = left.saturating_sub(if let Call::Some(transfers, _) = call { transfers.len() } else { 1 });
            does
        });
        let count = count.count();
        let waiting = calls.drain(..count).map(|call| match call {
            Call::One(transfer, tell) => {
                transfers.push(transfer);
                Waiting::One(tell)
            }
            Call::Some(own, tell) => {
                transfers.extend_from_slice(&own);
                Waiting::Some(own.len(), tell)
            }
        });
        waiting.collect()
    }

    /// Tells everybody who still calls why nothing is sent any more; whose calls are under way hears from the receiving side.
    async fn end(mut self, mut calls: Vec<Call>) {
        let failure = self.shared.lock().failure.clone().unwrap_or(Failure::Broken(io::ErrorKind::NotConnected));
        self.inbox.close();
        while self.inbox.recv_many(&mut calls, self.items_max).await > 0 {}
        for call in calls {
            match call {
                Call::One(_, tell) => Waiting::One(tell).fail(&failure),
                Call::Some(_, tell) => Waiting::Some(0, tell).fail(&failure),
            }
        }
    }
}

/// The receiving side: to the end of the connection.
async fn receive(mut receiver: AnswerReceiver, shared: Arc<Shared>) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        let answer = tokio::select! {
            answer = receiver.next() => answer,
            _ = look.tick() => {
                let is_late = |(since, _): &(Instant, Vec<Waiting>)| since.elapsed() >= ANSWER_TIMEOUT;
                if !shared.lock().requests.values().any(is_late) {
                    continue;
                }
                Err(ClientError::TimedOut(ANSWER_TIMEOUT))
            }
        };
        let failed = match answer {
            Ok((0, Answer::Pong)) => continue,
            // The connection is at an end, and nobody says what became of the requests that were under way.
            Ok((0, Answer::Refused(..))) => ClientError::Broken(io::ErrorKind::ConnectionAborted.into()),
            Ok((request, answer)) => match finish(&shared, request, answer) {
                Ok(()) => continue,
                Err(err) => err,
            },
            Err(err) => err,
        };
        return shared.fail(Failure::of(&failed));
    }
}

/// Tells the callers of a request what became of it.
fn finish(shared: &Shared, request: u64, answer: Answer) -> Result<(), ClientError> {
    let (_, waiting) = shared.lock().requests.remove(&request).ok_or(ClientError::Protocol(Code::BodyMalformed))?;
    shared.room.add_permits(1);
    let count: usize = waiting.iter().map(Waiting::count).sum();
    match answer {
        Answer::Outcomes(outcomes) if outcomes.len() == count => {
            let mut outcomes = outcomes.into_iter();
            tell_all(waiting, |waiting| waiting.tell(&mut outcomes));
            Ok(())
        }
        Answer::Refused(code, text) => {
            let failure = Failure::Refused(code, text);
            tell_all(waiting, |waiting| waiting.fail(&failure));
            Ok(())
        }
        _ => {
            let failure = Failure::Protocol(Code::BodyMalformed);
            tell_all(waiting, |waiting| waiting.fail(&failure));
            Err(failure.error())
        }
    }
}
