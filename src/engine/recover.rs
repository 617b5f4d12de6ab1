//! From a data directory to the state after its last durable record.
//!
//! The store gives what a checkpoint has, the id runs most ids; the journal's records after the checkpoint are replayed, and ids that are in no run are
//! read from its records. Without a usable store everything is replayed from the first record, and the store is made again on the way.

use std::path::Path;
use std::sync::Arc;

use super::datadir::DataDir;
use crate::flow::{Clock, Helpers};
use crate::journal::{
    Appended, Disk, FileDisk, FileJournal, Journal, JournalError, JournalOptions, JournalReader, PendingGroup,
    Recovered as JournalRecovered, TAKEN_OVER, Tail, recover as recover_journal,
};
use crate::ledger::{Applied, Book, Policy, RECORD_BYTES, Record, Sequence, TransferId, record_transfer_id};
use crate::planted::{self, Bug};
use crate::router::{IDS_IN_MEMORY, KnownIds};
use crate::store::{
    ACCOUNTS_PER_BLOCK, Checkpoint, Gateways, IndexEntry, LinkLog, OpenTree, Store, StoreError, account_blocks,
    machine_boot, open_or_set_aside, reached,
};

/// How to recover.
#[derive(Clone, Copy, Debug)]
pub struct RecoverOptions {
    /// Page cache of the store, bytes.
    pub store_cache_bytes: u64,
    /// Transfer ids kept in memory.
    pub ids_in_memory: usize,
}

impl Default for RecoverOptions {
    fn default() -> Self {
        Self { store_cache_bytes: 32 << 20, ids_in_memory: IDS_IN_MEMORY }
    }
}

/// What an engine stands on besides its directory. The default is the machine: its disk, threads, the wall clock.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where the journal is instead of the directory.
    pub disk: Option<Arc<dyn Disk>>,
    /// Where helpers run.
    pub helpers: Helpers,
    /// Gives records their times.
    pub clock: Clock,
    /// Which boot of the machine this is, if that is known: when the machine went down while the store was written, it is made again.
    pub boot: Option<String>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { disk: None, helpers: Helpers::default(), clock: Clock::default(), boot: machine_boot() }
    }
}

/// Why recovery failed. Nothing was lost by trying.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store, for another reason than damage.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory.
    #[error("cannot prepare the journal directory")]
    Io(#[from] std::io::Error),
}

/// The state after the last durable record.
#[derive(Debug)]
pub struct Recovered {
    /// All balances.
    pub book: Book,
    /// All transfer ids.
    pub ids: KnownIds,
    /// The histories.
    pub links: Arc<LinkLog>,
    /// The store.
    pub store: Store,
    /// The gateways.
    pub gateways: Gateways,
    /// The journal's files.
    pub disk: Arc<dyn Disk>,
    /// Reads records.
    pub reader: Arc<JournalReader>,
    /// Where the journal goes on.
    pub tail: Tail,
    /// The sequence of the store's checkpoint.
    pub checkpoint: Sequence,
    /// How many records were replayed after it.
    pub replayed: u64,
    /// Whether the store could not be used and was made again.
    pub store_rebuilt: bool,
}

/// The book as a store has it.
pub(crate) struct Stored {
    /// Without the records after [`Self::applied`].
    pub(crate) book: Book,
    /// The sequence of its checkpoint.
    pub(crate) checkpoint: Sequence,
    indexed: Sequence,
    /// Windows are as of this record.
    windows_at: Sequence,
}

/// What a directory had beside the journal.
struct Loaded {
    stored: Stored,
    ids: KnownIds,
    links: LinkLog,
}

impl Stored {
    /// Reads it. Records after [`Self::applied`] are to be applied to it. Blocks.
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let Checkpoint { sequence: checkpoint, accounts, summary } = store.checkpoint()?.unwrap_or_default();
        let mut book = Book::new();
        let policy = match summary.policy.1 {
            0 => Policy::default(),
            sequence => Policy::parse(&store.policy(sequence)?).map_err(|err| store.damaged(&err.to_string()))?,
        };
        store.read_accounts(accounts, |account| book.load_account(account))?;
        store.read_open(book.open_mut())?;
        store.gateways()?.into_iter().for_each(|gateway| book.load_gateway(gateway));
        let indexed = store.last_index()?;
        book.load_summary((checkpoint, indexed), summary, Arc::new(policy));
        book.load_lives(Arc::new(store.clone()));
        book.open_mut().levels.load(store.levels()?);
        let windows = store.windows()?;
        book.load_window_pieces(&windows).map_err(|err| store.damaged(&err.to_string()))?;
        let mut stored = Self { book, checkpoint, indexed, windows_at: windows.as_of };
        stored.book.start_at(stored.applied());
        Ok(stored)
    }

    /// All records up to this one are in it.
    pub(crate) fn applied(&self) -> Sequence {
        self.checkpoint.min(self.indexed)
    }
}

