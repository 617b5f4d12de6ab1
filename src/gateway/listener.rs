//! Accepting connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::lookup::LookupTurns;
use super::session::{Ended, Session};
use crate::clearing::ClearingHandle;
use crate::flow::{Admission, set_up_served};
use crate::journal::JournalReader;
use crate::ledger::Code;
use crate::protocol::{Kind, begin_frame, encode_error, end_frame};
use crate::router::RouterHandle;
use crate::store::{Gateways, LinkLog};
use crate::telemetry::Telemetry;

/// What one peer, and all together, may use.
#[derive(Clone, Copy, Debug)]
pub struct GatewayLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Requests without an answer per connection.
    pub requests_in_flight_max: u32,
    /// Time for the hello to arrive.
    pub handshake_timeout: Duration,
    /// Time without any frame.
    pub idle_timeout: Duration,
    /// Time from the first byte of a frame to its last.
    pub frame_timeout: Duration,
    /// Time for a peer to take an answer.
    pub write_timeout: Duration,
    /// How long a session stays awake for the answer to a transfer that is alone.
    pub stay_awake: Duration,
}

/// What sessions need.
#[derive(Debug)]
pub struct GatewayContext {
    /// Limits.
    pub limits: GatewayLimits,
    /// Who may connect.
    pub gateways: Gateways,
    /// Room for items inside.
    pub admission: Arc<Admission>,
    /// Room for the bytes of frames that have begun to arrive.
    pub receiving: Arc<Admission>,
    /// Where requests go.
    pub router: RouterHandle,
    /// Where reads go.
    pub clearing: ClearingHandle,
    /// Lookups that may be under way on threads that wait, all connections together.
    pub lookups: LookupTurns,
    /// Where records are read.
    pub reader: Arc<JournalReader>,
    /// Where histories are found.
    pub links: Arc<LinkLog>,
    /// What is measured.
    pub telemetry: Telemetry,
}

/// Connections refused since it was said last, which is at most once a second: in a storm of them the log must not stand in the way.
#[derive(Debug, Default)]
struct Refusals {
    said: Option<Instant>,
    count: u64,
}

impl Refusals {
    fn note(&mut self, peer: SocketAddr, connections: usize) {
        self.count = self.count.saturating_add(1);
        if self.said.is_none_or(|said| said.elapsed() >= Duration::from_secs(1)) {
            tracing::warn!(%peer, connections, refused = self.count, "too many connections, refusing");
            (self.said, self.count) = (Some(Instant::now()), 0);
        }
    }
}

/// Accepts connections until `drain` turns true, then returns when every session has answered what it took. Dropping the future
/// drops the sessions.
pub async fn serve(listener: TcpListener, context: Arc<GatewayContext>, mut drain: watch::Receiver<bool>) {
    let mut sessions = tokio::task::JoinSet::new();
    let mut refusals = Refusals::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (context, drain) = (Arc::clone(&context), drain.clone());
                    if sessions.len() >= context.limits.connections_max {
                        refusals.note(peer, sessions.len());
                        context.telemetry.counters().requests_refused_total.fetch_add(1, Relaxed);
                        sessions.spawn(refuse(stream, context.limits.write_timeout));
                        continue;
                    }
                    context.telemetry.counters().connections_total.fetch_add(1, Relaxed);
                    sessions.spawn(async move {
                        context.telemetry.counters().connections_open.fetch_add(1, Relaxed);
                        let counters = Arc::clone(context.telemetry.counters());
                        let ended = match set_up_served(&stream, peer.ip()) {
                            Ok(()) => Session::run(stream.into_split(), context, drain).await,
                            Err(err) => Ended::Broken(err),
                        };
                        counters.connections_open.fetch_sub(1, Relaxed);
                        tracing::debug!(%peer, ?ended, "connection closed");
                    });
                }
                Err(err) => {
                    // Most often too many open files: give sessions time to end.
                    tracing::warn!(%err, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_ended) = sessions.join_next(), if !sessions.is_empty() => {}
            () = drained(&mut drain) => break,
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

/// Serves one peer over any stream, to its end.
pub async fn converse(stream: impl AsyncRead + AsyncWrite, context: Arc<GatewayContext>, drain: watch::Receiver<bool>) {
    let stream = Box::pin(stream);
    let ended = Session::run(tokio::io::split(stream), context, drain).await;
    tracing::debug!(?ended, "conversation ended");
}

/// Returns once draining began, or whoever says so is gone.
pub(super) async fn drained(drain: &mut watch::Receiver<bool>) {
    let _begun = drain.wait_for(|&drain| drain).await.is_ok();
}

async fn refuse(mut stream: TcpStream, timeout: Duration) {
    let mut frame = Vec::new();
    let at = begin_frame(&mut frame);
    encode_error(&mut frame, Code::TooManyConnections, Code::TooManyConnections.meaning());
    end_frame(&mut frame, at, Kind::Error, 0);
    // The peer may be gone; it is refused either way.
    let _sent = tokio::time::timeout(timeout, async {
        stream.write_all(&frame).await?;
        stream.shutdown().await
    })
    .await;
}
