//! `heng-loadgen bench`: every row of the budget in one go, against servers of its own.
//!
//! Each row is a run like `heng-loadgen run` makes, in a process and directory of its own, repeated, with the median shown and the range
//! behind it. What a row is measured against stands beside it; a row that misses its budget says so.

mod table;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser};
use serde::Serialize;

use crate::arguments::RunArguments;
use crate::baseline::{Baseline, Pace, baseline, disk_p99_ms, processor_ms};
use crate::report::{Report, whole};
use crate::run::perform;
use crate::spawn::Spawned;

/// Runs of each row with `--full`.
const REPEATS: usize = 3;

/// With `--quick` a row makes this part of its transfers.
const QUICK_PART: u64 = 5;

/// Bytes of a transfer.
const PAYLOAD: f64 = 128.0;

/// As often as 300,000 transfers/s in full batches, for ten seconds.
const TAIL_PACE: Pace = Pace { every: Duration::from_micros(27_300), count: 366 };

/// What a batch is for the disk.
const BATCH_BYTES: usize = 8_190 * 128;

/// About as long as a batch keeps processors busy until it is answered.
const BATCH_WORK: Duration = Duration::from_millis(4);

/// A processor that is busy half of the time, for ten seconds.
const HALF_BUSY: (Pace, Duration) =
    (Pace { every: Duration::from_millis(1), count: 10_000 }, Duration::from_micros(500));

/// Transfers before a row about tails, which are not measured. A virtual machine gives memory that is free for some seconds back to its host, and
/// the first second of a run that uses it again has requests of 80 ms.
const WARMING: &[&str] = &["--spawn", "--transfers", "5000000", "--no-verify"];

/// Part of the rate offered that is taken where the server keeps up.
const KEPT_UP: f64 = 0.95;

/// A file system in memory, where there is one.
const MEMORY: &str = "/dev/shm";

/// Measure every row of the budget, and print them against it.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// One short run of each row: some minutes.
    #[arg(long, required_unless_present = "full", conflicts_with = "full")]
    quick: bool,
    /// Three whole runs of each row: ten minutes and more.
    #[arg(long)]
    full: bool,
    /// Only rows whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// Write all results as JSON, for `heng-loadgen compare`.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What a row must reach.
#[derive(Clone, Copy, Debug)]
enum Budget {
    /// Transfers per second, at least.
    Rate(f64),
    /// Milliseconds of the p99, at most, with the data there.
    P99(f64, Place),
    /// With half of its peak offered, and taken: the p99.9 without one bare sync in multiples of the p50, at most.
    HalfPeak(f64),
    /// The p50 in multiples of a bare sync and a round trip, at most; and a rate.
    OneByOne(f64, f64),
    /// The rate of the last tenth against that of the first, at least; and a rate.
    Sustained(f64, f64),
}

/// Where a row's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Disk,
    /// A file system in memory: without the disk's own stalls.
    Memory,
}

struct Row {
    name: &'static str,
    transfers: u64,
    arguments: &'static [&'static str],
    budget: Budget,
}

impl Row {
    /// Whether it is about the worst requests.
    fn is_tail(&self) -> bool {
        matches!(self.budget, Budget::P99(..) | Budget::HalfPeak(_))
    }

    fn is_in_memory(&self) -> bool {
        matches!(self.budget, Budget::P99(_, Place::Memory))
    }

    /// What the row depends on, alone, where it is compared with that.
    fn alone_ms(&self) -> anyhow::Result<Option<f64>> {
        Ok(match self.budget {
            Budget::P99(_, Place::Disk) => Some(disk_p99_ms(TAIL_PACE, BATCH_BYTES)?),
            Budget::P99(_, Place::Memory) => Some(processor_ms(TAIL_PACE, BATCH_WORK, 990)?),
            Budget::HalfPeak(_) => Some(processor_ms(HALF_BUSY.0, HALF_BUSY.1, 999)?),
            Budget::Rate(_) | Budget::OneByOne(..) | Budget::Sustained(..) => None,
        })
    }

