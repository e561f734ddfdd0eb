//! Bad input, sent to the real binary. Each gets a clear answer, the next good request works, and in the end the
//! warehouse holds exactly what was accepted.
//!
//! The tables read: what is sent, how, and what is answered. What they fix where no specification does:
//!
//! - What is no HTTP (a negative length, two lengths, a line that never ends) is answered in HTTP's own words: a status
//!   without a body, and the connection closes. Everything that is HTTP is answered in JSON.
//! - With both a length and chunks, the chunks count, as RFC 9112 has it.
//! - A byte order mark is passed over. Of a key that occurs twice the last value counts. Numbers stay the text they are,
//!   however large. Escaped NULs and lone surrogates are text in a part that is stored as JSON.
//! - What the edge can hold it accepts; if it is no valid event, it becomes an error row.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use eventkit::proto::v1::ingest_service_client::IngestServiceClient;
use eventkit::status::{Code, Retry};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::doors::grpc::{batch, event};
use crate::e2e::say;
use crate::support::gateway::{Endpoints, Gateway, Held};
use crate::support::{clients, warehouse};

mod bodies;
mod encodings;
mod framing;
mod grpc;
mod segment;
mod slow;
mod streams;
mod wire;

/// How long the pipeline, the sockets and an orderly end may take on a busy machine.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// How much resident memory may grow from the first good request to the end: as much as may be under way at a time.
const RSS_GROWTH_KIB_MAX: u64 = 64 << 10;
/// How many descriptors may be open beyond those of the first good request: files of the store and the warehouse come and go.
const DESCRIPTORS_GROWTH_MAX: usize = 16;

