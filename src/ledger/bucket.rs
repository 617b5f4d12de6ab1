//! Buckets: how much and how often in one part of a limit's period, and how parts follow each other.
//!
//! A calendar period has one bucket, which begins anew with each part. A sliding window has one for all of the window, one for the
//! current step, and a ring of the six steps before; most operations touch the first two only.
//!
//! Not here: what a limit is ([`super::tally`]).

use super::get;

/// Steps of a sliding window.
pub(super) const SLIDING_STEPS: u32 = 6;
/// Buckets of a sliding window: all of it, the current step, and the steps before.
pub(super) const SLIDING_BUCKETS: usize = 8;
/// Amount and number in one part of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Number of the part, from 1.
    pub part: u32,
    /// Operations.
    pub count: u32,
    /// Minor units, in two halves, because a `u128` would make the bucket larger by a third.
    sum: [u64; 2],
}

/// Sum and count in the period that ends in this part.
#[inline]
pub(super) fn used(buckets: &[Bucket], part: u32) -> (u128, u32) {
    match buckets {
        // All of the window, or the one bucket of a calendar period.
        [first, ..] if first.part == part => (first.sum(), first.count),
        [_, steps @ ..] => sum_of(steps, part),
        [] => (0, 0),
    }
}

/// Sum and count of the steps that are in the window that ends with this one.
#[cold]
fn sum_of(steps: &[Bucket], part: u32) -> (u128, u32) {
    let first = part.saturating_sub(SLIDING_STEPS);
    let current = steps.iter().filter(|bucket| bucket.part >= first && bucket.part <= part && bucket.part != 0);
    current.fold((0, 0), |(sum, count), bucket| (bucket.sum().saturating_add(sum), bucket.count.saturating_add(count)))
}

impl Bucket {
    /// A bucket of a part.
    pub fn new(part: u32, count: u32, sum: u128) -> Self {
        let mut bucket = Self { part, count, sum: [0; 2] };
        bucket.set_sum(sum);
        bucket
    }

    /// Minor units.
    #[inline]
    pub fn sum(&self) -> u128 {
        let [low, high] = self.sum;
        u128::from(high) << 64 | u128::from(low)
    }

    #[inline]
    fn set_sum(&mut self, sum: u128) {
        let bytes = sum.to_le_bytes();
        self.sum = [u64::from_le_bytes(get::<0, 8>(&bytes)), u64::from_le_bytes(get::<8, 8>(&bytes))];
    }

    #[inline]
    fn add(&mut self, part: u32, amount: u128, count: u32) {
        if self.part < part {
            *self = Self { part, ..Self::default() };
        }
        if self.part == part {
            self.set_sum(self.sum().saturating_add(amount));
            self.count = self.count.saturating_add(count);
        }
    }

    fn take(&mut self, amount: u128, count: u32) {
        self.set_sum(self.sum().saturating_sub(amount));
        self.count = self.count.saturating_sub(count);
    }
}

/// Which bucket of the ring a step has.
fn place_in_ring(part: u32) -> usize {
    usize::try_from(part % SLIDING_STEPS).unwrap_or(0)
}

/// Which buckets adding to a part, or taking from it, may change; those of a calendar period have but the first.
pub(super) fn touched(buckets: &[Bucket], part: u32) -> [usize; 4] {
    let of_ring = |part| place_in_ring(part).saturating_add(2);
    [0, 1, of_ring(part), of_ring(buckets.get(1).map_or(0, |current| current.part))]
}

/// Adds to a part, which may be new and take the place of one that is over.
#[inline]
pub(super) fn add(buckets: &mut [Bucket], part: u32, amount: u128, count: u32) {
    if let [window, _, ..] = buckets
        && window.part < part
    {
        step_to(buckets, part);
    }
    for bucket in buckets.iter_mut().take(2) {
        bucket.add(part, amount, count);
    }
}

