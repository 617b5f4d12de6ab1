//! The program as an operator uses it: configuration, commands, damaged and foreign directories.

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
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Process, account, heng, http_get, run, runtime, serve_arguments, text, transfer};
use heng::client::{Client, Credentials};
use heng::ledger::{AccountFlags, Code};
use rustix::process::Signal;

/// `heng` must end with this code and say all of this.
fn expect(arguments: &[&str], code: i32, says: &[&str]) {
    let output = run(arguments);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?} said {said}");
    for part in says {
        assert!(said.contains(part), "{arguments:?} does not say `{part}` but: {said}");
    }
}

fn serve_with(data_dir: &Path, more: &[&str], code: i32, says: &[&str]) {
    let mut arguments = serve_arguments(data_dir);
    arguments.extend(more.iter().map(ToString::to_string));
    expect(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, says);
}

/// Makes a ledger with some thousand transfers; a small checkpoint interval, so that the store has something too.
fn fill(directory: &Path, transfers: u128) {
    let process = Process::start(directory, &["--checkpoint-transfers", "500"]);
    runtime().block_on(async {
        let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
        client
            .open_accounts(&(1..=9).map(|id| account(id, AccountFlags::default())).collect::<Vec<_>>())
            .await
            .unwrap();
        let all: Vec<_> = (0..transfers).map(|n| transfer(n + 1, n % 9 + 1, (n + 1) % 9 + 1, n % 100 + 1)).collect();
        for batch in all.chunks(100) {
            let outcomes = client.submit(batch).await.unwrap();
            assert!(outcomes.iter().all(|outcome| outcome.code == Code::Accepted));
        }
    });
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
}

#[test]
fn bad_configuration_stops_with_one_clear_message() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let file = path.join("bad.toml");
    for (content, says) in [
        ("shrads = 3\n", &["bad.toml", "unknown field `shrads`"][..]),
        ("shards = \"many\"\n", &["bad.toml", "invalid type"]),
        ("shards = 1000\n", &["shards = 1000", "at most 256"]),
        ("listen = \"nowhere\"\n", &["bad.toml", "listen"]),
    ] {
        fs::write(&file, content).unwrap();
        expect(&["serve", "--config", file.to_str().unwrap(), "--data-dir", path.to_str().unwrap()], 2, says);
    }
    expect(&["serve", "--config", "/no/such/file.toml"], 2, &["/no/such/file.toml", "cannot read"]);
    serve_with(path, &["--shards", "x"], 2, &["invalid value 'x'"]);
    serve_with(path, &["--log-filter", "heng=loud"], 2, &["log_filter"]);
    serve_with(path, &["--listen", "0.0.0.0:0"], 2, &["development_key", "loopback"]);
    serve_with(path, &["--operations-listen", "0.0.0.0:0"], 2, &["development_key", "loopback"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    serve_with(path, &["--listen", &address], 2, &[&address, "--listen"]);
    serve_with(path, &["--operations-listen", &address], 2, &[&address, "--operations-listen"]);
    let not_a_directory = path.join("file");
    fs::write(&not_a_directory, "").unwrap();
    serve_with(&not_a_directory.join("data"), &[], 2, &["data directory", "may write"]);
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("heng.toml");
    fs::write(&file, "shards = 3\nconnections_max = 7\nlog_format = \"json\"\n").unwrap();
    let shown = |more: &[&str]| {
        let mut arguments = vec!["serve", "--check-config", "--config", file.to_str().unwrap()];
        arguments.extend(more);
        let output = heng(&arguments).env("HENG_SHARDS", "4").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(shown(&[]).contains("shards: 4"));
    assert!(shown(&["--shards", "5"]).contains("shards: 5"));
    assert!(shown(&[]).contains("connections_max: 7"));
}

#[test]
fn a_directory_is_used_by_one_process_and_a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    expect(&["verify", "--data-dir", data], 2, &["there is no data directory"]);
    expect(&["rebuild", "--data-dir", data], 2, &["there is no data directory"]);
    let process = Process::start(directory.path(), &[]);
    serve_with(directory.path(), &[], 2, &[data, "in use by another process"]);
    expect(&["verify", "--data-dir", data], 2, &["in use by another process"]);
    runtime().block_on(async {
        let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
        client.open_accounts(&[account(1, AccountFlags::default())]).await.unwrap();
    });
    process.kill();
    // The version of a segment header, with its checksum made good again.
    let segment = directory.path().join("journal/000000000001.journal");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..124]).to_le_bytes();
    bytes[124..128].copy_from_slice(&crc);
    fs::write(&segment, bytes).unwrap();
    serve_with(directory.path(), &[], 2, &["journal format 2", "newer version"]);
    expect(&["verify", "--data-dir", data], 1, &["journal format 2"]);
}

