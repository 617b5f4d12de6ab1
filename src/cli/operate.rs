//! `heng hold`, `capture`, `raise`, `void`, `delay`, `refund`, `reverse`, `account change`, `transaction`, `explain`.
//!
//! Each makes one transfer, or reads several from a file, and prints their outcomes. What is about an earlier transfer reads that
//! one first, so that accounts, code and currency need not be typed again.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::remote::{Remote, id_argument, new_id};
use super::table::{money, signed, stored_json, table, time};
use super::{Done, Failure, print, print_json};
use crate::client::{Client, ClientError};
use crate::ledger::{
    AccountId, BALANCING, Code, ExchangeRate, LINKED, MORE, Operation, Outcome, Record, Rounding, StoredRecord,
    Transfer, TransferId,
};
use crate::money::parse_money;
use crate::protocol::Explained;

/// Set an amount aside, or send one that arrives later.
#[derive(Debug, Args)]
pub(super) struct SetAside {
    /// The account that pays.
    #[arg(long, value_parser = id_argument)]
    from: u128,
    /// The account that receives.
    #[arg(long, value_parser = id_argument)]
    to: u128,
    /// The amount, like "12.34 EUR".
    #[arg(long)]
    amount: String,
    /// A hold expires, or a delayed transfer arrives, after so many seconds. A hold without it does not expire.
    #[arg(long = "in", value_name = "SECONDS")]
    seconds: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// Something about an earlier transfer.
#[derive(Debug, Args)]
pub(super) struct About {
    /// The hold or transfer that it is about.
    #[arg(value_parser = id_argument)]
    earlier: u128,
    /// The amount, like "12.34 EUR" [default: all of it].
    #[arg(long)]
    amount: Option<String>,
    /// A capture: what is left stays held.
    #[arg(long)]
    more: bool,
    #[command(flatten)]
    common: Common,
}

/// Transfers from a file.
#[derive(Debug, Args)]
pub(super) struct FromFile {
    /// A TOML file with one `[[transfer]]` for each: operation, from, to, amount, and what the operation needs (about, `time_ns`, code,
    /// balancing, more, rate, rounding). `id` is a new one unless given.
    file: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

/// What every operation takes.
#[derive(Debug, Args)]
struct Common {
    /// Its id; give the same one to repeat safely [default: a new one].
    #[arg(long, value_parser = id_argument)]
    id: Option<u128>,
    /// Kind of business, your own numbering.
    #[arg(long)]
    code: Option<u16>,
    /// Your own reference.
    #[arg(long, default_value_t = 0)]
    user_data: u128,
    #[command(flatten)]
    remote: Remote,
}

impl Common {
    fn base(&self) -> Transfer {
        Transfer {
            id: TransferId::from_raw(self.id.unwrap_or_else(new_id)),
            code: self.code.unwrap_or(0),
            user_data_128: self.user_data,
            ..Transfer::default()
        }
    }
}

fn after(seconds: Option<u64>) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = seconds.map(|seconds| now.saturating_add(Duration::from_secs(seconds)));
    then.map_or(0, |then| u64::try_from(then.as_nanos()).unwrap_or(u64::MAX))
}

/// Refuses an amount in another currency than the account's: the wire has minor units only.
async fn check_currency(client: &mut Client, account: AccountId, currency: u16) -> Result<(), Failure> {
    let (_, accounts) = client.accounts(&[account.raw()]).await?;
    match accounts.first() {
        Some(known) if known.properties.currency != currency => {
            let has = money(0, known.properties.currency);
            Err(anyhow::anyhow!("account {account} is in another currency: it has {has}").into())
        }
        _ => Ok(()),
    }
}

/// Submits transfers. Where nobody knows what became of them their ids are told: whoever does it again must give the same ones.
pub(super) async fn submit(client: &mut Client, transfers: &[Transfer]) -> Result<Vec<Outcome>, Failure> {
    let unknown = |err: ClientError| {
        let ids: Vec<String> = transfers.iter().map(|transfer| transfer.id.to_string()).collect();
        let ids = ids.join(", ");
        let again =
            if transfers.len() == 1 { format!("with `--id {ids}`") } else { "with these ids in the file".to_owned() };
        // The time of a hold or a delayed transfer may be reckoned from now, so that a repeat is another one.
        let reused = if transfers.iter().any(|transfer| transfer.time_ns != 0) {
            "; refused as `id_reused` it was made the first time"
        } else {
            ""
        };
        let what = format!("nobody knows whether {ids} was made; do it again {again}, and it is made once{reused}");
        Failure::from(anyhow::Error::new(err).context(what))
    };
    client.submit(transfers).await.map_err(|err| match err {
        // Nothing of it was decided.
        ClientError::Refused { .. } => err.into(),
        err => unknown(err),
    })
}

/// `heng hold` and `heng delay`.
pub(super) fn set_aside(make: &SetAside, operation: Operation) -> Done {
    let (amount, currency) = parse_money(&make.amount).map_err(Failure::configuration)?;
    let transfer = Transfer {
        debit: AccountId::from_raw(make.from),
        credit: AccountId::from_raw(make.to),
        amount: amount.minor_units(),
        flags: operation as u16,
        time_ns: after(make.seconds.or((operation == Operation::Delayed).then_some(0))),
        ..make.common.base()
    };
    let outcomes = make.common.remote.ask(async |mut client: Client| {
        check_currency(&mut client, transfer.debit, currency.number()).await?;
        submit(&mut client, &[transfer]).await
    })?;
    tell(&[transfer], &outcomes, make.common.remote.json)
}

/// `heng capture`, `raise`, `void`, `refund`, `reverse`.
pub(super) fn about(make: &About, operation: Operation) -> Done {
    let base = make.common.base();
    let wanted = make.amount.as_deref().map(parse_money).transpose().map_err(Failure::configuration)?;
    let (transfer, outcomes) = make.common.remote.ask(async |mut client: Client| {
        let stored = client.transfers(&[make.earlier]).await?.first().copied();
        let Some(StoredRecord { record: Record::Transfer { transfer: first, .. }, .. }) = stored else {
            return Err(anyhow::anyhow!("there is no transfer {}", make.earlier).into());
        };
        if let Some((_, currency)) = &wanted {
            check_currency(&mut client, first.debit, currency.number()).await?;
        }
        let (debit, credit) =
            if operation.names_original() { (first.credit, first.debit) } else { (first.debit, first.credit) };
        let amount = wanted.map_or(first.amount, |(amount, _)| amount.minor_units());
        let transfer = Transfer {
            debit,
            credit,
            amount: if operation == Operation::Void { 0 } else { amount },
            code: make.common.code.unwrap_or(first.code),
            flags: operation as u16 | if make.more { MORE } else { 0 },
            related: make.earlier,
            ..base
        };
        let outcomes = submit(&mut client, &[transfer]).await?;
        Ok((transfer, outcomes))
    })?;
    tell(&[transfer], &outcomes, make.common.remote.json)
}

/// A transfer in a file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    operation: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    amount: Option<String>,
    #[serde(default)]
    about: Option<String>,
    #[serde(default)]
    time_ns: u64,
    #[serde(default)]
    code: u16,
    #[serde(default)]
    balancing: bool,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    rate: Option<String>,
    #[serde(default)]
    rounding: Rounding,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    transfer: Vec<Written>,
}

