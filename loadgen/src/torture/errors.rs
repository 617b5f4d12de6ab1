//! I/O errors: `strace` lets a system call of the running server fail with `EIO` instead of doing anything.
//!
//! It is the kernel that answers so, at the boundary that the server cannot look behind: nothing in it knows of the fault. Where `strace` is
//! missing or may not trace another process, the fault is skipped, and said so.

use std::process::{Child, Command, Stdio};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::pause;
use crate::spawn::Spawned;

/// What fails: calls of the journal, of the store, of the id runs, and of what reads them.
const CALLS: [&str; 5] = ["fdatasync", "fsync", "pwrite64", "pread64", "openat"];

/// It is one of so many first calls of a thread that fails.
const CALLS_MAX: u32 = 40;

/// Pause between two looks at a process.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// How often a tracer that is to end is looked at before it is ended.
const LOOKS_MAX: u32 = 50;

/// An error that waits for its call.
#[derive(Debug)]
pub(crate) struct Injected {
    tracer: Child,
    what: String,
}

impl Injected {
    /// Lets a call of a running process fail: of each thread one, or all from that one on.
    pub(crate) fn new(pid: u32, rng: &mut StdRng) -> anyhow::Result<Self> {
        let call = CALLS.choose(rng).copied().unwrap_or("fdatasync");
        let from = rng.random_range(1..=CALLS_MAX);
        let all = if rng.random_bool(0.5) { "+" } else { "" };
        let what = format!("inject={call}:error=EIO:when={from}{all}");
        Ok(Self { tracer: trace(pid, &["-e", &format!("trace={call}"), "-e", &what])?, what })
    }

    /// No more errors; answers with what they were.
    pub(crate) fn end(mut self) -> String {
        // When the traced process is gone, so is the tracer; but one that waits for a thread that is gone too does not hear.
        let _asked = Command::new("kill").args(["-INT", &self.tracer.id().to_string()]).stderr(Stdio::null()).status();
        for _ in 0..LOOKS_MAX {
            if self.tracer.try_wait().is_ok_and(|ended| ended.is_some()) {
                return self.what;
            }
            pause(LOOK);
        }
        let _killed = self.tracer.kill();
        let _ended = self.tracer.wait();
        self.what
    }
}

fn trace(pid: u32, how: &[&str]) -> std::io::Result<Child> {
    let (pid, quiet) = (pid.to_string(), Stdio::null());
    Command::new("strace").args(["-f", "-qq", "-o", "/dev/null"]).args(how).args(["-p", &pid]).stderr(quiet).spawn()
}

/// Whether this machine lets us do that.
pub(crate) fn can_be_made() -> bool {
    let Ok(mut other) = Command::new("sleep").arg("10").spawn() else { return false };
    let is_traced = trace(other.id(), &["-e", "trace=none"]).is_ok_and(|mut tracer| {
        pause(LOOK.saturating_mul(10));
        let is_there = tracer.try_wait().is_ok_and(|ended| ended.is_none());
        let _killed = tracer.kill();
        let _ended = tracer.wait();
        is_there
    });
    let _killed = other.kill();
    let _ended = other.wait();
    is_traced
}

/// Waits until the server ends, at most so long; whether it did.
pub(crate) fn wait_for_end(server: &mut Spawned, at_most: std::time::Duration) -> bool {
    let begun = std::time::Instant::now();
    while !server.has_ended() {
        if begun.elapsed() >= at_most {
            return false;
        }
        pause(LOOK);
    }
    true
}
