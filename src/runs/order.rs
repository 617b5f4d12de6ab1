//! Going through entries in the order of their ids.
//!
//! Ids come in order, in long parts that are in order, or in none (random ones, or those of many callers who share a connection). Long parts are
//! merged as they lie, which needs no memory, unless too many lie beside each other; those of one gateway follow each other. In none, most ids
//! still lie about evenly between the first and the last. So each goes at once to about where it belongs, and only neighbours are sorted.
//! Where they do not lie evenly, there are more neighbours to sort; at worst all of them are, after some looks at each.
//!
//! # Invariants
//!
//! 1. All entries that were given are visited, each as often as it was given, and nothing else.
//!
//! # Not here
//!
//! What becomes of them ([`super::writer`]).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io;

use super::entry::Entry;
use super::ranges::{Range, most_beside};

/// Entries of a part that is in order from which on it is long.
const PART: usize = 1 << 10;

/// Parts that lie beside each other up to which they are merged: with more, each entry costs more than to be put where it belongs.
const BESIDE: usize = 16;

/// Entries that go to about one place, in the mean.
const TOGETHER: usize = 16;

/// What one look at all entries tells.
pub(crate) struct Looked {
    pub(crate) count: usize,
    /// Parts in order, but for the first.
    parts: usize,
    least: u128,
    most: u128,
}

impl Looked {
    pub(crate) fn at(entries: impl Iterator<Item = impl Entry>) -> Self {
        let (mut looked, mut last) = (Self { count: 0, parts: 0, least: u128::MAX, most: 0 }, 0);
        for id in entries.map(|entry| entry.id()) {
            looked.count = looked.count.saturating_add(1);
            looked.parts = looked.parts.saturating_add(usize::from(id < last));
            looked.least = looked.least.min(id);
            looked.most = looked.most.max(id);
            last = id;
        }
        looked
    }

    /// Visits these entries in order of id, until a visit fails. They are asked for several times. What is in the memory does not matter; it is
    /// used where they come in no order.
    pub(crate) fn in_order<E: Entry>(
        &self,
        entries: impl Iterator<Item = E> + Clone,
        memory: &mut Vec<E>,
        visit: impl FnMut(E) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.parts <= self.count / PART {
            let parts = parts(entries.clone());
            if most_beside(parts.iter().map(Part::range)) <= BESIDE {
                return merge(parts, visit);
            }
        }
        by_place(self, entries, memory, visit)
    }
}

/// Entries that are in order.
struct Part<Entries> {
    entries: Entries,
    first: u128,
    last: u128,
}

impl<Entries> Part<Entries> {
    fn range(&self) -> Range {
        (self.first, self.last)
    }
}

/// What is in order, as long as it is.
fn parts<Entries: Iterator<Item: Entry> + Clone>(entries: Entries) -> Vec<Part<std::iter::Take<Entries>>> {
    let (mut parts, mut begin, mut len) = (Vec::new(), entries.clone(), 0_usize);
    let (mut first, mut last, mut before) = (0, 0, None);
    let mut rest = entries;
    loop {
        let here = rest.clone();
        let next = rest.next();
        if next.is_none_or(|next| Some(next) < before) {
            parts.push(Part { entries: std::mem::replace(&mut begin, here).take(len), first, last });
            len = 0;
        }
        let Some(id) = next.map(|next| next.id()) else { return parts };
        if len == 0 {
            first = id;
        }
        (len, last, before) = (len.saturating_add(1), id, next);
    }
}

/// Visits the entries of all parts, each of which is in order. The part whose next entry is the least is on top; when it moves on it mostly
/// stays there, or changes with one of the few that lie beside it.
fn merge<E: Entry, Entries: Iterator<Item = E>>(
    mut parts: Vec<Part<Entries>>,
    mut visit: impl FnMut(E) -> io::Result<()>,
) -> io::Result<()> {
    let firsts = parts.iter_mut().enumerate();
    let mut next: BinaryHeap<_> =
        firsts.filter_map(|(place, part)| Some(Reverse((part.entries.next()?, place)))).collect();
    while let Some(mut least) = next.peek_mut() {
        let Reverse((entry, place)) = *least;
        visit(entry)?;
        match parts.get_mut(place).and_then(|part| part.entries.next()) {
            Some(entry) => *least = Reverse((entry, place)),
            None => drop(PeekMut::pop(least)),
        }
    }
    Ok(())
}

