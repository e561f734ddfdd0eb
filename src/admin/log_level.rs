//! The level of the log lines: shown to whoever reaches the port, changed only from the machine itself.
//!
//! ```console
//! $ curl -X PUT localhost:9090/admin/log-level -d debug
//! ```

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::failure;
use crate::config::LogLevel;
use crate::status::Code;
use crate::telemetry::logs::Logs;

/// A level is one word.
const BODY_BYTES_MAX: usize = 1_024;

pub(super) fn routes(logs: Logs) -> Router {
    Router::new()
        .route("/admin/log-level", get(show).put(change))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(logs)
}

async fn show(State(logs): State<Logs>) -> Response {
    answer(&logs)
}

async fn change(
    State(logs): State<Logs>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Response {
    // An IPv6 socket writes an IPv4 peer in its own way.
    if !peer.ip().to_canonical().is_loopback() {
        let code = Code::Forbidden;
        return failure(code, StatusCode::FORBIDDEN, code.text());
    }
    let Some(level) = level_of(&body) else {
        let text = "send debug, info, warning or error, as a word or as {\"level\":\"…\"}";
        return failure(Code::MalformedRequest, StatusCode::BAD_REQUEST, text);
    };
    logs.set_level(level, "admin");
    answer(&logs)
}

fn answer(logs: &Logs) -> Response {
    Json(json!({ "level": logs.level().as_str() })).into_response()
}

/// The level that a body names, as a word or as JSON.
fn level_of(body: &[u8]) -> Option<LogLevel> {
    let text = std::str::from_utf8(body).ok()?.trim();
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => LogLevel::named(fields.get("level")?.as_str()?),
        Ok(Value::String(word)) => LogLevel::named(&word),
        _ => LogLevel::named(text),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::extract::connect_info::MockConnectInfo;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::clock::ManualClock;
    use crate::telemetry::logs::{Form, Lines, subscriber};

    async fn ask(logs: &Logs, method: &str, body: &'static str, peer: &str) -> (u16, Value) {
        let peer: SocketAddr = peer.parse().unwrap();
        let request = Request::builder().method(method).uri("/admin/log-level");
        let request = request.body(Body::from(body)).unwrap();
        let router = routes(logs.clone()).layer(MockConnectInfo(peer));
        let response = router.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn the_level_is_changed_from_the_machine_itself_and_from_nowhere_else() {
        let clock = Arc::new(ManualClock::new(0));
        let lines = Lines::new(Form::Json, std::io::sink, clock);
        // Where nobody writes lines, a level is only remembered.
        let (_subscriber, logs) = subscriber(LogLevel::Info, lines);
        let here = "127.0.0.1:4000";
        for (method, body, peer, status, level) in [
            ("GET", "", "10.0.0.7:4000", 200, LogLevel::Info),
            ("PUT", "debug\n", here, 200, LogLevel::Debug),
            ("PUT", "\"INFO\"", "[::1]:4000", 200, LogLevel::Info),
            (
                "PUT",
                "{\"level\":\"error\"}",
                "[::ffff:127.0.0.1]:4000",
                200,
                LogLevel::Error,
            ),
            ("PUT", "debug", "10.0.0.7:4000", 403, LogLevel::Error),
            (
                "PUT",
                "debug",
                "[::ffff:10.0.0.7]:4000",
                403,
                LogLevel::Error,
            ),
            ("PUT", "loud", here, 400, LogLevel::Error),
            ("PUT", "", here, 400, LogLevel::Error),
            ("PUT", "{\"level\":7}", here, 400, LogLevel::Error),
            ("GET", "", here, 200, LogLevel::Error),
        ] {
            let (found, answer) = ask(&logs, method, body, peer).await;
            assert_eq!(
                (found, logs.level()),
                (status, level),
                "{method} {body} {peer}"
            );
            if status == 200 {
                assert_eq!(answer, json!({ "level": level.as_str() }));
            } else {
                assert_eq!(answer["success"], false, "{answer}");
            }
        }
    }
}
