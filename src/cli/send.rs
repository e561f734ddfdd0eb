//! `eventkit send`: events into a gateway, from a file, from standard input or made up, and what became of each.
//!
//! Memory is bounded whatever the input's length: at most `--concurrency` batches are under way and one is being read,
//! each of at most `--batch` events (`--rpc stream`: as many as one summary lists) and about 1 MiB before its last line.
//! What cannot be sent is reported with its line and never stops the rest.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::EXIT_USAGE;
use super::progress::Progress;
use crate::client::{
    Client, Delivery, InvalidWriteKey, NewError, Options, Protocol, RetryPolicy, Rpc,
    STREAM_CALL_EVENTS, Target, TlsOptions, WriteKey,
};
use crate::clock::{Clock, SystemClock};
use crate::lifecycle::Stop;
use crate::telemetry::with_causes;

mod source;
mod summary;

use source::{Batch, OpenError, Source};
use summary::{Setup, Tally};

/// How long what is under way may still take after Ctrl-C.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);

/// How often the progress is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Examples and exit codes, below the options.
pub(super) const AFTER_HELP: &str = "\
Examples:
  eventkit send                                     1,000 made-up events to a local gateway
  eventkit send --count 0 --rate 500                500 events/s until Ctrl-C
  eventkit send events.jsonl --stream imports       a file, one JSON object per line
  zcat old.jsonl.gz | eventkit send - --gzip --json
  eventkit send --to grpc://127.0.0.1:50051 --rpc bidi --concurrency 16 --count 100000
  eventkit send --to https://events.example --write-key-file key.txt events.jsonl

Every event has a message id before it is first sent and keeps it, so what was not acknowledged
is sent again safely (--retry-for); what had been stored is then answered as a duplicate. A line
without a messageId gets one for this run alone: sending the file again stores it again.

Exit codes:
  0    every event was accepted or a duplicate
  1    an event was rejected or not acknowledged, or a line could not be read
  2    wrong command line, or the input cannot be opened; nothing was sent
  130  interrupted by Ctrl-C; everything that was sent was accepted or a duplicate";

/// How batches travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RpcArg {
    /// POST /collect with a JSON array
    Http,
    /// Collect: one call per batch
    Unary,
    /// CollectStream: several batches per call, one summary
    Stream,
    /// CollectBidi: one stream, each batch acknowledged
    Bidi,
}

impl RpcArg {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Unary => "unary",
            Self::Stream => "stream",
            Self::Bidi => "bidi",
        }
    }
}

/// How connections by TLS are made.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Authorities to trust instead of the system's (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// A certificate of one's own, for a gateway that asks for one (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
}