fn written(text: Option<&String>, what: &str) -> Result<u128, Failure> {
    let id = |text: &String| {
        crate::ledger::parse_id(text).ok_or_else(|| {
            Failure::configuration(anyhow::anyhow!(
                "{what} = \"{text}\" is not an id: decimal, or hexadecimal after 0x"
            ))
        })
    };
    text.map_or(Ok(0), id)
}

impl Written {
    fn transfer(&self) -> Result<Transfer, Failure> {
        let wrong = |what: String| Failure::configuration(anyhow::anyhow!(what));
        let operation = Operation::ALL.iter().find(|operation| operation.name() == self.operation);
        let operation = *operation.ok_or_else(|| wrong(format!("operation = \"{}\" is none", self.operation)))?;
        let amount = self.amount.as_deref().map(parse_money).transpose().map_err(Failure::configuration)?;
        let related = match &self.rate {
            Some(rate) => {
                let rate = rate.parse().map_err(|_err| wrong(format!("rate = \"{rate}\" is not a decimal number")))?;
                ExchangeRate { rate, rounding: self.rounding }.encode()
            }
            None => written(self.about.as_ref(), "about")?,
        };
        let flags = operation as u16 | if self.balancing { BALANCING } else { 0 } | if self.more { MORE } else { 0 };
        let id = written(self.id.as_ref(), "id")?;
        Ok(Transfer {
            id: TransferId::from_raw(if id == 0 { new_id() } else { id }),
            debit: AccountId::from_raw(written(self.from.as_ref(), "from")?),
            credit: AccountId::from_raw(written(self.to.as_ref(), "to")?),
            amount: amount.map_or(0, |(amount, _)| amount.minor_units()),
            code: self.code,
            flags,
            related,
            time_ns: self.time_ns,
            ..Transfer::default()
        })
    }
}

