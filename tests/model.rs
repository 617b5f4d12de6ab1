//! A second ledger, written from the documentation alone, beside the real one: random operations over few accounts, and after
//! each transaction every outcome, total and state of both are the same.
//!
//! The other ledger is `tests/common/model.rs`; it shares nothing with what it judges.

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
#[path = "common/model.rs"]
mod plain;

use std::collections::BTreeMap;

use heng::ledger::{AccountFlags, AccountId, Code, GatewayId, NewAccount, Pending, PendingKind};
use network::Network;
use plain::Verb::{
    self, Balancing, Capture, Change, Delayed, Exchange, Hold, More, Pay, Raise, Refund, Require, Reversal, Void,
};
use plain::{ACCOUNTS, Ask, DAY_S, Item, Model, POLICY, SECOND_NS, STEP_S, convert};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// One random wish in raw numbers: what, from, to, how much, about what; and whether it is linked with the next.
type Wish = (u8, u8, u8, u128, u8, bool);

/// What a wish asks for, as things stand; `asks` are those before it in the transaction.
fn ask(id: u128, (what, from, to, amount, about, _): Wish, model: &Model, asks: &[Ask]) -> Ask {
    const FROM: [u128; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 2, 3, 4, 2, 3, 4, 8, 9];
    const TO: [u128; 16] = [1, 2, 3, 4, 5, 6, 2, 3, 4, 2, 3, 4, 5, 1, 8, 9];
    const VERBS: [Verb; 32] = [
        Pay, Pay, Pay, Pay, Pay, Pay, Balancing, Balancing, Hold, Hold, Hold, Hold, Hold, Raise, Raise, Raise, Capture,
        Capture, Capture, More, More, More, Void, Void, Delayed, Delayed, Refund, Refund, Reversal, Exchange, Require,
        Change,
    ];
    let verb = VERBS[usize::from(what % 32)];
    let (debit, mut credit) = (FROM[usize::from(from % 16)], TO[usize::from(to % 16)]);
    if debit == 7 || debit == 8 && about % 8 != 0 {
        credit = 15 - debit;
    }
    let time = model.now + u64::from(about % 32) - 1;
    let code = u16::from(about / 4 % 3);
    let base = Ask { id, verb, debit, credit, amount, code, ..Ask::default() };
    match verb {
        Pay | Balancing => base,
        Hold => Ask { time: if about % 2 == 0 { 0 } else { time }, ..base },
        Delayed => Ask { time: if about == 77 { 0 } else { time }, ..base },
        Raise | Capture | More | Void => {
            let known = model.items.values().filter(|item| item.is_open).cloned();
            let new = asks.iter().filter(|ask| matches!(ask.verb, Hold | Delayed));
            let new = new.map(|ask| Item { ask: *ask, left: ask.amount, ..Item::default() });
            let mut open: Vec<Item> = known.chain(new).collect();
            open.retain(|of| {
                verb == Void
                    || ((of.ask.verb == Hold || about % 8 == 5) && (verb != Raise || is_raised(of, model, asks)))
            });
            let Some(of) = open.get(usize::from(to) % open.len().max(1)) else {
                return if about < 16 { Ask { related: id / 2, ..base } } else { Ask { verb: Hold, ..base } };
            };
            let amount = match (verb, about % 8) {
                (Void, _) => 0,
                (Raise, _) => amount,
                (_, 0 | 1) => of.left,
                (_, 2) => of.left + of.left / 5,
                (_, 3) => of.left + of.left / 5 + 1,
                (_, 4 | 5) => of.left.div_ceil(2),
                _ => amount,
            };
            let code = if about % 16 == 7 { code } else { of.ask.code };
            let credit = if about % 32 == 9 { credit } else { of.ask.credit };
            Ask { debit: of.ask.debit, credit, code, amount, related: of.ask.id, ..base }
        }
        Refund | Reversal => {
            let suits = |item: &&Item| about % 8 == 0 || (item.has_moved && !item.is_over);
            let done: Vec<&Item> = model.items.values().filter(suits).collect();
            let Some(of) = done.get(usize::from(to) % done.len().max(1)) else { return Ask { related: 1, ..base } };
            let amount = if verb == Reversal && about % 16 != 1 { of.ask.amount } else { amount };
            let debit = if about % 32 == 9 { debit } else { of.ask.credit };
            Ask { debit, credit: of.ask.debit, amount, related: of.ask.id, ..base }
        }
        Exchange => {
            let rate = ([10_850, 5_000, 25_000, 9_999][usize::from(about % 4)], from % 4);
            let leg = asks.last().copied().unwrap_or(base);
            let amount = convert(leg.amount, rate) + u128::from(about % 16 == 3);
            let (debit, credit) = if leg.debit == 8 { (debit, credit) } else { (7, 8) };
            Ask { debit, credit, amount, rate, time: if about % 8 < 4 { 0 } else { time - 4 }, ..base }
        }
        Require => Ask { credit: 0, code: 0, ..base },
        Change => {
            let is_open = model.accounts.get(&debit).is_none_or(|account| account.state == 0);
            let state = [None, Some(0), Some(1), Some(2), Some(3), None, None, None][usize::from(about % 8)];
            let state = if is_open { state } else { Some(0) };
            let level = [None, Some(0), Some(1), Some(2)][usize::from(about / 8 % 4)];
            let overdraft = about >= 128 || (state, level) == (None, None);
            let amount = if overdraft { u128::from(to % 32) } else { 0 };
            Ask { credit: 0, code: 0, amount, change: (state, level, overdraft), ..base }
        }
    }
}

