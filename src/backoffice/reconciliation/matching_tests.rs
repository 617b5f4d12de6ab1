//! Tests of matching.

use proptest::prelude::*;

use super::*;

fn expected(id: u128, amount: i128, day: i32) -> Expected {
    Expected { sequence: 1, id, reference: 0, batch: 0, is_return: false, amount, day, due: day + 2 }
}

fn line(amount: i128, day: i32, names: &[u128]) -> BankLine {
    BankLine {
        statement: 1,
        place: 1,
        day,
        amount,
        names: names.into(),
        maybe: [].into(),
        batches: [].into(),
        is_fee: false,
    }
}

const NEAR: Tolerance = Tolerance { amount: 0, days: 3 };

fn run(expected: Vec<Expected>, lines: Vec<BankLine>, tolerance: Tolerance) -> (Vec<Matched>, Vec<(u32, LineTrouble)>) {
    let mut matcher = Matcher::default();
    for expected in expected {
        matcher.expect(expected);
    }
    for line in lines {
        matcher.line(line);
    }
    matcher.run(tolerance)
}

fn matched(reason: Reason, expected: &[u32], lines: &[u32]) -> Matched {
    Matched { reason, expected: expected.to_vec(), lines: lines.to_vec() }
}

#[test]
fn a_reference_says_more_than_an_amount() {
    // The line that names the second is not given to the first, though that has its amount too.
    let (matches, troubles) =
        run(vec![expected(7, -10, 1), expected(8, -10, 1)], vec![line(-10, 1, &[8]), line(-10, 2, &[])], NEAR);
    assert_eq!(matches, [matched(Reason::Reference, &[1], &[0]), matched(Reason::AmountAndDay, &[0], &[1])]);
    assert_eq!(troubles, []);
    // A short number counts where it fits, and else says nothing against an amount.
    let maybe = |amount, name| BankLine { maybe: [name].into(), ..line(amount, 1, &[]) };
    let (matches, _) =
        run(vec![expected(2026, -10, 1), expected(8, -12, 1)], vec![maybe(-12, 2026), maybe(-10, 2026)], NEAR);
    assert_eq!(matches, [matched(Reason::Reference, &[0], &[1]), matched(Reason::AmountAndDay, &[1], &[0])]);
    let (_, troubles) = run(vec![expected(2026, -10, 1)], vec![maybe(-11, 2026)], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Amount(-1))], "when nothing else fits, it is about that");
    // What names an entry of another amount is not matched by its amount.
    let (matches, troubles) = run(vec![expected(7, -10, 1), expected(8, -12, 1)], vec![line(-12, 1, &[7])], NEAR);
    assert_eq!((matches, troubles), (vec![], vec![(0, LineTrouble::Amount(-2))]));
}

#[test]
fn one_to_many_and_many_to_one() {
    let (matches, _) = run(vec![expected(7, -10, 1)], vec![line(-4, 1, &[7]), line(-6, 2, &[7])], NEAR);
    assert_eq!(matches, [matched(Reason::ReferenceInParts, &[0], &[0, 1])]);
    let (matches, _) = run(vec![expected(7, -10, 1), expected(8, -5, 1)], vec![line(-15, 2, &[7, 8])], NEAR);
    assert_eq!(matches, [matched(Reason::References, &[0, 1], &[0])]);
    let (matches, _) =
        run(vec![expected(7, -10, 1), expected(8, -5, 1), expected(9, 3, 1)], vec![line(-15, 2, &[])], NEAR);
    assert_eq!(matches, [matched(Reason::SumOfDay, &[0, 1], &[0])]);
    let batch = |id, amount| Expected { batch: 4, ..expected(id, amount, 1) };
    let file = BankLine { batches: [4].into(), ..line(-15, 9, &[]) };
    let (matches, _) = run(vec![batch(7, -10), batch(8, -5), expected(9, -15, 9)], vec![file], NEAR);
    assert_eq!(matches, [matched(Reason::Batch, &[0, 1], &[0])]);
}

#[test]
fn the_differences_of_lines_about_one_entry_add_up() {
    let (_, troubles) = run(vec![expected(7, 800, 1)], vec![line(300, 1, &[7]), line(400, 1, &[7])], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Amount(-500)), (1, LineTrouble::Amount(400))]);
    let (_, troubles) = run(vec![expected(7, -10, 1), expected(8, -5, 1)], vec![line(-14, 2, &[7, 8])], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Amount(1))]);
}

