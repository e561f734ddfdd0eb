//! `eventkit keys add|list|revoke`: the file of write keys.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::flags::KeyFlags;
use super::{EXIT_FAILED, EXIT_OK, inputs, reader_gone};
use crate::clock::Clock;
use crate::config::{self, Environment, Profile};
use crate::ingress::auth::disk::{self, DiskError};
use crate::ingress::auth::file::Entry;
use crate::ingress::auth::{KeyHash, secret};

/// What stands at the end of its help.
pub const AFTER_HELP: &str = "\
Examples:
  eventkit keys add --source shop-web --origin https://shop.example
  eventkit keys add --source billing --stream invoices --events-per-second 500
  eventkit keys add --source ios --existing < key.txt      a key that clients have already
  eventkit keys list
  eventkit keys revoke 5f0c1d9a77e2

The file is the one that EVENTKIT_WRITE_KEYS_FILE or --write-keys-file names; it holds hashes, and a running gateway takes a change
in within two seconds. `add` prints the key, once: nobody can read it again.";

/// Tools for the write keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, this once
    Add(AddArgs),
    /// List the keys by their ids; exits with 1 if the file cannot be used
    List {
        /// Show them as JSON
        #[arg(long)]
        json: bool,
        /// Where they are
        #[command(flatten)]
        flags: KeyFlags,
    },
    /// Refuse a key from now on
    Revoke {
        /// The key's id, as `list` shows it
        id: String,
        /// Where it is
        #[command(flatten)]
        flags: KeyFlags,
    },
}

/// What `keys add` takes.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The source of its events: half of each event's identity, and a column of the warehouse
    #[arg(long, value_name = "NAME")]
    pub source: String,
    /// A stream that it may write to; may be given several times [default: all]
    #[arg(long = "stream", value_name = "NAME")]
    pub streams: Vec<String>,
    /// An origin whose pages may use it, as in https://shop.example or https://*.shop.example; may be given several times [default: all]
    #[arg(long = "origin", value_name = "ORIGIN")]
    pub origins: Vec<String>,
    /// How many events a second it may send [default: EVENTKIT_KEY_EVENTS_PER_SECOND]
    #[arg(long, value_name = "N")]
    pub events_per_second: Option<u64>,
    /// How many bytes a second it may send [default: EVENTKIT_KEY_BYTES_PER_SECOND]
    #[arg(long, value_name = "BYTES")]
    pub bytes_per_second: Option<u64>,
    /// Read the key from standard input instead of making one: for clients that have it already
    #[arg(long)]
    pub existing: bool,
    /// Show key and id as JSON
    #[arg(long)]
    pub json: bool,
    /// Where it goes
    #[command(flatten)]
    pub flags: KeyFlags,
}

