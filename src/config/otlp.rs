//! What leaves the process by OTLP, as OpenTelemetry's specification reads its variables.
//!
//! Nothing leaves unless an endpoint is given. A signal's own variable wins over the one for all signals. What cannot be
//! read is warned about and not used; an endpoint that is none is a problem.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode;

use super::raw::Source;
use super::reader::Reader;
use super::settings::otel::{self, Exporter};
use super::settings::{self, Setting};
use super::stages::Role;

/// What the collector is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// Whom to trust, and what to show: the files of a connection with TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// The authorities that the collector's certificate may come from; `None`: those that the system trusts.
    pub certificate: Option<PathBuf>,
    /// Our own certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Where one signal goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// The whole URL.
    pub url: String,
    /// What is spoken there.
    pub protocol: Protocol,
    /// How long an export may take.
    pub timeout: Duration,
    /// The files that TLS needs.
    pub roots: Roots,
}

impl Collector {
    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.starts_with("https:")
    }

    /// The part of the URL that says which machine it is.
    #[must_use]
    pub fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or("", |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default()
    }
}

/// How much may wait for an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// How many records wait at most.
    pub queue_max: usize,
    /// How many one export takes.
    pub batch_max: usize,
    /// How long they wait for others.
    pub delay: Duration,
}

/// Which traces begin here, and which are followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// The part of traces that is sampled, from 0 to 1.
    pub ratio: f64,
    /// Whether a client that brings a trace decides instead.
    pub parent_based: bool,
}

/// Who reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The node's label.
    pub node: String,
    /// Whether somebody chose it: else several processes may have the same.
    pub is_named: bool,
    /// Which part of an event's path it is.
    pub role: Role,
    /// What a person calls the service.
    pub service: Option<String>,
    /// What a person says of it beside, in the order given.
    pub attributes: Vec<(String, String)>,
}

/// What leaves the process.
#[derive(Debug, Clone)]
pub struct OtlpConfig {
    /// Where traces go; `None`: nowhere.
    pub traces: Option<Collector>,
    /// Where metrics go.
    pub metrics: Option<Collector>,
    /// Where log records go.
    pub logs: Option<Collector>,
    /// How many spans may wait.
    pub spans: QueueLimits,
    /// How many log records may wait.
    pub records: QueueLimits,
    /// The time between two exports of metrics.
    pub metric_interval: Duration,
    /// Which requests are traced.
    pub sampling: Sampling,
    /// Whether a client's `traceparent` is followed.
    pub takes_trace_context: bool,
    /// Who reports.
    pub instance: Instance,
}

/// One of the three.
struct Signal {
    own: &'static Exporter,
    path: &'static str,
    exporter: &'static Setting,
    limit: &'static Setting,
}

const TRACES: Signal = Signal {
    own: &otel::TRACES,
    path: "/v1/traces",
    exporter: &otel::TRACES_EXPORTER,
    limit: &otel::BSP_EXPORT_TIMEOUT,
};
const METRICS: Signal = Signal {
    own: &otel::METRICS,
    path: "/v1/metrics",
    exporter: &otel::METRICS_EXPORTER,
    limit: &otel::METRIC_EXPORT_TIMEOUT,
};
const LOGS: Signal = Signal {
    own: &otel::LOGS,
    path: "/v1/logs",
    exporter: &otel::LOGS_EXPORTER,
    limit: &otel::BLRP_EXPORT_TIMEOUT,
};

/// Reads all of it.
pub(super) fn otlp(reader: &mut Reader<'_>, role: Role) -> OtlpConfig {
    let disabled = is_true(reader, &otel::SDK_DISABLED);
    let mut leaves = |signal: &Signal| {
        // Read in any case, so that what is wrong is said.
        let collector = collector(reader, signal);
        let wanted = exports(reader, signal.exporter);
        if wanted && collector.is_none() && reader.source(signal.exporter) != Source::Default {
            let text = format!("no effect without {}", otel::SHARED.endpoint.env);
            reader.warn(signal.exporter, text);
        }
        collector.filter(|_| wanted && !disabled)
    };
    let (traces, metrics, logs) = (leaves(&TRACES), leaves(&METRICS), leaves(&LOGS));
    unread(reader);
    let service = Some(reader.text(&otel::SERVICE_NAME));
    let service = service.filter(|_| reader.source(&otel::SERVICE_NAME) != Source::Default);
    let attributes = attributes(reader);
    OtlpConfig {
        traces,
        metrics,
        logs,
        spans: QueueLimits {
            queue_max: reader.count(&otel::BSP_MAX_QUEUE_SIZE),
            batch_max: reader.count(&otel::BSP_MAX_EXPORT_BATCH_SIZE),
            delay: reader.time(&otel::BSP_SCHEDULE_DELAY),
        },
        records: QueueLimits {
            queue_max: reader.count(&otel::BLRP_MAX_QUEUE_SIZE),
            batch_max: reader.count(&otel::BLRP_MAX_EXPORT_BATCH_SIZE),
            delay: reader.time(&otel::BLRP_SCHEDULE_DELAY),
        },
        metric_interval: reader.time(&otel::METRIC_EXPORT_INTERVAL),
        sampling: sampling(reader),
        takes_trace_context: takes_trace_context(reader),
        instance: Instance {
            node: reader.text(&settings::NODE),
            is_named: reader.source(&settings::NODE) != Source::Default,
            role,
            service,
            attributes,
        },
    }
}

