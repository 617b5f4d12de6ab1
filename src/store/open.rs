//! Opening, reading and syncing the sled store.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::blocks::{Checkpoint, IndexEntry, account_blocks, decode_accounts};
use super::index::{IndexFile, IndexTrouble};
use super::life_runs::LifeRuns;
use super::links::LinkLog;
use super::lives::{clear_mark, is_marked};
use super::trust::{begin_use, clear_note};
use crate::ledger::{BookAccount, GatewayEntry, GatewayId, Grant, Sequence, get};
use crate::telemetry::{chain, guard_panics};

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// sled refuses.
    #[error("the store at {path} cannot be used")]
    Sled {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: sled::Error,
    },
    /// Opening or reading it panicked inside sled, as damage can make it.
    #[error("the store at {path} is damaged: {what}")]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file system refuses.
    #[error("the store at {path} cannot be read or written")]
    Io {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Written by an older version of this program.
    #[error(
        "the store at {path} has format {version}; from format {STORE_FORMAT} on it is made again from the journal at the next start"
    )]
    Older {
        /// Where it is.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// Written by a newer version of this program.
    #[error("the store at {path} has format {version}, this program reads up to {STORE_FORMAT}; use a newer version")]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    path: Arc<PathBuf>,
    db: sled::Db,
    file: Arc<File>,
    /// The last checkpoint that is durable.
    pub(super) durable: Arc<AtomicU64>,
    meta: sled::Tree,
    accounts: sled::Tree,
    index: Arc<IndexFile>,
    gateways: sled::Tree,
    pub(super) open: [sled::Tree; 2],
    pub(super) lives: Arc<LifeRuns>,
    pub(super) levels: sled::Tree,
    pub(super) policy: sled::Tree,
    pub(super) windows: sled::Tree,
}

/// How long another owner of the lock is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

const FORMAT_KEY: &str = "format";

/// The format of the store. One that is earlier is set aside, and the store made again from the journal.
const STORE_FORMAT: u64 = 7;
const CHECKPOINT_KEY: &str = "checkpoint";
const INDEXED_KEY: &str = "indexed";

