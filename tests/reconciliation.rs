//! Statements against a ledger: each kind of break is found and nothing else, resolved by people, and the same after a restart.

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

use heng::backoffice::{
    Answer, BreakOrder, BreakOrderAction, BreakView, Command, DayReporter, Import, Office, Overlap, Participating,
    Person, Problem, ReportOptions, check_files,
};
use heng::ledger::{
    AccountFlags, AccountId, Code, GatewayId, NewAccount, PayoutState, Record, StoredRecord, Transfer, TransferId,
};
use network::Network;
use ports::{Fused, NOON_NS};

const POLICY: &str = r#"
[[scheme]]
name = "cards"
number = 1
currency = "EUR"
codes = [7]
settlement_account = 900
confirm_above = "100.00"
payer = { name = "Platform", iban = "DE89370400440532013000" }
[[bank_account]]
name = "custody"
account = 900
currency = "EUR"
iban = "DE89370400440532013000"
write_off_account = 950
[[statement_csv]]
name = "bank"
separator = ";"
decimal = ","
date = "day"
amount = "amount"
reference = "reference"
[[statement_csv]]
name = "provider"
separator = ";"
decimal = ","
date = "day"
amount = "amount"
reference = "reference"
fee = "fee"
"#;

fn person(number: u32) -> Person {
    Person { id: GatewayId(number), name: format!("person-{number}") }
}

fn transfer(id: u128, (debit, credit): (u128, u128), amount: u128, code: u16) -> Transfer {
    let [debit, credit] = [debit, credit].map(AccountId::from_raw);
    Transfer { id: TransferId::from_raw(id), debit, credit, amount, code, ..Transfer::default() }
}

/// Three participants with positions, settled; and eight incoming payments with a reference of the gateway, 1001 to 1008.
fn ledger(directory: &Path) -> Fused {
    ledger_under(POLICY, directory)
}

fn ledger_under(policy: &str, directory: &Path) -> Fused {
    let mut network = Network::new(1, policy);
    network.tick(NOON_NS);
    for id in [1, 2, 3, 800, 900, 950] {
        let id = AccountId::from_raw(id);
        network.open(&NewAccount { id, currency: 978, code: 1, flags: AccountFlags(0), ..NewAccount::default() });
    }
    let ports = Fused::new(network);
    let mut office = Office::new(ports.clone(), directory);
    for participant in 1..=3 {
        let (account, name) = (participant.to_string(), "Shop".to_owned());
        let (iban, bic) = ("GB82WEST12345698765432".to_owned(), String::new());
        office.perform(Command::AddParticipant { participant, account, name, iban, bic }, &person(1)).unwrap();
    }
    {
        let mut network = ports.network.lock().unwrap();
        for (number, amount) in [(1_u128, 5_000), (2, 7_000), (3, 90_000)] {
            network.submit(&[transfer(number, (800, number), amount, 7)]);
        }
        for number in 1..=8_u128 {
            let incoming = transfer(100 + number, (900, 800), 100 * number, 8);
            network.submit(&[Transfer { user_data_128: 1_000 + number, ..incoming }]);
        }
        network.settle();
    }
    office.perform(Command::CloseWindow { scheme: "cards".to_owned() }, &person(1)).unwrap();
    while office.look().unwrap() {}
    ports
}

fn import(office: &mut Office<Fused>, content: &str) -> Result<(u64, usize), Problem> {
    let import = Import {
        account: "custody".to_owned(),
        mapping: content.starts_with("day").then(|| "bank".to_owned()),
        incomplete: false,
        overlap: None,
        content: content.as_bytes().to_vec(),
    };
    match office.perform(Command::Import(import), &person(1))? {
        Answer::Imported { matched, breaks_open, .. } => Ok((matched, breaks_open)),
        other => panic!("{other:?}"),
    }
}

fn breaks(office: &mut Office<Fused>, state: Option<&str>) -> Vec<BreakView> {
    let state = state.map(str::to_owned);
    match office
        .perform(Command::Breaks { account: "custody".to_owned(), state, kind: None, limit: 1_000 }, &person(1))
        .unwrap()
    {
        Answer::Breaks(breaks) => breaks,
        other => panic!("{other:?}"),
    }
}