/// Looks at what OpenTelemetry's crates read themselves: they say nothing about a value that they cannot read.
fn unread(reader: &mut Reader<'_>) {
    for own in [&otel::SHARED, TRACES.own, METRICS.own, LOGS.own] {
        reader.choice(own.compression);
        let headers = reader.text_if_set(own.headers).unwrap_or_default();
        if pairs(&headers).any(|pair| pair.is_none()) {
            // The value may hold a key.
            reader.warn(own.headers, format!("{PAIRS}; what is not is left out"));
        }
    }
    for limit in [
        &otel::SPAN_ATTRIBUTE_COUNT_LIMIT,
        &otel::SPAN_EVENT_COUNT_LIMIT,
        &otel::SPAN_LINK_COUNT_LIMIT,
    ] {
        reader.count::<u32>(limit);
    }
}

/// Further attributes of the resource: all of them, or none where one cannot be read, as the specification has it.
fn attributes(reader: &mut Reader<'_>) -> Vec<(String, String)> {
    let text = reader.text_if_set(&otel::RESOURCE_ATTRIBUTES);
    let Some(attributes) = pairs(&text.unwrap_or_default()).collect() else {
        let text = format!("{PAIRS}; none of it is used");
        reader.warn(&otel::RESOURCE_ATTRIBUTES, text);
        return Vec::new();
    };
    attributes
}

const PAIRS: &str = "must be key=value,key=value, with percent encoding where a value holds a comma or what is not ASCII";

/// Key and value of each part of a list of them, `None` where it has none: as W3C Baggage writes them.
fn pairs(text: &str) -> impl Iterator<Item = Option<(String, String)>> {
    let decoded = |text: &str| {
        let bytes = text.trim().as_bytes();
        // What is not hexadecimal stays as it is, and then it was none.
        let is_whole = bytes.split(|byte| *byte == b'%').skip(1).all(|part| {
            let digits = part.get(..2);
            digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        });
        let text = percent_decode(bytes).decode_utf8().ok()?;
        is_whole.then(|| text.into_owned())
    };
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    parts.map(move |part| {
        let (key, value) = part.split_once('=')?;
        let (key, value) = (decoded(key)?, decoded(value)?);
        (!key.is_empty()).then_some((key, value))
    })
}

fn is_true(reader: &mut Reader<'_>, setting: &'static Setting) -> bool {
    reader.choice(setting) == "true"
}

/// A signal's own variable, or the one for all.
fn narrowest(
    reader: &Reader<'_>,
    own: &'static Setting,
    all: &'static Setting,
) -> &'static Setting {
    match reader.source(own) {
        Source::Default => all,
        Source::Env | Source::Flag => own,
    }
}

/// Where a signal goes, if anywhere.
fn collector(reader: &mut Reader<'_>, signal: &Signal) -> Option<Collector> {
    let (own, all) = (signal.own, &otel::SHARED);
    let protocol = narrowest(reader, own.protocol, all.protocol);
    // A word of its own that cannot be read leaves the one for all in force.
    let protocol = match reader.choice(protocol) {
        "" => reader.choice(all.protocol),
        word => word,
    };
    let protocol = match protocol {
        "grpc" => Protocol::Grpc,
        _ => Protocol::Http,
    };
    let insecure = narrowest(reader, own.insecure, all.insecure);
    let insecure = is_true(reader, insecure);
    let timeout = narrowest(reader, own.timeout, all.timeout);
    let timeout = match reader.time_if_set(timeout) {
        Some(timeout) => timeout,
        None => reader.time(all.timeout),
    };
    let limit = reader.time(signal.limit);
    let roots = roots(reader, own, all);
    let place = narrowest(reader, own.endpoint, all.endpoint);
    let text = reader.text_if_set(place)?;
    // Where one is given for all signals, HTTP has a path for each.
    let path = (place.env == all.endpoint.env).then_some(signal.path);
    match url(&text, protocol, path, insecure) {
        Ok(url) => Some(Collector {
            url,
            protocol,
            timeout: timeout.min(limit),
            roots: roots?,
        }),
        Err(text) => {
            // The value may hold a key.
            reader.problem(place.env.to_owned(), text);
            None
        }
    }
}

