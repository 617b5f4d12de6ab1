//! Comparing a shard's balances with the book at the same point of the stream.
//!
//! A shard posts the debit of a transfer that another shard decided a little after that one's outcome is in the stream. So at
//! the point of comparison the book may be ahead by the last few such transfers. How many is known exactly: the shard says
//! how many decisions of each other shard it has posted, and the stream says how many there were.

use std::collections::VecDeque;

use crate::flow::AuditReply;
use crate::ledger::{AccountId, Book, Totals, Transfer};

/// Decisions remembered per pair of shards; far more than admission lets be on their way.
const REMEMBERED_MAX: usize = 1 << 20;

/// Decisions by one shard on debits of another.
#[derive(Debug, Default)]
struct Pair {
    count: u64,
    /// The last ones: debit account and amount, zero when refused.
    last: VecDeque<(AccountId, u128)>,
}

/// What is needed to compare shards with the book.
#[derive(Debug)]
pub(super) struct Proof {
    shards: usize,
    pairs: Vec<Pair>,
}

/// An account on which shard and book differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) account: AccountId,
    pub(super) shard: Totals,
    pub(super) book: Totals,
}

impl Proof {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards, pairs: (0..shards.saturating_mul(shards)).map(|_| Pair::default()).collect() }
    }

    /// Notes a transfer that `decider` decided.
    #[inline]
    pub(super) fn decided(&mut self, decider: usize, transfer: &Transfer, accepted: bool) {
        let debit_shard = transfer.debit.shard(self.shards);
        // What the desk decides is posted before its accounts go home, so nothing of it is on its way.
        if debit_shard == decider || decider >= self.shards {
            return;
        }
        let place = debit_shard.saturating_mul(self.shards).saturating_add(decider);
        if let Some(pair) = self.pairs.get_mut(place) {
            pair.count = pair.count.saturating_add(1);
            pair.last.push_back((transfer.debit, if accepted { transfer.amount } else { 0 }));
            if pair.last.len() > REMEMBERED_MAX {
                pair.last.pop_front();
            }
        }
    }

    /// Compares; the book must be at the point of the stream at which the audit is.
    pub(super) fn compare(&mut self, audit: &AuditReply, book: &Book) -> Vec<Difference> {
        let mut ahead: Vec<(AccountId, u128)> = Vec::new();
        for (decider, &finished) in audit.finished.iter().enumerate() {
            let place = audit.shard.saturating_mul(self.shards).saturating_add(decider);
            let Some(pair) = self.pairs.get_mut(place) else { continue };
            let unfinished = usize::try_from(pair.count.saturating_sub(finished)).unwrap_or(usize::MAX);
            // What is posted now will never be asked for again.
            let posted = pair.last.len().saturating_sub(unfinished);
            pair.last.drain(..posted);
            ahead.extend(&pair.last);
        }
        ahead.sort_unstable();
        let differences = audit.accounts.iter().filter_map(|&(id, shard)| {
            let known = book.account(id);
            let first = ahead.partition_point(|entry| entry.0 < id);
            let not_posted = ahead.iter().skip(first).take_while(|entry| entry.0 == id);
            let not_posted = not_posted.fold(0_u128, |sum, entry| sum.saturating_add(entry.1));
            let totals = known.map(|account| account.totals).unwrap_or_default();
            let book = Totals { debits_posted: totals.debits_posted.saturating_sub(not_posted), ..totals };
            (known.is_none() || book != shard).then_some(Difference { account: id, shard, book })
        });
        differences.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Code, GatewayId, NewAccount, Record, TransferId};

    fn transfer(debit: u128, credit: u128, amount: u128) -> Transfer {
        Transfer {
            id: TransferId::from_raw(1),
            debit: AccountId::from_raw(debit),
            credit: AccountId::from_raw(credit),
            amount,
            ..Transfer::default()
        }
    }

    #[test]
    fn only_what_the_shard_has_not_posted_yet_may_differ() {
        let shards = 2;
        let home = AccountId::from_raw(1).shard(shards);
        let away = (2..50).find(|&id| AccountId::from_raw(id).shard(shards) != home).unwrap();
        let mut book = Book::new();
        for id in [1, away] {
            let account = NewAccount { id: AccountId::from_raw(id), currency: 978, ..NewAccount::default() };
            book.apply(1, &Record::Account { account, gateway: GatewayId(1) }).unwrap();
        }
        let mut proof = Proof::new(shards);
        for amount in [10, 20, 30] {
            let transfer = transfer(1, away, amount);
            book.apply(1, &Record::Transfer { transfer, outcome: Code::Accepted, gateway: GatewayId(1) }).unwrap();
            proof.decided(1 - home, &transfer, true);
        }
        let mut audit = |finished: u64, debits: u128| {
            let mut counts = vec![0; shards];
            counts[1 - home] = finished;
            let accounts = vec![(AccountId::from_raw(1), Totals { debits_posted: debits, ..Totals::default() })];
            proof.compare(&AuditReply { shard: home, accounts, finished: counts }, &book).len()
        };
        assert_eq!(audit(1, 10), 0, "the last two are still on their way");
        assert_eq!(audit(1, 60), 1);
        assert_eq!(audit(3, 10), 1);
        assert_eq!(audit(3, 60), 0);
    }
}
