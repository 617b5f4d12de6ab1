//! ISO 20022 camt.053, whatever its version and its bank's dialect: names are read without their namespaces, and a path's end counts.
//!
//! An entry that stands for several transactions with amounts of their own which add up to it becomes a line for each.

use jiff::civil::Date;
use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};

use super::{ReadStatements, Statement, StatementLine, plain_minor_units};
use crate::backoffice::calendar::day_number;

/// Elements within elements in a camt.053 file, and more.
const DEPTH_MAX: usize = 64;

/// What has been read of an entry or of a transaction in it.
#[derive(Debug, Default)]
struct Part {
    amount: Option<i128>,
    /// Of that amount.
    currency: String,
    is_debit: Option<bool>,
    references: Vec<String>,
    texts: Vec<String>,
}

#[derive(Debug, Default)]
struct Entry {
    own: Part,
    day: Option<Date>,
    status: String,
    transactions: Vec<Part>,
}

#[derive(Debug, Default)]
struct Balance {
    kind: String,
    amount: Option<i128>,
    is_debit: bool,
    day: Option<Date>,
}

/// Where the reader is, and what it has read.
struct Reading {
    places: u32,
    path: Vec<String>,
    read: ReadStatements,
    statement: Option<Statement>,
    entry: Option<Entry>,
    transaction: Option<Part>,
    balance: Option<Balance>,
    entries: u32,
    /// The currency of the amount that is open.
    currency: String,
    /// The text of the element that is open, in pieces: references to characters come apart.
    text: String,
}

/// Reads a file.
pub(super) fn read(text: &str, places: u32) -> ReadStatements {
    let mut reading = Reading {
        places,
        path: Vec::new(),
        read: ReadStatements::default(),
        statement: None,
        entry: None,
        transaction: None,
        balance: None,
        entries: 0,
        currency: String::new(),
        text: String::new(),
    };
    let mut reader = Reader::from_str(text);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                let attribute = start.try_get_attribute("Ccy").ok().flatten();
                if reading.path.len() > DEPTH_MAX {
                    let place = reader.buffer_position();
                    reading
                        .read
                        .wrong
                        .push(format!("byte {place}: elements lie deeper in each other than in any such file"));
                    break;
                }
                reading.start(start.local_name().as_ref(), attribute.map(|currency| currency.value.to_string()));
            }
            Ok(Event::Text(piece)) => reading.text.push_str(&piece.xml_content(XmlVersion::Implicit1_0)),
            Ok(Event::CData(piece)) => reading.text.push_str(&piece.xml_content(XmlVersion::Implicit1_0)),
            Ok(Event::GeneralRef(reference)) => {
                let name = reference.xml_content(XmlVersion::Implicit1_0);
                let character = reference.resolve_char_ref().ok().flatten();
                let known = quick_xml::escape::resolve_xml_entity(&name);
                reading.text.extend(character);
                reading.text.push_str(known.unwrap_or_default());
            }
            Ok(Event::End(_)) => reading.end(),
            Ok(Event::Eof) => break,
            Ok(_) => {}
            Err(err) => {
                reading.read.wrong.push(format!("byte {}: {err}", reader.error_position()));
                break;
            }
        }
    }
    if !reading.path.is_empty() {
        reading.read.wrong.push("the file ends too early; what was read up to there counts".to_owned());
        reading.read.statements.extend(reading.statement.take());
    }
    if reading.read.statements.is_empty() {
        reading.read.wrong.push("there is no statement (Stmt) in it".to_owned());
    }
    reading.read
}

impl Reading {
    fn start(&mut self, name: &str, currency: Option<String>) {
        match name {
            "Stmt" => self.statement = Some(Statement::default()),
            "Ntry" => {
                self.entry = Some(Entry::default());
                self.entries = self.entries.saturating_add(1);
            }
            "TxDtls" => self.transaction = Some(Part::default()),
            "Bal" => self.balance = Some(Balance::default()),
            _ => {}
        }
        if name == "Amt" {
            self.currency = currency.unwrap_or_default();
        }
        self.path.push(name.to_owned());
        self.text.clear();
    }

