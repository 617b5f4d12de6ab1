//! Matching the entries of a mirror account with the lines of its bank statements.
//!
//! Each entry is an *expectation*: the bank should have a line of its amount. Lines and expectations that are open are matched
//!
//! 1. by reference: the line names a payout's id, the transfer's own id or the gateway's reference; one line for one expectation, several
//!    lines for one, one line for several;
//! 2. by batch: the line names a payout file, and its amount is that of the file's open payouts;
//! 3. by amount and day within the tolerances, the nearest day first;
//! 4. by the sum of a day: the line's amount is that of all that is open of one day in its direction.
//!
//! What names something and does not fit it is a break at once, and is not matched by amount: a reference says more than a number.
//!
//! # Invariants
//!
//! 1. The result follows from the order in which expectations and lines were added and [`Matcher::run`] was called, from nothing else.
//! 2. Every line and every expectation is open or matched, and is in one match at most.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

/// An entry of a mirror account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its record.
    pub sequence: u64,
    /// Its transfer's id.
    pub id: u128,
    /// The gateway's own reference; 0 for none.
    pub reference: u128,
    /// Which payout file it is in; 0 for none.
    pub batch: u64,
    /// Minor units; positive is money in.
    pub amount: i128,
    /// Its day, days since 1970-01-01.
    pub day: i32,
    /// The last day on which its line is in time.
    pub due: i32,
}

/// A line of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankLine {
    /// Number of the import.
    pub statement: u32,
    /// Its place in the import, from 1.
    pub place: u32,
    /// Day of booking.
    pub day: i32,
    /// Minor units; positive is money in.
    pub amount: i128,
    /// What it names: ids and references.
    pub names: Vec<u128>,
    /// Which payout files it names.
    pub batches: Vec<u64>,
    /// Whether it is a fee, which is never matched by its amount.
    pub is_fee: bool,
}

/// Why a line and its expectations belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The line names the expectation.
    Reference,
    /// Several lines name the expectation and add up to it.
    ReferenceInParts,
    /// The line names several expectations and is their sum.
    References,
    /// The line names the payout file and is its sum.
    Batch,
    /// Amount and day.
    AmountAndDay,
    /// The line is the sum of a day.
    SumOfDay,
    /// A person says so.
    ByHand,
}

impl Reason {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Reference => "the line names the entry",
            Self::ReferenceInParts => "several lines name the entry and add up to it",
            Self::References => "the line names several entries and is their sum",
            Self::Batch => "the line names the payout file and is its sum",
            Self::AmountAndDay => "same amount, near day",
            Self::SumOfDay => "the line is the sum of a day",
            Self::ByHand => "matched by a person",
        }
    }
}

/// What belongs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Why.
    pub reason: Reason,
    /// The entries, by place.
    pub expected: Vec<u32>,
    /// The lines, by place.
    pub lines: Vec<u32>,
}

/// What is wrong with a line that is not matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineTrouble {
    /// It names an entry of another amount; by how much the line is more.
    Amount(i128),
    /// What it names has been matched before.
    Duplicate,
    /// Nothing is expected that it could be.
    Extra,
}

/// Tolerances.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tolerance {
    /// Minor units.
    pub amount: u128,
    /// Days.
    pub days: u8,
}

/// What is open of one mirror account.
#[derive(Debug, Default)]
pub struct Matcher {
    expected: Vec<Expected>,
    lines: Vec<BankLine>,
    expected_open: Vec<bool>,
    line_open: Vec<bool>,
    /// By id and by reference.
    names: HashMap<u128, Vec<u32>>,
    batches: HashMap<u64, Vec<u32>>,
    /// Open ones by amount and day.
    by_amount: BTreeSet<(i128, i32, u32)>,
    /// Open ones by day and direction.
    by_day: BTreeMap<(i32, bool), (i128, BTreeSet<u32>)>,
    open_lines: BTreeSet<u32>,
    open_expected: BTreeSet<(i32, u32)>,
}

