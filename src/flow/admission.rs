//! Admission: how many items may be inside the system at once.
//!
//! A session takes a [`Permit`] for a request's items before it hands them on, and the permit is given back when the
//! answer is written. Without a permit the request is answered *busy*: nothing ever queues without bound.
//!
//! What is answered leaves the common room at once, so that peers who do not take their answers keep nobody else out; it stays in its connection's own share, and
//! is counted as *untaken*. Where as much is untaken as may be inside, those who have more than a thirty-second part of that get nothing more,
//! and their sessions do not wait for them any longer; from twice as much on no session does.
//!
//! All the room is for bursts, and for a disk that stands still for a moment. Where it is full, more comes than can be done, and a long queue would only make
//! everybody wait, leave the sessions no processor to refuse with, and push what is worked on out of the cache. So it is *crowded* from then on: parcels get an
//! eighth of the room (or eight of them may be under way, if they are large), until half the room has been given to them without a refusal, where each moment
//! in which nothing is under way counts as a part of it; and now and then all are let in again, for those who would have room by now. Openings of accounts are parcels like
//! transfers. What a session has gathered and not handed on yet is not counted, so there may be a little more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Part of the room for parcels under way while it is crowded ...
const CROWDED_PART: usize = 8;

/// ... or, so that no stage waits for the next, so many parcels.
const CROWDED_PARCELS: usize = 8;

/// Part of the room that must be given without a refusal until it is not crowded any more.
const CALM_PART: usize = 2;

/// Part of the room for which a moment counts in which nothing is under way.
const IDLE_PART: usize = 64;

/// How often the room is given until it is not crowded any more, with whatever refusals: half a minute or less under full load.
const OPENED_AFTER: usize = 128;

/// Part of the room that is much to be answered and not written, of one part, where all together have as much as the room: a full request, by default.
const UNTAKEN_PART: usize = 32;

/// The number of items inside, and its limit.
#[derive(Debug)]
pub struct Admission {
    inside: AtomicUsize,
    /// Items that are answered and not written yet; in a part of a whole they are inside, too.
    untaken: AtomicUsize,
    /// Items of parcels among those inside. The others are reads, which bring nothing.
    under_way: AtomicUsize,
    /// Parcels under way; counted by the whole.
    parcels_under_way: AtomicUsize,
    /// Those, and the answered ones that are not written yet: threads that stay awake would be in the way of those who write. Counted by the whole.
    parcels: AtomicUsize,
    /// Items to be given to parcels without a refusal until it is not crowded any more; known to the whole.
    crowded_for: AtomicUsize,
    /// Items to be given to parcels until then at most.
    crowded_most: AtomicUsize,
    limit: usize,
    /// Where there must be room too.
    whole: Option<Arc<Self>>,
}

/// Room for some items, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    items: usize,
    is_parcel: bool,
    is_under_way: AtomicBool,
    is_answered: AtomicBool,
}

