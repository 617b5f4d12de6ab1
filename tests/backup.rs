//! Backups of a server that serves, and what is restored from them, whole or as of a point.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::arithmetic_side_effects,
    reason = "a failed expectation is a failed test"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{TestServer, account, run, runtime, settings, text, transfer};
use heng::backup::{BackupError, Until, backup, check, restore, take_over};
use heng::config::Settings;
use heng::ledger::{AccountFlags, Code, LINKED, Outcome, Record, Transfer};
use heng::verify::{Report, verify};

const ACCOUNTS: u128 = 20;
const BATCH: u128 = 400;

/// A ledger of some thousand transfers has several segments.
fn small_segments(data: &Path) -> Settings {
    Settings { segment_bytes: Some(1 << 20), group_transfers_max: Some(1_024), ..settings(data) }
}

/// Transfers of a batch: every other pair is one transaction.
fn batch(first: u128) -> Vec<Transfer> {
    let make = |id: u128| {
        let linked = id % 4 == 1;
        let flags = if linked { LINKED } else { 0 };
        Transfer { flags, ..transfer(id, 1 + id % ACCOUNTS, 1 + (id + 7) % ACCOUNTS, 1 + id % 50) }
    };
    (first..first + BATCH).map(make).collect()
}

fn sound(directory: &Path) -> Report {
    let report = verify(directory).unwrap();
    assert!(report.ok, "{:?}", report.violations);
    report
}

/// What every acknowledged transfer was told, by its id minus one.
fn load(server: &TestServer, batches: u128, first: u128) -> Vec<Outcome> {
    runtime().block_on(async {
        let mut client = server.client().await;
        let accounts: Vec<_> = (1..=ACCOUNTS).map(|id| account(id, AccountFlags::default())).collect();
        client.open_accounts(&accounts).await.unwrap();
        let mut told = Vec::new();
        for number in 0..batches {
            let outcomes = client.submit(&batch(first + number * BATCH)).await.unwrap();
            assert!(outcomes.iter().all(|outcome| outcome.code == Code::Accepted));
            told.extend(outcomes);
        }
        told
    })
}

/// Every transfer up to the sequence is in a server started there, as it was told, and none after it.
fn compare(data: &Path, told: &[Outcome], sequence: u64) {
    let server = TestServer::start(settings(data));
    assert!(server.ready.store_rebuilt || server.ready.sequence >= sequence);
    runtime().block_on(async {
        let mut client = server.client().await;
        for (from, outcomes) in (1_u128..).step_by(500).zip(told.chunks(500)) {
            let ids: Vec<_> = (from..from + outcomes.len() as u128).collect();
            let found = client.transfers(&ids).await.unwrap();
            let expected: Vec<_> = outcomes.iter().filter(|outcome| outcome.sequence <= sequence).collect();
            assert_eq!(found.len(), expected.len());
            for (stored, outcome) in found.iter().zip(expected) {
                assert_eq!((stored.sequence, stored.time_ns), (outcome.sequence, outcome.time_ns));
                assert!(matches!(stored.record, Record::Transfer { outcome: Code::Accepted, .. }));
            }
        }
    });
    server.stop().unwrap();
}

#[test]
fn backups_beside_a_load_are_whole_and_grow() {
    let directory = tempfile::tempdir().unwrap();
    let (data, to) = (directory.path().join("data"), directory.path().join("backup"));
    let server = TestServer::start(small_segments(&data));
    let done = AtomicBool::new(false);
    let (told, made) = std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let told = load(&server, 120, 1);
            done.store(true, Ordering::Release);
            told
        });
        let mut made = Vec::new();
        while !done.load(Ordering::Acquire) && !loading.is_finished() {
            let one = match backup(&data, &to) {
                Ok(one) => one,
                Err(err) => panic!("{err}"),
            };
            check(&to).unwrap();
            made.push(one);
        }
        (loading.join().unwrap(), made)
    });
    let last = backup(&data, &to).unwrap();
    assert!(made.windows(2).all(|pair| pair[0].sequence <= pair[1].sequence));
    assert!(last.segments_kept > 2 && last.sequence >= told.last().unwrap().sequence, "{last:?} after {}", made.len());
    assert_eq!(sound(&to).sequence, last.sequence);
    // The disk is lost.
    drop(server);
    let restored = directory.path().join("restored");
    assert_eq!(restore(&to, &restored, Until::End).unwrap().sequence, last.sequence);
    sound(&restored);
    compare(&restored, &told, last.sequence);
}

