//! An SDK in a process of its own, as an application uses it, and where the set-up has put it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;

use crate::support::emulators;
use crate::support::gateway::setting;

/// The key of applications whose gateway asks for none.
pub(crate) const KEY: &str = "wk-SECRET";
/// How long an SDK may take to end once all that it sent has arrived.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// An SDK and how it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sdk {
    Node,
    Python {
        gzip: bool,
    },
    /// analytics-next, or the browser's own beacon.
    Browser(&'static str),
}

/// What an application does: with which SDK, and where its requests go.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) sdk: Sdk,
    pub(crate) host: String,
    /// `all`: each of the six once; `bad`: three of which one is bad.
    pub(crate) calls: &'static str,
    pub(crate) key: String,
    /// How many events it sends at a time.
    pub(crate) size: usize,
    /// Where its page comes from, if that matters.
    pub(crate) origin: Option<&'static str>,
}

impl App {
    /// One that sends everything at once.
    pub(crate) fn new(sdk: Sdk, host: SocketAddr, calls: &'static str) -> Self {
        Self {
            sdk,
            host: host.to_string(),
            calls,
            key: KEY.to_owned(),
            size: 50,
            origin: None,
        }
    }

    /// As its script reads it.
    fn json(&self) -> String {
        let mut app = json!({
            "host": self.host, "calls": self.calls, "key": self.key, "size": self.size,
        });
        match self.sdk {
            Sdk::Node => {}
            Sdk::Python { gzip } => app["gzip"] = gzip.into(),
            Sdk::Browser(mode) => {
                app["mode"] = mode.into();
                if let Some(origin) = self.origin {
                    app["origin"] = origin.into();
                }
            }
        }
        app.to_string()
    }
}

pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/sdks")
}

/// Puts what is not run on the list; with `CI=true` it is a failure.
pub(crate) fn missing(name: &'static str, not_run: &str) {
    assert_ne!(
        setting("CI").as_deref(),
        Some("true"),
        "{name} is missing: scripts/setup installs what this machine can have"
    );
    emulators::list_not_run(name, not_run);
}

pub(crate) fn chromium() -> Option<PathBuf> {
    let named = setting("CHROMIUM").map(PathBuf::from);
    let places = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].map(PathBuf::from);
    named.into_iter().chain(places).find(|place| place.exists())
}

impl Sdk {
    fn script(self) -> &'static str {
        match self {
            Self::Node => "node.mjs",
            Self::Python { .. } => "python.py",
            Self::Browser(_) => "browser.mjs",
        }
    }

    /// The program that runs the script; `None`: something is missing, and that is on the list of what was not run.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let (program, needs) = match self {
            Self::Node | Self::Browser(_) => {
                let package = match self {
                    Self::Node => "analytics-node",
                    _ => "analytics-next",
                };
                let modules = tools().join("node_modules/@segment").join(package);
                (PathBuf::from("node"), modules)
            }
            Self::Python { .. } => {
                let python = tools().join("python/bin/python");
                (python.clone(), python)
            }
        };
        let (name, is_there) = match self {
            Self::Node => ("analytics-node", needs.exists()),
            Self::Python { .. } => ("analytics-python", needs.exists()),
            Self::Browser(_) => ("Chromium", needs.exists() && chromium().is_some()),
        };
        if is_there {
            return Some(program);
        }
        missing(
            name,
            &format!("SDK tests with {name} (scripts/setup says why)"),
        );
        None
    }
}

/// A running SDK. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Driver {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
    reading: JoinSet<()>,
}

impl Driver {
    /// Runs applications that use the same SDK, beside each other in one process; `None`: the SDK is not there.
    pub(crate) fn start(apps: &[App]) -> Option<Self> {
        let sdk = apps.first().expect("there is something to run").sdk;
        let name = sdk.script();
        assert!(apps.iter().all(|app| app.sdk.script() == name), "{apps:?}");
        let mut command = Command::new(sdk.program()?);
        let script = match sdk {
            Sdk::Python { .. } => sources().join(name),
            Sdk::Node => node_script(name),
            Sdk::Browser(_) => page_script(name),
        };
        command.arg(script).args(apps.iter().map(App::json));
        if let Sdk::Browser(_) = sdk {
            command.envs(chromium().map(|place| ("CHROMIUM", place)));
        }
        Some(Self::of(command))
    }

    /// A program that reads its standard input to its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = Arc::new(Mutex::new(String::new()));
        let mut reading = JoinSet::new();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        reading.spawn(read(stdout, Arc::clone(&said)));
        reading.spawn(read(stderr, Arc::clone(&said)));
        Self {
            stdin: child.stdin.take(),
            child,
            said,
            reading,
        }
    }

    /// Writes to its standard input.
    pub(crate) async fn feed(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        let fed = tokio::time::timeout(ENDS_WITHIN, stdin.write_all(text.as_bytes())).await;
        assert!(
            matches!(fed, Ok(Ok(()))),
            "it does not read:\n{}",
            self.said()
        );
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lets it end, and returns what it said.
    pub(crate) async fn end(mut self) -> String {
        drop(self.stdin.take());
        let ended = tokio::time::timeout(ENDS_WITHIN, self.child.wait()).await;
        let status = ended
            .unwrap_or_else(|_elapsed| panic!("it does not end:\n{}", self.said()))
            .unwrap();
        while self.reading.join_next().await.is_some() {}
        let said = self.said();
        assert!(status.success(), "{status}:\n{said}");
        said
    }
}

async fn read(output: impl tokio::io::AsyncRead + Unpin, said: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&line);
        said.push('\n');
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdks")
}

/// A script of `tests/sdks`, where Node finds its packages: beside them.
fn node_script(name: &str) -> PathBuf {
    let copy = tools().join(name);
    place(&sources().join(name), &copy);
    copy
}

/// The same of one that opens a page.
pub(crate) fn page_script(name: &str) -> PathBuf {
    node_script("site.mjs");
    node_script(name)
}

fn is_same(a: &Path, b: &Path) -> bool {
    std::fs::read(a).ok() == std::fs::read(b).ok()
}

/// Copies a file in one step, if it is not there already: other tests may be reading it.
pub(crate) fn place(from: &Path, to: &Path) {
    if is_same(from, to) {
        return;
    }
    let folder = to.parent().expect("a file lies in a folder");
    let mut fresh = tempfile::NamedTempFile::new_in(folder).unwrap();
    fresh.write_all(&std::fs::read(from).unwrap()).unwrap();
    fresh.persist(to).unwrap();
}
