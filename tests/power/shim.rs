//! The preloaded journal and the children that run under it: this test binary again, in another role.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};

/// Tells a child what it is to do.
pub(crate) const ROLE: &str = "EVENTKIT_POWER_ROLE";
/// Tells it with what.
pub(crate) const SPEC: &str = "EVENTKIT_POWER_SPEC";

const ROOT: &str = "EVENTKIT_JOURNAL_ROOT";
const FILE: &str = "EVENTKIT_JOURNAL_FILE";
const SYNC_US: &str = "EVENTKIT_JOURNAL_SYNC_US";

/// Compiled once per run of the tests.
#[derive(Debug)]
pub(crate) struct Shim {
    library: PathBuf,
}

/// A child that is to be run.
#[derive(Debug)]
pub(crate) struct Child<'a> {
    pub(crate) role: &'a str,
    pub(crate) spec: String,
    /// The directory whose files are watched.
    pub(crate) root: &'a Path,
    pub(crate) journal: Option<&'a Path>,
    /// How long a sync takes.
    pub(crate) sync_us: u32,
}

impl Shim {
    /// Compiles the journal.
    pub(crate) fn build(into: &Path) -> Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/journal.c");
        let library = into.join("journal.so");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(&library)
            .arg(source)
            .args(["-ldl", "-lpthread"])
            .output()
            .context("run cc, which building SQLite needs too")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cc: {errors}");
        Ok(Self { library })
    }

    /// Runs this binary in another role and waits for its end.
    pub(crate) fn run(&self, child: &Child<'_>) -> Result<Output> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env("LD_PRELOAD", &self.library)
            .env(ROLE, child.role)
            .env(SPEC, &child.spec)
            .env(ROOT, child.root)
            .env(SYNC_US, child.sync_us.to_string());
        if let Some(journal) = child.journal {
            command.env(FILE, journal);
        }
        command.output().context("run the test binary as a child")
    }
}

/// The directory that is watched, as the child sees it.
pub(crate) fn root() -> Result<PathBuf> {
    Ok(std::env::var_os(ROOT).context("no root")?.into())
}

/// The size of this child's own journal so far.
pub(crate) fn journal_bytes() -> u64 {
    std::env::var_os(FILE)
        .and_then(|file| std::fs::metadata(file).ok())
        .map_or(0, |file| file.len())
}
