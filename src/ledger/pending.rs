//! What is open between two records: holds, delayed transfers and withheld reserves.
//!
//! ```text
//! place  0   16     32      48    60    72        84     92    100      104   106   107     111
//!        id  debit  credit  left  held  captured  time   head  gateway  code  kind  second  levels (2)
//! ```
//!
//! All little-endian, 113 bytes in the store.

use super::fields::{get, narrow, set, wide};
use super::{AccountId, GatewayId, Operation, Record, Sequence, TransferId};

/// Bytes of an encoded [`Pending`].
pub const PENDING_BYTES: usize = 113;

/// What an open amount waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PendingKind {
    /// A capture, a void or its expiry.
    Hold = 1,
    /// Its due time, or a void.
    Delayed = 2,
    /// Its release time; nobody can void it.
    Reserve = 3,
}

/// An amount set aside between two accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The transfer that made it; for a reserve, an id of the ledger's own.
    pub id: TransferId,
    /// Who pays.
    pub debit: AccountId,
    /// Who receives.
    pub credit: AccountId,
    /// What is still set aside, minor units.
    pub left: u128,
    /// All that was ever set aside.
    pub held: u128,
    /// All that was captured.
    pub captured: u128,
    /// Expiry or due time, nanoseconds since 1970 UTC; 0 for none.
    pub time_ns: u64,
    /// The last record that touched it; the shard does not keep it.
    pub head: Sequence,
    /// Who asked.
    pub gateway: GatewayId,
    /// Kind of business.
    pub code: u16,
    /// What it waits for.
    pub kind: PendingKind,
    /// The second in which limits counted it.
    pub second: u32,
    /// The levels of payer and payee with which they did; [`Self::MIXED`] when a raise was counted with others.
    pub levels: (u8, u8),
}

impl Pending {
    /// Levels that no account has: nothing is given back to limits, since nobody knows how much to which.
    pub const MIXED: (u8, u8) = (u8::MAX, u8::MAX);

    /// Raised by an amount that limits counted with these levels.
    #[must_use]
    pub fn raised(&self, amount: u128, levels: (u8, u8)) -> Self {
        Self {
            left: self.left.saturating_add(amount),
            held: self.held.saturating_add(amount),
            levels: if levels == self.levels { levels } else { Self::MIXED },
            ..*self
        }
    }

    /// What a transfer sets aside; `None` when its operation does not.
    pub fn opened(
        transfer: &super::Transfer,
        gateway: GatewayId,
        (second, levels): (u32, (u8, u8)),
        head: Sequence,
    ) -> Option<Self> {
        let (kind, debit, credit) = match transfer.operation() {
            Operation::Hold => (PendingKind::Hold, transfer.debit, transfer.credit),
            Operation::Delayed => (PendingKind::Delayed, transfer.debit, transfer.credit),
            // What is withheld will come back.
            Operation::Withhold => (PendingKind::Reserve, transfer.credit, transfer.debit),
            _ => return None,
        };
        Some(Self {
            id: transfer.id,
            debit,
            credit,
            left: transfer.amount,
            held: transfer.amount,
            captured: 0,
            time_ns: transfer.time_ns,
            head,
            gateway,
            code: transfer.code,
            kind,
            second,
            levels,
        })
    }

    /// How limits counted what is now given back of it, for the record's time field: that record alone must say what to take
    /// back. Nothing is when a level has changed meanwhile: it would be taken from what others counted.
    pub fn counted(&self, amount: u128, levels: (u8, u8)) -> u64 {
        let wholly = self.captured == 0 && amount == self.left;
        let second = if levels == self.levels { self.second } else { 0 };
        u64::from(second) << 32 | u64::from(self.gateway.0 & (u32::MAX >> 1)) << 1 | u64::from(wholly)
    }

    /// Writes it for the store.
    pub fn encode(&self) -> [u8; PENDING_BYTES] {
        let mut bytes = [0; PENDING_BYTES];
        set::<0, 16>(&mut bytes, self.id.raw().to_le_bytes());
        set::<16, 16>(&mut bytes, self.debit.raw().to_le_bytes());
        set::<32, 16>(&mut bytes, self.credit.raw().to_le_bytes());
        set::<48, 12>(&mut bytes, narrow(self.left));
        set::<60, 12>(&mut bytes, narrow(self.held));
        set::<72, 12>(&mut bytes, narrow(self.captured));
        set::<84, 8>(&mut bytes, self.time_ns.to_le_bytes());
        set::<92, 8>(&mut bytes, self.head.to_le_bytes());
        set::<100, 4>(&mut bytes, self.gateway.0.to_le_bytes());
        set::<104, 2>(&mut bytes, self.code.to_le_bytes());
        set::<106, 1>(&mut bytes, [self.kind as u8]);
        set::<107, 4>(&mut bytes, self.second.to_le_bytes());
        set::<111, 2>(&mut bytes, [self.levels.0, self.levels.1]);
        bytes
    }

