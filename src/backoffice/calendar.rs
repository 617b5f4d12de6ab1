//! What a schedule means in time: cut-offs and business days, in a time zone.
//!
//! A cut-off that falls into an hour that a change of clocks skips is as much later; in an hour that comes twice, the first one
//! counts.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::ledger::{BankAccount, Distribution, Recurrence, Schedule, Scheme};

/// Days looked through for one with business; more holidays in a row are a mistake.
const DAYS_MAX: u32 = 400;

/// Why a schedule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{of}: {what}")]
pub struct CalendarError {
    of: String,
    what: String,
}

/// A schedule, read from its texts.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    zone: TimeZone,
    times: Vec<Time>,
    on: Recurrence,
    weekend: Vec<Weekday>,
    holidays: Vec<Date>,
    settle_after_days: u8,
}

/// Nanoseconds of a day of UTC.
pub(super) const DAY_NS: u64 = 86_400_000_000_000;

/// The day of UTC in which a time is, counted from 1970-01-01.
pub(super) fn day_of(ns: u64) -> i32 {
    i32::try_from(ns / DAY_NS).unwrap_or(i32::MAX)
}

/// Reads a day like `2026-11-23`, counted from 1970-01-01; none before that.
pub fn parse_day(text: &str) -> Option<i32> {
    let date: Date = text.parse().ok().filter(|_| text.len() == 10)?;
    Some(day_number(date)).filter(|day| *day >= 0)
}

/// A date as days since 1970-01-01.
pub(super) fn day_number(date: Date) -> i32 {
    date.since(Date::constant(1970, 1, 1)).map_or(0, |span| span.get_days())
}

/// The date of a day, counted from 1970-01-01.
pub(super) fn date_of(day: i32) -> Date {
    Date::constant(1970, 1, 1).checked_add(day.days()).unwrap_or(Date::MAX)
}

fn instant(ns: u64) -> Timestamp {
    i64::try_from(ns).ok().and_then(|ns| Timestamp::from_nanosecond(i128::from(ns)).ok()).unwrap_or(Timestamp::MAX)
}

fn nanoseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or(0)
}

/// A time in ISO 8601, UTC, whole seconds.
pub(super) fn iso_time(ns: u64) -> String {
    let second = instant(ns).as_second();
    Timestamp::from_second(second).map_or_else(|_| String::new(), |at| at.to_string())
}

impl Calendar {
    /// That of a scheme.
    pub(super) fn of_scheme(scheme: &Scheme) -> Result<Self, CalendarError> {
        Self::new(&format!("scheme {}", scheme.name), &scheme.schedule, scheme.settle_after_days)
    }

    /// That of a distribution.
    pub(super) fn of_distribution(distribution: &Distribution) -> Result<Self, CalendarError> {
        Self::new(&format!("distribution {}", distribution.name), &distribution.schedule, 0)
    }

    /// That of a bank account.
    pub(super) fn of_bank_account(account: &BankAccount) -> Result<Self, CalendarError> {
        Self::new(&format!("bank_account {}", account.name), &account.schedule, account.due_days)
    }

    /// The day in which a time falls here.
    pub(super) fn local_day(&self, ns: u64) -> i32 {
        day_number(instant(ns).to_zoned(self.zone.clone()).date())
    }

    fn new(of: &str, schedule: &Schedule, settle_after_days: u8) -> Result<Self, CalendarError> {
        let wrong = |what: String| CalendarError { of: of.to_owned(), what };
        let zone = TimeZone::get(&schedule.time_zone)
            .map_err(|_err| wrong(format!("there is no time zone `{}`", schedule.time_zone)))?;
        let times = schedule.times.iter().map(|text| text.parse::<Time>());
        let times = times.collect::<Result<_, _>>().map_err(|err| wrong(err.to_string()))?;
        let holidays = schedule.holidays.iter().map(|text| {
            text.parse::<Date>().map_err(|_err| wrong(format!("`{text}` is no day of the calendar, like 2026-12-25")))
        });
        let holidays = holidays.collect::<Result<_, _>>()?;
        let weekend = schedule.weekend.iter().map(|name| weekday(name)).collect();
        let calendar = Self { zone, times, on: schedule.on, weekend, holidays, settle_after_days };
        let some_day = calendar.business_day_from(Date::constant(2026, 1, 1));
        some_day.ok_or_else(|| wrong("there is no business day in more than a year".to_owned()))?;
        Ok(calendar)
    }