impl Admission {
    /// Admits at most `limit` items at once.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self::with(limit, None))
    }

    /// A part of a whole: admits at most a quarter of the whole's limit, but at least `least`, and only what the whole admits. So
    /// one peer cannot take all the room.
    pub fn share(whole: &Arc<Self>, least: usize) -> Arc<Self> {
        let limit = whole.limit.checked_div(4).unwrap_or(0).max(least);
        Arc::new(Self::with(limit, Some(Arc::clone(whole))))
    }

    /// A part of a whole that has no limit of its own, to count what is inside of some kind.
    pub fn part(whole: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self::with(usize::MAX, Some(Arc::clone(whole))))
    }

    fn with(limit: usize, whole: Option<Arc<Self>>) -> Self {
        let none = || AtomicUsize::new(0);
        Self {
            inside: none(),
            untaken: none(),
            under_way: none(),
            parcels_under_way: none(),
            parcels: none(),
            crowded_for: none(),
            crowded_most: none(),
            limit,
            whole,
        }
    }

    /// Whether there is room for some items now. Only a hint: others may take it.
    pub fn has_room(&self, items: usize) -> bool {
        self.inside().saturating_add(items) <= self.limit
            && self.whole.as_ref().is_none_or(|whole| whole.has_room(items) && !self.is_untaken_too_much())
    }

    /// Whether this part may have no more, since its peer does not take what it has. Who is alone in that keeps nobody waiting, and has no more than his part.
    fn is_untaken_too_much(&self) -> bool {
        let whole = self.whole();
        // In this order: what is answered is counted here first.
        let (all, untaken) = (whole.untaken(), self.untaken());
        untaken > whole.limit / UNTAKEN_PART && all >= whole.limit && untaken < all
    }

    /// Whether its peer must take what it has, or go: it has much of too much; or it is all too much, whoever has it.
    pub fn must_be_taken(&self) -> bool {
        let whole = self.whole();
        self.is_untaken_too_much() || whole.untaken() / 2 >= whole.limit
    }

    /// Whether a parcel of so many items may come now; others may take its room. Where not, because so much is under way, it is crowded from now on.
    pub fn has_room_for_parcel(&self, items: usize) -> bool {
        let whole = self.whole();
        let is_crowded = whole.is_crowded();
        // What a peer has no room for in its own part does not concern the others, and reads that take the room are no queue.
        if (is_crowded || !whole.has_room(items)) && !whole.has_crowded_room() {
            whole.crowd();
            return false;
        }
        self.has_room(items) && (!is_crowded || self.has_crowded_room())
    }

    fn crowd(&self) {
        if self.crowded_for.swap(self.limit / CALM_PART, Ordering::Relaxed) == 0 {
            self.crowded_most.store(self.limit.saturating_mul(OPENED_AFTER), Ordering::Relaxed);
        }
    }

    /// So much was given since the last refusal, or might have been.
    fn calm(&self, items: usize) {
        let less = |left: usize| Some(left.saturating_sub(items));
        let left = self.crowded_most.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if left.is_ok_and(|before| before <= items) {
            self.crowded_for.store(0, Ordering::Relaxed);
        }
        let _always = self.crowded_for.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether one more parcel may come while it is crowded, however large.
    fn has_crowded_room(&self) -> bool {
        let is_few = |of: &AtomicUsize, most| of.load(Ordering::Relaxed) <= most;
        is_few(&self.under_way, self.limit / CROWDED_PART)
            || self.whole.is_none() && is_few(&self.parcels_under_way, CROWDED_PARCELS.saturating_sub(1))
    }

    /// Takes room for some items, or `None` when there is not enough. Never waits.
    pub fn admit(self: &Arc<Self>, items: usize) -> Option<Permit> {
        self.take(items).then(|| Permit {
            admission: Arc::clone(self),
            items,
            is_parcel: false,
            is_under_way: AtomicBool::new(false),
            is_answered: AtomicBool::new(false),
        })
    }

    fn take(&self, items: usize) -> bool {
        let taken = self.inside.fetch_update(Ordering::AcqRel, Ordering::Acquire, |inside| {
            inside.checked_add(items).filter(|&total| total <= self.limit)
        });
        if taken.is_err() {
            return false;
        }
        if self.whole.as_ref().is_some_and(|whole| self.is_untaken_too_much() || !whole.take(items)) {
            self.inside.fetch_sub(items, Ordering::AcqRel);
            return false;
        }
        true
    }

    fn give_back(&self, items: usize, is_answered: bool) {
        if is_answered {
            self.untaken.fetch_sub(items, Ordering::AcqRel);
        }
        let Some(whole) = &self.whole else {
            // Of the whole it has left already where it is answered.
            self.inside.fetch_sub(if is_answered { 0 } else { items }, Ordering::AcqRel);
            return;
        };
        self.inside.fetch_sub(items, Ordering::AcqRel);
        whole.give_back(items, is_answered);
    }

    fn answer(&self, items: usize) {
        self.untaken.fetch_add(items, Ordering::AcqRel);
        match &self.whole {
            Some(whole) => whole.answer(items),
            None => {
                self.inside.fetch_sub(items, Ordering::AcqRel);
            }
        }
    }

    /// The number of items inside now; in a part of a whole with those that are answered and not written yet.
    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::Acquire)
    }

    /// The number of items that are answered and not written yet.
    pub fn untaken(&self) -> usize {
        self.untaken.load(Ordering::Acquire)
    }

    /// The number of parcels whose answers are not written yet, all shares together.
    pub fn parcels(&self) -> usize {
        self.whole().parcels.load(Ordering::Relaxed)
    }

    /// Whether parcels get only a part of the room.
    pub fn is_crowded(&self) -> bool {
        self.whole().crowded_for.load(Ordering::Relaxed) > 0
    }

    fn whole(&self) -> &Self {
        self.whole.as_deref().map_or(self, Self::whole)
    }

    fn begin_parcel(&self, items: usize) {
        self.under_way.fetch_add(items, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            return whole.begin_parcel(items);
        }
        self.parcels_under_way.fetch_add(1, Ordering::Relaxed);
        self.parcels.fetch_add(1, Ordering::Relaxed);
        if self.is_crowded() {
            self.calm(items);
        }
    }

    fn end_way(&self, items: usize) {
        let before = self.under_way.fetch_sub(items, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            return whole.end_way(items);
        }
        self.parcels_under_way.fetch_sub(1, Ordering::Relaxed);
        if before == items && self.is_crowded() {
            self.calm(self.limit / IDLE_PART);
        }
    }
}