fn load(store: &Store, ids: &Path, (ids_in_memory, helpers): (usize, &Helpers)) -> Result<Loaded, StoreError> {
    let stored = Stored::load(store)?;
    let links = LinkLog::new(store.clone(), stored.indexed)?;
    let opened = KnownIds::open(ids, ids_in_memory, helpers);
    let ids = opened.map_err(|source| StoreError::Io { path: ids.to_owned(), source })?;
    Ok(Loaded { stored, ids, links })
}

/// Recovers a directory. Blocks for as long as reading takes: about a second per two million records to replay,
/// and a look into the store for each refund among them.
pub fn recover(directory: &DataDir, options: RecoverOptions) -> Result<Recovered, RecoverError> {
    recover_with(directory, options, &Surroundings::default())
}

/// The same on other surroundings.
pub fn recover_with(
    directory: &DataDir,
    options: RecoverOptions,
    surroundings: &Surroundings,
) -> Result<Recovered, RecoverError> {
    let disk: Arc<dyn Disk> = match &surroundings.disk {
        Some(disk) => Arc::clone(disk),
        None => Arc::new(FileDisk::create(&directory.journal())?.guarded(directory.guard()?)),
    };
    let ids_path = directory.ids();
    let load = |store: &Store| load(store, &ids_path, (options.ids_in_memory, &surroundings.helpers));
    let use_of = (options.store_cache_bytes, surroundings.boot.as_deref());
    let (store, loaded, store_rebuilt) = open_or_set_aside(&directory.store(), use_of, load)?;
    let Loaded { stored, mut ids, links } = loaded;
    let links = Arc::new(links);
    let reader = JournalReader::new(Arc::clone(&disk));
    let applied = stored.applied();
    let Stored { mut book, checkpoint, indexed, windows_at } = stored;
    let covered = ids.covers();
    // Of records that the book has seen only the ids are wanted, as far as they are in no run.
    let from = applied.min(covered).saturating_add(1);
    let mut replay = Replay { book: &mut book, ids: &mut ids, links: &links, store: &store, indexed, covered };
    let reached = reached(&directory.store()).map_err(|source| StoreError::Io { path: directory.store(), source })?;
    let known = checkpoint.max(indexed).max(covered).max(windows_at).max(reached);
    let recovered: JournalRecovered = recover_journal(&disk, &reader, (from, known), &mut |header, body| {
        replay.group(header.base_sequence, header.time_ns, body)
    })?;
    for note in book.take_notes() {
        tracing::warn!(%note, "a limit did not hold");
    }
    let gateways = Gateways::default();
    for gateway in book.gateways() {
        gateways.put(0, *gateway);
        store.put_gateway(gateway)?;
    }
    if checkpoint == 0 {
        // Without a checkpoint a replay begins with no account, and needs no former level.
        let levels = &mut book.open_mut().levels;
        drop(levels.take_new());
        levels.forget(Sequence::MAX);
    }
    let replayed = book.sequence().saturating_sub(applied);
    Ok(Recovered {
        book,
        ids,
        links,
        store,
        gateways,
        disk,
        reader,
        tail: recovered.tail,
        checkpoint,
        replayed,
        store_rebuilt,
    })
}

impl Recovered {
    /// Writes a whole checkpoint of the recovered state, durably. Blocks.
    pub fn write_checkpoint(&mut self) -> Result<(), StoreError> {
        let (base, bytes) = self.links.unfinished();
        if !bytes.is_empty() {
            self.store.put_index(base, &bytes)?;
        }
        self.store.put_levels(&self.book.open_mut().levels.take_new())?;
        self.store.sync()?;
        let accounts = u32::try_from(self.book.len()).unwrap_or(u32::MAX);
        for block in 0..account_blocks(accounts) {
            let first = block.saturating_mul(ACCOUNTS_PER_BLOCK);
            self.store.put_accounts(block, self.book.packed(first, ACCOUNTS_PER_BLOCK))?;
        }
        self.store.sync()?;
        self.store.put_windows(&self.book.take_window_pieces())?;
        for tree in OpenTree::ALL {
            for block in 0..tree.blocks(self.book.open()) {
                self.store.put_open(tree, block, tree.encode(self.book.open(), block))?;
            }
        }
        let summary = self.book.summary();
        let sequence = self.book.sequence();
        let lives = &mut self.book.open_mut().lives;
        lives.begin(sequence);
        let parts = std::iter::repeat_with(|| lives.to_write(LIVES_AT_ONCE)).take_while(|part| !part.is_empty());
        for part in parts {
            self.store.put_lives(&part, &|| ())?;
        }
        if summary.policy.1 != 0 {
            self.store.put_policy(summary.policy.1, self.book.policy().text())?;
        }
        self.store.make_checkpoint(&Checkpoint { sequence, accounts, summary })
    }
}

