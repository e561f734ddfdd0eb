//! The client: sends batches of events to a gateway and says what became of every single one.
//!
//! What it promises:
//!
//! 1. Every event of a batch ends as exactly one [`Outcome`]: accepted, duplicate, rejected or unacknowledged. None is lost
//!    track of, whatever the connection does.
//! 2. Every event has a message id before it is sent for the first time, and keeps it. So whatever was not acknowledged is
//!    sent again safely: what had been stored is answered as a duplicate.
//! 3. A refusal that invites a retry is retried, not before the moment that the gateway asks for (`Retry-After`, `RetryInfo`), and
//!    with a capped, jittered backoff. Any other is not. A batch that is too large is cut in two.
//! 4. Memory is bounded: by what the callers of [`Client::send`] hold, or by the limits of a [`Batcher`].
//!
//! Events of one [`Client::send`] keep their order. Sends that are under way at the same time have none among each other.
//!
//! Two complete programs are in the repository: `examples/rust/one.rs` (one event) and `examples/rust/send.rs` (a service that sends
//! as it goes: a queue, outcomes, a flush at its end).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use eventkit::client::{Client, Event, Options, Outcome};
//!
//! let client = Client::new(Options::new("http://127.0.0.1:8000".parse()?))?;
//! let event = Event::builder("track").user_id("u1").event("Signed up").build()?;
//! let delivery = client.send(&[event]).await;
//! assert_eq!(delivery.outcomes, [Outcome::Accepted]);
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::clock::{Clock, SystemClock};
use crate::ingress::admit::is_stream_name;

mod batcher;
mod bidi;
mod deliver;
mod event;
mod failure;
mod grpc;
mod http;
mod key;
mod proto;
mod stats;
mod target;
mod tls;

pub use batcher::{BatchOptions, Batcher, EnqueueError, FlushError, OnOutcome, WhenFull};
pub use deliver::{Delivery, Outcome};
pub use event::{BuildError, Builder, Event, FromJsonError};
pub use failure::AttemptError;
pub use key::{InvalidWriteKey, WriteKey};
pub(crate) use proto::event as to_proto;
pub use stats::Stats;
pub use target::{ParseTargetError, Protocol, Target};
pub use tls::{TlsError, TlsOptions};

use deliver::Transport;
use stats::Counts;

/// How batches travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rpc {
    /// `POST /collect`, one JSON array per batch.
    Http,
    /// `Collect`, one call per batch.
    Unary,
    /// `CollectStream`, one call with several messages per batch and one summary. Up to
    /// [`STREAM_CALL_EVENTS`] events per batch; of more, a part may be sent twice (and is stored once).
    Stream,
    /// `CollectBidi`, one long stream for all batches.
    Bidi,
}

/// How many events a `CollectStream` call carries at most so that its summary names each that was not accepted.
pub const STREAM_CALL_EVENTS: usize = 1_000;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// When to give up on events that are not acknowledged. Progress starts the count anew.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The most attempts without progress; 1 means no retry.
    pub attempts_max: u32,
    /// The longest time without progress. A wait that would end later is not begun: with less than several
    /// [`Options::answer_timeout`]s, an attempt that is not answered is the last one.
    pub elapsed_max: Duration,
    /// The waits between attempts, unless the gateway asks for longer ones: these are up to a quarter longer still, by chance.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    /// Half a minute, however often.
    fn default() -> Self {
        Self {
            attempts_max: u32::MAX,
            elapsed_max: Duration::from_secs(30),
            backoff: Backoff {
                base: Duration::from_millis(100),
                max: Duration::from_secs(5),
            },
        }
    }
}