#[test]
fn a_restore_to_a_point_has_what_was_there_then() {
    let directory = tempfile::tempdir().unwrap();
    let (data, to) = (directory.path().join("data"), directory.path().join("backup"));
    let server = TestServer::start(settings(&data));
    let told = load(&server, 6, 1);
    server.stop().unwrap();
    let last = backup(&data, &to).unwrap().sequence;
    for (number, asked) in [1, 20, 21, 200, 419, 423, 424, 1_500, last - 1, last].into_iter().enumerate() {
        let point = directory.path().join(format!("point-{number}"));
        let restored = restore(&to, &point, Until::Sequence(asked)).unwrap();
        assert!(restored.sequence <= asked && asked - restored.sequence <= 1, "{restored:?} for {asked}");
        assert_eq!(sound(&point).sequence, restored.sequence);
        if number % 3 == 0 {
            compare(&point, &told, restored.sequence);
        }
        // By time it is the same point.
        let Some(then) = told.iter().find(|outcome| outcome.sequence == restored.sequence) else { continue };
        let by_time = directory.path().join(format!("time-{number}"));
        assert_eq!(restore(&to, &by_time, Until::Time(then.time_ns)).unwrap().sequence, restored.sequence);
    }
    let beyond = restore(&to, &directory.path().join("beyond"), Until::Sequence(last + 1));
    assert!(matches!(beyond, Err(BackupError::Beyond { last: end }) if end == last), "{beyond:?}");
}

#[test]
fn what_was_changed_or_belongs_elsewhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["one", "two"] {
        let server = TestServer::start(settings(&path(name)));
        load(&server, 2, 1);
        server.stop().unwrap();
    }
    backup(&path("one"), &path("backup")).unwrap();
    let again = backup(&path("one"), &path("backup")).unwrap();
    assert_eq!(again.segments_copied, 1, "the last segment may have grown");
    // The other ledger has the same length, and is another one.
    let server = TestServer::start(settings(&path("two")));
    load(&server, 30, 10_000);
    server.stop().unwrap();
    let mixed = backup(&path("two"), &path("backup"));
    assert!(matches!(mixed, Err(BackupError::AnotherLedger(_))), "{mixed:?}");
    check(&path("backup")).unwrap();
    backup(&path("one"), &path("clean")).unwrap();
    assert!(matches!(restore(&path("clean"), &path("one"), Until::End), Err(BackupError::NotEmpty(_))));
    assert!(matches!(backup(&path("nowhere"), &path("x")), Err(BackupError::DataDir(_))));
    let segment = path("clean").join("journal/000000000001.journal");
    let sound_bytes = fs::read(&segment).unwrap();
    for at in [5, 300, 20_000, sound_bytes.len() - 1] {
        let mut bytes = sound_bytes.clone();
        bytes[at] ^= 4;
        fs::write(&segment, bytes).unwrap();
        let refused = restore(&path("clean"), &path("never"), Until::End);
        assert!(matches!(refused, Err(BackupError::Changed { .. })), "byte {at}: {refused:?}");
        assert!(!path("never").exists());
    }
}

#[test]
fn the_commands_say_what_they_did() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let server = TestServer::start(settings(directory.path().join("data").as_path()));
    load(&server, 2, 1);
    let made = run(&["backup", "--data-dir", &path("data"), "--to", &path("backup"), "--check"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    for part in ["All invariants hold", "none here; the first start makes them"] {
        assert!(text(&made.stdout).contains(part), "{part}: {}", text(&made.stdout));
    }
    let again = run(&["backup", "--data-dir", &path("data"), "--to", &path("backup"), "--check", "--json"]);
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(again["backup"]["segments_kept"].is_u64() && again["verified"]["ok"] == true, "{again}");
    server.stop().unwrap();
    let restored = run(&["restore", "--from", &path("backup"), "--data-dir", &path("new"), "--sequence", "100"]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    assert!(text(&restored.stdout).contains("Records 1 to"), "{}", text(&restored.stdout));
    for name in ["data", "backup", "new"] {
        let open_to = fs::metadata(path(name)).unwrap().permissions().mode();
        assert_eq!(open_to & 0o777, 0o700, "{name}: what is in it is nobody else's business");
    }
    let occupied = run(&["restore", "--from", &path("backup"), "--data-dir", &path("new")]);
    assert_eq!(occupied.status.code(), Some(2), "{}", text(&occupied.stderr));
    let missing = run(&["restore", "--from", &path("nothing"), "--data-dir", &path("other")]);
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing.stderr));
}

