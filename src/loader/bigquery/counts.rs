//! A job runs under each count once. Those that are used up are looked at once, and not again in every round of an outage of hours.

use std::collections::HashMap;

use super::super::manifest::Manifest;

/// The counts of one manifest's jobs that are not known to be used up. Forgotten with the process: then they are looked at again.
#[derive(Debug, Default)]
pub(super) struct Counts {
    manifest: u64,
    free: HashMap<&'static str, u32>,
}

impl Counts {
    /// The first count of a step that may be free.
    pub(super) fn free(&mut self, manifest: &Manifest, step: &'static str) -> u32 {
        if self.manifest != manifest.number {
            self.manifest = manifest.number;
            self.free.clear();
        }
        *self.free.entry(step).or_insert(1)
    }

    /// This count of it is used up.
    pub(super) fn used(&mut self, step: &'static str, count: u32) {
        self.free.insert(step, count.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::manifest::VERSION;
    use super::*;

    fn manifest(number: u64) -> Manifest {
        Manifest {
            version: VERSION,
            number,
            attempt: 1,
            created_at: String::new(),
            objects: Vec::new(),
        }
    }

    #[test]
    fn each_step_of_each_manifest_counts_from_one_over_what_is_used() {
        let mut counts = Counts::default();
        assert_eq!(counts.free(&manifest(1), "merge"), 1);
        counts.used("merge", 1);
        counts.used("merge", 2);
        assert_eq!(counts.free(&manifest(1), "merge"), 3);
        assert_eq!(counts.free(&manifest(1), "record"), 1);
        assert_eq!(counts.free(&manifest(2), "merge"), 1);
    }
}
