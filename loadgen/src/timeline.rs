//! A run over time: what a chart of it shows, and whether memory grows.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::baseline::Probe;
use crate::report::Latency;
use crate::spawn::Spawned;

/// An interval that is shorter says nothing.
const LEAST: Duration = Duration::from_millis(100);

/// Bytes of a megabyte.
const MEGABYTE: f64 = 1_000_000.0;

/// One interval.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Sample {
    /// Its end, seconds since the run began.
    pub(crate) at_s: f64,
    /// Transfers answered per second.
    pub(crate) per_s: f64,
    /// Latencies of the requests answered in it, microseconds.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
    /// Resident memory of the server, bytes; zero when it was not spawned.
    pub(crate) rss_bytes: u64,
    /// Room taken in its data directory, bytes.
    pub(crate) disk_bytes: u64,
    /// Its open files and connections.
    pub(crate) files: u64,
    /// Of small writes with `fdatasync` beside the load, microseconds; zeros where none were made.
    #[serde(default)]
    pub(crate) sync_p50_us: u64,
    #[serde(default)]
    pub(crate) sync_max_us: u64,
}

/// Something that was done to the server.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Mark {
    pub(crate) at_s: f64,
    pub(crate) what: String,
}

/// A run over time.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Timeline {
    pub(crate) samples: Vec<Sample>,
    pub(crate) marks: Vec<Mark>,
}

/// Takes samples.
#[derive(Debug)]
pub(crate) struct Sampler {
    begun: Instant,
    last: Duration,
    answered: u64,
    probe: Option<Probe>,
    pub(crate) timeline: Timeline,
}

impl Sampler {
    pub(crate) fn new(begun: Instant) -> Self {
        Self { begun, last: Duration::ZERO, answered: 0, probe: None, timeline: Timeline::default() }
    }

    /// Looks at the disk of a directory, too.
    pub(crate) fn probing(self, directory: &Path) -> std::io::Result<Self> {
        Ok(Self { probe: Some(Probe::start(directory)?), ..self })
    }

    /// Seconds since the run began.
    pub(crate) fn at_s(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// How many transfers had been answered when the last sample was taken.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Ends an interval in which so many transfers were answered since the run began, with these latencies.
    pub(crate) fn sample(&mut self, answered: u64, latency: &Latency, server: Option<&Spawned>) {
        let at = self.begun.elapsed();
        if at.saturating_sub(self.last) < LEAST {
            // The clock that asks ticks at once.
            return;
        }
        let more = Duration::from_secs(answered.saturating_sub(self.answered)).as_secs_f64();
        let took = at.saturating_sub(self.last).as_secs_f64();
        (self.last, self.answered) = (at, answered);
        let used = server.map(Spawned::used).unwrap_or_default();
        let (sync_p50_us, sync_max_us) = self.probe.as_ref().map(Probe::take).unwrap_or_default();
        self.timeline.samples.push(Sample {
            at_s: at.as_secs_f64(),
            per_s: more / took,
            p50_us: latency.p50,
            p99_us: latency.p99,
            max_us: latency.max,
            rss_bytes: used.rss_bytes,
            disk_bytes: server.map_or(0, Spawned::disk_bytes),
            files: used.files,
            sync_p50_us,
            sync_max_us,
        });
    }

    /// Notes that something was done.
    pub(crate) fn mark(&mut self, what: &str) {
        self.timeline.marks.push(Mark { at_s: self.at_s(), what: what.to_owned() });
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown rounded")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MEGABYTE
}

/// The slope of the line nearest to these points (least squares), in units of y per unit of x; none of fewer than two places.
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = f64::from(u32::try_from(points.len()).ok()?);
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - x_mean) * (x - x_mean)).sum();
    let together: f64 = points.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    (spread > 0.0).then(|| together / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_the_nearest_line() {
        let near = |slope: Option<f64>, expected: f64| slope.is_some_and(|slope| (slope - expected).abs() < 1e-9);
        assert!(near(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), 2.0));
        assert!(near(slope(&[(0.0, 1.0), (1.0, 0.0), (2.0, 1.0), (3.0, 0.0)]), -0.2));
        assert_eq!((slope(&[]), slope(&[(1.0, 2.0)]), slope(&[(1.0, 2.0), (1.0, 3.0)])), (None, None, None));
    }
}
