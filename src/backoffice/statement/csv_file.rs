//! CSV files of banks and providers, by a mapping of the policy.

use jiff::fmt::strtime::parse;
use jiff::tz::TimeZone;

use super::{ReadStatements, Statement, StatementLine, minor_units};
use crate::backoffice::calendar::day_number;
use crate::ledger::CsvMapping;

/// Where the columns of a mapping are.
struct Columns {
    date: usize,
    value_date: Option<usize>,
    amount: Option<usize>,
    debit: Option<usize>,
    credit: Option<usize>,
    sign: Option<usize>,
    fee: Option<usize>,
    reference: Option<usize>,
    text: Option<usize>,
    currency: Option<usize>,
}

impl Columns {
    fn new(mapping: &CsvMapping, header: Option<&csv::StringRecord>) -> Result<Self, String> {
        let find = |name: &String| -> Result<usize, String> {
            let place = match header {
                Some(header) => header.iter().position(|known| known.trim().eq_ignore_ascii_case(name.trim())),
                None => name.parse::<usize>().ok().and_then(|number| number.checked_sub(1)),
            };
            place.ok_or_else(|| format!("there is no column `{name}`"))
        };
        let maybe = |name: &Option<String>| name.as_ref().map(find).transpose();
        Ok(Self {
            date: find(&mapping.date)?,
            value_date: maybe(&mapping.value_date)?,
            amount: maybe(&mapping.amount)?,
            debit: maybe(&mapping.debit)?,
            credit: maybe(&mapping.credit)?,
            sign: maybe(&mapping.sign)?,
            fee: maybe(&mapping.fee)?,
            reference: maybe(&mapping.reference)?,
            text: maybe(&mapping.text)?,
            currency: maybe(&mapping.currency)?,
        })
    }
}

/// Reads a file; one statement, without balances.
pub(super) fn read(text: &str, mapping: &CsvMapping, places: u32) -> ReadStatements {
    let mut read = ReadStatements::default();
    let skipped: usize = text.split_inclusive('\n').take(mapping.skip_lines).map(str::len).sum();
    let body = text.get(skipped..).unwrap_or_default().trim_start_matches('\u{feff}');
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(u8::try_from(mapping.separator).unwrap_or(b','))
        .has_headers(mapping.header)
        .flexible(true)
        .from_reader(body.as_bytes());
    let header = if mapping.header { reader.headers().ok().cloned() } else { None };
    let columns = match Columns::new(mapping, header.as_ref()) {
        Ok(columns) => columns,
        Err(what) => {
            read.wrong.push(format!("line {}: {what}", mapping.skip_lines.saturating_add(1)));
            return read;
        }
    };
    let zone = if mapping.time_zone.is_empty() { None } else { TimeZone::get(&mapping.time_zone).ok() };
    let mut statement = Statement::default();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(err) => {
                read.wrong.push(format!("line {}: {err}", err.position().map_or(0, csv::Position::line)));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let line =
            u32::try_from(line).unwrap_or(u32::MAX).saturating_add(u32::try_from(mapping.skip_lines).unwrap_or(0));
        if record.iter().all(|field| field.trim().is_empty()) {
            continue;
        }
        match lines(&record, line, (mapping, &columns), (places, zone.as_ref())) {
            Ok((currency, lines)) => {
                if statement.currency.is_empty() {
                    statement.currency = currency;
                } else if !currency.is_empty() && currency != statement.currency {
                    read.wrong
                        .push(format!("line {line}: it is in {currency}, the lines before in {}", statement.currency));
                    continue;
                }
                statement.lines.extend(lines);
            }
            Err(what) => read.wrong.push(format!("line {line}: {what}")),
        }
    }
    read.statements.push(statement);
    read
}

/// The lines that a row makes: its amount, and its fee if it has one.
fn lines(
    record: &csv::StringRecord,
    line: u32,
    (mapping, columns): (&CsvMapping, &Columns),
    (places, zone): (u32, Option<&TimeZone>),
) -> Result<(String, Vec<StatementLine>), String> {
    let field = |place: Option<usize>| place.and_then(|place| record.get(place)).unwrap_or_default().trim();
    let booked = field(Some(columns.date));
    let date = if booked.is_empty() { field(columns.value_date) } else { booked };
    let day = read_day(&mapping.date_format, date, zone)
        .ok_or_else(|| format!("`{date}` is no day like {}", mapping.date_format))?;
    let unsigned = |text: &str| {
        minor_units(text, mapping.decimal, places)
            .ok_or_else(|| format!("`{text}` is no amount with {places} decimal places"))
    };
    let with_sign = |text: &str| {
        let (text, negative) = match text.strip_prefix(['-', '\u{2212}']).or_else(|| text.strip_suffix('-')) {
            Some(rest) => (rest, true),
            None => (text.strip_prefix('+').unwrap_or(text), false),
        };
        unsigned(text).map(|amount| if negative { amount.saturating_neg() } else { amount })
    };
    let mut amount = 0_i128;
    if columns.amount.is_some() {
        amount = with_sign(field(columns.amount))?;
        let word = field(columns.sign);
        if columns.sign.is_some() {
            if amount < 0 {
                // The debit's own sign, or one that is taken back: both are written so.
                return Err(format!(
                    "it has a sign beside `{word}`; for signed amounts leave `sign` out of the mapping"
                ));
            }
            let is_one_of = |words: &[String]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
            if is_one_of(&mapping.sign_debit) {
                amount = amount.saturating_neg();
            } else if !is_one_of(&mapping.sign_credit) {
                return Err(format!("`{word}` is neither in sign_debit nor in sign_credit"));
            }
        }
        if mapping.negate {
            amount = amount.saturating_neg();
        }
    } else {
        for (place, way) in [(columns.debit, -1), (columns.credit, 1)] {
            let text = field(place);
            if !text.is_empty() {
                // Money out is a debit whether it is written with its sign or without; a debit taken back cannot be told.
                let written = with_sign(text)?;
                let unsigned = if way < 0 { written.saturating_abs() } else { written };
                if unsigned < 0 {
                    return Err(format!("`{text}` is no amount of money in"));
                }
                amount = amount.saturating_add(unsigned.saturating_mul(way));
            }
        }
    }
    let make = |amount, is_fee| StatementLine {
        line,
        day,
        amount,
        reference: field(columns.reference).to_owned(),
        text: field(columns.text).to_owned(),
        is_fee,
    };
    let fee = field(columns.fee);
    // A fee is what the provider kept, a negative one what it gave back.
    let fee = if fee.is_empty() { 0 } else { with_sign(fee)? };
    let mut rows = Vec::with_capacity(2);
    if amount != 0 {
        rows.push(make(amount, false));
    }
    if fee != 0 {
        rows.push(make(fee.saturating_neg(), true));
    }
    if rows.is_empty() {
        return Err("it has no amount".to_owned());
    }
    Ok((field(columns.currency).to_ascii_uppercase(), rows))
}

