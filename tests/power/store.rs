//! A store under load, and what is left of it: batches that are written, loaded (their markers go) and forgotten.
//!
//! Everything about a batch follows from its number.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use eventkit::event::{BatchId, Day, Lane, LogId};
use eventkit::store::objects::{marker_name, object_name};
use eventkit::store::{
    EventStore as _, LocalObjects, Marker, ObjectEventStore, Objects as _, Row, Table, parquet,
};
use tokio::time::Instant;

use crate::heard::Tell;
use crate::shim;

/// Writers at a time.
const WRITERS: usize = 4;
/// Batches of one day.
const DAY_BATCHES: u64 = 8;

fn batch(number: u64) -> BatchId {
    BatchId {
        log_id: LogId(0xfeed),
        lane: Lane(u16::try_from(number % 4).unwrap_or(0)),
        number,
        first: number * 1_000,
        last: number * 1_000 + rows(number) - 1,
        input_hash: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

fn day(number: u64) -> Day {
    Day(19_000 + i32::try_from(number / DAY_BATCHES).unwrap_or(0))
}

fn rows(number: u64) -> u64 {
    1 + number.wrapping_mul(7_919) % 200
}

fn row(number: u64, at: u64) -> Row {
    let offset = number * 1_000 + at;
    let word = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Row {
        message_id: format!("m-{offset}"),
        source: "power".into(),
        kind: "track".into(),
        stream: "events".into(),
        user_id: Some(format!("{word:x}")),
        anonymous_id: None,
        event: Some("Order Placed".into()),
        name: None,
        category: None,
        group_id: None,
        previous_id: None,
        properties: Some(format!(
            "{{\"code\":\"{:x}{:x}\"}}",
            word.rotate_left(9),
            word.wrapping_mul(word)
        )),
        traits: None,
        context: None,
        integrations: None,
        extra: None,
        timestamp: 1,
        original_timestamp: None,
        sent_at: None,
        received_at: 2,
        node: "n".into(),
        log_id: LogId(0xfeed),
        lane: Lane(0),
        offset,
        trace_id: None,
    }
}

fn object(number: u64) -> String {
    object_name(Table::Events, day(number), &batch(number))
}

fn marker(number: u64) -> String {
    marker_name(Table::Events, day(number), &batch(number))
}

fn manifest(number: u64) -> String {
    format!("manifests/{number:08}.json")
}

async fn put(objects: &LocalObjects, number: u64) -> Result<()> {
    let store = ObjectEventStore::new(Arc::new(objects.clone()));
    let rows: Arc<[Row]> = (0..rows(number)).map(|at| row(number, at)).collect();
    store
        .write_events(&batch(number), day(number), rows)
        .await?;
    Ok(())
}

/// The role of the writer: so many batches.
pub(crate) async fn write(batches: u64) -> Result<()> {
    let root = shim::root()?;
    let objects = LocalObjects::open(root.join("store"))?;
    let tell = Arc::new(Mutex::new(Tell::open(&root)?));
    let next = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + Duration::from_secs(120);
    let writer = || async {
        let say = |line: String| {
            tell.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .line(&line)
        };
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= batches || Instant::now() > until {
                return anyhow::Ok(());
            }
            say(format!("put {number}"))?;
            put(&objects, number).await?;
            say(format!("done-put {number}"))?;
            let name = manifest(number);
            say(format!("note {number}"))?;
            objects
                .put_if_absent(&name, Bytes::from(name.clone().repeat(200)))
                .await?;
            say(format!("done-note {number}"))?;
            // What is loaded loses its marker, and some of it is old.
            if let Some(loaded) = number.checked_sub(WRITERS as u64 * 2) {
                say(format!("load {loaded}"))?;
                objects.delete(&marker(loaded)).await?;
                say(format!("done-load {loaded}"))?;
                if (loaded / DAY_BATCHES).is_multiple_of(2) {
                    say(format!("forget {loaded}"))?;
                    objects.delete(&object(loaded)).await?;
                    say(format!("done-forget {loaded}"))?;
                }
            }
        }
    };
    let (a, b, c, d) = tokio::join!(writer(), writer(), writer(), writer());
    a.and(b).and(c).and(d)
}

/// What was asked for and what was promised: the numbers by word.
struct Heard(BTreeSet<(String, u64)>);

impl Heard {
    fn read(root: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(crate::disk::HEARD))?;
        let lines = text.lines().map(|line| {
            let (word, number) = line.split_once(' ').context("a line")?;
            Ok((word.to_owned(), number.parse()?))
        });
        Ok(Self(lines.collect::<Result<_>>()?))
    }

    fn has(&self, word: &str, number: u64) -> bool {
        self.0.contains(&(word.to_owned(), number))
    }

    fn all(&self, word: &str) -> Vec<u64> {
        let found = self.0.iter().filter(|(found, _)| found == word);
        found.map(|(_, number)| *number).collect()
    }
}

