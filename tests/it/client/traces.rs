//! The trace of whoever sends, from the client to the rows that the gateway stored.

use anyhow::ensure;
use eventkit::client::{Client, Event, Outcome, Rpc};
use opentelemetry::Context;
use opentelemetry::trace::{
    FutureExt as _, SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};

use super::{RPCS, options, send};
use crate::chain::{Parent, Story, start, trace_of};

fn context(parent: &Parent) -> Context {
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(parent.trace_id.to_be_bytes()),
        SpanId::from_bytes(parent.span_id.to_be_bytes()),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    ))
}

/// How the gateway names a request's span.
fn request(rpc: Rpc) -> &'static str {
    match rpc {
        Rpc::Http => "POST /collect",
        Rpc::Unary => "eventkit.v1.IngestService/Collect",
        Rpc::Stream => "eventkit.v1.IngestService/CollectStream",
        Rpc::Bidi => "eventkit.v1.IngestService/CollectBidi",
    }
}

#[tokio::test]
async fn the_senders_trace_and_an_events_own_lead_to_their_rows_over_every_transport() {
    let story = Story::begin().await;
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = start("dev", dir.path(), &story.settings(), &[]).await;
    for rpc in RPCS {
        let (sender, own) = (Parent::new(), Parent::new());
        let event = |id| {
            let event = Event::builder("track").user_id("u").event("e");
            event.message_id(format!("{rpc:?} {id}"))
        };
        let events: [Event; 2] = [
            event("plain").build().unwrap(),
            event("own").traceparent(own.header(true)).build().unwrap(),
        ];
        let client = Client::new(options(endpoints.http.parse().unwrap(), rpc)).unwrap();
        let delivery = send(&client, &events).with_context(context(&sender)).await;
        assert_eq!(delivery.outcomes, [Outcome::Accepted, Outcome::Accepted]);
        // A stream is everybody's, and belongs to nobody's trace.
        let is_heard = rpc != Rpc::Bidi;
        let told = story.until(|told| {
            let stored = told.one(own.trace_id, "stored")?;
            ensure!(stored.parent_span_id == own.span_id.to_be_bytes());
            if is_heard {
                let server = told.one(sender.trace_id, request(rpc))?;
                ensure!(server.parent_span_id == sender.span_id.to_be_bytes());
                told.one(sender.trace_id, "stored")?;
            }
            Ok(())
        });
        let told = told.await;
        let any = told.0.iter().any(|span| trace_of(span) == sender.trace_id);
        assert_eq!(any, is_heard, "{rpc:?}");
    }
    drop(gateway);
}