#[test]
fn commands_speak_to_a_server_in_decimals_and_json() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path(), &[]);
    let server = process.listen.to_string();
    let ask = |arguments: &[&str], code: i32| {
        let output = heng(arguments).env("HENG_SERVER", &server).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout) + &text(&output.stderr)
    };
    assert!(ask(&["account", "open", "--currency", "eur", "--id", "1"], 0).contains("Account 1 (EUR) is open."));
    ask(&["account", "open", "--currency", "EUR", "--id", "2", "--never-negative"], 0);
    ask(&["account", "open", "--currency", "JPY", "--id", "3"], 0);
    assert!(ask(&["account", "open", "--currency", "USD", "--id", "2"], 1).contains("account_id_reused"));
    assert!(ask(&["account", "open", "--currency", "EURO"], 2).contains("not an ISO 4217"));

    let moved = ask(&["transfer", "--from", "1", "--to", "2", "--amount", "12.34 EUR", "--id", "7"], 0);
    assert!(moved.contains("12.34 EUR from 1 to 2, durable at sequence 4"), "{moved}");
    let again = ask(&["transfer", "--from", "1", "--to", "2", "--amount", "12.34 EUR", "--id", "7", "--json"], 0);
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((again["repeated"].as_bool(), again["sequence"].as_u64()), (Some(true), Some(4)));
    assert!(ask(&["transfer", "--from", "2", "--to", "1", "--amount", "12.35 EUR"], 1).contains("insufficient_funds"));
    assert!(ask(&["transfer", "--from", "1", "--to", "2", "--amount", "1.234 EUR"], 2).contains("2 decimal places"));
    assert!(ask(&["transfer", "--from", "1", "--to", "2", "--amount", "5 JPY"], 1).contains("not in JPY"));
    assert!(ask(&["transfer", "--from", "1"], 2).contains("--to"));

    assert!(ask(&["transfer", "show", "7"], 0).contains("12.34 EUR"));
    assert!(ask(&["transfer", "show", "8"], 1).contains("no transfer 8"));
    assert!(ask(&["account", "show", "2"], 0).contains("never negative"));
    let shown: serde_json::Value = serde_json::from_str(&ask(&["account", "show", "1", "--json"], 0)).unwrap();
    assert_eq!((shown["balance"].as_str(), shown["balance_minor_units"].as_str()), (Some("-12.34 EUR"), Some("-1234")));
    assert_eq!(ask(&["account", "list"], 0).lines().count(), 4);
    let history: serde_json::Value = serde_json::from_str(&ask(&["account", "history", "2", "--json"], 0)).unwrap();
    assert_eq!(history["entries"][0]["amount"].as_str(), Some("12.34 EUR"));
    assert!(ask(&["account", "history", "2"], 0).contains("opened"));

    let data = directory.path().to_str().unwrap();
    let added: serde_json::Value =
        serde_json::from_str(&ask(&["gateway", "add", "shop", "--json", "--data-dir", data], 0)).unwrap();
    let key = added["key"].as_str().unwrap();
    ask(&["account", "list", "--gateway", "shop", "--key", key], 0);
    let wrong = "11".repeat(32);
    assert!(ask(&["account", "list", "--gateway", "shop", "--key", &wrong], 1).contains("authentication_failed"));
    assert!(ask(&["gateway", "add", "two words", "--data-dir", data], 1).contains("not a gateway name"));
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
    assert!(!said.contains(key), "a key is never logged");
    assert!(ask(&["account", "list"], 1).contains("is the server running there?"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one line per command")]
fn every_operation_has_a_command() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    fs::write(&policy, "[[limit]]\nname = \"a day\"\ncounted_per = \"account\"\ncurrency = \"EUR\"\nwindow = \"day\"\nsum_max = \"100.00\"\n").unwrap();
    let data = directory.path().join("data");
    let process = Process::start(&data, &["--policy-file", policy.to_str().unwrap()]);
    let server = process.listen.to_string();
    let ask = |arguments: &[&str], code: i32| {
        let output = heng(arguments).env("HENG_SERVER", &server).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout) + &text(&output.stderr)
    };
    ask(&["account", "open", "--currency", "EUR", "--id", "1", "--class", "external"], 0);
    ask(
        &[
            "account",
            "open",
            "--currency",
            "EUR",
            "--id",
            "2",
            "--never-negative",
            "--overdraft",
            "500",
            "--level",
            "3",
        ],
        0,
    );
    ask(&["account", "open", "--currency", "EUR", "--id", "3", "--never-negative"], 0);
    ask(&["transfer", "--from", "1", "--to", "2", "--amount", "50.00 EUR"], 0);
    ask(&["hold", "--from", "2", "--to", "3", "--amount", "20.00 EUR", "--in", "3600", "--id", "20"], 0);
    ask(&["raise", "20", "--amount", "5.00 EUR"], 0);
    assert!(ask(&["account", "show", "2"], 0).contains("2500 of 10000"));
    ask(&["capture", "20", "--amount", "10.00 EUR", "--more", "--id", "21"], 0);
    ask(&["void", "20"], 0);
    assert!(ask(&["void", "20"], 1).contains("hold_not_open"));
    ask(&["refund", "21", "--amount", "4.00 EUR"], 0);
    ask(&["delay", "--from", "2", "--to", "3", "--amount", "1.00 EUR", "--in", "3600", "--id", "25"], 0);
    ask(&["void", "25"], 0);
    ask(&["transfer", "--from", "2", "--to", "3", "--amount", "2.00 EUR", "--id", "26", "--user-data", "77"], 0);
    ask(&["reverse", "26"], 0);
    assert!(ask(&["transfer", "life", "20"], 0).lines().count() >= 5);
    assert!(ask(&["transfer", "find", "77"], 0).contains(" 26"));
    let shown: serde_json::Value = serde_json::from_str(&ask(&["account", "show", "2", "--json"], 0)).unwrap();
    assert_eq!((shown["balance"].as_str(), shown["available"].as_str()), (Some("44.00 EUR"), Some("49.00 EUR")));
    assert_eq!(
        shown["limits"][0]["sum_used"].as_str(),
        Some("1200"),
        "10.00 captured and 2.00; a reversal gives nothing back"
    );
    let past: serde_json::Value =
        serde_json::from_str(&ask(&["account", "show", "2", "--json", "--sequence", "10"], 0)).unwrap();
    assert!(past["as_of_sequence"].as_u64().is_some_and(|sequence| (1..=10).contains(&sequence)), "{past}");
    let file = directory.path().join("transaction.toml");
    let leg = |operation: &str, amount: &str| {
        format!(
            "[[transfer]]\noperation = \"{operation}\"\nfrom = \"2\"\n{}amount = \"{amount} EUR\"\n",
            if operation == "require" { "" } else { "to = \"3\"\n" }
        )
    };
    fs::write(&file, leg("require", "40.00") + &leg("transfer", "30.00")).unwrap();
    let file = file.to_str().unwrap();
    assert!(ask(&["explain", file], 0).contains("accepted"));
    ask(&["transaction", file], 0);
    assert!(ask(&["explain", file], 1).contains("requirement_not_met"));
    assert!(ask(&["transaction", file], 1).contains("transaction_failed"));
    ask(&["account", "change", "2", "--state", "debits-frozen", "--level", "4"], 0);
    assert!(ask(&["transfer", "--from", "2", "--to", "3", "--amount", "1.00 EUR"], 1).contains("debit_account_frozen"));
    assert!(ask(&["account", "change", "2", "--state", "melted"], 2).contains("debits-frozen"));
    let entries = ask(&["account", "history", "3", "--oldest-first", "--with", "2", "--limit", "2"], 0);
    assert!(entries.contains("hold") && entries.contains("--cursor"), "{entries}");
    let events = ask(&["transfer", "watch", "--idle-ms", "50"], 0);
    assert!(events.lines().count() > 15 && events.contains("requirement_not_met"), "{events}");
    let data = data.to_str().unwrap();
    let added =
        ask(&["gateway", "add", "shop", "--allow", "transfer", "--amount-max", "100", "--json", "--data-dir", data], 0);
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    let shop = ["--gateway", "shop", "--key", added["key"].as_str().unwrap()];
    let hold = [&["hold", "--from", "1", "--to", "3", "--amount", "1.00 EUR"][..], &shop[..]].concat();
    assert!(ask(&hold, 1).contains("operation_not_permitted"));
    assert!(ask(&["gateway", "add", "other", "--allow", "fly", "--data-dir", data], 2).contains("`fly`"));
    assert!(process.terminate().0.success());
    expect(&["verify", "--data-dir", data], 0, &["All invariants hold"]);
    fs::write(&policy, "[[limit]]\nname = \"x\"\n").unwrap();
    serve_with(Path::new(data), &["--policy-file", policy.to_str().unwrap()], 2, &["policy.toml", "counted_per"]);
}

