//! Admission: how many items may be inside the system at once.
//!
//! A session takes a [`Permit`] for a request's items before it hands them on, and the permit is given back when the
//! parcel is dropped after its answer. Without a permit the request is answered *busy*: nothing ever queues without bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of items inside, and its limit.
#[derive(Debug)]
pub struct Admission {
    inside: AtomicUsize,
    /// Parcels among the permits; counted by the whole.
    parcels: AtomicUsize,
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
        Self { inside: AtomicUsize::new(0), parcels: AtomicUsize::new(0), limit, whole }
    }

    /// Whether there is room for some items now. Only a hint: others may take it.
    pub fn has_room(&self, items: usize) -> bool {
        self.inside().saturating_add(items) <= self.limit
            && self.whole.as_ref().is_none_or(|whole| whole.has_room(items))
    }

    /// Takes room for some items, or `None` when there is not enough. Never waits.
    pub fn admit(self: &Arc<Self>, items: usize) -> Option<Permit> {
        self.take(items).then(|| Permit { admission: Arc::clone(self), items, is_parcel: false })
    }

    fn take(&self, items: usize) -> bool {
        let taken = self.inside.fetch_update(Ordering::AcqRel, Ordering::Acquire, |inside| {
            inside.checked_add(items).filter(|&total| total <= self.limit)
        });
        if taken.is_err() {
            return false;
        }
        if self.whole.as_ref().is_some_and(|whole| !whole.take(items)) {
            self.inside.fetch_sub(items, Ordering::AcqRel);
            return false;
        }
        true
    }

    fn give_back(&self, items: usize) {
        self.inside.fetch_sub(items, Ordering::AcqRel);
        if let Some(whole) = &self.whole {
            whole.give_back(items);
        }
    }

    /// The number of items inside now.
    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::Acquire)
    }

    /// The number of parcels on their way now, all shares together.
    pub fn parcels(&self) -> usize {
        self.counts_parcels().parcels.load(Ordering::Relaxed)
    }

    fn counts_parcels(&self) -> &Self {
        self.whole.as_deref().map_or(self, Self::counts_parcels)
    }
}

impl Permit {
    /// One permit for both.
    #[must_use]
    pub fn join(mut self, mut other: Self) -> Self {
        debug_assert!(Arc::ptr_eq(&self.admission, &other.admission), "permits of one admission");
        debug_assert!(!other.is_parcel, "what is on its way stays as it is");
        self.items = self.items.saturating_add(std::mem::take(&mut other.items));
        self
    }

    /// Counts what it is for as a parcel on its way.
    #[must_use]
    pub fn for_parcel(mut self) -> Self {
        if !self.is_parcel {
            self.is_parcel = true;
            self.admission.counts_parcels().parcels.fetch_add(1, Ordering::Relaxed);
        }
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_parcel {
            self.admission.counts_parcels().parcels.fetch_sub(1, Ordering::Relaxed);
        }
        self.admission.give_back(self.items);
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