impl Store {
    /// Opens or makes a store. `cache_bytes` bounds sled's page cache. Damage is an error, also when sled panics over it.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let opened = guard_panics(AssertUnwindSafe(|| Self::open_unguarded(path, cache_bytes)));
        opened.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            let what = text.unwrap_or("sled panicked").to_owned();
            Err(StoreError::Damaged { path: path.to_owned(), what })
        })
    }

    fn open_unguarded(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let sled_error = |source| StoreError::Sled { path: path.to_owned(), source };
        let io_error = |source| StoreError::Io { path: path.to_owned(), source };
        // Everything is flushed when a checkpoint is made; sled's own timer would only disturb.
        let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
        let db = open_unlocked(&config).map_err(sled_error)?;
        let tree = |name: &str| db.open_tree(name).map_err(sled_error);
        let meta = tree("meta")?;
        let version = meta.get(FORMAT_KEY).map_err(sled_error)?;
        let version = version.map(|bytes| u64::from_be_bytes(get::<0, 8>(&bytes)));
        match version {
            Some(version) if version > STORE_FORMAT => {
                return Err(StoreError::Newer { path: path.to_owned(), version });
            }
            Some(version) if version < STORE_FORMAT => {
                return Err(StoreError::Older { path: path.to_owned(), version });
            }
            _ => {}
        }
        let (checkpoint, last_run) = read_checkpoint(path, &meta)?.unwrap_or_default();
        let lives = LifeRuns::open(&path.join("lives"), last_run).map_err(io_error)?;
        let lives = lives.map_err(|what| damaged(path, &what))?;
        let store = Self {
            path: Arc::new(path.to_owned()),
            file: Arc::new(File::open(path.join("db")).map_err(io_error)?),
            meta,
            accounts: tree("accounts")?,
            index: Arc::new(IndexFile::open(path).map_err(io_error)?),
            gateways: tree("gateways")?,
            open: [tree("pendings")?, tree("tallies")?],
            lives: Arc::new(lives),
            levels: tree("levels")?,
            durable: Arc::new(AtomicU64::new(checkpoint.sequence)),
            policy: tree("policy")?,
            windows: tree("windows")?,
            db,
        };
        if version.is_none() {
            store.meta.insert(FORMAT_KEY, &STORE_FORMAT.to_be_bytes()).map_err(sled_error)?;
            store.sync()?;
            for directory in [path.join("blobs"), path.to_owned(), path.parent().unwrap_or(path).to_owned()] {
                if directory.exists() {
                    File::open(&directory).and_then(|directory| directory.sync_all()).map_err(io_error)?;
                }
            }
            File::open(path.join("conf")).and_then(|conf| conf.sync_all()).map_err(io_error)?;
        }
        Ok(store)
    }

    /// Makes all that was written durable. Blocks. sled's own flush ends with `sync_file_range`, which a power cut does not
    /// respect, so `fdatasync` follows.
    pub fn sync(&self) -> Result<(), StoreError> {
        let indexed = self.index.written();
        if indexed > self.last_index()? {
            // First the entries, then up to where they reach.
            self.index.sync().map_err(|source| self.index_error(unsynced(source).into()))?;
            let put = self.meta.insert(INDEXED_KEY, &indexed.to_be_bytes());
            put.map_err(|source| self.error(source))?;
        }
        self.db.flush().map_err(|source| self.error(source))?;
        let synced = self.file.sync_data().map_err(unsynced);
        synced.map_err(|source| StoreError::Io { path: self.path.to_path_buf(), source })?;
        crate::journal::let_cache_go(&self.file, crate::journal::WHOLE);
        Ok(())
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        Ok(read_checkpoint(&self.path, &self.meta)?.map(|(checkpoint, _)| checkpoint))
    }

    /// Writes what a checkpoint is, and which run of lives is its last.
    pub(super) fn put_checkpoint(&self, checkpoint: &Checkpoint, last_run: u64) -> Result<(), StoreError> {
        let encoded = bincode::serde::encode_to_vec((checkpoint, last_run), bincode::config::legacy());
        let bytes = encoded.map_err(|err| self.damaged(&format!("checkpoint: {err}")))?;
        self.meta.insert(CHECKPOINT_KEY, bytes).map(drop).map_err(|source| self.error(source))
    }

    /// Reads the first accounts, in order of opening.
    pub fn read_accounts(&self, count: u32, mut visit: impl FnMut(&BookAccount)) -> Result<(), StoreError> {
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        for number in 0..account_blocks(count) {
            let block = self.accounts.get(number.to_be_bytes()).map_err(|source| self.error(source))?;
            let block = block.ok_or_else(|| self.damaged(&format!("account block {number} is missing")))?;
            for account in decode_accounts(&block).take(left) {
                left = left.saturating_sub(1);
                visit(&account);
            }
        }
        if left > 0 { Err(self.damaged(&format!("{left} accounts are missing"))) } else { Ok(()) }
    }

    /// Writes a block of accounts.
    pub fn put_accounts(&self, block: u32, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.accounts.insert(block.to_be_bytes(), bytes).map(drop).map_err(|source| self.error(source))
    }

    /// The sequence of the last index entry that is durable.
    pub fn last_index(&self) -> Result<Sequence, StoreError> {
        let indexed = self.meta.get(INDEXED_KEY).map_err(|source| self.error(source))?;
        Ok(indexed.map_or(0, |bytes| u64::from_be_bytes(get::<0, 8>(&bytes))))
    }

    /// Reads the index entries of all records of a range, which are durable.
    pub fn read_index(
        &self,
        range: (Sequence, Sequence),
        visit: impl FnMut(Sequence, IndexEntry),
    ) -> Result<(), StoreError> {
        self.index.read(range, visit).map_err(|trouble| self.index_error(trouble))
    }

    /// The index entry of a record that was written.
    pub(super) fn index_entry(&self, sequence: Sequence) -> Result<IndexEntry, StoreError> {
        self.index.get(sequence).map_err(|trouble| self.index_error(trouble))
    }

    /// Writes a block of index entries.
    pub(crate) fn put_index(&self, base: Sequence, bytes: &[u8]) -> Result<(), StoreError> {
        self.index.put(base, bytes).map_err(|source| self.index_error(source.into()))
    }

    fn index_error(&self, trouble: IndexTrouble) -> StoreError {
        match trouble {
            IndexTrouble::Io(source) => StoreError::Io { path: self.path.to_path_buf(), source },
            IndexTrouble::Damaged(sequence) => {
                self.damaged(&format!("the index entry of record {sequence} is not there"))
            }
        }
    }

    /// Writes a full block of index entries at once, and has the log forget it.
    pub(crate) fn put_full_index(&self, links: &LinkLog, base: Sequence, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_index(base, bytes)?;
        links.written(base);
        Ok(())
    }

    /// Reads all gateways.
    pub fn gateways(&self) -> Result<Vec<GatewayEntry>, StoreError> {
        let mut entries = Vec::new();
        for item in &self.gateways {
            let (key, value) = item.map_err(|source| self.error(source))?;
            let id = GatewayId(u32::from_be_bytes(get::<0, 4>(&key)));
            let grant = Grant::decode(&get::<80, 16>(&value));
            entries.push(GatewayEntry { id, name: get::<0, 48>(&value), key_hash: get::<48, 32>(&value), grant });
        }
        Ok(entries)
    }

    /// Writes a gateway.
    pub fn put_gateway(&self, entry: &GatewayEntry) -> Result<(), StoreError> {
        let value = [&entry.name[..], &entry.key_hash[..], &entry.grant.encode()[..]].concat();
        self.gateways.insert(entry.id.0.to_be_bytes(), value).map(drop).map_err(|source| self.error(source))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn error(&self, source: sled::Error) -> StoreError {
        StoreError::Sled { path: self.path.to_path_buf(), source }
    }

    /// What is in the store contradicts itself.
    pub(crate) fn damaged(&self, what: &str) -> StoreError {
        damaged(&self.path, what)
    }
}

