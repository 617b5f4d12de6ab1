//! The journal's record: 128 bytes, the layout of a transfer on the wire with its outcome stamped in.
//!
//! ```text
//! place  0     2        4        8     10     12            16  32     48      64      80             96            104      120
//!        kind  outcome  gateway  code  flags  user_data_32  id  debit  credit  amount  user_data_128  user_data_64  related  time
//! ```
//!
//! All little-endian. On the wire the first eight bytes of a transfer are zero. The highest bit of the outcome says that the
//! next record belongs to the same atomic step. An account record holds its id at 16, currency, class and level from 32,
//! overdraft at 40, user data where the transfer has them. A gateway record holds name, key hash and permissions. What the
//! ledger did by itself has the layout of a transfer and a kind of its own. The kind is never the beginning of a group header,
//! so that a record cannot be taken for one.
//!
//! Not here: groups and their headers ([`crate::journal`]), frames ([`crate::protocol`]).

use super::fields::{get, set};
use super::{
    AccountFlags, AccountId, BreakEntry, Code, DistributionEntry, GatewayId, Grant, NewAccount, Operation,
    ParticipantEntry, PayoutEntry, Sequence, StatementEntry, Transfer, TransferId, WindowEntry,
};

/// Bytes of a record, and of a transfer or account on the wire.
pub const RECORD_BYTES: usize = 128;

const KIND_TRANSFER: u16 = 1;
const KIND_ACCOUNT: u16 = 2;
const KIND_GATEWAY: u16 = 3;
const KIND_INTERNAL: u16 = 4;
const KIND_CLOCK: u16 = 5;
const KIND_POLICY: u16 = 6;
const KIND_PARTICIPANT: u16 = 7;
const KIND_WINDOW: u16 = 8;
const KIND_PAYOUT: u16 = 9;
const KIND_STATEMENT: u16 = 10;
const KIND_BREAK: u16 = 11;
const KIND_DISTRIBUTION: u16 = 12;

/// In the place of the outcome: the next record belongs to the same atomic step.
const JOINED: u16 = 1 << 15;

/// Bytes of a policy in one record.
pub const POLICY_PART_BYTES: usize = 112;

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
    /// A gateway was registered, or got another key or other permissions.
    Gateway(GatewayEntry),
    /// The ledger did this by itself, always successfully: a fee, an expiry, an arrival. Its id is nobody's.
    Internal {
        /// What was done; `related` says because of what.
        transfer: Transfer,
        /// On whose request, or 0.
        gateway: GatewayId,
    },
    /// From here on limits are counted as of this second.
    Clock {
        /// Seconds since 1970 UTC.
        second: u32,
    },
    /// A part of the policy that is in force once its last part is read.
    Policy(PolicyPart),
    /// An account of a participant in clearing was registered by someone.
    Participant(ParticipantEntry, GatewayId),
    /// A window has reached a state.
    Window(WindowEntry),
    /// A payout was issued, or something became of it.
    Payout(PayoutEntry),
    /// A bank statement was imported, or what is open was matched again.
    Statement(StatementEntry),
    /// Someone did something about a break.
    Break(BreakEntry),
    /// A distribution was planned, or something came of it.
    Distribution(DistributionEntry),
}

/// A part of a policy's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyPart {
    /// Where this part begins.
    pub offset: u32,
    /// Bytes of the whole text.
    pub len: u32,
    /// How limits pass from the policy before to this one: see [`EDITION`].
    pub edition: u32,
    /// The part, filled up with zero bytes.
    pub bytes: [u8; POLICY_PART_BYTES],
}

/// How limits pass from one policy to the next, for policies that are recorded from now on. From edition 1 on a limit goes on when it counts the same
/// as one before, whatever it is called and however much it lets through, and nothing is given back of what was open before: limits that are new have
/// not counted it. In edition 0 a limit went on only when nothing of it had changed.
pub const EDITION: u32 = 1;

impl PolicyPart {
    /// Splits a text; at least one part.
    pub fn split(text: &str) -> Vec<Self> {
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut parts = Vec::new();
        let mut offset = 0_u32;
        let mut rest = text.as_bytes();
        loop {
            let (part, following) = rest.split_at(rest.len().min(POLICY_PART_BYTES));
            let mut bytes = [0; POLICY_PART_BYTES];
            bytes.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            parts.push(Self { offset, len, edition: EDITION, bytes });
            if following.is_empty() {
                return parts;
            }
            offset = offset.saturating_add(u32::try_from(part.len()).unwrap_or(u32::MAX));
            rest = following;
        }
    }

