//! Bank accounts that the ledger mirrors, and how the files of those who report on them are read: parts of the policy.
//!
//! The mirror of a bank account is a ledger account of its own: a credit of it is money that leaves the bank, a debit money that
//! arrives there. Each entry of the mirror is expected as a line of a bank statement.
//!
//! ```toml
//! [[bank_account]]
//! name = "custody"
//! account = 900001
//! currency = "EUR"
//!
//! [[statement_csv]]              # how a provider writes its files
//! name = "acme"
//! separator = ";"
//! decimal = ","
//! date_format = "%d.%m.%Y"
//! date = "Buchung"
//! amount = "Betrag"
//! reference = "Referenz"
//! ```
//!
//! Not here: reading statements and comparing them with the ledger ([`crate::backoffice`]).

use serde::Deserialize;

use super::AccountId;
use super::policy::{IdText, Policy, PolicyError, amount as minor, invalid, nothing};
use super::schedule::{CalendarText, Recurrence, Schedule, ScheduleText, utc};

/// An account number as files have it: people write it in groups.
pub(crate) fn unspaced(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_whitespace()).collect()
}

/// A bank account as the policy's text has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BankAccountText {
    name: String,
    account: IdText,
    currency: String,
    #[serde(default)]
    iban: String,
    #[serde(default = "nothing")]
    amount_tolerance: String,
    #[serde(default = "three")]
    days_tolerance: u8,
    #[serde(default = "two")]
    due_days: u8,
    #[serde(default = "utc")]
    time_zone: String,
    calendar: Option<String>,
    weekend: Option<Vec<String>>,
    #[serde(default)]
    holidays: Vec<String>,
    write_off_account: Option<IdText>,
    #[serde(default = "write_off_code")]
    write_off_code: u16,
}

const fn three() -> u8 {
    3
}

const fn two() -> u8 {
    2
}

const fn write_off_code() -> u16 {
    901
}

/// A bank account that the ledger mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankAccount {
    /// What it is called.
    pub name: String,
    /// Its mirror in the ledger.
    pub account: AccountId,
    /// The currency's number.
    pub currency: u16,
    /// Its number at the bank; statements of another one are refused. Empty: any.
    pub iban: String,
    /// By how much a line may differ and still match, minor units.
    pub amount_tolerance: u128,
    /// By how many days a line may be earlier or later and still match by its amount.
    pub days_tolerance: u8,
    /// After how many business days without a line an entry is missing.
    pub due_days: u8,
    /// Its time zone and business days; it has no times.
    pub schedule: Schedule,
    /// Against which account differences are written off.
    pub write_off_account: Option<AccountId>,
    /// The code of such transfers.
    pub write_off_code: u16,
}

/// How a CSV file is read: names of its columns, or their numbers from 1 when it has no header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvMapping {
    /// What it is called.
    pub name: String,
    /// Between fields; one character.
    #[serde(default = "comma")]
    pub separator: char,
    /// Before decimals: `.` or `,`. The other one, spaces and apostrophes may stand between thousands.
    #[serde(default = "point")]
    pub decimal: char,
    /// Lines before the header.
    #[serde(default)]
    pub skip_lines: usize,
    /// Whether there is a header.
    #[serde(default = "yes")]
    pub header: bool,
    /// How days are written, by the directives of `strftime`.
    #[serde(default = "iso_day")]
    pub date_format: String,
    /// IANA name of the zone in which times are meant, when `date_format` has a time with an offset or none.
    #[serde(default)]
    pub time_zone: String,
    /// The day of booking.
    pub date: String,
    /// The day of value, which counts where there is no day of booking.
    pub value_date: Option<String>,
    /// Signed amounts: positive is money in.
    pub amount: Option<String>,
    /// Whether signs are the other way round.
    #[serde(default)]
    pub negate: bool,
    /// Money out, unsigned.
    pub debit: Option<String>,
    /// Money in, unsigned.
    pub credit: Option<String>,
    /// A column that says which way the amount goes.
    pub sign: Option<String>,
    /// What that column says for money out.
    #[serde(default = "debit_words")]
    pub sign_debit: Vec<String>,
    /// What it says for money in; any other word is told as wrong.
    #[serde(default = "credit_words")]
    pub sign_credit: Vec<String>,
    /// Fees that the provider kept: money out, a line of their own.
    pub fee: Option<String>,
    /// What the payer or the provider calls it.
    pub reference: Option<String>,
    /// More text.
    pub text: Option<String>,
    /// A column with the currency; lines in another one are told.
    pub currency: Option<String>,
}

