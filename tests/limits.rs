//! Limits across policies: what was used stays used, and nothing is given back to a limit that has not counted it.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::let_underscore_must_use,
    reason = "a failed expectation is a failed test"
)]

mod common;

use std::path::Path;

use common::{TestServer, account, runtime, settings, transfer};
use heng::config::Settings;
use heng::ledger::{AccountFlags, Operation, Transfer};

/// A limit per account over a day that ends now, so that no midnight comes in between.
fn limit(name: &str, more: &str, sum_max: &str) -> String {
    format!(
        "[[limit]]\nname = \"{name}\"\ncounted_per = \"account\"\ncurrency = \"EUR\"\nwindow = \"86400s\"\nsum_max = \"{sum_max}\"\n{more}\n"
    )
}

/// Serves under a policy while these are asked for; answers what became of each.
fn under(directory: &Path, policy: &str, asked: &[Transfer]) -> Vec<&'static str> {
    let file = directory.join("policy.toml");
    std::fs::write(&file, policy).unwrap();
    let server = TestServer::start(Settings { policy_file: Some(file), ..settings(&directory.join("data")) });
    let told = runtime().block_on(async {
        let mut client = server.client().await;
        let accounts = [1, 2].map(|id| account(id, AccountFlags::default()));
        client.open_accounts(&accounts).await.unwrap();
        let mut told = Vec::new();
        for transfer in asked {
            told.push(client.submit(&[*transfer]).await.unwrap()[0].code.name());
        }
        told
    });
    server.stop().unwrap();
    told
}

fn pay(id: u128, amount: u128) -> Transfer {
    Transfer { code: 5, ..transfer(id, 1, 2, amount) }
}

#[test]
fn an_edited_limit_goes_on_and_a_new_one_gives_nothing_back() {
    let directory = tempfile::tempdir().unwrap();
    let hold = Transfer { flags: Operation::Hold as u16, ..pay(10, 800) };
    let told = under(directory.path(), &limit("daily", "", "10.00"), &[hold, pay(11, 300)]);
    assert_eq!(told, ["accepted", "limit_exceeded"]);
    // The bound is another, and so is the name; and there is a limit that has counted nothing yet.
    let policy = limit("per-day", "", "12.00") + &limit("small", "codes = [5]", "3.00");
    let void = Transfer { flags: Operation::Void as u16, related: 10, ..pay(13, 0) };
    let told = under(directory.path(), &policy, &[pay(12, 500), pay(14, 300), void, pay(15, 100)]);
    assert_eq!(
        told,
        ["limit_exceeded", "accepted", "accepted", "limit_exceeded"],
        "the void is of what `small` never counted"
    );
    // 300 were spent, and of the hold nothing was given back.
    let told = under(directory.path(), &limit("raised", "", "20.00"), &[pay(16, 900), pay(17, 1)]);
    assert_eq!(told, ["accepted", "limit_exceeded"]);
    assert!(heng::verify::verify(&directory.path().join("data")).unwrap().ok);
}

/// A raise is no operation of its own, so it goes through however many there were before the bound was lowered; and the books agree.
#[test]
fn a_raise_under_a_lowered_number_is_no_violation() {
    let directory = tempfile::tempdir().unwrap();
    let holds: Vec<_> = (10..15).map(|id| Transfer { flags: Operation::Hold as u16, ..pay(id, 100) }).collect();
    let told = under(directory.path(), &limit("many", "count_max = 10", "90.00"), &holds);
    assert_eq!(told, ["accepted"; 5]);
    let raise = Transfer { flags: Operation::Raise as u16, related: 10, ..pay(20, 50) };
    let told = under(directory.path(), &limit("few", "count_max = 3", "90.00"), &[raise, pay(21, 1)]);
    assert_eq!(told, ["accepted", "limit_count_exceeded"]);
    let verified = heng::verify::verify(&directory.path().join("data")).unwrap();
    assert!(verified.ok, "{verified:?}");
}