/// A sync that failed, for whatever reason: what was written before may be lost, also where the disk is full, which a write would have said before it took anything.
pub(super) fn unsynced(source: io::Error) -> io::Error {
    io::Error::other(source)
}

fn damaged(path: &Path, what: &str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), what: what.to_owned() }
}

/// The last checkpoint, and which run of lives is its last.
fn read_checkpoint(path: &Path, meta: &sled::Tree) -> Result<Option<(Checkpoint, u64)>, StoreError> {
    let bytes = meta.get(CHECKPOINT_KEY);
    let bytes = bytes.map_err(|source| StoreError::Sled { path: path.to_owned(), source })?;
    let decode = |bytes: sled::IVec| bincode::serde::decode_from_slice(&bytes, bincode::config::legacy());
    let decoded = bytes.map(decode).transpose().map_err(|err| damaged(path, &format!("checkpoint: {err}")))?;
    Ok(decoded.map(|(checkpoint, _)| checkpoint))
}

/// Opens a database whose last owner may not have let go of its lock yet: sled does so a few milliseconds after closing.
fn open_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(err)) if err.to_string().contains("lock") && begun.elapsed() < LOCK_WAIT => {
                std::thread::yield_now();
            }
            opened => return opened,
        }
    }
}

/// Whether the operating system refused, as when the disk is full: that says nothing of what the store contains.
fn is_refused(err: &StoreError) -> bool {
    matches!(err, StoreError::Sled { source: sled::Error::Io(source), .. } if source.raw_os_error().is_some())
}

