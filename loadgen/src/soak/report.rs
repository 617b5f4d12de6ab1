//! The result of a soak: what happened in each life of the server, and whether anything grew or drifted.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::SoakArguments;
use super::caller::Shared;
use crate::drive::{Operations, lock};
use crate::report::{Latency, grouped, time};
use crate::timeline::{Sample, Sampler, Timeline, megabytes, slope};

/// This part of a life, at its beginning, is not asked whether memory grows: caches fill.
const WARMING: f64 = 0.3;

/// Fewer operations say nothing of memory that grows with them.
const OPERATIONS_SAYING: u64 = 5_000_000;

/// Seconds of an hour.
const HOUR_S: f64 = 3_600.0;

/// The server from one start to its end.
#[derive(Debug, Serialize)]
pub(super) struct Life {
    /// Seconds since the soak began.
    pub(super) begun_s: f64,
    /// How the life before it ended; none before the first.
    after: Option<&'static str>,
    /// From the order to end to being ready again, milliseconds.
    away_ms: u64,
    /// Operations answered until its end.
    answered: u64,
    /// Resident memory at its end, bytes.
    rss_bytes: u64,
    /// How fast that grew in the later part of it, megabytes per hour.
    rss_mb_per_hour: Option<f64>,
    /// Open files and connections at its end.
    files: u64,
    /// Latencies but for the first seconds after a restart.
    latency_us: Option<Latency>,
}

impl Life {
    pub(super) fn new(begun_s: f64, after: Option<(&'static str, Duration)>) -> Self {
        Self {
            begun_s,
            after: after.map(|(what, _)| what),
            away_ms: after.map_or(0, |(_, away)| u64::try_from(away.as_millis()).unwrap_or(u64::MAX)),
            answered: 0,
            rss_bytes: 0,
            rss_mb_per_hour: None,
            files: 0,
            latency_us: None,
        }
    }

    /// The life as it was when it ended.
    pub(super) fn end(self, sampler: &Sampler, latency: Latency) -> Self {
        let warm_s = self.begun_s + (sampler.at_s() - self.begun_s) * WARMING;
        let later = || sampler.timeline.samples.iter().filter(|sample| sample.at_s > warm_s);
        let point = |sample: &Sample| (sample.at_s / HOUR_S, megabytes(sample.rss_bytes));
        let last = later().next_back().copied().unwrap_or_default();
        Self {
            answered: sampler.answered(),
            rss_bytes: last.rss_bytes,
            rss_mb_per_hour: slope(&later().map(point).collect::<Vec<_>>()),
            files: last.files,
            latency_us: Some(latency),
            ..self
        }
    }
}

/// A soak's result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    minutes: f64,
    connections: u64,
    batch: u64,
    seed: u64,
    /// Operations offered per second.
    rate: u64,
    /// What was reached without a limit, per second; null when the rate was given.
    pub(super) reached_per_s: Option<u64>,
    answered: u64,
    accepted: u64,
    refused: u64,
    busy: u64,
    reads: u64,
    /// Connections made again.
    reconnects: u64,
    /// Operations that were sent again after a break and had been decided before it.
    decided_before: u64,
    windows_closed: u64,
    /// Whether every account is what the answers say, and all balances add up to zero.
    pub(super) verified: bool,
    /// Whether the replay beside the running server found all invariants kept.
    pub(super) checked: bool,
    latency_us: Latency,
    lives: Vec<Life>,
    /// How fast memory at the ends of lives grew from life to life, megabytes per hour.
    rss_mb_per_hour: Option<f64>,
    /// The same for each operation answered, bytes.
    rss_bytes_per_operation: Option<f64>,
    operations: Operations,
    timeline: Timeline,
}

