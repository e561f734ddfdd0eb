//! Columns to rows.

use std::borrow::Cow;

use arrow_array::{
    Array, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::super::{ErrorRow, Row};
use super::{DecodeError, ROWS_PER_BATCH, VERSION, VERSION_KEY};
use crate::event::{Lane, LogId, Micros, Offset};

/// Reads a file of the table `events`, a bounded number of rows at a time.
///
/// # Errors
///
/// [`DecodeError`].
pub fn read_events(file: Bytes) -> Result<RowReader<Row>, DecodeError> {
    RowReader::open(file, event_rows)
}

/// Reads a file of the table `errors`, a bounded number of rows at a time.
///
/// # Errors
///
/// [`DecodeError`].
pub fn read_errors(file: Bytes) -> Result<RowReader<ErrorRow>, DecodeError> {
    RowReader::open(file, error_rows)
}

/// All rows of a file of the table `events`.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode_events(file: Bytes) -> Result<Vec<Row>, DecodeError> {
    read_events(file)?.collect_rows()
}

/// All rows of a file of the table `errors`.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode_errors(file: Bytes) -> Result<Vec<ErrorRow>, DecodeError> {
    read_errors(file)?.collect_rows()
}

/// The rows of one file, in order, some at a time.
pub struct RowReader<R> {
    batches: ParquetRecordBatchReader,
    rows: fn(&RecordBatch) -> Result<Vec<R>, DecodeError>,
    total: u64,
}

impl<R> std::fmt::Debug for RowReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader").finish_non_exhaustive()
    }
}

impl<R> RowReader<R> {
    fn open(
        file: Bytes,
        rows: fn(&RecordBatch) -> Result<Vec<R>, DecodeError>,
    ) -> Result<Self, DecodeError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let version = builder
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == VERSION_KEY))
            .and_then(|pair| pair.value.clone())
            .unwrap_or_default();
        if version.parse() != Ok(VERSION) {
            return Err(DecodeError::Version(version));
        }
        let total = builder.metadata().file_metadata().num_rows();
        Ok(Self {
            batches: builder.with_batch_size(ROWS_PER_BATCH).build()?,
            rows,
            total: u64::try_from(total).unwrap_or(0),
        })
    }

    /// How many rows the file says that it has.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    fn collect_rows(self) -> Result<Vec<R>, DecodeError> {
        let mut all = Vec::new();
        for rows in self {
            all.append(&mut rows?);
        }
        Ok(all)
    }
}

impl<R> Iterator for RowReader<R> {
    type Item = Result<Vec<R>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(
            batch
                .map_err(DecodeError::from)
                .and_then(|batch| (self.rows)(&batch)),
        )
    }
}

fn event_rows(batch: &RecordBatch) -> Result<Vec<Row>, DecodeError> {
    let texts = |name| column::<StringArray>(batch, name);
    let times = |name| column::<TimestampMicrosecondArray>(batch, name);
    let (message_id, source) = (texts("message_id")?, texts("source")?);
    let (kind, stream) = (texts("type")?, texts("stream")?);
    let (user_id, anonymous_id) = (texts("user_id")?, texts("anonymous_id")?);
    let (event, name, category) = (texts("event")?, texts("name")?, texts("category")?);
    let (group_id, previous_id) = (texts("group_id")?, texts("previous_id")?);
    let (properties, traits) = (texts("properties")?, texts("traits")?);
    let (context, integrations) = (texts("context")?, texts("integrations")?);
    let (extra, trace_id) = (texts("extra")?, texts("trace_id")?);
    let (timestamp, original_timestamp) = (times("timestamp")?, times("original_timestamp")?);
    let (sent_at, received_at) = (times("sent_at")?, times("received_at")?);
    let (node, log_id) = (texts("node")?, texts("log_id")?);
    let (lane, offset) = (column(batch, "lane")?, column(batch, "offset")?);
    (0..batch.num_rows())
        .map(|at| {
            Ok(Row {
                message_id: message_id.required(at)?,
                source: source.required(at)?,
                kind: kind.required(at)?,
                stream: stream.required(at)?,
                user_id: user_id.text(at),
                anonymous_id: anonymous_id.text(at),
                event: event.text(at),
                name: name.text(at),
                category: category.text(at),
                group_id: group_id.text(at),
                previous_id: previous_id.text(at),
                properties: properties.text(at),
                traits: traits.text(at),
                context: context.text(at),
                integrations: integrations.text(at),
                extra: extra.text(at),
                timestamp: timestamp.required(at)?,
                original_timestamp: original_timestamp.time(at),
                sent_at: sent_at.time(at),
                received_at: received_at.required(at)?,
                node: node.required(at)?,
                log_id: log_id.log_id(at)?,
                lane: lane_at(&lane, at)?,
                offset: offset_at(&offset, at)?,
                trace_id: trace_id.text(at),
            })
        })
        .collect()
}

