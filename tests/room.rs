//! Bounds over real TCP: who sends more than there is room for is refused or slowed down, at little cost, and others do not notice.

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

use std::io::Write;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use common::{
    DEADLINE, Raw, TestServer, account, check_others_are_served, hello_frame, http_answer, http_begin, runtime,
    settings, transfer, wait_until,
};
use heng::client::{Client, Credentials};
use heng::config::Settings;
use heng::ledger::{AccountFlags, Code};
use heng::protocol::{
    DEVELOPMENT_GATEWAY, DEVELOPMENT_KEY, ITEMS_MAX, Kind, Query, QueryKind, encode_frame, encode_ids, encode_transfers,
};

/// A frame with transfers of one unit each from account 1 to account 2, with these ids.
fn submit_frame(request: u64, ids: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    let transfers: Vec<_> = ids.map(|id| transfer(id.into(), 1, 2, 1)).collect();
    let (mut frame, mut body) = (Vec::new(), Vec::new());
    encode_transfers(&mut body, transfers.iter());
    encode_frame(&mut frame, Kind::SubmitTransfers, request, &body);
    frame
}

/// Room for a full batch and no more, and two accounts.
fn narrow(settings: Settings) -> TestServer {
    with_accounts(Settings { transfers_in_flight_max: Some(8_190), ..settings })
}

fn with_accounts(settings: Settings) -> TestServer {
    let server = TestServer::start(settings);
    runtime().block_on(async {
        let mut client = server.client().await;
        let accounts = [account(1, AccountFlags::default()), account(2, AccountFlags::default())];
        client.open_accounts(&accounts).await.unwrap();
    });
    server
}

/// Sends a transfer and the beginning of a full batch in one piece: with the transfer inside there is no room for the batch, which is
/// refused before the rest of it is sent. Returns the batch.
fn begin_too_much(raw: &mut Raw) -> Vec<u8> {
    let batch = submit_frame(3, 2..=u64::from(ITEMS_MAX) + 1);
    let beginning = [submit_frame(2, 1..=1).as_slice(), &batch[..1_000]].concat();
    raw.send_bytes(&beginning);
    raw.expect_error(3, Code::Busy);
    assert_eq!(raw.receive().unwrap().0.kind, Kind::TransferOutcomes.number());
    batch
}

/// Sends a frame again and again until it is answered like this.
fn send_until(raw: &mut Raw, frame: &[u8], wanted: Kind) {
    let until = Instant::now() + DEADLINE;
    loop {
        raw.send_bytes(frame);
        if raw.receive().unwrap().0.kind == wanted.number() {
            return;
        }
        assert!(Instant::now() < until, "never answered {wanted:?}");
    }
}

/// Sends the beginning of a frame, and returns when the server has it: what came in one piece with it is answered.
fn begin(raw: &mut Raw, frame: &[u8]) {
    let mut beginning = Vec::new();
    encode_frame(&mut beginning, Kind::Ping, 77, b"");
    beginning.extend_from_slice(&frame[..100_000]);
    raw.send_bytes(&beginning);
    assert_eq!(raw.receive().unwrap().0.request_id, 77);
}

#[test]
fn frames_that_have_only_begun_to_arrive_take_a_bounded_room() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { receiving_bytes_max: Some(2 << 20), ..settings(directory.path()) };
    let server = with_accounts(settings);
    let full = u64::from(ITEMS_MAX);
    let batches = [1, 2, 3].map(|batch| submit_frame(batch, batch * full..=(batch + 1) * full - 1));
    let mut peers = [(); 3].map(|()| server.raw());
    for (peer, batch) in peers.iter_mut().zip(&batches).take(2) {
        peer.hello();
        begin(peer, batch);
    }
    // The third takes no more room, however much of it is sent.
    let last = &mut peers[2];
    last.hello();
    last.send_bytes(&batches[2]);
    last.expect_error(3, Code::Busy);
    let small = submit_frame(9, 9 * full..=9 * full + 99);
    last.send_bytes(&small);
    assert_eq!(last.receive().unwrap().0.request_id, 9, "what is small is served all the same");
    peers[0].send_bytes(&batches[0][100_000..]);
    assert_eq!(peers[0].receive().unwrap().0.kind, Kind::TransferOutcomes.number());
    let [first, gone, last] = &mut peers;
    send_until(last, &batches[2], Kind::TransferOutcomes);
    // A connection that ends gives its room back, too. One that had a full batch has room of its own for a while.
    begin(first, &batches[0]);
    let last = &mut server.raw();
    last.hello();
    last.send_bytes(&batches[2]);
    last.expect_error(3, Code::Busy);
    gone.0.shutdown(std::net::Shutdown::Both).unwrap();
    send_until(last, &batches[2], Kind::TransferOutcomes);
}

