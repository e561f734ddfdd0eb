//! A log under load, and what is left of it: the two roles of a child that has one.
//!
//! The event at an offset follows from the offset, so that whoever reads the log knows every byte that must be there.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use eventkit::clock::SystemClock;
use eventkit::config::Engine;
use eventkit::event::{Event, Lane, Offset, PayloadFormat};
use eventkit::telemetry::Metrics;
use eventkit::wal::inspect::Inspector;
use eventkit::wal::{Append, Commit, Options, Unsettled, Wal, record, testing};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::heard::{Heard, LANES, Sealed, Tell, checkpoint};
use crate::shim;

/// How many groups are on their way at once, at most.
const FLYING: u64 = 4;

/// How many appends there are in each life at least, if the journal has room for them: a machine that stands still for all of the
/// seconds would leave nothing to cut.
const APPENDS_MIN: u32 = 20;

/// How a log is used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// SQLite instead of sled.
    pub(crate) sqlite: bool,
    pub(crate) seed: u64,
    /// Events in a group, at least and at most.
    pub(crate) group: (u64, u64),
    /// Payloads that LZ4 makes smaller.
    pub(crate) compressible: bool,
    /// Settled events that the log keeps.
    pub(crate) retained: u64,
    /// The run ends at so many bytes of journal, or after so many seconds and [`APPENDS_MIN`].
    pub(crate) journal_bytes: u64,
    pub(crate) seconds: u64,
    /// Closed and opened again so often.
    pub(crate) reopens: u64,
}

impl Shape {
    fn options(&self, root: &Path) -> Options {
        let mut config = testing::config(root.join("wal"), LANES);
        if self.sqlite {
            config.engine = Engine::Sqlite;
        }
        config.retained_events_max = self.retained;
        // The events were received years ago; only their number lets them go.
        config.retention = Duration::from_secs(100 * 365 * 86_400);
        Options {
            config,
            clock: Arc::new(SystemClock),
            metrics: Metrics::new(),
        }
    }

