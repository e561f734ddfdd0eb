//! The real binary as a process: start, wait until it is ready, kill, terminate.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::clients;

/// How long a start may take, recovery included, on a busy machine.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How many of the last log lines a report shows.
const TAIL_LINES: usize = 60;

/// Where a running gateway listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// The public port.
    pub(crate) http: String,
    /// The gRPC port.
    pub(crate) grpc: String,
    /// The admin port.
    pub(crate) admin: String,
}

/// What a process said, filled while it runs.
#[derive(Debug, Default)]
struct Said {
    tail: VecDeque<String>,
    /// Lines of level "error", and panics.
    alarms: Vec<String>,
    /// The objects that it says it wrote, and whether it made them.
    written: Vec<(String, bool)>,
    /// All of it, where somebody listens.
    heard: Option<Vec<String>>,
}

/// The objects of the store that a process says it wrote; outlives the process.
#[derive(Debug, Clone)]
pub(crate) struct Written(Arc<Mutex<Said>>);

impl Written {
    /// Their names, in its order, and whether it was the one that made each.
    pub(crate) fn objects(&self) -> Vec<(String, bool)> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.written.clone()
    }
}

/// The one log engine, as a setting.
pub(crate) const SLED: (&str, &str) = ("EVENTKIT_RING_BUFFER_MODE", "sled");
/// The other.
pub(crate) const SQLITE: (&str, &str) = ("EVENTKIT_RING_BUFFER_MODE", "sqlite");

/// Every log line there is; a gateway that is started so remembers all of them.
pub(crate) const DEBUG: (&str, &str) = ("EVENTKIT_LOG_LEVEL", "DEBUG");

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    /// Resident memory.
    pub(crate) rss_kib: u64,
    /// The most that it was.
    pub(crate) peak_kib: u64,
    /// Open descriptors.
    pub(crate) descriptors: usize,
}

/// A running gateway. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    said: Arc<Mutex<Said>>,
    pumps: JoinSet<()>,
    listening: watch::Receiver<Option<Endpoints>>,
}

impl Gateway {
    /// Starts `eventkit dev` on a data directory with every port free, and does not wait for anything.
    pub(crate) fn spawn(data_dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        Self::spawn_as("dev", data_dir, settings)
    }

    /// The same with another command: `serve`.
    pub(crate) fn spawn_as(
        command_name: &str,
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        Self::spawn_by(Command::new(binary()), command_name, data_dir, settings)
    }

    /// `eventkit dev` that may have only so many descriptors.
    pub(crate) fn spawn_within(
        descriptors: u64,
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let mut shell = Command::new("sh");
        let limited = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        shell.arg("-c").arg(limited).arg(binary());
        Self::spawn_by(shell, "dev", data_dir, settings)
    }