fn kinds(breaks: &[BreakView]) -> Vec<(&str, i64)> {
    let mut kinds: Vec<_> = breaks.iter().map(|known| (known.kind.as_str(), known.amount.parse().unwrap())).collect();
    kinds.sort_unstable();
    kinds
}

fn resolve(office: &mut Office<Fused>, key: &str, how: &str, with: Option<&str>, who: u32) -> Result<String, Problem> {
    let action = BreakOrderAction::Resolve { how: how.to_owned(), with: with.map(str::to_owned) };
    let order = BreakOrder { account: "custody".to_owned(), key: key.to_owned(), action, text: "seen".to_owned() };
    match office.perform(Command::Break(order), &person(who))? {
        Answer::Breaks(breaks) => Ok(breaks[0].state.clone()),
        other => panic!("{other:?}"),
    }
}

/// The lines of a bank that has done everything but what the test is about.
fn statement(ports: &Fused) -> String {
    let network = ports.network.lock().unwrap();
    let mut lines = vec!["day;amount;reference".to_owned()];
    for payout in network.book.windows().payouts().values() {
        let (major, minor) = (payout.amount / 100, payout.amount % 100);
        // The second payout comes with another amount.
        let minor = if payout.participant == 2 { minor + 1 } else { minor };
        lines.push(format!("2026-11-24;-{major},{minor:02};E2E {:032X}", payout.id.raw()));
    }
    // Of the incoming payments: 1001 is missing, 1002 late, 1003 twice, 1004 and 1005 in one sum of no reference, 1006 in two parts, 1007
    // and 1008 by amount; and something that nobody expects.
    for line in [
        "2026-11-30;2,00;ref 1002",
        "2026-11-24;3,00;ref 1003",
        "2026-11-24;3,00;ref 1003",
        "2026-11-24;9,00;refs 1004 and 1005",
        "2026-11-24;2,50;ref 1006",
        "2026-11-24;3,50;ref 1006",
        "2026-11-24;7,00;",
        "2026-11-24;8,00;",
        "2026-11-24;0,77;hello",
    ] {
        lines.push(line.to_owned());
    }
    lines.join("\n")
}

#[test]
fn each_kind_of_break_is_found_and_nothing_else_and_the_same_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports.clone(), directory.path());
    let file = statement(&ports);
    let (matched, open) = import(&mut office, &file).unwrap();
    // 2 payouts; 1002, 1003, 1004 with 1005, 1006, 1007, 1008.
    assert_eq!((matched, open), (8, 5));
    let found = breaks(&mut office, None);
    assert_eq!(kinds(&found), [("amount", -1), ("duplicate", 300), ("extra", 77), ("late", 0), ("missing", -100)]);
    let again = import(&mut office, &file).unwrap_err();
    assert_eq!((again.status, again.code), (409, "duplicate"));

    // The bank has shown two payouts: the small one is confirmed, the large one waits for a second person.
    while office.look().unwrap() {}
    let states = |ports: &Fused| {
        let network = ports.network.lock().unwrap();
        let payouts = network.book.windows().payouts().values();
        let mut states: Vec<_> = payouts.map(|payout| (payout.participant, payout.state)).collect();
        states.sort_unstable();
        states
    };
    let expected = [(1, PayoutState::Confirmed), (2, PayoutState::Issued), (3, PayoutState::Proposed)];
    assert_eq!(states(&ports), expected);

    // An office that begins anew finds the same, and does nothing again.
    let records = ports.network.lock().unwrap().journal.len();
    let mut again = Office::new(ports.clone(), directory.path());
    while again.look().unwrap() {}
    assert_eq!(breaks(&mut again, None), found);
    assert_eq!(ports.network.lock().unwrap().journal.len(), records);
    let mut network = ports.network.lock().unwrap();
    network.check_agreement();
    network.check_replay();
}

