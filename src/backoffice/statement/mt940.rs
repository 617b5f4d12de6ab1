//! SWIFT MT940.
//!
//! Read by hand: the libraries that there are give up at the first line that is not as the standard has it, and banks differ.

use jiff::civil::Date;

use super::{ReadStatements, Statement, StatementLine, plain_minor_units};
use crate::backoffice::calendar::day_number;

/// A field: its tag, its value with line ends, and the line where it begins.
struct Field {
    tag: String,
    value: String,
    line: u32,
}

fn fields(text: &str) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    for (line, content) in (1_u32..).zip(text.lines()) {
        let content = content.trim_end();
        let tagged = content.strip_prefix(':').and_then(|rest| rest.split_once(':'));
        match tagged {
            Some((tag, value)) if (2..=3).contains(&tag.len()) => {
                fields.push(Field { tag: tag.to_owned(), value: value.to_owned(), line });
            }
            // The end of a message, and the blocks around it.
            _ if matches!(content, "-" | "-}") || content.starts_with('{') => {}
            _ => {
                if let Some(last) = fields.last_mut() {
                    last.value.push('\n');
                    last.value.push_str(content);
                }
            }
        }
    }
    fields
}

/// Reads a file of one or more messages.
pub(super) fn read(text: &str, places: u32) -> ReadStatements {
    let mut read = ReadStatements::default();
    let mut current: Option<Statement> = None;
    // Whether the field before was an entry, of which a text may follow.
    let mut takes_text = false;
    for field in fields(text) {
        if field.tag == "20" {
            read.statements.extend(current.take());
            current = Some(Statement { id: field.value.trim().to_owned(), ..Statement::default() });
            continue;
        }
        let is_of_entry = std::mem::replace(&mut takes_text, false);
        let Some(statement) = &mut current else {
            read.wrong.push(format!("line {}: field {} before the first statement (:20:)", field.line, field.tag));
            continue;
        };
        let done = match field.tag.as_str() {
            "25" | "25P" => {
                field.value.lines().next().unwrap_or_default().trim().clone_into(&mut statement.account);
                Some(())
            }
            "60F" | "60M" => balance(&field.value, places).map(|(currency, amount)| {
                statement.currency = currency;
                statement.opening = statement.opening.or(Some(amount));
            }),
            "62F" | "62M" => balance(&field.value, places).map(|(_, amount)| {
                (statement.closing, statement.until) = (Some(amount), balance_day(&field.value));
            }),
            "61" => entry(&field, places).map(|line| {
                statement.lines.push(line);
                takes_text = true;
            }),
            "86" => {
                if let Some(last) = statement.lines.last_mut().filter(|_| is_of_entry) {
                    last.text = text_of(&field.value);
                }
                Some(())
            }
            _ => Some(()),
        };
        if done.is_none() {
            read.wrong.push(format!("line {}: field {} cannot be read: `{}`", field.line, field.tag, field.value));
        }
    }
    read.statements.extend(current);
    read
}

/// What a text begins with that is about something else than the one before it, in German banks' SEPA entries.
const BEGINS: [&str; 14] = [
    "EREF+", "KREF+", "MREF+", "CRED+", "DEBT+", "COAM+", "OAMT+", "SVWZ+", "ABWA+", "ABWE+", "IBAN+", "BIC+", "RREF+",
    "PURP+",
];

/// The text of an entry. Subfields of German banks, `?20` to `?29` and `?60` to `?63`, are one text cut every 27 characters.
fn text_of(value: &str) -> String {
    let is_structured = value.get(3..4) == Some("?") && value.bytes().take(3).all(|byte| byte.is_ascii_digit());
    if !is_structured {
        return value.lines().collect::<Vec<_>>().join(" ");
    }
    let joined: String = value.lines().collect();
    let (mut purpose, mut others) = (String::new(), Vec::new());
    for part in joined.split('?').skip(1) {
        let (tag, text) = part.split_at_checked(2).unwrap_or((part, ""));
        match tag.parse::<u8>() {
            Ok(20..=29 | 60..=63) => {
                if BEGINS.iter().any(|begin| text.starts_with(begin)) {
                    purpose.push(' ');
                }
                purpose.push_str(text);
            }
            _ => others.push(text),
        }
    }
    others.insert(0, &purpose);
    others.join(" ").trim().to_owned()
}

/// The day of a balance.
fn balance_day(value: &str) -> Option<i32> {
    value.trim().get(1..7).and_then(date).map(day_number)
}

/// `C261123EUR1234,56`.
fn balance(value: &str, places: u32) -> Option<(String, i128)> {
    let value = value.lines().next()?.trim();
    let (sign, rest) = (value.chars().next()?, value.get(1..)?);
    date(rest.get(..6)?)?;
    let (currency, amount) = (rest.get(6..9)?, rest.get(9..)?);
    let amount = plain_minor_units(amount, ',', places)?;
    Some((currency.to_owned(), if sign == 'D' { amount.saturating_neg() } else { amount }))
}