#[test]
fn verify_holds_on_a_sound_directory_and_names_the_place_of_any_damage() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 30_000);
    let data = directory.path().to_str().unwrap().to_owned();
    let report: serde_json::Value =
        serde_json::from_slice(&run(&["verify", "--json", "--data-dir", &data]).stdout).unwrap();
    assert_eq!((report["ok"].as_bool(), report["sequence"].as_u64()), (Some(true), Some(30_009)));
    assert_eq!(report["currencies"]["EUR"]["balance_sum"].as_i64(), Some(0));
    expect(&["verify", "--data-dir", &data], 0, &["All invariants hold"]);
    // A head that was noted and kept elsewhere.
    let hash = report["head_hash"].as_str().unwrap();
    let other = "5f".repeat(32);
    expect(&["verify", "--data-dir", &data, "--head", &format!("30009:{hash}")], 0, &["All invariants hold"]);
    expect(&["verify", "--data-dir", &data, "--head", &format!("30009:{other}")], 1, &["VIOLATION", "30009", &other]);
    expect(&["verify", "--data-dir", &data, "--head", &format!("30008:{hash}")], 1, &["VIOLATION", "30008"]);
    expect(&["verify", "--data-dir", &data, "--head", "30009"], 2, &["SEQUENCE:HASH"]);
    let segment = directory.path().join("journal/000000000001.journal");
    let sound = fs::read(&segment).unwrap();
    for place in [9, 300, 100_000, 1_000_000] {
        let mut damaged = sound.clone();
        damaged[place] ^= 0x10;
        fs::write(&segment, &damaged).unwrap();
        expect(&["verify", "--data-dir", &data], 1, &["VIOLATION", "000000000001.journal", "Do not serve"]);
        assert_eq!(fs::read(&segment).unwrap(), damaged, "verify changes nothing");
    }
    // The last segment is read at every start; damage in it stops the server with the place.
    fs::write(&segment, &sound).unwrap();
    let segment = directory.path().join("journal/000000000002.journal");
    let sound = fs::read(&segment).unwrap();
    let mut damaged = sound.clone();
    damaged[5_000] ^= 0x10;
    fs::write(&segment, &damaged).unwrap();
    expect(&["verify", "--data-dir", &data], 1, &["000000000002.journal"]);
    // Without its store the server reads everything.
    fs::rename(directory.path().join("store"), directory.path().join("kept")).unwrap();
    serve_with(directory.path(), &[], 1, &["journal is damaged", "000000000002.journal", "backup"]);
    assert_eq!(fs::read(&segment).unwrap(), damaged, "nothing is repaired");
    fs::remove_dir_all(directory.path().join("store")).unwrap();
    fs::rename(directory.path().join("kept"), directory.path().join("store")).unwrap();
    fs::write(&segment, &sound).unwrap();
    expect(&["verify", "--data-dir", &data], 0, &["All invariants hold"]);
}