#[test]
fn a_ledger_that_is_gone_or_went_back_does_not_take_the_place_of_its_backup() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let small = small_segments(&path("data"));
    let server = TestServer::start(small.clone());
    load(&server, 50, 1);
    server.stop().unwrap();
    let made = backup(&path("data"), &path("backup")).unwrap();
    assert!(made.segments_copied >= 3, "{made:?}");
    // Nothing is there any more.
    fs::create_dir_all(path("empty").join("journal")).unwrap();
    let gone = backup(&path("empty"), &path("backup"));
    assert!(matches!(gone, Err(BackupError::Shorter { ledger: 0, .. })), "{gone:?}");
    // It was restored to a point in a segment that was full, or to its end, and went on from there, for long or with what still found room in it.
    let segment_ends = check(&path("backup")).unwrap().segments[1].last;
    for (name, point, batches) in [
        ("amid", segment_ends - 500, 3),
        ("amid-small", segment_ends - 500, 0),
        ("end", segment_ends, 0),
        ("end-longer", segment_ends, 25),
    ] {
        restore(&path("backup"), &path(name), Until::Sequence(point)).unwrap();
        let server = TestServer::start(Settings { data_dir: Some(path(name)), ..small.clone() });
        runtime().block_on(async {
            let mut client = server.client().await;
            client.submit(&[transfer(200_001, 1, 2, 1)]).await.unwrap();
        });
        load(&server, batches, 100_001);
        server.stop().unwrap();
        let back = backup(&path(name), &path("backup"));
        let refused = matches!(back, Err(BackupError::Shorter { .. } | BackupError::AnotherLedger(_)));
        assert!(refused, "{name}: {back:?}");
        assert_eq!(check(&path("backup")).unwrap().sequence, made.sequence, "{name}");
    }
}

#[test]
fn a_statement_that_its_ledger_has_lost_stays_in_the_backup() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(settings(&path("data")));
    load(&server, 1, 1);
    server.stop().unwrap();
    let put = |bytes: &[u8], content: &[u8]| {
        let name = blake3::hash(bytes).to_hex().to_string();
        fs::create_dir_all(path("data").join("statements")).unwrap();
        fs::write(path("data").join("statements").join(&name), content).unwrap();
        name
    };
    let [lost, kept] = [b"one", b"two"].map(|bytes| put(bytes, bytes));
    let counted = |made: heng::backup::Made| (made.statements_copied, made.statements_missing, made.statements_damaged);
    assert_eq!(counted(backup(&path("data"), &path("backup")).unwrap()), (2, 0, 0));
    fs::remove_file(path("data").join("statements").join(&lost)).unwrap();
    put(b"three", b"tree");
    assert_eq!(counted(backup(&path("data"), &path("backup")).unwrap()), (0, 1, 1));
    fs::remove_dir_all(path("data").join("statements")).unwrap();
    assert_eq!(counted(backup(&path("data"), &path("backup")).unwrap()), (0, 2, 0));
    restore(&path("backup"), &path("new"), Until::End).unwrap();
    for (name, content) in [(lost, "one"), (kept, "two")] {
        assert_eq!(fs::read_to_string(path("new").join("statements").join(name)).unwrap(), content);
    }
}

#[test]
fn a_backup_is_no_data_directory_nor_a_data_directory_a_backup() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(settings(&path("data")));
    load(&server, 1, 1);
    server.stop().unwrap();
    let before = backup(&path("data"), &path("backup")).unwrap();
    let arguments = ["--data-dir", path("backup").to_str().unwrap()].map(str::to_owned);
    for command in [&["serve"][..], &["rebuild"], &["gateway", "add", "shop"]] {
        let arguments = command.iter().copied().chain(arguments.iter().map(String::as_str)).collect::<Vec<_>>();
        let refused = run(&arguments);
        assert_eq!(refused.status.code(), Some(2), "{command:?}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("heng restore"), "{}", text(&refused.stderr));
    }
    assert!(matches!(backup(&path("data"), &path("data")), Err(BackupError::Served(_))));
    assert_eq!(backup(&path("data"), &path("backup")).unwrap().sequence, before.sequence);
    // Somebody served from a copy of it all the same, as older programs let him.
    fs::create_dir(path("backup").join("store")).unwrap();
    assert!(matches!(backup(&path("data"), &path("backup")), Err(BackupError::Served(_))));
    assert!(matches!(restore(&path("backup"), &path("new"), Until::End), Err(BackupError::Served(_))));
    let refused = run(&["serve", "--data-dir", path("backup").to_str().unwrap()]);
    assert!(text(&refused.stderr).contains("move its manifest.json away"), "{}", text(&refused.stderr));
    fs::remove_file(path("backup").join("manifest.json")).unwrap();
    assert_eq!(sound(&path("backup")).sequence, before.sequence);
}

