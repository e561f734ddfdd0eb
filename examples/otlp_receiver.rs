//! An OTLP receiver for people: prints each trace as a tree, with the traces that link to it, once all is quiet.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use clap::Parser;
use mock_collector::{MockCollector, MockServer, Protocol};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const HELP: &str = "\
Point a program at it:
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 OTEL_BSP_SCHEDULE_DELAY=200 eventkit dev
  curl -i localhost:8000/collect -d '{\"type\":\"track\",\"userId\":\"u1\",\"event\":\"Signed up\"}'

A trace is printed when nothing has arrived for a while. Children stand under their parents; under `~` stands what another
trace says about a span by a link. On standard input: a trace id, or its beginning, prints that trace; an empty line the newest.";

/// How many spans are remembered, and how often it looks for new ones.
const SPANS_MAX: usize = 50_000;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Receive OTLP on loopback and print each trace as a tree
#[derive(Debug, Parser)]
#[command(after_help = HELP, max_term_width = 120)]
struct Args {
    /// The port for gRPC
    #[arg(long, default_value_t = 4317)]
    grpc_port: u16,
    /// The port for HTTP
    #[arg(long, default_value_t = 4318)]
    http_port: u16,
    /// Seconds without anything new until a trace is printed
    #[arg(long, default_value_t = 3.0)]
    quiet: f64,
    /// Leave attributes out
    #[arg(long)]
    short: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let collector = Arc::default();
    let at = |protocol, port| {
        let server = MockServer::builder().protocol(protocol).port(port);
        server.collector(Arc::clone(&collector)).start()
    };
    let grpc = at(Protocol::Grpc, args.grpc_port).await?;
    let http = at(Protocol::HttpBinary, args.http_port).await?;
    let (to_grpc, to_http) = (grpc.addr(), http.addr());
    writeln!(io::stderr(), "listening: gRPC {to_grpc}, HTTP {to_http}")?;
    let asked = questions();
    tokio::task::spawn_blocking(move || serve(&args, &collector, &asked)).await??;
    Ok(())
}

type Shared = Arc<tokio::sync::RwLock<MockCollector>>;

/// What people type. The end of it is not the end of the program.
fn questions() -> Receiver<String> {
    let (ask, asked) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut lines = io::stdin().lock().lines().map_while(Result::ok);
        lines
            .try_for_each(|line| ask.send(line))
            .unwrap_or_default();
        loop {
            std::thread::park();
        }
    });
    asked
}

fn serve(args: &Args, collector: &Shared, asked: &Receiver<String>) -> io::Result<()> {
    let mut store = Store::default();
    let mut quiet = Duration::ZERO;
    let quiet_after = Duration::try_from_secs_f64(args.quiet).unwrap_or_default();
    loop {
        let question = asked.recv_timeout(LOOK_EVERY).ok();
        let is_more = store.take(&mut collector.blocking_write());
        quiet = if is_more {
            Duration::ZERO
        } else {
            quiet + LOOK_EVERY
        };
        let mut out = io::stdout().lock();
        if let Some(question) = question {
            store.print(&mut out, store.find(question.trim()), args.short)?;
        }
        if quiet >= quiet_after {
            for trace in store.news() {
                store.print(&mut out, Some(trace), args.short)?;
            }
            store.fresh.clear();
        }
    }
}

type Id = Vec<u8>;

/// The spans that arrived, by their begin.
#[derive(Debug, Default)]
struct Store {
    spans: Vec<Span>,
    /// Traces that got spans since they were last printed.
    fresh: BTreeSet<Id>,
}

impl Store {
    fn take(&mut self, collector: &mut MockCollector) -> bool {
        let new: Vec<_> = collector.spans().iter().map(|s| s.span().clone()).collect();
        collector.clear();
        self.fresh
            .extend(new.iter().map(|span| span.trace_id.clone()));
        let is_more = !new.is_empty();
        self.spans.extend(new);
        self.spans.sort_by_key(|span| span.start_time_unix_nano);
        let too_many = self.spans.len().saturating_sub(SPANS_MAX);
        self.spans.drain(..too_many);
        is_more
    }

    /// The trace of this id, or of this beginning of one; the newest for none.
    fn find(&self, text: &str) -> Option<Id> {
        let mut ids = self.spans.iter().rev().map(|span| &span.trace_id);
        ids.find(|id| hex(id).starts_with(text)).cloned()
    }

