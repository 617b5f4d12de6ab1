//! An account in 98 bytes, as the book holds it in memory and the store on disk.
//!
//! ```text
//! place  0   16             32             48              64            72         80    88            92        94    96
//!        id  user_data_128  debits_posted  credits_posted  user_data_64  opened_ns  head  user_data_32  currency  code  flags
//! ```
//!
//! All little-endian. A struct of the same fields takes 112 bytes; with millions of accounts that is memory.

use super::fields::{get, set};
use super::{AccountFlags, AccountId, BookAccount, NewAccount, Sequence};

/// Bytes of a packed account.
pub const PACKED_BYTES: usize = 98;

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
        u16::from_le_bytes(get::<92, 2>(&self.0))
    }

    /// What its balance may be.
    #[inline]
    pub fn flags(&self) -> AccountFlags {
        AccountFlags(u16::from_le_bytes(get::<96, 2>(&self.0)))
    }

    /// The last record that touched it.
    #[inline]
    pub fn head(&self) -> Sequence {
        u64::from_le_bytes(get::<80, 8>(&self.0))
    }

    /// Posted debits and credits.
    #[inline]
    pub fn totals(&self) -> (u128, u128) {
        (u128::from_le_bytes(get::<32, 16>(&self.0)), u128::from_le_bytes(get::<48, 16>(&self.0)))
    }

    /// Replaces debits, credits and head.
    #[inline]
    pub fn update(&mut self, (debits, credits): (u128, u128), head: Sequence) {
        set::<32, 16>(&mut self.0, debits.to_le_bytes());
        set::<48, 16>(&mut self.0, credits.to_le_bytes());
        set::<80, 8>(&mut self.0, head.to_le_bytes());
    }
}

impl From<&BookAccount> for PackedAccount {
    fn from(account: &BookAccount) -> Self {
        let mut packed = Self([0; PACKED_BYTES]);
        let bytes = &mut packed.0;
        let properties = &account.properties;
        set::<0, 16>(bytes, properties.id.raw().to_le_bytes());
        set::<16, 16>(bytes, properties.user_data_128.to_le_bytes());
        set::<64, 8>(bytes, properties.user_data_64.to_le_bytes());
        set::<72, 8>(bytes, account.opened_ns.to_le_bytes());
        set::<88, 4>(bytes, properties.user_data_32.to_le_bytes());
        set::<92, 2>(bytes, properties.currency.to_le_bytes());
        set::<94, 2>(bytes, properties.code.to_le_bytes());
        set::<96, 2>(bytes, properties.flags.0.to_le_bytes());
        packed.update((account.debits_posted, account.credits_posted), account.head);
        packed
    }
}

impl From<&PackedAccount> for BookAccount {
    fn from(packed: &PackedAccount) -> Self {
        let bytes = &packed.0;
        let (debits_posted, credits_posted) = packed.totals();
        Self {
            properties: NewAccount {
                id: packed.id(),
                user_data_128: u128::from_le_bytes(get::<16, 16>(bytes)),
                user_data_64: u64::from_le_bytes(get::<64, 8>(bytes)),
                user_data_32: u32::from_le_bytes(get::<88, 4>(bytes)),
                currency: packed.currency(),
                code: u16::from_le_bytes(get::<94, 2>(bytes)),
                flags: packed.flags(),
            },
            debits_posted,
            credits_posted,
            opened_ns: u64::from_le_bytes(get::<72, 8>(bytes)),
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
        fn accounts_are_unpacked_as_they_were_packed(
            wide in any::<[u128; 4]>(), mid in any::<[u64; 3]>(), small in any::<(u32, u16, u16, u16)>(),
        ) {
            let account = BookAccount {
                properties: NewAccount {
                    id: AccountId::from_raw(wide[0]), user_data_128: wide[1], user_data_64: mid[0], user_data_32: small.0,
                    currency: small.1, code: small.2, flags: AccountFlags(small.3),
                },
                debits_posted: wide[2], credits_posted: wide[3], opened_ns: mid[1], head: mid[2],
            };
            let packed = PackedAccount::from(&account);
            prop_assert_eq!(packed.id(), account.properties.id);
            prop_assert_eq!(BookAccount::from(&PackedAccount::from_bytes(*packed.bytes())), account);
        }
    }
}
