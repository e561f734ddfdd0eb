//! Which documents a write makes, and in which requests. Pure.

use std::collections::HashSet;

use firestore::gcloud_sdk::google::firestore::v1::precondition::ConditionType;
use firestore::gcloud_sdk::google::firestore::v1::write::Operation;
use firestore::gcloud_sdk::google::firestore::v1::{Document, Precondition, Write};
use prost::Message as _;

use super::{document, id};
use crate::event::EventKey;
use crate::store::{ErrorRow, Row};

/// Documents in one request at most.
pub(super) const WRITES_MAX: usize = 500;

/// Bytes of all documents in one request at most. Firestore takes 10 MiB, its emulator 4 MiB, less what surrounds them.
pub(super) const REQUEST_BYTES_MAX: usize = (4 << 20) - (64 << 10);

/// Under each stream's document.
const EVENTS: &str = "events";

/// Under an error row's document.
const PARTS: &str = "parts";

/// Bytes that surround one write in a request: a tag and a length.
const FRAME_BYTES: usize = 6;

/// One document to create, and the row that it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) row: usize,
    pub(super) bytes: usize,
    pub(super) write: Write,
}

/// All documents of a write, in the rows' order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) documents: Vec<Planned>,
    /// Rows that are not even sent, with the reason.
    pub(super) refused: Vec<(usize, String)>,
    /// Names so far. A request that names a document twice is refused whole, and of two rows with one key the first wins.
    names: HashSet<String>,
}

/// The documents for good rows, each under its stream in `collection`.
pub(super) fn events(collection: &str, rows: &[Row]) -> Plan {
    let mut plan = Plan::default();
    for (at, row) in rows.iter().enumerate() {
        let key = id::event(EventKey {
            source: &row.source,
            message_id: &row.message_id,
        });
        // By the key and not by the name: one message id is one event, whatever streams it names.
        if !plan.names.insert(key.clone()) {
            continue;
        }
        let name = format!("{collection}/{}/{EVENTS}/{key}", id::stream(&row.stream));
        match document::event(row) {
            Ok(fields) => plan.add(at, vec![create(name, fields)]),
            Err(error) => plan.refused.push((at, error.to_string())),
        }
    }
    plan
}

/// The documents for error rows, in `collection`. The pieces of an original come before the document that counts them.
pub(super) fn errors(collection: &str, rows: &[ErrorRow]) -> Plan {
    let mut plan = Plan::default();
    for (at, row) in rows.iter().enumerate() {
        let key = id::error(row);
        let name = format!("{collection}/{key}");
        if !plan.names.insert(key) {
            continue;
        }
        match document::error(row) {
            Ok((fields, parts)) => {
                let parts = parts.into_iter().enumerate();
                let mut documents: Vec<Document> = parts
                    .map(|(number, part)| create(format!("{name}/{PARTS}/{number:04}"), part))
                    .collect();
                documents.push(create(name, fields));
                plan.add(at, documents);
            }
            Err(error) => plan.refused.push((at, error.to_string())),
        }
    }
    plan
}

/// Cuts the documents into requests that Firestore takes, in order.
pub(super) fn requests(documents: Vec<Planned>) -> Vec<Vec<Planned>> {
    let mut requests: Vec<Vec<Planned>> = Vec::new();
    let mut room = 0;
    for planned in documents {
        match requests.last_mut() {
            Some(last) if last.len() < WRITES_MAX && planned.bytes <= room => {
                room -= planned.bytes;
                last.push(planned);
            }
            _ => {
                // One document always fits.
                room = REQUEST_BYTES_MAX.saturating_sub(planned.bytes);
                requests.push(vec![planned]);
            }
        }
    }
    requests
}

fn create(name: String, fields: document::Fields) -> Document {
    Document {
        name,
        fields,
        ..Document::default()
    }
}

// === impl Plan ===

impl Plan {
    /// A row's documents: all of them, or none and the reason.
    fn add(&mut self, row: usize, documents: Vec<Document>) {
        if let Some(bytes) = documents
            .iter()
            .map(document::size)
            .find(|bytes| *bytes > document::DOCUMENT_BYTES_MAX)
        {
            let max = document::DOCUMENT_BYTES_MAX;
            let reason = format!("the document would have {bytes} bytes; Firestore takes {max}");
            self.refused.push((row, reason));
            return;
        }
        self.documents.extend(documents.into_iter().map(|document| {
            let write = Write {
                // Create, never replace: what is there first stays.
                current_document: Some(Precondition {
                    condition_type: Some(ConditionType::Exists(false)),
                }),
                operation: Some(Operation::Update(document)),
                ..Write::default()
            };
            Planned {
                row,
                bytes: write.encoded_len() + FRAME_BYTES,
                write,
            }
        }));
    }
}