    /// Appends this part to those before it; the text when it is whole, `None` before. A part out of place is an error.
    pub fn join(&self, before: &mut Vec<u8>) -> Result<Option<String>, PolicyPartError> {
        if self.offset == 0 {
            before.clear();
        }
        if usize::try_from(self.offset) != Ok(before.len()) || self.offset > self.len {
            return Err(PolicyPartError);
        }
        let left = usize::try_from(self.len.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        before.extend(self.bytes.iter().take(left));
        if left > POLICY_PART_BYTES {
            return Ok(None);
        }
        String::from_utf8(std::mem::take(before)).map(Some).map_err(|_not_text| PolicyPartError)
    }
}

/// A part of a policy that does not follow the part before it, or is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part of a policy is out of place")]
pub struct PolicyPartError;

/// A gateway as the journal records it. The key itself is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayEntry {
    /// Its number.
    pub id: GatewayId,
    /// Its name in UTF-8, filled up with zero bytes.
    pub name: [u8; Self::NAME_BYTES],
    /// The BLAKE3 hash of its key.
    pub key_hash: [u8; 32],
    /// What it may do.
    pub grant: Grant,
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
    /// The state of a window, payout or break is none that this version knows.
    #[error("the state in a record of kind {0} is unknown to this version")]
    StateUnknown(u16),
    /// The outcome is none that this version knows.
    #[error("outcome code {0} is unknown to this version")]
    CodeUnknown(u16),
}

impl Record {
    /// What was done with accounts by this record, by a client or by the ledger itself; `None` when nothing was.
    pub fn done(&self) -> Option<&Transfer> {
        match self {
            Self::Transfer { transfer, outcome: Code::Accepted, .. } | Self::Internal { transfer, .. } => {
                Some(transfer)
            }
            _ => None,
        }
    }

    /// Reads a record.
    #[inline]
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Self, RecordError> {
        let gateway = GatewayId(u32::from_le_bytes(get::<4, 4>(bytes)));
        match u16::from_le_bytes(get::<0, 2>(bytes)) {
            KIND_TRANSFER => {
                let number = u16::from_le_bytes(get::<2, 2>(bytes)) & !JOINED;
                let outcome = Code::from_number(number).ok_or(RecordError::CodeUnknown(number))?;
                Ok(Self::Transfer { transfer: Transfer::decode(bytes), outcome, gateway })
            }
            KIND_ACCOUNT => Ok(Self::Account { account: NewAccount::decode(bytes), gateway }),
            KIND_GATEWAY => Ok(Self::Gateway(GatewayEntry {
                id: gateway,
                name: get::<16, 48>(bytes),
                key_hash: get::<64, 32>(bytes),
                grant: Grant::decode(&get::<96, 16>(bytes)),
            })),
            KIND_INTERNAL => Ok(Self::Internal { transfer: Transfer::decode(bytes), gateway }),
            KIND_CLOCK => Ok(Self::Clock { second: u32::from_le_bytes(get::<16, 4>(bytes)) }),
            KIND_POLICY => Ok(Self::Policy(PolicyPart {
                offset: u32::from_le_bytes(get::<8, 4>(bytes)),
                len: u32::from_le_bytes(get::<12, 4>(bytes)),
                edition: gateway.0,
                bytes: get::<16, POLICY_PART_BYTES>(bytes),
            })),
            KIND_PARTICIPANT => Ok(Self::Participant(ParticipantEntry::decode(bytes), gateway)),
            KIND_WINDOW => {
                WindowEntry::decode(bytes, gateway).map(Self::Window).ok_or(RecordError::StateUnknown(KIND_WINDOW))
            }
            KIND_PAYOUT => {
                PayoutEntry::decode(bytes, gateway).map(Self::Payout).ok_or(RecordError::StateUnknown(KIND_PAYOUT))
            }
            KIND_STATEMENT => Ok(Self::Statement(StatementEntry::decode(bytes, gateway))),
            KIND_BREAK => {
                BreakEntry::decode(bytes, gateway).map(Self::Break).ok_or(RecordError::StateUnknown(KIND_BREAK))
            }
            KIND_DISTRIBUTION => DistributionEntry::decode(bytes, gateway)
                .map(Self::Distribution)
                .ok_or(RecordError::StateUnknown(KIND_DISTRIBUTION)),
            kind => Err(RecordError::KindUnknown(kind)),
        }
    }

