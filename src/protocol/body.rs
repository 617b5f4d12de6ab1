//! The bodies of requests and answers.
//!
//! Lists begin with a header of eight bytes (count, reserved) in requests and sixteen (count, reserved, sequence or cursor) in
//! answers, and the length of the body must be exactly what the count says.

use super::ITEMS_MAX;
use crate::ledger::{
    AccountFlags, AccountId, AccountState as State, BookAccount as AccountState, Code, NewAccount, Outcome,
    RECORD_BYTES, Record, Sequence, StoredRecord, TRANSACTION_MAX, Totals, Transfer, get, set,
};

/// Bytes before the items of a request.
pub const ITEMS_HEADER_BYTES: usize = 8;
/// Bytes before the items of an answer.
const ANSWER_HEADER_BYTES: usize = 16;
/// Bytes of an outcome.
pub const OUTCOME_BYTES: usize = 24;
/// Bytes of an account in an answer.
pub const ACCOUNT_STATE_BYTES: usize = 144;
/// Bytes of a transfer in an answer: its record, sequence and time.
pub const STORED_BYTES: usize = RECORD_BYTES + 16;

/// Which page of an account's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRequest {
    /// Which account.
    pub account: AccountId,
    /// The sequence of the first entry wanted: a cursor from the page before, or 0 for the newest.
    pub from: Sequence,
    /// At most so many entries.
    pub limit: u32,
}

/// Which page of the accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// The first one's number in order of opening, from 0.
    pub from: u32,
    /// At most so many.
    pub limit: u32,
}

fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Splits a request's body into items of `N` bytes.
fn items<const N: usize>(body: &[u8]) -> Result<&[[u8; N]], Code> {
    let (header, rest) = body.split_first_chunk::<ITEMS_HEADER_BYTES>().ok_or(Code::BodyMalformed)?;
    count_of::<N>(*header, rest.len())?;
    Ok(rest.as_chunks::<N>().0)
}

