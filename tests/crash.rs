//! `kill -9` and power cuts under a load of every operation, again and again: what was acknowledged is there, what was not is there wholly or not at all, and nothing is
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
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Process, account, run, runtime, text, transfer};
use heng::client::{Answer, Client, Connection, Credentials};
use heng::ledger::{AccountFlags, BALANCING, Code, LINKED, Operation, Outcome, Record, StoredRecord, Totals, Transfer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const KILLS: u64 = 24;
const POWER_CUTS: u64 = 4;
const ACCOUNTS: u128 = 40;
const BATCH: usize = 60;
/// Ids sent before and not answered, which are sent again among new ones.
const REPEATS: usize = 10;
/// Transfers answered in earlier cycles that are looked up again in each.
const OLDER: usize = 2_000;

/// Limits that are met now and then, and a fee.
const POLICY: &str = r#"
[[limit]]
name = "sliding"
counted_per = "account"
currency = "EUR"
window = "6s"
sum_max = "2000.00"
count_max = 2000
[[fee]]
name = "fee"
codes = [1]
currency = "EUR"
paid_by = "payee"
fee_code = 9
percent = "2"
to = [{ account = 1 }]
"#;

/// What clients sent and were told, independent of anything the server keeps.
#[derive(Default)]
struct Log {
    sent: BTreeMap<u128, Transfer>,
    told: BTreeMap<u128, Outcome>,
    /// Sent and not answered.
    unknown: BTreeMap<u128, Transfer>,
    /// Answered since all answers were last looked up.
    fresh: BTreeSet<u128>,
    /// Accepted lately: what may be captured or voided, and what may be refunded.
    holds: Vec<Transfer>,
    moved: Vec<Transfer>,
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
                if outcome.code.is_accepted() {
                    match transfer.operation() {
                        Operation::Hold | Operation::Delayed => self.holds.push(*transfer),
                        Operation::Transfer | Operation::Capture => self.moved.push(*transfer),
                        _ => {}
                    }
                }
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
        let transfer = make_one(rng, log);
        log.sent.insert(transfer.id.raw(), transfer);
        log.unknown.insert(transfer.id.raw(), transfer);
        transfers.push(transfer);
    }
    close_transaction(&mut transfers, rng, log);
    transfers
}

/// What comes last in a request must not be linked to a next one.
fn close_transaction(transfers: &mut Vec<Transfer>, rng: &mut StdRng, log: &mut Log) {
    if transfers.last().is_some_and(Transfer::is_linked) {
        let last = transfer(rng.random_range(1..u128::MAX), 1, 2, 1);
        log.sent.insert(last.id.raw(), last);
        log.unknown.insert(last.id.raw(), last);
        transfers.push(last);
    }
}

