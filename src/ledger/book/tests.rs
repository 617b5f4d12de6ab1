//! The book by records.

use super::*;
use crate::ledger::{AccountFlags, TransferId};
use crate::money::AMOUNT_MAX;

fn open(id: u128, flags: u16) -> Record {
    let account =
        NewAccount { id: AccountId::from_raw(id), currency: 978, flags: AccountFlags(flags), ..NewAccount::default() };
    Record::Account { account, gateway: GatewayId(1) }
}

fn accepted(id: u128, debit: u128, credit: u128, amount: u128) -> Record {
    let transfer = Transfer {
        id: TransferId::from_raw(id),
        debit: AccountId::from_raw(debit),
        credit: AccountId::from_raw(credit),
        amount,
        ..Transfer::default()
    };
    Record::Transfer { transfer, outcome: Code::Accepted, gateway: GatewayId(1) }
}

fn book(records: &[Record]) -> Result<Book, BookError> {
    let mut book = Book::new();
    records.iter().try_for_each(|record| book.apply(7, record).map(drop))?;
    Ok(book)
}

#[test]
fn records_move_balances_and_link_the_history() {
    let mut book = book(&[open(1, 0), open(2, 1), accepted(9, 1, 2, 50)]).unwrap();
    let applied = book.apply(7, &accepted(10, 2, 1, 20)).unwrap();
    assert_eq!((applied.debit_previous, applied.credit_previous), (3, 3));
    assert_eq!(book.account(AccountId::from_raw(2)).map(|account| account.balance()), Some(30));
    assert_eq!(book.balance_sums(), BTreeMap::from([(978, 0)]));
    assert_eq!(book.turnover(), &BTreeMap::from([(978, (70, 2))]));
}

#[test]
fn records_that_break_a_rule_are_named() {
    for (records, rule) in [
        (vec![open(1, 0), open(1, 0)], "opened twice"),
        (vec![open(1, 0), accepted(9, 1, 2, 5)], "never opened"),
        (vec![open(1, 0), open(2, 1), accepted(9, 2, 1, 5)], "debits exceed its credits"),
        (vec![open(1, 0), open(2, 2), accepted(9, 1, 2, 5)], "credits exceed its debits"),
        (vec![open(1, 0), open(2, 0), accepted(9, 1, 2, 0)], "amount is zero"),
        (vec![open(1, 0), open(2, 0), accepted(9, 1, 2, AMOUNT_MAX), accepted(10, 1, 2, 1)], "passes 2^96"),
    ] {
        let error = book(&records).map(drop).unwrap_err();
        assert!(error.rule.contains(rule), "{error}");
        assert_eq!(error.sequence, u64::try_from(records.len()).unwrap());
    }
}

#[test]
fn replay_from_before_a_checkpoint_gives_the_same_book() {
    let records =
        [open(1, 0), open(2, 1), accepted(9, 1, 2, 50), accepted(10, 2, 1, 20), open(3, 0), accepted(11, 1, 3, 4)];
    let whole = book(&records).unwrap();
    let mut restored = Book::new();
    for account in whole.accounts().take(2) {
        restored.load_account(&account);
    }
    let turnover = BTreeMap::from([(978, (50, 1))]);
    restored.load_summary((3, 6), BookSummary { turnover, ..BookSummary::default() }, Arc::default());
    restored.start_at(1);
    for record in &records[1..] {
        restored.apply(7, record).unwrap();
    }
    assert!(restored.accounts().eq(whole.accounts()));
    assert_eq!(restored.turnover(), whole.turnover());
}
