//! Where ids lie: in a few ranges, with none between them.
//!
//! Ids of callers who count each on its own lie in as many ranges, and so do the ids of one caller of which some came late. A new id comes after
//! the last one of its caller and before the first one of another: that it is in none of the ranges tells that it is new, and nothing else is asked.
//! Random ids lie in one range.
//!
//! # Invariants
//!
//! 1. Ranges lie apart, in order, and every id that they were made of is in one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The most ranges of one run.
const RANGES: usize = 32;

/// A gap is at least so many times as wide as the others in the mean, and there are so many ids to each: then no gap between random ids is one.
const WIDE: u128 = 64;
const IDS_PER_GAP: usize = 16;

/// The first and the last of some ids.
pub(crate) type Range = (u128, u128);

/// The range of no ids.
pub(crate) const NONE: Range = (u128::MAX, 0);

/// Some ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range>);

impl Ranges {
    /// Those that some ranges cover together, whatever their order.
    pub(crate) fn of(ranges: impl Iterator<Item = Range>) -> Self {
        let mut sorted: Vec<_> = ranges.collect();
        sorted.sort_unstable();
        let mut apart: Vec<Range> = Vec::new();
        for (first, last) in sorted {
            match apart.last_mut().filter(|before| first <= before.1) {
                Some(before) => before.1 = before.1.max(last),
                None => apart.push((first, last)),
            }
        }
        Self(apart)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Range> + '_ {
        self.0.iter().copied()
    }

    /// Whether an id is in one.
    #[inline]
    pub(crate) fn hold(&self, id: u128) -> bool {
        self.meet((id, id))
    }

    /// Whether some id of a range may be in one.
    #[inline]
    pub(crate) fn meet(&self, (first, last): Range) -> bool {
        let begun = self.0.partition_point(|range| range.0 <= last);
        begun.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|range| first <= range.1)
    }

    /// Whether some id may be in both.
    pub(crate) fn lie_beside(&self, others: &Self) -> bool {
        self.iter().any(|range| others.meet(range))
    }
}

/// The most ranges that lie beside each other: an id may be in each of them.
pub(crate) fn most_beside(ranges: impl Iterator<Item = Range>) -> usize {
    let (mut firsts, mut lasts): (Vec<_>, Vec<_>) = ranges.unzip();
    firsts.sort_unstable();
    lasts.sort_unstable();
    let mut ended = 0_usize;
    let mut most = 0_usize;
    for (begun, first) in (1_usize..).zip(firsts) {
        while lasts.get(ended).is_some_and(|last| *last < first) {
            ended = ended.saturating_add(1);
        }
        most = most.max(begun.saturating_sub(ended));
    }
    most
}

/// Finds the ranges of ids that come in order.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// The widest: how wide, and the ids before and after it. The least wide is on top.
    widest: BinaryHeap<Reverse<(u128, u128, u128)>>,
    /// What is not wider need not be noted.
    noted_above: u128,
    ids: usize,
    first: u128,
    last: u128,
}

impl Gaps {
    /// The next id.
    #[inline]
    pub(crate) fn next(&mut self, id: u128) {
        if self.ids == 0 {
            self.first = id;
        } else if id.wrapping_sub(self.last) > self.noted_above {
            self.note(id);
        }
        self.ids = self.ids.saturating_add(1);
        self.last = id;
    }

    fn note(&mut self, id: u128) {
        self.widest.push(Reverse((id.saturating_sub(self.last), self.last, id)));
        if self.widest.len() >= RANGES {
            self.widest.pop();
            self.noted_above = self.widest.peek().map_or(0, |least| least.0.0);
        }
    }