/// Any operation; what is about an earlier one is about one that was accepted lately.
fn make_one(rng: &mut StdRng, log: &mut Log) -> Transfer {
    let id = rng.random_range(1..u128::MAX);
    // Account 1 pays for all; some accounts do not exist; amounts are often more than there is.
    let debit = if rng.random_bool(0.3) { 1 } else { rng.random_range(1..=ACCOUNTS + 1) };
    let plain = transfer(id, debit, rng.random_range(1..=ACCOUNTS), rng.random_range(1..500));
    let linked = if rng.random_bool(0.15) { LINKED } else { 0 };
    let soon = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
        + rng.random_range(1_000_000..2_000_000_000);
    let with = |operation: Operation, transfer: Transfer| Transfer { flags: operation as u16 | linked, ..transfer };
    let about = |first: &Transfer, amount: u128| Transfer {
        debit: first.debit,
        credit: first.credit,
        amount,
        code: first.code,
        related: first.id.raw(),
        ..plain
    };
    let back = |first: &Transfer, amount: u128| {
        let about = about(first, amount);
        Transfer { debit: about.credit, credit: about.debit, ..about }
    };
    let choice = rng.random_range(0..20);
    let hold =
        if log.holds.is_empty() { None } else { Some(log.holds.swap_remove(rng.random_range(0..log.holds.len()))) };
    let moved =
        if log.moved.is_empty() { None } else { Some(log.moved.swap_remove(rng.random_range(0..log.moved.len()))) };
    match (choice, hold, moved) {
        (0..=2, ..) => Transfer { time_ns: if choice == 0 { 0 } else { soon }, ..with(Operation::Hold, plain) },
        (3, ..) => Transfer { time_ns: soon, ..with(Operation::Delayed, plain) },
        (4 | 5, Some(hold), _) => with(Operation::Capture, about(&hold, rng.random_range(1..=hold.amount))),
        (6, Some(hold), _) => with(Operation::Void, about(&hold, 0)),
        (7, Some(hold), _) => with(Operation::Raise, about(&hold, 5)),
        (8 | 9, _, Some(moved)) => with(Operation::Refund, back(&moved, rng.random_range(1..=moved.amount))),
        (10, _, Some(moved)) => with(Operation::Reversal, back(&moved, moved.amount)),
        (11, ..) => Transfer { flags: BALANCING | linked, ..plain },
        _ => Transfer { flags: linked, ..plain },
    }
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
    let asked = transfer.as_requested(outcome.is_accepted());
    assert_eq!(log.sent.get(&id), Some(&asked), "a record differs from what was sent");
    if let Some(told) = log.told.get(&id) {
        assert_eq!(
            (told.code, told.sequence, told.time_ns),
            (outcome, stored.sequence, stored.time_ns),
            "transfer {id}"
        );
    }
}

/// At the end everything is sent again, so that every outcome is known; then every account's totals must be the sums of its entries, and
/// every accepted transfer must be among them, once.
async fn check_balances(client: &mut Client, log: &mut Log, rng: &mut StdRng) {
    let all: Vec<Transfer> = log.sent.values().copied().collect();
    for transfers in all.chunks(1_000) {
        let mut transfers = transfers.to_vec();
        close_transaction(&mut transfers, rng, log);
        let outcomes = client.submit(&transfers).await.unwrap();
        log.hear(&transfers, &outcomes);
    }
    let mut sequences = BTreeSet::new();
    for outcome in log.told.values() {
        assert!(sequences.insert(outcome.sequence), "two transfers at sequence {}", outcome.sequence);
    }
    let mut accepted: BTreeSet<u128> = BTreeSet::new();
    let accounts = client.all_accounts().await.unwrap();
    assert_eq!(accounts.len(), ACCOUNTS as usize);
    for account in accounts {
        let id = account.properties.id;
        let mut totals = Totals::default();
        let mut next = account.head;
        while next != 0 {
            let (after, page) = client.history(id, next, 8_190).await.unwrap();
            next = after;
            for stored in page {
                let Some(done) = stored.record.done() else { continue };
                add(&mut totals, done, done.debit == id);
                if matches!(stored.record, Record::Transfer { .. }) && done.debit == id {
                    assert!(accepted.insert(done.id.raw()), "{} twice in a history", done.id);
                }
            }
        }
        let now = client.accounts(&[id.raw()]).await.unwrap().1[0];
        if now.head == account.head {
            assert_eq!(account.totals, totals, "account {id}");
        }
    }
    let told = log.told.iter().filter(|(_, outcome)| outcome.code.is_accepted());
    let told: BTreeSet<u128> = told.map(|(id, _)| *id).collect();
    assert_eq!(accepted, told);
}

/// What an entry adds to an account's totals.
fn add(totals: &mut Totals, done: &Transfer, pays: bool) {
    let Totals { debits_posted, credits_posted, debits_pending, credits_pending } = totals;
    let (posted, pending) = if pays { (debits_posted, debits_pending) } else { (credits_posted, credits_pending) };
    match done.operation() {
        Operation::Hold | Operation::Raise | Operation::Delayed => *pending = pending.wrapping_add(done.amount),
        Operation::Void | Operation::Release | Operation::Expire => *pending = pending.wrapping_sub(done.amount),
        Operation::Capture | Operation::Arrive => {
            *pending = pending.wrapping_sub(done.amount);
            *posted += done.amount;
        }
        _ => *posted += done.amount,
    }
}

