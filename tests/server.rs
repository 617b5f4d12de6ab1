//! The server over real TCP: what it does for those who speak well, and what it says to those who do not.

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

use std::io::Write;
use std::time::{Duration, Instant};

use common::{
    Process, Raw, TestServer, account, check_others_are_served, http_get, runtime, settings, transfer, wait_until,
};
use heng::client::{Client, ClientError, Credentials};
use heng::config::Settings;
use heng::ledger::{
    AccountChange, AccountFlags, AccountId, BookAccount, Code, NewAccount, Record, Transfer, TransferId,
};
use heng::protocol::{BODY_BYTES_MAX, FrameHeader, Hello, Kind, ListRequest, encode_frame, encode_transfers};

const LIMITED: AccountFlags = AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS;

fn submit_body(count: u32, transfers: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let transfers: Vec<_> = (0..transfers).map(|number| transfer(number as u128 + 1, 1, 2, 5)).collect();
    encode_transfers(&mut body, transfers.iter());
    body[..4].copy_from_slice(&count.to_le_bytes());
    body
}

#[test]
fn accounts_and_transfers_are_opened_moved_and_read_back() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        let opened = client.open_accounts(&[account(1, AccountFlags::default()), account(2, LIMITED)]).await.unwrap();
        assert_eq!([opened[0].sequence, opened[1].sequence].iter().max(), Some(&2));
        let again = client.open_accounts(&[account(2, LIMITED), account(2, AccountFlags::default())]).await.unwrap();
        assert_eq!((again[0].code, again[0].repeated, again[1].code), (Code::Accepted, true, Code::AccountIdReused));

        let outcomes =
            client.submit(&[transfer(10, 1, 2, 100), transfer(11, 3, 2, 1), transfer(0, 1, 2, 1)]).await.unwrap();
        assert_eq!(
            outcomes.iter().map(|outcome| outcome.code).collect::<Vec<_>>(),
            [Code::Accepted, Code::DebitAccountUnknown, Code::IdInvalid]
        );
        let refused = client.submit(&[transfer(12, 2, 1, 101)]).await.unwrap();
        assert_eq!(refused[0].code, Code::InsufficientFunds);

        let (sequence, accounts) = client.accounts(&[2, 77, 1]).await.unwrap();
        assert!(sequence >= refused[0].sequence, "whoever was answered finds what the answer said");
        assert_eq!(
            accounts.iter().map(|account| (account.properties.id.raw(), account.balance())).collect::<Vec<_>>(),
            [(2, 100), (1, -100)]
        );
        let (_, page) = client.list_accounts(ListRequest { from: 1, limit: 5 }).await.unwrap();
        assert_eq!(page.len(), 1);

        let stored = client.transfers(&[12, 10, 5]).await.unwrap();
        let outcome_of = |index: usize| match stored[index].record {
            Record::Transfer { transfer, outcome, .. } => (transfer.id.raw(), outcome),
            _ => panic!("no transfer"),
        };
        assert_eq!(
            (stored.len(), outcome_of(0), outcome_of(1)),
            (2, (12, Code::InsufficientFunds), (10, Code::Accepted))
        );
        assert_eq!(stored[1].sequence, outcomes[0].sequence);
    });
    server.stop().unwrap();
}

#[test]
fn a_repeat_gets_the_first_outcome_also_in_one_request_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(settings(directory.path()));
    let first = runtime().block_on(async {
        let mut client = server.client().await;
        client.open_accounts(&[account(1, AccountFlags::default()), account(2, LIMITED)]).await.unwrap();
        let transfers =
            [transfer(10, 1, 2, 100), transfer(10, 1, 2, 100), transfer(10, 1, 2, 101), transfer(11, 2, 1, 500)];
        let first = client.submit(&transfers).await.unwrap();
        assert_eq!((first[0].code, first[1].code, first[2].code), (Code::Accepted, Code::Accepted, Code::IdReused));
        assert_eq!((first[0].repeated, first[1].repeated, first[2].repeated), (false, true, false));
        assert_eq!((first[1].sequence, first[1].time_ns), (first[0].sequence, first[0].time_ns));
        first
    });
    server.stop().unwrap();
    for shards in [1, 3, 8] {
        let server = TestServer::start(Settings { shards: Some(shards), ..settings(directory.path()) });
        runtime().block_on(async {
            let mut client = server.client().await;
            let transfers = [transfer(10, 1, 2, 100), transfer(11, 2, 1, 500), transfer(11, 2, 1, 50)];
            let again = client.submit(&transfers).await.unwrap();
            assert_eq!(
                (again[0].code, again[0].sequence, again[0].repeated),
                (Code::Accepted, first[0].sequence, true)
            );
            assert_eq!(
                (again[1].code, again[1].sequence, again[1].repeated),
                (Code::InsufficientFunds, first[3].sequence, true)
            );
            assert_eq!(again[2].code, Code::IdReused);
            assert_eq!(client.accounts(&[2]).await.unwrap().1[0].balance(), 100);
        });
        server.stop().unwrap();
    }
}