/// Counts how many go to each place, puts each there, and sorts what came to one place when it is visited.
fn by_place<E: Entry>(
    looked: &Looked,
    entries: impl Iterator<Item = E> + Clone,
    into: &mut Vec<E>,
    mut visit: impl FnMut(E) -> io::Result<()>,
) -> io::Result<()> {
    let places = (looked.count / TOGETHER).max(1).next_power_of_two();
    let width = u128::BITS.saturating_sub(looked.most.saturating_sub(looked.least).leading_zeros());
    let shift = width.saturating_sub(places.trailing_zeros());
    let last = places.saturating_sub(1);
    let place = |id: u128| {
        let place = id.wrapping_sub(looked.least).checked_shr(shift).unwrap_or(0);
        usize::try_from(place).map_or(last, |place| place.min(last))
    };
    let mut counts = vec![0_usize; places];
    for entry in entries.clone() {
        if let Some(count) = counts.get_mut(place(entry.id())) {
            *count = count.saturating_add(1);
        }
    }
    // From how many there are to where they begin; each that is put there moves that on, to where they end.
    let mut before = 0_usize;
    for count in &mut counts {
        before = before.saturating_add(std::mem::replace(count, before));
    }
    if into.capacity() < looked.count {
        // No twice as much for a few more than the last time.
        *into = Vec::with_capacity(looked.count);
    }
    let Some(any) = entries.clone().next() else { return Ok(()) };
    into.resize(looked.count, any);
    for entry in entries {
        let Some(next) = counts.get_mut(place(entry.id())) else { continue };
        if let Some(free) = into.get_mut(*next) {
            *free = entry;
        }
        *next = next.saturating_add(1);
    }
    let (mut rest, mut begin) = (into.as_mut_slice(), 0);
    for end in counts {
        let (together, after) = rest.split_at_mut(end.saturating_sub(begin));
        together.sort_unstable();
        together.iter().copied().try_for_each(&mut visit)?;
        (rest, begin) = (after, end);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runs::IdEntry;

    fn into(visited: &mut Vec<IdEntry>) -> impl FnMut(IdEntry) -> io::Result<()> {
        |entry| {
            visited.push(entry);
            Ok(())
        }
    }

    /// Visited in order, in each way.
    fn visited(given: &[IdEntry]) -> [Vec<IdEntry>; 3] {
        // What was in the memory before is not visited.
        let mut memory = vec![(7, 7); given.len() / 2];
        let (mut chosen, mut merged, mut placed) = (Vec::new(), Vec::new(), Vec::new());
        let looked = Looked::at(given.iter().copied());
        looked.in_order(given.iter().copied(), &mut memory, into(&mut chosen)).unwrap();
        merge(parts(given.iter().copied()), into(&mut merged)).unwrap();
        memory.push((7, 7));
        by_place(&looked, given.iter().copied(), &mut memory, into(&mut placed)).unwrap();
        [chosen, merged, placed]
    }

    proptest! {
        #[test]
        fn all_that_were_given_are_visited_in_order(
            (many, step, offset) in (0_u64..3_000, prop_oneof![Just(1_u128), Just(1 << 70), Just(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)], any::<u128>()),
            // Of several gateways, each with ids of its own in order.
            (gateways, together) in (1_u64..5, 1_u64..2_000),
            outliers in prop::collection::vec(any::<u128>(), 0..4),
        ) {
            let place = |number: u64| (number / together / gateways * together + number % together) * gateways + number / together % gateways;
            let even = (0..many).map(|number| (u128::from(place(number)).wrapping_mul(step).wrapping_add(offset), number));
            let given: Vec<IdEntry> = even.chain(outliers.into_iter().zip(many..)).collect();
            let mut sorted = given.clone();
            sorted.sort_unstable();
            for visited in visited(&given) {
                prop_assert_eq!(&visited, &sorted);
            }
        }
    }

    #[test]
    fn all_ways_come_to_the_same_at_the_bounds() {
        for ids in [vec![], vec![0], vec![u128::MAX, 0], vec![u128::MAX, 0, 1, 0, u128::MAX - 1], vec![3; 100]] {
            let given: Vec<IdEntry> = ids.into_iter().zip(1..).collect();
            let mut sorted = given.clone();
            sorted.sort_unstable();
            assert_eq!(visited(&given), [sorted.clone(), sorted.clone(), sorted]);
        }
    }

    #[test]
    fn parts_that_lie_beside_each_other_are_counted() {
        let count = |ids: &[u128]| most_beside(parts(ids.iter().map(|id| (*id, 1))).iter().map(Part::range));
        assert_eq!(count(&[1, 2, 3, 4]), 1);
        assert_eq!(count(&[5, 6, 1, 2, 3]), 1, "they follow each other, the other way round");
        assert_eq!(count(&[1, 5, 5, 9, 2, 3, 4]), 2);
        assert_eq!(count(&[1, 5, 5, 9, 2, 6, 3, 7]), 3);
        assert_eq!(count(&[]), 1, "an empty one");
        let interleaved: Vec<_> = (0..32_u128).flat_map(|part| (0..4).map(move |place| place * 32 + part)).collect();
        assert_eq!(count(&interleaved), 32);
    }

    #[test]
    fn a_visit_that_fails_ends_it() {
        for ids in [[1, 2, 3], [3, 2, 1]] {
            let given = ids.into_iter().zip(1..);
            let mut visits = 0;
            let ended = Looked::at(given.clone()).in_order(given, &mut Vec::new(), |(id, _)| {
                visits += 1;
                if id == 2 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            });
            assert_eq!((ended.map_err(|err| err.kind()), visits), (Err(io::ErrorKind::StorageFull), 2));
        }
    }
}