/// Appends records to the journal of a recovered directory, durably, without starting the engine. Recover again afterwards.
pub fn append_offline(
    recovered: Recovered,
    records: &[Record],
    segment_bytes: u64,
    surroundings: &Surroundings,
) -> Result<(), String> {
    let (tail, store) = (recovered.tail, recovered.store);
    let options = JournalOptions { segment_bytes, ahead: surroundings.helpers.are_threads() };
    let mut journal =
        FileJournal::open(recovered.disk, options, tail, recovered.reader).map_err(|err| err.to_string())?;
    let mut group = PendingGroup::new(tail.next_sequence, tail.next_time_ns.max(surroundings.clock.now_ns()));
    for record in records {
        group.extend(None, &record.encode());
    }
    match journal.append(journal.epoch(), tail.next_sequence, &mut group) {
        Appended::Durable => {
            store.close();
            Ok(())
        }
        Appended::Fenced { expected } => Err(format!("another process writes to this journal: it is at {expected}")),
        Appended::TakenOver => Err(TAKEN_OVER.to_owned()),
        Appended::Failed(err) => Err(format!("nothing was written: {err}; try again when that is mended")),
        Appended::Unknown(err) => {
            Err(format!("whether it was written is not known: {err}; when that is mended, look before trying again"))
        }
    }
}

struct Replay<'a> {
    book: &'a mut Book,
    ids: &'a mut KnownIds,
    links: &'a LinkLog,
    store: &'a Store,
    /// Index entries up to here are in the store.
    indexed: Sequence,
    /// Ids of records up to here are in runs.
    covered: Sequence,
}

/// Records looked up ahead while replaying.
const LOOKUP_BLOCK: usize = 32;

/// Lives that are given to the store at once.
const LIVES_AT_ONCE: usize = 1 << 14;

impl Replay<'_> {
    fn group(
        &mut self,
        base: Sequence,
        time_ns: u64,
        body: &[u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // Before the group and not amid it: the last one is made durable only after all are read, and no run may cover what is not.
        self.ids.turn_and_wait();
        let mut entries = Vec::new();
        let mut place = 0_u64;
        for block in body.as_chunks::<RECORD_BYTES>().0.chunks(LOOKUP_BLOCK) {
            // What is in runs is not looked for.
            if base.saturating_add(place).saturating_add(LOOKUP_BLOCK as u64) > self.covered {
                self.ids.touch(block.iter().map(record_transfer_id));
            }
            for bytes in block {
                let (sequence, time_ns) = (base.saturating_add(place), time_ns.saturating_add(place));
                place = place.saturating_add(1);
                self.id(sequence, record_transfer_id(bytes))?;
                if sequence <= self.book.sequence() {
                    continue;
                }
                let record = Record::decode(bytes)?;
                let record = if planted::is(Bug::RecordSkipped) && sequence.is_multiple_of(11) {
                    Record::Clock { second: self.book.second() }
                } else {
                    record
                };
                let applied = self.book.apply(time_ns, &record)?;
                if sequence > self.indexed {
                    let Applied { debit_previous, credit_previous, .. } = applied;
                    entries.push(IndexEntry { debit_previous, credit_previous });
                }
            }
        }
        for (base, bytes) in self.links.append(&entries) {
            self.store.put_full_index(self.links, base, &bytes)?;
        }
        Ok(())
    }
    /// Notes an id that is in no run.
    fn id(&mut self, sequence: Sequence, id: TransferId) -> Result<(), String> {
        if sequence <= self.covered || !id.is_valid() || planted::is(Bug::IdsForgotten) {
            return Ok(());
        }
        // A run may have younger ones than it covers: those that were pending when their index was full.
        if let Some(first) = self.ids.find(id).filter(|&first| first != sequence) {
            return Err(format!("transfer {id} was decided at {first} and again at {sequence}"));
        }
        self.ids.settle(id, sequence);
        Ok(())
    }
}
