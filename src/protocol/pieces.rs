//! A `SubmitTransfers` body that is read while it comes.
//!
//! A full batch is a megabyte, and takes longer to come than to be read. So its transfers are read piece by piece, each while it is in the processor's
//! cache. Nothing of it is believed before all has come and its checksum is right.

use super::body::{ITEMS_HEADER_BYTES, Linked, count_of, transfers_of};
use crate::ledger::{Code, RECORD_BYTES, Transfer, TransferId};

/// A body of which some has come.
#[derive(Debug)]
pub struct TransferPieces {
    /// Bytes that were not read yet.
    missing: usize,
    /// CRC32C of those that were.
    crc: u32,
    is_begun: bool,
    transfers: Vec<Transfer>,
    /// The ids of those pieces in which each stands for itself.
    ids: Vec<TransferId>,
    linked: Linked,
    /// What is wrong with it, if its checksum is right.
    refused: Option<Code>,
}

impl TransferPieces {
    /// A body of so many bytes, of which none has come.
    pub fn new(body_bytes: usize) -> Self {
        Self {
            missing: body_bytes,
            crc: 0,
            is_begun: false,
            transfers: Vec::new(),
            ids: Vec::new(),
            linked: Linked::default(),
            refused: None,
        }
    }

    /// Bytes that were not read yet.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Reads the bytes that come next, as far as they are whole transfers of this body, and answers how many that were. The others are to be shown again,
    /// with what comes behind them.
    pub fn read(&mut self, bytes: &[u8]) -> usize {
        let bytes = bytes.get(..self.missing).unwrap_or(bytes);
        let read = if self.is_begun {
            self.items(bytes)
        } else if let Some((header, items)) = bytes.split_first_chunk::<ITEMS_HEADER_BYTES>() {
            self.is_begun = true;
            match count_of::<RECORD_BYTES>(*header, self.missing.saturating_sub(ITEMS_HEADER_BYTES)) {
                Ok(count) => {
                    self.transfers.reserve_exact(count);
                    self.ids.reserve_exact(count);
                }
                Err(code) => self.refused = Some(code),
            }
            ITEMS_HEADER_BYTES.saturating_add(self.items(items))
        } else if bytes.len() == self.missing {
            self.refused = Some(Code::BodyMalformed);
            bytes.len()
        } else {
            0
        };
        self.crc = crc32c::crc32c_append(self.crc, bytes.get(..read).unwrap_or_default());
        self.missing = self.missing.saturating_sub(read);
        read
    }

    fn items(&mut self, bytes: &[u8]) -> usize {
        if self.refused.is_some() {
            return bytes.len();
        }
        let (items, rest) = bytes.as_chunks::<RECORD_BYTES>();
        match transfers_of(items) {
            Ok(transfers) => {
                let first = self.transfers.len();
                self.transfers.extend(transfers);
                self.note(first);
            }
            Err(code) => self.refused = Some(code),
        }
        bytes.len().saturating_sub(rest.len())
    }

    /// Notes what is asked of transfers later, while they are at hand.
    fn note(&mut self, first: usize) {
        let new = self.transfers.get(first..).unwrap_or_default();
        for transfer in new {
            self.linked.next(transfer);
        }
        if new.iter().all(Transfer::stands_alone) {
            self.ids.extend(new.iter().map(|transfer| transfer.id));
        }
    }

    /// The transfers, if all of the body has come, this is its checksum, and nothing is wrong with it; as [`super::decode_transfers`] reads them. With
    /// the id of each, if each stands for itself: no transactions, no refunds and no reversals.
    pub fn finish(self, body_crc: u32) -> Result<(Vec<Transfer>, Option<Vec<TransferId>>), Code> {
        if self.missing > 0 || self.crc != body_crc {
            return Err(Code::BodyCorrupt);
        }
        self.refused.map_or(Ok(()), Err)?;
        self.linked.end()?;
        let ids = Some(self.ids).filter(|ids| ids.len() == self.transfers.len());
        Ok((self.transfers, ids))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{LINKED, Operation};
    use crate::protocol::{decode_transfers, encode_transfers};

    fn in_pieces(body: &[u8], body_bytes: usize, sizes: &[usize]) -> TransferPieces {
        let mut pieces = TransferPieces::new(body_bytes);
        let (mut shown, mut come) = (0, 0);
        for size in sizes.iter().cycle() {
            come = body.len().min(come + size);
            shown += pieces.read(&body[shown..come]);
            if come == body.len() {
                break;
            }
        }
        pieces
    }

    proptest! {
        /// However it comes, it is read as if it had come whole; with another byte it is not believed.
        #[test]
        fn a_body_is_read_as_if_it_had_come_whole(
            flags in prop::collection::vec(prop_oneof![12 => Just(0), 1 => Just(LINKED), 1 => Just(Operation::Refund as u16)], 0..30),
            (damage, at, value) in (0..4_u8, any::<prop::sample::Index>(), any::<u8>()),
            cut in 0..200_usize,
            sizes in prop::collection::vec(1..700_usize, 1..8),
            more in 0..300_usize,
        ) {
            let transfers: Vec<_> = (1..).zip(&flags).map(|(id, &flags)| Transfer { id: TransferId::from_raw(id), flags, ..Transfer::default() }).collect();
            let mut body = Vec::new();
            encode_transfers(&mut body, transfers.iter());
            match damage {
                1 => { let at = at.index(body.len()); body[at] = value }
                2 => body.truncate(body.len().saturating_sub(cut)),
                3 => body.resize(body.len() + cut, value),
                _ => {}
            }
            let mut whole = Vec::new();
            let expected = decode_transfers(&body, &mut whole).map(|_| whole);
            let crc = crc32c::crc32c(&body);
            // What comes behind it is not its own.
            let bytes = [&body[..], &vec![7; more]].concat();
            let pieces = in_pieces(&bytes, body.len(), &sizes);
            prop_assert_eq!(pieces.missing(), 0);
            let expected = expected.map(|transfers| {
                let are_single = transfers.iter().all(Transfer::stands_alone);
                let ids = are_single.then(|| transfers.iter().map(|transfer| transfer.id).collect());
                (transfers, ids)
            });
            prop_assert_eq!(pieces.finish(crc), expected);
            prop_assert_eq!(in_pieces(&bytes, body.len(), &sizes).finish(crc ^ 1), Err(Code::BodyCorrupt));
            if !body.is_empty() {
                prop_assert_eq!(in_pieces(&body[..body.len() - 1], body.len(), &sizes).finish(crc), Err(Code::BodyCorrupt));
            }
        }
    }
}
