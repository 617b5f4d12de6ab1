//! Every parser of bytes that others made, each as a function of bytes that must come back: with a value or an error, in bounded memory, never by a panic.
//!
//! Used by the fuzz targets beside this file and by `tests/corpora.rs`. What is read must also be written as it was read, where there is a way to write it.

use std::io;
use std::sync::Arc;

use heng::backoffice::{read_answers, read_statements};
use heng::config::Settings;
use heng::journal::{Disk, GroupHeader, JournalReader, recover};
use heng::ledger::{NewAccount, Policy, RECORD_BYTES, Record, Transfer};
use heng::protocol::{
    AccountRequest, FRAME_HEADER_BYTES, FrameHeader, Hello, HistoryRequest, Kind, ListRequest, Query, TransferPieces,
    Welcome, decode_accounts, decode_detail, decode_error, decode_explained, decode_ids, decode_new_accounts,
    decode_outcomes, decode_stored, decode_transfers, encode_frame, encode_ids, encode_new_accounts, encode_transfers,
};
use heng::store::Checkpoint;

/// A parser by its name.
pub(crate) type Parser = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const PARSERS: &[Parser] = &[
    ("frame", frame),
    ("handshake", handshake),
    ("requests", requests),
    ("answers", answers),
    ("journal", journal),
    ("checkpoint", checkpoint),
    ("camt053", camt053),
    ("mt940", mt940),
    ("statement_csv", statement_csv),
    ("bank_answer", bank_answer),
    ("policy", policy),
    ("configuration", configuration),
];

/// What a connection sends: headers and bodies, one after the other.
pub(crate) fn frame(mut bytes: &[u8]) {
    while let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let Ok(header) = FrameHeader::decode(head) else { return };
        assert_eq!(&header.encode(), head, "a header is written as it was read");
        let Some((body, rest)) = usize::try_from(header.body_bytes).ok().and_then(|end| rest.split_at_checked(end))
        else {
            return;
        };
        let _matches = header.matches(body);
        bytes = rest;
    }
}

/// The first frames of both sides.
pub(crate) fn handshake(bytes: &[u8]) {
    if let Ok(hello) = Hello::decode(bytes) {
        assert!(hello.encode().is_some(), "{hello:?}");
    }
    let _welcome = Welcome::decode(bytes);
}

/// A body that comes in two pieces is read like one that comes whole.
fn as_if_whole(body: &[u8]) {
    let mut whole = Vec::new();
    let expected = decode_transfers(body, &mut whole).map(|_| whole);
    let mut pieces = TransferPieces::new(body.len());
    let read = pieces.read(body.get(..body.len() / 2).unwrap_or_default());
    pieces.read(body.get(read..).unwrap_or_default());
    let mut frame = Vec::new();
    encode_frame(&mut frame, Kind::SubmitTransfers, 1, body);
    let Some(Ok(header)) = frame.first_chunk().map(FrameHeader::decode) else { return };
    assert_eq!(pieces.finish(header.body_crc).map(|(transfers, _ids)| transfers), expected);
}

/// Bodies of requests; the first byte says which.
pub(crate) fn requests(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let mut again = Vec::new();
    match kind % 7 {
        0 => {
            let mut transfers: Vec<Transfer> = Vec::new();
            if decode_transfers(body, &mut transfers).is_ok() {
                encode_transfers(&mut again, transfers.iter());
                assert_eq!(again, body);
                let _checked: Vec<_> = transfers.iter().map(Transfer::check).collect();
            }
            as_if_whole(body);
        }
        1 => {
            if let Ok(accounts) = decode_new_accounts(body) {
                encode_new_accounts(&mut again, &accounts);
                assert_eq!(again.len(), body.len());
                let _checked: Vec<_> = accounts.iter().map(NewAccount::check).collect();
            }
        }
        2 => {
            if let Ok(ids) = decode_ids(body) {
                encode_ids(&mut again, ids.into_iter());
                assert_eq!(again, body);
            }
        }
        3 => drop(HistoryRequest::decode(body)),
        4 => drop(ListRequest::decode(body)),
        5 => drop(Query::decode(body)),
        _ => drop(AccountRequest::decode(body)),
    }
}

