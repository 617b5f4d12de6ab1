//! A server in a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// A spawned server; killed when dropped without [`Self::stop`].
#[derive(Debug)]
pub(crate) struct Spawned {
    child: Child,
    pub(crate) address: String,
    pub(crate) operations: String,
    data_dir: PathBuf,
    /// Removed with the server.
    _temporary: Option<tempfile::TempDir>,
}

/// What the server used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct ServerUse {
    /// Resident memory at the end, bytes.
    pub(crate) rss_bytes: u64,
    /// Resident memory when the accounts were open and nothing had been transferred, bytes.
    pub(crate) opened_rss_bytes: u64,
    /// Room taken in the data directory after the server stopped, bytes.
    pub(crate) disk_bytes: u64,
    /// Bytes handed to the disk.
    pub(crate) written_bytes: u64,
    /// Processor time, seconds.
    pub(crate) cpu_s: f64,
    /// Open files and connections.
    pub(crate) files: u64,
}

#[derive(Debug, Deserialize)]
struct Told {
    listen: String,
    operations_listen: String,
}

/// What is started as a server: the program that `HENG_PROGRAM` names, which is that of an installation, or else the server in this very program.
pub(crate) fn server_program() -> std::io::Result<PathBuf> {
    std::env::var_os("HENG_PROGRAM").map_or_else(std::env::current_exe, |program| Ok(program.into()))
}

/// How a server is started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How<'a> {
    /// Shards; 0 for as many as there are processors.
    pub(crate) shards: usize,
    pub(crate) policy: Option<&'a str>,
    /// More arguments.
    pub(crate) more: &'a [&'a str],
    /// More variables of its environment.
    pub(crate) environment: &'a [(&'a str, String)],
}

/// How many errors of a server are told when a run with it fails.
const ERRORS_TOLD: usize = 3;

/// A server that was just started; nobody waits until it is ready.
#[derive(Debug)]
pub(crate) struct Starting {
    child: Child,
    log: PathBuf,
}

impl Starting {
    pub(crate) fn new(data_dir: &Path, how: How<'_>) -> anyhow::Result<Self> {
        let How { shards, policy, more, environment } = how;
        let policy_file = data_dir.join("policy.toml");
        std::fs::write(&policy_file, policy.unwrap_or_default())?;
        let log = data_dir.join("server.log");
        let child = Command::new(server_program()?)
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--operations-listen", "127.0.0.1:0"])
            .args(["--development-key", "true", "--shards", &shards.to_string(), "--data-dir"])
            .arg(data_dir)
            .arg("--policy-file")
            .arg(&policy_file)
            .args(more)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start the server")?;
        Ok(Self { child, log })
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) -> anyhow::Result<()> {
        signal(&self.child, name)
    }

    /// Ends it at once, and waits for that.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn signal(child: &Child, name: &str) -> anyhow::Result<()> {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status()?;
    anyhow::ensure!(sent.success(), "cannot send {name} to the server");
    Ok(())
}

impl Spawned {
    /// Starts a server and waits until it is ready.
    pub(crate) fn start(data_dir: Option<&Path>, shards: usize, policy: Option<&str>) -> anyhow::Result<Self> {
        Self::start_with(data_dir, How { shards, policy, ..How::default() })
    }

    /// The same, in any way.
    pub(crate) fn start_with(data_dir: Option<&Path>, how: How<'_>) -> anyhow::Result<Self> {
        let temporary = if data_dir.is_some() {
            None
        } else {
            Some(tempfile::tempdir().context("cannot make a temporary directory")?)
        };
        let data_dir = match (data_dir, &temporary) {
            (Some(directory), _) => directory.to_owned(),
            (None, Some(temporary)) => temporary.path().join("data"),
            (None, None) => anyhow::bail!("no data directory"),
        };
        std::fs::create_dir_all(&data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
        let Starting { mut child, log } = Starting::new(&data_dir, how)?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let told: Result<Told, _> = serde_json::from_str(&line);
        let Ok(Told { listen, operations_listen }) = told else {
            let ended = child.wait()?;
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            anyhow::bail!("the server did not start ({ended}); it said:\n{said}");
        };
        Ok(Self { child, address: listen, operations: operations_listen, data_dir, _temporary: temporary })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) -> anyhow::Result<()> {
        signal(&self.child, name)
    }

    /// A failure with the last errors in the server's log, of which it mostly comes, for instance of a disk that is full.
    pub(crate) fn explain(&self, err: anyhow::Error) -> anyhow::Error {
        let log = std::fs::read_to_string(self.data_dir.join("server.log")).unwrap_or_default();
        let errors: Vec<_> = log.lines().filter(|line| line.contains(r#""level":"ERROR""#)).collect();
        let last = errors.get(errors.len().saturating_sub(ERRORS_TOLD)..).unwrap_or_default();
        if last.is_empty() { err } else { err.context(format!("the server said:\n{}", last.join("\n"))) }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_some())
    }

    /// Asks it to drain, waits for its end, and says what it used.
    pub(crate) fn stop(mut self) -> anyhow::Result<ServerUse> {
        let mut used = self.used();
        signal(&self.child, "TERM")?;
        let ended = self.child.wait()?;
        anyhow::ensure!(
            ended.success(),
            "the server ended with {ended}; see {}",
            self.data_dir.join("server.log").display()
        );
        used.disk_bytes = disk_bytes(&self.data_dir);
        Ok(used)
    }

    /// Room taken in its data directory.
    pub(crate) fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.data_dir)
    }

    /// What it used so far, but for the room in the data directory.
    pub(crate) fn used(&self) -> ServerUse {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let number_after = |file: &str, key: &str| {
            let text = std::fs::read_to_string(proc.join(file)).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let cpu = std::fs::read_to_string(proc.join("stat")).ok().and_then(|text| {
            let mut fields = text.rsplit(") ").next()?.split(' ').skip(11);
            let user: u32 = fields.next()?.parse().ok()?;
            let system: u32 = fields.next()?.parse().ok()?;
            // Ticks are hundredths of a second on every Linux that user space sees.
            Some((f64::from(user) + f64::from(system)) / 100.0)
        });
        ServerUse {
            rss_bytes: number_after("status", "VmRSS:").unwrap_or(0).saturating_mul(1_024),
            opened_rss_bytes: 0,
            disk_bytes: 0,
            written_bytes: number_after("io", "write_bytes:").unwrap_or(0),
            cpu_s: cpu.unwrap_or(0.0),
            files: std::fs::read_dir(proc.join("fd")).map_or(0, |open| u64::try_from(open.count()).unwrap_or(0)),
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // After `stop` it has ended and this does nothing.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// Room taken by all files below; those that vanish meanwhile take none.
fn disk_bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let own = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks().saturating_mul(512),
        Err(_) => 0,
    });
    own.sum()
}
