//! `heng account`.

use std::fmt::Write;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::remote::{Remote, currency_argument, id_argument, new_id};
use super::table::{account_json, limits_json, limits_table, money, signed, stored_json, table, time};
use super::{Done, Failure, print, print_json};
use crate::client::Client;
use crate::ledger::{
    AccountChange, AccountClass, AccountFlags, AccountId, AccountState, BookAccount, NewAccount, Outcome, StoredRecord,
    Transfer, TransferId,
};
use crate::money::{Currency, parse_money};
use crate::protocol::{AccountRequest, Query, QueryKind};

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
        /// As it was after this record; state, level and overdraft, and so what is available, are those of now.
        #[arg(long, default_value_t = 0)]
        sequence: u64,
        /// As it was at this time, nanoseconds since 1970 UTC.
        #[arg(long, default_value_t = 0)]
        time_ns: u64,
        #[command(flatten)]
        remote: Remote,
    },
    /// Freeze, unfreeze or close an account, or change its level or overdraft.
    Change(Change),
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
        /// Oldest first.
        #[arg(long)]
        oldest_first: bool,
        /// With this code only.
        #[arg(long)]
        code: Option<u16>,
        /// With this account on the other side only.
        #[arg(long, value_parser = id_argument)]
        with: Option<u128>,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Args)]
struct Change {
    /// The account.
    #[arg(value_parser = id_argument)]
    account: u128,
    /// open, debits-frozen, frozen or closed.
    #[arg(long, value_parser = state_argument)]
    state: Option<AccountState>,
    /// The level of its customer, 0 to 253.
    #[arg(long, value_parser = clap::value_parser!(u8).range(..=253))]
    level: Option<u8>,
    /// How far below zero it may go, like "12.34 EUR".
    #[arg(long)]
    overdraft: Option<String>,
    /// The change's id; give the same one to repeat safely [default: a new one].
    #[arg(long, value_parser = id_argument)]
    id: Option<u128>,
    #[command(flatten)]
    remote: Remote,
}

fn state_argument(text: &str) -> Result<AccountState, String> {
    let state = AccountState::ALL.into_iter().find(|state| state.name() == text);
    state.ok_or_else(|| "none of: open, debits-frozen, frozen, closed".to_owned())
}

fn class_argument(text: &str) -> Result<AccountClass, String> {
    let class = AccountClass::ALL.into_iter().find(|class| class.name() == text);
    class.ok_or_else(|| {
        let names = AccountClass::ALL.map(AccountClass::name);
        format!("none of: {}", names.join(", "))
    })
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
    /// Whose money it holds.
    #[arg(long, value_parser = class_argument, default_value = "unspecified")]
    class: AccountClass,
    /// The level of its customer, for limits and fees.
    #[arg(long, default_value_t = 0)]
    level: u8,
    /// How far below zero a never-negative account may go all the same, minor units.
    #[arg(long, default_value_t = 0, requires = "never_negative")]
    overdraft: u64,
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
        Action::Change(change) => change_account(change),
        Action::Show { id, sequence, time_ns, remote } => {
            let request = AccountRequest { account: AccountId::from_raw(*id), sequence: *sequence, time_ns: *time_ns };
            let detail = remote.ask(async |mut client| Ok(client.account(&request).await?))?;
            let (account, as_of) = (detail.account, detail.sequence);
            let account = &account.ok_or_else(|| anyhow::anyhow!("there is no account {id}, or was none then"))?;
            if remote.json {
                let mut value = account_json(account);
                if let Some(object) = value.as_object_mut() {
                    object.insert("as_of_sequence".to_owned(), as_of.into());
                    object.insert("limits".to_owned(), limits_json(&detail.limits).into());
                }
                print_json(&value)?;
            } else {
                print(&show(account))?;
                if (*sequence, *time_ns) != (0, 0) {
                    print("State, level and overdraft, and so what is available, are those of now.")?;
                }
                if !detail.limits.is_empty() {
                    print(&format!("\n{}", limits_table(&detail.limits)))?;
                }
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
        Action::History { id, cursor, limit, oldest_first, code, with, remote } => {
            let query = Query {
                oldest_first: *oldest_first,
                from: *cursor,
                code: *code,
                counterparty: with.unwrap_or(0),
                ..Query::new(QueryKind::Entries, *id, *limit)
            };
            history(&query, remote)
        }
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
        class: open.class.number(),
        level: open.level,
        overdraft: open.overdraft.into(),
        flags,
        user_data_128: open.user_data,
        ..NewAccount::default()
    };
    let outcomes = open.remote.ask(async |mut client| {
        let opened = client.open_accounts(&[account]).await;
        let id = account.id;
        Ok(opened.with_context(|| {
            format!("account {id} may be open or not; where that is not told do it again with `--id {id}`")
        })?)
    })?;
    let outcome = outcomes.first().copied().unwrap_or(Outcome::unrecorded(crate::ledger::Code::Internal));
    if open.remote.json {
        print_json(&serde_json::json!({
            "id": account.id.to_string(), "outcome": outcome.code.name(), "outcome_code": outcome.code.number(),
            "repeated": outcome.repeated, "sequence": outcome.sequence,
        }))?;
    } else if outcome.code.is_accepted() {
        let how = if outcome.repeated { "was open already (level and overdraft stay as they are)" } else { "is open" };
        print(&format!("Account {} ({}) {how}.", account.id, open.currency))?;
    } else {
        let code = outcome.code;
        print(&format!("Account {} was not opened: {code}. {} {}", account.id, code.meaning(), code.action()))?;
    }
    Ok(outcome.code.is_accepted())
}

fn show(account: &BookAccount) -> String {
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

fn list(accounts: &[BookAccount]) -> String {
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

async fn read_history(mut client: Client, query: &Query) -> Result<(u16, u64, Vec<StoredRecord>), Failure> {
    let (_, accounts) = client.accounts(&[query.id]).await?;
    let account = accounts.first().ok_or_else(|| anyhow::anyhow!("there is no account {}", query.id))?;
    let (next, records) = client.query(query).await?;
    Ok((account.properties.currency, next, records))
}

fn change_account(change: &Change) -> Done {
    let overdraft = change.overdraft.as_deref().map(parse_money).transpose().map_err(Failure::configuration)?;
    let wanted = AccountChange {
        state: change.state,
        level: change.level,
        overdraft: overdraft.map(|(amount, _)| amount.minor_units()),
    };
    let id = TransferId::from_raw(change.id.unwrap_or_else(new_id));
    let transfer = Transfer { id, ..wanted.request(AccountId::from_raw(change.account)) };
    let outcomes = change.remote.ask(async |mut client| super::operate::submit(&mut client, &[transfer]).await)?;
    super::operate::tell(&[transfer], &outcomes, change.remote.json)
}

fn history(query: &Query, remote: &Remote) -> Done {
    let id = query.id;
    let (currency, next, records) = remote.ask(|client| read_history(client, query))?;
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
