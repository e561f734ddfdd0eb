//! Spans: what happens to a request's events, in every stage, as one story.
//!
//! ```text
//!   the sender's trace:   request ──▶ batch message                        stored        loaded
//!                            ▲ ▲            (links)                          │ (links)      │
//!   traces of the stages:    │ └── wal append                                ▼              ▼
//!                            └──── seal ─▶ send ─▶ receive ─▶ process ─▶ store write    manifest ─▶ load job, merge
//! ```
//!
//! 1. *Decided before it costs anything.* Whether a request is recorded is decided from its `traceparent`, else by the
//!    sampler, before there is a span; what is not recorded costs a lookup in its headers. A span of a later stage is recorded
//!    when a recorded request has events in it, or when something in it fails: until then such a span is a name and a moment.
//! 2. *Through the log.* A recorded event carries 25 bytes ([`TraceLink`]) in its record. So a batch that is read again after
//!    a crash still leads to its requests.
//! 3. *Bounded.* A span links to at most [`LINKS_MAX`] requests, an object names at most [`FOLLOWED_MAX`]; the rest is counted.
//! 4. *Nothing personal.* No attribute holds what a client made up.
//!
//! Spans are made through OpenTelemetry's own interface and not through `tracing`: a `tracing` span costs about a microsecond
//! whether or not it is recorded. Log lines find theirs in OpenTelemetry's context.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::future::Either;
use http::HeaderMap;
use opentelemetry::context::{FutureExt as _, WithContext};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SdkTracer, ShouldSample as _,
};

use super::names;
use crate::event::TraceLink;

mod contexts;
#[cfg(test)]
pub(crate) mod kept;
mod scope;

pub use contexts::Contexts;
pub use scope::{Scope, current, current_link, followed};

/// To how many requests a span links.
pub const LINKS_MAX: usize = 128;

/// How many requests an object names, so that they hear what becomes of it.
pub const FOLLOWED_MAX: usize = 64;

/// Makes spans, or none. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracing(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    tracer: SdkTracer,
    sampler: Sampler,
    follows: bool,
}

impl Tracing {
    /// No spans.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Spans by this tracer, which records whatever it is asked for ([`Sampler::AlwaysOn`], ids from [`Ids`]): `sampler` has
    /// decided before. `follows`: whether contexts that clients send count.
    #[must_use]
    pub fn new(tracer: SdkTracer, sampler: Sampler, follows: bool) -> Self {
        Self(Some(Arc::new(Inner {
            tracer,
            sampler,
            follows,
        })))
    }

    /// Whether what a client decided for the trace of a single event counts: contexts that clients send do, and the sampler asks parents.
    #[must_use]
    pub fn follows(&self) -> bool {
        let asks_parents = |sampler: &Sampler| matches!(sampler, Sampler::ParentBased(_));
        let inner = self.0.as_ref();
        inner.is_some_and(|inner| inner.follows && asks_parents(&inner.sampler))
    }

    /// Whether there can be spans at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a request, if it is to be recorded: as its sender says in `traceparent`, else as the sampler says.
    #[must_use]
    pub fn request(
        &self,
        headers: &HeaderMap,
        about: impl FnOnce() -> (Cow<'static, str>, Vec<KeyValue>),
    ) -> Span {
        let Some(inner) = &self.0 else {
            return Span::none();
        };
        let parent = if inner.follows && headers.contains_key("traceparent") {
            let headers = HeaderExtractor(headers);
            TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
        } else {
            Context::new()
        };
        let (is_root, trace_id) = {
            let parent = parent.span().span_context().clone();
            if parent.is_valid() {
                (false, parent.trace_id())
            } else {
                (true, RandomIdGenerator::default().new_trace_id())
            }
        };
        let kind = SpanKind::Server;
        let decided = inner
            .sampler
            .should_sample(Some(&parent), trace_id, "", &kind, &[], &[]);
        if decided.decision != SamplingDecision::RecordAndSample {
            return Span::none();
        }
        if is_root {
            Ids::choose(trace_id);
        }
        let (name, attributes) = about();
        let builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_attributes(attributes);
        Span::recorded(inner.tracer.build_with_context(builder, &parent))
    }

    /// A span of a stage.
    pub fn span(&self, name: &'static str) -> Start<'_> {
        Start {
            tracing: self,
            name,
            kind: SpanKind::Internal,
            parent: None,
            links: Vec::new(),
            left_out: 0,
            started: None,
        }
    }
}

/// A span about to begin.
#[derive(Debug)]
#[must_use = "it begins with `start`"]
pub struct Start<'a> {
    tracing: &'a Tracing,
    name: &'static str,
    kind: SpanKind,
    parent: Option<TraceLink>,
    links: Vec<TraceLink>,
    left_out: usize,
    started: Option<SystemTime>,
}

impl Start<'_> {
    /// Its role towards other processes.
    pub fn kind(mut self, kind: SpanKind) -> Self {
        self.kind = kind;
        self
    }

