//! A worker in front of Firestore: what the store refuses becomes an error document.

use std::sync::Arc;

use bytes::Bytes;
use eventkit::backoff::Backoff;
use eventkit::event::{DAY_MICROS, Event, Lane, PayloadFormat};
use eventkit::lifecycle::Tasks;
use eventkit::queue::{Batch, Producer as _, in_process};
use eventkit::telemetry::Metrics;
use eventkit::wal::record;
use eventkit::worker::Worker;

use super::super::{DAY, Subject, batch};
use super::subjects;

fn record_of(message_id: &str, payload: &[u8]) -> Bytes {
    let event = Event {
        format: PayloadFormat::Json,
        payload,
        source: "default",
        message_id,
        message_id_assigned: false,
        stream: "shop",
        kind: None,
        lane: Lane(3),
        received_at: i64::from(DAY.0) * DAY_MICROS,
        sent_at: None,
        trace: None,
        batch_context: &[],
        batch_integrations: &[],
    };
    let mut bytes = Vec::new();
    record::encode(&event, &mut bytes);
    bytes.into()
}

/// Has a worker store the payloads, at the offsets from 100 on.
async fn work(subject: &Subject, payloads: &[Vec<u8>]) {
    let (producer, consumers) = in_process(1, Backoff::default(), Metrics::new());
    let tasks = Tasks::default();
    for consumer in consumers {
        let stores = subject.stores.clone();
        let worker = Worker::new(Box::new(consumer), stores, "node-a".into(), Metrics::new());
        drop(tasks.spawn("worker", worker.run()));
    }
    let records = payloads.iter().zip(100..).map(|(payload, offset)| {
        let record = record_of(&format!("m-{offset}"), payload);
        (offset, record)
    });
    let batch = Batch {
        id: batch(1),
        day: DAY,
        records: records.collect(),
        sent_in: Vec::new(),
    };
    // It resolves when the worker has settled.
    producer.send(Arc::new(batch)).await.unwrap();
}

#[tokio::test]
async fn a_row_that_firestore_refuses_becomes_an_error_document_and_the_rest_are_documents() {
    for subject in subjects().await {
        let large = format!(
            r#"{{"type":"track","event":"e","userId":"u","properties":{{"x":"{}"}}}}"#,
            "y".repeat(1_300_000)
        );
        let payloads = [
            br#"{"type":"track","event":"e","userId":"u","properties":{"a":null}}"#.to_vec(),
            large.clone().into_bytes(),
            br#"{"type":"track","event":"e"}"#.to_vec(),
            br#"{"type":"page","userId":"u"}"#.to_vec(),
        ];
        for _repeat in 0..2 {
            work(&subject, &payloads).await;
            let rows = subject.events().await;
            let offsets: Vec<u64> = rows.iter().map(|row| row.offset).collect();
            assert_eq!(offsets, [100, 103], "{}", subject.name);
            assert_eq!(rows[0].properties.as_deref(), Some(r#"{"a":null}"#));
            assert_eq!(rows[0].stream, "shop");

            let errors = subject.errors().await;
            let told: Vec<(u64, &str, &str)> = errors
                .iter()
                .map(|row| (row.offset, &*row.stage, &*row.code))
                .collect();
            let expected = [
                (101, "store", "row_refused"),
                (102, "validate", "missing_field"),
            ];
            assert_eq!(told, expected, "{}", subject.name);
            assert!(errors[0].original == large.as_bytes(), "{}", subject.name);
            assert!(errors[0].reason.contains("1048576"), "{}", errors[0].reason);
        }
    }
}
