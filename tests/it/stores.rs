//! What every event store and error store promises, run against each implementation and each fake, through the seam alone.
//!
//! What lies below the seam has suites of its own: objects in `store.rs`, Firestore's protocol in `stores/firestore.rs`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use eventkit::backoff::Backoff;
use eventkit::event::{BatchId, Day};
use eventkit::lifecycle::Health;
use eventkit::store::fake::MemoryObjects;
use eventkit::store::{
    Disposition, ErrorRow, EventStore as _, LocalObjects, Retrying, Row, Written,
};
use eventkit::telemetry::Metrics;
use eventkit::worker::Stores;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "cloud")]
mod firestore;
#[cfg(feature = "cloud")]
mod front;
mod objects;
pub(crate) mod rows;

use rows::{DAY, batch, error_row, filled, row, tricky_rows};

/// What goes wrong in the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// The store is out; nothing was done.
    Out,
    /// The store refuses; nothing was done.
    Denied,
    /// A part was done, then the store was out.
    Half,
    /// All was done; the answer was lost.
    AnswerLost,
}

const FAILURES: [Failure; 4] = [
    Failure::Out,
    Failure::Denied,
    Failure::Half,
    Failure::AnswerLost,
];

/// One implementation, empty.
struct Subject {
    name: &'static str,
    stores: Stores,
    behind: Box<dyn Behind>,
    /// The largest row that it takes, if it has a limit.
    row_bytes_max: Option<usize>,
}

/// The way around the seam: what is really there, and how to make the next write fail.
#[async_trait]
trait Behind: Send + Sync {
    /// All good rows.
    async fn events(&self) -> Vec<Row>;
    /// All error rows.
    async fn errors(&self) -> Vec<ErrorRow>;
    /// The next write fails.
    fn fail(&self, failure: Failure);
}

/// Every implementation. Emulators that are not there are missing here and listed as not run.
async fn all() -> Vec<Subject> {
    let dir = TempDir::new().expect("a temporary directory");
    let local = LocalObjects::open(dir.path()).expect("a new store");
    let mut all = vec![
        objects::subject("local", local, Some(dir)),
        objects::subject("memory", MemoryObjects::default(), None),
    ];
    #[cfg(feature = "cloud")]
    {
        let bucket = crate::store::emulated_bucket().await;
        all.extend(bucket.map(|bucket| objects::subject("Cloud Storage", bucket, None)));
        all.extend(firestore::subjects().await);
    }
    all
}

