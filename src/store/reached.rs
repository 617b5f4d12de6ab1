//! How far the journal reached when the last checkpoint was made, beside the store: that tells of a journal that lost its end also when the store is
//! made again, and cannot be asked.
//!
//! ```text
//! store.reached     sequence (8, little endian) | CRC32C of these (4)
//! ```
//!
//! # Invariants
//!
//! 1. All records up to what is written here were durable in the journal before it was written.
//! 2. The file is replaced as a whole. One that is damaged tells nothing, and is written anew with the next checkpoint.
//!
//! # Not here
//!
//! What a journal is refused for ([`crate::journal`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::journal::replace_file;
use crate::ledger::{Sequence, get};

fn file(store: &Path) -> PathBuf {
    store.with_extension("reached")
}

/// Notes durably that the journal reaches so far. Blocks.
pub(super) fn note_reached(store: &Path, sequence: Sequence) -> io::Result<()> {
    let mut bytes = [0; 12];
    let (number, sum) = bytes.split_at_mut(8);
    number.copy_from_slice(&sequence.to_le_bytes());
    sum.copy_from_slice(&crc32c::crc32c(number).to_le_bytes());
    replace_file(&file(store), &bytes)
}

/// How far the journal reached for sure; 0 where nothing tells.
pub fn reached(store: &Path) -> io::Result<Sequence> {
    let bytes = match fs::read(file(store)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(0),
        read => read?,
    };
    let whole = <[u8; 12]>::try_from(bytes).ok().filter(|bytes| {
        let number: [u8; 8] = get::<0, 8>(bytes);
        crc32c::crc32c(&number).to_le_bytes() == get::<8, 4>(bytes)
    });
    let Some(bytes) = whole else {
        tracing::warn!(file = %file(store).display(), "it is damaged; until the next checkpoint the store alone tells how far the journal must reach");
        return Ok(0);
    };
    Ok(Sequence::from_le_bytes(get::<0, 8>(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_last_is_read_and_damage_tells_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        assert_eq!(reached(&store).unwrap(), 0);
        for sequence in [5, 1 << 40, Sequence::MAX] {
            note_reached(&store, sequence).unwrap();
            assert_eq!(reached(&store).unwrap(), sequence);
        }
        let bytes = fs::read(file(&store)).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(file(&store), damaged).unwrap();
            assert_eq!(reached(&store).unwrap(), 0, "{bit}");
        }
        fs::write(file(&store), &bytes[..11]).unwrap();
        assert_eq!(reached(&store).unwrap(), 0);
        fs::remove_file(file(&store)).unwrap();
        fs::create_dir(file(&store)).unwrap();
        reached(&store).unwrap_err();
    }
}
