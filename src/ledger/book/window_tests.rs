//! Windows against a naive model, and replayed from a checkpoint that took its time.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ledger::{NewAccount, ParticipantEntry, PolicyPart, TransferId, WindowEntry, WindowState, padded};

const ACCOUNTS: u128 = 6;

fn policy(netting: &str) -> String {
    format!(
        "[[scheme]]\nname = \"cards\"\nnumber = 1\ncurrency = \"EUR\"\ncodes = [1, 2]\nnetting = \"{netting}\"\nsettlement_account = 6\n"
    )
}

fn account(id: u128) -> Record {
    let account = NewAccount { id: AccountId::from_raw(id), currency: 978, code: 1, ..NewAccount::default() };
    Record::Account { account, gateway: GatewayId(1) }
}

fn transfer(id: u128, (debit, credit): (u128, u128), amount: u128, code: u16) -> Transfer {
    let [debit, credit] = [debit, credit].map(AccountId::from_raw);
    Transfer { id: TransferId::from_raw(id), debit, credit, amount, code, ..Transfer::default() }
}

fn accepted(transfer: Transfer, gateway: u32) -> Record {
    Record::Transfer { transfer, outcome: Code::Accepted, gateway: GatewayId(gateway) }
}

/// A journal that grows, and the book that follows it.
struct Ledger {
    book: Book,
    journal: Vec<Record>,
}

impl Ledger {
    fn new(netting: &str) -> Self {
        let mut ledger = Self { book: Book::new(), journal: Vec::new() };
        // A participant may be registered before its account is opened.
        ledger.participant(1, 1);
        (1..=ACCOUNTS).for_each(|id| ledger.append(account(id)));
        for part in PolicyPart::split(&policy(netting)) {
            ledger.append(Record::Policy(part));
        }
        ledger.participant(2, 2);
        ledger.participant(3, 3);
        ledger.participant(3, 4);
        ledger
    }

    fn append(&mut self, record: Record) {
        self.book.apply(self.journal.len() as u64, &record).unwrap();
        self.journal.push(record);
    }

    fn participant(&mut self, id: u32, account: u128) {
        let account = AccountId::from_raw(account);
        let name = padded("someone").unwrap();
        self.append(Record::Participant(
            ParticipantEntry { id, account, name, iban: [0; 34], bic: [0; 11], is_proposed: false },
            GatewayId(1),
        ));
    }

    fn window(&mut self, number: u32, state: WindowState) {
        let key = (1, number);
        let window = self.book.windows().window(key).unwrap();
        let mut entry = WindowEntry {
            scheme: 1,
            number,
            state,
            digest: [0; 32],
            day: 20_000,
            settlement_day: 20_001,
            sum: 0,
            count: 0,
            by: GatewayId(0),
        };
        if state == WindowState::Closed {
            entry.digest = window.positions.digest(key, window.last, self.book.windows().participants());
            (entry.sum, entry.count) = (window.positions.sum(), window.positions.count());
        }
        self.append(Record::Window(entry));
    }

    /// Settles what one participant is to receive or owes.
    fn settle(&mut self, number: u32, place: u32) {
        let net = self.book.windows().window((1, number)).unwrap().positions.of(place).net();
        let own = self.book.windows().participants()[place as usize].accounts[0].raw();
        let pair = if net > 0 { (own, ACCOUNTS) } else { (ACCOUNTS, own) };
        let participant = self.book.windows().participants()[place as usize].id;
        let purpose = if net > 0 { SettlementPurpose::Payout } else { SettlementPurpose::Collection };
        let settlement = Transfer {
            user_data_128: u128::from(participant),
            user_data_32: purpose as u32,
            user_data_64: Window::tag((1, number)),
            ..transfer(1_000_000 + self.journal.len() as u128, pair, net.unsigned_abs(), 1)
        };
        if net != 0 {
            self.append(accepted(settlement, 0));
        }
    }
}

