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

use std::time::Instant;

use common::{TestServer, account, runtime, settings, transfer};
use heng::client::{Answer, Client, ClientError, Credentials};
use heng::config::Settings;
use heng::ledger::{
    AccountChange, AccountClass, AccountFlags, AccountId, BALANCING, Code, Grant, GrantChange, LINKED, NewAccount,
    Operation, Record, Transfer, TransferId,
};
use heng::protocol::{AccountRequest, Kind, Query, QueryKind, encode_frame, encode_ids};

/// An account is paid in the same breath in which it is opened: the book, and so reads and the next start, know it.
#[test]
fn an_account_opened_and_paid_in_one_breath_keeps_its_money() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(settings(directory.path()));
    runtime().block_on(async {
        let mut client = server.client().await;
        client.open_accounts(&[account(1, AccountFlags::default())]).await.unwrap();
        for number in 0..50_u128 {
            let (mut sender, mut receiver) = server.connection().await;
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

/// A limited account's flags.
const LIMITED: AccountFlags = AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS;

fn ask(id: u128, debit: u128, credit: u128, amount: u128, operation: Operation) -> Transfer {
    Transfer { flags: operation as u16, ..transfer(id, debit, credit, amount) }
}

fn about(id: u128, first: &Transfer, amount: u128, operation: Operation) -> Transfer {
    let (debit, credit) = (first.debit.raw(), first.credit.raw());
    let (debit, credit) = if operation.names_original() { (credit, debit) } else { (debit, credit) };
    Transfer { related: first.id.raw(), code: first.code, ..ask(id, debit, credit, amount, operation) }
}

async fn codes(client: &mut Client, transfers: &[Transfer]) -> Vec<&'static str> {
    let outcomes = client.submit(transfers).await.unwrap();
    outcomes.iter().map(|outcome| outcome.code.name()).collect()
}

/// World 1, limited 2 with 1,000 and limited 3.
async fn prepare(client: &mut Client) {
    let accounts = [account(1, AccountFlags::default()), account(2, LIMITED), account(3, LIMITED)];
    assert!(client.open_accounts(&accounts).await.unwrap().iter().all(|outcome| outcome.code.is_accepted()));
    assert_eq!(codes(client, &[transfer(10, 1, 2, 1_000)]).await, ["accepted"]);
}

#[test]
fn the_life_of_a_transfer_is_told_from_hold_to_refund() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        prepare(&mut client).await;
        let hold = ask(20, 2, 3, 100, Operation::Hold);
        let capture = about(21, &hold, 60, Operation::Capture);
        // All in one request: what has the same debit account is decided in order; the refund waits for the capture.
        assert_eq!(
            codes(&mut client, &[hold, capture, about(22, &capture, 25, Operation::Refund)]).await,
            ["accepted"; 3]
        );
        let (next, life) = client.query(&Query::new(QueryKind::Life, 20, 100)).await.unwrap();
        let (mut paged, mut page) = (Vec::new(), Query::new(QueryKind::Life, 20, 1));
        loop {
            let (next, records) = client.query(&page).await.unwrap();
            assert!(records.len() <= 1, "as many as were asked for");
            paged.extend(records);
            page.from = next;
            if next == 0 {
                break;
            }
        }
        assert_eq!(paged, life, "page by page it is the same life");
        let told: Vec<_> = life
            .iter()
            .map(|stored| {
                let transfer = match &stored.record {
                    Record::Transfer { transfer, .. } | Record::Internal { transfer, .. } => transfer,
                    other => panic!("{other:?}"),
                };
                (transfer.operation().name(), transfer.amount)
            })
            .collect();
        assert_eq!(told, [("hold", 100), ("capture", 60), ("release", 40), ("refund", 25)]);
        assert_eq!(next, 0);
        let states = client.accounts(&[2, 3]).await.unwrap().1;
        assert_eq!((states[0].balance(), states[1].balance()), (965, 35));
        assert_eq!(client.query(&Query::new(QueryKind::Life, 999, 10)).await.unwrap(), (0, vec![]));
    });
    server.stop().unwrap();
}

