//! What a repair is asked, and what it says.

use std::path::PathBuf;

use serde::Serialize;

use crate::config::Engine;
use crate::event::Offset;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The log's directory.
    pub path: PathBuf,
    /// The engine, where no file tells it.
    pub engine: Engine,
    /// The number of lanes, where no header tells it.
    pub lanes: u16,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Make an empty log where nothing can be read.
    pub accept_loss: bool,
    /// Make a fresh log even of one that is whole.
    pub new_id: bool,
}

/// How a repair ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The log is whole, and was left as it is.
    NothingToRepair,
    /// What can be done was not done, since only that was asked.
    DryRun,
    /// A fresh log is in place.
    Repaired,
    /// An earlier repair, whose fresh log was complete, was finished.
    Finished,
}

/// Old offsets that the fresh log lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The first.
    pub from: Offset,
    /// The last.
    pub to: Offset,
    /// They may have been delivered and forgotten long ago: the checkpoint that would say so cannot be read.
    pub maybe_delivered: bool,
}

/// What a repair found and did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The log.
    pub path: PathBuf,
    /// Its engine.
    pub engine: &'static str,
    /// What was wrong.
    pub damage: Option<String>,
    /// The identity of the damaged log, if it can be read.
    pub old_log_id: Option<String>,
    /// The identity of the fresh one.
    pub new_log_id: Option<String>,
    /// Records in the fresh log.
    pub records: u64,
    /// Of these, the ones that are not settled and will be published, some of them once more.
    pub unsettled: u64,
    /// What could not be read, by old offsets.
    pub lost: Vec<Lost>,
    /// How many that are.
    pub lost_records: u64,
    /// Whether it is known how far the log went: only the mark tells.
    pub end_known: bool,
    /// Where the damaged files are.
    pub set_aside: Option<PathBuf>,
}

impl Report {
    /// Whether every acknowledged record that is known of is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty()
    }
}
