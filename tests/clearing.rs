//! A server that closes, settles and pays out windows under load and is killed while it does so.

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

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Process, account, run, runtime, text, transfer};
use heng::client::{Client, Credentials};
use heng::ledger::{AccountFlags, Code, Operation, Record, Transfer};
use serde_json::Value;

const PARTICIPANTS: u128 = 30;
const CUSTOMERS: u128 = 800;
const BANK: u128 = 900;
const KILLS: u64 = 12;

const POLICY: &str = r#"
[[scheme]]
name = "cards"
number = 1
currency = "EUR"
settlement_account = 900
weekend = []
payer = { name = "Platform", iban = "DE89370400440532013000" }
[[bank_account]]
name = "bank"
account = 900
currency = "EUR"
[[statement_csv]]
name = "csv"
date = "day"
amount = "amount"
reference = "reference"
"#;

/// Runs a command on the back office; its JSON.
fn office(process: &Process, arguments: &[&str]) -> Result<Value, String> {
    let operations = process.operations.to_string();
    let all = [&["clearing"], arguments, &["--operations", &operations, "--json"]].concat();
    let output = run(&all);
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(text(&output.stderr))
    }
}

/// The whole of the journal is replayed beside the load, and what the server has is compared.
fn full_check(process: &Process) {
    let operations = process.operations.to_string();
    let checked = |more: &[&str]| {
        let output = run(&[&["check", "--operations", &operations, "--json"], more].concat());
        (output.status.success(), serde_json::from_slice::<Value>(&output.stdout), text(&output.stderr))
    };
    let (ok, report, said) = checked(&[]);
    let report = report.unwrap_or_default();
    assert!(ok && report["ok"] == true, "{report} {said}");
    let sequence = report["sequence"].as_u64().unwrap();
    assert!(sequence > 40 && report["store"].as_str().unwrap().contains(&format!("compared, at {sequence}")));
    let (ok, report, _) = checked(&["--at", "40"]);
    assert!(ok && report.unwrap()["sequence"] == 40);
    let (ok, _, said) = checked(&["--at", "99999999"]);
    assert!(!ok && said.contains("the ledger is at sequence"), "{said}");
}

fn start(directory: &Path) -> Process {
    let policy = directory.join("policy.toml");
    fs::write(&policy, POLICY).unwrap();
    Process::start(
        &directory.join("data"),
        &["--policy-file", policy.to_str().unwrap(), "--checkpoint-transfers", "3000"],
    )
}

/// Payments from customers to participants, until told to stop or the server is gone; how many were accepted.
fn pay(process: &Process, stop: Arc<AtomicBool>, seed: u128) -> thread::JoinHandle<usize> {
    let listen = process.listen;
    thread::spawn(move || {
        runtime().block_on(async {
            let Ok(mut client) = Client::connect(listen, &Credentials::development()).await else { return 0 };
            let mut done = 0;
            for batch in 0.. {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                let ids = (0..50_u128).map(|number| (seed << 64) + batch * 50 + number + 1);
                let payments = ids.map(|id| transfer(id, CUSTOMERS, id % PARTICIPANTS + 1, id % 97 + 1));
                let Ok(outcomes) = client.submit(&payments.collect::<Vec<_>>()).await else { break };
                assert!(outcomes.iter().all(|outcome| outcome.code.is_accepted()));
                done += outcomes.len();
            }
            done
        })
    })
}

/// Waits until something is so.
fn until<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = is() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} did not come");
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn states(process: &Process) -> Vec<String> {
    let windows = office(process, &["windows", "--limit", "1000"]).unwrap();
    windows.as_array().unwrap().iter().map(|window| window["state"].as_str().unwrap().to_owned()).collect()
}

/// What payout files pay by their manifests, minor units.
fn written(payouts: &Path) -> u128 {
    fs::read_dir(payouts)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with("manifest.json"))
        .map(|path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap())
        .map(|manifest| manifest["sum_minor_units"].as_str().unwrap().parse::<u128>().unwrap())
        .sum()
}