#[test]
fn repeats_of_every_operation_get_the_first_outcome() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        prepare(&mut client).await;
        let hold = ask(20, 2, 3, 100, Operation::Hold);
        let all = [
            hold,
            about(21, &hold, 60, Operation::Raise),
            about(22, &hold, 0, Operation::Void),
            Transfer { flags: BALANCING, ..transfer(23, 2, 3, 5_000) },
            Transfer { flags: LINKED, ..transfer(24, 3, 2, 10) },
            transfer(25, 3, 2, 5_000),
            Transfer {
                id: TransferId::from_raw(26),
                ..AccountChange { level: Some(3), ..AccountChange::default() }.request(hold.debit)
            },
        ];
        let first = client.submit(&all).await.unwrap();
        let names: Vec<_> = first.iter().map(|outcome| outcome.code.name()).collect();
        let expected =
            ["accepted", "accepted", "accepted", "accepted", "transaction_failed", "insufficient_funds", "accepted"];
        assert_eq!(names, expected);
        let again = client.submit(&all).await.unwrap();
        for (first, again) in first.iter().zip(&again) {
            assert!(
                again.repeated && (first.code, first.sequence) == (again.code, again.sequence),
                "{first:?} {again:?}"
            );
        }
        // With other content they are refused; in a transaction, with everything that is new in it.
        let other = Transfer { flags: BALANCING, ..transfer(23, 2, 3, 5_001) };
        assert_eq!(codes(&mut client, &[other]).await, ["id_reused"]);
        let mixed = [Transfer { flags: LINKED, ..transfer(30, 3, 2, 1) }, transfer(10, 1, 2, 1_000)];
        assert_eq!(codes(&mut client, &mixed).await, ["transaction_failed", "accepted"]);
        let twice = [
            Transfer { flags: LINKED, ..transfer(31, 3, 2, 1) },
            Transfer { flags: LINKED, ..transfer(31, 3, 2, 1) },
            transfer(32, 3, 2, 1),
        ];
        let outcomes = client.submit(&twice).await.unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.code == Code::TransactionFailed), "{outcomes:?}");
        assert_eq!(client.accounts(&[3]).await.unwrap().1[0].balance(), 1_000);
        // A transaction must be whole.
        let open = client.submit(&[Transfer { flags: LINKED, ..transfer(40, 3, 2, 1) }]).await.unwrap_err();
        assert!(matches!(open, ClientError::Refused { code: Code::TransactionOpen, .. }), "{open}");
        let long: Vec<_> =
            (0..65).map(|n| Transfer { flags: if n < 64 { LINKED } else { 0 }, ..transfer(50 + n, 3, 2, 1) }).collect();
        let long = client.submit(&long).await.unwrap_err();
        assert!(matches!(long, ClientError::Refused { code: Code::TransactionTooLong, .. }), "{long}");
    });
    server.stop().unwrap();
}

