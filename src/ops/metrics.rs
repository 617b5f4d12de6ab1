//! The metrics page: counters and histograms as `OpenMetrics` text.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::OpsContext;
use crate::telemetry::{ClassFunds, CountersSnapshot, HealthState, ProcessStats, StageSummary, process_stats};

/// Everything at one moment.
#[derive(Debug)]
pub(super) struct Collected {
    counters: CountersSnapshot,
    stages: Vec<StageSummary>,
    process: ProcessStats,
    ready: bool,
    /// Name and depth of each inbox, and items inside.
    depths: Vec<(String, usize)>,
    inside: usize,
    untaken: usize,
    is_crowded: bool,
    funds: Vec<ClassFunds>,
    now_s: u64,
}

impl Collected {
    pub(super) fn new(context: &OpsContext) -> Self {
        let mut depths = Vec::new();
        let (mut inside, mut untaken, mut is_crowded) = (0, 0, false);
        if let Some(queues) = context.queues.get() {
            depths.push(("router".to_owned(), queues.router.depth()));
            depths.push(("settlement".to_owned(), queues.settlement.depth()));
            depths.push(("clearing".to_owned(), queues.clearing.depth()));
            let shards = queues.shards.iter().enumerate();
            depths.extend(shards.map(|(shard, handle)| (format!("shard{shard}"), handle.depth())));
            let admission = &queues.admission;
            (inside, untaken, is_crowded) = (admission.inside(), admission.untaken(), admission.is_crowded());
        }
        Self {
            counters: context.telemetry.counters().snapshot(),
            stages: context.telemetry.stages().summaries(),
            process: process_stats(),
            ready: context.telemetry.health().state() == HealthState::Ready,
            depths,
            inside,
            untaken,
            is_crowded,
            funds: context.telemetry.funds(),
            now_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    pub(super) fn encode(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn outcomes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Outcomes of transfers and account openings, repeats included, by code";
        let mut family = encoder.encode_descriptor("heng_outcomes", help, None, MetricType::Counter)?;
        for (code, count) in &self.counters.outcomes {
            let labels = [("code", code.name())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Balances by class, and how far what the world outside owes us covers what we owe to clients.
    fn funds(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Balances of all accounts of a class, minor units";
        let mut family = encoder.encode_descriptor("heng_class_balance", help, None, MetricType::Gauge)?;
        for ClassFunds { currency, class, balance } in &self.funds {
            let labels = [("currency", currency.as_str()), ("class", *class)];
            ConstGauge::new(whole(*balance)).encode(family.encode_family(&labels)?)?;
        }
        let help = "What external accounts owe, over what client funds are owed; below 1 clients are not covered";
        let name = "heng_client_funds_coverage_ratio";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for client in self.funds.iter().filter(|funds| funds.class == "client-funds" && funds.balance > 0) {
            let external =
                self.funds.iter().find(|other| other.class == "external" && other.currency == client.currency);
            let owed = external.map_or(0.0, |external| -whole(external.balance));
            let labels = [("currency", client.currency.as_str())];
            ConstGauge::new(owed / whole(client.balance)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// What waits for the bank or for people.
    fn back_office(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = &self.counters;
        for (name, help, value) in [
            (
                "heng_windows_unsettled",
                "Settlement windows that are closed and not yet settled, also those whose settlement day has not come",
                counters.windows_unsettled,
            ),
            (
                "heng_payouts_unfinished",
                "Payouts and collections of which the bank has not said the last",
                counters.payouts_unfinished,
            ),
            ("heng_breaks_open", "Differences between ledger and banks that nobody has resolved", counters.breaks_open),
        ] {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }

    fn depths(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family =
            encoder.encode_descriptor("heng_mailbox_depth", "Messages waiting in an inbox", None, MetricType::Gauge)?;
        for (actor, depth) in &self.depths {
            let labels = [("actor", actor.as_str())];
            gauge(*depth).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Minor units and counts as metrics have them: rounded beyond 2^53, and never used for money.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
fn whole(number: i128) -> f64 {
    number as f64
}

fn gauge(value: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Upper bounds of the buckets: four per doubling, as a native histogram of schema 2 has them, over what occurs.
fn bounds(largest: u64) -> Vec<u64> {
    let mut bounds = Vec::new();
    let mut octave = 16_u64;
    while bounds.last().is_none_or(|&bound| bound < largest) && octave < 1 << 26 {
        for quarter in 0..4_u64 {
            // 2^(quarter / 4), in thousandths.
            let factor = match quarter {
                0 => 1_000,
                1 => 1_189,
                2 => 1_414,
                _ => 1_682,
            };
            bounds.push(octave.saturating_mul(factor) / 1_000);
        }
        octave = octave.saturating_mul(2);
    }
    bounds
}

fn encode_stage(summary: &StageSummary, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let histogram = &summary.histogram;
    let (scale, suffix) = if summary.stage.is_time() { (1e-6, "_seconds") } else { (1.0, "") };
    let name = format!("heng_{}{suffix}", summary.stage.name());
    let as_float = |value: u64| f64::from(u32::try_from(value).unwrap_or(u32::MAX)) * scale;
    let mut buckets = Vec::new();
    let mut below = 0_u64;
    for bound in bounds(histogram.max()) {
        let up_to = histogram.count_between(0, bound);
        buckets.push((as_float(bound), up_to.saturating_sub(below)));
        below = up_to;
    }
    buckets.push((f64::INFINITY, histogram.len().saturating_sub(below)));
    let metric: MetricEncoder<'_> =
        encoder.encode_descriptor(&name, summary.stage.help(), None, MetricType::Histogram)?;
    let mut metric = metric;
    let sum = histogram.mean() * whole(i128::from(histogram.len())) * scale;
    metric.encode_histogram::<[(&str, &str); 0]>(sum, histogram.len(), &buckets, None)
}

impl Collected {
    /// What was counted since the start.
    fn totals(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = &self.counters;
        for (name, help, value) in [
            ("heng_connections_accepted", "Connections accepted", counters.connections_total),
            ("heng_requests", "Request frames received", counters.requests_total),
            (
                "heng_requests_refused",
                "Requests and connections refused before anything was decided",
                counters.requests_refused_total,
            ),
            ("heng_groups", "Journal groups made durable", counters.groups_total),
            (
                "heng_audited_accounts",
                "Account balances compared between shards and book",
                counters.audited_accounts_total,
            ),
            (
                "heng_invariant_violations",
                "Invariants found broken; alert on anything but 0",
                counters.invariant_violations_total,
            ),
        ] {
            let value = ConstCounter::new(value);
            value.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.outcomes(&mut encoder)?;
        self.depths(&mut encoder)?;
        self.funds(&mut encoder)?;
        self.back_office(&mut encoder)?;
        self.totals(&mut encoder)?;
        let counters = &self.counters;
        let checkpoint_age = match counters.checkpoint_time_s {
            0 => 0,
            made => self.now_s.saturating_sub(made),
        };
        for (name, help, value) in [
            ("heng_connections", "Connections open", counters.connections_open),
            ("heng_durable_sequence", "The last durable ledger sequence", counters.durable_sequence),
            ("heng_cleared_sequence", "The ledger sequence that clearing has followed to", counters.cleared_sequence),
            (
                "heng_audited_sequence",
                "The ledger sequence at which shards and book were last compared",
                counters.audited_sequence,
            ),
            ("heng_checkpoint_sequence", "The ledger sequence of the last checkpoint", counters.checkpoint_sequence),
            (
                "heng_checkpoint_age_seconds",
                "Time since the last checkpoint of this process; 0 before the first",
                checkpoint_age,
            ),
            ("heng_accounts", "Accounts open", counters.accounts),
            ("heng_open_pendings", "Holds, delayed transfers and reserves that are open", counters.open_pendings),
            (
                "heng_given_back_in_memory",
                "Transfers of which something was given back, in memory until a checkpoint has it",
                counters.given_back_in_memory,
            ),
            (
                "heng_items_in_flight",
                "Transfers and account openings inside",
                u64::try_from(self.inside).unwrap_or(u64::MAX),
            ),
            (
                "heng_items_untaken",
                "Items answered that their peers have not taken yet; from transfers_in_flight_max on some are cut off",
                u64::try_from(self.untaken).unwrap_or(u64::MAX),
            ),
            (
                "heng_crowded",
                "1 while transfers get only a part of the room, because more came than there was room for",
                u64::from(self.is_crowded),
            ),
            ("heng_ready", "1 when requests are taken", u64::from(self.ready)),
            ("process_resident_memory_bytes", "Resident memory", self.process.rss_bytes),
        ] {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let cpu = ConstCounter::new(self.process.cpu_s);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "Processor time used",
            None,
            MetricType::Counter,
        )?)?;
        self.stages.iter().try_for_each(|summary| encode_stage(summary, &mut encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_and_cover_what_occurs() {
        let bounds = bounds(5_000);
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(*bounds.last().unwrap() >= 5_000);
        assert!(super::bounds(u64::MAX).len() < 100);
    }
}
