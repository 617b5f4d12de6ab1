//! Distributions: on their schedule, once, to the last unit, whenever the server stops.

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

use std::path::Path;

use heng::backoffice::{Command, DistributionView, Office, Person, Trouble};
use heng::ledger::{
    AccountFlags, AccountId, Code, DistributionEntry, DistributionState, GatewayId, NewAccount, PolicyPart, Record,
    Transfer, TransferId,
};
use network::Network;
use ports::{Fused, NOON_NS};

const HOUR_NS: u64 = 3_600_000_000_000;

fn policy(shares: &str) -> String {
    format!(
        "[[distribution]]\nname = \"profit\"\nnumber = 1\naccount = 10\ncurrency = \"EUR\"\nkeep = \"1.00\"\ncode = 910\n\
         times = [\"13:00\", \"18:00\"]\nto = [{shares}]\n"
    )
}

const THREE: &str = "{ account = 21 }, { account = 22 }, { account = 23 }";

/// Account 10 has 11.00; 21 to 23 have nothing.
fn ledger() -> Fused {
    ledger_from(AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS, 0)
}

/// The same, where account 10 has these flags and this overdraft.
fn ledger_from(flags: AccountFlags, overdraft: u128) -> Fused {
    let mut network = Network::new(1, "");
    network.tick(NOON_NS);
    for part in PolicyPart::split(&policy(THREE)) {
        network.append(Record::Policy(part));
    }
    for id in [1, 10, 21, 22, 23] {
        let (flags, overdraft) = if id == 10 { (flags, overdraft) } else { (AccountFlags(0), 0) };
        let id = AccountId::from_raw(id);
        network.open(&NewAccount { id, currency: 978, code: 1, flags, overdraft, ..NewAccount::default() });
    }
    let ports = Fused::new(network);
    pay(&ports, 1, 1_100);
    ports
}

fn pay(ports: &Fused, id: u128, amount: u128) {
    transfer(ports, id, [1, 10], amount);
}

fn transfer(ports: &Fused, id: u128, between: [u128; 2], amount: u128) {
    let mut network = ports.network.lock().unwrap();
    let [debit, credit] = between.map(AccountId::from_raw);
    network.submit(&[Transfer { id: TransferId::from_raw(id), debit, credit, amount, code: 7, ..Transfer::default() }]);
    network.settle();
}

fn balances(ports: &Fused) -> [i128; 4] {
    let network = ports.network.lock().unwrap();
    [10, 21, 22, 23].map(|id| network.book.account(AccountId::from_raw(id)).unwrap().balance())
}

fn view(ports: &Fused) -> DistributionView {
    DistributionView::list(&ports.network.lock().unwrap().book).remove(0)
}

fn at(ports: &Fused, ns: u64) {
    ports.network.lock().unwrap().tick(ns);
}

fn look(ports: &Fused, directory: &Path) -> Result<(), Trouble> {
    let mut office = Office::new(ports.clone(), directory);
    while office.look()? {}
    Ok(())
}

#[test]
fn it_is_paid_at_its_times_and_what_arrives_between_waits() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger();
    look(&ports, directory.path()).unwrap();
    assert_eq!(balances(&ports), [1_100, 0, 0, 0], "not before its time");
    assert_eq!((view(&ports).state.as_str(), view(&ports).next.as_str()), ("", "2026-11-23T13:00:00Z"));
    at(&ports, NOON_NS + HOUR_NS);
    look(&ports, directory.path()).unwrap();
    // 10.00 by three: what is left over goes to the first.
    assert_eq!(balances(&ports), [100, 334, 333, 333]);
    assert_eq!((view(&ports).state.as_str(), view(&ports).amount.as_str()), ("done", "1000"));
    pay(&ports, 2, 8);
    look(&ports, directory.path()).unwrap();
    assert_eq!(balances(&ports)[0], 108, "until 18:00");
    at(&ports, NOON_NS + 6 * HOUR_NS);
    look(&ports, directory.path()).unwrap();
    assert_eq!(balances(&ports), [100, 337, 336, 335]);
    // There is nothing at the next time, and what comes after it waits as well.
    at(&ports, NOON_NS + 25 * HOUR_NS);
    look(&ports, directory.path()).unwrap();
    assert_eq!((view(&ports).state.as_str(), view(&ports).amount.as_str()), ("done", "0"));
    pay(&ports, 3, 3);
    look(&ports, directory.path()).unwrap();
    assert_eq!(balances(&ports)[0], 103);
    // Many times were missed: they are made up for by one run.
    at(&ports, NOON_NS + 400 * HOUR_NS);
    look(&ports, directory.path()).unwrap();
    assert_eq!(balances(&ports), [100, 338, 337, 336]);
    let mut network = ports.network.lock().unwrap();
    network.check_agreement();
    network.check_replay();
}

