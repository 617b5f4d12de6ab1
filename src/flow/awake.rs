//! Staying awake for a moment, for what usually comes at once.
//!
//! A transfer on its own goes through five threads, and to wake one that sleeps takes 5 µs, where its processor sleeps too 25-30 µs: together as long as the
//! disk needs. So a thread that has nothing to do looks out for a moment, giving way to whoever wants the processor, before it sleeps. Where that brings
//! nothing several times, it is tried only now and then, and while nothing is on its way (who waits for events brings nothing) only as long as a caller takes who sends the next as soon as he has
//! his answer: a server that is asked rarely does not burn its processors. Nor is it tried where much is under way, be it in a few large requests or in many
//! small ones: then whoever has work needs the processors, and is interrupted all the time by those who only look out.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::admission::Admission;

/// Items inside beyond which nobody stays awake.
const FEW: usize = 1_024;

/// Parcels on their way beyond which nobody stays awake: two for each processor. With one, two and four connections that send one transfer at a time
/// it brings something on two processors, with eight nothing, with sixteen it takes an eighth of the rate, and half of the processor time.
static FEW_PARCELS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(2, usize::from).saturating_mul(2));

/// Vain waits after which it is tried only now and then.
const VAIN_MAX: u32 = 8;

/// How often it is tried then.
const NOW_AND_THEN: u32 = 64;

/// Part of the time for which to stay awake while nothing is on its way.
const PART_EMPTY: u32 = 4;

/// How long to stay awake, and whether it was worth it lately.
#[derive(Clone, Debug)]
pub struct Awake {
    most: Duration,
    admission: Arc<Admission>,
    vain: u32,
}

impl Awake {
    /// Stays awake for at most this long, zero is never, while only few items are inside.
    pub fn new(most: Duration, admission: &Arc<Admission>) -> Self {
        Self { most, admission: Arc::clone(admission), vain: 0 }
    }

    /// Until when it is worth it to look out; `None` for not at all.
    pub fn begin(&mut self) -> Option<Instant> {
        if self.admission.inside() > FEW || self.admission.parcels() > *FEW_PARCELS {
            return None;
        }
        let is_worth = self.vain < VAIN_MAX || self.vain.is_multiple_of(NOW_AND_THEN);
        if self.most.is_zero() || !is_worth {
            self.vain = self.vain.wrapping_add(1).max(VAIN_MAX);
            return None;
        }
        Instant::now().checked_add(self.most)
    }

    /// Notes whether something came.
    pub fn end(&mut self, has_come: bool) {
        self.vain = if has_come { 0 } else { self.vain.saturating_add(1) };
    }

    /// Blocks until something has come, or for as long as it is worth it.
    pub fn look_out(&mut self, has_come: impl Fn() -> bool) {
        if has_come() {
            return;
        }
        let Some(until) = self.begin() else { return };
        let empty_most = self.most.checked_div(PART_EMPTY).unwrap_or_default();
        let mut now = Instant::now();
        let mut filled = now;
        while !has_come() && now < until {
            if self.admission.parcels() > 0 {
                filled = now;
            } else if now.saturating_duration_since(filled) > empty_most {
                break;
            }
            std::thread::yield_now();
            now = Instant::now();
        }
        self.end(has_come());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_brings_nothing_is_tried_now_and_then_until_it_brings_something() {
        let admission = Admission::new(2 * FEW);
        let mut awake = Awake::new(Duration::from_micros(1), &admission);
        let looked = Cell::new(0_u32);
        let in_vain = |awake: &mut Awake| {
            let before = looked.get();
            // The first look is free, the others are what staying awake costs.
            awake.look_out(|| {
                looked.set(looked.get() + 1);
                false
            });
            looked.get() - before > 1
        };
        let tried = (0..1_000).filter(|_| in_vain(&mut awake)).count();
        assert!((20..30).contains(&tried), "{tried} times");
        while !in_vain(&mut awake) {}
        let calls = Cell::new(0);
        for _ in 0..NOW_AND_THEN {
            calls.set(0);
            awake.look_out(|| {
                calls.set(calls.get() + 1);
                calls.get() > 2
            });
        }
        assert!(in_vain(&mut awake), "since something came, it is worth it again");
        let much = admission.admit(FEW + 1);
        assert!(!in_vain(&mut awake), "much is under way");
        drop(much);
        assert!(in_vain(&mut awake));
        let many: Vec<_> = (0..=*FEW_PARCELS).map(|_| admission.admit(1).unwrap().for_parcel()).collect();
        assert!(!in_vain(&mut awake), "many are under way");
        drop(many);
        assert!(in_vain(&mut awake));
        let mut never = Awake::new(Duration::ZERO, &admission);
        assert!(!in_vain(&mut never));
    }

    #[test]
    fn it_looks_out_longer_while_something_is_on_its_way() {
        let admission = Admission::new(FEW);
        let took = |most: u64| {
            let begun = Instant::now();
            Awake::new(Duration::from_millis(most), &admission).look_out(|| false);
            begun.elapsed()
        };
        let read = admission.admit(1).unwrap();
        let empty = took(2_000);
        assert!(empty >= Duration::from_millis(500) && empty < Duration::from_secs(2), "{empty:?}");
        let _on_its_way = read.for_parcel();
        assert!(took(20) >= Duration::from_millis(20));
    }
}
