//! One connection to Firestore, and what its answers mean.
//!
//! The raw `BatchWrite` call, because it answers for each write by itself. The `firestore` crate's own batch writer tries again
//! inside, and its errors no longer say which code it was.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firestore::gcloud_sdk::google::firestore::v1::{
    BatchWriteRequest, DocumentMask, ListDocumentsRequest, Write,
};
use firestore::{FirestoreDb, FirestoreDbOptions};
use google_cloud_auth::credentials::Credentials;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

use super::FirestoreOptions;
use crate::config::Endpoint;
use crate::store::WriteError;

/// Named always, so that no variable of the environment can redirect what is written.
const GOOGLE: &str = "https://firestore.googleapis.com";

/// What emulators of Firestore ask to be shown for a `BatchWrite`; no key, they know no others.
const EMULATOR_TOKEN: &str = "Bearer owner";

/// Connects when it is first used, so that a Firestore that is down prevents no start.
pub(super) struct Client {
    options: FirestoreDbOptions,
    credentials: Credentials,
    emulated: bool,
    timeout: Duration,
    connection: Mutex<Option<FirestoreDb>>,
}

/// What Firestore says to a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// One verdict for each write, in order.
    Each(Vec<Verdict>),
    /// The request cannot be: at least one of its writes is at fault, and none was carried out.
    Invalid(Verdict),
}

/// What became of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The document is new.
    Created,
    /// It was there before.
    There,
    /// Firestore will never take it; the reason names no part of it.
    Refused(String),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(options: &FirestoreOptions, credentials: Credentials) -> Self {
        let mut db = FirestoreDbOptions::new(options.project.clone());
        db.database_id.clone_from(&options.database);
        db.firebase_api_url = Some(options.endpoint.url().unwrap_or(GOOGLE).to_owned());
        Self {
            options: db,
            credentials,
            emulated: options.endpoint != Endpoint::Google,
            timeout: options.request_timeout,
            connection: Mutex::default(),
        }
    }

    /// The full name of a collection at the database's root.
    pub(super) fn path(&self, collection: &str) -> String {
        format!("{}/documents/{collection}", self.database())
    }

    fn database(&self) -> String {
        let FirestoreDbOptions {
            google_project_id,
            database_id,
            ..
        } = &self.options;
        format!("projects/{google_project_id}/databases/{database_id}")
    }

    /// Sends one request; none of it is repeated here.
    ///
    /// # Errors
    ///
    /// [`WriteError`], also when only some writes were answered with a passing error: the others are there then.
    pub(super) async fn batch_write(&self, writes: Vec<Write>) -> Result<Answer, WriteError> {
        let count = writes.len();
        let request = BatchWriteRequest {
            database: self.database(),
            writes,
            ..BatchWriteRequest::default()
        };
        let connection = self.connect().await?;
        let mut client = connection.client().get();
        match self
            .in_time(client.batch_write(self.request(request)))
            .await
        {
            Ok(response) if response.status.len() == count => {
                let codes = response.status.iter().map(|status| status.code);
                let verdicts = codes.map(|code| verdict(Code::from_i32(code)));
                verdicts.collect::<Result<_, _>>().map(Answer::Each)
            }
            Ok(response) => Err(WriteError::Unavailable {
                reason: format!(
                    "Firestore answered for {} of {count} writes",
                    response.status.len()
                ),
                source: None,
            }),
            Err(status) => match verdict(status.code()) {
                Ok(refused @ Verdict::Refused(_)) => Ok(Answer::Invalid(refused)),
                // Success and *exists* are answers to a write, never to a request.
                Ok(Verdict::Created | Verdict::There) | Err(_) => Err(failed("write", status)),
            },
        }
    }

    /// Whether the database answers. A missing document and a missing database have one code, so a list is asked for, which is
    /// empty in the first case.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub(super) async fn probe(&self, collection: &str) -> Result<(), WriteError> {
        let request = ListDocumentsRequest {
            parent: format!("{}/documents", self.database()),
            collection_id: collection.to_owned(),
            page_size: 1,
            mask: Some(DocumentMask {
                field_paths: vec!["__name__".to_owned()],
            }),
            ..ListDocumentsRequest::default()
        };
        let connection = self.connect().await?;
        let mut client = connection.client().get();
        self.in_time(client.list_documents(self.request(request)))
            .await
            .map(drop)
            .map_err(|status| failed("list", status))
    }

    async fn connect(&self) -> Result<FirestoreDb, WriteError> {
        if let Some(connection) = self.connection().clone() {
            return Ok(connection);
        }
        let connecting =
            FirestoreDb::with_options_auth(self.options.clone(), self.credentials.clone());
        // Dropping a connection that is being made loses nothing.
        let connected = tokio::time::timeout(self.timeout, connecting).await;
        let unavailable =
            |source: Box<dyn std::error::Error + Send + Sync>| WriteError::Unavailable {
                reason: "Firestore: cannot connect".to_owned(),
                source: Some(source),
            };
        let connection = connected
            .map_err(|elapsed| unavailable(elapsed.into()))?
            .map_err(|error| unavailable(error.into()))?;
        *self.connection() = Some(connection.clone());
        Ok(connection)
    }

    fn connection(&self) -> MutexGuard<'_, Option<FirestoreDb>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        if self.emulated {
            let token = MetadataValue::from_static(EMULATOR_TOKEN);
            request.metadata_mut().insert("authorization", token);
        }
        request
    }

    /// Bounds a call. After a silence the next call dials again: a connection that went dead without a word would swallow
    /// requests until its keepalive notices, minutes later.
    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        // Dropping a call that is under way loses its answer, nothing else.
        let answer = match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_elapsed) => Err(Status::deadline_exceeded("no answer in time")),
        };
        // The channel watches the same time, and calls it cancelled.
        if let Err(status) = &answer
            && matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
        {
            *self.connection() = None;
        }
        answer
    }
}

