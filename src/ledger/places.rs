//! Numbers by hash, in four bytes a place: how the slot of an account is found, and the entry of a transfer id.
//!
//! ```text
//! place     number + 1 in as many of the lower bits as places need, above it as much of the hash as fits: the tag; 0: free
//! ```
//!
//! Open addressing with linear probing. What is asked lies in one cache line, mostly, and says by the tag alone that something is not there. Numbers are
//! given in order, from 0 on. The table doubles when it is three quarters full, which takes about 10 ns a number.
//!
//! # Not here
//!
//! What the numbers stand for, and which pages the places lie on ([`super::words`]).

use super::get;
use super::words::Words;

/// Places of an empty table.
const PLACES_MIN: usize = 16;

/// A hash of ids, keyed at random, so that nobody can choose ids that collide.
#[derive(Clone, Copy, Debug)]
pub struct Keys(u64, u64);

impl Keys {
    /// New ones.
    pub fn random() -> Self {
        Self(rand::random(), rand::random())
    }

    /// The hash of an id, given its halves; good in all its bits.
    #[inline]
    pub fn hash(self, (low, high): (u64, u64)) -> u64 {
        // Two folded multiplications; the second spreads what a zero factor in the first would lose.
        let first = fold(low ^ self.0, high ^ self.1 ^ 0x9E37_79B9_7F4A_7C15);
        fold(first ^ low.rotate_left(32), self.0 | 1) ^ high
    }
}

/// Both halves of a product, in one.
#[inline]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    let bytes = product.to_le_bytes();
    u64::from_le_bytes(get::<0, 8>(&bytes)) ^ u64::from_le_bytes(get::<8, 8>(&bytes))
}

/// Numbers by hash.
#[derive(Debug)]
pub struct Places {
    /// Its length is a power of two.
    places: Words,
    count: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self::with_room(0)
    }
}

impl Places {
    /// Without any, and with room for at least so many. Memory is used as they come.
    pub fn with_room(numbers: usize) -> Self {
        let places = numbers.saturating_mul(2).next_power_of_two().max(PLACES_MIN);
        Self { places: Words::zeroed(places), count: 0 }
    }

    /// How many numbers were given.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What is at the place to which a hash leads: whoever looks many up reads all of these first, so that their cache misses overlap.
    #[inline]
    pub fn first(&self, hash: u64) -> u32 {
        self.places.get(self.home(hash)).unwrap_or(0)
    }