#[test]
fn a_segment_with_nothing_but_its_header_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(small_segments(&path("data")));
    load(&server, 25, 1);
    server.stop().unwrap();
    backup(&path("data"), &path("whole")).unwrap();
    let first = check(&path("whole")).unwrap().segments[0].last;
    // The power went while the first group of the second segment was written.
    let segment = |number: u32| path("data").join(format!("journal/{number:012}.journal"));
    let mut number = 3;
    while segment(number).exists() {
        fs::remove_file(segment(number)).unwrap();
        number += 1;
    }
    let mut bytes = fs::read(segment(2)).unwrap();
    bytes[128..].fill(0);
    bytes[5_000..6_000].fill(7);
    fs::write(segment(2), bytes).unwrap();
    // There was no checkpoint since.
    fs::remove_file(path("data").join("store.reached")).unwrap();
    assert_eq!(backup(&path("data"), &path("backup")).unwrap().sequence, first);
    assert_eq!(restore(&path("backup"), &path("new"), Until::End).unwrap().sequence, first);
    // But what followed in the backup is not there any more.
    assert!(backup(&path("data"), &path("whole")).is_err());
    check(&path("whole")).unwrap();
}

/// A backup that has lost its last segment is sound by itself.
fn its_manifest_tells(backup: &Path, segments: usize) {
    assert!(verify(backup).unwrap().ok);
    fs::remove_file(backup.join(format!("journal/{segments:012}.journal"))).unwrap();
    let report = verify(backup).unwrap();
    assert!(!report.ok && report.violations[0].contains("the backup's manifest says"), "{:?}", report.violations);
}

/// Where a header is damaged, groups may follow: a copy that ended before it would be sound, and without what was acknowledged.
#[test]
fn damage_is_not_taken_for_the_end_of_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(small_segments(&path("data")));
    load(&server, 12, 1);
    backup(&path("data"), &path("older")).unwrap();
    load(&server, 60, 10_000);
    server.stop().unwrap();
    let older = fs::read(path("older").join("manifest.json")).unwrap();
    let segment = |number: usize| path("data").join(format!("journal/{number:012}.journal"));
    let made = backup(&path("data"), &path("whole")).unwrap();
    let used = check(&path("whole")).unwrap().segments.len();
    assert!(used >= 4 && segment(used + 1).exists(), "{used}");
    let reached = path("data").join("store.reached");
    let reached_bytes = fs::read(&reached).unwrap();
    let refused = |what: &str, also: bool| {
        let new = backup(&path("data"), &path("new"));
        assert!(
            matches!(new, Err(BackupError::Damaged { .. } | BackupError::Lost { .. } | BackupError::Missing(_))),
            "{what}: {new:?}"
        );
        assert!(!path("new").join("manifest.json").exists(), "{what}");
        fs::remove_dir_all(path("new")).unwrap();
        assert!(backup(&path("data"), &path("older")).is_err(), "{what}");
        assert!(fs::read(path("older").join("manifest.json")).unwrap() == older, "{what}");
        let taken = take_over(&path("data"), &path("new"));
        assert!(taken.is_err() && !path("data").join("FENCED").exists(), "{what}: {taken:?}");
        fs::remove_dir_all(path("new")).unwrap();
        // A start refuses the same.
        if also {
            assert!(!verify(&path("data")).unwrap().ok, "{what}");
        }
    };
    for number in 1..=used {
        let sound = fs::read(segment(number)).unwrap();
        for (what, range, flip) in [
            ("flipped", 0..1, 1_u8),
            ("first sector", 0..512, 0),
            ("first pages", 0..9_000, 0),
            ("all", 0..sound.len(), 0),
        ] {
            let mut bytes = sound.clone();
            bytes[range].iter_mut().for_each(|byte| *byte = if flip > 0 { *byte ^ flip } else { 0 });
            fs::write(segment(number), bytes).unwrap();
            refused(&format!("segment {number}, {what}"), true);
        }
        for length in [50, 300_000] {
            fs::write(segment(number), &sound[..length]).unwrap();
            fs::remove_file(&reached).unwrap();
            refused(&format!("segment {number}, cut off at {length}"), true);
            fs::write(&reached, &reached_bytes).unwrap();
        }
        fs::remove_file(segment(number)).unwrap();
        refused(&format!("segment {number}, removed"), true);
        fs::write(segment(number), &sound).unwrap();
        // Without what the last checkpoint tells, all but the end of the journal is missed all the same.
        if number < used {
            fs::remove_file(&reached).unwrap();
            fs::write(segment(number), vec![0; sound.len()]).unwrap();
            refused(&format!("segment {number}, all, and nothing tells how far it reached"), false);
            fs::write(segment(number), &sound).unwrap();
            fs::write(&reached, &reached_bytes).unwrap();
        }
    }
    assert_eq!(backup(&path("data"), &path("older")).unwrap().sequence, made.sequence);
    check(&path("older")).unwrap();
    its_manifest_tells(&path("whole"), used);
}

