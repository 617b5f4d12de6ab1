//! The state of everything besides the accounts, in few numbers: two books at one sequence are compared by them.
//!
//! Sums do not depend on the order in which things are kept. They tell by accident and not by a hash that withstands an attacker: both
//! books are one's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Book;
use crate::ledger::Sequence;

/// How many there are, and the sum of their fingerprints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    count: u64,
    fingerprint: u64,
}

impl Sum {
    fn of(parts: impl Iterator<Item = Vec<u8>>) -> Self {
        parts.fold(Self::default(), |mut sum, bytes| {
            sum.add(&bytes);
            sum
        })
    }

    /// With one more.
    pub(super) fn add(&mut self, part: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.fingerprint = self.fingerprint.wrapping_add(fingerprint(part));
    }

    /// Without one that was added.
    pub(super) fn take(&mut self, part: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.fingerprint = self.fingerprint.wrapping_sub(fingerprint(part));
    }
}

fn fingerprint(part: &[u8]) -> u64 {
    blake3::hash(part).as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A book's state at a sequence, without its accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BookState {
    /// The last record in it.
    pub sequence: Sequence,
    /// How many accounts.
    pub accounts: usize,
    /// Per currency and class: sum of the balances, of which coverage of client funds follows.
    pub classes: BTreeMap<(u16, u8), i128>,
    /// Holds, delayed transfers, reserves.
    pub pendings: Sum,
    /// What was refunded.
    pub given_back: Sum,
    /// What limits counted.
    pub limits: Sum,
    /// Windows with their positions.
    pub windows: Sum,
    /// Payouts.
    pub payouts: Sum,
    /// Participants and distributions.
    pub registered: Sum,
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap_or_default()
}

impl BookState {
    /// What differs, by name.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            ("the sequence", self.sequence == other.sequence),
            ("the number of accounts", self.accounts == other.accounts),
            ("the balances of classes", self.classes == other.classes),
            ("holds, delayed transfers and reserves", self.pendings == other.pendings),
            ("what was given back", self.given_back == other.given_back),
            ("what limits counted", self.limits == other.limits),
            ("windows and positions", self.windows == other.windows),
            ("payouts", self.payouts == other.payouts),
            ("participants and distributions", self.registered == other.registered),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

impl Book {
    /// The state now. Takes about a millisecond for ten thousand of whatever there is.
    pub fn state(&self) -> BookState {
        let (open, windows) = (&self.open, &self.windows);
        let limits = open.tallies.iter().filter(|tally| tally.buckets.iter().any(|bucket| bucket.part != 0));
        let keys: Vec<_> = windows.windows().keys().copied().collect();
        let whole = keys.into_iter().filter_map(|key| windows.window(key));
        let registered = windows.participants().iter().map(encoded);
        BookState {
            sequence: self.sequence,
            accounts: self.len(),
            classes: self.classes.sums().iter().filter(|(_, sum)| **sum != 0).map(|(key, sum)| (*key, *sum)).collect(),
            pendings: Sum::of(open.pendings.iter().map(|pending| pending.encode().to_vec())),
            // What was reversed or cancelled is left out: after a crash, a hold that was voided around a checkpoint has such an
            // entry that a whole replay does not make.
            given_back: open.lives.sum(),
            limits: Sum::of(limits.map(|tally| {
                let buckets: Vec<_> =
                    tally.buckets.iter().map(|bucket| (bucket.part, bucket.count, bucket.sum())).collect();
                encoded(&(tally.subject.scope as u8, tally.subject.id, buckets))
            })),
            windows: Sum::of(whole.map(|window| encoded(&window))),
            payouts: Sum::of(windows.payouts().values().map(|payout| {
                let mut bytes = crate::ledger::Record::Payout(*payout).encode().to_vec();
                bytes.push(u8::from(windows.is_returned(payout.id)));
                bytes
            })),
            registered: Sum::of(registered.chain(self.distributions.runs().iter().map(|run| encoded(&run)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{
        AccountFlags, AccountId, Code, GatewayId, NewAccount, Operation, Record, Transfer, TransferId,
    };

    #[test]
    fn books_of_the_same_records_are_alike_and_each_difference_is_named() {
        let account = |id: u128| {
            let id = AccountId::from_raw(id);
            let account = NewAccount { id, currency: 978, code: 1, flags: AccountFlags(0), ..NewAccount::default() };
            Record::Account { account, gateway: GatewayId(1) }
        };
        let transfer = |id: u128, flags: u16, related: u128| {
            let [debit, credit] = [1, 2].map(AccountId::from_raw);
            let id = TransferId::from_raw(id);
            let transfer = Transfer { id, debit, credit, amount: 5, code: 1, flags, related, ..Transfer::default() };
            Record::Transfer { transfer, outcome: Code::Accepted, gateway: GatewayId(1) }
        };
        let book = |records: &[Record]| {
            let mut book = Book::new();
            for record in records {
                book.apply(1, record).unwrap();
            }
            book.state()
        };
        let common = [account(1), account(2)];
        let plain = book(&[&common[..], &[transfer(7, 0, 0)]].concat());
        assert_eq!(plain.differences(&book(&[&common[..], &[transfer(7, 0, 0)]].concat())), Vec::<&str>::new());
        let held = book(&[&common[..], &[transfer(7, Operation::Hold as u16, 0)]].concat());
        assert_eq!(plain.differences(&held), ["holds, delayed transfers and reserves"]);
        let other = book(&[&common[..], &[transfer(8, Operation::Hold as u16, 0)]].concat());
        assert_eq!(held.differences(&other), ["holds, delayed transfers and reserves"], "of the same number");
        assert_eq!(plain.differences(&book(&common)), ["the sequence"]);
    }
}
