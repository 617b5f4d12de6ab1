//! What the journal records of clearing: participants, windows that close, payouts.
//!
//! ```text
//! place        8       10     11    12      16           32     48             64    72      106
//! participant  id               proposed    account      name (40 bytes)             IBAN    BIC
//! window       scheme  state        number  digest (32)         day, settled   sum   count
//! payout       scheme  state  kind  number  id           of     amount         day   reason (48)
//! ```
//!
//! All little-endian; texts are filled up with zero bytes. The gateway at 4 is who asked, 0 for the schedule.

use serde::{Deserialize, Serialize};

use super::fields::{get, set};
use super::{AccountId, GatewayId, RECORD_BYTES, TransferId};

/// Writes a text into a fixed place, or `None` when it is too long.
pub fn padded<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(bytes)
}

/// Reads a text that was filled up with zero bytes.
pub fn unpadded(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// An account of a participant in clearing. Another entry with the same number adds an account, or replaces name and bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParticipantEntry {
    /// The participant's number, from 1.
    pub id: u32,
    /// One of its accounts. Its first one in a currency is the one that is settled.
    pub account: AccountId,
    /// Name for payouts and reports.
    pub name: [u8; Self::NAME_BYTES],
    /// Where it is paid; empty when it never is.
    pub iban: [u8; 34],
    /// Its bank, where needed.
    pub bic: [u8; 11],
    /// Whether this waits for a second person to say the same.
    pub is_proposed: bool,
}

impl ParticipantEntry {
    /// The longest name.
    pub const NAME_BYTES: usize = 40;
}

/// How far a window is. It never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum WindowState {
    /// Takes transfers.
    #[default]
    Open = 0,
    /// Takes none any more.
    Closing = 1,
    /// Its positions are final and recorded by digest.
    Closed = 2,
    /// Its positions are settled in the ledger and its payouts written.
    Settled = 3,
    /// The bank has confirmed or returned every payout.
    Reconciled = 4,
}

impl WindowState {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Open, Self::Closing, Self::Closed, Self::Settled, Self::Reconciled];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Settled => "settled",
            Self::Reconciled => "reconciled",
        }
    }
}

/// A window reaches a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowEntry {
    /// Of which scheme.
    pub scheme: u16,
    /// The window's number, from 1 in each scheme.
    pub number: u32,
    /// Which state.
    pub state: WindowState,
    /// Digest of the positions, when closed.
    pub digest: [u8; 32],
    /// The business day to which it belongs, days since 1970-01-01.
    pub day: i32,
    /// The business day on which it is settled.
    pub settlement_day: i32,
    /// Sum of the positions of those who receive, when closed; minor units.
    pub sum: u128,
    /// How many transfers, when closed.
    pub count: u64,
    /// Who asked; 0 for the schedule.
    pub by: GatewayId,
}

/// What became of a payout. It never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum PayoutState {
    /// Written to a file for the bank.
    #[default]
    Issued = 1,
    /// One person says that the bank has done it; another must agree.
    Proposed = 2,
    /// The bank has done it.
    Confirmed = 3,
    /// The bank has refused it.
    Rejected = 4,
    /// Refused, and the money is back on the participant's account.
    Returned = 5,
    /// One person says that the bank has refused it; another must agree.
    RejectionProposed = 6,
}

impl PayoutState {
    /// All, in order.
    pub const ALL: [Self; 6] =
        [Self::Issued, Self::Proposed, Self::Confirmed, Self::Rejected, Self::Returned, Self::RejectionProposed];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Proposed => "proposed",
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Returned => "returned",
            Self::RejectionProposed => "rejection-proposed",
        }
    }

    /// Whether one may follow the other.
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Issued, Self::Proposed | Self::RejectionProposed | Self::Confirmed | Self::Rejected)
                | (Self::Proposed, Self::Confirmed | Self::RejectionProposed)
                | (Self::RejectionProposed, Self::Rejected | Self::Proposed)
                // The bank gives back what it had done.
                | (Self::Confirmed, Self::RejectionProposed)
                | (Self::Rejected, Self::Returned)
        )
    }

    /// Whether nothing follows any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Confirmed | Self::Returned)
    }
}

/// Money that leaves or is to come through the bank because of a window, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayoutEntry {
    /// Its id, which is that of its settlement transfer and the end-to-end reference at the bank.
    pub id: TransferId,
    /// Because of which window.
    pub window: (u16, u32),
    /// What became of it.
    pub state: PayoutState,
    /// Whether the participant owes it: a collection, not a payout.
    pub is_collection: bool,
    /// To or from whom.
    pub participant: u32,
    /// The other side, when netting is bilateral; 0 for all others.
    pub counterparty: u32,
    /// Minor units.
    pub amount: u128,
    /// The business day on which the bank is to do it, days since 1970-01-01.
    pub day: i32,
    /// Why the bank refused it.
    pub reason: [u8; 48],
    /// Who said so; 0 for the schedule.
    pub by: GatewayId,
}

