//! Rows as Parquet, and back.
//!
//! One wide schema per table; the columns' names are those of every warehouse (`type` is [`kind`](super::Row::kind)). Times are
//! microseconds in UTC, JSON stays text, offsets are 64 bits, pages are compressed with zstd.
//!
//! Each file says in its key-value metadata which version of the schema it has (`eventkit.version`). A version only ever
//! gains nullable columns: a reader takes a missing nullable column as null and ignores columns that it does not
//! know, so that files of older and newer writers of the same version can be read. A higher version is refused, never
//! misread.

use arrow_schema::ArrowError;
use parquet::errors::ParquetError;

use crate::event::Offset;

mod decode;
mod encode;

pub use decode::{RowReader, decode_errors, decode_events, read_errors, read_events};
pub use encode::{encode_errors, encode_events, errors_schema, events_schema};

/// The schema's version, as written into each file.
pub const VERSION: u32 = 1;

/// The key of the version in a file's metadata.
const VERSION_KEY: &str = "eventkit.version";

/// Rows that are turned into columns, or back, at a time: bounds the memory beside the file itself.
const ROWS_PER_BATCH: usize = 1_024;

/// Why rows could not be encoded. It is a fault of this program: no input leads here.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The columns do not fit the schema.
    #[error("columns do not fit the schema")]
    Columns(#[from] ArrowError),
    /// The file could not be written.
    #[error("parquet could not be written")]
    File(#[from] ParquetError),
    /// An offset is beyond what a signed 64-bit column holds.
    #[error("offset {0} is beyond the column's range")]
    Offset(Offset),
}

/// Why a file could not be decoded: it is damaged, or is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not a Parquet file, or are damaged.
    #[error("not a readable parquet file")]
    File(#[from] ParquetError),
    /// A part of the file could not be read.
    #[error("damaged columns")]
    Columns(#[from] ArrowError),
    /// A later version of this program wrote the file.
    #[error("schema version {0:?} is not known here")]
    Version(String),
    /// A column that every file has is missing.
    #[error("column {0} is missing")]
    Missing(&'static str),
    /// A column has another type than it should.
    #[error("column {0} has the wrong type")]
    Type(&'static str),
    /// A column holds a null or a value that it cannot hold.
    #[error("column {0} holds an impossible value")]
    Value(&'static str),
}

#[cfg(test)]
mod tests;
