use opentelemetry_sdk::trace::{Sampler, SpanData};

use super::*;
use crate::event::TraceLink;
use crate::loader::manifest::ManifestObject;
use crate::store::{Table, Traces};
use crate::telemetry::trace::kept::Kept;

/// The requests that an object names, and how many more it had.
const KEPT: usize = 64;
const LEFT_OUT: u64 = 1;

fn link(n: u8) -> TraceLink {
    TraceLink {
        trace_id: [n; 16],
        span_id: [n; 8],
        flags: 1,
    }
}

fn traces() -> Traces {
    let mut contexts = Contexts::new(KEPT);
    for n in 1..=65 {
        contexts.add(link(n));
    }
    Traces::from(&contexts)
}

fn manifest() -> Manifest {
    Manifest {
        version: 1,
        number: 7,
        attempt: 2,
        created_at: "2026-01-31T00:00:00.000000Z".into(),
        objects: vec![ManifestObject {
            table: Table::Events,
            object: "events/a.parquet".into(),
            day: "2026-01-31".into(),
            rows: 65,
            bytes: 1,
            marker: "inbox/a.json".into(),
            traces: traces(),
        }],
    }
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| attribute.value.to_string())
}

#[tokio::test(start_paused = true)]
async fn each_request_that_an_object_names_hears_of_its_rows_and_the_job_and_the_others_are_counted()
 {
    assert_eq!((traces().contexts.len(), traces().left_out), (64, LEFT_OUT));
    let (tracing, kept) = Kept::tracing(Sampler::AlwaysOff);
    let manifest = manifest();
    let way = Way::begin(&tracing, &manifest);
    let merge = async {
        trace::current().set(names::JOB_ID, "job-7");
        Ok(Merged {
            events_inserted: 65,
            ..Merged::default()
        })
    };
    way.merge(merge).await.unwrap();
    way.tell_senders(&CancellationToken::new()).await;
    let spans = kept.spans();
    let named =
        |name: &str| -> Vec<&SpanData> { spans.iter().filter(|span| span.name == name).collect() };
    let merged = named(names::MERGE)[0].span_context.clone();
    let loaded = named(names::LOADED);
    assert_eq!(loaded.len(), KEPT);
    for (n, span) in (1..).zip(&loaded) {
        assert_eq!(span.span_context.trace_id().to_bytes(), link(n).trace_id);
        assert_eq!(span.parent_span_id.to_bytes(), link(n).span_id);
        assert_eq!(span.links.len(), 1);
        assert_eq!(span.links[0].span_context.span_id(), merged.span_id());
        assert_eq!(attribute(span, names::JOB_ID).as_deref(), Some("job-7"));
        assert_eq!(attribute(span, names::ROWS_MERGED).as_deref(), Some("65"));
    }
    let manifest = named(names::MANIFEST)[0];
    assert_eq!(manifest.links.len(), KEPT);
    let left_out = attribute(manifest, names::LINKS_LEFT_OUT);
    assert_eq!(left_out.as_deref(), Some("1"));
}
