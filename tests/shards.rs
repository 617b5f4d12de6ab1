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

use heng::ledger::{
    AccountChange, AccountFlags, AccountId, AccountState, BALANCING, Code, LINKED, MORE, NewAccount, Operation,
    Transfer, TransferId,
};
use network::Network;
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

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
            network.submit(&std::mem::take(&mut transaction));
            between(network);
        }
    }
    submitted
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
                network.queues[0][shards].push_back(heng::shard::ShardMessage::Tick { now_ns });
            }
        });
        while network.step(picks.next().unwrap_or(0)) {}
        prop_assert_eq!(network.codes.len(), submitted);
        network.check_agreement();
        network.check_replay();
        network.tick(network.now_ns + 90_000 * SECOND_NS);
        network.check_agreement();
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