impl Report {
    pub(super) fn new(
        arguments: &SoakArguments,
        rate: u64,
        (sampler, lives, windows_closed): (Sampler, Vec<Life>, u64),
        total: &Histogram<u64>,
        shared: &Shared,
    ) -> Self {
        // A life that ended before its first sample says nothing.
        let ends = || lives.iter().filter(|life| life.rss_bytes > 0);
        let over_time: Vec<_> = ends().map(|life| (life.begun_s / HOUR_S, megabytes(life.rss_bytes))).collect();
        let over_work: Vec<_> = ends().map(|life| (megabytes(life.answered), megabytes(life.rss_bytes))).collect();
        let counts = &shared.counts;
        Self {
            minutes: arguments.minutes,
            connections: arguments.connections,
            batch: arguments.batch,
            seed: arguments.seed,
            rate,
            reached_per_s: None,
            answered: counts.answered.load(Relaxed),
            accepted: counts.accepted.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            busy: counts.busy.load(Relaxed),
            reads: shared.reads.load(Relaxed),
            reconnects: shared.reconnects.load(Relaxed),
            decided_before: shared.decided_before.load(Relaxed),
            windows_closed,
            verified: false,
            checked: false,
            latency_us: Latency::from(total),
            rss_mb_per_hour: slope(&over_time),
            rss_bytes_per_operation: slope(&over_work),
            lives,
            operations: lock(&counts.operations).clone(),
            timeline: sampler.timeline,
        }
    }

    /// Whether money is what it should be.
    pub(super) fn is_verified(&self) -> bool {
        self.verified && self.checked
    }

    /// By how much memory grew with each operation, if it was so many that a leak would show, and more than so much.
    pub(super) fn grew(&self, most: f64) -> Option<f64> {
        self.rss_bytes_per_operation.filter(|bytes| self.answered >= OPERATIONS_SAYING && *bytes > most)
    }

    pub(super) fn describe(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, text: String| lines.push(format!("  {name:<12} {text}\n"));
        line("offered", format!("{} operations/s for {:.1} minutes", grouped(self.rate), self.minutes));
        line(
            "answered",
            format!(
                "{} ({} accepted, {} refused), {} reads, {} windows closed",
                grouped(self.answered),
                grouped(self.accepted),
                grouped(self.refused),
                grouped(self.reads),
                self.windows_closed
            ),
        );
        line(
            "breaks",
            format!(
                "{} connections made again, {} operations sent again had been decided",
                self.reconnects, self.decided_before
            ),
        );
        let latency = &self.latency_us;
        line(
            "latency",
            format!(
                "p50 {}   p99 {}   p99.9 {}   max {}, restarts included",
                time(latency.p50),
                time(latency.p99),
                time(latency.p99_9),
                time(latency.max)
            ),
        );
        for (number, life) in self.lives.iter().enumerate() {
            let after = life.after.map_or_else(String::new, |what| format!(" after {what}, {} ms away", life.away_ms));
            let latency = life
                .latency_us
                .as_ref()
                .map_or_else(String::new, |latency| format!("p50 {}, p99 {}", time(latency.p50), time(latency.p99)));
            line(
                &format!("life {}", number.saturating_add(1)),
                format!(
                    "{:.0} MB at its end, {} MB/hour, {} files; {latency}{after}",
                    megabytes(life.rss_bytes),
                    rounded(life.rss_mb_per_hour),
                    life.files
                ),
            );
        }
        let per_operation = rounded(self.rss_bytes_per_operation);
        line(
            "memory",
            format!(
                "{} MB/hour from life to life, {per_operation} B for each operation",
                rounded(self.rss_mb_per_hour)
            ),
        );
        let said = |is: bool, yes: &str, no: &str| if is { yes.to_owned() } else { no.to_owned() };
        line(
            "verified",
            said(self.verified, "yes: every account is what the answers say", "NO: accounts differ; see above"),
        );
        line("checked", said(self.checked, "yes: replayed beside the server, all invariants kept", "NO: see above"));
        lines.concat()
    }
}

fn rounded(slope: Option<f64>) -> String {
    slope.map_or_else(|| "?".to_owned(), |slope| format!("{slope:+.1}"))
}
