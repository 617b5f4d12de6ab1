//! The flags of `heng-loadgen run`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::mix::Mix;

/// How accounts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Distribution {
    /// All alike.
    Uniform,
    /// By Zipf's law with this exponent.
    Zipf(f64),
    /// One side of every transfer is one of this many accounts.
    Hot(u64),
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("`{text}` is none of: uniform, zipf:EXPONENT (such as zipf:0.99), hot:ACCOUNTS (such as hot:1)");
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            Some(("zipf", exponent)) => {
                let exponent: f64 = exponent.parse().map_err(|_not_a_number| wrong())?;
                if exponent.is_finite() && exponent > 0.0 { Ok(Self::Zipf(exponent)) } else { Err(wrong()) }
            }
            Some(("hot", accounts)) => {
                accounts.parse().ok().filter(|&accounts| accounts > 0).map(Self::Hot).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

/// How transfer ids are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ids {
    /// Growing with time, as ULID and UUID version 7.
    Time,
    /// All over the place.
    Random,
}

/// Whether limits are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Limits {
    /// Every transfer counts towards seven limits.
    On,
    /// None.
    Off,
}

/// Threads of a run that does not say how many.
const THREADS_MAX: usize = 2;

/// Open accounts, drive transfers, print rate and latency, verify every account.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The server to drive.
    #[arg(long, required_unless_present = "spawn", conflicts_with = "spawn")]
    pub(crate) target: Option<String>,
    /// Start a server in a process of its own, on free ports and a temporary directory, and stop it afterwards.
    #[arg(long)]
    pub(crate) spawn: bool,
    /// Accounts to open.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) accounts: u64,
    /// Transfers to submit, after the warm-up.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) transfers: u64,
    /// Transfers per request.
    #[arg(long, default_value_t = 8_190, value_parser = clap::value_parser!(u64).range(1..=8_190))]
    pub(crate) batch: u64,
    /// Connections.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: u64,
    /// Requests without an answer per connection.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) in_flight: u64,
    /// Callers that share each connection through a client that puts together what they submit, each with one transfer at a time (--batch 1); 0: none, and
    /// as many requests as --in-flight says.
    #[arg(long, default_value_t = 0, conflicts_with_all = ["in_flight", "rate", "close_every_ms"])]
    pub(crate) callers: u64,
    /// Threads of the generator; 0: one for each connection, two at most. What shares a connection is looked after at less cost by one thread.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Transfers per second to offer, all connections together, evenly spaced; 0: as fast as answers come.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u64,
    /// Which accounts: uniform, zipf:EXPONENT or hot:ACCOUNTS.
    #[arg(long, default_value = "uniform")]
    pub(crate) distribution: Distribution,
    /// Which operations; each counts as one transfer.
    #[arg(long, value_enum, default_value_t = Mix::Plain)]
    pub(crate) mix: Mix,
    /// Delayed transfers are due after this many seconds.
    #[arg(long, default_value_t = 3)]
    pub(crate) due_after: u64,
    /// ... and spread over so many seconds.
    #[arg(long, default_value_t = 2)]
    pub(crate) due_within: u64,
    /// Give the spawned server a policy with limits of every kind, none of which is met.
    #[arg(long, value_enum, default_value_t = Limits::Off)]
    pub(crate) limits: Limits,
    /// Reads per second beside the load, on a connection of their own: balances with limits, balances, pages of history.
    #[arg(long, default_value_t = 0)]
    pub(crate) reads: u32,
    /// Give the spawned server a scheme that takes all transfers, with so many of the accounts as participants.
    #[arg(long, requires = "spawn", default_value_t = 0)]
    pub(crate) participants: u64,
    /// Close its window every so many milliseconds, and tell latencies near that from others.
    #[arg(long, requires = "participants", default_value_t = 0)]
    pub(crate) close_every_ms: u64,
    /// Transfer ids in order of time or random.
    #[arg(long, value_enum, default_value_t = Ids::Time)]
    pub(crate) ids: Ids,
    /// Seed of everything random; the same seed makes the same transfers, but for ids in order of time.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Transfers to submit before measuring begins.
    #[arg(long, default_value_t = 0)]
    pub(crate) warmup: u64,
    /// Write the result as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Write latencies as an `HdrHistogram` interval log, one interval per second, microseconds.
    #[arg(long)]
    pub(crate) hlog: Option<PathBuf>,
    /// Shards of the spawned server; 0: one per four processors.
    #[arg(long, requires = "spawn", default_value_t = 0)]
    pub(crate) shards: usize,
    /// Data directory of the spawned server, kept afterwards [default: a temporary one].
    #[arg(long, requires = "spawn")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Do not compare accounts afterwards.
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// The gateway to act as [default: the development gateway].
    #[arg(long, env = "HENG_GATEWAY", requires = "key")]
    pub(crate) gateway: Option<String>,
    /// The gateway's key, 64 hexadecimal digits.
    #[arg(long, env = "HENG_KEY", requires = "gateway", hide_env_values = true)]
    pub(crate) key: Option<String>,
}

impl RunArguments {
    /// Threads that drive the connections, that of the reads among them.
    pub(crate) fn threads(&self) -> usize {
        let connections = self.connections.saturating_add(u64::from(self.reads > 0));
        if self.threads > 0 {
            self.threads
        } else {
            usize::try_from(connections).unwrap_or(THREADS_MAX).min(THREADS_MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Just {
        #[command(flatten)]
        run: RunArguments,
    }

    #[test]
    fn a_connection_has_a_thread_until_there_are_two() {
        for (arguments, threads) in [
            ("--connections 1", 1),
            ("--connections 1 --reads 10", 2),
            ("--connections 2", 2),
            ("--connections 64", 2),
            ("--connections 1 --threads 4", 4),
        ] {
            let run = Just::parse_from(["run", "--spawn"].into_iter().chain(arguments.split(' '))).run;
            assert_eq!(run.threads(), threads, "{arguments}");
        }
    }
}
