//! Rows to columns.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::super::{ErrorRow, Row};
use super::{EncodeError, ROWS_PER_BATCH, VERSION, VERSION_KEY};
use crate::event::{Lane, LogId, Micros, Offset};

/// The time zone of every timestamp column.
const UTC: &str = "UTC";

/// Rows in one row group at most.
const ROWS_PER_GROUP: usize = 16_384;

/// Bytes in one row group, about, at most.
const BYTES_PER_GROUP: usize = 32 << 20;

/// Encodes rows of the table `events` as one file.
///
/// # Errors
///
/// [`EncodeError`].
pub fn encode_events(rows: &[Row]) -> Result<Bytes, EncodeError> {
    encode(rows, event_columns)
}

/// Encodes rows of the table `errors` as one file.
///
/// # Errors
///
/// [`EncodeError`].
pub fn encode_errors(rows: &[ErrorRow]) -> Result<Bytes, EncodeError> {
    encode(rows, error_columns)
}

/// The columns of the table `events`, in order.
///
/// # Errors
///
/// [`EncodeError`].
pub fn events_schema() -> Result<SchemaRef, EncodeError> {
    Ok(schema(&event_columns(&[])?))
}

/// The columns of the table `errors`, in order.
///
/// # Errors
///
/// [`EncodeError`].
pub fn errors_schema() -> Result<SchemaRef, EncodeError> {
    Ok(schema(&error_columns(&[])?))
}

type Columns = Vec<(Field, ArrayRef)>;

fn encode<R>(
    rows: &[R],
    columns: fn(&[R]) -> Result<Columns, EncodeError>,
) -> Result<Bytes, EncodeError> {
    let schema = schema(&columns(&[])?);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .set_max_row_group_bytes(Some(BYTES_PER_GROUP))
        .set_key_value_metadata(Some(vec![KeyValue::new(
            VERSION_KEY.to_owned(),
            VERSION.to_string(),
        )]))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))?;
    for rows in rows.chunks(ROWS_PER_BATCH) {
        let arrays = columns(rows)?.into_iter().map(|(_, array)| array).collect();
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), arrays)?)?;
    }
    Ok(writer.into_inner()?.into())
}

fn schema(columns: &[(Field, ArrayRef)]) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|(field, _)| field.clone()).collect();
    Arc::new(Schema::new(fields))
}

fn event_columns(rows: &[Row]) -> Result<Columns, EncodeError> {
    Ok(vec![
        text("message_id", rows, |row| &row.message_id),
        text("source", rows, |row| &row.source),
        text("type", rows, |row| &row.kind),
        text("stream", rows, |row| &row.stream),
        optional("user_id", rows, |row| &row.user_id),
        optional("anonymous_id", rows, |row| &row.anonymous_id),
        optional("event", rows, |row| &row.event),
        optional("name", rows, |row| &row.name),
        optional("category", rows, |row| &row.category),
        optional("group_id", rows, |row| &row.group_id),
        optional("previous_id", rows, |row| &row.previous_id),
        optional("properties", rows, |row| &row.properties),
        optional("traits", rows, |row| &row.traits),
        optional("context", rows, |row| &row.context),
        optional("integrations", rows, |row| &row.integrations),
        optional("extra", rows, |row| &row.extra),
        time("timestamp", rows, |row| row.timestamp),
        optional_time("original_timestamp", rows, |row| row.original_timestamp),
        optional_time("sent_at", rows, |row| row.sent_at),
        time("received_at", rows, |row| row.received_at),
        text("node", rows, |row| &row.node),
        log_id(rows, |row| row.log_id),
        lane(rows, |row| row.lane),
        offset(rows, |row| row.offset)?,
        optional("trace_id", rows, |row| &row.trace_id),
    ])
}

fn error_columns(rows: &[ErrorRow]) -> Result<Columns, EncodeError> {
    let originals = BinaryArray::from_iter_values(rows.iter().map(|row| &row.original));
    Ok(vec![
        log_id(rows, |row| row.log_id),
        offset(rows, |row| row.offset)?,
        text("original_hash", rows, |row| &row.original_hash),
        (
            Field::new("original", DataType::Binary, false),
            Arc::new(originals),
        ),
        text("original_format", rows, |row| &row.original_format),
        text("stage", rows, |row| &row.stage),
        text("code", rows, |row| &row.code),
        text("reason", rows, |row| &row.reason),
        text("source", rows, |row| &row.source),
        text("message_id", rows, |row| &row.message_id),
        text("stream", rows, |row| &row.stream),
        time("received_at", rows, |row| row.received_at),
        text("node", rows, |row| &row.node),
        lane(rows, |row| row.lane),
        optional("trace_id", rows, |row| &row.trace_id),
    ])
}

fn text<R>(name: &str, rows: &[R], value: impl Fn(&R) -> &str) -> (Field, ArrayRef) {
    let array = StringArray::from_iter_values(rows.iter().map(value));
    (Field::new(name, DataType::Utf8, false), Arc::new(array))
}

fn optional<R>(name: &str, rows: &[R], value: impl Fn(&R) -> &Option<String>) -> (Field, ArrayRef) {
    let array: StringArray = rows.iter().map(|row| value(row).as_deref()).collect();
    (Field::new(name, DataType::Utf8, true), Arc::new(array))
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

fn time<R>(name: &str, rows: &[R], value: impl Fn(&R) -> Micros) -> (Field, ArrayRef) {
    let array = TimestampMicrosecondArray::from_iter_values(rows.iter().map(value));
    let array = array.with_timezone(UTC);
    (Field::new(name, time_type(), false), Arc::new(array))
}

fn optional_time<R>(
    name: &str,
    rows: &[R],
    value: impl Fn(&R) -> Option<Micros>,
) -> (Field, ArrayRef) {
    let array: TimestampMicrosecondArray = rows.iter().map(value).collect();
    let array = array.with_timezone(UTC);
    (Field::new(name, time_type(), true), Arc::new(array))
}

fn log_id<R>(rows: &[R], value: impl Fn(&R) -> LogId) -> (Field, ArrayRef) {
    let array = StringArray::from_iter_values(rows.iter().map(|row| value(row).to_string()));
    (Field::new("log_id", DataType::Utf8, false), Arc::new(array))
}

fn lane<R>(rows: &[R], value: impl Fn(&R) -> Lane) -> (Field, ArrayRef) {
    let array = Int32Array::from_iter_values(rows.iter().map(|row| i32::from(value(row).0)));
    (Field::new("lane", DataType::Int32, false), Arc::new(array))
}

fn offset<R>(rows: &[R], value: impl Fn(&R) -> Offset) -> Result<(Field, ArrayRef), EncodeError> {
    let offsets: Vec<i64> = rows
        .iter()
        .map(|row| i64::try_from(value(row)).map_err(|_over| EncodeError::Offset(value(row))))
        .collect::<Result<_, _>>()?;
    let field = Field::new("offset", DataType::Int64, false);
    Ok((field, Arc::new(Int64Array::from(offsets))))
}
