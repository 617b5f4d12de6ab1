//! Copies of the ledger that is broken: a backup of it, what is restored from that and goes on in its place, and backups of it while it is damaged, which must
//! be refused or have all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;

use super::site::Site;
use crate::spawn::server_program;

/// Where copies of a ledger are.
#[derive(Debug)]
pub(super) struct Copies {
    data: PathBuf,
    backup: PathBuf,
    scratch: PathBuf,
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(err.into()),
        _ => Ok(()),
    }
}

/// Runs a command of the program; whether it went well, and what it said.
fn run(arguments: &[PathBuf]) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(server_program()?);
    let output = command.args(arguments).stdin(Stdio::null()).output().context("cannot run the program")?;
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Makes a backup, or goes on with one; answers its last record, or why it was refused.
fn backup(data: &Path, to: &Path) -> anyhow::Result<Result<u64, String>> {
    let arguments = ["backup".into(), "--json".into(), "--data-dir".into(), data.into(), "--to".into(), to.into()];
    let (_, said) = run(&arguments)?;
    let told = serde_json::from_str::<Value>(&said).ok();
    Ok(told.and_then(|told| told.pointer("/sequence")?.as_u64()).ok_or(said))
}

impl Copies {
    /// Of the ledger of a site, none made yet.
    pub(super) fn new(site: &Site) -> anyhow::Result<Self> {
        let [backup, scratch] = ["backup", "scratch"].map(|name| site.root().join(name));
        remove(&backup)?;
        remove(&scratch)?;
        Ok(Self { data: site.data(), backup, scratch })
    }

    /// Makes the backup, or goes on with it; answers its last record.
    pub(super) fn make(&self) -> anyhow::Result<u64> {
        backup(&self.data, &self.backup)?.map_err(|said| anyhow::anyhow!("a sound ledger has no backup: {said}"))
    }

    /// Puts what is restored from the backup in the place of the ledger.
    pub(super) fn restore(&self) -> anyhow::Result<()> {
        let made = self.make()?;
        remove(&self.scratch)?;
        let from = ["restore", "--json", "--from"].map(PathBuf::from).into_iter().chain([self.backup.clone()]);
        let (is_sound, told) = run(&from.chain(["--data-dir".into(), self.scratch.clone()]).collect::<Vec<_>>())?;
        let restored =
            serde_json::from_str::<Value>(&told).ok().and_then(|told| told.pointer("/restored/sequence")?.as_u64());
        anyhow::ensure!(is_sound && restored == Some(made), "of {made} records {restored:?} were restored: {told}");
        // Payout files stay where they were written until somebody fetches them.
        let payouts = self.data.join("payouts");
        if payouts.exists() {
            fs::rename(payouts, self.scratch.join("payouts"))?;
        }
        remove(&self.data)?;
        fs::rename(&self.scratch, &self.data)?;
        // Of a ledger that is another directory now a backup goes on all the same; but this one is to be small.
        remove(&self.backup)
    }

    /// Whether a new backup of the ledger, which is damaged now, is refused or has all up to this record; and one that goes on.
    pub(super) fn are_refused_or_whole(&self, last: u64) -> anyhow::Result<bool> {
        remove(&self.scratch)?;
        let new = backup(&self.data, &self.scratch)?;
        let later = backup(&self.data, &self.backup)?;
        Ok([new, later].into_iter().flatten().all(|made| made >= last))
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for directory in [&self.backup, &self.scratch] {
            if let Err(err) = remove(directory) {
                crate::run::say(&format!("{}: {err}", directory.display()));
            }
        }
    }
}