#[test]
fn a_batch_without_room_is_refused_before_it_has_come_and_what_follows_it_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let server = narrow(settings(directory.path()));
    let mut raw = server.raw();
    raw.hello();
    let batch = begin_too_much(&mut raw);
    let (middle, mut end) = (&batch[1_000..500_000], batch[500_000..].to_vec());
    raw.send_bytes(middle);
    encode_frame(&mut end, Kind::Ping, 4, b"still there");
    raw.send_bytes(&end);
    let (header, body) = raw.receive().unwrap();
    assert_eq!((header.kind, header.request_id, body.as_slice()), (Kind::Pong.number(), 4, b"still there".as_slice()));
    // Nothing of it has happened, so all of it happens now.
    raw.send_bytes(&batch);
    assert_eq!(raw.receive().unwrap().0.kind, Kind::TransferOutcomes.number());
    runtime().block_on(async {
        let mut client = server.client().await;
        let account = client.accounts(&[2]).await.unwrap().1[0];
        assert_eq!(account.totals.credits_posted, u128::from(ITEMS_MAX) + 1);
    });
    server.stop().unwrap();
}

#[test]
fn who_does_not_send_the_rest_of_a_refused_batch_is_late_or_gone() {
    let directory = tempfile::tempdir().unwrap();
    let server = narrow(Settings { frame_timeout_ms: Some(300), ..settings(directory.path()) });
    let mut late = server.raw();
    late.hello();
    begin_too_much(&mut late);
    late.expect_error(0, Code::TimedOut);
    late.expect_closed();
    let mut gone = server.raw();
    gone.hello();
    begin_too_much(&mut gone);
    drop(gone);
    check_others_are_served(&server);
    server.stop().unwrap();
}

/// Nothing is read while a frame that is dribbled rests, which is no reason to call late what has come meanwhile.
#[test]
fn a_hello_whose_rest_came_in_time_is_welcome_even_if_nobody_has_looked() {
    const LIMIT: Duration = Duration::from_secs(2);
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { handshake_timeout_ms: Some(2_000), ..settings(directory.path()) });
    let runtime = runtime();
    // A peer's own pace; nothing waits for anything here.
    let pass = |time| runtime.block_on(async { tokio::time::sleep(time).await });
    let begun = Instant::now();
    let mut raw = server.raw();
    let hello = hello_frame();
    let (dribbled, rest) = hello.split_at(5);
    // The last of these is read after more than half of the time: what follows is looked at when it is over.
    for (place, byte) in dribbled.iter().enumerate() {
        let at = Duration::from_millis([0, 100, 200, 300, 1_150][place]);
        pass(at.saturating_sub(begun.elapsed()));
        raw.send_bytes(&[*byte]);
    }
    pass(Duration::from_millis(300));
    raw.send_bytes(rest);
    assert!(begun.elapsed() < LIMIT, "this machine stands still");
    assert_eq!(raw.receive().expect("a welcome").0.kind, Kind::Welcome.number());
    assert!(begun.elapsed() >= LIMIT, "it was read at once: {:?}", begun.elapsed());
    drop(raw);
    server.stop().unwrap();
}

#[test]
fn who_floods_with_pings_is_slowed_down_and_answered() {
    let (server, _directory) = TestServer::quick();
    let mut frames = Vec::new();
    (2..=6_001).for_each(|request| encode_frame(&mut frames, Kind::Ping, request, b""));
    // The first interval is counted from when the server has the connection.
    let begun = Instant::now();
    let mut raw = server.raw();
    raw.hello();
    raw.send_bytes(&frames);
    for request in 2..=6_001 {
        assert_eq!(raw.receive().unwrap().0.request_id, request);
    }
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    check_others_are_served(&server);
}