#[test]
fn breaks_are_resolved_by_people_and_money_moves_by_two() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports.clone(), directory.path());
    let file = statement(&ports);
    import(&mut office, &file).unwrap();
    let found = breaks(&mut office, None);
    let key = |kind: &str| found.iter().find(|known| known.kind == kind).unwrap().key.clone();
    let balance = |ports: &Fused, id: u128| {
        ports.network.lock().unwrap().book.account(AccountId::from_raw(id)).unwrap().balance()
    };
    let bank = balance(&ports, 900);

    // A write-off: proposed, not confirmed by the same person, posted once.
    for (kind, mirror, against) in [("extra", -77, 77), ("amount", -76, 76), ("missing", 24, -24)] {
        assert_eq!(resolve(&mut office, &key(kind), "write-off", None, 1).unwrap(), "proposed");
        assert_eq!(resolve(&mut office, &key(kind), "write-off", None, 1).unwrap_err().code, "second_person_needed");
        assert_eq!(resolve(&mut office, &key(kind), "write-off", None, 2).unwrap(), "resolved");
        assert_eq!(resolve(&mut office, &key(kind), "write-off", None, 2).unwrap_err().status, 404);
        assert_eq!((balance(&ports, 900) - bank, balance(&ports, 950)), (mirror, against), "{kind}");
    }
    // The bank takes its duplicate back a day later: the two are matched by hand.
    let (_, open) = import(&mut office, "day;amount;reference\n2026-11-25;-3,00;correction\n").unwrap();
    assert_eq!(open, 3);
    let correction = breaks(&mut office, Some("open")).iter().find(|known| known.amount == "-300").unwrap().key.clone();
    assert_eq!(resolve(&mut office, &key("duplicate"), "rematch", None, 1).unwrap_err().status, 400);
    let wrong = resolve(&mut office, &key("duplicate"), "rematch", Some(&key("late")), 1).unwrap_err();
    assert!(wrong.detail.contains("do not offset"), "{wrong:?}");
    assert_eq!(resolve(&mut office, &key("duplicate"), "rematch", Some(&correction), 1).unwrap(), "resolved");
    assert_eq!(resolve(&mut office, &key("late"), "accept", None, 1).unwrap(), "resolved");
    assert_eq!(breaks(&mut office, Some("open")), []);
    // What was written off is not expected of the bank, and a later import finds nothing new.
    assert_eq!(import(&mut office, "day;amount;reference\n2026-12-20;0,01;x\n").unwrap(), (0, 1));
    let mut again = Office::new(ports.clone(), directory.path());
    assert_eq!(breaks(&mut again, None), breaks(&mut office, None));
}

#[test]
fn a_line_that_came_before_its_entry_is_matched_when_that_is_posted() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports.clone(), directory.path());
    assert_eq!(import(&mut office, "day;amount;reference\n2026-11-23;12,34;ref 4711\n").unwrap(), (0, 1));
    {
        let mut network = ports.network.lock().unwrap();
        network.submit(&[Transfer { user_data_128: 4_711, ..transfer(500, (900, 800), 1_234, 8) }]);
        network.settle();
        assert_eq!(network.codes[&500], Code::Accepted);
    }
    let matched = office.perform(Command::Match { account: "custody".to_owned() }, &person(1)).unwrap();
    assert!(matches!(matched, Answer::Imported { matched: 1, breaks_open: 0, .. }), "{matched:?}");
    let resolved = breaks(&mut office, None);
    assert_eq!((resolved[0].state.as_str(), resolved[0].resolution.as_str()), ("resolved", "matched"));
}

#[test]
fn files_that_do_not_belong_here_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports, directory.path());
    let mt940 = |iban: &str, closing: &str| {
        format!(":20:S\n:25:{iban}\n:60F:C261122EUR1,00\n:61:2611231123C1,00NTRFx\n:62F:C261123EUR{closing}\n-\n")
    };
    for (content, status, says) in [
        (mt940("GB82WEST12345698765432", "2,00"), 400, "not about DE89"),
        (mt940("DE89370400440532013000", "3,00"), 422, "by 100 minor units"),
        ("nothing".to_owned(), 400, "neither camt.053 nor MT940"),
        ("day;amount\nx;y".to_owned(), 400, "no column `reference`"),
    ] {
        let problem = import(&mut office, &content).unwrap_err();
        assert!(problem.status == status && problem.detail.contains(says), "{content}: {problem:?}");
    }
    assert_eq!(import(&mut office, &mt940("DE89370400440532013000", "2,00")).unwrap(), (1, 0), "1001 by its amount");
}

