//! `heng-loadgen`: drives a Heng server over its public protocol, measures, and verifies the money afterwards.
//!
//! It is open loop when a rate is given: each request has an intended send time, and latency counts from there, also when the
//! generator had to wait for room. It keeps its own model of what was accepted and compares every account at the end.

mod arguments;
mod closing;
mod day;
mod drive;
mod measure;
mod mix;
mod model;
mod office;
mod reader;
mod report;
mod run;
mod spawn;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load generator for Heng.
#[derive(Debug, Parser)]
#[command(name = "heng-loadgen", version, about, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Open accounts, drive transfers, print rate and latency, verify every account.
    Run(Box<arguments::RunArguments>),
    /// Simulate a day: payments, cut-offs, payouts, a bank statement with errors; find all of them and nothing else.
    Day(Box<day::DayArguments>),
    /// The server that `--spawn` starts: the same as `heng serve`.
    #[command(hide = true)]
    Serve(Box<heng::cli::ServeCommand>),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Day(arguments) => day::run(&arguments),
        Command::Serve(command) => heng::cli::finish(heng::cli::serve(&command)),
    }
}
