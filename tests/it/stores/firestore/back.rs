//! Reading back, by the documented layout and not by the store's own code.

use std::collections::HashMap;

use async_trait::async_trait;
use eventkit::event::{Lane, LogId};
use eventkit::store::{ErrorRow, Row};
use firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
use firestore::gcloud_sdk::google::firestore::v1::{Document, Value};
use tonic::Code;

use super::super::front::Fault;
use super::super::{Behind, Failure};
use super::Documents;

const DATABASE: &str = "projects/eventkit-test/databases/(default)";

#[async_trait]
impl Behind for Documents {
    async fn events(&self) -> Vec<Row> {
        let root = format!("{DATABASE}/documents");
        let mut rows = Vec::new();
        for stream in self.front.documents(&root, &self.streams).await {
            assert!(
                stream.fields.is_empty(),
                "a stream is nothing but its events"
            );
            let events = self.front.documents(&stream.name, "events").await;
            rows.extend(events.into_iter().map(|document| event(document.fields)));
        }
        rows
    }

    async fn errors(&self) -> Vec<ErrorRow> {
        let root = format!("{DATABASE}/documents");
        let mut rows = Vec::new();
        for Document {
            name, mut fields, ..
        } in self.front.documents(&root, &self.errors).await
        {
            let parts = take(&mut fields, "original_parts");
            if parts != ValueType::IntegerValue(0) {
                assert_eq!(take(&mut fields, "original"), ValueType::NullValue(0));
                let pieces = self.front.documents(&name, "parts").await;
                assert_eq!(
                    parts,
                    ValueType::IntegerValue(i64::try_from(pieces.len()).unwrap())
                );
                let pieces = pieces
                    .into_iter()
                    .flat_map(|mut piece| bytes(take(&mut piece.fields, "bytes")));
                let value_type = Some(ValueType::BytesValue(pieces.collect()));
                fields.insert("original".to_owned(), Value { value_type });
            }
            rows.push(error(fields));
        }
        rows
    }

    fn fail(&self, failure: Failure) {
        self.front.plan([Some(match failure {
            Failure::Out => Fault::Status(Code::Unavailable),
            Failure::Denied => Fault::Status(Code::PermissionDenied),
            Failure::Half => Fault::Half,
            Failure::AnswerLost => Fault::AnswerLost,
        })]);
    }
}

type Fields = HashMap<String, Value>;

fn take(fields: &mut Fields, name: &str) -> ValueType {
    let value = fields.remove(name).unwrap_or_else(|| panic!("no {name}"));
    value.value_type.expect("a value")
}

fn bytes(value: ValueType) -> Vec<u8> {
    match value {
        ValueType::BytesValue(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn optional(fields: &mut Fields, name: &str) -> Option<String> {
    match take(fields, name) {
        ValueType::StringValue(text) => Some(text),
        ValueType::NullValue(_) => None,
        other => panic!("{name}: {other:?}"),
    }
}

fn text(fields: &mut Fields, name: &str) -> String {
    optional(fields, name).unwrap_or_else(|| panic!("{name} is null"))
}

fn optional_time(fields: &mut Fields, name: &str) -> Option<i64> {
    match take(fields, name) {
        ValueType::TimestampValue(at) => Some(at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000),
        ValueType::NullValue(_) => None,
        other => panic!("{name}: {other:?}"),
    }
}

fn time(fields: &mut Fields, name: &str) -> i64 {
    optional_time(fields, name).unwrap_or_else(|| panic!("{name} is null"))
}

fn integer(fields: &mut Fields, name: &str) -> i64 {
    match take(fields, name) {
        ValueType::IntegerValue(number) => number,
        other => panic!("{name}: {other:?}"),
    }
}

fn event(mut fields: Fields) -> Row {
    let fields = &mut fields;
    let row = Row {
        message_id: text(fields, "message_id"),
        source: text(fields, "source"),
        kind: text(fields, "type"),
        stream: text(fields, "stream"),
        user_id: optional(fields, "user_id"),
        anonymous_id: optional(fields, "anonymous_id"),
        event: optional(fields, "event"),
        name: optional(fields, "name"),
        category: optional(fields, "category"),
        group_id: optional(fields, "group_id"),
        previous_id: optional(fields, "previous_id"),
        properties: optional(fields, "properties"),
        traits: optional(fields, "traits"),
        context: optional(fields, "context"),
        integrations: optional(fields, "integrations"),
        extra: optional(fields, "extra"),
        timestamp: time(fields, "timestamp"),
        original_timestamp: optional_time(fields, "original_timestamp"),
        sent_at: optional_time(fields, "sent_at"),
        received_at: time(fields, "received_at"),
        node: text(fields, "node"),
        log_id: log_id(fields),
        lane: lane(fields),
        offset: u64::try_from(integer(fields, "offset")).unwrap(),
        trace_id: optional(fields, "trace_id"),
    };
    assert!(fields.is_empty(), "unknown fields: {:?}", fields.keys());
    row
}

fn error(mut fields: Fields) -> ErrorRow {
    let fields = &mut fields;
    let row = ErrorRow {
        log_id: log_id(fields),
        offset: u64::try_from(integer(fields, "offset")).unwrap(),
        original_hash: text(fields, "original_hash"),
        original: bytes(take(fields, "original")),
        original_format: text(fields, "original_format").into(),
        stage: text(fields, "stage").into(),
        code: text(fields, "code").into(),
        reason: text(fields, "reason"),
        source: text(fields, "source"),
        message_id: text(fields, "message_id"),
        stream: text(fields, "stream"),
        received_at: time(fields, "received_at"),
        node: text(fields, "node"),
        lane: lane(fields),
        trace_id: optional(fields, "trace_id"),
    };
    fields.remove("original_parts");
    assert!(fields.is_empty(), "unknown fields: {:?}", fields.keys());
    row
}

fn log_id(fields: &mut Fields) -> LogId {
    text(fields, "log_id").parse().unwrap()
}

fn lane(fields: &mut Fields) -> Lane {
    Lane(u16::try_from(integer(fields, "lane")).unwrap())
}