    /// Whether the open element is at the end of this path.
    fn is(&self, end: &[&str]) -> bool {
        self.path.len() >= end.len() && self.path.iter().rev().zip(end.iter().rev()).all(|(own, other)| own == other)
    }

    fn end(&mut self) {
        let text = std::mem::take(&mut self.text).trim().to_owned();
        if !text.is_empty() {
            self.value(&text);
        }
        match self.path.pop().as_deref() {
            Some("TxDtls") => {
                if let (Some(entry), Some(part)) = (&mut self.entry, self.transaction.take()) {
                    entry.transactions.push(part);
                }
            }
            Some("Ntry") => self.end_entry(),
            Some("Bal") => self.end_balance(),
            Some("Stmt") => self.read.statements.extend(self.statement.take()),
            _ => {}
        }
    }

    fn value(&mut self, text: &str) {
        let amount = plain_minor_units(text, '.', self.places);
        let currency = self.currency.clone();
        let (is_entry_amount, is_amount) = (self.is(&["Ntry", "Amt"]), self.is(&["TxDtls", "Amt"]));
        let is_transaction_amount = is_amount || self.is(&["TxAmt", "Amt"]);
        let Some(name) = self.path.last().cloned() else { return };
        // What of a balance is available when is no balance of its own.
        let is_own = !self.path.iter().any(|name| name == "Avlbty");
        if let Some(balance) = &mut self.balance {
            match name.as_str() {
                _ if !is_own => {}
                "Cd" if balance.kind.is_empty() => text.clone_into(&mut balance.kind),
                "Amt" => {
                    balance.amount = amount;
                    if let Some(statement) = self.statement.as_mut().filter(|known| known.currency.is_empty()) {
                        statement.currency = currency;
                    }
                }
                "Dt" | "DtTm" => balance.day = balance.day.or_else(|| day(text)),
                "CdtDbtInd" => balance.is_debit = text == "DBIT",
                _ => {}
            }
            return;
        }
        let direct = |path: &[String], owner: &str| path.iter().rev().nth(1).is_some_and(|parent| parent == owner);
        let of_entry = direct(&self.path, "Ntry");
        let is_status = of_entry && name == "Sts" || self.is(&["Ntry", "Sts", "Cd"]);
        let is_day = self.is(&["BookgDt", "Dt"]) || self.is(&["BookgDt", "DtTm"]);
        let is_value_day = self.is(&["ValDt", "Dt"]) || self.is(&["ValDt", "DtTm"]);
        let in_transaction = self.transaction.is_some();
        if let Some(entry) = &mut self.entry {
            let part = self.transaction.as_mut().unwrap_or(&mut entry.own);
            match name.as_str() {
                "EndToEndId" | "TxId" | "InstrId" | "MsgId" | "PmtInfId" | "NtryRef" | "AcctSvcrRef" | "Ref"
                    if text != "NOTPROVIDED" =>
                {
                    part.references.push(text.to_owned());
                }
                "Ustrd" | "AddtlNtryInf" | "AddtlTxInf" => part.texts.push(text.to_owned()),
                "CdtDbtInd" if of_entry || direct(&self.path, "TxDtls") => part.is_debit = Some(text == "DBIT"),
                "Amt" if part.amount.is_none() && (is_entry_amount || (is_transaction_amount && in_transaction)) => {
                    (part.amount, part.currency) = (amount, currency);
                }
                _ if is_status => text.clone_into(&mut entry.status),
                _ if is_day => entry.day = day(text),
                _ if is_value_day => entry.day = entry.day.or_else(|| day(text)),
                _ => {}
            }
        } else if self.statement.is_some() {
            let is_other = self.is(&["Acct", "Id", "Othr", "Id"]);
            let Some(statement) = &mut self.statement else { return };
            match name.as_str() {
                "Id" if direct(&self.path, "Stmt") => text.clone_into(&mut statement.id),
                "Ccy" if direct(&self.path, "Acct") => text.clone_into(&mut statement.currency),
                "Id" if statement.account.is_empty() && is_other => {
                    text.clone_into(&mut statement.account);
                }
                "IBAN" if statement.account.is_empty() => text.clone_into(&mut statement.account),
                _ => {}
            }
        }
    }

