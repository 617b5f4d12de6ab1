//! Taking a ledger over from a server that cannot be ended: it stands still, or goes on and does not know.

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
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Process, TestServer, account, run, runtime, settings, text, transfer, wait_until};
use heng::backup::{BackupError, backup, check, take_over};
use heng::client::{Client, Credentials};
use heng::engine::DataDirError;
use heng::ledger::{AccountFlags, Code};
use heng::verify::verify;
use rustix::process::Signal;

/// A program that another test starts has the locks of this process for a moment, so one test runs at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connect(address: SocketAddr) -> Client {
    Client::connect(address, &Credentials::development()).await.unwrap()
}

async fn open_accounts(client: &mut Client) {
    client.open_accounts(&[1, 2].map(|id| account(id, AccountFlags::default()))).await.unwrap();
}

/// Pays 1 with each id from `first` on until the server is gone; counts what was acknowledged.
async fn pay(address: SocketAddr, first: u128, acknowledged: &AtomicUsize) -> u128 {
    let mut client = connect(address).await;
    for id in first.. {
        let Ok(outcomes) = client.submit(&[transfer(id, 1, 2, 1)]).await else { return id - first };
        assert_eq!(outcomes[0].code, Code::Accepted);
        acknowledged.fetch_add(1, SeqCst);
    }
    0
}

/// The segments of a journal and what is in them; not what is made ready.
fn journal(data: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(data.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.retain(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    files.sort();
    files
}

fn heng_takes_over(from: &Path, to: &Path) -> std::process::Output {
    run(&["take-over", "--from", from.to_str().unwrap(), "--data-dir", to.to_str().unwrap()])
}

#[test]
fn what_was_acknowledged_goes_on_elsewhere_and_the_former_server_acknowledges_nothing() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    // One that stands still while it is taken over, as it may in the midst of anything; one that goes on all the time.
    for stands_still in [true, false] {
        let process = Process::start(&old, &[]);
        let acknowledged = AtomicUsize::new(0);
        let (address, runtime) = (process.listen, runtime());
        runtime.block_on(async { open_accounts(&mut connect(address).await).await });
        let paid = std::thread::scope(|scope| {
            let paying = scope.spawn(|| runtime.block_on(pay(address, 1, &acknowledged)));
            wait_until("a load", || acknowledged.load(SeqCst) > 50);
            if stands_still {
                process.stop_running();
            }
            let taken = heng_takes_over(&old, &new);
            assert!(taken.status.success(), "{}", text(&taken.stderr));
            assert!(text(&taken.stdout).contains("goes on in"), "{}", text(&taken.stdout));
            let (status, said) = process.end_by(Signal::CONT);
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("was taken over by another process"), "{said}");
            paying.join().unwrap()
        });
        let acknowledged = acknowledged.into_inner() as u128;
        assert!(paid > 50, "{paid} were paid");

        let server = TestServer::start(settings(&new));
        runtime.block_on(async {
            let mut client = server.client().await;
            let ids: Vec<u128> = (1..=acknowledged + 1).collect();
            // Of what was not answered either all is there or nothing.
            let there = client.transfers(&ids).await.unwrap().len() as u128;
            assert!(there == acknowledged || there == acknowledged + 1, "{there}, {acknowledged} were acknowledged");
            let again = client.submit(&[transfer(acknowledged + 1, 1, 2, 1)]).await.unwrap()[0];
            assert_eq!((again.code, again.repeated), (Code::Accepted, there > acknowledged));
            let (_, accounts) = client.accounts(&[2]).await.unwrap();
            assert_eq!(accounts[0].totals.credits_posted, acknowledged + 1);
        });
        server.stop().unwrap();
        assert!(verify(&new).unwrap().ok && verify(&old).unwrap().ok);
        fs::remove_dir_all(&old).unwrap();
        fs::remove_dir_all(&new).unwrap();
    }
}

