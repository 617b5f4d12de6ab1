//! The result, for people and for machines.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::closing::ClosingReport;
use crate::drive::Operations;
use crate::spawn::ServerUse;
use crate::timeline::Timeline;

/// A run's result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Transfers answered, without the warm-up.
    pub(crate) transfers: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    /// Answers that repeat an outcome decided before.
    pub(crate) repeated: u64,
    /// Requests answered busy and sent again.
    pub(crate) busy: u64,
    pub(crate) elapsed_s: f64,
    pub(crate) transfers_per_s: f64,
    /// In each whole second.
    pub(crate) per_second: Vec<f64>,
    /// The same with latencies, memory and disk, for `heng-loadgen chart`.
    pub(crate) timeline: Timeline,
    /// Per request, from the intended send time.
    pub(crate) latency_us: Latency,
    /// Whether every account is as the generator's model says; null when it was not compared.
    pub(crate) verified: Option<bool>,
    /// Accounts compared.
    pub(crate) verified_accounts: u64,
    /// Reads that were answered beside the load.
    pub(crate) reads: u64,
    /// What closing windows did to latencies; null when none were closed.
    pub(crate) windows: Option<ClosingReport>,
    /// What the server used; null for a server that was not spawned.
    pub(crate) server: Option<ServerUse>,
    /// Processor time of the generator, seconds.
    pub(crate) generator_cpu_s: f64,
    /// By operation and outcome.
    pub(crate) operations: Operations,
    /// How the run was made.
    pub(crate) run: Conditions,
}

/// Percentiles, microseconds.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
    /// Requests measured.
    pub(crate) count: u64,
}

/// The flags in force.
#[derive(Debug, Serialize)]
pub(crate) struct Conditions {
    pub(crate) accounts: u64,
    pub(crate) batch: u64,
    pub(crate) connections: u64,
    pub(crate) in_flight: u64,
    pub(crate) callers: u64,
    pub(crate) threads: usize,
    pub(crate) rate: u64,
    pub(crate) distribution: String,
    pub(crate) ids: String,
    pub(crate) mix: String,
    pub(crate) limits: String,
    pub(crate) seed: u64,
    pub(crate) warmup: u64,
    pub(crate) reads: u32,
    pub(crate) participants: u64,
    pub(crate) version: &'static str,
    pub(crate) processors: usize,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
            count: histogram.len(),
        }
    }
}

impl Report {
    /// The rate of the last tenth of the run's seconds against that of the first.
    pub(crate) fn steadiness(&self) -> f64 {
        let part = (self.per_second.len() / 10).max(1);
        let sum = |seconds: &mut dyn Iterator<Item = &f64>| seconds.take(part).sum::<f64>();
        let first = sum(&mut self.per_second.iter());
        if first > 0.0 { sum(&mut self.per_second.iter().rev()) / first } else { 1.0 }
    }

    /// The report as lines of text.
    pub(crate) fn describe(&self) -> String {
        let latency = &self.latency_us;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _written = writeln!(text, "  {name:<12} {value}");
        };
        line(
            "rate",
            format!(
                "{} transfers/s ({} in {:.2} s)",
                grouped(whole(self.transfers_per_s)),
                grouped(self.transfers),
                self.elapsed_s
            ),
        );
        line(
            "outcomes",
            format!(
                "{} accepted, {} refused, {} repeated",
                grouped(self.accepted),
                grouped(self.refused),
                grouped(self.repeated)
            ),
        );
        if self.operations.len() > 1 || self.refused > 0 {
            for (operation, outcomes) in &self.operations {
                let outcomes = outcomes.iter().map(|(outcome, &count)| format!("{} {outcome}", grouped(count)));
                line(operation, outcomes.collect::<Vec<_>>().join(", "));
            }
        }
        if self.busy > 0 {
            line("busy", format!("{} requests were answered busy and sent again", grouped(self.busy)));
        }
        line(
            "latency",
            format!(
                "p50 {}   p90 {}   p99 {}   p99.9 {}   max {}   per request of {}, from its intended send time",
                time(latency.p50),
                time(latency.p90),
                time(latency.p99),
                time(latency.p99_9),
                time(latency.max),
                self.run.batch
            ),
        );
        if let Some(server) = &self.server {
            let per_transfer = |bytes: u64| bytes.checked_div(self.transfers).unwrap_or(0);
            line(
                "server",
                format!(
                    "{} MB memory, {} MB on disk ({} B per transfer, {} B written), {:.1} s of processor time",
                    server.rss_bytes / 1_000_000,
                    server.disk_bytes / 1_000_000,
                    per_transfer(server.disk_bytes),
                    per_transfer(server.written_bytes),
                    server.cpu_s
                ),
            );
        }
        if let Some(windows) = &self.windows {
            line("windows", windows.describe());
        }
        if self.reads > 0 {
            line("reads", format!("{} beside the load", grouped(self.reads)));
        }
        line("verified", self.verified_text());
        text
    }

    fn verified_text(&self) -> String {
        match self.verified {
            Some(true) => format!(
                "yes: all {} accounts are as the generator knows them, and all balances add up to zero",
                grouped(self.verified_accounts)
            ),
            Some(false) => "NO: the server's accounts are not what its answers said; see above".to_owned(),
            None => "not compared".to_owned(),
        }
    }
}

/// Microseconds as text.
pub(crate) fn time(latency_us: u64) -> String {
    match latency_us {
        0..1_000 => format!("{latency_us} µs"),
        1_000..1_000_000 => format!("{}.{:02} ms", latency_us / 1_000, latency_us % 1_000 / 10),
        _ => format!("{}.{:02} s", latency_us / 1_000_000, latency_us % 1_000_000 / 10_000),
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && digits.len().saturating_sub(place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate: positive, far below 2^64, shown rounded"
)]
pub(crate) fn whole(rate: f64) -> u64 {
    rate as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([999, 1_500, 2_345_678].map(time), ["999 µs", "1.50 ms", "2.34 s"]);
    }
}
