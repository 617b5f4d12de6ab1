//! Shards under any order of delivery: every operation over few accounts, so that they clash.

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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use heng::ledger::{
    AccountChange, AccountFlags, AccountId, AccountState, BALANCING, Book, BookAccount, Code, LINKED, Life, LifeStore,
    MORE, NewAccount, Operation, Record, Sequence, Transfer, TransferId,
};
use heng::shard::ShardMessage;
use network::Network;
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

/// Lives as a checkpoint left them.
#[derive(Debug)]
struct Lives(HashMap<TransferId, Life>, Sequence);

impl LifeStore for Lives {
    fn life(&self, id: TransferId) -> Option<Life> {
        self.0.get(&id).copied()
    }

    fn checkpoint(&self) -> Sequence {
        self.1
    }
}

/// Limits small enough to be met, a fee, a reserve, segregation, a lender.
const POLICY: &str = r#"
capture_tolerance_percent = "20"
deny_pairs = [[3, 4]]
[[segregation.permit]]
from = "client-funds"
to = "fee"
codes = [1, 90]
[[segregation.permit]]
from = "external"
to = "client-funds"
codes = [0, 1, 2]
[[segregation.permit]]
from = "client-funds"
to = "reserve"
codes = [92]
[[segregation.permit]]
from = "reserve"
to = "client-funds"
codes = [92]
[[reversal.receivable]]
currency = "EUR"
account = 1
[[limit]]
name = "day"
counted_per = "account"
currency = "EUR"
window = "day"
levels = [1]
sum_max = "1.50"
count_max = 8
[[limit]]
name = "sliding"
counted_per = "gateway"
currency = "EUR"
window = "60s"
sum_max = "9.00"
[[fee]]
name = "fee"
codes = [1]
currency = "EUR"
paid_by = "payee"
fee_code = 90
percent = "10"
to = [{ account = 9, ratio = 2 }, { account = 2 }]
[[reserve]]
name = "reserve"
percent = "10"
days = 1
account = 10
reserve_code = 92
codes = [2]
levels = [1]
"#;

fn open(network: &mut Network) {
    for id in 1..=10_u8 {
        let (flags, class, level) = match id {
            1 | 2 => (0, 4, 0),
            8 => (2, 0, 0),
            9 => (0, 5, 0),
            10 => (1, 3, 0),
            3 | 4 => (1, 1, 1),
            _ => (1, 0, 0),
        };
        network.open(&NewAccount {
            id: AccountId::from_raw(u128::from(id)),
            currency: 978,
            flags: AccountFlags(flags),
            class,
            level,
            ..NewAccount::default()
        });
    }
    for id in 3..=7_u128 {
        let (debit, credit) = (AccountId::from_raw(1), AccountId::from_raw(id));
        network.submit(&[Transfer { id: TransferId::from_raw(id), debit, credit, amount: 150, ..Transfer::default() }]);
    }
    network.settle();
}

/// One random wish, in raw numbers.
type Wish = (u8, u8, u8, u128, u8);

