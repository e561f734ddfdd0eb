//! `CollectStream` and `CollectBidi`: order, acknowledgements, limits, and what happens when either side stops.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use eventkit::proto::v1::collect_bidi_response::Message;
use eventkit::proto::v1::{
    BatchAck, CollectBidiRequest, CollectBidiResponse, CollectStreamRequest, Event, EventStatus,
};
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::storage::{Storage, StorageError, Visit};
use eventkit::wal::testing;
use prost_types::Struct;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use super::grpc::{client, error, event};
use super::*;

/// Memory whose syncs wait while the gate is shut.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gated {
    memory: MemoryStorage,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Debug, Default)]
struct Gate {
    is_shut: bool,
    is_waited_at: bool,
}

impl Gated {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, is_shut: bool) {
        self.gate().is_shut = is_shut;
        self.gate.1.notify_all();
    }

    /// Whether the log stands before the gate.
    pub(crate) fn is_waited_at(&self) -> bool {
        self.gate().is_waited_at
    }
}

impl Storage for Gated {
    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.memory.insert(key, value)
    }

    fn remove(&self, key: &[u8]) -> Result<(), StorageError> {
        self.memory.remove(key)
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut gate = self.gate();
        while gate.is_shut {
            gate.is_waited_at = true;
            gate = self
                .gate
                .1
                .wait(gate)
                .unwrap_or_else(PoisonError::into_inner);
        }
        gate.is_waited_at = false;
        drop(gate);
        self.memory.sync()
    }

    fn scan(&self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        self.memory.scan(from, visit)
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        self.memory.disk_bytes()
    }
}

/// A log that can be held up just before a sync.
pub(crate) fn gated_wal() -> (Wal, Gated) {
    let storage = Gated::default();
    let options = testing::options(testing::config("memory".into(), 16));
    let (wal, _) = Wal::open_in(Arc::new(storage.clone()), options).unwrap();
    (wal, storage)
}

/// A gateway over such a log.
pub(super) async fn gated(config: IngressConfig) -> (Gateway, Gated) {
    let (wal, storage) = gated_wal();
    (gateway_over(wal, config).await, storage)
}

/// Waits for something that can only be looked at.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let looked = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), looked).await;
    assert!(waited.is_ok(), "never: {what}");
}

impl Gateway {
    async fn received(&self, events: usize) {
        let line = format!("eventkit_events_received_total{{protocol=\"grpc\"}} {events}\n");
        until(&line, || self.metrics.render().contains(&line)).await;
    }
}

fn numbered(batch_number: u64, events: Vec<Event>) -> CollectBidiRequest {
    CollectBidiRequest {
        batch_number,
        events,
        ..Default::default()
    }
}

fn message(events: Vec<Event>) -> CollectStreamRequest {
    CollectStreamRequest {
        events,
        ..Default::default()
    }
}

/// An event that is rejected, with an answer that is longer than itself.
fn rejected(id: &str) -> Event {
    Event {
        properties: Some(Struct::default()),
        properties_json: "{}".into(),
        ..event(id)
    }
}

/// The client's end of a bidirectional stream.
pub(crate) struct Bidi {
    batches: mpsc::Sender<CollectBidiRequest>,
    answers: Streaming<CollectBidiResponse>,
}

impl Bidi {
    async fn open(gateway: &Gateway) -> Self {
        let (batches, from_us) = mpsc::channel(1_000);
        let batches_to_send = ReceiverStream::new(from_us);
        let mut client = client(gateway.grpc).await;
        let answers = client.collect_bidi(batches_to_send).await.unwrap();
        let mut bidi = Self {
            batches,
            answers: answers.into_inner(),
        };
        assert!(matches!(bidi.next().await, Ok(Some(Message::Hello(_)))));
        bidi
    }

