//! What is sent as it is, nonsense included, and what comes back.

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Status;

use super::*;
use crate::doors::{Answer, read_to_end, within};

/// A `POST` whose head is as it should be.
pub(crate) fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Sends bytes, ends its own side, and returns every answer until the server ends its own.
pub(crate) async fn exchange(addr: SocketAddr, request: &[u8]) -> Vec<Answer> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The answer may come, and the connection go, before everything was sent.
    drop(stream.write_all(request).await);
    drop(stream.shutdown().await);
    answers(&read_to_end(&mut stream).await)
}

/// The answers that one connection brought, one after the other.
pub(crate) fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    while let Some(mut answer) = Answer::read(bytes) {
        let length = answer.header("content-length").expect("a length");
        let rest = answer.body.len() - length.parse::<usize>().unwrap();
        answer.body.truncate(answer.body.len() - rest);
        bytes = &bytes[bytes.len() - rest..];
        found.push(answer);
    }
    assert_eq!(bytes, b"", "something else than an answer");
    found
}

/// `GET`, from any port; the body.
pub(crate) async fn get(addr: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = crate::doors::send_to(addr.parse().unwrap(), request.as_bytes()).await;
    assert_eq!(answer.status(), 200);
    String::from_utf8(answer.body).unwrap()
}

impl Subject {
    /// Sends one case after the other, and a good event after each.
    pub(crate) async fn walk(&self, cases: impl IntoIterator<Item = Case>) {
        for (name, sent, expected) in cases {
            let answers = exchange(self.http_addr(), &sent).await;
            assert_eq!(answers.len(), expected.len(), "{name}: {answers:?}");
            for (answer, expected) in answers.iter().zip(&expected) {
                self.answered(name, answer, expected);
            }
            self.good(name).await;
        }
    }

    /// Holds an HTTP answer against what was expected.
    pub(crate) fn answered(&self, name: &str, answer: &Answer, expected: &Expected) {
        match expected {
            NotHttp(status) => {
                assert_eq!(answer.status(), *status, "{name}: {answer:?}");
                assert!(answer.body.is_empty(), "{name}: {answer:?}");
            }
            Refused(status, code) => {
                let found = answer.error();
                assert_eq!((found.0, found.1.as_str()), (*status, *code), "{name}");
                let json = answer.json();
                let text = json["message"].as_str().unwrap();
                assert_clear(name, Some(*status), code, text);
                assert_eq!(json["error"], text, "{name}");
                assert!(json.get("results").is_none(), "{name}");
            }
            Judged(status, fates) => {
                assert_eq!(answer.status(), *status, "{name}: {answer:?}");
                let json = answer.json();
                match status {
                    200 => assert_eq!(json["success"], true, "{name}"),
                    202 => assert_eq!(json["status"], "accepted", "{name}"),
                    _ => assert_eq!(json["success"], false, "{name}"),
                }
                let outcomes = outcomes(&json["results"]);
                assert_eq!(outcomes.len(), fates.len(), "{name}");
                for (outcome, fate) in outcomes.iter().zip(fates) {
                    self.judged(name, outcome, fate);
                }
                if *status >= 400 {
                    let (_, code) = answer.error();
                    let text = json["message"].as_str().unwrap();
                    assert_clear(name, Some(*status), &code, text);
                }
            }
        }
    }
}

/// A request's body, as a whole or in pieces.
pub(crate) type Sent = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;
type Sender = hyper::client::conn::http2::SendRequest<Sent>;

/// A body that is there at once.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Sent {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that comes in pieces.
pub(crate) fn pieces(pieces: impl futures::Stream<Item = Bytes> + Send + 'static) -> Sent {
    let frames = pieces.map(|piece| Ok(http_body::Frame::data(piece)));
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

/// An HTTP/2 connection; dropped with the task that is returned beside it.
pub(crate) async fn http2(addr: SocketAddr) -> (Sender, tokio::task::JoinSet<hyper::Result<()>>) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    (sender, tasks)
}

/// A gRPC call with this body: its status, wherever it stands, and the message's bytes with their header.
pub(crate) async fn call(
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Sent,
) -> (Status, Bytes) {
    let (mut sender, _connection) = http2(addr).await;
    let mut request = http::Request::post(format!("http://{addr}{path}"));
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = within(sender.send_request(request.body(body).unwrap()))
        .await
        .unwrap();
    let (head, body) = response.into_parts();
    let body = within(body.collect()).await.unwrap();
    let trailers = body.trailers().and_then(Status::from_header_map);
    let status = Status::from_header_map(&head.headers).or(trailers);
    (status.expect("a status"), body.to_bytes())
}
