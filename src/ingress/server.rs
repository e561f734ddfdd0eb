//! The servers behind the ports: the accept loop and its limits. Sockets are bound by the caller.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{self, Connections};
use super::grpc_layer::GrpcLayer;
use super::pace::PaceLimits;
use super::places::Places;
use super::route::Front;
use super::{Ingress, Tls, grpc, http};
use crate::lifecycle::Tasks;

/// How long accepting pauses when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// HTTP/1.1, HTTP/2 cleartext, gRPC and gRPC-web together.
    Public,
    /// gRPC alone; anything else gets an answer that people can read.
    GrpcOnly,
}

/// How a server stops.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Cancelled when no new work is taken: listeners close, connections finish what they have.
    pub drain: CancellationToken,
    /// How long connections may take for that; then they are dropped.
    pub grace: Duration,
}

/// Both doors; serves any number of listeners. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    ingress: Ingress,
    front: Front,
    tasks: Tasks,
    stop: Stop,
    places: Places,
    tls: Option<Tls>,
}

impl Server {
    /// Builds the doors. Starts the task that keeps gRPC's health service in step.
    #[must_use]
    pub fn new(ingress: Ingress, tasks: Tasks, stop: Stop) -> Self {
        let layer = GrpcLayer {
            routes: grpc::routes(&ingress, &tasks, &stop.drain),
            ingress: ingress.clone(),
            drain: stop.drain.clone(),
        };
        Self {
            front: Front::new(http::router(ingress.clone()), layer),
            places: Places::new(ingress.config()),
            ingress,
            tasks,
            stop,
            tls: None,
        }
    }

    /// The same behind certificates; `None`: in clear.
    #[must_use]
    pub fn behind(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Serves connections until the drain, then waits for those that are open, at most for the grace.
    pub async fn serve(&self, listener: TcpListener, door: Door) {
        let config = self.ingress.config();
        let connections = Connections {
            front: self.front.clone(),
            door,
            builder: accept::builder(config),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
            answer_pace: PaceLimits::of(config),
            age_max: config.guard.connection_age_max,
            refused: self.ingress.metrics().connections_refused.clone(),
            tls: self.tls.clone(),
        };
        let open = TaskTracker::new();
        // Dropping what is not accepted yet is what a drain is for; the kernel keeps nothing of ours.
        tokio::select! {
            biased;
            () = self.stop.drain.cancelled() => {}
            () = self.accept(&listener, &connections, &open) => {}
        }
        drop(listener);
        open.close();
        open.wait().await;
    }

    /// Accepts for ever. Who finds no room waits in the kernel's backlog: the permit is taken before the connection.
    async fn accept(&self, listener: &TcpListener, connections: &Connections, open: &TaskTracker) {
        let room = self.ingress.connections();
        let mut is_paused = false;
        while let Ok(permit) = std::sync::Arc::clone(&room).acquire_owned().await {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_one_peers_fault(&error) => continue,
                Err(error) => {
                    // Said once, not ten times a second.
                    if !is_paused {
                        tracing::warn!(%error, "accept_paused");
                    }
                    is_paused = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if is_paused {
                tracing::info!("accept_resumed");
                is_paused = false;
            }
            let Some(place) = self.places.take(peer.ip()) else {
                connections.refuse("address_limit");
                continue;
            };
            let mark = self.ingress.open_connection();
            let connections = connections.clone();
            drop(self.tasks.spawn_isolated(
                "connection",
                open.track_future(async move {
                    connections.serve(stream, peer, &place).await;
                    // Who waits for the permit finds the place free.
                    drop((place, permit, mark));
                }),
            ));
        }
    }
}

/// A connection that died before it was accepted says nothing about the next one.
fn is_one_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
