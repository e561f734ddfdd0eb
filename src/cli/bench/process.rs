//! A server as a process of its own, with a directory of its own. Dropped, it is killed and its directory removed.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use futures::future::{Either, select};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::load::Way;
use super::proc::{self, Memory};
use super::{Bench, BenchError};

/// How long a server may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// The same doors with nothing behind them
    Noop,
    /// The same doors before a plain file
    Raw,
    /// The gateway with its pipeline paused
    Accept,
    /// The gateway: `eventkit serve`
    Full,
    /// The gateway whose log lies on a slow disk
    #[value(skip)]
    Slow,
}

impl Server {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Raw => "raw",
            Self::Accept => "accept",
            Self::Full => "full",
            Self::Slow => "slow",
        }
    }

    fn command(self) -> &'static [&'static str] {
        match self {
            Self::Noop => &["bench-server", "noop"],
            Self::Raw => &["bench-server", "raw"],
            Self::Accept => &["bench-server", "accept"],
            Self::Full => &["serve"],
            Self::Slow => &["bench-server", "slow"],
        }
    }
}

/// How a process is started.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// What messages call it.
    pub(super) name: &'static str,
    pub(super) command: &'static [&'static str],
    /// Whether it takes events, and in clear; one that does not is asked through its admin port.
    pub(super) has_doors: bool,
    /// Its settings, beyond what every process is told.
    pub(super) flags: Vec<String>,
    /// Variables that it gets or, without a value, does not get from this process.
    pub(super) variables: Vec<(String, Option<String>)>,
}

impl Setup {
    /// One of the servers, everything in the process itself and in its directory.
    pub(super) fn of(server: Server, settings: &[&str]) -> Self {
        let embedded = ["--event-store", "local", "--queue-mode", "async"];
        Self {
            name: server.name(),
            command: server.command(),
            has_doors: true,
            flags: embedded
                .iter()
                .chain(settings)
                .map(|&flag| flag.to_owned())
                .collect(),
            variables: Vec::new(),
        }
    }
}

/// The process; killed when dropped.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell anything else.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A server that is ready.
#[derive(Debug)]
pub(super) struct Process {
    // Before the directory: nobody must write to that while it is removed.
    running: Running,
    dir: TempDir,
    setup: Setup,
    /// Bound and not listening: so the ports are nobody else's before the server has them.
    _held: [TcpSocket; 3],
    http: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
    started: Instant,
}

impl Process {
    /// Starts a server on an empty directory and waits until it is ready.
    pub(super) async fn start(
        bench: &Bench<'_>,
        server: Server,
        settings: &[&str],
    ) -> Result<Self, BenchError> {
        Self::start_as(bench, Setup::of(server, settings)).await
    }

    /// The same for any process.
    pub(super) async fn start_as(bench: &Bench<'_>, setup: Setup) -> Result<Self, BenchError> {
        let dir = TempDir::with_prefix_in(setup.name, bench.root.path())
            .map_err(|error| BenchError::Io("create a directory", error))?;
        let mut process = Self::spawn(bench, dir, setup)?;
        process.ready().await?;
        Ok(process)
    }

    /// Kills the process and starts another one on what it left. Returns as soon as it is started.
    pub(super) fn restart(self, bench: &Bench<'_>) -> Result<Self, BenchError> {
        let Self {
            running,
            dir,
            setup,
            ..
        } = self;
        drop(running);
        Self::spawn(bench, dir, setup)
    }

