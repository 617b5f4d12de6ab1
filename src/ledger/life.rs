//! What was given back of a transfer: by refunds, by a reversal, or because it was voided before it arrived.
//!
//! A transfer may be refunded at any time, so this is kept for ever, and therefore not in memory: what changed lately is there, the rest is
//! where a checkpoint put it ([`LifeStore`]).
//!
//! ```text
//! place  0         12    13    21        33    34
//!        refunded  over  head  refunded  over  head
//!        now                   at the checkpoint before
//! ```
//!
//! All little-endian, 42 bytes.

use super::fields::{get, narrow, set, wide};
use super::{Sequence, TransferId};

/// Bytes of an encoded [`KeptLife`].
const KEPT_LIFE_BYTES: usize = 42;

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
    fn encode(&self) -> [u8; 21] {
        let mut bytes = [0; 21];
        set::<0, 12>(&mut bytes, narrow(self.refunded));
        set::<12, 1>(&mut bytes, [u8::from(self.is_over)]);
        set::<13, 8>(&mut bytes, self.head.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; 21]) -> Self {
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

/// A life as a checkpoint writes it. A checkpoint that was never finished leaves some that are later than the one before it, of which a
/// start goes on; so each says also how it was then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptLife {
    /// As of the checkpoint that wrote it.
    pub now: Life,
    /// As of the checkpoint before that one; its head is 0 when there was nothing.
    pub before: Life,
}

impl KeptLife {
    /// Writes it for the store.
    pub fn encode(&self) -> [u8; KEPT_LIFE_BYTES] {
        let mut bytes = [0; KEPT_LIFE_BYTES];
        set::<0, 21>(&mut bytes, self.now.encode());
        set::<21, 21>(&mut bytes, self.before.encode());
        bytes
    }

    /// Reads it.
    pub fn decode(bytes: &[u8; KEPT_LIFE_BYTES]) -> Self {
        Self { now: Life::decode(&get::<0, 21>(bytes)), before: Life::decode(&get::<21, 21>(bytes)) }
    }

    /// How it was at a checkpoint: this one's, or the one before.
    pub fn at(&self, checkpoint: Sequence) -> Option<Life> {
        let life = if self.now.head <= checkpoint { self.now } else { self.before };
        Some(life).filter(|life| life.head != 0)
    }
}

/// Where lives are that are not in memory. Reading may wait for the disk; what cannot be read ends the process, because to take it for nothing
/// would let a transfer be refunded twice.
pub trait LifeStore: std::fmt::Debug + Send + Sync {
    /// What was written of a transfer.
    fn kept(&self, id: TransferId) -> Option<KeptLife>;

    /// The last durable checkpoint.
    fn checkpoint(&self) -> Sequence;

    /// What was given back of a transfer, as of the last durable checkpoint.
    fn life(&self, id: TransferId) -> Option<Life> {
        // In this order: a checkpoint that becomes durable in between has written what was read, or something later.
        let checkpoint = self.checkpoint();
        self.kept(id)?.at(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_life_is_read_as_it_was_written(refunded in any::<[u128; 2]>(), over in any::<[bool; 2]>(), head in any::<[u64; 2]>()) {
            let [now, before] = [0, 1].map(|at| Life { refunded: refunded[at] >> 32, is_over: over[at], head: head[at] });
            let kept = KeptLife { now, before };
            prop_assert_eq!(KeptLife::decode(&kept.encode()), kept);
        }
    }

    #[test]
    fn what_an_unfinished_checkpoint_wrote_is_as_it_was_before() {
        let [now, before] = [(7, 20), (3, 10)].map(|(refunded, head)| Life { refunded, is_over: false, head });
        let kept = KeptLife { now, before };
        assert_eq!([19, 20, 21].map(|checkpoint| kept.at(checkpoint)), [Some(before), Some(now), Some(now)]);
        assert_eq!(KeptLife { now, before: Life::default() }.at(19), None);
    }
}
