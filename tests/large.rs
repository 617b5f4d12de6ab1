//! Large requests over real TCP, whose transfers the server reads while they come.

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

use std::collections::BTreeMap;

use common::{Raw, TestServer, account, check_others_are_served, runtime, settings, transfer};
use heng::config::Settings;
use heng::ledger::{AccountFlags, Code, LINKED, RECORD_BYTES, Transfer};
use heng::protocol::{
    FRAME_HEADER_BYTES, ITEMS_HEADER_BYTES, Kind, decode_error, decode_outcomes, encode_frame, encode_transfers,
};

/// Transfers of 1 from account 1 to account 2.
fn transfers(first_id: u128, count: u128) -> Vec<Transfer> {
    (first_id..first_id + count).map(|id| transfer(id, 1, 2, 1)).collect()
}

fn frame(request_id: u64, transfers: &[Transfer]) -> Vec<u8> {
    with(request_id, transfers, |_| {})
}

/// A frame whose body was changed before its checksum was made.
fn with(request_id: u64, transfers: &[Transfer], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut body = Vec::new();
    encode_transfers(&mut body, transfers.iter());
    change(&mut body);
    let mut frame = Vec::new();
    encode_frame(&mut frame, Kind::SubmitTransfers, request_id, &body);
    frame
}

fn open(server: &TestServer) {
    runtime().block_on(async {
        let mut client = server.client().await;
        let accounts = [account(1, AccountFlags::default()), account(2, AccountFlags::default())];
        client.open_accounts(&accounts).await.unwrap();
    });
}

fn received(server: &TestServer) -> u128 {
    runtime().block_on(async { server.client().await.accounts(&[2]).await.unwrap().1[0].totals.credits_posted })
}

/// What so many frames say, by request: how many transfers were accepted, or why it was refused.
fn answers(raw: &mut Raw, count: usize) -> BTreeMap<u64, Result<usize, Code>> {
    let answer = |_| {
        let (header, body) = raw.receive().unwrap();
        let said = match Kind::from_number(header.kind).unwrap() {
            Kind::TransferOutcomes => {
                let outcomes = decode_outcomes(&body).unwrap();
                Ok(outcomes.iter().filter(|outcome| outcome.code == Code::Accepted).count())
            }
            Kind::Pong => Ok(body.len()),
            _ => Err(decode_error(&body).unwrap().0),
        };
        (header.request_id, said)
    };
    (0..count).map(answer).collect()
}

#[test]
fn a_large_request_is_answered_when_it_is_whole_however_it_comes() {
    let (server, _directory) = TestServer::quick();
    open(&server);
    let mut ping = Vec::new();
    encode_frame(&mut ping, Kind::Ping, 2, b"ping");
    let large = transfers(10_000, 8_190);
    let mut corrupt = frame(12, &transfers(30_000, 3_000));
    *corrupt.last_mut().unwrap() ^= 1;
    let mut linked = transfers(50_000, 3_000);
    linked[2_999].flags |= LINKED;
    let stream = [
        frame(10, &transfers(1, 3)),
        ping.clone(),
        frame(11, &large),
        frame(20, &transfers(100, 5)),
        corrupt,
        with(13, &transfers(40_000, 3_000), |body| body[ITEMS_HEADER_BYTES + 2_000 * RECORD_BYTES] = 1),
        with(14, &transfers(45_000, 3_000), |body| body[0] ^= 1),
        frame(15, &linked),
        frame(16, &transfers(60_000, 1_500)),
        frame(11, &large),
        frame(17, &transfers(200, 1)),
    ]
    .concat();
    for sizes in [&[1, 31, 7_000, 65_536, 100_003, 127][..], &[usize::MAX], &[50_000]] {
        let mut raw = server.raw();
        raw.hello();
        let mut reading = Raw(raw.0.try_clone().unwrap());
        let answered = std::thread::spawn(move || answers(&mut reading, 11));
        let (mut rest, mut sizes) = (&stream[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            raw.send_bytes(now);
            rest = later;
        }
        // One comes twice under one number, and is done once.
        let expected = [
            (2, Ok(4)),
            (10, Ok(3)),
            (11, Ok(8_190)),
            (12, Err(Code::BodyCorrupt)),
            (13, Err(Code::BodyMalformed)),
            (14, Err(Code::BodyMalformed)),
            (15, Err(Code::TransactionOpen)),
            (16, Ok(1_500)),
            (17, Ok(1)),
            (20, Ok(5)),
        ];
        assert_eq!(answered.join().unwrap(), BTreeMap::from(expected));
        assert_eq!(received(&server), 3 + 8_190 + 5 + 1_500 + 1);
    }
    server.stop().unwrap();
}

#[test]
fn of_a_large_request_that_breaks_off_nothing_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { frame_timeout_ms: Some(1_000), ..settings(directory.path()) });
    open(&server);
    let whole = frame(1, &transfers(10_000, 8_190));
    for sent in [FRAME_HEADER_BYTES + 100_000, whole.len() - 1] {
        let mut gone = server.raw();
        gone.hello();
        gone.send_bytes(&whole[..sent]);
        drop(gone);
        let mut silent = server.raw();
        silent.hello();
        silent.send_bytes(&whole[..sent]);
        silent.expect_error(0, Code::TimedOut);
        silent.expect_closed();
    }
    assert_eq!(received(&server), 0);
    let mut raw = server.raw();
    raw.hello();
    raw.send_bytes(&whole);
    assert_eq!(answers(&mut raw, 1), BTreeMap::from([(1, Ok(8_190))]));
    check_others_are_served(&server);
    server.stop().unwrap();
}

#[test]
fn what_is_known_already_is_told_wherever_it_is_in_a_large_request() {
    let (server, _directory) = TestServer::quick();
    open(&server);
    runtime().block_on(async {
        let mut client = server.client().await;
        let large = transfers(10_000, 8_190);
        // The server takes it in pieces: all of the first and of the last are known, and something amid.
        let known = [0..1_100, 3_000..3_001, 4_000..4_050, 7_100..8_190];
        for range in &known {
            client.submit(&large[range.clone()]).await.unwrap();
        }
        let outcomes = client.submit(&large).await.unwrap();
        for (place, outcome) in outcomes.iter().enumerate() {
            let is_known = known.iter().any(|range| range.contains(&place));
            assert_eq!((outcome.code, outcome.repeated), (Code::Accepted, is_known), "transfer {place}");
        }
        // Nothing of it is new: the shard decides nothing, and waits for nothing.
        let again = client.submit(&large).await.unwrap();
        assert!(again.iter().all(|outcome| outcome.repeated));
        assert!(again.iter().map(|outcome| outcome.sequence).eq(outcomes.iter().map(|outcome| outcome.sequence)));
        let one = client.submit(&transfers(1, 1)).await.unwrap();
        assert_eq!((one[0].code, one[0].repeated), (Code::Accepted, false));
        assert_eq!(client.accounts(&[2]).await.unwrap().1[0].totals.credits_posted, 8_191);
    });
}