    /// Reads it; `None` for an empty place.
    pub fn decode(bytes: &[u8; PENDING_BYTES]) -> Option<Self> {
        let kind = match get::<106, 1>(bytes) {
            [1] => PendingKind::Hold,
            [2] => PendingKind::Delayed,
            [3] => PendingKind::Reserve,
            _ => return None,
        };
        Some(Self {
            id: TransferId::from_raw(u128::from_le_bytes(get::<0, 16>(bytes))),
            debit: AccountId::from_raw(u128::from_le_bytes(get::<16, 16>(bytes))),
            credit: AccountId::from_raw(u128::from_le_bytes(get::<32, 16>(bytes))),
            left: wide(get::<48, 12>(bytes)),
            held: wide(get::<60, 12>(bytes)),
            captured: wide(get::<72, 12>(bytes)),
            time_ns: u64::from_le_bytes(get::<84, 8>(bytes)),
            head: u64::from_le_bytes(get::<92, 8>(bytes)),
            gateway: GatewayId(u32::from_le_bytes(get::<100, 4>(bytes))),
            code: u16::from_le_bytes(get::<104, 2>(bytes)),
            kind,
            second: u32::from_le_bytes(get::<107, 4>(bytes)),
            levels: (u8::from_le_bytes(get::<111, 1>(bytes)), u8::from_le_bytes(get::<112, 1>(bytes))),
        })
    }
}

/// Reads [`Pending::counted`]: second, gateway, and how many operations to take back.
pub fn read_counted(field: u64) -> (u32, GatewayId, u32) {
    let bytes = field.to_le_bytes();
    let low = u32::from_le_bytes(get::<0, 4>(&bytes));
    (u32::from_le_bytes(get::<4, 4>(&bytes)), GatewayId(low >> 1), low & 1)
}

/// The transfer that a refund or reversal is about, as the journal has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Original {
    /// The operation is about none.
    #[default]
    NotAsked,
    /// No durable transfer has this id.
    Unknown,
    /// Its record.
    Known {
        /// As it was accepted or refused.
        transfer: super::Transfer,
        /// Whether it was accepted, and may be given back by who asks.
        accepted: bool,
    },
}

impl Original {
    /// What a gateway asks to give back, as the journal has it. What the ledger did by itself nobody else undoes: settlement, payouts, distributions and
    /// write-offs have their own ways back, which would come on top.
    pub fn of(record: &Record, asker: GatewayId) -> Self {
        match record {
            Record::Transfer { transfer, outcome, gateway } => Self::Known {
                transfer: *transfer,
                accepted: outcome.is_accepted() && (asker.is_ledger() || !gateway.is_ledger()),
            },
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_open_is_read_as_it_was_written(
            wides in any::<[u128; 6]>(), mid in any::<[u64; 2]>(), small in any::<(u32, u16, u32)>(), kind in 0..3_usize,
        ) {
            let pending = Pending {
                id: TransferId::from_raw(wides[0]), debit: AccountId::from_raw(wides[1]), credit: AccountId::from_raw(wides[2]),
                left: wides[3] >> 32, held: wides[4] >> 32, captured: wides[5] >> 32, time_ns: mid[0], head: mid[1],
                gateway: GatewayId(small.0), code: small.1, second: small.2, levels: (kind.to_le_bytes()[0], 7),
                kind: [PendingKind::Hold, PendingKind::Delayed, PendingKind::Reserve][kind],
            };
            prop_assert_eq!(Pending::decode(&pending.encode()), Some(pending));
            let known = Pending { gateway: GatewayId(small.0 >> 1), ..pending };
            prop_assert_eq!(read_counted(known.counted(pending.left, known.levels)), (small.2, known.gateway, u32::from(known.captured == 0)));
        }
    }

    #[test]
    fn an_empty_place_is_nothing() {
        assert_eq!(Pending::decode(&[0; PENDING_BYTES]), None);
    }
}