/// What an account was opened with and when are kept beside it at its shard and in the book: each account has its own, wherever it comes from.
#[test]
fn each_account_is_known_by_its_own_opening_also_after_restarts_and_changes() {
    let directory = tempfile::tempdir().unwrap();
    let different = |id: u128| NewAccount { user_data_64: id as u64 * 7, ..account(id, LIMITED) };
    let known = runtime().block_on(async {
        let server = TestServer::start(settings(directory.path()));
        let mut client = server.client().await;
        let opened = client.open_accounts(&(1..=40).map(different).collect::<Vec<_>>()).await.unwrap();
        let change = AccountChange { level: Some(3), overdraft: Some(9), ..AccountChange::default() };
        let changed = change.request(AccountId::from_raw(7));
        let changed = Transfer { id: TransferId::from_raw(1), ..changed };
        assert_eq!(client.submit(&[changed]).await.unwrap()[0].code, Code::Accepted);
        let known = client.accounts(&(1..=40).collect::<Vec<_>>()).await.unwrap().1;
        let times = |known: &[BookAccount]| known.iter().map(|account| account.opened_ns).collect::<Vec<_>>();
        assert_eq!(times(&known), opened.iter().map(|outcome| outcome.time_ns).collect::<Vec<_>>());
        server.stop().unwrap();
        known
    });
    // From the checkpoint, then from the journal alone.
    for (shards, newly) in [(1, 41), (3, 42), (1, 43)] {
        if shards == 3 {
            std::fs::remove_dir_all(directory.path().join("store")).unwrap();
        }
        let server = TestServer::start(Settings { shards: Some(shards), ..settings(directory.path()) });
        runtime().block_on(async {
            let mut client = server.client().await;
            assert!(!client.open_accounts(&[different(newly)]).await.unwrap()[0].repeated);
            let again = client.open_accounts(&(1..=newly).map(different).collect::<Vec<_>>()).await.unwrap();
            assert!(again.iter().all(|outcome| outcome.repeated && outcome.code == Code::Accepted), "{again:?}");
            let others: Vec<_> = (1..=newly).map(|id| NewAccount { user_data_64: 1, ..different(id) }).collect();
            let others = client.open_accounts(&others).await.unwrap();
            assert!(others.iter().all(|outcome| outcome.code == Code::AccountIdReused), "{others:?}");
            assert_eq!(client.accounts(&(1..=40).collect::<Vec<_>>()).await.unwrap().1, known);
        });
        server.stop().unwrap();
    }
}

