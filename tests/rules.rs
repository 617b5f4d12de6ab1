//! The rules of every operation as scripts: `tests/rules/*.txt`, one line an operation and its outcome, run on 1 to 4 shards.
//!
//! ```text
//! open A limited EUR class=client-funds level=1 overdraft=50      also: free, mirror
//! fund A 100                                                      from the world W, of each currency
//! T1 transfer A B 60 accepted                                     also: code=7 balancing
//! H1 hold A B 50 expires=20 accepted                              seconds from now
//! C1 capture H1 30 more accepted                                  also: raise; void H1; reverse T1
//! D1 delayed A B 20 due=30 accepted
//! R1 refund T1 20 accepted
//! + T2 transfer A B 5 transaction_failed                          linked with the next line
//! Q1 require A 50 accepted
//! S1 change A state=frozen level=2 overdraft=10 accepted
//! E1 exchange P C 108 rate=1.085 rounding=half-up until=5 accepted
//! balance A 40 held 10 available 30 incoming 5
//! wait 20                                                         seconds pass
//! allow transfer,hold 100                                         the gateway's permissions and largest amount
//! gateway 2                                                       from now on, another one asks
//! ```

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

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use heng::ledger::{
    AccountChange, AccountClass, AccountFlags, AccountId, AccountState, BALANCING, ExchangeRate, GatewayId, Grant,
    LINKED, MORE, NewAccount, Operation, Rounding, Transfer, TransferId,
};
use network::Network;

const SECOND_NS: u64 = 1_000_000_000;

/// A name as a number: every name is an id.
fn number(name: &str) -> u128 {
    name.bytes().fold(0, |number, byte| number << 8 | u128::from(byte))
}

fn currency(code: &str) -> u16 {
    match code {
        "EUR" => 978,
        "USD" => 840,
        "JPY" => 392,
        number => number.parse().unwrap(),
    }
}

struct Script {
    network: Network,
    /// Transfers of the transaction that is being read, and what is expected of each.
    open: Vec<(Transfer, String)>,
    currencies: BTreeMap<u128, u16>,
}

/// `key=value` words.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

