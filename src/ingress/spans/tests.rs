use super::*;

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn json(text: &str) -> Option<TraceLink> {
    own_context(PayloadFormat::Json, text.as_bytes())
}

#[test]
fn an_event_names_its_own_trace_in_its_context() {
    let named = format!(r#"{{"type":"track","context":{{"a":[1],"traceparent":"{SAMPLED}"}}}}"#);
    assert_eq!(json(&named), SAMPLED.parse().ok());
    // Also one that is not sampled: then the event is not, whatever its request is.
    let unsampled = SAMPLED.replace("-01", "-00");
    let named = json(&format!(r#"{{"context":{{"traceparent":"{unsampled}"}}}}"#));
    assert_eq!(named, unsampled.parse().ok());
    assert!(named.is_some_and(|named| !named.is_sampled()));
    for other in [
        "{}".to_owned(),
        format!(r#"{{"traceparent":"{SAMPLED}"}}"#),
        format!(r#"{{"properties":{{"traceparent":"{SAMPLED}"}}}}"#),
        r#"{"context":{"traceparent":7}}"#.to_owned(),
        r#"{"context":"traceparent""#.to_owned(),
    ] {
        assert_eq!(json(&other), None, "{other}");
    }
}

#[test]
fn a_protobuf_event_names_it_in_either_form_of_its_context() {
    let text = prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(SAMPLED.into())),
    };
    let as_struct = v1::Event {
        context: Some(prost_types::Struct {
            fields: [("traceparent".to_owned(), text)].into(),
        }),
        ..v1::Event::default()
    };
    let as_json = v1::Event {
        context_json: format!(r#"{{"traceparent":"{SAMPLED}"}}"#).into(),
        ..v1::Event::default()
    };
    for event in [as_struct, as_json] {
        let bytes = event.encode_to_vec();
        let named = own_context(PayloadFormat::Event, &bytes);
        assert_eq!(named, SAMPLED.parse().ok());
    }
}

#[test]
fn a_route_is_one_of_a_closed_list() {
    let cases = [
        ("/collect", Some("/collect")),
        ("/collect/", Some("/collect")),
        ("/collect/ada@example.com", Some("/collect/{stream}")),
        ("/collect/a/b", None),
        ("/pre/collect/shop", Some("/collect/{stream}")),
        ("/v1/track", Some("/v1/track")),
        ("/pre/v1/batch/", Some("/v1/batch")),
        ("/pre/t/", Some("/v1/track")),
        ("/pixel/page", Some("/pixel/v1/{type}")),
        (
            "/v1/projects/ada@example.com/settings",
            Some("/v1/projects/{key}/settings"),
        ),
        ("/projects/ada/example/settings", None),
        ("/ready", Some("/ready")),
        ("/ada@example.com", None),
        ("/precollect", None),
    ];
    for (path, expected) in cases {
        assert_eq!(door::route("/pre", path), expected, "{path}");
    }
    let known = "eventkit.v1.IngestService/Collect";
    assert_eq!(known_method(known), known);
    assert_eq!(known_method("eventkit.v1.IngestService/Ada"), "_OTHER");
}
