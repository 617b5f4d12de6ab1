//! `heng-loadgen hostile`: what peers that misbehave cost the others.
//!
//! A load at a fixed rate is measured alone and beside each kind of misbehaviour, on one server: its p99 should at most double, and the server's memory
//! stay bounded. The peers share the machine with the server, so what they use themselves is in the figures too.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use heng::client::{Answer, Client, Connection, Credentials};
use heng::protocol::{
    DEVELOPMENT_GATEWAY, DEVELOPMENT_KEY, Hello, ITEMS_MAX, Kind, Query, QueryKind, VERSION, encode_frame,
};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::accounts::Range;
use crate::bench::arguments;
use crate::report::time;
use crate::run::perform;
use crate::spawn::Spawned;

/// Measure what peers that misbehave cost the others.
#[derive(Debug, Args)]
pub(crate) struct HostileArguments {
    /// Transfers per second of the load that is measured, in batches of 100 from 8 connections.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Seconds of each measurement. In few the slowest hundredth is a matter of chance: it is two requests of each second.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// How many times as long the slowest hundredth may take beside them; with more the exit code is 3.
    #[arg(long, default_value_t = 2.0)]
    most: f64,
    /// The most memory that the server may use, megabytes; with more the exit code is 3.
    #[arg(long, default_value_t = 1_500)]
    most_megabytes: u64,
    /// Only misbehaviours whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// Write the results as JSON.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// A kind of misbehaviour.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// Connections that send their hello one byte at a time, each beginning at a moment of its own.
    Slow,
    /// The same, all in the same moments, which is a burst of them every [`BYTE_EVERY`].
    InStep,
    /// Connections that send frames with wrong checksums as fast as they can.
    Corrupt,
    /// Connections that ask whether the server is there, as fast as they can.
    Flood,
    /// Authenticated connections that do nothing.
    Idle,
    /// Connecting and leaving.
    Churn,
    /// A client that asks for accounts and never reads an answer.
    Deaf,
    /// A client that asks for accounts that do not exist as fast as it can.
    Curious,
    /// A client that waits for a thousand events which do not come, again and again.
    Waiting,
}

const PEERS: &[(&str, Peer, u32)] = &[
    ("500 that send a byte at a time", Peer::Slow, 500),
    ("500 that send a byte at a time, all in the same moment", Peer::InStep, 500),
    ("4 that send corrupt frames", Peer::Corrupt, 4),
    ("4 that flood with pings", Peer::Flood, 4),
    ("10,000 that are idle", Peer::Idle, 10_000),
    ("1,000 a second that connect and leave", Peer::Churn, 1),
    ("1 that asks for 8,000 accounts again and again and never reads", Peer::Deaf, 1),
    ("30 that ask for 8,000 accounts again and again and never read", Peer::Deaf, 30),
    ("1 that asks for 8,000 accounts that are not there as fast as it can", Peer::Curious, 1),
    ("4 that wait for 1,000 events each, again and again", Peer::Waiting, 4),
];

#[derive(Debug, Serialize)]
struct Measured {
    name: String,
    alone_p99_us: u64,
    beside_p99_us: u64,
    rss_bytes: u64,
    /// What the peers did: connections, frames or requests.
    attempts: u64,
}

/// The first of the accounts that are asked for, which no load uses.
const FIRST_ACCOUNT: u128 = 1;
const ASKED_FOR: u64 = 8_000;

/// How long after one byte the next is sent, where they are sent one at a time.
const BYTE_EVERY: Duration = Duration::from_millis(100);

/// Events that one connection waits for at once, and how long.
const WAITS: u64 = 1_000;
const WAIT_MS: u32 = 2_000;

/// The exit code when others noticed.
const TOO_MUCH: u8 = 3;

