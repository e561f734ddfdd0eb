//! The HTTP door.

use eventkit::wal::{Append, AppendError, testing};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::streams::{gated, until};
use super::*;

#[tokio::test]
async fn one_event_is_accepted_under_its_stream() {
    let gateway = gateway().await;
    let answer = gateway
        .post(
            "/collect",
            "X-Request-Id: req-1\r\n",
            r#"{"messageId":"a"}"#,
        )
        .await;
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.header("x-request-id"), Some("req-1"));
    assert_eq!(
        answer.json(),
        json!({
            "status": "accepted", "accepted": 1, "duplicate": 0, "rejected": 0, "request_id": "req-1",
            "results": [{"index": 0, "status": "accepted", "message_id": "a"}],
        })
    );
    let answer = gateway
        .post(
            "/collect/clicks",
            "Content-Type: text/plain\r\n",
            r#"{"messageId":1.5}"#,
        )
        .await;
    assert_eq!(answer.status(), 202);
    assert_eq!(
        gateway.stored(),
        [
            ("a".into(), "default".into()),
            ("1.5".into(), "clicks".into())
        ]
    );
}

#[tokio::test]
async fn each_event_of_a_batch_has_its_own_outcome() {
    let gateway = gateway().await;
    gateway.post("/collect", "", r#"{"messageId":"old"}"#).await;
    let big = format!(r#"{{"messageId":"big","a":"{}"}}"#, "x".repeat(5_000));
    let deep = format!(
        r#"{{"messageId":"deep","a":{}{}}}"#,
        "[".repeat(20),
        "]".repeat(20)
    );
    let keys: Vec<_> = (0..200).map(|n| format!("\"k{n}\":0")).collect();
    let wide = format!(r#"{{"messageId":"wide",{}}}"#, keys.join(","));
    let long = format!(r#"{{"messageId":"{}"}}"#, "m".repeat(10_000 / 4));
    let body = [
        br#"[{"messageId":"new"},{"messageId":"old"},{"messageId":"new"},7,{"a":tru},{"a":"#
            .as_slice(),
        b"\"\xff\"},",
        format!("{big},{deep},{wide},{long},").as_bytes(),
        br#"{"type":"track"}]"#,
    ]
    .concat();
    let answer = gateway.post("/collect", "", body).await;
    assert_eq!(answer.status(), 202);
    let json = answer.json();
    let results = json["results"].as_array().unwrap();
    let found: Vec<_> = results
        .iter()
        .enumerate()
        .map(|(index, result)| {
            assert_eq!(result["index"], index);
            let text = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
            (text("status"), text("message_id"), text("code"))
        })
        .collect();
    let expected = [
        ("accepted", "new", ""),
        ("duplicate", "old", ""),
        ("duplicate", "new", ""),
        ("rejected", "", "not_an_object"),
        ("rejected", "", "invalid_json"),
        ("rejected", "", "invalid_utf8"),
        ("rejected", "", "event_too_large"),
        ("rejected", "deep", "too_deep"),
        ("rejected", "wide", "too_many_keys"),
        ("rejected", "", "message_id_too_long"),
    ];
    for (found, (status, id, code)) in found.iter().zip(expected) {
        let found = (found.0.as_str(), found.1.as_str(), found.2.as_str());
        assert_eq!(found, (status, id, code));
    }
    let (status, id, _) = found.last().unwrap();
    assert_eq!(
        (status.as_str(), id.len()),
        ("accepted", 36),
        "an id was assigned"
    );
    assert_eq!(json["accepted"], 2);
    assert_eq!(json["duplicate"], 2);
    assert_eq!(json["rejected"], 7);
    assert_eq!(gateway.stored().len(), 3);
    let metrics = gateway.metrics.render();
    for line in [
        "eventkit_events_received_total{protocol=\"http\"} 12",
        "eventkit_ingress_events_accepted_total 3",
        "eventkit_ingress_events_duplicate_total 2",
        "eventkit_ingress_events_rejected_total{code=\"too_deep\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn nothing_is_an_answer_too() {
    let gateway = gateway().await;
    let answer = gateway.post("/collect", "", " [ ] ").await;
    assert_eq!(
        (answer.status(), &answer.json()["results"]),
        (202, &json!([]))
    );
    assert!(gateway.stored().is_empty());
}

#[tokio::test]
async fn a_batch_of_which_nothing_is_accepted_is_an_error_with_the_list() {
    let gateway = gateway().await;
    let answer = gateway.post("/collect", "", "[1,[]]").await;
    assert_eq!(answer.error(), (400, "not_an_object".into()));
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 2);
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(5_000));
    let answer = gateway.post("/collect", "", &big).await;
    assert_eq!(answer.error(), (413, "event_too_large".into()));
    let answer = gateway.post("/collect", "", format!("[{big},null]")).await;
    assert_eq!(answer.error(), (400, "not_an_object".into()));
}

#[tokio::test]
async fn bad_requests_are_refused_and_the_next_good_one_works() {
    let gateway = gateway().await;
    let many = format!("[{}{{}}]", "{},".repeat(100));
    let too_long = "x".repeat(65 * 1024);
    let long_stream = format!("/collect/{}", "s".repeat(10_000));
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        ("/collect", "", b"", 400, "malformed_request"),
        ("/collect", "", b"{\"a\":", 400, "malformed_request"),
        ("/collect", "", b"[{}", 400, "malformed_request"),
        ("/collect", "", b"{} {}", 400, "malformed_request"),
        ("/collect", "", b"\0\0", 400, "malformed_request"),
        ("/collect", "", b"42", 400, "malformed_request"),
        ("/collect", "", b"\"text\"", 400, "malformed_request"),
        ("/collect", "", b"null", 400, "malformed_request"),
        ("/collect", "", b"{\"a\":\"\0\"}", 400, "invalid_json"),
        ("/collect", "", b"{\"a\":\"\xff\"}", 400, "invalid_utf8"),
        ("/collect", "", many.as_bytes(), 413, "too_many_events"),
        ("/collect", "", too_long.as_bytes(), 413, "body_too_large"),
        (
            "/collect",
            "Content-Encoding: compress\r\n",
            b"{}",
            415,
            "unsupported_encoding",
        ),
        (
            "/collect",
            "Content-Encoding: gzip, gzip\r\n",
            b"{}",
            415,
            "unsupported_encoding",
        ),
        (
            "/collect",
            "Content-Encoding: gzip\r\n",
            b"{}",
            400,
            "invalid_encoding",
        ),
        ("/collect/..%2Fx", "", b"{}", 400, "invalid_stream"),
        ("/collect/.hidden", "", b"{}", 400, "invalid_stream"),
        ("/collect/a%20b", "", b"{}", 400, "invalid_stream"),
        ("/collect/%C3%A9", "", b"{}", 400, "invalid_stream"),
        ("/collect/%ff", "", b"{}", 400, "invalid_stream"),
        (&long_stream, "", b"{}", 400, "invalid_stream"),
        ("/collect/a/b", "", b"{}", 404, "not_found"),
        ("/", "", b"{}", 404, "not_found"),
        ("/health", "", b"{}", 405, "method_not_allowed"),
    ];
    for (path, headers, body, status, code) in cases {
        let answer = gateway.post(path, headers, body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(30)]);
        assert_eq!(
            answer.error(),
            (*status, (*code).into()),
            "{path} {headers} {shown}"
        );
        let good = gateway.post("/collect", "", "{}").await;
        assert_eq!(good.status(), 202, "after {path} {headers} {shown}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let gateway = gateway().await;
    let answer = gateway.get("/collect").await;
    assert_eq!(answer.error(), (405, "method_not_allowed".into()));
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = gateway.post("/ready", "", "").await;
    assert_eq!(answer.error().0, 405);
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
}

#[tokio::test]
async fn health_checks_nothing_and_ready_names_what_is_not() {
    let gateway = gateway().await;
    let check = async |path| {
        let answer = gateway.get(path).await;
        (answer.status(), answer.json())
    };
    assert_eq!(check("/health").await, (200, json!({"status": "ok"})));
    assert_eq!(check("/ready").await, (200, json!({"status": "ready"})));
    gateway.health.degraded("store", Some("unavailable".into()));
    let degraded = json!({"status": "ready", "degraded": {"store": "unavailable"}});
    assert_eq!(check("/ready").await, (200, degraded));
    gateway.health.not_ready("log", Some("full".into()));
    let (status, body) = check("/ready").await;
    assert_eq!((status, &body["not_ready"]), (503, &json!({"log": "full"})));
    assert_eq!(check("/health").await.0, 200);
}

#[tokio::test]
async fn a_chunked_body_is_limited_by_count() {
    let gateway = gateway().await;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let request = format!(
        "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(5)
    );
    assert_eq!(
        gateway.send(request).await.error(),
        (413, "body_too_large".into())
    );
}

#[tokio::test]
async fn a_body_is_refused_by_its_announced_length_before_it_is_sent() {
    let gateway = gateway().await;
    let request = "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999999999999\r\n\r\n";
    let status = gateway.send(request).await.status();
    assert!([400, 413].contains(&status), "{status}");
    let request = "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9000000000\r\n\r\n";
    assert_eq!(
        gateway.send(request).await.error(),
        (413, "body_too_large".into())
    );
}

#[tokio::test]
async fn a_body_that_stalls_is_a_timeout() {
    let gateway = gateway_with(IngressConfig {
        body_timeout: Duration::from_millis(200),
        ..config()
    })
    .await;
    let request =
        "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{";
    let answer = gateway.send(request).await;
    assert_eq!(answer.error(), (408, "request_timeout".into()));
    assert!(gateway.stored().is_empty());
}

#[tokio::test]
async fn too_much_under_way_is_shed_before_the_body_is_read() {
    let gateway = gateway_with(IngressConfig {
        // One outcome has room in it.
        in_flight_bytes_max: 200,
        ..config()
    })
    .await;
    // Only the head is sent: the answer cannot have waited for the body.
    let head =
        "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 201\r\n\r\n";
    let answer = gateway.send(head).await;
    assert_eq!(answer.error(), (503, "overloaded".into()));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(wait >= 1);
    assert_eq!(gateway.post("/collect", "", "{}").await.status(), 202);
    let shed = "eventkit_ingress_requests_shed_total{code=\"overloaded\"} 1";
    assert!(gateway.metrics.render().contains(shed));
}

#[tokio::test]
async fn while_the_log_is_behind_requests_are_shed_before_their_bodies_are_read() {
    let (gateway, log) = gated(config()).await;
    log.set(true);
    let append = |number: u32| {
        let mut append = Append::default();
        let id = number.to_string();
        let event = testing::event(&id, b"{}");
        append.push(&event, gateway.wal.fingerprint(event.key()));
        gateway.wal.append(append)
    };
    let mut commits = vec![append(0).unwrap()];
    until("the committer is at the first one", || log.is_waited_at()).await;
    let refused = loop {
        match append(u32::try_from(commits.len()).unwrap()) {
            Ok(commit) => commits.push(commit),
            Err(error) => break error,
        }
        assert!(commits.len() < 100_000, "there is no limit");
    };
    assert_eq!(refused, AppendError::Overloaded);
    // Only the head is sent: the answer cannot have waited for the body.
    let head =
        "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n";
    let answer = gateway.send(head).await;
    assert_eq!(answer.error(), (503, "overloaded".into()));
    assert!(answer.header("retry-after").is_some());
    // It is behind, not out of order.
    assert_eq!(gateway.wal.usable(), Ok(()));
    assert_eq!(gateway.get("/ready").await.status(), 200);
    log.set(false);
    for commit in commits {
        within(commit).await.unwrap();
    }
    assert_eq!(gateway.post("/collect", "", "{}").await.status(), 202);
}

#[tokio::test]
async fn a_log_that_is_closed_is_draining() {
    let gateway = gateway().await;
    gateway.wal.close().await;
    let answer = gateway.post("/collect", "", "{}").await;
    assert_eq!(answer.error(), (503, "draining".into()));
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn a_log_that_fails_acknowledges_nothing() {
    let storage = eventkit::wal::storage::memory::MemoryStorage::default();
    let (wal, _) = eventkit::wal::testing::open(&storage, 16).unwrap();
    let gateway = gateway_over(wal, config()).await;
    assert_eq!(gateway.post("/collect", "", "{}").await.status(), 202);
    storage.fail_after(0);
    // The first meets the failure, the second a log that is known to have failed.
    for _ in 0..2 {
        let answer = gateway.post("/collect", "", "{}").await;
        assert_eq!(answer.error(), (503, "log_failed".into()));
    }
    let metrics = gateway.metrics.render();
    assert!(metrics.contains("eventkit_ingress_events_accepted_total 1"));
}

#[tokio::test]
async fn a_client_that_goes_away_before_its_end_stores_nothing() {
    let gateway = gateway().await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let head = "POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(
        gateway
            .post("/collect/after", "", r#"{"messageId":"a"}"#)
            .await
            .status(),
        202
    );
    assert_eq!(gateway.stored(), [("a".into(), "after".into())]);
}

#[tokio::test]
async fn browsers_may_post_from_anywhere() {
    let gateway = gateway().await;
    let preflight = gateway
        .send(
            "OPTIONS /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://a.example\r\n\
             Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type, x-custom\r\n\r\n",
        )
        .await;
    assert_eq!(preflight.status(), 204);
    let allowed = |name: &str| preflight.header(name);
    assert_eq!(
        allowed("access-control-allow-origin"),
        Some("https://a.example")
    );
    assert_eq!(
        allowed("access-control-allow-headers"),
        Some("content-type, x-custom")
    );
    assert_eq!(
        allowed("access-control-allow-methods"),
        Some("GET, POST, OPTIONS")
    );
    assert_eq!(allowed("access-control-allow-credentials"), Some("true"));
    assert_eq!(allowed("access-control-max-age"), Some("7200"));
    assert_eq!(allowed("vary"), Some("origin"));
    let answer = gateway
        .post("/nowhere", "Origin: https://a.example\r\n", "{}")
        .await;
    assert_eq!(answer.status(), 404);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://a.example")
    );
    assert!(
        answer
            .header("access-control-expose-headers")
            .unwrap()
            .contains("X-Request-Id")
    );
}

#[tokio::test]
async fn requests_share_a_connection() {
    let gateway = gateway().await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let request = |connection: &str, id: &str| {
        let body = format!(r#"{{"messageId":"{id}"}}"#);
        let length = body.len();
        format!(
            "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let both = format!("{}{}", request("keep-alive", "1"), request("close", "2"));
    stream.write_all(both.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    let rest = String::from_utf8(answer.body).unwrap();
    assert!(rest.contains("HTTP/1.1 202 Accepted"), "{rest}");
    assert_eq!(gateway.stored().len(), 2);
}

#[tokio::test]
async fn the_same_key_in_both_protocols_is_one_event() {
    let gateway = gateway().await;
    gateway
        .post("/collect", "", r#"{"messageId":"shared"}"#)
        .await;
    let mut client = super::grpc::client(gateway.http).await;
    let event = eventkit::proto::v1::Event {
        message_id: "shared".into(),
        ..Default::default()
    };
    let request = eventkit::proto::v1::CollectRequest {
        events: vec![event],
        ..Default::default()
    };
    let answer = client.collect(request).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.duplicate), (0, 1));
    let json: Value = gateway
        .post("/collect", "", r#"{"messageId":"shared"}"#)
        .await
        .json();
    assert_eq!(json["duplicate"], 1);
    assert_eq!(gateway.stored().len(), 1);
}