    fn end_balance(&mut self) {
        let (Some(balance), Some(statement)) = (self.balance.take(), &mut self.statement) else { return };
        let signed = balance.amount.map(|amount| if balance.is_debit { amount.saturating_neg() } else { amount });
        match balance.kind.as_str() {
            "OPBD" => statement.opening = signed,
            // The closing balance of the day before opens this one, where there is no other.
            "PRCD" => statement.opening = statement.opening.or(signed),
            "CLBD" => (statement.closing, statement.until) = (signed, balance.day.map(day_number)),
            _ => {}
        }
    }

    fn end_entry(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        let line = self.entries;
        // What is pending, future or for information only is not booked.
        if !matches!(entry.status.as_str(), "BOOK" | "") {
            return;
        }
        let (Some(amount), Some(is_debit), Some(day)) = (entry.own.amount, entry.own.is_debit, entry.day) else {
            self.read.wrong.push(format!("entry {line}: amount, direction or day is missing or cannot be read"));
            return;
        };
        let Some(statement) = &mut self.statement else { return };
        if statement.currency.is_empty() {
            statement.currency.clone_from(&entry.own.currency);
        }
        if !entry.own.currency.is_empty() && entry.own.currency != statement.currency {
            let (own, of) = (&entry.own.currency, &statement.currency);
            self.read.wrong.push(format!("entry {line}: it is in {own}, the statement in {of}"));
            return;
        }
        let sign = |amount: i128, is_debit: bool| if is_debit { amount.saturating_neg() } else { amount };
        let make = |amount: i128, parts: &[&Part]| StatementLine {
            line,
            day: day_number(day),
            amount,
            reference: parts.iter().flat_map(|part| &part.references).cloned().collect::<Vec<_>>().join(" "),
            text: parts.iter().flat_map(|part| &part.texts).cloned().collect::<Vec<_>>().join(" "),
            is_fee: false,
        };
        let whole = sign(amount, is_debit);
        let single = entry.transactions.iter().map(|part| {
            let own_currency = part.currency.is_empty() || part.currency == statement.currency;
            Some(sign(part.amount.filter(|_| own_currency)?, part.is_debit.unwrap_or(is_debit)))
        });
        let single: Option<Vec<i128>> = single.collect();
        let adds_up =
            |amounts: &[i128]| amounts.iter().try_fold(0_i128, |sum, one| sum.checked_add(*one)) == Some(whole);
        if let Some(amounts) = single.filter(|amounts| amounts.len() > 1 && adds_up(amounts)) {
            let parts = entry.transactions.iter().zip(amounts);
            statement.lines.extend(parts.map(|(part, amount)| make(amount, &[part])));
        } else {
            let parts: Vec<&Part> = std::iter::once(&entry.own).chain(&entry.transactions).collect();
            statement.lines.push(make(whole, &parts));
        }
    }
}