    fn spawn(bench: &Bench<'_>, dir: TempDir, setup: Setup) -> Result<Self, BenchError> {
        let io = |error| BenchError::Io("start a server", error);
        let (held, [http, grpc, admin]) = free_ports().map_err(io)?;
        let program = std::env::current_exe().map_err(io)?;
        let output = File::create(dir.path().join("output")).map_err(io)?;
        let started = Instant::now();
        let mut command = Command::new(program);
        for (name, value) in &setup.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = command
            .args(setup.command)
            .arg("--data-dir")
            .arg(dir.path())
            .arg("--ring-buffer-db-path")
            .arg(dir.path().join("wal"))
            .args(["--http-addr", &http.to_string()])
            .args(["--grpc-addr", &grpc.to_string()])
            .args(["--admin-addr", &admin.to_string()])
            .args(["--ring-buffer-mode", bench.common.engine.name()])
            .args(["--log-level", &bench.common.log_level])
            .args(&setup.flags)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(io)?)
            .stderr(output)
            .spawn()
            .map_err(io)?;
        Ok(Self {
            running: Running(child),
            dir,
            setup,
            _held: held,
            http,
            grpc,
            admin,
            started,
        })
    }

    pub(super) fn addr(&self, way: Way) -> SocketAddr {
        match way {
            Way::Http => self.http,
            Way::Bidi => self.grpc,
        }
    }

    pub(super) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// When it was started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn cpu_seconds(&self) -> Result<f64, BenchError> {
        proc::cpu_seconds(self.running.0.id()).map_err(|error| BenchError::Io("read /proc", error))
    }

    pub(super) fn memory(&self) -> Result<Memory, BenchError> {
        proc::memory(self.running.0.id()).map_err(|error| BenchError::Io("read /proc", error))
    }

    /// Waits until it says that it takes events.
    pub(super) async fn ready(&mut self) -> Result<(), BenchError> {
        self.until(async |http| matches!(get(http, "/ready").await, Ok((StatusCode::OK, _))))
            .await
    }

    /// Asks again and again until the answer is yes. The process may end instead.
    pub(super) async fn until(
        &mut self,
        yes: impl AsyncFn(SocketAddr) -> bool,
    ) -> Result<(), BenchError> {
        let deadline = Instant::now() + READY_WITHIN;
        let addr = match self.setup.has_doors {
            true => self.http,
            false => self.admin,
        };
        while !yes(addr).await {
            let ended = self.running.0.try_wait();
            let ended = ended.map_err(|error| BenchError::Io("wait for a server", error))?;
            if ended.is_some() || Instant::now() >= deadline {
                return Err(BenchError::NotReady {
                    server: self.setup.name,
                    output: self.output(),
                });
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    /// The last lines it wrote.
    pub(super) fn output(&self) -> String {
        let output = std::fs::read_to_string(self.dir.path().join("output")).unwrap_or_default();
        let lines: Vec<&str> = output.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// The sum of a metric over all its labels that contain this one; 0 as long as nothing was counted.
    pub(super) async fn metric(&self, name: &str, label: &str) -> Result<f64, BenchError> {
        let (_, page) = get(self.admin, "/metrics")
            .await
            .map_err(|error| BenchError::Io("read the metrics", error))?;
        Ok(sum(&String::from_utf8_lossy(&page), name, label))
    }
}

/// A metric on a page of metrics.
fn sum(page: &str, name: &str, label: &str) -> f64 {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name));
    lines
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        // Not `sum`, whose nothing is -0.
        .fold(0.0, |sum, value| sum + value)
}

/// A socket that does not listen yet. Several may share the address, as long as one of them listens at most; as long as there is one,
/// nobody is given its port for any.
pub(super) fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Three ports that stay free for a server as long as they are held.
fn free_ports() -> io::Result<([TcpSocket; 3], [SocketAddr; 3])> {
    let bind = || bound((Ipv4Addr::LOCALHOST, 0).into());
    let held = [bind()?, bind()?, bind()?];
    let [a, b, c] = &held;
    let ports = [a.local_addr()?, b.local_addr()?, c.local_addr()?];
    Ok((held, ports))
}

/// One request on a connection of its own.
pub(super) async fn ask(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
) -> io::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    let answered = match select(pin!(exchange), connection).await {
        Either::Left((answered, _)) => answered,
        Either::Right((_, exchange)) => exchange.await,
    };
    answered.map_err(io::Error::other)
}

async fn get(addr: SocketAddr, path: &str) -> io::Result<(StatusCode, Bytes)> {
    let request = Request::get(path)
        .header(http::header::HOST, addr.to_string())
        .body(Full::default())
        .map_err(io::Error::other)?;
    ask(addr, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let page = "\
# TYPE rows_total counter
rows_total{table=\"events\"} 10
rows_total{table=\"errors\"} 4
rows_total_other 100
depth 7
";
        for (name, label, expected) in [
            ("rows_total", "", 14.0),
            ("rows_total", "events", 10.0),
            ("depth", "", 7.0),
            ("nothing", "", 0.0),
        ] {
            assert!(
                (sum(page, name, label) - expected).abs() < 1e-9,
                "{name} {label}"
            );
        }
    }

    #[test]
    fn free_ports_differ_and_are_free_for_whoever_is_told_of_them() {
        let (_held, [a, b, c]) = free_ports().unwrap();
        assert!(a != b && b != c && a != c);
        let listeners = [a, b, c].map(|port| std::net::TcpListener::bind(port).unwrap());
        assert!(std::net::TcpListener::bind(a).is_err());
        drop(listeners);
    }
}
