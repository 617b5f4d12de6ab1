//! Settlement over real shards in one thread, stopped at every single step, before and after its effect, and gone on with.

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

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use heng::backoffice::{Answer, Command, DayReporter, Office, Participating, ReportOptions};
use heng::ledger::{
    AccountFlags, AccountId, AccountState, Code, NewAccount, PayoutState, PolicyPart, Record, StoredRecord, Transfer,
    TransferId, WindowState,
};
use ports::{Fused, NOON_NS};
use scheme::{a_day_at_the_bank, files, ledger, person, policy, run, transfer};

/// Closes a window and settles it; then comes the bank.
fn a_day(ports: &Fused, directory: &Path, fuse: Option<(usize, bool)>) -> usize {
    let mut office = Office::new(ports.clone(), directory);
    office.perform(Command::CloseWindow { scheme: "cards".to_owned() }, &person(1)).unwrap();
    *ports.fuse.lock().unwrap() = fuse;
    run(ports, directory) + a_day_at_the_bank(ports, directory)
}

/// Participant, amount, whether it is a collection, and what became of it.
type Paid = (u32, u128, bool, PayoutState);

/// What a day came to: accounts, payouts, the window's state.
fn outcome(ports: &Fused) -> (Vec<i128>, Vec<Paid>, WindowState) {
    let mut network = ports.network.lock().unwrap();
    network.check_agreement();
    network.check_replay();
    let book = &network.book;
    let balances = book.accounts().map(|account| account.balance()).collect();
    let payouts = book.windows().payouts().values();
    let mut payouts: Vec<_> =
        payouts.map(|payout| (payout.participant, payout.amount, payout.is_collection, payout.state)).collect();
    payouts.sort_unstable();
    (balances, payouts, book.windows().window((1, 1)).unwrap().state)
}

#[test]
fn whatever_step_is_the_last_before_a_crash_the_day_ends_the_same_and_nothing_is_paid_twice() {
    for (netting, atomic, format) in [
        ("multilateral", "scheme", "pain.001"),
        ("multilateral", "participant", "csv"),
        ("bilateral", "scheme", "csv"),
        ("gross", "scheme", "pain.001"),
    ] {
        let text = policy(netting, atomic, format);
        let whole = tempfile::tempdir().unwrap();
        let ports = ledger(&text);
        assert_eq!(a_day(&ports, whole.path(), None), 0);
        let (expected, expected_files) = (outcome(&ports), files(whole.path()));
        assert_eq!(expected.2, WindowState::Reconciled, "{netting}");
        let mut step = 0;
        loop {
            let mut stopped = false;
            for is_done in [false, true] {
                let directory = tempfile::tempdir().unwrap();
                let ports = ledger(&text);
                stopped |= a_day(&ports, directory.path(), Some((step, is_done))) > 0;
                assert_eq!(outcome(&ports), expected, "{netting}, stopped at step {step}, done: {is_done}");
                let written = files(directory.path());
                assert_eq!(written, expected_files, "{netting}, stopped at step {step}, done: {is_done}");
            }
            if !stopped {
                break;
            }
            step += 1;
            assert!(step < 1_000, "{netting} does not end");
        }
        assert!(step > 20, "{netting}: only {step} steps");
    }
}

#[test]
fn a_position_is_paid_out_as_far_as_it_is_there_and_the_rest_is_carried_over() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(&policy("multilateral", "scheme", "pain.001"));
    a_day(&ports, directory.path(), None);
    let (balances, payouts, _) = outcome(&ports);
    // Net: 1 receives 8400 and 2 9400; 3 has 55, less than the minimum; 4 has 2995 but only 495 left, and is not paid out of its
    // overdraft; 5 owes 1100.
    let expected = [
        (1, 8_400, false, PayoutState::Confirmed),
        (2, 9_400, false, PayoutState::Returned),
        (4, 495, false, PayoutState::Confirmed),
        (5, 1_100, true, PayoutState::Confirmed),
    ];
    assert_eq!(payouts, expected);
    assert_eq!(balances[..5], [0, 9_400, 55, 0, 0]);
    let network = ports.network.lock().unwrap();
    let next = network.book.windows().window((1, 2)).unwrap();
    let carried: Vec<i128> = (1..=5).map(|place| next.positions.of(place).net()).collect();
    assert_eq!((carried, next.positions.total()), (vec![0, 9_400, 55, 2_500, 0], 0));
    drop(network);
    let xml = String::from_utf8(files(directory.path())["cards-00001-000001-2026-11-23.xml"].clone()).unwrap();
    for part in [
        "<NbOfTxs>3</NbOfTxs>",
        "<CtrlSum>182.95</CtrlSum>",
        "<InstdAmt Ccy=\"EUR\">4.95</InstdAmt>",
        "<Nm>Platform &amp; Co</Nm>",
        "<Nm>Müller &amp; Söhne &lt;GmbH&gt;</Nm>",
        "<IBAN>GB82WEST12345698765432</IBAN>",
        "<Dt>2026-11-23</Dt>",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
}

