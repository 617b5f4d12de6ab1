//! `heng-loadgen soak`: a server at a part of what it can take, for as long as you like: all operations, limits, windows that close,
//! checkpoints, and a restart every few minutes, in turn a drain and a `kill -9`.
//!
//! It looks for what short runs do not show: memory and files that grow, latencies that drift, money that does. The ledger is one and
//! the same from the beginning to the end, and is compared account by account and replayed beside itself at the end. A soak may go on with
//! what another one left ([`standing`]): then it is a part of it.

mod caller;
mod report;
mod standing;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use hdrhistogram::Histogram;
use heng::client::{Client, Credentials};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::accounts::Range;
use crate::arguments::{Distribution, Ids};
use crate::closing::{POLICY, register};
use crate::measure::histogram;
use crate::mix::{Due, Mix, Mixer};
use crate::office::Office;
use crate::report::{Latency, grouped, whole};
use crate::run::{ARRIVAL_SLACK, LIMITS, NOT_VERIFIED, nanoseconds, say, wait_until};
use crate::spawn::Spawned;
use crate::timeline::Sampler;
use crate::workload::{ABROAD, Workload};
use caller::{Caller, Pace, Shared};
use report::{Life, Report};
use standing::Standing;

/// How long the most that the server takes is measured: a part of the soak, and long enough at best that checkpoints are in it.
const MEASURED_PART: u32 = 20;
const MEASURED_LEAST: Duration = Duration::from_secs(15);
const MEASURED_MOST: Duration = Duration::from_mins(3);

/// Time between two samples.
const SAMPLED: Duration = Duration::from_secs(5);

/// Samples that a short one has all the same, unless restarts take its time.
const SAMPLES_LEAST: u32 = 8;

/// Requests in this time after a restart are not counted among those of a quiet time.
const SETTLING: Duration = Duration::from_secs(20);

/// Drive a server at a part of what it can take for as long as you like, with restarts, and look for leaks and drift.
#[derive(Clone, Debug, Args)]
pub(crate) struct SoakArguments {
    /// How long, minutes.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Restart the server after so many seconds, in turn by a drain and by `kill -9`.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    restart_every_s: u64,
    /// Operations per second to offer; 0: 70 % of what so many connections reach before, in a twentieth of that time (15 s at
    /// least, three minutes at most).
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// Operations per request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=8_190))]
    batch: u64,
    /// Accounts to open.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..))]
    accounts: u64,
    /// How many of them are participants of a scheme that takes every transfer.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    participants: u64,
    /// Close its window every so many seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    close_every_s: u64,
    /// The most that memory may grow with each operation from life to life, bytes: filters of the id index take 2.
    #[arg(long, default_value_t = 8.0)]
    most_bytes_per_operation: f64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the result as JSON, which `heng-loadgen chart` draws.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Data directory of the server, kept afterwards [default: a temporary one].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Go on with the ledger that an earlier soak left in the data directory, at its rate: the result is of both together, and of those before.
    #[arg(long, requires = "data_dir", conflicts_with_all = ["rate", "connections", "batch", "accounts", "participants", "seed"])]
    go_on: bool,
}

/// Exit code when memory grew by more than it may.
const GREW: u8 = 3;

/// What a soak came to.
enum Ended {
    /// What it knows, and the data directory, which goes with it where that is a temporary one.
    Whole { standing: Box<Standing>, data: PathBuf, _temporary: TempDir },
    /// The ledger that it was to go on with is not as it was left.
    NotAsLeft,
}

/// Runs; 2 when money drifted, 3 when memory grew by more than it may, 1 when the run failed.
pub(crate) fn run(arguments: &SoakArguments) -> ExitCode {
    soak(arguments).and_then(|ended| tell(arguments, &ended)).unwrap_or_else(|err| {
        say(&format!("heng-loadgen: {err:#}"));
        ExitCode::FAILURE
    })
}

