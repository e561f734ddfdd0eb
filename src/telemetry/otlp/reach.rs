//! What is said about a collector that takes nothing: one line when an outage begins, one when it is over.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use opentelemetry_sdk::error::OTelSdkResult;

/// One collector as its exports find it.
#[derive(Debug)]
pub(super) struct Reach {
    host: String,
    outages: Mutex<Outages>,
}

impl Reach {
    pub(super) fn new(host: String) -> Self {
        Self {
            host,
            outages: Mutex::default(),
        }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The export of a signal ended.
    pub(super) fn seen(&self, signal: &'static str, result: &OTelSdkResult) {
        let (began, over) = {
            let mut outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(()) => (false, outages.got_through(signal)),
                Err(_) => (outages.failed(signal), Vec::new()),
            }
        };
        if let (Err(error), true) = (result, began) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(collector = self.host, signal, error, "telemetry_not_taken");
        }
        for signal in over {
            tracing::info!(collector = self.host, signal, "telemetry_taken_again");
        }
    }
}

/// The outages of now. Signals that fail together have one, named by the first of them. A signal that got through while others failed
/// has one of its own when it fails: else nobody would hear of it for as long as the others do.
#[derive(Debug, Default)]
struct Outages(Vec<Outage>);

#[derive(Debug)]
struct Outage {
    named: &'static str,
    failing: BTreeSet<&'static str>,
    /// What got through since it began.
    through: BTreeSet<&'static str>,
}

impl Outages {
    /// Whether an outage begins with this.
    fn failed(&mut self, signal: &'static str) -> bool {
        let is_known = |outage: &Outage| outage.failing.contains(signal);
        if self.0.iter().any(is_known) {
            return false;
        }
        let is_part = |outage: &&mut Outage| !outage.through.contains(signal);
        if let Some(outage) = self.0.iter_mut().find(is_part) {
            outage.failing.insert(signal);
            return false;
        }
        self.0.push(Outage {
            named: signal,
            failing: BTreeSet::from([signal]),
            through: BTreeSet::new(),
        });
        true
    }

    /// The names of the outages that are over with this.
    fn got_through(&mut self, signal: &'static str) -> Vec<&'static str> {
        for outage in &mut self.0 {
            outage.failing.remove(signal);
            outage.through.insert(signal);
        }
        let over = self.0.extract_if(.., |outage| outage.failing.is_empty());
        over.map(|outage| outage.named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of each export in turn; one that fails has a `!` before its signal.
    fn said(exports: &[&'static str]) -> Vec<String> {
        let mut outages = Outages::default();
        let said = exports
            .iter()
            .flat_map(|export| match export.strip_prefix('!') {
                Some(signal) if outages.failed(signal) => vec![format!("{signal} is not taken")],
                Some(_) => vec![],
                None => {
                    let over = outages.got_through(export).into_iter();
                    over.map(|named| format!("{named} is taken again"))
                        .collect()
                }
            });
        said.collect()
    }

    #[test]
    fn a_collector_that_goes_and_comes_is_one_line_each() {
        let exports = [
            "traces", "!traces", "!metrics", "!traces", "!logs", "metrics",
        ];
        assert_eq!(said(&exports), ["traces is not taken"]);
        let further = [&exports[..], &["traces", "logs", "metrics"]].concat();
        assert_eq!(
            said(&further),
            ["traces is not taken", "traces is taken again"]
        );
    }

    #[test]
    fn a_signal_that_never_gets_through_does_not_silence_the_others() {
        let exports = [
            "!logs", "metrics", "traces", "!logs", "!traces", "!metrics", "!logs", "metrics",
            "traces", "logs",
        ];
        let lines = [
            "logs is not taken",
            "traces is not taken",
            "traces is taken again",
            "logs is taken again",
        ];
        assert_eq!(said(&exports), lines);
    }
}