/// What happens next: a transfer between two accounts, or a step of the oldest window that can take it.
#[derive(Clone, Copy, Debug)]
enum Event {
    Transfer { pair: (u128, u128), amount: u128, code: u16 },
    Close,
    Settle { whom: u32 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => ((1..=ACCOUNTS, 1..=ACCOUNTS), 1..50_u128, 1..4_u16)
            .prop_filter("two accounts", |(pair, ..)| pair.0 != pair.1)
            .prop_map(|(pair, amount, code)| Event::Transfer { pair, amount, code }),
        1 => Just(Event::Close),
        1 => (0..8_u32).prop_map(|whom| Event::Settle { whom }),
    ]
}

/// Plays events; answers what each participant's place has in each window by a model that knows only the transfers.
fn play(ledger: &mut Ledger, events: &[Event]) -> BTreeMap<(u32, u32), i128> {
    let place = |account: u128| match account {
        1 | 2 => u32::try_from(account).unwrap(),
        3 | 4 => 3,
        _ => HOUSE,
    };
    let mut nets: BTreeMap<(u32, u32), i128> = BTreeMap::new();
    let (mut open, mut settled) = (1_u32, 0_u32);
    for (number, event) in (1..).zip(events) {
        match *event {
            Event::Transfer { pair, amount, code } => {
                ledger.append(accepted(transfer(number, pair, amount, code), 1));
                if code < 3 {
                    *nets.entry((open, place(pair.0))).or_default() -= i128::try_from(amount).unwrap();
                    *nets.entry((open, place(pair.1))).or_default() += i128::try_from(amount).unwrap();
                }
            }
            Event::Close => {
                ledger.window(open, WindowState::Closing);
                // Late and repeated requests to close it change nothing.
                ledger.window(open, WindowState::Closing);
                ledger.window(open, WindowState::Closed);
                open += 1;
            }
            Event::Settle { whom } if settled + 1 < open => {
                settled += 1;
                for place in (1..=3).filter(|place| whom & (1 << (place - 1)) != 0) {
                    ledger.settle(settled, place);
                }
                ledger.window(settled, WindowState::Settled);
                for place in (1..=3).filter(|place| whom & (1 << (place - 1)) == 0) {
                    let left = nets.get(&(settled, place)).copied().unwrap_or(0);
                    *nets.entry((open, place)).or_default() += left;
                    *nets.entry((open, HOUSE)).or_default() -= left;
                }
            }
            Event::Settle { .. } => {}
        }
    }
    nets
}

fn comparable(book: &Book) -> (Vec<Window>, Vec<Participant>) {
    let windows = book.windows();
    let all = windows.windows().keys().filter_map(|key| windows.window(*key)).collect();
    (all, windows.participants().to_vec())
}

/// Plays events and compares each window's positions with the model's.
fn check_positions(events: &[Event], is_bilateral: bool) -> Result<(), TestCaseError> {
    let mut ledger = Ledger::new(if is_bilateral { "bilateral" } else { "multilateral" });
    let nets = play(&mut ledger, events);
    for (key, window) in ledger.book.windows().windows() {
        let window = ledger.book.windows().window(*key).unwrap_or_else(|| window.clone());
        prop_assert_eq!(window.positions.total(), 0);
        for place in 0..=3 {
            let position = window.positions.of(place);
            prop_assert_eq!(position.net(), nets.get(&(key.1, place)).copied().unwrap_or(0));
            if is_bilateral {
                let pairs = window.positions.pairs();
                let paid: u128 = pairs.iter().filter(|(pair, _)| pair.0 == place).map(|(_, sum)| sum).sum();
                prop_assert_eq!(paid, position.debits);
            }
        }
    }
    Ok(())
}

#[test]
fn what_a_settled_window_leaves_open_goes_to_the_open_window_against_the_house() {
    let transfer = Event::Transfer { pair: (2, 3), amount: 1, code: 1 };
    check_positions(&[transfer, Event::Close, Event::Settle { whom: 2 }], false).unwrap();
}

