//! The disk under the journal: a few calls, so that tests can put a failing one there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;

use super::guard::Guard;

/// Zeros are written in pieces of this size. The page cache keeps what one call wrote as one folio, and a sync of a few bytes in it writes the
/// whole folio: with pieces of 1 MiB each small group wrote 1 MiB to the disk. Smaller pieces make large groups slower.
const FILL_BYTES: usize = 64 << 10;

/// Bytes of them after which they are synced, so that no group waits long behind them.
const FILL_SYNC_BYTES: u64 = 1 << 20;

/// Segments kept open; a long history has more than a process may open.
const OPEN_FILES_MAX: usize = 64;

/// Of these, the newest stay open: an error of the disk is told to the files that were open when it came, so what is written by one must be synced by the same.
const NEWEST_OPEN: u64 = 2;

/// Numbered segment files.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// The numbers that exist, in order.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// Makes a segment of this many zero bytes, durable with its directory entry. `breathe` is told now and then how many there are.
    fn create(&self, number: u64, bytes: u64, breathe: &dyn Fn(u64)) -> io::Result<()>;
    /// Its length in bytes.
    fn size(&self, number: u64) -> io::Result<u64>;
    /// Reads up to the length of `buffer`; fewer bytes only at the end of the file.
    fn read_at(&self, number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes`. Not durable before [`Self::sync`].
    fn write_at(&self, number: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all that was written to the segment is durable.
    fn sync(&self, number: u64) -> io::Result<()>;
    /// Returns when the directory entries of all segments are durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Lets the cache of the operating system go of a range of a segment that is durable and hardly read again (`0..0`: of all of it); it only
    /// costs time if it is.
    fn cool(&self, number: u64, range: Range<u64>);
    /// What to call the segment in messages.
    fn name(&self, number: u64) -> String;
    /// Whether the segments are still this process's to write: another may have taken them over while it stood still.
    fn is_ours(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Segments as files of a directory.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    writable: bool,
    guard: Option<Guard>,
    files: Mutex<HashMap<u64, Arc<File>>>,
}

impl FileDisk {
    /// Uses a directory, making it if there is none; that it is there is durable, also if somebody else made it.
    pub fn create(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        if let Some(parent) = directory.parent() {
            sync_directory(parent)?;
        }
        Ok(Self { directory: directory.to_owned(), writable: true, guard: None, files: Mutex::default() })
    }

    /// Held by a file that another may put its own in the stead of.
    #[must_use]
    pub fn guarded(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// Uses a directory without ever writing there.
    pub fn read_only(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), writable: false, guard: None, files: Mutex::default() }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:012}.journal"))
    }

    fn open(&self, number: u64) -> io::Result<Arc<File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(self.writable).open(self.path(number))?);
        read_what_is_asked_for(&file);
        if files.len() >= OPEN_FILES_MAX {
            let newest = files.keys().copied().max().unwrap_or(0);
            files.retain(|known, _| known.saturating_add(NEWEST_OPEN) > newest);
        }
        files.insert(number, Arc::clone(&file));
        Ok(file)
    }
}

/// Makes a directory's entries durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}

/// Makes a directory that nobody else may look into, if there is none: what is in it are people's payments. One that is there stays as open
/// as who made it wanted it.
pub(crate) fn private_directory(directory: &Path) -> io::Result<()> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(_) if directory.is_dir() => Ok(()),
        made => made,
    }
}

/// Puts a file in its place, durably, wholly or not at all. Blocks.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut half = path.as_os_str().to_owned();
    half.push(".part");
    let mut file = File::create(&half)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&half, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Gives a file a name that none has yet; an error of the kind `AlreadyExists` if one has.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// All of a file, for [`let_cache_go`].
pub(crate) const WHOLE: Range<u64> = 0..0;

/// Tells the operating system that what is durable in a range of a file need not stay in its cache; what is not is begun to be written. What is
/// written once and hardly read pushes out what is read, and in a virtual machine each page of memory that was not used yet costs the time of
/// thirty transfers. A hint: nothing depends on it.
pub(crate) fn let_cache_go(file: &File, range: Range<u64>) {
    let length = NonZeroU64::new(range.end.saturating_sub(range.start));
    if let Err(err) = rustix::fs::fadvise(file, range.start, length, rustix::fs::Advice::DontNeed) {
        tracing::debug!(%err, "the cache was not told that a file is done with");
    }
}

/// Tells the operating system to read no more of a file than it is asked for. What it would read ahead is some megabytes at once, behind which those wait who
/// want something durable. A hint, like the other.
fn read_what_is_asked_for(file: &File) {
    if let Err(err) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random) {
        tracing::debug!(%err, "a file will be read ahead");
    }
}

/// Bytes of a [`Trickle`].
const TRICKLE_BYTES: u64 = 1 << 20;

/// Has the operating system write a file that grows to the disk little by little, and let go of what is there: all at once, when it is synced, would
/// keep the journal's syncs waiting for some hundredths of a second. Nothing is durable by it.
#[derive(Debug, Default)]
pub(crate) struct Trickle {
    /// What is begun to be written, and before that, what is let go.
    begun: u64,
    gone: u64,
}

impl Trickle {
    /// The file is written so far.
    pub(crate) fn written(&mut self, file: &File, until: u64) {
        if until.saturating_sub(self.begun) >= TRICKLE_BYTES {
            let_cache_go(file, self.gone..until);
            (self.gone, self.begun) = (self.begun, until);
        }
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_suffix(".journal")).and_then(|stem| stem.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn create(&self, number: u64, bytes: u64, breathe: &dyn Fn(u64)) -> io::Result<()> {
        let unfinished = self.directory.join("next.tmp");
        let file = File::create(&unfinished)?;
        // All the room at once, so that a full disk is known long before the room is needed.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        let zeros = vec![0; FILL_BYTES];
        let mut offset = 0;
        while offset < bytes {
            let piece = usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(FILL_BYTES);
            file.write_all_at(zeros.get(..piece).unwrap_or_default(), offset)?;
            offset = offset.saturating_add(u64::try_from(piece).unwrap_or(u64::MAX));
            if offset.is_multiple_of(FILL_SYNC_BYTES) {
                file.sync_data()?;
                breathe(offset);
            }
        }
        file.sync_all()?;
        // Never over a segment that is there.
        rename_new(&unfinished, &self.path(number))?;
        sync_directory(&self.directory)
    }

    fn size(&self, number: u64) -> io::Result<u64> {
        Ok(self.open(number)?.metadata()?.len())
    }

    fn read_at(&self, number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.open(number)?;
        let mut filled = 0_usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
            match file.read_at(rest, at) {
                Ok(0) => break,
                Ok(read) => filled = filled.saturating_add(read),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, number: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.open(number)?.write_all_at(bytes, offset)
    }

    fn sync(&self, number: u64) -> io::Result<()> {
        self.open(number)?.sync_data()
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }

    fn cool(&self, number: u64, range: Range<u64>) {
        if let Ok(file) = self.open(number) {
            let_cache_go(&file, range);
        }
    }

    fn name(&self, number: u64) -> String {
        self.path(number).display().to_string()
    }

    fn is_ours(&self) -> io::Result<bool> {
        self.guard.as_ref().map_or(Ok(true), Guard::is_ours)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_written_is_synced_by_the_same_file_however_many_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::create(directory.path()).unwrap();
        let last = u64::try_from(OPEN_FILES_MAX).unwrap() * 2;
        (1..=last).for_each(|number| fs::write(disk.path(number), [0; 8]).unwrap());
        let written = disk.open(last).unwrap();
        for number in 1..last {
            disk.read_at(number, 0, &mut [0; 8]).unwrap();
            assert!(Arc::ptr_eq(&disk.open(last).unwrap(), &written));
        }
        assert!(disk.files.lock().unwrap().len() <= OPEN_FILES_MAX);
    }

    #[test]
    fn a_private_directory_is_for_its_owner_and_one_that_is_there_stays_as_it_is() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let outer = tempfile::tempdir().unwrap();
        let own = outer.path().join("above").join("own");
        private_directory(&own).unwrap();
        assert_eq!(mode(&own), 0o700);
        fs::set_permissions(&own, fs::Permissions::from_mode(0o750)).unwrap();
        private_directory(&own).unwrap();
        assert_eq!(mode(&own), 0o750);
        let file = outer.path().join("file");
        fs::write(&file, []).unwrap();
        assert_eq!(private_directory(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_trickles_to_the_disk_is_what_was_written() {
        let mut file = tempfile::tempfile().unwrap();
        let mut trickle = Trickle::default();
        let piece: Vec<u8> = (0..=u8::MAX).cycle().take(300 << 10).collect();
        for written in 1..=20 {
            file.write_all(&piece).unwrap();
            trickle.written(&file, written * (300 << 10));
            let behind = written * (300 << 10) - trickle.begun;
            assert!(behind < TRICKLE_BYTES && trickle.gone <= trickle.begun, "{trickle:?}");
        }
        let mut read = vec![0; piece.len()];
        for place in 0..20 {
            file.read_exact_at(&mut read, place * (300 << 10)).unwrap();
            assert_eq!(read, piece);
        }
    }
}