#[test]
fn a_frozen_account_is_left_out_and_the_others_are_settled() {
    for atomic in ["scheme", "participant"] {
        let directory = tempfile::tempdir().unwrap();
        let ports = ledger(&policy("multilateral", atomic, "csv"));
        set_state(&ports, (77, 1), AccountState::Frozen);
        a_day(&ports, directory.path(), None);
        let (balances, payouts, state) = outcome(&ports);
        assert_eq!((balances[0], state), (8_400, WindowState::Reconciled), "{atomic}");
        assert_eq!(payouts.iter().map(|payout| payout.0).collect::<Vec<_>>(), [2, 4, 5]);
        let csv = String::from_utf8(files(directory.path())["cards-00001-000001-2026-11-23.csv"].clone()).unwrap();
        assert!(csv.contains(",'=cmd|' /C calc'!A0,") && csv.lines().count() == 3, "{csv}");
    }
}

/// Somebody does this, and it is accepted.
fn submit(ports: &Fused, transfer: Transfer) {
    let mut network = ports.network.lock().unwrap();
    network.submit(&[transfer]);
    network.settle();
    assert_eq!(network.codes[&transfer.id.raw()], Code::Accepted);
}

fn set_state(ports: &Fused, (id, account): (u128, u128), state: AccountState) {
    let change = heng::ledger::AccountChange { state: Some(state), ..heng::ledger::AccountChange::default() };
    let id = TransferId::from_raw(id);
    submit(ports, Transfer { id, ..change.request(AccountId::from_raw(account)) });
}

/// Somebody may have taken the file of a window to the bank as soon as it is there: whoever could not be paid then is not paid by it later.
#[test]
fn who_was_left_out_does_not_come_in_once_a_payout_is_issued() {
    let mut seen = (0, 0, 0);
    for cut in 0..200 {
        let directory = tempfile::tempdir().unwrap();
        let ports = ledger(&policy("multilateral", "scheme", "csv"));
        set_state(&ports, (77, 1), AccountState::Frozen);
        let mut office = Office::new(ports.clone(), directory.path());
        office.perform(Command::CloseWindow { scheme: "cards".to_owned() }, &person(1)).unwrap();
        *ports.fuse.lock().unwrap() = Some((cut, true));
        let stopped = loop {
            match office.look() {
                Ok(true) => {}
                Ok(false) => break false,
                Err(_stopped) => break true,
            }
        };
        let payouts = || ports.network.lock().unwrap().book.windows().payouts().clone();
        let (before, is_file) = (payouts(), directory.path().join("payouts").exists());
        let written = is_file.then(|| files(directory.path()));
        *ports.fuse.lock().unwrap() = None;
        set_state(&ports, (78, 1), AccountState::Open);
        run(&ports, directory.path());
        let is_paid = payouts().values().any(|payout| payout.participant == 1 && payout.window == (1, 1));
        assert_eq!(is_paid, stopped && before.is_empty(), "cut {cut}: {before:?}");
        for (name, bytes) in written.iter().flatten() {
            assert_eq!(files(directory.path())[name], *bytes, "cut {cut}: {name}");
        }
        ports.network.lock().unwrap().check_agreement();
        seen = (seen.0 + usize::from(before.is_empty()), seen.1 + before.len(), seen.2 + usize::from(is_file));
        if !stopped {
            break;
        }
    }
    assert!(seen.0 > 0 && seen.1 > 0 && seen.2 > 0, "{seen:?}");
}

