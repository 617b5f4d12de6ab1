//! The one table of codes: what happened to a transfer, an account or a request, and what the client does next.
//!
//! Codes stand on the wire and on disk. They are never reused and never renumbered. Below 1,000 they are outcomes; from
//! 1,000 they say why a whole request or connection was refused, and then nothing of it was decided.

macro_rules! codes {
    ($($number:literal $variant:ident $name:literal, $meaning:literal, $action:literal;)*) => {
        /// A stable code. `0` is the only success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $meaning] $variant = $number,)*
        }

        impl Code {
            /// Every code, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code of this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name used in logs, metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)*
                }
            }

            /// What the client should do.
            pub const fn action(self) -> &'static str {
                match self {
                    $(Self::$variant => $action,)*
                }
            }
        }
    };
}

codes! {
    0 Accepted "accepted", "Done and durable.", "Nothing.";
    1 IdInvalid "id_invalid", "The id is 0 or 2^128 - 1. Nothing is recorded.", "Choose a valid id.";
    2 ReservedFieldSet "reserved_field_set", "A reserved field or an unknown flag is not zero.", "Correct the client; use a new id.";
    10 SameAccount "same_account", "Debit and credit account are the same.", "Correct the transfer; use a new id.";
    11 AmountZero "amount_zero", "The amount is zero.", "Correct the transfer; use a new id.";
    12 AmountTooLarge "amount_too_large", "The amount is above 2^96 - 1 minor units.", "Correct the transfer; use a new id.";
    20 DebitAccountUnknown "debit_account_unknown", "The debit account was never opened.", "Open it, then use a new id.";
    21 CreditAccountUnknown "credit_account_unknown", "The credit account was never opened.", "Open it, then use a new id.";
    22 CurrencyMismatch "currency_mismatch", "The two accounts have different currencies.", "Choose accounts of one currency; use a new id.";
    30 InsufficientFunds "insufficient_funds", "The debit account's debits would exceed its credits.", "Tell the payer; retry later with a new id.";
    31 ExceedsDebits "exceeds_debits", "The credit account's credits would exceed its debits.", "Check the account's purpose; use a new id.";
    32 BalanceOverflow "balance_overflow", "A total of the account would exceed 2^96 - 1 minor units.", "Use another account and a new id.";
    40 IdReused "id_reused", "The id was used before with other content; the first outcome stands.", "Look the id up; use a new id for a new transfer.";
    60 AccountIdReused "account_id_reused", "An account with this id and other properties exists.", "Look the account up; choose another id.";
    61 CurrencyUnknown "currency_unknown", "The currency is not an ISO 4217 number.", "Correct the request.";
    62 AccountFlagsInvalid "account_flags_invalid", "Unknown flags, or two that contradict each other.", "Correct the request.";
    1000 BadMagic "bad_magic", "The frame does not begin with the protocol's magic. The connection is closed.", "Check that the client speaks this protocol.";
    1001 VersionUnsupported "version_unsupported", "No protocol version in common. The connection is closed.", "Use a client of a supported version.";
    1002 HeaderCorrupt "header_corrupt", "The CRC of the frame header is wrong. The connection is closed.", "Reconnect; send unanswered transfers again with the same ids.";
    1003 BodyCorrupt "body_corrupt", "The CRC of the body is wrong. Nothing of the request was decided.", "Send the request again.";
    1004 FrameTooLarge "frame_too_large", "The body is longer than the limit in the welcome. The connection is closed.", "Send smaller requests.";
    1005 BodyMalformed "body_malformed", "The body does not have the length or content that its kind demands.", "Correct the client.";
    1006 CountZero "count_zero", "The request contains nothing.", "Correct the client.";
    1007 CountTooLarge "count_too_large", "The request contains more items than the limit in the welcome.", "Send smaller requests.";
    1008 KindUnknown "kind_unknown", "The server does not know this kind of request.", "Check the version in the welcome.";
    1009 HandshakeExpected "handshake_expected", "The first frame was not a hello. The connection is closed.", "Begin with a hello.";
    1010 AuthenticationFailed "authentication_failed", "Unknown gateway or wrong key. The connection is closed.", "Check name and key; ask the operator.";
    1011 HandshakeRepeated "handshake_repeated", "A second hello on one connection. The connection is closed.", "Correct the client.";
    1020 Busy "busy", "Too much is in flight. Nothing of the request was decided.", "Wait a little, then send the same request again.";
    1021 Draining "draining", "The server is stopping. Nothing of the request was decided.", "Reconnect later; send the same request again.";
    1022 TooManyConnections "too_many_connections", "The server has as many connections as it takes. The connection is closed.", "Reconnect later, or use fewer connections.";
    1023 TimedOut "timed_out", "Half a frame or no frame for too long. The connection is closed.", "Send whole frames, and a ping when idle.";
    1030 Internal "internal", "The server could not read what it stored. Nothing was changed.", "Tell the operator; the server's log has the cause.";
}

impl Code {
    /// The number on the wire and on disk.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether this is [`Code::Accepted`].
    pub const fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_read_back() {
        let mut names = std::collections::BTreeSet::new();
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].number() < pair[1].number(), "{pair:?}");
        }
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
            assert!(names.insert(code.name()), "{code} twice");
        }
        assert_eq!(Code::from_number(9_999), None);
    }
}
