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
    2 FieldNotUsed "field_not_used", "A field is set that this operation does not use.", "Correct the client; use a new id.";
    3 OperationUnknown "operation_unknown", "The flags name no operation for clients, or a modifier that it does not have.", "Correct the client; use a new id.";
    4 TimeMissing "time_missing", "A delayed transfer needs a due time.", "Correct the client; use a new id.";
    5 TimePast "time_past", "The expiry is not in the future.", "Use a later time and a new id.";
    6 RelatedMissing "related_missing", "The operation needs the id of what it is about.", "Correct the client; use a new id.";
    7 RateInvalid "rate_invalid", "The field holds no rate, or it cannot be applied exactly.", "Correct the client; use a new id.";
    8 ChangeInvalid "change_invalid", "The change names no state, level or overdraft, or one that is not allowed.", "Correct the client; use a new id.";
    9 TransactionFailed "transaction_failed", "Another transfer of the same transaction was refused, so none happened.", "Look at the other outcomes; use new ids.";
    10 SameAccount "same_account", "Debit and credit account are the same.", "Correct the transfer; use a new id.";
    11 AmountZero "amount_zero", "The amount is zero.", "Correct the transfer; use a new id.";
    12 AmountTooLarge "amount_too_large", "The amount is above 2^96 - 1 minor units.", "Correct the transfer; use a new id.";
    20 DebitAccountUnknown "debit_account_unknown", "The debit account was never opened.", "Open it, then use a new id.";
    21 CreditAccountUnknown "credit_account_unknown", "The credit account was never opened.", "Open it, then use a new id.";
    22 CurrencyMismatch "currency_mismatch", "The two accounts have different currencies.", "Choose accounts of one currency; use a new id.";
    23 DebitAccountFrozen "debit_account_frozen", "The debit account may not be debited.", "Tell the payer; ask the operator; then use a new id.";
    24 CreditAccountFrozen "credit_account_frozen", "The credit account is frozen.", "Tell the payer; ask the operator; then use a new id.";
    25 DebitAccountClosed "debit_account_closed", "The debit account is closed.", "Use another account and a new id.";
    26 CreditAccountClosed "credit_account_closed", "The credit account is closed.", "Use another account and a new id.";
    27 ClassNotPermitted "class_not_permitted", "The policy does not permit this code between the classes of the two accounts.", "Use a permitted code and a new id.";
    28 Denied "denied", "An account, or the pair, is on the deny-list.", "Ask the operator, then use a new id.";
    30 InsufficientFunds "insufficient_funds", "The debit account's debits would exceed its credits.", "Tell the payer; retry later with a new id.";
    31 ExceedsDebits "exceeds_debits", "The credit account's credits would exceed its debits.", "Check the account's purpose; use a new id.";
    32 BalanceOverflow "balance_overflow", "A total of the account would exceed 2^96 - 1 minor units.", "Use another account and a new id.";
    33 RequirementNotMet "requirement_not_met", "Less is available than the transaction requires.", "Retry later with new ids.";
    40 IdReused "id_reused", "The id was used before with other content; the first outcome stands.", "Look the id up; use a new id for a new transfer.";
    41 HoldNotOpen "hold_not_open", "No hold or delayed transfer of this id is open.", "Look it up: it was captured, voided, has expired or arrived, or never was.";
    42 HoldMismatch "hold_mismatch", "Accounts or code are not those of the hold, or another gateway would raise it.", "Correct the client; use a new id.";
    43 HoldKindMismatch "hold_kind_mismatch", "Raise and capture are for holds only; a withheld reserve cannot be voided.", "Correct the client; use a new id.";
    44 CaptureTooLarge "capture_too_large", "More is captured than the hold and its tolerance allow.", "Capture less with a new id.";
    45 OriginalUnknown "original_unknown", "There is no durable transfer of the related id.", "Look the id up; use a new id.";
    46 OriginalMismatch "original_mismatch", "The accounts are not those of the original, exchanged.", "Correct the client; use a new id.";
    47 OriginalNotPosted "original_not_posted", "The original moved no money that could be given back, or is the ledger's own (settlement, a payout, a distribution, a write-off).", "Refund a transfer or capture.";
    48 RefundTooLarge "refund_too_large", "All refunds together would exceed the original.", "Look the original up; refund less with a new id.";
    49 AlreadyReversed "already_reversed", "The original was reversed before, or refunded in part.", "Nothing, or refund the rest.";
    50 RateMismatch "rate_mismatch", "The amount is not the leg before it times the rate, or there is no such leg.", "Correct the client; use new ids.";
    51 QuoteExpired "quote_expired", "The rate was good until a time that is over.", "Get a new quote; use new ids.";
    52 LimitExceeded "limit_exceeded", "A limit on amounts would be exceeded.", "Ask with explain which one; retry in a later period with a new id.";
    53 LimitCountExceeded "limit_count_exceeded", "A limit on the number of operations would be exceeded.", "Ask with explain which one; retry in a later period with a new id.";
    54 OperationNotPermitted "operation_not_permitted", "The gateway may not do this.", "Ask the operator for the permission, then use a new id.";
    55 AmountNotPermitted "amount_not_permitted", "The amount is above what the gateway may move at once.", "Ask the operator for the permission, then use a new id.";
    56 FeeExceedsAmount "fee_exceeds_amount", "The fees would be more than the payment brings in, or cannot be computed.", "Check the policy; use a new id.";
    60 AccountIdReused "account_id_reused", "An account with this id and other properties (level and overdraft are not compared) exists.", "Look the account up; choose another id.";
    61 CurrencyUnknown "currency_unknown", "The currency is neither an ISO 4217 number nor an asset of the policy.", "Correct the request.";
    62 AccountFlagsInvalid "account_flags_invalid", "Unknown flags, or two that contradict each other.", "Correct the request.";
    63 ClassInvalid "class_invalid", "The class or level does not exist.", "Correct the request.";
    64 OverdraftInvalid "overdraft_invalid", "The overdraft is above 2^64 - 1, or the account has no limit that it could soften.", "Correct the request.";
    65 AccountNotEmpty "account_not_empty", "An account is closed at a balance of zero only.", "Sweep it in the same transaction; use new ids.";
    66 AccountPending "account_pending", "Holds or delayed transfers of the account are open.", "Capture or void them first; use a new id.";
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
    1010 AuthenticationFailed "authentication_failed", "Unknown gateway or wrong key, or the gateway has another one by now. The connection is closed.", "Check name and key; ask the operator.";
    1011 HandshakeRepeated "handshake_repeated", "A second hello on one connection. The connection is closed.", "Correct the client.";
    1012 TransactionOpen "transaction_open", "The last transfer of the request is linked to a next one. Nothing of the request was decided.", "Send whole transactions.";
    1013 TransactionTooLong "transaction_too_long", "A transaction of the request has more than 64 transfers. Nothing of the request was decided.", "Send shorter transactions.";
    1014 HistoryTooLong "history_too_long", "More would have to be looked through than one request may: a million entries of an account, or four million records after a transfer.", "Ask for a later moment, or page through the account's entries from the newest.";
    1020 Busy "busy", "Too much is in flight. Nothing of the request was decided.", "Wait a little, then send the same request again.";
    1021 Draining "draining", "The server is stopping. Nothing of the request was decided.", "Reconnect later; send the same request again.";
    1022 TooManyConnections "too_many_connections", "The server has as many connections as it takes. The connection is closed.", "Reconnect later, or use fewer connections.";
    1023 TimedOut "timed_out", "Half a frame or no frame for too long. The connection is closed.", "Send whole frames, and a ping when idle.";
    1030 Internal "internal", "The server could not read what it stored. This request changed nothing; a transfer with this outcome was decided when it was sent first.", "Send it again with the same id, never a new one; tell the operator: the server's log has the cause.";
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