    fn spawn_by(
        mut command: Command,
        command_name: &str,
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        // Neither a person's settings nor those of the tests are meant for the gateway under test.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let prefixes = ["EVENTKIT_", "OTEL_"];
            if prefixes.iter().any(|prefix| name.starts_with(prefix))
                || name.ends_with("_EMULATOR_HOST")
            {
                command.env_remove(&*name);
            }
        }
        let mut child = command
            .arg(command_name)
            .env("EVENTKIT_DATA_DIR", data_dir)
            .env("EVENTKIT_HTTP_ADDR", "127.0.0.1:0")
            .env("EVENTKIT_GRPC_ADDR", "127.0.0.1:0")
            .env("EVENTKIT_ADMIN_ADDR", "127.0.0.1:0")
            .env("EVENTKIT_JSON_LOGS", "true")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", binary()))?;
        // Whoever wants every line wants to read them.
        let said = Arc::new(Mutex::new(Said {
            heard: settings.contains(&DEBUG).then(Vec::new),
            ..Said::default()
        }));
        let (listens, listening) = watch::channel(None);
        let mut pumps = JoinSet::new();
        let stdout = child.stdout.take().context("the process has no stdout")?;
        let stderr = child.stderr.take().context("the process has no stderr")?;
        pumps.spawn(pump(stdout, Arc::clone(&said), Some(listens)));
        pumps.spawn(pump(stderr, Arc::clone(&said), None));
        Ok(Self {
            child,
            said,
            pumps,
            listening,
        })
    }

    /// Starts a gateway and waits until `/ready` says so.
    pub(crate) async fn start(
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> Result<(Self, Endpoints)> {
        let mut gateway = Self::spawn(data_dir, settings)?;
        let endpoints = gateway.ready(START_TIMEOUT).await?;
        Ok((gateway, endpoints))
    }

    /// Waits until the gateway says where it listens.
    pub(crate) async fn listening(&mut self, within: Duration) -> Result<Endpoints> {
        let listening = timeout(within, self.listening.wait_for(Option::is_some))
            .await
            .map(|listening| listening.map(|endpoints| endpoints.clone()));
        match listening {
            Ok(Ok(endpoints)) => endpoints.context("no endpoints"),
            Ok(Err(_closed)) => bail!("the gateway ended before it listened\n{}", self.tail()),
            Err(_elapsed) => bail!("no line \"listening\" within {within:?}\n{}", self.tail()),
        }
    }

    /// Waits until the gateway listens and is ready.
    pub(crate) async fn ready(&mut self, within: Duration) -> Result<Endpoints> {
        let deadline = Instant::now() + within;
        let endpoints = self.listening(within).await?;
        let http = clients::Http::new(&endpoints);
        loop {
            if let Ok((200, _)) = http.get("/ready").await {
                return Ok(endpoints);
            }
            if Instant::now() >= deadline {
                bail!("not ready within {within:?}\n{}", self.tail());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the gateway ended with {status} before it was ready\n{}",
                    self.tail()
                );
            }
            // Readiness is only visible from outside by asking again.
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL, now; returns when the process is gone.
    pub(crate) async fn kill(mut self) -> Result<Vec<String>> {
        self.child.start_kill().context("kill the gateway")?;
        let status = self
            .child
            .wait()
            .await
            .context("wait for the killed gateway")?;
        self.drain().await;
        if status.code().is_some() {
            bail!(
                "the gateway ended by itself with {status} before it was killed\n{}",
                self.tail()
            );
        }
        Ok(self.alarms())
    }

    /// SIGTERM; returns how the process ended.
    pub(crate) async fn terminate(self, within: Duration) -> Result<Ended> {
        self.signal(Signal::TERM)?;
        self.ended(within).await
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> Result<Pid> {
        let pid = self.child.id().context("the gateway has ended by itself")?;
        Pid::from_raw(pid.try_into()?).context("a process id is not 0")
    }

    /// What the process holds.
    pub(crate) fn held(&self) -> Result<Held> {
        let proc = Path::new("/proc").join(self.pid()?.as_raw_nonzero().to_string());
        let status = std::fs::read_to_string(proc.join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kib.with_context(|| format!("no {name} in the status of a process"))
        };
        Ok(Held {
            rss_kib: field("VmRSS:")?,
            peak_kib: field("VmHWM:")?,
            descriptors: std::fs::read_dir(proc.join("fd"))?.count(),
        })
    }

    /// The most memory that it was, counted from now on.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid()?.as_raw_nonzero());
        std::fs::write(&path, "5").with_context(|| format!("write to {path}"))
    }

    /// The processor time that it took so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid()?.as_raw_nonzero());
        let stat = std::fs::read_to_string(path)?;
        // The second field is a name in parentheses, with spaces perhaps; user and system time are the 14th and the 15th.
        let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>())
            .sum::<Result<_, _>>()?;
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_millis(ticks * 1_000 / per_second))
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn ended(mut self, within: Duration) -> Result<Ended> {
        let status = timeout(within, self.child.wait())
            .await
            .map_err(|_elapsed| anyhow!("still running after {within:?}\n{}", self.tail()))??;
        self.drain().await;
        let heard = {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.heard.take().unwrap_or_default()
        };
        Ok(Ended {
            status,
            said: self.tail(),
            alarms: self.alarms(),
            heard,
        })
    }

    /// The last lines of its output.
    pub(crate) fn tail(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.tail.iter().fold(String::new(), |mut text, line| {
            text.push_str("    | ");
            text.push_str(line);
            text.push('\n');
            text
        })
    }

    /// What it writes, to be asked for at any time.
    pub(crate) fn written(&self) -> Written {
        Written(Arc::clone(&self.said))
    }

    /// Every line so far, of a gateway that was started with [`DEBUG`].
    pub(crate) fn heard(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.heard.clone().expect("it was started with DEBUG")
    }

    fn alarms(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.alarms.clone()
    }

    /// Takes in what the ended process wrote last.
    async fn drain(&mut self) {
        while self.pumps.join_next().await.is_some() {}
    }
}

/// How a gateway ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The last lines of its output.
    pub(crate) said: String,
    /// Its lines of level "error", and panics.
    pub(crate) alarms: Vec<String>,
    /// Every line, if it was started with [`DEBUG`].
    pub(crate) heard: Vec<String>,
}

/// Reads one output line by line to its end.
async fn pump(
    output: impl AsyncRead + Unpin,
    said: Arc<Mutex<Said>>,
    listens: Option<watch::Sender<Option<Endpoints>>>,
) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let fields = serde_json::from_str(&line).unwrap_or(serde_json::Value::Null);
        let field = |name: &str| fields.get(name).and_then(serde_json::Value::as_str);
        if let (Some(listens), Some("listening")) = (&listens, field("event"))
            && let Some(admin) = field("admin")
        {
            // A process that takes nothing in has the admin port alone, and answers `/ready` there.
            listens.send_replace(Some(Endpoints {
                http: field("http").unwrap_or(admin).to_owned(),
                grpc: field("grpc").unwrap_or(admin).to_owned(),
                admin: admin.to_owned(),
            }));
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some("store_write"), Some(object)) = (field("event"), field("object")) {
            let created = fields.get("created") == Some(&serde_json::Value::Bool(true));
            said.written.push((object.to_owned(), created));
        }
        if field("level") == Some("error") || line.contains("panicked at") {
            said.alarms.push(line.clone());
        }
        if let Some(heard) = &mut said.heard {
            heard.push(line.clone());
        }
        if said.tail.len() == TAIL_LINES {
            said.tail.pop_front();
        }
        said.tail.push_back(line);
    }
}

/// The binary under test: the one cargo built, unless `EVENTKIT_BIN` names another (a release build, say).
pub(crate) fn binary() -> String {
    setting("EVENTKIT_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_eventkit").to_owned())
}

/// A setting of the tests themselves.
#[expect(
    clippy::disallowed_methods,
    reason = "the tests' own settings, outside the program's configuration"
)]
pub(crate) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