    /// Writes a record.
    #[inline]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let (kind, outcome, gateway, mut bytes) = match self {
            Self::Transfer { transfer, outcome, gateway } => return encode_decided(transfer, *outcome, *gateway),
            Self::Account { account, gateway } => (KIND_ACCOUNT, Code::Accepted, *gateway, account.encode()),
            Self::Gateway(entry) => {
                let mut bytes = [0; RECORD_BYTES];
                set::<16, 48>(&mut bytes, entry.name);
                set::<64, 32>(&mut bytes, entry.key_hash);
                set::<96, 16>(&mut bytes, entry.grant.encode());
                (KIND_GATEWAY, Code::Accepted, entry.id, bytes)
            }
            Self::Internal { transfer, gateway } => (KIND_INTERNAL, Code::Accepted, *gateway, transfer.encode()),
            Self::Clock { second } => {
                let mut bytes = [0; RECORD_BYTES];
                set::<16, 4>(&mut bytes, second.to_le_bytes());
                (KIND_CLOCK, Code::Accepted, GatewayId(0), bytes)
            }
            Self::Policy(part) => {
                let mut bytes = [0; RECORD_BYTES];
                set::<8, 4>(&mut bytes, part.offset.to_le_bytes());
                set::<12, 4>(&mut bytes, part.len.to_le_bytes());
                set::<16, POLICY_PART_BYTES>(&mut bytes, part.bytes);
                (KIND_POLICY, Code::Accepted, GatewayId(part.edition), bytes)
            }
            Self::Participant(entry, by) => (KIND_PARTICIPANT, Code::Accepted, *by, entry.encode()),
            Self::Window(entry) => (KIND_WINDOW, Code::Accepted, entry.by, entry.encode()),
            Self::Payout(entry) => (KIND_PAYOUT, Code::Accepted, entry.by, entry.encode()),
            Self::Statement(entry) => (KIND_STATEMENT, Code::Accepted, entry.by, entry.encode()),
            Self::Distribution(entry) => (KIND_DISTRIBUTION, Code::Accepted, entry.by, entry.encode()),
            Self::Break(entry) => (KIND_BREAK, Code::Accepted, entry.by, entry.encode()),
        };
        stamp(&mut bytes, kind, outcome, gateway);
        bytes
    }
}

/// A record of a client's transfer and its outcome, encoded.
#[inline]
pub fn encode_decided(transfer: &Transfer, outcome: Code, gateway: GatewayId) -> [u8; RECORD_BYTES] {
    let mut bytes = transfer.encode();
    stamp(&mut bytes, KIND_TRANSFER, outcome, gateway);
    bytes
}

#[inline]
fn stamp(bytes: &mut [u8; RECORD_BYTES], kind: u16, outcome: Code, gateway: GatewayId) {
    set::<0, 2>(bytes, kind.to_le_bytes());
    set::<2, 2>(bytes, outcome.number().to_le_bytes());
    set::<4, 4>(bytes, gateway.0.to_le_bytes());
}

/// Says of an encoded record that the next one belongs to the same atomic step.
pub fn join_to_next(bytes: &mut [u8; RECORD_BYTES]) {
    let outcome = u16::from_le_bytes(get::<2, 2>(bytes)) | JOINED;
    set::<2, 2>(bytes, outcome.to_le_bytes());
}

