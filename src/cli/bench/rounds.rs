//! The servers side by side in closed loop: interleaved rounds, so that what disturbs the machine disturbs all of them.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::load::{Latency, Load, Shape, Way};
use super::process::{Process, Server};
use super::stats::{Spread, ratios};
use super::{Bench, BenchError, proc};

/// How long a measurement goes on at most until something is accepted: a sync, or the machine, may stand still for longer than a
/// short one lasts.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether anything was.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One server under one load for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) events: u64,
    pub(super) failed: u64,
    pub(super) seconds: f64,
    pub(super) latency: Latency,
    pub(super) server_cpu: f64,
    pub(super) generator_cpu: f64,
    /// Of everything else on the machine.
    pub(super) elsewhere_cpu: f64,
}

impl Measured {
    pub(super) fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    fn per_million(&self, cpu: f64) -> f64 {
        cpu / (self.events.max(1) as f64) * 1e6
    }
}

/// Loads a server, warms up, measures.
pub(super) async fn measure(
    bench: &mut Bench<'_>,
    process: &Process,
    shape: Shape,
) -> Result<Measured, BenchError> {
    let times = (bench.warm_up(), Duration::from_secs_f64(bench.seconds()));
    measure_for(bench, process, shape, times).await
}

/// The same for a time of its own, after a warm-up of its own.
pub(super) async fn measure_for(
    bench: &mut Bench<'_>,
    process: &Process,
    shape: Shape,
    (warm_up, time): (Duration, Duration),
) -> Result<Measured, BenchError> {
    let load = Load::start(process.addr(shape.way), shape, &bench.prepared);
    load.warm_up(warm_up).await;
    let own = || proc::cpu_seconds(std::process::id());
    let io = |error| BenchError::Io("read /proc", error);
    let (server_cpu, generator_cpu) = (process.cpu_seconds()?, own().map_err(io)?);
    let machine_cpu = proc::machine_cpu_seconds().map_err(io)?;
    let (accepted, failed) = (load.accepted(), load.failed());
    let started = Instant::now();
    load.record();
    tokio::time::sleep(time).await;
    while load.accepted() == accepted && started.elapsed() < ACCEPTED_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut measured = Measured {
        events: load.accepted() - accepted,
        failed: load.failed() - failed,
        seconds: started.elapsed().as_secs_f64(),
        latency: load.latency(),
        server_cpu: process.cpu_seconds()? - server_cpu,
        generator_cpu: own().map_err(io)? - generator_cpu,
        elsewhere_cpu: proc::machine_cpu_seconds().map_err(io)? - machine_cpu,
    };
    measured.elsewhere_cpu -= measured.server_cpu + measured.generator_cpu;
    if measured.events == 0 {
        let why = load.failure().unwrap_or_else(|| "no answer".into());
        return Err(BenchError::NothingAccepted(why));
    }
    if let Some(failure) = load.failure() {
        bench.say(&format!("  {} events failed: {failure}", measured.failed));
    }
    load.stop().await?;
    Ok(measured)
}

/// One server's figures over all rounds.
#[derive(Debug, Serialize)]
pub(super) struct Figures<S = Server> {
    pub(super) server: S,
    pub(super) events_per_second: Spread,
    pub(super) server_cpu_seconds_per_million: Spread,
    pub(super) generator_cpu_seconds_per_million: Spread,
    /// Processors in use: of the server, of the generator. A generator that uses all its threads is what limits the rate.
    pub(super) server_processors: Spread,
    pub(super) generator_processors: Spread,
    /// Of all other processes, emulators included.
    pub(super) elsewhere_processors: Spread,
    pub(super) answer_p50_ms: Spread,
    pub(super) answer_p99_ms: Spread,
    pub(super) events: u64,
    pub(super) failed: u64,
}

impl<S> Figures<S> {
    pub(super) fn of(server: S, rounds: &[Measured]) -> Option<Self> {
        let spread = |of: fn(&Measured) -> f64| Spread::of(rounds.iter().map(of).collect());
        Some(Self {
            server,
            events_per_second: spread(Measured::rate)?,
            server_cpu_seconds_per_million: spread(|round| round.per_million(round.server_cpu))?,
            generator_cpu_seconds_per_million: spread(|round| {
                round.per_million(round.generator_cpu)
            })?,
            server_processors: spread(|round| round.server_cpu / round.seconds)?,
            generator_processors: spread(|round| round.generator_cpu / round.seconds)?,
            elsewhere_processors: spread(|round| round.elsewhere_cpu.max(0.0) / round.seconds)?,
            answer_p50_ms: spread(|round| round.latency.p50_ms)?,
            answer_p99_ms: spread(|round| round.latency.p99_ms)?,
            events: rounds.iter().map(|round| round.events).sum(),
            failed: rounds.iter().map(|round| round.failed).sum(),
        })
    }
}

/// One rate over another, round by round.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    pub(super) over: Server,
    pub(super) under: Server,
    #[serde(flatten)]
    pub(super) spread: Spread,
}

/// All servers on one way in.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) way: Way,
    pub(super) connections: usize,
    pub(super) events_per_request: usize,
    pub(super) requests_under_way: usize,
    pub(super) servers: Vec<Figures>,
    pub(super) ratios: Vec<Ratio>,
}

/// What is compared, as (over, under).
const RATIOS: [(Server, Server); 4] = [
    (Server::Accept, Server::Noop),
    (Server::Accept, Server::Raw),
    (Server::Raw, Server::Noop),
    (Server::Full, Server::Accept),
];

/// Measures every server once in each round, in turn, each time on an empty directory.
pub(super) async fn compare(
    bench: &mut Bench<'_>,
    way: Way,
    servers: &[Server],
) -> Result<Compared, BenchError> {
    let shape = bench.shape(way);
    let mut rounds: Vec<(Server, Vec<Measured>)> =
        servers.iter().map(|server| (*server, Vec::new())).collect();
    for round in 1..=bench.rounds() {
        // Nobody always goes first.
        rounds.rotate_left(1);
        for (server, measured) in &mut rounds {
            bench.look_at_disk()?;
            let process = Process::start(bench, *server, &[]).await?;
            let found = measure(bench, &process, shape).await?;
            bench.say(&format!(
                "{} round {round}: {:<6} {:>8.0} events/s",
                way.name(),
                server.name(),
                found.rate()
            ));
            measured.push(found);
        }
    }
    rounds.sort_by_key(|(server, _)| servers.iter().position(|at| at == server));
    let figures: Vec<Figures> = rounds
        .iter()
        .filter_map(|(server, rounds)| Figures::of(*server, rounds))
        .collect();
    Ok(Compared {
        way,
        connections: shape.connections,
        events_per_request: shape.batch,
        requests_under_way: shape.connections * shape.window,
        ratios: compared(&figures),
        servers: figures,
    })
}

fn compared(figures: &[Figures]) -> Vec<Ratio> {
    let rate = |server: Server| {
        let found = figures.iter().find(|figures| figures.server == server);
        found.map(|figures| &figures.events_per_second)
    };
    let ratios = RATIOS.iter().filter_map(|&(over, under)| {
        let spread = ratios(rate(over)?, rate(under)?)?;
        Some(Ratio {
            over,
            under,
            spread,
        })
    });
    ratios.collect()
}
