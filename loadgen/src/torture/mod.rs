//! `torture`: breaks a real server under load, again and again, and checks after each time what clients were told against what is there.
//!
//! What is checked knows nothing of the server's insides: a log of what was sent and answered ([`log`]), and the public protocol. The moments
//! and places of all faults follow from the seed; what the machine does between them does not, so a run is not repeated to the byte.

mod ask;
mod clock;
mod copies;
mod cycle;
mod damage;
mod desk;
mod errors;
mod heir;
mod load;
mod log;
mod proxy;
mod rival;
mod site;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use cycle::Ledger;
use log::Wrong;
use site::Site;

/// How a server is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// `kill -9` at any moment.
    Kill,
    /// The power is cut: what was not synced is gone. Needs the right to mount, `mkfs.xfs` and `xfs_io`.
    Power,
    /// The same on ext4. Needs `mkfs.ext4` as well.
    #[value(name = "power-ext4")]
    #[serde(rename = "power-ext4")]
    PowerExt4,
    /// The disk is full, and later has more room. Needs the right to mount.
    DiskFull,
    /// A bit flipped, a page of zeros or an end cut off in any file of the stopped server.
    Flip,
    /// The process stands still for a while, up to 20 s, and a second server is started on its data; then it goes on, or is killed as it stands.
    Stop,
    /// Its ledger is taken over into another directory, mostly while it stands still; then it goes on, and must find out.
    TakeOver,
    /// The clock goes an hour ahead, an hour back, to and fro, and stops. Needs `libfaketime`.
    Clock,
    /// Connections stand still, dribble, are half closed, and break amid frames; clients connect again and send again.
    Network,
    /// A system call fails with an I/O error, once or from then on; where the power can be cut, it is cut afterwards, so that nothing is left of
    /// what was not synced. Needs `strace`.
    IoError,
}

impl Fault {
    pub(crate) fn cuts_power(self) -> bool {
        matches!(self, Self::Power | Self::PowerExt4)
    }
}

/// Arguments of `torture`.
#[derive(Debug, Args)]
pub(crate) struct TortureArguments {
    /// How often to break it.
    #[arg(long, default_value_t = 20)]
    cycles: u64,
    /// Where moments and places of faults come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which faults, in turn.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kill,power,power-ext4,disk-full,flip,stop,take-over,clock,network,io-error"
    )]
    faults: Vec<Fault>,
    /// Where to work [default: a temporary directory]. Kept when something is wrong.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the result to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How long it took to be ready after a crash, milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Recovery {
    p50: u64,
    max: u64,
}

/// The result.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    cycles: u64,
    /// By fault.
    faults: BTreeMap<Fault, u64>,
    skipped: Vec<Fault>,
    seed: u64,
    /// Transfers that were answered, or found to be there, and are checked for ever after.
    acknowledged: u64,
    /// Statements that were imported, and windows that were settled, which are checked likewise.
    statements: u64,
    windows: u64,
    lost: u64,
    doubled: u64,
    torn: u64,
    money_drift: u64,
    /// Transfers whose time is before that of one before them.
    back_in_time: u64,
    /// Damage to files by what became of it.
    damage_refused: u64,
    damage_found_by_verify: u64,
    damage_harmless: u64,
    undetected_damage: u64,
    verify_failures: u64,
    /// Starts that were broken off by a kill or a power cut while they recovered.
    recoveries_broken: u64,
    /// Times that a clock was set.
    clock_jumps: u64,
    /// Second servers that refused to start while the first stood still, and those that did not.
    rivals_refused: u64,
    taken_over: u64,
    /// Ledgers that went on as they were restored from a backup.
    restored: u64,
    /// Ledgers that went on in another directory, while their server knew nothing.
    inherited: u64,
    /// Connections that a bad network broke amid something.
    connections_broken: u64,
    /// I/O errors that ended the server, and those that it lived with.
    io_errors_ended: u64,
    io_errors_outlived: u64,
    /// Requests whose answers came when the power was being cut, and promise nothing.
    excused: u64,
    /// Times that a server, or a connection, neither ended nor answered, or a window was not settled.
    stuck: u64,
    /// What ended it before all cycles were done, if anything did: a server that does not start again is such a thing.
    failure: Option<String>,
    recovery_ms: Recovery,
    /// How long a server took to answer after a start, or after it stood still or its network was bad.
    again_ms: Recovery,
    #[serde(skip)]
    answered_again: Vec<u64>,
}

