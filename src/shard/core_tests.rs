//! The shard core by scripts, and as a property: any number of shards, any delivery order, the same money.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::flow::{Admission, AnswerSink, Span};
use crate::ledger::{AccountFlags, AccountId, Book, GatewayId, RECORD_BYTES, TransferId};
use crate::settlement::fill_outcomes;

#[derive(Debug, Default)]
struct Answers(Mutex<Vec<Arc<Parcel>>>);

impl AnswerSink for Answers {
    fn answer(&self, parcel: Arc<Parcel>) {
        self.0.lock().unwrap().push(parcel);
    }
}

/// Shards with queues between them; which queue moves next is up to the test.
struct Network {
    cores: Vec<Core>,
    /// `queues[to][from]`, with the outside world as the last `from`.
    queues: Vec<Vec<VecDeque<ShardMessage>>>,
    book: Book,
    ids: u128,
    codes: BTreeMap<u128, Code>,
}

impl Network {
    fn new(shards: usize) -> Self {
        Self {
            cores: (0..shards).map(|shard| Core::new(shard, shards)).collect(),
            queues: (0..shards).map(|_| (0..=shards).map(|_| VecDeque::new()).collect()).collect(),
            book: Book::new(),
            ids: 1_000,
            codes: BTreeMap::new(),
        }
    }

    fn parcel(count: usize) -> Arc<Parcel> {
        let span = Span { request_id: 1, answer_kind: 0, first: 0, count };
        let permit = Admission::new(count).admit(count).unwrap();
        Parcel::new(GatewayId(1), vec![span], Arc::new(Answers::default()), permit)
    }

    fn open(&mut self, id: u128, flags: AccountFlags, currency: u16) {
        let id = AccountId::from_raw(id);
        let mut batch = Batch::default();
        batch.push(&Self::parcel(1), 0, NewAccount { id, currency, flags, ..NewAccount::default() });
        let shards = self.cores.len();
        self.queues[id.shard(shards)][shards].push_back(ShardMessage::Open(batch));
        self.settle();
    }

    fn submit(&mut self, debit: u128, credit: u128, amount: u128) -> u128 {
        self.ids += 1;
        let transfer = Transfer {
            id: TransferId::from_raw(self.ids),
            debit: AccountId::from_raw(debit),
            credit: AccountId::from_raw(credit),
            amount,
            ..Transfer::default()
        };
        let mut batch = Batch::default();
        batch.push(&Self::parcel(1), 0, transfer);
        let shards = self.cores.len();
        self.queues[transfer.debit.shard(shards)][shards].push_back(ShardMessage::Submit(batch));
        self.ids
    }

    /// Lets one shard handle one waiting message, chosen by `pick`; false when nothing waits.
    fn step(&mut self, pick: usize) -> bool {
        let waiting: Vec<(usize, usize)> = self
            .queues
            .iter()
            .enumerate()
            .flat_map(|(to, queues)| {
                queues.iter().enumerate().filter(|(_, queue)| !queue.is_empty()).map(move |(from, _)| (to, from))
            })
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let (to, from) = waiting[pick % waiting.len()];
        let message = self.queues[to][from].pop_front().unwrap();
        self.cores[to].handle(message);
        let output = self.cores[to].take_output();
        self.record(&output.decided);
        for peer in 0..self.cores.len() {
            let queue = &mut self.queues[peer][to];
            if !output.ended[peer].is_empty() {
                queue.push_back(ShardMessage::Finish { from: to, ended: output.ended[peer].clone() });
            }
            queue.extend((0..output.probed[peer]).map(|_| ShardMessage::Probed { from: to }));
        }
        for (peer, legs) in output.legs.into_iter().enumerate() {
            if !legs.is_empty() {
                self.queues[peer][to].push_back(ShardMessage::Accept { from: to, legs });
            }
        }
        for (peer, count) in output.probes.into_iter().enumerate() {
            self.queues[peer][to].extend((0..count).map(|_| ShardMessage::Probe { from: to }));
        }
        true
    }

