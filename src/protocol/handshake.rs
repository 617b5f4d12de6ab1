//! Hello and welcome.

use crate::ledger::{Code, GatewayEntry, get, set};

/// Bytes of a hello's body.
pub const HELLO_BYTES: usize = 128;
/// Bytes of a welcome's body.
pub const WELCOME_BYTES: usize = 64;
/// Bytes of a gateway's key.
pub const KEY_BYTES: usize = 32;

/// The gateway that exists only when the configuration allows the development key.
pub const DEVELOPMENT_GATEWAY: &str = "development";
/// Its key. Everybody knows it.
pub const DEVELOPMENT_KEY: [u8; KEY_BYTES] = *b"heng development key, not secret";

/// Who a client is and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version it speaks.
    pub version_min: u16,
    /// Highest protocol version it speaks.
    pub version_max: u16,
    /// The gateway's name.
    pub gateway: String,
    /// The gateway's key.
    pub key: [u8; KEY_BYTES],
}

/// What the server grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from now on.
    pub version: u16,
    /// The gateway's number.
    pub gateway: u32,
    /// Longest body of a request, bytes.
    pub body_bytes_max: u32,
    /// Most items in one request.
    pub items_max: u32,
    /// Most requests without an answer on this connection; more are answered busy.
    pub requests_in_flight_max: u32,
    /// Without any frame for so long the connection is closed, milliseconds. Send a ping before.
    pub idle_timeout_ms: u32,
    /// The server's clock, nanoseconds since 1970 UTC.
    pub time_ns: u64,
}

impl Hello {
    /// Writes a hello; `None` when the name is not a gateway name.
    pub fn encode(&self) -> Option<[u8; HELLO_BYTES]> {
        let mut bytes = [0; HELLO_BYTES];
        set::<0, 2>(&mut bytes, self.version_min.to_le_bytes());
        set::<2, 2>(&mut bytes, self.version_max.to_le_bytes());
        set::<8, 48>(&mut bytes, GatewayEntry::pad_name(&self.gateway)?);
        set::<56, 32>(&mut bytes, self.key);
        Some(bytes)
    }

    /// Reads a hello.
    pub fn decode(body: &[u8]) -> Result<Self, Code> {
        if body.len() != HELLO_BYTES {
            return Err(Code::BodyMalformed);
        }
        let name = get::<8, 48>(body);
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_not_text| Code::BodyMalformed)?;
        // Nobody has another name, and it may be shown to people.
        GatewayEntry::pad_name(name).ok_or(Code::BodyMalformed)?;
        Ok(Self {
            version_min: u16::from_le_bytes(get::<0, 2>(body)),
            version_max: u16::from_le_bytes(get::<2, 2>(body)),
            gateway: name.to_owned(),
            key: get::<56, 32>(body),
        })
    }
}

impl Welcome {
    /// Writes a welcome.
    pub fn encode(&self) -> [u8; WELCOME_BYTES] {
        let mut bytes = [0; WELCOME_BYTES];
        set::<0, 2>(&mut bytes, self.version.to_le_bytes());
        set::<4, 4>(&mut bytes, self.gateway.to_le_bytes());
        set::<8, 4>(&mut bytes, self.body_bytes_max.to_le_bytes());
        set::<12, 4>(&mut bytes, self.items_max.to_le_bytes());
        set::<16, 4>(&mut bytes, self.requests_in_flight_max.to_le_bytes());
        set::<20, 4>(&mut bytes, self.idle_timeout_ms.to_le_bytes());
        set::<24, 8>(&mut bytes, self.time_ns.to_le_bytes());
        bytes
    }

    /// Reads a welcome.
    pub fn decode(body: &[u8]) -> Result<Self, Code> {
        if body.len() != WELCOME_BYTES {
            return Err(Code::BodyMalformed);
        }
        Ok(Self {
            version: u16::from_le_bytes(get::<0, 2>(body)),
            gateway: u32::from_le_bytes(get::<4, 4>(body)),
            body_bytes_max: u32::from_le_bytes(get::<8, 4>(body)),
            items_max: u32::from_le_bytes(get::<12, 4>(body)),
            requests_in_flight_max: u32::from_le_bytes(get::<16, 4>(body)),
            idle_timeout_ms: u32::from_le_bytes(get::<20, 4>(body)),
            time_ns: u64::from_le_bytes(get::<24, 8>(body)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_and_welcome_are_read_back() {
        let hello = Hello { version_min: 1, version_max: 3, gateway: "shop-1".to_owned(), key: [7; 32] };
        let bytes = hello.encode().unwrap();
        assert_eq!(Hello::decode(&bytes), Ok(hello));
        assert_eq!(Hello::decode(&bytes[..127]), Err(Code::BodyMalformed));
        let mut not_text = bytes;
        not_text[8] = 0xFF;
        assert_eq!(Hello::decode(&not_text), Err(Code::BodyMalformed));
        let welcome = Welcome {
            version: 1,
            gateway: 2,
            body_bytes_max: 3,
            items_max: 4,
            requests_in_flight_max: 5,
            idle_timeout_ms: 6,
            time_ns: 7,
        };
        assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        assert_eq!(Welcome::decode(&[]), Err(Code::BodyMalformed));
    }
}
