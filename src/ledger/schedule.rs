//! Schedules: at which local times on which business days something is due, and the calendars that say what a business day is.
//!
//! Calendars are parts of the policy's text, so that what was due follows from the journal. Where a calendar comes from a file, its days
//! are written into the text before it is recorded.
//!
//! ```toml
//! [[calendar]]
//! name = "target2"
//! weekend = ["saturday", "sunday"]
//! holidays = ["2026-12-25", "2027-01-01"]
//! ```
//!
//! Not here: time zones and dates ([`crate::backoffice`]); files with holidays ([`crate::backoffice`]).

use serde::Deserialize;

use super::policy::{PolicyError, invalid};

/// Days of the week as policies write them, Monday first.
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// On which business days something is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recurrence {
    /// On each.
    #[default]
    BusinessDays,
    /// On the last one of each week.
    WeekEnd,
    /// On the last one of each month.
    MonthEnd,
}

/// When something is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Local times in order: `HH:MM`.
    pub times: Vec<String>,
    /// IANA name of the time zone.
    pub time_zone: String,
    /// On which business days.
    pub on: Recurrence,
    /// Days of the week without business, in English and lower case.
    pub weekend: Vec<String>,
    /// Other days without business: `YYYY-MM-DD`.
    pub holidays: Vec<String>,
}

/// A calendar as the policy's text has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CalendarText {
    name: String,
    #[serde(default = "saturday_and_sunday")]
    weekend: Vec<String>,
    #[serde(default)]
    holidays: Vec<String>,
}

/// What a rule of the policy says of its schedule.
#[derive(Debug)]
pub(super) struct ScheduleText {
    pub(super) times: Vec<String>,
    pub(super) time_zone: String,
    pub(super) on: Recurrence,
    /// The name of a calendar, instead of the two below.
    pub(super) calendar: Option<String>,
    pub(super) weekend: Option<Vec<String>>,
    pub(super) holidays: Vec<String>,
}

pub(super) fn utc() -> String {
    "UTC".to_owned()
}

fn saturday_and_sunday() -> Vec<String> {
    vec!["saturday".to_owned(), "sunday".to_owned()]
}

impl ScheduleText {
    pub(super) fn resolve(self, calendars: &[CalendarText], rule: &str) -> Result<Schedule, PolicyError> {
        if !self.times.is_sorted() || self.times.iter().any(|time| !is_time(time)) {
            return Err(invalid(rule, "times are local times like \"17:00\", the earliest first"));
        }
        let (weekend, holidays) = match self.calendar {
            Some(_) if self.weekend.is_some() || !self.holidays.is_empty() => {
                return Err(invalid(rule, "either a calendar, or weekend and holidays of its own"));
            }
            Some(name) => {
                let named = calendars.iter().find(|calendar| calendar.name == name);
                let named = named.ok_or_else(|| invalid(rule, "its calendar is not in the policy"))?;
                (named.weekend.clone(), named.holidays.clone())
            }
            None => (self.weekend.unwrap_or_else(saturday_and_sunday), self.holidays),
        };
        check_days(&weekend, &holidays, rule)?;
        Ok(Schedule { times: self.times, time_zone: self.time_zone, on: self.on, weekend, holidays })
    }
}

fn check_days(weekend: &[String], holidays: &[String], rule: &str) -> Result<(), PolicyError> {
    if weekend.len() > 6 || weekend.iter().any(|day| !DAYS.contains(&day.as_str())) {
        return Err(invalid(rule, "weekend names at most six days, like \"saturday\""));
    }
    if holidays.iter().any(|day| day.len() != 10) {
        return Err(invalid(rule, "holidays are days like \"2026-12-25\""));
    }
    Ok(())
}

/// Checks the calendars of a policy.
pub(super) fn check_calendars(calendars: &[CalendarText]) -> Result<(), PolicyError> {
    for (place, calendar) in calendars.iter().enumerate() {
        let rule = format!("calendar {}", calendar.name);
        check_days(&calendar.weekend, &calendar.holidays, &rule)?;
        if calendar.name.is_empty() || calendars.iter().skip(place.saturating_add(1)).any(|o| o.name == calendar.name) {
            return Err(invalid(&rule, "its name is empty or used twice"));
        }
    }
    Ok(())
}

/// Whether a text is a time of day like `17:00`.
fn is_time(text: &str) -> bool {
    let parts = text.split_once(':').map(|(hour, minute)| (hour.parse::<u8>(), minute.parse::<u8>()));
    text.len() == 5 && matches!(parts, Some((Ok(hour), Ok(minute))) if hour < 24 && minute < 60)
}
