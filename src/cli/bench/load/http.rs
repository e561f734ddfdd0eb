//! One HTTP/1.1 connection, one event per request. Request loop and connection are one task: nothing has to be woken between
//! the two.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use futures::future::{Either, select};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{AFTER_FAILURE, Job};

/// Sends until the load ends; a connection that breaks is opened again.
pub(super) async fn run(mut job: Job) {
    while !job.ledger.is_stopped() {
        if let Err(error) = connection(&mut job).await {
            job.ledger.failed(1, || error.to_string());
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

async fn connection(job: &mut Job) -> io::Result<()> {
    let stream = TcpStream::connect(job.addr).await?;
    stream.set_nodelay(true)?;
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
    let host = HeaderValue::from_str(&job.addr.to_string())
        .expect("an address has only visible characters");
    let path = Uri::from_static("/collect");
    let json = HeaderValue::from_static("application/json");
    loop {
        job.pace.wait(&job.ledger).await;
        if job.ledger.is_stopped() {
            return Ok(());
        }
        let due = job.pace.take();
        let mut request = Request::new(Full::new(job.source.json()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.clone();
        request.headers_mut().insert(HOST, host.clone());
        request.headers_mut().insert(CONTENT_TYPE, json.clone());
        let response = sender.send_request(request).await?;
        let status = read(response).await?;
        if status == StatusCode::ACCEPTED {
            job.ledger.accepted(1, due);
        } else {
            job.ledger.failed(1, || format!("answered with {status}"));
            tokio::time::sleep(AFTER_FAILURE).await;
        }
        sender.ready().await?;
    }
}

/// Reads an answer to its end.
async fn read(mut response: Response<Incoming>) -> hyper::Result<StatusCode> {
    while let Some(frame) = response.body_mut().frame().await {
        drop(frame?);
    }
    Ok(response.status())
}
