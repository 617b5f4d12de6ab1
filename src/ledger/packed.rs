//! An account as the book holds it in memory, in a cache line and 52 bytes more if it needs them, and as the store has it, in all 124.
//!
//! ```text
//! in memory, of totals the lower eight bytes:
//! place  0   16             24              32              40               48    56        58    60     61     62     63
//!        id  debits_posted  credits_posted  debits_pending  credits_pending  head  currency  code  flags  class  level  state
//! more   0              16            24            28             36
//!        user_data_128  user_data_64  user_data_32  overdraft (8)  upper four bytes of each total
//!
//! in the store, totals of twelve bytes each:
//! place  0   16             28              40              52               64    72
//!        id  debits_posted  credits_posted  debits_pending  credits_pending  head  opened_ns
//! place  80        82    84     85     86     87      88             104           112           116
//!        currency  code  flags  class  level  state   user_data_128  user_data_64  user_data_32  overdraft (8)
//! ```
//!
//! All little-endian. With millions of accounts a struct's padding is memory, and so is what most of them do not have: user data, an overdraft, and a
//! total of 2^64 minor units or more. The highest bit of the state says that there is more. When it was opened is kept elsewhere, because nothing
//! that a record does needs it: so one line has all that it needs.

use super::fields::{get, narrow, set, wide};
use super::{AccountFlags, AccountId, AccountState, BookAccount, Identified, NewAccount, Sequence, Totals};

/// Bytes of an account in memory.
const PACKED_BYTES: usize = 64;

/// Bytes of what most accounts do not have.
const MORE_BYTES: usize = 52;

/// Of these, bytes that are in the store in the same places: all but the totals.
const EXTRA_BYTES: usize = 36;

/// Bytes of an account in the store.
pub const STORED_BYTES: usize = 124;

/// In the state: user data, an overdraft or upper parts of totals are elsewhere.
const HAS_MORE: u8 = 1 << 7;

/// What every account has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct PackedAccount([u8; PACKED_BYTES]);

/// User data, overdraft and the upper parts of totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountMore([u8; MORE_BYTES]);

impl AccountMore {
    /// Of none that says so.
    pub const NONE: Self = Self([0; MORE_BYTES]);

    fn of(account: &BookAccount) -> Self {
        let mut more = Self([0; MORE_BYTES]);
        let bytes = &mut more.0;
        let properties = &account.properties;
        set::<0, 16>(bytes, properties.user_data_128.to_le_bytes());
        set::<16, 8>(bytes, properties.user_data_64.to_le_bytes());
        set::<24, 4>(bytes, properties.user_data_32.to_le_bytes());
        set::<28, 8>(bytes, u64::try_from(properties.overdraft).unwrap_or(u64::MAX).to_le_bytes());
        more.set_upper(&account.totals);
        more
    }

    /// How far below zero the account may go.
    pub fn overdraft(&self) -> u128 {
        u128::from(u64::from_le_bytes(get::<28, 8>(&self.0)))
    }

    /// Replaces the upper parts of the totals.
    #[inline]
    pub(super) fn set_upper(&mut self, totals: &Totals) {
        set::<36, 4>(&mut self.0, upper(totals.debits_posted));
        set::<40, 4>(&mut self.0, upper(totals.credits_posted));
        set::<44, 4>(&mut self.0, upper(totals.debits_pending));
        set::<48, 4>(&mut self.0, upper(totals.credits_pending));
    }
}

/// What of a total does not fit eight bytes.
#[inline]
fn upper(total: u128) -> [u8; 4] {
    get::<8, 4>(&total.to_le_bytes())
}

