//! The event store and the error store in Firestore: one document per event, one per error row.
//!
//! ```text
//!  streams/<stream>/events/<key>        a good row; `streams` can be named otherwise
//!  errors/<key>                         an error row; `errors` likewise
//!  errors/<key>/parts/<n>               the pieces of an original that is too large for one document
//! ```
//!
//! What is particular to this store:
//!
//! 1. *A document's id is the event's key*, hashed ([`id`]), and a document is only ever created: what is there first stays. So
//!    a repeat changes nothing, whoever repeats what in which batch. Of rows with one key in one write the first wins.
//! 2. *One stream, one document.* Firestore knows no uniqueness across collections. A client that sends one message id on
//!    two streams, so far apart that the log's duplicate filter has forgotten the first, gets a document in each, under the
//!    same id: a query over the collection group `events` sees both. A second document per event that would prevent it
//!    costs as much as the event itself.
//! 3. *Each write has its own answer.* A row that Firestore will never take (more than 1 MiB) is named in
//!    [`Written::refused`] and holds up none of its neighbours. When nothing of a write was taken, the database itself is
//!    asked before any row is blamed.
//! 4. Writes are not atomic: after an error some rows may be there. The repeat finds them and adds the rest.
//!
//! Fields have the names of every warehouse's columns; what has no value is null. Open-ended parts are JSON text as the client
//! wrote it, never maps: Firestore would reorder keys, refuse some and drop nulls. Times are Firestore's timestamps.
//!
//! A client cannot say which fields are indexed. Firestore indexes each, and fields that grow with time (`received_at`, `timestamp`,
//! `sent_at`, `original_timestamp`, `offset`) then cap a collection at about 500 documents a second. Exempt them, and the JSON
//! texts, once per database: `gcloud firestore indexes fields update received_at --collection-group=events --disable-indexes`.
//!
//! One attempt a call, bounded by a timeout; trying again is [`Retrying`](super::Retrying)'s part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{ErrorRow, ErrorStore, EventStore, Row, WriteError, Written};
use crate::cloud::{self, NoCredentials};
use crate::config::Endpoint;
use crate::event::{BatchId, Day};

mod client;
mod document;
mod id;
mod plan;

use client::{Answer, Client, Verdict};
use plan::Plan;

/// Where the documents go.
#[derive(Debug, Clone)]
pub struct FirestoreOptions {
    /// Google, or an emulator. The emulator's variable is not read here.
    pub endpoint: Endpoint,
    /// The project.
    pub project: String,
    /// The database, `(default)` for most.
    pub database: String,
    /// The collection that has a document, and under it the events, for each stream.
    pub streams: String,
    /// The collection of error rows.
    pub errors: String,
    /// The longest that one request may take.
    pub request_timeout: Duration,
}

impl FirestoreOptions {
    /// The usual names, in a project.
    #[must_use]
    pub fn new(endpoint: Endpoint, project: impl Into<String>) -> Self {
        Self {
            endpoint,
            project: project.into(),
            database: "(default)".to_owned(),
            streams: "streams".to_owned(),
            errors: "errors".to_owned(),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// Why there is no such store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody to be.
    #[error(transparent)]
    Credentials(#[from] NoCredentials),
    /// Firestore takes no collection of this name.
    #[error(
        "{0:?} is no name for a Firestore collection: not empty, no '/', not '.', '..' or '__…__', at most 1,500 bytes"
    )]
    Collection(String),
}

/// Both stores, in one database.
#[derive(Debug)]
pub struct FirestoreStore {
    client: Client,
    streams: String,
    errors: String,
}

/// What became of the rows so far.
#[derive(Debug, Default)]
struct Outcome {
    created: bool,
    /// Documents that are there now.
    stored: usize,
    bytes: u64,
    refused: BTreeMap<usize, String>,
    /// Whether Firestore refused a row; those that are too large never reach it.
    blamed: bool,
}

impl FirestoreStore {
    /// A store that connects when it is first used. To be called within a runtime: credentials are kept fresh in the background.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn new(options: &FirestoreOptions) -> Result<Self, OpenError> {
        for name in [&options.streams, &options.errors] {
            if !id::is_collection_name(name) {
                return Err(OpenError::Collection(name.clone()));
            }
        }
        let credentials = cloud::credentials(&options.endpoint)?;
        Ok(Self {
            client: Client::new(options, credentials),
            streams: options.streams.clone(),
            errors: options.errors.clone(),
        })
    }

