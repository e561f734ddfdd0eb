//! The event store and the error store over named objects: a batch's rows as one Parquet object, then its marker.
//!
//! The marker is put only when the object is durable, and the write succeeds only when both are: a marker always has its
//! object, and a settled batch always has its marker (unless the loader is done with it). An object that was there before
//! gets its marker too: whoever put it may have died in between. A marker that comes back after the loader removed it is
//! harmless, the loader knows what it loaded.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::objects::{marker_name, object_name};
use super::{
    ErrorRow, ErrorStore, EventStore, Marker, Objects, Row, Table, Traces, WriteError, Written,
    parquet,
};
use crate::event::{BatchId, Day};
use crate::telemetry::trace;

/// The version of the marker's format.
const MARKER_VERSION: u32 = 1;

/// Both stores, in one namespace of objects. Cheap to clone.
#[derive(Debug)]
pub struct ObjectEventStore<O: ?Sized> {
    objects: Arc<O>,
}

impl<O: ?Sized> Clone for ObjectEventStore<O> {
    fn clone(&self) -> Self {
        Self {
            objects: Arc::clone(&self.objects),
        }
    }
}

impl<O: Objects + ?Sized> ObjectEventStore<O> {
    /// Stores that keep their rows in these objects.
    #[must_use]
    pub fn new(objects: Arc<O>) -> Self {
        Self { objects }
    }

    async fn write(
        &self,
        (table, day, batch): (Table, Day, &BatchId),
        rows: u64,
        encode: impl FnOnce() -> Result<Bytes, parquet::EncodeError> + Send + 'static,
    ) -> Result<Written, WriteError> {
        if rows == 0 {
            return Ok(Written::default());
        }
        let file = tokio::task::spawn_blocking(encode)
            .await
            .map_err(|ended| WriteError::Unavailable {
                reason: "the encoder ended early".to_owned(),
                source: Some(Box::new(ended)),
            })?
            .map_err(|error| WriteError::Denied {
                reason: "the rows could not be encoded".to_owned(),
                source: Some(Box::new(error)),
            })?;
        let bytes = file.len() as u64;
        let object = object_name(table, day, batch);
        let created = self.objects.put_if_absent(&object, file).await?;
        let marker = Marker {
            version: MARKER_VERSION,
            table,
            object: object.clone(),
            day: day.to_string(),
            rows,
            bytes,
            traces: Traces::from(&*trace::followed()),
        };
        let marker = serde_json::to_vec(&marker).map_err(|error| WriteError::Denied {
            reason: "the marker could not be encoded".to_owned(),
            source: Some(Box::new(error)),
        })?;
        self.objects
            .put_if_absent(&marker_name(table, day, batch), marker.into())
            .await?;
        Ok(Written {
            created,
            object,
            bytes,
            refused: Vec::new(),
        })
    }
}

#[async_trait]
impl<O: Objects + ?Sized> EventStore for ObjectEventStore<O> {
    async fn write_events(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[Row]>,
    ) -> Result<Written, WriteError> {
        self.write((Table::Events, day, batch), rows.len() as u64, move || {
            parquet::encode_events(&rows)
        })
        .await
    }
}

#[async_trait]
impl<O: Objects + ?Sized> ErrorStore for ObjectEventStore<O> {
    async fn write_errors(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[ErrorRow]>,
    ) -> Result<Written, WriteError> {
        self.write((Table::Errors, day, batch), rows.len() as u64, move || {
            parquet::encode_errors(&rows)
        })
        .await
    }
}
