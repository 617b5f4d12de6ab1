//! Reports over HTTP, as JSON or CSV. They read the journal from its first record, so they take a second per two million records or so, and
//! are made one after the other.

use std::sync::atomic::Ordering::Relaxed;

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use super::clearing::{problem, starting, stopping};
use super::{OpsContext, turn};
use crate::backoffice::{DayReport, DayReporter, Participating, Problem, ReportOptions, parse_day};
use crate::flow::wall_ns;
use crate::journal::JournalReader;
use crate::ledger::Sequence;

/// Adds the routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/reports/day/{day}", web::get().to(day));
}

#[derive(Debug, Deserialize)]
struct DayQuery {
    format: Option<String>,
    participants: Option<String>,
}

fn participating(text: Option<&str>) -> Result<Participating, Problem> {
    match text {
        None => Ok(Participating::Nobody),
        Some("all") => Ok(Participating::All),
        Some(number) => number
            .parse()
            .map(Participating::One)
            .map_err(|_err| Problem::new(400, "invalid", format!("`{number}` is no participant: its number, or all"))),
    }
}

async fn day(context: web::Data<OpsContext>, day: web::Path<String>, query: web::Query<DayQuery>) -> HttpResponse {
    let DayQuery { format, participants } = query.into_inner();
    let Some(queues) = context.queues.get().cloned() else { return problem(&starting()) };
    let Some(number) = parse_day(&day) else {
        return problem(&Problem::new(400, "invalid", format!("`{day}` is no day like 2026-11-23")));
    };
    let participants = match participating(participants.as_deref()) {
        Ok(participants) => participants,
        Err(wrong) => return problem(&wrong),
    };
    if let Some(other) = format.as_deref().filter(|format| !matches!(*format, "json" | "csv")) {
        return problem(&Problem::new(400, "invalid", format!("there is no format `{other}`; json or csv")));
    }
    // Each takes the memory of a book.
    let turn = match turn(&queues.reports, "another report is being made; ask again in a while").await {
        Ok(turn) => turn,
        Err(busy) => return problem(&busy),
    };
    // First the time, then how far the ledger is: what came in between is of a day that is not over.
    let now_ns = wall_ns();
    let until = context.telemetry.counters().durable_sequence.load(Relaxed);
    let options = ReportOptions { day: number, statements: Some(queues.statements.clone()), participants };
    let reader = queues.reader.clone();
    let made = web::block(move || {
        // Whoever asked may have gone: it is made to its end all the same.
        let _turn = turn;
        report(&reader, options, (until, now_ns))
    });
    let made = made.await;
    match made {
        Ok(Ok(report)) if format.as_deref() == Some("csv") => {
            HttpResponse::Ok().content_type("text/csv; charset=utf-8").body(report.csv())
        }
        Ok(Ok(report)) => HttpResponse::Ok().json(report),
        Ok(Err(what)) => problem(&Problem::new(500, "internal", what)),
        Err(_stopped) => problem(&stopping()),
    }
}

fn report(
    reader: &JournalReader,
    options: ReportOptions,
    (until, now_ns): (Sequence, u64),
) -> Result<DayReport, String> {
    let mut reporter = DayReporter::new(options);
    let mut wrong = None;
    let scanned = reader.scan(1, until, &mut |stored| {
        reporter.follow(&stored).unwrap_or_else(|err| {
            wrong = Some(err.to_string());
            false
        })
    });
    scanned.map_err(|err| err.to_string())?;
    match wrong {
        Some(wrong) => Err(wrong),
        None => Ok(reporter.finish(now_ns)),
    }
}