proptest! {
    #[test]
    fn every_transfer_is_in_the_window_that_was_open_and_positions_add_up_to_nothing(
        events in prop::collection::vec(event(), 1..120), is_bilateral in any::<bool>(),
    ) {
        check_positions(&events, is_bilateral)?;
    }

    #[test]
    fn replay_from_a_checkpoint_gives_the_same_windows(
        events in prop::collection::vec(event(), 1..120), cuts in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let mut ledger = Ledger::new("bilateral");
        play(&mut ledger, &events);
        let len = ledger.journal.len();
        let (begun, written) = (cuts.0.index(len), cuts.1.index(len));
        let (begun, written) = (begun.min(written), begun.max(written));
        // Pieces are gathered at both points, as two checkpoints would write them; the second one is not finished.
        let (mut first, mut pieces, mut as_of) = (Book::new(), BTreeMap::new(), 0);
        for (at, record) in ledger.journal[..written].iter().enumerate() {
            if at == begun {
                let taken = first.take_window_pieces();
                pieces.extend(taken.pieces);
            }
            first.apply(at as u64, record).unwrap();
        }
        let taken = first.take_window_pieces();
        if !taken.pieces.is_empty() {
            as_of = taken.as_of;
        }
        pieces.extend(taken.pieces);
        let mut base = Book::new();
        for (at, record) in ledger.journal[..begun].iter().enumerate() {
            base.apply(at as u64, record).unwrap();
        }
        let mut again = Book::new();
        for account in base.accounts() {
            again.load_account(&account);
        }
        let at = (base.sequence(), base.sequence());
        again.load_summary(at, base.summary(), Arc::clone(base.policy()));
        // A policy that is being read goes on where it was.
        again.policy_parts.clone_from(&base.policy_parts);
        again.policy_first = base.policy_first;
        again.load_window_pieces(&WindowPieces { as_of, pieces: pieces.into_iter().collect() }).unwrap();
        again.start_at(base.sequence());
        for (at, record) in ledger.journal.iter().enumerate().skip(begun) {
            again.apply(at as u64, record).unwrap();
        }
        prop_assert_eq!(comparable(&again), comparable(&ledger.book));
    }
}

#[test]
fn a_window_closed_with_other_positions_than_its_transfers_is_reported() {
    let mut ledger = Ledger::new("multilateral");
    ledger.append(accepted(transfer(1, (1, 2), 10, 1), 1));
    ledger.window(1, WindowState::Closing);
    let entry = WindowEntry {
        scheme: 1,
        number: 1,
        state: WindowState::Closed,
        digest: [7; 32],
        day: 1,
        settlement_day: 1,
        sum: 10,
        count: 1,
        by: GatewayId(0),
    };
    let error = ledger.book.apply(1, &Record::Window(entry)).unwrap_err();
    assert!(error.to_string().contains("other positions"), "{error}");
}

#[test]
fn a_returned_payout_is_carried_into_the_window_that_is_open() {
    let mut ledger = Ledger::new("multilateral");
    ledger.append(accepted(transfer(1, (1, 2), 10, 1), 1));
    ledger.window(1, WindowState::Closing);
    ledger.window(1, WindowState::Closed);
    ledger.settle(1, 1);
    ledger.settle(1, 2);
    ledger.window(1, WindowState::Settled);
    let open = |ledger: &Ledger, place| ledger.book.windows().window((1, 2)).unwrap().positions.of(place).net();
    assert_eq!((open(&ledger, 1), open(&ledger, 2)), (0, 0));
    let back = Transfer {
        user_data_32: SettlementPurpose::Return as u32,
        user_data_64: Window::tag((1, 1)),
        ..transfer(2, (ACCOUNTS, 2), 10, 1)
    };
    ledger.append(accepted(back, 0));
    assert_eq!((open(&ledger, 1), open(&ledger, 2), open(&ledger, HOUSE)), (0, 10, -10));
}
