//! The result of a soak: what happened in each life of the server, and whether anything grew or drifted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::SoakArguments;
use super::caller::Shared;
use crate::drive::lock;
use crate::report::{Latency, grouped, time};
use crate::timeline::{Mark, Sample, Sampler, Timeline, megabytes, slope};

/// This part of a life, at its beginning, is not asked whether memory grows: caches fill.
const WARMING: f64 = 0.3;

/// Fewer operations say nothing of memory that grows with them.
const OPERATIONS_SAYING: u64 = 5_000_000;

/// Seconds of an hour.
const HOUR_S: f64 = 3_600.0;

/// Seconds of a minute.
const MINUTE_S: f64 = 60.0;

/// Latencies of so large a part of the lives, at the beginning and at the end, tell whether they drift; of fewer lives nothing does.
const DRIFT_PART: usize = 3;
const DRIFT_LIVES: usize = 6;

/// The server from one start to its end.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Life {
    /// Seconds since the soak began.
    pub(super) begun_s: f64,
    /// How the life before it ended; none before the first of a part.
    after: Option<String>,
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
            after: after.map(|(what, _)| what.to_owned()),
            away_ms: after.map_or(0, |(_, away)| u64::try_from(away.as_millis()).unwrap_or(u64::MAX)),
            ..Self::default()
        }
    }

    /// The life as it was when it ended; so much had been answered before there were samples.
    pub(super) fn end(self, (before, sampler): (u64, &Sampler), latency: Latency) -> Self {
        let warm_s = self.begun_s + (sampler.at_s() - self.begun_s) * WARMING;
        let later = || sampler.timeline.samples.iter().filter(|sample| sample.at_s > warm_s);
        let point = |sample: &Sample| (sample.at_s / HOUR_S, megabytes(sample.rss_bytes));
        let last = later().next_back().copied().unwrap_or_default();
        Self {
            answered: before.saturating_add(sampler.answered()),
            rss_bytes: last.rss_bytes,
            rss_mb_per_hour: slope(&later().map(point).collect::<Vec<_>>()),
            files: last.files,
            latency_us: Some(latency),
            ..self
        }
    }

    fn describe(&self) -> String {
        let after =
            self.after.as_ref().map_or_else(String::new, |what| format!(" after {what}, {} ms away", self.away_ms));
        let latency = self
            .latency_us
            .as_ref()
            .map_or_else(String::new, |latency| format!("p50 {}, p99 {}", time(latency.p50), time(latency.p99)));
        format!(
            "{:.0} MB at its end, {} MB/hour, {} files; {latency}{after}",
            megabytes(self.rss_bytes),
            rounded(self.rss_mb_per_hour),
            self.files
        )
    }
}

/// A soak's result, of all its parts.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Report {
    minutes: f64,
    /// How often it was begun: with an empty ledger, and then with what the part before left.
    pub(super) parts: u64,
    pub(super) accounts: u64,
    pub(super) participants: u64,
    pub(super) connections: u64,
    pub(super) batch: u64,
    pub(super) seed: u64,
    /// Operations offered per second.
    pub(super) rate: u64,
    /// What was reached without a limit, per second; null when the rate was given.
    pub(super) reached_per_s: Option<u64>,
    pub(super) answered: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) busy: u64,
    pub(super) reads: u64,
    /// Connections made again.
    pub(super) reconnects: u64,
    /// Operations that were sent again after a break and had been decided before it.
    pub(super) decided_before: u64,
    pub(super) windows_closed: u64,
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
    /// 99th percentile of latencies in the median life, microseconds: of the first third of the lives, and of the last.
    p99_us: Option<(u64, u64)>,
    operations: BTreeMap<String, BTreeMap<String, u64>>,
    timeline: Timeline,
}

