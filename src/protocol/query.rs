//! Queries: histories with filters, the life of a transfer, events, balances with limits, and explanations.

use super::ITEMS_MAX;
use super::body::{ACCOUNT_STATE_BYTES, decode_account, encode_account};
use crate::ledger::{AccountId, BookAccount, Code, GatewayId, LimitUse, RECORD_BYTES, Record, Sequence, get, set};

/// Bytes of a query.
const QUERY_BYTES: usize = 96;
/// Bytes of a limit in an answer.
const LIMIT_BYTES: usize = 96;
/// Bytes of a limit's name; longer ones are cut.
const LIMIT_NAME_BYTES: usize = 48;
/// Bytes of an explained outcome.
const EXPLAINED_BYTES: usize = 56;
/// The longest that a server waits for an event, milliseconds.
pub const WAIT_MS_MAX: u32 = 20_000;

/// What a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum QueryKind {
    /// Entries of the account `id`.
    Entries = 1,
    /// The transfer `id`, and all that was done about it, oldest first.
    Life = 2,
    /// Transfers of this gateway whose 16 bytes of user data are `id`, oldest first.
    Reference = 3,
    /// Outcomes of this gateway, or those that touch the account `id` if it is not 0, oldest first; waits for the first.
    Events = 4,
}

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// What is asked for.
    pub kind: QueryKind,
    /// Entries: oldest first instead of newest first.
    pub oldest_first: bool,
    /// At most so many.
    pub limit: u32,
    /// Events: how long to wait for the first, milliseconds, at most [`WAIT_MS_MAX`].
    pub wait_ms: u32,
    /// Where to go on: the cursor of the page before. 0: from the beginning, that is the newest entry or the oldest record.
    pub from: Sequence,
    /// Account, transfer or reference.
    pub id: u128,
    /// Entries with this account on the other side only; 0 for all.
    pub counterparty: u128,
    /// Not before this time, nanoseconds since 1970 UTC.
    pub time_min: u64,
    /// Not after this time; 0 for no bound.
    pub time_max: u64,
    /// With this code only.
    pub code: Option<u16>,
}

impl Query {
    /// A query without filters.
    pub fn new(kind: QueryKind, id: u128, limit: u32) -> Self {
        Self {
            kind,
            oldest_first: false,
            limit,
            wait_ms: 0,
            from: 0,
            id,
            counterparty: 0,
            time_min: 0,
            time_max: 0,
            code: None,
        }
    }

    /// Writes the body.
    pub fn encode(&self) -> [u8; QUERY_BYTES] {
        let mut bytes = [0; QUERY_BYTES];
        let flags = u16::from(self.oldest_first) | u16::from(self.code.is_some()) << 1;
        set::<0, 2>(&mut bytes, (self.kind as u16).to_le_bytes());
        set::<2, 2>(&mut bytes, flags.to_le_bytes());
        set::<4, 4>(&mut bytes, self.limit.to_le_bytes());
        set::<8, 8>(&mut bytes, self.from.to_le_bytes());
        set::<16, 16>(&mut bytes, self.id.to_le_bytes());
        set::<32, 16>(&mut bytes, self.counterparty.to_le_bytes());
        set::<48, 8>(&mut bytes, self.time_min.to_le_bytes());
        set::<56, 8>(&mut bytes, self.time_max.to_le_bytes());
        set::<64, 2>(&mut bytes, self.code.unwrap_or(0).to_le_bytes());
        set::<68, 4>(&mut bytes, self.wait_ms.to_le_bytes());
        bytes
    }

    /// Reads the body. Bytes without a meaning must be zero.
    pub fn decode(body: &[u8]) -> Result<Self, Code> {
        let bytes: &[u8; QUERY_BYTES] = body.try_into().map_err(|_length| Code::BodyMalformed)?;
        let kind = match u16::from_le_bytes(get::<0, 2>(bytes)) {
            1 => QueryKind::Entries,
            2 => QueryKind::Life,
            3 => QueryKind::Reference,
            4 => QueryKind::Events,
            _ => return Err(Code::BodyMalformed),
        };
        let flags = u16::from_le_bytes(get::<2, 2>(bytes));
        let query = Self {
            kind,
            oldest_first: flags & 1 != 0,
            limit: u32::from_le_bytes(get::<4, 4>(bytes)),
            wait_ms: u32::from_le_bytes(get::<68, 4>(bytes)),
            from: u64::from_le_bytes(get::<8, 8>(bytes)),
            id: u128::from_le_bytes(get::<16, 16>(bytes)),
            counterparty: u128::from_le_bytes(get::<32, 16>(bytes)),
            time_min: u64::from_le_bytes(get::<48, 8>(bytes)),
            time_max: u64::from_le_bytes(get::<56, 8>(bytes)),
            code: (flags & 2 != 0).then(|| u16::from_le_bytes(get::<64, 2>(bytes))),
        };
        match query.limit {
            _ if query.encode() != *bytes || query.wait_ms > WAIT_MS_MAX => Err(Code::BodyMalformed),
            0 => Err(Code::CountZero),
            limit if limit > ITEMS_MAX => Err(Code::CountTooLarge),
            _ => Ok(query),
        }
    }
}