impl Recovery {
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let (middle, last) = (times.get(times.len() / 2), times.last());
        Self { p50: middle.copied().unwrap_or(0), max: last.copied().unwrap_or(0) }
    }
}

impl Report {
    fn add(&mut self, wrong: &Wrong) {
        self.lost = self.lost.saturating_add(wrong.lost);
        self.doubled = self.doubled.saturating_add(wrong.doubled);
        self.torn = self.torn.saturating_add(wrong.torn);
        self.money_drift = self.money_drift.saturating_add(wrong.money_drift);
        self.back_in_time = self.back_in_time.saturating_add(wrong.back_in_time);
        self.stuck = self.stuck.saturating_add(wrong.unsettled);
    }

    fn is_good(&self) -> bool {
        let wrong = [self.lost, self.doubled, self.torn, self.money_drift, self.back_in_time];
        let unseen = [self.undetected_damage, self.taken_over, self.verify_failures, self.stuck];
        wrong == [0; 5] && unseen == [0; 4] && self.failure.is_none()
    }

    fn describe(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, text: String| lines.push(format!("  {name:<18} {text}\n"));
        let of_each: Vec<String> = self.faults.iter().map(|(fault, count)| format!("{count} {fault:?}")).collect();
        line("cycles", format!("{}: {}", self.cycles, of_each.join(", ")));
        for skipped in &self.skipped {
            line("SKIPPED", format!("{skipped:?}: this machine does not let us make it"));
        }
        line("acknowledged", self.acknowledged.to_string());
        line("back office", format!("{} statements, {} windows", self.statements, self.windows));
        line("lost", self.lost.to_string());
        line("doubled", self.doubled.to_string());
        line("torn", self.torn.to_string());
        line("money drift", self.money_drift.to_string());
        line("back in time", self.back_in_time.to_string());
        line(
            "damaged files",
            format!(
                "{} refused at the start, {} found by verify, {} harmless or mended, {} UNDETECTED",
                self.damage_refused, self.damage_found_by_verify, self.damage_harmless, self.undetected_damage
            ),
        );
        line("recoveries", format!("{} were broken off", self.recoveries_broken));
        line("I/O errors", format!("{} ended the server, {} did not", self.io_errors_ended, self.io_errors_outlived));
        line("clock", format!("set {} times", self.clock_jumps));
        let taken_over = self.taken_over;
        line("second servers", format!("{} refused to start, {taken_over} TOOK THE DATA", self.rivals_refused));
        line(
            "moved",
            format!("{} ledgers were taken over, {} went on as restored from a backup", self.inherited, self.restored),
        );
        line("network", format!("broke {} connections", self.connections_broken));
        line("excused", format!("{} requests were answered when the power was being cut", self.excused));
        line("verify failures", self.verify_failures.to_string());
        line("stuck", self.stuck.to_string());
        if let Some(failure) = &self.failure {
            line("ended by", failure.clone());
        }
        line("recovery", format!("p50 {} ms, max {} ms", self.recovery_ms.p50, self.recovery_ms.max));
        line("answered again", format!("p50 {} ms, max {} ms", self.again_ms.p50, self.again_ms.max));
        // Rule of three, 95 %.
        let bound = 300.0 / f64::from(u32::try_from(self.cycles.max(1)).unwrap_or(u32::MAX));
        let said = if self.is_good() { "nothing was wrong" } else { "SOMETHING WAS WRONG" };
        line(
            "result",
            format!("{said}; none of so many cycles bounds the rate of failures below {bound:.2} % of cycles"),
        );
        lines.concat()
    }
}

