//! Matching the entries of a mirror account with the lines of its bank statements.
//!
//! Each entry is an *expectation*: the bank should have a line of its amount. Lines and expectations that are open are matched
//!
//! 1. by reference: the line names a payout's id, the transfer's own id or the gateway's reference; one line for one expectation, several
//!    lines for one, one line for several. Short numbers may be a date or anything else: they count where amounts fit;
//! 2. by batch: the line names a payout file, and its amount is that of the file's open payouts;
//! 3. by amount and day within the tolerances, the nearest day first;
//! 4. by the sum of a day: the line's amount is that of all that is open of one day in its direction.
//!
//! What surely names something and does not fit it is a break at once, and is not matched by amount: a reference says more than a number.
//! The differences of several lines about one entry add up to what the bank has more for it.
//!
//! # Invariants
//!
//! 1. The result follows from the order in which expectations and lines were added and [`Matcher::run`] was called, from nothing else.
//! 2. Every line and every expectation is open or matched, and is in one match at most.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::names::{Gone, NAMED_MAX, Namesakes};

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
    /// Whether it gives back the payout that is its reference.
    pub is_return: bool,
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
    /// What it surely names: ids and long references.
    pub names: Box<[u128]>,
    /// Short numbers, which may be references, or dates and other things.
    pub maybe: Box<[u128]>,
    /// Which payout files it names.
    pub batches: Box<[u64]>,
    /// Whether it is a fee, which is nobody's entry.
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
    /// The bank did neither a payout nor its return.
    ReturnedUnbooked,
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
            Self::ReturnedUnbooked => "the bank refused the payout and booked neither it nor its return",
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
    /// It gives back what it names and has been matched before.
    Returned,
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

/// Entries of one amount and day that are looked at for one without a reference.
const LOOKED_AT_MAX: usize = 16;

/// What is open of one mirror account.
#[derive(Debug, Default)]
pub struct Matcher {
    expected: Vec<Expected>,
    lines: Vec<BankLine>,
    expected_open: Vec<bool>,
    line_open: Vec<bool>,
    /// Open ones by id and by reference.
    names: HashMap<u128, Namesakes>,
    gone: Gone,
    batches: HashMap<u64, Vec<u32>>,
    /// Open ones by amount and day.
    by_amount: BTreeSet<(i128, i32, u32)>,
    /// Open ones by day and direction.
    by_day: BTreeMap<(i32, bool), (i128, BTreeSet<u32>)>,
    /// Of lines with a difference: the entries that the difference contains.
    owned: BTreeMap<u32, Vec<u32>>,
    open_lines: BTreeSet<u32>,
    open_expected: BTreeSet<(i32, u32)>,
}

