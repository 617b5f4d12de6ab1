//! What is on all accounts of a class together, by currency.

use std::collections::BTreeMap;

use super::signed;

/// A currency's number and a class's.
pub(super) type ClassKey = (u16, u8);

/// The sums.
#[derive(Debug, Default)]
pub(super) struct ClassSums {
    sums: BTreeMap<ClassKey, i128>,
    /// One of them: that of the last credit that was added.
    within: Option<ClassKey>,
}

impl ClassSums {
    pub(super) fn sums(&self) -> &BTreeMap<ClassKey, i128> {
        &self.sums
    }

    /// Adds an amount that came, or takes one off that went.
    pub(super) fn add(&mut self, class: ClassKey, amount: i128) {
        let sum = self.sums.entry(class).or_default();
        *sum = sum.saturating_add(amount);
    }

    /// Adds what moved between two classes, on each side unless its account has seen the record before.
    #[inline]
    pub(super) fn moved(&mut self, (from, to): (ClassKey, ClassKey), (debited, credited): (bool, bool), amount: u128) {
        // Most moves within one class, and changes nothing.
        if debited && credited && from == to && self.within == Some(from) {
            return;
        }
        if debited {
            self.add(from, signed(amount).saturating_neg());
        }
        if credited {
            self.add(to, signed(amount));
            self.within = Some(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_all_that_was_seen_for_the_first_time_on_its_side() {
        let (own, client) = ((978, 2), (978, 1));
        let mut classes = ClassSums::default();
        classes.add(client, 100);
        for (between, first, amount) in [
            ((client, client), (true, true), 5),
            ((client, client), (true, true), 7),
            ((client, client), (false, true), 10),
            ((client, client), (true, false), 1),
            ((client, own), (true, true), 20),
            ((own, own), (true, true), 3),
            ((own, own), (false, false), 9),
        ] {
            classes.moved(between, first, amount);
        }
        assert_eq!(classes.sums().iter().collect::<Vec<_>>(), [(&client, &89), (&own, &20)]);
        let mut alone = ClassSums::default();
        alone.moved((own, own), (true, true), 4);
        assert_eq!(alone.sums().get(&own), Some(&0), "a class in which something moved is there");
    }
}
