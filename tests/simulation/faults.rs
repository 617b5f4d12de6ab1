//! What goes wrong: the power, the disk, the clock, the files that are derived from the journal.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heng::journal::{Disk, GROUP_HEADER_BYTES, JournalReader};
use heng::store::{IndexEntry, Store, StoreError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::disk::{Fault, SECTOR, SimDisk};
use crate::plain::{DAY_S, SECOND_NS};
use crate::server::recover_beside;
use crate::world::{EPOCH_S, World};

fn copy_directory(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Stores that were found damaged and set aside, in all worlds: how sled wrote them decides it, and that is no part of a world.
pub(crate) static ASIDE: AtomicU64 = AtomicU64::new(0);

/// What is left of a file of which any sectors were written since it was synced, and as many of its bytes as it may have.
fn torn(synced: &[u8], now: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let length = if now.len() > synced.len() { rng.random_range(synced.len()..=now.len()) } else { now.len() };
    let mut torn = now[..length].to_vec();
    for (number, sector) in torn.chunks_mut(SECTOR).enumerate() {
        let old = synced.get(number * SECTOR..).unwrap_or_default();
        let same = old.iter().zip(sector.iter()).take_while(|(old, new)| old == new).count();
        if same < sector.len() && rng.random_bool(0.5) {
            let known = old.len().min(sector.len());
            sector[..known].copy_from_slice(&old[..known]);
            sector[known..].fill(0);
        }
    }
    torn
}

/// Whether a file of the store is a run of what was given back.
fn is_run(name: &str) -> bool {
    name.starts_with("lives/")
}

impl World<'_> {
    /// What a power cut leaves of the store, and what the one before left.
    pub(crate) fn keep_store(&self) {
        copy_directory(&self.path.join("store-synced"), &self.path.join("store-before"));
        copy_directory(&self.path.join("store"), &self.path.join("store-synced"));
    }

    /// Ends the server where it is.
    pub(crate) fn stop(&mut self, with_power: bool) {
        let store = self.path.join("store");
        // Before it is dropped, as then it would write what it has not written yet.
        copy_directory(&store, &self.path.join("store-now"));
        for client in 0..self.clients.len() {
            self.abandon(client);
        }
        self.server = None;
        let with_power = with_power || self.disk.is_down();
        let is_taken_over = self.disk.is_taken_over();
        let left = match self.rng.random_range(0..10) {
            _ if is_taken_over => None,
            0 => None,
            1..5 if with_power => Some("store-synced"),
            _ => Some("store-now"),
        };
        drop(fs::remove_dir_all(&store));
        if let Some(left) = left {
            copy_directory(&self.path.join(left), &store);
            if with_power {
                let mut rng = StdRng::seed_from_u64(self.rng.random());
                self.tear(&["index".to_owned()], ("store-synced", "store"), &mut rng);
                self.torn = self.rng.random_bool(0.5).then(|| self.rng.random());
            }
        }
        if !is_taken_over && self.rng.random_bool(0.1) {
            self.lose_ids();
        }
        self.restart_disk(with_power);
        self.tell(format!("stopped, power cut {with_power}, store {left:?}"));
    }

    /// What was not synced may be gone; or the heir starts, which has journal and statements, and nothing that is derived.
    pub(crate) fn restart_disk(&mut self, with_power: bool) {
        if self.disk.is_taken_over() {
            for derived in ["store", "ids", "store.used", "store.reached"] {
                let path = self.path.join(derived);
                drop(fs::remove_dir_all(&path).or_else(|_err| fs::remove_file(&path)));
            }
            self.summary.taken_over += 1;
        }
        self.disk.restart(with_power);
    }

    /// A start with sled's own files torn as well: what cannot be read is set aside, and what can is what the journal says. It is judged on copies,
    /// because when sled writes what is not the simulation's to say, so the world would not be the same each time.
    pub(crate) fn judge_torn(&mut self, seed: u64) -> Result<(), String> {
        self.summary.torn += 1;
        let torn = self.path.join("torn");
        drop(fs::remove_dir_all(&torn));
        copy_directory(&self.path.join("ids"), &torn.join("ids"));
        for below in ["blobs", "lives"] {
            fs::create_dir_all(torn.join("store").join(below)).unwrap();
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let (own, theirs): (Vec<String>, Vec<String>) =
            self.store_files().into_iter().partition(|name| name == "index" || is_run(name));
        // The index and what was given back are synced before sled's files are: when the power goes amid their sync they are whole.
        let left = if rng.random() { "store-before" } else { "store-synced" };
        self.tear(&theirs, (left, "torn/store"), &mut rng);
        self.tear(&own, ("store-synced", "torn/store"), &mut rng);
        let copy = self.disk.copy();
        copy.mend();
        recover_beside(&torn, copy, &self.options).map_err(|what| format!("with a torn store: {what}"))?;
        let names = fs::read_dir(&torn).unwrap().map(|entry| entry.unwrap().file_name());
        let aside = names.filter(|name| name.to_string_lossy().contains(".damaged-")).count();
        ASIDE.fetch_add(u64::try_from(aside).unwrap(), Ordering::Relaxed);
        Ok(())
    }

    /// What a power cut leaves of files of the store: of what was written since they were synced as they are in `base` any sectors, and any length; a
    /// file that is newer may be missing, one that was removed may be there.
    fn tear(&self, names: &[String], (base, to): (&str, &str), rng: &mut StdRng) {
        for name in names {
            let read = |of: &str| fs::read(self.path.join(of).join(name)).ok();
            let (synced, now) = (read(base), read("store-now"));
            let left = match (synced, now) {
                // A run is whole before it has its name.
                (Some(synced), Some(now)) if is_run(name) => Some(if rng.random_bool(0.5) { synced } else { now }),
                (Some(synced), Some(now)) => Some(torn(&synced, &now, rng)),
                (Some(only), None) => rng.random_bool(0.5).then_some(only),
                (None, Some(only)) => rng.random_bool(0.5).then(|| torn(&[], &only, rng)),
                (None, None) => None,
            };
            let path = self.path.join(to).join(name);
            match left {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => drop(fs::remove_file(path)),
            }
        }
    }

    /// Names of all files of the store, as it was synced or is.
    fn store_files(&self) -> Vec<String> {
        let list = |of: &str| {
            let (path, mut names) = (self.path.join(of), Vec::new());
            for below in ["", "blobs", "lives"] {
                let files = fs::read_dir(path.join(below)).into_iter().flatten().map(Result::unwrap);
                let files = files.filter(|entry| entry.file_type().unwrap().is_file());
                names.extend(files.map(|entry| Path::new(below).join(entry.file_name()).display().to_string()));
            }
            names
        };
        let names: BTreeSet<String> = list("store-synced").into_iter().chain(list("store-now")).collect();
        names.into_iter().collect()
    }

    /// One run of ids, or all, are gone or cut off.
    fn lose_ids(&mut self) {
        let mut runs: Vec<_> =
            fs::read_dir(self.path.join("ids")).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        runs.sort();
        if runs.is_empty() {
            return;
        }
        let run = &runs[self.rng.random_range(0..runs.len())];
        if self.rng.random_bool(0.5) {
            fs::remove_file(run).unwrap();
        } else {
            let file = fs::OpenOptions::new().write(true).open(run).unwrap();
            file.set_len(self.rng.random_range(0..=file.metadata().unwrap().len())).unwrap();
        }
        self.tell("an id run is lost or cut off".to_owned());
    }

    pub(crate) fn fault(&mut self) -> Result<(), String> {
        self.faults_so_far += 1;
        if self.spared.contains(&self.faults_so_far) {
            return Ok(());
        }
        match self.rng.random_range(0..13) {
            0..3 => {
                let calls = self.rng.random_range(0..40);
                let fault = if calls / 2 % 4 == 3 { Fault::TakeOver } else { Fault::Power };
                self.disk.arm(calls, fault);
                self.tell(format!("in {calls} calls: {fault:?}"));
            }
            3..5 => {
                let with_power = self.rng.random();
                self.stop(with_power);
            }
            5..7 => {
                let fault =
                    [Fault::Sync, Fault::Sync, Fault::Write, Fault::ShortWrite][self.rng.random_range(0..4_usize)];
                self.tell(format!("what will fail next: {fault:?}"));
                self.disk.fail(fault);
            }
            7 => {
                let full = self.rng.random();
                self.tell(format!("disk full {full}"));
                if full {
                    self.disk.fail(Fault::Full);
                } else {
                    self.disk.mend();
                }
            }
            8 => {
                let most = [0, SECOND_NS / 10, 3 * SECOND_NS][self.rng.random_range(0..3_usize)];
                self.tell(format!("a sync takes up to {most} ns"));
                self.disk.slow(most);
            }
            9 => {
                // The clock of the machine is set, either way; the ledger's own never goes back.
                let by = self.rng.random_range(1..4_000) * SECOND_NS;
                let now = self.now_ns.load(Ordering::Relaxed);
                let now = if self.rng.random() { (now - by).max((EPOCH_S + 500_000) * SECOND_NS) } else { now + by };
                self.now_ns.store(now, Ordering::Relaxed);
                self.tell(format!("the clock is set to {now}"));
            }
            // What is withheld comes back then.
            10 if self.options.rules && self.rng.random() => {
                self.now_ns.fetch_add(DAY_S * SECOND_NS, Ordering::Relaxed);
                self.tell("a day passes".to_owned());
            }
            10 => self.damage_index()?,
            _ => self.damage()?,
        }
        Ok(())
    }

    /// A copy of the disk with a fault at rest, or with a write that went elsewhere: it is told, or what is served is right all the same.
    fn damage(&mut self) -> Result<(), String> {
        let read = |disk: SimDisk| {
            let disk: Arc<dyn Disk> = Arc::new(disk);
            let reader = JournalReader::new(Arc::clone(&disk));
            let mut groups = Vec::new();
            let walked = heng::journal::recover(&disk, &reader, (1, 0), &mut |header, body| {
                groups.push((*header, body.to_vec()));
                Ok(())
            });
            (walked, groups, reader)
        };
        let (walked, whole, truth) = read(self.disk.copy());
        let tail = walked.map_err(|err| format!("without a fault at rest: {err}"))?.tail;
        // Damage in the last group cannot be told from a write that was cut off.
        let newest = whole.last().map_or(0, |(_, body)| GROUP_HEADER_BYTES + body.len());
        let until = usize::try_from(tail.offset).unwrap().checked_sub(newest);
        let until = until.map_or((tail.segment - 1, 0), |until| (tail.segment, until));
        let copy = if self.rng.random_bool(0.4) {
            self.disk.misdirected(&mut self.rng)
        } else {
            self.disk.damaged(&mut self.rng, until)
        };
        let Some(copy) = copy else { return Ok(()) };
        self.summary.damages += 1;
        let (walked, groups, reader) = read(copy);
        if let Some(((believed, _), _)) = groups.iter().zip(&whole).find(|(believed, whole)| believed != whole) {
            return Err(format!("a fault at rest is in the group at {}, and was believed", believed.base_sequence));
        }
        let (lost, is_told) = (self.log.told_max, walked.is_err());
        match walked {
            Ok(recovered) if recovered.tail.next_sequence <= lost => {
                return Err(format!("a fault at rest was not noticed, and {lost} is gone"));
            }
            Ok(_) => {}
            Err(why) => self.tell(format!("damage is told: {why}")),
        }
        self.sound((&reader, is_told), &truth)
    }

    /// A copy of the store with a fault at rest in its index of histories: it is told, or the index is what it was.
    fn damage_index(&mut self) -> Result<(), String> {
        let hurt = self.path.join("store-hurt");
        let read = || -> Result<Vec<IndexEntry>, StoreError> {
            let store = Store::open(&hurt, 1 << 20)?;
            let mut entries = Vec::new();
            store.read_index((1, store.last_index()?), |_, entry| entries.push(entry))?;
            Ok(entries)
        };
        copy_directory(&self.path.join("store-synced"), &hurt);
        let whole = read().map_err(|err| format!("the store as it was synced: {err}"))?;
        let index = hurt.join("index");
        let mut bytes = fs::read(&index).unwrap_or_default();
        let sectors = bytes.len() / SECTOR;
        if sectors < 2 {
            return Ok(());
        }
        let [from, to] = [(); 2].map(|()| self.rng.random_range(0..sectors) * SECTOR);
        match self.rng.random_range(0..3) {
            0 => bytes[to + self.rng.random_range(0..SECTOR)] ^= 1 << self.rng.random_range(0..8),
            1 => bytes[to..to + SECTOR].fill(0),
            _ => bytes.copy_within(from..from + SECTOR, to),
        }
        fs::write(&index, bytes).unwrap();
        self.summary.damages += 1;
        match read() {
            Ok(entries) if entries != whole => {
                Err("a fault at rest in the index of histories was not noticed".to_owned())
            }
            Ok(_) => Ok(()),
            Err(why) => {
                self.tell(format!("damage is told: {why}"));
                Ok(())
            }
        }
    }

    /// Every record that is read is what it was; none is missing where the fault was not told.
    fn sound(&self, (reader, is_told): (&JournalReader, bool), truth: &JournalReader) -> Result<(), String> {
        for told in self.log.transactions.iter().flat_map(|transaction| transaction.told.iter().flatten()) {
            let sequence = told.sequence;
            let Ok(stored) = reader.read(sequence) else { continue };
            let whole = truth.read(sequence).map_err(|err| format!("record {sequence} without a fault: {err}"))?;
            if stored != whole && !(is_told && stored.is_none()) {
                return Err(format!("a fault at rest changed record {sequence}: {stored:?} and not {whole:?}"));
            }
        }
        Ok(())
    }
}
