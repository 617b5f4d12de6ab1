//! `heng serve`.

use std::path::PathBuf;

use clap::Args;
use rustix::process::{Resource, getrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::{Done, Failure, print, raise_open_files};
use crate::config::{Config, Settings};
use crate::router::BEHIND_APART;
use crate::server::{self, Ready};
use crate::telemetry::{Telemetry, abort_on_panic, init_logs};

/// Where the configuration is when nobody says otherwise.
const DEFAULT_CONFIG: &str = "config/heng.toml";

/// Files beside the connections of gateways: those of the id runs when their merging is behind, of the journal, the store and the operations port.
const OTHER_FILES: usize = BEHIND_APART + 256;

/// Start the server.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ServeCommand {
    /// Configuration file [default: config/heng.toml if it exists].
    #[arg(long, env = "HENG_CONFIG")]
    config: Option<PathBuf>,
    /// Say where the server is as one line of JSON when it is ready.
    #[arg(long)]
    json: bool,
    /// Check the configuration, print what is in force, and end.
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the server until SIGTERM, SIGINT or SIGHUP (its terminal was closed); a second signal ends it at once.
pub fn serve(command: &ServeCommand) -> Done {
    let mut config = configuration(command)?;
    if command.check_config {
        print(&format!("{config:#?}"))?;
        return Ok(true);
    }
    init_logs(config.log_format, &config.log_filter)
        .map_err(|err| Failure::configuration(anyhow::anyhow!("log_filter: {err}")))?;
    abort_on_panic();
    fit_open_files(&mut config);
    let telemetry = Telemetry::default();
    let stop = stop_on_signal()?;
    let (json, shown) = (command.json, config.clone());
    let ready = move |ready: &Ready| {
        // A closed standard output does not stop a server.
        let _printed = print(&if json { describe_json(ready) } else { describe(ready, &shown) });
    };
    match server::run(&config, &telemetry, ready, stop) {
        Ok(()) => Ok(true),
        Err(err) if err.is_configuration() => Err(Failure::configuration(err)),
        Err(err) => Err(err.into()),
    }
}

fn configuration(command: &ServeCommand) -> Result<Config, Failure> {
    let default = PathBuf::from(DEFAULT_CONFIG);
    let path = command.config.clone().or_else(|| default.exists().then_some(default));
    let file = path.map(|path| Settings::read(&path)).transpose().map_err(Failure::configuration)?;
    command.settings.clone().or(file.unwrap_or_default()).resolve().map_err(Failure::configuration)
}

fn describe_json(ready: &Ready) -> String {
    let value = serde_json::json!({
        "listen": ready.listen.to_string(),
        "operations_listen": ready.operations_listen.to_string(),
        "accounts": ready.accounts,
        "sequence": ready.sequence,
        "replayed": ready.replayed,
        "store_rebuilt": ready.store_rebuilt,
        "pid": std::process::id(),
    });
    value.to_string()
}

fn describe(ready: &Ready, config: &Config) -> String {
    let key = if config.development_key { "" } else { " --gateway NAME --key KEY" };
    format!(
        "Heng {version} is ready.
  gateways    {listen} (TCP, protocol {protocol}), {shards} shards
  operations  http://{operations}/metrics  /healthz  /readyz
  data        {data} ({accounts} accounts, ledger sequence {sequence})
Try next, in another terminal:
  heng account open --currency EUR{key}
  heng-loadgen run --target {listen}
Stop with Ctrl-C; what was taken is finished first.",
        version = env!("CARGO_PKG_VERSION"),
        listen = ready.listen,
        protocol = crate::protocol::VERSION,
        shards = config.shards,
        operations = ready.operations_listen,
        data = config.data_dir.display(),
        accounts = ready.accounts,
        sequence = ready.sequence,
    )
}

/// Turns the first SIGTERM, SIGINT or SIGHUP into a stop; a second SIGTERM or SIGINT ends the process as a crash would, which is safe. A terminal that is
/// closed may say so twice, and under `nohup` it says nothing.
fn stop_on_signal() -> Result<oneshot::Receiver<()>, Failure> {
    let (stop, stopped) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wait = move || {
        runtime.block_on(async {
            // Asked first: listening is no longer ignoring.
            let mut hangup = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
            let (Ok(mut terminate), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                tracing::error!("cannot listen for signals; stop the server with SIGKILL, which is safe");
                return std::future::pending::<()>().await;
            };
            let mut stop = Some(stop);
            loop {
                let may_end = tokio::select! {
                    _ = terminate.recv() => true,
                    _ = interrupt.recv() => true,
                    () = heard(hangup.as_mut()) => false,
                };
                if let Some(stop) = stop.take() {
                    // The server may be ending already.
                    let _ending = stop.send(());
                } else if may_end {
                    tracing::warn!("second signal, ending at once; the next start recovers");
                    std::process::exit(1);
                }
            }
        });
    };
    std::thread::Builder::new().name("heng-signals".to_owned()).spawn(wait)?;
    Ok(stopped)
}

/// Waits for a signal; for ever where none is listened for.
async fn heard(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether whoever started this process wants SIGHUP to be ignored, as `nohup` does.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    // Signals count from 1, and SIGHUP is the first.
    ignored.is_some_and(|ignored| ignored & 1 != 0)
}

/// Connections need files. Where there may not be so many, fewer are taken: without a file for its next segment the journal, and so the server, would stop.
fn fit_open_files(config: &mut Config) {
    if let Err(err) = raise_open_files() {
        tracing::warn!(%err, "cannot raise the limit of open files");
    }
    let Some(files) = getrlimit(Resource::Nofile).current else { return };
    let most = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES).max(1);
    if config.connections_max > most {
        tracing::warn!(
            connections_max = config.connections_max,
            files,
            taken = most,
            "so many files may not be open: fewer connections are taken; raise the hard limit (`ulimit -Hn`, LimitNOFILE), or lower connections_max"
        );
        config.connections_max = most;
    }
}
