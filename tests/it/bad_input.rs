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
use std::path::PathBuf;
use std::time::Duration;

use eventkit::proto::v1::ingest_service_client::IngestServiceClient;
use eventkit::status::{Code, Retry};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::doors::grpc::{batch, event};
use crate::e2e::say;
use crate::support::gateway::{Endpoints, Gateway, Held};
use crate::support::{clients, warehouse};

mod bodies;
pub(crate) mod encodings;
mod framing;
pub(crate) mod grpc;
mod segment;
mod slow;
pub(crate) mod streams;
pub(crate) mod wire;

/// How long the pipeline, the sockets and an orderly end may take on a busy machine.
pub(crate) const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// How much resident memory may grow from the first good request to the end: as much as may be under way at a time.
const RSS_GROWTH_KIB_MAX: u64 = 64 << 10;
/// How many descriptors may be open beyond those of the first good request: files of the store and the warehouse come and go.
pub(crate) const DESCRIPTORS_GROWTH_MAX: usize = 16;

/// What becomes of one event of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
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
pub(crate) enum Expected {
    /// An error of ours, and nothing is stored.
    Refused(u16, &'static str),
    /// One outcome per event.
    Judged(u16, Vec<Fate>),
    /// A status in HTTP's own words, and the end of the connection.
    NotHttp(u16),
}

/// What is sent before the client ends its side of the connection, and each answer that it gets.
pub(crate) type Case = (&'static str, Vec<u8>, Vec<Expected>);

pub(crate) use Expected::{Judged, NotHttp, Refused};
pub(crate) use Fate::{Duplicate, ErrorRow, Rejected, Row};

/// A gateway that runs, and how good clients come to it.
#[derive(Debug)]
pub(crate) struct Running {
    /// Everything of it lies in here.
    pub(crate) dir: tempfile::TempDir,
    pub(crate) data: PathBuf,
    pub(crate) gateway: Gateway,
    pub(crate) endpoints: Endpoints,
    /// Where good clients come in.
    pub(crate) entrance: Endpoints,
    /// The key that they have.
    pub(crate) key: Option<String>,
}

/// The real binary, and what it has to hold in the end.
#[derive(Debug)]
pub(crate) struct Subject {
    _dir: tempfile::TempDir,
    data: PathBuf,
    pub(crate) gateway: Gateway,
    pub(crate) endpoints: Endpoints,
    http: clients::Http,
    grpc: IngestServiceClient<Channel>,
    key: Option<String>,
    pub(crate) before: Held,
    goods: Cell<u32>,
    rows: RefCell<BTreeSet<String>>,
    errors: RefCell<BTreeMap<String, String>>,
    /// Sent and never answered: at most one row each.
    unanswered: RefCell<BTreeSet<String>>,
}

impl Subject {
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (gateway, endpoints) = Gateway::start(dir.path(), settings).await.unwrap();
        Self::of(Running {
            data: dir.path().to_owned(),
            dir,
            gateway,
            entrance: endpoints.clone(),
            endpoints,
            key: None,
        })
        .await
    }

    pub(crate) async fn of(running: Running) -> Self {
        let Running {
            dir,
            data,
            gateway,
            endpoints,
            entrance,
            key,
        } = running;
        let mut subject = Self {
            http: clients::Http::new(&entrance),
            grpc: clients::grpc(&entrance).unwrap(),
            before: Held::default(),
            goods: Cell::default(),
            rows: RefCell::default(),
            errors: RefCell::default(),
            unanswered: RefCell::default(),
            _dir: dir,
            data,
            gateway,
            endpoints,
            key,
        };
        subject.good("the start").await;
        subject.before = subject.usage();
        subject
    }

    pub(crate) fn http_addr(&self) -> SocketAddr {
        self.endpoints.http.parse().unwrap()
    }

    pub(crate) fn grpc_addr(&self) -> SocketAddr {
        self.endpoints.grpc.parse().unwrap()
    }

    pub(crate) fn usage(&self) -> Held {
        self.gateway.held().unwrap()
    }

    /// One good event through each door.
    pub(crate) async fn good(&self, after: &str) {
        assert_eq!(self.try_good(after).await, 2, "after {after}");
    }

    /// The same, where a client may be told to come again; how many doors took it.
    pub(crate) async fn try_good(&self, after: &str) -> u32 {
        let number = self.goods.replace(self.goods.get() + 1);
        let mut taken = 0;
        let id = format!("good-http-{number}");
        let mut event = json!({"type": "track", "messageId": id, "userId": "u", "event": "Good"});
        if let Some(key) = &self.key {
            event["writeKey"] = key.as_str().into();
        }
        let answer = self.http.post("/collect", event.to_string()).await;
        match answer.unwrap_or_else(|error| panic!("after {after}: {error:#}")) {
            (202, answer) if answer["accepted"] == 1 => {
                self.stored(&id);
                taken += 1;
            }
            (status, answer) => assert_eq!(
                (status, &answer["code"]),
                (503, &"overloaded".into()),
                "after {after}: {answer}"
            ),
        }
        let id = format!("good-grpc-{number}");
        let mut request = tonic::Request::new(batch(vec![good_event(&id)]));
        if let Some(key) = &self.key {
            let key = key.parse().unwrap();
            request.metadata_mut().insert("x-write-key", key);
        }
        match self.grpc.clone().collect(request).await {
            Ok(answer) => {
                assert_eq!(answer.into_inner().accepted, 1, "after {after}");
                self.stored(&id);
                taken += 1;
            }
            Err(status) => assert_eq!(
                crate::doors::grpc::error(&status),
                (tonic::Code::Unavailable, "OVERLOADED".into(), true),
                "after {after}: {status:?}"
            ),
        }
        taken
    }

    /// What was accepted under this id has to be a row.
    pub(crate) fn stored(&self, id: &str) {
        assert!(self.rows.borrow_mut().insert(id.to_owned()), "{id} twice");
    }

    /// What was sent under this id, and never answered, may be a row.
    pub(crate) fn never_answered(&self, id: &str) {
        self.unanswered.borrow_mut().insert(id.to_owned());
    }

    /// Holds an event's outcome against what was expected of it.
    pub(crate) fn judged(&self, name: &str, outcome: &Outcome<'_>, fate: &Fate) {
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
    pub(crate) async fn finish(self) {
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
        let data_dir = self.data.as_path();
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
pub(crate) struct Outcome<'a> {
    status: &'a str,
    id: &'a str,
    code: &'a str,
    reason: &'a str,
}

/// A code is on the closed list, goes with its status, and its text says whether to retry.
pub(crate) fn assert_clear(name: &str, http: Option<u16>, code: &str, text: &str) {
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

pub(crate) fn good_event(id: &str) -> eventkit::proto::v1::Event {
    eventkit::proto::v1::Event {
        user_id: "u".into(),
        event: "Good".into(),
        ..event(id)
    }
}

/// Waits for something of another process, which can only be looked at.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
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