/// What `send` can be told.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// JSON lines to send: a file, or - for standard input [default: made-up events]
    #[arg(value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The gateway: http://HOST:PORT[/PREFIX] or grpc://HOST:PORT, https:// and grpcs:// for TLS
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub to: Target,
    /// How to send [default: http to http://, unary to grpc://]
    #[arg(long, value_enum)]
    pub rpc: Option<RpcArg>,
    /// The stream that the events are stored under [default: the gateway's]
    #[arg(long, value_name = "NAME")]
    pub stream: Option<String>,
    /// How many events to send; 0: no end [default: 1000 made-up events, or all lines]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// The most events per second [default: as fast as it goes]
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Events per batch
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Batches under way at once; events of different batches then have no order
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub concurrency: u32,
    /// Compress what is sent
    #[arg(long)]
    pub gzip: bool,
    /// A file with the write key, where the gateway asks for one
    #[arg(long, value_name = "FILE")]
    pub write_key_file: Option<PathBuf>,
    /// How https:// and grpcs:// connect.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Keep trying for so long without any progress before giving events up; 0: never retry
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub retry_for: u32,
    /// Make up the same events with the same ids as every run with this seed [default: random]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The runtime could not be started.
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    /// Signals cannot be listened to.
    #[error("listen to signals")]
    Signals(#[source] io::Error),
    /// The output could not be written.
    #[error("write the output")]
    Output(#[source] io::Error),
}

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error(transparent)]
    Client(#[from] NewError),
    #[error(transparent)]
    Input(#[from] OpenError),
    #[error("--seed is for made-up events, not for a file")]
    SeedWithInput,
    #[error("read {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    #[error("use the write key in {}", .0.display())]
    WriteKey(PathBuf, #[source] InvalidWriteKey),
}

/// Sends and prints the summary; returns the exit code.
///
/// # Errors
///
/// [`SendError`].
pub fn run(args: &SendArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8, SendError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(SendError::Runtime)?;
    let sent = runtime.block_on(async {
        let stop = Stop::on_signals().map_err(SendError::Signals)?;
        match prepare(args).await {
            Ok((client, source, seed)) => {
                let tally = Box::pin(send(args, client, source, &stop, err)).await?;
                Ok(Ok((tally, seed)))
            }
            Err(usage) => Ok(Err(usage)),
        }
    });
    // A read of standard input cannot be ended from outside: it is left behind.
    runtime.shutdown_background();
    let (tally, seed) = match sent? {
        Ok(sent) => sent,
        Err(usage) => {
            writeln!(err, "eventkit: {}", with_causes(&usage)).map_err(SendError::Output)?;
            return Ok(EXIT_USAGE);
        }
    };
    let setup = Setup {
        to: args.to.to_string(),
        rpc: rpc(args).name(),
        seed,
    };
    let summary = tally.summary(&setup);
    let written = if args.json {
        summary.write_json(out)
    } else {
        summary.write_text(out)
    };
    written
        .and_then(|()| out.flush())
        .map_err(SendError::Output)?;
    Ok(tally.exit_code())
}

fn rpc(args: &SendArgs) -> RpcArg {
    args.rpc.unwrap_or(match args.to.protocol() {
        Protocol::Http => RpcArg::Http,
        Protocol::Grpc => RpcArg::Unary,
    })
}

/// Everything that can be known to be wrong is asked before anything is sent.
async fn prepare(args: &SendArgs) -> Result<(Client, Source, Option<u64>), UsageError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let batch = usize::try_from(args.batch).unwrap_or(usize::MAX);
    let client = Client::new(Options {
        rpc: match rpc(args) {
            RpcArg::Http => Rpc::Http,
            RpcArg::Unary => Rpc::Unary,
            RpcArg::Stream => Rpc::Stream,
            RpcArg::Bidi => Rpc::Bidi,
        },
        stream: args.stream.clone(),
        write_key: args.write_key_file.as_deref().map(write_key).transpose()?,
        tls: args.tls.read()?,
        gzip: args.gzip,
        retry: RetryPolicy {
            elapsed_max: Duration::from_secs(args.retry_for.into()),
            attempts_max: if args.retry_for == 0 { 1 } else { u32::MAX },
            ..RetryPolicy::default()
        },
        message_events: batch,
        ..Options::new(args.to.clone())
    })?;
    // One CollectStream call carries several messages, but no more than its summary can list.
    let batch = match rpc(args) {
        RpcArg::Stream => batch * (STREAM_CALL_EVENTS / batch).max(1),
        RpcArg::Http | RpcArg::Unary | RpcArg::Bidi => batch,
    };
    let limits = source::Limits {
        events: args.count.filter(|count| *count > 0),
        batch,
        rate: args.rate,
    };
    match &args.input {
        Some(_) if args.seed.is_some() => Err(UsageError::SeedWithInput),
        Some(path) => Ok((client, Source::lines(path, limits).await?, None)),
        None => {
            let seed = args.seed.unwrap_or_else(rand::random);
            let limits = source::Limits {
                events: match args.count {
                    None => Some(1_000),
                    Some(_) => limits.events,
                },
                ..limits
            };
            Ok((client, Source::made_up(seed, clock, limits), Some(seed)))
        }
    }
}

impl TlsArgs {
    fn read(&self) -> Result<TlsOptions, UsageError> {
        let pem = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let own = (pem(&self.tls_cert_file)?, pem(&self.tls_key_file)?);
        Ok(TlsOptions {
            roots: pem(&self.tls_ca_file)?,
            identity: own.0.zip(own.1),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, UsageError> {
    std::fs::read(path).map_err(|error| UsageError::File(path.to_owned(), error))
}

/// A key, as `eventkit keys add` prints it.
fn write_key(path: &Path) -> Result<WriteKey, UsageError> {
    let bytes = read(path)?;
    let key = WriteKey::new(String::from_utf8_lossy(&bytes).trim());
    key.map_err(|error| UsageError::WriteKey(path.to_owned(), error))
}

/// What one batch came to.
struct Done {
    batch: Batch,
    delivery: Delivery,
    took: Duration,
}

/// Sends everything, or what there is until Ctrl-C.
async fn send(
    args: &SendArgs,
    client: Client,
    source: Source,
    stop: &Stop,
    err: &mut dyn Write,
) -> Result<Tally, SendError> {
    let mut tally = Tally::new(source.unit());
    let draw = io::stderr().is_terminal();
    let progress = Progress::new(source.total(), draw);
    let submitted = std::cell::Cell::new(0u64);
    let concurrency = usize::try_from(args.concurrency).unwrap_or(usize::MAX);
    let batches = futures::stream::unfold(source, async |mut source| {
        let batch = source.next().await?;
        Some((batch, source))
    });
    let sent = batches
        .take_until(stop.requested())
        .map(|batch| {
            submitted.set(submitted.get() + summary::count(batch.events.len()));
            deliver(&client, batch)
        })
        .buffer_unordered(concurrency);
    let mut sent = std::pin::pin!(sent);
    let interrupted = async {
        stop.requested().await;
        tokio::time::sleep(INTERRUPT_GRACE).await;
    };
    let mut interrupted = std::pin::pin!(interrupted);
    let mut redraw = tokio::time::interval(DRAW_EVERY);
    loop {
        tokio::select! {
            // Cancel safe: batches under way stay in the stream.
            done = sent.next() => match done {
                Some(done) => {
                    let problems = tally.add(&done.batch, &done.delivery, done.took);
                    progress.suspend(|| problems.iter().try_for_each(|line| writeln!(err, "{line}")))
                        .map_err(SendError::Output)?;
                }
                None => break,
            },
            // Cancel safe: pinned outside of the loop.
            () = &mut interrupted => break,
            // Cancel safe: a tick that was not taken comes again.
            _ = redraw.tick() => show_tally(&progress, &tally, submitted.get()),
        }
    }
    progress.finish();
    tally.end(submitted.get(), stop.is_requested());
    Ok(tally)
}

async fn deliver(client: &Client, batch: Batch) -> Done {
    let started = Instant::now();
    let delivery = client.send(&batch.events).await;
    Done {
        batch,
        delivery,
        took: started.elapsed(),
    }
}

/// Shows how things stand.
fn show_tally(progress: &Progress, tally: &Tally, submitted: u64) {
    let known = tally.known();
    let under_way = submitted.saturating_sub(known);
    let remark = tally.trouble().map_or_else(
        || format!("({under_way} under way)"),
        |trouble| format!("({under_way} under way; {trouble})"),
    );
    progress.show(known, remark);
}
