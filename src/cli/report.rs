//! `heng report`.

use clap::{Args, Subcommand};

use super::clearing::encoded;
use super::office::OfficeArguments;
use super::{Done, print};

/// Reports from the journal.
#[derive(Debug, Args)]
pub(super) struct ReportCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What happened on a day (UTC) and how things stood at its end: CSV, or JSON with --json. Once the day is over, the same bytes
    /// whenever it is asked for.
    Day {
        /// The day, like 2026-11-23.
        day: String,
        /// List transfers of at least so many minor units.
        #[arg(long)]
        large: Option<u128>,
        #[command(flatten)]
        office: OfficeArguments,
    },
}

pub(super) fn run(command: &ReportCommand) -> Done {
    let Action::Day { day, large, office } = &command.action;
    let format = if office.json { "json" } else { "csv" };
    let query = [("format", Some(format.to_owned())), ("large", large.map(|amount| amount.to_string()))];
    let text = office.get_text(&format!("/reports/day/{}", encoded(day)), &query)?;
    print(text.trim_end())?;
    Ok(true)
}
