//! Backups: copies of what cannot be made again from anything else, while a server writes it; what is restored from them; and a ledger taken over from a server
//! that cannot be ended, which is copied likewise.
//!
//! A backup is a directory like a data directory with a manifest, which `heng verify` and `heng check` read as they read any other:
//!
//! ```text
//! manifest.json         what is here: each segment with its hash, its records and the head of the hash chain
//! journal/              segments
//! statements/           imported statements, under their hashes
//! ```
//!
//! Segments are only ever written at their end, group after group. So those before the last are copied once, and of the last whatever is sound: each
//! group vouches for itself and for all before it. What was read is synced at its source before it is kept, so a backup is never ahead of its ledger.
//!
//! # Invariants
//!
//! 1. The manifest is written last: a backup that was interrupted is the one before it, and what it left is made again.
//! 2. A backup goes on only if the ledger is the one that it was made of, by the hash chain; nothing of it is written over before that is known.
//! 3. What it has, it keeps: also statements that the data directory has lost.
//! 4. It has all that its ledger has, or there is none: where the journal ends is where recovery finds its end. Damage is never taken for that.
//!
//! # Not here
//!
//! Store and known ids (made again from the journal), payout files (they follow from it), configuration and policy file (the policy in force is in the journal).

mod error;
mod restore;
mod take_over;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::{DataDir, DataDirError};
use crate::journal::{Beginning, Disk, FileDisk, SegmentPart, beginning, head_at, sound_part, sync_directory};
use crate::ledger::Sequence;
use crate::store::reached;

pub use error::BackupError;
use error::io_error;
pub use restore::{Restored, Until, check, restore};
pub use take_over::take_over;

/// The format of the manifest.
const FORMAT: u32 = 1;

/// Times that a segment is read which does not look sound.
const READS: usize = 5;

/// A segment in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentCopy {
    /// Its number.
    pub number: u64,
    /// Sequence of its first record.
    pub first: Sequence,
    /// Sequence of its last record.
    pub last: Sequence,
    /// BLAKE3 of the file, hexadecimal.
    pub blake3: String,
    /// Hash of its last group, hexadecimal.
    pub head: String,
    /// Whether later ones follow, so that it never changes again.
    pub sealed: bool,
}

/// What is in a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this file.
    pub format: u32,
    /// Sequence of the last record.
    pub sequence: Sequence,
    /// The segments, in order.
    pub segments: Vec<SegmentCopy>,
    /// Names of statements, which are the BLAKE3 of their bytes.
    pub statements: Vec<String>,
}

/// What making a backup came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Made {
    /// Sequence of its last record.
    pub sequence: Sequence,
    /// Segments copied now.
    pub segments_copied: usize,
    /// Segments that were there.
    pub segments_kept: usize,
    /// Statements copied now.
    pub statements_copied: usize,
    /// Statements whose bytes are not those of their name, nor has the backup them: left out.
    pub statements_damaged: usize,
    /// Statements that the backup has, and the data directory has not any more.
    pub statements_missing: usize,
    /// Bytes written.
    pub bytes: u64,
}

impl Manifest {
    /// Of a backup that has nothing yet.
    fn empty() -> Self {
        Self { format: FORMAT, ..Self::default() }
    }

    fn path(directory: &Path) -> PathBuf {
        DataDir::manifest(directory)
    }

    /// Where its segments end: number, sequence and hash of the last group of each.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (u64, Sequence, [u8; 32])> + '_ {
        let hash = |segment: &SegmentCopy| blake3::Hash::from_hex(&segment.head).map(|head| *head.as_bytes());
        self.segments.iter().filter_map(move |segment| Some((segment.number, segment.last, hash(segment).ok()?)))
    }

    /// Reads the manifest of a backup; none when there is none yet.
    pub fn read(directory: &Path) -> Result<Option<Self>, BackupError> {
        let path = Self::path(directory);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(io_error(&path)(err)),
        };
        let read: Self = serde_json::from_slice(&text)
            .map_err(|err| BackupError::Manifest { path: path.clone(), what: err.to_string() })?;
        if read.format != FORMAT {
            let what = format!("it has format {}, this program reads {FORMAT}", read.format);
            return Err(BackupError::Manifest { path, what });
        }
        Ok(Some(read))
    }

    fn write(&self, directory: &Path) -> Result<(), BackupError> {
        let path = Self::path(directory);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|err| BackupError::Manifest { path: path.clone(), what: err.to_string() })?;
        write_file(&path, &text, 0)
    }
}

