//! What goes wrong: the power, the disk, the clock, the files that are derived from the journal.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use heng::journal::{Disk, JournalReader};
use rand::RngExt;

use crate::plain::SECOND_NS;
use crate::world::World;

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

impl World<'_> {
    /// What a power cut leaves of the store.
    pub(crate) fn keep_store(&self) {
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
        let left = match self.rng.random_range(0..10) {
            0 => None,
            1..5 if with_power => Some("store-synced"),
            _ => Some("store-now"),
        };
        drop(fs::remove_dir_all(&store));
        if let Some(left) = left {
            copy_directory(&self.path.join(left), &store);
        }
        if self.rng.random_bool(0.1) {
            self.lose_ids();
        }
        self.disk.restart(with_power);
        self.tell(format!("stopped, power cut {with_power}, store {left:?}"));
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
        match self.rng.random_range(0..11) {
            0..3 => {
                let calls = self.rng.random_range(0..40);
                self.disk.fail_after(calls);
                self.tell(format!("the power will go in {calls} calls"));
            }
            3..5 => {
                let with_power = self.rng.random();
                self.stop(with_power);
            }
            5 => {
                self.tell("the next sync fails".to_owned());
                self.disk.fail_next_sync();
            }
            6 => {
                let full = self.rng.random();
                self.tell(format!("disk full {full}"));
                self.disk.fill(full);
            }
            7 => {
                let most = [0, SECOND_NS / 10, 3 * SECOND_NS][self.rng.random_range(0..3_usize)];
                self.tell(format!("a sync takes up to {most} ns"));
                self.disk.slow(most);
            }
            8 => {
                // The clock of the machine is set, either way; the ledger's own never goes back.
                let by = self.rng.random_range(1..4_000) * SECOND_NS;
                let now = self.now_ns.load(Ordering::Relaxed);
                let now = if self.rng.random() { (now - by).max(500_000 * SECOND_NS) } else { now + by };
                self.now_ns.store(now, Ordering::Relaxed);
                self.tell(format!("the clock is set to {now}"));
            }
            _ => self.damage()?,
        }
        Ok(())
    }

    /// A copy of the disk with a fault at rest, or with a write that went elsewhere: it is told, or what is served is right all the same.
    fn damage(&mut self) -> Result<(), String> {
        let spared = 16 << 10;
        let copy = if self.rng.random_bool(0.4) {
            self.disk.misdirected(&mut self.rng)
        } else {
            self.disk.damaged(&mut self.rng, spared)
        };
        let Some(copy) = copy else { return Ok(()) };
        self.summary.damages += 1;
        let copy: Arc<dyn Disk> = Arc::new(copy);
        let reader = JournalReader::new(Arc::clone(&copy));
        let mut judged = Vec::new();
        let walked = heng::journal::recover(&copy, &reader, (1, 0), &mut |header, body| {
            judged.push((header.base_sequence, body.to_vec()));
            Ok(())
        });
        let lost = self.log.told_max;
        match walked {
            Ok(recovered) if recovered.tail.next_sequence <= lost => {
                Err(format!("a fault at rest was not noticed, and {lost} is gone"))
            }
            Ok(_) => self.sound(&reader),
            Err(why) => {
                self.tell(format!("damage is told: {why}"));
                Ok(())
            }
        }
    }

    /// Every acknowledged transfer is where and what it was told to be.
    fn sound(&self, reader: &JournalReader) -> Result<(), String> {
        for told in self.log.transactions.iter().flat_map(|transaction| transaction.told.iter().flatten()) {
            if let Ok(Some(stored)) = reader.read(told.sequence)
                && stored.time_ns != told.time_ns
            {
                return Err(format!("a fault at rest changed record {}", told.sequence));
            }
        }
        Ok(())
    }
}