/// The bytes of an account in the store.
pub fn encode_account(account: &BookAccount) -> [u8; STORED_BYTES] {
    let (packed, more) = PackedAccount::new(account);
    let mut bytes = [0; STORED_BYTES];
    set::<0, 16>(&mut bytes, get::<0, 16>(&packed.0));
    set::<16, 12>(&mut bytes, narrow(account.totals.debits_posted));
    set::<28, 12>(&mut bytes, narrow(account.totals.credits_posted));
    set::<40, 12>(&mut bytes, narrow(account.totals.debits_pending));
    set::<52, 12>(&mut bytes, narrow(account.totals.credits_pending));
    set::<64, 8>(&mut bytes, get::<48, 8>(&packed.0));
    set::<72, 8>(&mut bytes, account.opened_ns.to_le_bytes());
    set::<80, 8>(&mut bytes, get::<56, 8>(&packed.0));
    set::<88, EXTRA_BYTES>(&mut bytes, get::<0, EXTRA_BYTES>(&more.unwrap_or(AccountMore::NONE).0));
    bytes
}

/// An account from the bytes in the store.
pub fn decode_account(bytes: &[u8; STORED_BYTES]) -> BookAccount {
    let mut packed = PackedAccount([0; PACKED_BYTES]);
    set::<0, 16>(&mut packed.0, get::<0, 16>(bytes));
    set::<48, 8>(&mut packed.0, get::<64, 8>(bytes));
    set::<56, 8>(&mut packed.0, get::<80, 8>(bytes));
    let mut more = AccountMore::NONE;
    set::<0, EXTRA_BYTES>(&mut more.0, get::<88, EXTRA_BYTES>(bytes));
    let totals = Totals {
        debits_posted: wide(get::<16, 12>(bytes)),
        credits_posted: wide(get::<28, 12>(bytes)),
        debits_pending: wide(get::<40, 12>(bytes)),
        credits_pending: wide(get::<52, 12>(bytes)),
    };
    BookAccount { totals, ..packed.account(u64::from_le_bytes(get::<72, 8>(bytes)), &more) }
}

impl Identified for PackedAccount {
    /// When it was opened, nanoseconds since 1970 UTC.
    type Beside = u64;

    #[inline]
    fn account_id(&self) -> AccountId {
        self.id()
    }
}

impl PackedAccount {
    /// Packs an account; the second part is there only if it is needed.
    pub fn new(account: &BookAccount) -> (Self, Option<AccountMore>) {
        let mut packed = Self([0; PACKED_BYTES]);
        let bytes = &mut packed.0;
        let properties = &account.properties;
        set::<0, 16>(bytes, properties.id.raw().to_le_bytes());
        set::<56, 2>(bytes, properties.currency.to_le_bytes());
        set::<58, 2>(bytes, properties.code.to_le_bytes());
        // All flags that an account can have fit one byte.
        set::<60, 2>(bytes, [properties.flags.0.to_le_bytes()[0], properties.class]);
        let more = Some(AccountMore::of(account)).filter(|more| *more != AccountMore::NONE);
        packed.change(properties.level, account.state, more.is_some());
        let _all_of_them = packed.update(&account.totals, account.head);
        (packed, more)
    }

    /// The whole account, given when it was opened and what else there is of it.
    pub fn account(&self, opened_ns: u64, more: &AccountMore) -> BookAccount {
        let (bytes, rest) = (&self.0, &more.0);
        BookAccount {
            properties: NewAccount {
                id: self.id(),
                user_data_128: u128::from_le_bytes(get::<0, 16>(rest)),
                user_data_64: u64::from_le_bytes(get::<16, 8>(rest)),
                user_data_32: u32::from_le_bytes(get::<24, 4>(rest)),
                currency: self.currency(),
                code: u16::from_le_bytes(get::<58, 2>(bytes)),
                flags: self.flags(),
                class: self.class(),
                level: self.level(),
                overdraft: more.overdraft(),
            },
            totals: self.totals(more),
            state: self.state(),
            opened_ns,
            head: self.head(),
        }
    }

    /// The account's id.
    #[inline]
    pub fn id(&self) -> AccountId {
        AccountId::from_raw(u128::from_le_bytes(get::<0, 16>(&self.0)))
    }

    /// The account's currency.
    #[inline]
    pub fn currency(&self) -> u16 {
        u16::from_le_bytes(get::<56, 2>(&self.0))
    }

    /// What its balance may be.
    #[inline]
    pub fn flags(&self) -> AccountFlags {
        let [flags] = get::<60, 1>(&self.0);
        AccountFlags(u16::from(flags))
    }

