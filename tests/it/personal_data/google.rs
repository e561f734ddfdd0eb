//! The same search over Pub/Sub and the stores of Google: their clients have errors, names and attributes of their own.

use std::collections::BTreeSet;

use mock_collector::ServerHandle;

use super::{every_line_was_there, searched, what_left_is_clean};
use crate::support::emulators;

/// What a process over Pub/Sub is told: a topic of its own, everything in one process, and no long waits.
fn over_pubsub() -> Option<Vec<(&'static str, String)>> {
    let mut settings = crate::roles::settings(&emulators::pubsub()?);
    settings.push(("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "0.2".to_owned()));
    Some(settings)
}

fn lent<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    let settings = settings.iter();
    settings
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

/// The keys that the spans of a name have.
async fn keys(collector: &ServerHandle, name: &'static str) -> BTreeSet<String> {
    let found = collector.with_collector(move |collector| {
        let spans = collector.spans().iter().map(|span| span.span());
        let spans = spans.filter(|span| span.name == name);
        let attributes = spans.flat_map(|span| span.attributes.clone());
        attributes.map(|one| one.key).collect()
    });
    found.await
}

#[tokio::test]
async fn nothing_personal_is_shown_over_pubsub_cloud_storage_and_bigquery() {
    let (Some(mut settings), Some(bigquery), Some(bucket)) = (
        over_pubsub(),
        emulators::bigquery(),
        crate::store::emulated_bucket().await,
    ) else {
        return;
    };
    let storage = emulators::storage().expect("it made the bucket");
    let dataset = format!("d{}", uuid::Uuid::new_v4().simple());
    settings.extend([
        ("EVENTKIT_EVENT_STORE", "gcs".to_owned()),
        ("STORAGE_EMULATOR_HOST", storage),
        ("GCP_GCS_BUCKET", bucket.bucket().to_owned()),
        ("BIGQUERY_EMULATOR_HOST", bigquery),
        ("GCP_BIGQUERY_DATASET", dataset),
        ("GCP_BIGQUERY_TABLE", "events".to_owned()),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let until = [
        "eventkit_loader_rows_merged_total{table=\"events\"}",
        "eventkit_loader_rows_merged_total{table=\"errors\"}",
    ];
    let spans = ["send", "receive", "store write", "loaded"];
    let shown = searched("serve", dir.path(), (&lent(&settings), &until, &spans)).await;
    let lines = [("store_write", 2), ("manifest_recorded", 1)];
    every_line_was_there(&shown.lines, &lines);
    what_left_is_clean(&shown.collector, &spans).await;
    // A person who looks for a job finds it by its id.
    for name in ["load job", "merge", "loaded"] {
        let keys = keys(&shown.collector, name).await;
        assert!(keys.contains("eventkit.job.id"), "{name}: {keys:?}");
    }
}

#[tokio::test]
async fn nothing_personal_is_shown_over_pubsub_and_firestore() {
    let (Some(mut settings), Some(firestore)) = (over_pubsub(), emulators::firestore()) else {
        return;
    };
    settings.extend([
        ("EVENTKIT_EVENT_STORE", "firestore".to_owned()),
        ("FIRESTORE_EMULATOR_HOST", firestore),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let until = [
        "eventkit_events_processed_total",
        "eventkit_events_failed_total{",
    ];
    let spans = ["send", "receive", "store write", "stored"];
    let shown = searched("serve", dir.path(), (&lent(&settings), &until, &spans)).await;
    every_line_was_there(&shown.lines, &[("store_write", 2)]);
    what_left_is_clean(&shown.collector, &spans).await;
}