/// A request so large that its ids are listed: what is not new of it is answered at its own place, and all others are decided at theirs.
#[test]
fn what_is_known_among_many_is_answered_at_its_place_and_all_others_are_decided() {
    for shards in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let server = TestServer::start(Settings { shards: Some(shards), ..settings(directory.path()) });
        runtime().block_on(async {
            let mut client = server.client().await;
            let accounts: Vec<_> = (1..=42).map(|id| account(id, AccountFlags::default())).collect();
            client.open_accounts(&accounts).await.unwrap();
            // Each has a payer, a payee and an amount of its own.
            let made = |n: u128| transfer(1_000 + n, 42 - n, n + 1, 1 << n);
            let known = client.submit(&[made(5), made(11)]).await.unwrap();
            let mut transfers: Vec<_> = (0..20).map(made).collect();
            transfers[11].amount += 1;
            transfers[13] = transfer(0, 1, 2, 3);
            transfers[15] = transfers[14];
            transfers[17] = transfer(transfers[16].id.raw(), 1, 2, 3);
            let outcomes = client.submit(&transfers).await.unwrap();
            for (place, outcome) in outcomes.iter().enumerate() {
                let expected = match place {
                    11 | 17 => Code::IdReused,
                    13 => Code::IdInvalid,
                    _ => Code::Accepted,
                };
                assert_eq!((outcome.code, outcome.repeated), (expected, place == 5 || place == 15), "{place}");
                let stored = client.transfers(&[transfers[place].id.raw()]).await;
                if expected == Code::Accepted {
                    assert_eq!(stored.unwrap()[0].sequence, outcome.sequence, "{place}");
                }
            }
            assert_eq!((outcomes[5].sequence, outcomes[15].sequence), (known[0].sequence, outcomes[14].sequence));
            let received = client.accounts(&(1..=21).collect::<Vec<_>>()).await.unwrap().1;
            for (n, payee) in (0..20).zip(&received) {
                let expected = if [13, 15, 17].contains(&n) { 0 } else { 1_u128 << n };
                assert_eq!(payee.totals.credits_posted, expected, "{n}");
            }
        });
        server.stop().unwrap();
        assert!(heng::verify::verify(directory.path()).unwrap().ok);
    }
}