/// What becomes of one event of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Accepted, and a row; under this id, or under one that the server invents if it is empty.
    Row(&'static str),
    /// Accepted, and an error row with this code.
    ErrorRow(&'static str),
    /// Stored before.
    Duplicate,
    /// Rejected with this code.
    Rejected(&'static str),
}

/// What is answered.
#[derive(Debug, Clone)]
enum Expected {
    /// An error of ours, and nothing is stored.
    Refused(u16, &'static str),
    /// One outcome per event.
    Judged(u16, Vec<Fate>),
    /// A status in HTTP's own words, and the end of the connection.
    NotHttp(u16),
}

/// What is sent before the client ends its side of the connection, and each answer that it gets.
type Case = (&'static str, Vec<u8>, Vec<Expected>);

use Expected::{Judged, NotHttp, Refused};
use Fate::{Duplicate, ErrorRow, Rejected, Row};

/// The real binary, and what it has to hold in the end.
struct Subject {
    dir: tempfile::TempDir,
    gateway: Gateway,
    endpoints: Endpoints,
    http: clients::Http,
    grpc: IngestServiceClient<Channel>,
    before: Held,
    goods: Cell<u32>,
    rows: RefCell<BTreeSet<String>>,
    errors: RefCell<BTreeMap<String, String>>,
    /// Sent and never answered: at most one row each.
    unanswered: RefCell<BTreeSet<String>>,
}

impl Subject {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (gateway, endpoints) = Gateway::start(dir.path(), settings).await.unwrap();
        let mut subject = Self {
            http: clients::Http::new(&endpoints),
            grpc: clients::grpc(&endpoints).unwrap(),
            before: Held::default(),
            goods: Cell::default(),
            rows: RefCell::default(),
            errors: RefCell::default(),
            unanswered: RefCell::default(),
            dir,
            gateway,
            endpoints,
        };
        subject.good("the start").await;
        subject.before = subject.usage();
        subject
    }

    fn http_addr(&self) -> SocketAddr {
        self.endpoints.http.parse().unwrap()
    }

    fn grpc_addr(&self) -> SocketAddr {
        self.endpoints.grpc.parse().unwrap()
    }

    fn usage(&self) -> Held {
        self.gateway.held().unwrap()
    }

    /// One good event through each door.
    async fn good(&self, after: &str) {
        let number = self.goods.replace(self.goods.get() + 1);
        let id = format!("good-http-{number}");
        let body = format!(r#"{{"type":"track","messageId":"{id}","userId":"u","event":"Good"}}"#);
        let (status, answer) = self.http.post("/collect", body).await.unwrap();
        assert_eq!(
            (status, &answer["accepted"]),
            (202, &1.into()),
            "after {after}"
        );
        self.stored(&id);
        let id = format!("good-grpc-{number}");
        let answer = self
            .grpc
            .clone()
            .collect(batch(vec![good_event(&id)]))
            .await;
        let answer = answer.unwrap_or_else(|status| panic!("after {after}: {status:?}"));
        assert_eq!(answer.into_inner().accepted, 1, "after {after}");
        self.stored(&id);
    }

    /// What was accepted under this id has to be a row.
    fn stored(&self, id: &str) {
        assert!(self.rows.borrow_mut().insert(id.to_owned()), "{id} twice");
    }

    /// What was sent under this id, and never answered, may be a row.
    fn never_answered(&self, id: &str) {
        self.unanswered.borrow_mut().insert(id.to_owned());
    }

    /// Holds an event's outcome against what was expected of it.
    fn judged(&self, name: &str, outcome: &Outcome<'_>, fate: &Fate) {
        let (status, code) = match fate {
            Row(_) | ErrorRow(_) => ("accepted", ""),
            Duplicate => ("duplicate", ""),
            Rejected(code) => ("rejected", *code),
        };
        let Outcome {
            status: found,
            id,
            code: why,
            reason,
        } = outcome;
        assert_eq!((*found, *why), (status, code), "{name}");
        match fate {
            Row(expected) => {
                assert!(expected.is_empty() || id == expected, "{name}: {id}");
                self.stored(id);
            }
            ErrorRow(code) => {
                let mut errors = self.errors.borrow_mut();
                assert_eq!(errors.insert((*id).to_owned(), (*code).to_owned()), None);
            }
            Duplicate => {}
            Rejected(code) => assert_clear(name, None, code, reason),
        }
    }

    /// Looks at everything once more, and ends the process.
    async fn finish(self) {
        let free = ["eventkit_ingress_in_flight_bytes 0\n"];
        until("what was under way is given back", async || {
            let metrics = wire::get(&self.endpoints.admin, "/metrics").await;
            free.iter().all(|line| metrics.contains(line))
        })
        .await;
        let max = self.before.descriptors + DESCRIPTORS_GROWTH_MAX;
        until("descriptors are given back", async || {
            self.usage().descriptors <= max
        })
        .await;
        let (before, after) = (self.before.rss_kib, self.usage());
        let (goods, grown) = (self.goods.get(), after.rss_kib.saturating_sub(before));
        say(&format!(
            "bad input: {goods} good events per door between bad ones; RSS {before} KiB, {grown} KiB more at the end, {} KiB at \
             the most",
            after.peak_kib
        ));
        assert!(
            grown <= RSS_GROWTH_KIB_MAX,
            "RSS {before} KiB, and {after:?}"
        );
        let rows = self.rows.into_inner();
        let errors = self.errors.into_inner();
        let data_dir = self.dir.path();
        until("every accepted event is a row", async || {
            let (events, set_aside) = warehouse::counts(data_dir);
            events >= rows.len() as u64 && set_aside >= errors.len() as u64
        })
        .await;
        let ended = self.gateway.terminate(SETTLE_WITHIN).await.unwrap();
        let no_alarms: &[String] = &[];
        assert_eq!(
            (ended.status.code(), ended.alarms.as_slice()),
            (Some(0), no_alarms),
            "{}",
            ended.said
        );
        let found = warehouse::read(data_dir).unwrap();
        let mut ids = BTreeSet::new();
        for row in &found.rows {
            assert!(ids.insert(row.message_id.clone()), "two rows: {row}");
        }
        let unanswered = self.unanswered.into_inner();
        let unexpected: Vec<_> = ids
            .symmetric_difference(&rows)
            .filter(|id| !unanswered.contains(*id))
            .collect();
        assert_eq!(unexpected, [""; 0], "rows that are missing or too many");
        let set_aside: Vec<_> = found
            .errors
            .iter()
            .map(|row| (row.message_id.clone(), row.code.clone()))
            .collect();
        let mut sorted = set_aside.clone();
        sorted.sort();
        assert_eq!(sorted, errors.into_iter().collect::<Vec<_>>());
    }
}

/// What the server said about one event.
#[derive(Debug)]
struct Outcome<'a> {
    status: &'a str,
    id: &'a str,
    code: &'a str,
    reason: &'a str,
}

/// A code is on the closed list, goes with its status, and its text says whether to retry.
fn assert_clear(name: &str, http: Option<u16>, code: &str, text: &str) {
    let listed = Code::ALL.iter().find(|listed| listed.as_str() == code);
    let Some(code) = listed else {
        panic!("{name}: no such code: {code}")
    };
    assert!(http.is_none_or(|http| http == code.http()), "{name}");
    let advice = match code.retry() {
        Retry::Never => "do not retry",
        Retry::SameIds => "retry with the same message ids",
    };
    assert!(text.contains(advice), "{name}: {text}");
}

fn good_event(id: &str) -> eventkit::proto::v1::Event {
    eventkit::proto::v1::Event {
        user_id: "u".into(),
        event: "Good".into(),
        ..event(id)
    }
}

/// Waits for something of another process, which can only be looked at.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < SETTLE_WITHIN, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The outcomes in an answer's `results`.
fn outcomes(results: &Value) -> Vec<Outcome<'_>> {
    results
        .as_array()
        .expect("a list of results")
        .iter()
        .enumerate()
        .map(|(index, result)| {
            assert_eq!(result["index"], index);
            let text = |field: &str| result[field].as_str().unwrap_or_default();
            Outcome {
                status: text("status"),
                id: text("message_id"),
                code: text("code"),
                reason: text("reason"),
            }
        })
        .collect()
}
