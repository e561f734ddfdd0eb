//! What an existing log is found to be: whole, in need of a repair that loses nothing, or damaged.
//!
//! The examination only reads. What it allows to be repaired is what a crash leaves behind: a group that was being trimmed
//! (incomplete, below the checkpoint: the trim is finished) and the last group of a commit that never completed (torn, beyond
//! the mark: nobody was told that it was stored). Everything else that does not fit is damage, and is said with offsets.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::advice::Concerned;
use super::dedup::Dedup;
use super::frame::{self, FrameError, Header, Key, parse_key};
use super::groups::scan_groups;
use super::mark::Mark;
use super::storage::{Storage, StorageError};
use super::{Checkpoint, Seal};
use crate::event::{Lane, Micros, Offset};

mod walk;

use walk::Walk;

/// What is kept in memory of each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupInfo {
    pub(crate) first: Offset,
    pub(crate) records: u32,
    pub(crate) parts: u16,
    pub(crate) stored_bytes: u64,
    /// When its first record was received.
    pub(crate) received_at: Micros,
}

impl GroupInfo {
    pub(crate) fn end(&self) -> Offset {
        self.first + u64::from(self.records)
    }
}

/// Why a log is not to be trusted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Damage {
    /// Acknowledged offsets are not there.
    #[error("offsets {from} to {to} were acknowledged and cannot be read ({why})")]
    Lost {
        /// The first.
        from: Offset,
        /// The last.
        to: Offset,
        /// What was found instead.
        why: &'static str,
    },
    /// The header, the checkpoint or a seal cannot be read.
    #[error("the log's {what} cannot be read: {error}")]
    Unreadable {
        /// Which.
        what: &'static str,
        /// Why.
        error: FrameError,
    },
    /// A group is there, but a newer version wrote it, or its bytes say so.
    #[error("the group at offset {first} cannot be read: {error}")]
    UnknownGroup {
        /// Its first offset.
        first: Offset,
        /// Why.
        error: FrameError,
    },
    /// There are records, but no header.
    #[error("the log's header is missing")]
    NoHeader,
    /// A key that no version of this log writes, or a newer one.
    #[error("the log holds an unknown key; a newer version may have written it")]
    UnknownKey,
    /// The mark beside the log is missing although the log was used.
    #[error(
        "the mark beside the log is missing or unreadable, so that a loss could not be noticed"
    )]
    NoMark,
    /// The mark beside the log belongs to another one.
    #[error("the mark beside the log belongs to another log")]
    OtherMark,
}

/// What is known of the mark beside a log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen {
    /// None is kept for this storage.
    NotKept,
    /// It should be there and is not, or cannot be read.
    Missing,
    /// It is there.
    Is(Mark),
}

impl Seen {
    fn mark(self) -> Option<Mark> {
        match self {
            Self::Is(mark) => Some(mark),
            Self::NotKept | Self::Missing => None,
        }
    }
}

/// An existing log, as found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) header: Header,
    pub(crate) checkpoint: Checkpoint,
    /// Seals of batches that are not settled, by lane and number.
    pub(crate) seals: Vec<Seal>,
    pub(crate) groups: VecDeque<GroupInfo>,
    pub(crate) dedup: Dedup,
    pub(crate) next: Offset,
    /// Keys to be removed before the log is used, in this order.
    pub(crate) repairs: Vec<Vec<u8>>,
    /// The first offset of a torn group that is to be removed.
    pub(crate) torn: Option<Offset>,
    opens: u64,
}

impl Found {
    /// A log in which nothing is yet.
    pub(crate) fn empty(header: Header, dedup_ids_max: usize) -> Self {
        Self {
            header,
            checkpoint: Checkpoint::default(),
            seals: Vec::new(),
            groups: VecDeque::new(),
            dedup: Dedup::new(dedup_ids_max),
            next: 0,
            repairs: Vec::new(),
            torn: None,
            opens: 0,
        }
    }

    /// The value to count this open with.
    pub(crate) fn opened(&self) -> [u8; 8] {
        (self.opens + 1).to_le_bytes()
    }
}

/// What stands before the groups.
#[derive(Debug, Default)]
struct Meta {
    header: Option<Result<Header, FrameError>>,
    checkpoint: Option<Result<Checkpoint, FrameError>>,
    seals: Vec<(Lane, u64, Vec<u8>)>,
    has_groups: bool,
    unknown: bool,
    opens: u64,
}