#[test]
fn histories_are_paged_both_ways_and_balances_of_the_past_are_found() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        prepare(&mut client).await;
        let mut outcomes = Vec::new();
        for number in 0..10_u128 {
            let wanted = Transfer {
                code: u16::from(number % 2 == 0),
                user_data_128: number % 3,
                ..transfer(100 + number, 2, 3, 10)
            };
            outcomes.extend(client.submit(&[wanted]).await.unwrap());
        }
        let hold = ask(200, 2, 3, 50, Operation::Hold);
        codes(&mut client, &[hold, ask(201, 3, 2, 1, Operation::Transfer)]).await;
        for oldest_first in [false, true] {
            let mut query = Query { oldest_first, code: Some(1), ..Query::new(QueryKind::Entries, 3, 2) };
            let mut seen = Vec::new();
            loop {
                let (next, page) = client.query(&query).await.unwrap();
                seen.extend(page.iter().map(|stored| stored.sequence));
                if next == 0 {
                    break;
                }
                query.from = next;
            }
            let expected: Vec<_> = outcomes.iter().step_by(2).map(|outcome| outcome.sequence).collect();
            let expected = if oldest_first { expected } else { expected.into_iter().rev().collect() };
            assert_eq!(seen, expected, "oldest first: {oldest_first}");
        }
        let between = Query {
            time_min: outcomes[3].time_ns,
            time_max: outcomes[5].time_ns,
            ..Query::new(QueryKind::Entries, 2, 100)
        };
        assert_eq!(client.query(&between).await.unwrap().1.len(), 3);
        let with = Query { counterparty: 1, ..Query::new(QueryKind::Entries, 2, 100) };
        assert_eq!(client.query(&with).await.unwrap().1.len(), 1);
        let reference = client.query(&Query::new(QueryKind::Reference, 2, 100)).await.unwrap();
        assert_eq!((reference.0, reference.1.len()), (0, 3));
        // As of a sequence, of a time, and now.
        let at = |sequence, time_ns| AccountRequest { account: hold.debit, sequence, time_ns };
        let fifth = outcomes[4];
        for request in [at(fifth.sequence, 0), at(0, fifth.time_ns)] {
            let then = client.account(&request).await.unwrap();
            assert_eq!((then.account.unwrap().balance(), then.sequence), (950, fifth.sequence));
        }
        let now = client.account(&at(0, 0)).await.unwrap().account.unwrap();
        assert_eq!((now.balance(), now.available(), now.totals.debits_pending), (901, Some(851), 50));
        assert_eq!(client.account(&at(0, 1)).await.unwrap().account, None, "it was not open yet");
    });
    server.stop().unwrap();
}

const POLICY: &str = r#"
[[limit]]
name = "a day"
counted_per = "account"
currency = "EUR"
window = "day"
codes = [5]
sum_max = "5.00"
[[fee]]
name = "fee"
codes = [5]
currency = "EUR"
paid_by = "payee"
fee_code = 9
percent = "10"
to = [{ account = 1 }]
"#;

#[test]
fn what_would_happen_is_explained_with_fees_and_limits_and_nothing_is_posted() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, POLICY).unwrap();
    let data = directory.path().join("data");
    let with_policy = Settings { policy_file: Some(policy), ..settings(&data) };
    let server = TestServer::start(with_policy);
    let spend = |id, amount| Transfer { code: 5, ..transfer(id, 2, 3, amount) };
    runtime().block_on(async {
        let mut client = server.client().await;
        prepare(&mut client).await;
        let explained = client.explain(&[spend(20, 400), spend(21, 101)]).await.unwrap();
        let told: Vec<_> = explained.outcomes.iter().map(|outcome| (outcome.code, outcome.limit.as_str())).collect();
        assert_eq!(told, [(Code::Accepted, ""), (Code::LimitExceeded, "a day")]);
        assert!(matches!(explained.records[1], Record::Internal { transfer, .. } if transfer.amount == 40));
        assert_eq!(client.accounts(&[3]).await.unwrap().1[0].balance(), 0, "nothing is posted");
        assert_eq!(codes(&mut client, &[spend(20, 400), spend(21, 101)]).await, ["accepted", "limit_exceeded"]);
        assert_eq!(client.accounts(&[3]).await.unwrap().1[0].balance(), 360);
    });
    server.stop().unwrap();
    // Policy and what was counted are there after a start without the file, and after the loss of the store.
    std::fs::remove_dir_all(data.join("store")).unwrap();
    let server = TestServer::start(settings(&data));
    runtime().block_on(async {
        let mut client = server.client().await;
        let detail =
            client.account(&AccountRequest { account: AccountId::from_raw(2), sequence: 0, time_ns: 0 }).await.unwrap();
        assert_eq!(detail.limits.len(), 0, "the limit is about code 5 only");
        let codes = codes(&mut client, &[spend(22, 101), spend(23, 100)]).await;
        assert_eq!(codes, ["limit_exceeded", "accepted"]);
    });
    server.stop().unwrap();
    assert!(heng::verify::verify(&data).unwrap().ok);
}

