//! What a step tells the ones that it calls: in which span they work, and for which requests.
//!
//! It travels in OpenTelemetry's context, beside the arguments: what a store or a queue does must not depend on it.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::context::{FutureExt as _, WithContext};

use super::{Contexts, Span};

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
        // Without a span there is nothing to tell.
        let context = match self.span.0 {
            None => Context::new(),
            Some(_) => Context::new().with_value(self.clone()),
        };
        future.with_context(context)
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
