//! Many callers on one connection: each hears of its own transfers, whatever becomes of the others'.

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

use common::{Process, TestServer, account, runtime, transfer};
use heng::client::{BatchingClient, Client, ClientError, Credentials};
use heng::ledger::{AccountFlags, Code, LINKED, Transfer};
use tokio::task::JoinSet;

const CALLERS: u128 = 500;

async fn open(client: &mut Client) {
    let customer = AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS;
    let accounts = [account(1, AccountFlags(0)), account(2, customer), account(3, customer)];
    client.open_accounts(&accounts).await.unwrap();
}

/// A client of a server with those accounts.
async fn opened(server: &TestServer) -> BatchingClient {
    open(&mut server.client().await).await;
    connect(&server.ready.listen.to_string()).await
}

async fn connect(address: &str) -> BatchingClient {
    BatchingClient::connect(address, &Credentials::development()).await.unwrap()
}

#[test]
fn everybody_hears_of_his_own() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let client = opened(&server).await;
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let client = client.clone();
            callers.spawn(async move {
                let id = 1_000 + number * 10;
                match number % 5 {
                    // One by one, good and bad.
                    0 => assert_eq!(client.submit_one(transfer(id, 1, 2, 1)).await.unwrap().code, Code::Accepted),
                    1 => {
                        let outcome = client.submit_one(transfer(id, 3, 2, 1)).await.unwrap();
                        assert_eq!(outcome.code, Code::InsufficientFunds);
                    }
                    // A transaction that is refused as a whole, beside one alone.
                    2 => {
                        let first = Transfer { flags: LINKED, ..transfer(id, 1, 2, 1) };
                        let asked = vec![first, transfer(id + 1, 1, 9, 1), transfer(id + 2, 1, 2, 1)];
                        let codes: Vec<Code> =
                            client.submit(&asked).await.unwrap().iter().map(|one| one.code).collect();
                        assert_eq!(codes, [Code::TransactionFailed, Code::CreditAccountUnknown, Code::Accepted]);
                    }
                    // What cannot be sent harms nobody.
                    3 => {
                        let open = Transfer { flags: LINKED, ..transfer(id, 1, 2, 1) };
                        let refused = client.submit_one(open).await.unwrap_err();
                        assert!(
                            matches!(refused, ClientError::Refused { code: Code::TransactionOpen, .. }),
                            "{refused:?}"
                        );
                        assert_eq!(client.submit(&[]).await.unwrap(), []);
                        let many = vec![transfer(id, 1, 2, 1); 8_191];
                        assert!(matches!(client.submit(&many).await, Err(ClientError::Refused { .. })));
                    }
                    // The same twice at once.
                    _ => {
                        let (first, second) = tokio::join!(
                            client.submit_one(transfer(id, 1, 2, 1)),
                            client.submit_one(transfer(id, 1, 2, 1))
                        );
                        let (first, second) = (first.unwrap(), second.unwrap());
                        assert_eq!((first.code, first.sequence), (second.code, second.sequence));
                        assert!(first.repeated != second.repeated, "{first:?} {second:?}");
                    }
                }
            });
        }
        while let Some(done) = callers.join_next().await {
            done.unwrap();
        }
        // The calls went together, most of them.
        let requests = server.telemetry.counters().snapshot().requests_total;
        assert!(u128::from(requests) < CALLERS / 2, "{requests} requests");
        let (_, accounts) = server.client().await.accounts(&[2]).await.unwrap();
        // From one in five each alone, beside a failed transaction, and of those sent twice.
        assert_eq!(accounts[0].balance(), 3 * CALLERS.cast_signed() / 5);
    });
    server.stop().unwrap();
}

#[test]
fn large_calls_share_requests_with_small_ones() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let client = opened(&server).await;
        let mut callers = JoinSet::new();
        for number in 0..24_u128 {
            let client = client.clone();
            let size = [1, 5_000, 8_190, 3_190][usize::try_from(number % 4).unwrap()];
            callers.spawn(async move {
                let asked: Vec<Transfer> =
                    (0..size).map(|place| transfer((number + 1) * 10_000 + place, 1, 2, 1)).collect();
                let outcomes = client.submit(&asked).await.unwrap();
                assert_eq!(u128::try_from(outcomes.len()).unwrap(), size);
                assert!(outcomes.iter().all(|outcome| outcome.code.is_accepted()));
                // They stay together and in order.
                assert!(outcomes.is_sorted_by_key(|outcome| outcome.sequence));
                size
            });
        }
        let mut all = 0;
        while let Some(done) = callers.join_next().await {
            all += done.unwrap();
        }
        let (_, accounts) = server.client().await.accounts(&[2]).await.unwrap();
        assert_eq!(accounts[0].balance(), all.cast_signed());
    });
    server.stop().unwrap();
}

