//! Sends events as a service should: into a queue of bounded size, from which they leave in batches over one stream.
//!
//! Reads one JSON object a line from standard input:
//!
//! ```console
//! $ cargo run --example send -- grpc://localhost:50051 < examples/events.ndjson
//! accepted 3 duplicate 0 rejected 0
//! ```
//!
//! `EVENTKIT_WRITE_KEY` is the write key, where the gateway asks for one.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program of its own"
)]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use eventkit::client::{
    BatchOptions, Client, Event, OnOutcome, Options, Outcome, RetryPolicy, Rpc, WhenFull, WriteKey,
};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// After so long without any progress, the failure is the application's.
const WITHOUT_PROGRESS_MAX: Duration = Duration::from_secs(120);
/// How long the last events may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(150);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let address = std::env::args()
        .nth(1)
        .ok_or("usage: send grpc://HOST:PORT")?;
    let write_key = std::env::var("EVENTKIT_WRITE_KEY").ok();
    let client = Client::new(Options {
        rpc: Rpc::Bidi,
        write_key: write_key.as_deref().map(WriteKey::new).transpose()?,
        answer_timeout: Duration::from_secs(10),
        retry: RetryPolicy {
            elapsed_max: WITHOUT_PROGRESS_MAX,
            ..RetryPolicy::default()
        },
        ..Options::new(address.parse()?)
    })?;
    let queue = client.batching(BatchOptions {
        // One after the other: each user's events are stored in the order in which they were sent.
        concurrency: 1,
        age_max: Duration::from_millis(200),
        // Whoever sends waits while the queue is full. A service that must not wait refuses, and counts.
        queue_events: 1_000,
        when_full: WhenFull::Wait,
        on_outcome: OnOutcome::new(tell),
        ..BatchOptions::default()
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match event(&line) {
            Ok(event) => queue.enqueue(event).await?,
            Err(error) => eprintln!("not sent: {error}"),
        }
    }
    // Everything has its outcome then, or time is up.
    let closed = queue.close(CLOSE_WITHIN).await;
    let stats = queue.client().stats();
    println!(
        "accepted {} duplicate {} rejected {}",
        stats.accepted, stats.duplicate, stats.rejected
    );
    Ok(match closed {
        Ok(()) if stats.unacknowledged == 0 => ExitCode::SUCCESS,
        _ => {
            eprintln!(
                "not acknowledged: {}; send them again",
                stats.unacknowledged
            );
            ExitCode::FAILURE
        }
    })
}

/// An event from the fields of a line. It gets its id here, once.
fn event(line: &str) -> Result<Event, Box<dyn Error>> {
    let fields: Map<String, Value> = serde_json::from_str(line)?;
    let builder = Event::builder("track");
    let builder = fields
        .into_iter()
        .fold(builder, |builder, (name, value)| builder.field(name, value));
    Ok(builder.build()?)
}

/// What became of an event. One that is unacknowledged may be put into a file, or into the queue again: it keeps its id.
fn tell(event: &Event, outcome: &Outcome) {
    match outcome {
        Outcome::Accepted | Outcome::Duplicate => {}
        Outcome::Rejected { code, reason } => {
            eprintln!("rejected {}: {code}: {reason}", event.message_id());
        }
        Outcome::Unacknowledged { reason } => {
            eprintln!("not acknowledged {}: {reason}", event.message_id());
        }
    }
}