#[test]
fn a_large_payout_needs_two_persons_and_answers_of_the_bank_are_taken_once() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(&policy("multilateral", "scheme", "pain.001"));
    let mut office = Office::new(ports.clone(), directory.path());
    office.perform(Command::CloseWindow { scheme: "cards".to_owned() }, &person(1)).unwrap();
    run(&ports, directory.path());
    let ids: BTreeMap<u32, String> = {
        let network = ports.network.lock().unwrap();
        let payouts = network.book.windows().payouts().values();
        payouts.map(|payout| (payout.participant, format!("{:032x}", payout.id.raw()))).collect()
    };
    let content = format!(
        "payout_id,status,reason\n{},confirmed,\n{},REJECTED,account closed for good\n{},confirmed,\n{},underway,\nnonsense,confirmed,\n{:032x},confirmed,\n",
        ids[&1], ids[&2], ids[&4], ids[&5], 99
    );
    let answers = |office: &mut Office<Fused>, who| match office
        .perform(Command::BankAnswers { content: content.clone() }, &person(who))
        .unwrap()
    {
        Answer::Answers { confirmed, proposed, rejected, unchanged, wrong } => {
            (confirmed, proposed, rejected, unchanged, wrong.len())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(answers(&mut office, 1), (1, 2, 0, 1, 2), "4 is small, 1 and 2 are large");
    assert_eq!(answers(&mut office, 1), (0, 0, 0, 3, 3), "the same person again; 4 waits for nothing any more");
    let refused = office.perform(Command::ConfirmPayout { payout: ids[&1].clone() }, &person(1)).unwrap_err();
    assert_eq!((refused.status, refused.code), (403, "second_person_needed"));
    assert_eq!(answers(&mut office, 2), (1, 0, 1, 1, 3), "another person");
    // What is confirmed stays so, unless two persons say that the bank gave it back.
    let reject = |payout: &str| Command::RejectPayout { payout: payout.to_owned(), reason: "AC04".to_owned() };
    for (who, state) in [(1, "rejection-proposed"), (2, "rejected")] {
        let answer = office.perform(reject(&ids[&4]), &person(who)).unwrap();
        assert!(matches!(answer, Answer::Payout(payout) if payout.state == state), "{who}");
    }
    run(&ports, directory.path());
    let (_, payouts, state) = outcome(&ports);
    assert_eq!(payouts.iter().filter(|payout| payout.3 == PayoutState::Returned).count(), 2);
    assert_eq!(state, WindowState::Settled, "one collection is still under way");
}

#[test]
fn mistakes_of_operators_are_answered_with_what_to_do() {
    let ports = ledger(&policy("multilateral", "scheme", "pain.001"));
    let mut office = Office::new(ports, Path::new("unused"));
    let add = |account: &str, name: &str, iban: &str| Command::AddParticipant {
        participant: 9,
        account: account.to_owned(),
        name: name.to_owned(),
        iban: iban.to_owned(),
        bic: String::new(),
    };
    for (command, status) in [
        (add("1", "x", ""), 409),
        (add("12345", "x", ""), 404),
        (add("900", "", ""), 400),
        (add("900", "x", "DE89370400440532013001"), 400),
        (Command::CloseWindow { scheme: "nothing".to_owned() }, 404),
        (Command::ConfirmPayout { payout: "1".to_owned() }, 400),
        (Command::ConfirmPayout { payout: format!("{:032x}", 5) }, 404),
    ] {
        let problem = office.perform(command.clone(), &person(1)).unwrap_err();
        assert_eq!(problem.status, status, "{command:?}: {problem:?}");
    }
}

#[test]
fn a_window_is_settled_by_the_policy_by_which_it_was_closed() {
    let text = policy("multilateral", "scheme", "pain.001");
    let whole = tempfile::tempdir().unwrap();
    let ports = ledger(&text);
    a_day(&ports, whole.path(), None);
    let (balances, payouts, _) = outcome(&ports);
    for (from, to) in [
        ("settlement_account", "settlement_code = 901\nsettlement_account"),
        ("atomic = \"scheme\"", "atomic = \"participant\""),
        ("netting = \"multilateral\"", "netting = \"gross\""),
        ("minimum_payout = \"1.00\"", "minimum_payout = \"90.00\""),
        ("name = \"cards\"", "name = \"other\""),
    ] {
        for step in 0..40 {
            let directory = tempfile::tempdir().unwrap();
            let ports = ledger(&text);
            let mut office = Office::new(ports.clone(), directory.path());
            office.perform(Command::CloseWindow { scheme: "cards".to_owned() }, &person(1)).unwrap();
            *ports.fuse.lock().unwrap() = Some((step, true));
            while office.look().is_ok_and(|some| some) {}
            *ports.fuse.lock().unwrap() = None;
            {
                let mut network = ports.network.lock().unwrap();
                // Meanwhile everybody has received something, and another policy is in force.
                for (number, account) in (0_u128..).zip(1..=5_u128) {
                    network.submit(&[Transfer { code: 8, ..transfer(700 + number, (800, account), 50_000) }]);
                }
                network.settle();
                for part in PolicyPart::split(&text.replace(from, to)) {
                    network.append(Record::Policy(part));
                }
            }
            run(&ports, directory.path());
            let network = ports.network.lock().unwrap();
            let of = network.book.windows();
            let mut paid: Vec<_> =
                of.payouts().values().map(|payout| (payout.participant, payout.is_collection)).collect();
            paid.sort_unstable();
            assert_eq!(paid, [(1, false), (2, false), (4, false), (5, true)], "{to}, stopped at {step}");
            let files: Vec<String> = files(directory.path()).into_keys().filter(|name| name.contains(".xml")).collect();
            assert_eq!(files, ["cards-00001-000001-2026-11-23.xml"], "{to}, stopped at {step}");
            // Nobody was debited by more than its payout.
            for payout in of.payouts().values().filter(|payout| !payout.is_collection) {
                let account = network.book.account(AccountId::from_raw(u128::from(payout.participant))).unwrap();
                let leg = of.window((1, 1)).unwrap().settled(of.place_of(payout.participant).unwrap());
                assert_eq!(leg, i128::try_from(payout.amount).unwrap());
                let before = [8_400, 9_400, 55, 495][usize::try_from(payout.participant).unwrap() - 1];
                assert_eq!(account.balance() + leg, before + 50_000, "{to}, stopped at {step}");
            }
        }
    }
    assert_eq!((balances.len(), payouts.len()), (7, 4));
}

#[test]
fn who_may_owe_without_a_limit_is_paid_what_is_there_and_no_more() {
    for (netting, atomic) in [("multilateral", "scheme"), ("bilateral", "participant"), ("gross", "scheme")] {
        let directory = tempfile::tempdir().unwrap();
        let ports = ledger(&policy(netting, atomic, "csv"));
        {
            let id = AccountId::from_raw(6);
            ports.network.lock().unwrap().open(&NewAccount { id, currency: 978, code: 1, ..NewAccount::default() });
        }
        let mut office = Office::new(ports.clone(), directory.path());
        let [account, name, iban, bic] = ["6", "six", "", ""].map(str::to_owned);
        office.perform(Command::AddParticipant { participant: 6, account, name, iban, bic }, &person(1)).unwrap();
        submit(&ports, transfer(60, (800, 6), 3_000));
        submit(&ports, Transfer { code: 8, ..transfer(61, (6, 800), 2_500) });
        a_day(&ports, directory.path(), None);
        let (_, payouts, _) = outcome(&ports);
        let six: Vec<Paid> = payouts.into_iter().filter(|payout| payout.0 == 6).collect();
        assert_eq!(six, [(6, 500, false, PayoutState::Confirmed)], "{netting} {atomic}");
        let network = ports.network.lock().unwrap();
        assert_eq!(network.book.account(AccountId::from_raw(6)).unwrap().balance(), 0);
        let next = network.book.windows().window((1, 2)).unwrap();
        let place = next.positions.iter().find(|(_, position)| position.net() == 2_500).map(|(place, _)| place);
        assert!(place.is_some(), "{netting} {atomic}: the rest is carried over, {:?}", next.positions);
    }
}

#[test]
fn a_mirror_that_may_not_be_credited_beyond_its_debits_takes_in_what_was_collected() {
    // Of what 5 owes, 4 can be paid, who comes before it; there is no room for 1 and 2.
    let multilateral = vec![(4, 495, false), (5, 1_100, true)];
    let bilateral = vec![(4, 5, true), (4, 500, false), (5, 100, false), (5, 300, true), (5, 900, true)];
    for (netting, atomic, expected) in [
        ("multilateral", "scheme", &multilateral),
        ("multilateral", "participant", &multilateral),
        ("bilateral", "participant", &bilateral),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let ports = ledger(&policy(netting, atomic, "csv").replace("= 900\n", "= 901\n"));
        {
            let (id, flags) = (AccountId::from_raw(901), AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS);
            let account = NewAccount { id, currency: 978, code: 1, flags, ..NewAccount::default() };
            ports.network.lock().unwrap().open(&account);
        }
        a_day(&ports, directory.path(), None);
        let (_, payouts, _) = outcome(&ports);
        let confirmed =
            |&(id, amount, collection): &(u32, u128, bool)| (id, amount, collection, PayoutState::Confirmed);
        assert_eq!(payouts, expected.iter().map(confirmed).collect::<Vec<Paid>>(), "{netting} {atomic}");
    }
}

#[test]
fn what_is_collected_pays_for_what_is_paid_out() {
    for (netting, atomic) in [("gross", "scheme"), ("gross", "participant"), ("bilateral", "scheme")] {
        let directory = tempfile::tempdir().unwrap();
        let ports = ledger(&policy(netting, atomic, "csv").replace("\"1.00\"", "\"0\""));
        // Participant 3 has passed on all it received.
        submit(&ports, transfer(60, (800, 3), 10_000));
        submit(&ports, transfer(61, (3, 1), 10_055));
        a_day(&ports, directory.path(), None);
        let (balances, payouts, _) = outcome(&ports);
        assert_eq!(balances[2], 0, "{netting} {atomic}: {payouts:?}");
        let network = ports.network.lock().unwrap();
        let next = network.book.windows().window((1, 2)).unwrap();
        assert_eq!(next.positions.of(3).net(), 0, "{netting} {atomic}: {payouts:?}");
    }
}

#[test]
fn what_the_bank_refused_goes_back_once_its_account_can_take_it() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(&policy("multilateral", "scheme", "csv"));
    let mut office = Office::new(ports.clone(), directory.path());
    office.perform(Command::CloseWindow { scheme: "cards".to_owned() }, &person(1)).unwrap();
    run(&ports, directory.path());
    set_state(&ports, (77, 2), AccountState::Frozen);
    let id = {
        let network = ports.network.lock().unwrap();
        let payout = network.book.windows().payouts().values().find(|payout| payout.participant == 2).unwrap();
        format!("{:032x}", payout.id.raw())
    };
    for who in [1, 2] {
        let reject = Command::RejectPayout { payout: id.clone(), reason: "AC04".to_owned() };
        office.perform(reject, &person(who)).unwrap();
    }
    let records = |ports: &Fused| ports.network.lock().unwrap().journal.len();
    let before = records(&ports);
    (0..50).for_each(|_| drop(office.look()));
    assert_eq!(records(&ports), before, "a frozen account is not tried");
    set_state(&ports, (78, 2), AccountState::Open);
    while office.look().unwrap() {}
    let state = |ports: &Fused| {
        let network = ports.network.lock().unwrap();
        let payout = network.book.windows().payouts().values().find(|payout| payout.participant == 2).copied();
        payout.unwrap().state
    };
    assert_eq!(state(&ports), PayoutState::Rejected, "not at once again");
    let later = NOON_NS + 61_000_000_000;
    ports.network.lock().unwrap().tick(later);
    while office.look().unwrap() {}
    assert_eq!(state(&ports), PayoutState::Returned);
    assert_eq!(outcome(&ports).0[1], 9_400);
}

