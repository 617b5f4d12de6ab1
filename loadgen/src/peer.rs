//! `heng-loadgen peer postgres`: the same workload against a `PostgreSQL`, alternating with a server of our own.
//!
//! Same accounts, same transfers, one transaction with its commit for each batch, idempotent by id, with the balance check: the schema is
//! `peer.sql`. What differs: `PostgreSQL` keeps no history of balances and no hash chain, and a connection has one batch under way, not several.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::arguments::{Distribution, Ids};
use crate::bench::arguments as run_arguments;
use crate::measure::Recorder;
use crate::model::Model;
use crate::report::{Latency, grouped, time};
use crate::run::perform;
use crate::workload::{Planned, Workload};

/// The schema in which all of it is; dropped before and after.
const SCHEMA: &str = "heng_peer";

/// Tables and the function of a batch.
const TABLES: &str = include_str!("peer.sql");

/// Measure another ledger with the same workload.
#[derive(Debug, Args)]
pub(crate) struct PeerArguments {
    #[command(subcommand)]
    peer: Peer,
}

#[derive(Debug, Subcommand)]
enum Peer {
    /// `PostgreSQL` with a schema of its own (`heng_peer`, dropped before and after).
    Postgres(PostgresArguments),
}

#[derive(Debug, Args)]
struct PostgresArguments {
    /// Where it is, like `postgres://user@127.0.0.1:5432/postgres`.
    #[arg(long)]
    url: String,
    /// Accounts.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..))]
    accounts: u64,
    /// Transfers in each round, for each of the two.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    transfers: u64,
    /// Transfers per request or transaction.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=8_190))]
    batch: u64,
    /// Connections to each.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// How often the two take turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One round of one of the two.
#[derive(Debug, Serialize)]
struct Round {
    transfers_per_s: f64,
    latency_us: Latency,
    verified: bool,
}

#[derive(Debug, Serialize)]
struct Result {
    peer: String,
    accounts: u64,
    transfers: u64,
    batch: u64,
    connections: u64,
    heng: Vec<Round>,
    postgres: Vec<Round>,
    /// Median rate of ours over the peer's.
    ratio: f64,
}

/// Runs; the exit code is 2 when money does not add up on either side.
pub(crate) fn run(arguments: &PeerArguments) -> ExitCode {
    let Peer::Postgres(arguments) = &arguments.peer;
    match compare(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(err) => {
            // Nobody is there to be told that nobody is there.
            let _told = writeln!(std::io::stderr(), "heng-loadgen: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &PostgresArguments) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let peer = runtime.block_on(describe(&arguments.url))?;
    let (mut heng, mut postgres) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        heng.push(ours(arguments)?);
        postgres.push(runtime.block_on(theirs(arguments))?);
    }
    let ratio = median(&heng) / median(&postgres);
    let PostgresArguments { accounts, transfers, batch, connections, .. } = *arguments;
    let result = Result { peer, accounts, transfers, batch, connections, heng, postgres, ratio };
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&result)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::io::stdout().write_all(result.table().as_bytes())?;
    Ok(result.heng.iter().chain(&result.postgres).all(|round| round.verified))
}

fn median(rounds: &[Round]) -> f64 {
    let mut rates: Vec<f64> = rounds.iter().map(|round| round.transfers_per_s).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

impl Result {
    fn table(&self) -> String {
        let row = |name: &str, ours: String, theirs: String| format!("{name:<24} {ours:>16} {theirs:>16}\n");
        let rates = |rounds: &[Round], which: fn(f64, f64) -> f64| {
            let rates = rounds.iter().map(|round| round.transfers_per_s);
            whole(rates.reduce(which).unwrap_or(0.0))
        };
        let middle = |rounds: &[Round], of: fn(&Latency) -> u64| {
            let mut values: Vec<u64> = rounds.iter().map(|round| of(&round.latency_us)).collect();
            values.sort_unstable();
            time(values.get(values.len() / 2).copied().unwrap_or(0))
        };
        let verified =
            |rounds: &[Round]| if rounds.iter().all(|round| round.verified) { "yes" } else { "NO" }.to_owned();
        let (heng, peer) = (&self.heng, &self.postgres);
        [
            format!(
                "{}\n{} accounts, {} transfers a round in batches of {}, {} connections\n",
                self.peer,
                grouped(self.accounts),
                grouped(self.transfers),
                self.batch,
                self.connections
            ),
            row("", "Heng".to_owned(), "PostgreSQL".to_owned()),
            row("transfers/s, median", whole(median(heng)), whole(median(peer))),
            row("  least", rates(heng, f64::min), rates(peer, f64::min)),
            row("  most", rates(heng, f64::max), rates(peer, f64::max)),
            row("p50 of a batch", middle(heng, |of| of.p50), middle(peer, |of| of.p50)),
            row("p99 of a batch", middle(heng, |of| of.p99), middle(peer, |of| of.p99)),
            row("every balance verified", verified(heng), verified(peer)),
            format!("ratio {:.1}\n", self.ratio),
        ]
        .concat()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, shown rounded")]
fn whole(rate: f64) -> String {
    grouped(rate as u64)
}

fn ours(arguments: &PostgresArguments) -> anyhow::Result<Round> {
    let text = |number: u64| number.to_string();
    let [accounts, transfers, batch, connections] =
        [arguments.accounts, arguments.transfers, arguments.batch, arguments.connections].map(text);
    let run = run_arguments(&[
        "--spawn",
        "--accounts",
        &accounts,
        "--transfers",
        &transfers,
        "--batch",
        &batch,
        "--connections",
        &connections,
        // What a connection of the peer can have.
        "--in-flight",
        "1",
    ])?;
    let report = perform(&run)?;
    Ok(Round {
        transfers_per_s: report.transfers_per_s,
        latency_us: report.latency_us,
        verified: report.verified == Some(true),
    })
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect to PostgreSQL")?;
    // It ends with the client; what goes wrong is told to whoever asks.
    tokio::spawn(connection);
    client.batch_execute(&format!("set search_path to {SCHEMA}; set synchronous_commit to on")).await?;
    Ok(client)
}

async fn describe(url: &str) -> anyhow::Result<String> {
    let client = connect(url).await?;
    let mut parts = Vec::new();
    for name in
        ["server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers"]
    {
        let row = client.query_one(&format!("show {name}"), &[]).await?;
        parts.push(format!("{name} {}", row.get::<_, String>(0)));
    }
    ensure!(parts.iter().any(|part| part == "fsync on"), "fsync is off: what it answers would not be durable");
    Ok(format!("PostgreSQL: {}", parts.join(", ")))
}

async fn theirs(arguments: &PostgresArguments) -> anyhow::Result<Round> {
    let setup = connect(&arguments.url).await?;
    let accounts = i64::try_from(arguments.accounts)?;
    setup.batch_execute(&format!("drop schema if exists {SCHEMA} cascade; create schema {SCHEMA}; {TABLES}")).await?;
    setup.execute("insert into accounts (id) select generate_series(1, $1::bigint)", &[&accounts]).await?;
    setup.batch_execute("analyze accounts; checkpoint").await?;
    let model = Arc::new(Model::new(arguments.accounts));
    let recorder = Arc::new(Recorder::new()?);
    let mut tasks = tokio::task::JoinSet::new();
    let mut workers = Vec::new();
    for number in 0..arguments.connections {
        let workload = Workload::new((1, number, 0), (arguments.accounts, Distribution::Uniform, Ids::Time))?;
        let extra = u64::from(number < arguments.transfers.checked_rem(arguments.connections).unwrap_or(0));
        let share = arguments.transfers.checked_div(arguments.connections).unwrap_or(0).saturating_add(extra);
        let (model, recorder) = (Arc::clone(&model), Arc::clone(&recorder));
        let client = connect(&arguments.url).await?;
        workers.push(Worker { client, workload, share, batch: arguments.batch, model, recorder });
    }
    let begun = Instant::now();
    for worker in workers {
        tasks.spawn(worker.drive());
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let elapsed = begun.elapsed();
    let verified = verify(&setup, &model).await?;
    setup.batch_execute(&format!("drop schema {SCHEMA} cascade")).await?;
    let transfers = Duration::from_secs(arguments.transfers).as_secs_f64();
    Ok(Round { transfers_per_s: transfers / elapsed.as_secs_f64(), latency_us: recorder.latency(), verified })
}

struct Worker {
    client: Client,
    workload: Workload,
    share: u64,
    batch: u64,
    model: Arc<Model>,
    recorder: Arc<Recorder>,
}

impl Worker {
    async fn drive(mut self) -> anyhow::Result<()> {
        let post = self.client.prepare("select post_batch($1, $2, $3, $4)").await?;
        let one = self.client.prepare("select post_one($1, $2, $3, $4)").await?;
        let mut left = self.share;
        while left > 0 {
            let size = left.min(self.batch);
            left = left.saturating_sub(size);
            self.workload.begin_request();
            let made: Vec<_> = (0..size).map(|_| self.workload.make()).collect();
            let ids: Vec<Uuid> = made.iter().map(|(transfer, _)| Uuid::from_u128(transfer.id.raw())).collect();
            let number = |id: u128| i64::try_from(id).unwrap_or(i64::MAX);
            let froms: Vec<i64> = made.iter().map(|(transfer, _)| number(transfer.debit.raw())).collect();
            let tos: Vec<i64> = made.iter().map(|(transfer, _)| number(transfer.credit.raw())).collect();
            let amounts: Vec<i64> = made.iter().map(|(transfer, _)| number(transfer.amount)).collect();
            let begun = Instant::now();
            let outcomes: Vec<i16> = match (ids.as_slice(), froms.as_slice(), tos.as_slice(), amounts.as_slice()) {
                ([id], [from], [to], [amount]) => {
                    vec![self.client.query_one(&one, &[id, from, to, amount]).await?.get(0)]
                }
                _ => self.client.query_one(&post, &[&ids, &froms, &tos, &amounts]).await?.get(0),
            };
            self.recorder.record(&[u64::try_from(begun.elapsed().as_micros())?]);
            ensure!(outcomes.len() == made.len(), "{} outcomes for {} transfers", outcomes.len(), made.len());
            let accepted = made.iter().zip(outcomes).filter(|(_, outcome)| *outcome == 0);
            accepted.map(|((_, planned), _)| planned).for_each(|planned: &Planned| self.model.accepted(planned));
        }
        Ok(())
    }
}

/// Compares every account with the model.
async fn verify(client: &Client, model: &Model) -> anyhow::Result<bool> {
    let rows = client.query("select debits, credits from accounts order by id", &[]).await?;
    let same = rows.iter().enumerate().all(|(index, row)| {
        let [debits, credits, ..] = model.totals(index);
        let read = |place| u128::try_from(row.get::<_, i64>(place)).ok();
        (read(0), read(1)) == (Some(debits), Some(credits))
    });
    Ok(same && !rows.is_empty())
}