/// Opens the store and reads from it with `load`; when either fails for another reason than a newer format or a system that refuses, moves the store
/// aside, makes an empty one and loads that. Answers also whether that happened. So is one that was written in another boot of the machine and not
/// closed ([`Store::close`]).
pub fn open_or_set_aside<T>(
    path: &Path,
    (cache_bytes, boot): (u64, Option<&str>),
    load: impl Fn(&Store) -> Result<T, StoreError>,
) -> Result<(Store, T, bool), StoreError> {
    let attempt = || {
        begin_use(path, boot)?;
        let store = Store::open(path, cache_bytes)?;
        let loaded = guard_panics(AssertUnwindSafe(|| load(&store)));
        let panicked = StoreError::Damaged { path: path.to_owned(), what: "sled panicked while reading".to_owned() };
        loaded.unwrap_or(Err(panicked)).map(|loaded| (store, loaded))
    };
    let distrusted = StoreError::Damaged { path: path.to_owned(), what: "found while it was in use".to_owned() };
    let first = match (is_marked(path), path.exists()) {
        (true, true) => Err(distrusted),
        (true, false) => {
            // It was set aside, or somebody has removed it.
            clear_mark(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
            attempt()
        }
        (false, _) => attempt(),
    };
    match first {
        Ok((store, loaded)) => Ok((store, loaded, false)),
        Err(err @ (StoreError::Newer { .. } | StoreError::Io { .. })) => Err(err),
        Err(err) if is_refused(&err) => Err(err),
        Err(err) => {
            let aside = set_aside(path)?;
            clear_mark(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
            tracing::warn!(
                err = %chain(&err),
                aside = %aside.display(),
                "the store cannot be used; it is set aside and made again from the journal"
            );
            attempt().map(|(store, loaded)| (store, loaded, true))
        }
    }
}

/// Moves a store out of the way, and removes one that was moved before; answers where to.
pub fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let aside = path.with_extension(format!("damaged-{now}"));
    let moved = fs::rename(path, &aside).and_then(|()| clear_note(path));
    moved.map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    if let Err(err) = remove_older(&aside) {
        tracing::warn!(%err, "a store that was set aside before is left");
    }
    Ok(aside)
}

/// Removes the stores that were set aside before one: each is as large as the one in use.
fn remove_older(aside: &Path) -> io::Result<()> {
    let (Some(directory), Some(stem)) = (aside.parent(), aside.file_stem()) else { return Ok(()) };
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_aside = path.extension().is_some_and(|what| what.as_encoded_bytes().starts_with(b"damaged-"));
        if path != aside && path.file_stem() == Some(stem) && is_aside {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// The gateways that may connect, by name; shared between the sessions that ask and the clearing actor that follows.
#[derive(Clone, Debug, Default)]
pub struct Gateways(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    /// With the record that they are of.
    entries: RwLock<BTreeMap<String, (Sequence, GatewayEntry)>>,
    /// Grows with every change.
    version: AtomicU64,
}

impl Gateways {
    /// Adds a gateway, or gives it another key, as of a record; nothing where a later one is known.
    pub fn put(&self, sequence: Sequence, entry: GatewayEntry) {
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.get(&entry.name()).is_none_or(|known| known.0 <= sequence) {
            entries.insert(entry.name(), (sequence, entry));
            self.0.version.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Grows with every change; never 0 once there is a gateway.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The gateway of this number.
    pub fn get(&self, id: GatewayId) -> Option<GatewayEntry> {
        let gateways = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        gateways.values().map(|known| known.1).find(|entry| entry.id == id)
    }

    /// The gateway of this name and key. Compares in constant time.
    pub fn authenticate(&self, name: &str, key: &[u8]) -> Option<GatewayEntry> {
        let gateways = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        let known = gateways.get(name).map(|known| known.1);
        // `blake3::Hash` compares in constant time; an unknown name takes as long as a wrong key.
        let expected = blake3::Hash::from_bytes(known.map_or([0; 32], |entry| entry.key_hash));
        let matches = blake3::hash(key) == expected;
        known.filter(|_| matches)
    }

    /// All gateways in order of name.
    pub fn list(&self) -> Vec<GatewayEntry> {
        self.0.entries.read().unwrap_or_else(PoisonError::into_inner).values().map(|known| known.1).collect()
    }
}