    /// Its class's number.
    #[inline]
    pub fn class(&self) -> u8 {
        let [class] = get::<61, 1>(&self.0);
        class
    }

    /// The level of its customer.
    #[inline]
    pub fn level(&self) -> u8 {
        let [level] = get::<62, 1>(&self.0);
        level
    }

    /// What it may take part in.
    #[inline]
    pub fn state(&self) -> AccountState {
        let [state] = get::<63, 1>(&self.0);
        AccountState::from_number(state & !HAS_MORE).unwrap_or_default()
    }

    /// Whether there is more of it.
    #[inline]
    pub fn has_more(&self) -> bool {
        let [state] = get::<63, 1>(&self.0);
        state & HAS_MORE != 0
    }

    /// The last record that touched it.
    #[inline]
    pub fn head(&self) -> Sequence {
        u64::from_le_bytes(get::<48, 8>(&self.0))
    }

    /// Its totals, given what else there is of it.
    #[inline]
    pub fn totals(&self, more: &AccountMore) -> Totals {
        let (low, high) = (&self.0, &more.0);
        let joined = |low: [u8; 8], high: [u8; 4]| {
            u128::from(u64::from_le_bytes(low)) | u128::from(u32::from_le_bytes(high)) << 64
        };
        Totals {
            debits_posted: joined(get::<16, 8>(low), get::<36, 4>(high)),
            credits_posted: joined(get::<24, 8>(low), get::<40, 4>(high)),
            debits_pending: joined(get::<32, 8>(low), get::<44, 4>(high)),
            credits_pending: joined(get::<40, 8>(low), get::<48, 4>(high)),
        }
    }

    /// Replaces the lower parts of its totals, and its head; answers whether that was all of them.
    #[inline]
    #[must_use = "the upper parts are kept elsewhere"]
    pub(super) fn update(&mut self, totals: &Totals, head: Sequence) -> bool {
        let Totals { debits_posted, credits_posted, debits_pending, credits_pending } = *totals;
        set::<16, 8>(&mut self.0, get::<0, 8>(&debits_posted.to_le_bytes()));
        set::<24, 8>(&mut self.0, get::<0, 8>(&credits_posted.to_le_bytes()));
        set::<32, 8>(&mut self.0, get::<0, 8>(&debits_pending.to_le_bytes()));
        set::<40, 8>(&mut self.0, get::<0, 8>(&credits_pending.to_le_bytes()));
        set::<48, 8>(&mut self.0, head.to_le_bytes());
        (debits_posted | credits_posted | debits_pending | credits_pending) >> 64 == 0
    }

    /// Replaces level and state, and whether there is more.
    fn change(&mut self, level: u8, state: AccountState, has_more: bool) {
        let more = if has_more { HAS_MORE } else { 0 };
        set::<62, 2>(&mut self.0, [level, state.number() | more]);
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
            let (packed, more) = PackedAccount::new(&account);
            prop_assert_eq!((packed.id(), packed.has_more()), (account.properties.id, more.is_some()));
            prop_assert_eq!(packed.account(account.opened_ns, &more.unwrap_or(AccountMore::NONE)), account);
            prop_assert_eq!(decode_account(&encode_account(&account)), account);
            let small = |total: u128| total & u128::from(u64::MAX);
            let Totals { debits_posted, credits_posted, debits_pending, credits_pending } = account.totals;
            let totals = Totals {
                debits_posted: small(debits_posted), credits_posted: small(credits_posted), debits_pending: small(debits_pending),
                credits_pending: small(credits_pending),
            };
            let account = BookAccount { totals, ..account };
            let plain = NewAccount { user_data_128: 0, user_data_64: 0, user_data_32: 0, overdraft: 0, ..account.properties };
            let (packed, more) = PackedAccount::new(&BookAccount { properties: plain, ..account });
            prop_assert_eq!((packed.has_more(), more), (false, None));
            prop_assert_eq!(packed.account(account.opened_ns, &AccountMore::NONE), BookAccount { properties: plain, ..account });
        }
    }
}
