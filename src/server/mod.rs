//! One server: bind, recover, serve, drain, stop.
//!
//! [`run`] blocks its thread with an actix system. Ports are bound first, so that a mistake shows at once and probes are answered
//! while recovery reads the journal; the protocol port is only accepted from when the server is ready.

mod admin;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::backoffice::{EnginePorts, Office, check_change, check_schemes, policy_in, read_policy, spawn_office};
use crate::config::Config;
use crate::engine::{
    DataDir, DataDirError, Engine, EngineOptions, RecoverError, RecoverOptions, Recovered, Surroundings,
    append_offline, recover,
};
use crate::flow::Admission;
use crate::gateway::{self, GatewayContext, GatewayLimits, LookupTurns};
use crate::journal::{Guard, JournalError, TAKEN_OVER};
use crate::ledger::{GatewayEntry, GatewayId, Grant, Policy, PolicyPart, Record, Sequence};
use crate::ops::{self, OpsContext};
use crate::protocol::{DEVELOPMENT_GATEWAY, DEVELOPMENT_KEY};
use crate::store::StoreError;
use crate::telemetry::{Health, HealthState, Telemetry, chain};

pub use admin::{AdminError, NewGateway, add_gateway};

/// The number of the development gateway; it is never recorded as a gateway.
const DEVELOPMENT_GATEWAY_ID: GatewayId = GatewayId(u32::MAX >> 1);

/// How often it is asked whether the data directory was taken over, besides with each group that is written.
const GUARDED_EVERY: Duration = Duration::from_millis(100);

/// Transfers of a large request with which the shard begins while the router looks up the next: looking up a whole one takes half a millisecond.
const PIECE_TRANSFERS: usize = 1_024;

/// Connections that may wait to be accepted.
const ACCEPT_BACKLOG: u32 = 4_096;

/// Why a server did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port cannot be had.
    #[error("cannot listen on {address}: {source}; another server may be running there, choose another with --{flag}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Which flag sets it.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The data directory cannot be had.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The policy cannot be used.
    #[error("the policy {path} cannot be used: {what}")]
    Policy {
        /// Which file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// Recovery failed.
    #[error("cannot recover the data directory")]
    Recover(#[from] RecoverError),
    /// The operating system refuses threads or files.
    #[error("cannot start")]
    Start(#[from] io::Error),
    /// Something failed while serving.
    #[error("stopped: {0}")]
    Failed(String),
    /// Not everything that was taken could be answered in time.
    #[error(
        "drain timed out with {0} transfers, accounts or records asked for that were not answered, or whose answers were not taken: what was not answered may have been done or not"
    )]
    Drain(usize),
}

impl ServerError {
    /// Whether the mistake is in what the server was told, and not in the server.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Bind { .. } | Self::DataDir(_) | Self::Policy { .. } | Self::Recover(RecoverError::Io(_)) => true,
            Self::Recover(RecoverError::Journal(err)) => matches!(err, JournalError::Newer { .. }),
            Self::Recover(RecoverError::Store(err)) => matches!(err, StoreError::Newer { .. } | StoreError::Io { .. }),
            _ => false,
        }
    }
}

/// Where a server is and what it found, told when it is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The TCP protocol.
    pub listen: SocketAddr,
    /// Operations HTTP.
    pub operations_listen: SocketAddr,
    /// Accounts recovered.
    pub accounts: usize,
    /// The last durable sequence.
    pub sequence: Sequence,
    /// Records replayed after the last checkpoint.
    pub replayed: u64,
    /// Whether the store was made again.
    pub store_rebuilt: bool,
}

/// Serves until `stop` says so (or is dropped), then drains and returns. Blocks.
pub fn run(
    config: &Config,
    telemetry: &Telemetry,
    ready: impl FnOnce(&Ready) + 'static,
    stop: oneshot::Receiver<()>,
) -> Result<(), ServerError> {
    let sessions = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("heng-session").build()?;
    let bind = |address, flag| {
        sessions.block_on(async { listen(address) }).map_err(|source| ServerError::Bind { address, flag, source })
    };
    let listener = bind(config.listen, "listen")?;
    let operations = bind(config.operations_listen, "operations-listen")?.into_std()?;
    let directory = DataDir::create(&config.data_dir)?;
    let result = actix::System::new().block_on(async {
        let operations_listen = operations.local_addr()?;
        let (ops_context, ops_server) = ops::start(operations, telemetry.clone())?;
        let outcome =
            serve(config, telemetry, &directory, (listener, &sessions), (&ops_context, operations_listen), ready, stop)
                .await;
        ops_server.stop(false).await;
        outcome
    });
    sessions.shutdown_background();
    result
}