/// The number of items of `N` bytes in a request's body that goes on for so many bytes after its header.
pub(super) fn count_of<const N: usize>(header: [u8; ITEMS_HEADER_BYTES], bytes: usize) -> Result<usize, Code> {
    let count = u32::from_le_bytes(get::<0, 4>(&header));
    if get::<4, 4>(&header) != [0; 4] {
        return Err(Code::BodyMalformed);
    }
    if count == 0 {
        return Err(Code::CountZero);
    }
    if count > ITEMS_MAX {
        return Err(Code::CountTooLarge);
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count.saturating_mul(N) == bytes { Ok(count) } else { Err(Code::BodyMalformed) }
}

/// Splits an answer's body into the number in its header and items of `N` bytes.
fn answer_items<const N: usize>(body: &[u8]) -> Result<(u64, &[[u8; N]]), Code> {
    let (header, rest) = body.split_first_chunk::<ANSWER_HEADER_BYTES>().ok_or(Code::BodyMalformed)?;
    let (items, remainder) = rest.as_chunks::<N>();
    if u32::from_le_bytes(get::<0, 4>(header)) != count_u32(items.len()) || !remainder.is_empty() {
        return Err(Code::BodyMalformed);
    }
    Ok((u64::from_le_bytes(get::<8, 8>(header)), items))
}

fn put_items_header(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&count_u32(count).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn put_answer_header(out: &mut Vec<u8>, count: usize, number: u64) {
    put_items_header(out, count);
    out.extend_from_slice(&number.to_le_bytes());
}

/// Appends a `SubmitTransfers` body.
pub fn encode_transfers<'a>(out: &mut Vec<u8>, transfers: impl ExactSizeIterator<Item = &'a Transfer>) {
    put_items_header(out, transfers.len());
    transfers.for_each(|transfer| out.extend_from_slice(&transfer.encode()));
}

/// Reads a `SubmitTransfers` body. The place of the outcome must be zero; a transfer where it is not is malformed.
pub fn decode_transfers(body: &[u8], out: &mut Vec<Transfer>) -> Result<usize, Code> {
    let items = items::<RECORD_BYTES>(body)?;
    let first = out.len();
    out.extend(transfers_of(items)?);
    let checked = check_transactions(out.get(first..).unwrap_or_default());
    if checked.is_err() {
        out.truncate(first);
    }
    checked.map(|()| items.len())
}

/// These transfers, if the places of their outcomes are empty.
pub(super) fn transfers_of(items: &[[u8; RECORD_BYTES]]) -> Result<impl Iterator<Item = Transfer>, Code> {
    if items.iter().any(|item| get::<0, 8>(item) != [0; 8]) {
        return Err(Code::BodyMalformed);
    }
    Ok(items.iter().map(Transfer::decode))
}

/// No transaction may be open at the end of a request, or be too long: the whole request is refused then.
pub fn check_transactions(transfers: &[Transfer]) -> Result<(), Code> {
    let mut linked = Linked::default();
    for transfer in transfers {
        linked.next(transfer);
    }
    linked.end()
}

/// The transactions of a request, transfer by transfer.
#[derive(Debug, Default)]
pub(super) struct Linked {
    /// Transfers of the one that is open.
    open: usize,
    is_too_long: bool,
}

impl Linked {
    pub(super) fn next(&mut self, transfer: &Transfer) {
        self.open = if transfer.is_linked() { self.open.saturating_add(1) } else { 0 };
        self.is_too_long |= self.open >= TRANSACTION_MAX;
    }

    /// What is wrong with them.
    pub(super) fn end(self) -> Result<(), Code> {
        if self.open > 0 {
            Err(Code::TransactionOpen)
        } else if self.is_too_long {
            Err(Code::TransactionTooLong)
        } else {
            Ok(())
        }
    }
}

/// Appends an `OpenAccounts` body.
pub fn encode_new_accounts(out: &mut Vec<u8>, accounts: &[NewAccount]) {
    put_items_header(out, accounts.len());
    for account in accounts {
        out.extend_from_slice(&account.encode());
    }
}

/// Reads an `OpenAccounts` body. Bytes without a meaning must be zero.
pub fn decode_new_accounts(body: &[u8]) -> Result<Vec<NewAccount>, Code> {
    let accounts = items::<RECORD_BYTES>(body)?.iter().map(|item| {
        let account = NewAccount::decode(item);
        if account.encode() == *item { Ok(account) } else { Err(Code::BodyMalformed) }
    });
    accounts.collect()
}

/// Appends a `TransferOutcomes` or `AccountOutcomes` body.
pub fn encode_outcomes(out: &mut Vec<u8>, outcomes: &[Outcome]) {
    put_answer_header(out, outcomes.len(), 0);
    for outcome in outcomes {
        let mut bytes = [0; OUTCOME_BYTES];
        set::<0, 2>(&mut bytes, outcome.code.number().to_le_bytes());
        set::<2, 2>(&mut bytes, u16::from(outcome.repeated).to_le_bytes());
        set::<8, 8>(&mut bytes, outcome.sequence.to_le_bytes());
        set::<16, 8>(&mut bytes, outcome.time_ns.to_le_bytes());
        out.extend_from_slice(&bytes);
    }
}

/// Reads a `TransferOutcomes` or `AccountOutcomes` body.
pub fn decode_outcomes(body: &[u8]) -> Result<Vec<Outcome>, Code> {
    let (_, items) = answer_items::<OUTCOME_BYTES>(body)?;
    let outcomes = items.iter().map(|bytes| {
        Ok(Outcome {
            code: Code::from_number(u16::from_le_bytes(get::<0, 2>(bytes))).ok_or(Code::BodyMalformed)?,
            repeated: get::<2, 2>(bytes) != [0; 2],
            sequence: u64::from_le_bytes(get::<8, 8>(bytes)),
            time_ns: u64::from_le_bytes(get::<16, 8>(bytes)),
        })
    });
    outcomes.collect()
}

/// Appends a `GetAccounts` or `GetTransfers` body.
pub fn encode_ids(out: &mut Vec<u8>, ids: impl ExactSizeIterator<Item = u128>) {
    put_items_header(out, ids.len());
    ids.for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
}

/// Reads a `GetAccounts` or `GetTransfers` body.
pub fn decode_ids(body: &[u8]) -> Result<Vec<u128>, Code> {
    Ok(items::<16>(body)?.iter().map(|bytes| u128::from_le_bytes(*bytes)).collect())
}

/// Appends an `Accounts` or `AccountPage` body, as of a sequence.
pub fn encode_accounts(out: &mut Vec<u8>, sequence: Sequence, accounts: &[AccountState]) {
    put_answer_header(out, accounts.len(), sequence);
    for account in accounts {
        out.extend_from_slice(&encode_account(account));
    }
}

/// Writes an account.
pub(super) fn encode_account(account: &AccountState) -> [u8; ACCOUNT_STATE_BYTES] {
    let mut bytes = [0; ACCOUNT_STATE_BYTES];
    let properties = &account.properties;
    set::<0, 16>(&mut bytes, properties.id.raw().to_le_bytes());
    set::<16, 16>(&mut bytes, account.totals.debits_posted.to_le_bytes());
    set::<32, 16>(&mut bytes, account.totals.credits_posted.to_le_bytes());
    set::<48, 16>(&mut bytes, properties.user_data_128.to_le_bytes());
    set::<64, 8>(&mut bytes, properties.user_data_64.to_le_bytes());
    set::<72, 8>(&mut bytes, account.opened_ns.to_le_bytes());
    set::<80, 8>(&mut bytes, account.head.to_le_bytes());
    set::<88, 4>(&mut bytes, properties.user_data_32.to_le_bytes());
    set::<92, 2>(&mut bytes, properties.currency.to_le_bytes());
    set::<94, 2>(&mut bytes, properties.code.to_le_bytes());
    set::<96, 2>(&mut bytes, properties.flags.0.to_le_bytes());
    set::<98, 3>(&mut bytes, [properties.class, properties.level, account.state.number()]);
    set::<104, 8>(&mut bytes, u64::try_from(properties.overdraft).unwrap_or(u64::MAX).to_le_bytes());
    set::<112, 16>(&mut bytes, account.totals.debits_pending.to_le_bytes());
    set::<128, 16>(&mut bytes, account.totals.credits_pending.to_le_bytes());
    bytes
}

/// Reads an `Accounts` or `AccountPage` body.
pub fn decode_accounts(body: &[u8]) -> Result<(Sequence, Vec<AccountState>), Code> {
    let (sequence, items) = answer_items::<ACCOUNT_STATE_BYTES>(body)?;
    Ok((sequence, items.iter().map(decode_account).collect()))
}

/// Reads an account.
pub(super) fn decode_account(bytes: &[u8; ACCOUNT_STATE_BYTES]) -> AccountState {
    AccountState {
        properties: NewAccount {
            id: AccountId::from_raw(u128::from_le_bytes(get::<0, 16>(bytes))),
            user_data_128: u128::from_le_bytes(get::<48, 16>(bytes)),
            user_data_64: u64::from_le_bytes(get::<64, 8>(bytes)),
            user_data_32: u32::from_le_bytes(get::<88, 4>(bytes)),
            currency: u16::from_le_bytes(get::<92, 2>(bytes)),
            code: u16::from_le_bytes(get::<94, 2>(bytes)),
            flags: AccountFlags(u16::from_le_bytes(get::<96, 2>(bytes))),
            class: u8::from_le_bytes(get::<98, 1>(bytes)),
            level: u8::from_le_bytes(get::<99, 1>(bytes)),
            overdraft: u128::from(u64::from_le_bytes(get::<104, 8>(bytes))),
        },
        state: State::from_number(u8::from_le_bytes(get::<100, 1>(bytes))).unwrap_or_default(),
        totals: Totals {
            debits_posted: u128::from_le_bytes(get::<16, 16>(bytes)),
            credits_posted: u128::from_le_bytes(get::<32, 16>(bytes)),
            debits_pending: u128::from_le_bytes(get::<112, 16>(bytes)),
            credits_pending: u128::from_le_bytes(get::<128, 16>(bytes)),
        },
        opened_ns: u64::from_le_bytes(get::<72, 8>(bytes)),
        head: u64::from_le_bytes(get::<80, 8>(bytes)),
    }
}

/// Appends a `Transfers` or `History` body; `cursor` is what to ask for next, 0 at the end.
pub fn encode_stored(out: &mut Vec<u8>, cursor: u64, records: &[StoredRecord]) {
    put_answer_header(out, records.len(), cursor);
    for stored in records {
        out.extend_from_slice(&stored.record.encode());
        out.extend_from_slice(&stored.sequence.to_le_bytes());
        out.extend_from_slice(&stored.time_ns.to_le_bytes());
    }
}

/// Reads a `Transfers` or `History` body: cursor and records.
pub fn decode_stored(body: &[u8]) -> Result<(u64, Vec<StoredRecord>), Code> {
    let (cursor, items) = answer_items::<STORED_BYTES>(body)?;
    let records = items.iter().map(|bytes| {
        Ok(StoredRecord {
            record: Record::decode(&get::<0, RECORD_BYTES>(bytes)).map_err(|_unknown| Code::BodyMalformed)?,
            sequence: u64::from_le_bytes(get::<128, 8>(bytes)),
            time_ns: u64::from_le_bytes(get::<136, 8>(bytes)),
        })
    });
    Ok((cursor, records.collect::<Result<_, _>>()?))
}

/// Appends an `Error` body.
pub fn encode_error(out: &mut Vec<u8>, code: Code, text: &str) {
    out.extend_from_slice(&code.number().to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&count_u32(text.len()).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Reads an `Error` body: code and a text for people.
pub fn decode_error(body: &[u8]) -> Result<(Code, String), Code> {
    let (header, text) = body.split_first_chunk::<8>().ok_or(Code::BodyMalformed)?;
    let code = Code::from_number(u16::from_le_bytes(get::<0, 2>(header))).ok_or(Code::BodyMalformed)?;
    if u32::from_le_bytes(get::<4, 4>(header)) != count_u32(text.len()) {
        return Err(Code::BodyMalformed);
    }
    Ok((code, String::from_utf8_lossy(text).into_owned()))
}

impl HistoryRequest {
    /// Bytes of the body.
    pub const BYTES: usize = 32;

    /// Writes the body.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        set::<0, 16>(&mut bytes, self.account.raw().to_le_bytes());
        set::<16, 8>(&mut bytes, self.from.to_le_bytes());
        set::<24, 4>(&mut bytes, self.limit.to_le_bytes());
        bytes
    }

    /// Reads the body.
    pub fn decode(body: &[u8]) -> Result<Self, Code> {
        if body.len() != Self::BYTES || get::<28, 4>(body) != [0; 4] {
            return Err(Code::BodyMalformed);
        }
        let limit = check_limit(u32::from_le_bytes(get::<24, 4>(body)))?;
        let account = AccountId::from_raw(u128::from_le_bytes(get::<0, 16>(body)));
        Ok(Self { account, from: u64::from_le_bytes(get::<16, 8>(body)), limit })
    }
}

impl ListRequest {
    /// Bytes of the body.
    pub const BYTES: usize = 8;

    /// Writes the body.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        set::<0, 4>(&mut bytes, self.from.to_le_bytes());
        set::<4, 4>(&mut bytes, self.limit.to_le_bytes());
        bytes
    }

    /// Reads the body.
    pub fn decode(body: &[u8]) -> Result<Self, Code> {
        if body.len() != Self::BYTES {
            return Err(Code::BodyMalformed);
        }
        let limit = check_limit(u32::from_le_bytes(get::<4, 4>(body)))?;
        Ok(Self { from: u32::from_le_bytes(get::<0, 4>(body)), limit })
    }
}

fn check_limit(limit: u32) -> Result<u32, Code> {
    match limit {
        0 => Err(Code::CountZero),
        limit if limit > ITEMS_MAX => Err(Code::CountTooLarge),
        limit => Ok(limit),
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
