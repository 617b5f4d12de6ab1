//! `heng-loadgen bench`: every row of the budget in one go, against servers of its own.
//!
//! Each row is a run like `heng-loadgen run` makes, in a process and directory of its own, repeated, with the median shown and the range
//! behind it. What a row is measured against stands beside it; a row that misses its budget says so.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser};
use serde::Serialize;

use crate::arguments::RunArguments;
use crate::baseline::{Baseline, Pace, baseline, disk_p99_ms, processor_p99_ms};
use crate::report::{Report, grouped};
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
        arguments: &["--batch", "100", "--connections", "32"],
        budget: Budget::Rate(600_000.0),
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
    /// The p99 of what the row depends on, the disk or a processor, alone at the pace of its load, before and after each run, milliseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alone_p99_ms: Vec<f64>,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Results {
    baseline: Baseline,
    rows: Vec<Measured>,
    /// From the start of the process to ready, after `kill -9` under load, seconds.
    restart_s: Option<f64>,
}

/// A line of the table: what, measured, its range, the budget, whether it is met.
struct Line(String, String, String, String, Option<bool>);

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
        let is_tail = matches!(row.budget, Budget::P99(..));
        let transfers = if is_tail { row.transfers } else { shortened(row.transfers) }.to_string();
        let mut run = arguments(&[&["--spawn", "--transfers", &transfers], row.arguments].concat())?;
        let is_in_memory = matches!(row.budget, Budget::P99(_, Place::Memory));
        let alone =
            || if is_in_memory { processor_p99_ms(TAIL_PACE, BATCH_WORK) } else { disk_p99_ms(TAIL_PACE, BATCH_BYTES) };
        if is_in_memory && !Path::new(MEMORY).is_dir() {
            writeln!(std::io::stderr(), "SKIPPED: {}: there is no {MEMORY}", row.name)?;
            continue;
        }
        let mut measured =
            Measured { name: row.name.to_owned(), runs: Vec::new(), machine: Vec::new(), alone_p99_ms: Vec::new() };
        if is_tail {
            measured.alone_p99_ms.push(alone()?);
        }
        for _ in 0..repeats {
            let directory = is_in_memory.then(|| tempfile::tempdir_in(MEMORY)).transpose()?;
            run.data_dir = directory.as_ref().map(|directory| directory.path().join("data"));
            // The disk's pace changes from minute to minute.
            let is_compared = matches!(row.budget, Budget::OneByOne(..));
            let before = is_compared.then(baseline).transpose()?;
            measured.runs.push(perform(&run)?);
            if let Some(before) = before {
                measured.machine.push([before, baseline()?]);
            }
            if is_tail {
                measured.alone_p99_ms.push(alone()?);
            }
        }
        results.rows.push(measured);
    }
    if wanted("restart") {
        results.restart_s = Some(restart(shortened(7_000_000))?);
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::io::stdout().write_all(table(&lines(&results)).as_bytes())?;
    Ok(results.rows.iter().flat_map(|row| &row.runs).all(|run| run.verified == Some(true)))
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

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

fn lines(results: &Results) -> Vec<Line> {
    let mut lines = Vec::new();
    for measured in &results.rows {
        let Some(row) = ROWS.iter().find(|row| row.name == measured.name) else { continue };
        let of = |figure: &dyn Fn(&Report) -> f64| median(measured.runs.iter().map(figure).collect());
        let rate = of(&|run| run.transfers_per_s);
        let mut line = |what: &str, (median, least, most): (f64, f64, f64), budget: String, met: bool, unit: &str| {
            let range = format!("{} - {}", figure(least), figure(most));
            let what = if what.is_empty() { row.name.to_owned() } else { format!("  {what}") };
            lines.push(Line(what, format!("{} {unit}", figure(median)), range, budget, Some(met)));
        };
        let at_least = |least: f64| (format!(">= {}", figure(least)), rate.0 >= least);
        match row.budget {
            Budget::Rate(least) => line("", rate, at_least(least).0, at_least(least).1, "/s"),
            Budget::P99(most, place) => {
                let p99 = of(&|run| real(run.latency_us.p99) / 1_000.0);
                line("", p99, format!("<= {most}"), p99.0 <= most, "ms p99");
                if !measured.alone_p99_ms.is_empty() {
                    let (median, least, most) = median(measured.alone_p99_ms.clone());
                    let range = format!("{} - {}", figure(least), figure(most));
                    let what = match place {
                        Place::Disk => "  as many bytes, written and synced alone",
                        Place::Memory => "  a processor alone, with work for 4 ms",
                    };
                    lines.push(Line(what.to_owned(), format!("{} ms p99", figure(median)), range, String::new(), None));
                }
            }
            Budget::OneByOne(least, times) => {
                line("", rate, at_least(least).0, at_least(least).1, "/s");
                let of_machine =
                    |of: &[Baseline; 2]| of.iter().map(|one| one.sync_us + one.round_trip_us).sum::<f64>() / 2.0;
                let runs = measured.runs.iter().zip(&measured.machine);
                let p50 = median(runs.map(|(run, machine)| real(run.latency_us.p50) / of_machine(machine)).collect());
                line("p50 against a bare sync and round trip", p50, format!("<= {times}"), p50.0 <= times, "times");
            }
            Budget::Sustained(least, part) => {
                line("", rate, at_least(least).0, at_least(least).1, "/s");
                let steady = of(&Report::steadiness);
                line("last tenth against first tenth", steady, format!(">= {part}"), steady.0 >= part, "");
            }
        }
    }
    lines.extend(server_lines(results));
    lines
}

/// Disk, memory and processor time, of the first two rows.
fn server_lines(results: &Results) -> Vec<Line> {
    let mut lines = Vec::new();
    let per_transfer = |figure: &dyn Fn(&Report) -> f64, row: &Measured| {
        median(row.runs.iter().map(|run| figure(run) / real(run.transfers).max(1.0)).collect())
    };
    let used = |run: &Report| run.server.unwrap_or_default();
    if let Some(row) = results.rows.first().filter(|row| row.name == ROWS.first().map_or("", |row| row.name)) {
        let mut line = |name: &str, (median, least, most): (f64, f64, f64), unit: &str, budget: Option<f64>| {
            let range = format!("{} - {}", figure(least), figure(most));
            let text = budget.map_or_else(String::new, |most| format!("<= {}", figure(most)));
            let met = budget.map(|most| median <= most);
            lines.push(Line(name.to_owned(), format!("{} {unit}", figure(median)), range, text, met));
        };
        line("disk per transfer", per_transfer(&|run| real(used(run).disk_bytes), row), "B", Some(250.0));
        line("written per transfer", per_transfer(&|run| real(used(run).written_bytes), row), "B", Some(3.0 * PAYLOAD));
        line("processor time per transfer", per_transfer(&|run| used(run).cpu_s * 1e6, row), "us", None);
        let memory = median(row.runs.iter().map(|run| real(used(run).rss_bytes) / 1e6).collect());
        line("memory, 10,000 accounts", memory, "MB", Some(400.0));
        if let Some(million) = results.rows.iter().find(|row| row.name.contains("1,000,000 accounts")) {
            // As soon as they are open: later there is more in memory than accounts.
            let opened = |row: &Measured| median(row.runs.iter().map(|run| real(used(run).opened_rss_bytes)).collect());
            let each = (opened(million).0 - opened(row).0) / 990_000.0;
            line("memory per account", (each, each, each), "B", Some(200.0));
        }
    }
    if let Some(restart) = results.restart_s {
        let met = Some(restart <= 3.0);
        lines.push(Line(
            "ready after kill -9".to_owned(),
            format!("{restart:.2} s"),
            String::new(),
            "<= 3".to_owned(),
            met,
        ));
    }
    let base = &results.baseline;
    let (sync, trip) = (format!("{:.0} us", base.sync_us), format!("{:.0} us", base.round_trip_us));
    lines.push(Line(
        "(a bare fdatasync)".to_owned(),
        sync,
        format!("p99 {:.0} us", base.sync_p99_us),
        String::new(),
        None,
    ));
    lines.push(Line("(a loopback round trip)".to_owned(), trip, String::new(), String::new(), None));
    lines
}

#[expect(clippy::cast_precision_loss, reason = "figures far below 2^53, shown rounded")]
fn real(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a figure above a hundred, shown rounded")]
fn figure(value: f64) -> String {
    if value >= 100.0 { grouped(value.round() as u64) } else { format!("{value:.2}") }
}

fn table(lines: &[Line]) -> String {
    let width = |of: &dyn Fn(&Line) -> usize| lines.iter().map(of).max().unwrap_or(0);
    let (name, value) = (width(&|line| line.0.len()), width(&|line| line.1.len()));
    let (range, budget) = (width(&|line| line.2.len()), width(&|line| line.3.len()));
    let mut text = String::new();
    for Line(what, measured, between, wanted, met) in lines {
        let said = match met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let row = format!("{what:<name$}  {measured:>value$}  {between:>range$}  {wanted:>budget$}  {said}");
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
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

    #[test]
    fn figures_and_medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert_eq!([figure(1_234_567.4), figure(1.25)], ["1,234,567", "1.25"]);
    }
}
