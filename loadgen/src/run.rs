//! `heng-loadgen run`: set up, drive, verify, report.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use heng::client::{BatchingClient, Client, ClientError, Connection as Opened, Credentials};
use heng::telemetry::process_stats;
use indicatif::{ProgressBar, ProgressStyle};

use crate::accounts::Range;
use crate::alarm::Alarm;
use crate::arguments::{Limits, RunArguments};
use crate::callers::Callers;
use crate::closing::{Closer, Closing, POLICY, register};
use crate::drive::{Connection, Counts, Known, Plan, lock};
use crate::measure::{Latencies, Recorder};
use crate::mix::{Due, Mix, Mixer};
use crate::model::Model;
use crate::office::Office;
use crate::reader::Reader;
use crate::report::{Conditions, Latency, Report};
use crate::spawn::{ServerUse, Spawned};
use crate::timeline::{Sampler, Timeline};
use crate::workload::{ABROAD, Workload};

/// The policy of `--limits on`.
pub(crate) const LIMITS: &str = include_str!("limits.toml");

/// Time after the last due time in which everything due has arrived.
pub(crate) const ARRIVAL_SLACK: Duration = Duration::from_secs(2);

/// Exit code when the server's accounts are not what its answers said.
pub(crate) const NOT_VERIFIED: u8 = 2;

