//! `heng-loadgen`: drives a Heng server over its public protocol, measures, and verifies the money afterwards.
//!
//! It is open loop when a rate is given: each request has an intended send time, and latency counts from there, also when the
//! generator had to wait for room. It keeps its own model of what was accepted and compares every account at the end.

mod accounts;
mod alarm;
mod arguments;
mod baseline;
mod bench;
mod callers;
mod chart;
mod closing;
mod compare;
mod day;
mod drive;
mod hostile;
mod measure;
mod mix;
mod model;
mod office;
mod overload;
mod peer;
mod reader;
mod report;
mod run;
mod soak;
mod spawn;
mod timeline;
mod torture;
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
    /// Measure every row of the budget, and print them against it.
    Bench(bench::BenchArguments),
    /// Compare two results, and say which differences are noise.
    Compare(compare::CompareArguments),
    /// Measure another ledger with the same workload, alternating with a server of our own.
    Peer(Box<peer::PeerArguments>),
    /// Simulate a day: payments, cut-offs, payouts, a bank statement with errors; find all of them and nothing else.
    Day(Box<day::DayArguments>),
    /// Break a server in every way, again and again, and check that nothing acknowledged is lost and nothing is done twice.
    Torture(torture::TortureArguments),
    /// Drive a server at a part of what it can take for as long as you like, with restarts, and look for leaks and drift.
    Soak(soak::SoakArguments),
    /// Draw a result of `run` or `soak` over time.
    Chart(chart::ChartArguments),
    /// Offer several times what a server can take, and see what it accepts, refuses and needs.
    Overload(overload::OverloadArguments),
    /// Measure what peers that misbehave cost the others.
    Hostile(hostile::HostileArguments),
    /// What `torture` has checked between two breaks: the same as `heng verify`.
    #[command(hide = true)]
    Verify(heng::cli::VerifyCommand),
    /// What `torture` makes backups with: the same as `heng backup`.
    #[command(hide = true)]
    Backup(heng::cli::BackupCommand),
    /// What `torture` restores with: the same as `heng restore`.
    #[command(hide = true)]
    Restore(heng::cli::RestoreCommand),
    /// What `torture` takes a ledger over with: the same as `heng take-over`.
    #[command(hide = true)]
    TakeOver(heng::cli::TakeOverCommand),
    /// The server that `--spawn` starts: the same as `heng serve`.
    #[command(hide = true)]
    Serve(Box<heng::cli::ServeCommand>),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Peer(arguments) => peer::run(&arguments),
        Command::Day(arguments) => day::run(&arguments),
        Command::Torture(arguments) => torture::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Chart(arguments) => chart::run(&arguments),
        Command::Overload(arguments) => overload::run(&arguments),
        Command::Hostile(arguments) => hostile::run(&arguments),
        Command::Verify(command) => heng::cli::finish(heng::cli::verify(&command)),
        Command::Backup(command) => heng::cli::finish(heng::cli::make_backup(&command)),
        Command::Restore(command) => heng::cli::finish(heng::cli::restore_backup(&command)),
        Command::TakeOver(command) => heng::cli::finish(heng::cli::take_over(&command)),
        Command::Serve(command) => heng::cli::finish(heng::cli::serve(&command)),
    }
}
