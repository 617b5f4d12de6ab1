//! One life of the server: the real actors, helpers, sessions, back office, recovery and store, without threads.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use heng::backoffice::{EnginePorts, Office, Stepping};
use heng::engine::{
    DataDir, Engine, EngineOptions, RecoverOptions, Recovered, Surroundings, append_offline, recover_with, wire,
};
use heng::flow::{Admission, Clock, Helpers, Stepper, Work};
use heng::gateway::{GatewayContext, GatewayLimits, LookupTurns, converse};
use heng::journal::Disk;
use heng::ledger::{BookAccount, GatewayEntry, GatewayId, Grant, PolicyPart, Record, Sequence};
use heng::store::Store;
use heng::telemetry::{HealthState, Telemetry};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::DuplexStream;
use tokio::sync::watch;

use crate::disk::SimDisk;
use crate::log::Balance;
use crate::second;

/// Every euro that moves belongs to a scheme, whose window closes every half minute if something is in it.
pub(crate) const POLICY: &str = "[[scheme]]\nname = \"all\"\nnumber = 1\ncurrency = \"EUR\"\nsettlement_account = 6\n\
    close_every_seconds = 30\nsettle_after_days = 0\npayout_format = \"csv\"\nminimum_payout = \"0.20\"\n";

/// How a server is told to run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The rules of [`crate::plain`] are in force.
    pub(crate) rules: bool,
    /// There is a scheme, a bank, and a distribution.
    pub(crate) clears: bool,
    pub(crate) policy: String,
    pub(crate) shards: usize,
    pub(crate) items_in_flight_max: usize,
    pub(crate) group_records_max: usize,
    pub(crate) checkpoint_records: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) ids_in_memory: usize,
}

/// Steps within which the office is answered, if nothing fails.
const OFFICE_PATIENCE: u64 = 200_000;

/// What is moved by hand.
struct Hands {
    works: Vec<Box<dyn Work>>,
    stepper: Stepper,
}

/// How the office ended while it waited for the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Goes,
    /// The process is to end here.
    Ends,
    /// It is never answered.
    Stuck,
}

/// A server.
pub(crate) struct Server {
    /// The last record that it found, and the accounts as they were then.
    pub(crate) recovered: (Sequence, Vec<Balance>),
    pub(crate) engine: Engine,
    pub(crate) office: Office<EnginePorts>,
    pub(crate) ports: EnginePorts,
    pub(crate) waiting: Arc<Mutex<Waiting>>,
    hands: Arc<Mutex<Hands>>,
    context: Arc<GatewayContext>,
    telemetry: Telemetry,
    store: Store,
    drain: watch::Sender<bool>,
    // After the engine, whose store is in the directory.
    _directory: DataDir,
}

/// Recovers from a directory and a disk that nobody else has, and compares what was found with the journal.
pub(crate) fn recover_beside(path: &Path, disk: SimDisk, options: &Options) -> Result<(), String> {
    let directory = DataDir::create(path).map_err(|err| err.to_string())?;
    let (helpers, _stepper) = Helpers::stepped();
    let surroundings = Surroundings { disk: Some(Arc::new(disk)), helpers, clock: Clock::default(), boot: None };
    second::compare(&recover(&directory, options, &surroundings)?)
}

fn recover(directory: &DataDir, options: &Options, surroundings: &Surroundings) -> Result<Recovered, String> {
    let recovering = RecoverOptions { store_cache_bytes: 1 << 20, ids_in_memory: options.ids_in_memory };
    recover_with(directory, recovering, surroundings).map_err(|err| heng::telemetry::chain(&err))
}

impl Server {
    /// Recovers and starts.
    pub(crate) fn start(
        path: &Path,
        disk: Arc<dyn Disk>,
        now_ns: &Arc<AtomicU64>,
        (options, seed, faults): (&Options, u64, bool),
    ) -> Result<Self, String> {
        let directory = DataDir::create(path).map_err(|err| err.to_string())?;
        let (helpers, stepper) = Helpers::stepped();
        let now_ns = Arc::clone(now_ns);
        let clock = Clock::new(move || now_ns.load(Ordering::Relaxed));
        let surroundings = Surroundings { disk: Some(disk), helpers, clock, boot: None };
        let mut recovered = recover(&directory, options, &surroundings)?;
        if recovered.book.policy().text() != options.policy {
            let parts: Vec<Record> = PolicyPart::split(&options.policy).into_iter().map(Record::Policy).collect();
            append_offline(recovered, &parts, options.segment_bytes, &surroundings)?;
            recovered = recover(&directory, options, &surroundings)?;
        }
        second::compare(&recovered)?;
        let found = (recovered.book.sequence(), recovered.book.accounts().map(|account| balance(&account)).collect());
        let (telemetry, store) = (Telemetry::default(), recovered.store.clone());
        let engine_options = EngineOptions {
            shards: options.shards,
            items_in_flight_max: options.items_in_flight_max,
            piece_transfers: 2,
            group_records_max: options.group_records_max,
            segment_bytes: options.segment_bytes,
            checkpoint_records: options.checkpoint_records,
            stay_awake: Duration::ZERO,
        };
        let (engine, parts) =
            wire(recovered, engine_options, &telemetry, &surroundings).map_err(|err| err.to_string())?;
        for number in 1..=2 {
            let name = GatewayEntry::pad_name(&gateway_name(number)).unwrap();
            let key_hash = *blake3::hash(&[7; 32]).as_bytes();
            engine.gateways.put(0, GatewayEntry { id: GatewayId(number), name, key_hash, grant: Grant::ALL });
        }
        let (drain, _) = watch::channel(false);
        let context = Arc::new(GatewayContext {
            limits: limits(),
            gateways: engine.gateways.clone(),
            admission: Arc::clone(&engine.admission),
            receiving: Admission::new(1 << 20),
            router: engine.router.clone(),
            clearing: engine.clearing.clone(),
            lookups: LookupTurns::default(),
            reader: Arc::clone(&engine.reader),
            links: Arc::clone(&engine.links),
            telemetry: telemetry.clone(),
        });
        let works = parts.into_iter().map(|part| part.work).collect();
        let hands = Arc::new(Mutex::new(Hands { works, stepper }));
        let waiting = Arc::new(Mutex::new(Waiting::Goes));
        let stepping = stepping(&hands, &waiting, &telemetry, (seed, faults));
        let office_ports = || EnginePorts::new(&engine).stepped(surroundings.clock.clone(), Arc::clone(&stepping));
        let (office, own) = (Office::new(office_ports(), path), office_ports());
        Ok(Self {
            recovered: found,
            office,
            ports: own,
            waiting,
            hands,
            engine,
            context,
            telemetry,
            store,
            drain,
            _directory: directory,
        })
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap()
    }

