//! The admin port: metrics, health, questions to the live log, and the level of the log lines. Never public by default: whoever reaches it can read
//! what clients sent.

use std::future::IntoFuture as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::event::Offset;
use crate::lifecycle::Health;
use crate::status::Code;
use crate::telemetry::Metrics;
use crate::telemetry::logs::Logs;
use crate::wal::Wal;
use crate::wal::inspect::{InspectError, Inspector};

mod log_level;

/// The most records of one `/admin/wal/dump`, without and with payloads: an answer is built in memory. Ask again with a
/// higher `from` for more.
const DUMP_RECORDS_MAX: usize = 1_000;
const DUMP_PAYLOADS_MAX: usize = 100;
const DUMP_RECORDS_DEFAULT: usize = 100;
/// How long requests may go on once the port is to close: a full read of the log is not worth waiting for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the admin port shows and changes of the process.
#[derive(Debug, Clone)]
pub struct Process {
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/ready`.
    pub health: Health,
    /// `/admin/log-level`, where the log lines are this program's own.
    pub logs: Option<Logs>,
}

/// Everything that the admin port answers.
pub fn router(process: Process, wal: Wal) -> Router {
    closed(state_of_things(process).merge(questions(wal)))
}

/// What the admin port of a process without a log answers.
pub fn router_without_log(process: Process) -> Router {
    closed(state_of_things(process))
}

fn state_of_things(process: Process) -> Router {
    let Process {
        metrics,
        health,
        logs,
    } = process;
    let router = Router::new()
        .route("/metrics", get(render_metrics).with_state(metrics))
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/ready", get(ready).with_state(health));
    match logs {
        Some(logs) => router.merge(log_level::routes(logs)),
        None => router,
    }
}

/// The live log, which answers one question at a time: each may read all of it.
#[derive(Debug, Clone)]
struct Log {
    wal: Wal,
    turn: Arc<Semaphore>,
}

fn questions(wal: Wal) -> Router {
    Router::new()
        .route("/admin/wal/stat", get(stat))
        .route("/admin/wal/verify", get(verify))
        .route("/admin/wal/dump", get(dump))
        .with_state(Log {
            wal,
            turn: Arc::new(Semaphore::new(1)),
        })
}

/// What is not there says so in JSON, too.
fn closed(router: Router) -> Router {
    router
        .fallback(|uri: Uri| async move {
            let text = format!("there is no {} on the admin port", uri.path());
            failure(Code::NotFound, StatusCode::NOT_FOUND, &text)
        })
        .method_not_allowed_fallback(|| async {
            let code = Code::MethodNotAllowed;
            failure(code, StatusCode::METHOD_NOT_ALLOWED, code.text())
        })
}

/// Answers until the shutdown, and then for a moment longer what was asked before it.
///
/// # Errors
///
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let closing = shutdown.clone();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .into_future();
    let deadline = async move {
        closing.cancelled().await;
        tokio::time::sleep(CLOSE_TIMEOUT).await;
    };
    // Dropping either arm is fine: the server's connections end with it, and the deadline holds nothing.
    tokio::select! {
        result = served => result,
        () = deadline => Ok(()),
    }
}

async fn render_metrics(State(metrics): State<Metrics>) -> Response {
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], metrics.render()).into_response()
}

async fn ready(State(health): State<Health>) -> Response {
    let readiness = health.readiness();
    let (status, word) = if readiness.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    let body = json!({
        "status": word,
        "not_ready": readiness.not_ready,
        "degraded": readiness.degraded,
    });
    (status, Json(body)).into_response()
}

async fn stat(State(log): State<Log>) -> Response {
    inspect(log, |log| log.stat()).await
}

async fn verify(State(log): State<Log>) -> Response {
    inspect(log, |log| log.verify()).await
}

async fn dump(State(log): State<Log>, RawQuery(query): RawQuery) -> Response {
    match DumpQuery::parse(query.as_deref().unwrap_or_default()) {
        Ok(DumpQuery {
            from,
            limit,
            payload,
        }) => inspect(log, move |log| log.dump(from, limit, payload)).await,
        Err(text) => failure(Code::MalformedRequest, StatusCode::BAD_REQUEST, &text),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct DumpQuery {
    from: Offset,
    limit: usize,
    payload: bool,
}

impl DumpQuery {
    fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self {
            from: 0,
            limit: DUMP_RECORDS_DEFAULT,
            payload: false,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let known = match name {
                "from" => value.parse().map(|from| parsed.from = from).is_ok(),
                "limit" => value.parse().map(|limit| parsed.limit = limit).is_ok(),
                "payload" => value.parse().map(|shown| parsed.payload = shown).is_ok(),
                _ => return Err("the parameters are from, limit and payload".into()),
            };
            if !known {
                return Err("from is an offset, limit a number, payload true or false".into());
            }
        }
        let most = if parsed.payload {
            DUMP_PAYLOADS_MAX
        } else {
            DUMP_RECORDS_MAX
        };
        if parsed.limit > most {
            return Err(format!(
                "with this payload parameter limit is at most {most}"
            ));
        }
        Ok(parsed)
    }
}

/// Reading the log blocks: it is done beside the runtime.
async fn inspect<T, F>(log: Log, question: F) -> Response
where
    T: Serialize + Send + 'static,
    F: FnOnce(&Inspector) -> Result<T, InspectError> + Send + 'static,
{
    let turn = log.turn.acquire_owned().await;
    let answer = tokio::task::spawn_blocking(move || {
        // Held here: the reading goes on even if the one who asked has gone.
        let _turn = turn;
        question(&Inspector::live(&log.wal))
    })
    .await;
    match answer {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "wal_inspect_failed"
            );
            let text = error.to_string();
            failure(Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
        Err(error) => {
            tracing::error!(%error, "wal_inspect_panicked");
            let code = Code::Internal;
            failure(code, StatusCode::INTERNAL_SERVER_ERROR, code.text())
        }
    }
}

fn failure(code: Code, status: StatusCode, text: &str) -> Response {
    let body = json!({
        "success": false,
        "code": code.as_str(),
        "message": text,
        "error": text,
        "request_id": uuid::Uuid::now_v7().to_string(),
    });
    (status, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;

    fn process(metrics: Metrics, health: Health) -> Process {
        Process {
            metrics,
            health,
            logs: None,
        }
    }

    async fn ask(method: &str, path: &str, health: &Health) -> (StatusCode, String, String) {
        let metrics = Metrics::new();
        metrics.wal_commits.add(3, &[]);
        let request = axum::http::Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap();
        let router = router_without_log(process(metrics, health.clone()));
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let format = response.headers()[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, format, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn metrics_are_in_the_format_of_prometheus() {
        let (status, format, body) = ask("GET", "/metrics", &Health::default()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(format, "text/plain; version=0.0.4; charset=utf-8");
        assert!(
            body.lines()
                .any(|line| line == "eventkit_wal_commits_total 3"),
            "{body}"
        );
    }

    #[tokio::test]
    async fn readiness_names_what_is_not_well() {
        let health = Health::default();
        health.degraded("store", Some("unavailable".into()));
        let (status, _, body) = ask("GET", "/ready", &health).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("ready")));
        assert_eq!(body["degraded"]["store"], "unavailable");

        health.not_ready("log", Some("full".into()));
        let (status, _, body) = ask("GET", "/ready", &health).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["not_ready"]["log"], "full");
        let (status, ..) = ask("GET", "/health", &health).await;
        assert_eq!(status, StatusCode::OK);
    }

    #[tokio::test]
    async fn what_is_not_there_says_so_in_json() {
        for (method, path, expect, code) in [
            ("GET", "/nothing", 404, "not_found"),
            ("POST", "/metrics", 405, "method_not_allowed"),
        ] {
            let (status, format, body) = ask(method, path, &Health::default()).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (status.as_u16(), format.as_str()),
                (expect, "application/json")
            );
            assert_eq!(
                (&body["success"], &body["code"]),
                (&json!(false), &json!(code))
            );
        }
    }

    #[tokio::test]
    async fn the_port_closes_when_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let router = router_without_log(process(Metrics::new(), Health::default()));
        serve(listener, router, shutdown).await.unwrap();
    }

    #[test]
    fn a_dump_asks_for_what_its_parameters_say() {
        for (query, expect) in [
            ("", Some((0, 100, false))),
            ("from=5&limit=1000", Some((5, 1_000, false))),
            ("limit=100&payload=true&from=7", Some((7, 100, true))),
            ("limit=1001", None),
            ("limit=101&payload=true", None),
            ("from=-1", None),
            ("payload=maybe", None),
            ("form=5", None),
        ] {
            let parsed = DumpQuery::parse(query)
                .ok()
                .map(|query| (query.from, query.limit, query.payload));
            assert_eq!(parsed, expect, "{query}");
        }
    }
}