fn csv(lines: &[&str]) -> String {
    let mut file = "day;amount;reference\n".to_owned();
    for line in lines {
        file.extend([*line, "\n"]);
    }
    file
}

fn shown(office: &mut Office<Fused>, state: &str) -> Vec<(String, String, String)> {
    let shown = breaks(office, Some(state)).into_iter().map(|known| (known.key, known.kind, known.amount));
    shown.collect()
}

fn found(of: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    of.iter().map(|(key, kind, amount)| ((*key).to_owned(), (*kind).to_owned(), (*amount).to_owned())).collect()
}

fn write_off(office: &mut Office<Fused>, key: &str) {
    assert_eq!(resolve(office, key, "write-off", None, 1).unwrap(), "proposed", "{key}");
    assert_eq!(resolve(office, key, "write-off", None, 2).unwrap(), "resolved", "{key}");
}

fn mirror(ports: &Fused) -> i128 {
    ports.network.lock().unwrap().book.account(AccountId::from_raw(900)).unwrap().balance()
}

fn payout(ports: &Fused, participant: u32) -> heng::ledger::PayoutEntry {
    let network = ports.network.lock().unwrap();
    *network.book.windows().payouts().values().find(|payout| payout.participant == participant).unwrap()
}

#[test]
fn what_is_written_off_is_what_the_bank_has_more_or_less() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports.clone(), directory.path());
    let before = mirror(&ports);
    // Of 8.00 the bank has 3.00 and 4.00.
    import(&mut office, &csv(&["2026-11-24;3,00;ref 1008", "2026-11-24;4,00;ref 1008"])).unwrap();
    assert_eq!(shown(&mut office, "open"), found(&[("L1.1", "amount", "-500"), ("L1.2", "amount", "400")]));
    // Both are proposed before one is confirmed: the other is about something else then, and is proposed again.
    for key in ["L1.1", "L1.2"] {
        assert_eq!(resolve(&mut office, key, "write-off", None, 1).unwrap(), "proposed");
    }
    assert_eq!(resolve(&mut office, "L1.1", "write-off", None, 2).unwrap(), "resolved");
    assert_eq!(shown(&mut office, "open"), found(&[("L1.2", "extra", "400")]));
    write_off(&mut office, "L1.2");
    assert_eq!(mirror(&ports) - before, 100, "1.00 less at the bank");

    // A missing entry whose line comes with another amount is one break and not two.
    import(&mut office, &csv(&["2026-11-30;0,01;x"])).unwrap();
    let missing = |office: &mut Office<Fused>| {
        shown(office, "open").iter().filter(|(_, kind, amount)| kind == "missing" && amount == "-700").count()
    };
    assert_eq!(missing(&mut office), 1);
    import(&mut office, &csv(&["2026-11-30;6,90;ref 1007"])).unwrap();
    assert_eq!(missing(&mut office), 0);
    write_off(&mut office, "L3.1");
    assert_eq!((missing(&mut office), mirror(&ports) - before), (0, 110));
    let mut again = Office::new(ports, directory.path());
    assert_eq!(breaks(&mut again, None), breaks(&mut office, None));
}

#[test]
fn in_whatever_order_the_parts_of_an_entry_are_written_off_the_sum_is_the_same() {
    for order in [["L1.1", "L1.2"], ["L1.2", "L1.1"]] {
        let directory = tempfile::tempdir().unwrap();
        let ports = ledger(directory.path());
        let mut office = Office::new(ports.clone(), directory.path());
        let before = mirror(&ports);
        import(&mut office, &csv(&["2026-11-24;3,00;ref 1008", "2026-11-24;4,00;ref 1008"])).unwrap();
        for key in order {
            write_off(&mut office, key);
        }
        assert_eq!(mirror(&ports) - before, 100, "{order:?}");
        assert_eq!(shown(&mut office, "open"), found(&[]), "{order:?}");
        let mut again = Office::new(ports, directory.path());
        assert_eq!(breaks(&mut again, None), breaks(&mut office, None));
    }
}