    async fn send(&self, batch_number: u64, events: Vec<Event>) {
        let batch = numbered(batch_number, events);
        self.batches.send(batch).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<Message>, Status> {
        let answer = within(self.answers.message()).await?;
        Ok(answer.map(|answer| answer.message.unwrap()))
    }

    async fn ack(&mut self) -> BatchAck {
        match self.next().await {
            Ok(Some(Message::Ack(ack))) => ack,
            other => panic!("no acknowledgement: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_stream_is_answered_with_one_summary() {
    let gateway = gateway().await;
    let messages = [
        CollectStreamRequest {
            stream: "clicks".into(),
            ..message(vec![event("a"), rejected("b"), event("c")])
        },
        message(vec![]),
        message(vec![event("c"), event(""), event(&"x".repeat(257))]),
    ];
    let mut request = Request::new(futures::stream::iter(messages));
    let id = "req-7".parse().unwrap();
    request.metadata_mut().insert("x-request-id", id);
    let mut client = client(gateway.http).await;
    let summary = client.collect_stream(request).await.unwrap().into_inner();
    let counts = (summary.accepted, summary.duplicate, summary.rejected);
    assert_eq!((counts, summary.request_id.as_str()), ((3, 1, 2), "req-7"));
    let by_code: Vec<_> = summary
        .rejected_by_code
        .iter()
        .map(|count| (count.code.as_str(), count.count))
        .collect();
    assert_eq!(
        by_code,
        [("payload_conflict", 1), ("message_id_too_long", 1)]
    );
    let listed: Vec<_> = summary
        .results
        .iter()
        .map(|line| {
            let result = line.result.as_ref().unwrap();
            let id = result.message_id.as_str();
            (line.message_index, result.index, result.status(), id)
        })
        .collect();
    assert_eq!(
        listed,
        [
            (0, 1, EventStatus::Rejected, "b"),
            (2, 0, EventStatus::Duplicate, "c"),
            (2, 2, EventStatus::Rejected, ""),
        ]
    );
    assert!(!summary.results_truncated);
    let stored = gateway.stored();
    assert_eq!(stored.len(), 3);
    assert_eq!(stored[1], ("c".into(), "clicks".into()));
    assert_eq!(stored[2].1, "default");
}

#[tokio::test]
async fn a_summary_lists_a_thousand_outcomes() {
    let gateway = gateway_with(IngressConfig {
        stream_events_max: 1_100,
        ..config()
    })
    .await;
    let messages = (0..11).map(|_| message(vec![event("same"); 100]));
    let mut client = client(gateway.grpc).await;
    let messages = futures::stream::iter(messages.collect::<Vec<_>>());
    let summary = client.collect_stream(messages).await.unwrap().into_inner();
    assert_eq!((summary.accepted, summary.duplicate), (1, 1_099));
    assert_eq!(summary.results.len(), 1_000);
    assert!(summary.results_truncated);
}

#[tokio::test]
async fn a_client_stream_that_fails_says_what_is_stored() {
    let gateway = gateway_with(IngressConfig {
        stream_events_max: 10,
        ..config()
    })
    .await;
    let large = Event {
        properties_json: vec![b' '; 70_000].into(),
        ..event("large")
    };
    let bad_name = CollectStreamRequest {
        stream: "../x".into(),
        ..message(vec![event("x")])
    };
    let cases = [
        (
            message(vec![event("x"); 9]),
            Code::ResourceExhausted,
            "TOO_MANY_EVENTS",
        ),
        (
            message(vec![large]),
            Code::ResourceExhausted,
            "BODY_TOO_LARGE",
        ),
        (bad_name, Code::InvalidArgument, "INVALID_STREAM"),
    ];
    for (n, (bad, code, reason)) in cases.into_iter().enumerate() {
        let good = message(vec![event(&format!("good-{n}")), rejected("bad")]);
        let messages = futures::stream::iter([good, bad]);
        let mut client = client(gateway.grpc).await;
        let status = client.collect_stream(messages).await.unwrap_err();
        assert_eq!(error(&status), (code, reason.into(), false), "{status:?}");
        let text = status.message();
        assert!(text.starts_with("from message 1 on: "), "{text}");
        let stored = "before that: 1 accepted, 0 duplicate, 1 rejected";
        assert!(text.ends_with(stored), "{text}");
        assert_eq!(gateway.stored().len(), n + 1);
    }
}

#[tokio::test]
async fn a_bidi_stream_greets_and_acknowledges_in_order() {
    let gateway = gateway().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let batches: Vec<_> = (1..=200u64)
            .map(|n| {
                numbered(
                    n,
                    vec![event(&format!("{encoding}-{n}")), event(""), rejected("r")],
                )
            })
            .collect();
        let mut client = client(gateway.http)
            .await
            .send_compressed(encoding)
            .accept_compressed(encoding);
        let answer = client
            .collect_bidi(futures::stream::iter(batches))
            .await
            .unwrap();
        let used = answer.metadata().get("grpc-encoding").unwrap();
        assert_eq!(used, &encoding.to_string());
        let mut answers = answer.into_inner();
        let hello = within(answers.message()).await.unwrap().unwrap().message;
        let Some(Message::Hello(hello)) = hello else {
            panic!("no hello: {hello:?}")
        };
        assert!(hello.window_batches > 0 && hello.request_id.len() == 36);
        let limits = (
            hello.message_bytes_max,
            hello.batch_events_max,
            hello.event_bytes_max,
        );
        assert_eq!(limits, (64 * 1024, 100, 4_096));
        for n in 1..=200 {
            let answer = within(answers.message()).await.unwrap().unwrap().message;
            let Some(Message::Ack(ack)) = answer else {
                panic!("no acknowledgement: {answer:?}")
            };
            let counts = (ack.accepted, ack.duplicate, ack.rejected);
            assert_eq!((ack.batch_number, counts), (n, (2, 0, 1)));
            let told: Vec<_> = ack.results.iter().map(|r| (r.index, r.status())).collect();
            assert_eq!(
                told,
                [(1, EventStatus::Accepted), (2, EventStatus::Rejected)]
            );
            assert_eq!(ack.results[0].message_id.len(), 36);
        }
        assert_eq!(within(answers.message()).await.unwrap(), None);
    }
    let stored = gateway.stored();
    let named: Vec<_> = stored
        .iter()
        .filter(|(id, _)| id.contains('-') && id.len() < 36)
        .collect();
    let expected = |encoding: &str| {
        (1..=200)
            .map(|n| format!("{encoding}-{n}"))
            .collect::<Vec<_>>()
    };
    let ids: Vec<_> = named.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, [expected("gzip"), expected("zstd")].concat());
}

#[tokio::test]
async fn acknowledgements_wait_for_the_sync_and_batches_do_not_wait_for_each_other() {
    let (gateway, log) = gated(config()).await;
    let mut bidi = Bidi::open(&gateway).await;
    log.set(true);
    for n in 1..=5 {
        bidi.send(n, vec![event(&format!("m{n}"))]).await;
    }
    // All five are with the log although none is durable.
    gateway.received(5).await;
    assert!(gateway.stored().is_empty());
    assert!(futures::poll!(std::pin::pin!(bidi.next())).is_pending());
    log.set(false);
    for n in 1..=5 {
        assert_eq!(bidi.ack().await.batch_number, n);
    }
    let ids: Vec<_> = gateway.stored().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["m1", "m2", "m3", "m4", "m5"]);
}

#[tokio::test]
async fn a_gap_or_a_repeat_ends_the_stream_after_what_was_before_it() {
    let gateway = gateway().await;
    for wrong in [0, 1, 3] {
        let mut bidi = Bidi::open(&gateway).await;
        bidi.send(1, vec![event(&format!("before-{wrong}"))]).await;
        bidi.send(wrong, vec![event("never")]).await;
        assert_eq!(bidi.ack().await.accepted, 1);
        let status = bidi.next().await.unwrap_err();
        let expected = (Code::InvalidArgument, "MALFORMED_REQUEST".into(), false);
        assert_eq!(error(&status), expected);
        assert!(
            status.message().starts_with("from batch 2 on: "),
            "{status:?}"
        );
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "batch_number");
    }
    assert_eq!(gateway.stored().len(), 3);
}

