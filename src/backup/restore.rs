//! From a backup to a data directory, whole or as it was at a point.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{BackupError, Manifest, SegmentCopy, hash_file, hex, io_error, patiently, segment_path, write_file};
use crate::engine::DataDir;
use crate::journal::{cut_after, head_at, sound_part, sync_directory};
use crate::ledger::Sequence;

/// The point up to which is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All that is there.
    End,
    /// Up to this record.
    Sequence(Sequence),
    /// Up to the last record that is not later, nanoseconds since 1970 UTC.
    Time(u64),
}

impl Until {
    fn keeps(self, sequence: Sequence, time_ns: u64) -> bool {
        match self {
            Self::End => true,
            Self::Sequence(last) => sequence <= last,
            Self::Time(last_ns) => time_ns <= last_ns,
        }
    }
}

/// What a restore came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Sequence of the last record; an atomic step that goes on beyond the point is left out whole.
    pub sequence: Sequence,
    /// Its time, nanoseconds since 1970 UTC.
    pub last_time_ns: u64,
    /// Segments written.
    pub segments: usize,
    /// Sequence of the last record of the backup.
    pub backup_sequence: Sequence,
}

/// Compares every file of a backup with its manifest. Blocks while it reads all of it.
pub fn check(directory: &Path) -> Result<Manifest, BackupError> {
    let _read_only = lock(directory)?;
    check_files(directory)
}

pub(super) fn check_files(directory: &Path) -> Result<Manifest, BackupError> {
    let path = Manifest::path(directory);
    let manifest = Manifest::read(directory)?
        .ok_or_else(|| BackupError::Manifest { path, what: "there is none; is this a backup?".to_owned() })?;
    if DataDir::was_served(directory) {
        return Err(BackupError::Served(directory.to_owned()));
    }
    for segment in &manifest.segments {
        let path = segment_path(directory, segment.number);
        if hash_file(&path)? != segment.blake3 && !has_grown(&path, segment)? {
            return Err(BackupError::Changed { path, what: "its hash is another" });
        }
    }
    for name in &manifest.statements {
        let path = directory.join("statements").join(name);
        if hash_file(&path)? != *name {
            return Err(BackupError::Changed { path, what: "its hash is not its name" });
        }
    }
    Ok(manifest)
}

/// Whether the last segment has all that the manifest says and more: a later backup was interrupted before it wrote its manifest.
fn has_grown(path: &Path, segment: &SegmentCopy) -> Result<bool, BackupError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    let is_whole = sound_part(&bytes).is_some_and(|all| all.is_whole);
    let cut = cut_after(&bytes, |sequence, _| sequence <= segment.last);
    let part = cut.and_then(|(cut, _)| sound_part(&cut));
    Ok(!segment.sealed
        && is_whole
        && part.is_some_and(|part| {
            part.next_sequence == segment.last.saturating_add(1) && hex(part.last_hash) == segment.head
        }))
}

/// A backup that is not written meanwhile; a copy of one may have no lock.
fn lock(from: &Path) -> Result<Option<DataDir>, BackupError> {
    let locked = if from.join("LOCK").exists() { Some(patiently(|| DataDir::read_only(from))?) } else { None };
    DataDir::check_whole(from)?;
    Ok(locked)
}

/// Makes a data directory of a backup. The first start there makes store and known ids again. Blocks.
pub fn restore(from: &Path, to: &Path, until: Until) -> Result<Restored, BackupError> {
    let _read_only = lock(from)?;
    let manifest = check_files(from)?;
    match until {
        Until::Sequence(asked) if asked > manifest.sequence => {
            return Err(BackupError::Beyond { last: manifest.sequence });
        }
        _ => {}
    }
    let to = &place(to)?;
    // Beside its place until it is whole: a part of a ledger looks like a ledger.
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    let unfinished = to.with_file_name(name);
    let _own = DataDir::create(&unfinished)?;
    empty(&unfinished).map_err(io_error(&unfinished))?;
    let restored = copy(from, &unfinished, &manifest, until)?;
    if restored.segments == 0 && !manifest.segments.is_empty() {
        fs::remove_dir_all(&unfinished).map_err(io_error(&unfinished))?;
        return Err(BackupError::Before);
    }
    fs::rename(&unfinished, to).map_err(io_error(to))?;
    sync_directory(to.parent().unwrap_or(to)).map_err(io_error(to))?;
    Ok(restored)
}

/// Where a restore is to be, by its own name, which another directory can take.
fn place(to: &Path) -> Result<PathBuf, BackupError> {
    if fs::symlink_metadata(to).is_err() {
        return Ok(to.to_owned());
    }
    let place = to.canonicalize().map_err(io_error(to))?;
    if fs::read_dir(&place).map_err(io_error(to))?.next().is_some() {
        return Err(BackupError::NotEmpty(to.to_owned()));
    }
    let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).map_err(io_error(to));
    match place.parent() {
        Some(above) if device(above)? == device(&place)? => Ok(place),
        _ => Err(BackupError::MountPoint(to.to_owned())),
    }
}

/// Removes what an earlier restore left.
fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != "LOCK" {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, manifest: &Manifest, until: Until) -> Result<Restored, BackupError> {
    let mut restored = Restored { sequence: 0, last_time_ns: 0, segments: 0, backup_sequence: manifest.sequence };
    let statements = to.join("statements");
    fs::create_dir_all(&statements).map_err(io_error(&statements))?;
    for name in &manifest.statements {
        let path = from.join("statements").join(name);
        let bytes = fs::read(&path).map_err(io_error(&path))?;
        if blake3::hash(&bytes).to_hex().as_str() != name {
            return Err(BackupError::Changed { path, what: "its bytes are not those of its name" });
        }
        write_file(&statements.join(name), &bytes, 0)?;
    }
    let journal = to.join("journal");
    fs::create_dir_all(&journal).map_err(io_error(&journal))?;
    for segment in &manifest.segments {
        let path = segment_path(from, segment.number);
        let bytes = fs::read(&path).map_err(io_error(&path))?;
        // It was compared before; what is believed is what was read now.
        let is_end = || head_at(&bytes, segment.last).is_some_and(|head| hex(head) == segment.head);
        if blake3::hash(&bytes).to_hex().as_str() != segment.blake3 && !is_end() {
            return Err(BackupError::Changed { path, what: "it has other bytes" });
        }
        let changed = || BackupError::Changed { path: path.clone(), what: "it has no sound header" };
        let (kept, is_all) =
            cut_after(&bytes, |sequence, time_ns| sequence <= manifest.sequence && until.keeps(sequence, time_ns))
                .ok_or_else(changed)?;
        let part = sound_part(&kept).ok_or_else(changed)?;
        // A segment that holds nothing is never left.
        if part.next_sequence > part.base_sequence {
            write_file(&segment_path(to, segment.number), &kept, part.segment_bytes)?;
            (restored.sequence, restored.last_time_ns) = (part.next_sequence.saturating_sub(1), part.last_time_ns);
            restored.segments = restored.segments.saturating_add(1);
        }
        if !is_all {
            break;
        }
    }
    sync_directory(to).map_err(io_error(to))?;
    Ok(restored)
}
