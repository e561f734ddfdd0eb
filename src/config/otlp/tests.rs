use std::collections::BTreeMap;

use super::*;
use crate::config::{Checked, Inputs, Profile, validate};

fn inputs(env: &[(&str, &str)]) -> Inputs {
    Inputs {
        profile: Profile::Dev,
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: BTreeMap::new(),
        host_name: "a-host".to_owned(),
    }
}

fn checked(env: &[(&str, &str)]) -> Checked {
    validate(&inputs(env)).unwrap()
}

fn read(env: &[(&str, &str)]) -> OtlpConfig {
    checked(env).config.telemetry.otlp
}

/// The variables that were warned about.
fn warned(env: &[(&str, &str)]) -> Vec<&'static str> {
    let warnings = checked(env).warnings.into_iter();
    warnings.map(|warning| warning.setting).collect()
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");

#[test]
fn nothing_leaves_without_an_endpoint() {
    let config = read(&[]);
    assert_eq!(
        (config.traces, config.metrics, config.logs),
        (None, None, None)
    );
    assert!(config.takes_trace_context);
    assert_eq!(
        config.sampling,
        Sampling {
            ratio: 1.0,
            parent_based: true
        }
    );
}

#[test]
fn one_endpoint_is_for_traces_and_metrics_and_for_logs_that_are_asked_for() {
    let config = read(&[ENDPOINT]);
    assert_eq!(config.traces.unwrap().url, "http://c:4318/v1/traces");
    assert_eq!(config.metrics.unwrap().url, "http://c:4318/v1/metrics");
    assert_eq!(config.logs, None);
    let config = read(&[ENDPOINT, ("OTEL_LOGS_EXPORTER", "otlp")]);
    assert_eq!(config.logs.unwrap().url, "http://c:4318/v1/logs");
}

#[test]
fn the_switches_keep_signals_from_leaving() {
    let off = |name, value| {
        let config = read(&[ENDPOINT, (name, value)]);
        (config.traces.is_none(), config.metrics.is_none())
    };
    assert_eq!(off("OTEL_SDK_DISABLED", "TRUE"), (true, true));
    assert_eq!(off("OTEL_SDK_DISABLED", "false"), (false, false));
    assert_eq!(off("OTEL_TRACES_EXPORTER", "none"), (true, false));
    assert_eq!(off("OTEL_METRICS_EXPORTER", "none"), (false, true));
    assert_eq!(off("OTEL_METRICS_EXPORTER", "prometheus"), (false, true));
    assert_eq!(
        off("OTEL_METRICS_EXPORTER", "prometheus, otlp"),
        (false, false)
    );
}

#[test]
fn endpoints_become_urls() {
    for (protocol, text, expect) in [
        (
            "http/protobuf",
            "http://c:4318",
            Some("http://c:4318/v1/traces"),
        ),
        (
            "http/protobuf",
            "http://c:4318/",
            Some("http://c:4318/v1/traces"),
        ),
        (
            "http/protobuf",
            "https://c/at/",
            Some("https://c/at/v1/traces"),
        ),
        ("http/protobuf", "c:4318", None),
        ("grpc", "http://c:4317", Some("http://c:4317")),
        ("grpc", "https://[::1]:4317", Some("https://[::1]:4317")),
        ("grpc", "c:4317", Some("https://c:4317")),
        ("grpc", "unix:///run/c", None),
        ("grpc", "http://key@c:4317", None),
        ("grpc", "http://", None),
    ] {
        let env = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", text),
        ];
        match (validate(&inputs(&env)), expect) {
            (Ok(checked), Some(url)) => {
                assert_eq!(checked.config.telemetry.otlp.traces.unwrap().url, url);
            }
            (Err(problems), None) => {
                assert!(!problems.to_string().contains("key@"), "{problems}");
                // Once, although three signals go there.
                assert_eq!(problems.0.len(), 1, "{problems}");
                assert_eq!(problems.0[0].subject, "OTEL_EXPORTER_OTLP_ENDPOINT");
            }
            (other, _) => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn insecure_is_for_grpc_without_a_scheme() {
    let url = |text, insecure| {
        let config = read(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", text),
            ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", insecure),
        ]);
        (config.traces.unwrap().url, config.metrics.unwrap().url)
    };
    assert_eq!(
        url("c:4317", "true"),
        ("http://c:4317".to_owned(), "https://c:4317".to_owned())
    );
    let encrypted = ("https://c:4317".to_owned(), "https://c:4317".to_owned());
    assert_eq!(url("https://c:4317", "true"), encrypted);
    assert_eq!(url("c:4317", "yes"), encrypted);
}

#[test]
fn a_signals_own_variables_win() {
    let config = read(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://d:1/own"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "4000"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/traces.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/cert.pem"),
    ]);
    let client = Some(("/cert.pem".into(), "/key.pem".into()));
    let traces = Collector {
        url: "http://d:1/own".to_owned(),
        protocol: Protocol::Http,
        timeout: Duration::from_secs(3),
        roots: Roots {
            certificate: Some("/traces.pem".into()),
            client: client.clone(),
        },
    };
    assert_eq!(traces.host(), "d:1");
    assert_eq!(config.traces, Some(traces));
    let metrics = Collector {
        url: "http://c:4318".to_owned(),
        protocol: Protocol::Grpc,
        timeout: Duration::from_secs(4),
        roots: Roots {
            certificate: Some("/ca.pem".into()),
            client,
        },
    };
    assert_eq!(config.metrics, Some(metrics));
}

