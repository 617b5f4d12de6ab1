//! Identifiers: accounts and transfers are named by the gateway, sequences by the ledger.
//!
//! Account and transfer ids are 128-bit numbers, chosen by the client; 0 and 2^128 - 1 are not ids. A sequence counts
//! journal records from 1 without a gap.

use std::fmt;

use super::get;

macro_rules! client_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        pub struct $name(u128);

        impl $name {
            /// Takes the number as it stands on the wire; [`Self::is_valid`] says whether it can be used.
            pub const fn from_raw(raw: u128) -> Self {
                Self(raw)
            }

            /// The number.
            pub const fn raw(self) -> u128 {
                self.0
            }

            /// The low and the high 64 bits.
            #[inline]
            pub fn halves(self) -> (u64, u64) {
                let bytes = self.0.to_le_bytes();
                (u64::from_le_bytes(get::<0, 8>(&bytes)), u64::from_le_bytes(get::<8, 8>(&bytes)))
            }

            /// Whether this can name something: neither 0 nor 2^128 - 1.
            pub const fn is_valid(self) -> bool {
                self.0 != 0 && self.0 != u128::MAX
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

client_id!(
    /// Names an account.
    AccountId
);
client_id!(
    /// Names a transfer, once for ever.
    TransferId
);

impl TransferId {
    /// An id of the ledger's own, for the `place`th thing that the transfer of this id caused.
    pub fn derived(cause: Self, place: u32) -> Self {
        let mut bytes = [0; 20];
        super::set::<0, 16>(&mut bytes, cause.raw().to_le_bytes());
        super::set::<16, 4>(&mut bytes, place.to_le_bytes());
        Self(u128::from_le_bytes(get::<0, 16>(blake3::hash(&bytes).as_bytes())).clamp(1, u128::MAX.wrapping_sub(1)))
    }
}

impl AccountId {
    /// The shard, of `shards`, that hosts this account.
    ///
    /// A fixed function of the id: nothing stored depends on it, so the number of shards is free to change at restart.
    #[inline]
    pub fn shard(self, shards: usize) -> usize {
        let (low, high) = self.halves();
        let both = low.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ high.wrapping_mul(0xC2B2_AE3D_27D4_EB4F).rotate_left(29);
        let mixed = (both ^ (both >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        // The high bits of a multiplicative hash are the good ones; 32 of them scale to any number of shards.
        let scaled = (mixed >> 32).wrapping_mul(u64::try_from(shards).unwrap_or(1)) >> 32;
        usize::try_from(scaled).unwrap_or(0)
    }
}

/// A gateway's number, given when it is registered. 0 is the ledger itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayId(pub u32);

impl GatewayId {
    /// Whether it is the ledger itself, whose settlement no limit counts and no fee is taken from.
    #[inline]
    pub const fn is_ledger(self) -> bool {
        self.0 == 0
    }
}

/// The place of a record in the ledger: 1 is the first, 0 is before all.
pub type Sequence = u64;

/// Reads an id as people write it: decimal, or hexadecimal after `0x`.
pub fn parse_id(text: &str) -> Option<u128> {
    let raw = match text.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16).ok()?,
        None => text.parse().ok()?,
    };
    TransferId::from_raw(raw).is_valid().then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_gets_its_part_of_sequential_and_high_ids() {
        for shards in [1_usize, 2, 3, 8] {
            for step in [1_u128, 1 << 64, (1 << 64) + 1] {
                let mut hosted = vec![0_u32; shards];
                for number in 1..=8_000_u128 {
                    hosted[AccountId::from_raw(number * step).shard(shards)] += 1;
                }
                let fair = 8_000 / u32::try_from(shards).unwrap();
                assert!(
                    hosted.iter().all(|&count| count >= fair / 2 && count <= fair * 2),
                    "{shards} {step} {hosted:?}"
                );
            }
        }
    }

    #[test]
    fn ids_are_read_in_both_bases_and_the_reserved_ones_refused() {
        assert_eq!(parse_id("12"), Some(12));
        assert_eq!(parse_id("0xff"), Some(255));
        for text in ["0", "", "-1", "x", "0x", "340282366920938463463374607431768211455"] {
            assert_eq!(parse_id(text), None, "{text}");
        }
    }
}
