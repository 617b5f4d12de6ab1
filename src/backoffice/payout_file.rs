//! Payout files for the bank: ISO 20022 pain.001.001.09 or CSV, each with a manifest that has its totals and its hash.
//!
//! A file is written under another name, synced and renamed, so that it is there wholly or not at all. Its name and its message id follow from
//! the journal, so that a bank takes it once. One that is there and right is never written over: somebody may have handed it in. One that is
//! written again has the banks that participants have now, and nothing that the bank has refused: that money is back and is paid by a later window.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use serde::{Deserialize, Serialize};

use super::calendar::{date_of, iso_time};
use super::kept_files;
use super::ports::Trouble;
use super::settle::Settling;
use crate::journal::{replace_file, sync_directory};
use crate::ledger::{Participant, PayoutEntry, PayoutFormat, PayoutState, Window};

/// A payout file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PayoutFile {
    /// Where it is.
    pub(super) path: PathBuf,
    /// How many payouts are in it.
    pub(super) count: usize,
    /// Their sum, minor units.
    pub(super) sum: u128,
}

/// What stands beside a payout file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// BLAKE3 of the file's bytes, hexadecimal.
    pub(super) blake3: String,
    /// How many payouts are in it.
    pub(super) count: usize,
    /// Its name.
    pub(super) file: String,
    /// Their sum.
    pub(super) sum_minor_units: String,
}

impl Manifest {
    fn bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads one; none unless it is as it was written, to the byte.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|manifest: &Self| manifest.bytes() == bytes)
    }
}

/// A payout and to whom.
struct Line<'a> {
    payout: &'a PayoutEntry,
    participant: &'a Participant,
}

/// Writes the payouts of a window for its bank, and what is to be collected as CSV; none when there is nothing to pay or to collect.
pub(super) fn write_payouts(
    directory: &Path,
    settling: Settling<'_>,
    payouts: &[PayoutEntry],
) -> Result<Vec<PayoutFile>, Trouble> {
    let participants: BTreeMap<u32, &Participant> =
        settling.snapshot.participants.iter().map(|participant| (participant.id, participant)).collect();
    let line = |payout: &'_ PayoutEntry| participants.get(&payout.participant).copied();
    let is_to_pay = |payout: &&PayoutEntry| !matches!(payout.state, PayoutState::Rejected | PayoutState::Returned);
    let mut lines: Vec<Line<'_>> = payouts
        .iter()
        .filter(is_to_pay)
        .filter_map(|payout| Some(Line { payout, participant: line(payout)? }))
        .collect();
    lines.sort_by_key(|line| (line.payout.participant, line.payout.counterparty));
    let window = settling.window;
    let day = date_of(window.settlement_day);
    let name = format!("{}-{:05}-{:06}-{day}", settling.scheme.name, window.scheme, window.number);
    let all = payouts;
    let (collections, payouts): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.payout.is_collection);
    let mut files = Vec::new();
    if !collections.is_empty() {
        let path = directory.join(format!("{name}-collections.csv"));
        files.push(write_file(path, &csv_file(settling, &collections), (&collections, all))?);
    }
    // Who has no account number at a bank is paid by other means; the payout stays issued until someone confirms it.
    let payable: Vec<_> = payouts.into_iter().filter(|line| !line.participant.iban.is_empty()).collect();
    if !payable.is_empty() {
        let (path, bytes) = match settling.scheme.payout_format {
            PayoutFormat::Csv => (directory.join(format!("{name}.csv")), csv_file(settling, &payable)),
            PayoutFormat::Pain001 => (directory.join(format!("{name}.xml")), pain_001(settling, &payable)),
        };
        files.push(write_file(path, &bytes, (&payable, all))?);
    }
    Ok(files)
}