#[test]
fn a_refused_write_off_can_be_tried_again_and_is_posted_once_whatever_happens() {
    let directory = tempfile::tempdir().unwrap();
    let mut network = Network::new(1, POLICY);
    network.tick(NOON_NS);
    let account = |id: u128| {
        let id = AccountId::from_raw(id);
        NewAccount { id, currency: 978, code: 1, flags: AccountFlags(0), ..NewAccount::default() }
    };
    network.open(&account(900));
    let ports = Fused::new(network);
    let mut office = Office::new(ports.clone(), directory.path());
    import(&mut office, &csv(&["2026-11-24;0,77;hello"])).unwrap();
    assert_eq!(resolve(&mut office, "L1.1", "write-off", None, 1).unwrap(), "proposed");
    let refused = resolve(&mut office, "L1.1", "write-off", None, 2).unwrap_err();
    assert!(refused.detail.contains("never opened"), "{refused:?}");
    {
        let mut network = ports.network.lock().unwrap();
        network.open(&account(950));
        network.settle();
    }
    // The server stops at each call, before or after its effect: in the end the difference is posted once.
    for calls in 0..12 {
        for after in [false, true] {
            *ports.fuse.lock().unwrap() = Some((calls, after));
            let mut office = Office::new(ports.clone(), directory.path());
            let _stopped_or_done = resolve_maybe(&mut office, "L1.1", 2);
            *ports.fuse.lock().unwrap() = None;
        }
    }
    let mut office = Office::new(ports.clone(), directory.path());
    let last = resolve_maybe(&mut office, "L1.1", 2);
    assert!(last.is_ok() || last.is_err_and(|problem| problem.status == 404), "it is resolved");
    assert_eq!(mirror(&ports), -77);
    assert_eq!(shown(&mut office, "resolved"), found(&[("L1.1", "extra", "77")]));
}

fn resolve_maybe(office: &mut Office<Fused>, key: &str, who: u32) -> Result<Answer, Problem> {
    let action = BreakOrderAction::Resolve { how: "write-off".to_owned(), with: None };
    let order = BreakOrder { account: "custody".to_owned(), key: key.to_owned(), action, text: String::new() };
    office.perform(Command::Break(order), &person(who))
}

#[test]
fn only_what_names_a_payout_confirms_it_and_what_comes_back_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports.clone(), directory.path());
    import(&mut office, &csv(&["2026-11-24;-50,00;office rent"])).unwrap();
    while office.look().unwrap() {}
    assert_eq!(payout(&ports, 1).state, PayoutState::Issued, "an amount proves nothing");
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports.clone(), directory.path());
    let id = format!("{:032x}", payout(&ports, 1).id.raw());
    let lines = [format!("2026-11-24;-50,00;{id} of 2026"), format!("2026-11-25;50,00;RETURN AC04 {id}")];
    import(&mut office, &csv(&lines.each_ref().map(String::as_str))).unwrap();
    while office.look().unwrap() {}
    assert_eq!(payout(&ports, 1).state, PayoutState::Confirmed);
    assert_eq!(shown(&mut office, "open"), found(&[("L1.2", "returned", "5000")]));
    for who in [1, 2] {
        let (payout, reason) = (id.clone(), "AC04".to_owned());
        office.perform(Command::RejectPayout { payout, reason }, &person(who)).unwrap();
    }
    while office.look().unwrap() {}
    assert_eq!(payout(&ports, 1).state, PayoutState::Returned);
    // The entry of the return has the bank's line now.
    let matched = office.perform(Command::Match { account: "custody".to_owned() }, &person(1)).unwrap();
    assert!(matches!(matched, Answer::Imported { matched: 1, breaks_open: 0, .. }), "{matched:?}");
}

#[test]
fn a_payout_that_was_refused_before_it_was_booked_leaves_no_break() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports.clone(), directory.path());
    let id = format!("{:032x}", payout(&ports, 1).id.raw());
    office.perform(Command::RejectPayout { payout: id, reason: "AC04".to_owned() }, &person(1)).unwrap();
    while office.look().unwrap() {}
    import(&mut office, &csv(&["2026-11-30;0,01;x"])).unwrap();
    let open = shown(&mut office, "open");
    assert!(!open.iter().any(|(_, _, amount)| amount.trim_start_matches('-') == "5000"), "{open:?}");
    assert_eq!(open.len(), 1 + 8 + 2, "the line, the incoming payments, the two other payouts");
}

