//! Administration of gateways: through a socket in the data directory while a server runs, directly while none does.
//!
//! The socket is for its owner alone (mode 0600), so whoever may write the data directory may administer it. One JSON object per
//! line in, one out: `{"add":"NAME"}` gives `{"id":1,"name":"NAME","key":"64 hexadecimal digits"}` or `{"error":"..."}`.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam::channel::RecvTimeoutError;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::engine::{DataDir, DataDirError, RecoverError, RecoverOptions, Surroundings, append_offline, recover};
use crate::ledger::{GatewayEntry, GatewayId, Grant, GrantChange, Record};
use crate::settlement::{SettlementHandle, SettlementMessage};
use crate::store::Gateways;
use crate::telemetry::{Health, HealthState};

/// Longest request line.
const LINE_BYTES_MAX: u64 = 1_024;

/// Time for a request to come, and between looks at whether the server still runs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a running server to answer: what was asked may be behind much that waits for a slow disk.
const ADDED_TIMEOUT: Duration = Duration::from_mins(10);

/// Wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a gateway was not added.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The name cannot be one.
    #[error("`{0}` is not a gateway name: 1 to 48 printable characters without spaces, and not `development`")]
    Name(String),
    /// The directory cannot be had, and no server answers there.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The directory cannot be recovered.
    #[error("cannot recover the data directory")]
    Recover(#[from] RecoverError),
    /// It could not be recorded, or nobody knows.
    #[error("{0}")]
    Record(String),
    /// The running server cannot be asked.
    #[error("the running server cannot be asked on {path}: {source}")]
    Connect {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The running server does not answer.
    #[error(
        "the running server does not answer on {path}: {source}; whether the gateway has another key now is not known: do it again when it answers"
    )]
    Socket {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A new gateway, with the key that is shown this once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewGateway {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its key, hexadecimal.
    pub key: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddRequest {
    add: String,
    /// Which operations, and how much at once; of each what it had before, or everything, when not said.
    operations: Option<u32>,
    amount_max: Option<u128>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum AddReply {
    Added(NewGateway),
    Refused { error: String },
}

/// Makes an entry with a new key. A known name keeps its number: that is how a key is changed.
fn new_entry(name: &str, change: GrantChange, gateways: &Gateways) -> Result<(GatewayEntry, NewGateway), AdminError> {
    let padded = GatewayEntry::pad_name(name).filter(|_| name != crate::protocol::DEVELOPMENT_GATEWAY);
    let padded = padded.ok_or_else(|| AdminError::Name(name.to_owned()))?;
    let known = gateways.list();
    let registered = known.iter().filter(|entry| entry.id != super::DEVELOPMENT_GATEWAY_ID);
    let last = registered.clone().map(|entry| entry.id.0).max().unwrap_or(0);
    let before = registered.clone().find(|entry| entry.name() == name);
    let id = before.map_or(last.saturating_add(1), |entry| entry.id.0);
    let grant = change.of(before.map_or(Grant::ALL, |entry| entry.grant));
    let key: [u8; crate::protocol::KEY_BYTES] = rand::random();
    let entry = GatewayEntry { id: GatewayId(id), name: padded, key_hash: *blake3::hash(&key).as_bytes(), grant };
    let key = blake3::Hash::from_bytes(key).to_hex().to_string();
    Ok((entry, NewGateway { id, name: name.to_owned(), key }))
}

/// Adds a gateway, or gives a known one a new key and, as far as it is said, another grant, durably: by way of the server that runs on the directory, or directly. Blocks.
pub fn add_gateway(
    data_dir: &Path,
    name: &str,
    change: GrantChange,
    segment_bytes: u64,
) -> Result<NewGateway, AdminError> {
    match DataDir::create(data_dir) {
        Ok(directory) => add_offline(&directory, (name, change), segment_bytes),
        Err(DataDirError::InUse(_)) => add_online(&DataDir::admin_socket(data_dir), name, change),
        Err(err) => Err(err.into()),
    }
}

fn add_offline(
    directory: &DataDir,
    (name, change): (&str, GrantChange),
    segment_bytes: u64,
) -> Result<NewGateway, AdminError> {
    let recovered = recover(directory, RecoverOptions::default())?;
    let (entry, added) = new_entry(name, change, &recovered.gateways)?;
    append_offline(recovered, &[Record::Gateway(entry)], segment_bytes, &Surroundings::default())
        .map_err(|err| AdminError::Record(format!("the gateway could not be recorded: {err}")))?;
    Ok(added)
}

fn add_online(path: &Path, name: &str, change: GrantChange) -> Result<NewGateway, AdminError> {
    let socket_error = |source| AdminError::Socket { path: path.to_owned(), source };
    let mut stream =
        UnixStream::connect(path).map_err(|source| AdminError::Connect { path: path.to_owned(), source })?;
    let mut ask = || -> io::Result<String> {
        stream.set_read_timeout(Some(ADDED_TIMEOUT))?;
        let GrantChange { operations, amount_max } = change;
        let mut line = serde_json::to_string(&AddRequest { add: name.to_owned(), operations, amount_max })?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut reply = String::new();
        BufReader::new(&mut stream).read_line(&mut reply)?;
        Ok(reply)
    };
    let reply = ask().map_err(socket_error)?;
    match serde_json::from_str(&reply).map_err(|err| socket_error(err.into()))? {
        AddReply::Added(added) => Ok(added),
        AddReply::Refused { error } => Err(AdminError::Record(error)),
    }
}

/// Listens on the administration socket; none when that cannot be had, which is logged and no reason to stop.
pub(super) fn listen(data_dir: &Path) -> Option<UnixListener> {
    let path = DataDir::admin_socket(data_dir);
    // What an earlier server left; the directory's lock says that none runs now.
    let _left = std::fs::remove_file(&path);
    let listening = UnixListener::bind(&path).and_then(|listener| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    if let Err(err) = &listening {
        tracing::warn!(%err, path = %path.display(), "no administration socket: gateways can only be added while the server is stopped");
    }
    listening.ok()
}

/// Answers on the administration socket until dropped.
pub(super) async fn serve(
    listener: Option<UnixListener>,
    gateways: Gateways,
    settlement: SettlementHandle,
    health: Health,
) {
    let listener = match listener.map(tokio::net::UnixListener::from_std) {
        Some(Ok(listener)) => listener,
        Some(Err(err)) => return tracing::warn!(%err, "the administration socket cannot be served"),
        None => return,
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No files are left, which somebody else may change.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // One at a time: numbers are given in order.
        if let Err(err) = answer(stream, &gateways, &settlement, &health).await {
            tracing::warn!(%err, "administration request failed");
        }
    }
}

async fn answer(
    stream: tokio::net::UnixStream,
    gateways: &Gateways,
    settlement: &SettlementHandle,
    health: &Health,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let limited = tokio::io::AsyncReadExt::take(reader, LINE_BYTES_MAX);
    let mut lines = tokio::io::BufReader::new(limited);
    tokio::time::timeout(ANSWER_TIMEOUT, lines.read_line(&mut line)).await??;
    let reply = match serde_json::from_str::<AddRequest>(&line) {
        Ok(request) => add_here(&request, gateways, settlement, health).await,
        Err(err) => Err(format!("the request cannot be read: {err}")),
    };
    let reply = reply.map_or_else(|error| AddReply::Refused { error }, AddReply::Added);
    let mut text = serde_json::to_string(&reply)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await
}

async fn add_here(
    request: &AddRequest,
    gateways: &Gateways,
    settlement: &SettlementHandle,
    health: &Health,
) -> Result<NewGateway, String> {
    let AddRequest { add: name, operations, amount_max } = request;
    let change = GrantChange { operations: *operations, amount_max: *amount_max };
    let (entry, added) = new_entry(name, change, gateways).map_err(|err| err.to_string())?;
    let (reply, durable) = crossbeam::channel::bounded(1);
    let record = Box::new(Record::Gateway(entry));
    let sent = settlement.send(SettlementMessage::Record { record, not_before_ns: 0, reply });
    sent.map_err(|err| format!("the gateway could not be recorded: {err}"))?;
    let health = health.clone();
    let waited = tokio::task::spawn_blocking(move || {
        loop {
            // However long it takes: the next number is given when it is known whether this one is.
            match durable.recv_timeout(ANSWER_TIMEOUT) {
                Err(RecvTimeoutError::Timeout) if !matches!(health.state(), HealthState::Failed(_)) => {}
                waited => return waited,
            }
        }
    });
    match waited.await {
        Ok(Ok(sequence)) => {
            // The clearing actor follows; here it must be known before the key is told.
            gateways.put(sequence, entry);
            tracing::info!(gateway = entry.id.0, name, "gateway added");
            Ok(added)
        }
        _ => Err("the server stopped; whether the gateway has another key now is not known: start it, and do it again"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new key must not come with more than the old one had.
    #[test]
    fn what_is_not_said_of_a_known_gateways_grant_stays() {
        let gateways = Gateways::default();
        let add = |change: GrantChange| {
            let (entry, added) = new_entry("refunds", change, &gateways).unwrap();
            gateways.put(0, entry);
            (entry.grant, added.id)
        };
        let nothing = GrantChange::default();
        let [refund, hold] = ["refund", "hold"].map(|name| Grant::parse_operations(name).unwrap());
        let everything = (Grant::ALL, 1);
        assert_eq!(add(nothing), everything);
        assert_eq!(add(GrantChange { operations: Some(refund), amount_max: Some(100) }).0.amount_max, 100);
        let limited = |operations, amount_max| (Grant { operations, amount_max }, 1);
        assert_eq!(add(nothing), limited(refund, 100));
        assert_eq!(add(GrantChange { amount_max: Some(5_000), ..nothing }), limited(refund, 5_000));
        assert_eq!(add(GrantChange { operations: Some(hold), ..nothing }), limited(hold, 5_000));
        assert_eq!(add(GrantChange { operations: Some(Grant::ALL.operations), ..nothing }), limited(u32::MAX, 5_000));
    }
}