impl Subject {
    async fn write(&self, number: u64, rows: &[Row]) -> Written {
        let events = &self.stores.events;
        let written = events.write_events(&batch(number), DAY, rows.into()).await;
        written.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    async fn write_errors(&self, number: u64, rows: &[ErrorRow]) -> Written {
        let errors = &self.stores.errors;
        let written = errors.write_errors(&batch(number), DAY, rows.into()).await;
        written.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// What is there, by offset.
    async fn events(&self) -> Vec<Row> {
        let mut rows = self.behind.events().await;
        rows.sort_by_key(|row| row.offset);
        rows
    }

    async fn errors(&self) -> Vec<ErrorRow> {
        let mut rows = self.behind.errors().await;
        rows.sort_by_key(|row| row.offset);
        rows
    }

    /// Both ends as the program has them: repeated until they succeed.
    fn retrying(&self, stop: &CancellationToken) -> Arc<Retrying<ErasedStores>> {
        let backoff = Backoff {
            base: Duration::from_millis(1),
            max: Duration::from_millis(20),
        };
        let inner = ErasedStores(self.stores.clone());
        let (health, metrics) = (Health::default(), Metrics::new());
        Arc::new(Retrying::new(inner, backoff, health, metrics, stop.clone()))
    }
}

/// Both ends as one value.
#[derive(Debug)]
struct ErasedStores(Stores);

#[async_trait]
impl eventkit::store::EventStore for ErasedStores {
    async fn write_events(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[Row]>,
    ) -> Result<Written, eventkit::store::WriteError> {
        self.0.events.write_events(batch, day, rows).await
    }
}

#[tokio::test]
async fn rows_come_back_as_they_were() {
    for subject in all().await {
        let rows = tricky_rows();
        let written = subject.write(1, &rows).await;
        assert!(
            written.created && written.refused.is_empty(),
            "{}",
            subject.name
        );
        assert!(written.bytes > 1_000, "{}", subject.name);
        let stored = subject.events().await;
        assert_eq!(stored.len(), rows.len(), "{}", subject.name);
        for (stored, row) in stored.iter().zip(&rows) {
            assert_eq!(stored, row, "{}", subject.name);
        }
        assert_eq!(subject.errors().await, [], "{}", subject.name);
    }
}

#[tokio::test]
async fn error_rows_come_back_as_they_were() {
    for subject in all().await {
        let rows = [
            ErrorRow {
                original: (0..=255).collect(),
                original_format: Cow::Borrowed("record"),
                message_id: String::new(),
                trace_id: Some("ab".repeat(16)),
                ..error_row(100)
            },
            ErrorRow {
                original: Vec::new(),
                message_id: "a/b \u{1F980}".into(),
                ..error_row(101)
            },
            // What no store of single documents takes in one piece.
            ErrorRow {
                original: (0..3_000_000_u32).map(|at| at.to_be_bytes()[3]).collect(),
                ..error_row(102)
            },
            error_row(103),
        ];
        let written = subject.write_errors(1, &rows).await;
        assert!(
            written.created && written.refused.is_empty(),
            "{}",
            subject.name
        );
        assert!(subject.errors().await == rows, "{}", subject.name);
        let again = subject.write_errors(1, &rows).await;
        assert!(!again.created, "{}", subject.name);
        assert!(subject.errors().await == rows, "{}", subject.name);
        assert_eq!(subject.events().await, [], "{}", subject.name);
    }
}

#[tokio::test]
async fn a_repeat_changes_nothing() {
    for subject in all().await {
        let rows = [row(100), row(101)];
        let first = subject.write(1, &rows).await;
        let again = subject.write(1, &rows).await;
        assert!(first.created && !again.created, "{}", subject.name);
        // Another version may judge the same input otherwise.
        let other = Row {
            properties: None,
            ..row(100)
        };
        subject.write(1, &[other, row(101)]).await;
        assert_eq!(subject.events().await, rows, "{}", subject.name);
    }
}

#[tokio::test]
async fn no_rows_leave_no_trace() {
    for subject in all().await {
        assert_eq!(
            subject.write(1, &[]).await,
            Written::default(),
            "{}",
            subject.name
        );
        assert_eq!(
            subject.write_errors(1, &[]).await,
            Written::default(),
            "{}",
            subject.name
        );
        assert_eq!(subject.events().await, [], "{}", subject.name);
        assert_eq!(subject.errors().await, [], "{}", subject.name);
    }
}

#[tokio::test]
async fn a_batch_of_many_rows_is_stored_whole() {
    for subject in all().await {
        let rows: Vec<Row> = (100..1_300).map(row).collect();
        let errors: Vec<ErrorRow> = (2_000..2_600).map(error_row).collect();
        let written = subject.write(1, &rows).await;
        subject.write_errors(1, &errors).await;
        assert!(written.refused.is_empty(), "{}", subject.name);
        assert!(subject.events().await == rows, "{}", subject.name);
        assert!(subject.errors().await == errors, "{}", subject.name);
    }
}

#[tokio::test]
async fn a_batch_of_many_bytes_is_stored_whole() {
    for subject in all().await {
        // 14 MB.
        let rows: Vec<Row> = (100..140)
            .map(|offset| Row {
                properties: filled(350_000),
                ..row(offset)
            })
            .collect();
        let written = subject.write(1, &rows).await;
        assert!(
            written.refused.is_empty(),
            "{}: {:?}",
            subject.name,
            written.refused
        );
        assert!(subject.events().await == rows, "{}", subject.name);
    }
}

#[tokio::test]
async fn a_row_that_is_too_large_is_named_and_its_neighbours_are_stored() {
    for subject in all().await {
        let sized = |offset, bytes| Row {
            properties: filled(bytes),
            ..row(offset)
        };
        let rows = [
            row(100),
            sized(101, 900 << 10),
            sized(102, (1 << 20) + 1),
            row(103),
            sized(104, 2 << 20),
        ];
        let fits = |row: &Row| {
            let bytes = row.properties.as_ref().map_or(0, String::len);
            subject.row_bytes_max.is_none_or(|max| bytes < max)
        };
        let expected: Vec<Row> = rows.iter().filter(|row| fits(row)).cloned().collect();
        for _repeat in 0..2 {
            let written = subject.write(1, &rows).await;
            let refused: Vec<usize> = written.refused.iter().map(|(at, _)| *at).collect();
            let too_large: Vec<usize> = (0..rows.len()).filter(|at| !fits(&rows[*at])).collect();
            assert_eq!(refused, too_large, "{}", subject.name);
            for (_, reason) in &written.refused {
                assert!(!reason.is_empty() && reason.len() < 200, "{reason}");
                assert!(
                    !reason.contains("yyy") && !reason.contains("m-10"),
                    "{reason}"
                );
            }
            assert!(subject.events().await == expected, "{}", subject.name);
        }
    }
}

#[tokio::test]
async fn many_who_write_one_batch_at_once_store_each_row_once() {
    for subject in all().await {
        let rows: Vec<Row> = (100..180).map(row).collect();
        let stop = CancellationToken::new();
        let store = subject.retrying(&stop);
        let shared: Arc<[Row]> = rows.clone().into();
        let id = batch(1);
        let writers = (0..8).map(|_| store.write_events(&id, DAY, Arc::clone(&shared)));
        let written = futures::future::try_join_all(writers).await.unwrap();
        assert!(
            written.iter().any(|written| written.created),
            "{}",
            subject.name
        );
        assert!(subject.events().await == rows, "{}", subject.name);
    }
}

#[tokio::test]
async fn whatever_fails_a_repeat_completes_the_batch() {
    for failure in FAILURES {
        for subject in all().await {
            let name = format!("{} {failure:?}", subject.name);
            let rows: Vec<Row> = (100..120).map(row).collect();
            subject.behind.fail(failure);
            let failed = subject
                .stores
                .events
                .write_events(&batch(1), DAY, rows.clone().into())
                .await;
            let expected = match failure {
                Failure::Denied => Disposition::Alarm,
                Failure::Out | Failure::Half | Failure::AnswerLost => Disposition::Retry,
            };
            assert_eq!(failed.expect_err(&name).disposition(), expected, "{name}");
            let written = subject.write(1, &rows).await;
            assert!(written.refused.is_empty(), "{name}");
            assert_eq!(subject.events().await, rows, "{name}");

            let errors: Vec<ErrorRow> = (100..120).map(error_row).collect();
            subject.behind.fail(failure);
            let failed = subject
                .stores
                .errors
                .write_errors(&batch(1), DAY, errors.clone().into())
                .await;
            assert_eq!(failed.expect_err(&name).disposition(), expected, "{name}");
            subject.write_errors(1, &errors).await;
            assert_eq!(subject.errors().await, errors, "{name}");
        }
    }
}
