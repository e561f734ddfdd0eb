//! Parts put back into groups, whole or not.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::frame::{self, FrameError, Key, PartHeader};
use super::storage::{Storage, StorageError};
use super::{Group, frame::parse_key};
use crate::event::Offset;

/// A group as its parts lie in the storage.
#[derive(Debug)]
pub(crate) struct RawGroup {
    /// The first offset.
    pub(crate) first: Offset,
    /// What part 0 says, or, when that is missing, the first part that could be read.
    pub(crate) header: Option<PartHeader>,
    /// The numbers of all parts found under this offset, stale ones included.
    pub(crate) parts: Vec<u16>,
    /// Bytes of keys and values.
    pub(crate) stored_bytes: u64,
    stored: Vec<u8>,
    /// How many parts were put together so far.
    joined: u16,
    /// Why a part could not be read.
    pub(crate) fault: Option<FrameError>,
}

impl RawGroup {
    fn new(first: Offset) -> Self {
        Self {
            first,
            header: None,
            parts: Vec::new(),
            stored_bytes: 0,
            stored: Vec::new(),
            joined: 0,
            fault: None,
        }
    }

    fn push(&mut self, key: &[u8], part: u16, value: &[u8]) {
        self.parts.push(part);
        self.stored_bytes += (key.len() + value.len()) as u64;
        match frame::decode_part(key, value) {
            Ok((header, chunk)) => {
                let expected = *self.header.get_or_insert(header);
                // A part of another nonce was left behind by a torn group that had these offsets before.
                if header.nonce == expected.nonce && part == self.joined && header.part == part {
                    self.stored.extend_from_slice(chunk);
                    self.joined += 1;
                }
            }
            Err(error) => self.fault = self.fault.or(Some(error)),
        }
    }

    /// One past the last offset, if any part could be read.
    pub(crate) fn end(&self) -> Option<Offset> {
        self.header
            .map(|header| self.first + u64::from(header.records))
    }

    /// The group's frames, if all parts are there and whole.
    pub(crate) fn frames(&mut self) -> Result<(PartHeader, Bytes), FrameError> {
        let header = self
            .header
            .ok_or(self.fault.unwrap_or(FrameError::Length))?;
        if self.joined != header.parts {
            return Err(self.fault.unwrap_or(FrameError::Length));
        }
        let frames = frame::decode_group(&header, std::mem::take(&mut self.stored))?;
        Ok((header, frames.into()))
    }
}

/// Cuts frames into records that share the frames' memory.
pub(crate) fn to_group(
    first: Offset,
    header: &PartHeader,
    frames: &Bytes,
) -> Result<Group, FrameError> {
    let ranges = frame::split_frames(frames, header.records)?;
    Ok(Group {
        first,
        records: ranges
            .into_iter()
            .map(|range| frames.slice(range))
            .collect(),
    })
}

/// Visits the groups from the one that begins at an offset, in order.
pub(crate) fn scan_groups(
    storage: &dyn Storage,
    from: Offset,
    visit: &mut dyn FnMut(RawGroup) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let mut current: Option<RawGroup> = None;
    let mut go_on = true;
    let mut unknown = false;
    storage.scan(&frame::part_key(from, 0), &mut |key, value| {
        let Key::Part(first, part) = parse_key(key) else {
            // What comes after the parts is not read here; what is no key at all would hide the groups behind it.
            unknown = key.starts_with(&frame::PARTS_FROM);
            return false;
        };
        if let Some(done) = current.take_if(|group| group.first != first) {
            go_on = visit(done).is_continue();
        }
        if go_on {
            current
                .get_or_insert_with(|| RawGroup::new(first))
                .push(key, part, value);
        }
        go_on
    })?;
    if unknown {
        return Err(StorageError::Damaged(
            "a key among the groups is none that any version writes".into(),
        ));
    }
    if let Some(last) = current
        && go_on
    {
        let _done: ControlFlow<()> = visit(last);
    }
    Ok(())
}