    pub(crate) fn connect(&self, room: usize) -> DuplexStream {
        let (client, server) = tokio::io::duplex(room);
        tokio::spawn(converse(server, Arc::clone(&self.context), self.drain.subscribe()));
        client
    }

    pub(crate) fn actors(&self) -> usize {
        self.hands().works.len()
    }

    pub(crate) fn drain(&mut self, actor: usize) {
        self.hands().works[actor].drain();
    }

    pub(crate) fn tick(&mut self, actor: usize) {
        self.hands().works[actor].tick();
    }

    pub(crate) fn helpers(&self) -> usize {
        self.hands().stepper.len()
    }

    pub(crate) fn help(&self, helper: usize) -> bool {
        self.hands().stepper.step(helper)
    }

    /// Whether it is the one that writes the store: the last that is started.
    pub(crate) fn is_store(&self, helper: usize) -> bool {
        helper + 1 == self.helpers()
    }

    /// Why it has ended by itself, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        failure(&self.telemetry)
    }

    pub(crate) fn violations(&self) -> u64 {
        self.telemetry.counters().invariant_violations_total.load(Ordering::Relaxed)
    }

    /// What the store has durably: its checkpoint, and how far the index of histories goes.
    pub(crate) fn stored(&self) -> (Sequence, Sequence) {
        let checkpoint = self.telemetry.counters().checkpoint_sequence.load(Ordering::Relaxed);
        (checkpoint, self.store.last_index().unwrap())
    }
}

/// Nobody is late.
fn limits() -> GatewayLimits {
    let hours = Duration::from_hours(100);
    GatewayLimits {
        connections_max: 100,
        requests_in_flight_max: 16,
        handshake_timeout: hours,
        idle_timeout: hours,
        frame_timeout: hours,
        write_timeout: hours,
        stay_awake: Duration::ZERO,
    }
}

fn balance(account: &BookAccount) -> Balance {
    let all = account.totals;
    let totals = [all.debits_posted, all.credits_posted, all.debits_pending, all.credits_pending];
    let properties = &account.properties;
    (properties.id.raw(), totals, account.state.number(), properties.level, properties.overdraft)
}

fn failure(telemetry: &Telemetry) -> Option<String> {
    match telemetry.health().state() {
        HealthState::Failed(reason) => Some(reason),
        _ => None,
    }
}

/// What goes on while the office waits: everything in the engine, until it fails, or the process is to end just there.
fn stepping(
    hands: &Arc<Mutex<Hands>>,
    waiting: &Arc<Mutex<Waiting>>,
    telemetry: &Telemetry,
    (seed, faults): (u64, bool),
) -> Stepping {
    let (hands, waiting, telemetry) = (Arc::clone(hands), Arc::clone(waiting), telemetry.clone());
    let state = Mutex::new((StdRng::seed_from_u64(seed), 0_u64));
    Arc::new(move || {
        let (rng, steps) = &mut *state.lock().unwrap();
        let mut hands = hands.lock().unwrap();
        *steps += 1;
        if *steps > OFFICE_PATIENCE {
            *waiting.lock().unwrap() = Waiting::Stuck;
        } else if faults && rng.random_bool(0.000_3) {
            *waiting.lock().unwrap() = Waiting::Ends;
        }
        if *waiting.lock().unwrap() != Waiting::Goes || failure(&telemetry).is_some() {
            return false;
        }
        let actors = hands.works.len();
        let helpers = hands.stepper.len();
        match rng.random_range(0..10) {
            0..6 => hands.works[rng.random_range(0..actors)].drain(),
            6..9 => drop(hands.stepper.step(rng.random_range(0..helpers))),
            _ => hands.works.iter_mut().for_each(|work| work.tick()),
        }
        true
    })
}

pub(crate) fn gateway_name(number: u32) -> String {
    format!("gateway-{number}")
}
