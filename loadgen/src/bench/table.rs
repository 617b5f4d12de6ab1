//! The results of `heng-loadgen bench` as a table against the budget.
//!
//! What is shown of several runs is the median, with the range behind it; a ratio is taken of each run by itself first.

use super::{Budget, KEPT_UP, Measured, PAYLOAD, Place, ROWS, Results, Row};
use crate::baseline::Baseline;
use crate::report::{Report, grouped};

/// A line: what, measured, its range, the budget, whether it is met.
struct Line(String, String, String, String, Option<bool>);

impl Line {
    /// Of a figure without a budget.
    fn plain(what: &str, (median, least, most): (f64, f64, f64), unit: &str) -> Self {
        let range = format!("{} - {}", figure(least), figure(most));
        Self(what.to_owned(), format!("{} {unit}", figure(median)), range, String::new(), None)
    }

    fn against(self, budget: String, is_met: bool) -> Self {
        Self(self.0, self.1, self.2, budget, Some(is_met))
    }

    fn at_most(self, (median, _, _): (f64, f64, f64), most: f64) -> Self {
        self.against(format!("<= {}", figure(most)), median <= most)
    }

    fn at_least(self, (median, _, _): (f64, f64, f64), least: f64) -> Self {
        self.against(format!(">= {}", figure(least)), median >= least)
    }
}

/// Median, least and most.
fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

/// The mean of a figure of the machine before and after a run.
fn around(machine: &[Baseline; 2], figure: fn(&Baseline) -> f64) -> f64 {
    machine.iter().map(figure).sum::<f64>() / 2.0
}

fn row_lines(row: &Row, measured: &Measured) -> Vec<Line> {
    let of = |figure: &dyn Fn(&Report) -> f64| median(measured.runs.iter().map(figure).collect());
    let against_machine = |ratio: &dyn Fn(&Report, &[Baseline; 2]) -> f64| {
        median(measured.runs.iter().zip(&measured.machine).map(|(run, machine)| ratio(run, machine)).collect())
    };
    let alone = |what: &str| Line::plain(what, median(measured.alone_ms.clone()), "ms");
    let rate = of(&|run| run.transfers_per_s);
    let rate_line = Line::plain(row.name, rate, "/s");
    match row.budget {
        Budget::Rate(least) => vec![rate_line.at_least(rate, least)],
        Budget::P99(most, place) => {
            let p99 = of(&|run| real(run.latency_us.p99) / 1_000.0);
            let line = Line::plain(row.name, p99, "ms p99").at_most(p99, most);
            let beside = match place {
                Place::Disk => "  as many bytes, written and synced alone, p99",
                Place::Memory => "  a processor alone, with work for 4 ms, p99",
            };
            vec![line, alone(beside)]
        }
        Budget::HalfPeak(times) => {
            let kept_up = measured.runs.iter().all(|run| run.transfers_per_s >= KEPT_UP * real(run.run.rate));
            let tail = against_machine(&|run, machine| {
                let sync_us = around(machine, |machine| machine.sync_us);
                (real(run.latency_us.p99_9) - sync_us) / real(run.latency_us.p50).max(1.0)
            });
            vec![
                rate_line.against("as offered".to_owned(), kept_up),
                Line::plain("  p99.9 without a sync, against p50", tail, "times").at_most(tail, times),
                Line::plain("  p50", of(&|run| real(run.latency_us.p50) / 1_000.0), "ms"),
                Line::plain("  p99.9", of(&|run| real(run.latency_us.p99_9) / 1_000.0), "ms"),
                alone("  a processor alone, busy half of the time, p99.9"),
            ]
        }
        Budget::OneByOne(least, times) => {
            let p50 = against_machine(&|run, machine| {
                real(run.latency_us.p50) / around(machine, |machine| machine.sync_us + machine.round_trip_us)
            });
            let line = Line::plain("  p50 against a bare sync and round trip", p50, "times").at_most(p50, times);
            vec![rate_line.at_least(rate, least), line]
        }
        Budget::Sustained(least, part) => {
            let steady = of(&Report::steadiness);
            let line = Line::plain("  last tenth against first tenth", steady, "").at_least(steady, part);
            vec![rate_line.at_least(rate, least), line]
        }
    }
}

