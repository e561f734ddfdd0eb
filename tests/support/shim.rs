//! The preloaded shim `tests/shim/faults.c`, from the test's side: built once, steered and read through its control file.
//!
//! The layout of that file and what each rule does stand at the top of the C file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xxhash_rust::xxh3::xxh3_64;

const SOURCE: &str = include_str!("../shim/faults.c");
const MAGIC: u64 = 0x3154_4c55_4146;
/// How many rules there are.
const RULES: u64 = 16;
const HEADER_BYTES: u64 = 128;
const RULE_BYTES: u64 = 256;
const PATH_BYTES: usize = 200;

/// What a rule is about; add them up.
pub(crate) mod on {
    pub(crate) const OPEN: u64 = 1;
    pub(crate) const WRITE: u64 = 2;
    pub(crate) const SYNC: u64 = 4;
    pub(crate) const TRUNCATE: u64 = 8;
    pub(crate) const ALLOCATE: u64 = 16;
    pub(crate) const RENAME: u64 = 32;
    pub(crate) const LINK: u64 = 64;
    pub(crate) const UNLINK: u64 = 128;
    pub(crate) const FOLDER: u64 = 256;
    pub(crate) const READ: u64 = 512;
    /// Everything that changes something on disk, opens apart.
    pub(crate) const CHANGES: u64 =
        WRITE | SYNC | TRUNCATE | ALLOCATE | RENAME | LINK | UNLINK | FOLDER;
}

/// What is done to the calls that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They are counted.
    Count,
    /// They fail with this number of the system's.
    Fail(i32),
    /// They take so many microseconds more.
    Delay(u64),
    /// The process is killed instead of the call.
    KillBefore,
    /// The process is killed once the call was made.
    KillAfter,
    /// The process is killed when half of the bytes are written.
    KillHalf,
    /// There is room for so many bytes, then none.
    Room(i64),
    /// The wall clock shows so many microseconds more.
    Clock(i64),
}

impl Fault {
    fn words(self) -> (u64, i64) {
        match self {
            Self::Count => (1, 0),
            Self::Fail(errno) => (2, errno.into()),
            Self::Delay(micros) => (3, micros.try_into().unwrap_or(i64::MAX)),
            Self::KillBefore => (4, 0),
            Self::KillAfter => (5, 0),
            Self::KillHalf => (6, 0),
            Self::Room(bytes) => (7, bytes),
            Self::Clock(micros) => (8, micros),
        }
    }
}

/// Which calls a fault meets.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) fault: Fault,
    /// Of [`on`].
    pub(crate) operations: u64,
    /// What the path has in it.
    pub(crate) path: String,
    /// The first call that is concerned, counted from 1.
    pub(crate) from: u64,
    /// How many are; 0 for all.
    pub(crate) times: u64,
}

impl Rule {
    /// All calls of these kinds on files below this path.
    pub(crate) fn new(fault: Fault, operations: u64, path: &Path) -> Self {
        Self {
            fault,
            operations,
            path: path.display().to_string(),
            from: 1,
            times: 0,
        }
    }

    /// Only `times` calls from the `from`-th on.
    pub(crate) fn calls(mut self, from: u64, times: u64) -> Self {
        (self.from, self.times) = (from, times);
        self
    }
}

/// The control file of one process at a time.
#[derive(Debug)]
pub(crate) struct Faults {
    path: PathBuf,
    file: File,
    library: PathBuf,
}

impl Faults {
    /// A control file at a path, with every rule off; builds the shim if it has changed.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let library = built()?;
        let mut bytes = vec![0; usize::try_from(HEADER_BYTES + RULES * RULE_BYTES)?];
        bytes.splice(..8, MAGIC.to_le_bytes());
        fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            library,
        })
    }

    /// What the process's environment needs.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAULTS_CONTROL", self.path.display().to_string()),
        ]
    }

    /// Sets a rule; its counters begin anew.
    pub(crate) fn set(&self, number: u64, rule: &Rule) -> Result<()> {
        ensure!(number < RULES, "there are {RULES} rules");
        ensure!(
            rule.path.len() < PATH_BYTES,
            "the path is too long: {}",
            rule.path
        );
        self.off(number)?;
        let (action, argument) = rule.fault.words();
        let mut bytes = Vec::with_capacity(256);
        for word in [rule.operations, rule.from, rule.times] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&argument.to_le_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(rule.path.as_bytes());
        bytes.push(0);
        let at = HEADER_BYTES + number * RULE_BYTES;
        self.file.write_all_at(&bytes, at + 8)?;
        self.file.write_all_at(&action.to_le_bytes(), at)?;
        Ok(())
    }

    /// Takes a rule back; what it counted stays to be read.
    pub(crate) fn off(&self, number: u64) -> Result<()> {
        let at = HEADER_BYTES + number * RULE_BYTES;
        self.file.write_all_at(&[0; 8], at)?;
        Ok(())
    }

    /// Adds to a rule's argument: more room.
    pub(crate) fn set_argument(&self, number: u64, argument: i64) -> Result<()> {
        let at = HEADER_BYTES + number * RULE_BYTES + 32;
        self.file.write_all_at(&argument.to_le_bytes(), at)?;
        Ok(())
    }

    /// How many calls a rule was about so far.
    pub(crate) fn seen(&self, number: u64) -> Result<u64> {
        self.word(HEADER_BYTES + number * RULE_BYTES + 40)
    }

    /// How many calls a rule ended or changed so far.
    pub(crate) fn hit(&self, number: u64) -> Result<u64> {
        self.word(HEADER_BYTES + number * RULE_BYTES + 48)
    }

    /// At which call the process killed itself: what it was, and on which file.
    pub(crate) fn died(&self) -> Result<Option<String>> {
        let operation = match self.word(16)? {
            0 => return Ok(None),
            on::OPEN => "open",
            on::WRITE => "write",
            on::SYNC => "sync",
            on::TRUNCATE => "truncate",
            on::ALLOCATE => "allocate",
            on::RENAME => "rename",
            on::LINK => "link",
            on::UNLINK => "unlink",
            on::FOLDER => "mkdir or rmdir",
            on::READ => "read",
            other => bail!("operation {other} is not known"),
        };
        let mut path = [0; 104];
        self.file.read_exact_at(&mut path, 24)?;
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Some(format!(
            "{operation} of {}",
            String::from_utf8_lossy(path)
        )))
    }

    /// Forgets the last death.
    pub(crate) fn revive(&self) -> Result<()> {
        self.file.write_all_at(&[0; 112], 16)?;
        Ok(())
    }

    fn word(&self, at: u64) -> Result<u64> {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, at)?;
        Ok(u64::from_le_bytes(word))
    }
}

/// The library, built from the source as it is now.
fn built() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("libfaults-{:016x}.so", xxh3_64(SOURCE.as_bytes())));
    if library.exists() {
        return Ok(library);
    }
    let work = tempfile::tempdir_in(folder)?;
    let source = work.path().join("faults.c");
    let fresh = work.path().join("libfaults.so");
    fs::write(&source, SOURCE)?;
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o"])
        .args([&fresh, &source])
        .arg("-ldl")
        .output()
        .context("run cc, which building eventkit needs as well")?;
    if !output.status.success() {
        bail!("cc: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Whoever else builds it now makes the same file.
    fs::rename(&fresh, &library)?;
    Ok(library)
}