    /// The book refuses any record that breaks a limit at its place in the stream.
    fn record(&mut self, decided: &Decided) {
        fill_outcomes(decided, 0, decided.recorded.len(), 1, 1);
        for bytes in decided.records.chunks_exact(RECORD_BYTES) {
            let record = Record::decode(bytes.first_chunk().unwrap()).unwrap();
            self.book.apply(1, &record).unwrap();
            if let Record::Transfer { transfer, outcome, .. } = record {
                assert_eq!(self.codes.insert(transfer.id.raw(), outcome), None, "decided twice");
            }
        }
    }

    fn settle(&mut self) {
        while self.step(0) {}
    }

    fn balances(&self) -> Vec<(u128, u128, u128)> {
        let accounts = self.book.accounts();
        accounts.map(|account| (account.properties.id.raw(), account.debits_posted, account.credits_posted)).collect()
    }

    /// What the shards hold is what the records say, and nothing waits.
    fn check_agreement(&self) {
        for core in &self.cores {
            assert!(core.parked.is_empty() && core.probing.is_empty(), "something still waits");
            for account in core.accounts.iter() {
                let known = self.book.account(account.id()).unwrap();
                assert_eq!(account.posted(), (known.debits_posted, known.credits_posted));
            }
        }
        assert!(self.book.balance_sums().values().all(|&sum| sum == 0));
    }
}

/// Runs a script on 1, 2, 3 and 8 shards: `open A 100` (limited, funded from W), `A B 60 accepted`, `balance A 40`.
fn check(script: &str) {
    for shards in [1, 2, 3, 8] {
        let mut network = Network::new(shards);
        network.open(u128::from(b'W'), AccountFlags::default(), 978);
        let id = |name: &str| u128::from(name.as_bytes()[0]);
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["open", name, funds] => {
                    network.open(id(name), AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS, 978);
                    if funds != "0" {
                        network.submit(id("W"), id(name), funds.parse().unwrap());
                    }
                }
                ["mirror", name] => network.open(id(name), AccountFlags::CREDITS_MUST_NOT_EXCEED_DEBITS, 978),
                ["dollar", name] => network.open(id(name), AccountFlags::default(), 840),
                ["balance", name, balance] => {
                    let account = network.book.account(AccountId::from_raw(id(name))).unwrap();
                    assert_eq!(account.balance(), balance.parse::<i128>().unwrap(), "{line} with {shards} shards");
                }
                [debit, credit, amount, code] => {
                    let transfer = network.submit(id(debit), id(credit), amount.parse().unwrap());
                    network.settle();
                    assert_eq!(network.codes[&transfer].name(), code, "{line} with {shards} shards");
                }
                _ => panic!("not a script line: {line}"),
            }
            network.settle();
        }
        network.check_agreement();
    }
}

#[test]
fn a_transfer_moves_money_once() {
    check(
        "
        open A 100
        open B 0
        A B 60 accepted
        A B 60 insufficient_funds
        B A 60 accepted
        B A 1 insufficient_funds
        balance A 100
        balance B 0
        balance W -100
        ",
    );
}

#[test]
fn refusals_name_the_first_rule_broken() {
    check(
        "
        open A 100
        dollar D
        A A 5 same_account
        A B 0 amount_zero
        A B 79228162514264337593543950336 amount_too_large
        X A 5 debit_account_unknown
        A X 5 credit_account_unknown
        A X 500 insufficient_funds
        A D 5 currency_mismatch
        balance A 100
        ",
    );
}

#[test]
fn a_bank_account_cannot_be_owed_by_us() {
    check(
        "
        open A 100
        mirror M
        A M 10 exceeds_debits
        M A 30 accepted
        A M 31 exceeds_debits
        A M 30 accepted
        balance M 0
        balance A 100
        ",
    );
}