    /// The span that it is a part of.
    pub fn child_of(mut self, parent: Option<TraceLink>) -> Self {
        self.parent = parent;
        self
    }

    /// What else it belongs to, at most [`LINKS_MAX`].
    pub fn linked(mut self, links: impl IntoIterator<Item = TraceLink>) -> Self {
        for link in links {
            if self.links.len() < LINKS_MAX {
                self.links.push(link);
            } else {
                self.left_out += 1;
            }
        }
        self
    }

    /// The requests that it belongs to.
    pub fn linked_to(self, contexts: &Contexts) -> Self {
        let mut linked = self.linked(contexts.kept().iter().copied());
        linked.left_out += contexts.left_out();
        linked
    }

    /// When it began, if that is in the past.
    pub fn since(mut self, started: SystemTime) -> Self {
        self.started = Some(started);
        self
    }

    /// Begins: recorded when its parent or what it links to is, else only remembered, in case it fails.
    #[must_use]
    pub fn start(self) -> Span {
        let Some(inner) = &self.tracing.0 else {
            return Span::none();
        };
        let is_recorded = self.parent.is_some() || !self.links.is_empty();
        let mut builder = SpanBuilder::from_name(self.name)
            .with_kind(self.kind)
            .with_start_time(self.started.unwrap_or_else(now));
        if !is_recorded {
            return Span::remembered(Arc::clone(inner), builder);
        }
        if !self.links.is_empty() {
            let links = self.links.into_iter();
            builder =
                builder.with_links(links.map(|to| Link::new(remote(to), vec![], 0)).collect());
        }
        if self.left_out > 0 {
            let left_out = count(self.left_out);
            builder = builder.with_attributes([KeyValue::new(names::LINKS_LEFT_OUT, left_out)]);
        }
        let parent = match self.parent {
            Some(parent) => Context::new().with_remote_span_context(remote(parent)),
            None => Context::new(),
        };
        Span::recorded(inner.tracer.build_with_context(builder, &parent))
    }
}

/// A span, or none. It ends with its last handle.
#[derive(Debug, Clone, Default)]
pub struct Span(Option<Arc<Live>>);

#[derive(Debug)]
struct Live {
    /// What others link to; of a span that is only remembered there is nothing to link to.
    link: Option<TraceLink>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Recorded(Box<opentelemetry_sdk::trace::Span>),
    Remembered(Box<(Arc<Inner>, SpanBuilder)>),
}

impl Span {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    fn recorded(span: opentelemetry_sdk::trace::Span) -> Self {
        Self(Some(Arc::new(Live {
            link: link_of(span.span_context()),
            state: Mutex::new(State::Recorded(Box::new(span))),
        })))
    }

    fn remembered(inner: Arc<Inner>, builder: SpanBuilder) -> Self {
        Self(Some(Arc::new(Live {
            link: None,
            state: Mutex::new(State::Remembered(Box::new((inner, builder)))),
        })))
    }

    /// What others can link to, if it is recorded.
    #[must_use]
    pub fn link(&self) -> Option<TraceLink> {
        self.0.as_ref()?.link
    }