/// Must be called inside the runtime that will accept.
fn listen(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart need not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_BACKLOG)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one server, used once")]
async fn serve(
    config: &Config,
    telemetry: &Telemetry,
    directory: &DataDir,
    (listener, sessions): (tokio::net::TcpListener, &Runtime),
    (ops_context, operations_listen): (&OpsContext, SocketAddr),
    ready: impl FnOnce(&Ready),
    stop: oneshot::Receiver<()>,
) -> Result<(), ServerError> {
    let recovered = recover_with_policy(config, directory)?;
    let told = Ready {
        listen: listener.local_addr()?,
        operations_listen,
        accounts: recovered.book.len(),
        sequence: recovered.tail.next_sequence.saturating_sub(1),
        replayed: recovered.replayed,
        store_rebuilt: recovered.store_rebuilt,
    };
    let guard = directory.guard()?;
    let engine = start_engine(config, telemetry, recovered)?;
    let ports = EnginePorts::new(&engine);
    let running = ports.running();
    let (office, office_thread) = spawn_office(Office::new(ports, directory.path()).with_telemetry(telemetry.clone()))?;
    ops_context.watch(&engine, office, (directory.journal(), &config.data_dir));
    let guarding = sessions.spawn(watch_over(guard, telemetry.health().clone()));
    let admin = admin::listen(directory.path());
    let admin = sessions.spawn(admin::serve(
        admin,
        engine.gateways.clone(),
        engine.settlement.clone(),
        telemetry.health().clone(),
    ));
    let (drain, draining) = watch::channel(false);
    let context = Arc::new(gateway_context(config, telemetry, &engine));
    let mut gateway = sessions.spawn(gateway::serve(listener, context, draining));
    telemetry.health().set(HealthState::Ready);
    tracing::info!(listen = %told.listen, operations = %operations_listen, sequence = told.sequence, "ready");
    ready(&told);

    let failed = || telemetry.health().wait_for(|state| matches!(state, HealthState::Failed(_)));
    let result = tokio::select! {
        state = failed() => failure(&state),
        _stop = stop => {
            telemetry.health().set(HealthState::Draining);
            tracing::info!("draining: nothing new is taken");
            // Nobody listens when the gateway has ended already.
            let _told = drain.send(true);
            // Once something has failed nobody is answered any more.
            tokio::select! {
                biased;
                state = failed() => failure(&state),
                drained = tokio::time::timeout(config.drain_timeout, &mut gateway) => match drained {
                    Ok(_) => Ok(()),
                    Err(_elapsed) => Err(ServerError::Drain(engine.admission.inside().saturating_add(engine.admission.untaken()))),
                },
            }
        }
    };
    gateway.abort();
    admin.abort();
    guarding.abort();
    // Wherever the office is, it goes on from there after the next start.
    running.store(false, std::sync::atomic::Ordering::Release);
    let _ended = office_thread.join();
    let result = result.and_then(|()| match engine.checkpoint() {
        Some(checkpoint) => {
            tracing::info!(checkpoint, "drained");
            Ok(())
        }
        None => failure(&telemetry.health().state()),
    });
    let store = engine.store.clone();
    engine.stop();
    if result.is_ok() {
        store.close();
    }
    result
}

/// Ends the server soon after its directory was taken over, also if it has nothing to write: what it reads to clients is old by then.
async fn watch_over(guard: Guard, health: Health) {
    let mut looks = tokio::time::interval(GUARDED_EVERY);
    loop {
        looks.tick().await;
        match guard.is_ours() {
            Ok(true) => {}
            Ok(false) => return health.fail(TAKEN_OVER),
            Err(err) => {
                return health.fail(&format!("whether the data directory is still ours cannot be found out ({err})"));
            }
        }
    }
}

