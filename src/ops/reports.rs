//! Reports over HTTP, as JSON or CSV. They read the journal from its first record, so they take a second per two million records or so.

use std::sync::atomic::Ordering::Relaxed;

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use super::OpsContext;
use super::clearing::{problem, starting};
use crate::backoffice::{DayReport, DayReporter, Problem, parse_day};
use crate::journal::JournalReader;
use crate::ledger::Sequence;

/// Adds the routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/reports/day/{day}", web::get().to(day));
}

#[derive(Debug, Deserialize)]
struct DayQuery {
    format: Option<String>,
    large: Option<u128>,
}

async fn day(context: web::Data<OpsContext>, day: web::Path<String>, query: web::Query<DayQuery>) -> HttpResponse {
    let DayQuery { format, large } = query.into_inner();
    let Some(queues) = context.queues.get().cloned() else {
        return problem(&starting());
    };
    let Some(number) = parse_day(&day) else {
        return problem(&Problem::new(400, "invalid", format!("`{day}` is no day like 2026-11-23")));
    };
    let until = context.telemetry.counters().durable_sequence.load(Relaxed);
    let made = web::block(move || report(&queues.reader, (number, large), until)).await;
    match (made, format.as_deref()) {
        (Ok(Ok(report)), None | Some("json")) => HttpResponse::Ok().json(report),
        (Ok(Ok(report)), Some("csv")) => HttpResponse::Ok().content_type("text/csv; charset=utf-8").body(report.csv()),
        (Ok(Ok(_)), Some(other)) => {
            problem(&Problem::new(400, "invalid", format!("there is no format `{other}`; json or csv")))
        }
        (Ok(Err(what)), _) => problem(&Problem::new(500, "internal", what)),
        (Err(_stopped), _) => problem(&Problem::new(503, "stopping", "the server is stopping")),
    }
}

fn report(reader: &JournalReader, (day, large): (i32, Option<u128>), until: Sequence) -> Result<DayReport, String> {
    let mut reporter = DayReporter::new(day, large);
    let mut wrong = None;
    let scanned = reader.scan(1, until, &mut |stored| match reporter.follow(&stored) {
        Ok(goes_on) => goes_on,
        Err(err) => {
            wrong = Some(err.to_string());
            false
        }
    });
    scanned.map_err(|err| err.to_string())?;
    wrong.map_or_else(|| Ok(reporter.finish()), Err)
}
