//! One run of a writer becomes many images, and each image is opened by a child of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use crate::cut::cut;
use crate::disk::{Disk, Image, Worth};
use crate::journal::Journal;
use crate::shim::{Child, Shim};

/// Failures after which a run that should have none ends.
const ENOUGH_FAILURES: usize = 5;

/// Second cuts of one recovery.
const SECOND_CUTS: usize = 2;

/// What is cut: who writes, who reads, and how.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) writer: &'static str,
    pub(crate) reader: &'static str,
    pub(crate) spec: String,
}

/// How a journal is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) worth: Worth,
    pub(crate) images: usize,
    /// The share of images whose recovery is cut too.
    pub(crate) second: f64,
    /// Ends at so many failures.
    pub(crate) failures_max: usize,
    /// Only moments at which much is open.
    pub(crate) at_peaks: bool,
}

impl Plan {
    /// With every measure on: no failure is fine.
    pub(crate) fn safe(images: usize) -> Self {
        Self {
            worth: Worth::All,
            images,
            second: 0.3,
            failures_max: ENOUGH_FAILURES,
            at_peaks: false,
        }
    }

    /// With some syncs worth nothing, until it shows.
    pub(crate) fn unsafe_(worth: Worth, images: usize, failures_max: usize) -> Self {
        Self {
            worth,
            images,
            // What an unnamed snapshot costs shows in a recovery alone.
            second: if worth == Worth::SledWithoutSnapshotName {
                1.0
            } else {
                0.0
            },
            failures_max,
            at_peaks: true,
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) images: usize,
    pub(crate) second: usize,
    pub(crate) failures: BTreeMap<&'static str, usize>,
    pub(crate) first: Option<String>,
}

impl Figures {
    pub(crate) fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    fn fail(&mut self, kind: &'static str, why: String) {
        *self.failures.entry(kind).or_default() += 1;
        self.first.get_or_insert(why);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.images += other.images;
        self.second += other.second;
        for (kind, count) in other.failures {
            *self.failures.entry(kind).or_default() += count;
        }
        self.first = self.first.take().or(other.first);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>5} images, {:>4} second cuts, {:>3} failures",
            self.images,
            self.second,
            self.failed()
        )?;
        for (kind, count) in &self.failures {
            write!(f, " · {count} {kind}")?;
        }
        Ok(())
    }
}

/// A journal of one run, and its directory.
#[derive(Debug)]
pub(crate) struct Recorded<'a> {
    shim: &'a Shim,
    subject: Subject,
    seed: u64,
    dir: TempDir,
}

/// One image to be opened.
struct Job {
    id: usize,
    image: Image,
    second: bool,
    worth: Worth,
}

