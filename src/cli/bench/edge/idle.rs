//! Whether those who are active notice thousands who are not, and what each of these takes.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{EdgeArgs, counted, premises};
use crate::cli::bench::load::{Shape, Way};
use crate::cli::bench::process::{Process, Server, Setup};
use crate::cli::bench::report::{interval, spread};
use crate::cli::bench::rounds::measure;
use crate::cli::bench::stats::{Interval, Spread, ratios};
use crate::cli::bench::{Bench, BenchError};

/// Rounds, if nobody says anything.
const ROUNDS: u32 = 5;
/// Connections that are active.
const ACTIVE: usize = 100;
/// What they send together, in events per second: no machine is busy with that.
const RATE: f64 = 2_000.0;
/// How many times the p99 without idle ones it may be beside them.
const TARGET: f64 = 2.0;
/// So many are opened at a time.
const AT_ONCE: usize = 64;
/// One in so many is opened before the memory without them is looked at: what the first ones cost is not theirs.
const WARM_SHARE: usize = 10;
/// How long memory is left alone before it is looked at.
const REST: Duration = Duration::from_millis(500);
/// Open files of a process that are not connections, with room to spare.
const OTHER_FILES: u64 = 500;
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    active_connections: usize,
    idle_connections: usize,
    asked_events_per_second: f64,
    p99_alone_ms: Spread,
    p99_beside_ms: Spread,
    /// Round by round.
    p99_over_alone: Interval,
    p99_target: f64,
    bytes_per_idle_connection: Spread,
    /// Connections that the server had at the end of a round with idle ones: the fewest of all rounds.
    connections_at_end: u64,
    failed: u64,
}

/// One server under the active ones.
struct Round {
    p99_ms: f64,
    bytes_per_connection: Option<f64>,
    connections: u64,
    failed: u64,
}

fn connections(bench: &Bench<'_>, args: &EdgeArgs) -> usize {
    bench.pick(args.idle, 10_000, 1_000).into()
}

/// How many files each process needs.
pub(super) fn descriptors(bench: &Bench<'_>, args: &EdgeArgs) -> u64 {
    (connections(bench, args) + ACTIVE) as u64 + OTHER_FILES
}

/// Measures both, in turn.
pub(super) async fn beside(bench: &mut Bench<'_>, args: &EdgeArgs) -> Result<Idle, BenchError> {
    let idle = connections(bench, args);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 1..=bench.pick(bench.common.rounds, ROUNDS, 1) {
        // Nobody always goes first.
        let order = if round % 2 == 0 { [0, idle] } else { [idle, 0] };
        for idle in order {
            bench.look_at_disk()?;
            let found = one(bench, idle).await?;
            bench.say(&format!(
                "idle round {round}: p99 {:.2} ms beside {idle} idle connections",
                found.p99_ms
            ));
            let rounds = if idle == 0 { &mut alone } else { &mut beside };
            rounds.push(found);
        }
    }
    let p99s = |rounds: &[Round]| Spread::of(rounds.iter().map(|round| round.p99_ms).collect());
    let bytes = beside.iter().filter_map(|round| round.bytes_per_connection);
    let no_round = BenchError::NoAnswer(Duration::ZERO);
    let found = || {
        let (p99_alone_ms, p99_beside_ms) = (p99s(&alone)?, p99s(&beside)?);
        Some(Idle {
            active_connections: ACTIVE,
            idle_connections: idle,
            asked_events_per_second: RATE,
            p99_over_alone: Interval::of(ratios(&p99_beside_ms, &p99_alone_ms)?.values)?,
            p99_alone_ms,
            p99_beside_ms,
            p99_target: TARGET,
            bytes_per_idle_connection: Spread::of(bytes.collect())?,
            connections_at_end: beside.iter().map(|round| round.connections).min()?,
            failed: alone.iter().chain(&beside).map(|round| round.failed).sum(),
        })
    };
    found().ok_or(no_round)
}

/// A server that has room for all of them and closes none.
fn setup(idle: usize) -> Setup {
    let mut setup = premises::bare(Server::Full);
    setup.name = "idle";
    let room = (idle + ACTIVE + 100).to_string();
    let flags = [
        ("--max-connections", room.as_str()),
        ("--idle-timeout", "3600"),
        // Between two requests over HTTP/1.1 the shorter of the two counts.
        ("--header-timeout", "3600"),
    ];
    let flags = flags.iter().flat_map(|&(flag, value)| [flag, value]);
    setup.flags.extend(flags.map(str::to_owned));
    setup
}

async fn one(bench: &mut Bench<'_>, idle: usize) -> Result<Round, BenchError> {
    let process = Process::start_as(bench, setup(idle)).await?;
    let addr = process.addr(Way::Http);
    let open = async |connections: usize| {
        let opening = stream::iter(0..connections).map(|_| ask_once(addr));
        let opened = opening.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>();
        let opened = opened.await;
        tokio::time::sleep(REST).await;
        opened.map_err(|error| BenchError::Io("open idle connections", error))
    };
    let warm = open(idle / WARM_SHARE).await?;
    let before = process.memory()?.resident;
    let rest = open(idle - warm.len()).await?;
    let grown = process.memory()?.resident.saturating_sub(before);
    let shape = Shape {
        connections: ACTIVE,
        rate: Some(RATE),
        ..bench.shape(Way::Http)
    };
    let measured = measure(bench, &process, shape).await?;
    Ok(Round {
        p99_ms: measured.latency.p99_ms,
        bytes_per_connection: (!rest.is_empty()).then(|| grown as f64 / rest.len() as f64),
        connections: counted(&process, "eventkit_ingress_connections").await?,
        failed: measured.failed,
    })
}

/// Opens a connection, asks for something small, reads the answer, and says nothing more.
async fn ask_once(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    while !is_whole(&answer) {
        let read = stream.read_buf(&mut answer).await?;
        if read == 0 || answer.len() > ANSWER_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    answer.shrink_to_fit();
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(stream)
    } else {
        Err(io::Error::other(
            "a request for /health was not answered with 200",
        ))
    }
}

/// Whether an answer with a length is there to its last byte.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| body.len() >= length)
}

impl Idle {
    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\nidle: the answer's p99 of {} connections at {:.0} events/s, open loop, in ms; {} rounds",
            self.active_connections,
            self.asked_events_per_second,
            self.p99_alone_ms.values.len()
        )?;
        writeln!(
            out,
            "  alone                    {}",
            spread(&self.p99_alone_ms, 2)
        )?;
        let beside = spread(&self.p99_beside_ms, 2);
        writeln!(
            out,
            "  beside {:>6} idle ones   {beside}",
            self.idle_connections
        )?;
        writeln!(
            out,
            "  beside / alone           {}   target: at most {}",
            interval(&self.p99_over_alone),
            self.p99_target
        )?;
        writeln!(
            out,
            "  memory of an idle one    {} bytes",
            spread(&self.bytes_per_idle_connection, 0)
        )?;
        match self.failed {
            0 => Ok(()),
            failed => writeln!(out, "  {failed} events failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nx: y\r\n\r\nbody";
        for end in 0..answer.len() {
            assert!(!is_whole(&answer.as_bytes()[..end]), "{end}");
        }
        assert!(is_whole(answer.as_bytes()));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\nbody"));
    }
}
