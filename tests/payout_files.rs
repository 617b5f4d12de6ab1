//! Payout files that are damaged, taken away or lost: found out, and written again from the ledger.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a failed expectation is a failed test"
)]

#[path = "common/network.rs"]
mod network;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/scheme.rs"]
mod scheme;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use heng::backoffice::{Answer, Command, KeptFiles, Office, Problem, check_files};
use heng::ledger::{PayoutEntry, PayoutState, WindowState};
use ports::Fused;
use scheme::{a_day_at_the_bank, files, ledger, person, policy, run};

/// What is found among the files of a directory.
fn kept(ports: &Fused, directory: &Path) -> KeptFiles {
    check_files(directory, &BTreeSet::new(), ports.network.lock().unwrap().book.windows()).unwrap()
}

/// Closes the open window.
fn close(ports: &Fused, directory: &Path) {
    let command = Command::CloseWindow { scheme: "cards".to_owned() };
    Office::new(ports.clone(), directory).perform(command, &person(1)).unwrap();
}

/// Asks for the files of a window.
fn write(ports: &Fused, directory: &Path, scheme: &str, window: u32) -> Result<Answer, Problem> {
    let command = Command::WriteFiles { scheme: scheme.to_owned(), window };
    Office::new(ports.clone(), directory).perform(command, &person(1))
}

#[test]
fn a_damaged_payout_file_is_found_and_written_again_and_one_that_was_taken_away_stays_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join("payouts").join(name);
    // Each with all participants paid, and one that owes: a file of payouts and one of collections.
    for format in ["pain.001", "csv"] {
        let _before = fs::remove_dir_all(path(""));
        let ports = ledger(&policy("multilateral", "scheme", format));
        close(&ports, directory.path());
        for (scheme, window, status) in [("cards", 1, 409), ("cards", 9, 404), ("chips", 1, 404)] {
            assert_eq!(
                write(&ports, directory.path(), scheme, window).unwrap_err().status,
                status,
                "{scheme} {window}"
            );
        }
        run(&ports, directory.path());
        let expected = files(directory.path());
        assert_eq!((expected.len(), kept(&ports, directory.path()).payouts), (4, 2), "{format}");
        for (name, bytes) in &expected {
            for at in (0..bytes.len()).step_by(31) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                let cut = if at % 62 == 0 { bytes[..at].to_vec() } else { damaged };
                fs::write(path(name), cut).unwrap();
                let found = kept(&ports, directory.path());
                assert_eq!((found.payouts, found.damaged.len()), (1, 1), "{name}, byte {at}: {found:?}");
                assert_eq!(run(&ports, directory.path()), 0);
                let mut mended = files(directory.path());
                mended.retain(|name, _| !name.ends_with(".damaged"));
                assert_eq!(mended, expected, "{name}, byte {at}");
            }
        }
        // A manifest that fits its file and not the journal; one that says the same in other bytes; and one that is gone.
        let manifest = expected.keys().find(|name| name.ends_with("collections.manifest.json")).unwrap();
        let text = String::from_utf8(expected[manifest].clone()).unwrap();
        for (was, is) in [("\"count\": 1", "\"count\": 2"), ("\"sum_minor_units\": \"", "\"sum_minor_units\": \"1")] {
            let changed = text.replace(was, is);
            assert_ne!(changed, text);
            fs::write(path(manifest), changed).unwrap();
            assert_eq!(kept(&ports, directory.path()).damaged.len(), 1);
            run(&ports, directory.path());
            let mut mended = files(directory.path());
            mended.retain(|name, _| !name.ends_with(".damaged"));
            assert_eq!(mended, expected, "{is}");
        }
        fs::write(path(manifest), text.trim_end()).unwrap();
        assert_eq!(kept(&ports, directory.path()).damaged.len(), 1);
        fs::remove_file(path(manifest)).unwrap();
        assert_eq!(kept(&ports, directory.path()).damaged.len(), 1);
        run(&ports, directory.path());
        assert!(kept(&ports, directory.path()).damaged.is_empty());
        // Taken to the bank.
        let taken = expected.keys().find(|name| !name.contains("collections") && !name.ends_with("json")).unwrap();
        fs::remove_file(path(taken)).unwrap();
        run(&ports, directory.path());
        assert!(!path(taken).exists());
        assert_eq!(kept(&ports, directory.path()), KeptFiles { payouts: 1, taken: 1, ..KeptFiles::default() });
        let mut network = ports.network.lock().unwrap();
        network.check_agreement();
        network.check_replay();
    }
}