/// Whether a hold may be raised here: with limits, not in another period or level than it was counted in. Limits give what is left
/// of such a raise back to the hold's period, or not at all, which is on the strict side and not in this model.
fn is_raised(item: &Item, model: &Model, asks: &[Ask]) -> bool {
    let (second, from, to) = item.counted;
    let level = |id| model.accounts.get(&id).map_or(0, |account| account.level);
    let is_same = (second / STEP_S, from, to) == (model.now / STEP_S, level(item.ask.debit), level(item.ask.credit));
    !model.rules || ((is_same || !item.is_open) && asks.iter().all(|ask| ask.verb != Change))
}

/// Both ledgers are told the same and say the same.
struct Pair {
    network: Network,
    model: Model,
    asked: u128,
    accepted: BTreeMap<Verb, u32>,
    refused: BTreeMap<&'static str, u32>,
}

impl Pair {
    fn new(shards: usize, rules: bool) -> Self {
        let network = Network::new(shards, if rules { POLICY } else { "" });
        let (accepted, refused) = (BTreeMap::new(), BTreeMap::new());
        let mut model = Model::new(rules);
        model.is_punctual = true;
        let mut pair = Self { network, model, asked: 100, accepted, refused };
        for (id, flags, class, level, currency) in ACCOUNTS {
            let (id, flags) = (AccountId::from_raw(id), AccountFlags(flags));
            pair.network.open(&NewAccount { id, currency, flags, class, level, ..NewAccount::default() });
        }
        for (debit, credit) in [(1, 2), (1, 3), (5, 4), (7, 8)] {
            pair.submit(&[Ask { id: credit, debit, credit, amount: 120, ..Ask::default() }]);
            pair.wait(100);
        }
        pair
    }

    fn submit(&mut self, asks: &[Ask]) {
        let transfers = asks.iter().enumerate().map(|(index, ask)| ask.encode(index + 1 < asks.len()));
        self.network.gateway = GatewayId(self.model.gateway);
        self.network.submit(&transfers.collect::<Vec<_>>());
        self.network.settle();
        for (ask, code) in asks.iter().zip(self.model.submit(asks)) {
            assert_eq!(self.network.codes[&ask.id], code, "{ask:?} of {asks:?}");
            let counted = if code == Code::Accepted {
                self.accepted.entry(ask.verb).or_default()
            } else {
                self.refused.entry(code.name()).or_default()
            };
            *counted += 1;
        }
        self.compare(asks);
    }

    fn wait(&mut self, seconds: u64) {
        let now = self.model.now + seconds;
        self.network.tick(now * SECOND_NS);
        self.model.tick(now);
        self.compare(&[]);
    }

