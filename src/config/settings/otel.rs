//! OpenTelemetry's own variables, with the meaning that its specification gives them.
//!
//! They have no flags: libraries of OpenTelemetry read some of them from the environment themselves, and would not see a
//! flag. A value that cannot be read is warned about and not used, as the specification wants it.

use super::Fallback::{self, Is, Unset};
use super::Kind::{self, Any, Choice, Count, Millis, Path};
use super::Setting;

/// What all of them have in common.
const OTEL: Setting = Setting {
    heading: "OpenTelemetry",
    lenient: true,
    ..Setting::PLAIN
};

/// The longest time that any of them takes, in milliseconds.
const HOUR: u64 = 3_600_000;
/// The most records that a queue takes.
const QUEUE: u64 = 1_000_000;

/// The variables that say where a signal goes and how: once for all signals, once for each.
#[derive(Debug)]
pub struct Exporter {
    /// Where the collector is.
    pub endpoint: &'static Setting,
    /// What is spoken.
    pub protocol: &'static Setting,
    /// What goes along with each request: usually a key.
    pub headers: &'static Setting,
    /// How long an export may take.
    pub timeout: &'static Setting,
    /// Whether exports are compressed.
    pub compression: &'static Setting,
    /// Whether an endpoint that does not say so itself is spoken to without TLS.
    pub insecure: &'static Setting,
    /// Whom to trust.
    pub certificate: &'static Setting,
    /// Our key.
    pub client_key: &'static Setting,
    /// Our certificate.
    pub client_certificate: &'static Setting,
}

impl Exporter {
    const fn all(&self) -> [&'static Setting; 9] {
        [
            self.endpoint,
            self.protocol,
            self.headers,
            self.timeout,
            self.compression,
            self.insecure,
            self.certificate,
            self.client_key,
            self.client_certificate,
        ]
    }
}

macro_rules! exporter {
    ($who:ident, $infix:literal) => {
        Exporter {
            endpoint: &exporter!(@ $who, $infix, "ENDPOINT", Any, Unset("nothing leaves the process"),
                "Where the collector is, as in http://localhost:4318; given for all signals, http/protobuf adds /v1/traces and so on"),
            protocol: &exporter!(@ $who, $infix, "PROTOCOL", Choice(&["grpc", "http/protobuf"]), Is("http/protobuf"),
                "What the collector is spoken to in"),
            headers: &Setting { secret: true, ..exporter!(@ $who, $infix, "HEADERS", Any, Unset("none"),
                "Headers of each export, as in key1=value1,key2=value2; never shown") },
            timeout: &exporter!(@ $who, $infix, "TIMEOUT", Millis(1, HOUR), Is("10000"),
                "How long an export may take, repeats included, in milliseconds; over HTTP a repeat begun within it may take as long once more"),
            compression: &exporter!(@ $who, $infix, "COMPRESSION", Choice(&["gzip", "none"]), Is("none"),
                "How exports are compressed"),
            insecure: &exporter!(@ $who, $infix, "INSECURE", Choice(&["true", "false"]), Is("false"),
                "Speak gRPC without TLS to an endpoint that names no scheme"),
            certificate: &exporter!(@ $who, $infix, "CERTIFICATE", Path, Unset("what the system trusts"),
                "A PEM file of the authorities that the collector's certificate may come from"),
            client_key: &exporter!(@ $who, $infix, "CLIENT_KEY", Path, Unset("none"),
                "A PEM file with the key of the client certificate"),
            client_certificate: &exporter!(@ $who, $infix, "CLIENT_CERTIFICATE", Path, Unset("none"),
                "A PEM file with the certificate that is shown to the collector"),
        }
    };
    (@ all, $infix:literal, $name:literal, $kind:expr, $default:expr, $help:literal) => {
        Setting {
            env: concat!("OTEL_EXPORTER_OTLP_", $name),
            kind: $kind,
            default: $default,
            help: $help,
            ..OTEL
        }
    };
    (@ one, $infix:literal, $name:literal, $kind:expr, $default:expr, $help:literal) => {
        Setting {
            env: concat!("OTEL_EXPORTER_OTLP_", $infix, $name),
            kind: $kind,
            default: Unset(concat!("as OTEL_EXPORTER_OTLP_", $name)),
            help: concat!("For this signal alone. ", $help),
            shown_only_if_set: true,
            ..OTEL
        }
    };
}

/// For all signals.
pub const SHARED: Exporter = exporter!(all, "");
/// For traces alone.
pub const TRACES: Exporter = exporter!(one, "TRACES_");
/// For metrics alone.
pub const METRICS: Exporter = exporter!(one, "METRICS_");
/// For logs alone.
pub const LOGS: Exporter = exporter!(one, "LOGS_");

macro_rules! variables {
    ($($name:ident: $env:literal, $default:expr, $kind:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $name: Setting = variable($env, $default, $kind, $help);
        )*

        static OTHERS: &[&Setting] = &[$(&$name,)*];
    };
}

