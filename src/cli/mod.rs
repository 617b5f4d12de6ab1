//! The command line: one file per group of commands.
//!
//! Results go to standard output, as tables or with `--json` as JSON; everything else to standard error. Exit codes: 0 done,
//! 1 failed or refused, 2 wrong arguments or configuration.

mod account;
mod admin;
mod backup;
mod banks;
mod check;
mod clearing;
mod office;
mod operate;
mod remote;
mod report;
mod serve;
mod table;
mod transfer;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::ledger::Operation;

pub use admin::{VerifyCommand, verify};
pub use backup::{BackupCommand, RestoreCommand, TakeOverCommand, make_backup, restore_backup, take_over};
pub use serve::{ServeCommand, serve};

/// Heng (衡, a balance): a durable, high-throughput transaction processor.
#[derive(Debug, Parser)]
#[command(name = "heng", version, about, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server.
    Serve(Box<ServeCommand>),
    /// Open and read accounts.
    Account(account::AccountCommand),
    /// Move money, or show a transfer.
    Transfer(transfer::TransferCommand),
    /// Set an amount aside until it is captured, voided or expires.
    Hold(operate::SetAside),
    /// Set an amount aside now that arrives at its time.
    Delay(operate::SetAside),
    /// Move an amount out of a hold.
    Capture(operate::About),
    /// Add to a hold.
    Raise(operate::About),
    /// Give back what is left of a hold or of a delayed transfer.
    Void(operate::About),
    /// Move an amount of a transfer back.
    Refund(operate::About),
    /// Move the whole of an erroneous transfer back.
    Reverse(operate::About),
    /// Make several transfers, all or none, from a file.
    Transaction(operate::FromFile),
    /// Say what would become of a transaction; post nothing.
    Explain(operate::FromFile),
    /// Close windows, and see what is settled and paid out.
    Clearing(clearing::ClearingCommand),
    /// Import bank statements.
    Statement(banks::StatementCommand),
    /// See and resolve differences between ledger and bank.
    Breaks(banks::BreaksCommand),
    /// Reports from the journal.
    Report(report::ReportCommand),
    /// Check every invariant beside a server that serves.
    Check(check::CheckCommand),
    /// Register the gateways that may connect.
    Gateway(admin::GatewayCommand),
    /// Check every invariant of a stopped server's data, read-only.
    Verify(VerifyCommand),
    /// Copy the ledger, also while a server writes it.
    Backup(BackupCommand),
    /// Make a data directory of a backup, whole or as it was at a point.
    Restore(RestoreCommand),
    /// Give a data directory up whose server cannot be ended, and make another of it.
    TakeOver(TakeOverCommand),
    /// Make the store again from the journal.
    Rebuild(admin::RebuildCommand),
    /// List the codes of outcomes and errors.
    Codes(admin::CodesCommand),
}

/// A failure and the exit code it leads to.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    code: u8,
}

impl Failure {
    /// Wrong arguments or configuration.
    fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), code: 2 }
    }

    /// What happened, without its exit code.
    fn into_error(self) -> anyhow::Error {
        self.error
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), code: 1 }
    }
}

/// What a command comes to: whether all went well.
type Done = Result<bool, Failure>;

/// As many files may be open from now on as this process is permitted: a large ledger has hundreds of them.
fn raise_open_files() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// Runs the program with the process's arguments.
pub fn run() -> ExitCode {
    // Where they are too few, whoever opens one more is told so.
    let _raised = raise_open_files();
    let done = match Arguments::parse().command {
        Command::Serve(command) => serve(&command),
        Command::Account(command) => account::run(&command),
        Command::Transfer(command) => transfer::run(&command),
        Command::Hold(command) => operate::set_aside(&command, Operation::Hold),
        Command::Delay(command) => operate::set_aside(&command, Operation::Delayed),
        Command::Capture(command) => operate::about(&command, Operation::Capture),
        Command::Raise(command) => operate::about(&command, Operation::Raise),
        Command::Void(command) => operate::about(&command, Operation::Void),
        Command::Refund(command) => operate::about(&command, Operation::Refund),
        Command::Reverse(command) => operate::about(&command, Operation::Reversal),
        Command::Transaction(command) => operate::transaction(&command),
        Command::Explain(command) => operate::explain(&command),
        Command::Clearing(command) => clearing::run(&command),
        Command::Statement(command) => banks::statement(&command),
        Command::Breaks(command) => banks::breaks(&command),
        Command::Report(command) => report::run(&command),
        Command::Check(command) => check::run(&command),
        Command::Gateway(command) => admin::gateway(&command),
        Command::Verify(command) => verify(&command),
        Command::Backup(command) => make_backup(&command),
        Command::Restore(command) => restore_backup(&command),
        Command::TakeOver(command) => take_over(&command),
        Command::Rebuild(command) => admin::rebuild(&command),
        Command::Codes(command) => admin::codes(&command),
    };
    finish(done)
}

/// Reports how a command ended, as an exit code and a message.
pub fn finish(done: Result<bool, Failure>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure { error, code }) => {
            // Standard error may be closed; there is nobody to tell then.
            let _told = writeln!(std::io::stderr(), "heng: {error:#}");
            ExitCode::from(code)
        }
    }
}

/// Prints to standard output. A reader that has enough (`head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => Err(err.into()),
        _ => Ok(()),
    }
}

/// Prints as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string_pretty(value)?)
}
