//! A few requests beside a load, sent and timed by a thread of its own: it is idle between them, so that the system lets it run as
//! soon as its answer is there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::cli::bench::BenchError;
use crate::cli::bench::events::Prepared;
use crate::cli::bench::load::{Latency, Load, Shape};

/// Requests a second.
const RATE: f64 = 100.0;
/// Connections: enough for those whose request was taken and waits for a slow disk.
const CONNECTIONS: usize = 256;

/// What the probe saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probed {
    /// From the appointed time to turned away.
    pub(super) refused: Latency,
    /// How many were.
    pub(super) count: u64,
}

/// A probe that runs.
#[derive(Debug)]
pub(super) struct Probing {
    ended: oneshot::Receiver<Result<Probed, BenchError>>,
    thread: thread::JoinHandle<()>,
}

/// Begins to ask this server, in this way, for so many seconds after all connections are open.
pub(super) fn begin(
    addr: SocketAddr,
    shape: Shape,
    prepared: &Arc<Prepared>,
    seconds: f64,
) -> io::Result<Probing> {
    let shape = Shape {
        connections: CONNECTIONS,
        rate: Some(RATE),
        ..shape
    };
    let (tell, ended) = oneshot::channel();
    let prepared = Arc::clone(prepared);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = thread::Builder::new()
        .name("probe".to_owned())
        .spawn(move || {
            let probed = runtime.block_on(ask(addr, shape, &prepared, seconds));
            // Whoever waited for it may be gone.
            drop(tell.send(probed));
        })?;
    Ok(Probing { ended, thread })
}

async fn ask(
    addr: SocketAddr,
    shape: Shape,
    prepared: &Arc<Prepared>,
    seconds: f64,
) -> Result<Probed, BenchError> {
    let load = Load::start(addr, shape, prepared);
    load.warm_up(Duration::ZERO).await;
    let before = load.counts();
    load.record();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let (refused, _from_sent) = load.refusals();
    let count = load.counts().refused - before.refused;
    load.stop().await?;
    Ok(Probed { refused, count })
}

impl Probing {
    /// Waits for its end.
    pub(super) async fn ended(self) -> Result<Probed, BenchError> {
        let gone = || {
            BenchError::Io(
                "probe the server",
                io::Error::other("the probe ended early"),
            )
        };
        let probed = self.ended.await.map_err(|_gone| gone())?;
        self.thread.join().map_err(|_panic| gone())?;
        probed
    }
}