#[tokio::test]
async fn who_comes_back_with_the_same_ids_hears_duplicate() {
    let gateway = gateway().await;
    let mut first = Bidi::open(&gateway).await;
    first.send(1, vec![event("a"), event("b")]).await;
    assert_eq!(first.ack().await.accepted, 2);
    drop(first);
    let mut second = Bidi::open(&gateway).await;
    second
        .send(1, vec![event("a"), event("b"), event("c")])
        .await;
    let ack = second.ack().await;
    assert_eq!((ack.accepted, ack.duplicate), (1, 2));
    assert_eq!(gateway.stored().len(), 3);
}

#[tokio::test]
async fn what_a_vanished_client_sent_stays_stored_and_counted() {
    let (gateway, log) = gated(config()).await;
    log.set(true);
    let bidi = Bidi::open(&gateway).await;
    bidi.send(1, vec![event("a"), event("b")]).await;
    let (messages, from_us) = mpsc::channel(10);
    let mut client = client(gateway.grpc).await;
    let streaming = Tasks::default().spawn_isolated("client", async move {
        client.collect_stream(ReceiverStream::new(from_us)).await
    });
    messages.send(message(vec![event("c")])).await.unwrap();
    gateway.received(3).await;
    drop(bidi);
    streaming.abort();
    assert!(streaming.await.unwrap_err().is_cancelled());
    log.set(false);
    let accepted = "eventkit_ingress_events_accepted_total 3";
    until(accepted, || gateway.metrics.render().contains(accepted)).await;
    let free = "eventkit_ingress_in_flight_bytes 0\n";
    until(free, || gateway.metrics.render().contains(free)).await;
    assert_eq!(gateway.stored().len(), 3);
}