/// As of when an account is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountRequest {
    /// Which account.
    pub account: AccountId,
    /// As of after this record; 0 for no bound.
    pub sequence: Sequence,
    /// As of the end of this time, nanoseconds since 1970 UTC; 0 for no bound.
    pub time_ns: u64,
}

impl AccountRequest {
    /// Writes the body.
    pub fn encode(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        set::<0, 16>(&mut bytes, self.account.raw().to_le_bytes());
        set::<16, 8>(&mut bytes, self.sequence.to_le_bytes());
        set::<24, 8>(&mut bytes, self.time_ns.to_le_bytes());
        bytes
    }

    /// Reads the body.
    pub fn decode(body: &[u8]) -> Result<Self, Code> {
        let bytes: &[u8; 32] = body.try_into().map_err(|_length| Code::BodyMalformed)?;
        Ok(Self {
            account: AccountId::from_raw(u128::from_le_bytes(get::<0, 16>(bytes))),
            sequence: u64::from_le_bytes(get::<16, 8>(bytes)),
            time_ns: u64::from_le_bytes(get::<24, 8>(bytes)),
        })
    }
}

/// An account with what its limits leave, at one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountDetail {
    /// As of after this record.
    pub sequence: Sequence,
    /// The account; `None` when there is none.
    pub account: Option<BookAccount>,
    /// Limits on what it pays; none for a question about the past.
    pub limits: Vec<LimitUse>,
}

/// What would become of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedOutcome {
    /// Its code.
    pub code: Code,
    /// The limit that refuses it; empty when none does.
    pub limit: String,
}

/// What would happen, as of a sequence. Nothing was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// As of after this record.
    pub sequence: Sequence,
    /// One for each transfer of the request.
    pub outcomes: Vec<ExplainedOutcome>,
    /// The records that would be made, fees and reserves included.
    pub records: Vec<Record>,
    /// What the limits on the first transfer's payer have used, before it.
    pub limits: Vec<LimitUse>,
}

fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn padded(name: &str) -> [u8; LIMIT_NAME_BYTES] {
    let mut bytes = [0; LIMIT_NAME_BYTES];
    // Cut between letters.
    let end = (0..=name.len().min(LIMIT_NAME_BYTES)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    bytes.iter_mut().zip(name.bytes().take(end)).for_each(|(to, from)| *to = from);
    bytes
}

fn unpadded(bytes: &[u8]) -> String {
    let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn put_limit(out: &mut Vec<u8>, (name, used, most): &LimitUse) {
    let mut bytes = [0; LIMIT_BYTES];
    set::<0, LIMIT_NAME_BYTES>(&mut bytes, padded(name));
    set::<48, 16>(&mut bytes, used.0.to_le_bytes());
    set::<64, 16>(&mut bytes, most.0.unwrap_or(u128::MAX).to_le_bytes());
    set::<80, 4>(&mut bytes, used.1.to_le_bytes());
    set::<84, 4>(&mut bytes, most.1.unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&bytes);
}

fn read_limit(bytes: &[u8; LIMIT_BYTES]) -> LimitUse {
    let sum_max = u128::from_le_bytes(get::<64, 16>(bytes));
    let count_max = u32::from_le_bytes(get::<84, 4>(bytes));
    let used = (u128::from_le_bytes(get::<48, 16>(bytes)), u32::from_le_bytes(get::<80, 4>(bytes)));
    let most = (Some(sum_max).filter(|&max| max != u128::MAX), Some(count_max).filter(|&max| max != u32::MAX));
    (unpadded(&get::<0, LIMIT_NAME_BYTES>(bytes)), used, most)
}

/// Appends an `AccountDetail` body.
pub fn encode_detail(out: &mut Vec<u8>, detail: &AccountDetail) {
    out.extend_from_slice(&count_u32(detail.limits.len()).to_le_bytes());
    out.extend_from_slice(&u32::from(detail.account.is_some()).to_le_bytes());
    out.extend_from_slice(&detail.sequence.to_le_bytes());
    out.extend_from_slice(&encode_account(&detail.account.unwrap_or_default()));
    detail.limits.iter().for_each(|limit| put_limit(out, limit));
}

/// Reads an `AccountDetail` body.
pub fn decode_detail(body: &[u8]) -> Result<AccountDetail, Code> {
    let (header, rest) = body.split_first_chunk::<16>().ok_or(Code::BodyMalformed)?;
    let (account, limits) = rest.split_first_chunk::<ACCOUNT_STATE_BYTES>().ok_or(Code::BodyMalformed)?;
    let (limits, more) = limits.as_chunks::<LIMIT_BYTES>();
    if count_u32(limits.len()) != u32::from_le_bytes(get::<0, 4>(header)) || !more.is_empty() {
        return Err(Code::BodyMalformed);
    }
    Ok(AccountDetail {
        sequence: u64::from_le_bytes(get::<8, 8>(header)),
        account: (get::<4, 4>(header) != [0; 4]).then(|| decode_account(account)),
        limits: limits.iter().map(read_limit).collect(),
    })
}

/// Appends an `Explained` body.
pub fn encode_explained(out: &mut Vec<u8>, explained: &Explained) {
    out.extend_from_slice(&count_u32(explained.outcomes.len()).to_le_bytes());
    out.extend_from_slice(&count_u32(explained.records.len()).to_le_bytes());
    out.extend_from_slice(&explained.sequence.to_le_bytes());
    for outcome in &explained.outcomes {
        let mut bytes = [0; EXPLAINED_BYTES];
        set::<0, 2>(&mut bytes, outcome.code.number().to_le_bytes());
        set::<8, LIMIT_NAME_BYTES>(&mut bytes, padded(&outcome.limit));
        out.extend_from_slice(&bytes);
    }
    explained.records.iter().for_each(|record| out.extend_from_slice(&record.encode()));
    explained.limits.iter().for_each(|limit| put_limit(out, limit));
}

/// Reads an `Explained` body.
pub fn decode_explained(body: &[u8]) -> Result<Explained, Code> {
    let (header, rest) = body.split_first_chunk::<16>().ok_or(Code::BodyMalformed)?;
    let outcomes = size(u32::from_le_bytes(get::<0, 4>(header))).saturating_mul(EXPLAINED_BYTES);
    let records = size(u32::from_le_bytes(get::<4, 4>(header))).saturating_mul(RECORD_BYTES);
    let (outcomes, rest) = rest.split_at_checked(outcomes).ok_or(Code::BodyMalformed)?;
    let (records, limits) = rest.split_at_checked(records).ok_or(Code::BodyMalformed)?;
    let (limits, more) = limits.as_chunks::<LIMIT_BYTES>();
    if !more.is_empty() {
        return Err(Code::BodyMalformed);
    }
    let outcomes = outcomes.as_chunks::<EXPLAINED_BYTES>().0.iter().map(|bytes| {
        let code = Code::from_number(u16::from_le_bytes(get::<0, 2>(bytes))).ok_or(Code::BodyMalformed)?;
        Ok(ExplainedOutcome { code, limit: unpadded(&get::<8, LIMIT_NAME_BYTES>(bytes)) })
    });
    let records = records.as_chunks::<RECORD_BYTES>().0.iter();
    Ok(Explained {
        sequence: u64::from_le_bytes(get::<8, 8>(header)),
        outcomes: outcomes.collect::<Result<_, _>>()?,
        records: records
            .map(|bytes| Record::decode(bytes).map_err(|_unknown| Code::BodyMalformed))
            .collect::<Result<_, _>>()?,
        limits: limits.iter().map(read_limit).collect(),
    })
}

impl Query {
    /// Whether a record is one of those asked for, by gateway `own`.
    pub fn selects(&self, own: GatewayId, time_ns: u64, record: &Record) -> bool {
        let (transfer, gateway) = match record {
            Record::Transfer { transfer, gateway, .. } | Record::Internal { transfer, gateway } => (transfer, *gateway),
            Record::Account { account, gateway } => return self.selects_opening(own, time_ns, (account.id, *gateway)),
            _ => return false,
        };
        let sides = [transfer.debit.raw(), transfer.credit.raw()];
        let about = match self.kind {
            QueryKind::Entries => record.done().is_some() && sides.contains(&self.id),
            QueryKind::Reference => gateway == own && transfer.user_data_128 == self.id,
            QueryKind::Events if self.id != 0 => sides.contains(&self.id),
            QueryKind::Events => gateway == own,
            QueryKind::Life => transfer.id.raw() == self.id || transfer.related == self.id,
        };
        about
            && (self.counterparty == 0 || sides.contains(&self.counterparty))
            && self.code.is_none_or(|code| code == transfer.code)
            && self.is_within(time_ns)
    }

    fn is_within(&self, time_ns: u64) -> bool {
        time_ns >= self.time_min && (self.time_max == 0 || time_ns <= self.time_max)
    }

    fn selects_opening(&self, own: GatewayId, time_ns: u64, (account, gateway): (AccountId, GatewayId)) -> bool {
        let about = match self.kind {
            QueryKind::Events if self.id == 0 => gateway == own,
            QueryKind::Entries | QueryKind::Events => account.raw() == self.id,
            QueryKind::Reference | QueryKind::Life => false,
        };
        about && self.counterparty == 0 && self.code.is_none() && self.is_within(time_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{Transfer, TransferId};

    proptest! {
        #[test]
        fn queries_are_read_as_they_were_written(
            kind in 0..4_usize, wide in any::<[u128; 2]>(), mid in any::<[u64; 3]>(), limit in 1..=ITEMS_MAX,
            wait_ms in 0..=WAIT_MS_MAX, code in any::<Option<u16>>(), oldest_first in any::<bool>(),
        ) {
            let kind = [QueryKind::Entries, QueryKind::Life, QueryKind::Reference, QueryKind::Events][kind];
            let query = Query {
                kind, oldest_first, limit, wait_ms, from: mid[0], id: wide[0], counterparty: wide[1], time_min: mid[1],
                time_max: mid[2], code,
            };
            prop_assert_eq!(Query::decode(&query.encode()), Ok(query));
            let request = AccountRequest { account: AccountId::from_raw(wide[0]), sequence: mid[0], time_ns: mid[1] };
            prop_assert_eq!(AccountRequest::decode(&request.encode()), Ok(request));
        }

        #[test]
        fn answers_are_read_as_they_were_written(name in "[a-z ]{0,40}", used in any::<(u64, u32)>(), most in any::<(Option<u64>, Option<u16>)>()) {
            let limit: LimitUse = (name.clone(), (used.0.into(), used.1), (most.0.map(u128::from), most.1.map(u32::from)));
            for account in [None, Some(BookAccount { head: used.0, ..BookAccount::default() })] {
                let detail = AccountDetail { sequence: used.0, account, limits: vec![limit.clone(); 2] };
                let mut body = Vec::new();
                encode_detail(&mut body, &detail);
                prop_assert_eq!(decode_detail(&body), Ok(detail));
            }
            let transfer = Transfer { id: TransferId::from_raw(used.0.into()), ..Transfer::default() };
            let explained = Explained {
                sequence: used.0,
                outcomes: vec![ExplainedOutcome { code: Code::LimitExceeded, limit: name }],
                records: vec![Record::Internal { transfer, gateway: GatewayId(used.1) }; 3],
                limits: vec![limit],
            };
            let mut body = Vec::new();
            encode_explained(&mut body, &explained);
            prop_assert_eq!(decode_explained(&body), Ok(explained));
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..700), small in 0..3_u8) {
            let bytes = if bytes.len() > 8 { [&[small, 0, 0, 0, small, 0, 0, 0][..], &bytes[8..]].concat() } else { bytes };
            let _ = (Query::decode(&bytes), AccountRequest::decode(&bytes), decode_detail(&bytes), decode_explained(&bytes));
        }
    }

    #[test]
    fn bytes_without_a_meaning_are_refused() {
        let mut bytes = Query::new(QueryKind::Life, 5, 10).encode();
        bytes[90] = 1;
        assert_eq!(Query::decode(&bytes), Err(Code::BodyMalformed));
        let waits = Query { wait_ms: WAIT_MS_MAX + 1, ..Query::new(QueryKind::Events, 0, 10) };
        assert_eq!(Query::decode(&waits.encode()), Err(Code::BodyMalformed));
    }
}
