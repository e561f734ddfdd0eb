//! The loader on an inbox that holds everything at once.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::cli::bench::process::{Process, Setup};
use crate::cli::bench::{Bench, BenchError};

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What it did, and in how much memory.
#[derive(Debug, Serialize)]
pub(super) struct Loaded {
    pub(super) peak_bytes: u64,
    pub(super) rows: f64,
    pub(super) of_rows: u64,
    pub(super) seconds: f64,
}

/// Lets a loader work until so many rows are merged or the time is over.
pub(super) async fn measure(
    bench: &mut Bench<'_>,
    setup: Setup,
    of_rows: u64,
    within: Duration,
) -> Result<Loaded, BenchError> {
    let loader = Process::start_as(bench, setup).await?;
    let started = Instant::now();
    let rows = loop {
        let rows = loader
            .metric("eventkit_loader_rows_merged_total", "")
            .await?;
        if rows >= of_rows as f64 || started.elapsed() > within {
            break rows;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let loaded = Loaded {
        peak_bytes: loader.memory()?.peak,
        rows,
        of_rows,
        seconds: started.elapsed().as_secs_f64(),
    };
    bench.say(&format!(
        "loader: {rows:.0} of {of_rows} rows in {:.0} s, peak {} MiB",
        loaded.seconds,
        loaded.peak_bytes >> 20
    ));
    Ok(loaded)
}