#[test]
fn a_restore_says_where_it_ends_and_takes_its_place_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(settings(&path("data")));
    let told = load(&server, 2, 1);
    server.stop().unwrap();
    let made = backup(&path("data"), &path("backup")).unwrap();
    for nothing in [Until::Time(1), Until::Sequence(0)] {
        let refused = restore(&path("backup"), &path("never"), nothing);
        assert!(matches!(refused, Err(BackupError::Before)), "{refused:?}");
        assert!(!path("never").exists() && !path("never.restoring").exists());
    }
    // Through a link, and over what an earlier restore left when it was broken off.
    fs::create_dir_all(path("real.restoring").join("journal")).unwrap();
    fs::write(path("real.restoring").join("journal/000000000009.journal"), "left").unwrap();
    fs::create_dir(path("real")).unwrap();
    std::os::unix::fs::symlink(path("real"), path("link")).unwrap();
    let restored = restore(&path("backup"), &path("link"), Until::Time(u64::MAX)).unwrap();
    assert_eq!((restored.sequence, restored.backup_sequence), (made.sequence, made.sequence));
    assert!(restored.last_time_ns >= told.last().unwrap().time_ns);
    assert_eq!(sound(&path("real")).sequence, made.sequence);
    let [from, to] = ["backup", "late"].map(|name| path(name).to_str().unwrap().to_owned());
    let late = run(&["restore", "--from", &from, "--data-dir", &to, "--time", "2100-01-01T00:00:00Z"]);
    let said = text(&late.stdout);
    assert!(
        late.status.success() && said.contains("That is all that is in the backup"),
        "{said} {}",
        text(&late.stderr)
    );
}

#[test]
fn an_interrupted_backup_is_the_one_before_and_damage_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(settings(&path("data")));
    let told = load(&server, 2, 1);
    let first = backup(&path("data"), &path("backup")).unwrap();
    let manifest = fs::read(path("backup").join("manifest.json")).unwrap();
    load(&server, 4, 801);
    server.stop().unwrap();
    backup(&path("data"), &path("backup")).unwrap();
    // The power went before the manifest was written.
    fs::write(path("backup").join("manifest.json"), manifest).unwrap();
    assert_eq!(check(&path("backup")).unwrap().sequence, first.sequence);
    assert_eq!(restore(&path("backup"), &path("new"), Until::End).unwrap().sequence, first.sequence);
    compare(&path("new"), &told, first.sequence);
    // A bit of the source flips, with sound groups behind it.
    let segment = path("data").join("journal/000000000001.journal");
    let mut bytes = fs::read(&segment).unwrap();
    let at = 128 * usize::try_from(first.sequence + 100).unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let damaged = backup(&path("data"), &path("backup"));
    assert!(matches!(damaged, Err(BackupError::Damaged { .. })), "{damaged:?}");
    assert!(matches!(backup(&path("data"), &path("another")), Err(BackupError::Damaged { .. })));
}
