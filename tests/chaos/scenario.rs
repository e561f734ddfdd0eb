//! A scenario: a name, and what it does on a stage of its own (a directory, an engine, a seed).

use std::fmt;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::pin::Pin;

use anyhow::{Context as _, Result, bail};
use libtest_mimic::Trial;

use crate::support::gateway::{self, Endpoints, Gateway, setting};

/// A log so small that trimming goes on all the time, and yet remembers the last request of every client.
const LOG: (&str, &str) = ("EVENTKIT_RING_BUFFER_MAX_SIZE", "10000");

/// What a person asked for.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The full measure instead of the short one.
    pub(crate) long: bool,
    /// How many kills per engine, if somebody said so.
    pub(crate) kills: Option<u64>,
    /// What chance there is begins with this.
    pub(crate) seed: u64,
    /// The figures are appended to this file.
    figures: Option<PathBuf>,
}

impl Settings {
    /// Reads the variables.
    pub(crate) fn from_environment() -> Result<Self> {
        let long = match setting("EVENTKIT_CHAOS").as_deref() {
            None | Some("short") => false,
            Some("long") => true,
            Some(other) => bail!("EVENTKIT_CHAOS={other} is neither short nor long"),
        };
        Ok(Self {
            long,
            kills: number("EVENTKIT_CHAOS_KILLS")?,
            seed: number("EVENTKIT_CHAOS_SEED")?.unwrap_or_else(|| rand::random::<u32>().into()),
            figures: setting("EVENTKIT_CHAOS_FIGURES").map(PathBuf::from),
        })
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.long { "long" } else { "short" };
        write!(f, "{form}, seed {}, {}", self.seed, gateway::binary())
    }
}

fn number(name: &str) -> Result<Option<u64>> {
    let number = setting(name).map(|text| text.parse().with_context(|| format!("{name}={text}")));
    number.transpose()
}

/// A line for the log of the run.
pub(crate) fn say(who: &str, text: &str) {
    writeln!(std::io::stdout(), "{who}: {text}").expect("write to stdout");
}

/// What the log lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sled,
    Sqlite,
}

impl Engine {
    pub(crate) const BOTH: [Self; 2] = [Self::Sled, Self::Sqlite];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Sqlite => "sqlite",
        }
    }

    fn setting(self) -> (&'static str, &'static str) {
        match self {
            Self::Sled => gateway::SLED,
            Self::Sqlite => gateway::SQLITE,
        }
    }
}

type Act = Box<dyn FnOnce(Stage) -> Pin<Box<dyn Future<Output = Result<()>>>> + Send>;

/// One test of the run.
pub(crate) struct Scenario {
    name: String,
    engine: Engine,
    act: Act,
}

impl Scenario {
    /// One for each engine, named `<family>::<what is true>::<engine>`.
    pub(crate) fn on_both<F>(name: &str, act: fn(Stage) -> F) -> [Self; 2]
    where
        F: Future<Output = Result<()>> + 'static,
    {
        Engine::BOTH.map(|engine| Self {
            name: format!("{name}::{}", engine.name()),
            engine,
            act: Box::new(move |stage| Box::pin(act(stage))),
        })
    }

    /// One alone, for what has little to do with the log's engine.
    pub(crate) fn alone<F>(
        name: String,
        engine: Engine,
        act: impl FnOnce(Stage) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<()>> + 'static,
    {
        Self {
            name,
            engine,
            act: Box::new(move |stage| Box::pin(act(stage))),
        }
    }

    /// The same for the harness.
    pub(crate) fn trial(self, settings: &Settings) -> Trial {
        let settings = settings.clone();
        let name = self.name.clone();
        Trial::test(name, move || {
            self.run(settings)
                .map_err(|error| format!("{error:#}").into())
        })
    }

    fn run(self, settings: Settings) -> Result<()> {
        let dir = tempfile::Builder::new()
            .prefix("eventkit-chaos-")
            .tempdir()?;
        let stage = Stage {
            name: self.name.clone(),
            dir: dir.path().to_owned(),
            engine: self.engine,
            settings,
            environment: [LOG, self.engine.setting()]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        // A line of its own, where the harness has begun one.
        stage.say(&format!("begins, with its log on {}", stage.engine.name()));
        let again = format!("EVENTKIT_CHAOS_SEED={}", stage.settings.seed);
        let result = runtime.block_on((self.act)(stage));
        if result.is_err() {
            let dir = dir.keep();
            say(
                &self.name,
                &format!("data kept in {}; again with {again}", dir.display()),
            );
        }
        result
    }
}

/// Where a scenario plays.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    name: String,
    /// The gateway's data directory. It is gone after the scenario.
    pub(crate) dir: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
    environment: Vec<(String, String)>,
}

impl Stage {
    /// A variable (a setting, or `LD_PRELOAD`) of every gateway that is started from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl ToString) {
        self.unset(name);
        self.environment.push((name.to_owned(), value.to_string()));
    }

    /// Takes such a variable back.
    pub(crate) fn unset(&mut self, name: &str) {
        self.environment.retain(|(known, _)| known != name);
    }

    /// Starts a gateway and does not wait for anything.
    pub(crate) fn spawn(&self) -> Result<Gateway> {
        let environment: Vec<(&str, &str)> = self
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Gateway::spawn(&self.dir, &environment)
    }

    /// Starts `eventkit serve` on a directory below the stage's, with some settings more, and does not wait for anything.
    pub(crate) fn serve(&self, below: &str, more: &[(String, String)]) -> Result<Gateway> {
        let environment: Vec<(&str, &str)> = self
            .environment
            .iter()
            .chain(more)
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Gateway::spawn_as("serve", &self.dir.join(below), &environment)
    }

    /// Starts a gateway and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<(Gateway, Endpoints)> {
        let mut gateway = self.spawn()?;
        let endpoints = gateway.ready(gateway::START_TIMEOUT).await?;
        Ok((gateway, endpoints))
    }

    /// One of two measures.
    pub(crate) fn pick<T>(&self, short: T, long: T) -> T {
        if self.settings.long { long } else { short }
    }

    /// A line for the log of the run.
    pub(crate) fn say(&self, text: &str) {
        say(&self.name, text);
    }

    /// The same, and for the summary of the run.
    pub(crate) fn figure(&self, text: &str) -> Result<()> {
        self.say(text);
        let Some(path) = &self.settings.figures else {
            return Ok(());
        };
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        writeln!(file, "{}: {text}", self.name)?;
        Ok(())
    }
}
