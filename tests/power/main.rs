//! Power cuts: what was acknowledged must be there whatever a cut at any moment leaves of what was not synced.
//!
//! A kill cannot show this, since the page cache survives it. So a writer (this binary in another role) runs under a
//! preloaded journal of everything it does to its files; from the journal disks are rebuilt as a cut at some moment may have
//! left them (`disk`, `cut`), and each is opened by a child of its own, which knows what was promised until then. Some
//! recoveries are cut again. That these cuts find what they should is shown with the same journals, read as if some syncs
//! were worth nothing: then acknowledged events must be lost.
//!
//! `EVENTKIT_CHAOS=long` makes more than a thousand images; `EVENTKIT_POWER_SEED` (random, printed) repeats the runs and the
//! choice of moments, not the threads' timing. A failing image is kept as it was and named.

mod cut;
mod disk;
mod heard;
mod journal;
mod log;
mod run;
mod shim;
mod store;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::disk::Worth;
use crate::log::Shape;
use crate::run::{Figures, Plan, Recorded, Subject};
use crate::shim::{ROLE, SPEC, Shim};

/// How long a child may take.
const CHILD_WITHIN: Duration = Duration::from_secs(300);

/// What all trials of a run share.
#[derive(Debug)]
struct Bench {
    shim: Shim,
    seed: u64,
    long: bool,
    /// The lines of the report.
    report: Mutex<Vec<String>>,
    _dir: tempfile::TempDir,
}

fn main() -> ExitCode {
    match std::env::var_os(ROLE) {
        Some(role) => child(&role.to_string_lossy()),
        None => trials().unwrap_or_else(|error| {
            say(&format!("power: {error:#}"));
            ExitCode::FAILURE
        }),
    }
}

fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").expect("write to stdout");
}