    /// The ranges of all ids that came.
    pub(crate) fn ranges(self) -> Ranges {
        if self.ids == 0 {
            return Ranges::default();
        }
        let mut widest = self.widest.into_sorted_vec();
        widest.truncate(self.ids / IDS_PER_GAP);
        let wide = widest.iter().fold(0, |sum: u128, gap| sum.saturating_add(gap.0.0));
        let rest = self.last.saturating_sub(self.first).saturating_sub(wide);
        let others = self.ids.saturating_sub(widest.len()).saturating_sub(1);
        let mean = u128::try_from(others).ok().and_then(|others| rest.checked_div(others)).unwrap_or(0);
        widest.retain(|gap| gap.0.0 / WIDE > mean);
        let mut ends: Vec<_> = widest.into_iter().map(|Reverse((_, before, after))| (before, after)).collect();
        ends.sort_unstable();
        let firsts = std::iter::once(self.first).chain(ends.iter().map(|gap| gap.1));
        let lasts = ends.iter().map(|gap| gap.0).chain([self.last]);
        Ranges(firsts.zip(lasts).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn ranges(ids: impl IntoIterator<Item = u128>) -> Ranges {
        let mut gaps = Gaps::default();
        ids.into_iter().for_each(|id| gaps.next(id));
        gaps.ranges()
    }

    #[test]
    fn ids_of_callers_who_count_on_their_own_lie_in_as_many_ranges() {
        let of = |callers: u128, ids: u128| {
            (0..callers).flat_map(move |caller| (0..ids).map(move |id| (caller << 96) + caller * 1_000_000 + id * 7))
        };
        let expected: Vec<_> =
            (0..5).map(|caller| (caller << 96) + caller * 1_000_000).map(|id| (id, id + 699 * 7)).collect();
        assert_eq!(ranges(of(5, 700)), Ranges(expected));
        let many: Vec<_> = of(200, 700).collect();
        assert_eq!(ranges(many.iter().copied()).iter().len(), RANGES, "no more than that");
    }

    #[test]
    fn a_few_that_came_late_have_a_range_of_their_own() {
        let late = [5, 6, 70_000, 70_003];
        let found = ranges(late.into_iter().chain(1_000_000..1_010_000));
        assert_eq!(found, Ranges(vec![(5, 6), (70_000, 70_003), (1_000_000, 1_009_999)]));
    }

    #[test]
    fn random_ids_lie_in_one() {
        for many in [0, 1, 2, 15, 16, 100, 10_000, 300_000] {
            let mut random = SmallRng::seed_from_u64(many);
            let mut ids: Vec<u128> = (0..many).map(|_| random.random()).collect();
            ids.sort_unstable();
            let expected = ids.first().zip(ids.last()).map(|(first, last)| (*first, *last));
            assert_eq!(ranges(ids), Ranges(expected.into_iter().collect()), "{many}");
        }
    }

    #[test]
    fn the_ends_of_all_numbers_are_ids_too() {
        let found = ranges((0..100).chain(u128::MAX - 99..=u128::MAX));
        assert_eq!(found, Ranges(vec![(0, 99), (u128::MAX - 99, u128::MAX)]));
        assert!(found.hold(0) && found.hold(u128::MAX) && !found.hold(100) && found.meet((0, u128::MAX)));
    }

    proptest! {
        #[test]
        fn every_id_is_in_a_range_and_a_range_has_an_id_at_each_end(
            // Steps of all sizes, of which one is drawn again and again.
            steps in prop::collection::vec(prop_oneof![Just(1_u128), 0_u128..100, any::<u128>().prop_map(|wide| wide >> 12)], 0..500),
        ) {
            let ids: Vec<u128> = steps.iter().scan(3_u128, |id, step| { *id += step; Some(*id) }).collect();
            let found = ranges(ids.iter().copied());
            prop_assert!(ids.iter().all(|id| found.hold(*id)));
            prop_assert!(found.iter().all(|(first, last)| ids.contains(&first) && ids.contains(&last) && first <= last));
            prop_assert!(found.0.is_sorted_by(|one, next| one.1 < next.0));
            prop_assert_eq!(found.iter().len() <= 1 + ids.len() / IDS_PER_GAP, true);
        }

        #[test]
        fn what_ranges_hold_is_what_one_of_them_holds(
            ranges in prop::collection::vec((0_u128..60, 0_u128..9), 0..12),
            (first, length) in (0_u128..70, 0_u128..9),
        ) {
            let ranges: Vec<Range> = ranges.into_iter().map(|(first, length)| (first, first + length)).collect();
            let together = Ranges::of(ranges.iter().copied());
            let in_some = |id: u128| ranges.iter().filter(|range| range.0 <= id && id <= range.1).count();
            prop_assert!((0..80).all(|id| together.hold(id) == (in_some(id) > 0)));
            prop_assert_eq!(together.meet((first, first + length)), (first..=first + length).any(|id| in_some(id) > 0));
            prop_assert_eq!(most_beside(ranges.iter().copied()), (0..80).map(in_some).max().unwrap_or(0));
            let (some, others) = ranges.split_at(ranges.len() / 2);
            let [some, others] = [some, others].map(|ranges| Ranges::of(ranges.iter().copied()));
            prop_assert_eq!(some.lie_beside(&others), (0..80).any(|id| some.hold(id) && others.hold(id)));
        }
    }
}