#[test]
fn lines_of_earlier_files_are_not_taken_twice_and_unreadable_ones_not_unseen() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    // Another incoming payment of 8.00, which the bank never got.
    let one_more = |id: u128| {
        let mut network = ports.network.lock().unwrap();
        network.submit(&[Transfer { user_data_128: 900 + id, ..transfer(id, (900, 800), 800, 8) }]);
        network.settle();
    };
    one_more(199);
    let mut office = Office::new(ports.clone(), directory.path());
    let take = |office: &mut Office<Fused>, content: &str, incomplete: bool, overlap: Option<Overlap>| {
        let (account, mapping, content) = ("custody".to_owned(), Some("bank".to_owned()), content.as_bytes().to_vec());
        office.perform(Command::Import(Import { account, mapping, incomplete, overlap, content }), &person(1))
    };
    let matches = |answer: Result<Answer, Problem>| match answer.unwrap() {
        Answer::Imported { matched, .. } => matched,
        other => panic!("{other:?}"),
    };
    let bad = csv(&["2026-11-24;8,00;", "2026-11-24;7,oo;"]);
    assert_eq!(import(&mut office, &bad).unwrap_err().code, "unreadable_lines");
    assert_eq!(matches(take(&mut office, &bad, true, None)), 1);
    let mended = csv(&["2026-11-24;8,00;", "2026-11-24;7,00;"]);
    assert_eq!(take(&mut office, &mended, false, None).unwrap_err().code, "overlap");
    assert_eq!(matches(take(&mut office, &mended, false, Some(Overlap::Skip))), 1, "the 7.00, not the other 8.00");
    assert_eq!(matches(take(&mut office, &csv(&["2026-11-24;8,00;"]), false, Some(Overlap::Keep))), 1);
    // The file of the week has the two that are known, and not the third, which the bank never got either.
    one_more(198);
    let week = csv(&["2026-11-24;8,00;", "2026-11-24;8,00;", "2026-11-24;7,00;"]);
    assert_eq!(matches(take(&mut office, &week, false, Some(Overlap::Skip))), 0);
    let far = import(&mut office, &csv(&["2062-11-24;8,00;"])).unwrap_err();
    assert!(far.detail.contains("more than a month ahead"), "{far:?}");
    let extra = csv(&["2026-11-24;9,99;"]);
    assert_eq!(matches(take(&mut office, &extra, false, None)), 0);
    // A file that is lost or damaged is never believed, and put back by importing it again.
    let spoils: [fn(&Path, Vec<u8>); 3] = [
        |path, _| std::fs::remove_file(path).unwrap(),
        |path, bytes| std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap(),
        |path, mut bytes| {
            let last = bytes.len() - 3;
            bytes[last] ^= 1;
            std::fs::write(path, bytes).unwrap();
        },
    ];
    let kept = || {
        let network = ports.network.lock().unwrap();
        let imports = network.journal.iter().filter_map(|record| match record {
            Record::Statement(entry) if entry.number > 0 => Some(entry.hash),
            _ => None,
        });
        check_files(directory.path(), &imports.collect(), network.book.windows()).unwrap()
    };
    let imported = kept().statements;
    assert!(imported > 0 && kept().damaged.is_empty(), "{:?}", kept());
    for spoil in spoils {
        for file in std::fs::read_dir(directory.path().join("statements")).unwrap().flatten() {
            let bytes = std::fs::read(file.path()).unwrap();
            spoil(&file.path(), bytes);
        }
        assert_eq!((kept().statements, kept().damaged.len()), (0, imported));
        let mut again = Office::new(ports.clone(), directory.path());
        while again.look().unwrap() {}
        assert_ne!(breaks(&mut again, None), breaks(&mut office, None), "its lines are left out");
        assert_eq!(take(&mut again, &csv(&["2026-11-25;1,23;"]), false, None).unwrap_err().code, "overlap");
        for (content, incomplete) in
            [(&bad, true), (&mended, false), (&csv(&["2026-11-24;8,00;"]), false), (&week, false), (&extra, false)]
        {
            take(&mut again, content, incomplete, None).unwrap();
        }
        assert_eq!(breaks(&mut again, None), breaks(&mut office, None));
        assert_eq!((kept().statements, kept().damaged.len()), (imported, 0));
    }
}

