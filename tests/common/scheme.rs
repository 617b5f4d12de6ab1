//! A ledger with one scheme and a window's worth of payments, and its day: closed, settled, done by the bank.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use heng::backoffice::{Command, Office, Person, Trouble};
use heng::ledger::{AccountFlags, AccountId, Code, GatewayId, NewAccount, Transfer, TransferId};

use super::network::Network;
use super::ports::{Fused, NOON_NS};

/// The scheme's settlement account.
const BANK: u128 = 900;
const PARTICIPANTS: u32 = 5;

/// A scheme that takes what has code 7.
pub(crate) fn policy(netting: &str, atomic: &str, format: &str) -> String {
    format!(
        "[[scheme]]\nname = \"cards\"\nnumber = 1\ncurrency = \"EUR\"\ncodes = [7]\nnetting = \"{netting}\"\natomic = \"{atomic}\"\n\
         settlement_account = {BANK}\npayout_format = \"{format}\"\nminimum_payout = \"1.00\"\nconfirm_above = \"50.00\"\n\
         payer = {{ name = \"Platform & Co\", iban = \"DE89370400440532013000\" }}\n"
    )
}

/// Somebody who may do everything.
pub(crate) fn person(number: u32) -> Person {
    Person { id: GatewayId(number), name: format!("person-{number}") }
}

/// A payment of the scheme.
pub(crate) fn transfer(id: u128, (debit, credit): (u128, u128), amount: u128) -> Transfer {
    let [debit, credit] = [debit, credit].map(AccountId::from_raw);
    Transfer { id: TransferId::from_raw(id), debit, credit, amount, code: 7, ..Transfer::default() }
}

/// A ledger with a window's worth of payments: participants 1 to 5 with the accounts 1 to 5, customers' money from account 800.
pub(crate) fn ledger(policy: &str) -> Fused {
    let mut network = Network::new(2, policy);
    network.tick(NOON_NS);
    for id in (1..=u128::from(PARTICIPANTS)).chain([800, BANK]) {
        let limited = if id < 800 { AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS } else { AccountFlags(0) };
        let overdraft = if id >= 800 { 0 } else { 1_500 };
        let id = AccountId::from_raw(id);
        network.open(&NewAccount { id, currency: 978, code: 1, flags: limited, overdraft, ..NewAccount::default() });
    }
    let ports = Fused::new(network);
    let mut office = Office::new(ports.clone(), Path::new("unused"));
    for participant in 1..=PARTICIPANTS {
        let iban = if participant == 3 { "" } else { "GB82 WEST 1234 5698 7654 32" };
        let name = if participant == 2 { "=cmd|' /C calc'!A0" } else { "Müller & Söhne <GmbH>" };
        let command = Command::AddParticipant {
            participant,
            account: participant.to_string(),
            name: name.to_owned(),
            iban: iban.to_owned(),
            bic: String::new(),
        };
        office.perform(command, &person(1)).unwrap();
    }
    let mut network = ports.network.lock().unwrap();
    let payments = [
        (800, 1, 10_000),
        (800, 2, 7_000),
        (800, 3, 50),
        (800, 4, 3_000),
        (1, 2, 2_500),
        (2, 5, 100),
        (5, 1, 900),
        (4, 3, 5),
        (5, 800, 300),
    ];
    for (number, (debit, credit, amount)) in (1..).zip(payments) {
        network.submit(&[transfer(number, (debit, credit), amount)]);
        network.settle();
        assert_eq!(network.codes[&number], Code::Accepted);
    }
    // Participant 4 has spent some of it otherwise, so that not all of its position is there any more.
    let spent = Transfer { code: 8, ..transfer(50, (4, 800), 2_500) };
    network.submit(&[spent]);
    network.settle();
    drop(network);
    ports
}

/// Does all that is due, starting again each time the fuse blows; answers how often it blew.
pub(crate) fn run(ports: &Fused, directory: &Path) -> usize {
    let mut stops = 0;
    let mut looks = 0;
    loop {
        let mut office = Office::new(ports.clone(), directory);
        loop {
            looks += 1;
            assert!(looks < 1_000, "it finds something to do for ever");
            match office.look() {
                Ok(true) => {}
                Ok(false) => return stops,
                Err(Trouble::Stopped) => break,
                Err(trouble) => panic!("{trouble}"),
            }
        }
        stops += 1;
        *ports.fuse.lock().unwrap() = None;
    }
}

/// The bank refuses one payout and confirms the others, some by two persons; answers how often the fuse blew.
pub(crate) fn a_day_at_the_bank(ports: &Fused, directory: &Path) -> usize {
    let (mut office, mut stops) = (Office::new(ports.clone(), directory), 0);
    let payouts: Vec<_> = ports.network.lock().unwrap().book.windows().payouts().values().copied().collect();
    for payout in &payouts {
        let payout_id = format!("{:032x}", payout.id.raw());
        let command = if payout.participant == 2 && !payout.is_collection {
            Command::RejectPayout { payout: payout_id, reason: "AC04".to_owned() }
        } else {
            Command::ConfirmPayout { payout: payout_id }
        };
        // Who proposed it cannot agree to it; who comes second to a small one finds it done.
        for who in [1, 2] {
            let refused = office.perform(command.clone(), &person(who)).is_err();
            if refused && matches!(*ports.fuse.lock().unwrap(), Some((0, _))) {
                *ports.fuse.lock().unwrap() = None;
                stops += 1;
                let _again = office.perform(command.clone(), &person(who));
            }
        }
        stops += run(ports, directory);
    }
    stops + run(ports, directory)
}

/// All files of payouts.
pub(crate) fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory.join("payouts")).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}
