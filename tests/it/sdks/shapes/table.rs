//! What each of those SDKs sends, in its own words.

use crate::bad_input::encodings::gzip;

/// When everything happened by the client's clock, and when it was sent: a minute later.
const AT: &str = "2024-05-01T12:00:00.000Z";
const SENT: &str = "2024-05-01T12:01:00.000Z";

/// How a body travels.
#[derive(Debug, Clone, Copy)]
enum Packing {
    Plain,
    Gzip,
    GzipInChunks,
}

/// A request of an SDK.
#[derive(Debug)]
pub(super) struct Shape {
    /// Its library, and the beginning of its message ids.
    pub(super) name: &'static str,
    path: &'static str,
    headers: String,
    body: String,
    packing: Packing,
    /// The address that the rows have: an SDK on a client's device has one.
    pub(super) ip: Option<&'static str>,
    /// Whether it says when it sent the request.
    pub(super) is_dated: bool,
    /// One event, or a batch of three of which one is bad.
    pub(super) events: usize,
}

const PLAIN: Shape = Shape {
    name: "",
    path: "/v1/batch",
    headers: String::new(),
    body: String::new(),
    packing: Packing::Plain,
    ip: None,
    is_dated: true,
    events: 3,
};

/// One event, with more members if need be.
fn track(name: &str, more: &str) -> String {
    format!(
        r#"{{"messageId":"{name}-track","type":"track","userId":"ada","event":"Order Placed","timestamp":"{AT}","#
    ) + &format!(
        r#""properties":{{"total":12.5}},"integrations":{{"All":true,"Mixpanel":false}}{more}}}"#
    )
}

