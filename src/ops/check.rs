//! The full internal check over HTTP, while serving.

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use super::OpsContext;
use super::clearing::{answer, problem, starting, stopping};
use crate::backoffice::Problem;
use crate::verify::LiveError;

/// Adds the routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/check", web::get().to(check));
}

#[derive(Debug, Deserialize)]
struct CheckQuery {
    at: Option<u64>,
}

async fn check(context: web::Data<OpsContext>, query: web::Query<CheckQuery>) -> HttpResponse {
    let Some(queues) = context.queues.get().cloned() else { return problem(&starting()) };
    let at = query.at;
    match web::block(move || queues.check.check(at)).await {
        Ok(checked) => answer(checked.map_err(|err| match err {
            LiveError::Busy => Problem::new(409, "conflict", err.to_string()),
            LiveError::Ahead(_) => Problem::new(400, "invalid", err.to_string()),
            LiveError::Sort(_) => Problem::new(500, "internal", err.to_string()),
            LiveError::Stopping => stopping(),
        })),
        Err(_stopped) => problem(&stopping()),
    }
}