/// The transfer that a wish is, given how many came before it.
fn transfer(id: u128, (operation, debit, credit, amount, about): Wish, network: &Network) -> Transfer {
    let base = Transfer {
        id: TransferId::from_raw(1_000 + id),
        debit: AccountId::from_raw(u128::from(debit % 10) + 1),
        credit: AccountId::from_raw(u128::from(credit % 10) + 1),
        amount,
        code: u16::from(about % 3),
        ..Transfer::default()
    };
    // Mostly about something that was accepted and could be the right thing.
    let suits = |first: &Transfer| match operation % 16 {
        12 | 13 => matches!(first.operation(), Operation::Transfer | Operation::Capture),
        _ => matches!(first.operation(), Operation::Hold | Operation::Delayed),
    };
    let suitable = network
        .records
        .values()
        .rev()
        .filter(|first| about % 8 == 0 || (suits(first) && network.codes[&first.id.raw()].is_accepted()));
    let named = suitable.take(1 + usize::from(about / 64)).last().copied().unwrap_or(base);
    let related = named.id.raw();
    let forth = Transfer { debit: named.debit, credit: named.credit, related, code: named.code, ..base };
    let back = Transfer { debit: named.credit, credit: named.debit, related, ..base };
    let with = |transfer: Transfer, operation: Operation| Transfer { flags: operation as u16, ..transfer };
    let later = network.now_ns + u64::from(about) * SECOND_NS;
    match operation % 16 {
        0..=3 => base,
        4 => Transfer { flags: BALANCING, ..base },
        5 | 6 => Transfer { time_ns: if about % 2 == 0 { 0 } else { later }, ..with(base, Operation::Hold) },
        7 => with(forth, Operation::Capture),
        8 => Transfer { flags: Operation::Capture as u16 | MORE, ..forth },
        9 => with(forth, Operation::Raise),
        10 => Transfer { amount: 0, ..with(forth, Operation::Void) },
        11 => Transfer { time_ns: later + 1, ..with(base, Operation::Delayed) },
        12 => with(back, Operation::Refund),
        13 => Transfer { amount: named.amount, ..with(back, Operation::Reversal) },
        14 => Transfer { credit: AccountId::default(), code: 0, ..with(base, Operation::Require) },
        _ => {
            let state = AccountState::from_number(about % 16).filter(|state| *state != AccountState::Closed);
            let change = AccountChange { state, overdraft: Some(u128::from(about % 8)), ..AccountChange::default() };
            Transfer { id: base.id, ..change.request(base.debit) }
        }
    }
}

fn run(network: &mut Network, wishes: &[(Wish, bool)], mut between: impl FnMut(&mut Network)) -> usize {
    open(network);
    let mut submitted = 5;
    let mut transaction: Vec<Transfer> = Vec::new();
    for (number, &(wish, linked)) in wishes.iter().enumerate() {
        let transfer = transfer(u128::try_from(number).unwrap(), wish, network);
        let goes_on = linked && transaction.len() < 4 && number + 1 < wishes.len();
        transaction
            .push(Transfer { flags: if goes_on { transfer.flags | LINKED } else { transfer.flags }, ..transfer });
        if !goes_on {
            submitted += transaction.len();
            network.asked.push(std::mem::take(&mut transaction));
            let asked = network.asked.last().unwrap().clone();
            network.submit(&asked);
            between(network);
        }
    }
    submitted
}

/// What goes to the desk comes after all that was sent for the same account before it, and before all that was sent after it.
fn check_order(network: &Network, all_at_desk: bool) {
    let places = network.journal.iter().enumerate().filter_map(|(place, record)| match record {
        Record::Transfer { transfer, .. } => Some((transfer.id, place)),
        _ => None,
    });
    let places: BTreeMap<TransferId, usize> = places.collect();
    let mut last: BTreeMap<AccountId, (usize, usize)> = BTreeMap::new();
    for transaction in &network.asked {
        let first = transaction[0];
        if !network.codes[&first.id.raw()].is_accepted() {
            // What is wrong whatever the accounts are need not wait for anything.
            continue;
        }
        let at_desk = all_at_desk || transaction.len() > 1 || !first.is_plain();
        let place = places[&first.id];
        // The last one from the desk, and the last of all.
        let (desk, any) = last.entry(first.debit).or_default();
        assert!(place > *desk, "{first:?} came before what the desk was sent before it");
        assert!(!at_desk || place > *any, "{first:?} came before what was sent before it");
        *any = place.max(*any);
        if at_desk {
            *desk = place;
        }
    }
}