/// The transfers of a file, linked to one transaction.
fn read_file(path: &std::path::Path) -> Result<Vec<Transfer>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|err| Failure::configuration(anyhow::anyhow!("cannot read {}: {err}", path.display())))?;
    let file: WrittenFile = toml::from_str(&text).map_err(Failure::configuration)?;
    let mut transfers = file.transfer.iter().map(Written::transfer).collect::<Result<Vec<_>, _>>()?;
    if let Some((_, linked)) = transfers.split_last_mut() {
        for transfer in linked {
            transfer.flags |= LINKED;
        }
    }
    Ok(transfers)
}

/// `heng transaction`.
pub(super) fn transaction(command: &FromFile) -> Done {
    let transfers = read_file(&command.file)?;
    let outcomes = command.remote.ask(async |mut client: Client| submit(&mut client, &transfers).await)?;
    tell(&transfers, &outcomes, command.remote.json)
}

/// `heng explain`.
pub(super) fn explain(command: &FromFile) -> Done {
    let transfers = read_file(&command.file)?;
    let explained = command.remote.ask(async |mut client: Client| Ok(client.explain(&transfers).await?))?;
    let accepted = explained.outcomes.iter().all(|outcome| outcome.code.is_accepted());
    if command.remote.json {
        let outcomes = explained
            .outcomes
            .iter()
            .map(|outcome| serde_json::json!({ "outcome": outcome.code.name(), "limit": outcome.limit }));
        let records = explained
            .records
            .iter()
            .map(|record| stored_json(&StoredRecord { sequence: 0, time_ns: 0, record: *record }, None));
        print_json(&serde_json::json!({
            "as_of_sequence": explained.sequence,
            "outcomes": outcomes.collect::<Vec<_>>(),
            "records": records.collect::<Vec<_>>(),
            "limits": super::table::limits_json(&explained.limits),
        }))?;
    } else {
        print(&describe(&transfers, &explained))?;
    }
    Ok(accepted)
}

fn describe(transfers: &[Transfer], explained: &Explained) -> String {
    let outcomes = transfers.iter().zip(&explained.outcomes).map(|(transfer, outcome)| {
        let meaning = if outcome.code.is_accepted() { "" } else { outcome.code.meaning() };
        let limit = if outcome.limit.is_empty() { String::new() } else { format!("limit `{}`", outcome.limit) };
        vec![transfer.operation().name().to_owned(), outcome.code.to_string(), limit, meaning.to_owned()]
    });
    let mut text = table(&["operation", "would be", "", ""], outcomes);
    let records = explained.records.iter().filter_map(|record| record.done()).map(|done| {
        let between = [done.debit.to_string(), done.credit.to_string()];
        let [from, to] = between;
        vec![done.operation().name().to_owned(), done.amount.to_string(), from, to, done.code.to_string()]
    });
    text.push_str("\n\nRecords, amounts in minor units:\n");
    text.push_str(&table(&["operation", ">amount", "from", "to", ">code"], records));
    if !explained.limits.is_empty() {
        text.push_str("\n\nLimits of the first payer, before:\n");
        text.push_str(&super::table::limits_table(&explained.limits));
    }
    text
}

/// Prints outcomes; whether all were accepted.
pub(super) fn tell(transfers: &[Transfer], outcomes: &[Outcome], json: bool) -> Done {
    let accepted = outcomes.iter().all(|outcome| outcome.code.is_accepted());
    if json {
        let all: Vec<_> = transfers.iter().zip(outcomes).map(|(transfer, outcome)| {
            serde_json::json!({
                "id": transfer.id.to_string(), "operation": transfer.operation().name(), "outcome": outcome.code.name(),
                "outcome_code": outcome.code.number(), "repeated": outcome.repeated, "sequence": outcome.sequence,
                "time": time(outcome.time_ns), "amount_minor_units": signed(transfer.amount).to_string(),
            })
        }).collect();
        match all.as_slice() {
            [one] => print_json(one)?,
            all => print_json(&all)?,
        }
        return Ok(accepted);
    }
    for (transfer, outcome) in transfers.iter().zip(outcomes) {
        let Outcome { code, repeated, sequence, .. } = *outcome;
        let (what, id) = (transfer.operation().name(), transfer.id);
        let repeated = if repeated { " (decided before)" } else { "" };
        print(&match code {
            Code::Accepted => format!("{what} {id}: accepted, durable at sequence {sequence}{repeated}."),
            code => format!("{what} {id}: refused: {code}{repeated}. {} {}", code.meaning(), code.action()),
        })?;
    }
    Ok(accepted)
}
