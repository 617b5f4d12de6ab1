//! What the bank says of payouts: ISO 20022 pain.002, or CSV with the columns `payout_id,status,reason`.
//!
//! Only what is final counts: settled (`ACSC`, `ACCC`, in CSV `confirmed`) and refused (`RJCT`, `rejected`). Everything between is
//! reported and changes nothing.

use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};

use crate::ledger::TransferId;

/// Elements within elements in a pain.002 file, and more.
const DEPTH_MAX: usize = 64;

/// What the bank says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BankStatus {
    /// It has paid.
    Paid,
    /// It has not paid and will not.
    Refused,
    /// It works on it, in its own words.
    Underway(String),
}

/// What the bank says of one payout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankAnswer {
    /// Which payout.
    pub payout: TransferId,
    /// What became of it.
    pub status: BankStatus,
    /// Why.
    pub reason: String,
}

fn status(word: &str) -> BankStatus {
    match word.to_ascii_uppercase().as_str() {
        "ACSC" | "ACCC" | "CONFIRMED" => BankStatus::Paid,
        "RJCT" | "REJECTED" => BankStatus::Refused,
        _ => BankStatus::Underway(word.to_owned()),
    }
}

/// A payout's id as the bank gives it back: 32 hexadecimal digits.
fn payout_id(text: &str) -> Option<TransferId> {
    let id = u128::from_str_radix(text.trim(), 16).ok().map(TransferId::from_raw);
    id.filter(|id| text.trim().len() == 32 && id.is_valid())
}

/// Reads answers of a bank; what cannot be read is told with its place, and the rest is read all the same.
pub fn read_answers(bytes: &[u8]) -> (Vec<BankAnswer>, Vec<String>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_xml = bytes.trim_ascii_start().starts_with(b"<");
    let (answers, mut wrong) = if is_xml { pain_002(bytes) } else { csv_answers(bytes) };
    if answers.is_empty() && wrong.is_empty() {
        let what = "there is no answer about a payout in it (TxInfAndSts); what a bank says of a whole file (GrpSts) is not taken for its payouts";
        wrong.push(what.to_owned());
    }
    (answers, wrong)
}

fn csv_answers(bytes: &[u8]) -> (Vec<BankAnswer>, Vec<String>) {
    let (mut answers, mut wrong) = (Vec::new(), Vec::new());
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let header = reader.headers().cloned().unwrap_or_default();
    let column = |name: &str| header.iter().position(|known| known.eq_ignore_ascii_case(name));
    let (Some(id), Some(word)) = (column("payout_id"), column("status")) else {
        return (answers, vec!["line 1: the columns payout_id and status are needed".to_owned()]);
    };
    let reason = column("reason");
    for (line, record) in (2_u64..).zip(reader.records()) {
        let read = record.ok().and_then(|record| {
            Some(BankAnswer {
                payout: payout_id(record.get(id)?)?,
                status: status(record.get(word)?),
                reason: reason.and_then(|place| record.get(place)).unwrap_or_default().to_owned(),
            })
        });
        match read {
            Some(answer) => answers.push(answer),
            None => wrong.push(format!("line {line}: no payout id of 32 hexadecimal digits with a status")),
        }
    }
    (answers, wrong)
}

/// What of a transaction has been read so far.
#[derive(Default)]
struct Transaction {
    id: String,
    status: String,
    reason: String,
}

