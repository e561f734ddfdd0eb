use std::borrow::Cow;

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use super::*;
use crate::event::{Lane, LogId};
use crate::store::{ErrorRow, Row};

fn bare() -> Row {
    Row {
        message_id: "m".into(),
        source: "default".into(),
        kind: "track".into(),
        stream: "events".into(),
        user_id: None,
        anonymous_id: None,
        event: None,
        name: None,
        category: None,
        group_id: None,
        previous_id: None,
        properties: None,
        traits: None,
        context: None,
        integrations: None,
        extra: None,
        timestamp: 0,
        original_timestamp: None,
        sent_at: None,
        received_at: 1,
        node: "n".into(),
        log_id: LogId(u128::MAX),
        lane: Lane(u16::MAX),
        offset: 7,
        trace_id: None,
    }
}

fn full() -> Row {
    let text = |value: &str| Some(value.to_owned());
    Row {
        user_id: text("日本語 \u{1F980}"),
        anonymous_id: text(""),
        event: text("Signed \"Up\"\n"),
        name: text("name"),
        category: text("category"),
        group_id: text("group"),
        previous_id: text("previous"),
        properties: Some(format!("{{\"big\":\"{}\"}}", "x".repeat(200_000))),
        traits: text("{ \"a\" : 1.0 }"),
        context: text("{}"),
        integrations: text("{\"All\":true}"),
        extra: text("{\"k\":[1]}"),
        timestamp: -62_135_596_800_000_000,
        original_timestamp: Some(253_402_300_799_999_999),
        sent_at: Some(-1),
        trace_id: text(&"ab".repeat(16)),
        ..bare()
    }
}

fn error() -> ErrorRow {
    ErrorRow {
        log_id: LogId(1),
        offset: 3,
        original_hash: "0123456789abcdef".into(),
        original: vec![0, 255, 1],
        original_format: Cow::Borrowed("json"),
        stage: Cow::Borrowed("validate"),
        code: Cow::Borrowed("missing_field"),
        reason: "userId or anonymousId is missing".into(),
        source: "default".into(),
        message_id: "m".into(),
        stream: "users".into(),
        received_at: 5,
        node: "n".into(),
        lane: Lane(2),
        trace_id: None,
    }
}

/// What is in a file, without our reader.
fn batch_of(file: Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    reader.build().unwrap().next().unwrap().unwrap()
}

/// A file as another writer would have made it.
fn rewrite(batch: &RecordBatch, version: &str) -> Bytes {
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![KeyValue::new(
            VERSION_KEY.to_owned(),
            version.to_owned(),
        )]))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap().into()
}

#[test]
fn rows_come_back_as_they_were() {
    let rows = vec![bare(), full(), bare()];
    assert_eq!(decode_events(encode_events(&rows).unwrap()).unwrap(), rows);
    let mut with_trace = error();
    with_trace.trace_id = Some("ab".repeat(16));
    let rows = vec![error(), with_trace];
    assert_eq!(decode_errors(encode_errors(&rows).unwrap()).unwrap(), rows);
}

#[test]
fn no_rows_are_a_file_too() {
    assert_eq!(decode_events(encode_events(&[]).unwrap()).unwrap(), []);
    assert_eq!(decode_errors(encode_errors(&[]).unwrap()).unwrap(), []);
}