#[test]
fn a_journal_that_lost_its_end_is_refused_because_the_store_knows_better() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 3_000);
    let segment = directory.path().join("journal/000000000001.journal");
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[end - 2_000..=end].fill(0);
    fs::write(&segment, &bytes).unwrap();
    serve_with(directory.path(), &[], 1, &["but 3009 was durable before"]);
    let data = directory.path().to_str().unwrap();
    expect(&["verify", "--data-dir", data], 1, &["the journal ends at"]);
}

#[test]
fn a_missing_or_damaged_store_is_made_again_from_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 3_000);
    let data = directory.path().to_str().unwrap().to_owned();
    let store = directory.path().join("store");
    let check = |rebuilt: bool| {
        let process = Process::start(directory.path(), &[]);
        runtime().block_on(async {
            let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
            let accounts = client.all_accounts().await.unwrap();
            assert_eq!(accounts.len(), 9);
            let again = client.submit(&[transfer(3, 3, 4, 3), transfer(3, 3, 4, 4)]).await.unwrap();
            assert_eq!((again[0].code, again[0].repeated, again[1].code), (Code::Accepted, true, Code::IdReused));
            let (_, history) = client.history(heng::ledger::AccountId::from_raw(1), 0, 8_000).await.unwrap();
            assert_eq!(history.len(), 668);
        });
        assert!(http_get(process.operations, "/metrics").1.contains("heng_invariant_violations_total 0"));
        let (status, said) = process.terminate();
        assert!(status.success(), "{said}");
        assert_eq!(said.contains("made again"), rebuilt, "{said}");
    };
    check(false);
    fs::remove_dir_all(&store).unwrap();
    check(false);
    // Damage that sled notices when it opens or reads, by an error or by a panic.
    for place in [0_usize, 100, 40_000] {
        let file = store.join("db");
        let mut bytes = fs::read(&file).unwrap();
        let end = bytes.len().min(place + 30_000);
        bytes[place..end].fill(0xA5);
        fs::write(&file, bytes).unwrap();
        let process = Process::start(directory.path(), &[]);
        let (status, said) = process.terminate();
        assert!(status.success(), "{said}");
        check(false);
    }
    expect(&["rebuild", "--data-dir", &data], 0, &["The store is made again: 9 accounts as of sequence 3009"]);
    expect(&["rebuild", "--data-dir", &data, "--json"], 0, &["\"accounts\": 9", "\"sequence\": 3009"]);
    expect(&["verify", "--data-dir", &data], 0, &["checkpoint at 3009, 9 accounts", "All invariants hold"]);
    check(false);
}