#[test]
fn a_reversal_is_explained_with_what_it_brings_back() {
    const RESERVE: &str =
        "[[reserve]]\nname = \"rolling\"\npercent = \"10\"\ndays = 1\naccount = 4\nreserve_code = 92\ncodes = [6]";
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, RESERVE).unwrap();
    let server = TestServer::start(Settings { policy_file: Some(policy), ..settings(&directory.path().join("data")) });
    runtime().block_on(async {
        let mut client = server.client().await;
        prepare(&mut client).await;
        client.open_accounts(&[account(4, LIMITED)]).await.unwrap();
        let payment = Transfer { code: 6, ..transfer(20, 2, 3, 400) };
        assert_eq!(codes(&mut client, &[payment]).await, ["accepted"]);
        assert_eq!(client.accounts(&[3]).await.unwrap().1[0].balance(), 360);
        let reversal = about(21, &payment, 400, Operation::Reversal);
        let explained = client.explain(&[reversal]).await.unwrap();
        assert_eq!(explained.outcomes[0].code, Code::Accepted);
        assert!(
            matches!(explained.records[0], Record::Internal { transfer, .. } if (transfer.operation(), transfer.amount) == (Operation::Arrive, 40))
        );
        assert_eq!(explained.records.len(), 2);
        assert_eq!(codes(&mut client, &[reversal]).await, ["accepted"]);
        let (_, balances) = client.accounts(&[2, 3, 4]).await.unwrap();
        assert_eq!(balances.iter().map(heng::ledger::BookAccount::balance).collect::<Vec<_>>(), [1_000, 0, 0]);
    });
    server.stop().unwrap();
}

#[test]
fn what_is_due_while_the_server_is_down_arrives_after_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let now = || u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap();
    let server = TestServer::start(settings(directory.path()));
    let due = now() + 1_500_000_000;
    runtime().block_on(async {
        let mut client = server.client().await;
        prepare(&mut client).await;
        let delayed = Transfer { time_ns: due, ..ask(20, 2, 3, 100, Operation::Delayed) };
        let cancelled = Transfer { time_ns: due, ..ask(21, 2, 3, 100, Operation::Delayed) };
        let hold = Transfer { time_ns: due, ..ask(22, 2, 3, 100, Operation::Hold) };
        let all = [delayed, cancelled, hold, about(23, &cancelled, 0, Operation::Void)];
        assert_eq!(codes(&mut client, &all).await, ["accepted"; 4]);
        let state = client.accounts(&[2]).await.unwrap().1[0];
        assert_eq!((state.balance(), state.available()), (1_000, Some(800)));
    });
    server.stop().unwrap();
    let server = TestServer::start(settings(directory.path()));
    runtime().block_on(async {
        let mut client = server.client().await;
        let until = Instant::now() + common::DEADLINE;
        while client.accounts(&[3]).await.unwrap().1[0].balance() != 100 {
            assert!(Instant::now() < until, "the transfer does not arrive");
        }
        let (_, entries) = client.query(&Query::new(QueryKind::Entries, 3, 1)).await.unwrap();
        assert!(entries[0].time_ns >= due, "never early");
        while client.accounts(&[2]).await.unwrap().1[0].available() != Some(900) {
            assert!(Instant::now() < until, "the hold does not expire");
        }
    });
    server.stop().unwrap();
    assert!(heng::verify::verify(directory.path()).unwrap().ok);
}

#[test]
fn a_gateway_does_what_its_key_permits_and_refusals_are_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(settings(directory.path()));
    let operations = Some(Grant::parse_operations("transfer,hold").unwrap());
    let grant = GrantChange { operations, amount_max: Some(100) };
    let added = heng::server::add_gateway(directory.path(), "shop", grant, 2 << 20).unwrap();
    runtime().block_on(async {
        prepare(&mut server.client().await).await;
        let who = Credentials::from_hex("shop", &added.key).unwrap();
        let mut shop = Client::connect(server.ready.listen.to_string(), &who).await.unwrap();
        let hold = ask(21, 2, 3, 100, Operation::Hold);
        let all = [transfer(20, 2, 3, 101), hold, about(22, &hold, 100, Operation::Capture)];
        assert_eq!(codes(&mut shop, &all).await, ["amount_not_permitted", "accepted", "operation_not_permitted"]);
        let recorded = shop.transfers(&[22]).await.unwrap();
        assert!(matches!(recorded[0].record, Record::Transfer { outcome: Code::OperationNotPermitted, .. }));
        let refused = shop.open_accounts(&[account(9, LIMITED)]).await.unwrap();
        assert_eq!(refused[0].code, Code::OperationNotPermitted);
    });
    server.stop().unwrap();
}