/// A day, or a time that falls on a day of the zone.
fn read_day(format: &str, text: &str, zone: Option<&TimeZone>) -> Option<i32> {
    let parsed = parse(format, text).ok()?;
    if let (Ok(at), Some(zone)) = (parsed.to_timestamp(), zone) {
        return Some(day_number(at.to_zoned(zone.clone()).date()));
    }
    parsed.to_date().ok().map(day_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Policy;

    fn mapping(text: &str) -> CsvMapping {
        let policy = Policy::parse(&format!("[[statement_csv]]\nname = \"a\"\n{text}")).unwrap();
        policy.csv_mapping("a").unwrap().clone()
    }

    fn amounts(read: &ReadStatements) -> Vec<(u32, i128, bool)> {
        read.statements[0].lines.iter().map(|line| (line.line, line.amount, line.is_fee)).collect()
    }

    #[test]
    fn a_german_file_with_a_preamble_and_one_bad_row() {
        let mapping = mapping(
            "separator = \";\"\ndecimal = \",\"\nskip_lines = 1\ndate_format = \"%d.%m.%Y\"\ndate = \"Buchung\"\namount = \"Betrag\"\nreference = \"Zweck\"\ncurrency = \"W\"",
        );
        let text = "Konto 1\nBuchung;Betrag;Zweck;W\n23.11.2026;1.234,50;\"a;b\";EUR\n31.02.2026;1,00;x;EUR\n24.11.2026;-0,05;y;EUR\n24.11.2026;1,00;y;USD\n;;;\n";
        let read = read(text, &mapping, 2);
        assert_eq!(amounts(&read), [(3, 123_450, false), (5, -5, false)]);
        assert_eq!(read.statements[0].lines[0].reference, "a;b");
        let wrong: Vec<&str> = read.wrong.iter().map(|what| what.split(':').next().unwrap()).collect();
        assert_eq!(wrong, ["line 4", "line 6"], "{:?}", read.wrong);
    }

    #[test]
    fn debit_and_credit_columns_signs_fees_and_times() {
        let both = mapping("date = \"1\"\nheader = false\ndebit = \"2\"\ncredit = \"3\"");
        assert_eq!(
            amounts(&read("2026-11-23,5.00,\n2026-11-23,,7.00\n", &both, 2)),
            [(1, -500, false), (2, 700, false)]
        );
        let provider = mapping(
            "date = \"when\"\namount = \"gross\"\nsign = \"type\"\nsign_debit = [\"refund\"]\nsign_credit = [\"sale\"]\nfee = \"fee\"\ndate_format = \"%Y-%m-%dT%H:%M:%S%z\"\ntime_zone = \"Europe/Berlin\"",
        );
        let text =
            "when,gross,type,fee\n2026-11-23T23:30:00+0000,10.00,sale,0.30\n2026-11-23T10:00:00+0000,4.00,REFUND,\n";
        let read_lines = read(text, &provider, 2);
        assert_eq!(amounts(&read_lines), [(2, 1_000, false), (2, -30, true), (3, -400, false)]);
        let days: Vec<i32> = read_lines.statements[0].lines.iter().map(|line| line.day).collect();
        assert_eq!(days[0], days[2] + 1, "late in London is the next day in Berlin");
        let odd = read(
            "when,gross,type,fee\n2026-11-23T10:00:00+0000,4.00,Soll,-0.10\n2026-11-23T10:00:00+0000,4.00,refund,-0.10\n",
            &provider,
            2,
        );
        assert_eq!(amounts(&odd), [(3, -400, false), (3, 10, true)], "a fee that was given back");
        assert!(odd.wrong[0].contains("`Soll` is neither"), "{:?}", odd.wrong);
        let signed = read("when,gross,type,fee\n2026-11-23T10:00:00+0000,-4.00,refund,\n", &provider, 2);
        assert!(amounts(&signed).is_empty() && signed.wrong[0].contains("it has a sign beside `refund`"), "{signed:?}");
        let missing = read("a,b\n", &provider, 2);
        assert!(missing.wrong[0].contains("no column `when`"), "{missing:?}");
    }
}