fn tell(arguments: &SoakArguments, ended: &Ended) -> anyhow::Result<ExitCode> {
    let Ended::Whole { standing, data, .. } = ended else { return Ok(ExitCode::from(NOT_VERIFIED)) };
    let report = &standing.report;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::io::stdout().write_all(report.describe().as_bytes())?;
    // What is not as it should be must not be what another part begins with.
    if !report.is_verified() {
        return Ok(ExitCode::from(NOT_VERIFIED));
    }
    standing.write(data)?;
    let most = arguments.most_bytes_per_operation;
    Ok(match report.grew(most) {
        None => ExitCode::SUCCESS,
        Some(bytes) => {
            say(&format!(
                "heng-loadgen: memory grew by {bytes:.1} B with each operation from life to life; {most:.1} are allowed"
            ));
            ExitCode::from(GREW)
        }
    })
}

fn soak(arguments: &SoakArguments) -> anyhow::Result<Ended> {
    let temporary = tempfile::tempdir()?;
    let data = arguments.data_dir.clone().unwrap_or_else(|| temporary.path().join("data"));
    let mut earlier = if arguments.go_on { Some(Standing::read(&data)?) } else { None };
    anyhow::ensure!(
        earlier.is_some() || std::fs::read_dir(&data).map_or(true, |mut entries| entries.next().is_none()),
        "{} is not empty: a soak begins with a ledger of its own, or with --go-on goes on with that of another one",
        data.display()
    );
    let arguments = &arguments.going_on(earlier.as_ref());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let server = start(&data)?;
    let range = Range { first: 1, accounts: arguments.accounts, abroad: ABROAD };
    let shared = Arc::new(Shared::new(range.all(), earlier.as_ref())?);
    let is_as_left = runtime.block_on(async {
        let mut client = Client::connect(server.address.as_str(), &Credentials::development()).await?;
        if earlier.is_some() {
            return range.is_as_known(&mut client, &shared.model).await;
        }
        range.open(&mut client).await?;
        Ok(true)
    })?;
    if !is_as_left {
        say(&format!("heng-loadgen: the ledger in {} is not as the part before left it; see above", data.display()));
        return Ok(Ended::NotAsLeft);
    }
    if let Some(earlier) = &mut earlier {
        earlier.go_on(&data)?;
    } else {
        let participants = arguments.participants.min(arguments.accounts);
        register(&Office::new(&server.operations), range.first, participants)?;
    }
    let (moved, address) = watch::channel(server.address.clone());
    let due = Due { after: Duration::from_secs(3), within: Duration::from_secs(2), last_ns: Arc::default() };
    let parts = earlier.as_ref().map_or(0, |earlier| earlier.report.parts);
    let ids_came = Duration::from_nanos(earlier.as_ref().map_or(0, |earlier| earlier.ids_ns));
    let seed = arguments.seed.wrapping_add(parts << 32);
    let callers = (0..arguments.connections).map(|number| {
        let workload = Workload::new((seed, number, 0), (arguments.accounts, Distribution::Uniform, Ids::Time))?;
        let mixer = Mixer::new(workload.after(ids_came), Mix::Full, due.clone());
        Ok(Caller { mixer, shared: Arc::clone(&shared), address: address.clone() })
    });
    let callers = callers.collect::<anyhow::Result<Vec<_>>>()?;
    let mut soak = Soak { arguments, runtime: &runtime, data, server: Some(server), moved, shared };
    let (callers, rate, reached) = soak.rate(callers)?;
    let mut latencies = earlier.as_ref().map_or_else(histogram, Standing::latencies)?;
    let mut report = soak.go(callers, rate, &mut latencies)?;
    report.reached_per_s = reached;
    runtime.block_on(wait_until(Duration::from_nanos(due.last_ns.load(Relaxed)).saturating_add(ARRIVAL_SLACK)));
    soak.verify(&range, &mut report)?;
    let report = match earlier {
        Some(earlier) => report.after(earlier.report),
        None => report,
    };
    let ids_came = ids_came.saturating_add(Workload::ids_came());
    let standing = Standing::new(report.concluded(&latencies), ids_came, soak.shared.model.all(), &latencies);
    Ok(Ended::Whole { standing: Box::new(standing), data: soak.data, _temporary: temporary })
}