fn day(text: &str) -> Option<Date> {
    text.get(..10)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.02"><BkToCstmrStmt><GrpHdr><MsgId>m</MsgId></GrpHdr>
<Stmt><Id>S1</Id><Acct><Id><IBAN>DE89370400440532013000</IBAN></Id></Acct>
<Bal><Tp><CdOrPrtry><Cd>PRCD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">100.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-11-22</Dt></Dt></Bal>
<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">75.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-11-23</Dt></Dt></Bal>
<Ntry><NtryRef>1</NtryRef><Amt Ccy="EUR">30.00</Amt><CdtDbtInd>DBIT</CdtDbtInd><Sts>BOOK</Sts><BookgDt><Dt>2026-11-23</Dt></BookgDt>
 <NtryDtls><Btch><PmtInfId>cards-000001</PmtInfId></Btch>
  <TxDtls><Refs><EndToEndId>0000000000000000000000000000000a</EndToEndId></Refs><AmtDtls><TxAmt><Amt Ccy="EUR">10.00</Amt></TxAmt></AmtDtls></TxDtls>
  <TxDtls><Refs><EndToEndId>0000000000000000000000000000000b</EndToEndId></Refs><AmtDtls><TxAmt><Amt Ccy="EUR">20.00</Amt></TxAmt></AmtDtls></TxDtls>
 </NtryDtls></Ntry>
<Ntry><Amt Ccy="EUR">5.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts><BookgDt><DtTm>2026-11-23T10:00:00</DtTm></BookgDt>
 <NtryDtls><TxDtls><Refs><EndToEndId>NOTPROVIDED</EndToEndId></Refs><RmtInf><Ustrd>M&#252;ller &amp; Co</Ustrd></RmtInf></TxDtls></NtryDtls></Ntry>
<Ntry><Amt Ccy="EUR">9.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts>PDNG</Sts><BookgDt><Dt>2026-11-23</Dt></BookgDt></Ntry>
<Ntry><Amt Ccy="EUR">x</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts>BOOK</Sts><BookgDt><Dt>2026-11-23</Dt></BookgDt></Ntry>
</Stmt></BkToCstmrStmt></Document>"#;

    #[test]
    fn batches_come_apart_pending_entries_do_not_count_and_a_bad_one_is_told() {
        let read = read(FILE, 2);
        let statement = &read.statements[0];
        let lines: Vec<_> = statement
            .lines
            .iter()
            .map(|line| (line.line, line.amount, line.reference.as_str(), line.text.as_str()))
            .collect();
        let expected = [
            (1, -1_000, "0000000000000000000000000000000a", ""),
            (1, -2_000, "0000000000000000000000000000000b", ""),
            (2, 500, "", "Müller & Co"),
        ];
        assert_eq!(lines, expected);
        assert_eq!((statement.currency.as_str(), statement.account.as_str()), ("EUR", "DE89370400440532013000"));
        assert_eq!(
            (statement.opening, statement.closing, statement.difference()),
            (Some(10_000), Some(7_500), Some(0))
        );
        assert!(read.wrong.len() == 1 && read.wrong[0].starts_with("entry 4:"), "{:?}", read.wrong);
    }

    #[test]
    fn other_currencies_states_and_accounts_are_told_apart() {
        let dollars = FILE.replacen("<Ntry><Amt Ccy=\"EUR\">5.00", "<Ntry><Amt Ccy=\"USD\">5.00", 1);
        let other = read(&dollars, 2);
        assert_eq!(other.statements[0].lines.len(), 2);
        assert!(other.wrong[0].contains("it is in USD, the statement in EUR"), "{:?}", other.wrong);
        let future = read(&FILE.replace("<Sts><Cd>BOOK</Cd></Sts>", "<Sts><Cd>FUTR</Cd></Sts>"), 2);
        assert_eq!(future.statements[0].lines.len(), 2, "what is not booked does not count");
        let number = FILE.replace("<IBAN>DE89370400440532013000</IBAN>", "<Othr><Id>4711</Id></Othr>");
        assert_eq!(read(&number, 2).statements[0].account, "4711");
        let huge = FILE.replace(">10.00<", ">1700000000000000000000000000000000000.00<");
        assert_eq!(read(&huge, 2).statements[0].lines.len(), 2, "an amount that no bank has");
        assert_eq!(read(FILE, 2).statements[0].until, Some(day_number(Date::constant(2026, 11, 23))));
        assert!(!read(&FILE.replace(">5.00<", ">5,00<"), 2).wrong.is_empty(), "no separators");
    }

    #[test]
    fn a_batch_without_amounts_stays_one_line_with_all_references() {
        let file = FILE.replace("<AmtDtls><TxAmt><Amt Ccy=\"EUR\">10.00</Amt></TxAmt></AmtDtls>", "");
        let read = read(&file, 2);
        let line = &read.statements[0].lines[0];
        assert_eq!(line.amount, -3_000);
        assert!(line.reference.contains("cards-000001") && line.reference.contains("000b"), "{line:?}");
    }

    #[test]
    fn a_damaged_file_is_read_as_far_as_it_goes() {
        for place in (0..FILE.len()).filter(|&place| FILE.is_char_boundary(place)) {
            let cut = read(FILE.get(..place).unwrap(), 2);
            assert!(!cut.wrong.is_empty(), "{place}");
            let mut bytes = FILE.as_bytes().to_vec();
            bytes[place] ^= 0x11;
            let _read = read(&String::from_utf8_lossy(&bytes), 2);
        }
    }
}
