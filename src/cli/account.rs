//! `heng account`.

use std::fmt::Write;

use clap::{Args, Subcommand};

use super::remote::{Remote, currency_argument, id_argument, new_id};
use super::table::{account_json, money, signed, stored_json, table, time};
use super::{Done, Failure, print, print_json};
use crate::client::Client;
use crate::ledger::{AccountFlags, AccountId, NewAccount, Outcome, StoredRecord};
use crate::money::Currency;
use crate::protocol::AccountState;

/// Open and read accounts.
#[derive(Debug, Args)]
pub(super) struct AccountCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Open an account.
    Open(Open),
    /// Show one account.
    Show {
        /// The account.
        #[arg(value_parser = id_argument)]
        id: u128,
        #[command(flatten)]
        remote: Remote,
    },
    /// List accounts in order of opening.
    List {
        /// Skip this many.
        #[arg(long, default_value_t = 0)]
        from: u32,
        /// At most this many, up to 8190.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show an account's entries, newest first.
    History {
        /// The account.
        #[arg(value_parser = id_argument)]
        id: u128,
        /// Go on from this cursor, which the page before printed.
        #[arg(long, default_value_t = 0)]
        cursor: u64,
        /// At most this many, up to 8190.
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Args)]
struct Open {
    /// The currency, such as EUR.
    #[arg(long, value_parser = currency_argument)]
    currency: Currency,
    /// The account's id [default: a new one].
    #[arg(long, value_parser = id_argument)]
    id: Option<u128>,
    /// Kind of account, your own numbering.
    #[arg(long, default_value_t = 0)]
    code: u16,
    /// The balance may not go below zero: a customer's account.
    #[arg(long, conflicts_with = "never_positive")]
    never_negative: bool,
    /// The balance may not go above zero: our account at a bank.
    #[arg(long)]
    never_positive: bool,
    /// Your own reference.
    #[arg(long, default_value_t = 0)]
    user_data: u128,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(command: &AccountCommand) -> Done {
    match &command.action {
        Action::Open(open) => open_account(open),
        Action::Show { id, remote } => {
            let (sequence, accounts) = remote.ask(async |mut client| Ok(client.accounts(&[*id]).await?))?;
            let account = accounts.first().ok_or_else(|| anyhow::anyhow!("there is no account {id}"))?;
            if remote.json {
                let mut value = account_json(account);
                if let Some(object) = value.as_object_mut() {
                    object.insert("as_of_sequence".to_owned(), sequence.into());
                }
                print_json(&value)?;
            } else {
                print(&show(account))?;
            }
            Ok(true)
        }
        Action::List { from, limit, remote } => {
            let page = crate::protocol::ListRequest { from: *from, limit: *limit };
            let (_, accounts) = remote.ask(async |mut client| Ok(client.list_accounts(page).await?))?;
            if remote.json {
                print_json(&accounts.iter().map(account_json).collect::<Vec<_>>())?;
            } else {
                print(&list(&accounts))?;
            }
            Ok(true)
        }
        Action::History { id, cursor, limit, remote } => history(*id, *cursor, *limit, remote),
    }
}

fn open_account(open: &Open) -> Done {
    let flags = match (open.never_negative, open.never_positive) {
        (true, _) => AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS,
        (_, true) => AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS,
        _ => AccountFlags::default(),
    };
    let account = NewAccount {
        id: AccountId::from_raw(open.id.unwrap_or_else(new_id)),
        currency: open.currency.number(),
        code: open.code,
        flags,
        user_data_128: open.user_data,
        ..NewAccount::default()
    };
    let outcomes = open.remote.ask(async |mut client| Ok(client.open_accounts(&[account]).await?))?;
    let outcome = outcomes.first().copied().unwrap_or(Outcome::unrecorded(crate::ledger::Code::Internal));
    if open.remote.json {
        print_json(&serde_json::json!({
            "id": account.id.to_string(), "outcome": outcome.code.name(), "outcome_code": outcome.code.number(),
            "repeated": outcome.repeated, "sequence": outcome.sequence,
        }))?;
    } else if outcome.code.is_accepted() {
        let how = if outcome.repeated { "was open already" } else { "is open" };
        print(&format!("Account {} ({}) {how}.", account.id, open.currency))?;
    } else {
        let code = outcome.code;
        print(&format!("Account {} was not opened: {code}. {} {}", account.id, code.meaning(), code.action()))?;
    }
    Ok(outcome.code.is_accepted())
}

fn show(account: &AccountState) -> String {
    let properties = &account.properties;
    let currency = properties.currency;
    let limit = if properties.flags.has(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS) {
        "never negative"
    } else if properties.flags.has(AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS) {
        "never positive"
    } else {
        "none"
    };
    let rows = [
        ("account", properties.id.to_string()),
        ("balance", money(account.balance(), currency)),
        ("held", money(signed(account.totals.debits_pending), currency)),
        (
            "available",
            account.available().map_or_else(|| "no limit".to_owned(), |available| money(available, currency)),
        ),
        ("incoming", money(signed(account.totals.credits_pending), currency)),
        ("debits posted", money(signed(account.totals.debits_posted), currency)),
        ("credits posted", money(signed(account.totals.credits_posted), currency)),
        ("limit", limit.to_owned()),
        ("overdraft", money(signed(properties.overdraft), currency)),
        ("state", account.state.name().to_owned()),
        ("class", properties.class().name().to_owned()),
        ("level", properties.level.to_string()),
        ("code", properties.code.to_string()),
        ("user data", properties.user_data_128.to_string()),
        ("opened", time(account.opened_ns)),
        ("last entry", format!("sequence {}", account.head)),
    ];
    rows.iter().map(|(name, value)| format!("{name:<15} {value}")).collect::<Vec<_>>().join("\n")
}

fn list(accounts: &[AccountState]) -> String {
    let rows = accounts.iter().map(|account| {
        let currency = account.properties.currency;
        vec![
            account.properties.id.to_string(),
            money(account.balance(), currency),
            money(signed(account.totals.debits_posted), currency),
            money(signed(account.totals.credits_posted), currency),
            account.properties.code.to_string(),
        ]
    });
    table(&["account", ">balance", ">debits", ">credits", ">code"], rows)
}

async fn read_history(
    mut client: Client,
    id: u128,
    cursor: u64,
    limit: u32,
) -> Result<(u16, u64, Vec<StoredRecord>), Failure> {
    let (_, accounts) = client.accounts(&[id]).await?;
    let account = accounts.first().ok_or_else(|| anyhow::anyhow!("there is no account {id}"))?;
    let (next, records) = client.history(account.properties.id, cursor, limit).await?;
    Ok((account.properties.currency, next, records))
}

fn history(id: u128, cursor: u64, limit: u32, remote: &Remote) -> Done {
    let (currency, next, records) = remote.ask(|client| read_history(client, id, cursor, limit))?;
    if remote.json {
        let entries: Vec<_> = records.iter().map(|stored| stored_json(stored, Some(currency))).collect();
        print_json(&serde_json::json!({ "entries": entries, "cursor": next }))?;
        return Ok(true);
    }
    let rows = records.iter().map(|stored| {
        let (operation, what, amount, other) = match stored.record.done() {
            Some(transfer) if transfer.debit.raw() == id => (
                transfer.operation().name(),
                transfer.id.to_string(),
                money(signed(transfer.amount).saturating_neg(), currency),
                transfer.credit.to_string(),
            ),
            Some(transfer) => (
                transfer.operation().name(),
                transfer.id.to_string(),
                money(signed(transfer.amount), currency),
                transfer.debit.to_string(),
            ),
            None => ("opened", String::new(), String::new(), String::new()),
        };
        vec![stored.sequence.to_string(), time(stored.time_ns), operation.to_owned(), amount, other, what]
    });
    let mut text = table(&[">sequence", "time", "operation", ">amount", "other account", "transfer"], rows);
    if next != 0 {
        // Writing to a string cannot fail.
        let _written = write!(text, "\nMore: --cursor {next}");
    }
    print(&text)?;
    Ok(true)
}