#[test]
fn when_the_server_is_gone_everybody_is_told_and_nothing_is_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[]);
    runtime().block_on(async {
        let address = server.listen.to_string();
        let mut first = Client::connect(address.as_str(), &Credentials::development()).await.unwrap();
        open(&mut first).await;
        let client = connect(&address).await;
        assert_eq!(client.submit_one(transfer(1, 1, 2, 1)).await.unwrap().code, Code::Accepted);
        server.stop_running();
        let mut callers = JoinSet::new();
        for number in 0..100 {
            let client = client.clone();
            callers.spawn(async move { client.submit_one(transfer(100 + number, 1, 2, 1)).await });
        }
        // Some of them have been sent by now, or not: they are told all the same.
        tokio::task::yield_now().await;
        server.kill();
        while let Some(told) = callers.join_next().await {
            assert!(matches!(told.unwrap(), Err(ClientError::Broken(_))));
        }
        assert!(matches!(client.submit_one(transfer(9, 1, 2, 1)).await, Err(ClientError::Broken(_))));
        assert!(matches!(client.submit(&[transfer(9, 1, 2, 1)]).await, Err(ClientError::Broken(_))));
        // It stood still before they were sent, so it has done none of them, and does none later.
        let again = Process::start(directory.path(), &[]);
        let address = again.listen.to_string();
        let mut other = Client::connect(address.as_str(), &Credentials::development()).await.unwrap();
        assert_eq!(other.accounts(&[2]).await.unwrap().1[0].balance(), 1);
    });
}

/// When there is no room for more they wait for their turn; one that gives up keeps nobody else from having his.
#[test]
fn who_finds_no_room_is_let_in_later() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let client = opened(&server).await;
        let made = |number: u128, size: u128| -> Vec<Transfer> {
            (0..size).map(|place| transfer((number + 1) * 10_000 + place, 1, 2, 1)).collect()
        };
        // More than may wait, all of which are there before anything is sent; every fourth gives up at once.
        let calls: Vec<Vec<Transfer>> =
            (0..40).map(|number| made(number, [8_190, 1, 4_000, 8_190][number as usize % 4])).collect();
        let all: Vec<_> = calls.iter().map(|call| Box::pin(client.submit(call))).collect();
        let mut kept = Vec::new();
        for (place, mut call) in all.into_iter().enumerate() {
            assert!(
                std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context))).await.is_pending()
            );
            if place % 4 != 3 {
                kept.push(call);
            }
        }
        for call in kept {
            let outcomes = tokio::time::timeout(std::time::Duration::from_secs(30), call).await.unwrap().unwrap();
            assert!(outcomes.iter().all(|outcome| outcome.code.is_accepted()));
        }
    });
    server.stop().unwrap();
}

/// A runtime that is dropped as soon as the connection is there has not looked at its tasks even once.
#[test]
fn a_connection_whose_runtime_was_only_for_connecting_is_told_to_be_broken() {
    let (server, _directory) = TestServer::quick();
    let address = server.ready.listen.to_string();
    let only_to_connect = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = only_to_connect.block_on(connect(&address));
    drop(only_to_connect);
    let limit = std::time::Duration::from_secs(10);
    let told = runtime().block_on(async { tokio::time::timeout(limit, client.submit_one(transfer(1, 1, 2, 1))).await });
    assert!(matches!(told.unwrap(), Err(ClientError::Broken(_))));
    server.stop().unwrap();
}

/// The connection lives on the runtime it was made on: with that gone, nobody waits for ever.
#[test]
fn when_the_connections_runtime_is_gone_everybody_is_told() {
    let (server, _directory) = TestServer::quick();
    let address = server.ready.listen.to_string();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = other.block_on(connect(&address));
    runtime().block_on(async {
        open(&mut server.client().await).await;
        assert_eq!(client.submit_one(transfer(1, 1, 2, 1)).await.unwrap().code, Code::Accepted);
        other.shutdown_background();
        let limit = std::time::Duration::from_secs(30);
        // Some of them may still be sent.
        let told =
            tokio::time::timeout(limit, async { while client.submit_one(transfer(1, 1, 2, 1)).await.is_ok() {} }).await;
        assert!(told.is_ok());
        assert!(matches!(client.submit_one(transfer(2, 1, 2, 1)).await, Err(ClientError::Broken(_))));
    });
    server.stop().unwrap();
}