const fn comma() -> char {
    ','
}

const fn point() -> char {
    '.'
}

const fn yes() -> bool {
    true
}

fn iso_day() -> String {
    "%Y-%m-%d".to_owned()
}

fn debit_words() -> Vec<String> {
    ["D", "DR", "DBIT", "DEBIT", "S", "-"].map(str::to_owned).to_vec()
}

fn credit_words() -> Vec<String> {
    ["C", "CR", "CRDT", "CREDIT", "H", "+"].map(str::to_owned).to_vec()
}

impl BankAccountText {
    fn resolve(self, policy: &Policy, calendars: &[CalendarText]) -> Result<BankAccount, PolicyError> {
        let rule = format!("bank_account {}", self.name);
        let schedule = ScheduleText {
            times: Vec::new(),
            time_zone: self.time_zone,
            on: Recurrence::BusinessDays,
            calendar: self.calendar,
            weekend: self.weekend,
            holidays: self.holidays,
        };
        let (currency, places) = policy.currency(&self.currency, &rule)?;
        Ok(BankAccount {
            account: self.account.resolve(&rule)?,
            currency,
            iban: unspaced(&self.iban),
            amount_tolerance: minor(&self.amount_tolerance, places, &rule)?,
            days_tolerance: self.days_tolerance,
            due_days: self.due_days,
            schedule: schedule.resolve(calendars, &rule)?,
            write_off_account: self.write_off_account.map(|id| id.resolve(&rule)).transpose()?,
            write_off_code: self.write_off_code,
            name: self.name,
        })
    }
}

fn check_mapping(mapping: &CsvMapping) -> Result<(), PolicyError> {
    let rule = format!("statement_csv {}", mapping.name);
    if !mapping.separator.is_ascii() || !matches!(mapping.decimal, '.' | ',') || mapping.separator == mapping.decimal {
        return Err(invalid(&rule, "separator is one ASCII character, decimal is . or , and not the separator"));
    }
    if mapping.amount.is_none() && (mapping.debit.is_none() || mapping.credit.is_none()) {
        return Err(invalid(&rule, "an amount column is needed, or one for debit and one for credit"));
    }
    Ok(())
}

/// Reads the bank accounts of a policy, whose assets are known.
pub(super) fn bank_accounts(
    texts: Vec<BankAccountText>,
    policy: &Policy,
    calendars: &[CalendarText],
) -> Result<Vec<BankAccount>, PolicyError> {
    let mut accounts: Vec<BankAccount> = Vec::with_capacity(texts.len());
    for text in texts {
        let account = text.resolve(policy, calendars)?;
        if accounts.iter().any(|known| known.name == account.name || known.account == account.account) {
            return Err(invalid(&format!("bank_account {}", account.name), "its name or account is used twice"));
        }
        accounts.push(account);
    }
    Ok(accounts)
}

/// Checks the mappings of a policy.
pub(super) fn check_mappings(mappings: &[CsvMapping]) -> Result<(), PolicyError> {
    mappings.iter().try_for_each(check_mapping)
}

impl Policy {
    /// The bank accounts, in order.
    pub fn bank_accounts(&self) -> &[BankAccount] {
        &self.bank_accounts
    }

    /// A bank account by its name.
    pub fn bank_account(&self, name: &str) -> Option<&BankAccount> {
        self.bank_accounts.iter().find(|account| account.name == name)
    }

    /// How providers' CSV files are read, in order.
    pub fn csv_mappings(&self) -> &[CsvMapping] {
        &self.csv_mappings
    }

    /// How a provider's CSV files are read, by the mapping's name.
    pub fn csv_mapping(&self, name: &str) -> Option<&CsvMapping> {
        self.csv_mappings.iter().find(|mapping| mapping.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let bank = "[[bank_account]]\nname = \"a\"\naccount = 1\ncurrency = \"EUR\"\n";
        let csv = "[[statement_csv]]\nname = \"a\"\ndate = \"Date\"\n";
        assert_eq!(Policy::parse(bank).unwrap().bank_account("a").map(|account| account.due_days), Some(2));
        for (text, what) in [
            (format!("{bank}{bank}"), "used twice"),
            (format!("{bank}amount_tolerance = \"0.001\""), "amount"),
            (csv.to_owned(), "an amount column is needed"),
            (format!("{csv}amount = \"x\"\ndecimal = \",\""), "not the separator"),
        ] {
            let error = Policy::parse(&text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