impl<'a> Recorded<'a> {
    /// Runs the writer. What it did, replayed, must be what it left: else a call was missed, and nothing here would be true.
    pub(crate) fn new(shim: &'a Shim, subject: Subject, seed: u64) -> Result<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let recorded = Self {
            shim,
            subject,
            seed,
            dir,
        };
        let root = recorded.root()?;
        let journal = recorded.journal();
        let output = shim.run(&Child {
            role: recorded.subject.writer,
            spec: recorded.subject.spec.clone(),
            root: &root,
            journal: Some(&journal),
            sync_us: 100,
        })?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: the writer: {errors}",
            recorded.subject.name
        );
        let mut disk = Disk::of(Image::default(), Worth::All);
        let mut journal = Journal::open(&journal)?;
        while let Some(record) = journal.next()? {
            disk.apply(record)?;
        }
        let (replayed, real) = (disk.live(), Image::read(&root)?);
        if let Some(difference) = difference(&replayed, &real) {
            bail!(
                "{}: the journal is not all that happened: {difference}",
                recorded.subject.name
            );
        }
        fs::remove_dir_all(&root)?;
        Ok(recorded)
    }

    fn root(&self) -> Result<PathBuf> {
        let root = self.dir.path().canonicalize()?.join("root");
        fs::create_dir_all(&root)?;
        Ok(root)
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// Makes images and has each of them opened.
    pub(crate) fn images(&self, plan: Plan) -> Result<Figures> {
        let mut rng = StdRng::seed_from_u64(self.seed ^ plan.worth as u64);
        let moments = moments(&self.journal(), plan, &mut rng)?;
        let figures = Mutex::new(Figures::default());
        let failed = AtomicUsize::new(0);
        let (jobs, queue) = sync_channel::<Job>(2);
        let queue = Mutex::new(queue);
        let workers = thread::available_parallelism()?.get();
        thread::scope(|scope| {
            let work = || self.work(&queue, &figures, &failed);
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let made = self.make(plan, &moments, &jobs, &failed);
            drop(jobs);
            for thread in threads {
                thread
                    .join()
                    .map_err(|_panic| anyhow::anyhow!("a worker panicked"))??;
            }
            made
        })?;
        Ok(figures.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn make(
        &self,
        plan: Plan,
        moments: &[u64],
        jobs: &SyncSender<Job>,
        failed: &AtomicUsize,
    ) -> Result<()> {
        let mut journal = Journal::open(&self.journal())?;
        let mut disk = Disk::of(Image::default(), plan.worth);
        for (id, moment) in moments.iter().enumerate() {
            while disk.now < *moment {
                let record = journal
                    .next()?
                    .context("the journal is shorter than it was")?;
                disk.apply(record)?;
            }
            let mut rng = StdRng::seed_from_u64(self.seed.wrapping_add(id as u64));
            let second = rng.random_bool(plan.second);
            let image = cut(&disk, &mut rng);
            if failed.load(Ordering::Relaxed) >= plan.failures_max
                || jobs
                    .send(Job {
                        id,
                        image,
                        second,
                        worth: plan.worth,
                    })
                    .is_err()
            {
                break;
            }
        }
        Ok(())
    }

    fn work(
        &self,
        queue: &Mutex<Receiver<Job>>,
        figures: &Mutex<Figures>,
        failed: &AtomicUsize,
    ) -> Result<()> {
        loop {
            let Ok(job) = lock(queue).recv() else {
                return Ok(());
            };
            let done = self.open(&job)?;
            failed.fetch_add(done.failed(), Ordering::Relaxed);
            lock(figures).add(done);
        }
    }

    /// Opens an image, and where that is planned images of its recovery.
    fn open(&self, job: &Job) -> Result<Figures> {
        let mut figures = Figures {
            images: 1,
            ..Figures::default()
        };
        let name = format!("image-{}", job.id);
        let dir = self.dir.path().canonicalize()?.join(&name);
        let journal = job.second.then(|| dir.with_extension("journal"));
        let failure = self.check(&job.image, &dir, journal.as_deref())?;
        if let Some((kind, why)) = failure {
            figures.fail(kind, self.keep(job.worth, &job.image, &name, &why)?);
        } else if let Some(journal) = &journal {
            for round in 0..SECOND_CUTS {
                figures.second += 1;
                let seed = (job.id * SECOND_CUTS + round) as u64;
                let image = second(job, journal, self.seed.wrapping_add(seed))?;
                if let Some((kind, why)) = self.check(&image, &dir, None)? {
                    let name = format!("{name}-{round}");
                    figures.fail(kind, self.keep(job.worth, &image, &name, &why)?);
                    // What the cut recovery began with.
                    let name = format!("{name}-before");
                    self.keep(
                        job.worth,
                        &job.image,
                        &name,
                        "opens when it is not cut again",
                    )?;
                }
            }
        }
        if let Some(journal) = journal {
            fs::remove_file(journal)?;
        }
        Ok(figures)
    }

    /// Has a child open an image; what is wrong with it, and the child's words.
    fn check(
        &self,
        image: &Image,
        dir: &Path,
        journal: Option<&Path>,
    ) -> Result<Option<(&'static str, String)>> {
        image.write(dir)?;
        let output = self.shim.run(&Child {
            role: self.subject.reader,
            spec: self.subject.spec.clone(),
            root: dir,
            journal,
            sync_us: 0,
        })?;
        fs::remove_dir_all(dir)?;
        if output.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let kinds = [
            ("FAILED LATER", "failed later"),
            ("REFUSED", "refused"),
            ("LOST", "lost"),
        ];
        let kind = kinds
            .iter()
            .find(|(word, _)| said.contains(word))
            .map_or("died", |(_, kind)| kind);
        let status = output.status;
        Ok(Some((kind, format!("{status}: {}", said.trim()))))
    }

    /// Keeps an image that should not have failed, as the cut left it; where, and why.
    fn keep(&self, worth: Worth, image: &Image, name: &str, why: &str) -> Result<String> {
        if worth != Worth::All {
            return Ok(format!("{name}: {why}"));
        }
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("power-failures");
        let dir = dir.join(format!("{}-{}-{name}", self.subject.name, self.seed));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        image.write(&dir)?;
        fs::write(dir.join("why"), why)?;
        fs::write(dir.join("spec"), &self.subject.spec)?;
        Ok(format!("{}: {why}", dir.display()))
    }
}

/// A cut of the recovery of an image.
fn second(job: &Job, journal: &Path, seed: u64) -> Result<Image> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let open = open_bytes(journal, Disk::of(job.image.clone(), job.worth))?;
    let moment = moment(&open, rng.random_bool(0.5), &mut rng);
    let mut journal = Journal::open(journal)?;
    let mut disk = Disk::of(job.image.clone(), job.worth);
    while disk.now < moment {
        let record = journal
            .next()?
            .context("the journal is shorter than it was")?;
        disk.apply(record)?;
    }
    Ok(cut(&disk, &mut rng))
}

/// Moments to cut at, ascending: half of them anywhere, half of them when the most was open for a while.
fn moments(journal: &Path, plan: Plan, rng: &mut StdRng) -> Result<Vec<u64>> {
    let open = open_bytes(journal, Disk::of(Image::default(), plan.worth))?;
    let mut moments: Vec<u64> = (0..plan.images)
        .map(|_| {
            let at_peak = plan.at_peaks || rng.random_bool(0.5);
            moment(&open, at_peak, rng)
        })
        .collect();
    moments.sort_unstable();
    Ok(moments)
}

/// How many bytes were open at each moment of a journal.
fn open_bytes(journal: &Path, mut disk: Disk) -> Result<Vec<usize>> {
    let mut journal = Journal::open(journal)?;
    let mut open = vec![0];
    while let Some(record) = journal.next()? {
        disk.apply(record)?;
        open.push(disk.open_bytes());
    }
    Ok(open)
}

/// Any moment, or the one of the most open bytes of those that follow it.
fn moment(open: &[usize], at_peak: bool, rng: &mut StdRng) -> u64 {
    let at = rng.random_range(0..open.len());
    let span = if at_peak {
        (open.len() / 50).clamp(10, 400)
    } else {
        1
    };
    let window = open.iter().enumerate().skip(at).take(span);
    window
        .max_by_key(|(_, open)| **open)
        .map_or(0, |(at, _)| at as u64)
}

/// What the replayed directory has that the real one has not, or the other way round.
fn difference(replayed: &Image, real: &Image) -> Option<String> {
    if replayed.folders != real.folders {
        return Some(format!(
            "folders {:?} and {:?}",
            replayed.folders, real.folders
        ));
    }
    let names: Vec<_> = replayed.files.keys().chain(real.files.keys()).collect();
    // SQLite writes its index through shared memory; it is made anew at every open.
    let mut names = names.into_iter().filter(|name| !name.ends_with("-shm"));
    let differs = names.find(|name| replayed.files.get(*name) != real.files.get(*name))?;
    let bytes = |image: &Image| image.files.get(differs).map(Vec::len);
    Some(format!(
        "{differs}: {:?} and {:?} bytes",
        bytes(replayed),
        bytes(real)
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
