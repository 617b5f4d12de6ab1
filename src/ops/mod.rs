//! The operations port: `/metrics`, `/healthz`, `/readyz`, `/clearing`, `/banks`, `/reports` and `/check` over HTTP.
//!
//! Reading has no authentication and belongs on a private address. It answers while the server recovers and drains. Reading it never
//! disturbs the actors: everything it shows is counted elsewhere.

mod banks;
mod check;
mod clearing;
mod metrics;
mod reports;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HOST, HeaderValue, ORIGIN};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpResponse, HttpServer, web};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::clearing::problem;
use self::metrics::Collected;
use crate::backoffice::{OfficeHandle, Problem};
use crate::clearing::ClearingHandle;
use crate::engine::Engine;
use crate::flow::Admission;
use crate::journal::JournalReader;
use crate::router::RouterHandle;
use crate::settlement::SettlementHandle;
use crate::shard::ShardHandle;
use crate::store::Gateways;
use crate::telemetry::{HealthState, Telemetry};
use crate::verify::LiveCheck;

/// Connections at once; others wait until one is closed.
const CONNECTIONS_MAX: usize = 256;

/// Files that are in memory at once, of up to 256 MiB each.
const FILES_MAX: usize = 2;

/// Time that a report or a file waits for those before it.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// Media type of `OpenMetrics` text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is shown.
#[derive(Clone, Debug)]
pub struct OpsContext {
    telemetry: Telemetry,
    /// Set once the engine runs.
    queues: Arc<OnceLock<Queues>>,
}

/// Where depths are read.
#[derive(Clone, Debug)]
struct Queues {
    admission: Arc<Admission>,
    router: RouterHandle,
    settlement: SettlementHandle,
    clearing: ClearingHandle,
    shards: Vec<ShardHandle>,
    gateways: Gateways,
    office: OfficeHandle,
    reader: Arc<JournalReader>,
    check: Arc<LiveCheck>,
    /// Where bank statements are kept.
    statements: PathBuf,
    /// Reports are made one after the other.
    reports: Arc<Semaphore>,
    /// Files are taken a few at a time.
    files: Arc<Semaphore>,
}

impl OpsContext {
    /// Shows the queues of this engine from now on.
    pub fn watch(&self, engine: &Engine, office: OfficeHandle, (journal, data_dir): (PathBuf, &Path)) {
        let queues = Queues {
            admission: Arc::clone(&engine.admission),
            router: engine.router.clone(),
            settlement: engine.settlement.clone(),
            clearing: engine.clearing.clone(),
            shards: engine.shards.clone(),
            gateways: engine.gateways.clone(),
            office,
            reader: Arc::clone(&engine.reader),
            check: Arc::new(LiveCheck::new(journal, engine.clearing.clone())),
            statements: data_dir.join("statements"),
            reports: Arc::new(Semaphore::new(1)),
            files: Arc::new(Semaphore::new(FILES_MAX)),
        };
        // A second engine in one server does not happen.
        let _first = self.queues.set(queues);
    }
}

/// Serves on a bound listener, inside the current actix system.
pub fn start(listener: std::net::TcpListener, telemetry: Telemetry) -> io::Result<(OpsContext, ServerHandle)> {
    let context = OpsContext { telemetry, queues: Arc::default() };
    let shown = context.clone();
    let app = move || {
        App::new()
            .app_data(web::Data::new(shown.clone()))
            .wrap(from_fn(refuse_other_origins))
            .route("/metrics", web::get().to(metrics_page))
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz))
            .configure(clearing::routes)
            .configure(banks::routes)
            .configure(reports::routes)
            .configure(check::routes)
            .default_service(web::to(nothing_here))
    };
    let server =
        HttpServer::new(app).workers(1).max_connections(CONNECTIONS_MAX).disable_signals().listen(listener)?.run();
    let handle = server.handle();
    actix::spawn(async move {
        if let Err(err) = server.await {
            tracing::error!(%err, "the operations port has ended");
        }
    });
    Ok((context, handle))
}

/// Waits for a turn, or says that others have it.
async fn turn(turns: &Arc<Semaphore>, busy: &str) -> Result<OwnedSemaphorePermit, Problem> {
    let turn = tokio::time::timeout(TURN_WAIT, Arc::clone(turns).acquire_owned()).await;
    turn.ok().and_then(Result::ok).ok_or_else(|| Problem::new(503, "busy", busy))
}

/// A browser that has somebody's key sends it wherever a page asks it to; a page of another origin is not to change anything.
async fn refuse_other_origins(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    // Something before this port may speak TLS for it.
    let schemes: [&[u8]; 2] = [b"http://", b"https://"];
    let is_own = |origin: &[u8]| {
        let mut hosts = schemes.iter().filter_map(|scheme| origin.strip_prefix(*scheme));
        hosts.any(|host| Some(host) == header(HOST))
    };
    let is_foreign = header(ORIGIN).is_some_and(|origin| !is_own(origin));
    if is_foreign && !request.method().is_safe() {
        let why = Problem::new(403, "forbidden", "a page of another origin may not change anything here");
        return Ok(request.into_response(problem(&why)));
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

async fn metrics_page(context: web::Data<OpsContext>) -> HttpResponse {
    match Collected::new(&context).encode() {
        Ok(text) => HttpResponse::Ok().content_type(OPEN_METRICS).body(text),
        Err(err) => HttpResponse::InternalServerError().body(format!("metrics cannot be written: {err}\n")),
    }
}

async fn healthz(context: web::Data<OpsContext>) -> HttpResponse {
    let state = context.telemetry.health().state();
    let status = if matches!(state, HealthState::Failed(_)) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    HttpResponse::build(status).content_type("text/plain").body(describe(&state))
}

async fn readyz(context: web::Data<OpsContext>) -> HttpResponse {
    let state = context.telemetry.health().state();
    let status = if state == HealthState::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status).content_type("text/plain").body(describe(&state))
}

async fn nothing_here() -> HttpResponse {
    HttpResponse::NotFound()
        .content_type("text/plain")
        .body("try /metrics, /healthz, /readyz, /clearing/windows or /openapi.json\n")
}

fn describe(state: &HealthState) -> String {
    match state {
        HealthState::Starting => "starting: recovering the journal\n".to_owned(),
        HealthState::Ready => "ready\n".to_owned(),
        HealthState::Draining => "draining\n".to_owned(),
        HealthState::Failed(reason) => format!("failed: {reason}\n"),
    }
}
