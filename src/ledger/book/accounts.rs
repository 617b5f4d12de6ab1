//! The book's accounts: what all have in slots, what few have beside.

use hashbrown::HashMap;

use super::rules::check_totals;
use super::{BookAccount, Totals};
use crate::ledger::{AccountChange, AccountId, AccountMore, PackedAccount, Sequence, Slot, Table};

/// Accounts by slot and by id.
#[derive(Debug)]
pub(super) struct Accounts {
    pub(super) table: Table<PackedAccount>,
    /// User data, overdrafts and totals of 2^64 and more, of those that have any.
    more: HashMap<Slot, AccountMore>,
}

impl Accounts {
    pub(super) fn new() -> Self {
        Self { table: Table::new(), more: HashMap::new() }
    }

    pub(super) fn insert(&mut self, account: &BookAccount) -> Slot {
        let (packed, more) = PackedAccount::new(account);
        let slot = self.table.insert(packed, account.opened_ns);
        if let Some(more) = more {
            self.more.insert(slot, more);
        }
        slot
    }

    /// The whole account in a slot.
    pub(super) fn at(&self, slot: Slot) -> Option<BookAccount> {
        self.table.get(slot).map(|packed| packed.account(self.opened_ns(slot), self.more(slot, packed)))
    }

    /// All, in order of slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = BookAccount> {
        let slots = (0..).zip(self.table.iter());
        slots.map(|(slot, packed)| packed.account(self.opened_ns(slot), self.more(slot, packed)))
    }

    fn opened_ns(&self, slot: Slot) -> u64 {
        self.table.beside(slot).unwrap_or(0)
    }

    #[inline]
    fn more(&self, slot: Slot, packed: &PackedAccount) -> &AccountMore {
        let more = if packed.has_more() { self.more.get(&slot) } else { None };
        more.unwrap_or(&AccountMore::NONE)
    }

    /// Changes the totals of the account in a slot by a record, unless it has seen the record already; answers its head before.
    #[inline]
    pub(super) fn post(
        &mut self,
        slot: Slot,
        sequence: Sequence,
        change: impl FnOnce(&mut Totals) -> Result<(), &'static str>,
    ) -> Result<Sequence, &'static str> {
        let Some(packed) = self.table.get_mut(slot) else { return Err("a slot is empty") };
        let previous = packed.head();
        if sequence <= previous {
            return Ok(previous);
        }
        let known = if packed.has_more() { self.more.get_mut(&slot) } else { None };
        let more = known.as_deref().unwrap_or(&AccountMore::NONE);
        let mut totals = packed.totals(more);
        change(&mut totals)?;
        check_totals((packed.flags(), more.overdraft()), &totals)?;
        let fits = packed.update(&totals, sequence);
        match known {
            Some(more) => more.set_upper(&totals),
            None if fits => {}
            None => {
                // When it was opened is not replaced.
                let whole = BookAccount { totals, ..packed.account(0, &AccountMore::NONE) };
                self.replace(slot, &whole);
            }
        }
        Ok(previous)
    }

    /// Changes what of the account in a slot may change, by a record; answers what it is then.
    pub(super) fn change(&mut self, slot: Slot, change: &AccountChange, sequence: Sequence) -> Option<BookAccount> {
        let mut account = self.at(slot)?;
        let properties = &mut account.properties;
        properties.level = change.level.unwrap_or(properties.level);
        properties.overdraft = change.overdraft.unwrap_or(properties.overdraft);
        account.state = change.state.unwrap_or(account.state);
        account.head = sequence;
        self.replace(slot, &account);
        Some(account)
    }

    fn replace(&mut self, slot: Slot, account: &BookAccount) {
        let (packed, more) = PackedAccount::new(account);
        match more {
            Some(more) => drop(self.more.insert(slot, more)),
            None => drop(self.more.remove(&slot)),
        }
        if let Some(known) = self.table.get_mut(slot) {
            *known = packed;
        }
    }

    pub(super) fn find(&self, id: AccountId) -> Option<Slot> {
        self.table.find(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::NewAccount;

    #[test]
    fn what_few_have_comes_and_goes_and_the_others_do_not_notice() {
        let mut accounts = Accounts::new();
        let open = |id: u128, user_data_64, overdraft| {
            let id = AccountId::from_raw(id);
            let opened = NewAccount { id, currency: 978, user_data_64, overdraft, ..NewAccount::default() };
            BookAccount { opened_ns: u64::try_from(id.raw()).unwrap() + 100, ..BookAccount::open(&opened) }
        };
        let all = [open(1, 0, 0), open(2, 7, 0), open(3, 0, 50)];
        for account in &all {
            accounts.insert(account);
        }
        assert_eq!(accounts.iter().collect::<Vec<_>>(), all);
        let set = |overdraft| AccountChange { overdraft: Some(overdraft), ..AccountChange::default() };
        let with = |account: BookAccount, head| Some(BookAccount { head, ..account });
        let changed = [accounts.change(0, &set(9), 4), accounts.change(2, &set(0), 5)];
        assert_eq!(changed, [with(open(1, 0, 9), 4), with(open(3, 0, 0), 5)]);
        assert_eq!(accounts.iter().map(Some).collect::<Vec<_>>(), [changed[0], with(open(2, 7, 0), 0), changed[1]]);
        assert_eq!(accounts.more.len(), 2, "what is nothing takes no room");
        accounts.change(1, &set(1), 6);
        assert_eq!(accounts.at(1), with(open(2, 7, 1), 6));
    }

    #[test]
    fn totals_grow_past_eight_bytes_and_a_record_counts_once() {
        let mut accounts = Accounts::new();
        let account =
            BookAccount::open(&NewAccount { id: AccountId::from_raw(1), currency: 978, ..NewAccount::default() });
        let slot = accounts.insert(&BookAccount { opened_ns: 77, ..account });
        let credit = |amount: u128| {
            move |totals: &mut Totals| {
                totals.credits_posted += amount;
                Ok(())
            }
        };
        let edge = u128::from(u64::MAX);
        for (sequence, amount, total) in
            [(1, edge, edge), (1, 5, edge), (2, 1, edge + 1), (3, edge, 2 * edge + 1), (3, 7, 2 * edge + 1)]
        {
            accounts.post(slot, sequence, credit(amount)).unwrap();
            assert_eq!(accounts.at(slot).unwrap().totals.credits_posted, total);
            assert_eq!(accounts.more.len(), usize::from(total > edge), "what fits takes no more room");
        }
        assert!(accounts.post(slot, 4, credit(1 << 96)).is_err(), "a total passes what is allowed");
        assert_eq!(
            accounts.at(slot).map(|account| (account.totals.credits_posted, account.head, account.opened_ns)),
            Some((2 * edge + 1, 3, 77))
        );
    }
}