#[test]
fn the_columns_are_the_documented_ones() {
    let names = |schema: arrow_schema::SchemaRef| {
        let fields = schema.fields().iter();
        fields
            .map(|field| field.name().clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        names(events_schema().unwrap()),
        "message_id source type stream user_id anonymous_id event name category group_id previous_id properties \
         traits context integrations extra timestamp original_timestamp sent_at received_at node log_id lane offset \
         trace_id"
    );
    assert_eq!(
        names(errors_schema().unwrap()),
        "log_id offset original_hash original original_format stage code reason source message_id stream \
         received_at node lane trace_id"
    );
}

#[test]
fn a_reader_takes_a_file_in_bounded_pieces() {
    let rows: Vec<Row> = (0..2_500).map(|offset| Row { offset, ..bare() }).collect();
    let file = encode_events(&rows).unwrap();
    let pieces: Vec<usize> = read_events(file.clone())
        .unwrap()
        .map(|rows| rows.unwrap().len())
        .collect();
    assert!(
        pieces.iter().all(|&rows| rows <= ROWS_PER_BATCH),
        "{pieces:?}"
    );
    assert_eq!(decode_events(file).unwrap(), rows);
}

#[test]
fn an_older_file_lacks_nullable_columns_and_reads_as_null() {
    let batch = batch_of(encode_events(&[full()]).unwrap());
    let kept: Vec<usize> = (0..batch.num_columns())
        .filter(|&at| {
            !matches!(
                batch.schema().field(at).name().as_str(),
                "extra" | "sent_at"
            )
        })
        .collect();
    let file = rewrite(&batch.project(&kept).unwrap(), "1");
    let expected = Row {
        extra: None,
        sent_at: None,
        ..full()
    };
    assert_eq!(decode_events(file).unwrap(), [expected]);
}

#[test]
fn a_missing_required_column_a_later_version_and_damage_are_errors() {
    let file = encode_events(&[full()]).unwrap();
    let batch = batch_of(file.clone());
    let without_first: Vec<usize> = (1..batch.num_columns()).collect();
    let missing = rewrite(&batch.project(&without_first).unwrap(), "1");
    assert!(matches!(
        decode_events(missing),
        Err(DecodeError::Missing("message_id"))
    ));
    assert!(matches!(
        decode_events(rewrite(&batch, "2")),
        Err(DecodeError::Version(version)) if version == "2"
    ));
    assert!(matches!(
        decode_events(Bytes::from_static(b"not parquet")),
        Err(DecodeError::File(_))
    ));
    let cut = file.slice(..file.len() - 9);
    assert!(matches!(decode_events(cut), Err(DecodeError::File(_))));
}

#[test]
fn a_file_of_the_other_table_is_an_error() {
    let errors = encode_errors(&[error()]).unwrap();
    assert!(matches!(
        decode_events(errors),
        Err(DecodeError::Missing(_))
    ));
}

#[test]
fn files_that_version_1_wrote_can_still_be_read() {
    // Never written anew: what lies in people's buckets does not change either.
    let events = include_bytes!("../../../tests/fixtures/store/events-v1.parquet");
    let errors = include_bytes!("../../../tests/fixtures/store/errors-v1.parquet");
    let mut small = full();
    small.properties = Some("{\"a\" : 1.0}".into());
    assert_eq!(
        decode_events(Bytes::from_static(events)).unwrap(),
        [bare(), small]
    );
    assert_eq!(
        decode_errors(Bytes::from_static(errors)).unwrap(),
        [error()]
    );
}

#[test]
fn an_offset_beyond_the_column_is_an_error_and_never_wraps() {
    let row = Row {
        offset: u64::MAX,
        ..bare()
    };
    assert!(matches!(
        encode_events(&[row]),
        Err(EncodeError::Offset(u64::MAX))
    ));
}

prop_compose! {
    fn any_row()(
        ids in (".*", ".*", proptest::option::of(".*"), proptest::option::of(".*")),
        json in proptest::option::of("\\PC{0,300}"),
        times in (any::<i64>(), any::<Option<i64>>(), any::<Option<i64>>(), any::<i64>()),
        log_id in any::<u128>(),
        lane in any::<u16>(),
        offset in 0..i64::MAX as u64,
    ) -> Row {
        Row {
            message_id: ids.0,
            kind: ids.1,
            user_id: ids.2,
            event: ids.3,
            properties: json.clone(),
            extra: json,
            timestamp: times.0,
            original_timestamp: times.1,
            sent_at: times.2,
            received_at: times.3,
            log_id: LogId(log_id),
            lane: Lane(lane),
            offset,
            ..bare()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_rows_come_back_as_they_were(rows in proptest::collection::vec(any_row(), 0..20)) {
        prop_assert_eq!(decode_events(encode_events(&rows).unwrap()).unwrap(), rows);
    }
}
