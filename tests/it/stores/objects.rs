//! The stores over named objects: Parquet files and their markers.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use eventkit::store::fake::{Fault, Faulty};
use eventkit::store::{ErrorRow, ObjectEventStore, Objects, Row, parquet};
use eventkit::worker::Stores;
use tempfile::TempDir;

use super::{Behind, Failure, Subject};

struct Files<O> {
    /// What the store writes to, too. A plan is used up by the write that it is for, so that reading never fails.
    objects: Arc<Faulty<O>>,
    _dir: Option<TempDir>,
}

/// Any kind of objects, empty, with what keeps them alive.
pub(super) fn subject<O: Objects>(name: &'static str, objects: O, dir: Option<TempDir>) -> Subject {
    let objects = Arc::new(Faulty::new(objects, []));
    Subject {
        name,
        stores: Stores::both(Arc::new(ObjectEventStore::new(Arc::clone(&objects)))),
        behind: Box::new(Files { objects, _dir: dir }),
        row_bytes_max: None,
    }
}

impl<O: Objects> Files<O> {
    async fn files(&self, folder: &str) -> Vec<Bytes> {
        let mut files = Vec::new();
        for name in self.objects.list(folder, None, usize::MAX).await.unwrap() {
            files.push(self.objects.get(&name).await.unwrap().unwrap());
        }
        files
    }
}

#[async_trait]
impl<O: Objects> Behind for Files<O> {
    async fn events(&self) -> Vec<Row> {
        let files = self.files("events/").await.into_iter();
        files
            .flat_map(|file| parquet::decode_events(file).unwrap())
            .collect()
    }

    async fn errors(&self) -> Vec<ErrorRow> {
        let files = self.files("errors/").await.into_iter();
        files
            .flat_map(|file| parquet::decode_errors(file).unwrap())
            .collect()
    }

    fn fail(&self, failure: Failure) {
        // A write is two calls: the object, then its marker.
        let plan: &[Option<Fault>] = match failure {
            Failure::Out => &[Some(Fault::Unavailable)],
            Failure::Denied => &[Some(Fault::Denied)],
            Failure::Half => &[None, Some(Fault::Unavailable)],
            Failure::AnswerLost => &[None, Some(Fault::AnswerLost)],
        };
        self.objects.then(plan.iter().copied());
    }
}