/// Bodies of answers, as a client reads them; the first byte says which.
pub(crate) fn answers(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 6 {
        0 => drop(decode_outcomes(body)),
        1 => drop(decode_accounts(body)),
        2 => drop(decode_stored(body)),
        3 => drop(decode_detail(body)),
        4 => drop(decode_explained(body)),
        _ => drop(decode_error(body)),
    }
}

/// One segment of these bytes, which can only be read.
#[derive(Debug)]
struct OneSegment(Vec<u8>);

impl Disk for OneSegment {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(vec![1])
    }
    fn create(&self, _: u64, _: u64, _: &dyn Fn(u64)) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    }
    fn size(&self, _: u64) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn read_at(&self, _: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
    fn write_at(&self, _: u64, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
    fn cool(&self, _: u64, _: std::ops::Range<u64>) {}
    fn name(&self, number: u64) -> String {
        format!("segment {number}")
    }
}

/// A journal segment, its groups and their records, walked and read one by one.
pub(crate) fn journal(bytes: &[u8]) {
    let _header = GroupHeader::decode(bytes);
    for record in bytes.as_chunks::<RECORD_BYTES>().0 {
        if let Ok(read) = Record::decode(record) {
            // What does not matter to a kind of record is not kept.
            assert_eq!(Record::decode(&read.encode()).ok(), Some(read));
        }
    }
    let disk: Arc<dyn Disk> = Arc::new(OneSegment(bytes.to_vec()));
    let reader = JournalReader::new(Arc::clone(&disk));
    let mut last = 0;
    let walked = recover(&disk, &reader, (1, 0), &mut |header, body| {
        assert_eq!(header.body_bytes(), body.len());
        last = header.next_sequence();
        Ok(())
    });
    for sequence in (0..4).chain(last.saturating_sub(2)..last.saturating_add(2)) {
        let _read = reader.read(sequence);
    }
    // `last` is the first that is not there.
    let mut shown = 0;
    let scanned = reader.scan(1, last.saturating_sub(1).min(10_000), &mut |_| {
        shown += 1;
        true
    });
    assert!(walked.is_err() || scanned.is_ok_and(|next| next == shown + 1));
}

/// What a checkpoint says of itself, from the store.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let decoded = bincode::serde::decode_from_slice::<Checkpoint, _>(bytes, bincode::config::legacy());
    if let Ok((checkpoint, _)) = decoded {
        // Not the same bytes: these may have had a key of a map twice. What was written once is written so again.
        let written = bincode::serde::encode_to_vec(&checkpoint, bincode::config::legacy());
        let Ok(written) = written else { return };
        let again = bincode::serde::decode_from_slice::<Checkpoint, _>(&written, bincode::config::legacy());
        let Ok((again, read)) = again else { panic!("what was written cannot be read") };
        assert_eq!(read, written.len());
        assert_eq!(bincode::serde::encode_to_vec(&again, bincode::config::legacy()).ok(), Some(written));
    }
}

/// A bank statement in camt.053, which begins like XML.
pub(crate) fn camt053(bytes: &[u8]) {
    let _read = read_statements(&[b"<", bytes].concat(), None, 2);
}

/// A bank statement in MT940, which begins with a tag.
pub(crate) fn mt940(bytes: &[u8]) {
    let _read = read_statements(&[b":20:", bytes].concat(), None, 2);
}

const MAPPINGS: &str = r#"
statement_csv = [
    { name = "plain", date = "day", amount = "amount", reference = "reference" },
    { name = "german", separator = ";", decimal = ",", skip_lines = 1, date_format = "%d.%m.%Y", date = "Buchung", debit = "Soll", credit = "Haben" },
]
"#;

/// A bank statement by a mapping of the policy; the first byte says which.
pub(crate) fn statement_csv(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    let Ok(policy) = Policy::parse(MAPPINGS) else { return };
    let mappings = policy.csv_mappings();
    let _read = read_statements(rest, mappings.get(usize::from(*which) % mappings.len().max(1)), 2);
}

/// What a bank says of payouts: pain.002 or CSV.
pub(crate) fn bank_answer(bytes: &[u8]) {
    let _read = read_answers(bytes);
}

/// A policy.
pub(crate) fn policy(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _parsed = Policy::parse(text);
    }
}

/// The configuration file.
pub(crate) fn configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(settings) = toml::from_str::<Settings>(text)
    {
        let _resolved = settings.resolve();
    }
}
