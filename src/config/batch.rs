//! When a batch is worth handing on: by its events, its bytes, its age.

use std::time::Duration;

use super::raw::Source;
use super::reader::Reader;
use super::settings::{self, Setting};

/// The most bytes of a message, before compression, when there is a backlog; one event more may come on top.
const MESSAGE_BYTES: usize = 1 << 20;

/// A busy lane stores about one batch in this time, unless the size of batches is set.
const BUSY_AGE: Duration = Duration::from_secs(1);

/// When a batch is large or old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRules {
    /// At so many events, if it is old enough for that.
    pub events: usize,
    /// Before this age the number of events alone is no reason: a busy lane makes larger batches instead of more.
    pub events_age: Duration,
    /// Never more events than this.
    pub events_max: usize,
    /// At so many bytes of records.
    pub bytes: usize,
    /// At this age.
    pub age: Duration,
}

impl BatchRules {
    /// Whether nothing more goes into a batch of so many events and bytes.
    #[must_use]
    pub fn is_full(&self, events: usize, bytes: usize) -> bool {
        events >= self.events_max || bytes >= self.bytes
    }

    /// The age at which a batch of so many events and bytes is ripe.
    #[must_use]
    pub fn ripe_at(&self, events: usize, bytes: usize) -> Duration {
        if self.is_full(events, bytes) {
            Duration::ZERO
        } else if events >= self.events {
            self.events_age.min(self.age)
        } else {
            self.age
        }
    }
}

/// When a message to the broker is sent.
pub(super) fn message(reader: &mut Reader<'_>) -> BatchRules {
    BatchRules {
        events: reader.count(&settings::PUBLISHER_BATCH_SIZE),
        events_age: Duration::ZERO,
        events_max: usize::MAX,
        bytes: MESSAGE_BYTES,
        age: reader.time(&settings::PUBLISHER_POLL_INTERVAL),
    }
}

/// When what one object or one write of the store holds is worth it.
pub(super) fn stored(reader: &mut Reader<'_>) -> BatchRules {
    let (adapted, age) = match reader.choice(&settings::EVENT_STORE) {
        "gcs" => (1_000, Duration::from_secs(60)),
        "firestore" => (100, Duration::from_secs(5)),
        _ => (usize::MAX, Duration::from_secs(1)),
    };
    let Size { asked, cap, .. } = size(reader);
    let size = asked.or(cap);
    let interval = reader.time_if_set(&settings::FLUSH_INTERVAL);
    let alias = reader.time_if_set(&settings::BUFFER_TIMEOUT);
    BatchRules {
        events: size.unwrap_or(adapted),
        events_age: size.map_or(BUSY_AGE, |_| Duration::ZERO),
        events_max: size.unwrap_or(usize::MAX),
        bytes: reader.count(&settings::BATCH_BYTES),
        age: interval.or(alias).unwrap_or(age),
    }
}

/// A size beyond the cap contradicts it.
pub(super) fn size_is_within_cap(reader: &mut Reader<'_>) {
    let Size {
        asked,
        asked_by,
        cap,
    } = size(reader);
    reader.rule(
        &[asked_by, &settings::BUFFER_MAX_SIZE],
        asked.zip(cap).is_none_or(|(asked, cap)| asked <= cap),
        "a batch cannot hold more events than the most per batch",
    );
}

/// How many events a batch is to hold, as far as somebody said so.
struct Size {
    asked: Option<usize>,
    /// By which setting.
    asked_by: &'static Setting,
    /// The deprecated hard limit; without a size it is the size.
    cap: Option<usize>,
}

/// The new name wins over its deprecated alias.
fn size(reader: &mut Reader<'_>) -> Size {
    // All are read in any case, so that a bad value is found.
    let size = reader.count_if_set(&settings::BATCH_SIZE);
    let alias = reader.count_if_set(&settings::BUFFER_SIZE);
    let cap = reader.count_if_set(&settings::BUFFER_MAX_SIZE);
    let asked_by = match reader.source(&settings::BATCH_SIZE) {
        Source::Default => &settings::BUFFER_SIZE,
        Source::Env | Source::Flag => &settings::BATCH_SIZE,
    };
    Size {
        asked: size.or(alias),
        asked_by,
        cap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_ripe_at_once_when_full_early_when_large_and_else_at_its_age() {
        let (early, late) = (Duration::from_secs(1), Duration::from_secs(60));
        let rules = BatchRules {
            events: 10,
            events_age: early,
            events_max: 100,
            bytes: 1_000,
            age: late,
        };
        for (events, bytes, full, at) in [
            (1, 999, false, late),
            (9, 1, false, late),
            (10, 999, false, early),
            (99, 999, false, early),
            (100, 1, true, Duration::ZERO),
            (1, 1_000, true, Duration::ZERO),
            (10, 1_001, true, Duration::ZERO),
        ] {
            let case = format!("{events} events, {bytes} bytes");
            assert_eq!(rules.is_full(events, bytes), full, "{case}");
            assert_eq!(rules.ripe_at(events, bytes), at, "{case}");
        }
        let impatient = BatchRules {
            age: early / 2,
            ..rules
        };
        assert_eq!(impatient.ripe_at(10, 1), early / 2);
    }
}