/// Carries out a role.
fn child(role: &str) -> ExitCode {
    std::thread::spawn(|| {
        std::thread::park_timeout(CHILD_WITHIN);
        say("the child takes too long");
        std::process::abort();
    });
    let spec = std::env::var_os(SPEC).unwrap_or_default();
    let spec = spec.to_string_lossy();
    let done = || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        match role {
            "write-log" => runtime.block_on(log::write(&serde_json::from_str(&spec)?)),
            "check-log" => runtime.block_on(log::check(&serde_json::from_str(&spec)?)),
            "write-store" => runtime.block_on(store::write(spec.parse()?)),
            "check-store" => runtime.block_on(store::check()),
            other => bail!("no role {other}"),
        }
    };
    match done() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "{error:#}").expect("write to stderr");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // Each trial uses all cores itself.
    arguments.test_threads = Some(1);
    let seed = match std::env::var_os("EVENTKIT_POWER_SEED") {
        None => rand::random_range(0..1_000_000),
        Some(seed) => seed
            .to_string_lossy()
            .parse()
            .context("EVENTKIT_POWER_SEED is not a number")?,
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let bench = Arc::new(Bench {
        shim: Shim::build(dir.path())?,
        seed,
        long: std::env::var_os("EVENTKIT_CHAOS").is_some_and(|value| value == "long"),
        report: Mutex::default(),
        _dir: dir,
    });
    let trial = |name: &str, test: fn(&Bench) -> Result<()>| {
        let bench = Arc::clone(&bench);
        Trial::test(name, move || {
            test(&bench).map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    let trials = vec![
        trial("a_log_on_sled_survives_every_cut", sled),
        trial("a_log_on_sqlite_survives_every_cut", sqlite),
        trial("a_store_survives_every_cut", stored),
        trial("sleds_own_flush_alone_would_lose_events", sled_flush_alone),
        trial(
            "without_the_replaced_barrier_sled_would_lose_events",
            sled_without_barrier,
        ),
        trial(
            "without_the_snapshots_durable_name_sled_would_lose_events",
            sled_without_snapshot_name,
        ),
        trial(
            "without_syncs_of_its_journal_sqlite_would_lose_events",
            sqlite_without_journal,
        ),
        trial(
            "without_syncs_of_bytes_or_names_a_store_would_lose_batches",
            store_without_syncs,
        ),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    let report = bench.report.lock().unwrap_or_else(PoisonError::into_inner);
    if !report.is_empty() {
        say(&format!(
            "power cuts, EVENTKIT_POWER_SEED={seed}:\n  {}\n",
            report.join("\n  ")
        ));
    }
    Ok(conclusion.exit_code())
}

impl Bench {
    fn report(&self, name: &str, figures: &Figures) {
        let line = format!("{name:<44} {figures}");
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    /// In the short form, and in the long one.
    fn of<T>(&self, short: T, long: T) -> T {
        if self.long { long } else { short }
    }

    /// Cuts runs of several shapes, with every measure on.
    fn survives(&self, name: &str, subjects: Vec<(Subject, usize)>) -> Result<()> {
        let mut sum = Figures::default();
        for (at, (subject, images)) in (0..).zip(subjects) {
            let recorded = Recorded::new(&self.shim, subject, self.seed + at)?;
            sum.add(recorded.images(Plan::safe(images))?);
            if sum.failed() > 0 {
                break;
            }
        }
        self.report(name, &sum);
        ensure!(
            sum.failed() == 0,
            "{} of {} images: {}",
            sum.failed(),
            sum.images + sum.second,
            sum.first.unwrap_or_default()
        );
        Ok(())
    }

    /// Cuts a run as if some syncs were worth nothing: what does not fail then would not notice a real loss.
    fn fails(
        &self,
        name: &str,
        recorded: &Recorded<'_>,
        worth: Worth,
        images: (usize, usize),
    ) -> Result<()> {
        let (images, enough) = if self.long {
            (images.1, usize::MAX)
        } else {
            (images.0, 1)
        };
        let figures = recorded.images(Plan::unsafe_(worth, images, enough))?;
        self.report(name, &figures);
        ensure!(
            figures.failed() > 0,
            "no image failed: these cuts notice nothing"
        );
        Ok(())
    }

    fn log(&self, sqlite: bool, group: (u64, u64), compressible: bool) -> Subject {
        let large = group.1 > 1_000;
        let small = group.1 < 64;
        let engine = if sqlite { "sqlite" } else { "sled" };
        let bytes = if compressible { "lz4" } else { "plain" };
        let shape = Shape {
            sqlite,
            seed: self.seed,
            group,
            compressible,
            retained: if small {
                self.of(2_000, 6_000)
            } else {
                self.of(10_000, 30_000)
            },
            journal_bytes: if large {
                self.of(150 << 20, 500 << 20)
            } else {
                self.of(40 << 20, 250 << 20)
            },
            seconds: self.of(4, 30),
            reopens: 1,
        };
        Self::used(format!("{engine}-{}-{}-{bytes}", group.0, group.1), &shape)
    }

    /// A log's first moments: created, closed and opened again, hardly used.
    fn birth(&self, sqlite: bool) -> Subject {
        let shape = Shape {
            sqlite,
            journal_bytes: 200 << 10,
            reopens: 3,
            ..self.tiny()
        };
        let name = if sqlite { "sqlite-birth" } else { "sled-birth" };
        Self::used(name.into(), &shape)
    }

    /// A log that keeps so little that most of its file is free whenever it is opened.
    fn sparse(&self) -> Subject {
        Self::used("sled-sparse".into(), &self.tiny())
    }

    fn tiny(&self) -> Shape {
        Shape {
            sqlite: false,
            seed: self.seed,
            group: SMALL,
            compressible: true,
            retained: 100,
            journal_bytes: 20 << 20,
            seconds: 4,
            reopens: 1,
        }
    }

    fn used(name: String, shape: &Shape) -> Subject {
        Subject {
            name,
            writer: "write-log",
            reader: "check-log",
            spec: serde_json::to_string(shape).expect("a shape is plain"),
        }
    }

    fn store(&self) -> Subject {
        Subject {
            name: "store".into(),
            writer: "write-store",
            reader: "check-store",
            spec: self.of("60", "400").into(),
        }
    }
}

const SMALL: (u64, u64) = (1, 16);
const MEDIUM: (u64, u64) = (64, 511);
const LARGE: (u64, u64) = (1, 4_096);

fn sled(bench: &Bench) -> Result<()> {
    let images = bench.of(14, 190);
    let mut subjects = vec![
        (bench.birth(false), bench.of(30, 200)),
        (bench.sparse(), bench.of(20, 200)),
        (bench.log(false, LARGE, false), images),
        (bench.log(false, SMALL, true), images),
        (bench.log(false, MEDIUM, false), images),
    ];
    if bench.long {
        subjects.push((bench.log(false, LARGE, true), images));
        subjects.push((bench.log(false, SMALL, false), images));
        subjects.push((bench.log(false, MEDIUM, true), images));
    }
    bench.survives("sled, all syncs", subjects)
}

fn sqlite(bench: &Bench) -> Result<()> {
    let images = bench.of(12, 120);
    let subjects = vec![
        (bench.birth(true), bench.of(20, 100)),
        (bench.log(true, LARGE, false), images),
        (bench.log(true, SMALL, true), images),
        (bench.log(true, MEDIUM, false), images),
    ];
    bench.survives("SQLite, all syncs", subjects)
}

fn stored(bench: &Bench) -> Result<()> {
    bench.survives("store, all syncs", vec![(bench.store(), bench.of(30, 400))])
}

fn sled_flush_alone(bench: &Bench) -> Result<()> {
    let recorded = Recorded::new(&bench.shim, bench.log(false, SMALL, true), bench.seed)?;
    bench.fails(
        "sled, its own flush alone",
        &recorded,
        Worth::SledFlushAlone,
        (40, 60),
    )
}

fn sled_without_barrier(bench: &Bench) -> Result<()> {
    let recorded = Recorded::new(&bench.shim, bench.log(false, LARGE, false), bench.seed)?;
    bench.fails(
        "sled, a sync of ours after each flush alone",
        &recorded,
        Worth::SledWithoutBarrier,
        (400, 150),
    )
}

fn sled_without_snapshot_name(bench: &Bench) -> Result<()> {
    let recorded = Recorded::new(&bench.shim, bench.sparse(), bench.seed)?;
    bench.fails(
        "sled, names of snapshots not synced",
        &recorded,
        Worth::SledWithoutSnapshotName,
        (400, 100),
    )
}

fn sqlite_without_journal(bench: &Bench) -> Result<()> {
    let recorded = Recorded::new(&bench.shim, bench.log(true, SMALL, true), bench.seed)?;
    bench.fails(
        "SQLite, no sync of log.db-wal",
        &recorded,
        Worth::SqliteWithoutJournal,
        (40, 60),
    )
}

fn store_without_syncs(bench: &Bench) -> Result<()> {
    let recorded = Recorded::new(&bench.shim, bench.store(), bench.seed)?;
    bench.fails(
        "store, no sync of bytes",
        &recorded,
        Worth::NamesAlone,
        (40, 60),
    )?;
    bench.fails(
        "store, no sync of names",
        &recorded,
        Worth::BytesAlone,
        (40, 60),
    )
}