/// Whether the record after this encoded one belongs to the same atomic step.
#[inline]
pub fn is_joined_to_next(bytes: &[u8; RECORD_BYTES]) -> bool {
    u16::from_le_bytes(get::<2, 2>(bytes)) & JOINED != 0
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

/// The accounts of an encoded record that accepted a client's transfer. Cheaper than decoding it.
#[inline]
pub fn accepted_parties(bytes: &[u8; RECORD_BYTES]) -> Option<(AccountId, AccountId)> {
    let outcome = u16::from_le_bytes(get::<2, 2>(bytes)) & !JOINED;
    let is_accepted = u16::from_le_bytes(get::<0, 2>(bytes)) == KIND_TRANSFER && outcome == Code::Accepted.number();
    let account = |bytes: [u8; 16]| AccountId::from_raw(u128::from_le_bytes(bytes));
    is_accepted.then(|| (account(get::<32, 16>(bytes)), account(get::<48, 16>(bytes))))
}

/// The hold or delayed transfer that an encoded record is about, if it is about one. Cheaper than decoding it.
#[inline]
pub fn record_about(bytes: &[u8; RECORD_BYTES]) -> Option<TransferId> {
    let kind = u16::from_le_bytes(get::<0, 2>(bytes));
    let operation = Operation::of(u16::from_le_bytes(get::<10, 2>(bytes)));
    let acts = matches!(
        operation,
        Operation::Raise
            | Operation::Capture
            | Operation::Void
            | Operation::Arrive
            | Operation::Release
            | Operation::Expire
    );
    let is_transfer = kind == KIND_TRANSFER || kind == KIND_INTERNAL;
    (acts && is_transfer).then(|| TransferId::from_raw(u128::from_le_bytes(get::<104, 16>(bytes))))
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
            related: u128::from_le_bytes(get::<104, 16>(bytes)),
            time_ns: u64::from_le_bytes(get::<120, 8>(bytes)),
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
        set::<104, 16>(&mut bytes, self.related.to_le_bytes());
        set::<120, 8>(&mut bytes, self.time_ns.to_le_bytes());
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
            class: u8::from_le_bytes(get::<34, 1>(bytes)),
            level: u8::from_le_bytes(get::<35, 1>(bytes)),
            overdraft: u128::from(u64::from_le_bytes(get::<40, 8>(bytes))),
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
        set::<34, 2>(&mut bytes, [self.class, self.level]);
        set::<40, 8>(&mut bytes, u64::try_from(self.overdraft).unwrap_or(u64::MAX).to_le_bytes());
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
                amount: ids[3], user_data_128: ids[4], related: ids[5],
                code: small.0, flags: small.1, user_data_32: small.2, user_data_64: small.3, time_ns: small.4,
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
            let (class, level, overdraft) = (small.3.to_le_bytes()[0], small.3.to_le_bytes()[1], u128::from(small.4));
            let account = NewAccount {
                id: transfer.debit, currency: small.0, class, level, overdraft, code: small.1, flags: AccountFlags(small.2), user_data_32: small.3,
                user_data_64: small.4, user_data_128: transfer.user_data_128,
            };
            prop_assert_eq!(NewAccount::decode(&account.encode()), account);
            let encoded = Record::Transfer { transfer, outcome, gateway }.encode();
            prop_assert_eq!(record_transfer_id(&encoded), transfer.id);
            prop_assert_eq!(encoded, encode_decided(&transfer, outcome, gateway));
            let parties = outcome.is_accepted().then_some((transfer.debit, transfer.credit));
            prop_assert_eq!(accepted_parties(&encoded), parties);
            prop_assert_eq!(accepted_parties(&Record::Account { account, gateway }.encode()), None);
            for flags in 0..16 {
                let transfer = Transfer { flags, ..transfer };
                let operation = transfer.operation();
                let acts = operation.names_pending()
                    || matches!(operation, Operation::Arrive | Operation::Release | Operation::Expire);
                let about = acts.then_some(TransferId::from_raw(transfer.related));
                prop_assert_eq!(record_about(&Record::Internal { transfer, gateway }.encode()), about);
                prop_assert_eq!(record_about(&encode_decided(&transfer, outcome, gateway)), about);
            }
            for record in [
                Record::Transfer { transfer, outcome, gateway },
                Record::Account { account, gateway },
                Record::Gateway(GatewayEntry {
                    id: gateway, name, key_hash, grant: Grant { operations: small.3, amount_max: u128::from(small.4) },
                }),
                Record::Internal { transfer, gateway },
                Record::Clock { second: small.3 },
                Record::Policy(PolicyPart { offset: small.3, len: gateway.0, edition: gateway.0, bytes: get::<0, 112>(&transfer.encode()) }),
            ] {
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
            }
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in any::<[u8; 128]>(), kind in 0..14_u16) {
            let mut bytes = bytes;
            set::<0, 2>(&mut bytes, kind.to_le_bytes());
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
            }
        }
    }

    #[test]
    fn a_policy_is_joined_from_its_parts_in_order_only() {
        for text in ["", "short", &"x".repeat(112), &"long ".repeat(100)] {
            let parts = PolicyPart::split(text);
            let mut before = Vec::new();
            let (last, first) = parts.split_last().unwrap();
            for part in first {
                assert_eq!(part.join(&mut before), Ok(None));
            }
            assert_eq!(last.join(&mut before), Ok(Some(text.to_owned())));
        }
        let parts = PolicyPart::split(&"x".repeat(300));
        assert_eq!(parts[1].join(&mut Vec::new()), Err(PolicyPartError));
    }

    #[test]
    fn a_joined_record_is_read_as_what_it_is() {
        let record = Record::Internal { transfer: Transfer::default(), gateway: GatewayId(3) };
        let mut bytes = record.encode();
        assert!(!is_joined_to_next(&bytes));
        join_to_next(&mut bytes);
        assert!(is_joined_to_next(&bytes));
        assert_eq!(Record::decode(&bytes), Ok(record));
    }

    #[test]
    fn gateway_names_are_padded_or_refused() {
        assert_eq!(GatewayEntry::pad_name(""), None);
        assert_eq!(GatewayEntry::pad_name("a b"), None);
        assert_eq!(GatewayEntry::pad_name(&"x".repeat(49)), None);
        let name = GatewayEntry::pad_name("shop-1").unwrap();
        assert_eq!(GatewayEntry { id: GatewayId(1), name, key_hash: [0; 32], grant: Grant::ALL }.name(), "shop-1");
    }
}