/// Runs it; 0 when nothing was wrong.
pub(crate) fn run(arguments: &TortureArguments) -> ExitCode {
    match torture(arguments) {
        Ok(report) => {
            // A closed standard output does not change what was found.
            let _told = std::io::stdout().write_all(report.describe().as_bytes());
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(err) => {
            crate::run::say(&format!("heng-loadgen: {err:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "no actor runs on this thread")]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// Which site a fault needs.
fn open_site(fault: Fault, root: &std::path::Path) -> anyhow::Result<Option<Site>> {
    match fault {
        Fault::IoError if !errors::can_be_made() => Ok(None),
        // Without the right to mount, what was not synced is still there afterwards: a weaker test, but one.
        Fault::IoError => match Site::image(root.join("errors"), "mkfs.xfs")? {
            Some(site) => Ok(Some(site)),
            None => Site::plain(root.join("errors")).map(Some),
        },
        Fault::Clock if clock::FakeClock::new(root).is_none() => Ok(None),
        Fault::Flip => Site::plain(root.join("damaged")).map(Some),
        Fault::Kill | Fault::Stop | Fault::TakeOver | Fault::Clock | Fault::Network => {
            Site::plain(root.join("plain")).map(Some)
        }
        Fault::Power => Site::image(root.join("power"), "mkfs.xfs"),
        Fault::PowerExt4 => Site::image(root.join("power-ext4"), "mkfs.ext4"),
        Fault::DiskFull => Site::small(root.join("small")),
    }
}

/// Where everything was done, which is not removed then.
fn kept(arguments: &TortureArguments, temporary: tempfile::TempDir) -> PathBuf {
    arguments.dir.clone().unwrap_or_else(|| temporary.keep())
}

fn torture(arguments: &TortureArguments) -> anyhow::Result<Report> {
    let temporary = tempfile::tempdir()?;
    let root = arguments.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let mut report = Report { seed: arguments.seed, ..Report::default() };
    // Faults that need the same ground share a ledger.
    let shared = [Fault::Stop, Fault::TakeOver, Fault::Clock, Fault::Network];
    let ground = |fault: Fault| if shared.contains(&fault) { Fault::Kill } else { fault };
    let mut ledgers: BTreeMap<Fault, Ledger> = BTreeMap::new();
    let mut faults = arguments.faults.clone();
    for &fault in &arguments.faults {
        // What is special about a clock is not its ground.
        if fault != Fault::Clock && ledgers.contains_key(&ground(fault)) {
            continue;
        }
        if let Some(site) = open_site(fault, &root)? {
            ledgers.entry(ground(fault)).or_insert_with(|| Ledger::new(site, arguments.seed));
        } else {
            report.skipped.push(fault);
            faults.retain(|other| *other != fault);
        }
    }
    anyhow::ensure!(!faults.is_empty(), "none of these faults can be made on this machine");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    let mut recoveries = Vec::new();
    let bar = crate::run::progress("cycles", arguments.cycles)?;
    for &fault in faults.iter().cycle().take(usize::try_from(arguments.cycles)?) {
        let Some(ledger) = ledgers.get_mut(&ground(fault)) else { continue };
        let cycle = ledger.cycle(&runtime, fault, &mut rng, &mut report);
        match cycle.with_context(|| format!("cycle {}, {fault:?}", report.cycles)) {
            Ok(recovery) => recoveries.extend(recovery),
            Err(err) => {
                report.failure = Some(format!("{err:#}"));
                break;
            }
        }
        report.cycles = report.cycles.saturating_add(1);
        let count = report.faults.entry(fault).or_default();
        *count = count.saturating_add(1);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let unfinished = if report.failure.is_none() { ledgers.len() } else { 0 };
    for ledger in ledgers.values_mut().take(unfinished) {
        if let Err(err) = ledger.finish(&runtime, &mut rng, &mut report) {
            report.failure = Some(format!("at the end: {err:#}"));
        }
    }
    report.recovery_ms = Recovery::of(recoveries);
    report.again_ms = Recovery::of(std::mem::take(&mut report.answered_again));
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !report.is_good() {
        drop(ledgers);
        crate::run::say(&format!("what is left of it is in {}", kept(arguments, temporary).display()));
    }
    Ok(report)
}
