//! What is sent, without anyone who receives it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use firestore::gcloud_sdk::google::firestore::v1::precondition::ConditionType;
use firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
use firestore::gcloud_sdk::google::firestore::v1::write::Operation;
use firestore::gcloud_sdk::google::firestore::v1::{Document, Value};
use prost::Message as _;
use prost_types::Timestamp;

use super::plan::{Plan, Planned, REQUEST_BYTES_MAX, WRITES_MAX};
use super::*;
use crate::event::{Lane, LogId};
use crate::store::parquet;

const EVENTS: &str = "projects/p/databases/(default)/documents/streams";

fn row(message_id: &str) -> Row {
    Row {
        message_id: message_id.to_owned(),
        source: "default".into(),
        kind: "track".into(),
        stream: "shop".into(),
        user_id: Some("u".into()),
        anonymous_id: None,
        event: Some("e".into()),
        name: None,
        category: None,
        group_id: None,
        previous_id: None,
        properties: Some("{ \"b\":null, \"a\" : 1.0 }".into()),
        traits: None,
        context: None,
        integrations: None,
        extra: None,
        timestamp: 1_714_566_600_123_456,
        original_timestamp: None,
        sent_at: Some(-1),
        received_at: 2,
        node: "n".into(),
        log_id: LogId(0xfeed),
        lane: Lane(3),
        offset: 7,
        trace_id: None,
    }
}

fn error_row(offset: u64, original: Vec<u8>) -> ErrorRow {
    ErrorRow {
        log_id: LogId(0xfeed),
        offset,
        original_hash: "0123456789abcdef".into(),
        original,
        original_format: Cow::Borrowed("json"),
        stage: Cow::Borrowed("validate"),
        code: Cow::Borrowed("missing_field"),
        reason: "type is required".into(),
        source: "default".into(),
        message_id: "m".into(),
        stream: "shop".into(),
        received_at: 2,
        node: "n".into(),
        lane: Lane(3),
        trace_id: None,
    }
}

fn document(planned: &Planned) -> &Document {
    match &planned.write.operation {
        Some(Operation::Update(document)) => document,
        other => panic!("{other:?}"),
    }
}

fn names(plan: &Plan) -> Vec<&str> {
    let documents = plan.documents.iter().map(document);
    documents
        .map(|document| document.name.rsplit_once("/documents/").unwrap().1)
        .collect()
}

fn value(fields: &HashMap<String, Value>, name: &str) -> ValueType {
    fields[name].value_type.clone().expect("a value")
}

fn text(text: &str) -> ValueType {
    ValueType::StringValue(text.to_owned())
}

#[test]
fn a_document_has_the_columns_of_every_warehouse() {
    let columns: BTreeSet<String> = parquet::events_schema()
        .unwrap()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let fields = document::event(&row("m")).unwrap();
    assert_eq!(fields.keys().cloned().collect::<BTreeSet<_>>(), columns);

    let mut columns: BTreeSet<String> = parquet::errors_schema()
        .unwrap()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let (fields, _) = document::error(&error_row(1, Vec::new())).unwrap();
    columns.insert("original_parts".to_owned());
    assert_eq!(fields.keys().cloned().collect::<BTreeSet<_>>(), columns);
}

#[test]
fn values_are_typed_and_json_stays_text() {
    let fields = document::event(&row("m")).unwrap();
    assert_eq!(value(&fields, "message_id"), text("m"));
    assert_eq!(
        value(&fields, "properties"),
        text("{ \"b\":null, \"a\" : 1.0 }")
    );
    assert_eq!(value(&fields, "traits"), ValueType::NullValue(0));
    assert_eq!(value(&fields, "log_id"), text(&format!("{:032x}", 0xfeed)));
    assert_eq!(value(&fields, "offset"), ValueType::IntegerValue(7));
    assert_eq!(value(&fields, "lane"), ValueType::IntegerValue(3));
    let at = |seconds, nanos| ValueType::TimestampValue(Timestamp { seconds, nanos });
    assert_eq!(value(&fields, "timestamp"), at(1_714_566_600, 123_456_000));
    assert_eq!(value(&fields, "sent_at"), at(-1, 999_999_000));
    assert_eq!(
        value(&fields, "original_timestamp"),
        ValueType::NullValue(0)
    );
}

#[test]
fn an_event_lies_under_its_stream_and_is_only_ever_created() {
    let rows = [
        row("m"),
        Row {
            stream: "__x__".into(),
            ..row("a/b")
        },
    ];
    let plan = plan::events(EVENTS, &rows);
    let names = names(&plan);
    assert!(names[0].starts_with("streams/shop/events/") && names[0].ends_with("-m"));
    assert!(names[1].starts_with("streams/~5f_x__/events/") && names[1].ends_with("-a_b"));
    for planned in &plan.documents {
        let condition = planned.write.current_document.unwrap().condition_type;
        assert_eq!(condition, Some(ConditionType::Exists(false)));
    }
}

