//! Batches: items with a tag that says which outcome of which parcel they are.

use std::sync::Arc;

use super::Parcel;

/// An item and where its outcome belongs.
#[derive(Clone, Copy, Debug)]
pub struct Tagged<T> {
    /// Index into the batch's parcels.
    pub parcel: u32,
    /// Index of the outcome in the parcel.
    pub index: u32,
    /// The item.
    pub item: T,
}

/// Items in order, and the parcels they belong to.
#[derive(Debug)]
pub struct Batch<T> {
    parcels: Vec<Arc<Parcel>>,
    items: Vec<Tagged<T>>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { parcels: Vec::new(), items: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// Makes room for so many items.
    pub fn reserve(&mut self, items: usize) {
        self.items.reserve(items);
    }

    /// Adds an item. Items of one parcel in a row share one reference to it.
    #[inline]
    pub fn push(&mut self, parcel: &Arc<Parcel>, index: u32, item: T) {
        if self.parcels.last().is_none_or(|last| !Arc::ptr_eq(last, parcel)) {
            self.parcels.push(Arc::clone(parcel));
        }
        let parcel = u32::try_from(self.parcels.len()).unwrap_or(u32::MAX).wrapping_sub(1);
        self.items.push(Tagged { parcel, index, item });
    }

    /// Adds an item that belongs to no parcel.
    pub fn push_untagged(&mut self, item: T) {
        self.items.push(Tagged { parcel: u32::MAX, index: 0, item });
    }

    /// The items in order.
    pub fn items(&self) -> &[Tagged<T>] {
        &self.items
    }

    /// The parcel that a tag names.
    #[inline]
    pub fn parcel(&self, parcel: u32) -> Option<&Arc<Parcel>> {
        self.parcels.get(usize::try_from(parcel).ok()?)
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }
}