#[test]
fn who_asks_for_many_accounts_again_and_again_is_slowed_down_and_answered() {
    let (server, _directory) = TestServer::quick();
    let mut raw = server.raw();
    raw.hello();
    let mut ids = Vec::new();
    encode_ids(&mut ids, (1..=8_000_u16).map(u128::from));
    let begun = Instant::now();
    for request in 2..=121 {
        raw.send(Kind::GetAccounts, request, &ids);
        assert_eq!(raw.receive().unwrap().0.request_id, request);
    }
    // Not read from for 3.2 ms after each.
    assert!(begun.elapsed() >= Duration::from_micros(119 * 3_100), "{:?}", begun.elapsed());
    check_others_are_served(&server);
}

/// The room of one read is there for the next as soon as its answer is written, and not only when somebody looks.
#[test]
fn reads_that_wait_for_each_other_are_answered_one_after_the_other_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = with_accounts(settings(directory.path()));
    let mut raw = server.raw();
    raw.hello();
    for request in 0..82 {
        raw.send_bytes(&submit_frame(100 + request, request * 100 + 1..=request * 100 + 100));
        assert_eq!(raw.receive().unwrap().0.kind, Kind::TransferOutcomes.number());
    }
    // Each takes longer than the time for which nothing is read after it.
    let (mut ids, mut frames) = (Vec::new(), Vec::new());
    encode_ids(&mut ids, (1..=8_190_u16).map(u128::from));
    (2..=7).for_each(|request| encode_frame(&mut frames, Kind::GetTransfers, request, &ids));
    let begun = Instant::now();
    raw.send_bytes(&frames);
    for request in 2..=7 {
        assert_eq!(raw.receive().unwrap().0.request_id, request);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "each was to wait for a second: {:?}", begun.elapsed());
    server.stop().unwrap();
}

#[test]
fn a_peer_that_floods_and_never_reads_is_cut_off_and_others_do_not_notice() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { write_timeout_ms: Some(500), ..settings(directory.path()) });
    let mut flood = server.raw();
    flood.hello();
    flood.0.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut frame = Vec::new();
    let mut body = Vec::new();
    encode_ids(&mut body, (1..=8_000_u16).map(u128::from));
    encode_frame(&mut frame, Kind::Ping, 6, &body);
    // Until the server stops reading, and then until it has closed.
    let begun = Instant::now();
    loop {
        match flood.0.write(&frame) {
            Ok(_) => {}
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => check_others_are_served(&server),
            Err(_) => break,
        }
        assert!(begun.elapsed() < DEADLINE, "a peer that never reads is closed");
    }
    check_others_are_served(&server);
    server.stop().unwrap();
}

/// Connections that ask and take no answers, as many as together could have all the room: pages of accounts, echoes, transfers.
#[test]
fn peers_that_take_no_answers_keep_nobody_out_and_are_cut_off_when_they_have_too_much() {
    const DEAF: usize = 12;
    let directory = tempfile::tempdir().unwrap();
    // Of so much a thirty-second part is less than each of them asks for.
    let server = narrow(Settings { write_timeout_ms: Some(120_000), ..settings(directory.path()) });
    let (mut ids, mut echo) = (Vec::new(), Vec::new());
    encode_ids(&mut ids, (1..=4_000_u16).map(|_| 1));
    encode_frame(&mut echo, Kind::Ping, 6, &vec![7; 1_000_000]);
    let mut deaf: Vec<_> = (0..DEAF)
        .map(|place| {
            let mut raw = server.raw();
            raw.hello();
            raw.0.set_nonblocking(true).unwrap();
            let mut frame = Vec::new();
            match place % 3 {
                0 => encode_frame(&mut frame, Kind::GetAccounts, 6, &ids),
                1 => frame.clone_from(&echo),
                _ => frame = submit_frame(6, 1..=3_000),
            }
            (raw, frame, 0)
        })
        .collect();
    let begun = Instant::now();
    let (mut served_in_a_row, mut round) = (0, 0);
    let mut other = server.raw();
    other.hello();
    // Long before the two minutes are over that each has for an answer.
    while deaf.len() > DEAF / 2 || served_in_a_row < 10 {
        deaf.retain_mut(|(raw, frame, sent)| {
            let err = loop {
                match raw.0.write(&frame[*sent..]) {
                    Ok(written) => *sent = (*sent + written) % frame.len(),
                    Err(err) => break err,
                }
            };
            err.kind() == std::io::ErrorKind::WouldBlock
        });
        round += 1;
        other.send_bytes(&submit_frame(round, round * 4_000..=round * 4_000 + 3_999));
        served_in_a_row = if served_and_busy(&mut other, 1).0 == 1 { served_in_a_row + 1 } else { 0 };
        assert!(begun.elapsed() < DEADLINE, "{} are there, {served_in_a_row} served", deaf.len());
    }
    drop(deaf);
    server.stop().unwrap();
}

