//! Keys where none belongs: they neither work nor are they shown. And pages that use one without leave.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use http_body_util::StreamBody;

use super::*;
use crate::bad_input::wire::{call, exchange, http2, post, whole};
use crate::bad_input::{Running, good_event};
use crate::docs::scrape;
use crate::doors::grpc::{batch, frame};
use crate::doors::{Answer, within};
use crate::keys::keys;
use crate::personal_data::assert_clean;
use crate::support::gateway::{DEBUG, Gateway};

/// Marked, so that it is found wherever it is shown.
const KEY: &str = "PERSONAL-write-key-0123456789abcdef";
/// A key that only pages of one origin may use.
const PAGES: &str = "PERSONAL-page-key-0123456789abcdef";
const COLLECT: &str = "/eventkit.v1.IngestService/Collect";
const ONE: &str = r#"{"type":"track","userId":"u","event":"e","messageId":"stolen"}"#;

async fn start(file: &Path) -> Gateway {
    keys(file, &["add", "--source", "shop", "--existing"], KEY).await;
    let pages = [
        "add",
        "--source",
        "pages",
        "--existing",
        "--origin",
        "https://shop.example",
    ];
    keys(file, &pages, PAGES).await;
    let setting = file.display().to_string();
    let settings = [("EVENTKIT_WRITE_KEYS_FILE", setting.as_str()), DEBUG];
    Gateway::spawn(&file.with_file_name("data"), &settings).unwrap()
}

async fn subject() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = start(&dir.path().join("keys.json")).await;
    let endpoints = gateway.ready(Duration::from_secs(30)).await.unwrap();
    Subject::of(Running {
        data: dir.path().join("data"),
        dir,
        gateway,
        entrance: endpoints.clone(),
        endpoints,
        key: Some(KEY.to_owned()),
    })
    .await
}

