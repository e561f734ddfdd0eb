//! The rate of accepted events with the pipeline running: the queue in the process, and over Pub/Sub.

use serde::Serialize;

use super::emulators::{Emulators, Queue};
use crate::cli::bench::load::Way;
use crate::cli::bench::process::Process;
use crate::cli::bench::rounds::{self, Figures, Measured};
use crate::cli::bench::stats::{Spread, ratios};
use crate::cli::bench::{Bench, BenchError};

/// What Pub/Sub mode is to keep of the rate.
pub(super) const TARGET: f64 = 0.8;

/// Both queues on one way in.
#[derive(Debug, Serialize)]
pub(super) struct Accepted {
    pub(super) way: Way,
    pub(super) connections: usize,
    pub(super) events_per_request: usize,
    pub(super) queues: Vec<Figures<Queue>>,
    /// Pub/Sub over async, round by round.
    pub(super) pubsub_over_async: Spread,
    /// The same for each processor that was left to server and generator: an emulator on this machine takes its share of the rate.
    pub(super) pubsub_over_async_per_processor: Spread,
    pub(super) target: f64,
}

/// Measures either queue once in each round, in turn, each time with an empty log, topic and bucket.
pub(super) async fn compare(
    bench: &mut Bench<'_>,
    emulators: &Emulators,
    way: Way,
) -> Result<Accepted, BenchError> {
    let (mut local, mut over) = (Vec::new(), Vec::new());
    for round in 1..=bench.rounds() {
        let mut queues = [Queue::Async, Queue::Pubsub];
        // Nobody always goes first.
        if round % 2 == 0 {
            queues.reverse();
        }
        for queue in queues {
            bench.look_at_disk()?;
            let found = one(bench, emulators, queue, way).await?;
            bench.say(&format!(
                "{} round {round}: {:<6} {:>8.0} events/s",
                way.name(),
                queue.name(),
                found.rate()
            ));
            match queue {
                Queue::Async => local.push(found),
                Queue::Pubsub => over.push(found),
            }
        }
    }
    let shape = bench.shape(way);
    let queues = [(Queue::Async, &local), (Queue::Pubsub, &over)];
    let queues: Vec<Figures<Queue>> = queues
        .into_iter()
        .filter_map(|(queue, rounds)| Figures::of(queue, rounds))
        .collect();
    let ratio = |of: fn(&Measured) -> f64| {
        let values = |rounds: &[Measured]| Spread::of(rounds.iter().map(of).collect());
        let both = values(&over).zip(values(&local));
        let ratio = both.and_then(|(over, under)| ratios(&over, &under));
        ratio.expect("there was at least one round of each")
    };
    let per_processor =
        |round: &Measured| round.rate() * round.seconds / (round.server_cpu + round.generator_cpu);
    Ok(Accepted {
        way,
        connections: shape.connections,
        events_per_request: shape.batch,
        queues,
        pubsub_over_async: ratio(Measured::rate),
        pubsub_over_async_per_processor: ratio(per_processor),
        target: TARGET,
    })
}

/// What Pub/Sub mode takes at most.
pub(super) async fn maximum(
    bench: &mut Bench<'_>,
    emulators: &Emulators,
    way: Way,
) -> Result<f64, BenchError> {
    let rate = one(bench, emulators, Queue::Pubsub, way).await?.rate();
    bench.say(&format!(
        "{} maximum over Pub/Sub: {rate:.0} events/s",
        way.name()
    ));
    Ok(rate)
}

async fn one(
    bench: &mut Bench<'_>,
    emulators: &Emulators,
    queue: Queue,
    way: Way,
) -> Result<Measured, BenchError> {
    let names = emulators.fresh().await?;
    let process = Process::start_as(bench, emulators.setup(&names, queue, "all")).await?;
    let shape = bench.shape(way);
    let measured = rounds::measure(bench, &process, shape).await;
    drop(process);
    if queue == Queue::Pubsub {
        emulators.forget(&names).await?;
    }
    measured
}
