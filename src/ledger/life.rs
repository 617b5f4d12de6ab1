//! What was given back of a transfer: by refunds, by a reversal, or because it was voided before it arrived.
//!
//! A transfer may be refunded at any time, so this is kept for ever, and therefore not in memory: what changed lately is there, the rest is
//! where a checkpoint put it ([`LifeStore`]).
//!
//! ```text
//! place  0         12    13
//!        refunded  over  head
//! ```
//!
//! All little-endian, 21 bytes.

use super::fields::{get, narrow, set, wide};
use super::{Sequence, TransferId};

/// Bytes of an encoded [`Life`].
pub const LIFE_BYTES: usize = 21;

/// What was given back of a transfer. There is one only for those of which something was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// All refunds together, minor units.
    pub refunded: u128,
    /// Whether it was reversed, or voided before it arrived: nothing can be given back any more.
    pub is_over: bool,
    /// The last record about it; the shard does not keep it.
    pub head: Sequence,
}

impl Life {
    /// Writes it for the store.
    pub fn encode(&self) -> [u8; LIFE_BYTES] {
        let mut bytes = [0; LIFE_BYTES];
        set::<0, 12>(&mut bytes, narrow(self.refunded));
        set::<12, 1>(&mut bytes, [u8::from(self.is_over)]);
        set::<13, 8>(&mut bytes, self.head.to_le_bytes());
        bytes
    }

    /// Reads it.
    pub fn decode(bytes: &[u8; LIFE_BYTES]) -> Self {
        Self {
            refunded: wide(get::<0, 12>(bytes)),
            is_over: get::<12, 1>(bytes) != [0],
            head: u64::from_le_bytes(get::<13, 8>(bytes)),
        }
    }

    /// Its bytes with its id, for a fingerprint.
    pub(super) fn named(&self, id: TransferId) -> Vec<u8> {
        [&id.raw().to_le_bytes()[..], &self.encode()[..]].concat()
    }
}

/// Where lives are that are not in memory. Reading may wait for the disk; what cannot be read ends the process, because to take it for nothing
/// would let a transfer be refunded twice.
pub trait LifeStore: std::fmt::Debug + Send + Sync {
    /// What was given back of a transfer, as of the last durable checkpoint, or already of the next one, which has all of its lives or none.
    fn life(&self, id: TransferId) -> Option<Life>;

    /// The last durable checkpoint.
    fn checkpoint(&self) -> Sequence;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_life_is_read_as_it_was_written(refunded in any::<u128>(), is_over in any::<bool>(), head in any::<u64>()) {
            let life = Life { refunded: refunded >> 32, is_over, head };
            prop_assert_eq!(Life::decode(&life.encode()), life);
        }
    }
}
