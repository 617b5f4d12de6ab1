//! `heng check`.

use clap::Args;

use super::admin::describe;
use super::office::OfficeArguments;
use super::{Done, print, print_json};
use crate::verify::Report;

/// Check every invariant while the server serves: replay the journal beside it and compare what the server has.
#[derive(Debug, Args)]
pub(super) struct CheckCommand {
    /// Only up to this sequence, without comparing the server's state of now.
    #[arg(long)]
    at: Option<u64>,
    #[command(flatten)]
    office: OfficeArguments,
}

pub(super) fn run(command: &CheckCommand) -> Done {
    let query = [("at", command.at.map(|at| at.to_string()))];
    let text = command.office.get_text("/check", &query)?;
    let report: Report = serde_json::from_str(&text)?;
    if command.office.json {
        print_json(&report)?;
    } else {
        print(&describe(&report))?;
    }
    Ok(report.ok)
}