fn read_meta(storage: &dyn Storage) -> Result<Meta, StorageError> {
    let mut meta = Meta::default();
    storage.scan(&frame::HEADER_KEY, &mut |key, value| {
        match parse_key(key) {
            Key::Header => meta.header = Some(Header::decode(value)),
            Key::Checkpoint => meta.checkpoint = Some(frame::decode_checkpoint(value)),
            Key::Seal(lane, number) => meta.seals.push((lane, number, value.to_vec())),
            Key::Part(..) => meta.has_groups = true,
            // Read below.
            Key::Opened => return false,
            Key::Unknown => meta.unknown = true,
        }
        !meta.has_groups
    })?;
    storage.scan(&frame::OPENED_KEY, &mut |key, value| {
        if parse_key(key) == Key::Opened {
            meta.opens = value.try_into().map_or(0, u64::from_le_bytes);
        } else {
            meta.unknown = true;
        }
        true
    })?;
    Ok(meta)
}

/// Which acknowledged offsets may be lost: from what is settled to what was acknowledged, as far as that can be read.
pub(crate) fn concerned(storage: Option<&dyn Storage>, seen: Seen) -> Concerned {
    let meta = storage.and_then(|storage| read_meta(storage).ok());
    let meta = meta.unwrap_or_default();
    let checkpoint = meta.checkpoint.and_then(Result::ok).unwrap_or_default();
    let header = meta.header.and_then(Result::ok);
    let mark = seen
        .mark()
        .filter(|mark| header.is_none_or(|header| header.log_id == mark.log_id));
    Concerned {
        from: checkpoint.offset,
        end: mark.map(|mark| mark.next.max(checkpoint.offset)),
    }
}

/// Examines a storage; `None` when there is no log in it yet.
///
/// The outer error is the storage's, the inner one the log's.
pub(crate) fn examine(
    storage: &dyn Storage,
    seen: Seen,
    dedup_ids_max: usize,
) -> Result<Result<Option<Found>, Damage>, StorageError> {
    let meta = read_meta(storage)?;
    let found = match start(meta, seen, dedup_ids_max) {
        Ok(Some(found)) => found,
        other => return Ok(other),
    };
    let acknowledged = seen.mark().map_or(0, |mark| mark.next);
    let mut walk = Walk::new(found, acknowledged);
    let mut damage = None;
    scan_groups(storage, 0, &mut |group| match walk.visit(group) {
        Ok(()) => ControlFlow::Continue(()),
        Err(found) => {
            damage = Some(found);
            ControlFlow::Break(())
        }
    })?;
    Ok(match damage {
        Some(damage) => Err(damage),
        None => walk.finish().map(Some),
    })
}

fn start(meta: Meta, seen: Seen, dedup_ids_max: usize) -> Result<Option<Found>, Damage> {
    let Some(header) = meta.header else {
        let in_use = meta.has_groups || meta.checkpoint.is_some() || !meta.seals.is_empty();
        return match seen.mark() {
            _ if in_use || meta.unknown => Err(Damage::NoHeader),
            Some(Mark { next, .. }) if next > 0 => Err(Damage::Lost {
                from: 0,
                to: next - 1,
                why: "the log is empty",
            }),
            _ => Ok(None),
        };
    };
    if meta.unknown {
        return Err(Damage::UnknownKey);
    }
    let header = header.map_err(|error| Damage::Unreadable {
        what: "header",
        error,
    })?;
    let checkpoint = meta.checkpoint.transpose();
    let checkpoint = checkpoint
        .map_err(|error| Damage::Unreadable {
            what: "checkpoint",
            error,
        })?
        .unwrap_or_default();
    match seen {
        Seen::Missing if meta.has_groups || checkpoint.offset > 0 => return Err(Damage::NoMark),
        Seen::Is(mark) if mark.log_id != header.log_id => return Err(Damage::OtherMark),
        _ => {}
    }
    let mut found = Found {
        checkpoint,
        opens: meta.opens,
        ..Found::empty(header, dedup_ids_max)
    };
    for (lane, number, value) in meta.seals {
        let settled = found.checkpoint.lanes.get(usize::from(lane.0));
        if settled.is_some_and(|settled| number < settled.next_number) {
            found.repairs.push(frame::seal_key(lane, number).to_vec());
        } else {
            let seal =
                frame::decode_seal(header.log_id, lane, number, &value).map_err(|error| {
                    Damage::Unreadable {
                        what: "seal",
                        error,
                    }
                })?;
            found.seals.push(seal);
        }
    }
    Ok(Some(found))
}
