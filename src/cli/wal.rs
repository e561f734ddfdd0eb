//! `eventkit wal stat|verify|dump|drain|repair|relane`: looks into a log without changing it, empties it ([`drain`]), makes a
//! fresh one of what is left of it ([`repair`]) or gives it another number of lanes ([`relane`]).
//!
//! A log that is in use is asked through its process's admin port; any other is copied and the copy opened. Both give
//! the same JSON, and everything that is shown is made from that.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use super::progress::Progress;
use super::{EXIT_FAILED, EXIT_OK, WalArgs, WalCommand, inputs, reader_gone};
use crate::config::{self, Environment, Profile};
use crate::event::Offset;
use crate::wal::advice::repair_command;
use crate::wal::inspect::{InspectError, Inspector};
use crate::wal::repair::RepairError;

mod drain;
mod live;
mod relane;
mod repair;
mod show;

pub use live::{LockFile, lock_path};

/// Records that are asked for at a time; with what the clients sent, an answer is a hundred times as large.
const PAGE: u64 = 1000;
const PAGE_WITH_PAYLOAD: u64 = 100;

/// Why the log could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The settings that say where it is are wrong.
    #[error("{0}")]
    Config(#[from] config::Problems),
    /// Its lock file could not be read.
    #[error("read the lock file {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is in use, and its lock file does not say by whom.
    #[error("look into {0}: the log is in use, but its lock file names no admin port")]
    NoAdmin(PathBuf),
    /// It is in use, and its process's admin port does not answer as it should.
    #[error("ask the admin port {admin} of process {pid}, which uses the log: {what}")]
    Admin {
        /// The process that uses the log.
        pid: u32,
        /// Its admin port.
        admin: std::net::SocketAddr,
        /// What went wrong.
        what: String,
    },
    /// The copy could not be made or read.
    #[error("look into the log")]
    Inspect(#[from] InspectError),
    /// An answer is not what this program understands: another version gave it.
    #[error("read the answer")]
    Answer(#[from] serde_json::Error),
    /// The log could not be drained.
    #[error(transparent)]
    Drain(#[from] anyhow::Error),
    /// The log could not be repaired.
    #[error("repair the log")]
    Repair(#[from] RepairError),
    /// The output could not be written.
    #[error("write the output")]
    Output(#[from] io::Error),
}

/// Where the answers come from.
enum Source {
    Live {
        lock: LockFile,
        /// What its admin port may ask for.
        token: Option<String>,
    },
    Copy(Box<Inspector>),
}

impl Source {
    fn open(path: &Path, token: Option<String>) -> Result<Self, WalError> {
        if let Some(lock) = live::lock_file(path)? {
            return Ok(Self::Live { lock, token });
        }
        let copy = Inspector::open_copy(path);
        // A process that took the log in the meantime may have changed it under the copying.
        match live::lock_file(path)? {
            Some(lock) => Ok(Self::Live { lock, token }),
            None => Ok(Self::Copy(Box::new(copy?))),
        }
    }

    fn stat(&self) -> Result<String, WalError> {
        match self {
            Self::Live { lock, token } => live::ask(lock, token.as_deref(), "/admin/wal/stat"),
            Self::Copy(copy) => Ok(serde_json::to_string(&copy.stat()?)?),
        }
    }

    fn verify(&self) -> Result<String, WalError> {
        match self {
            Self::Live { lock, token } => live::ask(lock, token.as_deref(), "/admin/wal/verify"),
            Self::Copy(copy) => {
                let bar = Progress::new(None, io::stderr().is_terminal());
                let found = copy.verify_telling(&mut |records| bar.show(records, "read".into()));
                bar.finish();
                Ok(serde_json::to_string(&found?)?)
            }
        }
    }

    fn dump(&self, from: Offset, limit: u64, payload: bool) -> Result<String, WalError> {
        match self {
            Self::Live { lock, token } => live::ask(
                lock,
                token.as_deref(),
                &format!("/admin/wal/dump?from={from}&limit={limit}&payload={payload}"),
            ),
            Self::Copy(copy) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                Ok(serde_json::to_string(&copy.dump(from, limit, payload)?)?)
            }
        }
    }
}

/// Runs the tool; the answer is the exit code.
///
/// # Errors
///
/// [`WalError`].
pub fn run(
    command: WalCommand,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<u8, WalError> {
    match answer(command, environment, out) {
        Err(WalError::Output(error)) if reader_gone(&error) => Ok(EXIT_OK),
        answered => answered,
    }
}

fn answer(
    command: WalCommand,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<u8, WalError> {
    match command {
        WalCommand::Drain(args) => drain::run(args, environment, out).map_err(|error| {
            error
                .downcast::<config::Problems>()
                .map_or_else(WalError::Drain, WalError::Config)
        }),
        WalCommand::Repair(args) => repair::run(args, environment, out),
        WalCommand::Relane(args) => relane::run(args, environment, out),
        WalCommand::Stat { shared } => {
            let json = shared.json;
            let (path, token) = place(shared, environment)?;
            let answer = Source::open(&path, token)?.stat()?;
            if json {
                writeln!(out, "{answer}")?;
            } else {
                show::stat(&serde_json::from_str(&answer)?, out)?;
            }
            Ok(EXIT_OK)
        }
        WalCommand::Verify { shared } => {
            let json = shared.json;
            let (path, token) = place(shared, environment)?;
            let answer = Source::open(&path, token)?.verify()?;
            let found: show::Found = serde_json::from_str(&answer)?;
            if json {
                writeln!(out, "{answer}")?;
            } else {
                show::verification(&found, &repair_command(&path), out)?;
            }
            Ok(if found.problems.is_empty() {
                EXIT_OK
            } else {
                EXIT_FAILED
            })
        }
        WalCommand::Dump {
            from,
            limit,
            payload,
            shared,
        } => {
            let json = shared.json;
            let (path, token) = place(shared, environment)?;
            let source = Source::open(&path, token)?;
            dump(&source, (from, limit, payload), json, out)?;
            Ok(EXIT_OK)
        }
    }
}

/// The log that is meant (the one on the command line, else the one that the settings say), and the token for a process that
/// uses it. Neither depends on the command that uses it.
fn place(
    shared: WalArgs,
    environment: &Environment,
) -> Result<(PathBuf, Option<String>), WalError> {
    let inputs = inputs(Profile::Serve, shared.flags, environment);
    let token = config::admin_token(&inputs)?;
    let path = match shared.path {
        Some(path) => path,
        None => config::log_path(&inputs)?,
    };
    Ok((path, token))
}

fn dump(
    source: &Source,
    (mut from, limit, payload): (Offset, u64, bool),
    json: bool,
    out: &mut dyn Write,
) -> Result<(), WalError> {
    if !json {
        show::dump_heading(payload, out)?;
    }
    let page = if payload { PAGE_WITH_PAYLOAD } else { PAGE };
    let mut left = limit;
    while left > 0 {
        let asked = left.min(page);
        let answer = source.dump(from, asked, payload)?;
        let lines: Vec<&RawValue> = serde_json::from_str(&answer)?;
        for line in &lines {
            let record: show::Record = serde_json::from_str(line.get())?;
            from = record.offset.saturating_add(1);
            if json {
                writeln!(out, "{}", line.get())?;
            } else {
                show::record(&record, out)?;
            }
        }
        let count = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        left = left.saturating_sub(count);
        if count < asked {
            break;
        }
    }
    Ok(())
}
