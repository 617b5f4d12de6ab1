//! `heng-loadgen day`: merchants, payments, refunds and fees through several settlement windows, payouts, and a bank's statement into
//! which errors of every kind are put. At the end each of them must be found, and nothing else.
//!
//! The generator computes the positions of every window by itself, from the outcomes it was told and the sequences at which the
//! windows closed, and compares them with the server's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use heng::client::{Client, Credentials};
use heng::ledger::{AccountFlags, AccountId, NewAccount, Operation, Transfer, TransferId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};

use crate::office::{Office, amount, items, number, text};
use crate::spawn::Spawned;

/// Whoever pays.
const CUSTOMERS: u128 = 1;
/// The bank account's mirror.
const BANK: u128 = 2;
/// Where fees go.
const FEES: u128 = 3;
const FIRST_MERCHANT: u128 = 1_000;
const WINDOWS: u32 = 3;
const FEE: u128 = 10;
const BATCH: usize = 1_000;
/// Errors of each kind put into the statement.
const OF_EACH_KIND: usize = 5;
const PATIENCE: Duration = Duration::from_mins(2);

/// Simulate a day: payments, cut-offs, payouts, a bank statement with errors; find all of them and nothing else.
#[derive(Debug, Args)]
pub(crate) struct DayArguments {
    /// Start a server in a process of its own, on free ports and a temporary directory, and stop it afterwards.
    #[arg(long, required = true)]
    spawn: bool,
    /// Merchants, each a participant in clearing.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(50..=100_000))]
    merchants: u32,
    /// Payments.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    payments: u64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Shards of the spawned server; 0: one per four processors.
    #[arg(long, default_value_t = 0)]
    shards: usize,
    /// Data directory of the spawned server, kept afterwards [default: a temporary one].
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// What a day came to.
#[derive(Debug, Default, Serialize)]
struct Day {
    payments: u64,
    refunds: u64,
    windows: u32,
    /// What all positions add up to, windows taken together: nothing.
    netted_sum: i128,
    payouts: usize,
    breaks_injected: usize,
    breaks_found: usize,
    false_breaks: usize,
    /// Payouts whose line is in order and which the server does not know to be paid.
    unsettled: usize,
    verified: bool,
    /// From asking to close a window until that was durable, under load, milliseconds.
    close_ms: Vec<f64>,
    /// From the last close until all windows were settled, milliseconds.
    settle_ms: f64,
    /// Importing and matching the statement, milliseconds.
    import_ms: f64,
}

/// An accepted posting: its sequence, the merchant, and how much that received, fee taken off.
struct Posted {
    sequence: u64,
    merchant: u32,
    amount: i128,
}

pub(crate) fn run(arguments: &DayArguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(simulate(arguments)));
    heng::cli::finish(done.map_err(Into::into))
}

async fn simulate(arguments: &DayArguments) -> anyhow::Result<bool> {
    let server = Spawned::start(arguments.data_dir.as_deref(), arguments.shards, Some(include_str!("day.toml")))?;
    let office = Office::new(&server.operations);
    let mut client = Client::connect(server.address.as_str(), &Credentials::development()).await?;
    let mut random = StdRng::seed_from_u64(arguments.seed);
    let mut day = Day { windows: WINDOWS, ..Day::default() };
    open(&mut client, &office, arguments.merchants).await?;
    let posted = pay(&mut client, &office, arguments, (&mut random, &mut day)).await?;
    let begun = Instant::now();
    let windows = until_settled(&office).await?;
    day.settle_ms = milliseconds(begun);
    let right = check_positions(&office, &windows, &posted, &mut day)?;
    let payouts = all_payouts(&office)?;
    day.payouts = payouts.len();
    let statement = Statement::new(&payouts, &mut random)?;
    let begun = Instant::now();
    let path = "/banks/bank/statements?mapping=bank";
    office.post_file(path, statement.lines.join("\n").as_bytes())?;
    day.import_ms = milliseconds(begun);
    let expected = statement.breaks(&mut client).await?;
    compare_breaks(&office, &expected, &mut day)?;
    day.unsettled = until_confirmed(&office, &statement.in_order).await?;
    let balanced = check_balances(&mut client, &payouts, &posted).await?;
    server.stop()?;
    day.verified = right && balanced && day.netted_sum == 0;
    report(arguments, &day)
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1_000.0
}

