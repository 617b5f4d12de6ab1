//! Waiting for events over TCP: told once each, whatever there is room for, and in nobody's way.

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

use std::time::Duration;

use common::{TestServer, account, runtime, settings, transfer};
use heng::client::{Answer, Client, ClientError};
use heng::config::Settings;
use heng::ledger::{AccountFlags, AccountId, Code};
use heng::protocol::{ITEMS_MAX, Query, QueryKind};

/// Nobody touches it.
const UNTOUCHED: u128 = 77;

async fn open(client: &mut Client) {
    let accounts: Vec<_> = [1, 2, 3].map(|id| account(id, AccountFlags::default())).to_vec();
    client.open_accounts(&accounts).await.unwrap();
}

async fn pay(client: &mut Client, first: u128, count: u128) {
    let transfers: Vec<_> = (first..first + count).map(|id| transfer(id, 2, 3, 1)).collect();
    let outcomes = client.submit(&transfers).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.code.is_accepted()));
}

/// A query for events that do not come, as long as a query may wait.
fn in_vain() -> Query {
    Query { wait_ms: 20_000, ..Query::new(QueryKind::Events, UNTOUCHED, ITEMS_MAX) }
}

#[test]
fn events_are_told_once_each_across_reconnects() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        open(&mut client).await;
        let (mut next, mut seen) = (0, Vec::new());
        let mut number = 100;
        while seen.len() < 60 {
            // Every listener is a connection of its own.
            let mut listener = server.client().await;
            if number < 160 {
                pay(&mut client, number, 20).await;
                number += 20;
            }
            let (after, events) = listener.events(None, next, 200).await.unwrap();
            next = after;
            seen.extend(events.iter().filter_map(|stored| stored.record.done()).map(|transfer| transfer.id.raw()));
        }
        assert_eq!(seen, (100..160).collect::<Vec<u128>>());
        // Of an account only, and somebody who waits is told when it happens.
        let waiting = async {
            let mut listener = server.client().await;
            listener.events(Some(AccountId::from_raw(3)), next, 10_000).await.unwrap()
        };
        let acting = async {
            client.submit(&[transfer(500, 1, 2, 1), transfer(501, 2, 3, 1)]).await.unwrap();
        };
        let ((_, events), ()) = tokio::join!(waiting, acting);
        assert_eq!(events.len(), 1);
        let (_, nothing) = client.events(Some(AccountId::from_raw(UNTOUCHED)), 0, 10).await.unwrap();
        assert_eq!(nothing, []);
    });
    server.stop().unwrap();
}

/// The smallest room that a server may have is that of one full request.
#[test]
fn events_are_told_where_there_is_room_for_one_full_request_only() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { transfers_in_flight_max: Some(8_190), ..settings(directory.path()) });
    runtime().block_on(async {
        let mut client = server.client().await;
        open(&mut client).await;
        pay(&mut client, 100, 5_000).await;
        let (mut next, mut seen) = (0, 0);
        while seen < 5_000 {
            let (after, events) = client.events(None, next, 20_000).await.unwrap();
            assert!(!events.is_empty(), "there are more, and nobody else is there");
            next = after;
            seen += events.iter().filter(|stored| stored.record.done().is_some()).count();
        }
        assert_eq!(seen, 5_000);
    });
    server.stop().unwrap();
}

/// Who asks for so much that not all of it can be looked at is told so, and not that there is nothing.
#[test]
fn nothing_is_only_said_by_who_has_looked() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        open(&mut client).await;
        pay(&mut client, 100, 8_000).await;
        let (mut sender, mut answers) = server.connection().await;
        let all = Query { from: 1, ..Query::new(QueryKind::Events, 0, ITEMS_MAX) };
        (1..=60).for_each(|request| sender.query(request, &all));
        sender.flush().await.unwrap();
        // Deaf for longer than it is tried.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let (mut told, mut refused) = (0, 0);
        for _ in 1..=60 {
            match answers.next().await.unwrap().1 {
                Answer::Stored(_, records) => {
                    assert!(!records.is_empty(), "there are some");
                    told += 1;
                }
                Answer::Refused(Code::Busy, _) => refused += 1,
                answer => panic!("{answer:?}"),
            }
        }
        assert!(told > 0 && refused > 0, "{told} told, {refused} refused");
        // It says from where to go on, and what is there already is looked at whatever the time.
        let vain = client.query(&Query { from: 1, wait_ms: 0, ..in_vain() }).await.unwrap();
        assert!(vain.0 > 8_000 && vain.1.is_empty(), "{vain:?}");
    });
    server.stop().unwrap();
}

