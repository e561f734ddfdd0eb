use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::store::Disposition;

fn temporaries(root: &Path) -> usize {
    fs::read_dir(root.join(TMP)).unwrap().count()
}

#[tokio::test]
async fn what_a_dead_process_left_is_never_visible_and_goes_at_open() {
    let dir = TempDir::new().unwrap();
    drop(LocalObjects::open(dir.path()).unwrap());
    // Died between write and link.
    fs::write(dir.path().join("tmp/half"), b"half an obj").unwrap();
    // Died between link and unlink.
    fs::create_dir(dir.path().join("inbox")).unwrap();
    fs::write(dir.path().join("tmp/linked"), b"whole").unwrap();
    fs::hard_link(dir.path().join("tmp/linked"), dir.path().join("inbox/a")).unwrap();

    let objects = LocalObjects::open(dir.path()).unwrap();
    assert_eq!(temporaries(dir.path()), 0);
    assert_eq!(objects.list("inbox/", None, 9).await.unwrap(), ["inbox/a"]);
    assert_eq!(objects.get("inbox/a").await.unwrap().unwrap(), "whole");
    assert!(
        !objects
            .put_if_absent("inbox/a", "other".into())
            .await
            .unwrap()
    );
    assert_eq!(objects.get("inbox/a").await.unwrap().unwrap(), "whole");
}

#[test]
fn a_file_that_another_process_is_writing_survives_an_open() {
    let dir = TempDir::new().unwrap();
    let objects = LocalObjects::open(dir.path()).unwrap();
    let writing = Temporary::write(&dir.path().join(TMP), b"in use").unwrap();
    drop(LocalObjects::open(dir.path()).unwrap());
    assert!(writing.path.exists());
    drop(writing);
    assert_eq!(temporaries(objects.root()), 0);
}

#[tokio::test]
async fn no_temporary_file_stays_whatever_the_outcome() {
    let dir = TempDir::new().unwrap();
    let objects = LocalObjects::open(dir.path()).unwrap();
    assert!(objects.put_if_absent("events/a", "1".into()).await.unwrap());
    assert!(!objects.put_if_absent("events/a", "2".into()).await.unwrap());
    // A file stands where a folder is needed.
    let error = objects
        .put_if_absent("events/a/b", "3".into())
        .await
        .unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry);
    assert_eq!(temporaries(dir.path()), 0);
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let dir = TempDir::new().unwrap();
    let objects = LocalObjects::open(dir.path().join("store")).unwrap();
    for name in [
        "", "/etc/x", "../x", "a/../b", "a//b", "a/", "./a", "a/.", "tmp/x", "tmp", "a\0b", "a\\b",
    ] {
        let put = objects.put_if_absent(name, "x".into()).await;
        assert!(matches!(put, Err(WriteError::Denied { .. })), "{name:?}");
        assert!(objects.get(name).await.is_err(), "{name:?}");
        assert!(objects.delete(name).await.is_err(), "{name:?}");
    }
    for prefix in ["", "events", "/", "../", "tmp/"] {
        assert!(objects.list(prefix, None, 1).await.is_err(), "{prefix:?}");
    }
}

#[tokio::test]
async fn a_marker_wakes_the_loader_and_an_object_does_not() {
    let dir = TempDir::new().unwrap();
    let objects = LocalObjects::open(dir.path()).unwrap();
    let changed = objects.inbox_changed();
    objects.put_if_absent("events/a", "1".into()).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::ZERO, changed.notified())
            .await
            .is_err()
    );
    objects.put_if_absent("inbox/a", "1".into()).await.unwrap();
    // The notice was kept although nobody was waiting.
    changed.notified().await;
}

#[tokio::test]
async fn a_folder_that_was_removed_is_made_again() {
    let dir = TempDir::new().unwrap();
    let objects = LocalObjects::open(dir.path()).unwrap();
    objects
        .put_if_absent("events/dt=1/a", "1".into())
        .await
        .unwrap();
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    assert!(
        objects
            .put_if_absent("events/dt=1/a", "1".into())
            .await
            .unwrap()
    );
    assert_eq!(
        objects.list("events/", None, 9).await.unwrap(),
        ["events/dt=1/a"]
    );
}

#[test]
fn an_io_error_is_an_outage_or_a_refusal() {
    let disposition = |kind: ErrorKind| write_error("put", "a")(kind.into()).disposition();
    for kind in [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::NotFound,
        ErrorKind::Interrupted,
        ErrorKind::Other,
    ] {
        assert_eq!(disposition(kind), Disposition::Retry, "{kind}");
    }
    for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
        assert_eq!(disposition(kind), Disposition::Alarm, "{kind}");
    }
    let full = write_error("put", "events/a")(ErrorKind::StorageFull.into());
    assert_eq!(
        full.to_string(),
        "store unavailable: put events/a: no storage space"
    );
}

#[test]
fn a_store_that_cannot_be_opened_says_where_and_why() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = LocalObjects::open(file.join("store")).unwrap_err();
    assert!(error.to_string().contains("file/store"), "{error}");
}
