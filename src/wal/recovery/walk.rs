//! The groups of a log in order: do they join, which one is whole, and what does one that is not mean?

use super::{Damage, Found, GroupInfo};
use crate::event::{Micros, Offset};
use crate::wal::frame::{self, FrameError};
use crate::wal::groups::{RawGroup, to_group};
use crate::wal::{fingerprint, record};

/// Walks over the groups in order.
pub(super) struct Walk {
    found: Found,
    /// One past the highest acknowledged offset.
    acknowledged: Offset,
    /// A group that is not whole; what follows it decides what that means.
    pending: Option<RawGroup>,
    /// The keys of all groups kept so far, for the case that they turn out to be what a trim left over.
    kept_keys: Vec<(Offset, u16)>,
}

impl Walk {
    /// A walk that has not begun; everything below `acknowledged` must be there in the end.
    pub(super) fn new(found: Found, acknowledged: Offset) -> Self {
        Self {
            found,
            acknowledged,
            pending: None,
            kept_keys: Vec::new(),
        }
    }

    /// The next group.
    pub(super) fn visit(&mut self, mut group: RawGroup) -> Result<(), Damage> {
        if let Some(broken) = self.pending.take() {
            // Not the last group, so not torn: either a trim went over it or it is damaged.
            self.drop_if_settled(broken, group.first)?;
        }
        let expected = match self.found.groups.back() {
            Some(previous) => previous.end(),
            None => self.found.checkpoint.offset.min(group.first),
        };
        if group.first != expected {
            let settled = group.first <= self.found.checkpoint.offset && group.first > expected;
            if !settled {
                let to = group.first.max(expected).saturating_sub(1);
                let from = group.first.min(expected);
                return Err(Damage::Lost {
                    from,
                    to,
                    why: "the groups do not join",
                });
            }
            self.drop_kept();
        }
        match self.learn(&mut group) {
            Ok(()) => Ok(()),
            // Not torn, whatever follows: its parts are whole in a way that only their writer knows.
            Err(error @ (FrameError::Format(_) | FrameError::Codec(_))) => {
                Err(Damage::UnknownGroup {
                    first: group.first,
                    error,
                })
            }
            Err(_not_whole) => {
                self.pending = Some(group);
                Ok(())
            }
        }
    }

    fn learn(&mut self, group: &mut RawGroup) -> Result<(), FrameError> {
        let (header, frames) = group.frames()?;
        let records = to_group(group.first, &header, &frames)?;
        let mut info = GroupInfo {
            first: group.first,
            records: header.records,
            parts: header.parts,
            stored_bytes: group.stored_bytes,
            received_at: Micros::MAX,
        };
        for (offset, bytes) in (group.first..).zip(&records.records) {
            // An unknown payload format still has a key; a record that does not read at all is the worker's to report.
            let event = record::decode(bytes).ok();
            let key = event
                .as_ref()
                .map(|event| fingerprint(&self.found.header.secret, event.key()));
            info.received_at = info
                .received_at
                .min(event.map_or(Micros::MAX, |event| event.received_at));
            self.found.dedup.learn_or_skip(offset, key);
        }
        // Parts beyond the group's own were left by a torn group that had the same offsets.
        for &stale in group.parts.iter().filter(|&&part| part >= header.parts) {
            self.found
                .repairs
                .push(frame::part_key(group.first, stale).to_vec());
        }
        self.kept_keys.push((group.first, header.parts));
        self.found.groups.push_back(info);
        self.found.next = info.end();
        Ok(())
    }

    /// A group that is not whole and ends at `end`: below the checkpoint a trim is finished, beyond it it is damage.
    fn drop_if_settled(&mut self, broken: RawGroup, end: Offset) -> Result<(), Damage> {
        if end > self.found.checkpoint.offset {
            let to = end.saturating_sub(1);
            return Err(Damage::Lost {
                from: broken.first,
                to,
                why: "a group is not whole",
            });
        }
        self.drop_kept();
        self.remove(&broken);
        Ok(())
    }

    /// Everything kept so far lies below a trim that was under way.
    fn drop_kept(&mut self) {
        for (first, parts) in std::mem::take(&mut self.kept_keys) {
            self.found
                .repairs
                .extend((0..parts).map(|part| frame::part_key(first, part).to_vec()));
        }
        self.found.groups.clear();
        self.found.dedup.clear();
    }

    fn remove(&mut self, group: &RawGroup) {
        let keys = group
            .parts
            .iter()
            .map(|&part| frame::part_key(group.first, part).to_vec());
        self.found.repairs.extend(keys);
    }

    /// There are no more groups: what was found, or what is missing.
    pub(super) fn finish(mut self) -> Result<Found, Damage> {
        let acknowledged = self.acknowledged;
        if let Some(broken) = self.pending.take() {
            match broken.end() {
                Some(end) if end <= self.found.checkpoint.offset => {
                    self.drop_if_settled(broken, end)?;
                }
                _ if broken.first >= acknowledged => {
                    self.found.next = broken.first;
                    self.found.torn = Some(broken.first);
                    self.remove(&broken);
                }
                end => {
                    let to = end
                        .unwrap_or(acknowledged)
                        .max(acknowledged)
                        .saturating_sub(1);
                    return Err(Damage::Lost {
                        from: broken.first,
                        to,
                        why: "the last group is not whole",
                    });
                }
            }
        }
        if self.found.groups.is_empty() && self.found.torn.is_none() {
            self.found.next = self.found.checkpoint.offset;
        }
        let next = self.found.next;
        let sealed = self
            .found
            .seals
            .iter()
            .map(|seal| seal.batch.last + 1)
            .max()
            .unwrap_or(0);
        let known = acknowledged.max(self.found.checkpoint.offset).max(sealed);
        if known > next {
            return Err(Damage::Lost {
                from: next,
                to: known - 1,
                why: "the log ends earlier",
            });
        }
        Ok(self.found)
    }
}
