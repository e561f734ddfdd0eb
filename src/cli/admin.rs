//! A question to a running process's admin port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// The most bytes of one answer: a page of records, each with a payload of the largest size, stays below it.
const ANSWER_BYTES_MAX: usize = 1 << 30;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The status and the text of an answer that came within the time; `token` is what the port asks for.
pub(super) fn get(
    uri: Uri,
    token: Option<&str>,
    connect: Duration,
    answer: Duration,
) -> Result<(StatusCode, String), BoxError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            tokio::time::timeout(answer, fetch(uri, token, connect))
                .await
                .unwrap_or_else(|_| Err("no answer in time".into()))
        })
}

async fn fetch(
    uri: Uri,
    token: Option<&str>,
    connect: Duration,
) -> Result<(StatusCode, String), BoxError> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(connect));
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let mut request = Request::get(uri).body(Empty::new())?;
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let response = client.request(request).await.map_err(|error| -> BoxError {
        match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}").into(),
            None => error.into(),
        }
    })?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await?
        .to_bytes();
    Ok((status, String::from_utf8(body.into())?))
}

/// A port that listens on every address is reached by loopback.
pub(super) fn reachable(mut admin: SocketAddr) -> SocketAddr {
    if admin.ip().is_unspecified() {
        admin.set_ip(match admin.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    admin
}
