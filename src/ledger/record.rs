//! The journal's record: 128 bytes, the layout of a transfer on the wire with its outcome stamped in.
//!
//! ```text
//! place  0  2  4        8     10     12            16  32     48      64      80             96            104           120
//!        kind  outcome  gateway  code   flags  user_data_32  id  debit  credit  amount  user_data_128  user_data_64  reserved_128  reserved_64
//! ```
//!
//! All little-endian. On the wire the first eight bytes of a transfer are zero. An account record holds its id at 16, its
//! currency at 32, user data where the transfer has them. A gateway record holds name and key hash. The kind is never the
//! beginning of a group header, so that a record cannot be taken for one.
//!
//! Not here: groups and their headers ([`crate::journal`]), frames ([`crate::protocol`]).

use super::fields::{get, set};
use super::{AccountFlags, AccountId, Code, GatewayId, NewAccount, Sequence, Transfer, TransferId};

/// Bytes of a record, and of a transfer or account on the wire.
pub const RECORD_BYTES: usize = 128;

const KIND_TRANSFER: u16 = 1;
const KIND_ACCOUNT: u16 = 2;
const KIND_GATEWAY: u16 = 3;

/// One entry of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A transfer and its first outcome.
    Transfer {
        /// As the client sent it.
        transfer: Transfer,
        /// Accepted, or why not.
        outcome: Code,
        /// Who asked.
        gateway: GatewayId,
    },
    /// An account was opened.
    Account {
        /// Its properties.
        account: NewAccount,
        /// Who asked.
        gateway: GatewayId,
    },
    /// A gateway was registered or got another key.
    Gateway(GatewayEntry),
}

/// A gateway as the journal records it. The key itself is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayEntry {
    /// Its number.
    pub id: GatewayId,
    /// Its name in UTF-8, filled up with zero bytes.
    pub name: [u8; Self::NAME_BYTES],
    /// The BLAKE3 hash of its key.
    pub key_hash: [u8; 32],
}

impl GatewayEntry {
    /// The longest name.
    pub const NAME_BYTES: usize = 48;

    /// The name as text.
    pub fn name(&self) -> String {
        let text = self.name.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// Pads a name; `None` when it is empty, too long or not printable ASCII without spaces.
    pub fn pad_name(name: &str) -> Option<[u8; Self::NAME_BYTES]> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut padded = [0; Self::NAME_BYTES];
        padded.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(padded)
    }
}

/// A record as it stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its sequence.
    pub sequence: Sequence,
    /// Its time, nanoseconds since 1970 UTC.
    pub time_ns: u64,
    /// What it says.
    pub record: Record,
}

/// Why 128 bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The kind is none that this version knows.
    #[error("record kind {0} is unknown to this version")]
    KindUnknown(u16),
    /// The outcome is none that this version knows.
    #[error("outcome code {0} is unknown to this version")]
    CodeUnknown(u16),
}

impl Record {
    /// Reads a record.
    #[inline]
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Self, RecordError> {
        let gateway = GatewayId(u32::from_le_bytes(get::<4, 4>(bytes)));
        match u16::from_le_bytes(get::<0, 2>(bytes)) {
            KIND_TRANSFER => {
                let number = u16::from_le_bytes(get::<2, 2>(bytes));
                let outcome = Code::from_number(number).ok_or(RecordError::CodeUnknown(number))?;
                Ok(Self::Transfer { transfer: Transfer::decode(bytes), outcome, gateway })
            }
            KIND_ACCOUNT => Ok(Self::Account { account: NewAccount::decode(bytes), gateway }),
            KIND_GATEWAY => Ok(Self::Gateway(GatewayEntry {
                id: gateway,
                name: get::<16, 48>(bytes),
                key_hash: get::<64, 32>(bytes),
            })),
            kind => Err(RecordError::KindUnknown(kind)),
        }
    }

    /// Writes a record.
    #[inline]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let (kind, outcome, gateway, mut bytes) = match self {
            Self::Transfer { transfer, outcome, gateway } => (KIND_TRANSFER, *outcome, *gateway, transfer.encode()),
            Self::Account { account, gateway } => (KIND_ACCOUNT, Code::Accepted, *gateway, account.encode()),
            Self::Gateway(entry) => {
                let mut bytes = [0; RECORD_BYTES];
                set::<16, 48>(&mut bytes, entry.name);
                set::<64, 32>(&mut bytes, entry.key_hash);
                (KIND_GATEWAY, Code::Accepted, entry.id, bytes)
            }
        };
        set::<0, 2>(&mut bytes, kind.to_le_bytes());
        set::<2, 2>(&mut bytes, outcome.number().to_le_bytes());
        set::<4, 4>(&mut bytes, gateway.0.to_le_bytes());
        bytes
    }
}

/// The transfer id of an encoded record, or an invalid id when the record is not a transfer. Cheaper than decoding it.
#[inline]
pub fn record_transfer_id(bytes: &[u8; RECORD_BYTES]) -> TransferId {
    if u16::from_le_bytes(get::<0, 2>(bytes)) == KIND_TRANSFER {
        TransferId::from_raw(u128::from_le_bytes(get::<16, 16>(bytes)))
    } else {
        TransferId::from_raw(0)
    }
}

