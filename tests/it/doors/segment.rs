//! Segment's paths, byte for byte where clients depend on it.

use serde_json::json;

use super::*;

/// What is in the log of each event: stream, type by the path, payload, shared context and integrations, time sent.
pub(super) type Stored = (String, Option<String>, String, String, String, Option<i64>);

impl Gateway {
    pub(super) fn records(&self) -> Vec<Stored> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let groups = self.wal.read(0, usize::MAX).unwrap();
        let records = groups.iter().flat_map(|group| &group.records);
        records
            .map(|bytes| {
                let event = record::decode(bytes).unwrap();
                (
                    event.stream.to_owned(),
                    event.kind.map(str::to_owned),
                    text(event.payload),
                    text(event.batch_context),
                    text(event.batch_integrations),
                    event.sent_at,
                )
            })
            .collect()
    }
}

#[tokio::test]
async fn one_event_is_answered_as_clients_expect_it() {
    let gateway = gateway().await;
    let headers =
        "X-Request-Id: r-1\r\nContent-Type: text/plain\r\nAuthorization: Basic a2V5Og==\r\n";
    let body = r#"{"userId":"u","event":"Looked","messageId":"m-1","writeKey":"secret","sentAt":"2026-01-01T00:00:00Z"}"#;
    let answer = gateway.post("/v1/track", headers, body).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let expected = concat!(
        r#"{"success":true,"accepted":1,"duplicate":0,"rejected":0,"#,
        r#""results":[{"index":0,"status":"accepted","message_id":"m-1"}],"request_id":"r-1"}"#
    );
    assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    let payload = body.replace("\"secret\"", "null");
    let nothing = String::new();
    assert_eq!(
        gateway.records(),
        [(
            "events".into(),
            Some("track".into()),
            payload,
            nothing.clone(),
            nothing,
            Some(1_767_225_600_000_000)
        )]
    );
    let again = gateway.post("/v1/track/", headers, body).await;
    assert_eq!(
        (again.status(), &again.json()["duplicate"]),
        (200, &json!(1))
    );
}

