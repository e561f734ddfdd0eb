use super::kept::Kept;
use super::*;

fn parent_based(ratio: f64) -> Sampler {
    Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)))
}

fn headers(traceparent: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", traceparent.parse().unwrap());
    headers.insert("tracestate", "vendor=1".parse().unwrap());
    headers
}

fn link(n: u8) -> TraceLink {
    TraceLink {
        trace_id: [n; 16],
        span_id: [n; 8],
        flags: 1,
    }
}

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[test]
fn the_senders_word_decides_and_without_one_the_sampler() {
    let (tracing, exporter) = Kept::tracing(parent_based(0.0));
    let begin = |headers: &HeaderMap| tracing.request(headers, || ("a".into(), vec![]));
    assert!(begin(&HeaderMap::new()).link().is_none());
    assert!(begin(&headers(UNSAMPLED)).link().is_none());
    assert!(begin(&headers("nonsense")).link().is_none());
    assert!(exporter.spans().is_empty());

    let span = begin(&headers(SAMPLED));
    let parent: TraceLink = SAMPLED.parse().unwrap();
    assert_eq!(span.link().unwrap().trace_id, parent.trace_id);
    drop(span);
    let recorded = exporter.spans();
    assert_eq!(recorded.len(), 1);
    assert_eq!(recorded[0].parent_span_id.to_bytes(), parent.span_id);
    let state = recorded[0].span_context.trace_state().header();
    assert_eq!(state, "vendor=1");
}

#[test]
fn a_root_keeps_the_trace_id_by_which_it_was_chosen() {
    let (tracing, exporter) = Kept::tracing(parent_based(0.5));
    let begin = || tracing.request(&HeaderMap::new(), || ("a".into(), vec![]));
    let recorded = (0..200).filter(|_| begin().link().is_some()).count();
    assert!((40..160).contains(&recorded), "{recorded}");
    let chooses = Sampler::TraceIdRatioBased(0.5);
    for span in exporter.spans() {
        let id = span.span_context.trace_id();
        let again = chooses.should_sample(None, id, "", &SpanKind::Server, &[], &[]);
        assert_eq!(again.decision, SamplingDecision::RecordAndSample);
    }
}

#[test]
fn a_stage_is_recorded_for_a_recorded_request_or_for_a_failure() {
    let (tracing, exporter) = Kept::tracing(parent_based(0.0));
    let quiet = tracing.span("quiet").start();
    quiet.set("key", 1);
    assert!(quiet.link().is_none());
    drop(quiet);
    assert!(exporter.spans().is_empty());

    let ill = tracing.span("ill").start();
    ill.set("key", 1);
    ill.retried("timeout", 3);
    drop(ill);
    let part = tracing.span("part").child_of(Some(link(1))).start();
    drop(part);
    let linked = tracing
        .span("linked")
        .linked((1..=u8::MAX).map(link))
        .start();
    drop(linked);
    let recorded = exporter.spans();
    let names: Vec<_> = recorded.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["ill", "part", "linked"]);
    assert_eq!(recorded[0].attributes.len(), 1);
    assert_eq!(recorded[0].events.len(), 1);
    assert_eq!(recorded[1].span_context.trace_id().to_bytes(), [1; 16]);
    assert_eq!(recorded[2].links.len(), LINKS_MAX);
    let left_out = KeyValue::new(names::LINKS_LEFT_OUT, 127);
    assert_eq!(recorded[2].attributes, [left_out]);
}

#[tokio::test]
async fn what_is_called_knows_the_span_that_it_works_in() {
    let (tracing, exporter) = Kept::tracing(parent_based(1.0));
    let mut contexts = Contexts::new(4);
    contexts.add(link(1));
    let span = tracing.span("outer").linked_to(&contexts).start();
    let scope = Scope::of(&span).following(Arc::new(contexts.clone()));
    let inner = scope.around(async {
        tokio::task::yield_now().await;
        assert_eq!(*followed(), contexts);
        current().retried("reset", 1);
        current().link()
    });
    assert_eq!(inner.await, span.link());
    assert!(current().link().is_none());
    assert!(followed().is_empty());
    drop((scope, span));
    assert_eq!(exporter.spans()[0].events.len(), 1);
}

#[test]
fn off_is_off() {
    let off = Tracing::off();
    assert!(
        off.request(&headers(SAMPLED), || unreachable!())
            .link()
            .is_none()
    );
    let span = off.span("a").child_of(Some(link(1))).start();
    span.failed("error");
    assert!(span.link().is_none());
}