fn at(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// Whether two amounts both come or both go; nothing goes the way of nothing alone.
fn is_same_way(one: i128, other: i128) -> bool {
    one.signum() == other.signum()
}

fn place_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Matcher {
    /// Adds an entry; answers its place.
    pub fn expect(&mut self, expected: Expected) -> u32 {
        let place = place_of(self.expected.len());
        for (number, name) in [expected.id, expected.reference].into_iter().enumerate() {
            let is_again = number > 0 && name == expected.id;
            if name != 0 && !is_again {
                self.name(name, (expected.amount, expected.day, place));
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

    fn name(&mut self, name: u128, new: (i128, i32, u32)) {
        let named = self.names.entry(name).or_insert_with(|| Namesakes::Few(Vec::new()));
        match named {
            Namesakes::Few(few) if few.len() < NAMED_MAX => few.push(new.2),
            Namesakes::Few(few) => {
                let with = |place: &u32| self.expected.get(at(*place)).map(|known| (known.amount, known.day, *place));
                *named = Namesakes::Many(few.iter().filter_map(with).chain([new]).collect());
            }
            Namesakes::Many(many) => drop(many.insert(new)),
        }
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
            for name in [expected.id, expected.reference] {
                if let hashbrown::hash_map::Entry::Occupied(mut named) = self.names.entry(name) {
                    match named.get_mut() {
                        Namesakes::Few(few) => few.retain(|known| *known != place),
                        Namesakes::Many(many) => drop(many.remove(&(expected.amount, expected.day, place))),
                    }
                    if named.get().len() == 0 {
                        named.remove();
                    }
                    self.gone.insert(name, expected.amount);
                }
            }
        }
    }

    /// The open payout that an open entry gives back.
    pub fn payout_of(&self, place: u32) -> Option<u32> {
        let returned = self.expected(place).filter(|expected| expected.is_return)?;
        // Whatever it is, and whatever else has this reference.
        let named = self.names.get(&returned.reference)?.of(returned.amount.saturating_neg(), Tolerance::default());
        named.into_iter().find(|known| self.expected(*known).is_some_and(|payout| payout.id == returned.reference))
    }

    /// Takes an entry out of its payout file, which the bank has refused.
    pub fn leave_batch(&mut self, id: u128) {
        let is_it = |place: &u32| self.expected(*place).is_some_and(|expected| expected.id == id);
        let named = self.names.get(&id).and_then(|named| named.of(0, Tolerance::default()).into_iter().find(is_it));
        let Some(place) = named else { return };
        let Some(expected) = self.expected.get_mut(at(place)) else { return };
        if let Some(batch) = self.batches.get_mut(&std::mem::take(&mut expected.batch)) {
            batch.retain(|known| *known != place);
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

    /// By how much the bank has more, of what was matched: not more than the tolerance.
    pub fn more_of(&self, matched: &Matched) -> i128 {
        let lines = matched.lines.iter().filter_map(|place| self.bank_line(*place)).map(|line| line.amount);
        let expected = matched.expected.iter().map(|place| self.amount(*place).saturating_neg());
        lines.chain(expected).fold(0, i128::saturating_add)
    }

    /// The open entries that a line names: surely, or else perhaps.
    fn named_open(&self, line: &BankLine, tolerance: Tolerance) -> Vec<u32> {
        let surely = self.named((&line.names, true), line.amount, tolerance);
        let is_unsure = surely.is_empty() && !self.is_sure(line);
        if is_unsure { self.named((&line.maybe, false), line.amount, tolerance) } else { surely }
    }

    /// Whether a line's difference says nothing of the entries it names: they share a name, as a customer's number is shared, and are too many to know,
    /// or go another way, or it has less than half of what they add up to.
    fn is_about_none(&self, line: &BankLine, named: &[u32]) -> bool {
        let said = line.names.iter().chain(&line.maybe);
        let most = said.filter_map(|name| self.names.get(name)).map(Namesakes::len).max().unwrap_or(0);
        let is_other_way = |place: &u32| (self.amount(*place) > 0) != (line.amount > 0);
        let sum = named.iter().fold(0_i128, |sum, place| self.amount(*place).saturating_add(sum));
        let is_small = line.amount.unsigned_abs().saturating_mul(2) < sum.unsigned_abs();
        named.len() > 1 && most > 1 && (most > NAMED_MAX || is_small || named.iter().any(is_other_way))
    }

    /// The open entries that the difference of a line contains; of several lines about one entry, one has it.
    pub fn owned_by(&self, line: u32) -> Vec<u32> {
        let owned = self.owned.get(&line).map(Vec::as_slice).unwrap_or_default();
        owned.iter().copied().filter(|place| self.is_expected(*place)).collect()
    }

    /// Whether a line surely names something, be it open or not.
    fn is_sure(&self, line: &BankLine) -> bool {
        line.names.iter().any(|name| self.is_name(*name))
    }

    /// Whether something has, or had, this name.
    fn is_name(&self, name: u128) -> bool {
        self.names.contains_key(&name) || self.gone.get(name).is_some()
    }

    /// The open entries of some names: of those that only one has, if they are sure and there are such.
    fn named(&self, (names, are_sure): (&[u128], bool), amount: i128, tolerance: Tolerance) -> Vec<u32> {
        let all: Vec<&Namesakes> = names.iter().filter_map(|name| self.names.get(name)).collect();
        // A name of its own says which one it is; one that others have too says no more then.
        let has_own = are_sure && all.iter().any(|named| named.len() == 1);
        let telling = all.into_iter().filter(|named| !has_own || named.len() == 1);
        let open: BTreeSet<u32> = telling.flat_map(|named| named.of(amount, tolerance)).collect();
        open.into_iter().collect()
    }

    /// The entries of a line that fit its amount: one of them, or all together.
    fn fitting(&self, line: &BankLine, named: &[u32], tolerance: Tolerance) -> Option<(Reason, Vec<u32>)> {
        let off = |place: u32| line.amount.abs_diff(self.amount(place));
        let away = |place: u32| self.expected(place).map_or(u32::MAX, |expected| expected.day.abs_diff(line.day));
        // What goes the other way is no payment of it, however small it is.
        let same_way = |place: &u32| is_same_way(self.amount(*place), line.amount);
        let fit = named.iter().copied().filter(same_way).filter(|place| off(*place) <= tolerance.amount);
        if let Some(one) = fit.min_by_key(|place| (off(*place), away(*place), *place)) {
            return Some((Reason::Reference, vec![one]));
        }
        let sum = named.iter().fold(0_i128, |sum, place| self.amount(*place).saturating_add(sum));
        let all = named.len() > 1 && line.amount.abs_diff(sum) <= tolerance.amount && is_same_way(sum, line.amount);
        all.then(|| (Reason::References, named.to_vec()))
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
        self.by_reference(tolerance, matches);
        let mut troubles: BTreeMap<u32, LineTrouble> = BTreeMap::new();
        // Entries of which one line has the difference already.
        let mut differing: BTreeSet<u32> = BTreeSet::new();
        let mut all_owned = BTreeMap::new();
        let open: Vec<u32> = self.open_lines.iter().copied().collect();
        for place in open {
            let Some(line) = self.lines.get(at(place)) else { continue };
            let is_sure = !line.is_fee && self.is_sure(line);
            // A line that perhaps names something is no proof of an entry that has another reference.
            let is_strict = !line.is_fee && line.maybe.iter().any(|name| self.is_name(*name));
            let found = if is_sure || self.is_repeat(line) {
                None
            } else if is_strict {
                self.by_batch(place, tolerance).or_else(|| self.by_amount(place, tolerance, true))
            } else {
                let found = self.by_batch(place, tolerance).or_else(|| self.by_amount(place, tolerance, false));
                found.or_else(|| self.by_sum_of_day(place, tolerance))
            };
            let Some(found) = found else {
                let (trouble, owned) = self.trouble((line, tolerance), &mut differing);
                if !owned.is_empty() {
                    all_owned.insert(place, owned);
                }
                troubles.insert(place, trouble);
                continue;
            };
            self.close(&found);
            matches.push(found);
        }
        self.owned = all_owned;
        troubles
    }

    /// Whether a line has the amount of something that it perhaps names and that is matched already.
    fn is_repeat(&self, line: &BankLine) -> bool {
        let repeats = |name: &u128| !self.names.contains_key(name) && self.gone.get(*name) == Some(line.amount);
        !line.is_fee && line.maybe.iter().any(repeats)
    }

    /// What is wrong with a line that nothing fits, and which entries its difference contains.
    fn trouble(
        &self,
        (line, tolerance): (&BankLine, Tolerance),
        differing: &mut BTreeSet<u32>,
    ) -> (LineTrouble, Vec<u32>) {
        if line.is_fee {
            return (LineTrouble::Extra, Vec::new());
        }
        let named = self.named_open(line, tolerance);
        if !named.is_empty() {
            if self.is_about_none(line, &named) {
                return (LineTrouble::Extra, Vec::new());
            }
            // The differences of all lines about some entries add up to what the bank has more.
            let new: Vec<u32> = named.into_iter().filter(|place| differing.insert(*place)).collect();
            let sum = new.iter().fold(0_i128, |sum, place| self.amount(*place).saturating_add(sum));
            return (LineTrouble::Amount(line.amount.saturating_sub(sum)), new);
        }
        let is_sure = self.is_sure(line);
        let said = if is_sure { &line.names } else { &line.maybe };
        let trouble = match said.iter().find_map(|name| self.gone.get(*name)) {
            Some(amount)
                if (amount > 0) != (line.amount > 0) && (is_sure || amount.saturating_neg() == line.amount) =>
            {
                LineTrouble::Returned
            }
            Some(amount) if is_sure || amount == line.amount => LineTrouble::Duplicate,
            _ => LineTrouble::Extra,
        };
        (trouble, Vec::new())
    }

    fn by_reference(&mut self, tolerance: Tolerance, matches: &mut Vec<Matched>) {
        // Lines that name one entry and differ from it: they may be parts of it.
        let mut parts: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let open: Vec<u32> = self.open_lines.iter().copied().collect();
        for place in open {
            let Some(line) = self.lines.get(at(place)).filter(|line| !line.is_fee) else { continue };
            let named = self.named_open(line, tolerance);
            if let Some((reason, expected)) = self.fitting(line, &named, tolerance) {
                let found = Matched { reason, expected, lines: vec![place] };
                self.close(&found);
                matches.push(found);
            } else if let [one] = named.as_slice() {
                parts.entry(*one).or_default().push(place);
            }
        }
        for (one, places) in parts.into_iter().filter(|(_, places)| places.len() > 1) {
            let sum = places.iter().filter_map(|place| self.lines.get(at(*place))).map(|line| line.amount);
            let sum = sum.fold(0_i128, i128::saturating_add);
            let amount = self.amount(one);
            if self.is_expected(one) && is_same_way(sum, amount) && sum.abs_diff(amount) <= tolerance.amount {
                let found = Matched { reason: Reason::ReferenceInParts, expected: vec![one], lines: places };
                self.close(&found);
                matches.push(found);
            }
        }
    }

    fn by_batch(&self, place: u32, tolerance: Tolerance) -> Option<Matched> {
        let line = self.lines.get(at(place)).filter(|line| !line.is_fee)?;
        let batch = line.batches.first()?;
        let all = self.batches.get(batch)?.iter().copied();
        let same_way = |place: &u32| is_same_way(self.amount(*place), line.amount);
        let open: Vec<u32> = all.filter(|place| self.is_expected(*place)).filter(same_way).collect();
        let sum = open.iter().fold(0_i128, |sum, place| self.amount(*place).saturating_add(sum));
        let fits = !open.is_empty() && sum.abs_diff(line.amount) <= tolerance.amount;
        fits.then(|| Matched { reason: Reason::Batch, expected: open, lines: vec![place] })
    }

    fn by_amount(&self, place: u32, tolerance: Tolerance, without_reference: bool) -> Option<Matched> {
        let line = self.lines.get(at(place)).filter(|line| !line.is_fee)?;
        let around = i128::try_from(tolerance.amount).unwrap_or(i128::MAX);
        let (mut amount, most) = (line.amount.saturating_sub(around), line.amount.saturating_add(around));
        let mut best: Option<(u128, u32, u32)> = None;
        // Only amounts that are there are looked at.
        while let Some(&(found, ..)) = self.by_amount.range((amount, i32::MIN, 0)..).next()
            && found <= most
        {
            if is_same_way(found, line.amount)
                && let Some((days, one)) = self.nearest((found, without_reference), line.day, tolerance.days)
            {
                let rank = (found.abs_diff(line.amount), days, one);
                best = Some(best.map_or(rank, |best| best.min(rank)));
            }
            amount = found.saturating_add(1);
        }
        best.map(|(.., one)| Matched { reason: Reason::AmountAndDay, expected: vec![one], lines: vec![place] })
    }

    /// The open entry of an amount that is nearest to a day, and how many days away it is.
    fn nearest(&self, (amount, without_reference): (i128, bool), day: i32, days: u8) -> Option<(u32, u32)> {
        let fits =
            |place: u32| !without_reference || self.expected(place).is_some_and(|expected| expected.reference == 0);
        (0..=i32::from(days)).find_map(|away| {
            let on = |day: i32| {
                let same = self.by_amount.range((amount, day, 0)..=(amount, day, u32::MAX));
                same.take(LOOKED_AT_MAX).find(|known| fits(known.2))
            };
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
#[path = "matching_tests.rs"]
mod tests;