    fn measure(&self, run: &mut RunArguments, repeats: usize) -> anyhow::Result<Measured> {
        let mut measured =
            Measured { name: self.name.to_owned(), runs: Vec::new(), machine: Vec::new(), alone_ms: Vec::new() };
        measured.alone_ms.extend(self.alone_ms()?);
        for _ in 0..repeats {
            let directory = self.is_in_memory().then(|| tempfile::tempdir_in(MEMORY)).transpose()?;
            run.data_dir = directory.as_ref().map(|directory| directory.path().join("data"));
            // The disk's pace changes from minute to minute.
            let is_compared = matches!(self.budget, Budget::OneByOne(..) | Budget::HalfPeak(_));
            let before = is_compared.then(baseline).transpose()?;
            if self.is_tail() {
                perform(&arguments(WARMING)?)?;
            }
            measured.runs.push(perform(run)?);
            if let Some(before) = before {
                measured.machine.push([before, baseline()?]);
            }
            measured.alone_ms.extend(self.alone_ms()?);
        }
        Ok(measured)
    }
}

/// What gateways send that put some requests together.
const HUNDREDS: &[&str] = &["--batch", "100", "--connections", "32"];

const ROWS: &[Row] = &[
    Row {
        name: "full batches, 10,000 accounts",
        transfers: 5_000_000,
        arguments: &[],
        budget: Budget::Rate(1_500_000.0),
    },
    Row {
        name: "full batches, 1,000,000 accounts",
        transfers: 5_000_000,
        arguments: &["--accounts", "1000000"],
        budget: Budget::Rate(1_000_000.0),
    },
    Row { name: "random ids", transfers: 10_000_000, arguments: &["--ids", "random"], budget: Budget::Rate(800_000.0) },
    Row {
        name: "two-phase: holds and captures",
        transfers: 4_000_000,
        arguments: &["--mix", "two-phase"],
        budget: Budget::Rate(800_000.0),
    },
    Row {
        name: "batches of 100, 32 connections",
        transfers: 3_000_000,
        arguments: HUNDREDS,
        budget: Budget::Rate(600_000.0),
    },
    Row {
        name: "half of the peak of batches of 100 offered",
        transfers: 10_000_000,
        arguments: HUNDREDS,
        budget: Budget::HalfPeak(3.0),
    },
    Row {
        name: "half of the peak of full batches offered",
        transfers: 20_000_000,
        arguments: &[],
        budget: Budget::HalfPeak(3.0),
    },
    Row {
        name: "one transfer per request, 32 connections",
        transfers: 1_000_000,
        arguments: &["--batch", "1", "--connections", "32", "--in-flight", "8"],
        budget: Budget::Rate(200_000.0),
    },
    Row {
        name: "32 callers share a connection",
        transfers: 400_000,
        arguments: &["--batch", "1", "--connections", "1", "--callers", "32"],
        budget: Budget::Rate(60_000.0),
    },
    Row {
        name: "512 callers share a connection",
        transfers: 2_000_000,
        arguments: &["--batch", "1", "--connections", "1", "--callers", "512"],
        budget: Budget::Rate(400_000.0),
    },
    Row {
        name: "8,192 callers share a connection",
        transfers: 5_000_000,
        arguments: &["--batch", "1", "--connections", "1", "--callers", "8192"],
        budget: Budget::Rate(1_000_000.0),
    },
    Row {
        name: "one caller, one transfer at a time",
        transfers: 20_000,
        arguments: &["--batch", "1", "--connections", "1", "--in-flight", "1"],
        budget: Budget::OneByOne(4_000.0, 1.3),
    },
    Row {
        name: "one hot account in every transfer",
        transfers: 5_000_000,
        arguments: &["--distribution", "hot:1"],
        budget: Budget::Rate(1_000_000.0),
    },
    Row {
        name: "full batches offered at 300,000/s",
        transfers: 6_000_000,
        arguments: &["--rate", "300000"],
        budget: Budget::P99(10.0, Place::Disk),
    },
    Row {
        name: "the same, data in memory",
        transfers: 6_000_000,
        arguments: &["--rate", "300000"],
        budget: Budget::P99(10.0, Place::Memory),
    },
    Row { name: "sustained", transfers: 20_000_000, arguments: &[], budget: Budget::Sustained(1_500_000.0, 0.85) },
];

