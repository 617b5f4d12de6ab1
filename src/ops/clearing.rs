//! Clearing over HTTP: windows, positions, participants and payouts as JSON; `/openapi.json` describes it.
//!
//! Reading needs no name, like the rest of the port. What changes something needs the name and key of a gateway with the permission
//! `clearing`, by HTTP Basic; its number is recorded. Problems are answered as RFC 9457 `application/problem+json`.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use actix_web_httpauth::extractors::basic::BasicAuth;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{OpsContext, turn};
use crate::backoffice::{Answer, Command, DistributionView, PayoutView, Person, PositionView, Problem, WindowView};
use crate::clearing::ClearingMessage;
use crate::ledger::{Book, GatewayId, Participant};

/// What the interface is.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// Largest file that is taken, of someone who is known.
const FILE_BYTES_MAX: usize = 256 << 20;

/// Time for a file to arrive.
const FILE_TIME: Duration = Duration::from_mins(10);

/// Most of a list that is shown at once.
pub(super) const SHOWN_MAX: usize = 20_000;

/// Payouts shown unless asked for more.
const PAYOUTS_SHOWN: usize = 1_000;

/// Windows shown unless asked for more.
const WINDOWS_SHOWN: usize = 50;

/// Adds the routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/openapi.json", web::get().to(openapi))
        .route("/clearing/windows", web::get().to(windows))
        .route("/clearing/windows/{scheme}/close", web::post().to(close))
        .route("/clearing/windows/{scheme}/{window}/positions", web::get().to(positions))
        .route("/clearing/windows/{scheme}/{window}/files", web::post().to(write_files))
        .route("/clearing/participants", web::get().to(participants))
        .route("/clearing/participants", web::post().to(add_participant))
        .route("/clearing/distributions", web::get().to(distributions))
        .route("/clearing/distributions/{distribution}/run", web::post().to(distribute))
        .route("/clearing/payouts", web::get().to(payouts))
        .route("/clearing/payouts/{payout}/confirm", web::post().to(confirm))
        .route("/clearing/payouts/{payout}/reject", web::post().to(reject))
        .route("/clearing/answers", web::post().to(answers));
}

async fn openapi() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(OPENAPI)
}

pub(super) fn problem(problem: &Problem) -> HttpResponse {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).content_type("application/problem+json").json(problem)
}

pub(super) fn answer<T: Serialize>(result: Result<T, Problem>) -> HttpResponse {
    match result {
        Ok(value) => HttpResponse::Ok().json(value),
        Err(why) => problem(&why),
    }
}

pub(super) fn starting() -> Problem {
    Problem::new(503, "starting", "the server is not ready yet; /readyz says when it is")
}

pub(super) fn stopping() -> Problem {
    Problem::new(503, "stopping", "the server is stopping")
}

/// Reads something of the book.
async fn read<T: Send + 'static>(
    context: &OpsContext,
    read: impl FnOnce(&Book) -> T + Send + 'static,
) -> Result<T, Problem> {
    let queues = context.queues.get().ok_or_else(starting)?;
    let (reply, value) = oneshot::channel();
    let inspection = Box::new(move |book: &Book| {
        // Who asked may have gone.
        let _told = reply.send(read(book));
    });
    queues.clearing.send(ClearingMessage::Inspect(inspection)).map_err(|_gone| stopping())?;
    value.await.map_err(|_gone| stopping())
}

/// Who asks, if it may change anything.
fn person(context: &OpsContext, who: &BasicAuth) -> Result<Person, Problem> {
    let queues = context.queues.get().ok_or_else(starting)?;
    let key = who.password().map(str::as_bytes).and_then(key_of);
    let name = who.user_id();
    let known = key.and_then(|key| queues.gateways.authenticate(name, &key));
    let known = known.ok_or_else(|| Problem::new(401, "unauthorized", format!("no gateway `{name}` has this key")))?;
    if known.grant.may_clear() {
        Ok(Person { id: known.id, name: name.to_owned() })
    } else {
        Err(Problem::new(403, "forbidden", format!("gateway `{name}` lacks the permission `clearing`")))
    }
}