fn error_rows(batch: &RecordBatch) -> Result<Vec<ErrorRow>, DecodeError> {
    let texts = |name| column::<StringArray>(batch, name);
    let original: Column<'_, BinaryArray> = column(batch, "original")?;
    let (log_id, original_hash) = (texts("log_id")?, texts("original_hash")?);
    let (original_format, stage) = (texts("original_format")?, texts("stage")?);
    let (code, reason, source) = (texts("code")?, texts("reason")?, texts("source")?);
    let (message_id, stream, node) = (texts("message_id")?, texts("stream")?, texts("node")?);
    let received_at: Column<'_, TimestampMicrosecondArray> = column(batch, "received_at")?;
    let (lane, offset) = (column(batch, "lane")?, column(batch, "offset")?);
    let trace_id = texts("trace_id")?;
    (0..batch.num_rows())
        .map(|at| {
            Ok(ErrorRow {
                log_id: log_id.log_id(at)?,
                offset: offset_at(&offset, at)?,
                original_hash: original_hash.required(at)?,
                original: original
                    .at(at, |array| array.value(at).to_vec())
                    .ok_or(DecodeError::Value("original"))?,
                original_format: Cow::Owned(original_format.required(at)?),
                stage: Cow::Owned(stage.required(at)?),
                code: Cow::Owned(code.required(at)?),
                reason: reason.required(at)?,
                source: source.required(at)?,
                message_id: message_id.required(at)?,
                stream: stream.required(at)?,
                received_at: received_at.required(at)?,
                node: node.required(at)?,
                lane: lane_at(&lane, at)?,
                trace_id: trace_id.text(at),
            })
        })
        .collect()
}

/// One column of a batch; `None` where the file has no such column.
struct Column<'a, A> {
    name: &'static str,
    array: Option<&'a A>,
}

fn column<'a, A: Array + 'static>(
    batch: &'a RecordBatch,
    name: &'static str,
) -> Result<Column<'a, A>, DecodeError> {
    let array = batch
        .column_by_name(name)
        .map(|array| {
            array
                .as_any()
                .downcast_ref::<A>()
                .ok_or(DecodeError::Type(name))
        })
        .transpose()?;
    Ok(Column { name, array })
}

impl<A: Array> Column<'_, A> {
    fn at<T>(&self, row: usize, value: impl Fn(&A) -> T) -> Option<T> {
        self.array
            .filter(|array| row < array.len() && !array.is_null(row))
            .map(value)
    }

    /// Why a value that must be there is not.
    fn absent(&self) -> DecodeError {
        match self.array {
            Some(_) => DecodeError::Value(self.name),
            None => DecodeError::Missing(self.name),
        }
    }
}

impl Column<'_, StringArray> {
    fn text(&self, row: usize) -> Option<String> {
        self.at(row, |array| array.value(row).to_owned())
    }

    fn required(&self, row: usize) -> Result<String, DecodeError> {
        self.text(row).ok_or_else(|| self.absent())
    }

    fn log_id(&self, row: usize) -> Result<LogId, DecodeError> {
        self.required(row)?
            .parse()
            .map_err(|_not_hexadecimal| DecodeError::Value(self.name))
    }
}

impl Column<'_, TimestampMicrosecondArray> {
    fn time(&self, row: usize) -> Option<Micros> {
        self.at(row, |array| array.value(row))
    }

    fn required(&self, row: usize) -> Result<Micros, DecodeError> {
        self.time(row).ok_or_else(|| self.absent())
    }
}

fn lane_at(column: &Column<'_, Int32Array>, row: usize) -> Result<Lane, DecodeError> {
    let lane = column
        .at(row, |array| array.value(row))
        .ok_or_else(|| column.absent())?;
    u16::try_from(lane)
        .map(Lane)
        .map_err(|_over| DecodeError::Value("lane"))
}

fn offset_at(column: &Column<'_, Int64Array>, row: usize) -> Result<Offset, DecodeError> {
    let offset = column
        .at(row, |array| array.value(row))
        .ok_or_else(|| column.absent())?;
    Offset::try_from(offset).map_err(|_negative| DecodeError::Value("offset"))
}