#[test]
fn it_is_paid_once_whenever_the_server_stops_and_by_the_policy_by_which_it_was_planned() {
    for calls in 0..12 {
        for after in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let ports = ledger();
            at(&ports, NOON_NS + HOUR_NS);
            *ports.fuse.lock().unwrap() = Some((calls, after));
            let stopped = look(&ports, directory.path()).is_err();
            *ports.fuse.lock().unwrap() = None;
            if stopped {
                let planned = {
                    let mut network = ports.network.lock().unwrap();
                    let planned = network.book.distributions().runs()[&1].state == DistributionState::Planned;
                    // Another policy is in force after the restart.
                    for part in PolicyPart::split(&policy("{ account = 23 }")) {
                        network.append(Record::Policy(part));
                    }
                    planned
                };
                // Money that came meanwhile is of the next run when the amount stood already.
                pay(&ports, 9, 50);
                look(&ports, directory.path()).unwrap();
                let by_three = planned || balances(&ports)[1] != 0;
                let expected = if by_three { [150, 334, 333, 333] } else { [100, 0, 0, 1_050] };
                assert_eq!(balances(&ports), expected, "{calls} {after}");
            } else {
                assert_eq!(balances(&ports), [100, 334, 333, 333], "{calls} {after}");
            }
            assert_eq!(view(&ports).state, "done");
            let mut network = ports.network.lock().unwrap();
            network.check_agreement();
            network.check_replay();
        }
    }
}

#[test]
fn what_was_spent_since_it_was_planned_is_taken_from_nothing_else() {
    let limited = AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS;
    // From what is kept; from an overdraft; from nothing.
    for (flags, overdraft, spent) in [(limited, 0, 1), (limited, 5_000, 700), (AccountFlags(0), 0, 700)] {
        let (mut planned, mut paid) = (0, 0);
        for calls in 0..12 {
            let directory = tempfile::tempdir().unwrap();
            let ports = ledger_from(flags, overdraft);
            at(&ports, NOON_NS + HOUR_NS);
            *ports.fuse.lock().unwrap() = Some((calls, true));
            let stopped = look(&ports, directory.path()).is_err();
            *ports.fuse.lock().unwrap() = None;
            let state = ports.network.lock().unwrap().book.distributions().runs()[&1].state;
            if !stopped || state != DistributionState::Planned {
                continue;
            }
            let was_paid = balances(&ports)[1] != 0;
            transfer(&ports, 9, [10, 1], if was_paid { 1 } else { spent });
            look(&ports, directory.path()).unwrap();
            if was_paid {
                paid += 1;
                assert_eq!((view(&ports).state.as_str(), balances(&ports)), ("done", [99, 334, 333, 333]), "{flags:?}");
                continue;
            }
            planned += 1;
            let left = 1_100 - i128::try_from(spent).unwrap();
            assert_eq!(balances(&ports), [left, 0, 0, 0], "{flags:?} {overdraft}");
            let (why, next) = (view(&ports).why, view(&ports).next);
            assert_eq!((view(&ports).state.as_str(), why.as_str()), ("failed", Code::RequirementNotMet.name()));
            assert_eq!(next, "2026-11-23T13:01:00Z");
            // It is planned anew by itself, with what is there then.
            at(&ports, NOON_NS + HOUR_NS + 59_000_000_000);
            look(&ports, directory.path()).unwrap();
            assert_eq!(view(&ports).state, "failed", "not at once");
            at(&ports, NOON_NS + HOUR_NS + 60_000_000_000);
            look(&ports, directory.path()).unwrap();
            assert_eq!((view(&ports).state.as_str(), view(&ports).by, balances(&ports)[0]), ("done", 0, 100));
            assert_eq!(balances(&ports)[1..].iter().sum::<i128>(), left - 100);
            let mut network = ports.network.lock().unwrap();
            network.check_agreement();
            network.check_replay();
        }
        assert!(planned > 0 && paid > 0, "{flags:?}: {planned} stops before and {paid} after it was paid");
    }
}

fn set_policy(ports: &Fused, text: &str) {
    let mut network = ports.network.lock().unwrap();
    for part in PolicyPart::split(text) {
        network.append(Record::Policy(part));
    }
}