/// Path, header lines and body, each with the key where it is none.
fn places() -> Vec<(String, String, String)> {
    let one = || ONE.to_owned();
    let headers =
        |name: &str, value: &str| ("/collect".to_owned(), format!("{name}: {value}\r\n"), one());
    let path = |path: &str| (path.replace("KEY", KEY), String::new(), one());
    let body = |body: &str| {
        (
            "/collect".to_owned(),
            String::new(),
            body.replace("KEY", KEY),
        )
    };
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text.replace("KEY", KEY)));
    vec![
        path("/collect/KEY"),
        path("/KEY/collect"),
        path("/KEY"),
        path("/v1/KEY/track"),
        path("/v1/track/KEY"),
        path("/collect?key=KEY"),
        path("/collect?write_key=KEY"),
        path("/collect?WRITEKEY=KEY"),
        path("/collect?KEY"),
        path("/collect?x=writeKey=KEY"),
        headers("Cookie", &format!("writeKey={KEY}; x-write-key={KEY}")),
        headers("Authorization", KEY),
        headers("Authorization", &format!("Digest {KEY}")),
        headers("Authorization", &format!("Basic {KEY}")),
        headers("Authorization", &basic(":KEY")),
        headers("Authorization", &basic("user:KEY")),
        headers("Authorization", &basic(" KEY")),
        headers("Authorization", &format!("Bearer{KEY}")),
        headers("Authorization", &format!("Bearer {KEY}x")),
        headers("Authorization", &format!("Bearer {}", KEY.to_lowercase())),
        headers("Proxy-Authorization", &format!("Bearer {KEY}")),
        headers("X-Api-Key", KEY),
        headers("X-WriteKey", KEY),
        headers("X_Write_Key", KEY),
        headers("X-Write-Key", &format!("{KEY}, {KEY}")),
        headers("X-Write-Key", &format!("\"{KEY}\"")),
        headers("X-Write-Key", &format!("{KEY}\0").replace('\0', "%00")),
        headers("User-Agent", KEY),
        headers("Referer", &format!("https://shop.example/?writeKey={KEY}")),
        headers("Origin", &format!("https://{KEY}.example")),
        headers("traceparent", KEY),
        headers("tracestate", &format!("a={KEY}")),
        headers("Content-Type", &format!("application/json; key={KEY}")),
        body(
            r#"{"type":"track","userId":"u","event":"e","messageId":"stolen","properties":{"writeKey":"KEY"}}"#,
        ),
        body(
            r#"{"type":"track","userId":"u","event":"e","messageId":"stolen","context":{"writeKey":"KEY"}}"#,
        ),
        body(r#"{"type":"track","userId":"u","event":"e","messageId":"stolen","write_key":"KEY"}"#),
        body(r#"{"type":"track","userId":"KEY","event":"e","messageId":"stolen"}"#),
        body(r#"{"type":"track","userId":"u","event":"e","messageId":"KEY"}"#),
        body(
            r#"[{"type":"track","userId":"u","event":"e","messageId":"stolen","writeKey":"KEY"}]"#,
        ),
        body(
            r#"{"type":"track","userId":"u","event":"e","messageId":"stolen","writeKey":["KEY"]}"#,
        ),
        body(
            r#"{"type":"track","userId":"u","event":"e","messageId":"stolen","writeKey":"KEY","writeKey":"none"}"#,
        ),
        body(r#"KEY"#),
    ]
}

/// Nothing of a key, and no row.
fn assert_refused(place: &str, answer: &Answer) {
    assert!((400..500).contains(&answer.status()), "{place}: {answer:?}");
    // An origin is told that it may read the answer, by its own name.
    let shown = format!("{answer:?}");
    if !place.contains("Origin") {
        assert_clean(&shown, place);
    }
}

async fn over_http(subject: &Subject) {
    for (path, headers, body) in places() {
        let place = format!("{path} {headers}{body}");
        let request = post(&path, &headers, body.as_bytes());
        let answers = exchange(subject.http_addr(), &request).await;
        assert_eq!(answers.len(), 1, "{place}");
        assert_refused(&place, &answers[0]);
    }
    // In the trailers of a body, which nobody reads.
    let size = ONE.len();
    let trailed = format!(
        "POST /collect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Write-Key\r\n\r\n{size:x}\r\n{ONE}\r\n0\r\n\
         X-Write-Key: {KEY}\r\n\r\n"
    );
    let answers = exchange(subject.http_addr(), trailed.as_bytes()).await;
    assert_refused("trailers", &answers[0]);
}

async fn over_grpc(subject: &Subject) {
    let body = |stream: &str| {
        let request = eventkit::proto::v1::CollectRequest {
            stream: stream.into(),
            ..batch(vec![good_event("stolen")])
        };
        frame(&prost::Message::encode_to_vec(&request))
    };
    let basic = format!("Basic {}", STANDARD.encode(format!("user:{KEY}")));
    let places = [
        ("cookie", format!("x-write-key={KEY}")),
        ("authorization", KEY.to_owned()),
        ("authorization", basic),
        ("writekey", KEY.to_owned()),
        ("x-write-key-bin", STANDARD.encode(KEY)),
        ("grpc-timeout", KEY.to_owned()),
        ("user-agent", KEY.to_owned()),
        ("x-none", KEY.to_owned()),
    ];
    for (name, value) in &places {
        let headers = [(*name, value.as_str())];
        let (status, _) = call(subject.grpc_addr(), COLLECT, &headers, whole(body(""))).await;
        assert_eq!(
            status.code(),
            tonic::Code::Unauthenticated,
            "{name}: {status:?}"
        );
        assert_clean(&format!("{status:?}"), name);
    }
    let path = format!("/{KEY}/Collect");
    for (path, body) in [(COLLECT, body(KEY)), (path.as_str(), body(""))] {
        let (status, _) = call(subject.grpc_addr(), path, &[], whole(body)).await;
        assert_ne!(status.code(), tonic::Code::Ok, "{path}");
        assert_clean(&format!("{status:?}"), "a path");
    }
    let (mut sender, _connection) = http2(subject.grpc_addr()).await;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-write-key", KEY.parse().unwrap());
    let frames = [
        Ok(http_body::Frame::data(bytes::Bytes::from(body("")))),
        Ok(http_body::Frame::trailers(trailers)),
    ];
    let sent = http_body_util::BodyExt::boxed_unsync(StreamBody::new(
        futures::stream::iter(frames).boxed(),
    ));
    let request = http::Request::post(format!("http://{}{COLLECT}", subject.grpc_addr()))
        .header("content-type", "application/grpc");
    let response = within(sender.send_request(request.body(sent).unwrap())).await;
    let status = tonic::Status::from_header_map(response.unwrap().headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
}

/// Pages of another origin than the key's, however they write it.
async fn other_origins(subject: &Subject) {
    let origins = [
        "https://evil.example",
        "null",
        "http://shop.example",
        "https://shop.example.evil.example",
        "https://evilshop.example",
        "https://shop.example:8443",
        "https://shop.example@evil.example",
        "https://shop.example/",
        "https://shop.example, https://evil.example",
        "https://evil.example#https://shop.example",
        "shop.example",
        "*",
    ];
    let body = frame(&prost::Message::encode_to_vec(&batch(vec![good_event(
        "stolen",
    )])));
    for origin in origins {
        let headers = format!("X-Write-Key: {PAGES}\r\nOrigin: {origin}\r\n");
        for path in ["/collect", "/v1/track", "/collect/orders"] {
            let request = post(path, &headers, ONE.as_bytes());
            let answers = exchange(subject.http_addr(), &request).await;
            assert_eq!(
                answers[0].error(),
                (403, "origin_not_allowed".into()),
                "{origin}"
            );
            assert_clean(&format!("{answers:?}"), origin);
        }
        let headers = format!("{headers}Content-Type: application/grpc-web+proto\r\n");
        let answers = exchange(subject.http_addr(), &post(COLLECT, &headers, &body)).await;
        assert_eq!(
            answers[0].header("grpc-status"),
            Some("7"),
            "{origin}: {answers:?}"
        );
        let headers = [("x-write-key", PAGES), ("origin", origin)];
        let (status, _) = call(subject.grpc_addr(), COLLECT, &headers, whole(body.clone())).await;
        assert_eq!(
            status.code(),
            tonic::Code::PermissionDenied,
            "{origin}: {status:?}"
        );
    }
}

#[tokio::test]
async fn a_key_in_the_wrong_place_neither_works_nor_is_shown() {
    let subject = subject().await;
    let attacks = [
        Attack::new("keys in HTTP's wrong places", |subject| {
            Box::pin(over_http(subject))
        }),
        Attack::new("keys in calls' wrong places", |subject| {
            Box::pin(over_grpc(subject))
        }),
        Attack::new("pages of other origins", |subject| {
            Box::pin(other_origins(subject))
        }),
    ];
    withstand(&subject, &attacks).await;
    assert_clean(&scrape(&subject.endpoints.admin).await, "/metrics");
    let heard = subject.gateway.heard().join("\n");
    assert!(heard.contains("request_completed"));
    assert_clean(&heard, "the log lines");
    subject.finish().await;
}