fn pain_002(bytes: &[u8]) -> (Vec<BankAnswer>, Vec<String>) {
    let (mut answers, mut wrong) = (Vec::new(), Vec::new());
    let text = String::from_utf8_lossy(bytes);
    let mut reader = Reader::from_str(&text);
    reader.config_mut().trim_text(true);
    let (mut path, mut current): (Vec<String>, Option<Transaction>) = (Vec::new(), None);
    loop {
        let place = reader.buffer_position();
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                let name = start.local_name().as_ref().to_owned();
                if name == "TxInfAndSts" {
                    current = Some(Transaction::default());
                }
                path.push(name);
                if path.len() > DEPTH_MAX {
                    wrong.push(format!("byte {place}: elements lie deeper in each other than in any such file"));
                    return (answers, wrong);
                }
            }
            Ok(Event::Text(text)) => {
                if let (Some(current), Some(name)) = (&mut current, path.last()) {
                    match name.as_str() {
                        "OrgnlEndToEndId" => current.id = text.xml_content(XmlVersion::Implicit1_0).into_owned(),
                        "TxSts" => current.status = text.xml_content(XmlVersion::Implicit1_0).into_owned(),
                        "Cd" | "Prtry" if path.iter().any(|name| name == "StsRsnInf") => {
                            current.reason = text.xml_content(XmlVersion::Implicit1_0).into_owned();
                        }
                        _ => {}
                    }
                }
            }
            Ok(Event::End(_)) => {
                if path.pop().as_deref() == Some("TxInfAndSts")
                    && let Some(Transaction { id, status: word, reason }) = current.take()
                {
                    match payout_id(&id) {
                        Some(payout) => answers.push(BankAnswer { payout, status: status(&word), reason }),
                        None => wrong.push(format!("byte {place}: `{id}` is no payout's end-to-end id")),
                    }
                }
            }
            Ok(Event::Eof) => break,
            Ok(_) => {}
            Err(err) => {
                wrong.push(format!("byte {place}: {err}"));
                break;
            }
        }
    }
    if !path.is_empty() {
        wrong.push("the file ends too early".to_owned());
    }
    (answers, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIN: &str = r#"<?xml version="1.0"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.002.001.10"><CstmrPmtStsRpt>
 <OrgnlGrpInfAndSts><OrgnlMsgId>cards-000001</OrgnlMsgId><GrpSts>PART</GrpSts></OrgnlGrpInfAndSts>
 <OrgnlPmtInfAndSts>
  <TxInfAndSts><OrgnlEndToEndId>0000000000000000000000000000000a</OrgnlEndToEndId><TxSts>ACSC</TxSts></TxInfAndSts>
  <TxInfAndSts><OrgnlEndToEndId>0000000000000000000000000000000b</OrgnlEndToEndId><TxSts>RJCT</TxSts>
   <StsRsnInf><Rsn><Cd>AC04</Cd></Rsn></StsRsnInf></TxInfAndSts>
  <TxInfAndSts><OrgnlEndToEndId>0000000000000000000000000000000c</OrgnlEndToEndId><TxSts>ACSP</TxSts></TxInfAndSts>
  <TxInfAndSts><OrgnlEndToEndId>NOTPROVIDED</OrgnlEndToEndId><TxSts>RJCT</TxSts></TxInfAndSts>
 </OrgnlPmtInfAndSts></CstmrPmtStsRpt></Document>"#;

    #[test]
    fn answers_are_read_and_what_cannot_be_read_is_told() {
        let (answers, wrong) = read_answers(PAIN.as_bytes());
        let expected = [
            (10, BankStatus::Paid, ""),
            (11, BankStatus::Refused, "AC04"),
            (12, BankStatus::Underway("ACSP".to_owned()), ""),
        ];
        let read: Vec<_> =
            answers.iter().map(|answer| (answer.payout.raw(), answer.status.clone(), answer.reason.as_str())).collect();
        assert_eq!(read, expected);
        assert!(wrong.len() == 1 && wrong[0].contains("NOTPROVIDED"), "{wrong:?}");
        let text = "payout_id,status,reason\r\n0000000000000000000000000000000a,confirmed,\r\nx,rejected,\r\n";
        let (answers, wrong) = read_answers(text.as_bytes());
        assert_eq!((answers.len(), answers[0].status.clone()), (1, BankStatus::Paid));
        assert!(wrong[0].starts_with("line 3:"), "{wrong:?}");
    }

    #[test]
    fn a_damaged_file_is_read_as_far_as_it_goes() {
        for cut in 0..PAIN.len() {
            let (answers, wrong) = read_answers(&PAIN.as_bytes()[..cut]);
            assert!(answers.len() <= 3 && !wrong.is_empty(), "{cut}: {answers:?} {wrong:?}");
        }
        for place in 0..PAIN.len() {
            let mut bytes = PAIN.as_bytes().to_vec();
            bytes[place] ^= 0x15;
            let (answers, _) = read_answers(&bytes);
            assert!(answers.len() <= 4);
        }
    }
}
