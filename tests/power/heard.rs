//! What the writer of a log said before it asked for something, and after it heard that it was done.
//!
//! One line each, in the file beside the log; what stands there at the cut is what the image is measured by.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use eventkit::event::{BatchId, Day, Lane, LogId, Offset};
use eventkit::wal::{Checkpoint, LaneCheckpoint, Seal};

/// How many lanes the logs have.
pub(crate) const LANES: u16 = 4;

/// Writes the lines.
#[derive(Debug)]
pub(crate) struct Tell(File);

impl Tell {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let path = root.join(crate::disk::HEARD);
        Ok(Self(File::options().create(true).append(true).open(path)?))
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        Ok(self.0.write_all(format!("{line}\n").as_bytes())?)
    }
}

/// A seal in short: the rest of it follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) lane: u16,
    pub(crate) number: u64,
    pub(crate) first: Offset,
    pub(crate) last: Offset,
}

impl Sealed {
    pub(crate) fn seal(&self, log_id: LogId) -> Seal {
        Seal {
            batch: BatchId {
                log_id,
                lane: Lane(self.lane),
                number: self.number,
                first: self.first,
                last: self.last,
                input_hash: (self.first ^ self.number).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            },
            count: u32::try_from(self.last - self.first + 1).unwrap_or(u32::MAX),
            day: Day(19_000),
        }
    }
}

/// The checkpoint behind which these batches are settled.
pub(crate) fn checkpoint(offset: Offset, numbers: [u64; LANES as usize]) -> Checkpoint {
    let lane = |next_number| LaneCheckpoint {
        next_number,
        settled_below: offset,
    };
    Checkpoint {
        offset,
        lanes: numbers.map(lane).to_vec(),
    }
}

/// What was asked for and what was promised, at a moment.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// One past the highest offset that was asked for.
    pub(crate) asked: Offset,
    /// One past the highest offset that was acknowledged.
    pub(crate) acknowledged: Offset,
    /// Every seal that was asked for, and whether it was acknowledged.
    pub(crate) seals: BTreeMap<(u16, u64), (Sealed, bool)>,
    /// Every checkpoint that was asked for, by its offset.
    pub(crate) checkpoints: BTreeMap<Offset, [u64; LANES as usize]>,
    /// The offset of the highest checkpoint that an acknowledged append came after.
    pub(crate) checkpoint: Offset,
}

impl Heard {
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let mut heard = Self::default();
        heard.checkpoints.insert(0, [0; LANES as usize]);
        for line in std::str::from_utf8(text)?.lines() {
            heard
                .take(line)
                .with_context(|| format!("the line {line}"))?;
        }
        Ok(heard)
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        let word = words.next();
        let mut number = || -> Result<u64> { Ok(words.next().context("too short")?.parse()?) };
        match word {
            Some("append") => self.asked = self.asked.max(number()?),
            Some("appended") => {
                self.acknowledged = self.acknowledged.max(number()?);
                self.checkpoint = self.checkpoint.max(number()?);
            }
            Some("seal") => {
                let (lane, number_, first, last) =
                    (u16::try_from(number()?)?, number()?, number()?, number()?);
                let sealed = Sealed {
                    lane,
                    number: number_,
                    first,
                    last,
                };
                self.seals.insert((lane, number_), (sealed, false));
            }
            Some("sealed") => {
                let key = (u16::try_from(number()?)?, number()?);
                self.seals.get_mut(&key).context("never asked for")?.1 = true;
            }
            Some("checkpoint") => {
                let offset = number()?;
                let numbers = [number()?, number()?, number()?, number()?];
                self.checkpoints.insert(offset, numbers);
            }
            other => anyhow::bail!("the word {other:?}"),
        }
        Ok(())
    }
}