#[test]
fn a_certificate_needs_its_key() {
    let problems = validate(&inputs(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
    ]));
    assert!(problems.is_err());
}

#[test]
fn what_cannot_be_read_is_warned_about_and_not_used() {
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "smoke"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "often"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "all"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_PROPAGATORS", "tracecontext,b3"),
    ] {
        assert_eq!(warned(&[ENDPOINT, (name, value)]), [name], "{name}={value}");
        let (config, plain) = (read(&[ENDPOINT, (name, value)]), read(&[ENDPOINT]));
        assert_eq!(
            format!("{config:?}"),
            format!("{plain:?}"),
            "{name}={value}"
        );
    }
    let unread = [("OTEL_TRACES_SAMPLER_ARG", "2")];
    assert_eq!(warned(&unread), [""; 0], "no effect with this sampler");
    let no_place = [("OTEL_LOGS_EXPORTER", "otlp")];
    assert_eq!(warned(&no_place), ["OTEL_LOGS_EXPORTER"]);
}

#[test]
fn samplers_are_a_ratio_and_whom_to_ask() {
    for (word, arg, ratio, parent_based) in [
        ("always_on", "0.5", 1.0, false),
        ("always_off", "0.5", 0.0, false),
        ("traceidratio", "0.5", 0.5, false),
        ("traceidratio", "many", 1.0, false),
        ("parentbased_always_on", "", 1.0, true),
        ("parentbased_always_off", "", 0.0, true),
        ("parentbased_traceidratio", "0.01", 0.01, true),
        ("parentbased_traceidratio", "", 1.0, true),
    ] {
        let config = read(&[
            ("OTEL_TRACES_SAMPLER", word),
            ("OTEL_TRACES_SAMPLER_ARG", arg),
        ]);
        let expect = Sampling {
            ratio,
            parent_based,
        };
        assert_eq!(config.sampling, expect, "{word} {arg}");
    }
}

#[test]
fn trace_context_is_followed_unless_it_is_left_out() {
    for (text, takes) in [
        ("tracecontext", true),
        ("baggage, TraceContext", true),
        ("baggage", false),
        ("none", false),
    ] {
        let config = read(&[("OTEL_PROPAGATORS", text)]);
        assert_eq!(config.takes_trace_context, takes, "{text}");
    }
}

#[test]
fn an_exports_time_is_the_shorter_of_its_limits() {
    let config = read(&[
        ENDPOINT,
        ("OTEL_BSP_EXPORT_TIMEOUT", "1000"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "40000"),
    ]);
    assert_eq!(config.traces.unwrap().timeout, Duration::from_secs(1));
    assert_eq!(config.metrics.unwrap().timeout, Duration::from_secs(30));
}

#[test]
fn what_is_said_of_the_resource_is_decoded_and_none_of_it_counts_where_a_part_cannot_be_read() {
    let given = |text| read(&[("OTEL_RESOURCE_ATTRIBUTES", text)]).instance;
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        given("team=a%2Cb%3D1, place=Z%C3%BCrich ,empty=,").attributes,
        [
            pair("team", "a,b=1"),
            pair("place", "Zürich"),
            pair("empty", "")
        ]
    );
    assert_eq!(given("").attributes, []);
    for wrong in ["a=b,c", "a=b,=c", "a=b,c=%2", "a=b,c=%zz", "a=b,c=%ff"] {
        let env = [("OTEL_RESOURCE_ATTRIBUTES", wrong)];
        assert_eq!(given(wrong).attributes, [], "{wrong}");
        assert_eq!(warned(&env), ["OTEL_RESOURCE_ATTRIBUTES"], "{wrong}");
    }
    assert_eq!(given("a=b").service, None);
    let named = read(&[("OTEL_SERVICE_NAME", "shop")]).instance;
    assert_eq!(named.service.as_deref(), Some("shop"));
}

#[test]
fn headers_that_are_none_are_warned_about_and_not_shown() {
    let env = [("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20a")];
    assert_eq!(warned(&env), [""; 0]);
    let env = [("OTEL_EXPORTER_OTLP_HEADERS", "authorization: secret")];
    let warning = checked(&env).warnings.pop().unwrap();
    assert_eq!(warning.setting, "OTEL_EXPORTER_OTLP_HEADERS");
    assert!(!warning.text.contains("secret"), "{}", warning.text);
}
