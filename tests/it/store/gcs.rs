//! The real client of Cloud Storage, and a service that is ill in every way: what each call answers, and that a write that is repeated
//! ends as exactly one whole object.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventkit::backoff::Backoff;
use eventkit::config::Endpoint;
use eventkit::lifecycle::Health;
use eventkit::store::gcs::{CheckError, OBJECT_BYTES_MAX, OpenError};
use eventkit::store::objects::{marker_name, object_name};
use eventkit::store::{
    Disposition, EventStore as _, GcsObjects, GcsOptions, ObjectEventStore, Objects as _, Retrying,
    Table, parquet,
};
use eventkit::telemetry::Metrics;
use http::Method;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::service::{FakeGcs, Trouble, checksum};
use super::{DAY, batch, row};

/// Of one attempt; generous, since only those that are to hang come near it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// For those, and where a timeout that nobody planned would only be one trouble more.
const SHORT: Duration = Duration::from_secs(1);
const NAME: &str = "events/dt=2024-05-01/a.parquet";

/// More than fits into the buffers between client and service.
fn large() -> Bytes {
    (0..4_000_000_u32).map(|n| (n % 251) as u8).collect()
}

fn timeout(trouble: Trouble) -> Duration {
    match trouble {
        Trouble::Hang => SHORT,
        _ => TIMEOUT,
    }
}

/// Everything that can happen to an upload, what is answered, and whether the object is there all the same.
const UPLOAD_TROUBLES: [(Trouble, Disposition, bool); 14] = [
    (Trouble::TooMany(0), Disposition::Retry, false),
    (Trouble::Status(408), Disposition::Retry, false),
    (Trouble::Status(500), Disposition::Retry, false),
    (Trouble::Status(503), Disposition::Retry, false),
    (Trouble::Status(504), Disposition::Retry, false),
    (Trouble::Hang, Disposition::Retry, false),
    (Trouble::Reset, Disposition::Retry, false),
    (Trouble::ResetMidUpload, Disposition::Retry, false),
    (Trouble::AnswerLost, Disposition::Retry, true),
    (Trouble::DamagedUpload, Disposition::Retry, false),
    (Trouble::DamagedInStore, Disposition::Retry, false),
    (Trouble::Status(401), Disposition::Alarm, false),
    (Trouble::Status(403), Disposition::Alarm, false),
    (Trouble::Status(404), Disposition::Alarm, false),
];

#[tokio::test]
async fn a_failed_put_says_outage_or_refusal_and_its_repeat_leaves_one_whole_object() {
    let bytes = large();
    for (trouble, expected, is_stored) in UPLOAD_TROUBLES {
        let service = FakeGcs::start().await;
        let objects = service.objects(timeout(trouble)).await;
        service.plan([trouble]);
        let failed = objects.put_if_absent(NAME, bytes.clone()).await;
        let error = failed.expect_err(&format!("{trouble:?}"));
        assert_eq!(error.disposition(), expected, "{trouble:?}: {error}");
        let uploads = |calls: &[(Method, Trouble)]| {
            let posts = calls.iter().filter(|(method, _)| method == Method::POST);
            posts.count()
        };
        assert_eq!(
            uploads(&service.take_calls()),
            1,
            "{trouble:?}: one attempt"
        );
        assert_eq!(
            service.stored().len(),
            usize::from(is_stored),
            "{trouble:?}"
        );

        let objects = service.objects(TIMEOUT).await;
        let created = objects.put_if_absent(NAME, bytes.clone()).await.unwrap();
        assert_eq!(created, !is_stored, "{trouble:?}");
        assert!(!objects.put_if_absent(NAME, "other".into()).await.unwrap());
        let stored = service.stored();
        assert_eq!(stored.len(), 1, "{trouble:?}");
        assert!(stored[NAME] == bytes, "{trouble:?}: other bytes");
        let got = objects.get(NAME).await.unwrap().unwrap();
        assert!(got == bytes, "{trouble:?}: other bytes");
    }
}

/// What workers write through.
fn retrying(objects: GcsObjects) -> (Retrying<ObjectEventStore<GcsObjects>>, Health) {
    let health = Health::default();
    let quick = Backoff {
        base: Duration::from_millis(1),
        max: Duration::from_millis(20),
    };
    let store = Retrying::new(
        ObjectEventStore::new(Arc::new(objects)),
        quick,
        health.clone(),
        Metrics::new(),
        CancellationToken::new(),
    );
    (store, health)
}

fn holds_one_batch(service: &FakeGcs, case: &str) {
    let stored = service.stored();
    let object = object_name(Table::Events, DAY, &batch(1));
    let marker = marker_name(Table::Events, DAY, &batch(1));
    let names: Vec<&String> = stored.keys().collect();
    assert_eq!(names, [&object, &marker], "{case}");
    let rows = parquet::decode_events(stored[&object].clone()).unwrap();
    assert_eq!(rows, [row(100), row(220)], "{case}");
}

