//! `heng-loadgen overload`: several times what a server can take, open loop, and what becomes of it.
//!
//! First the *peak* is measured: each connection has a few requests under way, and sends the next when one is answered. Then a multiple of it is offered: each
//! request at its time, whether earlier ones are answered or not; what is refused *busy* is offered again when it is that connection's turn. Then the peak once more.
//! Single transfers, one after the other, tell when things are as before.
//!
//! A generator of three times the peak takes a processor for itself. So that it takes none from the server, each has its own half of the processors, in all
//! phases; what it costs the server to receive and refuse is left in.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use heng::client::{Answer, AnswerReceiver, Client, ClientError, Connection, Credentials, RequestSender};
use heng::ledger::{Code, Transfer};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::accounts::Range;
use crate::arguments::{Distribution, Ids};
use crate::drive::lock;
use crate::measure::Recorder;
use crate::mix::{Due, Filling, Mix, Mixer};
use crate::model::Model;
use crate::report::{Latency, grouped, time, whole};
use crate::run::{NOT_VERIFIED, nanoseconds, say};
use crate::spawn::{How, Spawned};
use crate::workload::{Planned, Workload};

/// Requests under way per connection where the peak is measured.
const WINDOW: usize = 4;

/// Single transfers that tell what is normal.
const PROBES: usize = 500;

/// How long single transfers are watched afterwards, and how long what is compared with normal.
const WATCHED: Duration = Duration::from_secs(10);
const SLICE: Duration = Duration::from_millis(250);

/// Offer several times what a server can take, and see what it accepts, refuses and needs.
#[derive(Debug, Args)]
pub(crate) struct OverloadArguments {
    /// How many times the peak is offered.
    #[arg(long, default_value_t = 3.0)]
    times: f64,
    /// How long, seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long the peak is measured before and after, seconds [default: as long as the overload]. In a shorter time a fresh server does less of what a
    /// minute holds: checkpoints, id runs and their merging.
    #[arg(long)]
    peak_seconds: Option<u64>,
    /// Transfers per request.
    #[arg(long, default_value_t = 8_190)]
    batch: u64,
    /// Connections.
    #[arg(long, default_value_t = 8)]
    connections: u64,
    /// Accounts to open.
    #[arg(long, default_value_t = 10_000)]
    accounts: u64,
    /// Transfers that the server lets in at once [default: the server's]
    #[arg(long)]
    transfers_in_flight_max: Option<u64>,
    /// The part of the peak that must be accepted; with less the exit code is 3.
    #[arg(long, default_value_t = 0.9)]
    least: f64,
    /// Let server and generator share all processors.
    #[arg(long)]
    shared: bool,
    /// Data directory of the server, kept afterwards [default: a temporary one].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl OverloadArguments {
    fn peak_seconds(&self) -> u64 {
        self.peak_seconds.unwrap_or(self.seconds)
    }
}

/// When a connection sends its next request.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// When fewer than so many are under way.
    Window(usize),
    /// At this time, and then always after so long.
    Every(Instant, Duration),
}

#[derive(Debug)]
struct Request {
    sent: Instant,
    transfers: Vec<Transfer>,
    planned: Vec<Planned>,
}

/// What the two tasks of a connection share.
#[derive(Debug)]
struct UnderWay {
    room: Semaphore,
    requests: Mutex<HashMap<u64, Request>>,
    /// Refused, to be offered again.
    again: Mutex<Vec<Request>>,
    /// Answered; their memory serves the next ones.
    emptied: Mutex<Vec<Request>>,
    is_over: AtomicBool,
}

/// A connection and what it makes.
struct Lane {
    sender: RequestSender,
    receiver: AnswerReceiver,
    mixer: Mixer,
    next_request: u64,
    again: Vec<Request>,
}

/// What all connections of a phase count together.
#[derive(Debug)]
struct Phase {
    model: Arc<Model>,
    batch: u64,
    until: Instant,
    offered: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    accepted_us: Recorder,
    refused_us: Recorder,
}