#[test]
fn of_rows_with_one_key_the_first_is_planned_whatever_its_stream() {
    let rows = [
        row("m"),
        row("other"),
        Row {
            properties: None,
            ..row("m")
        },
        Row {
            stream: "elsewhere".into(),
            ..row("m")
        },
        Row {
            source: "s".into(),
            ..row("m")
        },
    ];
    let plan = plan::events(EVENTS, &rows);
    let planned: Vec<usize> = plan.documents.iter().map(|planned| planned.row).collect();
    assert_eq!(planned, [0, 1, 4]);
    assert!(plan.refused.is_empty());

    let errors = [
        error_row(1, vec![1]),
        error_row(1, vec![2]),
        error_row(2, vec![1]),
    ];
    let plan = plan::errors(EVENTS, &errors);
    let planned: Vec<usize> = plan.documents.iter().map(|planned| planned.row).collect();
    assert_eq!(planned, [0, 2]);
}

#[test]
fn what_firestore_can_never_hold_is_refused_with_a_reason_that_tells_no_value() {
    let rows = [
        Row {
            properties: Some("x".repeat(1 << 20)),
            ..row("large")
        },
        Row {
            offset: u64::MAX,
            ..row("far")
        },
        row("fine"),
    ];
    let plan = plan::events(EVENTS, &rows);
    assert_eq!(plan.documents.len(), 1);
    assert_eq!(plan.documents[0].row, 2);
    let refused: Vec<usize> = plan.refused.iter().map(|(row, _)| *row).collect();
    assert_eq!(refused, [0, 1]);
    for (_, reason) in &plan.refused {
        assert!(
            !reason.contains("large") && !reason.contains("xx"),
            "{reason}"
        );
    }
}

#[test]
fn a_document_is_measured_as_firestore_measures_it() {
    // The example of Firestore's documentation: users/jeff/tasks/my_task_id is 147 bytes.
    let fields = HashMap::from([
        (
            "type".to_owned(),
            ValueType::StringValue("Personal".to_owned()),
        ),
        ("done".to_owned(), ValueType::BooleanValue(false)),
        ("priority".to_owned(), ValueType::IntegerValue(1)),
        (
            "description".to_owned(),
            ValueType::StringValue("Learn Cloud Firestore".to_owned()),
        ),
    ]);
    let document = Document {
        name: "projects/p/databases/(default)/documents/users/jeff/tasks/my_task_id".to_owned(),
        fields: fields
            .into_iter()
            .map(|(name, value)| {
                let value_type = Some(value);
                (name, Value { value_type })
            })
            .collect(),
        ..Document::default()
    };
    assert_eq!(document::size(&document), 147);
}

#[test]
fn an_original_of_any_size_is_kept_in_documents_that_fit() {
    let original: Vec<u8> = (0..2_500_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let plan = plan::errors(
        EVENTS,
        &[error_row(1, original.clone()), error_row(2, vec![0])],
    );
    assert!(plan.refused.is_empty());
    let rows: Vec<usize> = plan.documents.iter().map(|planned| planned.row).collect();
    assert_eq!(rows, [0, 0, 0, 0, 1]);
    let mut pieces = Vec::new();
    for (at, planned) in plan.documents.iter().take(3).enumerate() {
        let part = document(planned);
        assert!(
            part.name.ends_with(&format!("/parts/{at:04}")),
            "{}",
            part.name
        );
        assert!(document::size(part) <= document::DOCUMENT_BYTES_MAX);
        let ValueType::BytesValue(piece) = value(&part.fields, "bytes") else {
            panic!("bytes");
        };
        pieces.extend(piece);
    }
    assert!(pieces == original);
    let head = &document(&plan.documents[3]).fields;
    assert_eq!(value(head, "original"), ValueType::NullValue(0));
    assert_eq!(value(head, "original_parts"), ValueType::IntegerValue(3));
    let small = &document(&plan.documents[4]).fields;
    assert_eq!(value(small, "original"), ValueType::BytesValue(vec![0]));
    assert_eq!(value(small, "original_parts"), ValueType::IntegerValue(0));
}

#[test]
fn requests_hold_what_firestore_takes_in_order() {
    let small: Vec<Row> = (0..1_200).map(|at| row(&format!("m-{at}"))).collect();
    let large: Vec<Row> = (0..40)
        .map(|at| Row {
            properties: Some("x".repeat(300_000)),
            ..row(&format!("l-{at}"))
        })
        .collect();
    for (rows, expected) in [(small, 3), (large, 4), (Vec::new(), 0)] {
        let plan = plan::events(EVENTS, &rows);
        let requests = plan::requests(plan.documents);
        assert_eq!(requests.len(), expected);
        for request in &requests {
            assert!(request.len() <= WRITES_MAX);
            let sent: usize = request
                .iter()
                .map(|planned| planned.write.encoded_len())
                .sum();
            let counted: usize = request.iter().map(|planned| planned.bytes).sum();
            assert!(sent <= counted && counted <= REQUEST_BYTES_MAX);
        }
        let order: Vec<usize> = requests
            .concat()
            .iter()
            .map(|planned| planned.row)
            .collect();
        assert_eq!(order, (0..rows.len()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_collection_that_firestore_refuses_is_refused_at_once() {
    let emulator = Endpoint::emulator("127.0.0.1:1");
    let mut options = FirestoreOptions::new(emulator, "p");
    assert!(FirestoreStore::new(&options).is_ok());
    options.errors = "a/b".to_owned();
    let refused = FirestoreStore::new(&options);
    assert!(matches!(refused, Err(OpenError::Collection(name)) if name == "a/b"));
}
