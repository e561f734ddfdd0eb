//! Who may send: keys in all their places, what they allow, and who is too fast.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eventkit::config::Rates;
use eventkit::ingress::auth::file::{Entry, KeyFile};
use eventkit::ingress::auth::{Defaults, KeyHash, Strangers};
use eventkit::proto::v1::{CollectBidiRequest, CollectRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::grpc::{batch, client, error, event};
use super::*;

/// All keys of these tests are these letters, so that they are found in whatever should not have them.
pub(super) const SHOP: &str = "shop-key-0123456789abcdef";
pub(super) const APP: &str = "app-key-0123456789abcdef";
const NOBODY: &str = "nobodys-key-0123456789abcdef";

pub(super) fn entry(key: &str, source: &str) -> Entry {
    Entry {
        id: source.to_owned(),
        source: source.to_owned(),
        sha256: KeyHash::of(key.as_bytes()).unwrap(),
        streams: None,
        origins: None,
        events_per_second: None,
        bytes_per_second: None,
        created: None,
        revoked: None,
    }
}

fn file(keys: Vec<Entry>) -> KeyFile {
    KeyFile {
        keys,
        ..KeyFile::default()
    }
}

pub(super) fn keys_of(keys: Vec<Entry>, strangers: Strangers) -> Keys {
    keys_with_shares(keys, 512 * 1024, strangers)
}

pub(super) fn keys_with_shares(keys: Vec<Entry>, share: usize, strangers: Strangers) -> Keys {
    let defaults = Defaults {
        rates: Rates::default(),
        burst: Duration::from_secs(1),
        in_flight_bytes_max: share,
    };
    Keys::of(&file(keys), defaults, strangers)
}

pub(super) async fn guarded(keys: &Keys) -> Gateway {
    guarded_gateway(memory_wal(4), config(), keys.clone()).await
}

/// A gateway for the shop and the app, and for nobody else.
pub(super) async fn closed() -> (Gateway, Keys) {
    let both = vec![entry(SHOP, "shop"), entry(APP, "app")];
    let keys = keys_of(both, Strangers::Refused);
    (guarded(&keys).await, keys)
}

fn basic(text: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(text))
}

impl Gateway {
    /// The source of every event in the log, in order.
    pub(super) fn sources(&self) -> Vec<String> {
        let groups = self.wal.read(0, usize::MAX).unwrap();
        let records = groups.iter().flat_map(|group| &group.records);
        records
            .map(|bytes| record::decode(bytes).unwrap().source.to_owned())
            .collect()
    }
}

const ONE: &str = r#"{"type":"track","userId":"u","event":"e"}"#;

