//! Firestore: what is particular to it, on its emulator and on a memory with its rules.

use std::sync::Arc;
use std::time::Duration;

use eventkit::config::Endpoint;
use eventkit::store::firestore::FirestoreOptions;
use eventkit::store::{
    Disposition, ErrorRow, ErrorStore as _, EventStore as _, FirestoreStore, Row, WriteError,
};
use eventkit::worker::Stores;
use tonic::Code;

use super::front::{Fault, Front};
use super::{Behind as _, DAY, Subject, batch, error_row, filled, row};
use crate::support::emulators;

mod back;
mod worker;

/// Short enough for a test that waits it out, long enough for an emulator under load.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A store, the front that it writes through, and its own collections in the database behind.
struct Documents {
    front: Front,
    streams: String,
    errors: String,
}

impl Documents {
    fn new(front: Front) -> Self {
        let own = uuid::Uuid::new_v4().simple();
        Self {
            front,
            streams: format!("streams-{own}"),
            errors: format!("errors-{own}"),
        }
    }

    fn options(&self) -> FirestoreOptions {
        FirestoreOptions {
            streams: self.streams.clone(),
            errors: self.errors.clone(),
            request_timeout: TIMEOUT,
            ..FirestoreOptions::new(Endpoint::Emulator(self.front.url()), "eventkit-test")
        }
    }

    fn store(&self) -> FirestoreStore {
        FirestoreStore::new(&self.options()).unwrap()
    }

    fn subject(self, name: &'static str) -> Subject {
        Subject {
            name,
            stores: Stores::both(Arc::new(self.store())),
            behind: Box::new(self),
            row_bytes_max: Some(1 << 20),
        }
    }
}

/// Memory always, the emulator if there is one.
async fn fronts() -> Vec<(&'static str, Front)> {
    let mut fronts = vec![("firestore in memory", Front::memory().await)];
    if let Some(url) = emulators::firestore() {
        fronts.push(("firestore", Front::emulator(&url).await));
    }
    fronts
}

/// All of Firestore that the suite of every store runs on.
pub(super) async fn subjects() -> Vec<Subject> {
    let fronts = fronts().await.into_iter();
    fronts
        .map(|(name, front)| Documents::new(front).subject(name))
        .collect()
}

async fn write(
    store: &FirestoreStore,
    rows: &[Row],
) -> Result<eventkit::store::Written, WriteError> {
    store.write_events(&batch(1), DAY, rows.into()).await
}

#[tokio::test]
async fn of_rows_with_one_key_the_first_stays_whoever_brings_the_second() {
    for (kind, front) in fronts().await {
        let documents = Documents::new(front);
        let store = documents.store();
        let first = row(100);
        let second = Row {
            properties: None,
            offset: 101,
            ..first.clone()
        };
        let elsewhere = Row {
            stream: "elsewhere".into(),
            offset: 102,
            ..first.clone()
        };
        let rows = [first.clone(), row(110), second.clone(), elsewhere];
        assert!(write(&store, &rows).await.unwrap().created, "{kind}");
        // Another batch, as after a repair of the log.
        let other = store.write_events(&batch(2), DAY, Arc::new([second])).await;
        assert!(!other.unwrap().created, "{kind}");
        let mut stored = documents.events().await;
        stored.sort_by_key(|row| row.offset);
        assert_eq!(stored, [first, row(110)], "{kind}");
    }
}

#[tokio::test]
async fn no_request_is_larger_than_firestore_takes() {
    for (kind, front) in fronts().await {
        let documents = Documents::new(front.clone());
        let store = documents.store();
        let rows: Vec<Row> = (0..1_200).map(row).collect();
        write(&store, &rows).await.unwrap();
        assert_eq!(front.seen(), [500, 500, 200], "{kind}");
        let rows: Vec<Row> = (2_000..2_012)
            .map(|offset| Row {
                properties: filled(1_000_000),
                ..row(offset)
            })
            .collect();
        write(&store, &rows).await.unwrap();
        assert_eq!(front.seen()[3..], [4, 4, 4], "{kind}");
    }
}