    /// The traces that this one links to, as far as they are known.
    fn leads(&self, trace: &Id) -> BTreeSet<Id> {
        let own = self.spans.iter().filter(|span| span.trace_id == *trace);
        let links = own.flat_map(|span| &span.links).map(|link| &link.trace_id);
        let is_known = |id: &&Id| self.spans.iter().any(|span| span.trace_id == **id);
        links
            .filter(|id| *id != trace)
            .filter(is_known)
            .cloned()
            .collect()
    }

    /// What has news: the senders' traces that have some, or that others with news link to; and what belongs to no sender.
    fn news(&self) -> BTreeSet<Id> {
        let is_senders = |trace: &Id| {
            let mut spans = self.spans.iter().filter(|span| span.trace_id == *trace);
            spans.any(|span| span.kind == SpanKind::Server as i32)
        };
        let news = self.fresh.iter().flat_map(|trace| {
            let mut all = self.leads(trace);
            all.insert(trace.clone());
            all.retain(is_senders);
            if all.is_empty() {
                all.insert(trace.clone());
            }
            all
        });
        news.collect()
    }

    fn print(&self, out: &mut impl Write, trace: Option<Id>, short: bool) -> io::Result<()> {
        let Some(trace) = trace else {
            return writeln!(out, "no such trace");
        };
        let own: Vec<_> = self.spans.iter().filter(|s| s.trace_id == trace).collect();
        let is_root = |span: &&&Span| own.iter().all(|other| other.span_id != span.parent_span_id);
        let mut page = Page {
            spans: &self.spans,
            printed: BTreeSet::new(),
            begin: own.first().map_or(0, |span| span.start_time_unix_nano),
            short,
        };
        writeln!(out, "\ntrace {}", hex(&trace))?;
        for root in own.iter().filter(is_root) {
            page.print(out, root, 1, "")?;
        }
        out.flush()
    }
}

/// One trace while it is printed.
struct Page<'a> {
    spans: &'a [Span],
    printed: BTreeSet<&'a Id>,
    begin: u64,
    short: bool,
}

impl<'a> Page<'a> {
    fn print(
        &mut self,
        out: &mut impl Write,
        span: &'a Span,
        depth: usize,
        mark: &str,
    ) -> io::Result<()> {
        if !self.printed.insert(&span.span_id) {
            return Ok(());
        }
        let since = time(span.start_time_unix_nano.saturating_sub(self.begin));
        let took = time(
            span.end_time_unix_nano
                .saturating_sub(span.start_time_unix_nano),
        );
        let indent = depth * 2;
        let name = format!("{:indent$}{mark}{}", "", span.name);
        let all: &[KeyValue] = if self.short { &[] } else { &span.attributes };
        writeln!(
            out,
            "{name:<44} {:>10} {took:>10}{}",
            format!("+{since}"),
            shown(all)
        )?;
        for event in &span.events {
            let text = shown(&event.attributes);
            writeln!(out, "{:indent$}  ! {}{text}", "", event.name)?;
        }
        let spans = self.spans;
        let children = spans.iter().filter(|child| {
            child.parent_span_id == span.span_id && child.trace_id == span.trace_id
        });
        for child in children {
            self.print(out, child, depth + 1, "")?;
        }
        let to = |other: &&Span| other.links.iter().any(|link| link.span_id == span.span_id);
        for follower in spans.iter().filter(to) {
            self.print(out, follower, depth + 1, "~ ")?;
        }
        Ok(())
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::cast_precision_loss, reason = "shown to people")]
fn time(nanos: u64) -> String {
    match nanos as f64 {
        nanos if nanos < 1e6 => format!("{:.0}µs", nanos / 1e3),
        nanos if nanos < 1e9 => format!("{:.1}ms", nanos / 1e6),
        nanos => format!("{:.2}s", nanos / 1e9),
    }
}

/// Attributes, each behind a space.
fn shown(pairs: &[KeyValue]) -> String {
    let texts = pairs.iter().map(|pair| {
        let value = pair.value.as_ref().and_then(|any| any.value.as_ref());
        let value = match value {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(truth)) => truth.to_string(),
            Some(Value::DoubleValue(number)) => format!("{number:.6}"),
            other => format!("{other:?}"),
        };
        format!(" {}={value}", pair.key)
    });
    texts.collect()
}
