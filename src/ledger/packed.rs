//! An account in 124 bytes, as the book holds it in memory and the store on disk.
//!
//! ```text
//! place  0   16             32             44              56              68               80            88
//!        id  user_data_128  debits_posted  credits_posted  debits_pending  credits_pending  user_data_64  opened_ns
//! place  96    104           108       110   112    113    114    115    116
//!        head  user_data_32  currency  code  flags  class  level  state  overdraft (8)
//! ```
//!
//! All little-endian; totals in the twelve bytes that they need. With millions of accounts a struct's padding is memory.

use super::fields::{get, narrow, set, wide};
use super::{AccountFlags, AccountId, AccountState, BookAccount, NewAccount, Sequence, Totals};

/// Bytes of a packed account.
pub const PACKED_BYTES: usize = 124;

/// A packed account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedAccount([u8; PACKED_BYTES]);

impl PackedAccount {
    /// Takes packed bytes.
    pub fn from_bytes(bytes: [u8; PACKED_BYTES]) -> Self {
        Self(bytes)
    }

    /// The packed bytes.
    pub fn bytes(&self) -> &[u8; PACKED_BYTES] {
        &self.0
    }

    /// The account's id.
    #[inline]
    pub fn id(&self) -> AccountId {
        AccountId::from_raw(u128::from_le_bytes(get::<0, 16>(&self.0)))
    }

    /// The account's currency.
    #[inline]
    pub fn currency(&self) -> u16 {
        u16::from_le_bytes(get::<108, 2>(&self.0))
    }

    /// What its balance may be.
    #[inline]
    pub fn flags(&self) -> AccountFlags {
        let [flags] = get::<112, 1>(&self.0);
        AccountFlags(u16::from(flags))
    }

    /// A byte of each cache line but the first, so that they are in the cache when they are needed.
    #[inline]
    pub(super) fn touch(&self) -> u8 {
        let ([middle], [end]) = (get::<64, 1>(&self.0), get::<123, 1>(&self.0));
        middle ^ end
    }

    /// Its class's number.
    #[inline]
    pub fn class(&self) -> u8 {
        let [class] = get::<113, 1>(&self.0);
        class
    }

    /// The level of its customer.
    #[inline]
    pub fn level(&self) -> u8 {
        let [level] = get::<114, 1>(&self.0);
        level
    }

    /// What it may take part in.
    #[inline]
    pub fn state(&self) -> AccountState {
        let [state] = get::<115, 1>(&self.0);
        AccountState::from_number(state).unwrap_or_default()
    }

    /// How far below zero it may go.
    #[inline]
    pub fn overdraft(&self) -> u128 {
        u128::from(u64::from_le_bytes(get::<116, 8>(&self.0)))
    }

    /// The last record that touched it.
    #[inline]
    pub fn head(&self) -> Sequence {
        u64::from_le_bytes(get::<96, 8>(&self.0))
    }

    /// Its totals.
    #[inline]
    pub fn totals(&self) -> Totals {
        Totals {
            debits_posted: wide(get::<32, 12>(&self.0)),
            credits_posted: wide(get::<44, 12>(&self.0)),
            debits_pending: wide(get::<56, 12>(&self.0)),
            credits_pending: wide(get::<68, 12>(&self.0)),
        }
    }

    /// Replaces totals and head.
    #[inline]
    pub fn update(&mut self, totals: &Totals, head: Sequence) {
        set::<32, 12>(&mut self.0, narrow(totals.debits_posted));
        set::<44, 12>(&mut self.0, narrow(totals.credits_posted));
        set::<56, 12>(&mut self.0, narrow(totals.debits_pending));
        set::<68, 12>(&mut self.0, narrow(totals.credits_pending));
        set::<96, 8>(&mut self.0, head.to_le_bytes());
    }

    /// Replaces level, state and overdraft.
    pub fn change(&mut self, level: u8, state: AccountState, overdraft: u128) {
        set::<114, 2>(&mut self.0, [level, state.number()]);
        set::<116, 8>(&mut self.0, u64::try_from(overdraft).unwrap_or(u64::MAX).to_le_bytes());
    }
}

impl From<&BookAccount> for PackedAccount {
    fn from(account: &BookAccount) -> Self {
        let mut packed = Self([0; PACKED_BYTES]);
        let bytes = &mut packed.0;
        let properties = &account.properties;
        set::<0, 16>(bytes, properties.id.raw().to_le_bytes());
        set::<16, 16>(bytes, properties.user_data_128.to_le_bytes());
        set::<80, 8>(bytes, properties.user_data_64.to_le_bytes());
        set::<88, 8>(bytes, account.opened_ns.to_le_bytes());
        set::<104, 4>(bytes, properties.user_data_32.to_le_bytes());
        set::<108, 2>(bytes, properties.currency.to_le_bytes());
        set::<110, 2>(bytes, properties.code.to_le_bytes());
        // All flags that an account can have fit one byte.
        set::<112, 2>(bytes, [properties.flags.0.to_le_bytes()[0], properties.class]);
        packed.change(properties.level, account.state, properties.overdraft);
        packed.update(&account.totals, account.head);
        packed
    }
}

impl From<&PackedAccount> for BookAccount {
    fn from(packed: &PackedAccount) -> Self {
        let bytes = &packed.0;
        Self {
            properties: NewAccount {
                id: packed.id(),
                user_data_128: u128::from_le_bytes(get::<16, 16>(bytes)),
                user_data_64: u64::from_le_bytes(get::<80, 8>(bytes)),
                user_data_32: u32::from_le_bytes(get::<104, 4>(bytes)),
                currency: packed.currency(),
                code: u16::from_le_bytes(get::<110, 2>(bytes)),
                flags: packed.flags(),
                class: packed.class(),
                level: packed.level(),
                overdraft: packed.overdraft(),
            },
            totals: packed.totals(),
            state: packed.state(),
            opened_ns: u64::from_le_bytes(get::<88, 8>(bytes)),
            head: packed.head(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn accounts_are_read_as_they_were_packed(
            wide in any::<[u128; 6]>(), mid in any::<[u64; 4]>(), small in any::<(u32, u16, u16)>(), bytes in any::<[u8; 3]>(),
            state in 0..4_u8,
        ) {
            let account = BookAccount {
                properties: NewAccount {
                    id: AccountId::from_raw(wide[0]), user_data_128: wide[1], user_data_64: mid[0], user_data_32: small.0,
                    currency: small.1, code: small.2, flags: AccountFlags(u16::from(bytes[0])), class: bytes[1],
                    level: bytes[2], overdraft: u128::from(mid[3]),
                },
                totals: Totals {
                    debits_posted: wide[2] >> 32, credits_posted: wide[3] >> 32, debits_pending: wide[4] >> 32,
                    credits_pending: wide[5] >> 32,
                },
                state: AccountState::from_number(state).unwrap(),
                opened_ns: mid[1], head: mid[2],
            };
            let packed = PackedAccount::from(&account);
            prop_assert_eq!(packed.id(), account.properties.id);
            prop_assert_eq!(BookAccount::from(&PackedAccount::from_bytes(*packed.bytes())), account);
        }
    }
}
