//! Every path, every place of a key, every packing that clients of Segment, RudderStack and Jitsu use.

use std::io::Write as _;

use serde_json::{Value, json};

use super::*;

const TYPES: [(&str, &str, &str); 6] = [
    ("identify", "i", "users"),
    ("track", "t", "events"),
    ("page", "p", "pages"),
    ("screen", "s", "screens"),
    ("group", "g", "groups"),
    ("alias", "a", "aliases"),
];

/// Address and user agent that each event in the log carries.
fn seen(gateway: &Gateway) -> Vec<(Option<String>, Option<String>)> {
    let groups = gateway.wal.read(0, usize::MAX).unwrap();
    let records = groups.iter().flat_map(|group| &group.records);
    let text = |text: Option<&str>| text.map(str::to_owned);
    records
        .map(|bytes| {
            let client = record::decode(bytes).unwrap().client;
            (text(client.ip), text(client.user_agent))
        })
        .collect()
}

/// Each spelling of a path that is served without `/v1` as it stands here.
fn spellings(path: &str) -> [String; 4] {
    [
        path.to_owned(),
        format!("{path}/"),
        format!("/v1{path}"),
        format!("/v1{path}/"),
    ]
}

#[tokio::test]
async fn each_type_has_all_its_paths() {
    let gateway = gateway().await;
    for (long, short, stream) in TYPES {
        let paths = [
            format!("/{long}"),
            format!("/{short}"),
            format!("/api/s/{long}"),
            format!("/api/s/s2s/{long}"),
        ];
        for path in paths.iter().flat_map(|path| spellings(path)) {
            let before = gateway.records().len();
            let answer = gateway.post(&path, "", r#"{"type":"custom"}"#).await;
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(answer.json()["success"], true, "{path}");
            let (found, kind, ..) = gateway.records().split_off(before).remove(0);
            assert_eq!(
                (found.as_str(), kind.as_deref()),
                (stream, Some(long)),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn batches_have_all_their_paths() {
    let gateway = gateway().await;
    for path in [
        "/batch",
        "/b",
        "/import",
        "/api/s/batch",
        "/api/s/s2s/batch",
        "/beacon/v1/batch?writeKey=secret",
        "/beacon/batch?writeKey=secret",
    ] {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        for path in spellings(path) {
            let body = r#"{"batch":[{"type":"track","event":"a"},{"type":"page"}]}"#;
            let answer = gateway.post(&format!("{path}?{query}"), "", body).await;
            assert_eq!(
                (answer.status(), &answer.json()["accepted"]),
                (200, &json!(2)),
                "{path}"
            );
            let records = gateway.records();
            let streams: Vec<_> = records
                .iter()
                .rev()
                .take(2)
                .map(|record| &record.0)
                .collect();
            assert_eq!(streams, ["pages", "events"], "{path}");
        }
    }
}

#[tokio::test]
async fn a_pixel_is_a_picture_and_an_event() {
    let gateway = gateway().await;
    // {"messageId":"m","userId":"u","event":"Mail Opened","writeKey":"secret"}
    let data = "eyJtZXNzYWdlSWQiOiJtIiwidXNlcklkIjoidSIsImV2ZW50IjoiTWFpbCBPcGVuZWQiLCJ3cml0ZUtleSI6InNlY3JldCJ9";
    for (path, n) in ["/pixel/v1/track", "/pixel/track"].iter().zip(0..) {
        for (path, m) in spellings(path).iter().zip(0..) {
            let query =
                format!("messageId=q{n}{m}&userId=u&event=E&properties.a=1&writeKey=secret");
            for query in [format!("data={data}"), query] {
                let answer = gateway.get(&format!("{path}?{query}")).await;
                assert_eq!(answer.status(), 200, "{path}?{query}");
                assert_eq!(answer.header("content-type"), Some("image/gif"));
                assert!(answer.header("cache-control").unwrap().contains("no-store"));
                assert!(answer.body.starts_with(b"GIF89a\x01\0\x01\0"), "one pixel");
                assert!(answer.body.ends_with(b";"));
            }
        }
    }
    let payloads: Vec<_> = gateway
        .records()
        .into_iter()
        .map(|record| record.2)
        .collect();
    assert_eq!(payloads.len(), 9, "one of all that came under the id m");
    assert!(payloads[0].contains(r#""event":"Mail Opened","writeKey":null"#));
    let from_query: Value = serde_json::from_str(&payloads[1]).unwrap();
    let expected = json!({
        "messageId": "q00", "userId": "u", "event": "E", "properties": {"a": "1"},
    });
    assert_eq!(from_query, expected);
    for (query, code) in [
        ("", "malformed_request"),
        ("?writeKey=secret", "malformed_request"),
        ("?data=*", "malformed_request"),
        ("?data=e30x", "malformed_request"),
    ] {
        let answer = gateway.get(&format!("/pixel/v1/page{query}")).await;
        assert_eq!(answer.error(), (400, code.into()), "{query}");
    }
    let answer = gateway.post("/pixel/v1/page", "", "{}").await;
    assert_eq!(answer.error(), (405, "method_not_allowed".into()));
}

#[tokio::test]
async fn a_pixel_that_is_only_looked_for_is_no_event() {
    let gateway = gateway().await;
    let path = "/pixel/v1/track?event=E&userId=u";
    let answer = gateway
        .send(format!(
            "HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-type"), Some("image/gif"));
    assert!(answer.body.is_empty() && gateway.records().is_empty());
    assert_eq!(gateway.get(path).await.status(), 200);
    assert_eq!(gateway.records().len(), 1);
}

#[tokio::test]
async fn a_header_says_when_it_was_sent_where_the_body_does_not() {
    let gateway = gateway().await;
    let header = "SentAt: 1970-01-01T00:00:02Z\r\n";
    for (path, body, seconds) in [
        ("/v1/track", r#"{"event":"E"}"#, Some(2)),
        (
            "/v1/track",
            r#"{"event":"E","sentAt":"1970-01-01T00:00:01Z"}"#,
            Some(1),
        ),
        ("/v1/batch", r#"{"batch":[{"type":"page"}]}"#, Some(2)),
        (
            "/v1/batch",
            r#"{"batch":[{"type":"page"}],"sentAt":"1970-01-01T00:00:01Z"}"#,
            Some(1),
        ),
    ] {
        assert_eq!(gateway.post(path, header, body).await.status(), 200);
        let sent_at = gateway.records().pop().unwrap().5;
        assert_eq!(
            sent_at,
            seconds.map(|seconds| seconds * 1_000_000),
            "{body}"
        );
    }
    let soon = "SentAt: soon\r\n";
    let answer = gateway.post("/v1/track", soon, r#"{"event":"E"}"#).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(gateway.records().pop().unwrap().5, None);
}

#[tokio::test]
async fn a_page_that_speaks_grpc_web_is_a_client_and_a_server_is_not() {
    use prost::Message as _;
    let gateway = gateway().await;
    let message = grpc::batch(vec![grpc::event("")]).encode_to_vec();
    let kind = "Content-Type: application/grpc-web+proto\r\nUser-Agent: Mozilla/5.0\r\n";
    let origin = format!("{kind}Origin: https://shop.example\r\n");
    for method in ["Collect", "CollectStream"] {
        for (headers, ip) in [(kind, None), (&*origin, Some("127.0.0.1"))] {
            let path = format!("/eventkit.v1.IngestService/{method}");
            let answer = gateway.post(&path, headers, grpc::frame(&message)).await;
            let text = String::from_utf8_lossy(&answer.body);
            assert!(text.contains("grpc-status:0"), "{text}");
            let found = seen(&gateway).pop().unwrap();
            assert_eq!(found.0.as_deref(), ip, "{method} {headers}");
            assert_eq!(found.1.as_deref(), ip.map(|_| "Mozilla/5.0"));
        }
    }
}

#[tokio::test]
async fn what_sdks_load_before_they_start() {
    let gateway = gateway().await;
    for path in spellings("/projects/a%22b/settings") {
        let answer = gateway.get(&path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.header("cache-control").unwrap().contains("max-age"));
        let settings = answer.json();
        assert_eq!(settings["integrations"]["Segment.io"]["apiKey"], "a\"b");
        assert_eq!(settings["plan"]["track"]["__default"]["enabled"], true);
        assert_eq!(settings["analyticsNextEnabled"], true);
    }
    for path in spellings("/sourceConfig") {
        let answer = gateway.get(&format!("{path}?writeKey=secret&p=npm")).await;
        assert_eq!(answer.status(), 200, "{path}");
        let source = &answer.json()["source"];
        assert_eq!(source["enabled"], true);
        assert!(source["id"].is_string() && source["config"].is_object());
        assert_eq!(source["destinations"], json!([]));
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"));
    }
    let answer = gateway.post("/v1/projects/k/settings", "", "").await;
    assert_eq!(answer.error(), (405, "method_not_allowed".into()));
    for path in ["/v1/projects/settings", "/v1/projects/%ff/settings"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.error(), (404, "not_found".into()), "{path}");
    }
}

#[tokio::test]
async fn an_sdks_own_figures_are_counted_and_not_stored() {
    let gateway = gateway().await;
    for path in spellings("/m") {
        for body in [
            r#"{"series":[{"type":"Counter","metric":"a"},{}]}"#,
            "nonsense",
            "",
        ] {
            let answer = gateway
                .post(&path, "Content-Type: text/plain\r\n", body)
                .await;
            assert_eq!(
                (answer.status(), &answer.json()["success"]),
                (200, &json!(true))
            );
        }
    }
    assert!(gateway.records().is_empty());
    let counted = "eventkit_ingress_client_figures_total 8";
    assert!(gateway.metrics.render().contains(counted));
}

#[tokio::test]
async fn a_key_is_taken_anywhere_and_kept_nowhere() {
    const KEY: &str = "wk-SECRET";
    let gateway = gateway().await;
    let basic = "Authorization: Basic d2stU0VDUkVUOg==\r\n";
    let without_colon = "Authorization: Basic d2stU0VDUkVU\r\n";
    let headers = [
        String::new(),
        basic.to_owned(),
        without_colon.to_owned(),
        format!("Authorization: Bearer {KEY}\r\n"),
        format!("X-Write-Key: {KEY}\r\n"),
    ];
    let one = format!(r#"{{"event":"E","userId":"u","writeKey":"{KEY}"}}"#);
    let many = format!(r#"{{"batch":[{one}],"sentAt":"2026-01-01T00:00:00Z","writeKey":"{KEY}"}}"#);
    for header in &headers {
        for query in ["", "?writeKey=wk-SECRET", "?writekey=wk-SECRET"] {
            for (path, body, status) in [
                ("/v1/track", &one, 200),
                ("/t", &one, 200),
                ("/v1/batch", &many, 200),
                ("/beacon/v1/batch", &many, 200),
                ("/collect", &one, 202),
                ("/collect/clicks", &one, 202),
            ] {
                let answer = gateway.post(&format!("{path}{query}"), header, body).await;
                assert_eq!(answer.status(), status, "{path}{query} {header}");
                assert!(!String::from_utf8_lossy(&answer.body).contains(KEY));
            }
        }
    }
    let groups = gateway.wal.read(0, usize::MAX).unwrap();
    let records: Vec<_> = groups.iter().flat_map(|group| &group.records).collect();
    assert_eq!(records.len(), headers.len() * 3 * 6);
    for record in records {
        assert!(!String::from_utf8_lossy(record).contains(KEY));
    }
}

#[tokio::test]
async fn address_and_user_agent_are_those_of_clients_alone() {
    let gateway = gateway_with(IngressConfig {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    })
    .await;
    let agent = "User-Agent: Mozilla/5.0\r\n";
    let proxied = format!("{agent}X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n");
    let browser = format!("{proxied}Origin: https://shop.example\r\n");
    let client = Some("203.0.113.9");
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("/t", agent, Some("127.0.0.1")),
        ("/t", &proxied, client),
        ("/v1/b", &proxied, client),
        ("/beacon/v1/batch", &proxied, client),
        ("/api/s/track", &proxied, client),
        ("/api/s/s2s/track", &browser, None),
        ("/v1/track", &proxied, None),
        ("/v1/track", &browser, client),
        ("/v1/batch", &proxied, None),
        ("/v1/batch", &browser, client),
        ("/v1/import", &proxied, None),
        ("/collect", &proxied, None),
        ("/collect", &browser, client),
    ];
    for (path, headers, ip) in cases {
        let answer = gateway
            .post(path, headers, r#"{"event":"e","batch":[{}]}"#)
            .await;
        assert!(answer.status() < 300, "{path}");
        let found = seen(&gateway).pop().unwrap();
        let agent = ip.map(|_| "Mozilla/5.0");
        let found = (found.0.as_deref(), found.1.as_deref());
        assert_eq!(found, (*ip, agent), "{path} {headers}");
    }
}

#[tokio::test]
async fn without_trusted_proxies_nobody_says_whose_address_it_is() {
    let gateway = gateway().await;
    let forwarded = "X-Forwarded-For: 203.0.113.9\r\n";
    gateway.post("/t", forwarded, "{}").await;
    assert_eq!(seen(&gateway)[0].0.as_deref(), Some("127.0.0.1"));
}

/// A body in an encoding; in none it stays what it is.
pub(super) fn packed(encoding: &str, data: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Default::default());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut packed = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut packed, 4_096, 5, 22);
            encoder.write_all(data).unwrap();
            drop(encoder);
            packed
        }
        "zstd" => zstd::encode_all(data, 3).unwrap(),
        _ => data.to_vec(),
    }
}

#[tokio::test]
async fn every_path_takes_every_packing() {
    let gateway = gateway().await;
    let body = br#"{"batch":[{"event":"e"}],"series":[]}"#;
    let large = vec![b' '; 70_000];
    for name in ["gzip", "deflate", "br", "zstd"] {
        let header = format!("Content-Encoding: {name}\r\n");
        for path in [
            "/collect",
            "/collect/clicks",
            "/v1/track",
            "/t",
            "/v1/batch",
            "/b",
            "/v1/import",
            "/beacon/v1/batch",
            "/api/s/track",
            "/m",
        ] {
            let answer = gateway.post(path, &header, packed(name, body)).await;
            assert!(
                [200, 202].contains(&answer.status()),
                "{name} {path}: {answer:?}"
            );
            // The limit holds for what it becomes: 64 KiB.
            let answer = gateway.post(path, &header, packed(name, &large)).await;
            assert_eq!(
                answer.error(),
                (413, "body_too_large".into()),
                "{name} {path}"
            );
        }
    }
    let answer = gateway
        .post("/v1/batch", "Content-Encoding: compress\r\n", body)
        .await;
    assert_eq!(answer.error(), (415, "unsupported_encoding".into()));
    assert_eq!(
        answer.header("accept-encoding"),
        Some("gzip, deflate, br, zstd")
    );
}

#[tokio::test]
async fn a_browser_may_ask_every_path_first() {
    let gateway = gateway().await;
    for path in [
        "/v1/t",
        "/b",
        "/v1/batch/",
        "/m",
        "/v1/projects/k/settings",
        "/sourceConfig/",
        "/beacon/v1/batch",
        "/pixel/v1/track",
        "/api/s/track",
    ] {
        let wanted =
            "authorization,content-type,x-retry-count,anonymousid,sentat,rsa-retry-attempt";
        let answer = gateway
            .send(format!(
                "OPTIONS {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://shop.example\r\n\
                 Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: {wanted}\r\n\r\n"
            ))
            .await;
        assert_eq!(answer.status(), 204, "{path}");
        let header = |name| answer.header(name).unwrap_or_default();
        assert_eq!(
            header("access-control-allow-origin"),
            "https://shop.example"
        );
        assert_eq!(header("access-control-allow-headers"), wanted);
        assert_eq!(header("access-control-allow-methods"), "GET, POST, OPTIONS");
        assert_eq!(header("access-control-max-age"), "7200");
        assert_eq!(header("vary"), "origin");
    }
    // Each origin has an answer of its own, errors included.
    for (origin, body, status) in [("https://a.example", "{}", 200), ("null", "[]", 400)] {
        let origin_header = format!("Origin: {origin}\r\n");
        let answer = gateway.post("/v1/track", &origin_header, body).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in ["Retry-After", "X-RateLimit-Reset", "X-Request-Id"] {
            assert!(exposed.contains(name), "{name}");
        }
    }
}

#[tokio::test]
async fn a_prefix_that_looks_like_a_path_takes_nothing_away() {
    for prefix in ["/v1", "/collect", "/api/s", "/beacon"] {
        let gateway = gateway_with(IngressConfig {
            http_prefix: prefix.into(),
            ..config()
        })
        .await;
        for path in ["/v1/track", "/track", "/api/s/track"] {
            assert_eq!(
                gateway.post(path, "", "{}").await.status(),
                200,
                "{prefix} {path}"
            );
            let path = format!("{prefix}/v1{path}").replace("/v1/v1", "/v1");
            assert_eq!(gateway.post(&path, "", "{}").await.status(), 200, "{path}");
        }
    }
    // A path that is there without the prefix stays what it is.
    let gateway = gateway_with(IngressConfig {
        http_prefix: "/pixel".into(),
        ..config()
    })
    .await;
    let answer = gateway.get("/pixel/v1/track?userId=u&event=E").await;
    assert_eq!(answer.header("content-type"), Some("image/gif"));
    let answer = gateway.post("/pixel/v1/batch", "", r#"{"batch":[]}"#).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn what_clients_send_is_tolerated() {
    let gateway = gateway().await;
    for body in [
        r#"{"userId":7,"anonymousId":8,"groupId":9,"context":null,"integrations":null,"timestamp":1714566000}"#,
        r#"{"messageId":null,"userId":"u","timestamp":"2024-05-01T12:30:00.123Z"}"#,
        r#"{"messageId":"node-next-1714566000000-5d1f"}"#,
    ] {
        let answer = gateway
            .post("/v1/group", "Content-Type: text/plain\r\n", body)
            .await;
        let json: Value = answer.json();
        assert_eq!(
            (answer.status(), &json["accepted"]),
            (200, &json!(1)),
            "{body}"
        );
        assert!(json["results"][0]["message_id"].is_string(), "{body}");
    }
    // An event's own integrations and those that it shares stay what they are.
    let body =
        r#"{"batch":[{"type":"track","integrations":{"All":false}}],"integrations":{"X":true}}"#;
    gateway.post("/v1/batch", "", body).await;
    let (.., payload, _, integrations, _) = gateway.records().pop().unwrap();
    assert!(payload.contains(r#""integrations":{"All":false}"#));
    assert_eq!(integrations, r#"{"X":true}"#);
}
