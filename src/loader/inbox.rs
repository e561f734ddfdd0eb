//! The inbox: markers that say which objects wait to be loaded.
//!
//! A marker goes only when its object is recorded as loaded, or when a copy of the marker is in `quarantine/`. To have a
//! quarantined object loaded after all, mend it and move its marker back to `inbox/`.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use xxhash_rust::xxh3::xxh3_64;

use super::manifest::ManifestObject;
use crate::store::{Disposition, Marker, Objects, WriteError};

/// The folder of markers.
pub(super) const FOLDER: &str = "inbox/";

/// Where markers go that lead to nothing loadable.
pub(super) const QUARANTINE: &str = "quarantine/";

/// The format of markers that is known here.
const MARKER_VERSION: u32 = 1;

/// Small objects that are read or removed at a time.
const CONCURRENCY: usize = 16;

/// What a marker turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    /// An object to be loaded.
    Object(ManifestObject),
    /// Not a marker; the bytes are what it holds instead.
    Malformed(Bytes, String),
    /// A marker that this version cannot judge or may not read; it stays where it is.
    Blocked(String),
    /// Somebody removed it meanwhile.
    Gone,
}

/// Reads markers, in the order of their names.
pub(super) async fn read(
    objects: &dyn Objects,
    names: &[String],
) -> Result<Vec<(String, Found)>, WriteError> {
    let reads: Vec<_> = names.iter().map(|name| read_one(objects, name)).collect();
    stream::iter(reads)
        .buffered(CONCURRENCY)
        .try_collect()
        .await
}

async fn read_one(objects: &dyn Objects, name: &str) -> Result<(String, Found), WriteError> {
    let found = match objects.get(name).await {
        Ok(Some(bytes)) => judge(name, bytes),
        Ok(None) => Found::Gone,
        // One file that is closed to us must not keep the others waiting.
        Err(error) if error.disposition() == Disposition::Alarm => {
            Found::Blocked(error.to_string())
        }
        Err(error) => return Err(error),
    };
    Ok((name.to_owned(), found))
}

fn judge(name: &str, bytes: Bytes) -> Found {
    #[derive(serde::Deserialize)]
    struct Head {
        version: u32,
    }
    match serde_json::from_slice::<Head>(&bytes) {
        Ok(Head { version }) if version > MARKER_VERSION => {
            return Found::Blocked(format!("marker format {version} is not known here"));
        }
        Ok(_) => {}
        Err(error) => return Found::Malformed(bytes, error.to_string()),
    }
    let marker: Marker = match serde_json::from_slice(&bytes) {
        Ok(marker) => marker,
        Err(error) => return Found::Malformed(bytes, error.to_string()),
    };
    // Only names that a store gives: what a marker says is joined to a path or a URL.
    let folder = format!("{}/dt={}/", marker.table.as_str(), marker.day);
    let is_ours = marker
        .object
        .strip_prefix(&folder)
        .and_then(|rest| rest.strip_suffix(".parquet"))
        .is_some_and(is_plain)
        && is_plain(&marker.day);
    if !is_ours {
        let reason = "the object's name does not fit its table and day".to_owned();
        return Found::Malformed(bytes, reason);
    }
    Found::Object(ManifestObject {
        table: marker.table,
        object: marker.object,
        day: marker.day,
        rows: marker.rows,
        bytes: marker.bytes,
        marker: name.to_owned(),
        traces: marker.traces,
    })
}

fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Removes markers.
pub(super) async fn remove(
    objects: &dyn Objects,
    names: impl IntoIterator<Item = &str> + Send,
) -> Result<(), WriteError> {
    let removals: Vec<_> = names.into_iter().map(|name| objects.delete(name)).collect();
    stream::iter(removals)
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

/// Moves a marker to `quarantine/`: first a durable copy, then the removal.
pub(super) async fn quarantine(
    objects: &dyn Objects,
    name: &str,
    bytes: Bytes,
) -> Result<(), WriteError> {
    let copy = copy_name(name);
    if !objects.put_if_absent(&copy, bytes.clone()).await?
        && objects.get(&copy).await?.as_ref() != Some(&bytes)
    {
        // Another file had this name before: both are kept.
        let copy = format!("{copy}.{:016x}", xxh3_64(&bytes));
        objects.put_if_absent(&copy, bytes).await?;
    }
    objects.delete(name).await
}

/// Where a marker's copy goes in quarantine.
pub(super) fn copy_name(name: &str) -> String {
    let file = name.strip_prefix(FOLDER).unwrap_or(name);
    format!("{QUARANTINE}{file}")
}

/// Puts an object's marker into quarantine.
pub(super) async fn quarantine_object(
    objects: &dyn Objects,
    object: &ManifestObject,
) -> Result<(), WriteError> {
    if let Some(bytes) = objects.get(&object.marker).await? {
        return quarantine(objects, &object.marker, bytes).await;
    }
    // Moved before, or never there: then it is made from the manifest.
    objects
        .put_if_absent(&copy_name(&object.marker), encode(object))
        .await?;
    Ok(())
}

/// The marker of an object.
pub(super) fn encode(object: &ManifestObject) -> Bytes {
    let marker = Marker {
        version: MARKER_VERSION,
        table: object.table,
        object: object.object.clone(),
        day: object.day.clone(),
        rows: object.rows,
        bytes: object.bytes,
        traces: object.traces.clone(),
    };
    serde_json::to_vec(&marker)
        .expect("texts and numbers are always JSON")
        .into()
}

/// How much one manifest takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most objects.
    pub objects: usize,
    /// The most bytes of objects; one larger object is taken alone.
    pub bytes: u64,
    /// The most rows; one larger object is taken alone.
    pub rows: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            objects: 1_000,
            bytes: 64 << 20,
            rows: 250_000,
        }
    }
}