    /// The number that has this hash and is what is looked for; or, if it is not there, the free place where it belongs.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Result<u32, usize> {
        let (mask, bits, tag) = (self.mask(), self.bits(), self.tag(hash));
        let mut place = self.home(hash);
        while let Some(kept) = self.places.get(place) {
            if kept == 0 {
                break;
            }
            let number = (kept & bits).wrapping_sub(1);
            if kept & !bits == tag && is(number) {
                return Ok(number);
            }
            place = place.wrapping_add(1) & mask;
        }
        Err(place)
    }

    /// Gives the next number to what was looked for and not found; answers it. `hash_of` a number is asked for when the table doubles.
    ///
    /// # Panics
    ///
    /// With 2^32 - 1 numbers.
    #[inline]
    #[expect(
        clippy::expect_used,
        reason = "a hundred gigabytes of what has a number; a wrong one would be something that is not known"
    )]
    pub fn insert(&mut self, hash: u64, free: usize, hash_of: impl Fn(u32) -> u64) -> u32 {
        let number = u32::try_from(self.count).ok().filter(|number| *number < u32::MAX);
        let number = number.expect("fewer than four thousand million numbers");
        self.set(hash, free, number);
        self.count = self.count.saturating_add(1);
        if self.count.saturating_mul(4) > self.places.len().saturating_mul(3) {
            self.double(number, hash_of);
        }
        number
    }

    #[inline]
    fn set(&mut self, hash: u64, place: usize, number: u32) {
        let kept = self.tag(hash) | number.wrapping_add(1);
        self.places.set(place, kept);
    }

    #[cold]
    fn double(&mut self, last: u32, hash_of: impl Fn(u32) -> u64) {
        let doubled = self.places.len().saturating_mul(2);
        // What the old ones say follows from the numbers: not both at once.
        self.places = Words::zeroed(0);
        self.places = Words::zeroed(doubled);
        for number in 0..=last {
            let hash = hash_of(number);
            // No two are the same, so there is nothing to compare with.
            if let Err(free) = self.find(hash, |_| false) {
                self.set(hash, free, number);
            }
        }
    }

    /// Forgets all numbers, and keeps the room.
    pub fn clear(&mut self) {
        self.count = 0;
        self.warm();
    }

    /// Uses all of the memory, so that nobody pays for that later.
    ///
    /// # Panics
    ///
    /// When there are numbers: they would be forgotten.
    pub fn warm(&mut self) {
        assert_eq!(self.count, 0, "what has a number would be forgotten");
        self.places.clear();
    }

    #[inline]
    fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }

    /// The bits of a place that are a number; the others are the tag.
    #[inline]
    fn bits(&self) -> u32 {
        u32::try_from(self.mask()).unwrap_or(u32::MAX)
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & self.mask()
    }

    #[inline]
    fn tag(&self, hash: u64) -> u32 {
        u32::try_from(hash >> 32).unwrap_or(0) & !self.bits()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_has_a_number_is_found_whatever_collides(
            hashes in prop::collection::vec((0..4_u64, 0..20_u64).prop_map(|(tag, home)| tag << 40 | home | tag << 62), 1..200),
            room in 0..40_usize,
        ) {
            let mut places = Places::with_room(room);
            // Equal hashes are told apart by what has them.
            let mut known: Vec<(u64, usize)> = Vec::new();
            for (place, &hash) in hashes.iter().enumerate() {
                let thing = (hash, place % 50);
                let expected = known.iter().position(|it| *it == thing);
                let found = places.find(hash, |number| known[number as usize] == thing);
                match (found, expected) {
                    (Ok(number), Some(expected)) => prop_assert_eq!(number as usize, expected),
                    (Err(free), None) => {
                        known.push(thing);
                        let number = places.insert(hash, free, |number| known[number as usize].0);
                        prop_assert_eq!(number as usize + 1, known.len());
                    }
                    differs => prop_assert!(false, "{differs:?}"),
                }
                prop_assert_eq!(places.len(), known.len());
            }
            for (number, thing) in known.iter().enumerate() {
                let found = places.find(thing.0, |number| known[number as usize] == *thing);
                prop_assert_eq!(found, Ok(number as u32));
            }
            places.clear();
            prop_assert!(places.is_empty() && hashes.iter().all(|&hash| places.first(hash) == 0));
            let free = places.find(hashes[0], |_| true).err();
            prop_assert_eq!(free.map(|free| places.insert(hashes[0], free, |_| hashes[0])), Some(0));
            prop_assert_eq!(places.find(hashes[0], |number| number == 0), Ok(0));
        }
    }

    #[test]
    fn ids_that_people_use_lie_near_to_where_they_belong() {
        let sequential = |number: u64| (number, 0);
        let in_the_upper_half = |number: u64| (0, number);
        let of_participants = |number: u64| (number % 1_000, number / 1_000);
        let by_time =
            |number: u64| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15), (1_700_000_000_000 + number / 50) << 16);
        let shapes: [fn(u64) -> (u64, u64); 4] = [sequential, in_the_upper_half, of_participants, by_time];
        for (shape, halves) in shapes.into_iter().enumerate() {
            let (keys, mut places) = (Keys::random(), Places::default());
            for number in 0..49_000 {
                let hash = keys.hash(halves(number));
                let free = places.find(hash, |_| false).unwrap_err();
                places.insert(hash, free, |number| keys.hash(halves(u64::from(number))));
            }
            let mut looks = 0_usize;
            for number in 0..49_000 {
                let hash = keys.hash(halves(number));
                let found = places.find(hash, |kept| u64::from(kept) == number);
                assert_eq!(found, Ok(u32::try_from(number).unwrap()));
                let absent = keys.hash(halves(number + 49_000));
                let free = places.find(absent, |_| false).unwrap_err();
                looks += free.wrapping_sub(places.home(absent)) & places.mask();
            }
            // 7.4 places are passed in the mean when three quarters are taken at random (Knuth: (1 + 1 / (1 - a)^2) / 2 looks).
            assert!(looks < 10 * 49_000, "shape {shape}: {looks}");
        }
    }
}