impl Script {
    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["open", name, kind, code, ..] => self.open(name, kind, code, &words),
            ["fund", name, amount] => {
                let currency = self.currencies[&number(name)];
                let world = number(&format!("W{currency}"));
                let transfer = Transfer {
                    id: TransferId::from_raw(number(&format!("fund{name}{}", self.network.codes.len()))),
                    debit: AccountId::from_raw(world),
                    credit: AccountId::from_raw(number(name)),
                    amount: amount.parse().unwrap(),
                    code: 9_999,
                    ..Transfer::default()
                };
                self.network.submit(&[transfer]);
                self.network.settle();
                assert!(self.network.codes[&transfer.id.raw()].is_accepted(), "{line}");
            }
            ["balance", name, balance, ..] => self.balance(name, balance, &words[3..], line),
            ["wait", seconds] => {
                let later = seconds.parse::<u64>().unwrap() * SECOND_NS;
                self.network.tick(self.network.now_ns + later);
            }
            ["allow", names, amount] => {
                let operations = Grant::parse_operations(names).unwrap();
                self.network.grant = Grant { operations, amount_max: amount.parse().unwrap() };
            }
            ["gateway", number] => self.network.gateway = GatewayId(number.parse().unwrap()),
            ["+", ..] => {
                let transfer = self.transfer(&words[1..]);
                let linked = Transfer { flags: transfer.flags | LINKED, ..transfer };
                self.open.push((linked, words.last().unwrap().to_string()));
            }
            _ => {
                let transfer = self.transfer(&words);
                self.open.push((transfer, words.last().unwrap().to_string()));
                let open = std::mem::take(&mut self.open);
                let transfers: Vec<Transfer> = open.iter().map(|(transfer, _)| *transfer).collect();
                self.network.submit(&transfers);
                self.network.settle();
                for (transfer, expected) in open {
                    let code = self.network.codes[&transfer.id.raw()];
                    assert_eq!(code.name(), expected, "{line} with {} shards", self.network.cores.len());
                }
            }
        }
    }

    fn open(&mut self, name: &str, kind: &str, code: &str, words: &[&str]) {
        let flags = match kind {
            "limited" => AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS,
            "mirror" => AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS,
            "free" => AccountFlags::default(),
            other => panic!("{other}"),
        };
        let class =
            value(words, "class").map(|name| AccountClass::ALL.into_iter().find(|class| class.name() == name).unwrap());
        let number_of = |key| value(words, key).map_or(0, |text| text.parse::<u128>().unwrap());
        let currency = currency(code);
        let world = number(&format!("W{currency}"));
        if !self.currencies.contains_key(&world) {
            self.network.open(&NewAccount { id: AccountId::from_raw(world), currency, ..NewAccount::default() });
            self.currencies.insert(world, currency);
        }
        self.network.open(&NewAccount {
            id: AccountId::from_raw(number(name)),
            currency,
            flags,
            class: class.unwrap_or_default().number(),
            level: u8::try_from(number_of("level")).unwrap(),
            overdraft: number_of("overdraft"),
            ..NewAccount::default()
        });
        self.currencies.insert(number(name), currency);
    }

    fn balance(&self, name: &str, balance: &str, rest: &[&str], line: &str) {
        let account = self.network.book.account(AccountId::from_raw(number(name))).unwrap();
        let shards = self.network.cores.len();
        assert_eq!(account.balance().to_string(), balance, "{line} with {shards} shards");
        for pair in rest.chunks(2) {
            let is = match pair[0] {
                "held" => account.totals.debits_pending.to_string(),
                "incoming" => account.totals.credits_pending.to_string(),
                "available" => account.available().unwrap().to_string(),
                other => panic!("{other}"),
            };
            assert_eq!(is, pair[1], "{line} with {shards} shards: {}", pair[0]);
        }
    }

    /// The transfer that a line asks for.
    #[expect(clippy::too_many_lines, reason = "one arm per operation")]
    fn transfer(&self, words: &[&str]) -> Transfer {
        let [name, operation, rest @ ..] = words else { panic!("{words:?}") };
        let base = Transfer {
            id: TransferId::from_raw(number(name)),
            code: value(rest, "code").map_or(1, |code| code.parse().unwrap()),
            ..Transfer::default()
        };
        let later =
            |key| value(rest, key).map_or(0, |text| self.network.now_ns + text.parse::<u64>().unwrap() * SECOND_NS);
        let between = |debit: &str, credit: &str, amount: &str, operation: Operation| Transfer {
            debit: AccountId::from_raw(number(debit)),
            credit: AccountId::from_raw(number(credit)),
            amount: amount.parse().unwrap(),
            flags: operation as u16,
            ..base
        };
        let about = |name: &str, back: bool| {
            let about = self.network.records.get(&number(name)).copied().or_else(|| {
                self.open.iter().map(|(transfer, _)| *transfer).find(|transfer| transfer.id.raw() == number(name))
            });
            let about = about.unwrap_or_default();
            let (debit, credit) = if back { (about.credit, about.debit) } else { (about.debit, about.credit) };
            Transfer { debit, credit, related: number(name), ..base }
        };
        match (*operation, rest) {
            ("transfer", [debit, credit, amount, ..]) => {
                let balancing = if rest.contains(&"balancing") { BALANCING } else { 0 };
                let transfer = between(debit, credit, amount, Operation::Transfer);
                Transfer { flags: transfer.flags | balancing, ..transfer }
            }
            ("hold", [debit, credit, amount, ..]) => {
                Transfer { time_ns: later("expires"), ..between(debit, credit, amount, Operation::Hold) }
            }
            ("delayed", [debit, credit, amount, ..]) => {
                Transfer { time_ns: later("due"), ..between(debit, credit, amount, Operation::Delayed) }
            }
            ("exchange", [debit, credit, amount, ..]) => {
                let rounding = match value(rest, "rounding") {
                    Some("down") => Rounding::Down,
                    Some("up") => Rounding::Up,
                    Some("half-even") => Rounding::HalfEven,
                    _ => Rounding::HalfUp,
                };
                let rate = ExchangeRate { rate: value(rest, "rate").unwrap().parse().unwrap(), rounding };
                let transfer = between(debit, credit, amount, Operation::Exchange);
                Transfer { related: rate.encode(), time_ns: later("until"), ..transfer }
            }
            (operation @ ("capture" | "raise"), [hold, amount, ..]) => {
                let more = if rest.contains(&"more") { MORE } else { 0 };
                let flags =
                    if operation == "raise" { Operation::Raise as u16 } else { Operation::Capture as u16 | more };
                Transfer { amount: amount.parse().unwrap(), flags, ..about(hold, false) }
            }
            ("void", [hold, ..]) => Transfer { flags: Operation::Void as u16, ..about(hold, false) },
            ("refund", [of, amount, ..]) => {
                Transfer { amount: amount.parse().unwrap(), flags: Operation::Refund as u16, ..about(of, true) }
            }
            ("reverse", [of, ..]) => {
                let amount = self.network.records.get(&number(of)).map_or(1, |first| first.amount);
                Transfer { amount, flags: Operation::Reversal as u16, ..about(of, true) }
            }
            ("require", [account, amount, ..]) => Transfer {
                debit: AccountId::from_raw(number(account)),
                amount: amount.parse().unwrap(),
                flags: Operation::Require as u16,
                ..base
            },
            ("change", [account, ..]) => {
                let state = |name| AccountState::ALL.into_iter().find(|state| state.name() == name).unwrap();
                let change = AccountChange {
                    state: value(rest, "state").map(state),
                    level: value(rest, "level").map(|level| level.parse().unwrap()),
                    overdraft: value(rest, "overdraft").map(|overdraft| overdraft.parse().unwrap()),
                };
                Transfer { id: base.id, ..change.request(AccountId::from_raw(number(account))) }
            }
            _ => panic!("not a script line: {words:?}"),
        }
    }
}

/// Runs a script on 1 to 4 shards. Lines before `---` are its policy.
fn check(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let (policy, script) = text.split_once("\n---\n").unwrap_or(("", &text));
    for shards in 1..=4 {
        let network = Network::new(shards, policy);
        let mut run = Script { network, open: Vec::new(), currencies: BTreeMap::new() };
        for line in script.lines() {
            let line = line.split('#').next().unwrap().trim();
            if !line.is_empty() {
                run.line(line);
            }
        }
        assert!(run.open.is_empty(), "{}: a transaction is open at the end", path.display());
        run.network.check_agreement();
        run.network.check_replay();
    }
}

#[test]
fn every_script_says_what_happens() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let mut scripts: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 10);
    let mut failed = Vec::new();
    for script in scripts {
        // A failing line is named by its thread, and the others still run.
        let name = script.file_stem().unwrap().to_string_lossy().into_owned();
        let run = std::thread::Builder::new().name(name.clone()).spawn(move || check(&script)).unwrap();
        if run.join().is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
