//! The book's accounts: what all have in slots, what few have beside.

use hashbrown::HashMap;

use super::BookAccount;
use crate::ledger::{AccountChange, AccountId, AccountMore, PackedAccount, Slot, Table};

/// Accounts by slot and by id.
#[derive(Debug)]
pub(super) struct Accounts {
    pub(super) table: Table<PackedAccount>,
    /// User data and overdrafts of those that have any.
    more: HashMap<Slot, AccountMore>,
}

impl Accounts {
    pub(super) fn new() -> Self {
        Self { table: Table::new(PackedAccount::id), more: HashMap::new() }
    }

    pub(super) fn insert(&mut self, account: &BookAccount) -> Slot {
        let (packed, more) = PackedAccount::new(account);
        let slot = self.table.insert(packed);
        if let Some(more) = more {
            self.more.insert(slot, more);
        }
        slot
    }

    /// The whole account in a slot.
    pub(super) fn at(&self, slot: Slot) -> Option<BookAccount> {
        self.table.get(slot).map(|packed| packed.account(self.more(slot, packed)))
    }

    /// All, in order of slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = BookAccount> {
        (0..).zip(self.table.iter()).map(|(slot, packed)| packed.account(self.more(slot, packed)))
    }

    #[inline]
    fn more(&self, slot: Slot, packed: &PackedAccount) -> &AccountMore {
        let more = if packed.has_more() { self.more.get(&slot) } else { None };
        more.unwrap_or(&AccountMore::NONE)
    }

    /// How far below zero the account in a slot may go.
    #[inline]
    pub(super) fn overdraft(&self, slot: Slot) -> u128 {
        self.table.get(slot).map_or(0, |packed| self.more(slot, packed).overdraft())
    }

    /// Changes what of the account in a slot may change; answers the overdraft that it has then.
    pub(super) fn change(&mut self, slot: Slot, change: &AccountChange) -> u128 {
        let Some(mut account) = self.at(slot) else { return 0 };
        let properties = &mut account.properties;
        properties.level = change.level.unwrap_or(properties.level);
        properties.overdraft = change.overdraft.unwrap_or(properties.overdraft);
        let overdraft = properties.overdraft;
        account.state = change.state.unwrap_or(account.state);
        let (packed, more) = PackedAccount::new(&account);
        match more {
            Some(more) => drop(self.more.insert(slot, more)),
            None => drop(self.more.remove(&slot)),
        }
        if let Some(known) = self.table.get_mut(slot) {
            *known = packed;
        }
        overdraft
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
            BookAccount::open(&NewAccount { id, currency: 978, user_data_64, overdraft, ..NewAccount::default() })
        };
        let all = [open(1, 0, 0), open(2, 7, 0), open(3, 0, 50)];
        for account in &all {
            accounts.insert(account);
        }
        assert_eq!(accounts.iter().collect::<Vec<_>>(), all);
        assert_eq!([0, 1, 2].map(|slot| accounts.overdraft(slot)), [0, 0, 50]);
        let set = |overdraft| AccountChange { overdraft: Some(overdraft), ..AccountChange::default() };
        assert_eq!((accounts.change(0, &set(9)), accounts.change(2, &set(0))), (9, 0));
        assert_eq!(accounts.iter().collect::<Vec<_>>(), [open(1, 0, 9), open(2, 7, 0), open(3, 0, 0)]);
        assert_eq!(accounts.more.len(), 2, "what is nothing takes no room");
        assert_eq!(accounts.change(1, &set(1)), 1);
        assert_eq!(accounts.at(1), Some(open(2, 7, 1)));
    }
}