#[test]
fn nothing_is_said_of_a_payout_before_its_file_is_there_and_banks_are_changed_by_two() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(&policy("multilateral", "scheme", "csv"));
    // Nobody can write where the payout files should be.
    fs::write(directory.path().join("payouts"), "in the way").unwrap();
    let mut office = Office::new(ports.clone(), directory.path());
    office.perform(Command::CloseWindow { scheme: "cards".to_owned() }, &person(1)).unwrap();
    while matches!(office.look(), Ok(true)) {}
    let id = {
        let network = ports.network.lock().unwrap();
        assert_eq!(network.book.windows().window((1, 1)).unwrap().state, WindowState::Closed);
        format!("{:032x}", network.book.windows().payouts().keys().next().unwrap().raw())
    };
    for command in [
        Command::RejectPayout { payout: id.clone(), reason: String::new() },
        Command::ConfirmPayout { payout: id.clone() },
    ] {
        let problem = office.perform(command, &person(1)).unwrap_err();
        assert!(problem.status == 409 && problem.detail.contains("not written yet"), "{problem:?}");
    }
    fs::remove_file(directory.path().join("payouts")).unwrap();
    while office.look().unwrap() {}
    assert_eq!(ports.network.lock().unwrap().book.windows().window((1, 1)).unwrap().state, WindowState::Settled);

    let change = |iban: &str| Command::AddParticipant {
        participant: 1,
        account: "1".to_owned(),
        name: "Müller & Söhne <GmbH>".to_owned(),
        iban: iban.to_owned(),
        bic: String::new(),
    };
    let iban = |ports: &Fused| ports.network.lock().unwrap().book.windows().participants()[1].iban.clone();
    let (old, new) = (iban(&ports), "DE89370400440532013000");
    assert_eq!(office.perform(change(new), &person(1)), Ok(Answer::Proposed));
    assert_eq!(office.perform(change(new), &person(1)), Ok(Answer::Proposed), "the same person again");
    assert_eq!(office.perform(change(&old), &person(2)), Ok(Answer::Done), "nothing changes");
    assert_eq!(iban(&ports), old);
    assert_eq!(office.perform(change(new), &person(1)), Ok(Answer::Proposed));
    assert_eq!(office.perform(change(new), &person(2)), Ok(Answer::Done));
    assert_eq!(iban(&ports), new);
    ports.network.lock().unwrap().check_replay();
}

