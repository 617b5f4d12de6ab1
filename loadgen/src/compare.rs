//! `heng-loadgen compare A B`: two results of `run` or `bench`, as ratios with their spread.
//!
//! Of a bench each row has several runs, of a single run each second has its rate: the spread of the ratio is from the least of one against
//! the most of the other to the contrary, for single seconds between their quartiles. A difference is noise when 1 lies in that range; of what
//! was measured once nothing is said. Where other rates were offered nothing is compared: all figures follow from the rate, also what a transfer
//! costs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

/// Compare two results, and say which differences are noise.
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// A result of `run --json` or `bench --json`.
    before: PathBuf,
    /// Another one of the same command.
    after: PathBuf,
}

/// A figure of a result: its name, where it is, and whether more of it is better.
struct Figure {
    name: &'static str,
    of: fn(&Value) -> Option<f64>,
    more_is_better: bool,
}

/// Rates that were offered are the same as far as this, in parts of one.
const SAME_OFFER: f64 = 0.02;

const FIGURES: &[Figure] = &[
    Figure { name: "rate", of: |run| run.get("transfers_per_s")?.as_f64(), more_is_better: true },
    Figure { name: "p50", of: |run| run.get("latency_us")?.get("p50")?.as_f64(), more_is_better: false },
    Figure { name: "p99", of: |run| run.get("latency_us")?.get("p99")?.as_f64(), more_is_better: false },
    Figure { name: "processor time", of: |run| per_transfer(run, "cpu_s"), more_is_better: false },
    Figure { name: "written", of: |run| per_transfer(run, "written_bytes"), more_is_better: false },
    Figure { name: "memory", of: |run| run.get("server")?.get("rss_bytes")?.as_f64(), more_is_better: false },
];

fn per_transfer(run: &Value, name: &str) -> Option<f64> {
    Some(run.get("server")?.get(name)?.as_f64()? / run.get("transfers")?.as_f64()?)
}

/// Prints the comparison.
pub(crate) fn run(arguments: &CompareArguments) -> ExitCode {
    let compared = read(&arguments.before).and_then(|before| Ok(compare(&before, &read(&arguments.after)?)));
    match compared.and_then(|told| Ok(std::io::stdout().write_all(told?.as_bytes())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // Nobody is there to be told that nobody is there.
            let _told = writeln!(std::io::stderr(), "heng-loadgen: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no result of this program", path.display()))
}

/// Rows with their runs: those of a bench, or the one of a run.
fn rows(result: &Value) -> anyhow::Result<Vec<(String, Vec<&Value>)>> {
    if let Some(rows) = result.get("rows").and_then(Value::as_array) {
        let named = rows.iter().filter_map(|row| {
            Some((row.get("name")?.as_str()?.to_owned(), row.get("runs")?.as_array()?.iter().collect()))
        });
        return Ok(named.collect());
    }
    anyhow::ensure!(result.get("transfers_per_s").is_some(), "neither a run nor a bench");
    Ok(vec![("run".to_owned(), vec![result])])
}

/// A figure's least, median and most, and whether it was measured more than once.
#[derive(Clone, Copy, Debug)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
    repeated: bool,
}

fn spread(mut values: Vec<f64>, quartiles: bool) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let end = values.len().checked_sub(1)?;
    let at = |place: usize| values.get(place).copied();
    let (least, most) = if quartiles { (end / 4, end.saturating_sub(end / 4)) } else { (0, end) };
    Some(Spread { least: at(least)?, median: at(values.len() / 2)?, most: at(most)?, repeated: end > 0 })
}

fn samples(runs: &[&Value], figure: &Figure) -> Option<Spread> {
    if let [one] = runs
        && figure.name == "rate"
        && let Some(seconds) = one.get("per_second").and_then(Value::as_array).filter(|seconds| seconds.len() > 3)
    {
        let seconds = seconds.iter().filter_map(Value::as_f64).collect();
        return spread(seconds, true);
    }
    spread(runs.iter().filter_map(|run| (figure.of)(run)).collect(), false)
}

/// Whether runs were offered the same; none: as much as is answered.
fn is_same_offer(before: &[&Value], after: &[&Value]) -> bool {
    let offered = |runs: &[&Value]| runs.first()?.get("run")?.get("rate")?.as_f64();
    match (offered(before), offered(after)) {
        (Some(before), Some(after)) => (before - after).abs() <= before * SAME_OFFER,
        _ => true,
    }
}

fn compare(before: &Value, after: &Value) -> anyhow::Result<String> {
    let (before, after) = (rows(before)?, rows(after)?);
    let mut text = String::new();
    let mut common = 0_usize;
    for (name, old) in &before {
        let Some((_, new)) = after.iter().find(|(other, _)| other == name) else { continue };
        // Writing to a string cannot fail.
        let _written = writeln!(text, "{name}");
        common = common.saturating_add(1);
        if !is_same_offer(old, new) {
            let _written = writeln!(text, "  other rates were offered: not compared");
            continue;
        }
        for figure in FIGURES {
            let (Some(old), Some(new)) = (samples(old, figure), samples(new, figure)) else { continue };
            if old.least <= 0.0 || new.median <= 0.0 {
                continue;
            }
            let (ratio, least, most) = (new.median / old.median, new.least / old.most, new.most / old.least);
            let verdict = if !(old.repeated && new.repeated) {
                "measured once: repeat it"
            } else if least <= 1.0 && most >= 1.0 {
                "noise"
            } else if (ratio > 1.0) == figure.more_is_better {
                "better"
            } else {
                "WORSE"
            };
            let _written = writeln!(text, "  {:<15} {ratio:>6.2}   {least:>5.2} - {most:<5.2}  {verdict}", figure.name);
        }
    }
    anyhow::ensure!(common > 0, "the two results have no row in common");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bench(rates: &[u32]) -> Value {
        let runs: Vec<Value> = rates.iter().map(|rate| json!({ "transfers_per_s": rate, "transfers": 10 })).collect();
        json!({ "rows": [{ "name": "a", "runs": runs }] })
    }

    #[test]
    fn a_difference_within_the_spread_is_noise() {
        for (before, after, verdict) in [
            ([100, 110, 120], [105, 115, 125], "noise"),
            ([100, 110, 120], [130, 140, 150], "better"),
            ([100, 110, 120], [60, 70, 80], "WORSE"),
        ] {
            let text = compare(&bench(&before), &bench(&after)).unwrap();
            assert!(text.contains(verdict), "{text}");
        }
        assert!(compare(&bench(&[100]), &bench(&[50])).unwrap().contains("measured once"));
        assert!(compare(&bench(&[1]), &json!({ "rows": [] })).is_err());
        assert!(compare(&json!({}), &bench(&[1])).is_err());
    }

    #[test]
    fn what_follows_from_other_offers_is_not_compared() {
        let run = |rate: u32, offered: u32| {
            let server = json!({ "rss_bytes": 7 });
            json!({ "transfers_per_s": rate, "transfers": 10, "run": { "rate": offered }, "server": server })
        };
        let [free, slow, same, other] = [run(100, 0), run(100, 100), run(100, 101), run(50, 50)];
        let pairs = [(&free, &free), (&slow, &same), (&slow, &other), (&slow, &free), (&free, &slow)];
        for ((before, after), is_compared) in pairs.into_iter().zip([true, true, false, false, false]) {
            let text = compare(before, after).unwrap();
            assert_eq!(text.contains("  rate ") && text.contains("  memory "), is_compared, "{text}");
            assert_eq!(text.contains("other rates were offered"), !is_compared, "{text}");
        }
    }
}
