//! Whether there is room for more: decided from figures, by pure functions.

use super::files::Volume;

/// The log's limit where none is configured, in bytes.
const LIMIT_BYTES_DEFAULT: u64 = 10 << 30;
/// The least that must stay free on the volume, in bytes, on volumes that are large enough for it.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// The most stored bytes: what is configured, else 10 GiB or 80 % of the volume, whichever is less.
pub(crate) fn limit(configured: Option<u64>, volume: Option<Volume>) -> u64 {
    configured.unwrap_or_else(|| {
        let of_volume = volume.map_or(u64::MAX, |volume| volume.bytes / 5 * 4);
        LIMIT_BYTES_DEFAULT.min(of_volume)
    })
}

/// The figures that the decision is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Bytes of stored records.
    pub(crate) stored: u64,
    /// The limit for them.
    pub(crate) limit: u64,
    /// Bytes of the engine's files.
    pub(crate) on_disk: u64,
    /// The volume, if the log lies on one.
    pub(crate) volume: Option<Volume>,
}

impl Usage {
    /// Whether new work has to be shed. Once shed, there must be a twentieth more room before work is taken again, so that
    /// the answer does not flicker.
    pub(crate) fn is_full(&self, was_full: bool) -> bool {
        let slack = |bytes: u64| if was_full { bytes / 20 } else { 0 };
        let over_limit = self.stored >= self.limit.saturating_sub(slack(self.limit));
        let over_volume = self.volume.is_some_and(|volume| {
            let keep = FREE_BYTES_MIN.min(volume.bytes / 20);
            self.room(volume) < keep + slack(keep)
        });
        over_limit || over_volume
    }

    /// Whether published records should go although their retention is not over.
    pub(crate) fn is_tight(&self) -> bool {
        let near_limit = self.stored >= self.limit / 10 * 9;
        let near_volume = self
            .volume
            .is_some_and(|volume| self.room(volume) < 2 * FREE_BYTES_MIN.min(volume.bytes / 20));
        near_limit || near_volume
    }

    /// Bytes that can come before new work is shed, when everything settled is forgotten first: by the limit, and by the
    /// volume. Their units differ: the limit counts records, the volume what the engine makes of them.
    pub(crate) fn left(&self, unsettled: u64) -> (u64, u64) {
        let of_volume = self.volume.map_or(u64::MAX, |volume| {
            let emptied = Self {
                stored: unsettled,
                ..*self
            };
            let keep = FREE_BYTES_MIN.min(volume.bytes / 20);
            emptied.room(volume).saturating_sub(keep)
        });
        (self.limit.saturating_sub(unsettled), of_volume)
    }

    /// What can still be written: what is free, and what the engine can use again inside its files (which it does not give
    /// back). Its files take up to two and a half times the stored bytes.
    fn room(&self, volume: Volume) -> u64 {
        let reusable = self
            .on_disk
            .saturating_sub(self.stored.saturating_mul(5) / 2);
        volume.free_bytes.saturating_add(reusable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn usage(stored: u64, on_disk: u64, bytes: u64, free_bytes: u64) -> Usage {
        Usage {
            stored,
            limit: 100 * MIB,
            on_disk,
            volume: Some(Volume { bytes, free_bytes }),
        }
    }

    #[test]
    fn the_default_limit_is_the_lesser_of_two() {
        let volume = |bytes| {
            Some(Volume {
                bytes,
                free_bytes: 0,
            })
        };
        assert_eq!(limit(Some(7), volume(1000)), 7);
        assert_eq!(limit(None, volume(1000)), 800);
        assert_eq!(limit(None, volume(1 << 50)), 10 << 30);
        assert_eq!(limit(None, None), 10 << 30);
    }

    #[test]
    fn the_limit_and_the_volume_both_shed_and_reopening_takes_more_room() {
        let cases = [
            // (stored, on disk, volume, free, was full) -> full
            (
                (10 * MIB, 20 * MIB, 10_000 * MIB, 5_000 * MIB, false),
                false,
            ),
            (
                (100 * MIB, 20 * MIB, 10_000 * MIB, 5_000 * MIB, false),
                true,
            ),
            (
                (96 * MIB, 20 * MIB, 10_000 * MIB, 5_000 * MIB, false),
                false,
            ),
            ((96 * MIB, 20 * MIB, 10_000 * MIB, 5_000 * MIB, true), true),
            ((94 * MIB, 20 * MIB, 10_000 * MIB, 5_000 * MIB, true), false),
            ((10 * MIB, 20 * MIB, 10_000 * MIB, 255 * MIB, false), true),
            ((10 * MIB, 20 * MIB, 10_000 * MIB, 257 * MIB, false), false),
            ((10 * MIB, 20 * MIB, 10_000 * MIB, 257 * MIB, true), true),
            // The engine's own files have room to use again.
            ((10 * MIB, 400 * MIB, 10_000 * MIB, MIB, false), false),
            // A small volume keeps a twentieth.
            ((0, 0, 100 * MIB, 6 * MIB, false), false),
            ((0, 0, 100 * MIB, 4 * MIB, false), true),
        ];
        for ((stored, on_disk, bytes, free, was_full), full) in cases {
            let usage = usage(stored, on_disk, bytes, free);
            assert_eq!(
                usage.is_full(was_full),
                full,
                "{usage:?} was full: {was_full}"
            );
        }
        // Ninety stored, ten of them unsettled: eighty would be forgotten, and their room used again.
        let left = usage(90 * MIB, 225 * MIB, 10_000 * MIB, 456 * MIB).left(10 * MIB);
        assert_eq!(left, (90 * MIB, 400 * MIB));
        assert!(usage(90 * MIB, 0, 10_000 * MIB, 5_000 * MIB).is_tight());
        assert!(!usage(89 * MIB, 0, 10_000 * MIB, 5_000 * MIB).is_tight());
    }
}