/// More wait than the server has threads, and more ask for it than may; none of them takes room from what is done.
#[test]
fn those_who_wait_keep_nobody_from_being_served() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { transfers_in_flight_max: Some(8_190), ..settings(directory.path()) });
    runtime().block_on(async {
        let mut client = server.client().await;
        open(&mut client).await;
        let mut connections = Vec::new();
        for place in 0..5_u64 {
            let (mut sender, mut answers) = server.connection().await;
            (0..1_000).for_each(|request| sender.query(request, &in_vain()));
            sender.flush().await.unwrap();
            // A quarter of 256 for each of four.
            for _ in 0..if place < 4 { 936 } else { 1_000 } {
                let (_, answer) = answers.next().await.unwrap();
                assert!(matches!(answer, Answer::Refused(Code::Busy, _)), "{answer:?}");
            }
            connections.push((sender, answers));
        }
        let heard = client.events(None, 0, 1_000).await;
        assert!(matches!(heard, Err(ClientError::Refused { code: Code::Busy, .. })), "{heard:?}");
        for number in 0..50 {
            // All the room that there is.
            pay(&mut client, 100 + number * 8_190, 8_190).await;
        }
    });
    server.stop().unwrap();
}

/// What comes behind requests for events on one connection is answered while these wait, although others keep the ledger busy.
#[test]
fn what_is_sent_behind_requests_for_events_does_not_wait_for_them() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        open(&mut client).await;
        let (mut sender, mut answers) = server.connection().await;
        (1..=4).for_each(|request| sender.query(request, &in_vain()));
        sender.flush().await.unwrap();
        for number in 0..50 {
            pay(&mut client, 10_000 + number * 1_000, 1_000).await;
            let request = 100 + u64::try_from(number).unwrap();
            sender.submit(request, &[transfer(1_000 + number, 1, 2, 1)]);
            sender.flush().await.unwrap();
            let (answered, answer) = answers.next().await.unwrap();
            assert_eq!(answered, request, "and not the events, which wait in vain");
            assert!(matches!(answer, Answer::Outcomes(outcomes) if outcomes[0].code.is_accepted()));
        }
    });
    server.stop().unwrap();
}

/// A server that stops does not wait for what may happen: its time for that is shorter than that of the query.
#[test]
fn who_waits_for_events_does_not_hold_up_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { drain_timeout_ms: Some(10_000), ..settings(directory.path()) });
    runtime().block_on(async {
        let mut client = server.client().await;
        open(&mut client).await;
        let (mut sender, mut answers) = server.connection().await;
        sender.query(1, &in_vain());
        sender.submit(2, &[transfer(1, 1, 2, 1)]);
        sender.flush().await.unwrap();
        assert_eq!(answers.next().await.unwrap().0, 2, "the query before it is there, too");
        let stopped = tokio::task::spawn_blocking(|| server.stop());
        let (answered, answer) = answers.next().await.unwrap();
        let Answer::Stored(next, records) = answer else { panic!("{answer:?}") };
        assert_eq!((answered, records), (1, vec![]));
        assert!(next > 0, "from where to ask again");
        stopped.await.unwrap().unwrap();
    });
}

/// Who was answered late was not idle meanwhile.
#[test]
fn a_wait_that_is_longer_than_the_idle_timeout_does_not_end_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { idle_timeout_ms: Some(2_000), ..settings(directory.path()) });
    runtime().block_on(async {
        let mut client = server.client().await;
        let (waited, idle) = (Duration::from_millis(2_500), Duration::from_secs(1));
        let wait_ms = u32::try_from(waited.as_millis()).unwrap();
        for _ in 0..2 {
            client.events(Some(AccountId::from_raw(UNTOUCHED)), 0, wait_ms).await.unwrap();
            tokio::time::sleep(idle).await;
            client.ping().await.unwrap();
        }
    });
    server.stop().unwrap();
}
