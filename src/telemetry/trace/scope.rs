//! What a step tells the ones that it calls: in which span they work, and for which requests.
//!
//! It travels in OpenTelemetry's context, beside the arguments: what a store or a queue does must not depend on it.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::context::{FutureExt as _, WithContext};
use opentelemetry::trace::TraceContextExt as _;

use super::{Contexts, Span, link_of};
use crate::event::TraceLink;

/// See the module's page.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    span: Span,
    followed: Arc<Contexts>,
}

impl Scope {
    /// Within a span, for nobody in particular.
    #[must_use]
    pub fn of(span: &Span) -> Self {
        Self {
            span: span.clone(),
            followed: Arc::default(),
        }
    }

    /// The same, for these requests.
    #[must_use]
    pub fn following(mut self, followed: Arc<Contexts>) -> Self {
        self.followed = followed;
        self
    }

    /// Runs a future within it.
    pub fn around<F: Future>(&self, future: F) -> WithContext<F> {
        let context = self.span.context();
        future.with_context(match self.span.0 {
            // Without a span there is nothing to tell.
            None => context,
            Some(_) => context.with_value(self.clone()),
        })
    }
}

/// The span that the caller works in.
#[must_use]
pub fn current() -> Span {
    Context::map_current(|context| {
        let scope = context.get::<Scope>();
        scope.map(|scope| scope.span.clone()).unwrap_or_default()
    })
}

/// The requests that the caller works for.
#[must_use]
pub fn followed() -> Arc<Contexts> {
    Context::map_current(|context| {
        let scope = context.get::<Scope>();
        scope
            .map(|scope| Arc::clone(&scope.followed))
            .unwrap_or_default()
    })
}

/// The recorded span that the caller works in, as log lines name it.
#[must_use]
pub fn current_link() -> Option<TraceLink> {
    Context::map_current(|context| {
        if context.has_active_span() {
            link_of(context.span().span_context())
        } else {
            None
        }
    })
}