/// Writes a file whole and durably, with zeros up to a length, or leaves what was there.
fn write_file(path: &Path, bytes: &[u8], len: u64) -> Result<(), BackupError> {
    let unfinished = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&unfinished)?;
        io::Write::write_all(&mut file, bytes)?;
        if len > u64::try_from(bytes.len()).unwrap_or(u64::MAX) {
            file.set_len(len)?;
        }
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        sync_directory(path.parent().unwrap_or(path))
    };
    write().map_err(io_error(path))
}

/// How long another backup, check or restore of the same directory is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Takes a directory, waiting a little for whoever has it.
fn patiently(take: impl Fn() -> Result<DataDir, DataDirError>) -> Result<DataDir, DataDirError> {
    let begun = Instant::now();
    loop {
        match take() {
            Err(DataDirError::InUse(_)) if begun.elapsed() < LOCK_WAIT => {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            taken => return taken,
        }
    }
}

fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join("journal").join(format!("{number:012}.journal"))
}

fn hex(hash: [u8; 32]) -> String {
    blake3::Hash::from_bytes(hash).to_hex().to_string()
}

/// Makes or continues a backup of a data directory, whose server may be running. Blocks while it reads and writes: about as long as a copy of what is new.
pub fn backup(data: &Path, to: &Path) -> Result<Made, BackupError> {
    let source = data.join("journal");
    if !source.is_dir() {
        return Err(DataDirError::Missing(data.to_owned()).into());
    }
    DataDir::check_not_fenced(data)?;
    // One at a time, and never into a directory that a server uses.
    let _own = patiently(|| DataDir::take(to))?;
    if DataDir::was_served(to) {
        return Err(BackupError::Served(to.to_owned()));
    }
    if DataDir::heir_of(to)?.is_some_and(|from| data.canonicalize().is_ok_and(|data| data == Path::new(&from))) {
        // That came to nothing before anything was given up: it is a backup again.
        DataDir::end_heir(to)?;
    }
    DataDir::check_whole(to)?;
    // Once more at the end: what came after it was given up is not of the ledger.
    copy(data, to, || DataDir::check_not_fenced(data))
}

/// Copies what is new, which becomes a backup if it still may.
fn copy(data: &Path, to: &Path, may: impl Fn() -> Result<(), DataDirError>) -> Result<Made, BackupError> {
    let known = Manifest::read(to)?.unwrap_or_default();
    fs::create_dir_all(to.join("journal")).map_err(io_error(to))?;
    let mut made = Made::default();
    let mut manifest = Manifest::empty();
    // Asked before the journal is looked at: so much of it was durable then.
    let durable = reached(&data.join("store")).map_err(io_error(data))?;
    copy_segments(data, to, &known, &mut manifest, &mut made)?;
    shorter(&manifest, &known)?;
    if manifest.sequence < durable {
        return Err(BackupError::Lost { path: data.to_owned(), ledger: manifest.sequence, reached: durable });
    }
    // After the journal: a statement is kept before the record that names it is written.
    copy_statements(data, to, &known, &mut manifest, &mut made)?;
    may()?;
    manifest.write(to)?;
    made.sequence = manifest.sequence;
    Ok(made)
}

/// Whether a ledger has all that its backup has.
fn shorter(manifest: &Manifest, known: &Manifest) -> Result<(), BackupError> {
    if manifest.sequence < known.sequence {
        return Err(BackupError::Shorter { ledger: manifest.sequence, backup: known.sequence });
    }
    Ok(())
}

