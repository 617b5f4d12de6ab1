//! Tables and texts for people.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::ledger::{Code, LimitUse, Record, StoredRecord, Transfer, unpadded};
use crate::money::{Currency, format_minor_units};
use crate::protocol::AccountState;

/// A table with these columns; those that begin with `>` are right-aligned.
pub(super) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|name| name.trim_start_matches('>')));
    table.add_rows(rows);
    for (place, _) in columns.iter().enumerate().filter(|(_, name)| name.starts_with('>')) {
        if let Some(column) = table.column_mut(place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// An amount in the currency of this number; unsigned totals always fit.
pub(super) fn money(minor_units: i128, currency: u16) -> String {
    match Currency::from_number(currency) {
        Ok(currency) => format_minor_units(minor_units, currency),
        Err(_) => format!("{minor_units} (currency {currency})"),
    }
}

/// A total as a signed number.
pub(super) fn signed(total: u128) -> i128 {
    i128::try_from(total).unwrap_or(i128::MAX)
}

/// A time in nanoseconds as UTC date and time with milliseconds.
pub(super) fn time(time_ns: u64) -> String {
    let seconds = time_ns / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970-01-01, by Howard Hinnant's algorithm for dates after 0000-03-01.
    let shifted = days.saturating_add(719_468);
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let leap = (day_of_era / 1_460).saturating_add(day_of_era / 146_096);
    let year_of_era = day_of_era.saturating_add(day_of_era / 36_524).saturating_sub(leap) / 365;
    let day_of_year = day_of_era
        .saturating_add(year_of_era / 100)
        .saturating_sub(year_of_era.saturating_mul(365).saturating_add(year_of_era / 4));
    let month_index = day_of_year.saturating_mul(5).saturating_add(2) / 153;
    let day = day_of_year.saturating_sub(month_index.saturating_mul(153).saturating_add(2) / 5).saturating_add(1);
    let month = if month_index < 10 { month_index.saturating_add(3) } else { month_index.saturating_sub(9) };
    let year = year_of_era.saturating_add(era.saturating_mul(400)).saturating_add(u64::from(month <= 2));
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        time_ns / 1_000_000 % 1_000
    )
}

/// An account as JSON. Ids and totals are strings: they do not fit JSON's numbers.
pub(super) fn account_json(account: &AccountState) -> serde_json::Value {
    let properties = &account.properties;
    serde_json::json!({
        "id": properties.id.to_string(),
        "currency": Currency::from_number(properties.currency).map_or("", |currency| currency.code()),
        "balance": money(account.balance(), properties.currency),
        "balance_minor_units": account.balance().to_string(),
        "available": account.available().map(|available| money(available, properties.currency)),
        "held": money(signed(account.totals.debits_pending), properties.currency),
        "debits_posted": account.totals.debits_posted.to_string(),
        "credits_posted": account.totals.credits_posted.to_string(),
        "debits_pending": account.totals.debits_pending.to_string(),
        "credits_pending": account.totals.credits_pending.to_string(),
        "overdraft": properties.overdraft.to_string(),
        "state": account.state.name(),
        "class": properties.class().name(),
        "level": properties.level,
        "code": properties.code,
        "flags": properties.flags.0,
        "user_data_128": properties.user_data_128.to_string(),
        "user_data_64": properties.user_data_64.to_string(),
        "user_data_32": properties.user_data_32,
        "opened": time(account.opened_ns),
        "last_sequence": account.head,
    })
}

/// Limits as JSON.
pub(super) fn limits_json(limits: &[LimitUse]) -> Vec<serde_json::Value> {
    let value = |(name, used, most): &LimitUse| {
        serde_json::json!({
            "limit": name, "sum_used": used.0.to_string(), "count_used": used.1,
            "sum_max": most.0.map(|sum| sum.to_string()), "count_max": most.1,
        })
    };
    limits.iter().map(value).collect()
}

/// Limits as a table, amounts in minor units.
pub(super) fn limits_table(limits: &[LimitUse]) -> String {
    let rows = limits.iter().map(|(name, used, most)| {
        let sum = most.0.map_or_else(|| "no bound".to_owned(), |max| format!("{} of {max}", used.0));
        let count = most.1.map_or_else(|| "no bound".to_owned(), |max| format!("{} of {max}", used.1));
        vec![name.clone(), sum, count]
    });
    table(&["limit", ">sum used", ">count used"], rows)
}

/// A record as JSON; `currency` is that of its accounts if known.
pub(super) fn stored_json(stored: &StoredRecord, currency: Option<u16>) -> serde_json::Value {
    let mut value = match &stored.record {
        Record::Transfer { transfer, outcome, gateway } => done_json(transfer, currency, (*outcome, gateway.0, false)),
        Record::Internal { transfer, gateway } => done_json(transfer, currency, (Code::Accepted, gateway.0, true)),
        Record::Account { account, gateway } => serde_json::json!({
            "kind": "account_opened", "id": account.id.to_string(), "gateway": gateway.0,
        }),
        Record::Gateway(entry) => serde_json::json!({
            "kind": "gateway", "id": entry.id.0, "name": entry.name(), "may": entry.grant.names(),
        }),
        Record::Clock { second } => serde_json::json!({ "kind": "clock", "second": second }),
        Record::Policy(part) => serde_json::json!({ "kind": "policy", "offset": part.offset, "bytes": part.len }),
        Record::Participant(entry, by) => serde_json::json!({
            "kind": "participant", "participant": entry.id, "account": entry.account.to_string(),
            "name": unpadded(&entry.name), "gateway": by.0,
        }),
        Record::Window(entry) => serde_json::json!({
            "kind": "window", "scheme": entry.scheme, "window": entry.number, "state": entry.state.name(),
            "gateway": entry.by.0,
        }),
        Record::Payout(entry) => serde_json::json!({
            "kind": "payout", "id": entry.id.to_string(), "scheme": entry.window.0, "window": entry.window.1,
            "participant": entry.participant, "state": entry.state.name(), "gateway": entry.by.0,
        }),
        Record::Statement(entry) => serde_json::json!({
            "kind": "statement", "account": entry.account.to_string(), "number": entry.number, "lines": entry.lines,
            "gateway": entry.by.0,
        }),
        Record::Distribution(entry) => serde_json::json!({
            "kind": "distribution", "distribution": entry.number, "state": entry.state.name(),
            "amount_minor_units": entry.amount.to_string(), "gateway": entry.by.0,
        }),
        Record::Break(entry) => serde_json::json!({
            "kind": "break", "account": entry.account.to_string(), "break": entry.key.to_string(),
            "action": entry.action.name(), "text": unpadded(&entry.text), "gateway": entry.by.0,
        }),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("sequence".to_owned(), stored.sequence.into());
        object.insert("time".to_owned(), time(stored.time_ns).into());
    }
    value
}

fn done_json(
    transfer: &Transfer,
    currency: Option<u16>,
    (outcome, gateway, internal): (Code, u32, bool),
) -> serde_json::Value {
    serde_json::json!({
            "kind": "transfer",
            "operation": transfer.operation().name(),
            "by_the_ledger": internal,
            "id": transfer.id.to_string(),
            "related": transfer.related.to_string(),
            "time_field": transfer.time_ns,
            "linked": transfer.is_linked(),
            "debit_account": transfer.debit.to_string(),
            "credit_account": transfer.credit.to_string(),
            "amount_minor_units": transfer.amount.to_string(),
            "amount": currency.map(|currency| money(signed(transfer.amount), currency)),
            "code": transfer.code,
            "user_data_128": transfer.user_data_128.to_string(),
            "user_data_64": transfer.user_data_64.to_string(),
            "user_data_32": transfer.user_data_32,
            "outcome": outcome.name(),
            "outcome_code": outcome.number(),
            "gateway": gateway,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_dates() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_123_000_000), "2000-02-29T00:00:00.123Z");
        assert_eq!(time(1_795_305_599_999_999_999), "2026-11-21T23:59:59.999Z");
    }

    #[test]
    fn tables_are_aligned() {
        let text = table(
            &["id", ">balance"],
            [vec!["1".to_owned(), "12.34 EUR".to_owned()], vec!["22".to_owned(), "1 EUR".to_owned()]],
        );
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.lines().last().is_some_and(|line| line.ends_with("    1 EUR")), "{text}");
    }
}
