//! `heng transfer`.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::remote::{Remote, id_argument, new_id};
use super::table::{money, signed, stored_json, table, time};
use super::{Done, Failure, print, print_json};
use crate::client::{Client, ClientError};
use crate::ledger::{AccountId, Code, Outcome, Record, StoredRecord, Transfer, TransferId};
use crate::money::{format_minor_units, parse_money};
use crate::protocol::{ITEMS_MAX, Query, QueryKind, WAIT_MS_MAX};

/// Move money, or show a transfer.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct TransferCommand {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    make: Make,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show a transfer and all that was done about it.
    Life {
        /// The transfer.
        #[arg(value_parser = id_argument)]
        id: u128,
        #[command(flatten)]
        remote: Remote,
    },
    /// Find this gateway's transfers by your own reference (user data).
    Find {
        /// The reference.
        #[arg(value_parser = id_argument)]
        reference: u128,
        /// Go on from here.
        #[arg(long, default_value_t = 0)]
        from: u64,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print this gateway's outcomes as they become durable, one JSON line each; stop with Ctrl-C.
    Watch {
        /// Outcomes that touch this account instead.
        #[arg(long, value_parser = id_argument)]
        account: Option<u128>,
        /// Begin with this sequence.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Stop when nothing came for so many milliseconds; 0: never.
        #[arg(long, default_value_t = 0)]
        idle_ms: u32,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a transfer and its outcome.
    Show {
        /// The transfer.
        #[arg(value_parser = id_argument)]
        id: u128,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Args)]
struct Make {
    /// The account that pays.
    #[arg(long, value_parser = id_argument, required = true)]
    from: Option<u128>,
    /// The account that receives.
    #[arg(long, value_parser = id_argument, required = true)]
    to: Option<u128>,
    /// The amount, like "12.34 EUR"; exact, in the accounts' currency.
    #[arg(long, required = true)]
    amount: Option<String>,
    /// The transfer's id; give the same one to repeat safely [default: a new one].
    #[arg(long, value_parser = id_argument)]
    id: Option<u128>,
    /// Kind of business, your own numbering.
    #[arg(long, default_value_t = 0)]
    code: u16,
    /// Your own reference.
    #[arg(long, default_value_t = 0)]
    user_data: u128,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(command: &TransferCommand) -> Done {
    match &command.action {
        Some(Action::Show { id, remote }) => show(*id, remote),
        Some(Action::Life { id, remote }) => records(&Query::new(QueryKind::Life, *id, ITEMS_MAX), remote),
        Some(Action::Find { reference, from, remote }) => {
            records(&Query { from: *from, ..Query::new(QueryKind::Reference, *reference, ITEMS_MAX) }, remote)
        }
        Some(Action::Watch { account, from, idle_ms, remote }) => watch(*account, *from, *idle_ms, remote),
        None => transfer(&command.make),
    }
}

fn transfer(make: &Make) -> Done {
    // Required by the command line unless `show` is said.
    let (from, to) = (make.from.unwrap_or_default(), make.to.unwrap_or_default());
    let (amount, currency) = parse_money(make.amount.as_deref().unwrap_or_default()).map_err(Failure::configuration)?;
    let transfer = Transfer {
        id: TransferId::from_raw(make.id.unwrap_or_else(new_id)),
        debit: AccountId::from_raw(from),
        credit: AccountId::from_raw(to),
        amount: amount.minor_units(),
        code: make.code,
        user_data_128: make.user_data,
        ..Transfer::default()
    };
    let outcome = make.remote.ask(async |mut client: Client| {
        // The wire has minor units only: an amount typed in another currency than the accounts' must not go out.
        let (_, accounts) = client.accounts(&[from]).await?;
        if let Some(account) = accounts.first().filter(|account| account.properties.currency != currency.number()) {
            return Err(anyhow::anyhow!(
                "account {from} is not in {currency} but has {}",
                money(0, account.properties.currency)
            )
            .into());
        }
        let outcomes = super::operate::submit(&mut client, &[transfer]).await?;
        Ok(outcomes.first().copied().unwrap_or(Outcome::unrecorded(Code::Internal)))
    })?;
    if make.remote.json {
        print_json(&serde_json::json!({
            "id": transfer.id.to_string(), "outcome": outcome.code.name(), "outcome_code": outcome.code.number(),
            "repeated": outcome.repeated, "sequence": outcome.sequence, "time": time(outcome.time_ns),
        }))?;
    } else {
        let shown = format_minor_units(signed(transfer.amount), currency);
        let code = outcome.code;
        let repeated = if outcome.repeated { " (decided before)" } else { "" };
        print(&if code.is_accepted() {
            format!(
                "Transfer {}: {shown} from {from} to {to}, durable at sequence {}{repeated}.",
                transfer.id, outcome.sequence
            )
        } else if code == Code::Internal {
            format!(
                "The outcome of transfer {} is not known{repeated}. {} {}",
                transfer.id,
                code.meaning(),
                code.action()
            )
        } else {
            format!("Transfer {} was refused: {code}{repeated}. {} {}", transfer.id, code.meaning(), code.action())
        })?;
    }
    Ok(outcome.code.is_accepted())
}

/// Prints all records of a query, page by page.
fn records(query: &Query, remote: &Remote) -> Done {
    let all = remote.ask(async |mut client: Client| {
        let (mut query, mut all) = (*query, Vec::new());
        loop {
            let (next, page) = client.query(&query).await?;
            all.extend(page);
            if next == 0 {
                return Ok(all);
            }
            query.from = next;
        }
    })?;
    if remote.json {
        print_json(&all.iter().map(|stored| stored_json(stored, None)).collect::<Vec<_>>())?;
        return Ok(!all.is_empty());
    }
    let rows = all.iter().filter_map(|stored| {
        let (Record::Transfer { transfer, .. } | Record::Internal { transfer, .. }) = &stored.record else {
            return None;
        };
        let outcome = match &stored.record {
            Record::Transfer { outcome, .. } => outcome.name(),
            _ => "by the ledger",
        };
        let (sequence, amount) = (stored.sequence.to_string(), transfer.amount.to_string());
        let (from, to) = (transfer.debit.to_string(), transfer.credit.to_string());
        let (operation, id) = (transfer.operation().name().to_owned(), transfer.id.to_string());
        Some(vec![sequence, time(stored.time_ns), operation, amount, from, to, outcome.to_owned(), id])
    });
    print(&table(&[">sequence", "time", "operation", ">minor units", "from", "to", "outcome", "id"], rows))?;
    Ok(!all.is_empty())
}

/// Time until events are asked for again where too many wait for them.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// For so long whoever wants an end waits for a place at least.
const BUSY_MAX: Duration = Duration::from_secs(30);

/// Prints events until nothing comes for long enough, or for ever.
fn watch(account: Option<u128>, from: u64, idle_ms: u32, remote: &Remote) -> Done {
    let idle = if idle_ms == 0 { Duration::MAX } else { Duration::from_millis(idle_ms.into()) };
    remote.ask(async |mut client: Client| {
        let (mut next, mut heard_at, mut answered_at) = (from, Instant::now(), Instant::now());
        loop {
            let left = idle.saturating_sub(heard_at.elapsed()).as_millis();
            let wait_ms = u32::try_from(left).unwrap_or(WAIT_MS_MAX).clamp(1, WAIT_MS_MAX);
            let (after, events) = match client.events(account.map(AccountId::from_raw), next, wait_ms).await {
                // So many wait already, or so much is read that nobody looked: whether there is something is not known.
                Err(ClientError::Refused { code: Code::Busy, .. }) if answered_at.elapsed() < idle.max(BUSY_MAX) => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                    continue;
                }
                heard => heard?,
            };
            (next, answered_at) = (after, Instant::now());
            for stored in &events {
                print(&stored_json(stored, None).to_string())?;
            }
            if !events.is_empty() {
                heard_at = Instant::now();
            } else if heard_at.elapsed() >= idle {
                return Ok(());
            }
        }
    })?;
    Ok(true)
}

async fn read(mut client: Client, id: u128) -> Result<(StoredRecord, Option<u16>), Failure> {
    let stored = client.transfers(&[id]).await?.first().copied();
    let stored = stored.ok_or_else(|| anyhow::anyhow!("there is no transfer {id}"))?;
    let accounts = match &stored.record {
        Record::Transfer { transfer, .. } => client.accounts(&[transfer.debit.raw(), transfer.credit.raw()]).await?.1,
        _ => Vec::new(),
    };
    Ok((stored, accounts.first().map(|account| account.properties.currency)))
}

fn show(id: u128, remote: &Remote) -> Done {
    let (stored, currency) = remote.ask(|client| read(client, id))?;
    if remote.json {
        print_json(&stored_json(&stored, currency))?;
        return Ok(true);
    }
    let Record::Transfer { transfer, outcome, gateway } = &stored.record else {
        return Err(anyhow::anyhow!("record {} is no transfer", stored.sequence).into());
    };
    let amount = currency.map_or_else(
        || format!("{} minor units", transfer.amount),
        |currency| money(signed(transfer.amount), currency),
    );
    let rows = [
        ("transfer", transfer.id.to_string()),
        ("outcome", format!("{outcome}: {}", outcome.meaning())),
        ("amount", amount),
        ("from", transfer.debit.to_string()),
        ("to", transfer.credit.to_string()),
        ("code", transfer.code.to_string()),
        ("user data", transfer.user_data_128.to_string()),
        ("gateway", gateway.0.to_string()),
        ("sequence", stored.sequence.to_string()),
        ("time", time(stored.time_ns)),
    ];
    print(&rows.iter().map(|(name, value)| format!("{name:<10} {value}")).collect::<Vec<_>>().join("\n"))?;
    Ok(true)
}
