//! What became of everything, in figures: counted on the way, shown at the end.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::source::Batch;
use crate::cli::latencies::Latencies;
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::client::{Delivery, Outcome};

/// Exit code: ended by Ctrl-C with nothing else to complain of.
const EXIT_INTERRUPTED: u8 = 130;

/// How many problems are listed one by one; all are counted.
const LISTED_MAX: usize = 100;

/// How many of them are printed on the way.
const PRINTED_MAX: usize = 20;

pub(super) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// An event or several that were not stored, or nobody knows.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
struct Problem {
    /// The line, or the event's number, from 1; of several, the first.
    place: u64,
    /// `invalid`, `rejected` or `unacknowledged`.
    status: &'static str,
    /// How many events.
    events: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    reason: String,
}

/// Counts on the way.
#[derive(Debug)]
pub(super) struct Tally {
    unit: &'static str,
    started: Instant,
    took: Duration,
    accepted: u64,
    duplicate: u64,
    rejected: u64,
    unacknowledged: u64,
    invalid: u64,
    requests: u64,
    retries: u64,
    rejected_by_code: BTreeMap<String, u64>,
    problems: Vec<Problem>,
    printed: usize,
    trouble: Option<String>,
    broken: Option<String>,
    latency: Latencies,
    interrupted: bool,
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) to: String,
    pub(super) rpc: &'static str,
    pub(super) seed: Option<u64>,
}

impl Tally {
    pub(super) fn new(unit: &'static str) -> Self {
        Self {
            unit,
            started: Instant::now(),
            took: Duration::ZERO,
            accepted: 0,
            duplicate: 0,
            rejected: 0,
            unacknowledged: 0,
            invalid: 0,
            requests: 0,
            retries: 0,
            rejected_by_code: BTreeMap::new(),
            problems: Vec::new(),
            printed: 0,
            trouble: None,
            broken: None,
            latency: Latencies::default(),
            interrupted: false,
        }
    }

    /// How many events have their outcome.
    pub(super) fn known(&self) -> u64 {
        self.accepted + self.duplicate + self.rejected + self.unacknowledged
    }

    /// What the last batch met with, if it was not all well.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Counts what became of a batch; returns what people should read now.
    pub(super) fn add(
        &mut self,
        batch: &Batch,
        delivery: &Delivery,
        took: Duration,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        self.invalid += count(batch.invalid.len());
        for (place, reason) in &batch.invalid {
            let problem = Problem {
                place: *place,
                status: "invalid",
                events: 1,
                message_id: None,
                code: None,
                reason: reason.clone(),
            };
            self.note(problem, &mut lines);
        }
        self.requests += u64::from(delivery.requests);
        self.retries += u64::from(delivery.retries);
        self.trouble = delivery.error.as_ref().map(ToString::to_string);
        let mut lost: BTreeMap<&str, Problem> = BTreeMap::new();
        let answers = batch.places.iter().zip(&batch.events);
        for ((place, event), outcome) in answers.zip(&delivery.outcomes) {
            match outcome {
                Outcome::Accepted => self.accepted += 1,
                Outcome::Duplicate => self.duplicate += 1,
                Outcome::Rejected { code, reason } => {
                    self.rejected += 1;
                    *self.rejected_by_code.entry(code.clone()).or_default() += 1;
                    let problem = Problem {
                        place: *place,
                        status: "rejected",
                        events: 1,
                        message_id: Some(event.message_id().to_owned()),
                        code: Some(code.clone()),
                        reason: reason.clone(),
                    };
                    self.note(problem, &mut lines);
                }
                Outcome::Unacknowledged { reason } => {
                    self.unacknowledged += 1;
                    let problem = lost.entry(reason).or_insert_with(|| Problem {
                        place: *place,
                        status: "unacknowledged",
                        events: 0,
                        message_id: Some(event.message_id().to_owned()),
                        code: None,
                        reason: reason.clone(),
                    });
                    problem.events += 1;
                }
            }
        }
        let is_answered = |outcome: &Outcome| !matches!(outcome, Outcome::Unacknowledged { .. });
        if delivery.outcomes.iter().any(is_answered) {
            self.latency.record(took);
        }
        for problem in lost.into_values() {
            self.note(problem, &mut lines);
        }
        if let Some(error) = &batch.broken {
            lines.push(format!("the input broke off: {error}"));
            self.broken = Some(error.to_string());
        }
        lines
    }

    fn note(&mut self, problem: Problem, lines: &mut Vec<String>) {
        self.printed = self.printed.saturating_add(1);
        if self.printed <= PRINTED_MAX {
            let more = match problem.events {
                0 | 1 => String::new(),
                events => format!(" and {} more", events - 1),
            };
            let code = problem
                .code
                .as_ref()
                .map_or_else(String::new, |code| format!("{code}: "));
            lines.push(format!(
                "{} {}{more}: {}: {code}{}",
                self.unit, problem.place, problem.status, problem.reason
            ));
        } else if self.printed == PRINTED_MAX + 1 {
            lines.push("more problems are counted, not listed".to_owned());
        }
        if self.problems.len() < LISTED_MAX {
            self.problems.push(problem);
        }
    }

