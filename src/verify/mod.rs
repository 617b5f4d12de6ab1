//! Verification: walks the journal from the first group, rebuilds everything and checks every invariant.
//!
//! | file | subject |
//! |---|---|
//! | `check` | what is checked, record by record |
//! | `ids` | ids in order, more than memory takes |
//! | `live` | the same beside a server that serves, compared with what the server has |
//!
//! Read-only: the directory is locked for reading, and the store is checked in a temporary copy, because opening one writes. The
//! journal is the truth, so what is wrong in it is an error; a store that does not open is only noted, since a start makes it
//! again, but one that contradicts the journal is an error. The same goes for id runs. Statements and payout files are compared with the
//! journal too; damage there is told by itself, since the ledger is whole without them.
//!
//! Memory is that of a book, and of all that was ever given back: up to some 350 bytes of each transfer that was refunded or reversed. What is there of every
//! record is read as the walk comes to it, or sorted in a file in the directory for temporary ones (`TMPDIR`; some systems have it in memory): 24 bytes for each transfer, and as many for each id in runs.
//!
//! Shares the book and the formats with the server; shares nothing with the account actor that decided, or with the index of ids.

mod check;
mod ids;
mod live;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use self::check::Check;

use crate::backup::Manifest;
use crate::engine::{DataDir, DataDirError};
use crate::journal::{FileDisk, walk};
use crate::ledger::{RECORD_BYTES, Record, Sequence};
use crate::store::{Store, StoreError, is_marked, machine_boot, reached, went_down};
use crate::telemetry::chain;

pub use live::{LiveCheck, LiveError};

/// Violations listed; more are only counted.
const VIOLATIONS_LISTED: usize = 100;

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Whether every invariant holds.
    pub ok: bool,
    /// Journal groups read.
    pub groups: u64,
    /// Sequence of the last record.
    pub sequence: Sequence,
    /// Accounts opened.
    pub accounts: usize,
    /// Transfers decided.
    pub transfers: u64,
    /// Of these, accepted.
    pub accepted: u64,
    /// Holds, delayed transfers and reserves that are open.
    pub open: usize,
    /// Bytes of a torn group at the end, which a start will cut; it was never answered.
    pub torn_bytes: u64,
    /// Hash of the last group, hexadecimal: it vouches for every record.
    pub head_hash: String,
    /// By currency code.
    pub currencies: BTreeMap<String, CurrencyReport>,
    /// What was said of the store.
    pub store: String,
    /// What was said of the id runs; empty when they were not looked at.
    pub ids: String,
    /// What was said of statements and payout files; empty when there are none, or they were not looked at.
    #[serde(default)]
    pub files: String,
    /// Statements and payout files that are damaged, and what to do; the ledger itself may be whole.
    #[serde(default)]
    pub damaged_files: Vec<String>,
    /// What is wrong, as the walk meets it, then what only all records together tell; the first are listed.
    pub violations: Vec<String>,
    /// How many violations there are.
    pub violation_count: u64,
}

/// One currency's totals, minor units.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct CurrencyReport {
    /// Sum of all balances; must be 0.
    pub balance_sum: i128,
    /// Sum of accepted amounts.
    pub turnover: u128,
    /// Accepted transfers.
    pub transfers: u64,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory cannot be had.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store could not be copied.
    #[error("cannot copy the store to a temporary directory")]
    Copy(#[source] io::Error),
    /// Ids could not be sorted.
    #[error("cannot sort ids in the directory for temporary files, 48 bytes for each transfer; TMPDIR names another")]
    Sort(#[source] io::Error),
}

impl Report {
    fn violate(&mut self, what: String) {
        self.violation_count = self.violation_count.saturating_add(1);
        if self.violations.len() < VIOLATIONS_LISTED {
            self.violations.push(what);
        }
    }
}

/// The end of a chain as it was noted earlier and kept elsewhere: whoever can write the disk can write a whole new chain, but not one with this
/// group in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Head {
    /// Sequence of the group's last record.
    pub sequence: Sequence,
    /// The group's hash.
    pub hash: [u8; 32],
}

impl FromStr for Head {
    type Err = String;

    /// `SEQUENCE:HASH`, as a report and a backup's manifest have them.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no head: SEQUENCE:HASH is, like 30009:5f1a… with 64 hexadecimal digits");
        let (sequence, hash) = text.split_once(':').ok_or_else(wrong)?;
        let hash = blake3::Hash::from_hex(hash).map_err(|_wrong| wrong())?;
        Ok(Self { sequence: sequence.parse().map_err(|_wrong| wrong())?, hash: *hash.as_bytes() })
    }
}

/// Verifies a data directory that no server uses. Blocks; reads the whole journal.
pub fn verify(data_dir: &Path) -> Result<Report, VerifyError> {
    verify_with(data_dir, None)
}