#[test]
fn a_report_is_the_same_whenever_it_is_made_once_its_day_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let watch = "[[watch]]\nname = \"large\"\ncurrency = \"EUR\"\namount_min = \"95.00\"\n\
                 [[watch]]\nname = \"busy\"\ncurrency = \"EUR\"\ncodes = [7]\nper = \"payer\"\ncount_min = 4\n";
    let ports = ledger(&(policy("multilateral", "scheme", "csv") + watch));
    a_day(&ports, directory.path(), None);
    let day = i32::try_from(NOON_NS / 86_400_000_000_000).unwrap();
    let report = |more: u64| {
        let network = ports.network.lock().unwrap();
        let mut reporter = DayReporter::new(ReportOptions { day, statements: None, participants: Participating::All });
        for (sequence, record) in (1..).zip(&network.journal) {
            let stored = StoredRecord { sequence, time_ns: NOON_NS + sequence, record: *record };
            assert!(reporter.follow(&stored).unwrap());
        }
        for later in 0..more {
            let stored = StoredRecord {
                sequence: 1_000 + later,
                time_ns: NOON_NS + 50_000_000_000_000,
                record: Record::Clock { second: 1 },
            };
            assert!(!reporter.follow(&stored).unwrap(), "the day is over");
        }
        reporter.finish(NOON_NS)
    };
    let (whole, again, early) = (report(1), report(5), report(0));
    assert_eq!((&whole, whole.csv()), (&again, again.csv()));
    assert!(whole.is_complete && !early.is_complete);
    let windows: Vec<_> = whole.windows.iter().map(|window| (window.window, window.state.as_str())).collect();
    assert_eq!(windows, [(1, "reconciled")]);
    assert_eq!((whole.payouts.len(), whole.balances.len(), whole.accepted), (4, 5, whole.transfers));
    let payments =
        whole.volumes.iter().find(|volume| (volume.operation.as_str(), volume.code) == ("transfer", 7)).unwrap();
    assert_eq!((payments.count, payments.sum.as_str(), payments.currency.as_str()), (9, "23855", "EUR"));
    assert_eq!(whole.success_percent, "100.00");
    // Watch rules: each large transfer, and who paid often.
    let found: Vec<_> = whole
        .suspicious
        .iter()
        .map(|finding| (finding.rule.as_str(), finding.payer.as_str(), finding.count, finding.sum.as_str()))
        .collect();
    assert_eq!(
        found.iter().filter(|finding| finding.0 == "large").map(|finding| finding.3).collect::<Vec<_>>(),
        ["10000"]
    );
    assert!(found.iter().any(|finding| finding.0 == "busy" && finding.2 >= 4), "{found:?}");
    // A participant's own part: what it had, what it received and paid, adds up.
    assert_eq!(whole.participants.len(), 5);
    for day in &whole.participants {
        let number = |text: &String| text.parse::<i128>().unwrap();
        let sum = |volumes: &[heng::backoffice::Volume]| volumes.iter().map(|volume| number(&volume.sum)).sum::<i128>();
        let (account, moved) = (&day.accounts[0], sum(&day.received) - sum(&day.paid));
        assert_eq!(number(&account.closing) - number(&account.opening), moved, "{day:?}");
        assert_eq!(day.positions.len(), 1);
    }
    let csv = String::from_utf8(whole.csv()).unwrap();
    assert!(csv.starts_with("section,subject,item,count,minor_units,currency\r\nday,2026-11-23,complete,"), "{csv}");
    for line in
        ["window,cards 1,reconciled,9,20850,\r\n", "balance,2,2,,9400,EUR\r\n", "position,cards-000001,5,3,-1100,\r\n"]
    {
        assert!(csv.contains(line), "{line} in {csv}");
    }
}