fn roots(reader: &mut Reader<'_>, own: &Exporter, all: &Exporter) -> Option<Roots> {
    let mut path = |own, all| {
        let setting = narrowest(reader, own, all);
        reader.path_if_set(setting)
    };
    let certificate = path(own.certificate, all.certificate);
    let client_key = path(own.client_key, all.client_key);
    let client_certificate = path(own.client_certificate, all.client_certificate);
    let client = match (client_certificate, client_key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            let subject = format!("{} and {}", all.client_certificate.env, all.client_key.env);
            reader.problem(
                subject,
                "a certificate needs its key, and a key its certificate",
            );
            return None;
        }
    };
    Some(Roots {
        certificate,
        client,
    })
}

/// The whole URL of an endpoint.
fn url(
    text: &str,
    protocol: Protocol,
    path: Option<&str>,
    insecure: bool,
) -> Result<String, &'static str> {
    let whole = match protocol {
        Protocol::Grpc if !text.contains("://") => {
            format!("{}://{text}", if insecure { "http" } else { "https" })
        }
        _ => text.to_owned(),
    };
    let uri: http::Uri = whole.parse().unwrap_or_default();
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let Some(authority) = uri.authority().filter(|_| known) else {
        return Err(
            "must be a URL, as in http://localhost:4318 or https://collector.example.org:4317",
        );
    };
    if authority.as_str().contains('@') {
        return Err(
            "must not hold a name or a key; OTEL_EXPORTER_OTLP_HEADERS is the place for one",
        );
    }
    Ok(match (protocol, path) {
        (Protocol::Http, Some(path)) => format!("{}{path}", whole.trim_end_matches('/')),
        _ => whole,
    })
}

/// Whether a signal is to leave: a list of words, of which we know some.
fn exports(reader: &mut Reader<'_>, setting: &'static Setting) -> bool {
    let default = reader.inputs.default(setting).unwrap_or_default();
    let text = reader.text(setting);
    let mut chosen = None;
    for word in words(&text) {
        match word.as_str() {
            "otlp" => chosen = Some(true),
            "none" => chosen = chosen.or(Some(false)),
            // It is always there.
            "prometheus" if setting.env == otel::METRICS_EXPORTER.env => {
                chosen = chosen.or(Some(false));
            }
            _ => reader.warn(
                setting,
                "otlp and none are all there is; the rest is not used",
            ),
        }
    }
    chosen.unwrap_or(default == "otlp")
}

fn takes_trace_context(reader: &mut Reader<'_>) -> bool {
    let text = reader.text(&otel::PROPAGATORS);
    let mut takes = false;
    for word in words(&text) {
        match word.as_str() {
            "tracecontext" => takes = true,
            "baggage" | "none" => {}
            _ => reader.warn(
                &otel::PROPAGATORS,
                "tracecontext, baggage and none are all there is; the rest is not used",
            ),
        }
    }
    takes
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(',').map(|word| word.trim().to_ascii_lowercase());
    words.filter(|word| !word.is_empty()).collect()
}

fn sampling(reader: &mut Reader<'_>) -> Sampling {
    let word = reader.choice(&otel::TRACES_SAMPLER);
    let arg = reader.text_if_set(&otel::TRACES_SAMPLER_ARG);
    let ratio = match word {
        "always_off" | "parentbased_always_off" => 0.0,
        "traceidratio" | "parentbased_traceidratio" => arg.map_or(1.0, |text| {
            let ratio = text.parse().ok();
            ratio
                .filter(|ratio| (0.0..=1.0).contains(ratio))
                .unwrap_or_else(|| {
                    reader.warn(
                        &otel::TRACES_SAMPLER_ARG,
                        "must be a number from 0 to 1; every trace is taken",
                    );
                    1.0
                })
        }),
        _ => 1.0,
    };
    Sampling {
        ratio,
        parent_based: word.starts_with("parentbased"),
    }
}

#[cfg(test)]
mod tests;