fn copy_segments(
    data: &Path,
    to: &Path,
    known: &Manifest,
    manifest: &mut Manifest,
    made: &mut Made,
) -> Result<(), BackupError> {
    let numbers = FileDisk::read_only(&data.join("journal")).list().map_err(io_error(data))?;
    for (number, expected) in numbers.iter().zip(1..) {
        if *number != expected {
            return Err(BackupError::Missing(segment_path(data, expected)));
        }
    }
    let another = || BackupError::AnotherLedger(to.to_owned());
    let mut head = hex([0; 32]);
    for (place, &number) in numbers.iter().enumerate() {
        let path = segment_path(data, number);
        let before = known.segments.get(place).filter(|copy| copy.number == number);
        // Asked before this one is read: what was the last one then may grow until the next one is begun.
        let next = numbers.get(place.saturating_add(1)).map(|next| read_start(&segment_path(data, *next)));
        let next = next.transpose()?.flatten();
        if let Some(kept) = before.filter(|copy| copy.sealed && segment_path(to, copy.number).is_file())
            // By the chain it is what it was, from its beginning to its end.
            && next.is_some_and(|next| hex(next.previous_hash) == kept.head)
            && read_start(&path)?.is_some_and(|part| hex(part.previous_hash) == head)
        {
            head.clone_from(&kept.head);
            (made.segments_kept, manifest.sequence) = (made.segments_kept.saturating_add(1), kept.last);
            manifest.segments.push(kept.clone());
            continue;
        }
        let (bytes, part) = read_part(&path)?;
        let Some(part) = part else {
            // Only made ready; but one that was begun before, or that another follows, has lost what it had.
            if before.is_some() || next.is_some() {
                return Err(BackupError::Damaged { path, offset: 0 });
            }
            nothing_follows(data, &numbers, place)?;
            break;
        };
        if next.is_some() && !part.is_whole {
            return Err(BackupError::Damaged { path, offset: part.end });
        }
        // Segments are made at their full length: what is shorter was cut off.
        if u64::try_from(bytes.len()).is_ok_and(|length| length < part.segment_bytes) {
            return Err(BackupError::Damaged { path, offset: bytes.len() });
        }
        if hex(part.previous_hash) != head {
            return Err(if known.segments.is_empty() { BackupError::Damaged { path, offset: 0 } } else { another() });
        }
        if let Some(before) = before {
            match head_at(&bytes, before.last).map(hex) {
                Some(head) if head == before.head => {}
                None if !part.is_whole => return Err(BackupError::Damaged { path, offset: part.end }),
                _ => return Err(another()),
            }
        }
        manifest.sequence = part.next_sequence.saturating_sub(1);
        // Another one followed it, and nothing more could come into it.
        if before.is_some_and(|before| before.sealed && before.last != manifest.sequence) {
            return Err(another());
        }
        if next.is_none() {
            nothing_follows(data, &numbers, place)?;
            shorter(manifest, known)?;
        }
        head = hex(part.last_hash);
        let used = bytes.get(..part.end).unwrap_or_default();
        let target = segment_path(to, number);
        write_file(&target, used, part.segment_bytes)?;
        made.segments_copied = made.segments_copied.saturating_add(1);
        made.bytes = made.bytes.saturating_add(u64::try_from(used.len()).unwrap_or(u64::MAX));
        manifest.segments.push(copy_of(&part, &target)?);
        if next.is_none() {
            break;
        }
    }
    // Of the last one more may come, also where what follows it has nothing but its header yet, and may be begun anew.
    if let Some(last) = manifest.segments.last_mut() {
        last.sealed = false;
    }
    Ok(())
}

/// An error where the segment in a place is not the last one that was written to, although the next has no header: what recovery would refuse is not copied
/// as if it ended there. What is being written while it is looked at is looked at again.
fn nothing_follows(data: &Path, numbers: &[u64], place: usize) -> Result<(), BackupError> {
    let mut found = Ok(());
    for _ in 0..READS {
        found = nothing_follows_now(data, numbers.get(place.saturating_add(1)..).unwrap_or_default());
        if found.is_ok() {
            break;
        }
    }
    found
}