async fn open(client: &mut Client, office: &Office, merchants: u32) -> anyhow::Result<()> {
    let account = |id: u128, flags| NewAccount {
        id: AccountId::from_raw(id),
        currency: 978,
        code: 1,
        flags,
        ..NewAccount::default()
    };
    let house = [CUSTOMERS, BANK, FEES].map(|id| account(id, AccountFlags::default()));
    let own = (0..merchants).map(|merchant| {
        account(FIRST_MERCHANT.saturating_add(merchant.into()), AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS)
    });
    for batch in house.into_iter().chain(own).collect::<Vec<_>>().chunks(BATCH) {
        let outcomes = client.open_accounts(batch).await?;
        ensure!(outcomes.iter().all(|outcome| outcome.code.is_accepted()), "an account was not opened");
    }
    for merchant in 0..merchants {
        let id = FIRST_MERCHANT.saturating_add(merchant.into());
        let number = merchant.saturating_add(1);
        let body = json!({
            "participant": number, "account": id.to_string(), "name": format!("Merchant {number}"),
            "iban": "GB82WEST12345698765432",
        });
        office.post("/clearing/participants", &body)?;
    }
    Ok(())
}

/// Payments and some refunds; each time a part of them is done, a window is closed while the next part begins.
async fn pay(
    client: &mut Client,
    office: &Office,
    arguments: &DayArguments,
    (random, day): (&mut StdRng, &mut Day),
) -> anyhow::Result<Vec<Posted>> {
    let mut posted = Vec::new();
    let mut made: Vec<Transfer> = Vec::new();
    let mut closing: Vec<tokio::task::JoinHandle<anyhow::Result<f64>>> = Vec::new();
    let part = arguments.payments.div_ceil(u64::from(WINDOWS)).max(1);
    let mut next_close = part;
    let mut id = 0_u128;
    while day.payments < arguments.payments {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH && day.payments < arguments.payments {
            id = id.saturating_add(1);
            if !made.is_empty() && random.random_bool(0.03) {
                let original = made.swap_remove(random.random_range(0..made.len()));
                batch.push(Transfer {
                    id: TransferId::from_raw(id),
                    debit: original.credit,
                    credit: original.debit,
                    amount: random.random_range(1..=original.amount),
                    related: original.id.raw(),
                    flags: Operation::Refund as u16,
                    ..original
                });
            } else {
                let merchant = random.random_range(0..arguments.merchants);
                batch.push(Transfer {
                    id: TransferId::from_raw(id),
                    debit: AccountId::from_raw(CUSTOMERS),
                    credit: AccountId::from_raw(FIRST_MERCHANT.saturating_add(merchant.into())),
                    amount: random.random_range(100..20_000),
                    code: 7,
                    ..Transfer::default()
                });
                day.payments = day.payments.saturating_add(1);
            }
        }
        let outcomes = client.submit(&batch).await?;
        for (transfer, outcome) in batch.iter().zip(outcomes).filter(|(_, outcome)| outcome.code.is_accepted()) {
            let is_refund = transfer.operation() == Operation::Refund;
            let account = if is_refund { transfer.debit } else { transfer.credit };
            let whole = i128::try_from(transfer.amount)?;
            let amount = if is_refund { whole.saturating_neg() } else { whole.saturating_sub(i128::try_from(FEE)?) };
            let merchant = u32::try_from(account.raw().saturating_sub(FIRST_MERCHANT))?;
            posted.push(Posted { sequence: outcome.sequence, merchant, amount });
            if is_refund {
                day.refunds = day.refunds.saturating_add(1);
            } else {
                made.push(*transfer);
            }
        }
        if day.payments >= next_close {
            next_close = next_close.saturating_add(part);
            let office = office.clone();
            closing.push(tokio::task::spawn_blocking(move || {
                let begun = Instant::now();
                office.post("/clearing/windows/cards/close", &json!({}))?;
                Ok(milliseconds(begun))
            }));
        }
    }
    for closed in closing {
        day.close_ms.push(closed.await??);
    }
    while day.close_ms.len() < usize::try_from(WINDOWS)? {
        let begun = Instant::now();
        office.post("/clearing/windows/cards/close", &json!({}))?;
        day.close_ms.push(milliseconds(begun));
    }
    Ok(posted)
}

