//! What a soak knows when it ends, so that another one goes on with its ledger: a soak of many hours need not be one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::report::Report;
use crate::measure::histogram;

/// Its file in the data directory.
const FILE: &str = "soak.standing";

/// What is known.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Another part has begun with it: until that ends, what was accepted is not known.
    has_gone_on: bool,
    /// All of it so far.
    pub(super) report: Report,
    /// How long ids of time have come, nanoseconds: those of the next part come after them.
    pub(super) ids_ns: u64,
    /// What was accepted of each account.
    pub(super) totals: Vec<[u64; 4]>,
    /// Latencies of all requests, microseconds, and how many had each.
    latencies: Vec<(u64, u64)>,
}

fn path(data: &Path) -> PathBuf {
    data.join(FILE)
}

impl Standing {
    pub(super) fn new(report: Report, ids: Duration, totals: Vec<[u64; 4]>, latencies: &Histogram<u64>) -> Self {
        let ids_ns = u64::try_from(ids.as_nanos()).unwrap_or(u64::MAX);
        let latencies = latencies.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()));
        Self { has_gone_on: false, report, ids_ns, totals, latencies: latencies.collect() }
    }

    /// What a soak left in its data directory.
    pub(super) fn read(data: &Path) -> anyhow::Result<Self> {
        let path = path(data);
        let text = fs::read(&path).with_context(|| {
            format!("cannot read {}, which a soak with this --data-dir leaves when it ends", path.display())
        })?;
        let read: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is not what a soak leaves", path.display()))?;
        anyhow::ensure!(
            !read.has_gone_on,
            "a part that went on with the ledger in {} did not come to its end, so it is not known what was accepted; \
             begin with a ledger of its own in another directory",
            data.display()
        );
        Ok(read)
    }

    /// Notes in the data directory that another part goes on with it.
    pub(super) fn go_on(&mut self, data: &Path) -> anyhow::Result<()> {
        self.has_gone_on = true;
        self.write(data)
    }

    /// Leaves it in the data directory.
    pub(super) fn write(&self, data: &Path) -> anyhow::Result<()> {
        let path = path(data);
        let new = path.with_extension("tmp");
        fs::write(&new, serde_json::to_vec(self)?).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The latencies as they were recorded.
    pub(super) fn latencies(&self) -> anyhow::Result<Histogram<u64>> {
        let mut all = histogram()?;
        for (value, count) in &self.latencies {
            all.record_n(*value, *count)?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_kept_as_they_were_recorded_and_no_two_go_on() {
        let mut recorded = histogram().unwrap();
        for value in (1..3_000_u64).chain([40_000, 40_001, 3_000_000_000]) {
            recorded.record_n(value, value % 7 + 1).unwrap();
        }
        let mut standing = Standing::new(Report::default(), Duration::from_secs(3), Vec::new(), &recorded);
        let directory = tempfile::tempdir().unwrap();
        standing.write(directory.path()).unwrap();
        let read = Standing::read(directory.path()).unwrap();
        assert!(read.latencies().unwrap() == recorded);
        assert_eq!(read.ids_ns, 3_000_000_000);
        standing.go_on(directory.path()).unwrap();
        let refused = Standing::read(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("did not come to its end"), "{refused}");
        fs::write(path(directory.path()), "{}").unwrap();
        assert!(Standing::read(directory.path()).is_err());
    }
}
