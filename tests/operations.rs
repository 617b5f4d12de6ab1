//! Every operation over TCP, against a server: outcomes, reads, repeats, restarts.

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

use common::{TestServer, account, runtime, settings, transfer};
use heng::client::Credentials;
use heng::ledger::AccountFlags;

/// An account is paid in the same breath in which it is opened: the book, and so reads and the next start, know it.
#[test]
fn an_account_opened_and_paid_in_one_breath_keeps_its_money() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(settings(directory.path()));
    runtime().block_on(async {
        let mut client = server.client().await;
        client.open_accounts(&[account(1, AccountFlags::default())]).await.unwrap();
        for number in 0..50_u128 {
            let opened =
                heng::client::Connection::open(server.ready.listen, &Credentials::development()).await.unwrap();
            let (mut sender, mut receiver) = opened.split();
            sender.open_accounts(1, &[account(100 + number, AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS)]);
            sender.submit(2, &[transfer(1_000 + number, 1, 100 + number, 7)]);
            sender.flush().await.unwrap();
            receiver.next().await.unwrap();
            receiver.next().await.unwrap();
            assert_eq!(client.accounts(&[100 + number]).await.unwrap().1[0].balance(), 7);
        }
    });
    server.stop().unwrap();
    assert!(heng::verify::verify(directory.path()).unwrap().ok);
    let server = TestServer::start(settings(directory.path()));
    runtime().block_on(async {
        let spend: Vec<_> = (0..50).map(|number| transfer(5_000 + number, 100 + number, 1, 7)).collect();
        let outcomes = server.client().await.submit(&spend).await.unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.code.is_accepted()));
    });
    server.stop().unwrap();
}
