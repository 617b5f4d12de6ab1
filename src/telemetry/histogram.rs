//! Latency and size distributions by stage, recorded per thread, merged when read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Highest value told apart: a minute, in microseconds.
const VALUE_MAX: u64 = 60_000_000;

/// Two significant digits: 1 % is finer than any alarm, and each histogram is 40 KB.
const DIGITS: u8 = 2;

macro_rules! stages {
    ($($(#[$doc:meta])* $variant:ident $name:literal $help:literal $seconds:literal,)*) => {
        /// What is measured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[$doc])* $variant,)*
        }

        impl Stage {
            /// All stages.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it is, for people.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }

            /// Whether values are microseconds; otherwise they are plain numbers.
            pub const fn is_time(self) -> bool {
                match self { $(Self::$variant => $seconds,)* }
            }
        }
    };
}

stages! {
    /// Last byte read until the last outcome is decided and sequenced.
    Decided "received_to_decided" "Last byte read until the last outcome was decided and sequenced" true,
    /// Until the group is durable.
    Durable "decided_to_durable" "Decided until the group was durable" true,
    /// Until the answer is handed to the socket.
    Answered "durable_to_answered" "Durable until the answer was handed to the socket" true,
    /// All of it.
    Commit "commit_latency" "Last byte read until the answer was handed to the socket" true,
    /// One group: seal, write, sync.
    Append "journal_append" "Sealing, writing and syncing one group" true,
    /// Records per group.
    GroupRecords "group_records" "Records per group" false,
}

/// One thread's histograms. Cheap to clone; recording takes a lock that nobody else holds unless someone is reading.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Vec<Mutex<Histogram<u64>>>>);

/// All threads' histograms.
#[derive(Clone, Debug, Default)]
pub struct Stages(Arc<Mutex<Vec<Recorder>>>);

/// A merged histogram, ready to be published.
#[derive(Clone, Debug)]
pub struct StageSummary {
    /// Which stage.
    pub stage: Stage,
    /// The merged histogram; microseconds for times.
    pub histogram: Histogram<u64>,
}

impl Recorder {
    /// Records a time.
    pub fn record_us(&self, stage: Stage, time: Duration) {
        self.record(stage, u64::try_from(time.as_micros()).unwrap_or(u64::MAX), 1);
    }

    /// Records the same time for several requests.
    pub fn record_us_times(&self, stage: Stage, time: Duration, times: u64) {
        self.record(stage, u64::try_from(time.as_micros()).unwrap_or(u64::MAX), times);
    }

    /// Records a number.
    pub fn record_value(&self, stage: Stage, value: u64) {
        self.record(stage, value, 1);
    }

    fn record(&self, stage: Stage, value: u64, times: u64) {
        let place = Stage::ALL.iter().position(|&known| known == stage);
        if let Some(histogram) = place.and_then(|place| self.0.get(place)) {
            let mut histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
            // Saturates at the maximum and at zero, so it cannot fail.
            histogram.saturating_record_n(value.max(1), times);
        }
    }
}

fn new_histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that the library accepts")]
    Histogram::new_with_bounds(1, VALUE_MAX, DIGITS).expect("valid histogram bounds")
}

impl Stages {
    /// A recorder for the calling thread's own use.
    pub fn recorder(&self) -> Recorder {
        let recorder = Recorder(Arc::new(Stage::ALL.iter().map(|_| Mutex::new(new_histogram())).collect()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(recorder.clone());
        recorder
    }

    /// Merges all threads' histograms.
    pub fn summaries(&self) -> Vec<StageSummary> {
        let recorders = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let merge = |(place, &stage): (usize, &Stage)| {
            let mut histogram = new_histogram();
            for part in recorders.iter().filter_map(|recorder| recorder.0.get(place)) {
                // Equal bounds, so adding cannot fail.
                let _added = histogram.add(&*part.lock().unwrap_or_else(PoisonError::into_inner));
            }
            StageSummary { stage, histogram }
        };
        Stage::ALL.iter().enumerate().map(merge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorders_are_merged_with_count_and_maximum() {
        let stages = Stages::default();
        stages.recorder().record_us(Stage::Append, Duration::from_micros(100));
        stages.recorder().record_us_times(Stage::Append, Duration::from_mins(10), 3);
        let summaries = stages.summaries();
        let append = summaries.iter().find(|summary| summary.stage == Stage::Append).unwrap();
        assert_eq!(append.histogram.len(), 4);
        assert!(append.histogram.max() >= VALUE_MAX);
        assert_eq!(append.histogram.value_at_quantile(0.25) / 10, 10);
    }
}
