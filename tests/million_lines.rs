//! How long a statement of a million lines takes against a million entries: a measurement, run by name.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::print_stderr,
    reason = "a failed expectation is a failed test"
)]

use heng::backoffice::Reconciliation;
use heng::ledger::{
    AccountId, Code, GatewayId, PolicyPart, Record, StatementEntry, StoredRecord, Transfer, TransferId, padded,
};

const POLICY: &str = r#"
[[bank_account]]
name = "custody"
account = 900
currency = "EUR"
[[statement_csv]]
name = "bank"
separator = ";"
decimal = ","
date = "day"
amount = "amount"
reference = "reference"
"#;

/// 2026-11-23.
const MONDAY_NS: u64 = 1_795_392_000_000_000_000;

#[test]
#[ignore = "a measurement: run it in release mode, by name"]
fn a_million_lines_against_a_million_entries() {
    use std::fmt::Write;
    let count = 1_000_000_u64;
    let mut reconciliation = Reconciliation::default();
    let mut sequence = 0;
    let mut follow = |record: Record, file: Option<Vec<u8>>| {
        sequence += 1;
        let stored = StoredRecord { sequence, time_ns: MONDAY_NS, record };
        reconciliation.follow(&stored, |_| file);
    };
    for part in PolicyPart::split(POLICY) {
        follow(Record::Policy(part), None);
    }
    let mut file = "day;amount;reference\n".to_owned();
    for number in 0..count {
        let amount = u128::from(number % 5_000 + 1);
        let incoming = Transfer {
            id: TransferId::from_raw(u128::from(number) + 1),
            debit: AccountId::from_raw(900),
            credit: AccountId::from_raw(800),
            amount,
            code: 8,
            user_data_128: 1_000_000_000 + u128::from(number),
            ..Transfer::default()
        };
        follow(Record::Transfer { transfer: incoming, outcome: Code::Accepted, gateway: GatewayId(1) }, None);
        // Half of the lines have a reference.
        let reference = if number % 2 == 0 { format!("ref {}", incoming.user_data_128) } else { String::new() };
        writeln!(file, "2026-11-23;{},{:02};{reference}", amount / 100, amount % 100).unwrap();
    }
    let entry = StatementEntry {
        number: 1,
        hash: [0; 32],
        account: AccountId::from_raw(900),
        mapping: padded("bank").unwrap(),
        lines: 0,
        wrong: 0,
        sum: 0,
        skips_known: false,
        by: GatewayId(1),
    };
    let begun = std::time::Instant::now();
    follow(Record::Statement(entry), Some(file.into_bytes()));
    let took = begun.elapsed();
    let side = reconciliation.side("custody").unwrap();
    assert_eq!(side.matched.values().sum::<u64>(), count);
    assert_eq!(side.breaks.len(), 0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    eprintln!("{count} lines in {took:?}; {peak}");
}