/// A key of 64 hexadecimal digits.
fn key_of(text: &[u8]) -> Option<[u8; 32]> {
    let digits = text.as_chunks::<2>().0;
    let mut key = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

pub(super) async fn perform(context: &OpsContext, who: &BasicAuth, command: Command) -> Result<Answer, Problem> {
    let person = person(context, who)?;
    let queues = context.queues.get().ok_or_else(starting)?;
    queues.office.ask(command, person).await
}

/// Asks the office for something that changes nothing, in nobody's name.
pub(super) async fn ask(context: &OpsContext, command: Command) -> Result<Answer, Problem> {
    let queues = context.queues.get().ok_or_else(starting)?;
    queues.office.ask(command, Person { id: GatewayId(0), name: String::new() }).await
}

#[derive(Debug, Deserialize)]
struct WindowsQuery {
    scheme: Option<String>,
    limit: Option<usize>,
}

async fn windows(context: web::Data<OpsContext>, query: web::Query<WindowsQuery>) -> HttpResponse {
    let WindowsQuery { scheme, limit } = query.into_inner();
    let most = limit.unwrap_or(WINDOWS_SHOWN).min(SHOWN_MAX / 20);
    answer(read(&context, move |book| WindowView::list(book, scheme.as_deref(), most)).await)
}

async fn positions(context: web::Data<OpsContext>, path: web::Path<(String, u32)>) -> HttpResponse {
    let (scheme, window) = path.into_inner();
    let unknown = Problem::new(404, "unknown", format!("scheme `{scheme}` has no window {window}"));
    let found = read(&context, move |book| PositionView::list(book, &scheme, window)).await;
    answer(found.and_then(|found| found.ok_or(unknown)))
}

async fn participants(context: web::Data<OpsContext>) -> HttpResponse {
    let read = read(&context, |book| book.windows().participants().iter().skip(1).map(shown).collect::<Vec<_>>());
    answer(read.await)
}

fn shown(participant: &Participant) -> serde_json::Value {
    serde_json::json!({
        "participant": participant.id,
        "name": participant.name,
        "iban": participant.iban,
        "bic": participant.bic,
        "accounts": participant.accounts.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

#[derive(Debug, Deserialize)]
struct PayoutsQuery {
    scheme: Option<String>,
    window: Option<u32>,
    state: Option<String>,
    limit: Option<usize>,
}

async fn payouts(context: web::Data<OpsContext>, query: web::Query<PayoutsQuery>) -> HttpResponse {
    let PayoutsQuery { scheme, window, state, limit } = query.into_inner();
    let most = limit.unwrap_or(PAYOUTS_SHOWN).min(SHOWN_MAX);
    let which = move |book: &Book| PayoutView::list(book, (scheme.as_deref(), window, state.as_deref()), most);
    answer(read(&context, which).await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewParticipant {
    participant: u32,
    account: String,
    name: String,
    #[serde(default)]
    iban: String,
    #[serde(default)]
    bic: String,
}

async fn add_participant(
    context: web::Data<OpsContext>,
    who: BasicAuth,
    new: web::Json<NewParticipant>,
) -> HttpResponse {
    let NewParticipant { participant, account, name, iban, bic } = new.into_inner();
    answer(perform(&context, &who, Command::AddParticipant { participant, account, name, iban, bic }).await)
}

async fn close(context: web::Data<OpsContext>, who: BasicAuth, scheme: web::Path<String>) -> HttpResponse {
    answer(perform(&context, &who, Command::CloseWindow { scheme: scheme.into_inner() }).await)
}

async fn write_files(context: web::Data<OpsContext>, who: BasicAuth, path: web::Path<(String, u32)>) -> HttpResponse {
    let (scheme, window) = path.into_inner();
    answer(perform(&context, &who, Command::WriteFiles { scheme, window }).await)
}

async fn distributions(context: web::Data<OpsContext>) -> HttpResponse {
    answer(read(&context, DistributionView::list).await)
}

async fn distribute(context: web::Data<OpsContext>, who: BasicAuth, name: web::Path<String>) -> HttpResponse {
    answer(perform(&context, &who, Command::Distribute { distribution: name.into_inner() }).await)
}

async fn confirm(context: web::Data<OpsContext>, who: BasicAuth, payout: web::Path<String>) -> HttpResponse {
    answer(perform(&context, &who, Command::ConfirmPayout { payout: payout.into_inner() }).await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rejection {
    reason: String,
}

async fn reject(
    context: web::Data<OpsContext>,
    who: BasicAuth,
    payout: web::Path<String>,
    why: web::Json<Rejection>,
) -> HttpResponse {
    let command = Command::RejectPayout { payout: payout.into_inner(), reason: why.into_inner().reason };
    answer(perform(&context, &who, command).await)
}

async fn answers(context: web::Data<OpsContext>, who: BasicAuth, file: web::Payload) -> HttpResponse {
    let read = |file| {
        let text = String::from_utf8(file).unwrap_or_else(|err| String::from_utf8_lossy(err.as_bytes()).into_owned());
        Command::BankAnswers { content: text }
    };
    answer(perform_with(context, who, file, read).await)
}

/// Performs a command with a file when it is its turn, which lasts until the command is done: also for a client that does not wait for that, the file is in memory.
pub(super) async fn perform_with(
    context: web::Data<OpsContext>,
    who: BasicAuth,
    file: web::Payload,
    read: impl FnOnce(Vec<u8>) -> Command,
) -> Result<Answer, Problem> {
    let (file, turn) = file_of(&context, &who, file).await?;
    let command = read(file.into());
    let performed = actix_web::rt::spawn(async move {
        let done = perform(&context, &who, command).await;
        drop(turn);
        done
    });
    performed.await.unwrap_or_else(|_stopped| Err(stopping()))
}

/// Takes a file when it is its turn, but of nobody who is not known.
async fn file_of(
    context: &OpsContext,
    who: &BasicAuth,
    file: web::Payload,
) -> Result<(web::Bytes, OwnedSemaphorePermit), Problem> {
    person(context, who)?;
    let queues = context.queues.get().ok_or_else(starting)?;
    let turn = turn(&queues.files, "other files are being taken; send it again in a while").await?;
    let broken = |_err| Problem::new(400, "invalid", "the file did not arrive whole");
    let too_large = |_err| Problem::new(413, "too_large", "the file is larger than 256 MiB");
    let late = |_elapsed| Problem::new(408, "late", "the file did not arrive within ten minutes");
    let taken = tokio::time::timeout(FILE_TIME, file.to_bytes_limited(FILE_BYTES_MAX)).await.map_err(late)?;
    Ok((taken.map_err(too_large)?.map_err(broken)?, turn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let described: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let source = [
            include_str!("clearing.rs"),
            include_str!("banks.rs"),
            include_str!("reports.rs"),
            include_str!("check.rs"),
        ]
        .concat();
        let routes = source.split(".route(\"").skip(1).filter_map(|rest| {
            let (path, rest) = rest.split_once("\", web::")?;
            Some((path, rest.split("()").next()?))
        });
        let routes: Vec<_> = routes.filter(|(path, _)| path.starts_with('/')).collect();
        assert!(routes.len() > 17, "{routes:?}");
        for (path, method) in routes {
            assert!(described["paths"][path][method]["summary"].is_string(), "{method} {path}");
        }
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        assert_eq!(key_of(&[b'0'; 64]), Some([0; 32]));
        assert_eq!((key_of(&[b'0'; 62]), key_of(&[b'x'; 64]), key_of("é".repeat(32).as_bytes())), (None, None, None));
    }
}
