//! What would happen: transfers decided on a desk of their own, filled from the book, and thrown away.
//!
//! The desk is the one that decides for real, so the answer is what would be decided if nothing came in between. Nothing is
//! posted and no id is used up.

use std::sync::Arc;

use crate::ledger::{
    Account, AccountId, Book, Code, Desk, Operation, Order, Policy, Record, Scope, Subject, Table, TransferId,
};
use crate::protocol::{AccountDetail, Explained, ExplainedOutcome};

const SECOND_NS: u64 = 1_000_000_000;

/// An account with what its limits leave, at the book's sequence.
pub(super) fn detail(book: &Book, id: AccountId, now_ns: u64) -> AccountDetail {
    let account = book.account(id);
    let second = u32::try_from(now_ns / SECOND_NS).unwrap_or(u32::MAX);
    let limits = account.map_or_else(Vec::new, |account| book.limits_of(&account, second));
    AccountDetail { sequence: book.sequence(), account, limits }
}

/// What would become of transfers, transaction by transaction, each after those before it.
pub(super) fn explain(book: &Book, orders: &[Order], now_ns: u64) -> Explained {
    let mut desk = Desk::new(Arc::clone(book.policy()));
    desk.set_time(now_ns);
    let mut accounts = fill(book, orders, &mut desk);
    let policy: &Policy = book.policy();
    let mut explained =
        Explained { sequence: book.sequence(), outcomes: Vec::new(), records: Vec::new(), limits: Vec::new() };
    if let Some(payer) = orders.first().and_then(|order| book.account(order.transfer.debit)) {
        explained.limits = book.limits_of(&payer, desk.second());
    }
    let mut rest = orders;
    while !rest.is_empty() {
        let linked = rest.iter().take_while(|order| order.transfer.is_linked()).count();
        let (transaction, following) = rest.split_at(linked.saturating_add(1).min(rest.len()));
        rest = following;
        match desk.decide(&mut accounts, transaction) {
            Ok(()) => {
                let accepted = || ExplainedOutcome { code: Code::Accepted, limit: String::new() };
                explained.outcomes.extend(transaction.iter().map(|_| accepted()));
                let gateway = transaction.first().map(|order| order.gateway).unwrap_or_default();
                explained.records.extend(desk.made().iter().map(|made| match made.leg {
                    Some(_) => Record::Transfer { transfer: made.transfer, outcome: Code::Accepted, gateway },
                    None => Record::Internal { transfer: made.transfer, gateway },
                }));
            }
            Err(refusal) => {
                let limit = refusal.limit.and_then(|index| policy.limit_name(index)).unwrap_or_default();
                explained.outcomes.extend((0..transaction.len()).map(|leg| {
                    let own = leg == refusal.leg;
                    let code = if own { refusal.code } else { Code::TransactionFailed };
                    ExplainedOutcome { code, limit: if own { limit.to_owned() } else { String::new() } }
                }));
            }
        }
    }
    explained
}

/// Puts on the desk what the transfers may need.
fn fill(book: &Book, orders: &[Order], desk: &mut Desk) -> Table<Account> {
    let named = orders.iter().flat_map(|order| [order.transfer.debit, order.transfer.credit]);
    let mut ids: Vec<AccountId> = named.chain(book.policy().named_accounts()).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut accounts = Table::new();
    let known: Vec<_> = ids.into_iter().filter_map(|id| book.account(id)).collect();
    for account in &known {
        accounts.host(account);
    }
    let open = book.open();
    for order in orders {
        let about = TransferId::from_raw(order.transfer.related);
        if let Some(pending) = open.pendings.get(about) {
            desk.put_pending(*pending);
        }
        if order.transfer.operation() == Operation::Reversal {
            let withheld = book.policy().reserves_of(about).filter_map(|id| open.pendings.get(id));
            withheld.for_each(|reserve| desk.put_pending(*reserve));
        }
        if let Some(life) = order.transfer.operation().names_original().then(|| open.lives.get(about)).flatten() {
            desk.put_life(about, life);
        }
        let subjects = [
            Subject { scope: Scope::Gateway, id: u128::from(order.gateway.0) },
            Subject { scope: Scope::Code, id: u128::from(order.transfer.code) },
        ];
        put_tallies(book, desk, subjects);
    }
    for account in known {
        let subjects = [
            Subject { scope: Scope::Account, id: account.properties.id.raw() },
            Subject { scope: Scope::Level, id: u128::from(account.properties.level) },
        ];
        put_tallies(book, desk, subjects);
    }
    accounts
}

fn put_tallies(book: &Book, desk: &mut Desk, subjects: [Subject; 2]) {
    for tally in subjects.into_iter().filter_map(|subject| book.open().tallies.get(subject)) {
        desk.put_tally(tally.subject, &tally.buckets);
    }
}