#[test]
fn coverage_of_client_funds_and_what_is_open_are_metrics() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        let of_class = |id, class: AccountClass, flags| NewAccount { class: class.number(), ..account(id, flags) };
        let accounts = [
            of_class(1, AccountClass::External, AccountFlags::default()),
            of_class(2, AccountClass::ClientFunds, LIMITED),
            of_class(3, AccountClass::PlatformOwn, AccountFlags::default()),
        ];
        client.open_accounts(&accounts).await.unwrap();
        // The platform credits a client without the bank having paid.
        let all = [transfer(20, 1, 2, 600), transfer(21, 3, 2, 200), ask(22, 2, 1, 50, Operation::Hold)];
        assert_eq!(codes(&mut client, &all).await, ["accepted"; 3]);
    });
    let expected = ["heng_client_funds_coverage_ratio{currency=\"EUR\"} 0.75", "heng_open_pendings 1"];
    common::wait_until("the metrics", || {
        let page = common::http_get(server.ready.operations_listen, "/metrics").1;
        expected.iter().all(|line| page.contains(line))
    });
    server.stop().unwrap();
}

/// What the store lost of what was given back is found, before it is paid twice; what it cannot read is no violation, as a start makes it again.
fn what_the_store_lost_is_found(data: &std::path::Path) {
    let store = data.join("store");
    let last_run = |last: u64| {
        let opened = sled::open(&store).unwrap();
        let meta = opened.open_tree("meta").unwrap();
        let checkpoint = meta.get("checkpoint").unwrap().unwrap().to_vec();
        let (rest, was) = checkpoint.split_last_chunk::<8>().unwrap();
        meta.insert("checkpoint", [rest, &last.to_le_bytes()[..]].concat()).unwrap();
        opened.flush().unwrap();
        u64::from_le_bytes(*was)
    };
    let runs = store.join("lives");
    std::fs::rename(&runs, store.join("lost")).unwrap();
    let was = last_run(0);
    let report = heng::verify::verify(data).unwrap();
    assert!(report.violations[0].contains("that None was given back, the journal says"), "{report:?}");
    // What is not whole, or cannot be read, is made again by a start, and no violation.
    last_run(was);
    let cannot_be_read = |where_it_is: &str| {
        let report = heng::verify::verify(data).unwrap();
        assert!(report.ok && report.store.contains(where_it_is), "{report:?}");
        assert!(report.store.contains(data.to_str().unwrap()), "{report:?}");
    };
    cannot_be_read(" is missing in ");
    std::fs::rename(store.join("lost"), &runs).unwrap();
    let run = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&run).unwrap();
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    std::fs::write(&run, bytes).unwrap();
    cannot_be_read("the checksum of a block is wrong");
    std::fs::write(&run, whole).unwrap();
}

