//! Tests of following: decisions that were made while a statement's file was lost, once it is there again.

use super::*;
use crate::ledger::{Code, TransferId, padded};

const POLICY: &str = "[[bank_account]]\nname = \"custody\"\naccount = 900\ncurrency = \"EUR\"\nwrite_off_account = 950\n\
     [[statement_csv]]\nname = \"bank\"\nseparator = \";\"\ndecimal = \",\"\ndate = \"day\"\namount = \"amount\"\nreference = \"reference\"\n";

/// Noon of 2026-11-24.
const NOON_NS: u64 = 1_795_521_600_000_000_000;

fn account(id: u128) -> AccountId {
    AccountId::from_raw(id)
}

/// A transfer of the ledger's own, or a client's.
fn transfer(id: u128, (debit, credit): (u128, u128), amount: u128, gateway: u32) -> Transfer {
    let (id, debit, credit) = (TransferId::from_raw(id), account(debit), account(credit));
    let user_data_32 = if gateway == 0 { WRITE_OFF_PURPOSE } else { 0 };
    Transfer { id, debit, credit, amount, code: 8, user_data_32, ..Transfer::default() }
}

fn posted(transfer: Transfer) -> Record {
    let gateway = GatewayId(u32::from(transfer.user_data_32 == 0));
    Record::Transfer { transfer, outcome: Code::Accepted, gateway }
}

/// The write-off of what the bank has more, or less.
fn write_off(id: u128, key: BreakKey, more: i128) -> [Record; 2] {
    let sides = if more > 0 { (900, 950) } else { (950, 900) };
    let made = Transfer { user_data_128: break_tag(key), ..transfer(id, sides, more.unsigned_abs(), 0) };
    [posted(made), decided(key, Resolution::WriteOff, None)]
}

fn decided(key: BreakKey, resolution: Resolution, other: Option<BreakKey>) -> Record {
    let (account, action, by) = (account(900), BreakAction::Resolve, GatewayId(2));
    Record::Break(BreakEntry { account, key, action, resolution, other, text: [0; 56], by })
}

fn statement(number: u8, skips_known: bool) -> Record {
    Record::Statement(StatementEntry {
        number: u32::from(number),
        hash: [number; 32],
        account: account(900),
        mapping: padded("bank").unwrap(),
        lines: 1,
        wrong: 0,
        sum: 0,
        skips_known,
        by: GatewayId(1),
    })
}

/// What is not resolved, by key and what the bank has more, with these files and with one of them lost.
fn open(records: &[Record], files: &[&str], lost: Option<u8>) -> Vec<(BreakKey, BreakKind, i128)> {
    let mut reconciliation = Reconciliation::default();
    reconciliation.change_policy(Policy::parse(POLICY).unwrap());
    for (sequence, record) in (1..).zip(records) {
        let stored = StoredRecord { sequence, time_ns: NOON_NS, record: *record };
        reconciliation.follow(&stored, |hash| {
            let file = files.get(usize::from(hash[0]) - 1).filter(|_| Some(hash[0]) != lost)?;
            Some(format!("day;amount;reference\n{file}\n").into_bytes())
        });
    }
    let side = reconciliation.side("custody").unwrap();
    assert_eq!(side.left_out, lost.map(u32::from).into_iter().collect::<Vec<_>>());
    let unresolved = side.breaks.values().filter(|known| known.state != BreakState::Resolved);
    unresolved.map(|known| (known.key, known.kind, known.amount)).collect()
}

#[test]
fn an_entry_that_was_written_off_while_its_line_was_lost_is_told() {
    let paid_in = Transfer { user_data_128: 123_456_789, ..transfer(1, (900, 800), 100, 1) };
    let files = ["2026-11-24;1,00;123456789", "2026-12-10;0,77;hello", "2026-12-20;0,05;on"];
    let mut records = vec![posted(paid_in), statement(1, false), statement(2, false)];
    let missing = (BreakKey::Entry(1), BreakKind::Missing, -100);
    let extra = (BreakKey::Line(2, 1), BreakKind::Extra, 77);
    assert_eq!(open(&records, &files, None), [extra]);
    assert_eq!(open(&records, &files, Some(1)), [extra, missing]);
    records.extend(write_off(2, BreakKey::Entry(1), -100));
    records.push(statement(3, false));
    let last = (BreakKey::Line(3, 1), BreakKind::Extra, 5);
    assert_eq!(open(&records, &files, Some(1)), [extra, last]);
    // Bank: 100, 77 and 5; ledger: 100 and -100.
    let written_off = (BreakKey::Entry(4), BreakKind::Missing, 100);
    assert_eq!(open(&records, &files, None), [extra, last, written_off]);
}

