//! Rows to Parquet and nothing else, on one thread of this process while it does nothing else.

use serde::Serialize;
use tokio::time::Instant;

use super::samples;
use crate::cli::bench::stats::Spread;
use crate::cli::bench::{Bench, BenchError, proc};
use crate::store::Row;
use crate::store::parquet::encode_events;

/// How many rows a file holds: what a store gets at least when there is much to do, and more.
const FILES: [usize; 3] = [100, 1_000, 8_000];

/// Files of one size.
#[derive(Debug, Serialize)]
pub(super) struct Encoded {
    pub(super) rows_per_file: usize,
    /// Per second of CPU time.
    pub(super) events_per_core_second: Spread,
    pub(super) events_per_second: Spread,
    pub(super) bytes_per_event: f64,
    /// Of the same events as clients send them.
    pub(super) json_bytes_per_event: usize,
}

/// What one round of one size came to.
struct Round {
    per_core: f64,
    per_second: f64,
    bytes_per_event: f64,
}

/// Every size once in each round, in turn.
pub(super) async fn measure(bench: &mut Bench<'_>) -> Result<Vec<Encoded>, BenchError> {
    let mut sizes: Vec<(Vec<Row>, Vec<Round>)> = FILES
        .iter()
        .map(|&rows| (samples::rows(&bench.prepared, rows), Vec::new()))
        .collect();
    let seconds = bench.seconds();
    for round in 1..=bench.rounds() {
        for (rows, rounds) in &mut sizes {
            let taken = std::mem::take(rows);
            let (taken, found) = tokio::task::spawn_blocking(move || {
                let found = encode(&taken, seconds);
                (taken, found)
            })
            .await
            .map_err(|error| BenchError::Io("encode", std::io::Error::other(error)))?;
            *rows = taken;
            let found = found.map_err(|error| BenchError::Io("encode", error))?;
            bench.say(&format!(
                "parquet round {round}: {} rows a file, {:.0} events/s of a core",
                rows.len(),
                found.per_core
            ));
            rounds.push(found);
        }
    }
    let json_bytes_per_event = bench.prepared.json_bytes();
    let encoded = sizes.into_iter().filter_map(|(rows, rounds)| {
        let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of).collect());
        Some(Encoded {
            rows_per_file: rows.len(),
            events_per_core_second: spread(|round| round.per_core)?,
            events_per_second: spread(|round| round.per_second)?,
            bytes_per_event: spread(|round| round.bytes_per_event)?.median,
            json_bytes_per_event,
        })
    });
    Ok(encoded.collect())
}

fn encode(rows: &[Row], seconds: f64) -> std::io::Result<Round> {
    let own = || proc::cpu_seconds(std::process::id());
    let (started, cpu) = (Instant::now(), own()?);
    let (mut files, mut bytes) = (0_u32, 0_usize);
    let took = loop {
        let file = encode_events(rows).map_err(std::io::Error::other)?;
        bytes += file.len();
        files += 1;
        let took = started.elapsed().as_secs_f64();
        if took >= seconds {
            break took;
        }
    };
    let events = f64::from(files) * rows.len() as f64;
    let cpu = own()? - cpu;
    Ok(Round {
        // The kernel counts hundredths of a second: over less than a few of them only the clock says anything.
        per_core: events / if cpu > 0.05 { cpu } else { took },
        per_second: events / took,
        bytes_per_event: bytes as f64 / events,
    })
}
