//! What can still be read of a damaged log, wherever it lies.
//!
//! An index only: where each part of each group was found, in which of several sources. Parts are checked by their own
//! checksum, which covers their key, and belong together by their group's nonce: what one source has lost another may
//! have, and nothing that was not written can be put together.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;

use super::RepairError;
use crate::event::Offset;
use crate::wal::Checkpoint;
use crate::wal::frame::{self, FrameError, Header, Key, PartHeader, parse_key};
use crate::wal::storage::{Storage, StorageError};

/// How many offsets behind damage are looked for when nothing tells where the log ends.
const SEARCH_OFFSETS: u64 = 1 << 32;
/// Behind damage the next offsets are tried one by one, so many; then in growing steps.
const SEARCH_SINGLY: u32 = 64;

/// Something that parts can be read from.
#[derive(Debug)]
enum Source {
    Engine(Arc<dyn Storage>),
    Raw(File),
}

/// Where a part was found.
#[derive(Debug, Clone, Copy)]
enum At {
    Key(usize),
    Bytes {
        source: usize,
        position: u64,
        length: u32,
    },
}

/// A group, as far as its parts were found.
#[derive(Debug)]
struct Held {
    header: PartHeader,
    parts: Vec<Option<At>>,
}

impl Held {
    fn is_whole(&self) -> bool {
        self.parts.iter().all(Option::is_some)
    }

    fn is_from_engine(&self) -> bool {
        let by_key = |part: &Option<At>| matches!(part, Some(At::Key(_)));
        self.parts.iter().all(by_key)
    }
}

/// A whole group that goes into the fresh log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub(super) first: Offset,
    pub(super) records: u32,
    nonce: u64,
}

impl Chosen {
    pub(super) fn end(&self) -> Offset {
        self.first + u64::from(self.records)
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    pub(super) header: Option<Header>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// One past the highest offset that a readable seal names.
    pub(super) sealed_end: Offset,
    /// Something whole was written by a version that this one does not know.
    pub(super) other_version: Option<u8>,
    sources: Vec<Source>,
    groups: BTreeMap<(Offset, u64), Held>,
}

impl Salvage {
    /// Takes in what an engine's files hold; `end` is one past the highest offset that may be there, if known.
    pub(super) fn add_engine(&mut self, storage: Arc<dyn Storage>, end: Option<Offset>) {
        let source = self.sources.len();
        if let Some(value) = get(&*storage, &frame::HEADER_KEY) {
            self.note_version(frame::version_of_intact(&frame::HEADER_KEY, &value));
            self.header = self.header.or(Header::decode(&value).ok());
        }
        if let Some(value) = get(&*storage, &frame::CHECKPOINT_KEY) {
            self.note_version(frame::version_of_intact(&frame::CHECKPOINT_KEY, &value));
            let found = frame::decode_checkpoint(&value).ok();
            // Of two, the one that is further on was written later.
            let offset = |checkpoint: &Checkpoint| checkpoint.offset;
            if found.as_ref().map(offset) > self.checkpoint.as_ref().map(offset) {
                self.checkpoint = found;
            }
        }
        self.add_seals(&*storage);
        let end = end.unwrap_or(SEARCH_OFFSETS);
        scan_over_damage(&*storage, end, &mut |key, value| {
            self.add(key, value, At::Key(source));
        });
        self.sources.push(Source::Engine(storage));
    }

    fn add_seals(&mut self, storage: &dyn Storage) {
        let Some(log_id) = self.header.map(|header| header.log_id) else {
            return;
        };
        let mut end = self.sealed_end;
        let scanned = storage.scan(&frame::SEALS_FROM, &mut |key, value| {
            if let Key::Seal(lane, number) = parse_key(key) {
                if let Ok(seal) = frame::decode_seal(log_id, lane, number, value) {
                    end = end.max(seal.batch.last + 1);
                }
                return true;
            }
            false
        });
        drop(scanned);
        self.sealed_end = end;
    }

    /// Takes in a file whose bytes are searched; the parts in it are added one by one.
    pub(super) fn add_raw(&mut self, file: File) -> usize {
        self.sources.push(Source::Raw(file));
        self.sources.len() - 1
    }

    /// Takes in a part that lies at a place of a raw source.
    pub(super) fn add_bytes(&mut self, source: usize, key: &[u8], position: u64, value: &[u8]) {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let at = At::Bytes {
            source,
            position,
            length,
        };
        self.add(key, value, at);
    }

    fn add(&mut self, key: &[u8], value: &[u8], at: At) {
        let Key::Part(first, part) = parse_key(key) else {
            return;
        };
        match frame::decode_part(key, value) {
            Ok((header, _)) if header.part == part && part < header.parts => {
                let held = self.groups.entry((first, header.nonce)).or_insert(Held {
                    header,
                    parts: vec![None; usize::from(header.parts)],
                });
                if let Some(place) = held.parts.get_mut(usize::from(part)) {
                    place.get_or_insert(at);
                }
            }
            Ok(_) => {}
            Err(_damaged) => self.note_version(frame::version_of_intact_part(key, value)),
        }
    }

    fn note_version(&mut self, version: Option<u8>) {
        self.other_version = self.other_version.or(version);
    }

