//! Bank statements and breaks over HTTP. Like [`super::clearing`]: reading needs no name, changing something does.

use actix_web::{HttpResponse, web};
use actix_web_httpauth::extractors::basic::BasicAuth;
use serde::Deserialize;

use super::OpsContext;
use super::clearing::{SHOWN_MAX, answer, ask, perform, perform_with};
use crate::backoffice::{BreakOrder, BreakOrderAction, Command, Import, Overlap};

/// Breaks shown unless asked for more.
const BREAKS_SHOWN: usize = 1_000;

/// Adds the routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/banks/{account}/statements", web::get().to(statements))
        .route("/banks/{account}/statements", web::post().to(import))
        .route("/banks/{account}/match", web::post().to(match_again))
        .route("/banks/{account}/breaks", web::get().to(breaks))
        .route("/banks/{account}/breaks/{break}/assign", web::post().to(assign))
        .route("/banks/{account}/breaks/{break}/comment", web::post().to(comment))
        .route("/banks/{account}/breaks/{break}/resolve", web::post().to(resolve));
}

async fn statements(context: web::Data<OpsContext>, account: web::Path<String>) -> HttpResponse {
    answer(ask(&context, Command::Statements { account: account.into_inner() }).await)
}

#[derive(Debug, Deserialize)]
struct ImportQuery {
    mapping: Option<String>,
    #[serde(default)]
    incomplete: bool,
    overlap: Option<Overlap>,
}

async fn import(
    context: web::Data<OpsContext>,
    who: BasicAuth,
    account: web::Path<String>,
    query: web::Query<ImportQuery>,
    file: web::Payload,
) -> HttpResponse {
    let ImportQuery { mapping, incomplete, overlap } = query.into_inner();
    let account = account.into_inner();
    let read = |content| Command::Import(Import { account, mapping, incomplete, overlap, content });
    answer(perform_with(context, who, file, read).await)
}

async fn match_again(context: web::Data<OpsContext>, who: BasicAuth, account: web::Path<String>) -> HttpResponse {
    answer(perform(&context, &who, Command::Match { account: account.into_inner() }).await)
}

#[derive(Debug, Deserialize)]
struct BreaksQuery {
    state: Option<String>,
    kind: Option<String>,
    limit: Option<usize>,
}

async fn breaks(
    context: web::Data<OpsContext>,
    account: web::Path<String>,
    query: web::Query<BreaksQuery>,
) -> HttpResponse {
    let BreaksQuery { state, kind, limit } = query.into_inner();
    let limit = limit.unwrap_or(BREAKS_SHOWN).min(SHOWN_MAX);
    answer(ask(&context, Command::Breaks { account: account.into_inner(), state, kind, limit }).await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    text: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolved {
    how: String,
    with: Option<String>,
    #[serde(default)]
    text: String,
}

async fn order(
    context: web::Data<OpsContext>,
    who: BasicAuth,
    path: web::Path<(String, String)>,
    (action, text): (BreakOrderAction, String),
) -> HttpResponse {
    let (account, key) = path.into_inner();
    answer(perform(&context, &who, Command::Break(BreakOrder { account, key, action, text })).await)
}

async fn assign(
    context: web::Data<OpsContext>,
    who: BasicAuth,
    path: web::Path<(String, String)>,
    said: web::Json<Said>,
) -> HttpResponse {
    order(context, who, path, (BreakOrderAction::Assign, said.into_inner().text)).await
}

async fn comment(
    context: web::Data<OpsContext>,
    who: BasicAuth,
    path: web::Path<(String, String)>,
    said: web::Json<Said>,
) -> HttpResponse {
    order(context, who, path, (BreakOrderAction::Comment, said.into_inner().text)).await
}

async fn resolve(
    context: web::Data<OpsContext>,
    who: BasicAuth,
    path: web::Path<(String, String)>,
    resolved: web::Json<Resolved>,
) -> HttpResponse {
    let Resolved { how, with, text } = resolved.into_inner();
    order(context, who, path, (BreakOrderAction::Resolve { how, with }, text)).await
}
