//! Logs by `tracing`, and what a panic does.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends logs to standard error. `filter` is like `info` or `heng=debug`. The first call of a process counts.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|err| err.to_string())?;
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // A line that cannot be written is lost: telling that on the same standard error would panic, and a server must not end with its terminal, its
    // log's pipe, or the room for its log.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let builder = builder.log_internal_errors(false);
    let done = if json { builder.json().flatten_event(true).try_init() } else { builder.with_target(false).try_init() };
    done.map_err(|err| err.to_string())
}

/// An error and its causes as one line.
pub fn chain(err: &dyn std::error::Error) -> String {
    std::iter::successors(Some(err), |err| err.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// How many calls of [`guard_panics`] are running.
static GUARDED: AtomicUsize = AtomicUsize::new(0);

/// From now on a panic on any thread ends the process, so that it stops whole: half a server is worse than none. The journal
/// is right at every moment; the next start recovers from it.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if GUARDED.load(Ordering::SeqCst) == 0 {
            tracing::error!(%panic, "panic, aborting");
            std::process::abort();
        }
    }));
}

/// Runs something whose panics are errors and not the end: opening a store that may be damaged. Threads that it starts are
/// covered while it runs.
pub fn guard_panics<T>(work: impl FnOnce() -> T + std::panic::UnwindSafe) -> std::thread::Result<T> {
    GUARDED.fetch_add(1, Ordering::SeqCst);
    let result = std::panic::catch_unwind(work);
    GUARDED.fetch_sub(1, Ordering::SeqCst);
    result
}
