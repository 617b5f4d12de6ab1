//! The entries of a run, from the first to the last, and those of several together.

use std::io;

use super::Entry;
use super::fences::Group;
use super::run::Run;

/// A run's entries in order.
pub(crate) struct Entries<'a, E> {
    run: &'a Run<E>,
    number: usize,
    /// The fences of the next block, or of the one before it.
    group: Group,
    block: std::vec::IntoIter<E>,
    next: Option<E>,
}

impl<'a, E: Entry> Entries<'a, E> {
    pub(crate) fn new(run: &'a Run<E>) -> io::Result<Self> {
        let mut entries = Self { run, number: 0, group: Group::default(), block: Vec::new().into_iter(), next: None };
        entries.advance()?;
        Ok(entries)
    }

    /// The entry that is next.
    pub(crate) fn next(&self) -> Option<E> {
        self.next
    }

    pub(crate) fn advance(&mut self) -> io::Result<()> {
        self.next = self.block.next();
        if self.next.is_none() && self.number < self.run.fences.len() {
            if self.group.between(self.number).is_none() {
                self.group = self.run.group_of(self.number)?;
            }
            self.block = self.run.block(self.number, &self.group)?.1.into_iter();
            self.number = self.number.saturating_add(1);
            self.next = self.block.next();
        }
        Ok(())
    }
}

/// The one whose entry is next, and the next entry of the others: up to there nobody else need be asked.
pub(super) fn least<'r, 'a, E: Entry>(
    readers: &'r mut [Entries<'a, E>],
) -> Option<(&'r mut Entries<'a, E>, Option<E>)> {
    let (mut least, mut until) = (None, None);
    for reader in readers.iter_mut().filter(|reader| reader.next.is_some()) {
        let least_so_far = least.as_ref().and_then(|least: &&mut Entries<'_, E>| least.next);
        if least_so_far.is_none_or(|so_far| reader.next < Some(so_far)) {
            (least, until) = (Some(reader), least_so_far);
        } else if until.is_none_or(|until| reader.next < Some(until)) {
            until = reader.next;
        }
    }
    least.map(|least| (least, until))
}
