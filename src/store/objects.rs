//! Named bytes: what the local directory and a bucket have in common.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::WriteError;
use crate::event::{BatchId, Day, TraceLink};
use crate::telemetry::trace::Contexts;

/// The folder of markers: whoever waits for work is woken when something is put there.
pub(super) const INBOX: &str = "inbox/";

/// Whether a name is a relative path of plain components.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | "..")) && !name.contains(['\0', '\\'])
}

/// Which table an object's rows belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Good rows.
    Events,
    /// Rows of events that could not become good ones.
    Errors,
}

impl Table {
    /// The folder in the store and the name of the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Errors => "errors",
        }
    }
}

/// `<table>/dt=<day>/<batch>.parquet`.
#[must_use]
pub fn object_name(table: Table, day: Day, batch: &BatchId) -> String {
    format!("{}/dt={day}/{batch}.parquet", table.as_str())
}

/// `inbox/<table>.dt=<day>.<batch>.json`: one marker per object, under a name that derives from it.
#[must_use]
pub fn marker_name(table: Table, day: Day, batch: &BatchId) -> String {
    format!("inbox/{}.dt={day}.{batch}.json", table.as_str())
}

/// What lies in `inbox/` until the object it names is in the warehouse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Format version of this file: 1.
    pub version: u32,
    /// The table.
    pub table: Table,
    /// The object's name.
    pub object: String,
    /// The UTC day on which its events were received, `YYYY-MM-DD`.
    pub day: String,
    /// Rows in the object.
    pub rows: u64,
    /// Bytes of the object.
    pub bytes: u64,
    /// The recorded requests that its events came in.
    #[serde(default, skip_serializing_if = "Traces::is_empty")]
    pub traces: Traces,
}

/// Requests that are recorded by a tracer and are to hear what becomes of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// Each as a `traceparent`, at most 64.
    pub contexts: Vec<String>,
    /// How many more there are.
    #[serde(default)]
    pub left_out: u64,
}

impl Traces {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// Those that can be read.
    pub fn links(&self) -> impl Iterator<Item = TraceLink> {
        self.contexts.iter().filter_map(|text| text.parse().ok())
    }
}

impl From<&Contexts> for Traces {
    fn from(contexts: &Contexts) -> Self {
        Self {
            contexts: contexts.kept().iter().map(ToString::to_string).collect(),
            left_out: contexts.left_out() as u64,
        }
    }
}

/// A flat namespace of immutable objects. What every implementation promises:
///
/// 1. `put_if_absent` returning means durable (object and name), and a name is written once.
/// 2. Nobody ever sees a part of an object.
/// 3. `list` shows what was put before it began, in ascending order of names.
/// 4. `delete` of what is not there is success, and is durable when it returns.
#[async_trait]
pub trait Objects: std::fmt::Debug + Send + Sync + 'static {
    /// Creates an object; `false` when the name was there before (success: the name stands for the input).
    ///
    /// # Errors
    ///
    /// [`WriteError`]; the object may be there.
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool, WriteError>;

    /// An object's bytes, or `None` when there is none under the name.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    async fn get(&self, name: &str) -> Result<Option<Bytes>, WriteError>;

    /// At most `limit` names that begin with `prefix` (a folder, ending in `/`) and come after `after`, ascending.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, WriteError>;

    /// Removes an object.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    async fn delete(&self, name: &str) -> Result<(), WriteError>;
}