const fn variable(env: &'static str, default: Fallback, kind: Kind, help: &'static str) -> Setting {
    Setting {
        env,
        default,
        kind,
        help,
        ..OTEL
    }
}

variables! {
    SDK_DISABLED: "OTEL_SDK_DISABLED", Is("false"), Choice(&["true", "false"]),
        "Let no telemetry leave the process, whatever else is set; /metrics and the log lines stay";
    SERVICE_NAME: "OTEL_SERVICE_NAME", Is("eventkit"), Any,
        "The resource attribute service.name";
    RESOURCE_ATTRIBUTES: "OTEL_RESOURCE_ATTRIBUTES", Unset("service.version, service.instance.id, host.name and eventkit.role are always there"), Any,
        "Further resource attributes, as in key1=value1,key2=value2 (a comma in a value is %2C); they win over our own";
    TRACES_EXPORTER: "OTEL_TRACES_EXPORTER", Is("otlp"), Any,
        "otlp, or none to keep traces from leaving";
    METRICS_EXPORTER: "OTEL_METRICS_EXPORTER", Is("otlp"), Any,
        "otlp, or none (or prometheus: /metrics is always served) to keep metrics from leaving";
    LOGS_EXPORTER: "OTEL_LOGS_EXPORTER", Is("none"), Any,
        "otlp to let log lines leave, too; they are written to standard output in any case";
    PROPAGATORS: "OTEL_PROPAGATORS", Is("tracecontext,baggage"), Any,
        "What carries a client's trace: tracecontext, or none. Baggage is accepted and not kept";
    TRACES_SAMPLER: "OTEL_TRACES_SAMPLER", Is("parentbased_always_on"), Choice(&[
            "always_on", "always_off", "traceidratio",
            "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
        ]),
        "Which requests are traced; parentbased: as the client's own trace says, if it has one";
    TRACES_SAMPLER_ARG: "OTEL_TRACES_SAMPLER_ARG", Unset("1"), Any,
        "The part of traces that traceidratio takes, from 0 to 1";
    BSP_SCHEDULE_DELAY: "OTEL_BSP_SCHEDULE_DELAY", Is("5000"), Millis(1, HOUR),
        "How long spans wait for others before they are exported, in milliseconds";
    BSP_EXPORT_TIMEOUT: "OTEL_BSP_EXPORT_TIMEOUT", Is("30000"), Millis(1, HOUR),
        "How long an export of spans may take at most, in milliseconds; the exporter's own timeout holds as well";
    BSP_MAX_QUEUE_SIZE: "OTEL_BSP_MAX_QUEUE_SIZE", Is("2048"), Count(1, QUEUE),
        "How many spans wait at most; more are dropped and counted";
    BSP_MAX_EXPORT_BATCH_SIZE: "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", Is("512"), Count(1, QUEUE),
        "How many spans one export takes at most";
    BLRP_SCHEDULE_DELAY: "OTEL_BLRP_SCHEDULE_DELAY", Is("1000"), Millis(1, HOUR),
        "How long log records wait for others before they are exported, in milliseconds";
    BLRP_EXPORT_TIMEOUT: "OTEL_BLRP_EXPORT_TIMEOUT", Is("30000"), Millis(1, HOUR),
        "How long an export of log records may take at most, in milliseconds; the exporter's own timeout holds as well";
    BLRP_MAX_QUEUE_SIZE: "OTEL_BLRP_MAX_QUEUE_SIZE", Is("2048"), Count(1, QUEUE),
        "How many log records wait at most; more are dropped and counted";
    BLRP_MAX_EXPORT_BATCH_SIZE: "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", Is("512"), Count(1, QUEUE),
        "How many log records one export takes at most";
    METRIC_EXPORT_INTERVAL: "OTEL_METRIC_EXPORT_INTERVAL", Is("60000"), Millis(1, HOUR),
        "The time between two exports of metrics, in milliseconds";
    METRIC_EXPORT_TIMEOUT: "OTEL_METRIC_EXPORT_TIMEOUT", Is("30000"), Millis(1, HOUR),
        "How long an export of metrics may take at most, in milliseconds; the exporter's own timeout holds as well";
    SPAN_ATTRIBUTE_COUNT_LIMIT: "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", Is("128"), Count(0, 100_000),
        "How many attributes a span keeps at most";
    SPAN_EVENT_COUNT_LIMIT: "OTEL_SPAN_EVENT_COUNT_LIMIT", Is("128"), Count(0, 100_000),
        "How many events a span keeps at most";
    SPAN_LINK_COUNT_LIMIT: "OTEL_SPAN_LINK_COUNT_LIMIT", Is("128"), Count(0, 100_000),
        "How many links a span keeps at most";
}

const COUNT: usize = 4 * 9 + OTHERS.len();

/// All of them: the exporters', those of one signal last, then the others.
pub(super) static ALL: [&Setting; COUNT] = super::joined(&[
    &SHARED.all(),
    OTHERS,
    &TRACES.all(),
    &METRICS.all(),
    &LOGS.all(),
]);