fn verify(directory: &Path) -> serde_json::Value {
    let output = run(&["verify", "--json", "--data-dir", directory.to_str().unwrap()]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Crashes again and again in the way of `crash`, which gets the running server, and checks everything each time.
fn crash_cycles(cycles: u64, directory: &Path, mut crash: impl FnMut(Process)) {
    let seed =
        std::env::var("HENG_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("seed {seed}; repeat with HENG_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let policy = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(policy.path(), POLICY).unwrap();
    let runtime = runtime();
    let mut log = Log::default();
    for cycle in 0..cycles {
        let shards = ["1", "2", "3", "8"][rng.random_range(0..4)];
        let policy = policy.path().to_str().unwrap();
        let ids = ["--ids-in-memory", "1000"];
        let arguments =
            [&["--shards", shards, "--checkpoint-transfers", "3000", "--policy-file", policy][..], &ids].concat();
        let process = Process::start(directory, &arguments);
        runtime.block_on(async {
            let mut client = connect(&process).await;
            if cycle == 0 {
                let flags =
                    |id| if id == 1 { AccountFlags::default() } else { AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS };
                let accounts: Vec<_> = (1..=ACCOUNTS).map(|id| account(id, flags(id))).collect();
                client.open_accounts(&accounts).await.unwrap();
            }
            check_transfers(&mut client, &mut log, &mut rng).await;
            // The moment of the crash is what is random here, not something to wait for.
            let moment = Duration::from_millis(rng.random_range(5..400));
            let _crashed = tokio::time::timeout(moment, drive(&process, &mut rng, &mut log)).await;
        });
        crash(process);
        let report = verify(directory);
        let last = log.told.values().map(|outcome| outcome.sequence).max().unwrap_or(0);
        assert!(report["sequence"].as_u64().unwrap() >= last, "cycle {cycle}: {report}");
    }
    let process = Process::start(directory, &[]);
    runtime.block_on(async {
        let mut client = connect(&process).await;
        check_transfers(&mut client, &mut log, &mut rng).await;
        check_balances(&mut client, &mut log, &mut rng).await;
    });
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
    let report = verify(directory);
    assert_eq!(report["transfers"].as_u64().unwrap() as usize, log.told.len(), "every id is recorded once");
    eprintln!("{} transfers over {cycles} crashes", log.told.len());
    assert!(log.told.len() as u64 > cycles * 200, "the load was real: {}", log.told.len());
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_done_twice_by_killing() {
    let directory = tempfile::tempdir().unwrap();
    crash_cycles(KILLS, directory.path(), Process::kill);
}

/// A file system on a loop device that can lose its power. Unmounted when dropped.
struct Mount {
    image: PathBuf,
    path: PathBuf,
}

fn command(name: &str, arguments: &[&dyn AsRef<OsStr>]) -> bool {
    let mut command = Command::new(name);
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

impl Mount {
    /// None where this machine does not let us mount, or lacks the tools.
    fn new(directory: &Path) -> Option<Self> {
        let mount = Self { image: directory.join("image"), path: directory.join("mounted") };
        std::fs::create_dir(&mount.path).unwrap();
        std::fs::File::create(&mount.image).unwrap().set_len(600 << 20).unwrap();
        let made = command("mkfs.xfs", &[&"-q", &"-f", &mount.image]) && command("xfs_io", &[&"-V"]);
        (made && mount.mount()).then_some(mount)
    }

    fn mount(&self) -> bool {
        command("mount", &[&"-o", &"loop", &self.image, &self.path])
    }

    /// Stops the server so that no sync is under way, drops all that is not on the disk, and comes back as after a power cut.
    fn cut_power(&self, process: Process) {
        process.stop_running();
        assert!(command("xfs_io", &[&"-x", &"-c", &"shutdown", &self.path]), "the file system can be shut down");
        process.kill();
        common::wait_until("the dead file system to be unmounted", || command("umount", &[&self.path]));
        assert!(self.mount(), "the file system recovers");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        command("umount", &[&self.path]);
    }
}

/// `HENG_TEST_POWER_CUTS` says how many; the suite does a few.
#[test]
fn nothing_acknowledged_is_lost_by_power_cuts() {
    let cuts = std::env::var("HENG_TEST_POWER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(POWER_CUTS);
    let directory = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(directory.path()) else {
        common::skip("an xfs file system cannot be made and mounted here");
        return;
    };
    // Now and then the process is killed and the power cut only after the next start: what that start read from the page cache, and
    // answered from, must be on the disk.
    let mut crashes = 0_u64;
    crash_cycles(cuts, &mount.path.join("data"), |process| {
        crashes += 1;
        if crashes.is_multiple_of(3) { process.kill() } else { mount.cut_power(process) }
    });
}

/// A server that is told in which boot of the machine it runs.
fn start_in_boot(data: &Path, boot: &str) -> Process {
    let arguments = common::serve_arguments(data);
    let mut command = common::heng(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    Process::spawn(command.env("HENG_BOOT_ID", boot).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// Two accounts and a transfer of 30 between them.
fn pay_once(process: &Process) {
    runtime().block_on(async {
        let mut client = connect(process).await;
        client.open_accounts(&[1, 2].map(|id| account(id, AccountFlags::default()))).await.unwrap();
        assert_eq!(client.submit(&[transfer(7, 1, 2, 30)]).await.unwrap()[0].code, Code::Accepted);
    });
}

/// After a power cut the store is made again from the journal; not after a kill, nor where it was closed before.
#[test]
fn a_store_that_was_used_when_the_machine_went_down_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let start = |boot: &str| {
        let process = start_in_boot(&data, boot);
        let names = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name());
        (process, names.filter(|name| text(name.as_encoded_bytes()).starts_with("store.damaged")).count())
    };
    let balance = |process: &Process| {
        runtime().block_on(async {
            let (_, accounts) = connect(process).await.accounts(&[2]).await.unwrap();
            accounts[0].totals.credits_posted
        })
    };
    let (process, _) = start("one");
    pay_once(&process);
    process.kill();
    let (process, aside) = start("one");
    assert_eq!((aside, balance(&process)), (0, 30), "killed");
    process.kill();
    let (process, aside) = start("two");
    assert_eq!((aside, balance(&process)), (1, 30), "the machine went down");
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
    let (process, aside) = start("three");
    assert_eq!((aside, balance(&process)), (1, 30), "closed before");
    process.kill();
    let verify = |boot: &str| {
        let mut command = common::heng(&["verify", "--json", "--data-dir", data.to_str().unwrap()]);
        let output = command.env("HENG_BOOT_ID", boot).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["store"].as_str().unwrap().to_owned()
    };
    assert!(verify("four").starts_with("not compared: the machine went down"), "{}", verify("four"));
    assert!(verify("three").starts_with("checkpoint at"), "{}", verify("three"));
}

/// Where the store is made again, it cannot tell that the journal lost its end; the note beside it does.
#[test]
fn a_journal_that_lost_its_end_is_refused_also_when_the_machine_went_down() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start_in_boot(&data, "one");
    pay_once(&process);
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
    start_in_boot(&data, "one").kill();

    let segments = std::fs::read_dir(data.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let journal = segments.filter(|path| path.extension().is_some_and(|what| what == "journal")).min().unwrap();
    let whole = std::fs::read(&journal).unwrap();
    let used = whole.iter().rposition(|&byte| byte != 0).unwrap();
    let mut lost = whole.clone();
    lost[used / 2..].fill(0);
    std::fs::write(&journal, &lost).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = common::heng(&[arguments, &["--data-dir", data.to_str().unwrap()]].concat());
        let output = command.env("HENG_BOOT_ID", "two").output().unwrap();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (is_whole, said) = run(&["verify"]);
    assert!(!is_whole && said.contains("its end is lost"), "{said}");
    let (is_added, said) = run(&["gateway", "add", "late"]);
    assert!(!is_added && said.contains("was durable before"), "{said}");
    // Nothing was cut meanwhile.
    std::fs::write(&journal, whole).unwrap();
    let (is_added, said) = run(&["gateway", "add", "late"]);
    assert!(is_added, "{said}");
}
