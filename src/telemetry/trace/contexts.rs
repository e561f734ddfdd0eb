//! The distinct requests that some events came in.

use std::collections::HashSet;

use super::LINKS_MAX;
use crate::event::TraceLink;
use crate::wal::record;

/// Distinct contexts in the order in which they were seen: the first so many of them, and how many more there were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    kept: Vec<TraceLink>,
    max: usize,
    /// All of them.
    seen: HashSet<TraceLink>,
}

impl Default for Contexts {
    fn default() -> Self {
        Self::new(LINKS_MAX)
    }
}

impl Contexts {
    /// None yet, and at most so many.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            kept: Vec::new(),
            max,
            seen: HashSet::new(),
        }
    }

    /// Those of encoded records.
    #[must_use]
    pub fn of_records<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut contexts = Self::default();
        for link in records.into_iter().filter_map(record::trace_link) {
            contexts.add(link);
        }
        contexts
    }

    /// Adds one. Events of one request lie side by side, so that most are the one before.
    pub fn add(&mut self, link: TraceLink) {
        if self.kept.last() == Some(&link) || !self.seen.insert(link) {
            return;
        }
        if self.kept.len() < self.max {
            self.kept.push(link);
        }
    }

    /// The first of them.
    #[must_use]
    pub fn kept(&self) -> &[TraceLink] {
        &self.kept
    }

    /// How many more there are.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.seen.len().saturating_sub(self.kept.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The same with at most so many.
    #[must_use]
    pub fn first(&self, max: usize) -> Self {
        let mut first = self.clone();
        first.kept.truncate(max);
        first.max = max;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_context_counts_once_and_only_the_first_are_kept() {
        let link = |n: u8| TraceLink {
            trace_id: [n; 16],
            span_id: [n; 8],
            flags: 1,
        };
        let mut contexts = Contexts::new(2);
        assert!(contexts.is_empty());
        for n in [1, 1, 2, 1, 3, 3, 4, 2] {
            contexts.add(link(n));
        }
        assert_eq!(contexts.kept(), [link(1), link(2)]);
        assert_eq!(contexts.left_out(), 2);
        assert_eq!(contexts.first(1).kept(), [link(1)]);
        assert_eq!(contexts.first(1).left_out(), 3);
    }
}
