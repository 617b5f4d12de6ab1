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
    limit: usize,
}

/// Room for some items, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    items: usize,
}

impl Admission {
    /// Admits at most `limit` items at once.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { inside: AtomicUsize::new(0), limit })
    }

    /// Takes room for some items, or `None` when there is not enough. Never waits.
    pub fn admit(self: &Arc<Self>, items: usize) -> Option<Permit> {
        let admitted = self.inside.fetch_update(Ordering::AcqRel, Ordering::Acquire, |inside| {
            inside.checked_add(items).filter(|&total| total <= self.limit)
        });
        admitted.ok().map(|_| Permit { admission: Arc::clone(self), items })
    }

    /// The number of items inside now.
    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::Acquire)
    }
}

impl Permit {
    /// One permit for both.
    #[must_use]
    pub fn join(mut self, mut other: Self) -> Self {
        debug_assert!(Arc::ptr_eq(&self.admission, &other.admission), "permits of one admission");
        self.items = self.items.saturating_add(std::mem::take(&mut other.items));
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.inside.fetch_sub(self.items, Ordering::AcqRel);
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
}