fn date(text: &str) -> Option<Date> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i8>().ok();
    let year = text.get(..2)?.parse::<i16>().ok()?;
    Date::new(year.checked_add(2_000)?, number(2..4)?, number(4..6)?).ok()
}

/// `2611231123CR12,34NTRFreference//bank reference`, the booking day and the third letter of the currency being optional.
fn entry(field: &Field, places: u32) -> Option<StatementLine> {
    let mut lines = field.value.lines();
    let value = lines.next()?;
    let value_date = date(value.get(..6)?)?;
    let mut rest = value.get(6..)?;
    let booked = rest.get(..4).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let mut day = value_date;
    if let Some(text) = booked {
        rest = rest.get(4..)?;
        let (month, of_month) = (text.get(..2)?.parse().ok()?, text.get(2..)?.parse().ok()?);
        day = Date::new(value_date.year(), month, of_month).ok()?;
        // Booked around the turn of a year.
        let apart = day.since(value_date).map_or(0, |span| span.get_days());
        if apart > 180 {
            day = Date::new(value_date.year().checked_sub(1)?, month, of_month).ok()?;
        } else if apart < -180 {
            day = Date::new(value_date.year().checked_add(1)?, month, of_month).ok()?;
        }
    }
    // RC takes a credit back, RD a debit.
    let (way, skipped) = match (rest.get(..2), rest.chars().next()?) {
        (Some("RC"), _) => (-1, 2),
        (Some("RD"), _) => (1, 2),
        (_, 'C') => (1, 1),
        (_, 'D') => (-1, 1),
        _ => return None,
    };
    rest = rest.get(skipped..)?;
    rest = rest.strip_prefix(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(rest);
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != ',')?;
    let amount = plain_minor_units(rest.get(..end)?, ',', places)?.saturating_mul(way);
    let reference = rest.get(end.saturating_add(4)..)?.replace("//", " ");
    let more = lines.collect::<Vec<_>>().join(" ");
    let reference = if more.is_empty() { reference } else { format!("{reference} {more}") };
    Some(StatementLine {
        line: field.line,
        day: day_number(day),
        amount,
        reference: reference.trim().to_owned(),
        text: String::new(),
        is_fee: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "{1:F01BANKDEFFXXXX0000000000}{4:\r\n:20:STMT1\r\n:25:DE89370400440532013000\r\n:28C:1/1\r\n:60F:C261122EUR100,00\r\n\
        :61:2611231123C12,34NTRFfirst//B1\r\n:86:Payment of\r\nsomebody\r\n:61:261123DR5,NMSCsecond\r\n:61:2701021231RC1,00NTRFthird\r\n\
        :61:nonsense\r\n:62F:C261123EUR106,34\r\n-}\r\n";

    #[test]
    fn a_statement_with_one_bad_line() {
        let read = read(FILE, 2);
        let statement = &read.statements[0];
        assert_eq!((statement.id.as_str(), statement.account.as_str()), ("STMT1", "DE89370400440532013000"));
        let lines: Vec<_> = statement
            .lines
            .iter()
            .map(|line| (line.line, line.amount, line.reference.as_str(), line.text.as_str()))
            .collect();
        let expected =
            [(6, 1_234, "first B1", "Payment of somebody"), (9, -500, "second", ""), (10, -100, "third", "")];
        assert_eq!(lines, expected);
        assert_eq!(statement.lines[2].day, day_number(Date::constant(2026, 12, 31)));
        assert_eq!(
            (statement.opening, statement.closing, statement.difference()),
            (Some(10_000), Some(10_634), Some(0))
        );
        assert!(read.wrong.len() == 1 && read.wrong[0].starts_with("line 11:"), "{:?}", read.wrong);
    }

    #[test]
    fn texts_belong_to_the_entry_before_them_and_are_joined() {
        let file = ":20:A\n:25:X\n:60F:C261122EUR0,00\n:61:2611231123C1,00NTRFone\n:61:bad\n:86:of the bad one\n\
            :61:2611231123C2,00NTRFtwo\n:86:166?00CREDIT?20EREF+0123456789ABCDEF01234?210123456789A rest?32SOMEBODY\n\
            :61:2611231123C3,00NTRFthree\n:86:first\n-second\n:62F:C261123EUR6,00\n:86:of the whole\n-\n";
        let read = read(file, 2);
        let texts: Vec<&str> = read.statements[0].lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["", "EREF+0123456789ABCDEF012340123456789A rest CREDIT SOMEBODY", "first -second"]);
        assert_eq!(read.statements[0].until, Some(day_number(Date::constant(2026, 11, 23))));
    }

    #[test]
    fn a_damaged_file_never_ends_the_program() {
        for place in 0..FILE.len() {
            let mut bytes = FILE.as_bytes().to_vec();
            bytes[place] = b'9';
            let _read = read(&String::from_utf8_lossy(&bytes), 2);
            let _read = read(FILE.get(..place).unwrap(), 2);
        }
        let _read = read(":20:x\n:61:26é1123C1,00N", 2);
    }
}