/// Runs; the exit code is 2 when verification fails, 1 when the run does.
pub(crate) fn run(arguments: &RunArguments) -> ExitCode {
    match measure(arguments) {
        Ok(Some(false)) => ExitCode::from(NOT_VERIFIED),
        Ok(_) => ExitCode::SUCCESS,
        Err(err) => {
            say(&format!("heng-loadgen: {err:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Progress and mistakes go to standard error, results to standard output.
pub(crate) fn say(text: &str) {
    // Nobody is there to be told that nobody is there.
    let _told = writeln!(std::io::stderr(), "{text}");
}

fn measure(arguments: &RunArguments) -> anyhow::Result<Option<bool>> {
    let report = perform(arguments)?;
    std::io::stdout().write_all(report.describe().as_bytes())?;
    Ok(report.verified)
}

/// Runs, and writes the result where it is asked for.
pub(crate) fn perform(arguments: &RunArguments) -> anyhow::Result<Report> {
    let limits = (arguments.limits == Limits::On).then_some(LIMITS);
    let policy = limits.unwrap_or_default().to_owned() + if arguments.participants > 0 { POLICY } else { "" };
    anyhow::ensure!(
        arguments.callers == 0 || arguments.batch == 1,
        "callers who share a connection submit one transfer at a time: say --batch 1"
    );
    anyhow::ensure!(limits.is_none() || arguments.spawn, "--limits on needs --spawn: limits are the server's policy");
    let start = || Spawned::start(arguments.data_dir.as_deref(), arguments.shards, Some(&policy));
    let server = arguments.spawn.then(start).transpose()?;
    let address = match (&server, &arguments.target) {
        (Some(server), _) => server.address.clone(),
        (None, Some(target)) => target.clone(),
        (None, None) => anyhow::bail!("say --spawn or --target ADDRESS"),
    };
    if let Some(server) = &server {
        say(&format!("server: process {}, {}, http://{}/metrics", server.pid(), server.address, server.operations));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(arguments.threads()).enable_all().build()?;
    let operations = server.as_ref().map(|server| server.operations.clone());
    let gone = runtime.block_on(Run { arguments, address, operations, server: server.as_ref() }.go());
    let (mut report, opened) = gone.map_err(|err| match &server {
        Some(server) => server.explain(err),
        None => err,
    })?;
    report.server = server.map(Spawned::stop).transpose()?;
    if let (Some(used), Some(opened)) = (&mut report.server, opened) {
        used.opened_rss_bytes = opened.rss_bytes;
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report)
}

struct Run<'a> {
    arguments: &'a RunArguments,
    address: String,
    /// The operations port of the spawned server.
    operations: Option<String>,
    server: Option<&'a Spawned>,
}

impl Run<'_> {
    fn who(&self) -> anyhow::Result<Credentials> {
        match (&self.arguments.gateway, &self.arguments.key) {
            (Some(gateway), Some(key)) => Ok(Credentials::from_hex(gateway, key)?),
            _ => Ok(Credentials::development()),
        }
    }

    /// The result, and what the server used when the accounts were open.
    async fn go(&self) -> anyhow::Result<(Report, Option<ServerUse>)> {
        let arguments = self.arguments;
        let who = self.who()?;
        // On a server of its own a run is the same every time; elsewhere it must not meet an earlier one.
        let fresh = arguments.spawn && arguments.data_dir.is_none();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let base = if fresh { 0 } else { now.as_millis() << 64 };
        let mut client = Client::connect(self.address.as_str(), &who).await?;
        let range = self.range(base);
        range.open(&mut client).await?;
        let opened = self.server.map(Spawned::used);
        let closer = self.closer(base)?;
        let due = Due {
            after: Duration::from_secs(arguments.due_after),
            within: Duration::from_secs(arguments.due_within),
            last_ns: Arc::default(),
        };
        let mut connections = Vec::new();
        for number in 0..arguments.connections {
            let workload = Workload::new(
                (arguments.seed, number, base),
                (arguments.accounts, arguments.distribution, arguments.ids),
            )?;
            let mixer = Mixer::new(workload, arguments.mix, due.clone());
            connections.push(Driver::open(self.address.as_str(), &who, (mixer, arguments.callers)).await?);
        }
        let model = Arc::new(Model::new(range.all()));
        if arguments.warmup > 0 {
            let warm = Phase { name: "warm-up", transfers: arguments.warmup };
            connections = self.drive(connections, &warm, (&model, None)).await?.0;
        }
        let cpu_before = process_stats().cpu_s;
        let phase = Phase { name: "transfers", transfers: arguments.transfers };
        let reads = Arc::new(AtomicU64::new(0));
        let reader = self.reader(base, &reads).await?;
        let closer = closer.map(Closer::start);
        let closing = closer.as_ref().map(|closer| Arc::clone(&closer.closing));
        let (connections, mut report) = self.drive(connections, &phase, (&model, closing)).await?;
        report.windows = closer.map(|closer| closer.stop(arguments.participants)).transpose()?;
        if let Some(reader) = reader {
            anyhow::ensure!(!reader.is_finished(), "reading failed: {:?}", reader.await);
            reader.abort();
        }
        report.reads = reads.load(Relaxed);
        report.generator_cpu_s = process_stats().cpu_s - cpu_before;
        drop(connections);
        if !arguments.no_verify {
            if due.arrives() {
                wait_until(Duration::from_nanos(due.last_ns.load(Relaxed)).saturating_add(ARRIVAL_SLACK)).await;
            }
            // Nothing was said on the first connection for as long as the load took.
            let mut client = Client::connect(self.address.as_str(), &who).await?;
            report.verified = Some(range.is_as_known(&mut client, &model).await?);
            report.verified_accounts = arguments.accounts;
        }
        Ok((report, opened))
    }

    /// Registers participants, and makes ready to close their windows, if that is asked for.
    fn closer(&self, base: u128) -> anyhow::Result<Option<Closer>> {
        let Some(operations) = self.operations.as_ref().filter(|_| self.arguments.participants > 0) else {
            return Ok(None);
        };
        let office = Office::new(operations);
        register(&office, base.wrapping_add(1), self.arguments.participants.min(self.arguments.accounts))?;
        let every = self.arguments.close_every_ms;
        (every > 0).then(|| Closer::new(office, Duration::from_millis(every))).transpose()
    }

    /// Begins to read beside the load, if that is asked for.
    async fn reader(
        &self,
        base: u128,
        done: &Arc<AtomicU64>,
    ) -> anyhow::Result<Option<tokio::task::JoinHandle<Result<(), ClientError>>>> {
        if self.arguments.reads == 0 {
            return Ok(None);
        }
        let reader = Reader {
            client: Client::connect(self.address.as_str(), &self.who()?).await?,
            accounts: self.arguments.accounts,
            first_account: base.wrapping_add(1),
            per_second: self.arguments.reads,
            done: Arc::clone(done),
        };
        Ok(Some(tokio::spawn(reader.run())))
    }

    /// The accounts of this run.
    fn range(&self, base: u128) -> Range {
        let abroad = if self.arguments.mix == Mix::Full { ABROAD } else { 0 };
        Range { first: base.wrapping_add(1), accounts: self.arguments.accounts, abroad }
    }

    async fn drive(
        &self,
        connections: Vec<Driver>,
        phase: &Phase,
        (model, closing): (&Arc<Model>, Option<Arc<Closing>>),
    ) -> anyhow::Result<(Vec<Driver>, Report)> {
        let arguments = self.arguments;
        let counts = Arc::new(Counts::default());
        let mut latencies = Latencies::new()?;
        let mut recorders = Vec::new();
        let mut tasks = tokio::task::JoinSet::new();
        let is_exact = arguments.rate <= arguments.batch.saturating_mul(EXACT_PER_S);
        let alarm = (arguments.rate > 0 && is_exact).then(Alarm::start).transpose()?;
        let begun = Instant::now();
        let mut sampler = Sampler::new(begun);
        for (number, connection) in (0..arguments.connections).zip(connections) {
            let recorder = Arc::new(Recorder::new()?);
            recorders.push(Arc::clone(&recorder));
            let plan = self.plan(number, phase.transfers, (begun, alarm.clone()))?;
            let (model, counts) = (Arc::clone(model), Arc::clone(&counts));
            let known = Known { model, counts, recorder, closing: closing.clone() };
            tasks.spawn(async move { connection.drive(plan, known).await });
        }
        let bar = progress(phase.name, phase.transfers)?;
        let mut connections = Vec::new();
        let mut shown = tokio::time::interval(Duration::from_millis(100));
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(ended) => connections.push(ended??),
                    None => break,
                },
                _ = shown.tick() => bar.set_position(counts.answered.load(Relaxed)),
                _ = second.tick() => {
                    let latency = latencies.end_interval(&recorders)?;
                    sampler.sample(counts.answered.load(Relaxed), &latency, self.server);
                }
            }
        }
        let elapsed_s = begun.elapsed().as_secs_f64();
        latencies.end_interval(&recorders)?;
        bar.finish_and_clear();
        if let Some(path) = &arguments.hlog {
            latencies.write_hlog(path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok((connections, self.report(&counts, &latencies, elapsed_s, sampler.timeline)))
    }

    /// A connection's share, and when its first request is due: connections take turns.
    fn plan(&self, number: u64, transfers: u64, (begun, alarm): (Instant, Option<Alarm>)) -> anyhow::Result<Plan> {
        let arguments = self.arguments;
        let connections = arguments.connections;
        let extra = u64::from(number < transfers.checked_rem(connections).unwrap_or(0));
        let share = transfers.checked_div(connections).unwrap_or(0).saturating_add(extra);
        let interval = (arguments.rate > 0).then(|| {
            let per_connection = nanoseconds(arguments.batch.saturating_mul(connections), arguments.rate);
            (per_connection, nanoseconds(arguments.batch.saturating_mul(number), arguments.rate))
        });
        let offset = interval.map_or(Duration::ZERO, |(_, offset)| offset);
        Ok(Plan {
            transfers: share,
            batch: arguments.batch,
            in_flight: usize::try_from(arguments.in_flight)?,
            interval: interval.map(|(interval, _)| interval),
            alarm,
            start: begun.checked_add(offset).unwrap_or(begun),
        })
    }

    fn report(&self, counts: &Counts, latencies: &Latencies, elapsed_s: f64, timeline: Timeline) -> Report {
        let arguments = self.arguments;
        let transfers = counts.answered.load(Relaxed);
        Report {
            transfers,
            accepted: counts.accepted.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            repeated: counts.repeated.load(Relaxed),
            busy: counts.busy.load(Relaxed),
            elapsed_s,
            transfers_per_s: Duration::from_secs(transfers).as_secs_f64() / elapsed_s,
            per_second: latencies.per_second(arguments.batch),
            timeline,
            latency_us: Latency::from(&latencies.total),
            verified: None,
            verified_accounts: 0,
            reads: 0,
            windows: None,
            server: None,
            generator_cpu_s: 0.0,
            operations: lock(&counts.operations).clone(),
            run: Conditions {
                accounts: arguments.accounts,
                batch: arguments.batch,
                connections: arguments.connections,
                in_flight: arguments.in_flight,
                callers: arguments.callers,
                threads: arguments.threads(),
                rate: arguments.rate,
                distribution: format!("{:?}", arguments.distribution),
                ids: format!("{:?}", arguments.ids),
                mix: format!("{:?}", arguments.mix),
                limits: format!("{:?}", arguments.limits),
                seed: arguments.seed,
                warmup: arguments.warmup,
                reads: arguments.reads,
                participants: arguments.participants,
                version: env!("CARGO_PKG_VERSION"),
                processors: std::thread::available_parallelism().map_or(1, usize::from),
            },
        }
    }
}

/// Requests per second, all connections together, whose times are waited for exactly.
const EXACT_PER_S: u64 = 20_000;

pub(crate) async fn wait_until(time: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    tokio::time::sleep(time.saturating_sub(now)).await;
}

/// What a run drives: a connection with requests in flight, or callers who share one.
enum Driver {
    Alone(Box<Connection>),
    Shared(Box<Callers>),
}

impl Driver {
    async fn open(address: &str, who: &Credentials, (mixer, callers): (Mixer, u64)) -> Result<Self, ClientError> {
        if callers > 0 {
            let client = BatchingClient::connect(address, who).await?;
            return Ok(Self::Shared(Box::new(Callers { client, mixer, count: callers })));
        }
        let (sender, receiver) = Opened::open(address, who).await?.split();
        Ok(Self::Alone(Box::new(Connection { sender, receiver, mixer, next_request: 0 })))
    }

    async fn drive(self, plan: Plan, known: Known) -> Result<Self, ClientError> {
        Ok(match self {
            Self::Alone(connection) => Self::Alone(Box::new(connection.drive(plan, &known).await?)),
            Self::Shared(callers) => Self::Shared(Box::new(callers.drive(plan, known).await?)),
        })
    }
}

struct Phase {
    name: &'static str,
    transfers: u64,
}

/// `transfers` at `rate` per second, as a time.
pub(crate) fn nanoseconds(transfers: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(transfers).saturating_mul(1_000_000_000).checked_div(rate.into()).unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

pub(crate) fn progress(name: &'static str, length: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg:>10} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}")?;
    Ok(ProgressBar::new(length).with_style(style).with_message(name))
}
