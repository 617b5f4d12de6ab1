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

use common::{Process, TestServer, account, run, runtime, settings, text, transfer, wait_until};
use heng::backup::{BackupError, backup, take_over};
use heng::client::{Client, Credentials};
use heng::engine::DataDirError;
use heng::ledger::{AccountFlags, Code};
use heng::verify::verify;
use rustix::process::Signal;

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
            assert!(said.contains("another process's now"), "{said}");
            paying.join().unwrap()
        });
        let acknowledged = acknowledged.into_inner() as u128;
        assert_eq!(paid, acknowledged);

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
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let process = Process::start(&old, &[]);
    runtime().block_on(async { open_accounts(&mut connect(process.listen).await).await });
    process.stop_running();
    take_over(&old, &new).unwrap();
    let before = journal(&old);
    let (status, said) = process.end_by(Signal::CONT);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(journal(&old) == before, "the former server wrote");

    let refused = run(&["serve", "--data-dir", old.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains("was taken over") && said.contains(new.to_str().unwrap()), "{said}");
    // There is one heir.
    let third = heng_takes_over(&old, &directory.path().join("third"));
    assert_eq!(third.status.code(), Some(2));
    assert!(text(&third.stderr).contains(new.to_str().unwrap()), "{}", text(&third.stderr));
    // Whoever takes that back has the ledger as it was.
    fs::remove_file(old.join("FENCED")).unwrap();
    let server = TestServer::start(settings(&old));
    assert_eq!(server.ready.accounts, 2);
    server.stop().unwrap();
}

#[test]
fn a_backup_gets_what_is_new_and_what_is_no_place_for_it_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(settings(&path("old")));
    runtime().block_on(async {
        let mut client = server.client().await;
        open_accounts(&mut client).await;
        // Some segments of 2 MiB.
        for first in (1..=40_000).step_by(8_000) {
            let batch: Vec<_> = (first..first + 8_000).map(|id| transfer(id, 1, 2, 1)).collect();
            client.submit(&batch).await.unwrap();
        }
    });
    let kept = backup(&path("old"), &path("backup")).unwrap();
    assert!(kept.segments_copied >= 2, "{kept:?}");

    // What cannot be the place is refused before anything is given up.
    assert!(matches!(take_over(&path("old"), &path("old")), Err(BackupError::Occupied(_))));
    fs::create_dir(path("full")).unwrap();
    fs::write(path("full").join("a file"), "of somebody").unwrap();
    assert!(matches!(take_over(&path("old"), &path("full")), Err(BackupError::Occupied(_))));
    let missing = take_over(&path("nothing"), &path("new"));
    assert!(matches!(missing, Err(BackupError::DataDir(DataDirError::Missing(_)))), "{missing:?}");
    let of_backup = take_over(&path("backup"), &path("new"));
    assert!(matches!(of_backup, Err(BackupError::DataDir(DataDirError::Backup(_)))), "{of_backup:?}");
    assert!(!path("old").join("FENCED").exists());

    runtime().block_on(async {
        let mut client = server.client().await;
        assert_eq!(client.submit(&[transfer(40_001, 1, 2, 1)]).await.unwrap()[0].code, Code::Accepted);
    });
    let taken = take_over(&path("old"), &path("backup")).unwrap();
    assert!(taken.segments_kept >= 1 && taken.sequence > kept.sequence, "{taken:?}");
    assert!(server.end().is_err(), "it was taken over while it served");
    let server = TestServer::start(settings(&path("backup")));
    runtime().block_on(async {
        let (_, accounts) = server.client().await.accounts(&[2]).await.unwrap();
        assert_eq!(accounts[0].balance(), 40_001);
    });
    server.stop().unwrap();
}

#[test]
fn what_was_broken_off_is_not_served_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = TestServer::start(settings(&path("old")));
    runtime().block_on(async { open_accounts(&mut server.client().await).await });
    server.stop().unwrap();
    // The journal cannot be read, so it is given up and not copied.
    let segment = journal(&path("old")).remove(0);
    let mut damaged = segment.1.clone();
    damaged[0] ^= 1;
    fs::write(&segment.0, &damaged).unwrap();
    let failed = heng_takes_over(&path("old"), &path("new"));
    assert_eq!(failed.status.code(), Some(1));
    let said = text(&failed.stderr);
    assert!(said.contains("give the same command again") && said.contains("damaged at byte"), "{said}");
    let refused = run(&["serve", "--data-dir", path("new").to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));

    fs::write(&segment.0, &segment.1).unwrap();
    let taken = heng_takes_over(&path("old"), &path("new"));
    assert!(taken.status.success(), "{}", text(&taken.stderr));
    let server = TestServer::start(settings(&path("new")));
    assert_eq!(server.ready.accounts, 2);
    server.stop().unwrap();
}