/// The objects of a manifest to be, as long as there is room.
#[derive(Debug)]
pub(super) struct Gathered {
    limits: Limits,
    bytes: u64,
    rows: u64,
    names: HashSet<String>,
    /// What was taken.
    pub(super) objects: Vec<ManifestObject>,
}

impl Gathered {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            bytes: 0,
            rows: 0,
            names: HashSet::new(),
            objects: Vec::new(),
        }
    }

    /// Takes an object; `false` when there is no room for it. A second marker of an object waits until that is recorded.
    pub(super) fn push(&mut self, object: ManifestObject) -> bool {
        let bytes = self.bytes.saturating_add(object.bytes);
        let rows = self.rows.saturating_add(object.rows);
        let has_room = self.objects.len() < self.limits.objects
            && bytes <= self.limits.bytes
            && rows <= self.limits.rows;
        if !has_room && !self.objects.is_empty() {
            return false;
        }
        if self.names.insert(object.object.clone()) {
            (self.bytes, self.rows) = (bytes, rows);
            self.objects.push(object);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Table, Traces};

    fn object(name: &str, bytes: u64, rows: u64) -> ManifestObject {
        ManifestObject {
            table: Table::Events,
            object: name.into(),
            day: "2026-01-31".into(),
            rows,
            bytes,
            marker: format!("inbox/{name}"),
            traces: Traces::default(),
        }
    }

    #[test]
    fn a_manifest_takes_what_its_limits_allow_and_always_one() {
        let limits = Limits {
            objects: 3,
            bytes: 100,
            rows: 10,
        };
        for (objects, taken) in [
            (vec![object("a", 1, 1); 1], 1),
            (vec![object("a", 1_000, 1_000)], 1),
            (
                vec![object("a", 60, 1), object("b", 40, 1), object("c", 1, 1)],
                2,
            ),
            (vec![object("a", 1, 6), object("b", 1, 5)], 1),
            (
                ["a", "b", "c", "d"].map(|name| object(name, 1, 1)).to_vec(),
                3,
            ),
            (vec![object("a", 1, 1), object("a", 1, 1)], 1),
        ] {
            let mut gathered = Gathered::new(limits);
            for object in objects {
                if !gathered.push(object) {
                    break;
                }
            }
            assert_eq!(gathered.objects.len(), taken);
        }
    }

    #[test]
    fn only_markers_that_name_an_object_of_the_store_are_taken() {
        let marker = |object: &str, day: &str, version: u32| {
            let text = format!(
                r#"{{"version":{version},"table":"events","object":"{object}","day":"{day}","rows":1,"bytes":1}}"#
            );
            judge("inbox/m.json", Bytes::from(text))
        };
        let day = "2026-01-31";
        let good = format!("events/dt={day}/0a-1.parquet");
        assert!(matches!(marker(&good, day, 1), Found::Object(found) if found.object == good));
        assert!(matches!(marker(&good, day, 2), Found::Blocked(_)));
        for (object, day) in [
            ("errors/dt=2026-01-31/a.parquet", day),
            ("events/dt=2026-01-30/a.parquet", day),
            ("events/dt=2026-01-31/../../a.parquet", day),
            ("events/dt=2026-01-31/a.json", day),
            ("events/dt=2026-01-31/.parquet", day),
            ("events/dt=../x/a.parquet", "../x"),
            ("/etc/passwd", day),
            ("", ""),
        ] {
            assert!(
                matches!(marker(object, day, 1), Found::Malformed(..)),
                "{object}"
            );
        }
        for text in ["", "{}", "[]", "{\"version\":1}", "\u{0}\u{1}"] {
            assert!(
                matches!(
                    judge("inbox/m.json", Bytes::from(text)),
                    Found::Malformed(..)
                ),
                "{text}"
            );
        }
    }
}