#[test]
fn a_server_with_nothing_to_write_finds_out_too_and_writes_nothing() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let process = Process::start(&old, &[]);
    runtime().block_on(async { open_accounts(&mut connect(process.listen).await).await });
    process.stop_running();
    // Another name of its files, as some make copies, changes nothing.
    fs::hard_link(old.join("LOCK"), directory.path().join("kept")).unwrap();
    take_over(&old, &new).unwrap();
    let before = journal(&old);
    let refused = |arguments: &[&str], what: &[&str]| {
        let refused = run(arguments);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(what.iter().all(|what| said.contains(what)), "{said}");
    };
    let (old_name, new_name) = (old.to_str().unwrap(), new.to_str().unwrap());
    // Also if somebody takes that back, as long as that process lives.
    fs::rename(old.join("FENCED"), directory.path().join("FENCED")).unwrap();
    let serve = common::serve_arguments(&old);
    let serve: Vec<&str> = serve.iter().map(String::as_str).collect();
    refused(&serve, &["in use by another process"]);
    fs::rename(directory.path().join("FENCED"), old.join("FENCED")).unwrap();
    let (status, said) = process.end_by(Signal::CONT);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(journal(&old) == before, "the former server wrote");

    refused(&serve, &["was given up", new_name]);
    refused(&["gateway", "add", "late", "--data-dir", old_name], &["was given up"]);
    let backups = directory.path().join("backups");
    refused(&["backup", "--data-dir", old_name, "--to", backups.to_str().unwrap()], &["was given up"]);
    // There is one heir, however it is called.
    let third = directory.path().join("third");
    refused(&["take-over", "--from", old_name, "--data-dir", third.to_str().unwrap()], &["was given up", new_name]);
    let again = format!("{new_name}/../new/");
    refused(&["take-over", "--from", old_name, "--data-dir", &again], &["before: serve that"]);
    // What was there is gone; it may have been served, so nothing takes its place.
    fs::rename(&new, directory.path().join("moved")).unwrap();
    let again = ["take-over", "--from", old_name, "--data-dir", new_name];
    refused(&again, &["there is no ledger there now"]);
    refused(&again, &["there is no ledger there now"]);
    // Whoever takes that back has the ledger as it was.
    fs::remove_file(old.join("FENCED")).unwrap();
    let server = TestServer::start(settings(&old));
    assert_eq!(server.ready.accounts, 2);
    server.stop().unwrap();
}

/// Batches of small transfers, in some segments of 2 MiB.
fn pay_batches(server: &TestServer, first: u128) {
    runtime().block_on(async {
        let mut client = server.client().await;
        open_accounts(&mut client).await;
        for first in (first..first + 40_000).step_by(8_000) {
            let batch: Vec<_> = (first..first + 8_000).map(|id| transfer(id, 1, 2, 1)).collect();
            client.submit(&batch).await.unwrap();
        }
    });
}

fn credits(server: &TestServer) -> u128 {
    runtime().block_on(async { server.client().await.accounts(&[2]).await.unwrap().1[0].totals.credits_posted })
}

#[test]
fn a_backup_gets_what_is_new_and_what_is_no_place_for_it_is_left_alone() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(settings(&path("old")));
    pay_batches(&server, 1);
    let kept = backup(&path("old"), &path("backup")).unwrap();
    assert!(kept.segments_copied >= 2, "{kept:?}");
    let other = TestServer::start(settings(&path("other")));
    pay_batches(&other, 7);
    backup(&path("other"), &path("of another")).unwrap();
    let other_before = check(&path("of another")).unwrap();
    other.stop().unwrap();

    // What cannot be the place is found before anything is given up.
    fs::create_dir(path("full")).unwrap();
    fs::write(path("full").join("a file"), "of somebody").unwrap();
    let wrong = |to: &str| take_over(&path("old"), &path(to)).unwrap_err();
    assert!(matches!(wrong("old"), BackupError::Within { .. }));
    assert!(matches!(wrong("old/journal"), BackupError::Within { .. }));
    assert!(matches!(wrong("full"), BackupError::Occupied(_)));
    assert!(matches!(wrong("of another"), BackupError::AnotherLedger(_)));
    assert!(matches!(wrong("other"), BackupError::Served(_)));
    assert_eq!(check(&path("of another")).unwrap(), other_before, "it is the backup that it was");
    // A segment of the backup that is not what it was.
    let segment = path("backup").join("journal").join("000000000001.journal");
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[100_000] ^= 1;
    fs::write(&segment, &damaged).unwrap();
    assert!(matches!(wrong("backup"), BackupError::Changed { .. }));
    fs::write(&segment, &whole).unwrap();
    let missing = take_over(&path("nothing"), &path("new")).unwrap_err();
    assert!(matches!(missing, BackupError::DataDir(DataDirError::Missing(_))), "{missing:?}");
    let of_backup = take_over(&path("backup"), &path("new")).unwrap_err();
    assert!(matches!(of_backup, BackupError::DataDir(DataDirError::Backup(_))), "{of_backup:?}");
    assert!(!path("old").join("FENCED").exists() && !path("new").exists());

    runtime().block_on(async {
        let mut client = server.client().await;
        assert_eq!(client.submit(&[transfer(40_001, 1, 2, 1)]).await.unwrap()[0].code, Code::Accepted);
    });
    // Killed before it gave anything up: the next backup is one.
    let mark = path("backup").join("TAKING_OVER");
    fs::write(&mark, path("old").canonicalize().unwrap().to_str().unwrap()).unwrap();
    backup(&path("old"), &path("backup")).unwrap();
    assert!(!mark.exists());
    // What a backup that was interrupted left behind its last segment.
    fs::write(path("backup").join("journal").join("000000000099.journal"), "half of it").unwrap();
    let taken = take_over(&path("old"), &path("backup")).unwrap();
    assert!(taken.segments_kept >= 1 && taken.sequence > kept.sequence, "{taken:?}");
    assert!(server.end().is_err(), "it was taken over while it served");
    let server = TestServer::start(settings(&path("backup")));
    assert_eq!(credits(&server), 40_001);
    server.stop().unwrap();
}