#[test]
fn entries_of_one_reference_are_told_apart_by_amount_and_day() {
    let same = |amount, day| Expected { reference: 555_002, id: 0, ..expected(0, amount, day) };
    let lines = vec![line(-15, 2, &[555_002]), line(15, 2, &[555_002]), line(15, 5, &[555_002])];
    let (matches, troubles) = run(vec![same(15, 1), same(-15, 2), same(15, 4)], lines, NEAR);
    let reference = |expected, line| matched(Reason::Reference, &[expected], &[line]);
    assert_eq!((matches, troubles), (vec![reference(1, 0), reference(0, 1), reference(2, 2)], vec![]));
}

/// Of a small payment a tolerance may be more than twice as much.
#[test]
fn what_comes_the_other_way_does_not_pay_however_small_it_is() {
    let five = Tolerance { amount: 5, days: 3 };
    let (matches, troubles) = run(vec![expected(7, -2, 1)], vec![line(2, 1, &[7]), line(-2, 1, &[7])], five);
    assert_eq!(matches, [matched(Reason::Reference, &[0], &[1])]);
    assert_eq!(troubles, [(0, LineTrouble::Returned)]);
    let both = vec![expected(7, -1, 1), expected(8, -1, 1)];
    assert_eq!(run(both, vec![line(2, 1, &[7, 8])], five).0, []);
}

#[test]
fn parts_that_take_each_other_back_and_a_line_of_nothing_pay_nothing() {
    let near = Tolerance { amount: 5, days: 3 };
    for amounts in [[-10, 11], [-10, 10]] {
        let (matches, _) = run(vec![expected(7, -2, 1)], amounts.map(|amount| line(amount, 1, &[7])).to_vec(), near);
        assert_eq!(matches, [], "{amounts:?}");
    }
    let (matches, _) = run(vec![expected(7, -2, 1)], [-10, 9].map(|amount| line(amount, 1, &[7])).to_vec(), near);
    assert_eq!(matches, [matched(Reason::ReferenceInParts, &[0], &[0, 1])]);
    for nothing in [line(0, 1, &[7]), line(0, 1, &[]), BankLine { batches: [3].into(), ..line(0, 1, &[]) }] {
        let (matches, _) = run(vec![Expected { batch: 3, ..expected(7, -2, 1) }], vec![nothing.clone()], near);
        assert_eq!(matches, [], "{nothing:?}");
    }
}

#[test]
fn a_fee_is_no_payout_of_the_file_that_it_names() {
    let of_file = || vec![Expected { batch: 3, ..expected(7, -50, 1) }];
    let names_file = |is_fee| BankLine { batches: [3].into(), is_fee, ..line(-50, 1, &[]) };
    assert_eq!(run(of_file(), vec![names_file(true)], NEAR).0, []);
    assert_eq!(run(of_file(), vec![names_file(false)], NEAR).0, [matched(Reason::Batch, &[0], &[0])]);
}

#[test]
fn what_the_bank_gives_back_is_no_duplicate() {
    let (_, troubles) = run(vec![expected(7, -10, 1)], vec![line(-10, 1, &[7]), line(10, 3, &[7])], NEAR);
    assert_eq!(troubles, [(1, LineTrouble::Returned)]);
    let maybe = BankLine { maybe: [1003].into(), ..line(3, 1, &[]) };
    let (matches, troubles) = run(vec![expected(1003, 3, 1), expected(9, 3, 1)], vec![maybe.clone(), maybe], NEAR);
    assert_eq!((matches.len(), troubles), (1, vec![(1, LineTrouble::Duplicate)]), "it swallows no other entry");
}

#[test]
fn duplicates_extras_fees_and_tolerances() {
    let (matches, troubles) = run(vec![expected(7, -10, 1)], vec![line(-10, 1, &[7]), line(-10, 1, &[7])], NEAR);
    assert_eq!((matches.len(), troubles), (1, vec![(1, LineTrouble::Duplicate)]));
    let fee = BankLine { is_fee: true, ..line(-10, 1, &[7]) };
    let (matches, troubles) = run(vec![expected(7, -10, 1)], vec![fee, line(-11, 1, &[]), line(-10, 5, &[])], NEAR);
    assert_eq!(matches, []);
    assert_eq!(troubles, [(0, LineTrouble::Extra), (1, LineTrouble::Extra), (2, LineTrouble::Extra)]);
    let wide = Tolerance { amount: 2, days: 3 };
    let (matches, _) = run(vec![expected(7, -12, 1), expected(8, -11, 4)], vec![line(-11, 1, &[])], wide);
    assert_eq!(matches, [matched(Reason::AmountAndDay, &[1], &[0])], "the nearer amount before the nearer day");
    let (matches, _) = run(vec![expected(7, 1, 1)], vec![line(-1, 1, &[])], wide);
    assert_eq!(matches, [], "never the other way round");
}