/// Likewise, and that a head noted earlier is in the journal.
pub fn verify_with(data_dir: &Path, head: Option<Head>) -> Result<Report, VerifyError> {
    let directory = DataDir::read_only(data_dir)?;
    let mut report = Report::default();
    let copied = StoreCopy::open(&directory, &mut report)?;
    let mut check = Check::with_store(copied.as_ref().map(|copy| &copy.store), &mut report);
    let disk = FileDisk::read_only(&directory.journal());
    // Before the walk: a server may go on beside it.
    let reached = reached(&directory.store());
    let mut heads: BTreeMap<Head, String> = head.map(|head| (head, "this was noted".to_owned())).into_iter().collect();
    match Manifest::read(data_dir) {
        Ok(manifest) => heads.extend(manifest.iter().flat_map(Manifest::ends).map(|(number, sequence, hash)| {
            (Head { sequence, hash }, format!("the backup's manifest says that of segment {number}"))
        })),
        Err(err) => check.violate(chain(&err)),
    }
    let walked = walk(&disk, 1, &mut |header, body| {
        if !check.group(header.time_ns, body, Sequence::MAX) {
            return Err("ids cannot be sorted".into());
        }
        heads.remove(&Head { sequence: header.next_sequence().saturating_sub(1), hash: header.hash });
        Ok(())
    });
    for (head, who) in heads {
        let hash = blake3::Hash::from_bytes(head.hash);
        check.violate(format!(
            "no group ends at record {} with the hash {hash}: the journal is not the one of which {who}",
            head.sequence
        ));
    }
    match (&walked, reached) {
        (Ok(recovered), Ok(reached)) if recovered.tail.next_sequence <= reached => check.violate(format!(
            "the journal ends at record {}, but was durable up to {reached} when the last checkpoint was made: its end is lost",
            recovered.tail.next_sequence.saturating_sub(1)
        )),
        (_, Err(err)) => check.violate(format!("how far the journal reached at the last checkpoint cannot be read: {err}")),
        _ => {}
    }
    if check.has_given_back() {
        // Originals may be long before what was given back, so they are looked at in a second walk.
        let second = walk(&disk, 1, &mut |_, body| {
            for record in body.as_chunks::<RECORD_BYTES>().0.iter().filter_map(|bytes| Record::decode(bytes).ok()) {
                check.original(&record);
            }
            Ok(())
        });
        // What is wrong with the journal was found by the first walk.
        drop(second);
    }
    let is_whole = walked.is_ok();
    check.ids(is_whole.then(|| directory.ids()).as_deref()).map_err(VerifyError::Sort)?;
    if is_whole {
        check.files(data_dir);
    }
    check.finish(true);
    match walked {
        Ok(recovered) => {
            report.groups = recovered.groups;
            report.torn_bytes = recovered.torn_bytes;
            report.head_hash = blake3::Hash::from_bytes(recovered.tail.previous_hash).to_hex().to_string();
        }
        Err(err) => report.violate(chain(&err)),
    }
    if let Some(copied) = &copied {
        report.store = copied.told_of(&directory, &report.store);
    }
    report.ok = report.violation_count == 0 && report.damaged_files.is_empty();
    Ok(report)
}

/// A store opened from a copy, which is removed afterwards.
struct StoreCopy {
    store: Store,
    directory: tempfile::TempDir,
}

/// What was said of a copy, said of the store that was copied: the place of the copy says nothing to anybody.
fn in_place(copy: &Path, directory: &DataDir, text: &str) -> String {
    text.replace(&copy.display().to_string(), &directory.store().display().to_string())
}

impl StoreCopy {
    fn told_of(&self, directory: &DataDir, text: &str) -> String {
        in_place(self.directory.path(), directory, text)
    }

    fn open(directory: &DataDir, report: &mut Report) -> Result<Option<Self>, VerifyError> {
        if !directory.store().is_dir() {
            "missing; the next start makes it again from the journal".clone_into(&mut report.store);
            return Ok(None);
        }
        let copy = tempfile::tempdir().map_err(VerifyError::Copy)?;
        copy_directory(&directory.store(), copy.path()).map_err(VerifyError::Copy)?;
        match Store::open(copy.path(), 32 << 20) {
            Ok(store) => {
                let again = "the next start makes it again from the journal";
                report.store = match went_down(&directory.store(), machine_boot().as_deref()) {
                    Ok(false) if !is_marked(&directory.store()) => {
                        return Ok(Some(Self { store, directory: copy }));
                    }
                    Ok(false) => format!("not compared: it could not be read or written while it was in use; {again}"),
                    Ok(true) => format!("not compared: the machine went down while it was written; {again}"),
                    Err(err) => format!(
                        "not compared: whether the machine went down while it was written cannot be read: {err}"
                    ),
                };
                Ok(None)
            }
            Err(err) => {
                let why = in_place(copy.path(), directory, &chain(&err));
                let again = match err {
                    StoreError::Io { .. } | StoreError::Newer { .. } => "",
                    _ => "; the next start makes it again from the journal",
                };
                report.store = format!("cannot be used ({why}){again}");
                Ok(None)
            }
        }
    }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).map(drop)?;
        }
    }
    Ok(())
}