impl ParticipantEntry {
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES]) -> Self {
        Self {
            id: u32::from_le_bytes(get::<8, 4>(bytes)),
            account: AccountId::from_raw(u128::from_le_bytes(get::<16, 16>(bytes))),
            name: get::<32, 40>(bytes),
            iban: get::<72, 34>(bytes),
            bic: get::<106, 11>(bytes),
            is_proposed: get::<12, 1>(bytes) == [1],
        }
    }

    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        set::<8, 4>(&mut bytes, self.id.to_le_bytes());
        set::<16, 16>(&mut bytes, self.account.raw().to_le_bytes());
        set::<32, 40>(&mut bytes, self.name);
        set::<72, 34>(&mut bytes, self.iban);
        set::<106, 11>(&mut bytes, self.bic);
        set::<12, 1>(&mut bytes, [u8::from(self.is_proposed)]);
        bytes
    }
}

impl WindowEntry {
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], by: GatewayId) -> Option<Self> {
        let [state] = get::<10, 1>(bytes);
        Some(Self {
            scheme: u16::from_le_bytes(get::<8, 2>(bytes)),
            number: u32::from_le_bytes(get::<12, 4>(bytes)),
            state: WindowState::ALL.into_iter().find(|known| *known as u8 == state)?,
            digest: get::<16, 32>(bytes),
            day: i32::from_le_bytes(get::<48, 4>(bytes)),
            settlement_day: i32::from_le_bytes(get::<52, 4>(bytes)),
            sum: u128::from_le_bytes(get::<64, 16>(bytes)),
            count: u64::from_le_bytes(get::<80, 8>(bytes)),
            by,
        })
    }

    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        set::<8, 2>(&mut bytes, self.scheme.to_le_bytes());
        set::<10, 1>(&mut bytes, [self.state as u8]);
        set::<12, 4>(&mut bytes, self.number.to_le_bytes());
        set::<16, 32>(&mut bytes, self.digest);
        set::<48, 4>(&mut bytes, self.day.to_le_bytes());
        set::<52, 4>(&mut bytes, self.settlement_day.to_le_bytes());
        set::<64, 16>(&mut bytes, self.sum.to_le_bytes());
        set::<80, 8>(&mut bytes, self.count.to_le_bytes());
        bytes
    }
}

impl PayoutEntry {
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], by: GatewayId) -> Option<Self> {
        let [state, kind] = get::<10, 2>(bytes);
        Some(Self {
            id: TransferId::from_raw(u128::from_le_bytes(get::<16, 16>(bytes))),
            window: (u16::from_le_bytes(get::<8, 2>(bytes)), u32::from_le_bytes(get::<12, 4>(bytes))),
            state: PayoutState::ALL.into_iter().find(|known| *known as u8 == state)?,
            is_collection: kind == 1,
            participant: u32::from_le_bytes(get::<32, 4>(bytes)),
            counterparty: u32::from_le_bytes(get::<36, 4>(bytes)),
            amount: u128::from_le_bytes(get::<48, 16>(bytes)),
            day: i32::from_le_bytes(get::<64, 4>(bytes)),
            reason: get::<72, 48>(bytes),
            by,
        })
    }

    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        set::<8, 2>(&mut bytes, self.window.0.to_le_bytes());
        set::<10, 2>(&mut bytes, [self.state as u8, u8::from(self.is_collection)]);
        set::<12, 4>(&mut bytes, self.window.1.to_le_bytes());
        set::<16, 16>(&mut bytes, self.id.raw().to_le_bytes());
        set::<32, 4>(&mut bytes, self.participant.to_le_bytes());
        set::<36, 4>(&mut bytes, self.counterparty.to_le_bytes());
        set::<48, 16>(&mut bytes, self.amount.to_le_bytes());
        set::<64, 4>(&mut bytes, self.day.to_le_bytes());
        set::<72, 48>(&mut bytes, self.reason);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::Record;

    proptest! {
        #[test]
        fn entries_are_read_as_they_were_written(
            wide in any::<[u128; 2]>(), mid in any::<(u64, i32, i32)>(), small in any::<[u32; 4]>(), state in 0..5_usize,
            bytes in any::<[u8; 32]>(), text in "[a-z]{0,34}",
        ) {
            let by = GatewayId(small[0]);
            let participant = ParticipantEntry {
                id: small[1], account: AccountId::from_raw(wide[0]), name: padded(&text).unwrap(), iban: padded(&text).unwrap(),
                bic: [7; 11], is_proposed: state == 1,
            };
            let scheme = u16::try_from(small[2] >> 16).unwrap();
            let window = WindowEntry {
                scheme, number: small[3], state: WindowState::ALL[state], digest: bytes, day: mid.1, settlement_day: mid.2,
                sum: wide[1], count: mid.0, by,
            };
            let payout = PayoutEntry {
                id: TransferId::from_raw(wide[0]), window: (scheme, small[3]), state: PayoutState::ALL[state],
                is_collection: state % 2 == 0, participant: small[1], counterparty: small[2], amount: wide[1], day: mid.1,
                reason: padded(&text).unwrap(), by,
            };
            for record in [Record::Participant(participant, by), Record::Window(window), Record::Payout(payout)] {
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
            }
            prop_assert_eq!(unpadded(&participant.name), text);
        }
    }

    #[test]
    fn a_state_of_another_version_is_an_error() {
        let mut bytes = Record::Window(WindowEntry {
            scheme: 1,
            number: 1,
            state: WindowState::Closed,
            digest: [0; 32],
            day: 0,
            settlement_day: 0,
            sum: 0,
            count: 0,
            by: GatewayId(0),
        })
        .encode();
        bytes[10] = 9;
        assert!(Record::decode(&bytes).is_err());
    }
}
