//! Bank statements: camt.053, MT940, and CSV by a provider's mapping, all read into the same lines.
//!
//! A line that cannot be read is told with its place and does not lose the others. What is booked counts, what is pending does not.
//! A line's amount is positive when money came in.

mod camt;
mod csv_file;
mod mt940;

use crate::ledger::CsvMapping;

/// A line of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementLine {
    /// Its number in the file: the line of a CSV or MT940 file, the entry of a camt.053 one.
    pub line: u32,
    /// Day of booking, days since 1970-01-01.
    pub day: i32,
    /// Minor units; positive is money in.
    pub amount: i128,
    /// What is given as reference, all of it.
    pub reference: String,
    /// More text.
    pub text: String,
    /// Whether it is a fee that the provider kept.
    pub is_fee: bool,
}

/// A statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// What the bank calls it.
    pub id: String,
    /// The bank account, as the file has it; empty when it does not say.
    pub account: String,
    /// The currency's letters; empty when it does not say.
    pub currency: String,
    /// The balance before, minor units, when the file says.
    pub opening: Option<i128>,
    /// The balance after.
    pub closing: Option<i128>,
    /// The day of that balance, days since 1970-01-01: up to there the bank has told all.
    pub until: Option<i32>,
    /// The lines, in order.
    pub lines: Vec<StatementLine>,
}

impl Statement {
    /// What the lines add up to, minor units.
    pub fn sum(&self) -> i128 {
        self.lines.iter().fold(0, |sum, line| line.amount.saturating_add(sum))
    }

    /// By how much opening balance and lines miss the closing balance; `None` when the file does not say both.
    pub fn difference(&self) -> Option<i128> {
        let expected = self.opening?.saturating_add(self.sum());
        Some(self.closing?.saturating_sub(expected))
    }
}

impl Statement {
    /// A digest of all that it says, wherever it is in a file.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&bytes.len().to_le_bytes());
            hasher.update(bytes);
        };
        for text in [&self.id, &self.account, &self.currency] {
            part(text.as_bytes());
        }
        for balance in [self.opening, self.closing, self.until.map(i128::from)] {
            match balance {
                Some(balance) => part(&balance.to_le_bytes()),
                None => part(&[]),
            }
        }
        for line in &self.lines {
            part(&line.day.to_le_bytes());
            part(&line.amount.to_le_bytes());
            part(line.reference.as_bytes());
            part(line.text.as_bytes());
            part(&[u8::from(line.is_fee)]);
        }
        hasher.finalize().into()
    }
}

/// What was read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadStatements {
    /// The statements, in order.
    pub statements: Vec<Statement>,
    /// What could not be read, each with its place.
    pub wrong: Vec<String>,
    /// Statements that were in the file again and are left out, each with its place.
    pub repeated: Vec<String>,
}

/// Reads a file; its format is told by its beginning, CSV needs a mapping. `places` are the decimal places of the account's currency.
pub fn read_statements(bytes: &[u8], mapping: Option<&CsvMapping>, places: u32) -> ReadStatements {
    let text = decode(bytes);
    let begin = text.trim_start_matches(['\u{feff}', ' ', '\r', '\n', '\t']);
    let mut read = if let Some(mapping) = mapping {
        csv_file::read(&text, mapping, places)
    } else if begin.starts_with('<') {
        camt::read(begin, places)
    } else if begin.starts_with(':') || begin.starts_with("{1:") {
        mt940::read(&text, places)
    } else {
        let wrong =
            "line 1: neither camt.053 nor MT940; for CSV name a mapping of the policy (statement_csv)".to_owned();
        ReadStatements { wrong: vec![wrong], ..ReadStatements::default() }
    };
    read.drop_repeated();
    read
}

impl ReadStatements {
    /// Drops each statement that says the same as one before it, balances and all, and tells of it: a page that the bank has put into the file twice.
    fn drop_repeated(&mut self) {
        let mut seen = hashbrown::HashSet::new();
        let repeated = &mut self.repeated;
        self.statements.retain(|statement| {
            let Some(first) = statement.lines.first().filter(|_| statement.closing.is_some()) else { return true };
            let is_new = seen.insert(statement.digest());
            if !is_new {
                repeated.push(format!(
                    "line {}: statement `{}` is in the file again, with the same lines and balances; it is taken once",
                    first.line, statement.id
                ));
            }
            is_new
        });
    }
}

/// UTF-8, or else Latin-1 as many banks still write.
fn decode(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_not_utf8| bytes.iter().map(|&byte| char::from(byte)).collect())
}

/// An amount as ISO 20022 and SWIFT write it: digits and one decimal sign.
fn plain_minor_units(text: &str, decimal: char, places: u32) -> Option<i128> {
    let plain = text.trim().chars().all(|letter| letter.is_ascii_digit() || letter == decimal);
    minor_units(text, decimal, places).filter(|_| plain)
}

/// Whether what stands before the decimals has its separators, all of one kind, before groups of three digits.
fn is_grouped(major: &str) -> bool {
    let separators: Vec<char> = major.chars().filter(|letter| !letter.is_ascii_digit()).collect();
    let groups: Vec<&str> = major.split(|letter: char| !letter.is_ascii_digit()).collect();
    let first = groups.first().map_or(0, |group| group.len());
    separators.is_empty()
        || (1..=3).contains(&first)
            && groups.iter().skip(1).all(|group| group.len() == 3)
            && separators.windows(2).all(|pair| pair.first() == pair.last())
}

