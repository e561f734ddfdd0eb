use opentelemetry::Key;
use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry_sdk::trace::{SamplingDecision, ShouldSample as _};

use super::*;
use crate::config::Role;

fn instance(is_named: bool) -> Instance {
    Instance {
        node: "a-node".to_owned(),
        is_named,
        role: Role::Worker,
        service: None,
        attributes: Vec::new(),
    }
}

fn said(instance: &Instance) -> impl Fn(&'static str) -> Option<String> + use<> {
    let resource = resource(instance);
    move |key| resource.get(&Key::new(key)).map(|value| value.to_string())
}

#[test]
fn what_a_person_says_of_the_resource_wins_and_the_services_own_variable_most() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let attributes = vec![
        pair("service.name", "a"),
        pair("service.version", "v"),
        pair("team", "b"),
    ];
    let given = Instance {
        attributes,
        ..instance(true)
    };
    let named = Instance {
        service: Some("c".to_owned()),
        ..given.clone()
    };
    for (instance, service) in [(&given, "a"), (&named, "c")] {
        let said = said(instance);
        assert_eq!(said("service.name").as_deref(), Some(service));
        assert_eq!(said("service.version").as_deref(), Some("v"));
        assert_eq!(said("team").as_deref(), Some("b"));
        assert_eq!(said("telemetry.sdk.language").as_deref(), Some("rust"));
    }
}

#[test]
fn a_resource_says_who_reports() {
    let of = |is_named| said(&instance(is_named));
    let (named, unnamed) = (of(true), of(false));
    assert_eq!(named("service.name").as_deref(), Some("eventkit"));
    assert_eq!(named("service.instance.id").as_deref(), Some("a-node"));
    assert_eq!(named("eventkit.role").as_deref(), Some("worker"));
    assert_eq!(
        named("service.version").as_deref(),
        Some(env!("CARGO_PKG_VERSION"))
    );
    assert_ne!(
        unnamed("service.instance.id"),
        of(false)("service.instance.id"),
        "two processes of one host"
    );
}

#[test]
fn a_ratio_of_traces_is_sampled_by_their_ids() {
    let sampled = |ratio, trace: u128| {
        let sampler = sampler(Sampling {
            ratio,
            parent_based: true,
        });
        let kind = SpanKind::Server;
        let result = sampler.should_sample(None, TraceId::from(trace), "x", &kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    };
    assert!(sampled(1.0, u128::MAX));
    assert!(!sampled(0.0, 0));
    assert!(sampled(0.5, 1));
    assert!(!sampled(0.5, u128::MAX));
}

#[tokio::test]
async fn what_is_off_costs_nothing_to_end() {
    let otlp = Otlp::off();
    assert!(otlp.tracer().is_none());
    assert!(otlp.log_layer::<tracing_subscriber::Registry>().is_none());
    otlp.shutdown(Duration::ZERO).await;
    assert_eq!(otlp.spans_dropped(), 0);
}
