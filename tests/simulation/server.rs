//! One life of the server: the real actors, helpers, sessions, recovery and store, without threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heng::engine::{DataDir, Engine, EngineOptions, RecoverOptions, Surroundings, recover_with, wire};
use heng::flow::{Clock, Helpers, Stepper, Work};
use heng::gateway::{GatewayContext, GatewayLimits, converse};
use heng::journal::Disk;
use heng::ledger::{GatewayEntry, GatewayId, Grant};
use heng::telemetry::{HealthState, Telemetry};
use tokio::io::DuplexStream;
use tokio::sync::watch;

/// How a server is told to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) shards: usize,
    pub(crate) items_in_flight_max: usize,
    pub(crate) group_records_max: usize,
    pub(crate) checkpoint_records: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) ids_in_memory: usize,
}

/// A server.
pub(crate) struct Server {
    pub(crate) engine: Engine,
    works: Vec<Box<dyn Work>>,
    stepper: Stepper,
    context: Arc<GatewayContext>,
    telemetry: Telemetry,
    drain: watch::Sender<bool>,
    // After the engine, whose store is in the directory.
    _directory: DataDir,
}

impl Server {
    /// Recovers and starts.
    pub(crate) fn start(
        path: &Path,
        disk: Arc<dyn Disk>,
        now_ns: &Arc<AtomicU64>,
        options: Options,
    ) -> Result<Self, String> {
        let directory = DataDir::create(path).map_err(|err| err.to_string())?;
        let (helpers, stepper) = Helpers::stepped();
        let now_ns = Arc::clone(now_ns);
        let clock = Clock::new(move || now_ns.load(Ordering::Relaxed));
        let surroundings = Surroundings { disk: Some(disk), helpers, clock };
        let recovering = RecoverOptions { store_cache_bytes: 1 << 20, ids_in_memory: options.ids_in_memory };
        let recovered =
            recover_with(&directory, recovering, &surroundings).map_err(|err| heng::telemetry::chain(&err))?;
        let telemetry = Telemetry::default();
        let engine_options = EngineOptions {
            shards: options.shards,
            items_in_flight_max: options.items_in_flight_max,
            group_records_max: options.group_records_max,
            segment_bytes: options.segment_bytes,
            checkpoint_records: options.checkpoint_records,
        };
        let (engine, parts) =
            wire(recovered, engine_options, &telemetry, &surroundings).map_err(|err| err.to_string())?;
        for number in 1..=2 {
            let name = GatewayEntry::pad_name(&gateway_name(number)).unwrap();
            let key_hash = *blake3::hash(&[7; 32]).as_bytes();
            engine.gateways.put(GatewayEntry { id: GatewayId(number), name, key_hash, grant: Grant::ALL });
        }
        let (drain, _) = watch::channel(false);
        let hours = Duration::from_hours(100);
        let context = Arc::new(GatewayContext {
            limits: GatewayLimits {
                connections_max: 100,
                requests_in_flight_max: 16,
                handshake_timeout: hours,
                idle_timeout: hours,
                frame_timeout: hours,
                write_timeout: hours,
            },
            gateways: engine.gateways.clone(),
            admission: Arc::clone(&engine.admission),
            router: engine.router.clone(),
            clearing: engine.clearing.clone(),
            reader: Arc::clone(&engine.reader),
            links: Arc::clone(&engine.links),
            telemetry: telemetry.clone(),
        });
        let works = parts.into_iter().map(|part| part.work).collect();
        Ok(Self { engine, works, stepper, context, telemetry, drain, _directory: directory })
    }

    pub(crate) fn connect(&self, room: usize) -> DuplexStream {
        let (client, server) = tokio::io::duplex(room);
        tokio::spawn(converse(server, Arc::clone(&self.context), self.drain.subscribe()));
        client
    }

    pub(crate) fn actors(&self) -> usize {
        self.works.len()
    }

    pub(crate) fn drain(&mut self, actor: usize) {
        self.works[actor].drain();
    }

    pub(crate) fn tick(&mut self, actor: usize) {
        self.works[actor].tick();
    }

    pub(crate) fn helpers(&self) -> usize {
        self.stepper.len()
    }

    pub(crate) fn help(&self, helper: usize) -> bool {
        self.stepper.step(helper)
    }

    /// Whether it is the one that writes the store: the last that is started.
    pub(crate) fn is_store(&self, helper: usize) -> bool {
        helper + 1 == self.helpers()
    }

    /// Why it has ended by itself, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        match self.telemetry.health().state() {
            HealthState::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    pub(crate) fn violations(&self) -> u64 {
        self.telemetry.counters().invariant_violations_total.load(Ordering::Relaxed)
    }

    pub(crate) fn checkpoint(&self) -> u64 {
        self.telemetry.counters().checkpoint_sequence.load(Ordering::Relaxed)
    }
}

pub(crate) fn gateway_name(number: u32) -> String {
    format!("gateway-{number}")
}