fn failure(state: &HealthState) -> Result<(), ServerError> {
    match state {
        HealthState::Failed(reason) => Err(ServerError::Failed(reason.clone())),
        _ => Ok(()),
    }
}

/// Recovers, and puts the configured policy in force if it is another one: it is recorded before anything is decided by it.
fn recover_with_policy(config: &Config, directory: &DataDir) -> Result<Recovered, ServerError> {
    let options = RecoverOptions { store_cache_bytes: config.store_cache_bytes, ids_in_memory: config.ids_in_memory };
    let recovered = recover(directory, options)?;
    let Some(path) = &config.policy_file else { return Ok(recovered) };
    let policy_error = |what: String| ServerError::Policy { path: path.clone(), what };
    let text = read_policy(path).map_err(|err| policy_error(chain(&err)))?;
    if text == recovered.book.policy().text() {
        return Ok(recovered);
    }
    let policy = Policy::parse(&text).map_err(|err| policy_error(err.to_string()))?;
    check_schemes(&policy).map_err(|err| policy_error(err.to_string()))?;
    let policy_at = |(from, until)| {
        let read = policy_in(|visit| {
            let scanned = recovered.reader.scan(from, until, &mut |stored| {
                visit(stored);
                true
            });
            scanned.map(drop)
        });
        read.map_err(|err| chain(&err))
    };
    check_change(&recovered.book, &policy, policy_at).map_err(|err| policy_error(err.to_string()))?;
    let records: Vec<Record> = PolicyPart::split(&text).into_iter().map(Record::Policy).collect();
    append_offline(recovered, &records, config.segment_bytes, &Surroundings::default()).map_err(ServerError::Failed)?;
    tracing::info!(policy = %path.display(), "another policy is in force");
    Ok(recover(directory, options)?)
}

fn start_engine(config: &Config, telemetry: &Telemetry, recovered: Recovered) -> io::Result<Engine> {
    if recovered.store_rebuilt {
        tracing::warn!(replayed = recovered.replayed, "the store was made again from the journal");
    }
    let options = EngineOptions {
        shards: config.shards,
        items_in_flight_max: config.transfers_in_flight_max,
        piece_transfers: PIECE_TRANSFERS,
        group_records_max: config.group_transfers_max,
        segment_bytes: config.segment_bytes,
        checkpoint_records: config.checkpoint_transfers,
        stay_awake: config.stay_awake,
    };
    if config.development_key {
        tracing::warn!("the publicly known development key is accepted; set development_key = false before real money");
        let name = GatewayEntry::pad_name(DEVELOPMENT_GATEWAY).unwrap_or([0; GatewayEntry::NAME_BYTES]);
        let key_hash = *blake3::hash(&DEVELOPMENT_KEY).as_bytes();
        recovered
            .gateways
            .put(0, GatewayEntry { id: DEVELOPMENT_GATEWAY_ID, name, key_hash, grant: Grant::ALL_AND_CLEARING });
    } else if recovered.gateways.list().is_empty() {
        tracing::warn!("no gateway is registered, so nobody can connect; add one with `heng gateway add NAME`");
    }
    Engine::start(recovered, options, telemetry)
}

fn gateway_context(config: &Config, telemetry: &Telemetry, engine: &Engine) -> GatewayContext {
    GatewayContext {
        limits: GatewayLimits {
            connections_max: config.connections_max,
            requests_in_flight_max: config.connection_requests_in_flight_max,
            handshake_timeout: config.handshake_timeout,
            idle_timeout: config.idle_timeout,
            frame_timeout: config.frame_timeout,
            write_timeout: config.write_timeout,
            stay_awake: config.stay_awake,
        },
        gateways: engine.gateways.clone(),
        admission: Arc::clone(&engine.admission),
        receiving: Admission::new(config.receiving_bytes_max),
        router: engine.router.clone(),
        clearing: engine.clearing.clone(),
        lookups: LookupTurns::default(),
        reader: Arc::clone(&engine.reader),
        links: Arc::clone(&engine.links),
        telemetry: telemetry.clone(),
    }
}