/// As `nc` does with what it is given.
#[test]
fn who_closes_its_half_gets_its_answers_all_the_same() {
    let (server, _directory) = TestServer::quick();
    let mut raw = server.raw();
    raw.hello();
    let (mut frames, mut body) = (Vec::new(), Vec::new());
    encode_ids(&mut body, [1].into_iter());
    let events = Query { wait_ms: 20_000, ..Query::new(QueryKind::Events, 77, 10) };
    encode_frame(&mut frames, Kind::GetAccounts, 5, &body);
    encode_frame(&mut frames, Kind::Query, 6, &events.encode());
    frames.extend_from_slice(&submit_frame(7, 1..=100));
    raw.send_bytes(&frames);
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answered = [(); 3].map(|()| raw.receive().unwrap().0.request_id);
    answered.sort_unstable();
    assert_eq!(answered, [5, 6, 7]);
    raw.expect_closed();
    server.stop().unwrap();
}

#[test]
fn more_than_is_allowed_in_flight_is_answered_busy_and_nothing_of_it_happens() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings {
        connection_requests_in_flight_max: Some(2),
        transfers_in_flight_max: Some(8_190),
        ..settings(directory.path())
    });
    runtime().block_on(async {
        let mut client = server.client().await;
        client
            .open_accounts(&[account(1, AccountFlags::default()), account(2, AccountFlags::default())])
            .await
            .unwrap();
    });
    let mut raw = server.raw();
    raw.hello();
    // All in one write, so that they are parsed together and two are taken.
    let frames: Vec<_> = (1..=50).map(|id| submit_frame(id, id..=id)).collect();
    raw.send_bytes(&frames.concat());
    let (answered, busy) = served_and_busy(&mut raw, 50);
    assert!(answered >= 2 && busy > 0, "{answered} answered, {busy} busy");
    runtime().block_on(async {
        let mut client = server.client().await;
        assert_eq!(client.accounts(&[2]).await.unwrap().1[0].totals.credits_posted, u128::from(answered));
    });
    server.stop().unwrap();
}

/// Receives so many answers, and returns how many requests were served and how many refused for want of room.
fn served_and_busy(raw: &mut Raw, count: u64) -> (u64, u64) {
    let mut busy = 0;
    for _ in 0..count {
        let (header, body) = raw.receive().unwrap();
        if header.kind != Kind::TransferOutcomes.number() {
            assert_eq!(heng::protocol::decode_error(&body).unwrap().0, Code::Busy);
            busy += 1;
        }
    }
    (count - busy, busy)
}

