//! Firestore's documents, read by the documented layout and not by the store's own code.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use firestore::gcloud_sdk::google::firestore::v1::firestore_client::FirestoreClient;
use firestore::gcloud_sdk::google::firestore::v1::run_aggregation_query_request::QueryType as Asked;
use firestore::gcloud_sdk::google::firestore::v1::structured_aggregation_query::aggregation::{
    Count, Operator,
};
use firestore::gcloud_sdk::google::firestore::v1::structured_aggregation_query::{
    Aggregation, QueryType,
};
use firestore::gcloud_sdk::google::firestore::v1::structured_query::CollectionSelector;
use firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
use firestore::gcloud_sdk::google::firestore::v1::{
    Document, ListDocumentsRequest, RunAggregationQueryRequest, StructuredAggregationQuery,
    StructuredQuery, Value,
};
use http::Method;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use xxhash_rust::xxh3::xxh3_64;

use super::tables;
use crate::support::warehouse::{Found, FoundError, FoundRow, value_hash};

/// More than any page of the tests.
const PAGE_BYTES_MAX: usize = 64 << 20;

type Client = FirestoreClient<Channel>;

async fn client(url: &str) -> Result<Client> {
    let channel = Channel::from_shared(url.to_owned())?.connect().await?;
    Ok(FirestoreClient::new(channel).max_decoding_message_size(PAGE_BYTES_MAX))
}

fn root(project: &str) -> String {
    format!("projects/{project}/databases/(default)/documents")
}

fn authorized<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    let token = MetadataValue::from_static("Bearer owner");
    request.metadata_mut().insert("authorization", token);
    request
}

/// How many events and error rows a project has. The emulator counts: reading all of them takes it a minute for ten thousand, in which it
/// has no time for those who write.
pub(super) async fn count(url: &str, project: &str) -> Result<u64> {
    let mut client = client(url).await?;
    let mut all = 0;
    for collection in ["events", "errors"] {
        let from = CollectionSelector {
            collection_id: collection.to_owned(),
            all_descendants: true,
        };
        let query = StructuredQuery {
            from: vec![from],
            ..StructuredQuery::default()
        };
        let number = Aggregation {
            alias: "n".to_owned(),
            operator: Some(Operator::Count(Count::default())),
        };
        let asked = Asked::StructuredAggregationQuery(StructuredAggregationQuery {
            aggregations: vec![number],
            query_type: Some(QueryType::StructuredQuery(query)),
        });
        let request = authorized(RunAggregationQueryRequest {
            parent: root(project),
            query_type: Some(asked),
            ..RunAggregationQueryRequest::default()
        });
        let mut answers = client.run_aggregation_query(request).await?.into_inner();
        let answer = answers.message().await?.context("a count")?;
        let fields = answer.result.context("a result")?.aggregate_fields;
        all += u64::try_from(integer(&fields, "n")?)?;
    }
    Ok(all)
}

/// Removes everything of a project: the emulator keeps all documents in its memory.
pub(super) async fn clear(url: &str, project: &str) -> Result<()> {
    let path = format!("/emulator/v1/{}", root(project));
    let http = tables::http(url);
    let cleared = http.exchange(Method::DELETE, &path, Bytes::new()).await?;
    let status = cleared.status();
    ensure!(status.is_success(), "clear {project}: {status}");
    Ok(())
}

/// Every event and every error row of a project.
pub(super) async fn read(url: &str, project: &str) -> Result<Found> {
    let mut client = client(url).await?;
    let root = root(project);
    let mut found = Found::default();
    for stream in documents(&mut client, &root, "streams").await? {
        for document in documents(&mut client, &stream.name, "events").await? {
            let row = row(&document.fields);
            found.rows.push(row.with_context(|| document.name.clone())?);
        }
    }
    for document in documents(&mut client, &root, "errors").await? {
        let error = error(&document.fields);
        found
            .errors
            .push(error.with_context(|| document.name.clone())?);
    }
    Ok(found)
}

/// All documents of a collection, also those that only have children.
async fn documents(client: &mut Client, parent: &str, collection: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = authorized(ListDocumentsRequest {
            parent: parent.to_owned(),
            collection_id: collection.to_owned(),
            page_size: 1_000,
            page_token,
            show_missing: true,
            ..ListDocumentsRequest::default()
        });
        let page = client.list_documents(request).await?.into_inner();
        documents.extend(page.documents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(documents);
        }
    }
}

type Fields = HashMap<String, Value>;

fn field<'a>(fields: &'a Fields, name: &str) -> Result<&'a ValueType> {
    let value = fields.get(name).and_then(|value| value.value_type.as_ref());
    value.with_context(|| format!("no {name}"))
}

fn optional(fields: &Fields, name: &str) -> Result<Option<String>> {
    match field(fields, name)? {
        ValueType::StringValue(text) => Ok(Some(text.clone())),
        ValueType::NullValue(_) => Ok(None),
        other => bail!("{name} is {other:?}"),
    }
}

fn text(fields: &Fields, name: &str) -> Result<String> {
    optional(fields, name)?.with_context(|| format!("{name} is null"))
}

fn integer(fields: &Fields, name: &str) -> Result<i64> {
    match field(fields, name)? {
        ValueType::IntegerValue(number) => Ok(*number),
        other => bail!("{name} is {other:?}"),
    }
}

fn row(fields: &Fields) -> Result<FoundRow> {
    let message_id = text(fields, "message_id")?;
    let key = optional(fields, "user_id")?.or(optional(fields, "anonymous_id")?);
    let properties = optional(fields, "properties")?.unwrap_or_default();
    Ok(FoundRow {
        log_id: text(fields, "log_id")?,
        lane: integer(fields, "lane")?,
        offset: integer(fields, "offset")?.try_into()?,
        routing_key: key.unwrap_or_else(|| message_id.clone()),
        properties_bytes: xxh3_64(properties.as_bytes()),
        properties_value: value_hash(properties.as_bytes()),
        message_id,
    })
}

fn error(fields: &Fields) -> Result<FoundError> {
    let original = match field(fields, "original")? {
        ValueType::BytesValue(bytes) => xxh3_64(bytes),
        other => bail!("original is {other:?}"),
    };
    Ok(FoundError {
        message_id: text(fields, "message_id")?,
        log_id: text(fields, "log_id")?,
        offset: integer(fields, "offset")?.try_into()?,
        code: text(fields, "code")?,
        original,
    })
}
