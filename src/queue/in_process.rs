//! The in-process queue.

/// Placeholder.
pub fn in_process() {}