impl SoakArguments {
    /// The same as in the parts before, if there were some.
    fn going_on(&self, earlier: Option<&Standing>) -> Self {
        let Some(Report { accounts, participants, connections, batch, seed, rate, .. }) =
            earlier.map(|earlier| &earlier.report)
        else {
            return self.clone();
        };
        Self {
            accounts: *accounts,
            participants: *participants,
            connections: *connections,
            batch: *batch,
            seed: *seed,
            rate: *rate,
            ..self.clone()
        }
    }
}

/// A server with limits and a scheme.
fn start(data: &std::path::Path) -> anyhow::Result<Spawned> {
    Spawned::start(Some(data), 0, Some(&(LIMITS.to_owned() + POLICY)))
}

struct Soak<'a> {
    arguments: &'a SoakArguments,
    runtime: &'a Runtime,
    data: PathBuf,
    /// None only while it is being restarted.
    server: Option<Spawned>,
    moved: watch::Sender<String>,
    shared: Arc<Shared>,
}

impl Soak<'_> {
    fn server(&self) -> anyhow::Result<&Spawned> {
        self.server.as_ref().context("the server is not running")
    }

    /// How long it is driven.
    fn time(&self) -> anyhow::Result<Duration> {
        Duration::try_from_secs_f64(self.arguments.minutes * 60.0).context("--minutes is not a time")
    }

    /// Lets all callers send; they end when they are told to.
    fn send(&self, callers: Vec<Caller>, rate: u64) -> anyhow::Result<JoinSet<anyhow::Result<Caller>>> {
        self.shared.stop.store(false, Relaxed);
        let (batch, connections) = (self.arguments.batch, self.arguments.connections);
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, caller) in (0..).zip(callers) {
            let start = begun.checked_add(nanoseconds(batch.saturating_mul(number), rate)).unwrap_or(begun);
            let interval = (rate > 0).then(|| nanoseconds(batch.saturating_mul(connections), rate));
            let pace = Pace { start, interval, batch: usize::try_from(batch)? };
            tasks.spawn_on(caller.drive(pace), self.runtime.handle());
        }
        Ok(tasks)
    }

    /// Waits for all callers, who have been told to stop.
    fn end(&self, mut tasks: JoinSet<anyhow::Result<Caller>>) -> anyhow::Result<Vec<Caller>> {
        self.shared.stop.store(true, Relaxed);
        let mut callers = Vec::new();
        while let Some(ended) = self.runtime.block_on(tasks.join_next()) {
            callers.push(ended??);
        }
        Ok(callers)
    }

    /// The rate to offer, and what was reached without one if that had to be found out.
    fn rate(&self, callers: Vec<Caller>) -> anyhow::Result<(Vec<Caller>, u64, Option<u64>)> {
        if self.arguments.rate > 0 {
            return Ok((callers, self.arguments.rate, None));
        }
        let measured = self.time()?.checked_div(MEASURED_PART).unwrap_or_default().clamp(MEASURED_LEAST, MEASURED_MOST);
        let begun = Instant::now();
        let tasks = self.send(callers, 0)?;
        wait(measured);
        let answered = self.shared.counts.answered.load(Relaxed);
        let reached = whole(Duration::from_secs(answered).as_secs_f64() / begun.elapsed().as_secs_f64());
        let callers = self.end(tasks)?;
        let mut unused = histogram()?;
        self.shared.recorder.take(&mut unused)?;
        let rate = reached.saturating_mul(7) / 10;
        say(&format!("{} operations/s without a limit; {} are offered", grouped(reached), grouped(rate)));
        Ok((callers, rate.max(1), Some(reached)))
    }

    /// Drives, restarts, closes windows and takes samples until the time is over.
    fn go(&mut self, callers: Vec<Caller>, rate: u64, total: &mut Histogram<u64>) -> anyhow::Result<Report> {
        let arguments = self.arguments;
        let begun = Instant::now();
        let counted = self.shared.counts.answered.load(Relaxed);
        let end = self.time()?;
        let restarts = Duration::from_secs(arguments.restart_every_s);
        let closes = Duration::from_secs(arguments.close_every_s);
        let mut sampler = Sampler::new(begun).probing(&self.data)?;
        let mut quiet = histogram()?;
        let (mut lives, mut life) = (Vec::new(), Life::new(0.0, None));
        let every = SAMPLED.min(end.checked_div(SAMPLES_LEAST).unwrap_or_default());
        let (mut next_sample, mut next_close, mut next_restart) = (every, closes, restarts);
        let mut windows_closed = 0_u64;
        let mut tasks = self.send(callers, rate)?;
        while begun.elapsed() < end {
            wait(next_sample.min(next_close).min(next_restart).min(end).saturating_sub(begun.elapsed()));
            if let Some(failed) = tasks.try_join_next() {
                failed??;
                anyhow::bail!("a connection ended before its time");
            }
            anyhow::ensure!(
                !self.server.as_mut().is_none_or(Spawned::has_ended),
                "the server ended by itself; see server.log in its data directory"
            );
            let now = begun.elapsed();
            if now >= next_sample {
                let mut part = histogram()?;
                let latency = self.shared.recorder.take(&mut part)?;
                total.add(&part)?;
                if sampler.at_s() - life.begun_s > SETTLING.as_secs_f64() {
                    quiet.add(&part)?;
                }
                let answered = self.shared.counts.answered.load(Relaxed).saturating_sub(counted);
                sampler.sample(answered, &latency, self.server.as_ref());
                next_sample = now.saturating_add(every);
            }
            if now >= next_close {
                Office::new(&self.server()?.operations).post("/clearing/windows/all/close", &json!({}))?;
                windows_closed = windows_closed.saturating_add(1);
                next_close = now.saturating_add(closes);
            }
            if now >= next_restart {
                lives.push(life.end((counted, &sampler), take(&mut quiet)?));
                let is_kill = lives.len().is_multiple_of(2);
                let what = if is_kill { "kill -9" } else { "drain" };
                let begun_s = sampler.at_s();
                sampler.mark(what);
                let away = self.restart(is_kill)?;
                life = Life::new(begun_s, Some((what, away)));
                next_restart = begun.elapsed().saturating_add(restarts);
            }
        }
        lives.push(life.end((counted, &sampler), take(&mut quiet)?));
        drop(self.end(tasks)?);
        self.shared.recorder.take(total)?;
        let windows_closed = self.shared.windows_before.saturating_add(windows_closed);
        Ok(Report::new(arguments, rate, (sampler, lives, windows_closed), &self.shared))
    }

    /// Ends the server and starts it again; how long it was away.
    fn restart(&mut self, is_kill: bool) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let server = self.server.take().context("the server is not running")?;
        if is_kill {
            server.signal("KILL")?;
            drop(server);
        } else {
            server.stop()?;
        }
        let server = start(&self.data)?;
        // Callers that do not see it are gone, which is found out where they are looked at.
        let _seen = self.moved.send(server.address.clone());
        self.server = Some(server);
        Ok(begun.elapsed())
    }

    /// Compares all accounts with what was accepted, and has the server replay its journal beside itself.
    fn verify(&mut self, range: &Range, report: &mut Report) -> anyhow::Result<()> {
        let server = self.server()?;
        report.verified = self.runtime.block_on(async {
            let mut client = Client::connect(server.address.as_str(), &Credentials::development()).await?;
            range.is_as_known(&mut client, &self.shared.model).await
        })?;
        let checked = Office::new(&server.operations).get("/check")?;
        report.checked = checked.get("ok").and_then(Value::as_bool).unwrap_or(false);
        if !report.checked {
            say(&checked.to_string());
        }
        self.server.take().map(Spawned::stop).transpose()?;
        Ok(())
    }
}

/// What was recorded, which begins anew.
fn take(quiet: &mut Histogram<u64>) -> anyhow::Result<Latency> {
    let latency = Latency::from(&*quiet);
    *quiet = histogram()?;
    Ok(latency)
}

#[expect(clippy::disallowed_methods, reason = "no actor runs on this thread")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}