/// Why the keys could not be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The settings are wrong.
    #[error("{0}")]
    Config(#[from] config::Problems),
    /// Nothing says which file it is.
    #[error("find the file of write keys: set EVENTKIT_WRITE_KEYS_FILE or give --write-keys-file")]
    NoFile,
    /// It could not be read or written.
    #[error("use the file of write keys")]
    Disk(#[from] DiskError),
    /// What was read from standard input is no good key.
    #[error("take the key from standard input: {0}")]
    Key(&'static str),
    /// There is no such key.
    #[error("revoke {0}: there is no key with this id; `eventkit keys list` shows them")]
    NoKey(String),
    /// Standard input or output failed.
    #[error("read or write")]
    Io(#[from] io::Error),
}

/// What the tool works with besides its arguments.
#[derive(Debug)]
pub struct Surroundings<'a, C, I> {
    /// Where the settings come from.
    pub environment: &'a Environment,
    /// What time it is.
    pub clock: C,
    /// Where an existing key comes from.
    pub input: I,
}

/// Runs the tool; the answer is the exit code.
///
/// # Errors
///
/// [`KeysError`]
pub fn run<C: Clock, I: BufRead>(
    command: KeysCommand,
    around: Surroundings<'_, C, I>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, KeysError> {
    let now = around.clock.now();
    let now = DateTime::from_timestamp_micros(now).unwrap_or_default();
    let now = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let path = |flags| path(flags, around.environment);
    let done = match command {
        KeysCommand::Add(args) => {
            let path = path(args.flags.clone())?;
            add(args, &path, (now, around.input), out, err)
        }
        KeysCommand::List { json, flags } => list(&path(flags)?, json, out),
        KeysCommand::Revoke { id, flags } => revoke(&path(flags)?, id, now, err),
    };
    match done {
        Ok(()) => Ok(EXIT_OK),
        Err(KeysError::Io(error)) if reader_gone(&error) => Ok(EXIT_FAILED),
        Err(error) => Err(error),
    }
}

fn path(flags: KeyFlags, environment: &Environment) -> Result<PathBuf, KeysError> {
    let inputs = inputs(Profile::Serve, flags, environment);
    config::write_keys_file(&inputs)?.ok_or(KeysError::NoFile)
}

fn add(
    args: AddArgs,
    path: &Path,
    (now, mut input): (String, impl BufRead),
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), KeysError> {
    let key = if args.existing {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let key = line.trim().to_owned();
        secret::check_key(&key).map_err(KeysError::Key)?;
        key
    } else {
        secret::new_key()
    };
    let sha256 = KeyHash::of(key.as_bytes()).ok_or(KeysError::Key("it is too long"))?;
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let entry = Entry {
        id: secret::new_id(),
        source: args.source,
        sha256,
        streams: some(args.streams),
        origins: some(args.origins),
        events_per_second: args.events_per_second,
        bytes_per_second: args.bytes_per_second,
        created: Some(now),
        revoked: None,
    };
    let (id, source) = (entry.id.clone(), entry.source.clone());
    disk::update(path, |file| {
        file.keys.push(entry);
        Some(())
    })?;
    if args.json {
        #[derive(Serialize)]
        struct Made<'a> {
            id: &'a str,
            source: &'a str,
            key: &'a str,
        }
        let made = Made {
            id: &id,
            source: &source,
            key: &key,
        };
        serde_json::to_writer(&mut *out, &made).map_err(io::Error::from)?;
        writeln!(out)?;
    } else if args.existing {
        writeln!(out, "{id}")?;
    } else {
        writeln!(out, "{key}")?;
    }
    writeln!(err, "key {id} for source {source} is in {}", path.display())?;
    Ok(())
}

fn list(path: &Path, json: bool, out: &mut dyn Write) -> Result<(), KeysError> {
    let file = disk::read(path)?;
    if json {
        #[derive(Serialize)]
        struct Shown<'a> {
            id: &'a str,
            source: &'a str,
            streams: &'a Option<Vec<String>>,
            origins: &'a Option<Vec<String>>,
            events_per_second: Option<u64>,
            bytes_per_second: Option<u64>,
            created: &'a Option<String>,
            revoked: &'a Option<String>,
        }
        let shown: Vec<_> = file
            .keys
            .iter()
            .map(|entry| Shown {
                id: &entry.id,
                source: &entry.source,
                streams: &entry.streams,
                origins: &entry.origins,
                events_per_second: entry.events_per_second,
                bytes_per_second: entry.bytes_per_second,
                created: &entry.created,
                revoked: &entry.revoked,
            })
            .collect();
        serde_json::to_writer_pretty(&mut *out, &shown).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<14} {:<20} {:<20} {:<12} {:<14} {:<24} origins",
        "id", "source", "state", "events/s", "bytes/s", "streams"
    )?;
    for entry in &file.keys {
        let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string());
        let all = |list: &Option<Vec<String>>| match list {
            Some(list) if list.is_empty() => "none".to_owned(),
            Some(list) => list.join(","),
            None => "all".to_owned(),
        };
        writeln!(
            out,
            "{:<14} {:<20} {:<20} {:<12} {:<14} {:<24} {}",
            entry.id,
            entry.source,
            if entry.revoked.is_some() {
                "revoked"
            } else {
                "good"
            },
            rate(entry.events_per_second),
            rate(entry.bytes_per_second),
            all(&entry.streams),
            all(&entry.origins),
        )?;
    }
    Ok(())
}

