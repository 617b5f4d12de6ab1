//! Reads the policy's file. Calendars that name a file get its days written into them, so that the journal has all that was in force.
//!
//! A file of holidays has one day a line, `2026-12-25`, and after a comma or space whatever people like to note. Empty lines and those that
//! begin with `#` say nothing. Its path is relative to the policy's.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, value};

use super::calendar::parse_day;

/// Why a policy's file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// A file.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The policy is not TOML.
    #[error("{0}")]
    Syntax(#[from] toml_edit::TomlError),
    /// A line of a file of holidays.
    #[error("{path}, line {line}: `{text}` does not begin with a day like 2026-12-25")]
    Day {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A calendar with both.
    #[error("calendar {0}: either holidays or a file")]
    Both(String),
}

fn read(path: &Path) -> Result<String, PolicyFileError> {
    fs::read_to_string(path).map_err(|source| PolicyFileError::File { path: path.to_owned(), source })
}

fn holidays(path: &Path) -> Result<BTreeSet<String>, PolicyFileError> {
    let mut days = BTreeSet::new();
    for (line, text) in read(path)?.lines().enumerate() {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let day = text.split([',', ';', ' ', '\t']).next().unwrap_or_default();
        if parse_day(day).is_none() {
            let line = line.saturating_add(1);
            return Err(PolicyFileError::Day { path: path.to_owned(), line, text: text.to_owned() });
        }
        days.insert(day.to_owned());
    }
    Ok(days)
}

/// Reads a policy; blocks. The text is what is recorded: the file's own, when no calendar names a file.
pub fn read_policy(path: &Path) -> Result<String, PolicyFileError> {
    let text = read(path)?;
    let mut document: DocumentMut = text.parse()?;
    let Some(calendars) = document.get_mut("calendar").and_then(Item::as_array_of_tables_mut) else { return Ok(text) };
    let mut changed = false;
    for calendar in calendars.iter_mut() {
        let Some(file) = calendar.get("holidays_file").and_then(Item::as_str).map(PathBuf::from) else { continue };
        if calendar.contains_key("holidays") {
            let name = calendar.get("name").and_then(Item::as_str).unwrap_or_default();
            return Err(PolicyFileError::Both(name.to_owned()));
        }
        let file = path.parent().unwrap_or(Path::new("")).join(file);
        let days: Array = holidays(&file)?.into_iter().collect();
        calendar.remove("holidays_file");
        calendar.insert("holidays", value(days));
        changed = true;
    }
    Ok(if changed { document.to_string() } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Policy;

    fn policy(calendar: &str, file: &str) -> Result<String, PolicyFileError> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("days.txt"), file).unwrap();
        let text = format!(
            "# kept\n[[calendar]]\nname = \"x\"\n{calendar}\n[[scheme]]\nname = \"s\"\nnumber = 1\ncurrency = \"EUR\"\n\
             settlement_account = 9\ncalendar = \"x\"\n"
        );
        fs::write(directory.path().join("policy.toml"), text).unwrap();
        read_policy(&directory.path().join("policy.toml"))
    }

    #[test]
    fn a_calendars_file_is_written_into_the_text() {
        let text = policy("holidays_file = \"days.txt\"", "# TARGET2\n\n2027-01-01, New Year\n2026-12-25 Christmas\n")
            .unwrap();
        assert!(text.starts_with("# kept\n"), "{text}");
        let policy = Policy::parse(&text).unwrap();
        assert_eq!(policy.schemes()[0].schedule.holidays, ["2026-12-25", "2027-01-01"]);
    }

    #[test]
    fn a_text_without_files_stays_as_it_is() {
        let text = policy("holidays = [  \"2026-12-25\" ]", "").unwrap();
        assert!(text.contains("[  \"2026-12-25\" ]"), "{text}");
    }

    #[test]
    fn mistakes_are_named_with_file_and_line() {
        for (calendar, file, what) in [
            (
                "holidays_file = \"days.txt\"",
                "2026-12-25\n25.12.2026 Christmas",
                "days.txt, line 2: `25.12.2026 Christmas`",
            ),
            ("holidays_file = \"none.txt\"", "", "none.txt"),
            ("holidays_file = \"days.txt\"\nholidays = []", "", "either holidays or a file"),
        ] {
            let error = policy(calendar, file).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