    /// Nothing more comes. What was submitted and has no outcome is unacknowledged.
    pub(super) fn end(&mut self, submitted: u64, interrupted: bool) {
        self.unacknowledged += submitted.saturating_sub(self.known());
        self.took = self.started.elapsed();
        self.interrupted = interrupted;
    }

    /// Whether everything was stored, as an exit code.
    pub(super) fn exit_code(&self) -> u8 {
        let lost = self.rejected + self.unacknowledged + self.invalid;
        match (lost, &self.broken) {
            (0, None) if self.interrupted => EXIT_INTERRUPTED,
            (0, None) => EXIT_OK,
            _ => EXIT_FAILED,
        }
    }

    pub(super) fn summary<'a>(&'a self, setup: &'a Setup) -> Summary<'a> {
        let seconds = self.took.as_secs_f64();
        let stored = self.accepted + self.duplicate;
        Summary {
            to: &setup.to,
            rpc: setup.rpc,
            seed: setup.seed,
            events: self.known(),
            accepted: self.accepted,
            duplicate: self.duplicate,
            rejected: self.rejected,
            unacknowledged: self.unacknowledged,
            invalid_lines: self.invalid,
            rejected_by_code: &self.rejected_by_code,
            requests: self.requests,
            retries: self.retries,
            seconds: rounded(seconds),
            events_per_second: rounded(per_second(stored, seconds)),
            latency_ms: figures(&self.latency),
            interrupted: self.interrupted,
            input_error: self.broken.as_deref(),
            problems: &self.problems,
            problems_listed_all: self.printed == self.problems.len(),
        }
    }
}

/// What became of everything.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    to: &'a str,
    rpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    events: u64,
    accepted: u64,
    duplicate: u64,
    rejected: u64,
    unacknowledged: u64,
    invalid_lines: u64,
    rejected_by_code: &'a BTreeMap<String, u64>,
    requests: u64,
    retries: u64,
    seconds: f64,
    events_per_second: f64,
    latency_ms: Option<Figures>,
    interrupted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_error: Option<&'a str>,
    problems: &'a [Problem],
    problems_listed_all: bool,
}

impl Summary<'_> {
    /// One JSON object on a line of its own.
    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }

    /// For people.
    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (to, rpc, seconds) = (self.to, self.rpc, self.seconds);
        writeln!(out, "{} events to {to} ({rpc}) in {seconds} s", self.events)?;
        writeln!(out, "  accepted        {}", self.accepted)?;
        writeln!(out, "  duplicate       {}", self.duplicate)?;
        let codes: Vec<String> = self
            .rejected_by_code
            .iter()
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        let codes = match codes.as_slice() {
            [] => String::new(),
            codes => format!("  ({})", codes.join(", ")),
        };
        writeln!(out, "  rejected        {}{codes}", self.rejected)?;
        writeln!(out, "  unacknowledged  {}", self.unacknowledged)?;
        if self.invalid_lines > 0 {
            writeln!(out, "  invalid lines   {}", self.invalid_lines)?;
        }
        if let Some(error) = self.input_error {
            writeln!(out, "the input broke off: {error}")?;
        }
        writeln!(
            out,
            "{} events/s stored, {} requests, {} retries",
            self.events_per_second, self.requests, self.retries
        )?;
        if let Some(latency) = &self.latency_ms {
            let Figures { p50, p99, max } = latency;
            writeln!(
                out,
                "latency per batch: p50 {p50} ms, p99 {p99} ms, max {max} ms"
            )?;
        }
        if let Some(seed) = self.seed {
            writeln!(out, "seed {seed}")?;
        }
        if self.interrupted {
            writeln!(out, "interrupted: what was not read was not sent")?;
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people, far below 2^53"
)]
fn per_second(events: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        events as f64 / seconds
    } else {
        0.0
    }
}

/// To three places.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// In milliseconds.
#[derive(Debug, Serialize, PartialEq)]
struct Figures {
    p50: f64,
    p99: f64,
    max: f64,
}

fn figures(latencies: &Latencies) -> Option<Figures> {
    (!latencies.is_empty()).then(|| Figures {
        p50: rounded(latencies.millis_at(0.5)),
        p99: rounded(latencies.millis_at(0.99)),
        max: rounded(latencies.millis_max()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_the_truth() {
        type Change = fn(&mut Tally);
        let cases: [(Change, u8); 6] = [
            (|_| {}, 0),
            (|tally| tally.rejected = 1, 1),
            (|tally| tally.unacknowledged = 1, 1),
            (|tally| tally.invalid = 1, 1),
            (|tally| tally.broken = Some("x".into()), 1),
            (|tally| tally.interrupted = true, 130),
        ];
        for (change, expected) in cases {
            let mut tally = Tally::new("line");
            tally.accepted = 5;
            change(&mut tally);
            assert_eq!(tally.exit_code(), expected, "{tally:?}");
        }
    }

    #[test]
    fn what_was_under_way_at_the_end_is_unacknowledged() {
        let mut tally = Tally::new("event");
        tally.accepted = 3;
        tally.end(10, true);
        assert_eq!(tally.unacknowledged, 7);
        assert_eq!(tally.exit_code(), 1);
    }
}
