//! `heng backup`, `heng restore` and `heng take-over`.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::admin::describe;
use super::table::time;
use super::{Done, Failure, print, print_json};
use crate::backup::{self, BackupError, Made, Until, backup, check, restore};
use crate::verify::verify;

/// Copy the ledger, also while a server writes it. A directory that has a backup of it gets what is new.
#[derive(Debug, Args)]
pub struct BackupCommand {
    /// The backup's directory.
    #[arg(long)]
    to: PathBuf,
    /// The data directory; the server may be running.
    #[arg(long, env = "HENG_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
    /// Afterwards compare every file with the manifest, and check every invariant of what it holds.
    #[arg(long)]
    check: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Make a data directory of a backup, whole or as it was at a point, and check every invariant of it.
#[derive(Debug, Args)]
pub struct RestoreCommand {
    /// The backup's directory.
    #[arg(long)]
    from: PathBuf,
    /// The new data directory.
    #[arg(long, env = "HENG_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
    /// Up to this record. An atomic step that goes on beyond is left out whole.
    #[arg(long, conflicts_with = "time")]
    sequence: Option<u64>,
    /// Up to the last record that is not later, such as 2026-11-22T18:00:00Z.
    #[arg(long)]
    time: Option<Timestamp>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Give a data directory up whose server cannot be ended, and make another of it: the old server, if it ever goes on, acknowledges nothing any more.
///
/// For a server that hangs or stands still, or whose machine does not answer while its disk does. If the process can be ended, end it and start it again
/// instead. Both must see the file system alike: the same machine, or a coherently shared one (not NFS).
#[derive(Debug, Args)]
pub struct TakeOverCommand {
    /// The data directory that is given up, for good.
    #[arg(long)]
    from: PathBuf,
    /// The new data directory: one that does not exist yet, or a backup of that ledger, which gets what is new and is a backup no more.
    #[arg(long)]
    data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn failure(err: BackupError) -> Failure {
    match err {
        BackupError::DataDir(_)
        | BackupError::AnotherLedger(_)
        | BackupError::Shorter { .. }
        | BackupError::Served(_)
        | BackupError::NotEmpty(_)
        | BackupError::Occupied(_)
        | BackupError::Within { .. }
        | BackupError::TakenOverBefore { .. }
        | BackupError::Gone { .. }
        | BackupError::MountPoint(_)
        | BackupError::Beyond { .. }
        | BackupError::Before
        | BackupError::Manifest { .. } => Failure::configuration(err),
        err => err.into(),
    }
}

/// Says which statements are in one of two places only.
fn print_statements(made: &Made) -> Result<(), Failure> {
    if made.statements_missing > 0 {
        print(&format!(
            "{} statements are kept that are not in the data directory any more: put them back from the backup's `statements`, or import them again.",
            made.statements_missing
        ))?;
    }
    if made.statements_damaged > 0 {
        print(&format!(
            "{} statements are damaged in the data directory and not in the backup: `heng verify` names them; import them again.",
            made.statements_damaged
        ))?;
    }
    Ok(())
}

/// Makes it, or goes on with it; whether all of it is whole.
pub fn make_backup(command: &BackupCommand) -> Done {
    let made = backup(&command.data_dir, &command.to).map_err(failure)?;
    if !command.json {
        print(&format!(
            "The backup holds records 1 to {}: {} segments copied, {} kept, {} statements copied, {} bytes written.",
            made.sequence, made.segments_copied, made.segments_kept, made.statements_copied, made.bytes
        ))?;
    }
    let is_whole = made.statements_damaged == 0;
    if !command.json {
        print_statements(&made)?;
    }
    if !command.check {
        if command.json {
            print_json(&made)?;
        }
        return Ok(is_whole);
    }
    check(&command.to).map_err(failure)?;
    let report = verify(&command.to)?;
    if command.json {
        print_json(&serde_json::json!({ "backup": made, "verified": report }))?;
    } else {
        print(&describe(&report))?;
    }
    Ok(is_whole && report.ok)
}

/// Restores; whether what was restored is sound.
pub fn restore_backup(command: &RestoreCommand) -> Done {
    let until = match (command.sequence, command.time) {
        (Some(sequence), _) => Until::Sequence(sequence),
        (None, Some(time)) => Until::Time(u64::try_from(time.as_nanosecond()).unwrap_or(0)),
        (None, None) => Until::End,
    };
    let restored = restore(&command.from, &command.data_dir, until).map_err(failure)?;
    let report = verify(&command.data_dir)?;
    if command.json {
        print_json(&serde_json::json!({ "restored": restored, "verified": report }))?;
    } else {
        let (sequence, last) = (restored.sequence, time(restored.last_time_ns));
        print(&format!(
            "Records 1 to {sequence} are restored, the last of {last}; the first start makes store and known ids again."
        ))?;
        if command.time.is_some() && sequence == restored.backup_sequence {
            print("That is all that is in the backup: what came after it until the time that was asked for is not.")?;
        }
        print(&describe(&report))?;
    }
    Ok(report.ok)
}

/// Runs it; whether the ledger was found sound.
pub fn take_over(command: &TakeOverCommand) -> Done {
    let made = backup::take_over(&command.from, &command.data_dir).map_err(failure)?;
    if command.json {
        print_json(&made)?;
    } else {
        print(&format!(
            "{} is given up. Its ledger, records 1 to {}, goes on in {}: serve that, and do not give it the name of the old one before that one's process has ended. The first start makes store and known ids again.",
            command.from.display(),
            made.sequence,
            command.data_dir.display()
        ))?;
        print_statements(&made)?;
    }
    Ok(made.statements_damaged == 0)
}