/// The kernel must really be asked: an acknowledgement without `fdatasync` is a lie that no `kill -9` shows.
#[test]
fn journal_and_store_are_synced_with_fdatasync() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        common::skip("strace is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let data = directory.path().join("data");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", "trace=fdatasync,fsync", "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_heng"));
    command
        .args(serve_arguments(&data))
        .current_dir(std::env::temp_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let process = Process::spawn(&mut command);
    let synced = || {
        fs::read_to_string(&trace)
            .unwrap()
            .lines()
            .filter(|line| line.contains("fdatasync(") && line.contains(".journal"))
            .count()
    };
    runtime().block_on(async {
        let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
        client
            .open_accounts(&[account(1, AccountFlags::default()), account(2, AccountFlags::default())])
            .await
            .unwrap();
        let before = synced();
        for id in 1..=20 {
            client.submit(&[transfer(id, 1, 2, 1)]).await.unwrap();
            assert!(synced() >= before + id as usize, "answer {id} came without a sync of the journal");
        }
    });
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
    let trace = fs::read_to_string(&trace).unwrap();
    for (call, path) in [("fdatasync(", "store/db>"), ("fsync(", "/journal>"), ("fsync(", "/store>")] {
        assert!(trace.lines().any(|line| line.contains(call) && line.contains(path)), "no {call} of {path}");
    }
}