    /// The first offset of each group of which any part was found, by its nonce.
    pub(super) fn firsts(&self) -> HashMap<u64, Offset> {
        let keys = self.groups.keys();
        keys.map(|&(first, nonce)| (nonce, first)).collect()
    }

    /// Offsets at which a group must begin that was not found whole: where one ends, and none begins.
    pub(super) fn gaps(&self) -> Vec<Offset> {
        let chosen = self.choose();
        let ends = std::iter::once(self.settled()).chain(chosen.iter().map(Chosen::end));
        let begins = |at: &Offset| chosen.binary_search_by_key(at, |group| group.first).is_ok();
        ends.filter(|end| !begins(end)).collect()
    }

    /// Everything below is settled, as far as the checkpoint can be read.
    pub(super) fn settled(&self) -> Offset {
        self.checkpoint
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.offset)
    }

    /// The whole groups in offset order, none over another. What an engine holds goes before what was found as bytes alone:
    /// those may be of a group that was never acknowledged and whose offsets were given once more, or was trimmed.
    pub(super) fn choose(&self) -> Vec<Chosen> {
        let whole = || self.groups.iter().filter(|(_, held)| held.is_whole());
        let chosen = |(&(first, nonce), held): (&(Offset, u64), &Held)| Chosen {
            first,
            records: held.header.records,
            nonce,
        };
        let mut taken: BTreeMap<Offset, Chosen> = BTreeMap::new();
        let mut take = |group: Chosen| {
            let before = taken.range(..group.end()).next_back();
            if before.is_none_or(|(_, before)| before.end() <= group.first) {
                taken.insert(group.first, group);
            }
        };
        whole()
            .filter(|(_, held)| held.is_from_engine())
            .map(chosen)
            .for_each(&mut take);
        let settled = self.settled();
        whole()
            .filter(|(key, held)| !held.is_from_engine() && key.0 >= settled)
            .map(chosen)
            .for_each(&mut take);
        taken.into_values().collect()
    }

    /// A group's frames, checked once more as a whole.
    pub(super) fn frames(&self, group: &Chosen) -> Result<Bytes, RepairError> {
        let held = self.groups.get(&(group.first, group.nonce));
        let held = held.ok_or(RepairError::Group(FrameError::Length))?;
        let mut stored = Vec::new();
        for (part, at) in (0u16..).zip(&held.parts) {
            let key = frame::part_key(group.first, part);
            let value = at.and_then(|at| self.value(&key, at));
            let value = value.ok_or(RepairError::Group(FrameError::Length))?;
            let (_, chunk) = frame::decode_part(&key, &value).map_err(RepairError::Group)?;
            stored.extend_from_slice(chunk);
        }
        let frames = frame::decode_group(&held.header, stored).map_err(RepairError::Group)?;
        frame::split_frames(&frames, group.records).map_err(RepairError::Group)?;
        Ok(frames.into())
    }

    fn value(&self, key: &[u8], at: At) -> Option<Vec<u8>> {
        match at {
            At::Key(source) => match self.sources.get(source)? {
                Source::Engine(storage) => get(&**storage, key),
                Source::Raw(_) => None,
            },
            At::Bytes {
                source,
                position,
                length,
            } => match self.sources.get(source)? {
                Source::Raw(file) => {
                    let mut value = vec![0; usize::try_from(length).ok()?];
                    file.read_exact_at(&mut value, position).ok()?;
                    Some(value)
                }
                Source::Engine(_) => None,
            },
        }
    }
}

/// The value under a key, if it can be read.
fn get(storage: &dyn Storage, key: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    let scanned = storage.scan(key, &mut |at, value| {
        found = (at == key).then(|| value.to_vec());
        false
    });
    drop(scanned);
    found
}

/// Visits every part that an engine can read, also behind places that it cannot.
fn scan_over_damage(storage: &dyn Storage, end: Offset, visit: &mut dyn FnMut(&[u8], &[u8])) {
    let mut from = frame::PARTS_FROM.to_vec();
    let mut reached = 0;
    loop {
        let scanned = storage.scan(&from, &mut |key, value| {
            if let Key::Part(first, _) = parse_key(key) {
                reached = first;
            }
            visit(key, value);
            // Keys of no known kind are passed over; what comes after the parts ends the walk.
            key.starts_with(&frame::PARTS_FROM)
        });
        let Err(StorageError::Damaged(reason)) = scanned else {
            return;
        };
        let Some(next) = readable_after(storage, reached, end) else {
            tracing::debug!(reached, reason, "unreadable_from_here");
            return;
        };
        tracing::debug!(reached, next, reason, "unreadable_between");
        reached = next;
        from = frame::part_key(next, 0).to_vec();
    }
}

/// The next offset from which the engine can read at all.
fn readable_after(storage: &dyn Storage, reached: Offset, end: Offset) -> Option<Offset> {
    let (mut at, mut step, mut tried) = (reached, 1, 0);
    loop {
        at = at.checked_add(step)?;
        if at >= end {
            return None;
        }
        if storage
            .scan(&frame::part_key(at, 0), &mut |_, _| false)
            .is_ok()
        {
            return Some(at);
        }
        tried += 1;
        if tried > SEARCH_SINGLY {
            step = step.saturating_mul(2);
        }
    }
}