/// How a phase went.
#[derive(Debug, Serialize)]
struct Told {
    offered_per_s: f64,
    accepted_per_s: f64,
    /// Requests answered busy.
    refused: u64,
    accepted_us: Latency,
    /// From sending a request to its refusal.
    refused_us: Latency,
    /// The most resident memory of the server, bytes.
    rss_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Outcome {
    times: f64,
    seconds: u64,
    before: Told,
    overload: Told,
    after: Told,
    /// Accepted against the mean of the peaks.
    ratio: f64,
    /// Single transfers, one after the other, before.
    normal_us: Latency,
    /// From the end of the overload until single transfers take at most twice as long as normally: the first quarter of a second whose p90 does,
    /// and that of the next.
    normal_after_ms: u64,
    verified: bool,
}

/// The exit code when too little was accepted, though rightly.
const TOO_LITTLE: u8 = 3;

/// Runs; the exit code is 2 when verification fails, 3 when too little of the peak is accepted, 1 when the run fails.
pub(crate) fn run(arguments: &OverloadArguments) -> ExitCode {
    match measure(arguments) {
        Ok(outcome) if !outcome.verified => ExitCode::from(NOT_VERIFIED),
        Ok(outcome) if outcome.ratio < arguments.least => {
            say(&format!(
                "heng-loadgen: {:.2} of the peak was accepted, and not {:.2}",
                outcome.ratio, arguments.least
            ));
            ExitCode::from(TOO_LITTLE)
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(err) => {
            say(&format!("heng-loadgen: {err:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &OverloadArguments) -> anyhow::Result<Outcome> {
    anyhow::ensure!(arguments.times > 0.0 && arguments.seconds > 0 && arguments.peak_seconds() > 0, "nothing to offer");
    let (server, own) = start(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(own).enable_all().build()?;
    let outcome = runtime.block_on(all_phases(arguments, &server)).map_err(|err| server.explain(err))?;
    server.stop()?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&outcome)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::io::stdout().write_all(outcome.describe().as_bytes())?;
    Ok(outcome)
}

/// Starts the server on the first half of the processors, and leaves the others to this process; answers how many those are.
fn start(arguments: &OverloadArguments) -> anyhow::Result<(Spawned, usize)> {
    let all = sched_getaffinity(None).context("cannot ask for the processors")?;
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&number| all.is_set(number)).collect();
    let (servers, own) = processors.split_at(processors.len() / 2);
    let room = arguments.transfers_in_flight_max.map(|room| room.to_string());
    let more: Vec<&str> = room.iter().flat_map(|room| ["--transfers-in-flight-max", room]).collect();
    let how = How { more: &more, ..How::default() };
    let spawn = || Spawned::start_with(arguments.data_dir.as_deref(), how);
    if arguments.shared || servers.is_empty() {
        return Ok((spawn()?, processors.len()));
    }
    let of = |chosen: &[usize]| {
        let mut set = CpuSet::new();
        for &number in chosen {
            set.set(number);
        }
        sched_setaffinity(None, &set).context("cannot choose processors; --shared does without")
    };
    // A process inherits what its parent has, and threads what theirs has.
    of(servers)?;
    let server = spawn();
    of(own)?;
    say(&format!("processors: {servers:?} for the server, {own:?} for the generator"));
    Ok((server?, own.len()))
}

async fn all_phases(arguments: &OverloadArguments, server: &Spawned) -> anyhow::Result<Outcome> {
    let who = Credentials::development();
    let range = Range { first: 1, accounts: arguments.accounts, abroad: 0 };
    // One for each use: an idle connection is closed while a phase goes on.
    let client = async || Client::connect(server.address.as_str(), &who).await;
    range.open(&mut client().await?).await?;
    let model = Arc::new(Model::new(range.all()));
    let mixer = |number: u64| {
        let workload = Workload::new((1, number, 0), (arguments.accounts, Distribution::Uniform, Ids::Time))?;
        anyhow::Ok(Mixer::new(workload, Mix::Plain, Due::none()))
    };
    let mut lanes = Vec::new();
    for number in 0..arguments.connections {
        let (sender, receiver) = Connection::open(server.address.as_str(), &who).await?.split();
        lanes.push(Lane { sender, receiver, mixer: mixer(number)?, next_request: 0, again: Vec::new() });
    }
    let mut probe = Probe { client: client().await?, mixer: mixer(arguments.connections)?, model: Arc::clone(&model) };
    let peak = Duration::from_secs(arguments.peak_seconds());
    let phase = |length, paces| Ahead { model: &model, batch: arguments.batch, length, paces, server };
    let windows = || vec![Pace::Window(WINDOW); lanes_of(arguments)];
    // What is used for the first time is dear, and belongs to nothing.
    let (lanes, _) = phase(peak.checked_div(4).unwrap_or(peak), windows()).go(lanes).await?;
    let (lanes, before) = phase(peak, windows()).go(lanes).await?;
    probe.client = client().await?;
    let normal_us = probe.normal().await?;
    let rate = before.accepted_per_s * arguments.times;
    let length = Duration::from_secs(arguments.seconds);
    let (lanes, overload) = phase(length, every(arguments, whole(rate))).go(lanes).await?;
    probe.client = client().await?;
    let normal_after_ms = probe.until_normal(normal_us.p90.saturating_mul(2)).await?;
    let (lanes, after) = phase(peak, windows()).go(lanes).await?;
    drop(lanes);
    let ratio = overload.accepted_per_s * 2.0 / (before.accepted_per_s + after.accepted_per_s);
    let verified = range.is_as_known(&mut client().await?, &model).await?;
    let (times, seconds) = (arguments.times, arguments.seconds);
    Ok(Outcome { times, seconds, before, overload, after, ratio, normal_us, normal_after_ms, verified })
}

fn lanes_of(arguments: &OverloadArguments) -> usize {
    usize::try_from(arguments.connections).unwrap_or(1)
}

/// Connections take turns, and together offer so many transfers per second.
fn every(arguments: &OverloadArguments, rate: u64) -> Vec<Pace> {
    let begun = Instant::now();
    let interval = nanoseconds(arguments.batch.saturating_mul(arguments.connections), rate.max(1));
    let start = |number| begun.checked_add(nanoseconds(arguments.batch.saturating_mul(number), rate.max(1)));
    (0..arguments.connections).map(|number| Pace::Every(start(number).unwrap_or(begun), interval)).collect()
}

/// A phase that is to come.
struct Ahead<'a> {
    model: &'a Arc<Model>,
    batch: u64,
    length: Duration,
    paces: Vec<Pace>,
    server: &'a Spawned,
}

impl Ahead<'_> {
    async fn go(self, lanes: Vec<Lane>) -> anyhow::Result<(Vec<Lane>, Told)> {
        let begun = Instant::now();
        let phase = Arc::new(Phase {
            model: Arc::clone(self.model),
            batch: self.batch,
            until: begun.checked_add(self.length).unwrap_or(begun),
            offered: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            accepted_us: Recorder::new()?,
            refused_us: Recorder::new()?,
        });
        let mut tasks = tokio::task::JoinSet::new();
        for (lane, pace) in lanes.into_iter().zip(self.paces) {
            tasks.spawn(lane.drive(pace, Arc::clone(&phase)));
        }
        let (mut lanes, mut rss_bytes) = (Vec::new(), 0);
        let mut looked = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(ended) => lanes.push(ended??),
                    None => break,
                },
                _ = looked.tick() => rss_bytes = self.server.used().rss_bytes.max(rss_bytes),
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let per_s = |count: &AtomicU64| Duration::from_secs(count.load(Relaxed)).as_secs_f64() / seconds;
        let told = Told {
            offered_per_s: per_s(&phase.offered),
            accepted_per_s: per_s(&phase.accepted),
            refused: phase.refused.load(Relaxed),
            accepted_us: phase.accepted_us.latency(),
            refused_us: phase.refused_us.latency(),
            rss_bytes,
        };
        Ok((lanes, told))
    }
}

impl Lane {
    /// Sends until the phase ends, and waits for all answers.
    async fn drive(self, pace: Pace, phase: Arc<Phase>) -> Result<Self, ClientError> {
        let Self { sender, receiver, mixer, next_request, again } = self;
        let window = if let Pace::Window(window) = pace { window } else { 0 };
        let shared = Arc::new(UnderWay {
            room: Semaphore::new(window),
            requests: Mutex::default(),
            again: Mutex::new(again),
            emptied: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let sending = tokio::spawn(send((sender, mixer, next_request), pace, Arc::clone(&phase), Arc::clone(&shared)));
        let receiver = receive(receiver, &phase, &shared).await;
        if receiver.is_err() {
            sending.abort();
        }
        let receiver = receiver?;
        let sent = sending.await.map_err(|err| ClientError::Broken(std::io::Error::other(err)))?;
        let (sender, mixer, next_request) = sent?;
        let again = std::mem::take(&mut *lock(&shared.again));
        Ok(Self { sender, receiver, mixer, next_request, again })
    }
}

async fn send(
    (mut sender, mut mixer, mut next_request): (RequestSender, Mixer, u64),
    pace: Pace,
    phase: Arc<Phase>,
    shared: Arc<UnderWay>,
) -> Result<(RequestSender, Mixer, u64), ClientError> {
    for turn in 0_u32.. {
        match pace {
            Pace::Window(_) => match tokio::time::timeout_at(phase.until.into(), shared.room.acquire()).await {
                Ok(Ok(permit)) => permit.forget(),
                _ => break,
            },
            Pace::Every(start, interval) => {
                let due = start.checked_add(interval.saturating_mul(turn)).unwrap_or(start);
                tokio::time::sleep_until(due.min(phase.until).into()).await;
            }
        }
        if Instant::now() >= phase.until {
            break;
        }
        let again = lock(&shared.again).pop();
        let mut request = again.unwrap_or_else(|| shared.fill(&mut mixer, phase.batch));
        request.sent = Instant::now();
        next_request = next_request.wrapping_add(1);
        sender.submit(next_request, &request.transfers);
        phase.offered.fetch_add(u64::try_from(request.transfers.len()).unwrap_or(0), Relaxed);
        lock(&shared.requests).insert(next_request, request);
        sender.flush().await?;
    }
    shared.is_over.store(true, Relaxed);
    // Its answer has the receiver look whether anything is still under way.
    next_request = next_request.wrapping_add(1);
    sender.ping(next_request);
    sender.flush().await?;
    Ok((sender, mixer, next_request))
}

impl UnderWay {
    fn fill(&self, mixer: &mut Mixer, batch: u64) -> Request {
        let emptied = lock(&self.emptied).pop();
        let mut request =
            emptied.unwrap_or_else(|| Request { sent: Instant::now(), transfers: Vec::new(), planned: Vec::new() });
        request.transfers.clear();
        request.planned.clear();
        let size = usize::try_from(batch).unwrap_or(1);
        mixer.fill(size, Filling { transfers: &mut request.transfers, planned: &mut request.planned });
        request
    }
}

async fn receive(
    mut receiver: AnswerReceiver,
    phase: &Phase,
    shared: &UnderWay,
) -> Result<AnswerReceiver, ClientError> {
    loop {
        let (id, answer) = receiver.next().await?;
        if let Some(request) = lock(&shared.requests).remove(&id) {
            let latency_us = u64::try_from(request.sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            match answer {
                Answer::Outcomes(outcomes) if outcomes.len() == request.planned.len() => {
                    let accepted =
                        outcomes.iter().zip(&request.planned).filter(|(outcome, _)| outcome.code.is_accepted());
                    let counted = accepted.map(|(_, planned)| phase.model.accepted(planned)).count();
                    phase.accepted.fetch_add(u64::try_from(counted).unwrap_or(0), Relaxed);
                    phase.accepted_us.record(&[latency_us]);
                    lock(&shared.emptied).push(request);
                }
                Answer::Refused(Code::Busy, _) => {
                    phase.refused.fetch_add(1, Relaxed);
                    phase.refused_us.record(&[latency_us]);
                    lock(&shared.again).push(request);
                }
                Answer::Refused(code, text) => return Err(ClientError::Refused { code, text }),
                _ => return Err(ClientError::Protocol(Code::BodyMalformed)),
            }
            shared.room.add_permits(1);
        }
        if shared.is_over.load(Relaxed) && lock(&shared.requests).is_empty() {
            return Ok(receiver);
        }
    }
}

/// Single transfers, one after the other.
struct Probe {
    client: Client,
    mixer: Mixer,
    model: Arc<Model>,
}

impl Probe {
    async fn once(&mut self) -> anyhow::Result<Duration> {
        let (mut transfers, mut planned) = (Vec::new(), Vec::new());
        self.mixer.fill(1, Filling { transfers: &mut transfers, planned: &mut planned });
        let begun = Instant::now();
        loop {
            match self.client.submit(&transfers).await {
                Ok(outcomes) => {
                    let accepted = outcomes.iter().zip(&planned).filter(|(outcome, _)| outcome.code.is_accepted());
                    accepted.for_each(|(_, planned)| self.model.accepted(planned));
                    return Ok(begun.elapsed());
                }
                Err(ClientError::Refused { code: Code::Busy, .. }) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(err) => return Err(err.into()),
            }
        }
    }

    async fn normal(&mut self) -> anyhow::Result<Latency> {
        let recorder = Recorder::new()?;
        for _ in 0..PROBES {
            recorder.record(&[u64::try_from(self.once().await?.as_micros()).unwrap_or(u64::MAX)]);
        }
        Ok(recorder.latency())
    }

    /// How long it takes until the p90 of two slices one after the other is at most this, milliseconds.
    async fn until_normal(&mut self, longest_us: u64) -> anyhow::Result<u64> {
        let begun = Instant::now();
        let mut normal_since = None;
        while begun.elapsed() < WATCHED {
            let slice = Instant::now();
            let recorder = Recorder::new()?;
            while slice.elapsed() < SLICE {
                recorder.record(&[u64::try_from(self.once().await?.as_micros()).unwrap_or(u64::MAX)]);
            }
            match (recorder.latency().p90 <= longest_us, normal_since) {
                (true, Some(since)) => return Ok(since),
                (true, None) => normal_since = Some(milliseconds(slice.duration_since(begun))),
                (false, _) => normal_since = None,
            }
        }
        Ok(milliseconds(begun.elapsed()))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Outcome {
    fn describe(&self) -> String {
        let rate = |per_s: f64| format!("{}/s", grouped(whole(per_s)));
        let megabytes = |bytes: u64| format!("{} MB", bytes >> 20);
        let Self { before, overload, after, normal_us, .. } = self;
        let lines = [
            ("peak", format!("{} before, {} after", rate(before.accepted_per_s), rate(after.accepted_per_s))),
            ("offered", format!("{} for {} s", rate(overload.offered_per_s), self.seconds)),
            ("accepted", format!("{}, {:.2} of the peak", rate(overload.accepted_per_s), self.ratio)),
            (
                "refused",
                format!(
                    "{} requests busy, p50 {}   p99 {}",
                    grouped(overload.refused),
                    time(overload.refused_us.p50),
                    time(overload.refused_us.p99)
                ),
            ),
            (
                "latency",
                format!(
                    "of what was accepted p50 {}   p99 {}; at the peak p50 {}   p99 {}",
                    time(overload.accepted_us.p50),
                    time(overload.accepted_us.p99),
                    time(before.accepted_us.p50),
                    time(before.accepted_us.p99)
                ),
            ),
            (
                "memory",
                format!("{} at the peak, {} at most", megabytes(before.rss_bytes), megabytes(overload.rss_bytes)),
            ),
            (
                "normal",
                format!("again after {} ms (single transfers p90 {})", self.normal_after_ms, time(normal_us.p90)),
            ),
            ("verified", if self.verified { "yes".to_owned() } else { "NO".to_owned() }),
        ];
        lines.map(|(name, text)| format!("  {name:<12} {text}")).join("\n") + "\n"
    }
}