#[test]
fn totals_stop_at_what_a_decimal_holds() {
    check(
        "
        open A 79228162514264337593543950335
        open B 0
        W A 1 balance_overflow
        A B 79228162514264337593543950335 accepted
        B A 1 balance_overflow
        ",
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Clashing transfers over few accounts, delivered in any order: every transfer is decided, each record is right at its
    /// place in the stream, shards and records agree, and no refusal for lack of funds was due to a reservation alone.
    #[test]
    fn any_delivery_order_keeps_the_books(
        shards in 1..5_usize,
        transfers in prop::collection::vec((0..8_u8, 0..8_u8, 1..60_u128), 1..40),
        picks in prop::collection::vec(any::<usize>(), 400),
    ) {
        let mut network = Network::new(shards);
        for id in 1..=8_u8 {
            network.open(u128::from(id), AccountFlags(match id { 1 | 2 => 0, 7 | 8 => 2, _ => 1 }), 978);
        }
        for id in 3..=6 {
            network.submit(1, id, 50);
        }
        let mut picks = picks.into_iter();
        let mut submitted = 4;
        for (debit, credit, amount) in transfers {
            network.submit(u128::from(debit) + 1, u128::from(credit) + 1, amount);
            submitted += 1;
            for _ in 0..3 {
                network.step(picks.next().unwrap_or(0));
            }
        }
        while network.step(picks.next().unwrap_or(0)) {}
        prop_assert_eq!(network.codes.len(), submitted);
        network.check_agreement();
    }

    /// Without limits nothing depends on order: any number of shards gives the same balances.
    #[test]
    fn balances_do_not_depend_on_the_number_of_shards(
        transfers in prop::collection::vec((1..30_u128, 1..30_u128, 1..1_000_u128), 1..60),
        picks in prop::collection::vec(any::<usize>(), 200),
    ) {
        let mut seen = Vec::new();
        for shards in [1, 2, 3, 8] {
            let mut network = Network::new(shards);
            (1..30).for_each(|id| network.open(id, AccountFlags::default(), 978));
            for &(debit, credit, amount) in &transfers {
                network.submit(debit, credit, amount);
            }
            let mut picks = picks.iter().copied();
            while network.step(picks.next().unwrap_or(0)) {}
            network.check_agreement();
            seen.push(network.balances());
        }
        prop_assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn what_a_reservation_may_still_free_is_waited_for() {
    // Two shards; 3 and its neighbour must live apart. The first transfer goes to an account that does not exist.
    let mut network = Network::new(2);
    let home = AccountId::from_raw(3).shard(2);
    let away = (4..100).find(|&id| AccountId::from_raw(id).shard(2) != home).unwrap();
    let missing = (away + 1..200).find(|&id| AccountId::from_raw(id).shard(2) != home).unwrap();
    network.open(1, AccountFlags::default(), 978);
    network.open(3, AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS, 978);
    network.open(away, AccountFlags::default(), 978);
    network.submit(1, 3, 100);
    network.settle();
    let doomed = network.submit(3, missing, 60);
    let waiting = network.submit(3, away, 60);
    let behind = network.submit(3, away, 10);
    // All three reach the debit shard before the credit shard says anything.
    for _ in 0..3 {
        let message = network.queues[home][2].pop_front().unwrap();
        network.cores[home].handle(message);
    }
    assert!(network.codes.keys().all(|&id| id != waiting), "not refused because of a doomed reservation");
    let output = network.cores[home].take_output();
    for (peer, legs) in output.legs.into_iter().enumerate() {
        if !legs.is_empty() {
            network.queues[peer][home].push_back(ShardMessage::Accept { from: home, legs });
        }
    }
    network.settle();
    assert_eq!(network.codes[&doomed], Code::CreditAccountUnknown);
    assert_eq!(network.codes[&waiting], Code::Accepted);
    assert_eq!(network.codes[&behind], Code::Accepted);
    network.check_agreement();
}
