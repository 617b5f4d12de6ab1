//! The actors, each on a thread of its own, and the way to stop them whole.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, Arbiter};

use super::recover::{Recovered, Surroundings};
use super::wire::{Part, wire};
use crate::clearing::{ClearingHandle, ClearingMessage};
use crate::flow::{Admission, Awake, Helper, Hosted};
use crate::journal::JournalReader;
use crate::ledger::Sequence;
use crate::router::RouterHandle;
use crate::settlement::SettlementHandle;
use crate::shard::ShardHandle;
use crate::store::{Gateways, LinkLog, Store};
use crate::telemetry::Telemetry;

/// How the engine runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Number of shards.
    pub shards: usize,
    /// Items inside at once.
    pub items_in_flight_max: usize,
    /// Transfers of a large request with which the only shard begins while the next are looked up.
    pub piece_transfers: usize,
    /// Records in one journal group.
    pub group_records_max: usize,
    /// Bytes of a journal segment.
    pub segment_bytes: u64,
    /// Records between checkpoints.
    pub checkpoint_records: u64,
    /// How long the threads of actors stay awake for what may come next.
    pub stay_awake: Duration,
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    /// Where requests go.
    pub router: RouterHandle,
    /// Where outcomes go.
    pub settlement: SettlementHandle,
    /// Where reads go.
    pub clearing: ClearingHandle,
    /// The shards.
    pub shards: Vec<ShardHandle>,
    /// Room for items.
    pub admission: Arc<Admission>,
    /// Who may connect.
    pub gateways: Gateways,
    /// Reads records.
    pub reader: Arc<JournalReader>,
    /// Finds histories.
    pub links: Arc<LinkLog>,
    /// What checkpoints are in; to be closed when all has stopped whole.
    pub store: Store,
    pub(super) arbiters: Vec<Arbiter>,
    pub(super) helpers: Vec<Helper>,
}

/// Starts an actor on a thread of its own, which is called by its name in `top -H` and profiles, and has its inbox wake it.
fn spawn(Part { name, work, connect }: Part, awake: Awake) -> Arbiter {
    let arbiter = Arbiter::new();
    if let Ok(name) = CString::new(name) {
        arbiter.spawn_fn(move || {
            // Without a name it works as well.
            let _named = rustix::thread::set_name(&name);
        });
    }
    let address = Hosted::start_in_arbiter(&arbiter.handle(), move |_| Hosted::new(work, awake));
    connect(address.recipient());
    arbiter
}

impl Engine {
    /// Starts the actors from a recovered state.
    pub fn start(recovered: Recovered, options: EngineOptions, telemetry: &Telemetry) -> std::io::Result<Self> {
        let (mut engine, parts) = wire(recovered, options, telemetry, &Surroundings::default())?;
        let awake = Awake::new(options.stay_awake, &engine.admission);
        engine.arbiters = parts.into_iter().map(|part| spawn(part, awake.clone())).collect();
        Ok(engine)
    }

    /// Makes a checkpoint of all that is durable; blocks until it is. The sequence, or none when the engine has stopped.
    pub fn checkpoint(&self) -> Option<Sequence> {
        let (done, checkpoint) = crossbeam::channel::bounded(1);
        self.clearing.send(ClearingMessage::Checkpoint(done)).ok()?;
        checkpoint.recv().ok()
    }

    /// Stops all actors and threads, and returns when they have ended. What was not durable is dropped; nobody was told of it.
    pub fn stop(self) {
        let Self { arbiters, helpers, .. } = self;
        for arbiter in &arbiters {
            arbiter.stop();
        }
        for arbiter in arbiters {
            // A thread that panicked has ended the process already.
            let _ended = arbiter.join();
        }
        helpers.into_iter().for_each(Helper::join);
    }
}
