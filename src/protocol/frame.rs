//! Frames: the 32-byte header, and a body whose length and checksum it states.

use crate::ledger::{Code, get, set};

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 32;

/// `HENG`, the first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"HENG";

const CRC_AT: usize = 24;
const BODY_CRC_AT: usize = 28;

/// What a frame is. Requests are even, the answer to each is one more; `Error` answers anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// The first frame of a client.
    Hello = 2,
    /// The answer to it.
    Welcome = 3,
    /// Are you there?
    Ping = 4,
    /// Yes.
    Pong = 5,
    /// The request is refused whole.
    Error = 7,
    /// Open accounts.
    OpenAccounts = 16,
    /// Their outcomes.
    AccountOutcomes = 17,
    /// Submit transfers.
    SubmitTransfers = 18,
    /// Their outcomes.
    TransferOutcomes = 19,
    /// Read accounts by id.
    GetAccounts = 20,
    /// The accounts.
    Accounts = 21,
    /// Read transfers by id.
    GetTransfers = 22,
    /// The transfers.
    Transfers = 23,
    /// Read an account's history.
    AccountHistory = 24,
    /// A page of it.
    History = 25,
    /// Read accounts in order of opening.
    ListAccounts = 26,
    /// A page of them.
    AccountPage = 27,
    /// Ask for records.
    Query = 28,
    /// The records, and where to go on.
    Records = 29,
    /// Ask what would become of transfers.
    Explain = 30,
    /// What would.
    Explained = 31,
    /// Read an account with its limits, or as of some time.
    GetAccount = 32,
    /// The account.
    AccountDetail = 33,
}

impl Kind {
    const ALL: [Self; 23] = [
        Self::Hello,
        Self::Welcome,
        Self::Ping,
        Self::Pong,
        Self::Error,
        Self::OpenAccounts,
        Self::AccountOutcomes,
        Self::SubmitTransfers,
        Self::TransferOutcomes,
        Self::GetAccounts,
        Self::Accounts,
        Self::GetTransfers,
        Self::Transfers,
        Self::AccountHistory,
        Self::History,
        Self::ListAccounts,
        Self::AccountPage,
        Self::Query,
        Self::Records,
        Self::Explain,
        Self::Explained,
        Self::GetAccount,
        Self::AccountDetail,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The kind of this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Protocol version; that of the welcome, or the lowest offered in a hello.
    pub version: u16,
    /// Number of the kind; may be unknown to this version.
    pub kind: u16,
    /// Chosen by the client, repeated in the answer.
    pub request_id: u64,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

impl FrameHeader {
    /// Writes a header.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        set::<0, 4>(&mut bytes, MAGIC);
        set::<4, 2>(&mut bytes, self.version.to_le_bytes());
        set::<6, 2>(&mut bytes, self.kind.to_le_bytes());
        set::<8, 8>(&mut bytes, self.request_id.to_le_bytes());
        set::<16, 4>(&mut bytes, self.body_bytes.to_le_bytes());
        // 20: flags, none defined.
        set::<BODY_CRC_AT, 4>(&mut bytes, self.body_crc.to_le_bytes());
        let crc = header_crc(&bytes);
        set::<CRC_AT, 4>(&mut bytes, crc.to_le_bytes());
        bytes
    }

    /// Reads a header; any four bytes that are not the magic are told apart at once, so that a stray peer gets a clear answer.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, Code> {
        if get::<0, 4>(bytes) != MAGIC {
            return Err(Code::BadMagic);
        }
        if u32::from_le_bytes(get::<CRC_AT, 4>(bytes)) != header_crc(bytes) || get::<20, 4>(bytes) != [0; 4] {
            return Err(Code::HeaderCorrupt);
        }
        Ok(Self {
            version: u16::from_le_bytes(get::<4, 2>(bytes)),
            kind: u16::from_le_bytes(get::<6, 2>(bytes)),
            request_id: u64::from_le_bytes(get::<8, 8>(bytes)),
            body_bytes: u32::from_le_bytes(get::<16, 4>(bytes)),
            body_crc: u32::from_le_bytes(get::<BODY_CRC_AT, 4>(bytes)),
        })
    }

    /// Whether this is the body that the header announced.
    pub fn matches(&self, body: &[u8]) -> bool {
        crc32c::crc32c(body) == self.body_crc
    }
}

/// CRC32C of all header bytes but the CRC itself.
fn header_crc(bytes: &[u8; FRAME_HEADER_BYTES]) -> u32 {
    let crc = crc32c::crc32c(bytes.get(..CRC_AT).unwrap_or_default());
    crc32c::crc32c_append(crc, bytes.get(BODY_CRC_AT..).unwrap_or_default())
}

/// Appends a frame.
pub fn encode_frame(out: &mut Vec<u8>, kind: Kind, request_id: u64, body: &[u8]) {
    let at = begin_frame(out);
    out.extend_from_slice(body);
    end_frame(out, at, kind, request_id);
}

/// Leaves room for a header; the body is to be appended, then [`end_frame`] called with the answer.
pub fn begin_frame(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    at
}

/// Fills in the header of the frame that was begun at `at`.
pub fn end_frame(out: &mut [u8], at: usize, kind: Kind, request_id: u64) {
    let Some((header, body)) = out.get_mut(at..).and_then(|frame| frame.split_first_chunk_mut::<FRAME_HEADER_BYTES>())
    else {
        return;
    };
    *header = FrameHeader {
        version: super::VERSION,
        kind: kind.number(),
        request_id,
        body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
        body_crc: crc32c::crc32c(body),
    }
    .encode();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_and_notices_each_flipped_bit() {
        let header =
            FrameHeader { version: 1, kind: 18, request_id: 0x0102_0304, body_bytes: 136, body_crc: 0xDEAD_BEEF };
        let bytes = header.encode();
        assert_eq!(FrameHeader::decode(&bytes), Ok(header));
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 32 { Code::BadMagic } else { Code::HeaderCorrupt };
            assert_eq!(FrameHeader::decode(&damaged), Err(expected), "bit {bit}");
        }
    }

    #[test]
    fn kinds_are_found_by_number() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(Kind::from_number(99), None);
    }
}