/// The windows that were closed, once all are settled.
async fn until_settled(office: &Office) -> anyhow::Result<Vec<Value>> {
    let begun = Instant::now();
    loop {
        let list = office.get("/clearing/windows?limit=100")?;
        let mut closed: Vec<Value> = items(&list)
            .iter()
            .filter(|window| text(window, "state").is_ok_and(|state| state != "open"))
            .cloned()
            .collect();
        let is_settled =
            |window: &Value| text(window, "state").is_ok_and(|state| state == "settled" || state == "reconciled");
        if closed.len() >= usize::try_from(WINDOWS)? && closed.iter().all(is_settled) {
            closed.reverse();
            return Ok(closed);
        }
        ensure!(begun.elapsed() < PATIENCE, "the windows were not settled: {list}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Compares each window's positions with what the outcomes and the window's end make.
fn check_positions(office: &Office, windows: &[Value], posted: &[Posted], day: &mut Day) -> anyhow::Result<bool> {
    let mut right = true;
    let mut first = 0;
    for window in windows {
        let last = number(window, "last_sequence")?;
        let mut nets: BTreeMap<u64, i128> = BTreeMap::new();
        for posting in posted.iter().filter(|posting| (first..last).contains(&posting.sequence)) {
            let net = nets.entry(u64::from(posting.merchant).saturating_add(1)).or_default();
            *net = net.saturating_add(posting.amount);
        }
        first = last;
        let path = format!("/clearing/windows/cards/{}/positions", number(window, "window")?);
        for position in items(&office.get(&path)?) {
            day.netted_sum = day.netted_sum.saturating_add(amount(position, "net")?);
            let participant = number(position, "participant")?;
            let own = amount(position, "net")?.saturating_sub(amount(position, "carried")?);
            if participant != 0 && own != nets.remove(&participant).unwrap_or(0) {
                right = false;
            }
        }
        right &= nets.values().all(|net| *net == 0);
    }
    Ok(right)
}

fn all_payouts(office: &Office) -> anyhow::Result<Vec<Value>> {
    let mut payouts = Vec::new();
    for window in 1..=WINDOWS {
        payouts.extend_from_slice(items(&office.get(&format!("/clearing/payouts?window={window}&limit=20000"))?));
    }
    Ok(payouts)
}

/// A bank's statement with errors in it.
struct Statement {
    lines: Vec<String>,
    /// Breaks of lines, by kind.
    of_lines: BTreeSet<(String, String)>,
    /// Breaks of payouts, by kind.
    of_payouts: Vec<(String, u128)>,
    /// Payouts whose lines are as they should be.
    in_order: BTreeSet<String>,
}

impl Statement {
    fn new(payouts: &[Value], random: &mut StdRng) -> anyhow::Result<Self> {
        let needed = OF_EACH_KIND.saturating_mul(4);
        ensure!(
            payouts.len() > needed.saturating_mul(2),
            "too few payouts for errors of every kind; more merchants or payments"
        );
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let late = today.checked_add(jiff::Span::new().days(20))?;
        let chosen = rand::seq::index::sample(random, payouts.len(), needed).into_vec();
        let kinds = ["missing", "amount", "duplicate", "late"];
        let kind_of: BTreeMap<usize, &str> = chosen.into_iter().zip(kinds.into_iter().cycle()).collect();
        let mut statement = Self {
            lines: vec!["day,amount,reference".to_owned()],
            of_lines: BTreeSet::new(),
            of_payouts: Vec::new(),
            in_order: BTreeSet::new(),
        };
        for (place, payout) in payouts.iter().enumerate() {
            let (id, paid) = (text(payout, "payout")?, amount(payout, "amount")?);
            let paid = if text(payout, "direction")? == "payout" { paid.saturating_neg() } else { paid };
            let raw = u128::from_str_radix(id, 16)?;
            match kind_of.get(&place).copied() {
                Some("missing") => statement.of_payouts.push(("missing".to_owned(), raw)),
                Some("amount") => statement.line((today, paid.saturating_sub(1), id), Some("amount")),
                Some("duplicate") => {
                    statement.line((today, paid, id), None);
                    statement.line((today, paid, id), Some("duplicate"));
                    statement.in_order.insert(id.to_owned());
                }
                Some(_) => {
                    statement.line((late, paid, id), None);
                    statement.of_payouts.push(("late".to_owned(), raw));
                }
                None => {
                    statement.line((today, paid, id), None);
                    statement.in_order.insert(id.to_owned());
                }
            }
        }
        for extra in 0..OF_EACH_KIND {
            statement
                .line((today, 7_777_777_001_i128.saturating_add(i128::try_from(extra)?), "who knows"), Some("extra"));
        }
        Ok(statement)
    }

    fn line(&mut self, (day, amount, reference): (jiff::civil::Date, i128, &str), kind: Option<&str>) {
        let sign = if amount < 0 { "-" } else { "" };
        let (major, minor) = (amount.unsigned_abs() / 100, amount.unsigned_abs() % 100);
        // The heading is the first line of the file, and the first one that is not counted.
        if let Some(kind) = kind {
            self.of_lines.insert((kind.to_owned(), format!("L1.{}", self.lines.len())));
        }
        self.lines.push(format!("{day},{sign}{major}.{minor:02},{reference}"));
    }

    /// The breaks that must be found: kind and key.
    async fn breaks(&self, client: &mut Client) -> anyhow::Result<BTreeSet<(String, String)>> {
        let mut breaks = self.of_lines.clone();
        let ids: Vec<u128> = self.of_payouts.iter().map(|(_, id)| *id).collect();
        let records = client.transfers(&ids).await?;
        for (kind, id) in &self.of_payouts {
            let known =
                records.iter().find(|stored| stored.record.done().is_some_and(|transfer| transfer.id.raw() == *id));
            let sequence = known.context("a payout's settlement transfer is not there")?.sequence;
            breaks.insert((kind.clone(), format!("E{sequence}")));
        }
        Ok(breaks)
    }
}

fn compare_breaks(office: &Office, expected: &BTreeSet<(String, String)>, day: &mut Day) -> anyhow::Result<()> {
    let answer = office.get("/banks/bank/breaks?state=open")?;
    let list = answer.get("breaks").unwrap_or(&answer);
    let found: anyhow::Result<BTreeSet<(String, String)>> = items(list)
        .iter()
        .map(|known| Ok((text(known, "kind")?.to_owned(), text(known, "break")?.to_owned())))
        .collect();
    let found = found?;
    day.breaks_injected = expected.len();
    day.breaks_found = found.intersection(expected).count();
    day.false_breaks = found.difference(expected).count();
    Ok(())
}

/// How many payouts whose lines are in order are not confirmed in the end.
async fn until_confirmed(office: &Office, in_order: &BTreeSet<String>) -> anyhow::Result<usize> {
    let begun = Instant::now();
    loop {
        let payouts = all_payouts(office)?;
        let open = payouts.iter().filter(|payout| {
            let is_paid = text(payout, "state").is_ok_and(|state| state == "confirmed");
            text(payout, "payout").is_ok_and(|id| in_order.contains(id)) && !is_paid
        });
        let open = open.count();
        if open == 0 || begun.elapsed() > PATIENCE {
            return Ok(open);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every merchant has what it received less what was paid out to it, and nobody has anything else.
async fn check_balances(client: &mut Client, payouts: &[Value], posted: &[Posted]) -> anyhow::Result<bool> {
    let mut expected: BTreeMap<u128, i128> = BTreeMap::new();
    for posting in posted {
        let balance = expected.entry(FIRST_MERCHANT.saturating_add(posting.merchant.into())).or_default();
        *balance = balance.saturating_add(posting.amount);
    }
    let mut paid_out = 0_i128;
    for payout in payouts {
        let paid = amount(payout, "amount")?;
        let paid = if text(payout, "direction")? == "payout" { paid } else { paid.saturating_neg() };
        paid_out = paid_out.saturating_add(paid);
        let id = FIRST_MERCHANT.saturating_add(u128::from(number(payout, "participant")?)).saturating_sub(1);
        let balance = expected.entry(id).or_default();
        *balance = balance.saturating_sub(paid);
    }
    let accounts = client.all_accounts().await?;
    let mut sum = 0_i128;
    let mut right = true;
    for account in &accounts {
        let id = account.properties.id.raw();
        sum = sum.saturating_add(account.balance());
        right &= match id {
            BANK => account.balance() == paid_out,
            _ if id >= FIRST_MERCHANT => account.balance() == expected.get(&id).copied().unwrap_or(0),
            _ => true,
        };
    }
    Ok(right && sum == 0)
}

fn report(arguments: &DayArguments, day: &Day) -> anyhow::Result<bool> {
    use std::io::Write;
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(day)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let good = day.verified && day.breaks_found == day.breaks_injected && day.false_breaks == 0 && day.unsettled == 0;
    let closes: Vec<String> = day.close_ms.iter().map(|ms| format!("{ms:.1}")).collect();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "payments     {} and {} refunds of {} merchants\nwindows      {}, closed in {} ms; settled {:.0} ms after the last\n\
         positions    add up to {}\npayouts      {}; {} in order but not confirmed\nstatement    imported and matched in {:.0} ms\n\
         breaks       {} of {} found, {} false\nverified     {}",
        day.payments,
        day.refunds,
        arguments.merchants,
        day.windows,
        closes.join(", "),
        day.settle_ms,
        day.netted_sum,
        day.payouts,
        day.unsettled,
        day.import_ms,
        day.breaks_found,
        day.breaks_injected,
        day.false_breaks,
        if good { "yes: positions, balances, payouts and breaks are as the generator knows them" } else { "NO" }
    )?;
    Ok(good)
}