    fn compare(&self, asks: &[Ask]) {
        for (id, own) in &self.model.accounts {
            let real = self.network.book.account(AccountId::from_raw(*id)).unwrap();
            let all = real.totals;
            let totals = [all.debits_posted, all.credits_posted, all.debits_pending, all.credits_pending];
            let changing = (real.state.number(), real.properties.level, real.properties.overdraft);
            assert_eq!(totals, own.totals, "totals of {id} after {asks:?}");
            assert_eq!(changing, (own.state, own.level, own.overdraft), "account {id} after {asks:?}");
        }
    }

    fn finish(&mut self) {
        self.network.check_agreement();
        self.network.check_replay();
        let real = &self.network.book.open().pendings;
        let (reserves, real): (Vec<Pending>, Vec<Pending>) =
            real.iter().copied().partition(|open| open.kind == PendingKind::Reserve);
        let mut reserves: Vec<_> =
            reserves.iter().map(|open| (open.credit.raw(), open.left, open.time_ns / SECOND_NS)).collect();
        let mut withheld: Vec<_> = self.model.withheld.values().copied().collect();
        reserves.sort_unstable();
        withheld.sort_unstable();
        assert_eq!(reserves, withheld, "what is withheld");
        let real = real.into_iter().map(|open| {
            let ids = (open.id.raw(), open.debit.raw(), open.credit.raw(), open.kind == PendingKind::Delayed);
            (ids, (open.left, open.held, open.captured, open.time_ns))
        });
        let own = self.model.items.values().filter(|item| item.is_open).map(|item| {
            let ids = (item.ask.id, item.ask.debit, item.ask.credit, item.ask.verb == Delayed);
            (ids, (item.left, item.held, item.captured, item.ask.time * SECOND_NS))
        });
        assert_eq!(real.collect::<BTreeMap<_, _>>(), own.collect(), "what is open");
    }

    fn run(&mut self, wishes: &[Wish]) {
        let mut asks: Vec<Ask> = Vec::new();
        for (number, &wish) in wishes.iter().enumerate() {
            let (what, from, to, _, about, linked) = wish;
            if asks.is_empty() {
                self.model.gateway = if to >= 224 { 2 } else { 1 };
            }
            self.asked += 2;
            let mut asked = ask(self.asked, wish, &self.model, &asks);
            if asked.verb == Exchange && asks.is_empty() && about < 240 {
                let (debit, credit) = [(8, 7), (2, 1), (3, 1), (4, 2)][usize::from(from % 4)];
                let amount = u128::from(to % 40) + 1;
                asks.push(Ask { id: asked.id - 1, debit, credit, amount, ..Ask::default() });
                asked = ask(self.asked, wish, &self.model, &asks);
            }
            asks.push(asked);
            if !linked || asks.len() >= 4 || number + 1 == wishes.len() {
                self.submit(&std::mem::take(&mut asks));
                if what >= 224 {
                    self.wait([1, 7, 10, 25, 31, 60, 70, DAY_S][usize::from(from / 16 % 8)]);
                }
            }
        }
        self.finish();
    }
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = (any::<u8>(), any::<u8>(), any::<u8>(), 1..50_u128, any::<u8>(), prop::bool::weighted(0.25));
    prop::collection::vec(wish, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_does_what_its_documentation_says(shards in 1..5_usize, rules in any::<bool>(), wishes in wishes()) {
        Pair::new(shards, rules).run(&wishes);
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the statistic is for those who ask with --nocapture")]
fn every_operation_is_accepted_often_enough_to_be_compared() {
    let mut runner = TestRunner::deterministic();
    let (mut accepted, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for run in 0..200 {
        let wishes = wishes().new_tree(&mut runner).unwrap().current();
        let mut pair = Pair::new(1 + run % 4, run % 8 < 4);
        pair.run(&wishes);
        pair.accepted.into_iter().for_each(|(verb, count)| *accepted.entry(verb).or_insert(0) += count);
        pair.refused.into_iter().for_each(|(code, count)| *refused.entry(code).or_insert(0) += count);
    }
    println!("accepted {accepted:?}\nrefused {refused:?}");
    assert_eq!(accepted.len(), 13);
    assert!(accepted.values().all(|&count| count >= 20), "{accepted:?}");
}