#[tokio::test]
async fn a_write_ends_as_one_object_and_one_marker_whatever_happens_on_the_way() {
    for (trouble, ..) in UPLOAD_TROUBLES {
        let service = FakeGcs::start().await;
        let (store, health) = retrying(service.objects(SHORT).await);
        // Of the object's upload, of the marker's, and in a burst.
        let burst = match trouble {
            Trouble::Hang => 1,
            _ => 5,
        };
        let ill = std::iter::repeat_n(trouble, burst);
        service.plan(ill.clone().chain([Trouble::Pass]).chain(ill));
        store
            .write_events(&batch(1), DAY, Arc::new([row(100), row(220)]))
            .await
            .unwrap();
        holds_one_batch(&service, &format!("{trouble:?}"));
        let readiness = health.readiness();
        assert!(readiness.degraded.is_empty(), "{trouble:?}: well again");
    }
}

#[tokio::test]
async fn many_writers_of_one_batch_through_all_troubles_leave_one() {
    let service = FakeGcs::start().await;
    let mut troubles = Vec::new();
    for (trouble, ..) in UPLOAD_TROUBLES {
        troubles.extend([trouble, Trouble::Pass, trouble]);
    }
    service.plan(troubles);
    let mut writers = Vec::new();
    for _ in 0..8 {
        let (store, _) = retrying(service.objects(SHORT).await);
        writers.push(async move {
            store
                .write_events(&batch(1), DAY, Arc::new([row(100), row(220)]))
                .await
        });
    }
    let written = futures::future::join_all(writers).await;
    let created = written
        .into_iter()
        .filter(|written| written.as_ref().unwrap().created)
        .count();
    // None at all when the answer to the one that did was lost.
    assert!(created <= 1, "{created} created it");
    holds_one_batch(&service, "many writers");
}

#[tokio::test]
async fn what_was_stored_damaged_and_could_not_be_removed_is_not_taken_for_the_object() {
    let service = FakeGcs::start().await;
    let objects = service.objects(TIMEOUT).await;
    let unavailable = [Trouble::Status(503); 3];
    service.plan([Trouble::DamagedInStore].into_iter().chain(unavailable));
    assert!(objects.put_if_absent(NAME, "whole".into()).await.is_err());
    assert_eq!(service.stored().len(), 1, "not removed");
    service.plan(unavailable);
    assert!(objects.put_if_absent(NAME, "whole".into()).await.is_err());
    assert!(objects.put_if_absent(NAME, "whole".into()).await.unwrap());
    assert_eq!(service.stored()[NAME], "whole");
}

#[tokio::test]
async fn a_service_that_asks_for_time_gets_it_from_every_call_that_follows() {
    let service = FakeGcs::start().await;
    let objects = service.objects(TIMEOUT).await;
    service.plan([Trouble::TooMany(1)]);
    let began = Instant::now();
    assert!(objects.put_if_absent(NAME, "x".into()).await.is_err());
    objects
        .put_if_absent("inbox/other", "x".into())
        .await
        .unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_read_is_tried_again_and_never_gives_other_bytes() {
    let service = FakeGcs::start().await;
    let metrics = Metrics::new();
    let objects = service.counted(TIMEOUT, &metrics).await;
    let bytes = large();
    objects.put_if_absent(NAME, bytes.clone()).await.unwrap();
    for trouble in [
        Trouble::TooMany(0),
        Trouble::Status(503),
        Trouble::Reset,
        Trouble::AnswerLost,
        Trouble::CutShort,
        Trouble::DamagedAnswer,
        Trouble::NoChecksum,
    ] {
        service.take_calls();
        service.plan([trouble]);
        let got = objects.get(NAME).await.unwrap().unwrap();
        assert!(got == bytes, "{trouble:?}: other bytes");
        assert_eq!(service.take_calls().len(), 2, "{trouble:?}");

        service.plan([trouble; 3]);
        let error = objects.get(NAME).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Retry, "{trouble:?}");
        assert_eq!(service.take_calls().len(), 3, "{trouble:?}");
    }
    let rendered = metrics.render();
    // One, and then two before the third failure is the caller's, for each trouble.
    let counted = r#"eventkit_store_call_retries_total{operation="get"} 21"#;
    assert!(rendered.contains(counted), "{rendered}");
    for (trouble, expected) in [
        (Trouble::Hang, Disposition::Retry),
        (Trouble::Status(403), Disposition::Alarm),
    ] {
        let objects = service.objects(timeout(trouble)).await;
        service.plan([trouble]);
        let error = objects.get(NAME).await.unwrap_err();
        assert_eq!(error.disposition(), expected, "{trouble:?}: {error}");
        assert_eq!(service.take_calls().len(), 1, "{trouble:?}: once");
    }
}

