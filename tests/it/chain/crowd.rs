//! More requests in one object than it can name.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, ensure};
use eventkit::proto::v1;
use eventkit::telemetry::trace::FOLLOWED_MAX;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::{Parent, Story, Told, event, number, start, trace_of};
use crate::support::clients;

/// An event with a trace of its own.
fn traced(parent: &Parent, message_id: &str) -> v1::Event {
    let kind = Some(Kind::StringValue(parent.header(true)));
    let traceparent = ("traceparent".to_owned(), Value { kind });
    v1::Event {
        context: Some(Struct {
            fields: [traceparent].into(),
        }),
        ..event(message_id)
    }
}

/// The one file of a folder of the store, wherever below.
fn only_file(folder: &Path) -> serde_json::Value {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files.into_iter().next().unwrap().unwrap().path();
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// The traces among these that hold a span of that name.
fn traces(told: &Told, name: &str, of: &BTreeSet<u128>) -> BTreeSet<u128> {
    let named = told.0.iter().filter(|span| span.name == name);
    named.map(trace_of).filter(|id| of.contains(id)).collect()
}

#[tokio::test]
async fn of_more_requests_than_an_object_can_name_the_first_hear_of_it_and_the_others_are_counted()
{
    let story = Story::begin().await;
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = start("dev", dir.path(), &story.settings(), &[]).await;
    // One user, one request: one lane, one append, one batch, one object.
    let parents: Vec<_> = (0..=FOLLOWED_MAX).map(|_| Parent::new()).collect();
    let events = parents.iter().zip(0..);
    let message = v1::CollectRequest {
        events: events
            .map(|(parent, n)| traced(parent, &format!("c-{n}")))
            .collect(),
        ..v1::CollectRequest::default()
    };
    let mut client = clients::grpc(&endpoints).unwrap();
    let answer = client.collect(message).await.unwrap().into_inner();
    assert_eq!(usize::try_from(answer.accepted).unwrap(), parents.len());

    let all: BTreeSet<u128> = parents.iter().map(|parent| parent.trace_id).collect();
    let first = &parents[..FOLLOWED_MAX];
    let first: BTreeSet<u128> = first.iter().map(|parent| parent.trace_id).collect();
    let told = story
        .until(|told| {
            let loaded = traces(told, "loaded", &all).len();
            ensure!(
                loaded >= FOLLOWED_MAX,
                "{loaded} heard that they are loaded"
            );
            let mut manifests = told.0.iter().filter(|span| span.name == "manifest");
            manifests.next().context("no manifest").map(drop)
        })
        .await;
    assert_eq!(traces(&told, "stored", &all), first);
    assert_eq!(traces(&told, "loaded", &all), first);
    let manifest = told.0.iter().find(|span| span.name == "manifest").unwrap();
    assert_eq!(manifest.links.len(), FOLLOWED_MAX);
    assert_eq!(number(manifest, "eventkit.links_left_out").unwrap(), 1);

    // What was written down says the same, and so says whoever reads it after a crash.
    let file = only_file(&dir.path().join("store/manifests"));
    let named = file["objects"][0]["traces"].clone();
    assert_eq!(
        named["contexts"].as_array().map(Vec::len),
        Some(FOLLOWED_MAX),
        "{file}"
    );
    assert_eq!(named["left_out"], 1, "{file}");
    drop(gateway);
}