#[test]
fn a_window_that_closes_every_so_many_seconds_is_real_time_gross() {
    let directory = tempfile::tempdir().unwrap();
    let every = "[[scheme]]\nname = \"instant\"\nnumber = 1\ncurrency = \"EUR\"\ncodes = [7]\nnetting = \"gross\"\n\
                 close_every_seconds = 2\nweekend = []\nsettlement_account = 900\npayout_format = \"csv\"\n";
    let ports = ledger(every);
    let numbers = |ports: &Fused| {
        let network = ports.network.lock().unwrap();
        let windows = network.book.windows().windows().values();
        windows.map(|window| (window.number, window.state)).collect::<Vec<_>>()
    };
    let later = |seconds: u64| {
        ports.network.lock().unwrap().tick(NOON_NS + seconds * 1_000_000_000);
        run(&ports, directory.path());
        numbers(&ports)
    };
    let first = [(1, WindowState::Settled), (2, WindowState::Open)];
    assert_eq!(later(60), first, "what the ledger began with");
    assert_eq!(later(120), first, "nothing is in the second");
    submit(&ports, transfer(70_001, (800, 1), 2_500));
    submit(&ports, transfer(70_002, (1, 2), 300));
    let settled = [(1, WindowState::Settled), (2, WindowState::Settled), (3, WindowState::Open)];
    assert_eq!(later(121), settled);
    // Nothing is set off: what account 1 received and what it paid are settled each for itself.
    let network = ports.network.lock().unwrap();
    let amounts: Vec<u128> = network.book.windows().payouts().values().map(|payout| payout.amount).collect();
    assert!(amounts.contains(&2_500) && amounts.contains(&300), "{amounts:?}");
}