/// What the ledger paid out by itself is nothing that a gateway gives back: the bank may refuse it, and then it would be given back twice.
async fn not_given_back(client: &mut Client, payout: &Value) {
    let amount = payout["amount"].as_str().unwrap().parse().unwrap();
    let related = u128::from_str_radix(payout["payout"].as_str().unwrap(), 16).unwrap();
    let made = client.transfers(&[related]).await.unwrap();
    let Some(Record::Transfer { transfer: made, gateway, .. }) = made.first().map(|stored| stored.record) else {
        panic!("{made:?}")
    };
    assert!(gateway.is_ledger() && made.credit.raw() == BANK && made.amount == amount);
    for (id, operation) in [(1 << 100, Operation::Refund), ((1 << 100) + 1, Operation::Reversal)] {
        let back = Transfer { related, flags: operation as u16, ..transfer(id, BANK, made.debit.raw(), amount) };
        let explained = client.explain(&[back]).await.unwrap();
        assert!(format!("{explained:?}").contains("OriginalNotPosted"), "{explained:?}");
        assert_eq!(client.submit(&[back]).await.unwrap()[0].code, Code::OriginalNotPosted);
    }
}

/// The bank's statement, through the command line: all payouts are there, and one line too many.
fn reconcile(process: &Process, directory: &Path, payouts: &[Value]) {
    let mut lines: Vec<_> = payouts
        .iter()
        .map(|payout| {
            let amount = payout["amount"].as_str().unwrap().parse::<u128>().unwrap();
            format!(
                "{},-{}.{:02},{}",
                payout["day"].as_str().unwrap(),
                amount / 100,
                amount % 100,
                payout["payout"].as_str().unwrap()
            )
        })
        .collect();
    lines.insert(0, "day,amount,reference".to_owned());
    lines.push("2026-01-01,1.00,who knows".to_owned());
    let file = directory.join("statement.csv");
    fs::write(&file, lines.join("\n")).unwrap();
    let operations = process.operations.to_string();
    let bank = |arguments: &[&str]| {
        let output = run(&[arguments, &["--account", "bank", "--operations", &operations, "--json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let imported = bank(&["statement", "import", file.to_str().unwrap(), "--mapping", "csv"]);
    assert_eq!(
        (&imported["imported"]["matched"], &imported["imported"]["breaks_open"]),
        (&payouts.len().into(), &1.into())
    );
    let shown = |line: &str| {
        let (_, metrics) = common::http_get(process.operations, "/metrics");
        metrics.contains(line).then_some(())
    };
    until("the metric of a break", || shown("heng_breaks_open 1"));
    until("the metric of payouts", || shown("heng_payouts_unfinished 0"));
    let breaks = bank(&["breaks", "list"]);
    assert_eq!(breaks[0]["kind"], "extra", "{breaks}");
    let key = breaks[0]["break"].as_str().unwrap();
    assert_eq!(bank(&["breaks", "assign", key, "--to", "anna"])[0]["owner"], "anna");
    assert_eq!(bank(&["breaks", "resolve", key, "--how", "accept"])[0]["state"], "resolved");
    let today = payouts[0]["day"].as_str().unwrap();
    let report = run(&["report", "day", today, "--operations", &operations]);
    let report = text(&report.stdout) + &text(&report.stderr);
    assert!(report.contains("window,cards 1,reconciled,") && report.contains("bank,,statements,1,"), "{report}");
    assert_eq!(bank(&["statement", "list"])[0]["lines"], lines.len() - 1);
}

#[test]
fn windows_are_settled_once_however_often_the_server_is_killed_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = start(directory.path());
    runtime().block_on(async {
        let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
        let limited = |id| account(id, AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS);
        let others = [CUSTOMERS, BANK].map(|id| account(id, AccountFlags::default()));
        client.open_accounts(&(1..=PARTICIPANTS).map(limited).chain(others).collect::<Vec<_>>()).await.unwrap();
    });
    for participant in 1..=PARTICIPANTS {
        let number = participant.to_string();
        let name = format!("Merchant {number}");
        let arguments =
            ["add-participant", &number, "--account", &number, "--name", &name, "--iban", "DE89370400440532013000"];
        office(&process, &arguments).unwrap();
    }
    for cycle in 0..KILLS {
        let stop = Arc::new(AtomicBool::new(false));
        let load = pay(&process, Arc::clone(&stop), u128::from(cycle) + 1);
        until("a payment", || (office(&process, &["windows"]).unwrap()[0]["transfers"] != 0).then_some(()));
        if cycle % 4 == 3 {
            full_check(&process);
        }
        office(&process, &["close", "cards"]).unwrap();
        // At once, and a little later each time: closing, closed, settling, settled.
        thread::park_timeout(Duration::from_micros(cycle * cycle * 700));
        process.kill();
        stop.store(true, Ordering::Release);
        load.join().unwrap();
        process = start(directory.path());
    }
    office(&process, &["close", "cards"]).unwrap();
    let settled = |states: &[String]| states[1..].iter().all(|state| state == "settled" || state == "reconciled");
    until("settlement", || settled(&states(&process)).then_some(()));

    let payouts = office(&process, &["payouts"]).unwrap();
    let payouts = payouts.as_array().unwrap();
    let windows = states(&process).len() - 1;
    assert!(windows > usize::try_from(KILLS).unwrap() && payouts.len() > windows, "{windows} windows");
    let mut of: Vec<_> =
        payouts.iter().map(|payout| (payout["window"].to_string(), payout["participant"].to_string())).collect();
    of.sort_unstable();
    of.dedup();
    assert_eq!(of.len(), payouts.len(), "a participant is paid once for a window");
    let ids = payouts.iter().map(|payout| payout["payout"].as_str().unwrap().to_owned() + ",confirmed,");
    let answers = ids.collect::<Vec<_>>().join("\n");
    let file = directory.path().join("answers.csv");
    fs::write(&file, format!("payout_id,status,reason\n{answers}\n")).unwrap();
    let read = office(&process, &["answers", file.to_str().unwrap()]).unwrap();
    assert_eq!(read["answers"]["confirmed"], payouts.len());
    until("reconciliation", || states(&process)[1..].iter().all(|state| state == "reconciled").then_some(()));

    // Every participant has been paid exactly what it received, and the files say the same.
    let paid: u128 = payouts.iter().map(|payout| payout["amount"].as_str().unwrap().parse::<u128>().unwrap()).sum();
    runtime().block_on(async {
        let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
        let ids: Vec<u128> = (1..=PARTICIPANTS).chain([CUSTOMERS, BANK]).collect();
        let (_, accounts) = client.accounts(&ids).await.unwrap();
        assert!(accounts[..30].iter().all(|account| account.balance() == 0), "{accounts:?}");
        assert_eq!(accounts[31].balance(), i128::try_from(paid).unwrap());
        assert_eq!(accounts[30].balance(), -i128::try_from(paid).unwrap());
        not_given_back(&mut client, &payouts[0]).await;
    });
    assert_eq!(written(&directory.path().join("data/payouts")), paid);
    reconcile(&process, directory.path(), payouts);
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
    let verified = run(&["verify", "--data-dir", directory.path().join("data").to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified.stdout));
}

#[test]
fn the_example_of_a_day_ends_reconciled_and_verified() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/a-day.sh");
    let run = || {
        let mut command = std::process::Command::new(&script);
        command.env("HENG", env!("CARGO_BIN_EXE_heng")).env("HENG_SERVER", free()).env("HENG_OPERATIONS", free());
        let output = command.output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        (output, said)
    };
    // What was free a moment ago may be taken by somebody else.
    let taken = |(_, said): &(std::process::Output, String)| said.contains("Address already in use");
    let (output, said) = std::iter::repeat_with(run).take(10).find(|ended| !taken(ended)).unwrap();
    assert!(output.status.success(), "{said}");
    for part in [
        "reconciled",
        "L1.3   extra",
        "write-off",
        "volume,transfer,900,2,155030,EUR",
        "participant-11.json",
        "not the store but the server's state was compared",
        "All invariants hold",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn changing_something_needs_the_permission_and_a_wrong_scheme_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let process = start(directory.path());
    let data = directory.path().join("data");
    let added =
        run(&["gateway", "add", "teller", "--allow", "transfer", "--data-dir", data.to_str().unwrap(), "--json"]);
    let added: Value = serde_json::from_slice(&added.stdout).unwrap();
    let key = added["key"].as_str().unwrap();
    let refused = office(&process, &["close", "cards", "--gateway", "teller", "--key", key]).unwrap_err();
    assert!(refused.contains("lacks the permission `clearing`"), "{refused}");
    let wrong = "0".repeat(64);
    let refused = office(&process, &["close", "cards", "--gateway", "teller", "--key", &wrong]).unwrap_err();
    assert!(refused.contains("no gateway `teller` has this key"), "{refused}");
    let refused = office(&process, &["close", "cash"]).unwrap_err();
    assert!(refused.contains("no scheme `cash`"), "{refused}");
    drop(process);
    let bad = directory.path().join("bad.toml");
    fs::write(&bad, POLICY.replace("payer =", "time_zone = \"Mars/Olympus\"\npayer =")).unwrap();
    let output = run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--operations-listen",
        "127.0.0.1:0",
        "--development-key",
        "true",
        "--data-dir",
        data.to_str().unwrap(),
        "--policy-file",
        bad.to_str().unwrap(),
    ]);
    assert!(text(&output.stderr).contains("no time zone `Mars/Olympus`"), "{}", text(&output.stderr));
}