impl Permit {
    /// One permit for both.
    #[must_use]
    pub fn join(mut self, mut other: Self) -> Self {
        debug_assert!(Arc::ptr_eq(&self.admission, &other.admission), "permits of one admission");
        debug_assert!(!self.is_parcel && !other.is_parcel, "what is on its way stays as it is");
        debug_assert!(!*other.is_answered.get_mut(), "what is answered is not joined");
        self.items = self.items.saturating_add(std::mem::take(&mut other.items));
        self
    }

    /// Counts what it is for as a parcel on its way.
    #[must_use]
    pub fn for_parcel(mut self) -> Self {
        if !self.is_parcel {
            self.is_parcel = true;
            *self.is_under_way.get_mut() = true;
            self.admission.begin_parcel(self.items);
        }
        self
    }

    /// It is answered: under way no more, and out of the room that all have. It keeps its place in its connection's share until whoever asked takes the answer.
    pub fn arrived(&self) {
        self.end_way();
        if !self.is_answered.swap(true, Ordering::AcqRel) {
            self.admission.answer(self.items);
        }
    }

    fn end_way(&self) {
        if self.is_under_way.swap(false, Ordering::Relaxed) {
            self.admission.end_way(self.items);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end_way();
        if self.is_parcel {
            self.admission.whole().parcels.fetch_sub(1, Ordering::Relaxed);
        }
        self.admission.give_back(self.items, *self.is_answered.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_is_admitted_and_room_comes_back() {
        let admission = Admission::new(10);
        let first = admission.admit(6).unwrap();
        assert!(admission.admit(5).is_none());
        let second = admission.admit(4).unwrap();
        drop(first);
        assert_eq!(admission.inside(), 4);
        assert!(admission.admit(6).is_some());
        let both = second.join(admission.admit(3).unwrap());
        assert_eq!(admission.inside(), 7);
        drop(both);
        assert_eq!(admission.inside(), 0);
    }

    #[test]
    fn where_there_was_no_room_an_eighth_of_it_is_given_until_all_have_room_for_a_while() {
        let whole = Admission::new(3_200);
        let shares: Vec<_> = (0..5).map(|_| Admission::share(&whole, 100)).collect();
        let (one, last) = (shares.first().unwrap(), shares.last().unwrap());
        let parcel = |share: &Arc<Admission>| {
            let is_admitted = share.has_room_for_parcel(20);
            is_admitted.then(|| share.admit(20).unwrap().for_parcel())
        };
        // A burst gets all the room, of one peer a quarter, which is nothing to the others.
        let mut parcels: Vec<_> =
            shares.iter().take(4).flat_map(|share| (0..40).filter_map(|_| parcel(share))).collect();
        assert_eq!((parcels.len(), whole.inside(), one.inside()), (160, 3_200, 800));
        parcels.pop();
        assert!(parcel(one).is_none());
        parcels.extend(parcel(last));
        assert_eq!(whole.inside(), 3_200, "who has had less than a quarter does not notice");
        assert!(parcel(last).is_none(), "now it is crowded");
        parcels.truncate(21);
        assert!(parcel(last).is_none(), "420 are under way, 400 may");
        parcels.truncate(20);
        let read = whole.admit(2_000).unwrap();
        assert!(last.has_room_for_parcel(100), "400 are, so one more may come, however large; reads are not under way");
        assert!(parcel(one).is_none(), "of one peer an eighth of its part");
        // As often as one comes another is done. One that is refused in between makes it begin again.
        let rounds = |count| (0..count).filter(|_| parcel(last).is_some()).count();
        assert_eq!(rounds(60), 60);
        let crowd: Vec<_> = (0..2).filter_map(|_| parcel(last)).collect();
        assert_eq!((crowd.len(), parcel(last).is_some()), (1, false));
        drop(crowd);
        let rounds = |count| (0..count).filter(|_| parcel(last).is_some()).count();
        assert_eq!((rounds(79), parcel(one).is_some()), (79, false));
        assert!(whole.is_crowded() && last.is_crowded());
        assert_eq!(
            (rounds(1), parcel(one).is_some(), one.is_crowded()),
            (1, true, false),
            "half the room was given without a refusal"
        );
        drop((read, parcels));
        // Where nothing is under way in between it is over sooner, and at last whatever is refused.
        let crowd = || {
            whole.crowd();
            assert!(whole.is_crowded());
        };
        crowd();
        let given = (1..10_000).find(|_| parcel(last).is_some() && !whole.is_crowded());
        assert_eq!(given, Some(1_600_usize.div_ceil(20 + 3_200 / IDLE_PART)));
        crowd();
        let held: Vec<_> = (0..21).filter_map(|share| parcel(shares.get(share / 5).unwrap())).collect();
        assert_eq!((held.len(), parcel(last).is_some()), (21, false), "420 are under way");
        held.iter().for_each(Permit::arrived);
        assert!(last.has_room_for_parcel(20), "who does not take his answers keeps nobody else out");
        assert_eq!((whole.inside(), whole.untaken(), one.inside()), (0, 420, 100));
        drop(held);
        let given = (1..100_000).find(|_| {
            whole.crowded_for.store(1_600, Ordering::Relaxed);
            parcel(last).is_some() && !whole.is_crowded()
        });
        assert!(given.is_some(), "all are let in again");
        let parcels = whole.parcels_under_way.load(Ordering::Relaxed);
        assert_eq!([whole.inside(), whole.under_way.load(Ordering::Relaxed), whole.parcels(), parcels], [0; 4]);
    }

    #[test]
    fn who_does_not_take_answers_has_them_in_a_room_of_its_own_and_gets_no_more_when_that_is_full() {
        let whole = Admission::new(40_000);
        let shares = [(); 5].map(|()| Admission::share(&whole, 100));
        let [deaf @ .., other] = &shares;
        let permits: Vec<_> = deaf.iter().map(|share| share.admit(10_000).unwrap()).collect();
        assert!(other.admit(1).is_none() && !deaf[0].must_be_taken(), "nothing is answered yet");
        permits.iter().for_each(Permit::arrived);
        permits.iter().for_each(Permit::arrived);
        assert_eq!((whole.inside(), whole.untaken(), other.must_be_taken()), (0, 40_000, false));
        assert!(deaf.iter().all(|share| share.inside() == 10_000 && share.admit(1).is_none()), "a quarter each");
        assert!(deaf.iter().all(|share| share.must_be_taken()));
        let some = other.admit(40_000 / UNTAKEN_PART).unwrap();
        some.arrived();
        let more = other.admit(1).unwrap();
        more.arrived();
        assert!(other.admit(1).is_none() && !other.has_room(1) && other.must_be_taken(), "now it is one of them");
        drop(some);
        assert_eq!((whole.untaken(), other.untaken(), other.inside()), (40_001, 1, 1));
        let more_shares = [(); 4].map(|()| Admission::share(&whole, 100));
        let much: Vec<_> = more_shares.iter().map(|share| share.admit(10_000).unwrap()).collect();
        much.iter().for_each(Permit::arrived);
        assert!(other.must_be_taken(), "twice as much: whoever has it");
        drop(much);
        assert!(Admission::part(other).admit(1).is_some());
        let part = Admission::part(&deaf[0]);
        drop(permits);
        part.admit(8_192).unwrap().arrived();
        drop(more);
        assert_eq!([whole.inside(), whole.untaken(), part.inside(), part.untaken(), other.inside()], [0; 5]);
    }

    #[test]
    fn who_is_alone_may_be_slow_to_take_all_that_there_is_room_for() {
        let whole = Admission::new(8_190);
        let (one, other) = (Admission::share(&whole, 8_190), Admission::share(&whole, 8_190));
        let page = one.admit(8_190).unwrap();
        page.arrived();
        assert!(!one.must_be_taken() && whole.untaken() == 8_190 && other.has_room(8_190));
        other.admit(1).unwrap().arrived();
        assert!(!one.must_be_taken(), "it was taken at once");
        let more = other.admit(1).unwrap();
        more.arrived();
        assert!(one.must_be_taken() && !other.must_be_taken() && other.has_room(8_189), "one has nearly all of it");
        drop((page, more));
        assert_eq!([whole.inside(), whole.untaken(), one.untaken(), other.untaken()], [0; 4]);
    }

    #[test]
    fn a_few_parcels_are_under_way_at_least() {
        let whole = Admission::new(1_000);
        let full: Vec<_> = (0..10).filter_map(|_| whole.admit(100).map(Permit::for_parcel)).collect();
        assert!(!whole.has_room_for_parcel(1));
        let parcels: Vec<_> = full.into_iter().take(CROWDED_PARCELS).collect();
        assert!(!whole.has_room_for_parcel(100));
        let fewer: Vec<_> = parcels.into_iter().skip(1).collect();
        assert!(whole.has_room_for_parcel(100) && fewer.len() * 100 > 1_000 / CROWDED_PART);
        let eighth = whole.admit(100).unwrap().for_parcel();
        assert!(!whole.has_room_for_parcel(100));
        eighth.arrived();
        assert!(whole.has_room_for_parcel(100) && whole.parcels() == 8, "answered, and not written yet");
    }

    #[test]
    fn a_share_is_bounded_by_itself_and_by_the_whole() {
        let whole = Admission::new(40);
        let (one, other) = (Admission::share(&whole, 5), Admission::share(&whole, 35));
        assert!(one.admit(11).is_none(), "a quarter");
        let some = one.admit(10).unwrap();
        assert!(other.admit(31).is_none(), "the whole is full");
        assert_eq!((whole.inside(), other.inside()), (10, 0));
        drop(some);
        assert!(other.admit(31).is_some());
        assert_eq!((whole.inside(), one.inside(), other.inside()), (0, 0, 0));
        let part = Admission::part(&one);
        let some = part.admit(10).unwrap().for_parcel().for_parcel();
        assert_eq!((whole.parcels(), other.parcels()), (1, 1), "counted once, for all");
        assert_eq!((whole.inside(), one.inside(), part.inside()), (10, 10, 10));
        assert!(part.admit(1).is_none() && !part.has_room(1) && part.inside() == 10, "what it is a part of is full");
        drop(some);
        assert_eq!((whole.inside(), one.inside(), part.inside(), whole.parcels()), (0, 0, 0, 0));
    }
}