#[test]
fn files_that_are_lost_are_written_again_without_what_the_bank_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join("payouts").join(name);
    for format in ["pain.001", "csv"] {
        let _before = fs::remove_dir_all(path(""));
        let ports = ledger(&policy("multilateral", "scheme", format));
        close(&ports, directory.path());
        run(&ports, directory.path());
        let expected = files(directory.path());
        // After a restore nothing is there; somebody asks for it, also when the bank is done with it.
        a_day_at_the_bank(&ports, directory.path());
        let state = ports.network.lock().unwrap().book.windows().window((1, 1)).unwrap().state;
        assert_eq!(state, WindowState::Reconciled);
        fs::remove_dir_all(path("")).unwrap();
        run(&ports, directory.path());
        assert!(!path("").exists());
        let answer = write(&ports, directory.path(), "cards", 1).unwrap();
        assert!(matches!(&answer, Answer::Files(files) if files.len() == 2), "{answer:?}");
        // What the bank refused is back on the participant's account, and would be paid twice.
        let payouts: Vec<_> = ports.network.lock().unwrap().book.windows().payouts().values().copied().collect();
        let (refused, done): (Vec<_>, Vec<_>) = payouts.iter().partition(|known| known.state == PayoutState::Returned);
        assert!(!refused.is_empty() && done.len() > 1);
        let again = files(directory.path());
        let named = |id: &str| again.values().any(|bytes| String::from_utf8_lossy(bytes).contains(id));
        let id = |payout: &PayoutEntry| format!("{:032x}", payout.id.raw());
        assert!(done.iter().all(|payout| named(&id(payout))) && !refused.iter().any(|payout| named(&id(payout))));
        let (other, same): (Vec<_>, Vec<_>) = again.iter().partition(|(name, bytes)| expected[*name] != **bytes);
        assert!(other.len() == 2 && same.len() == 2, "the collections and their manifest, to the byte");
        assert!(other.iter().all(|(name, _)| !name.contains("collections")), "{other:?}");
        assert!(kept(&ports, directory.path()).damaged.is_empty());
        // What is there and right is not written over: it may be on its way to the bank.
        for (name, bytes) in &expected {
            fs::write(path(name), bytes).unwrap();
        }
        write(&ports, directory.path(), "cards", 1).unwrap();
        assert_eq!(files(directory.path()), expected, "to the byte");
    }
}

/// When the bank has refused all that is in a damaged file, nothing of it is to be paid again, and it stays away.
#[test]
fn a_damaged_file_in_which_nothing_is_to_be_paid_any_more_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(&policy("multilateral", "scheme", "csv"));
    let mut office = Office::new(ports.clone(), directory.path());
    close(&ports, directory.path());
    run(&ports, directory.path());
    let payouts: Vec<_> = ports.network.lock().unwrap().book.windows().payouts().values().copied().collect();
    for payout in payouts.iter().filter(|payout| !payout.is_collection) {
        let refused = Command::RejectPayout { payout: format!("{:032x}", payout.id.raw()), reason: "AC04".to_owned() };
        for who in [1, 2] {
            let _second = office.perform(refused.clone(), &person(who));
        }
    }
    run(&ports, directory.path());
    let name = files(directory.path()).into_keys().find(|name| !name.contains("collections")).unwrap();
    let name = name.replace(".manifest.json", ".csv");
    fs::write(directory.path().join("payouts").join(&name), "damaged").unwrap();
    run(&ports, directory.path());
    let left = files(directory.path());
    assert!(!left.contains_key(&name) && left.contains_key(&format!("{name}.damaged")), "{:?}", left.keys());
    assert!(kept(&ports, directory.path()).damaged.is_empty());
}