#[test]
fn a_bank_that_does_nothing_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    let mut office = Office::new(ports, directory.path());
    for (day, open) in [(25, 0), (26, 11)] {
        let file =
            format!(":20:S{day}\n:25:DE89370400440532013000\n:60F:C2611{day}EUR1,00\n:62F:C2611{day}EUR1,00\n-\n");
        assert_eq!(import(&mut office, &file).unwrap(), (0, open), "{day}");
    }
}

/// Cents that nobody looks for add up; the report of the day says to how much.
#[test]
fn what_is_within_the_tolerance_is_no_break_and_told_as_a_sum() {
    let directory = tempfile::tempdir().unwrap();
    let policy = POLICY.replace("write_off_account = 950", "write_off_account = 950\namount_tolerance = \"0.02\"");
    let ports = ledger_under(&policy, directory.path());
    let mut office = Office::new(ports.clone(), directory.path());
    let lines = ["1,02;ref 1001", "1,99;ref 1002", "3,00;ref 1003", "4,05;ref 1004", "-0,04;correction"];
    let lines: Vec<String> = lines.iter().map(|line| format!("2026-11-24;{line}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(import(&mut office, &csv(&lines)).unwrap(), (3, 2));
    let told = || {
        let day = i32::try_from(NOON_NS / 86_400_000_000_000).unwrap();
        let statements = Some(directory.path().join("statements"));
        let mut reporter = DayReporter::new(ReportOptions { day, statements, participants: Participating::Nobody });
        for (sequence, record) in (1..).zip(&ports.network.lock().unwrap().journal) {
            reporter.follow(&StoredRecord { sequence, time_ns: NOON_NS + sequence, record: *record }).unwrap();
        }
        let report = reporter.finish(NOON_NS);
        let told = &report.breaks[0];
        let (count, more, less) = (told.tolerated_count, told.tolerated_more.clone(), told.tolerated_less.clone());
        let csv = String::from_utf8(report.csv()).unwrap();
        for row in [format!(",{count},,"), format!("bank has more,,{more},"), format!("bank has less,,{less},")] {
            assert!(csv.contains(&format!("tolerated,custody,{row}")), "{row} in {csv}");
        }
        (count, more, less)
    };
    // Two cents more and one less; what is exact is not counted.
    assert_eq!(told(), (2, "2".to_owned(), "1".to_owned()));
    // Five cents more and four less, matched by hand, leave one.
    assert_eq!(resolve(&mut office, "L1.4", "rematch", Some("L1.5"), 1).unwrap(), "resolved");
    assert_eq!(told(), (3, "3".to_owned(), "1".to_owned()));
}

/// A provider takes a fee for what it declined; that the payment itself is missing is told all the same.
#[test]
fn a_fee_for_what_did_not_come_does_not_hide_that_it_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ledger(directory.path());
    {
        let mut network = ports.network.lock().unwrap();
        let expected = transfer(200, (900, 800), 10_000, 8);
        network.submit(&[Transfer { user_data_128: 1_234_567_890, ..expected }]);
        network.settle();
    }
    let mut office = Office::new(ports, directory.path());
    let import_fee = Import {
        account: "custody".to_owned(),
        mapping: Some("provider".to_owned()),
        incomplete: false,
        overlap: None,
        content: b"day;amount;fee;reference\n2026-11-23;0,00;0,30;1234567890\n".to_vec(),
    };
    office.perform(Command::Import(import_fee), &person(1)).unwrap();
    import(&mut office, ":20:S\n:25:DE89370400440532013000\n:60F:C261126EUR1,00\n:62F:C261126EUR1,00\n-\n").unwrap();
    let told = breaks(&mut office, None);
    assert!(kinds(&told).contains(&("missing", -10_000)), "{:?}", kinds(&told));
    assert!(kinds(&told).contains(&("extra", -30)), "{:?}", kinds(&told));
}