/// Digits of the largest amount that is taken: 2^64 minor units are more than any bank has.
const DIGITS_MAX: usize = 19;

/// An unsigned amount with this decimal sign, in minor units; digits beyond the currency's places must be zero.
fn minor_units(text: &str, decimal: char, places: u32) -> Option<i128> {
    let (major, minor) = text.trim().split_once(decimal).unwrap_or((text.trim(), ""));
    let between = |letter: char| matches!(letter, '.' | ',' | '\'' | ' ' | '\u{a0}' | '\u{202f}') && letter != decimal;
    let kept = usize::try_from(places).ok()?;
    let is_number = !(major.is_empty() && minor.is_empty())
        && major.chars().all(|letter| letter.is_ascii_digit() || between(letter))
        && is_grouped(major)
        && minor.chars().all(|letter| letter.is_ascii_digit())
        && minor.chars().skip(kept).all(|digit| digit == '0');
    if !is_number {
        return None;
    }
    let major = major.chars().filter(char::is_ascii_digit);
    let digits: String = major.chain(minor.chars().chain(std::iter::repeat('0')).take(kept)).collect();
    let digits = digits.trim_start_matches('0');
    if digits.len() > DIGITS_MAX { None } else { format!("0{digits}").parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_in_a_file_twice_is_told_and_taken_once() {
        let page = |opening: &str, amount: &str, closing: &str| {
            format!(
                ":20:STARTUMS\n:25:1/2\n:28C:1/1\n:60F:C261123EUR{opening}\n:61:261123C{amount}NTRFREF\n:62F:C261123EUR{closing}\n-\n"
            )
        };
        let (first, second) = (page("1,00", "2,00", "3,00"), page("3,00", "2,00", "5,00"));
        for (file, statements, repeated) in [
            ([first.clone(), second.clone()].concat(), 2, 0),
            ([first.clone(), first.clone(), second.clone(), first.clone()].concat(), 2, 2),
        ] {
            let read = read_statements(file.as_bytes(), None, 2);
            let found = (read.statements.len(), read.repeated.len(), read.wrong.len());
            assert_eq!(found, (statements, repeated, 0), "{read:?}");
            assert!(read.repeated.iter().all(|what| what.contains("is in the file again")), "{read:?}");
        }
    }

    #[test]
    fn amounts_are_read_as_banks_write_them() {
        for (text, decimal, expected) in [
            ("1234.56", '.', Some(123_456)),
            ("1,234.56", '.', Some(123_456)),
            ("1.234,5", ',', Some(123_450)),
            ("1'234", '.', Some(123_400)),
            ("1 234,500", ',', Some(123_450)),
            (",5", ',', Some(50)),
            ("12.345", '.', None),
            ("12,34", '.', None),
            ("1,234,56", '.', None),
            ("1,234'567", '.', None),
            ("1234,567.00", '.', None),
            ("99999999999999999999.00", '.', None),
            ("1.2.3", '.', None),
            ("", '.', None),
            ("12a", '.', None),
        ] {
            assert_eq!(minor_units(text, decimal, 2), expected, "{text}");
        }
    }

    #[test]
    fn a_balance_is_what_is_booked_and_not_what_is_available_when() {
        let balance = |kind: &str, amount: &str| {
            format!(
                "<Bal><Tp><CdOrPrtry><Cd>{kind}</Cd></CdOrPrtry></Tp><Amt Ccy=\"EUR\">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd>\
                 <Dt><Dt>2026-11-23</Dt></Dt><Avlbty><Dt><NbOfDays>1</NbOfDays></Dt><Amt>3.00</Amt><CdtDbtInd>DBIT</CdtDbtInd></Avlbty></Bal>"
            )
        };
        let file = format!(
            "<Document><BkToCstmrStmt><Stmt><Id>S</Id>{}{}</Stmt></BkToCstmrStmt></Document>",
            balance("OPBD", "10.00"),
            balance("CLBD", "10.00")
        );
        let read = read_statements(file.as_bytes(), None, 2);
        assert_eq!((read.statements[0].opening, read.statements[0].closing), (Some(1_000), Some(1_000)), "{read:?}");
    }

    #[test]
    fn sepa_parts_of_a_german_mt940_are_words_of_their_own() {
        let (first, second) = ("0123456789ABCDEF012345", "6789ABCDEF");
        let text = format!(
            ":20:S\n:25:DE89\n:60F:C261122EUR1,00\n:61:2611231123C1,00NTRFx\n:86:166?00SEPA?20EREF+{first}?21{second}?22KREF+77?23SVWZ+cards win\n?24dow 1\n\
             :62F:C261123EUR2,00\n-\n"
        );
        let read = read_statements(text.as_bytes(), None, 2);
        let words: Vec<&str> = read.statements[0].lines[0].text.split_whitespace().collect();
        assert_eq!(
            words,
            [&format!("EREF+{first}{second}"), "KREF+77", "SVWZ+cards", "window", "1", "SEPA"],
            "{read:?}"
        );
    }

    #[test]
    fn what_is_no_statement_is_told() {
        let read = read_statements(b"hello", None, 2);
        assert!(read.statements.is_empty() && read.wrong[0].contains("statement_csv"));
    }
}
