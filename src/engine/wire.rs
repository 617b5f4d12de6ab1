//! The actors of an engine, made from a recovered state and knowing each other, not yet running.
//!
//! [`super::Engine::start`] puts each on a thread of its own; a simulation drains them itself.

use std::sync::Arc;

use actix::prelude::Recipient;

use super::recover::{Recovered, Surroundings};
use super::start::{Engine, EngineOptions};
use crate::clearing::{ClearingActor, ClearingHandle, ClearingOptions, Core as ClearingCore};
use crate::flow::{Admission, Drain, InboxSender, Pace, Work, inbox};
use crate::journal::{FileJournal, JournalOptions};
use crate::ledger::{Book, Desk};
use crate::planted::{self, Bug};
use crate::router::{RouterActor, RouterHandle, spawn_resolver};
use crate::settlement::{Sequencer, SettlementActor, SettlementHandle, SettlementPeers, WriterStats, spawn_writer};
use crate::shard::{Core as ShardCore, ShardActor, ShardHandle, ShardPeers};
use crate::store::{Store, spawn_store_writer};
use crate::telemetry::Telemetry;

/// An actor that does not run yet.
pub struct Part {
    /// What its thread is called.
    pub name: String,
    /// What it does.
    pub work: Box<dyn Work>,
    /// Has its inbox wake this.
    pub connect: Box<dyn FnOnce(Recipient<Drain>) + Send>,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({})", self.name)
    }
}

impl Part {
    fn new<T: Send + 'static>(name: &str, work: impl Work, sender: InboxSender<T>) -> Self {
        // A thread that could not start ends the process by its panic.
        let connect = move |recipient| {
            let _stopped = sender.connect(recipient);
        };
        Self { name: name.to_owned(), work: Box::new(work), connect: Box::new(connect) }
    }
}

/// Puts what is open on the desk, and what was given back since the store's checkpoint.
fn fill_desk(desk: &mut Desk, (book, store): (&Book, &Store), now_ns: u64) {
    desk.set_time(now_ns);
    book.open()
        .pendings
        .iter()
        .skip(usize::from(planted::is(Bug::OpenForgotten)))
        .for_each(|pending| desk.put_pending(*pending));
    desk.set_life_store(Arc::new(store.clone()));
    book.open().lives.newest().for_each(|(id, life)| desk.put_life(id, life));
    if !planted::is(Bug::TalliesForgotten) {
        book.open().tallies.iter().for_each(|tally| desk.put_tally(tally.subject, &tally.buckets));
    }
}

/// The shards with their accounts, and the first one with what is open.
fn host_shards((book, store): (&Book, &Store), shards: usize, now_ns: u64) -> Vec<ShardCore> {
    let policy = Arc::clone(book.policy());
    let mut cores: Vec<_> = (0..shards).map(|shard| ShardCore::new(shard, shards, &policy)).collect();
    if let Some(desk) = cores.first_mut().and_then(ShardCore::desk_mut) {
        fill_desk(desk, (book, store), now_ns);
    }
    for account in book.accounts() {
        if let Some(core) = cores.get_mut(account.properties.id.shard(shards)) {
            core.host(&account);
        }
    }
    cores
}

/// Makes the actors.
pub fn wire(
    recovered: Recovered,
    options: EngineOptions,
    telemetry: &Telemetry,
    surroundings: &Surroundings,
) -> std::io::Result<(Engine, Vec<Part>)> {
    let Recovered { book, ids, links, store, gateways, disk, reader, tail, checkpoint, .. } = recovered;
    // What the desk takes for now no record is before, also when the clock is set back before the first.
    let now_ns = tail.next_time_ns.max(surroundings.clock.now_ns());
    let shard_cores = host_shards((&book, &store), options.shards, now_ns);
    let (helpers, clock) = (&surroundings.helpers, &surroundings.clock);
    let (shard_senders, shard_inboxes): (Vec<_>, Vec<_>) = (0..options.shards).map(|_| inbox()).unzip();
    let (settlement_sender, settlement_inbox) = inbox();
    let (router_sender, router_inbox) = inbox();
    let (clearing_sender, clearing_inbox) = inbox();
    let settlement = SettlementHandle::new(settlement_sender.clone());
    let router = RouterHandle::new(router_sender.clone());
    let clearing = ClearingHandle::new(clearing_sender.clone());
    let shards: Vec<_> = shard_senders.iter().cloned().map(ShardHandle::new).collect();

    let journal_options = JournalOptions { segment_bytes: options.segment_bytes, ahead: helpers.are_threads() };
    let journal = FileJournal::open(disk, journal_options, tail, Arc::clone(&reader))?;
    let (stats, epoch) = (WriterStats { recorder: telemetry.stages().recorder() }, journal.epoch());
    let (writer, journal_helper) = spawn_writer(Box::new(journal), epoch, settlement.clone(), stats, helpers)?;
    let (repeats, repeats_helper) =
        spawn_resolver((Arc::clone(&reader), Arc::new(store.clone())), settlement.clone(), shards.clone(), helpers)?;
    let room = clearing.clone();
    let wake = move || room.wake();
    let (store_writer, [merge_helper, store_helper]) =
        spawn_store_writer(store.clone(), Arc::clone(&links), telemetry.clone(), wake, helpers)?;

    let durable = tail.next_sequence.saturating_sub(1);
    telemetry.counters().start_at(durable, checkpoint);
    let pace = Pace::new(durable);
    let sequencer = Sequencer::new((durable, book.second()), now_ns, options.group_records_max);
    // The first shard has the desk, where things fall due.
    let timekeeper = shards.first().cloned().ok_or_else(|| std::io::Error::other("there is no shard"))?;
    let peers = SettlementPeers {
        writer,
        followers: vec![Box::new(clearing.clone()), Box::new(router.clone())],
        auditor: Box::new(clearing.clone()),
        timekeeper: Box::new(timekeeper),
        clock: clock.clone(),
        pace: pace.clone(),
    };
    let clearing_core = ClearingCore::new(
        book,
        checkpoint,
        (options.shards, options.checkpoint_records),
        (Arc::clone(&links), store_writer, gateways.clone()),
        telemetry.clone(),
    );
    let clearing_options = ClearingOptions {
        shards: shards.clone(),
        settlement: settlement.clone(),
        pace,
        own: clearing.clone(),
        clock: clock.clone(),
    };
    let settlement_actor = SettlementActor::new(sequencer, settlement_inbox, peers, telemetry);
    let clearing_actor = ClearingActor::new(clearing_core, clearing_inbox, clearing_options);
    let router_actor =
        RouterActor::new((ids, options.piece_transfers), router_inbox, shards.clone(), settlement.clone(), repeats);
    let mut parts = vec![
        Part::new("heng-settle", settlement_actor, settlement_sender),
        Part::new("heng-clearing", clearing_actor, clearing_sender),
        Part::new("heng-router", router_actor, router_sender),
    ];
    let peers = ShardPeers { settlement: settlement.clone(), shards: shard_senders.clone() };
    for (shard, ((core, inbox), sender)) in shard_cores.into_iter().zip(shard_inboxes).zip(shard_senders).enumerate() {
        let actor = ShardActor::new(shard, core, inbox, peers.clone());
        parts.push(Part::new(&format!("heng-shard-{shard}"), actor, sender));
    }
    let admission = Admission::new(options.items_in_flight_max);
    let (arbiters, helpers) = (Vec::new(), vec![journal_helper, repeats_helper, merge_helper, store_helper]);
    let engine =
        Engine { router, settlement, clearing, shards, admission, gateways, reader, links, store, arbiters, helpers };
    Ok((engine, parts))
}