fn revoke(path: &Path, id: String, now: String, err: &mut dyn Write) -> Result<(), KeysError> {
    // A file that is not there is not made.
    disk::read(path)?;
    let revoked = disk::update(path, |file| {
        let entry = file.keys.iter_mut().find(|entry| entry.id == id)?;
        entry.revoked.get_or_insert(now);
        Some(entry.source.clone())
    })?;
    match revoked {
        Some(source) => {
            writeln!(
                err,
                "key {id} of source {source} is revoked in {}",
                path.display()
            )?;
            Ok(())
        }
        None => Err(KeysError::NoKey(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    struct Tool {
        dir: tempfile::TempDir,
    }

    impl Tool {
        fn run(&self, arguments: &[&str], input: &str) -> (Result<u8, KeysError>, String, String) {
            use clap::Parser as _;

            let mut all = vec!["eventkit", "keys"];
            all.extend(arguments);
            let cli = super::super::Cli::try_parse_from(all).unwrap();
            let super::super::Command::Keys(command) = cli.command else {
                panic!("not keys");
            };
            let mut environment = Environment::default();
            let path = self.dir.path().join("keys.json").display().to_string();
            environment
                .vars
                .insert("EVENTKIT_WRITE_KEYS_FILE".into(), path);
            let around = Surroundings {
                environment: &environment,
                clock: ManualClock::new(1_000_000),
                input: input.as_bytes(),
            };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let ended = run(command, around, &mut out, &mut err);
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (ended, text(out), text(err))
        }
    }

    #[test]
    fn a_key_is_printed_once_and_lies_nowhere() {
        let tool = Tool {
            dir: tempfile::tempdir().unwrap(),
        };
        let arguments = [
            "add",
            "--source",
            "shop",
            "--stream",
            "a",
            "--stream",
            "b",
            "--origin",
            "https://x.y",
            "--events-per-second",
            "5",
        ];
        let (ended, key, err) = tool.run(&arguments, "");
        assert_eq!(ended.unwrap(), EXIT_OK);
        let key = key.trim();
        assert!(key.starts_with("ek_") && !err.contains(key), "{err}");
        let file = disk::read(&tool.dir.path().join("keys.json")).unwrap();
        let [entry] = &file.keys[..] else {
            panic!("{file:?}");
        };
        assert_eq!(Some(entry.sha256), KeyHash::of(key.as_bytes()));
        assert_eq!(
            entry.streams.as_deref(),
            Some(&["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(entry.created.as_deref(), Some("1970-01-01T00:00:01Z"));
        let text = std::fs::read_to_string(tool.dir.path().join("keys.json")).unwrap();
        let (ended, listed, _) = tool.run(&["list"], "");
        assert_eq!(ended.unwrap(), EXIT_OK);
        let (_, json, _) = tool.run(&["list", "--json"], "");
        for shown in [&text, &listed, &json] {
            assert!(!shown.contains(key), "{shown}");
        }
        assert!(
            listed.contains(&entry.id) && listed.contains("a,b"),
            "{listed}"
        );

        let (ended, ..) = tool.run(&["revoke", &entry.id], "");
        assert_eq!(ended.unwrap(), EXIT_OK);
        let (_, listed, _) = tool.run(&["list"], "");
        assert!(listed.contains("revoked"), "{listed}");
        assert!(matches!(
            tool.run(&["revoke", "nobody"], "").0,
            Err(KeysError::NoKey(_))
        ));
    }

    #[test]
    fn an_existing_key_is_read_and_never_shown() {
        let tool = Tool {
            dir: tempfile::tempdir().unwrap(),
        };
        let key = "N7fPqWz2LkX0vB9sT4yR8cJ1aaaa";
        let arguments = ["add", "--source", "shop", "--existing"];
        let (ended, out, err) = tool.run(&arguments, &format!(" {key}\n"));
        assert_eq!(ended.unwrap(), EXIT_OK);
        assert!(!out.contains(key) && !err.contains(key));
        let (ended, ..) = tool.run(&arguments, key);
        assert!(matches!(ended, Err(KeysError::Disk(_))), "twice");
        for bad in ["short", ""] {
            assert!(matches!(
                tool.run(&arguments, bad).0,
                Err(KeysError::Key(_))
            ));
        }
        let bad_source = ["add", "--source", "a/b"];
        assert!(matches!(
            tool.run(&bad_source, "").0,
            Err(KeysError::Disk(_))
        ));
    }
}
