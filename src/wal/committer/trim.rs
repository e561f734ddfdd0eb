//! What is settled goes when it is no longer kept, and new work is shed when there is no room left.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Committer;
use crate::event::Lane;
use crate::wal::recovery::GroupInfo;
use crate::wal::room::Usage;
use crate::wal::storage::StorageError;
use crate::wal::{LogState, frame};

impl Committer {
    /// Removes what is settled and no longer kept. Bounded: a little more than was written, so that it keeps up.
    pub(super) fn trim(&mut self, parts_written: usize, idle: bool) -> Result<bool, StorageError> {
        let mut trimmed = false;
        let storage = Arc::clone(&self.shared.storage);
        let settled = |&(lane, number): &(Lane, u64)| {
            let lane = self.synced.lanes.get(usize::from(lane.0));
            lane.is_some_and(|lane| number < lane.next_number)
        };
        let seals: Vec<_> = self
            .seals
            .iter()
            .filter(|seal| settled(seal))
            .copied()
            .collect();
        for (lane, number) in seals {
            storage.remove(&frame::seal_key(lane, number))?;
            self.seals.remove(&(lane, number));
            trimmed = true;
        }
        let mut parts_left = 2 * parts_written + 64;
        while parts_left > 0
            && let Some((group, reason)) = self.evictable(idle)
        {
            // From the last part to the first: what a crash leaves is then the beginning of a group, which says where it ends.
            for part in (0..group.parts).rev() {
                storage.remove(&frame::part_key(group.first, part))?;
            }
            parts_left = parts_left.saturating_sub(usize::from(group.parts));
            self.shared.groups().pop_front();
            self.shared
                .stored_bytes
                .fetch_sub(group.stored_bytes, Ordering::Relaxed);
            self.dedup.forget_below(group.end());
            let reason = [opentelemetry::KeyValue::new("reason", reason)];
            self.options
                .metrics
                .wal_records_trimmed
                .add(u64::from(group.records), &reason);
            trimmed = true;
        }
        self.behind = parts_left == 0;
        self.shared
            .dedup_first
            .store(self.dedup.first().unwrap_or(self.next), Ordering::Relaxed);
        self.shared
            .dedup_ids
            .store(self.dedup.len() as u64, Ordering::Relaxed);
        Ok(trimmed)
    }

    /// The oldest group, if it is settled and there is a reason for it to go. The last group stays: it says where offsets go on.
    fn evictable(&mut self, idle: bool) -> Option<(GroupInfo, &'static str)> {
        let config = &self.options.config;
        let check_age = !idle || self.age_checked.elapsed() >= config.cleanup_interval;
        let groups = self.shared.groups();
        let oldest = *groups.front()?;
        if groups.len() < 2 || oldest.end() > self.synced.offset {
            if idle && check_age {
                self.age_checked = Instant::now();
            }
            return None;
        }
        let retention = i64::try_from(config.retention.as_micros()).unwrap_or(i64::MAX);
        let expired = oldest.received_at < self.options.clock.now().saturating_sub(retention);
        if self.synced.offset - oldest.first > config.retained_events_max {
            Some((oldest, "count"))
        } else if check_age && expired {
            Some((oldest, "age"))
        } else if self.tight {
            Some((oldest, "space"))
        } else {
            if idle && check_age {
                self.age_checked = Instant::now();
            }
            None
        }
    }

    /// Says when there will be no room, for the gauges.
    fn foresee(&mut self, usage: &Usage) {
        let (of_limit, of_volume) = usage.left(self.shared.unsettled_bytes.load(Ordering::Relaxed));
        let now = Instant::now();
        let (limit, volume) = &mut self.trends;
        let full_in = limit.note(now, of_limit).min(volume.note(now, of_volume));
        self.shared
            .full_seconds
            .store(full_in.as_secs(), Ordering::Relaxed);
        let free = usage.volume.map_or(0, |volume| volume.free_bytes);
        self.shared.volume_free_bytes.store(free, Ordering::Relaxed);
    }

    /// Sheds new work when there is no room, and takes it again when there is.
    pub(super) fn judge_room(&mut self) {
        let volume = self.shared.files.as_ref().map(|(files, _)| files.volume());
        let on_disk = self.shared.storage.disk_bytes();
        let (Ok(volume), Ok(on_disk)) = (volume.transpose(), on_disk) else {
            return;
        };
        let stored = self.shared.stored_bytes.load(Ordering::Relaxed);
        let usage = Usage {
            stored,
            limit: self.shared.limit_bytes,
            on_disk,
            volume,
        };
        self.tight = usage.is_tight();
        self.foresee(&usage);
        self.shared.state.send_if_modified(|state| {
            let judged = match *state {
                LogState::Open if usage.is_full(false) => LogState::Full,
                LogState::Full if !usage.is_full(true) => LogState::Open,
                other => other,
            };
            let changed = judged != *state;
            if changed {
                tracing::warn!(state = ?judged, stored, "log_room_changed");
                *state = judged;
            }
            changed
        });
    }
}
