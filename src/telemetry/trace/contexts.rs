//! The distinct requests that some events came in.

use std::collections::HashSet;

use super::LINKS_MAX;
use crate::event::TraceLink;
use crate::wal::record;

/// From how many on a set is kept beside the list.
const FEW: usize = 8;

/// Distinct contexts in the order in which they were seen: the first so many of them, and how many more there were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    kept: Vec<TraceLink>,
    max: usize,
    /// All of them, where they are many; what is only read any more has none.
    seen: HashSet<TraceLink, ahash::RandomState>,
    left_out: usize,
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
            seen: HashSet::default(),
            left_out: 0,
        }
    }

    /// Those of encoded records.
    #[must_use]
    pub fn of_records<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut contexts = Self::default();
        contexts.extend(records.into_iter().filter_map(record::trace_link));
        contexts
    }

    /// Adds one. Events of one request lie side by side, so that most are the one before.
    pub fn add(&mut self, link: TraceLink) {
        if self.kept.last() == Some(&link) || !self.is_new(link) {
            return;
        }
        if self.kept.len() < self.max {
            self.kept.push(link);
        } else {
            self.left_out += 1;
        }
    }

    /// So many more there were before they came here.
    pub fn leave_out(&mut self, more: usize) {
        self.left_out = self.left_out.saturating_add(more);
    }

    /// Few are looked through: most requests, and most groups of them, have no more.
    fn is_new(&mut self, link: TraceLink) -> bool {
        if self.kept.len() < FEW.min(self.max) {
            return !self.kept.contains(&link);
        }
        if self.seen.is_empty() {
            self.seen.extend(&self.kept);
        }
        self.seen.insert(link)
    }

    /// The first of them.
    #[must_use]
    pub fn kept(&self) -> &[TraceLink] {
        &self.kept
    }

    /// How many more there are.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The same with at most so many, to be read: whatever the number of all, it costs no more than what it keeps.
    #[must_use]
    pub fn first(&self, max: usize) -> Self {
        let kept: Vec<_> = self.kept.iter().take(max).copied().collect();
        Self {
            left_out: self.left_out + (self.kept.len() - kept.len()),
            kept,
            ..Self::new(max)
        }
    }
}

impl Extend<TraceLink> for Contexts {
    fn extend<T: IntoIterator<Item = TraceLink>>(&mut self, links: T) {
        for link in links {
            self.add(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(n: u8) -> TraceLink {
        TraceLink {
            trace_id: [n; 16],
            span_id: [n; 8],
            flags: 1,
        }
    }

    #[test]
    fn many_contexts_count_once_each_as_few_do() {
        let mut contexts = Contexts::new(20);
        for n in (0..30).chain(0..40) {
            contexts.add(link(n));
        }
        let kept: Vec<_> = (0..20).map(link).collect();
        assert_eq!(contexts.kept(), kept);
        assert_eq!(contexts.left_out(), 20);
    }

    #[test]
    fn each_context_counts_once_and_only_the_first_are_kept() {
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