#[tokio::test]
async fn lists_and_removals_are_tried_again_too() {
    let service = FakeGcs::start().await;
    let objects = service.objects(TIMEOUT).await;
    for trouble in [
        Trouble::TooMany(0),
        Trouble::Status(503),
        Trouble::Reset,
        Trouble::AnswerLost,
    ] {
        service.store("inbox/a", b"x");
        service.plan([trouble, trouble]);
        let names = objects.list("inbox/", None, 10).await.unwrap();
        assert_eq!(names, ["inbox/a"], "{trouble:?}");
        service.plan([trouble, trouble]);
        objects.delete("inbox/a").await.unwrap();
        assert!(service.stored().is_empty(), "{trouble:?}");
    }
    service.plan([Trouble::Status(403); 2]);
    let listed = objects.list("inbox/", None, 10).await.unwrap_err();
    let deleted = objects.delete("inbox/a").await.unwrap_err();
    for error in [listed, deleted] {
        assert_eq!(error.disposition(), Disposition::Alarm, "{error}");
    }
}

#[tokio::test]
async fn a_list_goes_through_all_pages_and_leaves_out_empty_folders() {
    let service = FakeGcs::start().await;
    let objects = service.objects(TIMEOUT).await;
    service.store("inbox/", b"");
    let mut expected = Vec::new();
    for n in 0..2_500 {
        let name = format!("inbox/{n:05}");
        service.store(&name, b"x");
        expected.push(name);
    }
    service.store("inboxes/no", b"x");
    let names = objects.list("inbox/", None, usize::MAX).await.unwrap();
    assert_eq!(names, expected);
    assert_eq!(service.take_calls().len(), 3, "a thousand a page");
    let names = objects.list("inbox/", Some("inbox/00998"), 1_200).await;
    assert_eq!(names.unwrap(), expected[999..2_199]);
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_never_taken_for_an_empty_one() {
    let service = FakeGcs::start().await;
    let objects = service.bucket("no-such-bucket", TIMEOUT).await;
    let errors = [
        objects.put_if_absent(NAME, "x".into()).await.unwrap_err(),
        objects.get(NAME).await.unwrap_err(),
        objects.list("inbox/", None, 10).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.disposition(), Disposition::Alarm, "{error}");
        assert!(error.to_string().contains("no such bucket"), "{error}");
    }
}

#[tokio::test]
async fn a_check_tells_what_a_person_must_mend_from_an_outage() {
    let service = FakeGcs::start().await;
    let objects = service.objects(TIMEOUT).await;
    let hasty = service.objects(SHORT).await;
    objects.check().await.unwrap();
    for trouble in [
        Trouble::Status(503),
        Trouble::TooMany(0),
        Trouble::Hang,
        Trouble::Reset,
    ] {
        service.plan([trouble]);
        let asks = match trouble {
            Trouble::Hang => &hasty,
            _ => &objects,
        };
        let error = asks.check().await.unwrap_err();
        assert!(!error.prevents_start(), "{trouble:?}: {error}");
    }
    for trouble in [Trouble::Status(401), Trouble::Status(403)] {
        service.plan([trouble]);
        let error = objects.check().await.unwrap_err();
        let is_denied = matches!(error, CheckError::Denied { .. });
        assert!(is_denied && error.prevents_start(), "{trouble:?}: {error}");
    }
    let missing = service.bucket("no-such-bucket", TIMEOUT).await;
    let error = missing.check().await.unwrap_err();
    let is_missing = matches!(error, CheckError::NotFound { .. });
    assert!(is_missing && error.prevents_start(), "{error}");
    drop(service);
    // The port is closed, or about to be.
    let error = hasty.check().await.unwrap_err();
    assert!(!error.prevents_start(), "{error}");
}

#[tokio::test]
async fn an_object_that_cannot_be_sent_in_one_request_is_refused_unsent() {
    let service = FakeGcs::start().await;
    let objects = service.objects(TIMEOUT).await;
    let bytes = Bytes::from(vec![0; OBJECT_BYTES_MAX + 1]);
    let error = objects.put_if_absent(NAME, bytes).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Alarm, "{error}");
    assert!(error.to_string().contains("67108865 bytes"), "{error}");
    assert_eq!(service.take_calls(), []);
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_unsent() {
    let service = FakeGcs::start().await;
    let objects = service.objects(TIMEOUT).await;
    for name in ["", "/a", "a/../b", "a//b", "a\nb"] {
        assert!(objects.get(name).await.is_err(), "{name:?}");
        assert!(objects.delete(name).await.is_err(), "{name:?}");
        let put = objects.put_if_absent(name, "x".into()).await;
        assert!(put.is_err(), "{name:?}");
    }
    assert_eq!(service.take_calls(), []);
    let options = GcsOptions {
        bucket: "a/../b".to_owned(),
        endpoint: Endpoint::emulator("127.0.0.1:1"),
        request_timeout: TIMEOUT,
    };
    let error = GcsObjects::open(options, Metrics::new()).await.unwrap_err();
    assert!(matches!(error, OpenError::Bucket(_)), "{error}");
}

#[test]
fn the_fake_writes_a_checksum_as_the_service_does() {
    // From the client library's own tests, and of nothing.
    let text = b"the quick brown fox jumps over the lazy dog";
    assert_eq!(checksum(text), "PBj01g==");
    assert_eq!(checksum(b""), "AAAAAA==");
}
