//! What clients of every make rely on beyond their own paths: what a body is called, where the key is looked for first, when to come
//! again, and what a browser hears before it sends.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eventkit::clock::Clock as _;
use eventkit::ingress::auth::Strangers;
use eventkit::ingress::auth::file::Entry;
use serde_json::{Value, json};

use super::keys::{APP, SHOP, closed, entry, guarded, keys_of};
use super::*;

const ONE: &str = r#"{"type":"track","userId":"u","event":"e"}"#;

#[tokio::test]
async fn a_body_is_json_whatever_it_is_called() {
    let gateway = gateway().await;
    let many = format!(r#"{{"batch":[{ONE}]}}"#);
    let kinds = [
        "",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/json; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "nonsense",
    ];
    for kind in kinds {
        let header = match kind {
            "" => String::new(),
            kind => format!("Content-Type: {kind}\r\n"),
        };
        for (path, body, status) in [
            ("/v1/track", ONE, 200),
            ("/v1/batch", &many, 200),
            ("/api/s/track", ONE, 200),
            ("/beacon/v1/batch", &many, 200),
            ("/collect", ONE, 202),
        ] {
            let answer = gateway.post(path, &header, body).await;
            assert_eq!(answer.status(), status, "{kind} {path}");
            assert_eq!(answer.json()["accepted"], 1, "{kind} {path}");
        }
    }
    assert_eq!(gateway.stored().len(), kinds.len() * 5);
}

#[tokio::test]
async fn the_first_place_with_a_key_decides() {
    let (gateway, _) = closed().await;
    // Each of them puts a key into one place: header lines, query, body.
    let places: [fn(&str) -> [String; 3]; 5] = [
        |key| {
            let basic = STANDARD.encode(format!("{key}:"));
            let basic = format!("Authorization: Basic {basic}\r\n");
            [basic, String::new(), String::new()]
        },
        |key| {
            let bearer = format!("Authorization: Bearer {key}\r\n");
            [bearer, String::new(), String::new()]
        },
        |key| {
            let header = format!("X-Write-Key: {key}\r\n");
            [header, String::new(), String::new()]
        },
        |key| {
            let query = format!("?writeKey={key}");
            [String::new(), query, String::new()]
        },
        |key| {
            let member = format!(r#","writeKey":"{key}""#);
            [String::new(), String::new(), member]
        },
    ];
    let mut expected = Vec::new();
    for first in 0..places.len() {
        for then in first + 1..places.len() {
            if (first, then) == (0, 1) {
                // Both are one header, which a request has once.
                continue;
            }
            for (key, other, source) in [(SHOP, APP, "shop"), (APP, SHOP, "app")] {
                let (first, then) = (places[first](key), places[then](other));
                let [headers, query, member] =
                    [0, 1, 2].map(|at| format!("{}{}", first[at], then[at]));
                let body = format!(r#"{{"batch":[{ONE}]{member}}}"#);
                let path = format!("/v1/batch{query}");
                let answer = gateway.post(&path, &headers, body).await;
                assert_eq!(answer.status(), 200, "{path} {headers} {member}");
                expected.push(source);
            }
        }
    }
    assert_eq!(expected.len(), 18);
    assert_eq!(gateway.sources(), expected);
}

/// A gateway that takes 400 bytes of the shop, and then nothing for minutes.
async fn slow() -> Gateway {
    let slow = Entry {
        bytes_per_second: Some(1),
        ..entry(SHOP, "shop")
    };
    guarded(&keys_of(vec![slow], Strangers::Refused)).await
}

fn with_shops_key() -> String {
    format!("X-Write-Key: {SHOP}\r\nOrigin: https://shop.example\r\n")
}

/// An event of more than 400 bytes.
fn large() -> String {
    let name = "e".repeat(400);
    format!(r#"{{"type":"track","userId":"u","event":"{name}"}}"#)
}

#[tokio::test]
async fn who_is_too_fast_hears_when_to_come_again_and_nobody_waits_for_more_than_five_minutes() {
    let gateway = slow().await;
    let headers = with_shops_key();
    let answer = gateway.post("/v1/track", &headers, large()).await;
    assert_eq!(answer.status(), 200);
    for (path, body) in [("/v1/track", ONE), ("/v1/batch", r#"{"batch":[]}"#)] {
        let now = || SystemClock.now() / 1_000;
        let before = now();
        let answer = gateway.post(path, &headers, body).await;
        let after = now();
        assert_eq!(answer.error(), (429, "rate_limited".into()));
        // SDKs take seconds up to 300; older ones read the moment, in milliseconds.
        assert_eq!(answer.header("retry-after"), Some("300"));
        let reset: i64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
        let expected = before + 300_000..=after + 300_000;
        assert!(expected.contains(&reset), "{reset} {expected:?}");
    }
}

#[tokio::test]
async fn a_browser_may_ask_every_path_without_a_key_and_whatever_the_rate() {
    let gateway = slow().await;
    let document = gateway.get("/openapi.json").await.json();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
    // Four spellings of each of 45 paths, and our own.
    assert!(paths.len() > 180, "{}", paths.len());
    let headers = with_shops_key();
    assert_eq!(gateway.post("/v1/t", &headers, large()).await.status(), 200);
    assert_eq!(gateway.post("/v1/t", &headers, ONE).await.status(), 429);
    let wanted = "authorization, content-type, x-retry-count, x-write-key, x-ip-policy, x-enable-debug, anonymousid, sentat, \
        rsa-retry-attempt, rsa-since-last-attempt, rsa-since-first-attempt, rsa-retry-reason, rsa-recovered";
    for path in paths {
        let path = path.replace("{key}", "k").replace("{stream}", "clicks");
        let answer = gateway
            .send(format!(
                "OPTIONS {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://shop.example\r\n\
                 Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: {wanted}\r\n\r\n"
            ))
            .await;
        assert_eq!(answer.status(), 204, "{path}");
        for (name, value) in [
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-allow-headers", wanted),
            ("access-control-allow-methods", "GET, POST, OPTIONS"),
            ("access-control-max-age", "7200"),
            ("vary", "origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
    }
}

#[tokio::test]
async fn a_page_may_read_every_answer() {
    let gateway = slow().await;
    let headers = with_shops_key();
    let (large, stranger) = (large(), "Origin: https://shop.example\r\n");
    for (path, headers, body, status) in [
        ("/v1/t", headers.as_str(), large.as_str(), 200),
        ("/v1/t", &headers, ONE, 429),
        ("/v1/t", stranger, ONE, 401),
        ("/v1/t", stranger, "[]", 400),
        ("/nowhere", stranger, ONE, 404),
    ] {
        let answer = gateway.post(path, headers, body).await;
        assert_eq!(answer.status(), status, "{path}");
        let header = |name| answer.header(name).unwrap_or_default();
        assert_eq!(
            header("access-control-allow-origin"),
            "https://shop.example",
            "{status}"
        );
        assert_eq!(header("vary"), "origin", "{status}");
        let exposed = header("access-control-expose-headers").to_ascii_lowercase();
        let exposed: BTreeSet<_> = exposed.split(", ").collect();
        let expected = [
            "retry-after",
            "x-ratelimit-reset",
            "x-request-id",
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
        ];
        assert_eq!(exposed, BTreeSet::from(expected), "{status}");
    }
}

#[tokio::test]
async fn a_pixel_has_the_type_of_its_path() {
    let gateway = gateway().await;
    for (kind, stream) in [("track", "events"), ("page", "pages")] {
        let path = format!("/pixel/v1/{kind}?userId=u&event=e&type=custom&writeKey=k");
        assert_eq!(gateway.get(&path).await.status(), 200, "{path}");
        let (found, of_path, ..) = gateway.records().pop().unwrap();
        assert_eq!((found.as_str(), of_path.as_deref()), (stream, Some(kind)));
    }
}

#[tokio::test]
async fn what_segments_sdks_load_first_has_all_that_they_look_for() {
    let (gateway, _) = closed().await;
    let answer = gateway.get(&format!("/v1/projects/{SHOP}/settings")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let all = json!({"__default": {"enabled": true}});
    let expected: Value = json!({
        "integrations": {"Segment.io": {
            "apiKey": SHOP,
            "versionSettings": {"version": "4.4.7", "componentTypes": ["browser"]},
        }},
        "plan": {"track": all, "identify": all, "group": all},
        "analyticsNextEnabled": true,
    });
    assert_eq!(answer.json(), expected);
}