    fn is_business_day(&self, date: Date) -> bool {
        !self.weekend.contains(&date.weekday()) && !self.holidays.contains(&date)
    }

    /// This day or the first business day after it.
    fn business_day_from(&self, date: Date) -> Option<Date> {
        let mut day = date;
        for _ in 0..DAYS_MAX {
            if self.is_business_day(day) {
                return Some(day);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    /// Whether something is due on a business day.
    fn recurs_on(&self, day: Date) -> bool {
        let next = day.tomorrow().ok().and_then(|next| self.business_day_from(next));
        match self.on {
            Recurrence::BusinessDays => true,
            Recurrence::MonthEnd => next.is_none_or(|next| next.month() != day.month()),
            Recurrence::WeekEnd => next.is_none_or(|next| self.week_begins(next) != self.week_begins(day)),
        }
    }

    /// The first day of the week that a day is in: weeks begin after the weekend.
    fn week_begins(&self, day: Date) -> Option<Date> {
        let rests = |day: Weekday| self.weekend.contains(&day);
        let first = Weekday::Monday.cycle_forward().take(7).find(|day| !rests(*day) && rests(day.previous()));
        let since = day.weekday().since(first.unwrap_or(Weekday::Monday));
        day.checked_sub(jiff::Span::new().days(since)).ok()
    }

    /// The latest time that is after one and not after another: when it is, and its business day. None when there is none.
    pub(super) fn latest(&self, after_ns: u64, until_ns: u64) -> Option<(u64, i32)> {
        let mut latest = None;
        let mut from = after_ns;
        while let Some((at, day)) = self.next(from).filter(|(at, _)| *at <= until_ns) {
            latest = Some((at, day));
            from = at;
        }
        latest
    }

    /// The first time after one: when it is, and its business day. None when the schedule has no times.
    pub(super) fn next(&self, after_ns: u64) -> Option<(u64, i32)> {
        if self.times.is_empty() {
            return None;
        }
        let mut day = instant(after_ns).to_zoned(self.zone.clone()).date();
        for _ in 0..DAYS_MAX {
            day = self.business_day_from(day)?;
            // When clocks go forward, two cut-offs may come in the other order.
            if !self.recurs_on(day) {
                day = day.tomorrow().ok()?;
                continue;
            }
            let times = self.times.iter().map(|time| {
                let at = day.to_datetime(*time).to_zoned(self.zone.clone()).ok()?;
                Some(nanoseconds(at.timestamp()))
            });
            let next = times.collect::<Option<Vec<u64>>>()?.into_iter().filter(|at| *at > after_ns).min();
            if let Some(at) = next {
                return Some((at, day_number(day)));
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    /// The business day to which a window belongs that is closed by hand at this time.
    pub(super) fn day_at(&self, now_ns: u64) -> i32 {
        let today = instant(now_ns).to_zoned(self.zone.clone()).date();
        day_number(self.business_day_from(today).unwrap_or(today))
    }

    /// The business day on which a window of this business day is settled.
    pub(super) fn settlement_day(&self, day: i32) -> i32 {
        let mut date = date_of(day);
        for _ in 0..self.settle_after_days {
            let next = date.tomorrow().ok().and_then(|next| self.business_day_from(next));
            date = next.unwrap_or(date);
        }
        day_number(date)
    }

    /// When a day begins.
    pub(super) fn begins(&self, day: i32) -> u64 {
        let midnight = date_of(day).to_datetime(Time::midnight()).to_zoned(self.zone.clone());
        midnight.map_or(u64::MAX, |midnight| nanoseconds(midnight.timestamp()))
    }
}

fn weekday(name: &str) -> Weekday {
    match name {
        "monday" => Weekday::Monday,
        "tuesday" => Weekday::Tuesday,
        "wednesday" => Weekday::Wednesday,
        "thursday" => Weekday::Thursday,
        "friday" => Weekday::Friday,
        "saturday" => Weekday::Saturday,
        _ => Weekday::Sunday,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Policy;

    fn calendar(more: &str) -> Result<Calendar, CalendarError> {
        let text = format!("[[scheme]]\nname = \"x\"\nnumber = 1\ncurrency = \"EUR\"\nsettlement_account = 9\n{more}");
        Calendar::of_scheme(&Policy::parse(&text).unwrap().schemes()[0])
    }

    fn ns(text: &str) -> u64 {
        nanoseconds(text.parse().unwrap())
    }

    #[test]
    fn cut_offs_are_on_business_days_in_the_zone_of_the_scheme() {
        let berlin = "cut_offs = [\"11:00\", \"17:00\"]\ntime_zone = \"Europe/Berlin\"\nholidays = [\"2026-12-25\"]";
        let calendar = calendar(berlin).unwrap();
        // From a time, in UTC, to the cut-off after it: the second one of a day, over a weekend, over Christmas, and over the
        // change to summer time, after which 11:00 is at 09:00 UTC.
        for (after, at, day) in [
            ("2026-11-20T10:00:00Z", "2026-11-20T16:00:00Z", "2026-11-20"),
            ("2026-11-20T16:00:00Z", "2026-11-23T10:00:00Z", "2026-11-23"),
            ("2026-12-24T20:00:00Z", "2026-12-28T10:00:00Z", "2026-12-28"),
            ("2026-03-27T18:00:00Z", "2026-03-30T09:00:00Z", "2026-03-30"),
        ] {
            let day = day_number(day.parse().unwrap());
            assert_eq!(calendar.next(ns(after)), Some((ns(at), day)), "{after}");
        }
        assert_eq!(calendar.day_at(ns("2026-11-21T10:00:00Z")), day_number("2026-11-23".parse().unwrap()));
    }

    #[test]
    fn settlement_is_so_many_business_days_later() {
        for (days, expected) in [(0, "2026-12-24"), (1, "2026-12-28"), (2, "2026-12-29")] {
            let more = format!("settle_after_days = {days}\nholidays = [\"2026-12-25\"]");
            let calendar = calendar(&more).unwrap();
            let settled = calendar.settlement_day(day_number("2026-12-24".parse().unwrap()));
            assert_eq!(date_of(settled).to_string(), expected);
            assert_eq!(calendar.begins(settled), ns(&format!("{expected}T00:00:00Z")));
        }
        assert_eq!(calendar("").unwrap().next(5), None, "closed by hand only");
    }

    #[test]
    fn the_ends_of_weeks_and_months_are_their_last_business_days() {
        let distribution = |on: &str, weekend: [&str; 2]| {
            let text = format!(
                "[[calendar]]\nname = \"c\"\nholidays = [\"2026-11-30\", \"2026-12-25\"]\nweekend = {weekend:?}\n[[distribution]]\nname = \"x\"\nnumber = 1\n\
                 account = 9\ncurrency = \"EUR\"\ncode = 5\nto = [{{ account = 8 }}]\ntimes = [\"18:00\"]\ncalendar = \"c\"\non = \"{on}\""
            );
            Calendar::of_distribution(&Policy::parse(&text).unwrap().distributions()[0]).unwrap()
        };
        let (sunday, friday) = (["saturday", "sunday"], ["friday", "saturday"]);
        for (on, weekend, after, at) in [
            ("month-end", sunday, "2026-11-01T00:00:00Z", "2026-11-27T18:00:00Z"),
            ("month-end", sunday, "2026-11-27T18:00:00Z", "2026-12-31T18:00:00Z"),
            ("week-end", sunday, "2026-12-21T00:00:00Z", "2026-12-24T18:00:00Z"),
            ("week-end", friday, "2026-12-13T00:00:00Z", "2026-12-17T18:00:00Z"),
            ("week-end", friday, "2026-12-17T18:00:00Z", "2026-12-24T18:00:00Z"),
            ("business-days", sunday, "2026-11-27T18:00:00Z", "2026-12-01T18:00:00Z"),
        ] {
            assert_eq!(distribution(on, weekend).next(ns(after)).map(|next| next.0), Some(ns(at)), "{on} {after}");
        }
        let (from, until) = (ns("2026-01-01T00:00:00Z"), ns("2026-11-28T00:00:00Z"));
        assert_eq!(
            distribution("month-end", sunday).latest(from, until).map(|(at, _)| at),
            Some(ns("2026-11-27T18:00:00Z"))
        );
        assert_eq!(distribution("month-end", sunday).latest(ns("2026-11-27T18:00:00Z"), until), None);
    }

    #[test]
    fn mistakes_in_a_calendar_are_named() {
        for (more, what) in [
            ("time_zone = \"Europe/Berlon\"", "no time zone `Europe/Berlon`"),
            ("holidays = [\"2026-02-30\"]", "`2026-02-30` is no day"),
        ] {
            let error = calendar(more).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
