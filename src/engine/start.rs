//! The actors, each on a thread of its own, and the way to stop them whole.

use std::ffi::CString;
use std::sync::Arc;
use std::thread::JoinHandle;

use actix::prelude::{Actor, Arbiter, Handler};

use super::recover::Recovered;
use crate::clearing::{ClearingActor, ClearingHandle, ClearingMessage, ClearingOptions, Core as ClearingCore};
use crate::flow::{Admission, Drain, Inbox, InboxSender, Pace, inbox};
use crate::journal::{FileJournal, JournalOptions, JournalReader};
use crate::ledger::{Book, Desk, Sequence};
use crate::router::{RouterActor, RouterHandle, spawn_resolver};
use crate::settlement::{Sequencer, SettlementActor, SettlementHandle, SettlementPeers, WriterStats, spawn_writer};
use crate::shard::{Core as ShardCore, ShardActor, ShardHandle, ShardMessage, ShardPeers};
use crate::store::{Gateways, LinkLog, spawn_store_writer};
use crate::telemetry::Telemetry;

/// How the engine runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Number of shards.
    pub shards: usize,
    /// Items inside at once.
    pub items_in_flight_max: usize,
    /// Records in one journal group.
    pub group_records_max: usize,
    /// Bytes of a journal segment.
    pub segment_bytes: u64,
    /// Records between checkpoints.
    pub checkpoint_records: u64,
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
    arbiters: Vec<Arbiter>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts an actor on a thread of its own, which is called by this name in `top -H` and profiles, and has its inbox wake it.
fn spawn<A, T>(name: &str, actor: A, sender: &InboxSender<T>) -> Arbiter
where
    A: Actor<Context = actix::Context<A>> + Handler<Drain> + Send + 'static,
{
    let arbiter = Arbiter::new();
    if let Ok(name) = CString::new(name) {
        arbiter.spawn_fn(move || {
            // Without a name it works as well.
            let _named = rustix::thread::set_name(&name);
        });
    }
    let address = A::start_in_arbiter(&arbiter.handle(), move |_| actor);
    // A thread that could not start ends the process by its panic.
    let _stopped = sender.connect(address.recipient());
    arbiter
}

/// Starts all shards.
fn spawn_shards(
    shards: impl Iterator<Item = (ShardCore, Inbox<ShardMessage>)>,
    senders: &[InboxSender<ShardMessage>],
    settlement: &SettlementHandle,
) -> Vec<Arbiter> {
    let start = |(shard, ((core, inbox), sender))| {
        let peers = ShardPeers { settlement: settlement.clone(), shards: senders.to_vec() };
        spawn(&format!("heng-shard-{shard}"), ShardActor::new(shard, core, inbox, peers), sender)
    };
    shards.zip(senders).enumerate().map(start).collect()
}

/// Puts what is open on the desk.
fn fill_desk(desk: &mut Desk, book: &Book, now_ns: u64) {
    desk.set_time(now_ns);
    book.open().pendings.iter().for_each(|pending| desk.put_pending(*pending));
    book.open().lives.iter().for_each(|(id, life)| desk.put_life(*id, *life));
    book.open().tallies.iter().for_each(|tally| desk.put_tally(tally.subject, &tally.buckets));
}