/// Sends sixty requests for a hundred transfers on each connection, all at once, and returns how many were served and how many were refused.
fn flood(peers: &mut [Raw], round: u64) -> (u64, u64) {
    for (peer, place) in peers.iter_mut().zip(round * 1_000..) {
        let frames =
            (place * 60..(place + 1) * 60).map(|request| submit_frame(request, request * 100..=request * 100 + 99));
        peer.send_bytes(&frames.collect::<Vec<_>>().concat());
    }
    let answers = peers.iter_mut().map(|peer| served_and_busy(peer, 60));
    answers.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

#[test]
fn where_more_comes_than_there_is_room_for_it_is_crowded_until_the_callers_left_have_room() {
    let directory = tempfile::tempdir().unwrap();
    let server = narrow(settings(directory.path()));
    let is_crowded = || {
        let page = common::http_get(server.ready.operations_listen, "/metrics").1;
        let told = page.lines().find_map(|line| line.strip_prefix("heng_crowded "));
        told.unwrap() == "1"
    };
    assert!(!is_crowded());
    let mut peers = [(); 12].map(|()| server.raw());
    peers.iter_mut().for_each(Raw::hello);
    let (mut accepted, mut round) = (0, 1);
    wait_until("more than there is room for", || {
        let (taken, busy) = flood(&mut peers, round);
        (accepted, round) = (accepted + taken, round + 1);
        assert!(taken > 0 && (busy > 0 || !is_crowded()), "refused only for want of room");
        is_crowded()
    });
    // One after the other, nobody is refused, and half the room, in which each moment without any counts as a sixty-fourth of it, ends it.
    let alone = &mut peers[0];
    let mut calm = 0;
    while is_crowded() {
        calm += 1;
        alone.send_bytes(&submit_frame(calm, calm..=calm));
        assert_eq!(alone.receive().unwrap().0.kind, Kind::TransferOutcomes.number());
        assert!(calm < 33, "32 are enough");
    }
    runtime().block_on(async {
        let account = server.client().await.accounts(&[2]).await.unwrap().1[0];
        assert_eq!(
            account.totals.credits_posted,
            u128::from(accepted * 100 + calm),
            "what was refused has not happened"
        );
    });
    server.stop().unwrap();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { connections_max: Some(2), ..settings(directory.path()) });
    let (mut first, mut second) = (server.raw(), server.raw());
    first.hello();
    second.hello();
    let mut third = server.raw();
    third.expect_error(0, Code::TooManyConnections);
    third.expect_closed();
    drop(first);
    // A place is free as soon as the server has noticed.
    wait_until("a free place", || {
        runtime().block_on(async { Client::connect(server.ready.listen, &Credentials::development()).await.is_ok() })
    });
    server.stop().unwrap();
}

/// Headers of who may clear: the development gateway and its key.
fn known() -> String {
    let key = DEVELOPMENT_KEY.map(|byte| format!("{byte:02x}")).concat();
    let basic = BASE64_STANDARD.encode(format!("{DEVELOPMENT_GATEWAY}:{key}"));
    format!("Authorization: Basic {basic}\r\n")
}

#[test]
fn two_files_are_taken_at_once_and_others_are_told_to_come_again() {
    let (server, _directory) = TestServer::quick();
    let headers = format!("{}Content-Length: 10\r\n", known());
    let (tell, told) = std::sync::mpsc::channel();
    let mut senders: Vec<_> = (0..3)
        .map(|place| {
            let mut stream = http_begin(server.ready.operations_listen, "POST /clearing/answers", &headers);
            stream.write_all(b"<Doc").unwrap();
            let (reading, tell) = (stream.try_clone().unwrap(), tell.clone());
            std::thread::spawn(move || tell.send((place, http_answer(reading))).unwrap());
            stream
        })
        .collect();
    // Ten seconds later; the others wait for the rest of their files.
    let (refused, (status, why)) = told.recv_timeout(DEADLINE).unwrap();
    assert!(status == 503 && why.contains("other files are being taken"), "{status} {why}");
    senders.remove(refused);
    for stream in &mut senders {
        stream.write_all(b"ument>").unwrap();
        let (_, (status, why)) = told.recv_timeout(DEADLINE).unwrap();
        assert!(status == 200 && why.contains("the file ends too early"), "{status} {why}");
    }
    server.stop().unwrap();
}

#[test]
fn a_page_of_another_origin_changes_nothing() {
    let (server, _directory) = TestServer::quick();
    let operations = server.ready.operations_listen;
    let ask = |what: &str, origin: &str| http_answer(http_begin(operations, what, &format!("{}{origin}", known()))).0;
    let close = "POST /clearing/windows/cards/close";
    for origin in ["Origin: http://elsewhere\r\n", "Origin: null\r\n", "Origin: https://heng.elsewhere\r\n"] {
        assert_eq!(ask(close, origin), 403, "{origin}");
        assert_eq!(ask("GET /healthz", origin), 200, "{origin}");
    }
    for origin in ["", "Origin: http://heng\r\n", "Origin: https://heng\r\n"] {
        assert_eq!(ask(close, origin), 404, "there is no such scheme");
    }
    server.stop().unwrap();
}