#[tokio::test]
async fn a_drain_acknowledges_what_was_begun_and_sends_clients_elsewhere() {
    let (gateway, log) = gated(config()).await;
    log.set(true);
    let mut bidi = Bidi::open(&gateway).await;
    let mut quiet = Bidi::open(&gateway).await;
    bidi.send(1, vec![event("a")]).await;
    bidi.send(2, vec![event("b")]).await;
    let (messages, from_us) = mpsc::channel(10);
    let mut client = client(gateway.grpc).await;
    let streaming = Tasks::default().spawn_isolated("client", async move {
        client.collect_stream(ReceiverStream::new(from_us)).await
    });
    messages
        .send(message(vec![event("c"), event("d")]))
        .await
        .unwrap();
    gateway.received(4).await;

    gateway.drain.cancel();
    let draining = bidi.next().await.unwrap().unwrap();
    let Message::Draining(draining) = draining else {
        panic!("{draining:?}")
    };
    assert!(draining.retry_after.is_some());
    log.set(false);
    assert_eq!(bidi.ack().await.batch_number, 1);
    assert_eq!(bidi.ack().await.batch_number, 2);
    let status = bidi.next().await.unwrap_err();
    let expected = (Code::Unavailable, "DRAINING".to_owned(), true);
    assert_eq!(error(&status), expected);
    assert!(
        status.message().starts_with("from batch 3 on: "),
        "{status:?}"
    );

    assert!(matches!(quiet.next().await, Ok(Some(Message::Draining(_)))));
    assert_eq!(error(&quiet.next().await.unwrap_err()), expected);

    let status = within(streaming).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error(&status), expected);
    assert!(
        status.message().contains("before that: 2 accepted"),
        "{status:?}"
    );
    within(gateway.tasks.join()).await;
}

#[tokio::test]
async fn a_stream_beyond_the_budget_is_shed_with_an_invitation_to_come_again() {
    let gateway = gateway_with(IngressConfig {
        in_flight_bytes_max: 4_000,
        ..config()
    })
    .await;
    let many = || vec![event("x"); 30];
    let mut bidi = Bidi::open(&gateway).await;
    // What was acknowledged is given back: a long stream is not a large one.
    for n in 1..=50 {
        bidi.send(n, vec![event(&format!("m{n}"))]).await;
        assert_eq!(bidi.ack().await.accepted, 1);
    }
    bidi.send(51, many()).await;
    let status = bidi.next().await.unwrap_err();
    let expected = (Code::Unavailable, "OVERLOADED".to_owned(), true);
    assert_eq!(error(&status), expected);
    let mut client = client(gateway.grpc).await;
    let messages = futures::stream::iter([message(many())]);
    let status = client.collect_stream(messages).await.unwrap_err();
    assert_eq!(error(&status), expected);
    let shed = "eventkit_ingress_requests_shed_total{code=\"overloaded\"} 2";
    assert!(gateway.metrics.render().contains(shed));
    assert_eq!(gateway.stored().len(), 50);
}