impl Report {
    /// Of one part.
    pub(super) fn new(
        arguments: &SoakArguments,
        rate: u64,
        (sampler, lives, windows_closed): (Sampler, Vec<Life>, u64),
        shared: &Shared,
    ) -> Self {
        let counts = &shared.counts;
        let names = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(outcome, count)| ((*outcome).to_owned(), *count)).collect()
        };
        Self {
            minutes: arguments.minutes,
            parts: 1,
            accounts: arguments.accounts,
            participants: arguments.participants,
            connections: arguments.connections,
            batch: arguments.batch,
            seed: arguments.seed,
            rate,
            answered: counts.answered.load(Relaxed),
            accepted: counts.accepted.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            busy: counts.busy.load(Relaxed),
            reads: shared.reads.load(Relaxed),
            reconnects: shared.reconnects.load(Relaxed),
            decided_before: shared.decided_before.load(Relaxed),
            windows_closed,
            lives,
            operations: lock(&counts.operations)
                .iter()
                .map(|(operation, counts)| ((*operation).to_owned(), names(counts)))
                .collect(),
            timeline: sampler.timeline,
            ..Self::default()
        }
    }

    /// All parts: those before this one, and this one, which has counted on from them.
    pub(super) fn after(mut self, earlier: Self) -> Self {
        let earlier_s = earlier.minutes * MINUTE_S;
        let Timeline { mut samples, mut marks } = earlier.timeline;
        let part = earlier.parts.saturating_add(1);
        marks.push(Mark { at_s: earlier_s, what: format!("part {part}") });
        marks.extend(self.timeline.marks.into_iter().map(|mark| Mark { at_s: mark.at_s + earlier_s, ..mark }));
        let later = |sample: Sample| Sample { at_s: sample.at_s + earlier_s, ..sample };
        samples.extend(self.timeline.samples.into_iter().map(later));
        let mut lives = earlier.lives;
        lives.extend(self.lives.into_iter().map(|life| Life { begun_s: life.begun_s + earlier_s, ..life }));
        for (operation, outcomes) in earlier.operations {
            let known = self.operations.entry(operation).or_default();
            for (outcome, count) in outcomes {
                let known = known.entry(outcome).or_default();
                *known = known.saturating_add(count);
            }
        }
        Self {
            minutes: self.minutes + earlier.minutes,
            parts: part,
            reached_per_s: earlier.reached_per_s,
            verified: self.verified && earlier.verified,
            checked: self.checked && earlier.checked,
            lives,
            timeline: Timeline { samples, marks },
            ..self
        }
    }

    /// What all parts together say.
    pub(super) fn concluded(self, latencies: &Histogram<u64>) -> Self {
        // A life that ended before its first sample says nothing.
        let ends = || self.lives.iter().filter(|life| life.rss_bytes > 0);
        let over_time: Vec<_> = ends().map(|life| (life.begun_s / HOUR_S, megabytes(life.rss_bytes))).collect();
        let over_work: Vec<_> = ends().map(|life| (megabytes(life.answered), megabytes(life.rss_bytes))).collect();
        // A short one has no quiet time.
        let quiet = self.lives.iter().filter_map(|life| life.latency_us.as_ref()).filter(|latency| latency.count > 0);
        let p99: Vec<_> = quiet.map(|latency| latency.p99).collect();
        Self {
            latency_us: Latency::from(latencies),
            rss_mb_per_hour: slope(&over_time),
            rss_bytes_per_operation: slope(&over_work),
            p99_us: drift(&p99),
            ..self
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
        let in_parts = if self.parts > 1 { format!(", in {} parts", self.parts) } else { String::new() };
        line("offered", format!("{} operations/s for {:.1} minutes{in_parts}", grouped(self.rate), self.minutes));
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
        for (number, life) in (1_u64..).zip(&self.lives) {
            line(&format!("life {number}"), life.describe());
        }
        let per_operation = rounded(self.rss_bytes_per_operation);
        line(
            "memory",
            format!(
                "{} MB/hour from life to life, {per_operation} B for each operation",
                rounded(self.rss_mb_per_hour)
            ),
        );
        if let Some((first, last)) = self.p99_us {
            let third = "third of the lives";
            line(
                "drift",
                format!("p99 of the median life {} in the first {third}, {} in the last", time(first), time(last)),
            );
        }
        let said = |is: bool, yes: &str, no: &str| if is { yes.to_owned() } else { no.to_owned() };
        line(
            "verified",
            said(self.verified, "yes: every account is what the answers say", "NO: accounts differ; see above"),
        );
        line("checked", said(self.checked, "yes: replayed beside the server, all invariants kept", "NO: see above"));
        lines.concat()
    }
}

/// The median of the first ones, and of the last, if there are enough.
fn drift(values: &[u64]) -> Option<(u64, u64)> {
    let part = Some(values.len()).filter(|lives| *lives >= DRIFT_LIVES)? / DRIFT_PART;
    let median = |values: &[u64]| {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    };
    median(values.get(..part)?).zip(median(values.get(values.len().saturating_sub(part)..)?))
}

fn rounded(slope: Option<f64>) -> String {
    slope.map_or_else(|| "?".to_owned(), |slope| format!("{slope:+.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_comes_after_those_before_it() {
        let part = |answered, accepted: u64| Report {
            minutes: 2.0,
            parts: 1,
            answered,
            lives: vec![Life { begun_s: 60.0, answered: 7, ..Life::default() }],
            verified: true,
            operations: [("refund".to_owned(), [("accepted".to_owned(), accepted)].into())].into(),
            timeline: Timeline {
                samples: vec![Sample { at_s: 5.0, ..Sample::default() }],
                marks: vec![Mark { at_s: 61.0, what: "drain".to_owned() }],
            },
            ..Report::default()
        };
        let second = part(300, 2).after(part(100, 5));
        let whole = part(450, 1).after(Report { verified: false, ..second });
        assert_eq!((whole.minutes, whole.parts, whole.answered, whole.verified), (6.0, 3, 450, false));
        let lives: Vec<_> = whole.lives.iter().map(|life| (life.begun_s, life.answered)).collect();
        assert_eq!(lives, [(60.0, 7), (180.0, 7), (300.0, 7)]);
        let at: Vec<_> = whole.timeline.samples.iter().map(|sample| sample.at_s).collect();
        assert_eq!(at, [5.0, 125.0, 245.0]);
        let marks: Vec<_> = whole.timeline.marks.iter().map(|mark| (mark.at_s, mark.what.as_str())).collect();
        assert_eq!(marks, [(61.0, "drain"), (120.0, "part 2"), (181.0, "drain"), (240.0, "part 3"), (301.0, "drain")]);
        assert_eq!(whole.operations["refund"]["accepted"], 8);
    }

    #[test]
    fn drift_is_told_by_the_first_and_the_last_third() {
        assert_eq!(drift(&[1, 2, 3, 4, 5]), None);
        assert_eq!(drift(&[9, 2, 1, 4, 50, 7, 3, 8, 6]), Some((2, 6)));
    }
}