proptest! {
    #[test]
    fn every_line_and_entry_is_in_one_match_at_most_and_amounts_agree(
        expectations in prop::collection::vec((1..6_u128, -4..4_i128, 0..4_i32), 0..12),
        lines in prop::collection::vec((prop::collection::vec(1..6_u128, 0..3), -8..8_i128, 0..4_i32, any::<bool>()), 0..12),
        amount in 0..2_u128,
    ) {
        let mut matcher = Matcher::default();
        for (id, amount, day) in expectations.iter().filter(|(_, amount, _)| *amount != 0) {
            matcher.expect(expected(*id, *amount, *day));
        }
        for (names, amount, day, is_sure) in lines.iter().filter(|(_, amount, ..)| *amount != 0) {
            let named = line(*amount, *day, names);
            let maybe = BankLine { maybe: names.as_slice().into(), ..line(*amount, *day, &[]) };
            matcher.line(if *is_sure { named } else { maybe });
        }
        let (count_e, count_l) = (matcher.expected.len(), matcher.lines.len());
        let tolerance = Tolerance { amount, days: 1 };
        let (matches, troubles) = matcher.run(tolerance);
        let mut seen_e = BTreeSet::new();
        let mut seen_l = BTreeSet::new();
        for found in &matches {
            let sum_e: i128 = found.expected.iter().map(|place| matcher.amount(*place)).sum();
            let sum_l: i128 = found.lines.iter().map(|place| matcher.lines[at(*place)].amount).sum();
            prop_assert!(sum_e.abs_diff(sum_l) <= amount);
            prop_assert_eq!(matcher.more_of(found), sum_l - sum_e);
            prop_assert!(found.expected.iter().all(|place| seen_e.insert(*place)));
            prop_assert!(found.lines.iter().all(|place| seen_l.insert(*place)));
        }
        prop_assert_eq!(matcher.open(), (count_e - seen_e.len(), count_l - seen_l.len()));
        prop_assert_eq!(troubles.len(), count_l - seen_l.len());
        // Running again finds nothing new.
        prop_assert_eq!(matcher.run(tolerance), (vec![], troubles));
    }
}

fn of_customer(id: u128, amount: i128) -> Expected {
    Expected { reference: 1_234_567_890, ..expected(id, amount, 1) }
}

#[test]
fn a_line_of_a_customer_with_many_open_entries_does_not_take_them_all() {
    let entries: Vec<_> = (1..=10).map(|id| of_customer(id, 100)).collect();
    let (matches, troubles) = run(entries.clone(), vec![line(50, 1, &[1_234_567_890])], NEAR);
    assert_eq!((matches, troubles), (vec![], vec![(0, LineTrouble::Extra)]));
    // What is nearly all of them, or says which, is about them.
    let (_, troubles) = run(entries.clone(), vec![line(999, 1, &[1_234_567_890])], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Amount(-1))]);
    let (_, troubles) = run(entries.clone(), vec![line(30, 1, &[3])], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Amount(-70))]);
    let (_, troubles) = run(entries.clone(), vec![line(30, 1, &[3, 1_234_567_890])], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Amount(-70))], "its own id says more than the customer's number");
    let (_, troubles) = run(entries, vec![line(-900, 1, &[1_234_567_890])], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Extra)], "it goes the other way");
    // Too many to know: what is looked at of them is no measure of all.
    let many = (1..=200).map(|id| of_customer(id, 100)).collect();
    let (_, troubles) = run(many, vec![line(6_000, 1, &[1_234_567_890])], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Extra)]);
    // A gateway whose reference is the id shares it with nobody.
    let alike = Expected { reference: 7, ..expected(7, 100, 1) };
    let (_, troubles) = run(vec![alike], vec![line(30, 1, &[7])], NEAR);
    assert_eq!(troubles, [(0, LineTrouble::Amount(-70))]);
}

#[test]
fn any_number_of_entries_of_one_name_are_matched_by_their_amounts_in_any_order() {
    let count = 20_000_u32;
    let mut matcher = Matcher::default();
    for number in 1..=count {
        matcher.expect(of_customer(number.into(), number.into()));
        matcher.line(line(number.into(), 1, &[1_234_567_890]));
    }
    // All in the first pass: one for each sixty-four of them would take for ever.
    let mut found = Vec::new();
    let troubles = matcher.pass(NEAR, &mut found);
    assert_eq!((found.len(), troubles.len(), matcher.open()), (20_000, 0, (0, 0)));
    assert!(found.iter().all(|one| one.reason == Reason::Reference && one.expected == one.lines));
}
