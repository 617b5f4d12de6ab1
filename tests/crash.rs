//! `kill -9` under load, again and again: what was acknowledged is there, what was not is there wholly or not at all, and nothing is
//! done twice.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    clippy::print_stderr,
    reason = "a failed expectation is a failed test"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use common::{Process, account, run, runtime, text, transfer};
use heng::client::{Answer, Client, Connection, Credentials};
use heng::ledger::{AccountFlags, Code, Outcome, Record, StoredRecord, Transfer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CYCLES: u64 = 24;
const ACCOUNTS: u128 = 40;
const BATCH: usize = 60;
/// Ids sent before and not answered, which are sent again among new ones.
const REPEATS: usize = 10;
/// Transfers answered in earlier cycles that are looked up again in each.
const OLDER: usize = 2_000;

/// What clients sent and were told, independent of anything the server keeps.
#[derive(Default)]
struct Log {
    sent: BTreeMap<u128, Transfer>,
    told: BTreeMap<u128, Outcome>,
    /// Sent and not answered.
    unknown: BTreeMap<u128, Transfer>,
    /// Answered since all answers were last looked up.
    fresh: BTreeSet<u128>,
}

impl Log {
    fn hear(&mut self, transfers: &[Transfer], outcomes: &[Outcome]) {
        assert_eq!(transfers.len(), outcomes.len());
        for (transfer, outcome) in transfers.iter().zip(outcomes) {
            let id = transfer.id.raw();
            let same = |first: &Outcome| {
                (first.code, first.sequence, first.time_ns) == (outcome.code, outcome.sequence, outcome.time_ns)
            };
            if self.unknown.remove(&id).is_some() {
                self.fresh.insert(id);
            }
            let first = self.told.entry(id).or_insert(*outcome);
            assert!(same(first), "transfer {id}: told {first:?}, then {outcome:?}");
        }
    }
}

fn make(rng: &mut StdRng, log: &mut Log) -> Vec<Transfer> {
    let repeated = rng.random::<u128>();
    let mut transfers: Vec<_> = log.unknown.range(repeated..).take(REPEATS).map(|(_, transfer)| *transfer).collect();
    transfers.extend(log.told.range(repeated..).next().map(|(id, _)| log.sent[id]));
    while transfers.len() < BATCH {
        let id = rng.random_range(1..u128::MAX);
        // Account 1 pays for all; some accounts do not exist; amounts are often more than there is.
        let debit = if rng.random_bool(0.3) { 1 } else { rng.random_range(1..=ACCOUNTS + 1) };
        let transfer = transfer(id, debit, rng.random_range(1..=ACCOUNTS), rng.random_range(1..500));
        log.sent.insert(id, transfer);
        log.unknown.insert(id, transfer);
        transfers.push(transfer);
    }
    transfers
}

/// Drives load over one connection until the server is gone.
async fn drive(process: &Process, rng: &mut StdRng, log: &mut Log) {
    let Ok(connection) = Connection::open(process.listen, &Credentials::development()).await else { return };
    let (mut sender, mut receiver) = connection.split();
    let mut waiting: BTreeMap<u64, Vec<Transfer>> = BTreeMap::new();
    for request_id in 1.. {
        let transfers = make(rng, log);
        sender.submit(request_id, &transfers);
        waiting.insert(request_id, transfers);
        if sender.flush().await.is_err() {
            return;
        }
        while waiting.len() >= 4 {
            let Ok((id, answer)) = receiver.next().await else { return };
            let Answer::Outcomes(outcomes) = answer else { panic!("not outcomes: {answer:?}") };
            log.hear(&waiting.remove(&id).expect("asked"), &outcomes);
        }
    }
}

async fn connect(process: &Process) -> Client {
    Client::connect(process.listen, &Credentials::development()).await.expect("a restarted server is there")
}

/// Every transfer acknowledged since the last look, and a sample of older ones, is as it was told; every other one is there wholly
/// or not at all.
async fn check_transfers(client: &mut Client, log: &mut Log, rng: &mut StdRng) {
    let older = log.told.range(rng.random::<u128>()..).take(OLDER).map(|(id, _)| *id);
    let looked_up: BTreeSet<u128> = older.chain(std::mem::take(&mut log.fresh)).collect();
    let told: Vec<u128> = looked_up.into_iter().filter(|id| log.told[id].sequence > 0).collect();
    for ids in told.chunks(1_000) {
        let found = client.transfers(ids).await.unwrap();
        assert_eq!(found.len(), ids.len(), "an acknowledged transfer is missing");
        for stored in found {
            check_record(&stored, log);
        }
    }
    let unknown: Vec<u128> = log.unknown.keys().copied().collect();
    for ids in unknown.chunks(1_000) {
        for stored in client.transfers(ids).await.unwrap() {
            check_record(&stored, log);
        }
    }
}

fn check_record(stored: &StoredRecord, log: &Log) {
    let Record::Transfer { transfer, outcome, .. } = stored.record else { panic!("not a transfer: {stored:?}") };
    let id = transfer.id.raw();
    assert_eq!(log.sent.get(&id), Some(&transfer), "a record differs from what was sent");
    if let Some(told) = log.told.get(&id) {
        assert_eq!(
            (told.code, told.sequence, told.time_ns),
            (outcome, stored.sequence, stored.time_ns),
            "transfer {id}"
        );
    }
}

/// At the end everything is sent again, so that every outcome is known; then every balance must be the sum of what was accepted.
async fn check_balances(client: &mut Client, log: &mut Log) {
    let all: Vec<Transfer> = log.sent.values().copied().collect();
    for transfers in all.chunks(1_000) {
        let outcomes = client.submit(transfers).await.unwrap();
        log.hear(transfers, &outcomes);
    }
    let mut totals: BTreeMap<u128, (u128, u128)> = BTreeMap::new();
    let mut sequences = BTreeSet::new();
    for (id, outcome) in &log.told {
        assert!(sequences.insert(outcome.sequence), "two transfers at sequence {}", outcome.sequence);
        if outcome.code == Code::Accepted {
            let transfer = &log.sent[id];
            totals.entry(transfer.debit.raw()).or_default().0 += transfer.amount;
            totals.entry(transfer.credit.raw()).or_default().1 += transfer.amount;
        }
    }
    let accounts = client.all_accounts().await.unwrap();
    assert_eq!(accounts.len(), ACCOUNTS as usize);
    for account in accounts {
        let expected = totals.get(&account.properties.id.raw()).copied().unwrap_or_default();
        assert_eq!((account.debits_posted, account.credits_posted), expected, "account {}", account.properties.id);
    }
}

fn verify(directory: &Path) -> serde_json::Value {
    let output = run(&["verify", "--json", "--data-dir", directory.to_str().unwrap()]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_done_twice_by_killing() {
    let seed =
        std::env::var("HENG_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("seed {seed}; repeat with HENG_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let mut log = Log::default();
    for cycle in 0..CYCLES {
        let shards = ["1", "2", "3", "8"][rng.random_range(0..4)];
        let process = Process::start(directory.path(), &["--shards", shards, "--checkpoint-transfers", "3000"]);
        runtime.block_on(async {
            let mut client = connect(&process).await;
            if cycle == 0 {
                let flags =
                    |id| if id == 1 { AccountFlags::default() } else { AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS };
                let accounts: Vec<_> = (1..=ACCOUNTS).map(|id| account(id, flags(id))).collect();
                client.open_accounts(&accounts).await.unwrap();
            }
            check_transfers(&mut client, &mut log, &mut rng).await;
            // The moment of the kill is what is random here, not something to wait for.
            let moment = Duration::from_millis(rng.random_range(5..400));
            let _killed = tokio::time::timeout(moment, drive(&process, &mut rng, &mut log)).await;
        });
        process.kill();
        let report = verify(directory.path());
        let last = log.told.values().map(|outcome| outcome.sequence).max().unwrap_or(0);
        assert!(report["sequence"].as_u64().unwrap() >= last, "cycle {cycle}: {report}");
    }
    let process = Process::start(directory.path(), &[]);
    runtime.block_on(async {
        let mut client = connect(&process).await;
        check_transfers(&mut client, &mut log, &mut rng).await;
        check_balances(&mut client, &mut log).await;
    });
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
    let report = verify(directory.path());
    assert_eq!(report["transfers"].as_u64().unwrap() as usize, log.told.len(), "every id is recorded once");
    eprintln!("{} transfers over {CYCLES} kills", log.told.len());
    assert!(log.told.len() > 5_000, "the load was real");
}