/// A run is planned that somebody asked for, and less is there.
fn short(by: u32) -> Fused {
    let ports = ledger();
    at(&ports, NOON_NS + HOUR_NS);
    let (number, state, outcome, by) = (1, DistributionState::Planned, Code::Accepted, GatewayId(by));
    let entry = DistributionEntry { number, state, due_ns: NOON_NS + HOUR_NS, amount: 1_001, outcome, by };
    ports.network.lock().unwrap().append(Record::Distribution(entry));
    ports
}

/// Minutes after a run failed so.
fn later(ports: &Fused, directory: &Path) -> (String, String, [i128; 4]) {
    at(ports, NOON_NS + HOUR_NS + 180_000_000_000);
    look(ports, directory).unwrap();
    (view(ports).state, view(ports).why, balances(ports))
}

#[test]
fn it_is_planned_anew_only_by_the_same_policy_and_for_the_schedule() {
    let directory = tempfile::tempdir().unwrap();
    let failed = || ("failed".to_owned(), "requirement_not_met".to_owned(), [1_100, 0, 0, 0]);
    let text = policy(THREE);
    for other in [
        text.replace("times = [\"13:00\", \"18:00\"]\n", ""),
        text.replace("account = 10\n", "account = 1\n"),
        text.replace("13:00", "12:30"),
    ] {
        for is_before in [true, false] {
            let ports = short(0);
            if is_before {
                set_policy(&ports, &other);
            }
            look(&ports, directory.path()).unwrap();
            if !is_before {
                set_policy(&ports, &other);
            }
            assert_eq!(later(&ports, directory.path()), failed(), "{other}, before it failed: {is_before}");
        }
    }
    let ports = short(5);
    look(&ports, directory.path()).unwrap();
    assert_eq!(view(&ports).next, "2026-11-23T18:00:00Z", "a person sees what came of it");
    assert_eq!(later(&ports, directory.path()), failed());
    let ports = short(0);
    look(&ports, directory.path()).unwrap();
    assert_eq!(later(&ports, directory.path()), ("done".to_owned(), String::new(), [100, 334, 333, 333]));
}

#[test]
fn what_the_policy_does_not_have_when_it_is_planned_moves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger();
    at(&ports, NOON_NS + HOUR_NS);
    set_policy(&ports, "");
    let (number, state, outcome, by) = (1, DistributionState::Planned, Code::Accepted, GatewayId(0));
    let entry = DistributionEntry { number, state, due_ns: NOON_NS + HOUR_NS, amount: 500, outcome, by };
    ports.network.lock().unwrap().append(Record::Distribution(entry));
    set_policy(&ports, &policy(THREE));
    look(&ports, directory.path()).unwrap();
    assert_eq!((view(&ports).state.as_str(), view(&ports).why.as_str()), ("failed", "transaction_failed"));
    assert_eq!(balances(&ports), [1_100, 0, 0, 0]);
}

#[test]
fn when_a_recipient_cannot_be_paid_nobody_is_and_it_can_be_run_again() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger();
    let other = |to: &str| set_policy(&ports, &policy(to));
    other("{ account = 21 }, { account = 99 }");
    at(&ports, NOON_NS + HOUR_NS);
    look(&ports, directory.path()).unwrap();
    assert_eq!(balances(&ports), [1_100, 0, 0, 0]);
    assert_eq!((view(&ports).state.as_str(), view(&ports).why.as_str()), ("failed", Code::CreditAccountUnknown.name()));
    other(THREE);
    look(&ports, directory.path()).unwrap();
    assert_eq!(balances(&ports), [1_100, 0, 0, 0], "not before its next time, or by hand");
    let person = Person { id: GatewayId(1), name: "treasurer".to_owned() };
    at(&ports, NOON_NS + 2 * HOUR_NS);
    let mut office = Office::new(ports.clone(), directory.path());
    let command = |name: &str| Command::Distribute { distribution: name.to_owned() };
    assert_eq!(office.perform(command("none"), &person).unwrap_err().status, 404);
    office.perform(command("profit"), &person).unwrap();
    assert_eq!(office.perform(command("profit"), &person).unwrap_err().status, 409, "one at a time");
    while office.look().unwrap() {}
    assert_eq!(balances(&ports), [100, 334, 333, 333]);
    assert_eq!((view(&ports).by, view(&ports).next.as_str()), (1, "2026-11-23T18:00:00Z"));
}
