//! Latencies, per connection and per second.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use crate::report::Latency;

/// The longest latency told apart: an hour, microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// One connection's latencies since the last interval ended.
#[derive(Debug)]
pub(crate) struct Recorder(Mutex<Histogram<u64>>);

/// All latencies of a run.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) total: Histogram<u64>,
    intervals: Vec<(Duration, Duration, Histogram<u64>)>,
    begun: Instant,
    begun_at: SystemTime,
    interval_begun: Instant,
}

pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?)
}

impl Recorder {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Mutex::new(histogram()?)))
    }

    /// Records requests' latencies, microseconds.
    pub(crate) fn record(&self, latencies_us: &[u64]) {
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for &latency_us in latencies_us {
            histogram.saturating_record(latency_us.max(1));
        }
    }
}

impl Recorder {
    /// What was recorded since this was asked last, added to a total, as percentiles.
    pub(crate) fn take(&self, total: &mut Histogram<u64>) -> anyhow::Result<Latency> {
        let mut part = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let latency = Latency::from(&*part);
        total.add(&*part)?;
        part.reset();
        Ok(latency)
    }

    /// What was recorded, as percentiles.
    pub(crate) fn latency(&self) -> Latency {
        Latency::from(&*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Latencies {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            total: histogram()?,
            intervals: Vec::new(),
            begun: now,
            begun_at: SystemTime::now(),
            interval_begun: now,
        })
    }

    /// Ends an interval: takes what all recorders have, and answers with its percentiles.
    pub(crate) fn end_interval(&mut self, recorders: &[std::sync::Arc<Recorder>]) -> anyhow::Result<Latency> {
        let mut merged = histogram()?;
        for recorder in recorders {
            let mut part = recorder.0.lock().unwrap_or_else(PoisonError::into_inner);
            merged.add(&*part)?;
            part.reset();
        }
        self.total.add(&merged)?;
        let latency = Latency::from(&merged);
        let start = self.interval_begun.saturating_duration_since(self.begun);
        self.intervals.push((start, self.interval_begun.elapsed(), merged));
        self.interval_begun = Instant::now();
        Ok(latency)
    }

    /// Transfers per second in each whole second, of requests of so many.
    pub(crate) fn per_second(&self, batch: u64) -> Vec<f64> {
        let whole = self.intervals.iter().skip(1).filter(|(_, duration, _)| *duration > Duration::from_millis(900));
        let rate = |(_, duration, of): &(Duration, Duration, Histogram<u64>)| {
            Duration::from_secs(of.len().saturating_mul(batch)).as_secs_f64() / duration.as_secs_f64()
        };
        whole.map(rate).collect()
    }

    /// Writes the intervals as a log that `HdrHistogram`'s own tools read. Values are microseconds.
    pub(crate) fn write_hlog(&self, path: &Path) -> anyhow::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("heng-loadgen: latency per request from the intended send time, microseconds")
            .with_start_time(self.begun_at)
            .begin_log_with(&mut file, &mut serializer)?;
        for (start, duration, histogram) in &self.intervals {
            log.write_histogram(histogram, *start, *duration, None)
                .map_err(|err| anyhow::anyhow!("interval log: {err:?}"))?;
        }
        Ok(())
    }
}