#[test]
fn any_number_of_shards_gives_the_same_balances_over_tcp() {
    let mut seen = Vec::new();
    for shards in [1, 2, 3, 8] {
        let directory = tempfile::tempdir().unwrap();
        let server = TestServer::start(Settings { shards: Some(shards), ..settings(directory.path()) });
        let balances = runtime().block_on(async {
            let mut client = server.client().await;
            let accounts: Vec<_> = (1..=50).map(|id| account(id, AccountFlags::default())).collect();
            client.open_accounts(&accounts).await.unwrap();
            for batch in 0..20_u128 {
                let made =
                    |n: u128| transfer(batch * 1_000 + n + 1, n * 7 % 50 + 1, (n * 11 + batch) % 50 + 1, n % 90 + 1);
                let transfers: Vec<_> = (0..400).map(made).collect();
                let outcomes = client.submit(&transfers).await.unwrap();
                let expected = |transfer: &Transfer| transfer.check().err().unwrap_or(Code::Accepted);
                assert!(outcomes.iter().zip(&transfers).all(|(outcome, transfer)| outcome.code == expected(transfer)));
            }
            let accounts = client.all_accounts().await.unwrap();
            assert_eq!(accounts.iter().map(heng::protocol::AccountState::balance).sum::<i128>(), 0);
            let mut balances: Vec<_> = accounts
                .iter()
                .map(|account| {
                    (account.properties.id.raw(), account.totals.debits_posted, account.totals.credits_posted)
                })
                .collect();
            balances.sort_unstable();
            balances
        });
        // The continuous proof has compared shards and book after the last transfer.
        let last = server.telemetry.counters().snapshot().durable_sequence;
        wait_until("an audit at the end", || server.telemetry.counters().snapshot().audited_sequence >= last);
        assert_eq!(server.telemetry.counters().snapshot().invariant_violations_total, 0);
        server.stop().unwrap();
        seen.push(balances);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn history_is_paged_from_the_newest_entry_and_a_foreign_cursor_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(settings(directory.path()));
    let read = async |server: &TestServer| {
        let mut client = server.client().await;
        let (mut cursor, mut amounts) = (0, Vec::new());
        loop {
            let (next, page) = client.history(AccountId::from_raw(2), cursor, 7).await.unwrap();
            amounts.extend(page.iter().map(|stored| match stored.record {
                Record::Transfer { transfer, .. } => transfer.amount,
                _ => 0,
            }));
            cursor = next;
            if cursor == 0 {
                return amounts;
            }
        }
    };
    let expected: Vec<u128> = (0..=500).rev().collect();
    runtime().block_on(async {
        let mut client = server.client().await;
        client
            .open_accounts(&(1..=3).map(|id| account(id, AccountFlags::default())).collect::<Vec<_>>())
            .await
            .unwrap();
        for id in 1..=500 {
            // Every other entry is on the other side, and account 3 has entries in between.
            let mine = if id % 2 == 0 { transfer(id, 1, 2, id) } else { transfer(id, 2, 1, id) };
            client.submit(&[mine, transfer(10_000 + id, 1, 3, 1), transfer(20_000 + id, 2, 2, 1)]).await.unwrap();
        }
        assert_eq!(read(&server).await, expected);
        let (cursor, _) = client.history(AccountId::from_raw(3), 0, 5).await.unwrap();
        let foreign = client.history(AccountId::from_raw(2), cursor, 5).await;
        assert!(matches!(foreign, Err(ClientError::Refused { code: Code::BodyMalformed, .. })));
        let beyond = client.history(AccountId::from_raw(2), 1 << 40, 5).await;
        assert!(matches!(beyond, Err(ClientError::Refused { code: Code::BodyMalformed, .. })));
        assert_eq!(client.history(AccountId::from_raw(9), 0, 5).await.unwrap(), (0, Vec::new()));
    });
    server.stop().unwrap();
    let server = TestServer::start(settings(directory.path()));
    runtime().block_on(async { assert_eq!(read(&server).await, expected, "after a restart") });
    server.stop().unwrap();
}

#[test]
fn strangers_and_liars_are_told_so_and_closed() {
    let (server, _directory) = TestServer::quick();
    let hello = |version_min, version_max, gateway: &str, key| {
        Hello { version_min, version_max, gateway: gateway.to_owned(), key }.encode().unwrap()
    };
    let key = heng::protocol::DEVELOPMENT_KEY;

    let mut raw = server.raw();
    raw.send_bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    raw.expect_error(0, Code::BadMagic);
    raw.expect_closed();

    let mut raw = server.raw();
    raw.send_bytes(b"GE");
    raw.expect_error(0, Code::BadMagic);

    let mut raw = server.raw();
    raw.send(Kind::Hello, 1, &hello(2, 9, "development", key));
    raw.expect_error(0, Code::VersionUnsupported);
    raw.expect_closed();

    let mut raw = server.raw();
    raw.send(Kind::SubmitTransfers, 1, &submit_body(1, 1));
    raw.expect_error(0, Code::HandshakeExpected);
    raw.expect_closed();

    for (gateway, key) in [("development", [1; 32]), ("nobody", key)] {
        let mut raw = server.raw();
        raw.send(Kind::Hello, 1, &hello(1, 1, gateway, key));
        raw.expect_error(0, Code::AuthenticationFailed);
        raw.expect_closed();
    }

    let mut raw = server.raw();
    raw.hello();
    raw.send(Kind::Hello, 2, &hello(1, 1, "development", key));
    raw.expect_error(0, Code::HandshakeRepeated);
    raw.expect_closed();

    let mut raw = server.raw();
    raw.hello();
    let mut frame = Vec::new();
    encode_frame(&mut frame, Kind::Ping, 3, b"x");
    frame[9] ^= 1;
    raw.send_bytes(&frame);
    raw.expect_error(0, Code::HeaderCorrupt);
    raw.expect_closed();

    let mut raw = server.raw();
    raw.hello();
    let header = FrameHeader {
        version: 1,
        kind: Kind::SubmitTransfers.number(),
        request_id: 4,
        body_bytes: BODY_BYTES_MAX + 1,
        body_crc: 0,
    };
    raw.send_bytes(&header.encode());
    raw.expect_error(0, Code::FrameTooLarge);
    raw.expect_closed();

    let mut raw = server.raw();
    raw.hello();
    let header =
        FrameHeader { version: 2, kind: Kind::GetAccounts.number(), request_id: 4, body_bytes: 0, body_crc: 0 };
    raw.send_bytes(&header.encode());
    raw.expect_error(0, Code::VersionUnsupported);
    raw.expect_closed();

    check_others_are_served(&server);
    server.stop().unwrap();
}

#[test]
fn malformed_requests_are_refused_one_by_one_and_the_connection_goes_on() {
    let (server, _directory) = TestServer::quick();
    let mut raw = server.raw();
    raw.hello();
    let mut corrupt = Vec::new();
    encode_frame(&mut corrupt, Kind::SubmitTransfers, 10, &submit_body(1, 1));
    let last = corrupt.len() - 1;
    corrupt[last] ^= 0x80;
    raw.send_bytes(&corrupt);
    raw.expect_error(10, Code::BodyCorrupt);
    for (request_id, body, code) in [
        (11, submit_body(2, 1), Code::BodyMalformed),
        (12, submit_body(1, 2), Code::BodyMalformed),
        (13, submit_body(0, 0), Code::CountZero),
        (14, submit_body(8_191, 1), Code::CountTooLarge),
        (15, vec![1, 0, 0], Code::BodyMalformed),
        (16, Vec::new(), Code::BodyMalformed),
    ] {
        raw.send(Kind::SubmitTransfers, request_id, &body);
        raw.expect_error(request_id, code);
        raw.send(Kind::OpenAccounts, request_id, &body);
        raw.expect_error(request_id, code);
    }
    raw.send(Kind::AccountHistory, 20, &[0; 31]);
    raw.expect_error(20, Code::BodyMalformed);
    raw.send(Kind::Welcome, 21, &[]);
    raw.expect_error(21, Code::KindUnknown);
    let header = FrameHeader { version: 1, kind: 4_444, request_id: 22, body_bytes: 0, body_crc: 0 };
    raw.send_bytes(&header.encode());
    raw.expect_error(22, Code::KindUnknown);
    raw.send(Kind::Ping, 23, b"still there");
    let (header, body) = raw.receive().unwrap();
    assert_eq!((header.kind, header.request_id, &body[..]), (Kind::Pong.number(), 23, &b"still there"[..]));
    check_others_are_served(&server);
    server.stop().unwrap();
}

#[test]
fn silence_in_the_middle_of_a_frame_or_for_too_long_ends_a_connection() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings {
        handshake_timeout_ms: Some(200),
        frame_timeout_ms: Some(200),
        idle_timeout_ms: Some(1_500),
        ..settings(directory.path())
    });
    let mut mute = server.raw();
    mute.expect_error(0, Code::TimedOut);
    mute.expect_closed();

    let mut half = server.raw();
    half.hello();
    let mut frame = Vec::new();
    encode_frame(&mut frame, Kind::SubmitTransfers, 2, &submit_body(100, 100));
    half.send_bytes(&frame[..frame.len() / 2]);
    half.expect_error(0, Code::TimedOut);
    half.expect_closed();

    let mut idle = server.raw();
    idle.hello();
    let begun = Instant::now();
    idle.expect_error(0, Code::TimedOut);
    assert!(begun.elapsed() >= Duration::from_millis(1_400), "{:?}", begun.elapsed());
    check_others_are_served(&server);
    server.stop().unwrap();
}

