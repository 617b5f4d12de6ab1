//! What is asked of a server beside the load: whether it answers, what time it is, and what `heng verify` says of its data.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use heng::client::{Client, Credentials};
use heng::ledger::{Operation, Transfer, TransferId};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;

use super::Report;
use super::load::ACCOUNTS;
use crate::accounts::Range;
use crate::spawn::{Spawned, server_program};
use crate::workload::{ABROAD, account_id};

/// How soon a process that stood still, or was started, answers.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

/// Asks for something that moves nothing and goes all the way to the disk: a server that does not answer is stuck.
pub(super) fn probe(runtime: &Runtime, server: &Spawned, rng: &mut StdRng, report: &mut Report) {
    let begun = Instant::now();
    let is_stuck = !answers(runtime, server, rng);
    report.stuck = report.stuck.saturating_add(u64::from(is_stuck));
    report.answered_again.push(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
}

pub(super) fn answers(runtime: &Runtime, server: &Spawned, rng: &mut StdRng) -> bool {
    let answered = runtime.block_on(async { tokio::time::timeout(AGAIN, require(&server.address, rng)).await });
    answered.is_ok_and(|answered| answered.is_ok())
}

/// Answers with the ledger's time.
pub(super) async fn require(address: &str, rng: &mut StdRng) -> anyhow::Result<u64> {
    let mut client = Client::connect(address, &Credentials::development()).await?;
    let asked = Transfer {
        id: TransferId::from_raw(rng.random::<u128>() | 1 << 127),
        debit: account_id(1, 0),
        amount: 1,
        code: 1,
        flags: Operation::Require as u16,
        ..Transfer::default()
    };
    let outcomes = client.submit(&[asked]).await?;
    let outcome = outcomes.first().filter(|outcome| outcome.sequence > 0).context("it was not recorded")?;
    Ok(outcome.time_ns)
}

pub(super) async fn open_accounts(address: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(address, &Credentials::development()).await?;
    Range { first: 1, accounts: ACCOUNTS, abroad: ABROAD }.open(&mut client).await
}

/// What `heng verify` finds in a stopped server's data, and says.
pub(super) fn verify(data: &Path) -> anyhow::Result<(bool, String)> {
    let output =
        Command::new(server_program()?).args(["verify", "--data-dir"]).arg(data).stdin(Stdio::null()).output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}