    fn payload(&self, offset: Offset) -> Vec<u8> {
        let mut state = (self.seed ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        let mut word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let shape = word();
        let bytes = if shape.is_multiple_of(300) {
            3_000 + shape / 300 % 20_000
        } else {
            60 + shape / 300 % 300
        };
        let bytes = usize::try_from(bytes).unwrap_or(60);
        if self.compressible {
            let text = format!(
                "{{\"type\":\"track\",\"event\":\"Order Placed\",\"order\":{offset},\"code\":{shape},\"note\":\""
            );
            let filler = "the same words again and again ".bytes().cycle();
            text.into_bytes()
                .into_iter()
                .chain(filler)
                .take(bytes)
                .collect()
        } else {
            std::iter::repeat_with(|| word().to_le_bytes())
                .flatten()
                .take(bytes)
                .collect()
        }
    }

    fn with_event<T>(&self, offset: Offset, use_it: impl FnOnce(&Event<'_>) -> T) -> T {
        let payload = self.payload(offset);
        let id = format!("e-{offset}");
        use_it(&Event {
            format: PayloadFormat::Json,
            payload: &payload,
            source: "power",
            message_id: &id,
            message_id_assigned: false,
            stream: "events",
            kind: Some("track"),
            lane: Lane(u16::try_from(offset % u64::from(LANES)).unwrap_or(0)),
            received_at: 1_700_000_000_000_000,
            sent_at: None,
            trace: None,
            batch_context: &[],
            batch_integrations: &[],
            client: Default::default(),
        })
    }

    fn append(&self, wal: &Wal, from: Offset, to: Offset) -> Result<Commit> {
        let mut append = Append::default();
        for offset in from..to {
            self.with_event(offset, |event| {
                append.push(event, wal.fingerprint(event.key()))
            });
        }
        Ok(wal.append(append)?)
    }
}

/// A publisher that only keeps the books: seals what is acknowledged, and settles it a little later.
#[derive(Debug)]
struct Books {
    tell: Tell,
    sealed: VecDeque<Sealed>,
    /// The next batch's number, and the first that is not settled, of each lane.
    next: [u64; LANES as usize],
    settled: [u64; LANES as usize],
    sealed_below: Offset,
    /// The last checkpoint that was asked for.
    checkpoint: Offset,
}

impl Books {
    fn new(tell: Tell, found: &Unsettled) -> Self {
        let mut settled = [0; LANES as usize];
        for (number, lane) in settled.iter_mut().zip(&found.checkpoint.lanes) {
            *number = lane.next_number;
        }
        let mut books = Self {
            tell,
            sealed: VecDeque::new(),
            next: settled,
            settled,
            sealed_below: found.checkpoint.offset,
            checkpoint: found.checkpoint.offset,
        };
        let mut seals: Vec<_> = found.seals.iter().map(|seal| seal.batch).collect();
        seals.sort_unstable_by_key(|batch| batch.first);
        for batch in seals {
            let (lane, number) = (batch.lane.0, batch.number);
            books.sealed.push_back(Sealed {
                lane,
                number,
                first: batch.first,
                last: batch.last,
            });
            if let Some(next) = books.next.get_mut(usize::from(lane)) {
                *next = number + 1;
            }
            books.sealed_below = batch.last + 1;
        }
        books
    }

    /// Seals everything below an offset as one batch of some lane.
    async fn seal(&mut self, wal: &Wal, below: Offset) -> Result<()> {
        if below <= self.sealed_below {
            return Ok(());
        }
        let (first, last) = (self.sealed_below, below - 1);
        let lane = usize::try_from(below % u64::from(LANES))?;
        let next = self.next.get_mut(lane).context("a lane")?;
        let sealed = Sealed {
            lane: u16::try_from(lane)?,
            number: *next,
            first,
            last,
        };
        *next += 1;
        let Sealed { lane, number, .. } = sealed;
        self.tell
            .line(&format!("seal {lane} {number} {first} {last}"))?;
        ensure!(
            wal.seal(vec![sealed.seal(wal.log_id())]).await,
            "the log has failed"
        );
        self.tell.line(&format!("sealed {lane} {number}"))?;
        self.sealed.push_back(sealed);
        self.sealed_below = below;
        Ok(())
    }

    /// Settles all but the newest so many batches.
    async fn settle(&mut self, wal: &Wal, keep: usize) -> Result<()> {
        let count = self.sealed.len().saturating_sub(keep);
        for sealed in self.sealed.drain(..count) {
            self.checkpoint = sealed.last + 1;
            if let Some(settled) = self.settled.get_mut(usize::from(sealed.lane)) {
                *settled = sealed.number + 1;
            }
        }
        if count > 0 {
            let [a, b, c, d] = self.settled;
            self.tell
                .line(&format!("checkpoint {} {a} {b} {c} {d}", self.checkpoint))?;
            ensure!(
                wal.checkpoint(checkpoint(self.checkpoint, self.settled))
                    .await,
                "the log has failed"
            );
        }
        Ok(())
    }
}

/// The role of the writer: uses the log as the shape says.
pub(crate) async fn write(shape: &Shape) -> Result<()> {
    let root = shim::root()?;
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(shape.seed);
    for life in 1..=shape.reopens + 1 {
        let bytes = shape.journal_bytes * life / (shape.reopens + 1);
        let until = Duration::from_secs(shape.seconds * life) / u32::try_from(shape.reopens + 1)?;
        let (wal, found) = Wal::open(shape.options(&root))?;
        let mut books = Books::new(Tell::open(&root)?, &found);
        let mut next = *wal.durable().borrow();
        let mut flying: VecDeque<(Offset, Offset, Commit)> = VecDeque::new();
        let mut appends = 0;
        while shim::journal_bytes() < bytes && (began.elapsed() < until || appends < APPENDS_MIN) {
            appends += 1;
            // Now and then several groups are on their way at once.
            let depth = if rng.random_bool(0.2) { FLYING } else { 1 };
            for _ in 0..depth {
                let end = next + rng.random_range(shape.group.0..=shape.group.1);
                books.tell.line(&format!("append {end}"))?;
                flying.push_back((end, books.checkpoint, shape.append(&wal, next, end)?));
                next = end;
            }
            while let Some((end, checkpoint, commit)) = flying.pop_front() {
                let committed = commit.await?;
                ensure!(
                    committed.duplicates.is_empty(),
                    "offsets are not what was appended"
                );
                books.tell.line(&format!("appended {end} {checkpoint}"))?;
                if rng.random_bool(0.3) {
                    books.seal(&wal, end).await?;
                    books.settle(&wal, rng.random_range(1..6)).await?;
                }
            }
        }
        wal.close().await;
    }
    Ok(())
}

/// The role of the reader: the log must open by itself, hold what was promised and go on.
pub(crate) async fn check(shape: &Shape) -> Result<()> {
    let root = shim::root()?;
    let (wal, found) = Wal::open(shape.options(&root)).context("REFUSED")?;
    verify(shape, &wal, &found, &root).context("LOST")?;
    let mut books = Books::new(Tell::open(&root)?, &found);
    let mut next = *wal.durable().borrow();
    let mut rng = StdRng::seed_from_u64(next);
    for _ in 0..3 {
        let end = next + rng.random_range(shape.group.0..=shape.group.1);
        books.tell.line(&format!("append {end}"))?;
        let committed = shape
            .append(&wal, next, end)?
            .await
            .context("FAILED LATER")?;
        if !committed.duplicates.is_empty() {
            bail!(
                "FAILED LATER: {next} to {end}: duplicates at {:?}",
                committed.duplicates
            );
        }
        books
            .tell
            .line(&format!("appended {end} {}", books.checkpoint))?;
        books.seal(&wal, end).await?;
        books.settle(&wal, 1).await?;
        next = end;
    }
    wal.close().await;
    drop(wal);
    let (wal, found) = Wal::open(shape.options(&root)).context("FAILED LATER")?;
    verify(shape, &wal, &found, &root).context("FAILED LATER")?;
    wal.close().await;
    Ok(())
}

fn verify(shape: &Shape, wal: &Wal, found: &Unsettled, root: &Path) -> Result<()> {
    let heard = Heard::parse(&std::fs::read(root.join(crate::disk::HEARD))?)?;
    let next = *wal.durable().borrow();
    ensure!(
        next >= heard.acknowledged,
        "the log ends at {next}, {} were acknowledged",
        heard.acknowledged
    );
    ensure!(
        next <= heard.asked,
        "the log ends at {next}, {} were appended",
        heard.asked
    );
    let offset = found.checkpoint.offset;
    ensure!(
        offset >= heard.checkpoint,
        "the checkpoint {offset} is older than {}",
        heard.checkpoint
    );
    let numbers = heard
        .checkpoints
        .get(&offset)
        .with_context(|| format!("no checkpoint {offset} was made"))?;
    ensure!(
        found.checkpoint.lanes.is_empty() || found.checkpoint == checkpoint(offset, *numbers),
        "the checkpoint {:?} was never made",
        found.checkpoint
    );
    verify_seals(&heard, wal, found, numbers)?;
    // What is kept below the checkpoint is the duplicate filter's memory.
    let stat = Inspector::live(wal).stat()?;
    let first = if stat.groups == 0 {
        next
    } else {
        stat.first_offset
    };
    let newest = heard.checkpoints.keys().next_back().copied().unwrap_or(0);
    // The group that holds the boundary goes as a whole, and a commit is at most what is on its way at once.
    let must = (newest.saturating_sub(shape.retained) + FLYING * shape.group.1).min(offset);
    ensure!(
        first <= must,
        "offsets from {must} on must be there, the first is {first}"
    );
    verify_records(shape, wal, first, next)
}

fn verify_seals(heard: &Heard, wal: &Wal, found: &Unsettled, settled: &[u64]) -> Result<()> {
    for seal in &found.seals {
        let key = (seal.batch.lane.0, seal.batch.number);
        let (sealed, _) = heard
            .seals
            .get(&key)
            .with_context(|| format!("no seal {key:?} was made"))?;
        ensure!(
            sealed.seal(wal.log_id()) == *seal,
            "the seal {key:?} is another"
        );
    }
    for (key, (sealed, acknowledged)) in &heard.seals {
        let is_settled = settled
            .get(usize::from(key.0))
            .is_some_and(|next| key.1 < *next);
        if *acknowledged && !is_settled {
            let seal = sealed.seal(wal.log_id());
            ensure!(found.seals.contains(&seal), "the seal {key:?} is missing");
        }
    }
    Ok(())
}

fn verify_records(shape: &Shape, wal: &Wal, first: Offset, next: Offset) -> Result<()> {
    let mut at = first;
    let mut expected = Vec::new();
    while at < next {
        let groups = wal.read(at, 1 << 20)?;
        ensure!(
            !groups.is_empty(),
            "nothing at {at}, and the log ends at {next}"
        );
        for group in groups {
            ensure!(group.first == at, "{} follows {at}", group.first);
            for found in &group.records {
                expected.clear();
                shape.with_event(at, |event| record::encode(event, &mut expected));
                ensure!(*found == expected, "offset {at} is not what was appended");
                at += 1;
            }
        }
    }
    ensure!(at == next, "records beyond the end {next}");
    Ok(())
}
