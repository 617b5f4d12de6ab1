//! Fixed places in fixed-size byte layouts, read and written without a branch that survives optimisation.
//!
//! The place is a constant, so the range check is decided by the compiler. A place outside the layout would read as zero
//! and write nothing; the round-trip tests of each layout would fail.

/// Copies the `N` bytes at place `AT`.
#[inline]
pub fn get<const AT: usize, const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.get(AT..).and_then(|tail| tail.first_chunk::<N>()).copied().unwrap_or([0; N])
}

/// Writes `value` at place `AT`.
#[inline]
pub fn set<const AT: usize, const N: usize>(bytes: &mut [u8], value: [u8; N]) {
    if let Some(place) = bytes.get_mut(AT..).and_then(|tail| tail.first_chunk_mut::<N>()) {
        *place = value;
    }
}

/// An amount of at most 2^96 - 1 in the twelve bytes that it needs.
#[inline]
pub(super) fn narrow(amount: u128) -> [u8; 12] {
    get::<0, 12>(&amount.to_le_bytes())
}

/// Reads [`narrow`].
#[inline]
pub(super) fn wide(bytes: [u8; 12]) -> u128 {
    let mut wide = [0; 16];
    set::<0, 12>(&mut wide, bytes);
    u128::from_le_bytes(wide)
}