impl Transfer {
    /// Reads a transfer from its place on the wire or in a record.
    #[inline]
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Self {
        Self {
            code: u16::from_le_bytes(get::<8, 2>(bytes)),
            flags: u16::from_le_bytes(get::<10, 2>(bytes)),
            user_data_32: u32::from_le_bytes(get::<12, 4>(bytes)),
            id: TransferId::from_raw(u128::from_le_bytes(get::<16, 16>(bytes))),
            debit: AccountId::from_raw(u128::from_le_bytes(get::<32, 16>(bytes))),
            credit: AccountId::from_raw(u128::from_le_bytes(get::<48, 16>(bytes))),
            amount: u128::from_le_bytes(get::<64, 16>(bytes)),
            user_data_128: u128::from_le_bytes(get::<80, 16>(bytes)),
            user_data_64: u64::from_le_bytes(get::<96, 8>(bytes)),
            reserved_128: u128::from_le_bytes(get::<104, 16>(bytes)),
            reserved_64: u64::from_le_bytes(get::<120, 8>(bytes)),
        }
    }

    /// Writes a transfer as it stands on the wire; the first eight bytes are zero.
    #[inline]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        set::<8, 2>(&mut bytes, self.code.to_le_bytes());
        set::<10, 2>(&mut bytes, self.flags.to_le_bytes());
        set::<12, 4>(&mut bytes, self.user_data_32.to_le_bytes());
        set::<16, 16>(&mut bytes, self.id.raw().to_le_bytes());
        set::<32, 16>(&mut bytes, self.debit.raw().to_le_bytes());
        set::<48, 16>(&mut bytes, self.credit.raw().to_le_bytes());
        set::<64, 16>(&mut bytes, self.amount.to_le_bytes());
        set::<80, 16>(&mut bytes, self.user_data_128.to_le_bytes());
        set::<96, 8>(&mut bytes, self.user_data_64.to_le_bytes());
        set::<104, 16>(&mut bytes, self.reserved_128.to_le_bytes());
        set::<120, 8>(&mut bytes, self.reserved_64.to_le_bytes());
        bytes
    }
}

impl NewAccount {
    /// Reads an account to open from its place on the wire or in a record.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Self {
        Self {
            code: u16::from_le_bytes(get::<8, 2>(bytes)),
            flags: AccountFlags(u16::from_le_bytes(get::<10, 2>(bytes))),
            user_data_32: u32::from_le_bytes(get::<12, 4>(bytes)),
            id: AccountId::from_raw(u128::from_le_bytes(get::<16, 16>(bytes))),
            currency: u16::from_le_bytes(get::<32, 2>(bytes)),
            user_data_128: u128::from_le_bytes(get::<80, 16>(bytes)),
            user_data_64: u64::from_le_bytes(get::<96, 8>(bytes)),
        }
    }

    /// Writes an account to open as it stands on the wire; what is not named is zero.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        set::<8, 2>(&mut bytes, self.code.to_le_bytes());
        set::<10, 2>(&mut bytes, self.flags.0.to_le_bytes());
        set::<12, 4>(&mut bytes, self.user_data_32.to_le_bytes());
        set::<16, 16>(&mut bytes, self.id.raw().to_le_bytes());
        set::<32, 2>(&mut bytes, self.currency.to_le_bytes());
        set::<80, 16>(&mut bytes, self.user_data_128.to_le_bytes());
        set::<96, 8>(&mut bytes, self.user_data_64.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_transfer()(ids in any::<[u128; 6]>(), small in any::<(u16, u16, u32, u64, u64)>()) -> Transfer {
            Transfer {
                id: TransferId::from_raw(ids[0]), debit: AccountId::from_raw(ids[1]), credit: AccountId::from_raw(ids[2]),
                amount: ids[3], user_data_128: ids[4], reserved_128: ids[5],
                code: small.0, flags: small.1, user_data_32: small.2, user_data_64: small.3, reserved_64: small.4,
            }
        }
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(
            transfer in any_transfer(), gateway in any::<u32>(), outcome in prop::sample::select(Code::ALL),
            small in any::<(u16, u16, u16, u32, u64)>(), name in any::<[u8; 48]>(), key_hash in any::<[u8; 32]>(),
        ) {
            let gateway = GatewayId(gateway);
            let account = NewAccount {
                id: transfer.debit, currency: small.0, code: small.1, flags: AccountFlags(small.2), user_data_32: small.3,
                user_data_64: small.4, user_data_128: transfer.user_data_128,
            };
            prop_assert_eq!(NewAccount::decode(&account.encode()), account);
            prop_assert_eq!(record_transfer_id(&Record::Transfer { transfer, outcome, gateway }.encode()), transfer.id);
            for record in [
                Record::Transfer { transfer, outcome, gateway },
                Record::Account { account, gateway },
                Record::Gateway(GatewayEntry { id: gateway, name, key_hash }),
            ] {
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
            }
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in any::<[u8; 128]>(), kind in 0..5_u16) {
            let mut bytes = bytes;
            set::<0, 2>(&mut bytes, kind.to_le_bytes());
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
            }
        }
    }

    #[test]
    fn gateway_names_are_padded_or_refused() {
        assert_eq!(GatewayEntry::pad_name(""), None);
        assert_eq!(GatewayEntry::pad_name("a b"), None);
        assert_eq!(GatewayEntry::pad_name(&"x".repeat(49)), None);
        let name = GatewayEntry::pad_name("shop-1").unwrap();
        assert_eq!(GatewayEntry { id: GatewayId(1), name, key_hash: [0; 32] }.name(), "shop-1");
    }
}