fn nothing_follows_now(data: &Path, later: &[u64]) -> Result<(), BackupError> {
    for (place, number) in later.iter().enumerate() {
        let path = segment_path(data, *number);
        match beginning(&fs::read(&path).map_err(io_error(&path))?) {
            Beginning::Blank => {}
            // It was begun meanwhile, and is for the next backup.
            Beginning::Header if place == 0 => return Ok(()),
            Beginning::Torn if place == 0 => {}
            Beginning::Header | Beginning::Torn | Beginning::Damaged => {
                return Err(BackupError::Damaged { path, offset: 0 });
            }
        }
    }
    Ok(())
}

/// Reads a segment and its sound groups; none when no group was written there yet, or the first one was torn. What is being written while it is read looks like damage, so that is
/// looked at again.
fn read_part(path: &Path) -> Result<(Vec<u8>, Option<SegmentPart>), BackupError> {
    let mut offset = 0;
    for _ in 0..READS {
        let bytes = read_durable(path)?;
        let begun = sound_part(&bytes);
        let part = begun.filter(|part| part.next_sequence > part.base_sequence);
        if begun.map_or_else(|| beginning(&bytes) == Beginning::Blank, |part| !part.goes_on) {
            return Ok((bytes, part));
        }
        offset = part.map_or(0, |part| part.end);
    }
    Err(BackupError::Damaged { path: path.to_owned(), offset })
}

/// What is told of a segment that another one follows.
fn copy_of(part: &SegmentPart, path: &Path) -> Result<SegmentCopy, BackupError> {
    Ok(SegmentCopy {
        number: part.number,
        first: part.base_sequence,
        last: part.next_sequence.saturating_sub(1),
        blake3: hash_file(path)?,
        head: hex(part.last_hash),
        sealed: true,
    })
}

/// The header of a segment, if it has one.
fn read_start(path: &Path) -> Result<Option<SegmentPart>, BackupError> {
    let mut start = vec![0; 128];
    let mut file = File::open(path).map_err(io_error(path))?;
    match io::Read::read_exact(&mut file, &mut start) {
        Ok(()) => Ok(sound_part(&start)),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(err) => Err(io_error(path)(err)),
    }
}

/// Reads a file, and makes what was read durable: a server that writes it may not have synced it yet.
fn read_durable(path: &Path) -> Result<Vec<u8>, BackupError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    File::open(path).and_then(|file| file.sync_data()).map_err(io_error(path))?;
    Ok(bytes)
}

fn hash_file(path: &Path) -> Result<String, BackupError> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(io_error(path))?;
    io::copy(&mut file, &mut hasher).map_err(io_error(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn copy_statements(
    data: &Path,
    to: &Path,
    known: &Manifest,
    manifest: &mut Manifest,
    made: &mut Made,
) -> Result<(), BackupError> {
    let (source, target) = (data.join("statements"), to.join("statements"));
    fs::create_dir_all(&target).map_err(io_error(&target))?;
    let is_kept = |name: &String| hash_file(&target.join(name)).ok().as_ref() == Some(name);
    let entries = if source.is_dir() { Some(fs::read_dir(&source).map_err(io_error(&source))?) } else { None };
    for entry in entries.into_iter().flatten() {
        let name = entry.map_err(io_error(&source))?.file_name().to_string_lossy().into_owned();
        if blake3::Hash::from_hex(&name).is_err() {
            continue;
        }
        if !is_kept(&name) {
            let bytes = fs::read(source.join(&name)).map_err(io_error(&source))?;
            if blake3::hash(&bytes).to_hex().as_str() != name {
                // Its lines are left out by the server too, until it is put back.
                made.statements_damaged = made.statements_damaged.saturating_add(1);
                continue;
            }
            write_file(&target.join(&name), &bytes, 0)?;
            made.statements_copied = made.statements_copied.saturating_add(1);
        }
        manifest.statements.push(name);
    }
    manifest.statements.sort();
    let missing = known.statements.iter().filter(|name| manifest.statements.binary_search(name).is_err());
    let missing: Vec<String> = missing.filter(|name| is_kept(name)).cloned().collect();
    made.statements_missing = missing.len();
    manifest.statements.extend(missing);
    manifest.statements.sort();
    Ok(())
}