#[test]
fn a_frame_sent_byte_by_byte_is_answered() {
    let (server, _directory) = TestServer::quick();
    let mut raw = server.raw();
    raw.hello();
    let mut frame = Vec::new();
    encode_frame(&mut frame, Kind::SubmitTransfers, 5, &submit_body(1, 1));
    for byte in frame {
        raw.0.write_all(&[byte]).unwrap();
    }
    assert_eq!(raw.receive().unwrap().0.kind, Kind::TransferOutcomes.number());
    server.stop().unwrap();
}

#[test]
fn draining_answers_what_was_taken_and_takes_nothing_new() {
    let (server, directory) = TestServer::quick();
    let address = server.ready.listen;
    runtime().block_on(async {
        let mut client = server.client().await;
        client
            .open_accounts(&[account(1, AccountFlags::default()), account(2, AccountFlags::default())])
            .await
            .unwrap();
    });
    let mut raw = server.raw();
    raw.hello();
    let before = server.telemetry.counters().snapshot().requests_total;
    for id in 1..=40_u64 {
        let mut body = Vec::new();
        let transfers: Vec<_> = (0..1_000).map(|n| transfer(u128::from(id) * 10_000 + n, 1, 2, 1)).collect();
        encode_transfers(&mut body, transfers.iter());
        raw.send(Kind::SubmitTransfers, id, &body);
    }
    wait_until("some requests to be taken", || server.telemetry.counters().snapshot().requests_total > before);
    let telemetry = server.telemetry.clone();
    server.stop().unwrap();
    let taken = telemetry.counters().snapshot().requests_total - before;
    let mut answered = 0;
    while let Some((header, _)) = raw.receive() {
        assert_eq!(header.kind, Kind::TransferOutcomes.number());
        answered += 1;
    }
    assert_eq!(answered, taken, "every request that was taken was answered");
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
    let report = heng::verify::verify(directory.path()).unwrap();
    assert!(report.ok, "{:?}", report.violations);
    assert_eq!(report.accepted, taken * 1_000);
}

