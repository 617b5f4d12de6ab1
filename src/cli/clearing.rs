//! `heng clearing`: windows, positions, participants, payouts.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::office::{Body, OfficeArguments, field, rows};
use super::remote::id_argument;
use super::table::table;
use super::{Done, Failure, print, print_json};

/// Close windows, and see what is settled and paid out.
#[derive(Debug, Args)]
pub(super) struct ClearingCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List windows, the latest first.
    Windows {
        /// Of this scheme only.
        #[arg(long)]
        scheme: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Show the positions of a window.
    Positions {
        /// The scheme's name.
        scheme: String,
        /// The window's number.
        window: u32,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Close the open window of a scheme now.
    Close {
        /// The scheme's name.
        scheme: String,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Write the payout files of a settled window again, after a restore or when they are damaged.
    Files {
        /// The scheme's name.
        scheme: String,
        /// The window's number.
        window: u32,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// List participants.
    Participants {
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Register an account of a participant. Its name or bank is changed by two persons who say the same.
    AddParticipant {
        /// The participant's number.
        participant: u32,
        /// The account.
        #[arg(long, value_parser = id_argument)]
        account: u128,
        /// Its name, at most 40 bytes.
        #[arg(long)]
        name: String,
        /// Where it is paid; without one it is paid by other means than a file.
        #[arg(long, default_value = "")]
        iban: String,
        /// Its bank.
        #[arg(long, default_value = "")]
        bic: String,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// List distributions and what came of their latest runs.
    Distributions {
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Run a distribution now, whatever its schedule.
    Distribute {
        /// Its name.
        distribution: String,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// List payouts and collections.
    Payouts {
        /// Of this scheme only.
        #[arg(long)]
        scheme: Option<String>,
        /// Of this window only.
        #[arg(long)]
        window: Option<u32>,
        /// In this state only: issued, proposed, confirmed, rejection-proposed, rejected, returned.
        #[arg(long)]
        state: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Say that the bank has done a payout or collection; above the scheme's limit a second person must say so too.
    Confirm {
        /// The payout's id, 32 hexadecimal digits.
        payout: String,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Say that the bank has refused it: the money goes back; above the scheme's limit a second person must say so too.
    Reject {
        /// The payout's id, 32 hexadecimal digits.
        payout: String,
        /// Why, at most 48 bytes.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Take over what the bank says of payouts: a pain.002 or CSV file.
    Answers {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        office: OfficeArguments,
    },
}

const WINDOW_FIELDS: [&str; 9] =
    ["scheme", "window", "state", "day", "settlement_day", "transfers", "sum", "first_sequence", "last_sequence"];
const POSITION_FIELDS: [&str; 7] = ["participant", "name", "debits", "credits", "carried", "net", "settled"];
const PAYOUT_FIELDS: [&str; 9] =
    ["payout", "scheme", "window", "direction", "participant", "amount", "currency", "state", "reason"];

pub(super) fn run(command: &ClearingCommand) -> Done {
    match &command.action {
        Action::Windows { scheme, limit, office } => {
            let query = [("scheme", scheme.clone()), ("limit", Some(limit.to_string()))];
            let headings = ["scheme", ">window", "state", "day", "settles", ">transfers", ">sum", ">first", ">last"];
            show(office, &office.get("/clearing/windows", &query)?, (&WINDOW_FIELDS, &headings))
        }
        Action::Positions { scheme, window, office } => {
            let headings = [">no", "name", ">paid", ">received", ">carried", ">net", ">settled"];
            let path = format!("/clearing/windows/{}/{window}/positions", encoded(scheme));
            show(office, &office.get(&path, &[])?, (&POSITION_FIELDS, &headings))
        }
        Action::Close { scheme, office } => {
            let answer = office.post(&format!("/clearing/windows/{}/close", encoded(scheme)), &Body::Empty)?;
            let closing = answer.get("closing").cloned().unwrap_or_default();
            told(office, &answer, &format!("Window {} of {scheme} is closing.", field(&closing, "window")))
        }
        Action::Files { scheme, window, office } => {
            let answer = office.post(&format!("/clearing/windows/{}/{window}/files", encoded(scheme)), &Body::Empty)?;
            let files = answer.get("files").cloned().unwrap_or_default();
            show(office, &files, (&["path", "count", "sum"], &["file", ">payouts", ">sum"]))
        }
        Action::Participants { office } => {
            let list = office.get("/clearing/participants", &[])?;
            let fields = ["participant", "name", "iban", "bic", "accounts"];
            show(office, &list, (&fields, &[">no", "name", "iban", "bic", "accounts"]))
        }
        Action::AddParticipant { participant, account, name, iban, bic, office } => {
            add_participant((*participant, *account), [name, iban, bic], office)
        }
        Action::Distributions { office } => {
            let fields = ["distribution", "account", "state", "due", "amount", "currency", "why", "next"];
            let headings = ["distribution", "account", "state", "due", ">amount", "", "why", "next"];
            show(office, &office.get("/clearing/distributions", &[])?, (&fields, &headings))
        }
        Action::Distribute { distribution, office } => {
            let path = format!("/clearing/distributions/{}/run", encoded(distribution));
            let answer = office.post(&path, &Body::Empty)?;
            let amount = answer.get("distributing").map(|told| field(told, "amount")).unwrap_or_default();
            told(office, &answer, &format!("{amount} minor units are being distributed by {distribution}."))
        }
        Action::Payouts { scheme, window, state, limit, office } => {
            let query = [
                ("scheme", scheme.clone()),
                ("window", window.map(|number| number.to_string())),
                ("state", state.clone()),
                ("limit", Some(limit.to_string())),
            ];
            let headings =
                ["payout", "scheme", ">window", "direction", ">to or from", ">amount", "", "state", "reason"];
            show(office, &office.get("/clearing/payouts", &query)?, (&PAYOUT_FIELDS, &headings))
        }
        Action::Confirm { payout, office } => {
            let answer = office.post(&format!("/clearing/payouts/{}/confirm", encoded(payout)), &Body::Empty)?;
            payout_told(office, &answer)
        }
        Action::Reject { payout, reason, office } => {
            let body = json!({ "reason": reason });
            let answer = office.post(&format!("/clearing/payouts/{}/reject", encoded(payout)), &Body::Json(&body))?;
            payout_told(office, &answer)
        }
        Action::Answers { file, office } => answers(file, office),
    }
}

fn add_participant(
    (participant, account): (u32, u128),
    [name, iban, bic]: [&str; 3],
    office: &OfficeArguments,
) -> Done {
    let body = json!({
        "participant": participant, "account": account.to_string(), "name": name, "iban": iban, "bic": bic,
    });
    let answer = office.post("/clearing/participants", &Body::Json(&body))?;
    let proposed = answer == "proposed";
    let words = if proposed {
        "Proposed. Another person must say the same before anything is paid there.".to_owned()
    } else {
        format!("Participant {participant} has account {account}.")
    };
    told(office, &answer, &words)
}

fn answers(file: &Path, office: &OfficeArguments) -> Done {
    let bytes = std::fs::read(file)
        .map_err(|err| Failure::configuration(anyhow::anyhow!("cannot read {}: {err}", file.display())))?;
    let answer = office.post("/clearing/answers", &Body::File(&bytes))?;
    let read = answer.get("answers").cloned().unwrap_or_default();
    let wrong: Vec<String> = read.get("wrong").and_then(Value::as_array).into_iter().flatten().map(text).collect();
    let mut lines = vec![format!(
        "{} confirmed, {} wait for a second person, {} refused, {} changed nothing.",
        field(&read, "confirmed"),
        field(&read, "proposed"),
        field(&read, "rejected"),
        field(&read, "unchanged")
    )];
    lines.extend(wrong.iter().cloned());
    told(office, &answer, &lines.join("\n"))?;
    Ok(wrong.is_empty())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A path segment that cannot be taken for anything else.
pub(super) fn encoded(segment: &str) -> String {
    segment
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || byte == b'-' {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn payout_told(office: &OfficeArguments, answer: &Value) -> Done {
    let payout = answer.get("payout").cloned().unwrap_or_default();
    let state = field(&payout, "state");
    let more = if state.contains("proposed") { "; a second person must say so too" } else { "" };
    told(office, answer, &format!("Payout {} is {state}{more}.", field(&payout, "payout")))
}

pub(super) fn told(office: &OfficeArguments, answer: &Value, words: &str) -> Done {
    if office.json {
        print_json(answer)?;
    } else {
        print(words)?;
    }
    Ok(true)
}

pub(super) fn show(office: &OfficeArguments, list: &Value, (fields, headings): (&[&str], &[&str])) -> Done {
    if office.json {
        print_json(list)?;
    } else {
        print(&table(headings, rows(list, fields)))?;
    }
    Ok(true)
}
