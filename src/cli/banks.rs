//! `heng statement` and `heng breaks`: what banks say, and where it differs from the ledger.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::clearing::{encoded, show, told};
use super::office::{Body, OfficeArguments, field};
use super::{Done, Failure};

/// Import bank statements.
#[derive(Debug, Args)]
pub(super) struct StatementCommand {
    #[command(subcommand)]
    action: StatementAction,
}

#[derive(Debug, Subcommand)]
enum StatementAction {
    /// Import a statement and match it with the ledger: camt.053, MT940, or CSV by a mapping of the policy.
    Import {
        /// The file.
        file: PathBuf,
        /// Name of the bank account in the policy.
        #[arg(long)]
        account: String,
        /// Name of the mapping (`statement_csv`) in the policy; needed for CSV.
        #[arg(long)]
        mapping: Option<String>,
        /// Take it although its lines do not add up to its balances, or although some cannot be read.
        #[arg(long)]
        incomplete: bool,
        /// Of lines that earlier files had: `skip` those that are the same, or `keep` them because they are others.
        #[arg(long, value_parser = ["skip", "keep"])]
        overlap: Option<String>,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// List what was imported.
    List {
        /// Name of the bank account in the policy.
        #[arg(long)]
        account: String,
        #[command(flatten)]
        office: OfficeArguments,
    },
}

/// See and resolve differences between ledger and bank.
#[derive(Debug, Args)]
pub(super) struct BreaksCommand {
    #[command(subcommand)]
    action: BreaksAction,
}

#[derive(Debug, Args)]
struct Which {
    /// The break, like L3.17 or E12345.
    #[arg(id = "break")]
    name: String,
    /// Name of the bank account in the policy.
    #[arg(long)]
    account: String,
    #[command(flatten)]
    office: OfficeArguments,
}

#[derive(Debug, Subcommand)]
enum BreaksAction {
    /// List breaks.
    List {
        /// Name of the bank account in the policy.
        #[arg(long)]
        account: String,
        /// In this state only: open, proposed, resolved.
        #[arg(long)]
        state: Option<String>,
        /// Of this kind only: missing, extra, amount, duplicate, late, returned.
        #[arg(long)]
        kind: Option<String>,
        /// At most so many, those that are not resolved first.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Match again what is open, with entries of the ledger that came after the last import.
    Match {
        /// Name of the bank account in the policy.
        #[arg(long)]
        account: String,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Say whose a break is.
    Assign {
        /// Whose.
        #[arg(long)]
        to: String,
        #[command(flatten)]
        which: Which,
    },
    /// Say something about a break.
    Comment {
        /// What, at most 56 bytes.
        #[arg(long)]
        text: String,
        #[command(flatten)]
        which: Which,
    },
    /// Resolve a break. A write-off posts the difference and needs two persons.
    Resolve {
        /// How: write-off, rematch (with another break that offsets it), accept.
        #[arg(long)]
        how: String,
        /// The other break of a rematch.
        #[arg(long)]
        with: Option<String>,
        /// Why, at most 56 bytes.
        #[arg(long, default_value = "")]
        text: String,
        #[command(flatten)]
        which: Which,
    },
}

const BREAK_FIELDS: [&str; 8] = ["break", "kind", "amount", "day", "age_days", "state", "resolution", "owner"];
const BREAK_HEADINGS: [&str; 8] = ["break", "kind", ">bank has more", "day", ">days", "state", "resolution", "owner"];

fn imported(office: &OfficeArguments, answer: &Value) -> Done {
    let read = answer.get("imported").cloned().unwrap_or_default();
    let wrong = read.get("wrong").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut lines = vec![format!(
        "Statement {}: {} lines, {} matches, {} breaks open.",
        field(&read, "statement"),
        field(&read, "lines"),
        field(&read, "matched"),
        field(&read, "breaks_open")
    )];
    lines.extend(wrong.iter().filter_map(Value::as_str).map(|what| format!("note: {what}")));
    told(office, answer, &lines.join("\n"))?;
    Ok(wrong.is_empty())
}

pub(super) fn statement(command: &StatementCommand) -> Done {
    match &command.action {
        StatementAction::Import { file, account, mapping, incomplete, overlap, office } => {
            let bytes = std::fs::read(file)
                .map_err(|err| Failure::configuration(anyhow::anyhow!("cannot read {}: {err}", file.display())))?;
            let mapping = mapping.as_ref().map(|name| format!("&mapping={}", encoded(name))).unwrap_or_default();
            let overlap = overlap.as_ref().map(|what| format!("&overlap={what}")).unwrap_or_default();
            let path = format!("/banks/{}/statements?incomplete={incomplete}{mapping}{overlap}", encoded(account));
            imported(office, &office.post(&path, &Body::File(&bytes))?)
        }
        StatementAction::List { account, office } => {
            let list = office.get(&format!("/banks/{}/statements", encoded(account)), &[])?;
            let list = list.get("statements").cloned().unwrap_or_default();
            let fields = ["statement", "lines", "wrong", "sum", "by", "hash"];
            show(office, &list, (&fields, &[">statement", ">lines", ">not read", ">sum", ">by", "hash"]))
        }
    }
}

fn listed(office: &OfficeArguments, answer: &Value) -> Done {
    let list = answer.get("breaks").cloned().unwrap_or_default();
    show(office, &list, (&BREAK_FIELDS, &BREAK_HEADINGS))
}

fn order(which: &Which, action: &str, body: &Value) -> Done {
    let path = format!("/banks/{}/breaks/{}/{action}", encoded(&which.account), encoded(&which.name));
    listed(&which.office, &which.office.post(&path, &Body::Json(body))?)
}

pub(super) fn breaks(command: &BreaksCommand) -> Done {
    match &command.action {
        BreaksAction::List { account, state, kind, limit, office } => {
            let query = [("state", state.clone()), ("kind", kind.clone()), ("limit", Some(limit.to_string()))];
            listed(office, &office.get(&format!("/banks/{}/breaks", encoded(account)), &query)?)
        }
        BreaksAction::Match { account, office } => {
            imported(office, &office.post(&format!("/banks/{}/match", encoded(account)), &Body::Empty)?)
        }
        BreaksAction::Assign { to, which } => order(which, "assign", &json!({ "text": to })),
        BreaksAction::Comment { text, which } => order(which, "comment", &json!({ "text": text })),
        BreaksAction::Resolve { how, with, text, which } => {
            order(which, "resolve", &json!({ "how": how, "with": with, "text": text }))
        }
    }
}