/// An event with a key in it.
fn with_key(key: &str) -> String {
    format!(r#"{{"type":"track","userId":"u","event":"e","writeKey":"{key}"}}"#)
}

/// A key in every place of a `POST`: path, header lines, body.
fn places(key: &str) -> Vec<(String, String, String)> {
    let of = |path: &str, headers: String, body: String| (path.to_owned(), headers, body);
    let (one, batch) = (|| ONE.to_owned(), || format!(r#"{{"batch":[{ONE}]}}"#));
    let batch_with_key = || format!(r#"{{"batch":[{ONE}],"writeKey":"{key}"}}"#);
    let bearer = format!("Authorization: Bearer {key}\r\n");
    let header = format!("X-Write-Key: {key}\r\n");
    let oauth = "Authorization: Bearer an.oauth.token\r\n".to_owned();
    let none = String::new;
    vec![
        of("/collect", basic(&format!("{key}:")), one()),
        of("/collect/clicks", basic(key), one()),
        of("/v1/track", basic(&format!("{key}:")), one()),
        of("/collect", bearer.clone(), one()),
        of("/v1/batch", bearer, batch()),
        of("/api/s/track", header.clone(), one()),
        of("/api/s/s2s/batch", header, batch()),
        of(&format!("/beacon/v1/batch?writeKey={key}"), none(), batch()),
        of(&format!("/collect?writekey={key}"), none(), one()),
        of("/collect", none(), with_key(key)),
        of("/t", none(), with_key(key)),
        of("/v1/import/", none(), batch_with_key()),
        of("/b", none(), batch_with_key()),
        of("/v1/batch", oauth, batch_with_key()),
    ]
}

#[tokio::test]
async fn a_key_is_taken_in_every_place_where_clients_put_it() {
    let (gateway, _) = closed().await;
    for (n, (path, headers, body)) in places(SHOP).into_iter().enumerate() {
        let answer = gateway.post(&path, &headers, body).await;
        assert!(
            (200..203).contains(&answer.status()),
            "{n} {path} {headers}: {answer:?}"
        );
    }
    let pixel = format!("/pixel/v1/track?userId=u&event=e&writeKey={SHOP}");
    assert_eq!(gateway.get(&pixel).await.status(), 200);
    let data = STANDARD.encode(with_key(SHOP));
    assert_eq!(
        gateway
            .get(&format!("/pixel/track?data={data}"))
            .await
            .status(),
        200
    );
    let taken = places(SHOP).len() + 2;
    assert_eq!(gateway.sources(), vec!["shop"; taken]);

    for (path, headers, body) in places(NOBODY) {
        let answer = gateway.post(&path, &headers, body).await;
        assert_eq!(
            answer.error(),
            (401, "write_key_unknown".into()),
            "{path} {headers}"
        );
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer realm=\"eventkit\"")
        );
        assert!(!format!("{answer:?}").contains(NOBODY));
    }
    for (path, body) in [
        ("/collect", ONE.to_owned()),
        // A batch has no place for a key but its head.
        ("/collect", format!("[{}]", with_key(SHOP))),
        ("/v1/track", r#"{"type":"track","writeKey":null}"#.into()),
        ("/v1/batch", format!(r#"{{"batch":[{}]}}"#, with_key(SHOP))),
    ] {
        let answer = gateway.post(path, "", body).await;
        assert_eq!(answer.error(), (401, "write_key_missing".into()), "{path}");
    }
    let answer = gateway.get("/pixel/v1/track?userId=u&event=e").await;
    assert_eq!(answer.error(), (401, "write_key_missing".into()));
    assert_eq!(gateway.sources().len(), taken);
    let refused = r#"eventkit_ingress_requests_refused_total{code="write_key_missing"} 5"#;
    assert!(gateway.metrics.render().contains(refused));
}

#[tokio::test]
async fn what_clients_load_first_and_health_need_no_more_than_they_have() {
    let (gateway, _) = closed().await;
    for (path, status) in [
        ("/health".to_owned(), 200),
        ("/ready".to_owned(), 200),
        (format!("/v1/projects/{SHOP}/settings"), 200),
        (format!("/projects/{NOBODY}/settings"), 401),
        ("/sourceConfig".to_owned(), 200),
        (format!("/sourceConfig?writeKey={NOBODY}"), 401),
    ] {
        assert_eq!(gateway.get(&path).await.status(), status, "{path}");
    }
    assert_eq!(
        gateway
            .post("/v1/m", "", r#"{"series":[{}]}"#)
            .await
            .status(),
        200
    );
    assert_eq!(gateway.sources(), Vec::<String>::new());
}

#[tokio::test]
async fn a_refused_body_is_not_read() {
    let (gateway, _) = closed().await;
    // Only the head is sent: an answer shows that nobody waits for the rest.
    let request = format!(
        "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Write-Key: {NOBODY}\r\nContent-Length: 60000\r\n\r\n"
    );
    let answer = gateway.send(request).await;
    assert_eq!(answer.error(), (401, "write_key_unknown".into()));
}

#[tokio::test]
async fn the_same_message_id_of_two_sources_is_two_events() {
    let (gateway, _) = closed().await;
    let body = r#"{"type":"track","messageId":"m","userId":"u","event":"e"}"#;
    for (key, accepted) in [(SHOP, 1), (APP, 1), (SHOP, 0), (APP, 0)] {
        let headers = format!("X-Write-Key: {key}\r\n");
        let answer = gateway.post("/collect", &headers, body).await;
        assert_eq!(answer.json()["accepted"], accepted, "{key}");
    }
    assert_eq!(gateway.sources(), ["shop", "app"]);
}

#[tokio::test]
async fn a_key_writes_only_to_its_streams() {
    let only = Entry {
        streams: Some(vec!["events".into(), "clicks".into()]),
        ..entry(SHOP, "shop")
    };
    let gateway = guarded(&keys_of(vec![only], Strangers::Refused)).await;
    let header = format!("X-Write-Key: {SHOP}\r\n");
    let one = r#"{"type":"track","userId":"u","event":"e"}"#;
    for (path, status) in [
        ("/collect/clicks", 202),
        ("/v1/track", 200),
        ("/collect", 403),
        ("/collect/users", 403),
        ("/v1/identify", 403),
    ] {
        let answer = gateway.post(path, &header, one).await;
        assert_eq!(answer.status(), status, "{path}");
        if status == 403 {
            assert_eq!(answer.error().1, "stream_not_allowed");
        }
    }
    // In a batch it costs only the event itself: SDKs would throw all of it away.
    let batch = format!(r#"{{"batch":[{one},{{"type":"identify","userId":"u"}},{one}]}}"#);
    let answer = gateway.post("/v1/batch", &header, batch).await;
    let json = answer.json();
    assert_eq!(
        (answer.status(), &json["accepted"]),
        (200, &2.into()),
        "{json}"
    );
    assert_eq!(json["results"][1]["code"], "stream_not_allowed");

    let mut client = client(gateway.grpc).await;
    for (stream, code) in [("clicks", None), ("users", Some(Code::PermissionDenied))] {
        let mut request = Request::new(CollectRequest {
            stream: stream.into(),
            ..batch_of_one()
        });
        request
            .metadata_mut()
            .insert("x-write-key", SHOP.parse().unwrap());
        let answer = client.collect(request).await;
        assert_eq!(
            answer.as_ref().err().map(tonic::Status::code),
            code,
            "{stream}"
        );
        if let Err(status) = answer {
            let expected = (
                Code::PermissionDenied,
                "STREAM_NOT_ALLOWED".to_owned(),
                false,
            );
            assert_eq!(error(&status), expected);
        }
    }
}

fn batch_of_one() -> CollectRequest {
    batch(vec![event("")])
}

#[tokio::test]
async fn a_page_uses_a_key_only_from_its_origins_and_can_read_why_not() {
    let only = Entry {
        origins: Some(vec!["https://*.shop.example".into()]),
        ..entry(SHOP, "shop")
    };
    let gateway = guarded(&keys_of(vec![only, entry(APP, "app")], Strangers::Refused)).await;
    let one = r#"{"type":"track","userId":"u","event":"e"}"#;
    let in_body = format!(r#"{{"type":"track","userId":"u","event":"e","writeKey":"{SHOP}"}}"#);
    let (good, evil) = ("https://www.shop.example", "https://evil.example");
    let header = |key: &str| format!("X-Write-Key: {key}\r\n");
    for (headers, origin, body, status) in [
        (header(SHOP), Some(good), one, 200),
        (header(SHOP), None, one, 200),
        (header(SHOP), Some(evil), one, 403),
        (header(SHOP), Some("null"), one, 403),
        (String::new(), Some(good), &in_body, 200),
        (String::new(), Some(evil), &in_body, 403),
        (header(APP), Some(evil), one, 200),
        (header(NOBODY), Some(evil), one, 401),
    ] {
        let origin_line = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
        let answer = gateway
            .post("/v1/t", &format!("{headers}{origin_line}"), body)
            .await;
        assert_eq!(answer.status(), status, "{headers} {origin:?}");
        // What a page cannot read, its SDK takes for a broken network and tries again.
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        if status == 403 {
            assert_eq!(answer.error().1, "origin_not_allowed");
        }
    }
    // A preflight has no key, so that it cannot be refused for one.
    let preflight = format!(
        "OPTIONS /v1/t HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: {evil}\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
    );
    let answer = gateway.send(preflight).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some(evil));
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("authorization")
    );
}

#[tokio::test]
async fn where_strangers_are_welcome_a_wrong_key_is_still_wrong() {
    let keys = keys_of(vec![entry(SHOP, "shop")], Strangers::Welcome);
    let gateway = guarded(&keys).await;
    let one = r#"{"type":"track","userId":"u","event":"e"}"#;
    let in_body = format!(r#"{{"type":"track","userId":"u","event":"e","writeKey":"{SHOP}"}}"#);
    for (headers, body, status) in [
        (String::new(), one, 202),
        (String::new(), &in_body, 202),
        (format!("X-Write-Key: {NOBODY}\r\n"), one, 401),
    ] {
        assert_eq!(
            gateway.post("/collect", &headers, body).await.status(),
            status
        );
    }
    client(gateway.grpc)
        .await
        .collect(batch_of_one())
        .await
        .unwrap();
    assert_eq!(gateway.sources(), ["default", "shop", "default"]);
}

#[tokio::test]
async fn a_call_has_its_key_in_its_metadata() {
    let (gateway, _) = closed().await;
    let basic = format!("Basic {}", STANDARD.encode(format!("{SHOP}:")));
    for addr in [gateway.http, gateway.grpc] {
        let mut client = client(addr).await;
        for (name, value, reason) in [
            ("authorization", basic.as_str(), None),
            ("authorization", &format!("Bearer {SHOP}"), None),
            ("x-write-key", SHOP, None),
            ("x-write-key", NOBODY, Some("WRITE_KEY_UNKNOWN")),
            ("authorization", "Bearer nobody", Some("WRITE_KEY_UNKNOWN")),
            ("x-other", SHOP, Some("WRITE_KEY_MISSING")),
        ] {
            let mut request = Request::new(batch_of_one());
            request.metadata_mut().insert(name, value.parse().unwrap());
            match (client.collect(request).await, reason) {
                (Ok(answer), None) => assert_eq!(answer.into_inner().accepted, 1),
                (Err(status), Some(reason)) => {
                    let expected = (Code::Unauthenticated, reason.to_owned(), false);
                    assert_eq!(error(&status), expected);
                }
                (answer, reason) => panic!("{name}: {reason:?} {answer:?}"),
            }
        }
    }
    assert_eq!(gateway.sources(), vec!["shop"; 6]);
    // Health and reflection say nothing that needs a key.
    let mut health = tonic_health::pb::health_client::HealthClient::new(
        super::grpc::channel(gateway.grpc).await,
    );
    let asked = tonic_health::pb::HealthCheckRequest::default();
    health.check(asked).await.unwrap();
}

#[tokio::test]
async fn a_revoked_key_ends_an_open_stream_at_its_next_batch() {
    let (gateway, keys) = closed().await;
    let (batches, incoming) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(incoming));
    request
        .metadata_mut()
        .insert("x-write-key", SHOP.parse().unwrap());
    let send = async |number: u64, id: &str| {
        let message = CollectBidiRequest {
            batch_number: number,
            events: vec![event(id)],
            ..Default::default()
        };
        batches.send(message).await.unwrap();
    };
    let mut client = client(gateway.grpc).await;
    let mut answers = client.collect_bidi(request).await.unwrap().into_inner();
    within(answers.message()).await.unwrap().unwrap();
    send(1, "a").await;
    within(answers.message()).await.unwrap().unwrap();
    // Another change than its own does not end it, and what it may is looked up again.
    keys.change(&file(vec![entry(SHOP, "boutique")]));
    send(2, "a").await;
    within(answers.message()).await.unwrap().unwrap();
    keys.change(&file(vec![entry(APP, "app")]));
    send(3, "b").await;
    let status = within(answers.message()).await.unwrap_err();
    assert_eq!(error(&status).1, "WRITE_KEY_UNKNOWN");
    assert_eq!(gateway.sources(), ["shop", "boutique"]);
}

#[tokio::test]
async fn one_noisy_key_does_not_take_the_place_of_the_others() {
    let slow = Entry {
        events_per_second: Some(5),
        ..entry(SHOP, "shop")
    };
    let gateway = guarded(&keys_of(vec![slow, entry(APP, "app")], Strangers::Refused)).await;
    let one = r#"{"type":"track","userId":"u","event":"e"}"#;
    let (noisy, quiet) = (
        format!("X-Write-Key: {SHOP}\r\n"),
        format!("X-Write-Key: {APP}\r\n"),
    );
    let (mut taken, mut refused) = (0, None);
    for _try in 0..60 {
        let answer = gateway.post("/collect", &noisy, one).await;
        match answer.status() {
            202 => taken += 1,
            _ => refused = Some(answer),
        }
        assert_eq!(gateway.post("/collect", &quiet, one).await.status(), 202);
    }
    let sources = gateway.sources();
    let of = |source: &str| sources.iter().filter(|of| *of == source).count();
    assert_eq!((of("shop"), of("app")), (taken, 60));
    let refused = refused.expect("60 requests take less than 11 s");
    assert_eq!(refused.error(), (429, "rate_limited".into()));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    assert!(refused.header("x-ratelimit-reset").is_some());

    // A call hears the same, and so does a batch of a stream.
    let mut client = client(gateway.grpc).await;
    let mut all = Request::new(batch((0..50).map(|n| event(&format!("n{n}"))).collect()));
    all.metadata_mut()
        .insert("x-write-key", APP.parse().unwrap());
    client.collect(all).await.unwrap();
    let status = loop {
        let mut request = Request::new(batch(vec![event(""), event(""), event("")]));
        request
            .metadata_mut()
            .insert("x-write-key", SHOP.parse().unwrap());
        if let Err(status) = client.collect(request).await {
            break status;
        }
    };
    let expected = (Code::ResourceExhausted, "RATE_LIMITED".to_owned(), true);
    assert_eq!(error(&status), expected);
    let details = status.get_error_details();
    let quota = &details.quota_failure().unwrap().violations[0];
    assert_eq!(quota.subject, "write key");
    let limited = r#"eventkit_ingress_requests_refused_total{code="rate_limited"}"#;
    let text = gateway.metrics.render();
    assert!(
        text.lines()
            .any(|line| line.starts_with(limited) && !line.ends_with(" 0"))
    );
}

#[tokio::test]
async fn a_batch_of_a_stream_that_comes_too_fast_ends_it_with_the_time_to_wait() {
    let slow = Entry {
        events_per_second: Some(1),
        ..entry(SHOP, "shop")
    };
    let gateway = guarded(&keys_of(vec![slow], Strangers::Refused)).await;
    let (batches, incoming) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(incoming));
    request
        .metadata_mut()
        .insert("x-write-key", SHOP.parse().unwrap());
    let mut client = client(gateway.grpc).await;
    let mut answers = client.collect_bidi(request).await.unwrap().into_inner();
    within(answers.message()).await.unwrap().unwrap();
    // The first takes more than there is and is taken; nothing is left for the second.
    for number in 1..=2 {
        let message = CollectBidiRequest {
            batch_number: number,
            events: (0..50).map(|n| event(&format!("{number}-{n}"))).collect(),
            ..Default::default()
        };
        batches.send(message).await.unwrap();
    }
    within(answers.message()).await.unwrap().unwrap();
    let status = within(answers.message()).await.unwrap_err();
    let expected = (Code::ResourceExhausted, "RATE_LIMITED".to_owned(), true);
    assert_eq!(error(&status), expected);
    assert_eq!(gateway.sources(), vec!["shop"; 50]);
}

#[tokio::test]
async fn a_request_without_an_event_counts_as_one() {
    let slow = Entry {
        events_per_second: Some(1),
        ..entry(SHOP, "shop")
    };
    let gateway = guarded(&keys_of(vec![slow], Strangers::Refused)).await;
    let key = format!("X-Write-Key: {SHOP}\r\n");
    let mut statuses = Vec::new();
    for _try in 0..60 {
        statuses.push(gateway.post("/collect", &key, "[]").await.status());
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn an_address_is_held_to_its_rate_whatever_its_key() {
    let mut config = config();
    config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.guard = GuardConfig {
        address_rates: Rates {
            events: None,
            bytes: Some(10),
        },
        burst: Duration::from_secs(1),
        ..GuardConfig::default()
    };
    let gateway = gateway_with(config).await;
    let one = format!(
        r#"{{"type":"track","userId":"u","event":"{}"}}"#,
        "e".repeat(1_000)
    );
    for (address, status) in [
        ("192.0.2.1", 202),
        ("192.0.2.1", 429),
        ("192.0.2.2", 202),
        ("2001:db8::1", 202),
        ("2001:db8::2", 429),
        ("192.0.2.1", 429),
    ] {
        let headers = format!("X-Forwarded-For: {address}\r\n");
        let answer = gateway.post("/collect", &headers, &one).await;
        assert_eq!(answer.status(), status, "{address}");
        if status == 429 {
            let text = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(
                text.contains("10 bytes a second from this address"),
                "{text}"
            );
        }
    }
    let text = gateway.metrics.render();
    assert!(
        text.contains("eventkit_ingress_rate_addresses 3\n"),
        "{text}"
    );
}

#[tokio::test]
async fn an_old_stream_is_acknowledged_and_ends() {
    let mut config = config();
    config.guard.stream_age_max = Some(Duration::from_secs(1));
    let gateway = gateway_with(config).await;
    let (batches, incoming) = mpsc::channel(4);
    let message = CollectBidiRequest {
        batch_number: 1,
        events: vec![event("a")],
        ..Default::default()
    };
    batches.send(message).await.unwrap();
    let mut client = client(gateway.grpc).await;
    let answers = client.collect_bidi(ReceiverStream::new(incoming)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut heard = 0;
    let status = loop {
        match within(answers.message()).await {
            Ok(Some(_)) => heard += 1,
            Ok(None) => panic!("it has no status"),
            Err(status) => break status,
        }
    };
    assert_eq!(heard, 3, "a hello, an acknowledgement, a farewell");
    let expected = (Code::Unavailable, "DRAINING".to_owned(), true);
    assert_eq!(error(&status), expected);
    assert!(status.message().contains("is 1 s old"), "{status:?}");
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let mut config = config();
    config.guard.connections_per_address_max = Some(2);
    let gateway = gateway_with(config).await;
    let mut open = Vec::new();
    for _connection in 0..2 {
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut byte = [0];
        within(stream.read_exact(&mut byte)).await.unwrap();
        open.push(stream);
    }
    let mut third = TcpStream::connect(gateway.http).await.unwrap();
    assert_eq!(read_to_end(&mut third).await, b"");
    open.clear();
    // The place comes back when the server has seen the end, which is only visible from here by trying.
    let came_back = async {
        loop {
            let mut again = TcpStream::connect(gateway.http).await.unwrap();
            drop(
                again
                    .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    .await,
            );
            if !read_to_end(&mut again).await.is_empty() {
                return;
            }
        }
    };
    within(came_back).await;
    let text = gateway.metrics.render();
    let refused = r#"eventkit_ingress_connections_refused_total{reason="address_limit"}"#;
    assert!(
        text.lines()
            .any(|line| line.starts_with(refused) && !line.ends_with(" 0"))
    );
}
