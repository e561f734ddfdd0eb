//! One HTTP/1.1 connection, one event per request. Request loop and connection are one task: nothing has to be woken between
//! the two.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use futures::future::{Either, select};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Job;

/// Sends until the load ends; a connection that breaks is opened again.
pub(super) async fn run(mut job: Job) {
    while !job.ledger.is_stopped() {
        if let Err(error) = connection(&mut job).await {
            job.ledger.failed(1, || error.to_string());
            job.pause().await;
        }
    }
}

async fn connection(job: &mut Job) -> io::Result<()> {
    let stream = job.client.connect(job.addr).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let requests = pin!(requests(job, sender));
    match select(requests, connection).await {
        Either::Left((ended, _)) => ended.map_err(io::Error::other),
        // Whatever is under way hears of it.
        Either::Right((_, requests)) => requests.await.map_err(io::Error::other),
    }
}

async fn requests(job: &mut Job, mut sender: SendRequest<Full<Bytes>>) -> hyper::Result<()> {
    let mut headers = job.headers.clone();
    let host = HeaderValue::from_str(&job.addr.to_string())
        .expect("an address has only visible characters");
    headers.insert(HOST, host);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if job.packer.is_some() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let path = Uri::from_static("/collect");
    loop {
        job.pace.wait(&job.ledger).await;
        if job.ledger.is_stopped() {
            return Ok(());
        }
        let due = job.due();
        let mut body = job.source.json();
        if let Some(packer) = &mut job.packer {
            body = packer.gzip(&body);
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.clone();
        request.headers_mut().clone_from(&headers);
        let sent = Instant::now();
        let response = sender.send_request(request).await?;
        match read(response).await? {
            (StatusCode::ACCEPTED, _) => {
                job.ledger.accepted(1, due);
                sender.ready().await?;
                continue;
            }
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, says_when) => {
                job.ledger.refused(1, (due, sent), says_when);
            }
            (status, _) => job.ledger.failed(1, || format!("answered with {status}")),
        }
        if !job.pace.is_open_loop() {
            job.pause().await;
        }
        // Who is turned away may be put out as well, and comes again.
        if sender.ready().await.is_err() {
            return Ok(());
        }
    }
}

/// Reads an answer to its end: its status, and whether it says when to come again.
async fn read(mut response: Response<Incoming>) -> hyper::Result<(StatusCode, bool)> {
    while let Some(frame) = response.body_mut().frame().await {
        drop(frame?);
    }
    let says_when = response.headers().contains_key(RETRY_AFTER);
    Ok((response.status(), says_when))
}