#[tokio::test]
async fn the_path_gives_the_type_and_the_type_gives_the_stream() {
    let gateway = gateway().await;
    let cases = [
        ("identify", "users"),
        ("track", "events"),
        ("page", "pages"),
        ("screen", "screens"),
        ("group", "groups"),
        ("alias", "aliases"),
    ];
    for (kind, _) in cases {
        // What the body says about its type does not matter.
        let answer = gateway
            .post(&format!("/v1/{kind}"), "", r#"{"type":"custom"}"#)
            .await;
        assert_eq!(answer.status(), 200, "{kind}");
    }
    let found: Vec<_> = gateway
        .records()
        .into_iter()
        .map(|(stream, kind, ..)| (kind.unwrap(), stream))
        .collect();
    let expected = cases.map(|(kind, stream)| (kind.to_owned(), stream.to_owned()));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_envelope_shares_its_parts_and_keeps_the_order() {
    let gateway = gateway().await;
    for path in ["/v1/batch", "/v1/batch/", "/v1/import", "/v1/import/"] {
        let before = gateway.records().len();
        let body = r#"{"batch":[{"type":"track","event":"a"},{"type":"identify","userId":"u"},
            {"type":"custom"},{"type":"tr\u0061ck"},{}],"context":{"ip": "::1"},"integrations":{"All":true},
            "sentAt":"1970-01-01T00:00:01.5Z","writeKey":"secret"}"#;
        let answer = gateway.post(path, "", body).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.json()["accepted"], 5);
        let records = gateway.records().split_off(before);
        let streams: Vec<_> = records.iter().map(|record| record.0.as_str()).collect();
        assert_eq!(streams, ["events", "users", "default", "events", "default"]);
        for (_, kind, payload, context, integrations, sent_at) in &records {
            assert_eq!(*kind, None);
            assert!(!payload.contains("secret"));
            assert_eq!(context, r#"{"ip": "::1"}"#);
            assert_eq!(integrations, r#"{"All":true}"#);
            assert_eq!(*sent_at, Some(1_500_000));
        }
    }
}

#[tokio::test]
async fn a_bad_item_never_costs_its_neighbours() {
    let gateway = gateway().await;
    let large = "x".repeat(5_000);
    let deep = "[".repeat(20) + &"]".repeat(20);
    let body = format!(
        r#"{{"batch":[{{"messageId":"a"}},7,{{"messageId":"b","x":tru}},{{"messageId":"c","x":"{large}"}},
        {{"messageId":"d","x":{deep}}},{{"messageId":"e"}},{{"messageId":"a"}}]}}"#
    );
    let answer = gateway.post("/v1/batch", "", body).await;
    assert_eq!(answer.status(), 200);
    let json = answer.json();
    assert_eq!(json["success"], true);
    let found: Vec<_> = json["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| {
            assert!(result["status"] != "rejected" || result["reason"].is_string());
            let code = result["code"].as_str().unwrap_or_default();
            (result["status"].as_str().unwrap(), code)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("accepted", ""),
            ("rejected", "not_an_object"),
            ("rejected", "invalid_json"),
            ("rejected", "event_too_large"),
            ("rejected", "too_deep"),
            ("accepted", ""),
            ("duplicate", ""),
        ]
    );
    assert_eq!(gateway.records().len(), 2);
    // Nothing accepted is still an answer about the events, not about the request.
    let answer = gateway.post("/v1/batch", "", r#"{"batch":[1]}"#).await;
    assert_eq!(
        (answer.status(), &answer.json()["rejected"]),
        (200, &json!(1))
    );
    let answer = gateway.post("/v1/batch", "", r#"{"batch":[]}"#).await;
    assert_eq!(
        (answer.status(), &answer.json()["results"]),
        (200, &json!([]))
    );
}

#[tokio::test]
async fn an_unusable_envelope_is_400_and_too_much_is_413() {
    let gateway = gateway().await;
    let many = format!(r#"{{"batch":[{}{{}}]}}"#, "{},".repeat(100));
    let cases: &[(&str, &str, u16, &str)] = &[
        ("/v1/batch", "", 400, "malformed_request"),
        ("/v1/batch", "[{}]", 400, "malformed_request"),
        ("/v1/batch", "{}", 400, "malformed_request"),
        ("/v1/batch", r#"{"batch":{}}"#, 400, "malformed_request"),
        ("/v1/batch", r#"{"batch":[{}]"#, 400, "malformed_request"),
        (
            "/v1/batch",
            r#"{"batch":[{}],"context":"c"}"#,
            400,
            "malformed_request",
        ),
        ("/v1/batch", &many, 413, "too_many_events"),
        ("/v1/track", "[{}]", 400, "malformed_request"),
        ("/v1/track", "nope", 400, "malformed_request"),
        ("/v1/track", r#"{"a":tru}"#, 400, "invalid_json"),
        ("/v1/track", &"x".repeat(70_000), 413, "body_too_large"),
    ];
    for (path, body, status, code) in cases {
        let answer = gateway.post(path, "", body).await;
        let shown: String = body.chars().take(40).collect();
        assert_eq!(answer.error(), (*status, (*code).into()), "{path} {shown}");
    }
    assert!(gateway.records().is_empty());
}

#[tokio::test]
async fn what_is_shared_counts_against_every_event() {
    let gateway = gateway().await;
    let batch = |events: &str, context: &str| {
        format!(r#"{{"batch":[{events}],"context":{{"c":{context}}}}}"#)
    };
    let text = |length: usize| format!("\"{}\"", "x".repeat(length));

    // 4,096 bytes an event: the first fits with the context, the second alone would.
    let events = format!(r#"{{}},{{"a":{}}}"#, text(2_100));
    let answer = gateway
        .post("/v1/batch", "", batch(&events, &text(2_000)))
        .await;
    let json = answer.json();
    assert_eq!(
        (&json["accepted"], &json["rejected"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(json["results"][1]["code"], "event_too_large");
    assert!(
        json["results"][1]["reason"]
            .as_str()
            .unwrap()
            .contains("context")
    );

    let deep = "[".repeat(15) + &"]".repeat(15);
    let answer = gateway.post("/v1/batch", "", batch("{}", &deep)).await;
    assert_eq!(answer.json()["results"][0]["code"], "too_deep");

    // Four times the largest body, all events together.
    let events = "{},".repeat(99) + "{}";
    let answer = gateway
        .post("/v1/batch", "", batch(&events, &text(2_700)))
        .await;
    assert_eq!(answer.error(), (413, "body_too_large".into()));
    assert_eq!(gateway.records().len(), 1);
}

#[tokio::test]
async fn a_prefix_serves_every_path_once_more() {
    let gateway = gateway_with(IngressConfig {
        http_prefix: "/first/party".into(),
        ..config()
    })
    .await;
    for prefix in ["", "/first/party"] {
        for (path, status) in [
            ("/v1/page", 200),
            ("/v1/page/", 200),
            ("/collect", 202),
            ("/collect/clicks", 202),
            ("/v1/nothing", 404),
        ] {
            let answer = gateway.post(&format!("{prefix}{path}"), "", "{}").await;
            assert_eq!(answer.status(), status, "{prefix}{path}");
        }
        assert_eq!(gateway.get(&format!("{prefix}/health")).await.status(), 200);
        assert_eq!(gateway.get(&format!("{prefix}/ready")).await.status(), 200);
    }
    assert_eq!(gateway.post("/first/v1/page", "", "{}").await.status(), 404);
}

#[tokio::test]
async fn wrong_methods_and_paths_are_named_so() {
    let gateway = gateway().await;
    for path in ["/v1/track", "/v1/batch/"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.error(), (405, "method_not_allowed".into()), "{path}");
        assert_eq!(answer.header("allow"), Some("POST"), "{path}");
    }
    for path in ["/v1/x", "/v1", "/v1/track/x"] {
        let answer = gateway.post(path, "", "{}").await;
        assert_eq!(answer.error(), (404, "not_found".into()), "{path}");
    }
}

#[tokio::test]
async fn a_log_that_takes_nothing_is_503_with_a_time_to_come_again() {
    let gateway = gateway().await;
    gateway.wal.close().await;
    for path in ["/v1/track", "/v1/batch"] {
        let answer = gateway.post(path, "", r#"{"batch":[{}]}"#).await;
        assert_eq!(answer.error(), (503, "draining".into()));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}