/// Runs; the exit code is 3 when the others noticed more than they may, 1 when the run fails.
pub(crate) fn run(arguments: &HostileArguments) -> ExitCode {
    match measure(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(TOO_MUCH),
        Err(err) => {
            // Nobody is there to be told that nobody is there.
            let _told = writeln!(std::io::stderr(), "heng-loadgen: {err:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the others did not notice more than they may.
fn measure(options: &HostileArguments) -> anyhow::Result<bool> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).context("cannot open many files")?;
    let server = Spawned::start(None, 0, None)?;
    let transfers = options.rate.saturating_mul(options.seconds).to_string();
    let rate = options.rate.to_string();
    let load = || {
        let fixed = ["--batch", "100", "--connections", "8", "--no-verify", "--accounts", "10000"];
        let chosen = ["--target", &server.address, "--transfers", &transfers, "--rate", &rate];
        anyhow::Ok(perform(&arguments(&[&chosen[..], &fixed[..]].concat())?)?.latency_us.p99)
    };
    let asked_for = Range { first: FIRST_ACCOUNT, accounts: ASKED_FOR, abroad: 0 };
    let address: SocketAddr = server.address.parse()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async { asked_for.open(&mut Client::connect(address, &Credentials::development()).await?).await })?;
    // The first one pays for what is used for the first time.
    load()?;
    let mut all = Vec::new();
    for (name, peer, count) in PEERS {
        if options.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        // What the peers before left behind is done when this is.
        load()?;
        let alone_p99_us = load()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let attempts = Arc::new(AtomicU64::new(0));
        for place in 0..*count {
            let (peer, count, attempts) = (*peer, *count, Arc::clone(&attempts));
            runtime.spawn(async move {
                tokio::time::sleep(begins_after(peer, place, count)).await;
                misbehave(peer, address, attempts).await;
            });
        }
        if matches!(peer, Peer::Idle) {
            runtime.block_on(all_there(&attempts, u64::from(*count)))?;
        }
        let beside_p99_us = load()?;
        let rss_bytes = server.used().rss_bytes;
        runtime.shutdown_background();
        all.push(Measured {
            name: (*name).to_owned(),
            alone_p99_us,
            beside_p99_us,
            rss_bytes,
            attempts: attempts.load(Relaxed),
        });
    }
    server.stop()?;
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut told =
        format!("{:<68} {:>12} {:>12} {:>7} {:>10} {:>12}\n", "", "p99 alone", "beside", "ratio", "memory", "attempts");
    let mut are_spared = true;
    for one in &all {
        let ratio = std::ops::Div::div(
            f64::from(u32::try_from(one.beside_p99_us).unwrap_or(u32::MAX)),
            f64::from(u32::try_from(one.alone_p99_us.max(1)).unwrap_or(u32::MAX)),
        );
        let (alone, beside) = (time(one.alone_p99_us), time(one.beside_p99_us));
        let memory = one.rss_bytes >> 20;
        are_spared &= ratio <= options.most && memory <= options.most_megabytes;
        let line =
            format!("{:<68} {alone:>12} {beside:>12} {ratio:>7.2} {memory:>7} MB {:>12}", one.name, one.attempts);
        told.extend([line.as_str(), "\n"]);
    }
    std::io::stdout().write_all(told.as_bytes())?;
    Ok(are_spared)
}

/// Waits until so many are connected.
async fn all_there(attempts: &AtomicU64, count: u64) -> anyhow::Result<()> {
    for _ in 0..600 {
        if attempts.load(Relaxed) >= count {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("only {} of {count} connected within a minute", attempts.load(Relaxed))
}

/// When the peer at this place of so many begins: those that keep a slow clock have it at moments of their own, as peers on machines of their own have.
fn begins_after(peer: Peer, place: u32, count: u32) -> Duration {
    if !matches!(peer, Peer::Slow) {
        return Duration::ZERO;
    }
    BYTE_EVERY.checked_div(count).unwrap_or_default().saturating_mul(place)
}

fn hello() -> Vec<u8> {
    let who = Hello {
        version_min: VERSION,
        version_max: VERSION,
        gateway: DEVELOPMENT_GATEWAY.to_owned(),
        key: DEVELOPMENT_KEY,
    };
    let mut frame = Vec::new();
    encode_frame(&mut frame, Kind::Hello, 0, &who.encode().unwrap_or([0; heng::protocol::HELLO_BYTES]));
    frame
}

/// One peer, until its runtime ends. Whatever the server does about it is right.
async fn misbehave(peer: Peer, address: SocketAddr, attempts: Arc<AtomicU64>) {
    loop {
        // Refused, cut off, timed out: it comes again.
        let _ended = once(peer, address, &attempts).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn once(peer: Peer, address: SocketAddr, attempts: &AtomicU64) -> anyhow::Result<()> {
    match peer {
        Peer::Slow | Peer::InStep => {
            let mut stream = TcpStream::connect(address).await?;
            attempts.fetch_add(1, Relaxed);
            for byte in hello() {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(BYTE_EVERY).await;
            }
        }
        Peer::Corrupt | Peer::Flood => {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(&hello()).await?;
            let mut frames = Vec::new();
            for request in 1..=100 {
                encode_frame(&mut frames, Kind::Ping, request, &[7; 64]);
            }
            if matches!(peer, Peer::Corrupt) {
                // A bit of each body; the headers are sound, so the connection stays open.
                let step = frames.len() / 100;
                frames.iter_mut().skip(step.saturating_sub(1)).step_by(step.max(1)).for_each(|byte| *byte ^= 1);
            }
            let (mut reader, mut writer) = stream.into_split();
            let reading = tokio::spawn(async move {
                let mut bytes = vec![0; 64 << 10];
                while tokio::io::AsyncReadExt::read(&mut reader, &mut bytes).await.is_ok_and(|read| read > 0) {}
            });
            while writer.write_all(&frames).await.is_ok() {
                attempts.fetch_add(100, Relaxed);
            }
            reading.abort();
        }
        Peer::Idle => {
            let connection = Connection::open(address, &Credentials::development()).await?;
            attempts.fetch_add(1, Relaxed);
            std::future::pending::<()>().await;
            drop(connection);
        }
        Peer::Churn => {
            let mut clock = tokio::time::interval(Duration::from_millis(1));
            loop {
                clock.tick().await;
                let stream = TcpStream::connect(address).await?;
                attempts.fetch_add(1, Relaxed);
                drop(stream);
            }
        }
        Peer::Waiting => return wait_in_vain(address, attempts).await,
        Peer::Deaf | Peer::Curious => {
            let connection = Connection::open(address, &Credentials::development()).await?;
            let (mut sender, mut receiver) = connection.split();
            let is_curious = matches!(peer, Peer::Curious);
            let all = u128::from(ASKED_FOR);
            let first = FIRST_ACCOUNT.saturating_add(if is_curious { all } else { 0 });
            let ids: Vec<u128> = (first..first.saturating_add(all)).collect();
            // Ends with this.
            let mut reading = JoinSet::new();
            reading.spawn(async move {
                while is_curious && receiver.next().await.is_ok() {}
                std::future::pending::<()>().await;
                drop(receiver);
            });
            for request in 1.. {
                sender.get_accounts(request, &ids);
                sender.flush().await?;
                attempts.fetch_add(1, Relaxed);
            }
        }
    }
    Ok(())
}

async fn wait_in_vain(address: SocketAddr, attempts: &AtomicU64) -> anyhow::Result<()> {
    let connection = Connection::open(address, &Credentials::development()).await?;
    let (mut sender, mut receiver) = connection.split();
    let mut never = Query { wait_ms: 1, ..Query::new(QueryKind::Events, u128::MAX - 1, ITEMS_MAX) };
    // From where it waits, once it has looked through what there is.
    for _ in 0..WAITS {
        sender.query(0, &never);
        sender.flush().await?;
        let (_, Answer::Stored(next, _)) = receiver.next().await? else { anyhow::bail!("no events") };
        if std::mem::replace(&mut never.from, next).saturating_add(WAITS) > next {
            break;
        }
    }
    never.wait_ms = WAIT_MS;
    loop {
        (1..=WAITS).for_each(|request| sender.query(request, &never));
        sender.flush().await?;
        for _ in 1..=WAITS {
            receiver.next().await?;
            attempts.fetch_add(1, Relaxed);
        }
    }
}