/// The role of the reader: every promise is kept, nothing is torn, and what was not promised can be done again.
pub(crate) async fn check() -> Result<()> {
    let root = shim::root()?;
    let heard = Heard::read(&root)?;
    // Before the store is opened: nothing repairs what it holds.
    let store = root.join("store");
    for number in heard.all("put") {
        verify(&store, &heard, number).context("LOST")?;
    }
    for number in heard.all("note") {
        let (name, bytes) = (
            manifest(number),
            std::fs::read(store.join(manifest(number))).ok(),
        );
        ensure!(
            bytes.is_some() || !heard.has("done-note", number),
            "LOST: {name} is missing"
        );
        ensure!(
            bytes.is_none_or(|bytes| bytes == name.repeat(200).as_bytes()),
            "LOST: {name} is torn"
        );
    }
    let objects = LocalObjects::open(&store).context("REFUSED")?;
    for number in heard.all("put") {
        if !heard.has("done-put", number) {
            put(&objects, number).await.context("FAILED LATER")?;
            let bytes = objects
                .get(&object(number))
                .await?
                .context("FAILED LATER: no object")?;
            whole(number, bytes).context("FAILED LATER")?;
            objects
                .get(&marker(number))
                .await?
                .context("FAILED LATER: no marker")?;
        }
    }
    let left = std::fs::read_dir(store.join("tmp"))?.count();
    ensure!(left == 0, "FAILED LATER: {left} temporary files are left");
    Ok(())
}

fn verify(store: &Path, heard: &Heard, number: u64) -> Result<()> {
    let (name, marker_name) = (object(number), marker(number));
    let object = std::fs::read(store.join(&name)).ok();
    let marker = std::fs::read(store.join(&marker_name)).ok();
    let done = heard.has("done-put", number);
    ensure!(
        object.is_some() || !done || heard.has("forget", number),
        "{name} is missing"
    );
    ensure!(
        object.is_none() || !heard.has("done-forget", number),
        "{name} is there again"
    );
    ensure!(
        marker.is_some() || !done || heard.has("load", number),
        "{marker_name} is missing"
    );
    ensure!(
        marker.is_none() || !heard.has("done-load", number),
        "{marker_name} is there again"
    );
    let bytes = object.as_ref().map(Vec::len);
    if let Some(object) = object {
        whole(number, object.into()).with_context(|| format!("{name} is torn"))?;
    }
    if let Some(marker) = marker {
        let marker: Marker =
            serde_json::from_slice(&marker).with_context(|| format!("{marker_name} is torn"))?;
        ensure!(
            marker.object == name && marker.rows == rows(number),
            "{marker_name} is of another"
        );
        ensure!(
            bytes == usize::try_from(marker.bytes).ok(),
            "{marker_name} has no such object"
        );
    }
    Ok(())
}

fn whole(number: u64, bytes: Bytes) -> Result<()> {
    let found = parquet::decode_events(bytes)?;
    let expected: Vec<Row> = (0..rows(number)).map(|at| row(number, at)).collect();
    ensure!(found == expected, "other rows");
    Ok(())
}
