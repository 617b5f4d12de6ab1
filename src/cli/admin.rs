//! Commands on a data directory: `heng gateway`, `verify`, `rebuild`, `codes`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::table::{money, signed, table};
use super::{Done, Failure, print, print_json};
use crate::engine::{DataDir, DataDirError, RecoverOptions, recover};
use crate::ledger::{Code, Grant, GrantChange};
use crate::money::Currency;
use crate::server::{AdminError, add_gateway};
use crate::store::set_aside;
use crate::telemetry::{LogFormat, init_logs};
use crate::verify::{Head, Report, VerifyError, verify_with};

/// Segment size of a journal that does not exist yet; a server's configuration counts for later segments.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Register the gateways that may connect.
#[derive(Debug, Args)]
pub(super) struct GatewayCommand {
    #[command(subcommand)]
    action: GatewayAction,
}

#[derive(Debug, Subcommand)]
enum GatewayAction {
    /// Add a gateway and print its key, which is shown this once. A known name gets a new key.
    Add {
        /// Its name: printable characters without spaces.
        name: String,
        /// The server's data directory; the server may be running.
        #[arg(long, env = "HENG_DATA_DIR", default_value = "data")]
        data_dir: PathBuf,
        /// What it may do, separated by commas: transfer, hold, raise, capture, void, delayed, refund, reversal, exchange, require,
        /// change, open-accounts, or all; and clearing, for people, which `all` does not contain. A known gateway keeps what it had; a new one may do everything.
        #[arg(long)]
        allow: Option<String>,
        /// The most that one transfer may move, minor units. A known gateway keeps what it had; a new one may move any amount.
        #[arg(long)]
        amount_max: Option<u128>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Check every invariant of a stopped server's data, read-only.
#[derive(Debug, Args)]
pub struct VerifyCommand {
    /// The data directory.
    #[arg(long, env = "HENG_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
    /// The chain's head as noted earlier, SEQUENCE:HASH: that group must be in the journal
    #[arg(long)]
    head: Option<Head>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Make the store again from the journal.
#[derive(Debug, Args)]
pub(super) struct RebuildCommand {
    /// The data directory.
    #[arg(long, env = "HENG_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// List the codes of outcomes and errors.
#[derive(Debug, Args)]
pub(super) struct CodesCommand {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn gateway(command: &GatewayCommand) -> Done {
    let GatewayAction::Add { name, data_dir, allow, amount_max, json } = &command.action;
    let operations = allow.as_deref().map(parse_operations).transpose()?;
    let change = GrantChange { operations, amount_max: *amount_max };
    let added = add_gateway(data_dir, name, change, SEGMENT_BYTES).map_err(|err| match err {
        AdminError::Name(_) | AdminError::DataDir(_) => Failure::configuration(err),
        err => err.into(),
    })?;
    if *json {
        print_json(&added)?;
    } else {
        print(&format!(
            "Gateway {} has number {}. Its key, shown this once and kept only as a hash:\n{}",
            added.name, added.id, added.key
        ))?;
    }
    Ok(true)
}

fn parse_operations(allow: &str) -> Result<u32, Failure> {
    Grant::parse_operations(allow).map_err(|name| {
        Failure::configuration(anyhow::anyhow!(
            "`{name}` is nothing that a gateway could be allowed; see `heng gateway add --help`"
        ))
    })
}

/// Checks every invariant of a stopped server's data. Blocks.
pub fn verify(command: &VerifyCommand) -> Done {
    let report = verify_with(&command.data_dir, command.head).map_err(|err| match err {
        VerifyError::DataDir(err) => Failure::configuration(err),
        err @ (VerifyError::Copy(_) | VerifyError::Sort(_)) => err.into(),
    })?;
    if command.json {
        print_json(&report)?;
    } else {
        print(&describe(&report))?;
    }
    Ok(report.ok)
}

pub(super) fn describe(report: &Report) -> String {
    let mut lines = vec![
        format!(
            "journal     {} groups, records 1 to {}{}",
            report.groups,
            report.sequence,
            if report.head_hash.is_empty() { String::new() } else { format!(", chain head {}", report.head_hash) }
        ),
        format!("transfers   {} decided, {} accepted", report.transfers, report.accepted),
        format!("accounts    {}", report.accounts),
        format!("store       {}", report.store),
    ];
    if !report.ids.is_empty() {
        lines.push(format!("ids         {}", report.ids));
    }
    if !report.files.is_empty() {
        lines.push(format!("files       {}", report.files));
    }
    if report.torn_bytes > 0 {
        lines.push(format!(
            "torn tail   {} bytes of a group that was never answered; the next start cuts them",
            report.torn_bytes
        ));
    }
    for (code, totals) in &report.currencies {
        let currency = Currency::from_code(code).map_or(0, Currency::number);
        let (turnover, sum) = (money(signed(totals.turnover), currency), money(totals.balance_sum, currency));
        lines.push(format!("{code:<11} {} transfers of {turnover}; all balances add up to {sum}", totals.transfers));
    }
    lines.extend(report.violations.iter().map(|violation| format!("VIOLATION   {violation}")));
    lines.extend(report.damaged_files.iter().map(|damaged| format!("DAMAGED     {damaged}")));
    lines.push(said(report));
    lines.join("\n")
}

/// The last line: whether all is well, and what to do if not.
fn said(report: &Report) -> String {
    if report.violation_count > 0 {
        return format!(
            "{} violations. Do not serve from this directory; restore it from a backup.",
            report.violation_count
        );
    }
    let holds = "All invariants hold: the hash chain is whole, no sequence is missing, no id was decided twice, every balance is the sum of its \
                 entries, and no limit was passed.";
    match report.damaged_files.len() {
        0 => holds.to_owned(),
        damaged => format!(
            "{holds} But {damaged} files beside the journal are damaged: what to do stands with each of them above."
        ),
    }
}

pub(super) fn rebuild(command: &RebuildCommand) -> Done {
    init_logs(LogFormat::Auto, "info").map_err(anyhow::Error::msg)?;
    let directory = DataDir::open(&command.data_dir).map_err(|err: DataDirError| Failure::configuration(err))?;
    let aside = directory.store().exists().then(|| set_aside(&directory.store())).transpose()?;
    if let Some(aside) = aside.as_ref().filter(|_| !command.json) {
        print(&format!("The store is set aside as {}.", aside.display()))?;
    }
    let mut recovered =
        recover(&directory, RecoverOptions { store_cache_bytes: 64 << 20, ..RecoverOptions::default() })?;
    recovered.write_checkpoint()?;
    recovered.store.close();
    let (accounts, sequence) = (recovered.book.len(), recovered.book.sequence());
    if command.json {
        print_json(&serde_json::json!({ "accounts": accounts, "sequence": sequence, "set_aside": aside }))?;
    } else {
        print(&format!("The store is made again: {accounts} accounts as of sequence {sequence}."))?;
    }
    Ok(true)
}

pub(super) fn codes(command: &CodesCommand) -> Done {
    if command.json {
        let list: Vec<_> = Code::ALL
            .iter()
            .map(|code| serde_json::json!({"number": code.number(), "name": code.name(), "meaning": code.meaning(), "action": code.action()}))
            .collect();
        print_json(&list)?;
    } else {
        let rows = Code::ALL.iter().map(|code| {
            vec![code.number().to_string(), code.name().to_owned(), code.meaning().to_owned(), code.action().to_owned()]
        });
        print(&table(&[">code", "name", "meaning", "what to do"], rows))?;
    }
    Ok(true)
}