    /// Adds what is known only now.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        let Some(live) = &self.0 else { return };
        let attribute = KeyValue::new(key, value);
        match &mut *live.state() {
            State::Recorded(span) => span.set_attribute(attribute),
            State::Remembered(remembered) => {
                let attributes = &mut remembered.1.attributes;
                attributes.get_or_insert_default().push(attribute);
            }
        }
    }

    /// What was set under a name, of a span that is recorded.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value> {
        let State::Recorded(span) = &*self.0.as_ref()?.state() else {
            return None;
        };
        let attributes = span.exported_data()?.attributes;
        let found = attributes.into_iter().rfind(|one| one.key.as_str() == key);
        found.map(|found| found.value)
    }

    /// An attempt failed and is made again: recorded whatever the sampler said. The type is a word of a closed list: a back end groups
    /// by it, and no text of somebody else's gets into it.
    pub fn retried(&self, error_type: &'static str, attempt: u32) {
        let Some(live) = &self.0 else { return };
        live.with_recorded(|span| {
            let attributes = vec![
                KeyValue::new(names::ERROR_TYPE, error_type),
                KeyValue::new(names::ATTEMPT, i64::from(attempt)),
            ];
            span.add_event(names::RETRY, attributes);
        });
    }

    /// It failed for good: recorded whatever the sampler said. Of the type see [`Span::retried`].
    pub fn failed(&self, error_type: &'static str) {
        let Some(live) = &self.0 else { return };
        live.with_recorded(|span| {
            let error_type = KeyValue::new(names::ERROR_TYPE, error_type);
            span.add_event(names::FAILURE, vec![error_type.clone()]);
            span.set_attribute(error_type);
            span.set_status(Status::error(""));
        });
    }

    /// Runs a future within it: the log lines that it writes carry its ids.
    pub fn around<F: Future>(&self, future: F) -> Either<F, WithContext<F>> {
        match self.link() {
            None => Either::Left(future),
            Some(_) => Either::Right(future.with_context(self.context())),
        }
    }

    /// Where it is the span in which the caller works, if it is recorded.
    fn context(&self) -> Context {
        self.link().map_or_else(Context::new, |link| {
            Context::new().with_remote_span_context(remote(link))
        })
    }
}

impl Live {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_recorded(&self, change: impl FnOnce(&mut opentelemetry_sdk::trace::Span)) {
        let mut state = self.state();
        if let State::Remembered(remembered) = &mut *state {
            let (inner, builder) = &mut **remembered;
            let builder = std::mem::take(builder);
            let span = inner.tracer.build_with_context(builder, &Context::new());
            *state = State::Recorded(Box::new(span));
        }
        if let State::Recorded(span) = &mut *state {
            change(span);
        }
    }
}

/// What others link to, of a span that is recorded.
fn link_of(context: &SpanContext) -> Option<TraceLink> {
    context.is_sampled().then(|| link_to(context))
}

/// The same of any span, also of one that is not recorded.
pub(crate) fn link_to(context: &SpanContext) -> TraceLink {
    TraceLink {
        trace_id: context.trace_id().to_bytes(),
        span_id: context.span_id().to_bytes(),
        flags: context.trace_flags().to_u8(),
    }
}

/// A span of another process, or of this one before it was started anew.
fn remote(link: TraceLink) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(link.trace_id),
        SpanId::from_bytes(link.span_id),
        TraceFlags::new(link.flags),
        true,
        TraceState::default(),
    )
}

/// The time as spans have it.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "a span's times are for people: nothing is decided by them"
)]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// A number as an attribute holds it.
#[must_use]
pub fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Random ids; but the trace id by which the sampler decided becomes that of the span.
#[derive(Debug, Default, Clone)]
pub struct Ids(RandomIdGenerator);

thread_local! {
    static CHOSEN: std::cell::Cell<Option<TraceId>> = const { std::cell::Cell::new(None) };
}

impl Ids {
    fn choose(trace_id: TraceId) {
        CHOSEN.set(Some(trace_id));
    }
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        CHOSEN.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

#[cfg(test)]
mod tests;