#[test]
fn what_was_broken_off_is_not_served_and_goes_on() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(settings(&path("old")));
    pay_batches(&server, 1);
    server.stop().unwrap();
    let segment = journal(&path("old")).remove(0);
    let mut damaged = segment.1.clone();
    damaged[0] ^= 1;
    let names = [path("new"), path("restored"), path("elsewhere")].map(|path| path.to_str().unwrap().to_owned());
    let refused = || {
        let [new, restored, elsewhere] = names.each_ref().map(String::as_str);
        let add = ["gateway", "add", "shop", "--data-dir", new];
        let restore = ["restore", "--from", new, "--data-dir", restored];
        let again = ["backup", "--data-dir", elsewhere, "--to", new];
        for arguments in [add.as_slice(), &restore, &again] {
            let refused = run(arguments);
            let said = text(&refused.stderr);
            assert!(refused.status.code() == Some(2) && said.contains("give the same command again"), "{said}");
        }
    };
    let third = TestServer::start(settings(&path("elsewhere")));

    // Before anything is given up: the journal cannot be read.
    fs::write(&segment.0, &damaged).unwrap();
    let failed = heng_takes_over(&path("old"), &path("new"));
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("damaged at byte"), "{}", text(&failed.stderr));
    assert!(!path("old").join("FENCED").exists());
    refused();
    // Afterwards.
    fs::write(path("old").join("FENCED"), format!("{}\n", path("new").canonicalize().unwrap().display())).unwrap();
    let failed = heng_takes_over(&path("old"), &path("new"));
    let said = text(&failed.stderr);
    assert!(said.contains("give the same command again") && said.contains("damaged at byte"), "{said}");
    refused();
    let other = heng_takes_over(&path("elsewhere"), &path("new"));
    assert!(text(&other.stderr).contains(path("old").to_str().unwrap()), "{}", text(&other.stderr));
    third.stop().unwrap();

    fs::write(&segment.0, &segment.1).unwrap();
    let taken = heng_takes_over(&path("old"), &path("new"));
    assert!(taken.status.success(), "{}", text(&taken.stderr));
    let server = TestServer::start(settings(&path("new")));
    assert_eq!(credits(&server), 40_000);
    server.stop().unwrap();
}

#[test]
fn of_several_that_try_at_once_one_has_it() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let old = directory.path().join("old");
    let server = TestServer::start(settings(&old));
    runtime().block_on(async { open_accounts(&mut server.client().await).await });
    let heirs: Vec<PathBuf> = (0..6).map(|number| directory.path().join(format!("heir-{number}"))).collect();
    let taken: Vec<bool> = std::thread::scope(|scope| {
        let all: Vec<_> = heirs.iter().map(|heir| scope.spawn(|| heng_takes_over(&old, heir))).collect();
        all.into_iter().map(|one| one.join().unwrap().status.success()).collect()
    });
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "{taken:?}");
    assert!(server.end().is_err());
    for (heir, taken) in heirs.iter().zip(taken) {
        let has = |name: &str| heir.join(name).exists();
        let is_ledger = has("journal") && !has("manifest.json") && !has("TAKING_OVER");
        assert_eq!(is_ledger, taken, "{}", heir.display());
    }
}