/// What one row came to.
#[derive(Debug, Serialize)]
struct Measured {
    name: String,
    runs: Vec<Report>,
    /// What the machine took before and after each run, where a row is compared with that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    machine: Vec<[Baseline; 2]>,
    /// The same percentile, p99 or p99.9, of what the row depends on, the disk or a processor, alone, before and after each run, milliseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alone_ms: Vec<f64>,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Results {
    baseline: Baseline,
    rows: Vec<Measured>,
    /// From the start of the process to ready, after `kill -9` under load, seconds.
    restart_s: Option<f64>,
}

#[derive(Debug, Parser)]
struct Just {
    #[command(flatten)]
    run: RunArguments,
}

/// A run's arguments as they would be typed.
pub(crate) fn arguments(more: &[&str]) -> anyhow::Result<RunArguments> {
    let all = ["run"].into_iter().chain(more.iter().copied());
    Ok(Just::try_parse_from(all).context("a row's arguments")?.run)
}

/// Runs; the exit code is 2 when money does not add up, 1 when a run fails.
pub(crate) fn run(arguments: &BenchArguments) -> ExitCode {
    match measure(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(err) => {
            // Nobody is there to be told that nobody is there.
            let _told = writeln!(std::io::stderr(), "heng-loadgen: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &BenchArguments) -> anyhow::Result<bool> {
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let repeats = if options.full { REPEATS } else { 1 };
    let shortened = |transfers: u64| if options.full { transfers } else { transfers / QUICK_PART };
    let mut results = Results { baseline: baseline()?, rows: Vec::new(), restart_s: None };
    for row in ROWS.iter().filter(|row| wanted(row.name)) {
        // Of few requests the p99 is the worst one.
        let transfers = if row.is_tail() { row.transfers } else { shortened(row.transfers) }.to_string();
        let mut run = arguments(&[&["--spawn", "--transfers", &transfers], row.arguments].concat())?;
        if matches!(row.budget, Budget::HalfPeak(_)) {
            run.rate = whole(peak(&run)? / 2.0);
        }
        if row.is_in_memory() && !Path::new(MEMORY).is_dir() {
            writeln!(std::io::stderr(), "SKIPPED: {}: there is no {MEMORY}", row.name)?;
            continue;
        }
        results.rows.push(row.measure(&mut run, repeats)?);
    }
    if wanted("restart") {
        results.restart_s = Some(restart(shortened(7_000_000))?);
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::io::stdout().write_all(table::table(&results).as_bytes())?;
    Ok(results.rows.iter().flat_map(|row| &row.runs).all(|run| run.verified == Some(true)))
}

/// What is reached with as many transfers when as much is sent as is answered, transfers per second.
fn peak(run: &RunArguments) -> anyhow::Result<f64> {
    let report = perform(run)?;
    anyhow::ensure!(report.verified == Some(true), "the accounts are not as the generator knows them, at the peak");
    Ok(report.transfers_per_s)
}

/// Loads a server, kills it amid the load, and takes the time until the next one is ready.
fn restart(transfers: u64) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let server = Spawned::start(Some(&data), 0, None)?;
    let transfers = transfers.to_string();
    perform(&arguments(&["--target", &server.address, "--transfers", &transfers, "--no-verify"])?)?;
    // Dropping it kills it.
    drop(server);
    let begun = Instant::now();
    let server = Spawned::start(Some(&data), 0, None)?;
    let took = begun.elapsed().as_secs_f64();
    server.stop()?;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_asked_for() {
        for row in ROWS {
            let transfers = row.transfers.to_string();
            assert!(
                arguments(&[&["--spawn", "--transfers", &transfers], row.arguments].concat()).is_ok(),
                "{}",
                row.name
            );
        }
        assert!(arguments(&["--spawn", "--batch", "0"]).is_err());
    }
}