/// Disk, memory and processor time, of the first two rows.
fn server_lines(results: &Results) -> Vec<Line> {
    let per_transfer = |figure: &dyn Fn(&Report) -> f64, row: &Measured| {
        median(row.runs.iter().map(|run| figure(run) / real(run.transfers).max(1.0)).collect())
    };
    let used = |run: &Report| run.server.unwrap_or_default();
    let mut lines = Vec::new();
    if let Some(row) = results.rows.first().filter(|row| row.name == ROWS.first().map_or("", |row| row.name)) {
        let disk = per_transfer(&|run| real(used(run).disk_bytes), row);
        let written = per_transfer(&|run| real(used(run).written_bytes), row);
        let memory = median(row.runs.iter().map(|run| real(used(run).rss_bytes) / 1e6).collect());
        lines.push(Line::plain("disk per transfer", disk, "B").at_most(disk, 250.0));
        lines.push(Line::plain("written per transfer", written, "B").at_most(written, 3.0 * PAYLOAD));
        let cpu = per_transfer(&|run| used(run).cpu_s * 1e6, row);
        lines.push(Line::plain("processor time per transfer", cpu, "us"));
        lines.push(Line::plain("memory, 10,000 accounts", memory, "MB").at_most(memory, 400.0));
        if let Some(million) = results.rows.iter().find(|row| row.name.contains("1,000,000 accounts")) {
            // As soon as they are open: later there is more in memory than accounts.
            let opened = |row: &Measured| median(row.runs.iter().map(|run| real(used(run).opened_rss_bytes)).collect());
            let each = (opened(million).0 - opened(row).0) / 990_000.0;
            let each = (each, each, each);
            lines.push(Line::plain("memory per account", each, "B").at_most(each, 200.0));
        }
    }
    if let Some(restart) = results.restart_s {
        let restart = (restart, restart, restart);
        lines.push(Line::plain("ready after kill -9", restart, "s").at_most(restart, 3.0));
    }
    let base = &results.baseline;
    let once = |value: f64| (value, value, value);
    lines.push(Line::plain("(a bare fdatasync, and its p99)", (base.sync_us, base.sync_us, base.sync_p99_us), "us"));
    lines.push(Line::plain("(a loopback round trip)", once(base.round_trip_us), "us"));
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

/// The whole table.
pub(super) fn table(results: &Results) -> String {
    let rows = results.rows.iter().filter_map(|measured| {
        let row = ROWS.iter().find(|row| row.name == measured.name)?;
        Some(row_lines(row, measured))
    });
    let mut lines: Vec<Line> = rows.flatten().collect();
    lines.extend(server_lines(results));
    let width = |of: &dyn Fn(&Line) -> usize| lines.iter().map(of).max().unwrap_or(0);
    let (name, value) = (width(&|line| line.0.len()), width(&|line| line.1.len()));
    let (range, budget) = (width(&|line| line.2.len()), width(&|line| line.3.len()));
    let mut text = String::new();
    for Line(what, measured, between, wanted, met) in &lines {
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
    fn figures_and_medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert_eq!([figure(1_234_567.4), figure(1.25)], ["1,234,567", "1.25"]);
    }

    #[test]
    fn a_budget_is_met_or_not() {
        let (low, high) = ((9.9, 1.0, 20.0), (10.1, 1.0, 20.0));
        let met = |line: Line| line.4;
        let line = || Line::plain("a row", low, "ms");
        assert_eq!([met(line().at_most(low, 10.0)), met(line().at_most(high, 10.0))], [Some(true), Some(false)]);
        assert_eq!([met(line().at_least(low, 10.0)), met(line().at_least(high, 10.0))], [Some(false), Some(true)]);
        assert_eq!(met(line()), None);
    }
}