#[test]
fn operations_shows_state_and_metrics() {
    let (server, _directory) = TestServer::quick();
    check_others_are_served(&server);
    let operations = server.ready.operations_listen;
    assert_eq!(http_get(operations, "/healthz"), (200, "ready\n".to_owned()));
    assert_eq!(http_get(operations, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(http_get(operations, "/nothing").0, 404);
    let (status, metrics) = http_get(operations, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "heng_outcomes_total{code=\"accepted\"} 1",
        "heng_durable_sequence 1",
        "heng_items_untaken 0",
        "heng_invariant_violations_total 0",
        "heng_commit_latency_seconds_count 1",
        "heng_received_to_decided_seconds_bucket{le=\"+Inf\"} 1",
        "heng_journal_append_seconds_count",
        "heng_group_records_sum 1",
        "heng_mailbox_depth{actor=\"shard1\"} 0",
        "process_resident_memory_bytes",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(line)), "{line} is not in:\n{metrics}");
    }
    server.stop().unwrap();
}

#[test]
fn a_gateway_added_while_serving_can_connect_at_once_and_after_a_rebuild() {
    let (server, directory) = TestServer::quick();
    let added = server::add(directory.path(), "shop-1");
    let connect = |server: &TestServer, key: &str| {
        let who = Credentials::from_hex("shop-1", key).unwrap();
        runtime().block_on(async { Client::connect(server.ready.listen, &who).await.map(drop) })
    };
    connect(&server, &added.key).unwrap();
    assert!(matches!(
        connect(&server, &"00".repeat(32)),
        Err(ClientError::Refused { code: Code::AuthenticationFailed, .. })
    ));
    server.stop().unwrap();
    std::fs::remove_dir_all(directory.path().join("store")).unwrap();
    let server = TestServer::start(settings(directory.path()));
    connect(&server, &added.key).unwrap();
    server.stop().unwrap();
    let changed = server::add(directory.path(), "shop-1");
    assert_eq!(changed.id, added.id);
    let server = TestServer::start(settings(directory.path()));
    assert!(connect(&server, &added.key).is_err(), "the old key is no longer good");
    // Another gateway is no reason to end a connection; another key of its own is one.
    let runtime = runtime();
    let who = Credentials::from_hex("shop-1", &changed.key).unwrap();
    let mut client = runtime.block_on(Client::connect(server.ready.listen, &who)).unwrap();
    server::add(directory.path(), "shop-2");
    runtime.block_on(client.accounts(&[1])).unwrap();
    server::add(directory.path(), "shop-1");
    let ended = runtime.block_on(client.accounts(&[1]));
    let is_told = |err: &ClientError| matches!(err, ClientError::Broken(why) if why.to_string().contains("authentication_failed"));
    assert!(ended.as_ref().is_err_and(is_told), "{ended:?}");
    server.stop().unwrap();
}

mod server {
    //! Adding a gateway as the command line does.
    use std::path::Path;

    pub(crate) fn add(data_dir: &Path, name: &str) -> heng::server::NewGateway {
        heng::server::add_gateway(data_dir, name, heng::ledger::GrantChange::default(), 2 << 20).unwrap()
    }
}

/// Ten thousand connections are open and idle; all of them are answered, and so is anybody else. The server is a process of its
/// own, so that each side may open as many files.
#[test]
fn ten_thousand_connections_are_served() {
    const CONNECTIONS: usize = 10_000;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    if limit.maximum.is_some_and(|maximum| maximum < CONNECTIONS as u64 + 500) {
        common::skip(&format!("only {:?} files may be open", limit.maximum));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[]);
    let mut peers: Vec<Raw> = (0..CONNECTIONS).map(|_| Raw::connect(server.listen)).collect();
    for peer in &mut peers {
        peer.hello();
    }
    assert!(http_get(server.operations, "/metrics").1.contains("heng_connections 10000\n"));
    for peer in &mut peers {
        peer.send(Kind::Ping, 1, &[]);
    }
    runtime().block_on(async {
        let mut client = Client::connect(server.listen, &Credentials::development()).await.unwrap();
        assert_eq!(client.open_accounts(&[account(1, LIMITED)]).await.unwrap()[0].code, Code::Accepted);
    });
    for peer in &mut peers {
        assert_eq!(peer.receive().unwrap().0.kind, Kind::Pong.number());
    }
    drop(peers);
    let (status, said) = server.terminate();
    assert!(status.success(), "{said}");
}