/// What an event says about the SDK that made it.
fn library(name: &str) -> String {
    format!(r#""context":{{"library":{{"name":"{name}","version":"1.0"}}}}"#)
}

/// Three events. The last one has numbers for ids and for its time, and a context of its own.
fn three(name: &str, more: &str) -> String {
    let bad = format!("{}1{}", r#"{"a":"#.repeat(70), "}".repeat(70));
    let bad = format!(
        r#"{{"messageId":"{name}-bad","type":"track","userId":"ada","event":"bad","properties":{bad}}}"#
    );
    let identify = format!(
        r#"{{"messageId":"{name}-identify","type":"identify","userId":4711,"anonymousId":7,"traits":{{"plan":"pro"}},"#
    ) + r#""timestamp":1714564800000,"context":{"library":{"name":"mine"},"locale":"de"}}"#;
    [track(name, more), bad, identify].join(",")
}

/// All of them.
pub(super) fn all(key: &str, basic: &str) -> Vec<Shape> {
    let all = [
        of_servers(basic),
        with_key_in_body(key),
        of_pages(key, basic),
    ];
    all.into_iter().flatten().collect()
}

/// The SDKs of servers.
fn of_servers(basic: &str) -> Vec<Shape> {
    let own = |name: &'static str| three(name, &format!(",{}", library(name)));
    vec![
        Shape {
            name: "analytics-ruby",
            path: "/v1/import",
            headers: format!(
                "{basic}Content-Type: application/json\r\nAccept: application/json\r\n"
            ),
            body: format!(
                r#"{{"sentAt":"{SENT}","batch":[{}]}}"#,
                own("analytics-ruby")
            ),
            ..PLAIN
        },
        Shape {
            name: "analytics-go",
            headers: format!("{basic}Content-Type: application/json\r\n"),
            body: format!(
                r#"{{"batch":[{}],"messageId":"go-batch","sentAt":"2024-05-01T12:01:00Z",{}}}"#,
                three("analytics-go", ""),
                library("analytics-go")
            ),
            ..PLAIN
        },
        Shape {
            name: "analytics-java",
            path: "/v1/import/",
            headers: format!(
                "{basic}Content-Type: application/json; charset=UTF-8\r\nX-Retry-Count: 1\r\n"
            ),
            body: format!(
                r#"{{"batch":[{}],"sentAt":"{SENT}",{},"sequence":1}}"#,
                three("analytics-java", ""),
                library("analytics-java")
            ),
            ..PLAIN
        },
        Shape {
            name: "rudder-sdk-node",
            headers: format!("{basic}Content-Type: application/json;charset=utf-8\r\n"),
            body: format!(
                r#"{{"batch":[{}],"timestamp":"{SENT}","sentAt":"{SENT}"}}"#,
                own("rudder-sdk-node")
            ),
            packing: Packing::Gzip,
            ..PLAIN
        },
    ]
}

/// Those that have their key in the body alone.
fn with_key_in_body(key: &str) -> Vec<Shape> {
    let own = |name: &'static str| three(name, &format!(",{}", library(name)));
    let retries = "X-Retry-Count: 0\r\n";
    vec![
        Shape {
            name: "analytics-node-2",
            headers: "Content-Type: application/json\r\n".to_owned(),
            body: format!(
                r#"{{"batch":[{}],"writeKey":"{key}","sentAt":"{SENT}"}}"#,
                own("analytics-node-2")
            ),
            ..PLAIN
        },
        Shape {
            name: "analytics-kotlin",
            path: "/v1/b",
            headers: format!("Content-Type: text/plain\r\n{retries}"),
            body: format!(
                r#"{{"batch":[{}],"sentAt":"{SENT}","writeKey":"{key}"}}"#,
                own("analytics-kotlin")
            ),
            packing: Packing::GzipInChunks,
            ip: Some("127.0.0.1"),
            ..PLAIN
        },
        Shape {
            name: "analytics-swift",
            path: "/v1/b",
            headers: format!("Content-Type: application/json; charset=utf-8\r\n{retries}"),
            body: format!(
                "{{ \"batch\" : [\n{}\n],\"sentAt\":\"{SENT}\",\"writeKey\":\"{key}\"}}",
                own("analytics-swift")
            ),
            ip: Some("127.0.0.1"),
            ..PLAIN
        },
    ]
}

/// Those of RudderStack and Jitsu that are neither.
fn of_pages(key: &str, basic: &str) -> Vec<Shape> {
    let own = |name: &'static str| format!(",{}", library(name));
    let origin = "Origin: https://shop.example\r\n";
    let jitsu =
        format!("Content-Type: application/json\r\nX-Write-Key: {key}\r\nX-Enable-Debug: true\r\n");
    // The header says when it was sent.
    let rudder = format!(
        "{basic}{origin}Content-Type: text/plain;charset=UTF-8\r\nAnonymousId: YW5vbi0x\r\nSentAt: {SENT}\r\n\
         Rsa-Retry-Attempt: 1\r\nRsa-Since-Last-Attempt: 1000\r\nRsa-Since-First-Attempt: 1000\r\n\
         Rsa-Retry-Reason: client-network\r\nRsa-Recovered: false\r\n"
    );
    vec![
        Shape {
            name: "rudder-sdk-js",
            path: "/v1/track",
            headers: rudder.clone(),
            body: track("rudder-sdk-js", &own("rudder-sdk-js")),
            ip: Some("127.0.0.1"),
            events: 1,
            ..PLAIN
        },
        Shape {
            name: "rudder-sdk-js-batch",
            headers: rudder,
            body: format!(
                r#"{{"batch":[{}]}}"#,
                three("rudder-sdk-js-batch", &own("rudder-sdk-js-batch"))
            ),
            ip: Some("127.0.0.1"),
            ..PLAIN
        },
        Shape {
            name: "jitsu-js",
            path: "/api/s/track",
            headers: format!("{jitsu}{origin}X-IP-Policy: stripLastOctet\r\n"),
            body: track("jitsu-js", &own("jitsu-js")),
            ip: Some("127.0.0.0"),
            is_dated: false,
            events: 1,
            ..PLAIN
        },
        Shape {
            name: "jitsu-js-server",
            path: "/api/s/s2s/track",
            headers: jitsu,
            body: track("jitsu-js-server", &own("jitsu-js-server")),
            is_dated: false,
            events: 1,
            ..PLAIN
        },
    ]
}

impl Shape {
    pub(super) fn request(&self) -> Vec<u8> {
        let Self { path, headers, .. } = self;
        let (packing, body) = match self.packing {
            Packing::Plain => ("", self.body.clone().into_bytes()),
            Packing::Gzip | Packing::GzipInChunks => {
                ("Content-Encoding: gzip\r\n", gzip(self.body.as_bytes()))
            }
        };
        let (length, body) = match self.packing {
            Packing::Plain | Packing::Gzip => (format!("Content-Length: {}\r\n", body.len()), body),
            Packing::GzipInChunks => {
                let mut chunks = Vec::new();
                for chunk in body.chunks(100) {
                    chunks.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    chunks.extend(chunk);
                    chunks.extend(b"\r\n");
                }
                chunks.extend(b"0\r\n\r\n");
                ("Transfer-Encoding: chunked\r\n".to_owned(), chunks)
            }
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: {}/1.0\r\n{headers}{packing}{length}\r\n",
            self.name
        );
        [head.into_bytes(), body].concat()
    }
}