#[test]
fn a_line_that_was_written_off_twice_because_one_file_was_lost_is_told() {
    let files = ["2026-11-24;0,77;hello", "2026-11-24;0,77;hello", "2026-12-20;0,05;on"];
    let mut records = vec![statement(1, false)];
    records.extend(write_off(2, BreakKey::Line(1, 1), 77));
    records.push(statement(2, true));
    assert_eq!(open(&records, &files, None), []);
    records.extend(write_off(3, BreakKey::Line(2, 1), 77));
    records.push(statement(3, false));
    // Bank: 77 and 5; ledger: 77 twice.
    let (last, twice) = ((BreakKey::Line(3, 1), BreakKind::Extra, 5), (BreakKey::Entry(5), BreakKind::Missing, -77));
    assert_eq!(open(&records, &files, None), [last, twice]);
}

#[test]
fn a_line_stays_open_that_was_given_to_an_entry_whose_own_line_was_lost() {
    let paid_in = Transfer { user_data_128: 123_456_789, ..transfer(1, (900, 800), 100, 1) };
    let files = ["2026-11-24;1,00;123456789", "2026-12-20;1,00;hello"];
    let mut records = vec![posted(paid_in), statement(1, false), statement(2, false)];
    let extra = (BreakKey::Line(2, 1), BreakKind::Extra, 100);
    assert_eq!(open(&records, &files, Some(1)), [extra, (BreakKey::Entry(1), BreakKind::Missing, -100)]);
    records.push(decided(BreakKey::Entry(1), Resolution::Rematch, Some(extra.0)));
    assert_eq!(open(&records, &files, Some(1)), []);
    assert_eq!(open(&records, &files, None), [extra]);
    // Whichever of the two is named first.
    records.pop();
    records.push(decided(extra.0, Resolution::Rematch, Some(BreakKey::Entry(1))));
    assert_eq!(open(&records, &files, None), [extra]);
}

#[test]
fn what_was_proposed_for_a_missing_entry_is_not_about_a_late_one() {
    let paid_in = Transfer { user_data_128: 123_456_789, ..transfer(1, (900, 800), 100, 1) };
    let files = ["2026-12-10;0,77;hello", "2026-12-20;1,00;123456789"];
    let proposed = match decided(BreakKey::Entry(1), Resolution::WriteOff, None) {
        Record::Break(entry) => Record::Break(BreakEntry { action: BreakAction::Propose, ..entry }),
        other => other,
    };
    let records = [posted(paid_in), statement(1, false), proposed, statement(2, false)];
    let mut reconciliation = Reconciliation::default();
    reconciliation.change_policy(Policy::parse(POLICY).unwrap());
    let mut state = Vec::new();
    for (sequence, record) in (1..).zip(records) {
        let stored = StoredRecord { sequence, time_ns: NOON_NS, record };
        let file =
            |hash: &[u8; 32]| Some(format!("day;amount;reference\n{}\n", files[usize::from(hash[0]) - 1]).into());
        reconciliation.follow(&stored, file);
        let known = reconciliation.side("custody").unwrap().breaks.get(&BreakKey::Entry(1));
        state.extend(known.map(|known| (known.kind, known.state, known.amount)));
    }
    let late = (BreakKind::Late, BreakState::Open, 0);
    let missing = |state| (BreakKind::Missing, state, -100);
    assert_eq!(state, [missing(BreakState::Open), missing(BreakState::Proposed), late]);
}

#[test]
fn what_arrives_is_named_by_the_delayed_transfer() {
    let id = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
    let delayed = transfer(id, (800, 900), 100, 1);
    let arrived = Transfer { id: TransferId::from_raw(0), related: id, flags: Operation::Arrive as u16, ..delayed };
    let records = [Record::Internal { transfer: arrived, gateway: GatewayId(1) }, statement(1, false)];
    let files = [format!("2026-12-10;-1,00;{id:032X}")];
    assert_eq!(open(&records, &[&files[0]], None), [(BreakKey::Entry(1), BreakKind::Late, 0)]);
}
