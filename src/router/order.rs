//! Bringing the ids of a full index into their order.
//!
//! Ids come in order, in long parts that are in order, or in none (random ones, or those of many callers who share a connection). In none, most of
//! them still lie about evenly between the first and the last. So each goes at once to about where it belongs, and only neighbours are sorted.
//! Where they do not lie evenly, there are more neighbours to sort; at worst all of them are, after some looks at each.
//!
//! # Invariants
//!
//! 1. All entries that were given are there, each as often as it was given, and nothing else.
//!
//! # Not here
//!
//! What becomes of them ([`super::run`]); when ([`super::keeping`]).

use super::run::Entry;

/// Entries of a part that is in order from which on it is long.
const PART: usize = 1 << 10;

/// Entries that go to about one place, in the mean.
const TOGETHER: usize = 16;

/// What one look at all ids tells.
struct Looked {
    count: usize,
    /// Parts in order, but for the first.
    parts: usize,
    least: u128,
    most: u128,
}

/// Puts entries into this memory, in order of id. They are asked for several times.
pub(super) fn ordered(entries: impl Iterator<Item = Entry> + Clone, into: &mut Vec<Entry>) {
    let looked = look(entries.clone());
    if looked.parts <= looked.count / PART {
        into.clear();
        into.extend(entries);
        sort_parts(into);
    } else {
        spread(&looked, entries, into);
    }
}

fn look(entries: impl Iterator<Item = Entry>) -> Looked {
    let (mut looked, mut last) = (Looked { count: 0, parts: 0, least: u128::MAX, most: 0 }, 0);
    for (id, _) in entries {
        looked.count = looked.count.saturating_add(1);
        looked.parts = looked.parts.saturating_add(usize::from(id < last));
        looked.least = looked.least.min(id);
        looked.most = looked.most.max(id);
        last = id;
    }
    looked
}

#[expect(
    clippy::stable_sort_primitive,
    reason = "chosen because it makes use of parts that are in order, not for its stability"
)]
fn sort_parts(entries: &mut [Entry]) {
    entries.sort();
}

/// Counts how many go to each place, puts each there, and sorts what came to one place.
fn spread(looked: &Looked, entries: impl Iterator<Item = Entry> + Clone, into: &mut Vec<Entry>) {
    let places = (looked.count / TOGETHER).max(1).next_power_of_two();
    let width = u128::BITS.saturating_sub(looked.most.saturating_sub(looked.least).leading_zeros());
    let shift = width.saturating_sub(places.trailing_zeros());
    let last = places.saturating_sub(1);
    let place = |id: u128| {
        let place = id.wrapping_sub(looked.least).checked_shr(shift).unwrap_or(0);
        usize::try_from(place).map_or(last, |place| place.min(last))
    };
    let mut counts = vec![0_usize; places];
    for (id, _) in entries.clone() {
        if let Some(count) = counts.get_mut(place(id)) {
            *count = count.saturating_add(1);
        }
    }
    // From how many there are to where they begin; each that is put there moves that on, to where they end.
    let mut before = 0_usize;
    for count in &mut counts {
        before = before.saturating_add(std::mem::replace(count, before));
    }
    into.resize(looked.count, (0, 0));
    for entry in entries {
        let Some(next) = counts.get_mut(place(entry.0)) else { continue };
        if let Some(free) = into.get_mut(*next) {
            *free = entry;
        }
        *next = next.saturating_add(1);
    }
    let (mut rest, mut begin) = (into.as_mut_slice(), 0);
    for end in counts {
        let (together, after) = rest.split_at_mut(end.saturating_sub(begin));
        together.sort_unstable();
        (rest, begin) = (after, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_that_were_given_are_there_in_order(
            (many, step, offset) in (0_u64..3_000, prop_oneof![Just(1_u128), Just(1 << 70), Just(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)], any::<u128>()),
            outliers in prop::collection::vec(any::<u128>(), 0..4),
            before in 0_usize..4_000,
        ) {
            let even = (0..many).map(|number| (u128::from(number ^ 5).wrapping_mul(step).wrapping_add(offset), number));
            let given: Vec<Entry> = even.chain(outliers.into_iter().zip(many..)).collect();
            // What was there before is not there any more.
            let mut into = vec![(7, 7); before];
            ordered(given.iter().copied(), &mut into);
            let mut sorted = given;
            sorted.sort_unstable();
            prop_assert_eq!(into, sorted);
        }
    }

    #[test]
    fn both_ways_come_to_the_same_at_the_bounds() {
        for ids in [vec![], vec![0], vec![u128::MAX, 0], vec![u128::MAX, 0, 1, 0, u128::MAX - 1], vec![3; 100]] {
            let given: Vec<Entry> = ids.into_iter().zip(1..).collect();
            let (mut all, mut sorted) = (Vec::new(), given.clone());
            spread(&look(given.iter().copied()), given.iter().copied(), &mut all);
            sorted.sort_unstable();
            assert_eq!(all, sorted);
            sort_parts(&mut all);
            assert_eq!(all, sorted);
        }
    }
}