/// Goes on to a new step of a sliding window: the one before goes into the ring.
#[cold]
fn step_to(buckets: &mut [Bucket], part: u32) {
    let (sum, count) = used(buckets, part);
    let [window, current, ring @ ..] = buckets else { return };
    *window = Bucket::new(part, count, sum);
    if let Some(old) = ring.get_mut(place_in_ring(current.part)) {
        *old = *current;
    }
    *current = Bucket::new(part, 0, 0);
}

/// Takes what was not used out of the part in which it was counted, if that is still there.
pub(super) fn take_back(buckets: &mut [Bucket], part: u32, amount: u128, count: u32) {
    match buckets {
        [one] if one.part == part => one.take(amount, count),
        [window, current, ring @ ..] => {
            let in_window = part >= window.part.saturating_sub(SLIDING_STEPS) && part <= window.part;
            let step = if current.part == part { Some(current) } else { ring.get_mut(place_in_ring(part)) };
            if let Some(step) = step.filter(|bucket| bucket.part == part) {
                step.take(amount, count);
                if in_window {
                    window.take(amount, count);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Code;
    use crate::ledger::policy::Policy;
    use crate::ledger::tally::{Bounds, LimitRule};

    fn rule(window: &str) -> LimitRule {
        let text = format!(
            "[[limit]]\nname = \"x\"\ncounted_per = \"account\"\ncurrency = \"EUR\"\nwindow = \"{window}\"\nsum_max = \"1\"\ncount_max = 3"
        );
        Policy::parse(&text).unwrap().limits.remove(0)
    }

    #[test]
    fn a_sliding_window_never_lets_more_than_the_limit_through() {
        let rule = rule("60s");
        let mut buckets = vec![Bucket::default(); rule.buckets()];
        let mut taken: Vec<u32> = Vec::new();
        for second in (1_000..1_400).step_by(7) {
            let part = rule.part(second);
            if Bounds::of(&rule).check(used(&buckets, part), 10, 1).is_ok() {
                add(&mut buckets, part, 10, 1);
                taken.push(second);
            }
            let in_window = taken.iter().filter(|&&at| at + 60 > second).count();
            assert!(in_window <= 3, "{taken:?}");
        }
        assert!(taken.len() >= 15, "the window slides on: {taken:?}");
    }

    #[test]
    fn the_sum_of_a_window_is_that_of_its_parts_whatever_happens() {
        let rule = rule("60s");
        let mut buckets = vec![Bucket::default(); rule.buckets()];
        let mut random = 7_u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 16
        };
        let (mut second, mut taken) = (1_000, Vec::new());
        for _ in 0..5_000 {
            second += next() % 9;
            let part = rule.part(second);
            if next() % 3 == 0 && !taken.is_empty() {
                let (part, amount) = taken.swap_remove(usize::try_from(next()).unwrap() % taken.len());
                take_back(&mut buckets, part, amount, 1);
            } else {
                let amount = u128::from(next() % 100);
                add(&mut buckets, part, amount, 1);
                taken.push((part, amount));
            }
            let in_window = taken.iter().filter(|(of, _)| of + 6 >= part && *of <= part);
            let expected = in_window.fold((0, 0), |(sum, count), (_, amount)| (sum + amount, count + 1));
            assert_eq!(used(&buckets, part), expected);
        }
    }

    #[test]
    fn what_is_given_back_leaves_its_own_period_only() {
        let rule = rule("day");
        let mut buckets = vec![Bucket::default(); 1];
        let (monday, tuesday) = (rule.part(86_399), rule.part(86_400));
        assert_eq!(tuesday, monday + 1);
        add(&mut buckets, monday, 60, 1);
        take_back(&mut buckets, monday, 20, 0);
        assert_eq!(used(&buckets, monday), (40, 1));
        assert_eq!(Bounds::of(&rule).check((40, 1), 60, 1), Ok(()));
        assert_eq!(Bounds::of(&rule).check((40, 1), 61, 1), Err(Code::LimitExceeded));
        assert_eq!(Bounds::of(&rule).check((40, 3), 1, 1), Err(Code::LimitCountExceeded));
        add(&mut buckets, tuesday, 5, 1);
        take_back(&mut buckets, monday, 40, 1);
        assert_eq!(used(&buckets, tuesday), (5, 1));
    }
}