/// Where and how a client sends.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway.
    pub target: Target,
    /// How batches travel.
    pub rpc: Rpc,
    /// The write key, where the gateway asks for one.
    pub write_key: Option<WriteKey>,
    /// Whom a connection by TLS (`https://`, `grpcs://`) trusts.
    pub tls: TlsOptions,
    /// The stream that events are stored under; `None` leaves it to the gateway.
    pub stream: Option<String>,
    /// Whether bodies and messages are gzipped.
    pub gzip: bool,
    /// When to give up.
    pub retry: RetryPolicy,
    /// The longest wait for one answer.
    pub answer_timeout: Duration,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// Events per message of a `CollectStream` call.
    pub message_events: usize,
    /// Tells the time that a `Retry-After` date is held against.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// The usual ways: HTTP or unary gRPC as the target says, no gzip.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            rpc: match target.protocol() {
                Protocol::Http => Rpc::Http,
                Protocol::Grpc => Rpc::Unary,
            },
            target,
            write_key: None,
            tls: TlsOptions::default(),
            stream: None,
            gzip: false,
            retry: RetryPolicy::default(),
            // Well below the longest time without progress: what was not answered is to be sent again.
            answer_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            message_events: 100,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Why there is no client with these options. Nothing was connected to.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// The stream's name is not one.
    #[error(
        "a stream name is 1 to 128 characters of A-Z a-z 0-9 _ - . and does not begin with a dot"
    )]
    InvalidStream,
    /// The target speaks gRPC alone, and HTTP was asked for.
    #[error(
        "a grpc:// or grpcs:// target takes no HTTP requests; give the http:// or https:// address instead"
    )]
    HttpToGrpc,
    /// gRPC has no paths below which a gateway could be.
    #[error("a target for gRPC is a host and a port, without a path")]
    PathWithGrpc,
    /// The address cannot be connected to.
    #[error("the address is not usable for gRPC")]
    Address(#[source] ::http::uri::InvalidUri),
    /// The certificates cannot be used.
    #[error("prepare TLS")]
    Tls(#[from] TlsError),
}

/// Sends events to one gateway. Connects when it is used, and again after a connection broke. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Arc<Transport>,
    retry: RetryPolicy,
    counts: Arc<Counts>,
}

impl Client {
    /// A client. Must be called within a runtime. Connects when it is used.
    ///
    /// # Errors
    ///
    /// [`NewError`]: options that contradict each other.
    pub fn new(options: Options) -> Result<Self, NewError> {
        if let Some(stream) = &options.stream
            && !is_stream_name(stream)
        {
            return Err(NewError::InvalidStream);
        }
        match (options.rpc, options.target.protocol()) {
            (Rpc::Http, Protocol::Grpc) => return Err(NewError::HttpToGrpc),
            (Rpc::Unary | Rpc::Stream | Rpc::Bidi, _) if options.target.has_path() => {
                return Err(NewError::PathWithGrpc);
            }
            _ => {}
        }
        let retry = options.retry;
        let transport = match options.rpc {
            Rpc::Http => Transport::Http(http::Http::new(options)?),
            Rpc::Unary => Transport::Unary(grpc::Grpc::new(options)?),
            Rpc::Stream => Transport::Stream(grpc::Grpc::new(options)?),
            Rpc::Bidi => Transport::Bidi(bidi::Bidi::open(grpc::Grpc::new(options)?)),
        };
        Ok(Self {
            transport: Arc::new(transport),
            retry,
            counts: Arc::new(Counts::new()),
        })
    }

    /// A queue before this client. Must be called within a runtime.
    #[must_use]
    pub fn batching(self, options: BatchOptions) -> Batcher {
        Batcher::new(self, options)
    }

    /// What became of everything so far, by this client and its clones.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counts.now()
    }

    /// Sends a batch until everything is answered or the limits of [`RetryPolicy`] are reached. Never fails as a whole:
    /// each event has its outcome, in the order of the batch.
    ///
    /// Requests belong to the trace of OpenTelemetry's current context. A stream does not, as it is everybody's: with [`Rpc::Bidi`], and
    /// for events from a queue, [`Builder::traceparent`] names the trace of an event.
    ///
    /// Dropped before its end, what became of the batch is unknown; sending the same events again is safe.
    pub async fn send(&self, events: &[Event]) -> Delivery {
        let trace = key::current_trace();
        let delivery = deliver::deliver(&self.transport, &self.retry, events, trace).await;
        self.counts.delivered(&delivery);
        delivery
    }
}