fn wishes(most: usize) -> impl Strategy<Value = Vec<(Wish, bool)>> {
    let wish = (any::<u8>(), any::<u8>(), any::<u8>(), 1..80_u128, any::<u8>());
    prop::collection::vec((wish, prop::bool::weighted(0.2)), 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Delivered in any order: every transfer is decided once, each record is right at its place in the stream, shards and
    /// book agree on every total and everything open, nothing waits, and replaying gives the same.
    #[test]
    fn any_delivery_order_keeps_the_books(
        shards in 1..5_usize,
        wishes in wishes(60),
        policy in any::<bool>(),
        picks in prop::collection::vec(any::<usize>(), 1_500),
    ) {
        let mut network = Network::new(shards, if policy { POLICY } else { "" });
        let mut picks = picks.into_iter();
        let submitted = run(&mut network, &wishes, |network| {
            for _ in 0..picks.next().unwrap_or(0) % 6 {
                network.step(picks.next().unwrap_or(0));
            }
            if picks.next().unwrap_or(0) % 8 == 0 {
                let (now_ns, shards) = (network.now_ns + 20 * SECOND_NS, network.cores.len());
                network.now_ns = now_ns;
                network.queues[0][shards].push_back(ShardMessage::Tick { now_ns });
            }
        });
        while network.step(picks.next().unwrap_or(0)) {}
        prop_assert_eq!(network.codes.len(), submitted);
        check_order(&network, policy);
        network.check_agreement();
        network.check_replay();
        network.tick(network.now_ns + 90_000 * SECOND_NS);
        network.check_agreement();
    }

    /// The same with accounts that are opened while what is about them waits at the desk.
    #[test]
    fn accounts_that_are_opened_meanwhile_keep_their_order(
        shards in 2..4_usize,
        wishes in prop::collection::vec((0..8_u8, 0..4_u8, 1..4_u8), 1..40),
        picks in prop::collection::vec(any::<usize>(), 600),
    ) {
        let mut network = Network::new(shards, "");
        let mut picks = picks.into_iter();
        let mut opened = BTreeSet::new();
        for (number, (what, which, other)) in (100..).zip(wishes) {
            let [debit, credit] = [which, (which + other) % 4].map(|id| AccountId::from_raw(u128::from(id) + 11));
            if what < 2 && opened.insert(debit) {
                network.send_open(&NewAccount { id: debit, currency: 978, ..NewAccount::default() });
            } else {
                let flags = if what < 6 { Operation::Hold as u16 } else { 0 };
                let id = TransferId::from_raw(number);
                let transfer = Transfer { id, debit, credit, amount: 1, flags, ..Transfer::default() };
                network.submit(&[transfer]);
                // What was asked for before the account was is refused, or comes after it was opened, at any place.
                network.asked.extend(opened.contains(&debit).then(|| vec![transfer]));
            }
            for _ in 0..picks.next().unwrap_or(0) % 4 {
                network.step(picks.next().unwrap_or(0));
            }
        }
        while network.step(picks.next().unwrap_or(0)) {}
        check_order(&network, false);
        network.check_agreement();
        network.check_replay();
    }

    /// A checkpoint is written while the stream goes on: each of its entries is as of some later moment. Replaying from its
    /// sequence gives the same book all the same.
    #[test]
    fn replaying_from_a_checkpoint_that_took_time_gives_the_same_book(
        wishes in wishes(60),
        policy in any::<bool>(),
        cut in any::<prop::sample::Index>(),
        later in any::<[prop::sample::Index; 3]>(),
        picks in prop::collection::vec(0..4_usize, 200),
    ) {
        let mut network = Network::new(1, if policy { POLICY } else { "" });
        let mut count = 0;
        run(&mut network, &wishes, |network| {
            network.settle();
            count += 1;
            if count % 5 == 0 {
                network.tick(network.now_ns + 20 * SECOND_NS);
            }
        });
        let len = network.journal.len();
        let opened = network.journal.iter().rposition(|record| matches!(record, Record::Account { .. })).unwrap() + 1;
        let at = opened + cut.index(len - opened + 1);
        let moments = [at, at + later[0].index(len - at + 1), at + later[1].index(len - at + 1), at + later[2].index(len - at + 1)];
        let books = moments.map(|moment| {
            let mut book = Book::new();
            for record in &network.journal[..moment] {
                book.apply(0, record).unwrap();
            }
            book
        });
        let horizon = u64::try_from(*moments.iter().max().unwrap()).unwrap();
        let mut picks = picks.into_iter().cycle();
        let mut again = Book::new();
        for account in books[0].accounts() {
            let book = &books[picks.next().unwrap()];
            again.load_account(&book.account(account.properties.id).unwrap());
        }
        let ids: Vec<TransferId> = network.codes.keys().map(|&id| TransferId::from_raw(id)).collect();
        let reserves: Vec<TransferId> = books.iter().flat_map(|book| book.open().pendings.iter().map(|open| open.id)).collect();
        let mut all: Vec<TransferId> = ids.iter().copied().chain(reserves).collect();
        all.sort_unstable();
        all.dedup();
        let mut lives = Lives(HashMap::new(), books[0].sequence());
        for id in all {
            let pendings = &books[picks.next().unwrap()];
            again.open_mut().pendings.load(pendings.open().pendings.get(id).copied(), |_, _| true);
            lives.0.extend(books[0].open().lives.get(id).map(|life| (id, life)));
        }
        let subjects: Vec<_> = network.book.open().tallies.iter().map(|tally| tally.subject).collect();
        for subject in subjects {
            let tally = books[picks.next().unwrap()].open().tallies.get(subject);
            again.open_mut().tallies.load(tally);
        }
        let (sequence, policy) = (books[0].sequence(), Arc::clone(books[0].policy()));
        again.load_summary((sequence, horizon), books[0].summary(), policy);
        again.load_lives(Arc::new(lives));
        again.start_at(sequence);
        for record in &network.journal[at..] {
            again.apply(0, record).unwrap();
        }
        prop_assert_eq!(again.take_notes(), vec![]);
        let totals = |book: &Book| book.accounts().collect::<Vec<_>>();
        let live: Vec<_> = totals(&network.book).into_iter().map(|account| BookAccount { opened_ns: 0, ..account }).collect();
        prop_assert_eq!(totals(&again), live);
        let open = |book: &Book| {
            let mut pendings: Vec<_> = book.open().pendings.iter().copied().collect();
            pendings.sort_unstable_by_key(|pending| pending.id);
            let lives: Vec<_> = ids.iter().map(|&id| book.open().lives.get(id).filter(|life| life.refunded > 0)).collect();
            let mut tallies: Vec<_> = book.open().tallies.iter().collect();
            tallies.sort_unstable_by_key(|tally| tally.subject);
            (pendings, lives, book.open().lives.sum(), tallies)
        };
        prop_assert_eq!(open(&again), open(&network.book));
        prop_assert_eq!(again.summary(), network.book.summary());
    }

    /// One after the other, every outcome and every total is the same whatever the number of shards.
    #[test]
    fn outcomes_do_not_depend_on_the_number_of_shards(wishes in wishes(60), policy in any::<bool>()) {
        let mut seen = Vec::new();
        for shards in 1..=4 {
            let mut network = Network::new(shards, if policy { POLICY } else { "" });
            let mut count = 0;
            run(&mut network, &wishes, |network| {
                network.settle();
                count += 1;
                if count % 5 == 0 {
                    network.tick(network.now_ns + 20 * SECOND_NS);
                }
            });
            network.check_agreement();
            let totals: Vec<_> = network.book.accounts().map(|account| (account.properties.id, account.totals)).collect();
            seen.push((network.codes.clone(), totals));
        }
        for other in &seen[1..] {
            prop_assert_eq!(&seen[0].0, &other.0);
            prop_assert_eq!(&seen[0].1, &other.1);
        }
    }
}

#[test]
fn what_a_reservation_may_still_free_is_waited_for() {
    // Two shards; 3 and its neighbour must live apart. The first transfer goes to an account that does not exist.
    let mut network = Network::new(2, "");
    let home = AccountId::from_raw(3).shard(2);
    let away = (4..100).find(|&id| AccountId::from_raw(id).shard(2) != home).unwrap();
    let missing = (away + 1..200).find(|&id| AccountId::from_raw(id).shard(2) != home).unwrap();
    for (id, flags) in [(1, 0), (3, 1), (away, 0)] {
        let id = AccountId::from_raw(id);
        network.open(&NewAccount { id, currency: 978, flags: AccountFlags(flags), ..NewAccount::default() });
    }
    let transfer = |id, debit, credit, amount| Transfer {
        id: TransferId::from_raw(id),
        debit: AccountId::from_raw(debit),
        credit: AccountId::from_raw(credit),
        amount,
        ..Transfer::default()
    };
    network.submit(&[transfer(1, 1, 3, 100)]);
    network.settle();
    network.submit(&[transfer(2, 3, missing, 60)]);
    network.submit(&[transfer(3, 3, away, 60)]);
    network.submit(&[transfer(4, 3, away, 10)]);
    // All three reach the debit shard before the credit shard says anything.
    for _ in 0..3 {
        let message = network.queues[home][2].pop_front().unwrap();
        network.cores[home].handle(message);
    }
    network.deliver(home);
    assert!(!network.codes.contains_key(&3), "not refused because of a doomed reservation");
    network.settle();
    assert_eq!(network.codes[&2], Code::CreditAccountUnknown);
    assert_eq!(network.codes[&3], Code::Accepted);
    assert_eq!(network.codes[&4], Code::Accepted);
    network.check_agreement();
}

/// An account on a shard, from an id on.
fn on_shard(shard: usize, shards: usize, from: u128) -> AccountId {
    (from..from + 1_000).map(AccountId::from_raw).find(|id| id.shard(shards) == shard).unwrap()
}

#[test]
fn an_account_that_was_reported_missing_and_then_opened_keeps_nobody_from_waiting_for_others() {
    let [fee, from, to, other] =
        [(1, 1_000), (0, 100), (1, 200), (2, 300)].map(|(shard, first)| on_shard(shard, 3, first));
    let policy = format!(
        "[[fee]]\nname = \"f\"\ncurrency = \"EUR\"\npaid_by = \"payee\"\nfee_code = 9\nfixed = \"0.01\"\nto = [{{ account = {fee} }}]"
    );
    let mut network = Network::new(3, &policy);
    let open = |id| NewAccount { id, currency: 978, ..NewAccount::default() };
    for id in [from, to, other] {
        network.open(&open(id));
    }
    let ask = |id, debit, credit, amount, operation: Operation, related| Transfer {
        id: TransferId::from_raw(id),
        debit,
        credit,
        amount,
        flags: operation as u16,
        related,
        ..Transfer::default()
    };
    let next = |network: &mut Network, to: usize, from: usize| {
        while let Some(message) = network.queues[to][from].pop_front() {
            network.cores[to].handle(message);
            network.deliver(to);
        }
    };
    network.submit(&[ask(10, from, to, 50, Operation::Hold, 0)]);
    network.settle();
    network.submit(&[ask(12, from, to, 50, Operation::Capture, 10)]);
    next(&mut network, 0, 3);
    next(&mut network, 1, 0);
    next(&mut network, 0, 1);
    network.open(&open(fee));
    network.submit(&[ask(13, fee, from, 1, Operation::Hold, 0)]);
    network.settle();
    network.check_agreement();
    assert_eq!(network.codes[&13], Code::Accepted);
}

#[test]
fn a_hold_cannot_take_the_place_of_a_reserve() {
    let policy = "[[reserve]]\nname = \"r\"\npercent = \"10\"\ndays = 1\naccount = 9\nreserve_code = 92\nlevels = [4]";
    for hold_first in [true, false] {
        let mut network = Network::new(1, policy);
        for (id, level) in [(1, 0), (2, 0), (3, 4), (9, 0)] {
            let id = AccountId::from_raw(id);
            network.open(&NewAccount { id, currency: 978, level, ..NewAccount::default() });
        }
        let ask = |id, credit, amount, operation: Operation| Transfer {
            id,
            debit: AccountId::from_raw(1),
            credit: AccountId::from_raw(credit),
            amount,
            flags: operation as u16,
            ..Transfer::default()
        };
        let payment = TransferId::from_raw(50);
        let hold = ask(TransferId::derived(payment, 0), 2, 7, Operation::Hold);
        let payment = ask(payment, 3, 1_000, Operation::Transfer);
        let both = if hold_first { [hold, payment] } else { [payment, hold] };
        for transfer in both {
            network.submit(&[transfer]);
        }
        network.settle();
        let expected = if hold_first { Code::Accepted } else { Code::IdReused };
        assert_eq!(network.codes[&hold.id.raw()], expected);
        network.tick(network.now_ns + 90_000 * SECOND_NS);
        let totals = network.book.account(AccountId::from_raw(3)).unwrap().totals;
        assert_eq!((totals.credits_posted - totals.debits_posted, totals.credits_pending), (1_000, 0));
        network.check_agreement();
    }
}
