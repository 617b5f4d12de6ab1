//! What clients ask for: random, over few accounts, mostly about what is there.

use heng::ledger::Code;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::log::Log;
use crate::plain::{Ask, Verb, convert};

const FROM: [u128; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 2, 3, 4, 2];
const TO: [u128; 12] = [2, 3, 4, 1, 5, 6, 8, 7, 3, 4, 2, 9];

fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

/// An earlier ask of these kinds that was accepted, as far as is known; young ones rather than old ones.
fn earlier(rng: &mut StdRng, log: &Log, verbs: &[Verb]) -> Option<Ask> {
    let young = log.transactions.iter().rev().take(60);
    let accepted = young
        .flat_map(|transaction| transaction.asks.iter().zip(&transaction.told))
        .filter(|(ask, told)| verbs.contains(&ask.verb) && told.is_some_and(|told| told.code == Code::Accepted));
    let found: Vec<Ask> = accepted.map(|(ask, _)| *ask).collect();
    if found.is_empty() { None } else { Some(pick(rng, &found)) }
}

fn ask(rng: &mut StdRng, log: &Log, id: u128, (second, rules): (u64, bool)) -> Ask {
    let (debit, credit) = (pick(rng, &FROM), pick(rng, &TO));
    let code = if rules { pick(rng, &[0, 0, 1]) } else { 0 };
    let base = Ask { id, debit, credit, code, amount: rng.random_range(1..60), ..Ask::default() };
    let time = second + rng.random_range(5..300);
    let about = |ask: Ask, verb, amount| Ask { verb, amount, related: ask.id, id, time: 0, ..ask };
    match rng.random_range(0..100) {
        0..40 => base,
        40..44 => Ask { verb: Verb::Balancing, ..base },
        44..58 => Ask { verb: Verb::Hold, time: if rng.random_bool(0.5) { 0 } else { time }, ..base },
        58..64 => Ask { verb: Verb::Delayed, time, ..base },
        64..86 => {
            let verb = pick(rng, &[Verb::Capture, Verb::Capture, Verb::More, Verb::More, Verb::Void, Verb::Raise]);
            let of = if verb == Verb::Void { &[Verb::Hold, Verb::Delayed][..] } else { &[Verb::Hold][..] };
            let Some(hold) = earlier(rng, log, of) else { return base };
            let beyond = if rules { hold.amount / 4 } else { 1 };
            let most = if rng.random_bool(0.1) { hold.amount + beyond } else { hold.amount };
            about(hold, verb, if verb == Verb::Void { 0 } else { rng.random_range(1..=most) })
        }
        86..94 => {
            let Some(paid) = earlier(rng, log, &[Verb::Pay, Verb::Delayed, Verb::Capture]) else { return base };
            let back = Ask { debit: paid.credit, credit: paid.debit, code: 0, change: (None, None, false), ..paid };
            if rng.random_bool(0.3) {
                about(back, Verb::Reversal, paid.amount)
            } else {
                about(back, Verb::Refund, rng.random_range(1..=paid.amount))
            }
        }
        94..96 => Ask { verb: Verb::Require, credit: 0, ..base },
        _ => {
            // Levels decide which limits count.
            let level = if rules { pick(rng, &[None, Some(0), Some(1)]) } else { None };
            let states = [None, Some(0), Some(0), Some(0), Some(1), Some(2)];
            let state = if level.is_some() { None } else { pick(rng, &states) };
            let overdraft = state.is_none() && level.is_none();
            let amount = if overdraft { rng.random_range(0..40) } else { 0 };
            let debit = pick(rng, &[2, 3, 4, 8]);
            Ask { verb: Verb::Change, debit, credit: 0, amount, change: (state, level, overdraft), ..base }
        }
    }
}

/// Euro against dollars: what is exchanged, and the leg that says at what rate.
fn exchange(rng: &mut StdRng, log: &Log, second: u64) -> Vec<Ask> {
    let (debit, credit) = pick(rng, &[(2, 1), (3, 1), (4, 2), (1, 3)]);
    let sold = Ask { id: log.new_id(0), debit, credit, amount: rng.random_range(1..40), ..Ask::default() };
    let rate = (pick(rng, &[10_850, 5_000, 25_000, 9_999]), rng.random_range(0..4));
    let amount = convert(sold.amount, rate) + u128::from(rng.random_bool(0.1));
    let time = if rng.random() { 0 } else { second + rng.random_range(0..20) };
    let (debit, credit) = pick(rng, &[(7, 8), (7, 8), (8, 7)]);
    let bought = Ask { id: log.new_id(1), verb: Verb::Exchange, debit, credit, amount, rate, time, ..Ask::default() };
    vec![sold, bought]
}

/// A new step of one to four transfers, noted in the log.
pub(crate) fn transaction(rng: &mut StdRng, log: &mut Log, second: u64, (gateway, rules): (u32, bool)) -> usize {
    let count = if rng.random_bool(0.75) { 1 } else { rng.random_range(2..=4) };
    let asks = if rng.random_bool(0.05) {
        exchange(rng, log, second)
    } else {
        (0..count).map(|place| ask(rng, log, log.new_id(place), (second, rules))).collect()
    };
    log.add(asks, gateway)
}