#[tokio::test]
async fn one_write_that_fails_for_a_while_fails_the_batch_and_one_that_is_refused_does_not() {
    for (kind, front) in fronts().await {
        for (code, offsets) in [
            (Code::Aborted, 100..110),
            (Code::ResourceExhausted, 200..210),
            (Code::Unavailable, 300..310),
            (Code::PermissionDenied, 400..410),
            (Code::InvalidArgument, 500..510),
        ] {
            let documents = Documents::new(front.clone());
            let store = documents.store();
            let rows: Vec<Row> = offsets.map(row).collect();
            front.plan([Some(Fault::Write(3, code))]);
            let outcome = write(&store, &rows).await;
            let stored = documents.events().await.len();
            assert_eq!(stored, rows.len() - 1, "{kind} {code:?}: the neighbours");
            match (code, outcome) {
                (Code::InvalidArgument, Ok(written)) => {
                    let reason = "Firestore answers InvalidArgument".to_owned();
                    assert_eq!(written.refused, [(3, reason)], "{kind}");
                }
                (Code::PermissionDenied, Err(error)) => {
                    assert_eq!(error.disposition(), Disposition::Alarm, "{kind}");
                }
                (Code::InvalidArgument | Code::PermissionDenied, outcome) => {
                    panic!("{kind} {code:?}: {outcome:?}")
                }
                (_, outcome) => {
                    let error = outcome.unwrap_err();
                    assert_eq!(error.disposition(), Disposition::Retry, "{kind} {code:?}");
                    let again = write(&store, &rows).await.unwrap();
                    assert!(again.created && again.refused.is_empty(), "{kind} {code:?}");
                    assert_eq!(
                        documents.events().await.len(),
                        rows.len(),
                        "{kind} {code:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_document_that_spoils_its_request_is_found_and_its_neighbours_are_stored() {
    for (kind, front) in fronts().await {
        let documents = Documents::new(front.clone());
        let rows: Vec<Row> = (100..200).map(row).collect();
        front.spoil("-m-137");
        front.spoil("-m-199");
        let written = write(&documents.store(), &rows).await.unwrap();
        let refused: Vec<usize> = written.refused.iter().map(|(at, _)| *at).collect();
        assert_eq!(refused, [37, 99], "{kind}");
        let mut stored: Vec<u64> = documents
            .events()
            .await
            .iter()
            .map(|row| row.offset)
            .collect();
        stored.sort_unstable();
        let expected = (100..200).filter(|offset| ![137, 199].contains(offset));
        assert_eq!(stored, expected.collect::<Vec<_>>(), "{kind}");
        // By halving: two paths of about seven requests.
        assert!(front.seen().len() < 30, "{kind}: {:?}", front.seen());
    }
}

#[tokio::test]
async fn a_database_that_takes_nothing_blames_no_row() {
    for (kind, front) in fronts().await {
        let documents = Documents::new(front.clone());
        front.spoil("");
        front.plan_lists([Code::InvalidArgument, Code::FailedPrecondition]);
        for _list in 0..2 {
            let error = write(&documents.store(), &[row(100), row(101)])
                .await
                .unwrap_err();
            assert_eq!(error.disposition(), Disposition::Alarm, "{kind}: {error}");
        }
        assert_eq!(front.seen(), [2, 2], "{kind}: it is asked at once");
        // When the database itself is fine, it is the rows.
        let written = write(&documents.store(), &[row(100), row(101)])
            .await
            .unwrap();
        assert_eq!(written.refused.len(), 2, "{kind}");
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_or_silent_is_an_outage_and_is_made_anew() {
    for (kind, front) in fronts().await {
        let documents = Documents::new(front.clone());
        let store = FirestoreStore::new(&FirestoreOptions {
            // Good writes have it too, and a connection more would be counted.
            request_timeout: Duration::from_secs(10),
            ..documents.options()
        })
        .unwrap();
        for (fault, connections) in [(Fault::Reset, 2), (Fault::Hang, 3), (Fault::AnswerLost, 4)] {
            front.plan([Some(fault)]);
            let error = write(&store, &[row(100)]).await.unwrap_err();
            assert_eq!(error.disposition(), Disposition::Retry, "{kind} {fault:?}");
            write(&store, &[row(100)]).await.unwrap();
            assert_eq!(front.connections(), connections, "{kind} {fault:?}");
        }
        assert_eq!(documents.events().await, [row(100)], "{kind}");
    }
}

#[tokio::test]
async fn at_a_start_a_refusal_is_told_from_an_outage() {
    for (kind, front) in fronts().await {
        let store = Documents::new(front.clone()).store();
        store
            .check()
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        for (code, disposition) in [
            (Code::PermissionDenied, Disposition::Alarm),
            (Code::Unauthenticated, Disposition::Alarm),
            // A missing document is no error of a list: this is the database.
            (Code::NotFound, Disposition::Alarm),
            (Code::Unavailable, Disposition::Retry),
            (Code::ResourceExhausted, Disposition::Retry),
        ] {
            front.plan_lists([code]);
            let error = store.check().await.unwrap_err();
            assert_eq!(error.disposition(), disposition, "{kind} {code:?}");
        }
    }
    // Nobody listens there.
    let (_held, nobody) = crate::support::ports::held();
    let nobody = Endpoint::emulator(&nobody.to_string());
    let store = FirestoreStore::new(&FirestoreOptions::new(nobody, "eventkit-test")).unwrap();
    let error = store.check().await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry);
    let errors: Arc<[ErrorRow]> = Arc::new([error_row(1)]);
    let error = store
        .write_errors(&batch(1), DAY, errors)
        .await
        .unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry);
}

#[tokio::test]
async fn the_emulator_is_written_to_without_anything_in_between() {
    let Some(url) = emulators::firestore() else {
        return;
    };
    let documents = Documents::new(Front::emulator(&url).await);
    let store = FirestoreStore::new(&FirestoreOptions {
        endpoint: Endpoint::Emulator(url),
        ..documents.options()
    })
    .unwrap();
    store.check().await.unwrap();
    let rows: Vec<Row> = (100..700).map(row).collect();
    write(&store, &rows).await.unwrap();
    assert_eq!(documents.front.seen(), [0; 0]);
    let mut stored = documents.events().await;
    stored.sort_by_key(|row| row.offset);
    assert!(stored == rows);
}