/// What a code says about one write.
fn verdict(code: Code) -> Result<Verdict, WriteError> {
    match code {
        Code::Ok => Ok(Verdict::Created),
        Code::AlreadyExists => Ok(Verdict::There),
        Code::InvalidArgument | Code::OutOfRange => {
            Ok(Verdict::Refused(format!("Firestore answers {code:?}")))
        }
        _ => Err(failed("write", Status::new(code, ""))),
    }
}

/// A refusal of everything calls for a person, all else passes.
fn failed(what: &str, status: Status) -> WriteError {
    let code = status.code();
    let reason = format!("Firestore: {what}: {code:?}");
    // Messages of other codes may name documents, and so message ids.
    let source: Option<Box<dyn std::error::Error + Send + Sync>> = match code {
        Code::InvalidArgument | Code::AlreadyExists | Code::Aborted | Code::OutOfRange => None,
        _ if status.message().is_empty() => None,
        _ => Some(Box::new(status)),
    };
    match code {
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::Unimplemented => WriteError::Denied { reason, source },
        _ => WriteError::Unavailable { reason, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Disposition;

    #[test]
    fn every_code_is_a_verdict_on_a_document_or_an_outage_or_a_refusal() {
        for code in (0..=16).map(Code::from_i32) {
            let outcome = match verdict(code) {
                Ok(Verdict::Created) => "created",
                Ok(Verdict::There) => "there",
                Ok(Verdict::Refused(reason)) => {
                    assert!(reason.ends_with(&format!("{code:?}")), "{reason}");
                    "refused"
                }
                Err(error) => match error.disposition() {
                    Disposition::Retry => "outage",
                    Disposition::Alarm => "alarm",
                },
            };
            let expected = match code {
                Code::Ok => "created",
                Code::AlreadyExists => "there",
                Code::InvalidArgument | Code::OutOfRange => "refused",
                Code::PermissionDenied
                | Code::Unauthenticated
                | Code::NotFound
                | Code::FailedPrecondition
                | Code::Unimplemented => "alarm",
                _ => "outage",
            };
            assert_eq!(outcome, expected, "{code:?}");
        }
    }

    #[test]
    fn what_may_name_a_document_is_not_repeated() {
        let secret = "Document already exists: projects/p/…/order-1";
        for code in (1..=16).map(Code::from_i32) {
            let error = failed("write", Status::new(code, secret));
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let told = format!("{error} {source:?}");
            let names_documents = matches!(
                code,
                Code::InvalidArgument | Code::AlreadyExists | Code::Aborted | Code::OutOfRange
            );
            assert_eq!(told.contains("order-1"), !names_documents, "{told}");
        }
    }
}