#[tokio::test]
async fn a_log_that_fails_acknowledges_nothing_more_of_a_stream() {
    let (gateway, log) = gated(config()).await;
    let mut bidi = Bidi::open(&gateway).await;
    bidi.send(1, vec![event("a")]).await;
    assert_eq!(bidi.ack().await.accepted, 1);
    log.memory.fail_after(0);
    bidi.send(2, vec![event("b")]).await;
    let status = bidi.next().await.unwrap_err();
    assert_eq!(
        error(&status),
        (Code::Unavailable, "LOG_FAILED".into(), true)
    );
    assert!(
        status.message().starts_with("from batch 2 on: "),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_deadline_ends_a_stream_and_not_what_was_appended() {
    let (gateway, log) = gated(config()).await;
    log.set(true);
    let with_deadline = |messages| {
        let mut request = Request::new(messages);
        // Only the header: the client's own clock would answer in the server's place.
        let timeout = "3S".parse().unwrap();
        request.metadata_mut().insert("grpc-timeout", timeout);
        request
    };
    let mut client = client(gateway.grpc).await;
    let (batches, from_us) = mpsc::channel(10);
    let request = with_deadline(ReceiverStream::new(from_us));
    let answers = client.collect_bidi(request).await.unwrap().into_inner();
    let mut bidi = Bidi { batches, answers };
    assert!(matches!(bidi.next().await, Ok(Some(Message::Hello(_)))));
    bidi.send(1, vec![event("a")]).await;
    gateway.received(1).await;
    // The log answers when the deadline is long over.
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    log.set(false);
    assert_eq!(bidi.ack().await.batch_number, 1);
    let status = bidi.next().await.unwrap_err();
    let expected = (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into(), false);
    assert_eq!(error(&status), expected);
    assert_eq!(gateway.stored().len(), 1);
}

/// A client whose HTTP/2 stream takes no more than 64 KiB that nobody reads.
pub(crate) async fn narrow(addr: SocketAddr) -> Bidi {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .initial_stream_window_size(Some(65_535))
        .connect()
        .await
        .unwrap();
    let mut client = eventkit::proto::v1::ingest_service_client::IngestServiceClient::new(channel);
    let (batches, from_us) = mpsc::channel(1);
    let answers = client
        .collect_bidi(ReceiverStream::new(from_us))
        .await
        .unwrap();
    Bidi {
        batches,
        answers: answers.into_inner(),
    }
}

/// Sends batches with long answers, reading none, until the server takes no more.
pub(crate) async fn never_read(bidi: &Bidi) -> u64 {
    for number in 1..10_000 {
        let events = (0..100).map(|_| rejected(&"r".repeat(200))).collect();
        let send = bidi.send(number, events);
        if tokio::time::timeout(Duration::from_millis(1_500), send)
            .await
            .is_err()
        {
            return number;
        }
    }
    panic!("the server takes in what it cannot answer");
}

fn impatient() -> IngressConfig {
    IngressConfig {
        body_timeout: Duration::from_secs(5),
        in_flight_bytes_max: 64 << 20,
        ..config()
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_held_and_then_told() {
    let gateway = gateway_with(impatient()).await;
    let mut bidi = narrow(gateway.grpc).await;
    let held_at = never_read(&bidi).await;
    assert!(held_at < 1_000, "{held_at} batches were taken");
    let ended = "protocol=\"grpc\",status=\"4\"";
    until(ended, || gateway.metrics.render().contains(ended)).await;
    let (mut acks, mut end) = (0, None);
    while end.is_none() {
        match bidi.next().await {
            Ok(Some(Message::Ack(ack))) => {
                acks += 1;
                assert_eq!(ack.batch_number, acks);
            }
            Ok(Some(Message::Hello(_))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(status) => end = Some(status),
        }
    }
    let status = end.unwrap();
    let expected = (Code::DeadlineExceeded, "REQUEST_TIMEOUT".into(), false);
    assert_eq!(error(&status), expected);
    assert!(
        status.message().contains("were not taken for 5 s"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_client_that_takes_no_status_either_loses_its_connection() {
    let gateway = gateway_with(impatient()).await;
    let bidi = narrow(gateway.grpc).await;
    never_read(&bidi).await;
    let none = "eventkit_ingress_connections 0\n";
    until(none, || gateway.metrics.render().contains(none)).await;
    let free = "eventkit_ingress_in_flight_bytes 0\n";
    until(free, || gateway.metrics.render().contains(free)).await;
}

#[tokio::test]
async fn a_quiet_stream_is_left_open() {
    let gateway = gateway_with(IngressConfig {
        body_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_millis(500),
        header_timeout: Duration::from_millis(500),
        ..config()
    })
    .await;
    let mut bidi = Bidi::open(&gateway).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    bidi.send(1, vec![event("late")]).await;
    assert_eq!(bidi.ack().await.accepted, 1);
}