/// A small file system fills up under load: the server stops by itself, says why, and nothing acknowledged is missing.
#[test]
fn a_full_disk_stops_the_server_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("small");
    fs::create_dir(&mount).unwrap();
    let path = mount.to_str().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "tmpfs", path]).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        common::skip("a small file system cannot be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let data = mount.join("data");
        let mut process = Process::start(&data, &[]);
        let mut acknowledged = Vec::new();
        runtime().block_on(async {
            let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
            client
                .open_accounts(&[account(1, AccountFlags::default()), account(2, AccountFlags::default())])
                .await
                .unwrap();
            for batch in 0..200_u128 {
                let transfers: Vec<_> = (0..1_000).map(|n| transfer(batch * 1_000 + n + 1, 1, 2, 1)).collect();
                match client.submit(&transfers).await {
                    Ok(outcomes) => acknowledged.extend(outcomes),
                    Err(_) => return,
                }
            }
            panic!("the disk did not fill up");
        });
        let status = process.child.wait().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut process.child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(
            said.contains("heng: stopped: the ") && said.contains("cannot be written") && said.contains("space"),
            "{said}"
        );
        assert!(acknowledged.len() > 10_000, "{}", acknowledged.len());
        let grown = Command::new("mount").args(["-o", "remount,size=64m", path]).status().unwrap();
        assert!(grown.success());
        let process = Process::start(&data, &[]);
        runtime().block_on(async {
            let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
            let balance = client.accounts(&[2]).await.unwrap().1[0].balance();
            assert!(balance >= acknowledged.len() as i128, "{balance} of {}", acknowledged.len());
            assert_eq!(balance % 1_000, 0, "a request of one shard is there wholly or not at all");
        });
        let (status, said) = process.terminate();
        assert!(status.success(), "{said}");
        expect(&["verify", "--data-dir", data.to_str().unwrap()], 0, &["All invariants hold"]);
    });
    let unmounted = Command::new("umount").arg(path).status().unwrap();
    assert!(unmounted.success());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// The log is a file on a full disk, or a pipe that nobody reads any more, as that of a terminal that was closed.
#[test]
fn a_server_whose_log_cannot_be_written_serves_on_and_drains() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, pipe) = std::io::pipe().unwrap();
    drop(reader);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    // Under nohup, which servers inherit, there is no hangup.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let hears = u64::from_str_radix(ignored, 16).unwrap() & 1 == 0;
    let logs = [(Stdio::from(full), Signal::TERM), (Stdio::from(pipe), if hears { Signal::HUP } else { Signal::INT })];
    for (number, (log, signal)) in (1..).zip(logs) {
        let arguments = serve_arguments(directory.path());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--log-filter", "debug"]).collect();
        let process = Process::spawn(heng(&arguments).stdout(Stdio::piped()).stderr(log));
        runtime().block_on(async {
            let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
            let opened = client.open_accounts(&[account(number, AccountFlags::default())]).await.unwrap();
            assert_eq!(opened[0].code, Code::Accepted);
        });
        let (status, _) = process.end_by(signal);
        assert!(status.success(), "{status}");
    }
    // A checkpoint was written in the end.
    expect(&["verify", "--data-dir", directory.path().to_str().unwrap()], 0, &["checkpoint at 2, 2 accounts"]);
}

#[test]
fn where_few_files_may_be_open_fewer_connections_are_taken_and_the_ledger_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut arguments = serve_arguments(directory.path()).join(" ");
    arguments.push_str(" --stay-awake-us 0");
    let line = format!("ulimit -n 600; exec {} {arguments}", env!("CARGO_BIN_EXE_heng"));
    let mut shell = Command::new("sh");
    let process = Process::spawn(shell.args(["-c", &line]).stdout(Stdio::piped()).stderr(Stdio::piped()));
    runtime().block_on(async {
        let mut client = Client::connect(process.listen, &Credentials::development()).await.unwrap();
        let accounts = [1, 2].map(|id| account(id, AccountFlags::default()));
        client.open_accounts(&accounts).await.unwrap();
        let _crowd: Vec<_> = (0..700).map(|_| std::net::TcpStream::connect(process.listen)).collect();
        // More than two segments.
        for batch in 0..8_u128 {
            let transfers: Vec<_> = (1..=5_000).map(|n| transfer(batch * 5_000 + n, 1, 2, 1)).collect();
            client.submit(&transfers).await.unwrap();
        }
    });
    let (status, said) = process.terminate();
    assert!(status.success() && said.contains("fewer connections are taken"), "{said}");
}

#[test]
fn under_nohup_a_server_goes_on_ignoring_its_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = serve_arguments(directory.path()).join(" ");
    let line = format!("trap '' HUP; exec {} {arguments}", env!("CARGO_BIN_EXE_heng"));
    let mut shell = Command::new("sh");
    let process = Process::spawn(shell.args(["-c", &line]).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 1, "SIGHUP is the first: {status}");
    let (status, said) = process.terminate();
    assert!(status.success(), "{said}");
}
