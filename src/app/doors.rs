//! In front of the log: the public port, the gRPC port, the admin port. A process that takes nothing in has only the last.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use super::{Running, Shared};
use crate::admin;
use crate::config::Config;
use crate::ingress::server::{self, Door, Server};
use crate::ingress::{Ingress, Log};
use crate::wal::Wal;

/// How many connections the kernel holds until they are accepted, as far as its own limit (`net.core.somaxconn`) allows. With
/// the runtime's 128, clients that come in a burst lose their first packet and are a second late.
const BACKLOG: u32 = 4_096;

/// The ports, served.
pub(super) struct Doors {
    pub(super) servers: Vec<Running<()>>,
    pub(super) admin: Running<std::io::Result<()>>,
    pub(super) drain: CancellationToken,
    pub(super) stop_admin: CancellationToken,
}

impl Doors {
    /// Serves all three in front of a log; `answers` is the log as the doors see it.
    pub(super) fn open(
        sockets: Sockets,
        config: &Config,
        shared: &Shared,
        (wal, answers): (&Wal, impl Log),
    ) -> Self {
        let drain = CancellationToken::new();
        let servers = match sockets.public {
            Some(public) => servers(answers, public, config, shared, &drain),
            None => Vec::new(),
        };
        let router = admin::router(state(shared), wal.clone());
        let stop_admin = CancellationToken::new();
        let serving = admin::serve(sockets.admin, router, stop_admin.clone());
        Self {
            servers,
            admin: shared.tasks.spawn("admin", serving),
            drain,
            stop_admin,
        }
    }

    /// The admin port alone.
    pub(super) fn admin_only(sockets: Sockets, shared: &Shared) -> Self {
        let router = admin::router_without_log(state(shared));
        let stop_admin = CancellationToken::new();
        let serving = admin::serve(sockets.admin, router, stop_admin.clone());
        Self {
            servers: Vec::new(),
            admin: shared.tasks.spawn("admin", serving),
            drain: CancellationToken::new(),
            stop_admin,
        }
    }
}

/// What the admin port shows and changes of the process.
fn state(shared: &Shared) -> admin::Process {
    admin::Process {
        metrics: shared.metrics.clone(),
        health: shared.health.clone(),
        logs: shared.logs.clone(),
    }
}

/// Starts the public port's and the gRPC port's servers in front of a log.
pub(super) fn servers(
    log: impl Log,
    [http, grpc]: [TcpListener; 2],
    config: &Config,
    shared: &Shared,
    drain: &CancellationToken,
) -> Vec<Running<()>> {
    let ingress = Ingress::new(
        log,
        Arc::clone(&shared.clock),
        shared.metrics.clone(),
        config.ingress.clone(),
        shared.health.clone(),
    );
    let stop = server::Stop {
        drain: drain.clone(),
        grace: config.drain_timeout,
    };
    let server = Server::new(ingress, shared.tasks.clone(), stop);
    let doors = [(http, Door::Public), (grpc, Door::GrpcOnly)].map(|(listener, door)| {
        let server = server.clone();
        shared
            .tasks
            .spawn("server", async move { server.serve(listener, door).await })
    });
    doors.into()
}

/// The ports, bound; nobody is served before the pipeline stands.
pub(super) struct Sockets {
    /// HTTP and gRPC, where events are taken in.
    public: Option<[TcpListener; 2]>,
    admin: TcpListener,
}

impl Sockets {
    /// Binds them and says where: the first line of the log.
    pub(super) fn bind(config: &Config, wal: &Wal) -> anyhow::Result<Self> {
        let http = bind("HTTP", config.ingress.http_addr)?;
        let grpc = bind("gRPC", config.ingress.grpc_addr)?;
        let admin = bind("admin", config.admin.addr)?;
        let admin_addr = admin.local_addr()?;
        wal.announce(admin_addr)
            .context("announce the log's owner")?;
        tracing::info!(
            http = %http.local_addr()?,
            grpc = %grpc.local_addr()?,
            admin = %admin_addr,
            data_dir = %config.data_dir.display(),
            role = config.role.as_str(),
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        let public = Some([http, grpc]);
        Ok(Self { public, admin })
    }

    /// Binds the admin port alone.
    pub(super) fn bind_admin(config: &Config) -> anyhow::Result<Self> {
        let admin = bind("admin", config.admin.addr)?;
        tracing::info!(
            admin = %admin.local_addr()?,
            role = config.role.as_str(),
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        let public = None;
        Ok(Self { public, admin })
    }
}

pub(super) fn bind(door: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(addr).with_context(|| format!("bind the {door} port at {addr}"))
}

pub(super) fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}