/// Writes a file and then its manifest, unless they are there and say what the payouts of their window say.
fn write_file(path: PathBuf, bytes: &[u8], (lines, all): (&[Line<'_>], &[PayoutEntry])) -> Result<PayoutFile, Trouble> {
    if let Some((count, sum)) = kept_files::right(&path, all) {
        sync_whole(&path)?;
        sync_whole(&path.with_extension("manifest.json"))?;
        return Ok(PayoutFile { path, count, sum });
    }
    let (count, sum) = (lines.len(), sum_of(lines));
    let manifest = Manifest {
        blake3: blake3::hash(bytes).to_hex().to_string(),
        count,
        file: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        sum_minor_units: sum.to_string(),
    };
    write_whole(&path, bytes)?;
    write_whole(&path.with_extension("manifest.json"), &manifest.bytes())?;
    Ok(PayoutFile { path, count, sum })
}

fn sum_of(lines: &[Line<'_>]) -> u128 {
    lines.iter().fold(0, |sum, line| line.payout.amount.saturating_add(sum))
}

/// Puts a file in its place, durably, wholly or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Trouble> {
    let trouble = |source| Trouble::File { path: path.to_owned(), source };
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || {
        if fs::read(path).is_ok_and(|known| known == bytes) {
            return make_durable(path);
        }
        fs::create_dir_all(directory)?;
        replace_file(path, bytes)?;
        // It may have been made for it.
        directory.parent().map_or(Ok(()), sync_directory)
    };
    write().map_err(trouble)
}

/// Makes sure of a file that is there: it may have been renamed by a process that was killed before that was durable.
fn sync_whole(path: &Path) -> Result<(), Trouble> {
    make_durable(path).map_err(|source| Trouble::File { path: path.to_owned(), source })
}

fn make_durable(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_names(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable, and its own, because it may have been made for them.
fn sync_names(directory: &Path) -> io::Result<()> {
    sync_directory(directory)?;
    directory.parent().map_or(Ok(()), sync_directory)
}

/// An amount in major units with a point, whatever the currency.
pub(super) fn decimal(minor_units: u128, places: u32) -> String {
    let digits = format!("{minor_units:0>width$}", width = usize::try_from(places).unwrap_or(0).saturating_add(1));
    let (major, minor) = digits.split_at(digits.len().saturating_sub(usize::try_from(places).unwrap_or(0)));
    if minor.is_empty() { major.to_owned() } else { format!("{major}.{minor}") }
}

fn csv_file(settling: Settling<'_>, lines: &[Line<'_>]) -> Vec<u8> {
    let (currency, places) = currency(settling);
    let day = date_of(settling.window.settlement_day).to_string();
    let header = [
        "payout_id",
        "direction",
        "execution_date",
        "participant",
        "name",
        "iban",
        "bic",
        "amount_minor_units",
        "amount",
        "currency",
        "reference",
    ];
    let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let mut write = |fields: &[String]| {
        // A vector takes everything.
        let _written = out.write_record(fields);
    };
    write(&header.map(str::to_owned));
    for Line { payout, participant } in lines {
        let direction = if payout.is_collection { "collection" } else { "payout" };
        write(&[
            reference(payout),
            direction.to_owned(),
            day.clone(),
            participant.id.to_string(),
            guarded(&participant.name),
            participant.iban.clone(),
            participant.bic.clone(),
            payout.amount.to_string(),
            decimal(payout.amount, places),
            currency.clone(),
            remittance(settling),
        ]);
    }
    out.into_inner().unwrap_or_default()
}

/// A text that no spreadsheet takes for a formula; a number stays as it is.
pub(super) fn guarded(text: &str) -> String {
    let is_number = text.parse::<i128>().is_ok();
    let is_formula = !is_number && text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if is_formula { format!("'{text}") } else { text.to_owned() }
}

/// The end-to-end reference of a payout: its id in hexadecimal, 32 digits.
pub(super) fn reference(payout: &PayoutEntry) -> String {
    format!("{:032x}", payout.id.raw())
}

/// What a payout file is called at the bank: scheme, window, and the beginning of the window's digest, so that no other ledger and no other
/// scheme of the same name has it.
pub(super) fn message_id(window: &Window) -> String {
    let [a, b, c, d, ..] = window.digest;
    format!("{:05}-{:06}-{:08x}", window.scheme, window.number, u32::from_be_bytes([a, b, c, d]))
}

fn remittance(settling: Settling<'_>) -> String {
    format!("{} window {}", settling.scheme.name, settling.window.number)
}

fn currency(settling: Settling<'_>) -> (String, u32) {
    let (policy, number) = (&settling.snapshot.policy, settling.scheme.currency);
    (policy.currency_code(number).unwrap_or("XXX").to_owned(), policy.exponent(number).unwrap_or(0))
}

/// XML being written into memory, which cannot fail.
struct Xml(Writer<Vec<u8>>);

impl Xml {
    fn text(&mut self, name: &str, text: &str) {
        let _written = self.0.create_element(name).write_text_content(BytesText::new(text));
    }

    fn attributed(&mut self, name: &str, attribute: (&str, &str), text: &str) {
        let element = self.0.create_element(name).with_attribute(attribute);
        let _written = element.write_text_content(BytesText::new(text));
    }

    fn within(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.within_attributed(name, None, write);
    }

    fn within_attributed(&mut self, name: &str, attribute: Option<(&str, &str)>, write: impl FnOnce(&mut Self)) {
        let mut start = quick_xml::events::BytesStart::new(name);
        start.extend_attributes(attribute);
        let end = start.to_end().into_owned();
        let _opened = self.0.write_event(Event::Start(start));
        write(self);
        let _closed = self.0.write_event(Event::End(end));
    }

    fn agent(&mut self, name: &str, bic: &str) {
        self.within(name, |xml| {
            xml.within("FinInstnId", |xml| {
                if bic.is_empty() {
                    xml.within("Othr", |xml| xml.text("Id", "NOTPROVIDED"));
                } else {
                    xml.text("BICFI", bic);
                }
            });
        });
    }

    fn account(&mut self, name: &str, iban: &str) {
        self.within(name, |xml| xml.within("Id", |xml| xml.text("IBAN", iban)));
    }
}

/// A customer credit transfer initiation with one payment information block.
fn pain_001(settling: Settling<'_>, lines: &[Line<'_>]) -> Vec<u8> {
    const NAMESPACE: &str = "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09";
    let (currency, places) = currency(settling);
    let id = message_id(settling.window);
    let (count, sum) = (lines.len().to_string(), decimal(sum_of(lines), places));
    let payer = &settling.scheme.payer;
    let mut xml = Xml(Writer::new_with_indent(Vec::new(), b' ', 1));
    let _declared = xml.0.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
    xml.within_attributed("Document", Some(("xmlns", NAMESPACE)), |xml| {
        xml.within("CstmrCdtTrfInitn", |xml| {
            xml.within("GrpHdr", |xml| {
                xml.text("MsgId", &id);
                xml.text("CreDtTm", &iso_time(settling.window.closed_ns));
                xml.text("NbOfTxs", &count);
                xml.text("CtrlSum", &sum);
                xml.within("InitgPty", |xml| xml.text("Nm", &payer.name));
            });
            xml.within("PmtInf", |xml| {
                xml.text("PmtInfId", &id);
                xml.text("PmtMtd", "TRF");
                xml.text("BtchBookg", "false");
                xml.text("NbOfTxs", &count);
                xml.text("CtrlSum", &sum);
                if currency == "EUR" {
                    xml.within("PmtTpInf", |xml| xml.within("SvcLvl", |xml| xml.text("Cd", "SEPA")));
                }
                let day = date_of(settling.window.settlement_day).to_string();
                xml.within("ReqdExctnDt", |xml| xml.text("Dt", &day));
                xml.within("Dbtr", |xml| xml.text("Nm", &payer.name));
                xml.account("DbtrAcct", &payer.iban);
                xml.agent("DbtrAgt", &payer.bic);
                xml.text("ChrgBr", "SLEV");
                for line in lines {
                    credit_transfer(xml, (&currency, places), line, &remittance(settling));
                }
            });
        });
    });
    let mut bytes = xml.0.into_inner();
    bytes.push(b'\n');
    bytes
}

fn credit_transfer(xml: &mut Xml, (currency, places): (&str, u32), line: &Line<'_>, remittance: &str) {
    let Line { payout, participant } = line;
    let id = reference(payout);
    xml.within("CdtTrfTxInf", |xml| {
        xml.within("PmtId", |xml| {
            xml.text("InstrId", &id);
            xml.text("EndToEndId", &id);
        });
        xml.within("Amt", |xml| {
            xml.attributed("InstdAmt", ("Ccy", currency), &decimal(payout.amount, places));
        });
        if !participant.bic.is_empty() {
            xml.agent("CdtrAgt", &participant.bic);
        }
        xml.within("Cdtr", |xml| xml.text("Nm", &participant.name));
        xml.account("CdtrAcct", &participant.iban);
        xml.within("RmtInf", |xml| xml.text("Ustrd", remittance));
    });
}
