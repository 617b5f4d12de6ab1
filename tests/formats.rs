//! Data directories as earlier versions wrote them, kept: each is opened, verified and served from, as it is and with only its journal.
//!
//! One is added for each format that is released; none is ever changed. Made by a server with small segments and checkpoints: ten accounts, 2,400 transfers, a hold partly
//! captured, a delayed transfer, refusals. The later ones are the first one, served from by the version whose format they have: the upgrade.

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
use std::path::Path;

use common::{TestServer, copy_directory, runtime, settings, transfer};
use heng::flow::Helpers;
use heng::ledger::{Code, MORE, Operation, Outcome, Transfer, TransferId};
use heng::router::{KnownIds, read_known_ids};
use heng::verify::verify;

/// Directory, sequence of the last record.
const KEPT: &[(&str, u64)] = &[
    ("journal-1-store-3", 2_424),
    ("journal-1-store-4", 2_424),
    ("journal-1-store-5", 2_424),
    ("journal-1-store-6", 2_424),
];

/// Id, debits and credits posted, debits and credits pending.
const BALANCES: [(u128, [u128; 4]); 10] = [
    (1, [9_000_000, 0, 0, 0]),
    (2, [8_265, 1_008_141, 300, 0]),
    (3, [8_091, 1_008_327, 70, 300]),
    (4, [8_118, 1_008_174, 0, 70]),
    (5, [8_146, 1_008_160, 0, 0]),
    (6, [8_174, 1_008_146, 0, 0]),
    (7, [8_202, 1_008_133, 0, 0]),
    (8, [8_169, 1_008_119, 0, 0]),
    (9, [8_135, 1_008_107, 0, 0]),
    (10, [8_100, 1_008_093, 0, 0]),
];

fn told(code: Code, sequence: u64, outcome: &Outcome) {
    assert_eq!((outcome.code, outcome.sequence, outcome.repeated), (code, sequence, true));
}

fn serve(data: &Path, sequence: u64, shards: usize) {
    let mut settings = settings(data);
    settings.shards = Some(shards);
    let server = TestServer::start(settings);
    assert_eq!(server.ready.sequence, sequence);
    runtime().block_on(async {
        let mut client = server.client().await;
        let (_, accounts) = client.accounts(&(1..=10).collect::<Vec<_>>()).await.unwrap();
        for (account, (id, expected)) in accounts.iter().zip(BALANCES) {
            let all = account.totals;
            let totals = [all.debits_posted, all.credits_posted, all.debits_pending, all.credits_pending];
            assert_eq!((account.properties.id.raw(), totals), (id, expected));
        }
        // Repeats are answered as they were, the oldest and the newest.
        let outcomes = client.submit(&[transfer(1, 1, 2, 1_000_000)]).await.unwrap();
        told(Code::Accepted, 11, &outcomes[0]);
        let outcomes = client.submit(&[transfer(5_004, 2, 3, 100_000_000)]).await.unwrap();
        told(Code::InsufficientFunds, 2_423, &outcomes[0]);
        // What was open still is.
        let flags = Operation::Capture as u16 | MORE;
        let capture = Transfer { flags, related: 5_001, ..transfer(6_000, 2, 3, 100) };
        let void = Transfer { flags: Operation::Void as u16, related: 5_002, ..transfer(6_001, 3, 4, 0) };
        let outcomes = client.submit(&[capture, void]).await.unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.code == Code::Accepted), "{outcomes:?}");
    });
    server.stop().unwrap();
    let report = verify(data).unwrap();
    assert!(report.ok, "{:?}", report.violations);
}

#[test]
fn every_format_that_was_kept_is_served_from() {
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    assert_eq!(fs::read_dir(&formats).unwrap().count(), KEPT.len(), "each kept directory is tested");
    for (name, sequence) in KEPT {
        for (only_journal, shards) in [(false, 1), (true, 3)] {
            let directory = tempfile::tempdir().unwrap();
            let data = directory.path().join("data");
            copy_directory(&formats.join(name), &data);
            if only_journal {
                fs::remove_dir_all(data.join("store")).unwrap();
                fs::remove_dir_all(data.join("ids")).unwrap();
            }
            let report = verify(&data).unwrap();
            assert!(report.ok && report.sequence == *sequence, "{name}: {:?}", report.violations);
            serve(&data, *sequence, shards);
        }
    }
}

#[test]
fn id_runs_that_contradict_the_journal_are_found() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/journal-1-store-5");
    let mut right = Vec::new();
    read_known_ids(&kept.join("ids"), |id, sequence| right.push((sequence, id))).unwrap();
    right.sort_unstable();
    let said = |runs: &[(u64, TransferId)]| {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        copy_directory(&kept, &data);
        fs::remove_dir_all(data.join("ids")).unwrap();
        let mut known = KnownIds::open(&data.join("ids"), runs.len(), &Helpers::threads()).unwrap();
        for (sequence, id) in runs {
            known.admit(*id);
            known.settle(*id, *sequence);
        }
        known.turn_and_wait();
        drop(known);
        let report = verify(&data).unwrap();
        assert_eq!(report.ok, report.violations.is_empty());
        report.violations.join("; ")
    };
    assert_eq!(said(&right), "");
    let mut missing = right.clone();
    let (sequence, id) = missing.remove(500);
    assert_eq!(said(&missing), format!("transfer {id}, record {sequence}, is in no id run; it would be decided again"));
    let mut other = right.clone();
    other.last_mut().unwrap().1 = TransferId::from_raw(77_777);
    assert!(said(&other).starts_with("an id run says that transfer 77777 is record"), "{}", said(&other));
}