#[test]
fn a_window_that_is_closed_late_belongs_to_the_latest_cut_off_and_is_not_settled_in_the_past() {
    let (today, day_ns) = (i32::try_from(NOON_NS / 86_400_000_000_000).unwrap(), 86_400_000_000_000);
    for after_days in [0, 1] {
        let directory = tempfile::tempdir().unwrap();
        let schedule = format!("cut_offs = [\"17:00\"]\nweekend = []\nsettle_after_days = {after_days}\n");
        let ports = ledger(&(policy("multilateral", "scheme", "csv") + &schedule));
        // Nobody looked for two days.
        ports.network.lock().unwrap().tick(NOON_NS + 2 * day_ns);
        run(&ports, directory.path());
        let window = ports.network.lock().unwrap().book.windows().window((1, 1)).unwrap().clone();
        assert_eq!((window.day, window.settlement_day, window.state), (today + 1, today + 2, WindowState::Settled));
    }
}

#[test]
fn what_is_left_of_a_payout_waits_when_it_is_less_than_the_minimum() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(&policy("multilateral", "scheme", "csv"));
    // Of its 4.95 participant 4 keeps 0.99, and 0.01 more would be enough.
    submit(&ports, Transfer { code: 8, ..transfer(51, (4, 800), 396) });
    a_day(&ports, directory.path(), None);
    let (balances, payouts, _) = outcome(&ports);
    assert!(payouts.iter().all(|payout| payout.0 != 4) && balances[3] == 99, "{payouts:?} {balances:?}");
    let network = ports.network.lock().unwrap();
    assert_eq!(network.book.windows().window((1, 2)).unwrap().positions.of(4).net(), 2_995);
}