/// What was given back is in memory only until a checkpoint has it, and counts for ever: before, after, and after a restart.
#[test]
fn refunds_count_wherever_they_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.checkpoint_transfers = Some(100);
    let server = TestServer::start(settings.clone());
    // The next checkpoint begins when a hundred records have come since the last one.
    let few_in_memory = |server: &TestServer| {
        common::wait_until("what was given back to be in a checkpoint", || {
            let page = common::http_get(server.ready.operations_listen, "/metrics").1;
            let line = page.lines().find_map(|line| line.strip_prefix("heng_given_back_in_memory "));
            line.unwrap().parse::<u64>().unwrap() <= 100
        });
    };
    let paid: Vec<Transfer> = (0..500).map(|number| transfer(1_000 + number, 1, 2, 10)).collect();
    let all = |amount, from: u128, operation: Operation| -> Vec<Transfer> {
        (from..).zip(&paid).map(|(id, paid)| about(id, paid, amount, operation)).collect()
    };
    runtime().block_on(async {
        let mut client = server.client().await;
        prepare(&mut client).await;
        assert!(codes(&mut client, &paid).await.iter().all(|code| *code == "accepted"));
        assert!(codes(&mut client, &all(6, 2_000, Operation::Refund)).await.iter().all(|code| *code == "accepted"));
        few_in_memory(&server);
        assert!(
            codes(&mut client, &all(5, 3_000, Operation::Refund)).await.iter().all(|code| *code == "refund_too_large")
        );
        assert!(
            codes(&mut client, &all(10, 4_000, Operation::Reversal))
                .await
                .iter()
                .all(|code| *code == "already_reversed")
        );
        assert!(codes(&mut client, &all(3, 5_000, Operation::Refund)).await.iter().all(|code| *code == "accepted"));
        few_in_memory(&server);
    });
    server.stop().unwrap();
    assert!(heng::verify::verify(directory.path()).unwrap().ok);
    what_the_store_lost_is_found(directory.path());
    assert!(heng::verify::verify(directory.path()).unwrap().ok);
    let server = TestServer::start(settings);
    few_in_memory(&server);
    runtime().block_on(async {
        let mut client = server.client().await;
        assert!(
            codes(&mut client, &all(2, 6_000, Operation::Refund)).await.iter().all(|code| *code == "refund_too_large")
        );
        assert!(codes(&mut client, &all(1, 7_000, Operation::Refund)).await.iter().all(|code| *code == "accepted"));
        assert!(
            codes(&mut client, &all(1, 8_000, Operation::Refund)).await.iter().all(|code| *code == "refund_too_large")
        );
    });
    server.stop().unwrap();
}

/// Much that is asked for at once is made page by page: all of it is answered, and what comes after it too.
#[test]
fn many_large_reads_at_once_are_all_answered() {
    let (server, _directory) = TestServer::quick();
    runtime().block_on(async {
        let mut client = server.client().await;
        client
            .open_accounts(&[account(1, AccountFlags::default()), account(2, AccountFlags::default())])
            .await
            .unwrap();
        let (mut sender, mut receiver) = server.connection().await;
        let ids: Vec<u128> = (1..=8_000).collect();
        for request in 1..=15 {
            sender.get_accounts(request, &ids);
        }
        sender.submit(16, &[transfer(1_000, 1, 2, 7)]);
        sender.flush().await.unwrap();
        let mut answered = Vec::new();
        while answered.len() < 16 {
            let (request, answer) = receiver.next().await.unwrap();
            match answer {
                Answer::Accounts(_, accounts) => assert_eq!(accounts.len(), 2),
                Answer::Outcomes(outcomes) => assert!(outcomes[0].code.is_accepted()),
                other => panic!("{request}: {other:?}"),
            }
            answered.push(request);
        }
        answered.sort_unstable();
        assert_eq!(answered, (1..=16).collect::<Vec<_>>());
    });
    server.stop().unwrap();
}

/// Who asks for much and takes nothing has little of it made.
#[test]
fn what_is_read_for_a_client_that_never_takes_it_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Settings { write_timeout_ms: Some(1_000), ..settings(directory.path()) });
    let accounts: Vec<NewAccount> = (1..=8_000).map(|id| account(id, AccountFlags::default())).collect();
    runtime().block_on(async { server.client().await.open_accounts(&accounts).await.unwrap() });
    let taken = || server.telemetry.counters().requests_total.load(std::sync::atomic::Ordering::Relaxed);
    let before = taken();
    let mut deaf = server.raw();
    deaf.hello();
    let mut body = Vec::new();
    encode_ids(&mut body, (1..=8_000_u16).map(u128::from));
    // Some megabytes fit between the two; the answers are as much each.
    for request in 1..=60 {
        let mut frame = Vec::new();
        encode_frame(&mut frame, Kind::GetAccounts, request, &body);
        // The server has closed it already.
        if std::io::Write::write_all(&mut deaf.0, &frame).is_err() {
            break;
        }
    }
    common::wait_until("it is closed", || {
        server.telemetry.counters().connections_open.load(std::sync::atomic::Ordering::Relaxed) == 0
    });
    let made = taken() - before;
    assert!((1..=30).contains(&made), "{made} of 60 were begun");
    server.stop().unwrap();
}