    /// Whether the database is there and lets us in. It reads (one document's name at most), so the account needs `datastore.entities.list`
    /// besides `datastore.entities.create`; the role `roles/datastore.user` has both.
    ///
    /// # Errors
    ///
    /// [`WriteError::Denied`] when there is no such database or it refuses us: no start will help. [`WriteError::Unavailable`]
    /// when it cannot be reached.
    pub async fn check(&self) -> Result<(), WriteError> {
        self.client.probe(&self.streams).await
    }

    async fn write(&self, plan: Plan, collection: &str) -> Result<Written, WriteError> {
        let mut outcome = Outcome {
            refused: plan.refused.into_iter().collect(),
            ..Outcome::default()
        };
        // A database that takes nothing must not turn a whole batch into error rows: before the first row is blamed while none
        // was taken, the database itself is asked.
        let mut asked = false;
        // A stack with the first request on top: the halves of one that was cut keep their turn.
        let mut pending = plan::requests(plan.documents);
        pending.reverse();
        while let Some(mut request) = pending.pop() {
            let writes = request.iter().map(|planned| planned.write.clone());
            match self.client.batch_write(writes.collect()).await? {
                Answer::Each(verdicts) => {
                    for (planned, verdict) in request.iter().zip(verdicts) {
                        outcome.take(planned.row, planned.bytes as u64, verdict);
                    }
                }
                Answer::Invalid(verdict) => {
                    if outcome.stored == 0 && !asked {
                        self.client.probe(collection).await?;
                        asked = true;
                    }
                    // Firestore may refuse a whole request for one document: it is found by halving.
                    match request.as_slice() {
                        [alone] => outcome.take(alone.row, 0, verdict),
                        _ => {
                            let rest = request.split_off(request.len() / 2);
                            pending.push(rest);
                            pending.push(request);
                        }
                    }
                }
            }
        }
        if outcome.blamed && outcome.stored == 0 && !asked {
            self.client.probe(collection).await?;
        }
        Ok(outcome.written())
    }
}

// === impl Outcome ===

impl Outcome {
    fn take(&mut self, row: usize, bytes: u64, verdict: Verdict) {
        match verdict {
            Verdict::Created => {
                self.created = true;
                self.stored += 1;
                self.bytes += bytes;
            }
            Verdict::There => self.stored += 1,
            Verdict::Refused(reason) => {
                self.blamed = true;
                self.refused.entry(row).or_insert(reason);
            }
        }
    }

    fn written(self) -> Written {
        Written {
            created: self.created,
            object: String::new(),
            bytes: self.bytes,
            refused: self.refused.into_iter().collect(),
        }
    }
}

// === impl EventStore, ErrorStore ===

#[async_trait]
impl EventStore for FirestoreStore {
    async fn write_events(
        &self,
        _batch: &BatchId,
        _day: Day,
        rows: Arc<[Row]>,
    ) -> Result<Written, WriteError> {
        let collection = self.client.path(&self.streams);
        let plan = plan::events(&collection, &rows);
        self.write(plan, &self.streams).await
    }
}

#[async_trait]
impl ErrorStore for FirestoreStore {
    async fn write_errors(
        &self,
        _batch: &BatchId,
        _day: Day,
        rows: Arc<[ErrorRow]>,
    ) -> Result<Written, WriteError> {
        let collection = self.client.path(&self.errors);
        let plan = plan::errors(&collection, &rows);
        self.write(plan, &self.errors).await
    }
}

#[cfg(test)]
mod tests;
