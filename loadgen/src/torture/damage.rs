//! Damage to the files of a stopped server: a flipped bit, a page of zeros, an end cut off.
//!
//! The newest end of the journal is spared: damage there looks like a write that a crash cut off, which recovery rightly cuts.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Bytes before the end of the journal that are spared: more than any group of the load.
const SPARED_BYTES: u64 = 64 << 10;

const PAGE_BYTES: u64 = 4_096;

/// How often a segment is damaged where it begins: in its header, or that of its first group.
const HEADERS: f64 = 0.25;
const HEADER_BYTES: u64 = 256;

/// What was done, and how to undo it.
#[derive(Debug)]
pub(crate) struct Damage {
    path: PathBuf,
    at: u64,
    was: Vec<u8>,
    length: u64,
    /// All of it, as it was; nothing of files that are large.
    whole: Vec<u8>,
    pub(crate) what: String,
}

/// Damages one file of a data directory; none when there is nothing to damage.
pub(crate) fn damage(data: &Path, rng: &mut StdRng) -> anyhow::Result<Option<Damage>> {
    let mut kinds = Vec::new();
    for kind in ["journal", "store", "store/lives", "ids", "statements", "payouts"] {
        let mut files = Vec::new();
        list(&data.join(kind), &mut files)?;
        files.retain(|(_, usable)| *usable > 0);
        if !files.is_empty() {
            kinds.push(files);
        }
    }
    let notes = ["store.reached", "store.used"].map(|name| data.join(name));
    let notes = notes.into_iter().filter_map(|path| Some((path.metadata().ok()?.len(), path)));
    let notes: Vec<_> = notes.filter(|(length, _)| *length > 0).map(|(length, path)| (path, length)).collect();
    if !notes.is_empty() {
        kinds.push(notes);
    }
    // Each kind of file as often as the others.
    let Some(files) = kinds.choose(rng) else { return Ok(None) };
    let Some((path, usable)) = files.choose(rng) else { return Ok(None) };
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    // What begins a segment decides whether it is one; of all its bytes it is few.
    let is_segment = path.extension().is_some_and(|extension| extension == "journal");
    let among = if is_segment && rng.random_bool(HEADERS) { (*usable).min(HEADER_BYTES) } else { *usable };
    let at = rng.random_range(0..among);
    let name = path.strip_prefix(data).unwrap_or(path).display().to_string();
    let (at, count, what) = match rng.random_range(0..3_u8) {
        0 => (at, 1, format!("{name}: a bit flipped at byte {at}")),
        1 => {
            let at = at.checked_div(PAGE_BYTES).unwrap_or(0).saturating_mul(PAGE_BYTES);
            (at, PAGE_BYTES.min(usable.saturating_sub(at)), format!("{name}: a page of zeros at byte {at}"))
        }
        _ => (at, length.saturating_sub(at), format!("{name}: cut off at byte {at} of {length}")),
    };
    let mut was = vec![0; usize::try_from(count)?];
    file.read_exact_at(&mut was, at)?;
    let mut damage = Damage { path: path.clone(), at, was, length, whole: Vec::new(), what };
    if damage.is_beside() {
        damage.whole = fs::read(path)?;
    }
    if damage.what.contains("cut off") {
        file.set_len(at)?;
    } else {
        let bytes: Vec<u8> = match damage.was.as_slice() {
            [one] => vec![one ^ (1 << rng.random_range(0..8_u8))],
            page => vec![0; page.len()],
        };
        file.write_all_at(&bytes, at)?;
    }
    file.sync_all()?;
    Ok(Some(damage))
}

impl Damage {
    /// Whether the file is the journal, which nothing else can replace.
    pub(crate) fn is_of_journal(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "journal")
    }

    /// Whether the file is the store's index of histories.
    pub(crate) fn is_of_histories(&self) -> bool {
        self.path.ends_with("store/index")
    }

    /// Whether it is a file of the back office: a statement, or a payout file with its manifest.
    pub(crate) fn is_beside(&self) -> bool {
        let directory = self.path.parent();
        directory.is_some_and(|directory| directory.ends_with("statements") || directory.ends_with("payouts"))
    }

    /// That file, and all that was in it.
    pub(crate) fn file(&self) -> (&Path, &[u8]) {
        (&self.path, &self.whole)
    }

    /// Puts the bytes back, as from a backup.
    pub(crate) fn undo(&self) -> anyhow::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all_at(&self.was, self.at)?;
        file.set_len(self.length.max(file.metadata()?.len()))?;
        file.sync_all()?;
        Ok(())
    }
}

/// All files below a directory, with how many of their bytes may be damaged.
fn list(directory: &Path, files: &mut Vec<(PathBuf, u64)>) -> anyhow::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "journal") {
            files.push((path, 0));
        } else if path
            .extension()
            .is_none_or(|extension| !["tmp", "part", "damaged"].iter().any(|other| extension == *other))
        {
            files.push((path, entry.metadata()?.len()));
        }
    }
    // Segments are in order of their names; those that hold nothing yet are all zeros.
    let mut segments: Vec<_> =
        files.iter_mut().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "journal")).collect();
    segments.sort();
    let mut spared = SPARED_BYTES;
    for (path, usable) in segments.into_iter().rev() {
        let used = used_bytes(path)?;
        *usable = used.saturating_sub(spared);
        spared = spared.saturating_sub(used);
    }
    Ok(())
}

/// The length of a file without the zeros at its end.
fn used_bytes(path: &Path) -> anyhow::Result<u64> {
    let file = File::open(path)?;
    let mut end = file.metadata()?.len();
    let mut page = vec![0; 1 << 16];
    while end > 0 {
        let from = end.saturating_sub(u64::try_from(page.len())?);
        let bytes = page.get_mut(..usize::try_from(end.saturating_sub(from))?).unwrap_or_default();
        file.read_exact_at(bytes, from)?;
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            return Ok(from.saturating_add(u64::try_from(last)?).saturating_add(1));
        }
        end = from;
    }
    Ok(0)
}