fn at(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn place_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Matcher {
    /// Adds an entry; answers its place.
    pub fn expect(&mut self, expected: Expected) -> u32 {
        let place = place_of(self.expected.len());
        for name in [expected.id, expected.reference] {
            if name != 0 {
                self.names.entry(name).or_default().push(place);
            }
        }
        if expected.batch != 0 {
            self.batches.entry(expected.batch).or_default().push(place);
        }
        self.by_amount.insert((expected.amount, expected.day, place));
        let day = self.by_day.entry((expected.day, expected.amount > 0)).or_default();
        day.0 = day.0.saturating_add(expected.amount);
        day.1.insert(place);
        self.open_expected.insert((expected.due, place));
        self.expected.push(expected);
        self.expected_open.push(true);
        place
    }

    /// Adds a line; answers its place.
    pub fn line(&mut self, line: BankLine) -> u32 {
        let place = place_of(self.lines.len());
        self.lines.push(line);
        self.line_open.push(true);
        self.open_lines.insert(place);
        place
    }

    /// An entry.
    pub fn expected(&self, place: u32) -> Option<&Expected> {
        self.expected.get(at(place))
    }

    /// A line.
    pub fn bank_line(&self, place: u32) -> Option<&BankLine> {
        self.lines.get(at(place))
    }

    /// Whether an entry is open.
    pub fn is_expected(&self, place: u32) -> bool {
        self.expected_open.get(at(place)).copied().unwrap_or(false)
    }

    /// Whether a line is open.
    pub fn is_line_open(&self, place: u32) -> bool {
        self.line_open.get(at(place)).copied().unwrap_or(false)
    }

    /// Lines that are open, in order.
    pub fn open_lines(&self) -> impl Iterator<Item = u32> + '_ {
        self.open_lines.iter().copied()
    }

    /// Entries that are open and were due before this day.
    pub fn overdue(&self, day: i32) -> impl Iterator<Item = u32> + '_ {
        self.open_expected.range(..(day, 0)).map(|(_, place)| *place)
    }

    /// How many entries and lines are open.
    pub fn open(&self) -> (usize, usize) {
        (self.open_expected.len(), self.open_lines.len())
    }

    /// Takes an entry out of what is open.
    pub fn close_expected(&mut self, place: u32) {
        let (Some(open), Some(expected)) = (self.expected_open.get_mut(at(place)), self.expected.get(at(place))) else {
            return;
        };
        if std::mem::take(open) {
            self.by_amount.remove(&(expected.amount, expected.day, place));
            if let Some(day) = self.by_day.get_mut(&(expected.day, expected.amount > 0)) {
                day.0 = day.0.saturating_sub(expected.amount);
                day.1.remove(&place);
            }
            self.open_expected.remove(&(expected.due, place));
        }
    }

    /// Takes a line out of what is open.
    pub fn close_line(&mut self, place: u32) {
        if let Some(open) = self.line_open.get_mut(at(place)) {
            *open = false;
            self.open_lines.remove(&place);
        }
    }

    fn close(&mut self, matched: &Matched) {
        matched.expected.iter().for_each(|place| self.close_expected(*place));
        matched.lines.iter().for_each(|place| self.close_line(*place));
    }

    fn amount(&self, place: u32) -> i128 {
        self.expected(place).map_or(0, |expected| expected.amount)
    }

    /// The open entries that a line names.
    pub fn named_open(&self, line: &BankLine) -> Vec<u32> {
        self.named(line).0
    }

    /// The entries that a line names: those that are open, and whether there are others.
    fn named(&self, line: &BankLine) -> (Vec<u32>, bool) {
        let mut open = BTreeSet::new();
        let mut others = false;
        for name in &line.names {
            for place in self.names.get(name).into_iter().flatten() {
                if self.is_expected(*place) {
                    open.insert(*place);
                } else {
                    others = true;
                }
            }
        }
        (open.into_iter().collect(), others)
    }

    /// Matches what is open; answers what was matched, and what is wrong with the lines that stay open.
    pub fn run(&mut self, tolerance: Tolerance) -> (Vec<Matched>, Vec<(u32, LineTrouble)>) {
        let mut matches = Vec::new();
        loop {
            let before = matches.len();
            let troubles = self.pass(tolerance, &mut matches);
            if matches.len() == before {
                return (matches, troubles.into_iter().collect());
            }
        }
    }

    /// One look at every open line; what it matches may leave room for others.
    fn pass(&mut self, tolerance: Tolerance, matches: &mut Vec<Matched>) -> BTreeMap<u32, LineTrouble> {
        let mut troubles: BTreeMap<u32, LineTrouble> = BTreeMap::new();
        self.by_reference(tolerance, matches, &mut troubles);
        let open: Vec<u32> = self.open_lines.iter().copied().filter(|place| !troubles.contains_key(place)).collect();
        for place in open {
            let found = self.by_batch(place, tolerance).or_else(|| self.by_amount(place, tolerance));
            let found = found.or_else(|| self.by_sum_of_day(place, tolerance));
            match found {
                Some(found) => {
                    self.close(&found);
                    matches.push(found);
                }
                None => drop(troubles.insert(place, LineTrouble::Extra)),
            }
        }
        troubles
    }

    fn by_reference(
        &mut self,
        tolerance: Tolerance,
        matches: &mut Vec<Matched>,
        troubles: &mut BTreeMap<u32, LineTrouble>,
    ) {
        // Lines that name one entry and differ from it: they may be parts of it.
        let mut parts: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let open: Vec<u32> = self.open_lines.iter().copied().collect();
        for place in open {
            let Some(line) = self.lines.get(at(place)) else { continue };
            if line.names.is_empty() || line.is_fee {
                continue;
            }
            let (named, others) = self.named(line);
            let sum = named.iter().fold(0_i128, |sum, place| self.amount(*place).saturating_add(sum));
            let difference = line.amount.saturating_sub(sum);
            if !named.is_empty() && difference.unsigned_abs() <= tolerance.amount {
                let reason = if named.len() == 1 { Reason::Reference } else { Reason::References };
                let found = Matched { reason, expected: named, lines: vec![place] };
                self.close(&found);
                matches.push(found);
            } else if let [one] = named.as_slice() {
                parts.entry(*one).or_default().push(place);
            } else if !named.is_empty() {
                troubles.insert(place, LineTrouble::Amount(difference));
            } else if others {
                troubles.insert(place, LineTrouble::Duplicate);
            }
        }
        for (one, places) in parts {
            let sum = places.iter().filter_map(|place| self.lines.get(at(*place))).map(|line| line.amount);
            let sum = sum.fold(0_i128, i128::saturating_add);
            let expected = self.amount(one);
            if !self.is_expected(one) {
                troubles.extend(places.iter().map(|place| (*place, LineTrouble::Duplicate)));
            } else if sum.abs_diff(expected) <= tolerance.amount {
                let found = Matched { reason: Reason::ReferenceInParts, expected: vec![one], lines: places };
                self.close(&found);
                matches.push(found);
            } else {
                for place in places {
                    let line = self.lines.get(at(place)).map_or(0, |line| line.amount);
                    troubles.insert(place, LineTrouble::Amount(line.saturating_sub(expected)));
                }
            }
        }
    }

    fn by_batch(&self, place: u32, tolerance: Tolerance) -> Option<Matched> {
        let line = self.lines.get(at(place))?;
        let batch = line.batches.first()?;
        let all = self.batches.get(batch)?.iter().copied();
        let same_way = |place: &u32| (self.amount(*place) > 0) == (line.amount > 0);
        let open: Vec<u32> = all.filter(|place| self.is_expected(*place)).filter(same_way).collect();
        let sum = open.iter().fold(0_i128, |sum, place| self.amount(*place).saturating_add(sum));
        let fits = !open.is_empty() && sum.abs_diff(line.amount) <= tolerance.amount;
        fits.then(|| Matched { reason: Reason::Batch, expected: open, lines: vec![place] })
    }

    fn by_amount(&self, place: u32, tolerance: Tolerance) -> Option<Matched> {
        let line = self.lines.get(at(place)).filter(|line| !line.is_fee)?;
        let around = i128::try_from(tolerance.amount).unwrap_or(i128::MAX);
        let (mut amount, most) = (line.amount.saturating_sub(around), line.amount.saturating_add(around));
        let mut best: Option<(u128, u32, u32)> = None;
        // Only amounts that are there are looked at.
        while let Some(&(found, ..)) = self.by_amount.range((amount, i32::MIN, 0)..).next()
            && found <= most
        {
            if (found > 0) == (line.amount > 0)
                && let Some((days, one)) = self.nearest(found, line.day, tolerance.days)
            {
                let rank = (found.abs_diff(line.amount), days, one);
                best = Some(best.map_or(rank, |best| best.min(rank)));
            }
            amount = found.saturating_add(1);
        }
        best.map(|(.., one)| Matched { reason: Reason::AmountAndDay, expected: vec![one], lines: vec![place] })
    }

    /// The open entry of an amount that is nearest to a day, and how many days away it is.
    fn nearest(&self, amount: i128, day: i32, days: u8) -> Option<(u32, u32)> {
        (0..=i32::from(days)).find_map(|away| {
            let on = |day: i32| self.by_amount.range((amount, day, 0)..=(amount, day, u32::MAX)).next();
            let found = on(day.saturating_sub(away)).or_else(|| on(day.saturating_add(away)))?;
            Some((away.unsigned_abs(), found.2))
        })
    }

    fn by_sum_of_day(&self, place: u32, tolerance: Tolerance) -> Option<Matched> {
        let line = self.lines.get(at(place)).filter(|line| !line.is_fee)?;
        let days = (0..=i32::from(tolerance.days)).map(|back| line.day.saturating_sub(back));
        for day in days {
            if let Some((sum, open)) = self.by_day.get(&(day, line.amount > 0))
                && open.len() > 1
                && sum.abs_diff(line.amount) <= tolerance.amount
            {
                let expected = open.iter().copied().collect();
                return Some(Matched { reason: Reason::SumOfDay, expected, lines: vec![place] });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(id: u128, amount: i128, day: i32) -> Expected {
        Expected { sequence: 1, id, reference: 0, batch: 0, amount, day, due: day + 2 }
    }

    fn line(amount: i128, day: i32, names: &[u128]) -> BankLine {
        BankLine { statement: 1, place: 1, day, amount, names: names.to_vec(), batches: vec![], is_fee: false }
    }

    const NEAR: Tolerance = Tolerance { amount: 0, days: 3 };

    fn run(
        expected: Vec<Expected>,
        lines: Vec<BankLine>,
        tolerance: Tolerance,
    ) -> (Vec<Matched>, Vec<(u32, LineTrouble)>) {
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
        let file = BankLine { batches: vec![4], ..line(-15, 9, &[]) };
        let (matches, _) = run(vec![batch(7, -10), batch(8, -5), expected(9, -15, 9)], vec![file], NEAR);
        assert_eq!(matches, [matched(Reason::Batch, &[0, 1], &[0])]);
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
            lines in prop::collection::vec((prop::collection::vec(1..6_u128, 0..3), -8..8_i128, 0..4_i32), 0..12),
            amount in 0..2_u128,
        ) {
            let mut matcher = Matcher::default();
            for (id, amount, day) in expectations.iter().filter(|(_, amount, _)| *amount != 0) {
                matcher.expect(expected(*id, *amount, *day));
            }
            for (names, amount, day) in lines.iter().filter(|(_, amount, _)| *amount != 0) {
                matcher.line(line(*amount, *day, names));
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
                prop_assert!(found.expected.iter().all(|place| seen_e.insert(*place)));
                prop_assert!(found.lines.iter().all(|place| seen_l.insert(*place)));
            }
            prop_assert_eq!(matcher.open(), (count_e - seen_e.len(), count_l - seen_l.len()));
            prop_assert_eq!(troubles.len(), count_l - seen_l.len());
            // Running again finds nothing new.
            prop_assert_eq!(matcher.run(tolerance), (vec![], troubles));
        }
    }
}