impl Engine {
    /// Starts the actors from a recovered state.
    pub fn start(recovered: Recovered, options: EngineOptions, telemetry: &Telemetry) -> std::io::Result<Self> {
        let Recovered { book, ids, links, store, gateways, disk, reader, tail, checkpoint, .. } = recovered;
        let policy = Arc::clone(book.policy());
        let mut shard_cores: Vec<_> =
            (0..options.shards).map(|shard| ShardCore::new(shard, options.shards, &policy)).collect();
        if let Some(desk) = shard_cores.first_mut().and_then(ShardCore::desk_mut) {
            fill_desk(desk, &book, tail.next_time_ns.max(crate::settlement::now_ns()));
        }
        for account in book.accounts() {
            if let Some(core) = shard_cores.get_mut(account.properties.id.shard(options.shards)) {
                core.host(&account);
            }
        }
        let (shard_senders, shard_inboxes): (Vec<_>, Vec<_>) = (0..options.shards).map(|_| inbox()).unzip();
        let (settlement_sender, settlement_inbox) = inbox();
        let (router_sender, router_inbox) = inbox();
        let (clearing_sender, clearing_inbox) = inbox();
        let settlement = SettlementHandle::new(settlement_sender.clone());
        let router = RouterHandle::new(router_sender.clone());
        let clearing = ClearingHandle::new(clearing_sender.clone());
        let shards: Vec<_> = shard_senders.iter().cloned().map(ShardHandle::new).collect();

        let journal_options = JournalOptions { segment_bytes: options.segment_bytes };
        let journal = FileJournal::open(disk, journal_options, tail, Arc::clone(&reader))?;
        let (stats, epoch) = (WriterStats { recorder: telemetry.stages().recorder() }, journal.epoch());
        let (writer, journal_thread) = spawn_writer(Box::new(journal), epoch, settlement.clone(), stats)?;
        let (repeats, repeats_thread) = spawn_resolver(Arc::clone(&reader), settlement.clone(), shards.clone())?;
        let room = clearing.clone();
        let wake = move || room.wake();
        let (store_writer, store_thread) = spawn_store_writer(store, Arc::clone(&links), telemetry.clone(), wake)?;

        let durable = tail.next_sequence.saturating_sub(1);
        telemetry.counters().start_at(durable, checkpoint);
        let pace = Pace::new(durable);
        let sequencer = Sequencer::new((durable, book.summary().second), tail.next_time_ns, options.group_records_max);
        // The first shard has the desk, where things fall due.
        let timekeeper = shards.first().cloned().ok_or_else(|| std::io::Error::other("there is no shard"))?;
        let peers = SettlementPeers {
            writer,
            followers: vec![Box::new(clearing.clone()), Box::new(router.clone())],
            auditor: Box::new(clearing.clone()),
            timekeeper: Box::new(timekeeper),
            pace: pace.clone(),
        };
        let clearing_core = ClearingCore::new(
            book,
            checkpoint,
            (options.shards, options.checkpoint_records),
            (Arc::clone(&links), store_writer, gateways.clone()),
            telemetry.clone(),
        );
        let clearing_options =
            ClearingOptions { shards: shards.clone(), settlement: settlement.clone(), pace, own: clearing.clone() };
        let mut arbiters = vec![
            spawn(
                "heng-settle",
                SettlementActor::new(sequencer, settlement_inbox, peers, telemetry),
                &settlement_sender,
            ),
            spawn(
                "heng-clearing",
                ClearingActor::new(clearing_core, clearing_inbox, clearing_options),
                &clearing_sender,
            ),
            spawn(
                "heng-router",
                RouterActor::new(ids, router_inbox, shards.clone(), settlement.clone(), repeats),
                &router_sender,
            ),
        ];
        arbiters.extend(spawn_shards(shard_cores.into_iter().zip(shard_inboxes), &shard_senders, &settlement));
        let threads = vec![journal_thread, repeats_thread, store_thread];
        let admission = Admission::new(options.items_in_flight_max);
        Ok(Self { router, settlement, clearing, shards, admission, gateways, reader, links, arbiters, threads })
    }

    /// Makes a checkpoint of all that is durable; blocks until it is. The sequence, or none when the engine has stopped.
    pub fn checkpoint(&self) -> Option<Sequence> {
        let (done, checkpoint) = crossbeam::channel::bounded(1);
        self.clearing.send(ClearingMessage::Checkpoint(done)).ok()?;
        checkpoint.recv().ok()
    }

    /// Stops all actors and threads, and returns when they have ended. What was not durable is dropped; nobody was told of it.
    pub fn stop(self) {
        let Self { arbiters, threads, .. } = self;
        for arbiter in &arbiters {
            arbiter.stop();
        }
        for arbiter in arbiters {
            // A thread that panicked has ended the process already.
            let _ended = arbiter.join();
        }
        for thread in threads {
            let _ended = thread.join();
        }
    }
}
