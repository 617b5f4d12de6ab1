//! What a checkpoint writes of windows, participants, payouts and distributions, and how it is read back.
//!
//! Other than accounts, these are written as of the checkpoint's own sequence, all in one step: `as_of` goes with them, and records
//! up to there are not applied to them again.

use serde::{Deserialize, Serialize};

use super::Book;
use super::windows::{Participant, Window};
use crate::ledger::{PayoutEntry, RECORD_BYTES, Record, Sequence, WindowState};

/// A piece of a checkpoint, with its key in the store.
pub type Piece = (Vec<u8>, Vec<u8>);

/// Pieces that changed, as of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowPieces {
    /// Records up to here are in it.
    pub as_of: Sequence,
    /// What changed.
    pub pieces: Vec<Piece>,
}

/// Why a piece could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a piece of the windows in the store is damaged")]
pub struct PieceError;

fn encode(value: &impl Serialize) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap_or_default()
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, PieceError> {
    let decoded = bincode::serde::decode_from_slice(bytes, bincode::config::standard());
    decoded.map(|(value, _)| value).map_err(|_err| PieceError)
}

impl Book {
    /// What changed of windows since the last call, as of now. Takes about a millisecond for ten thousand positions.
    pub fn take_window_pieces(&mut self) -> WindowPieces {
        let changed = self.windows.take_changed();
        let mut pieces = Vec::new();
        if changed.participants {
            pieces.push((b"participants".to_vec(), encode(self.windows.participants().as_ref())));
            let proposed =
                self.windows.all_proposed().flat_map(|(entry, by)| Record::Participant(*entry, *by).encode());
            pieces.push((b"proposed".to_vec(), proposed.collect()));
        }
        for key in changed.windows {
            if let Some(window) = self.windows.window(key) {
                let name = [&b"window"[..], &key.0.to_be_bytes(), &key.1.to_be_bytes()].concat();
                pieces.push((name, encode(&window)));
            }
        }
        for id in changed.payouts {
            if let Some(payout) = self.windows.payouts().get(&id) {
                let name = [&b"payout"[..], &id.raw().to_be_bytes()].concat();
                let mut bytes = Record::Payout(*payout).encode().to_vec();
                bytes.push(u8::from(self.windows.is_returned(id)));
                pieces.push((name, bytes));
            }
        }
        if !self.distributions.runs().is_empty() {
            pieces.push((b"distributions".to_vec(), encode(self.distributions.runs())));
        }
        WindowPieces { as_of: self.sequence, pieces }
    }

    /// Takes over pieces from the store, in any order, after the accounts.
    pub fn load_window_pieces(&mut self, stored: &WindowPieces) -> Result<(), PieceError> {
        self.windows_at = stored.as_of;
        for (key, bytes) in &stored.pieces {
            if key.starts_with(b"participants") {
                self.windows.load_participants(decode::<Vec<Participant>>(bytes)?);
            } else if key.starts_with(b"distributions") {
                self.distributions.load(decode(bytes)?);
            } else if key.starts_with(b"window") {
                self.windows.load_window(decode::<Window>(bytes)?);
            } else if key.starts_with(b"proposed") {
                for bytes in bytes.as_chunks::<RECORD_BYTES>().0 {
                    let Ok(Record::Participant(entry, by)) = Record::decode(bytes) else { return Err(PieceError) };
                    self.windows.load_proposed(entry, by);
                }
            } else {
                self.windows.load_payout(payout(bytes)?, bytes.last() == Some(&1));
            }
        }
        let accounts: Vec<_> = self.windows.accounts().collect();
        for (account, place) in accounts {
            if let Some(slot) = self.accounts.find(account) {
                self.windows.set_slot(slot, place);
            }
        }
        Ok(())
    }

    /// Windows that are not yet reconciled.
    pub fn unfinished_windows(&self) -> impl Iterator<Item = &Window> {
        self.windows.windows().values().filter(|window| window.state < WindowState::Reconciled)
    }
}

fn payout(bytes: &[u8]) -> Result<PayoutEntry, PieceError> {
    match bytes.first_chunk::<RECORD_BYTES>().map(Record::decode) {
        Some(Ok(Record::Payout(payout))) => Ok(payout),
        _ => Err(PieceError),
    }
}
