//! Where a server is broken: a directory, a file system whose power can be cut, or one that is too small.
//!
//! The power is cut by shutting a mounted file system down without writing its log, which drops all that no sync has brought to the disk
//! (`FS_IOC_SHUTDOWN`, through `xfs_io`). It needs the right to mount; where that is missing, the faults that need it are skipped, and said so.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

/// Bytes of the image of the file system whose power is cut.
const IMAGE_BYTES: u64 = 2 << 30;

/// MiB of the small file system at first, and how much it grows when it is full.
const SMALL_MIB: u64 = 48;
const SMALL_MORE_MIB: u64 = 32;

/// How long a file system may take to let go.
const UNMOUNT: Duration = Duration::from_secs(10);

/// What is under the directory.
#[derive(Debug)]
enum Ground {
    Plain,
    Image(PathBuf),
    Small(u64),
}

/// How long it takes to be ready for that.
const READY: Duration = Duration::from_millis(50);

/// What cuts the power.
#[derive(Debug)]
pub(crate) struct Switch {
    hand: Child,
    told: ChildStdin,
}

impl Switch {
    /// Cuts it at once.
    pub(crate) fn off(mut self) -> anyhow::Result<()> {
        self.told.write_all(b"shutdown\nquit\n")?;
        drop(self.told);
        let ended = self.hand.wait()?;
        anyhow::ensure!(ended.success(), "xfs_io could not shut the file system down: {ended}");
        Ok(())
    }
}

/// A place for a data directory.
#[derive(Debug)]
pub(crate) struct Site {
    path: PathBuf,
    ground: Ground,
    is_mounted: bool,
}

fn done(name: &str, arguments: &[&dyn AsRef<OsStr>]) -> bool {
    let mut command = Command::new(name);
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

impl Site {
    /// A directory of the file system that is there.
    pub(crate) fn plain(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, ground: Ground::Plain, is_mounted: false })
    }

    /// A file system whose power can be cut, made by `mkfs`; none where it cannot be made and mounted.
    pub(crate) fn image(path: PathBuf, mkfs: &str) -> anyhow::Result<Option<Self>> {
        let image = path.with_extension("image");
        let mut site = Self::plain(path)?;
        std::fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
        let made =
            done(mkfs, &[&"-q", &if mkfs.ends_with("xfs") { "-f" } else { "-F" }, &image]) && done("xfs_io", &[&"-V"]);
        site.ground = Ground::Image(image);
        Ok((made && site.mount()).then_some(site))
    }

    /// A file system that is soon full; none where it cannot be mounted.
    pub(crate) fn small(path: PathBuf) -> anyhow::Result<Option<Self>> {
        let mut site = Self::plain(path)?;
        site.ground = Ground::Small(SMALL_MIB);
        Ok(site.mount().then_some(site))
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path.clone()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn mount(&mut self) -> bool {
        self.is_mounted = match &self.ground {
            Ground::Plain => false,
            Ground::Image(image) => done("mount", &[&"-o", &"loop", image, &self.path]),
            Ground::Small(mib) => {
                done("mount", &[&"-t", &"tmpfs", &"-o", &format!("size={mib}m"), &"tmpfs", &self.path])
            }
        };
        self.is_mounted
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.is_mounted && !done("umount", &[&self.path]) {
            anyhow::ensure!(begun.elapsed() < UNMOUNT, "{} cannot be unmounted", self.path.display());
            super::pause(Duration::from_millis(20));
        }
        self.is_mounted = false;
        Ok(())
    }

    /// Whether its power can be cut.
    pub(crate) fn has_power(&self) -> bool {
        matches!(self.ground, Ground::Image(_))
    }

    /// A hand at the switch: to start a program takes longer than a sync.
    pub(crate) fn switch(&self) -> anyhow::Result<Switch> {
        let mut command = Command::new("xfs_io");
        command.arg("-x").arg(&self.path).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut hand = command.spawn().context("cannot start xfs_io")?;
        let told = hand.stdin.take().context("xfs_io has no input")?;
        super::pause(READY);
        Ok(Switch { hand, told })
    }

    /// From now on nothing reaches the disk any more. The caller ends whoever writes, and then calls [`Self::power_on`].
    pub(crate) fn power_off(&self) -> anyhow::Result<()> {
        self.switch()?.off()
    }

    /// Comes back as after a power cut.
    pub(crate) fn power_on(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        anyhow::ensure!(self.mount(), "the file system at {} does not come back", self.path.display());
        Ok(())
    }

    /// Gives a small file system more room.
    pub(crate) fn grow(&mut self) -> anyhow::Result<()> {
        if let Ground::Small(mib) = &mut self.ground {
            *mib = mib.saturating_add(SMALL_MORE_MIB);
            let grown = done("mount", &[&"-o", &format!("remount,size={mib}m"), &self.path]);
            anyhow::ensure!(grown, "the file system at {} cannot be made larger", self.path.display());
        }
        Ok(())
    }

    /// Empties it for a new ledger.
    pub(crate) fn clear(&mut self) -> anyhow::Result<()> {
        if let Ground::Small(mib) = &mut self.ground {
            *mib = SMALL_MIB;
            self.unmount()?;
            anyhow::ensure!(self.mount(), "{} cannot be mounted again", self.path.display());
        }
        remove(&self.data())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What is still mounted is told by the directory that cannot be removed.
        let _unmounted = self.unmount();
    }
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}
