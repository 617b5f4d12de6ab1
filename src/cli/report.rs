//! `heng report`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::clearing::encoded;
use super::office::{OfficeArguments, field};
use super::{Done, Failure, print, print_json};

/// Reports from the journal.
#[derive(Debug, Args)]
pub(super) struct ReportCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What happened on a day (UTC) and how things stood at its end: CSV, or JSON with --json. Once the day is over, the same bytes
    /// whenever it is asked for. What the policy's watch rules found is in it.
    Day {
        /// The day, like 2026-11-23.
        day: String,
        /// With this participant's part of the day, by its number, or with those of `all`.
        #[arg(long)]
        participants: Option<String>,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// The same as files: day.csv and day.json, and one JSON file for each participant.
    Pack {
        /// The day, like 2026-11-23.
        day: String,
        /// Where to put them; made if it is not there.
        #[arg(long)]
        directory: PathBuf,
        #[command(flatten)]
        office: OfficeArguments,
    },
}

pub(super) fn run(command: &ReportCommand) -> Done {
    match &command.action {
        Action::Day { day, participants, office } => {
            let format = if office.json { "json" } else { "csv" };
            print(ask(office, day, format, participants.as_deref())?.trim_end())?;
        }
        Action::Pack { day, directory, office } => {
            let count = pack(office, day, directory)
                .map_err(|err| err.context(format!("cannot make the pack in {}", directory.display())))?;
            if office.json {
                print_json(&serde_json::json!({ "directory": directory, "participants": count }))?;
            } else {
                print(&format!("{}: day.csv, day.json and {count} participants.", directory.display()))?;
            }
        }
    }
    Ok(true)
}

fn ask(office: &OfficeArguments, day: &str, format: &str, participants: Option<&str>) -> Result<String, Failure> {
    let query = [("format", Some(format.to_owned())), ("participants", participants.map(str::to_owned))];
    office.get_text(&format!("/reports/day/{}", encoded(day)), &query)
}

fn pack(office: &OfficeArguments, day: &str, directory: &Path) -> Result<usize, anyhow::Error> {
    let asked = |format, participants| ask(office, day, format, participants).map_err(Failure::into_error);
    let csv = asked("csv", None)?;
    let mut report: Value = serde_json::from_str(&asked("json", Some("all"))?)?;
    let participants = report.get_mut("participants").map(Value::take).unwrap_or_default();
    fs::create_dir_all(directory)?;
    fs::write(directory.join("day.csv"), csv)?;
    fs::write(directory.join("day.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    let participants = participants.as_array().map(Vec::as_slice).unwrap_or_default();
    for participant in participants {
        let name = format!("participant-{}.json", field(participant, "participant"));
        fs::write(directory.join(name), serde_json::to_string_pretty(participant)? + "\n")?;
    }
    Ok(participants.len())
}
