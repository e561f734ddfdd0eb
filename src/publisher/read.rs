//! The log as the publisher reads it: some records at a time, each with its lane and day.

use bytes::Bytes;

use super::PublishError;
use crate::event::{Day, Lane, Offset};
use crate::wal::{Group, Wal, record};

/// How much of the log is read at a time, in bytes of records.
const READ_BYTES: usize = 1 << 20;

/// The groups from this offset on, as many as are worth one read.
pub(super) async fn read(wal: Wal, from: Offset) -> Result<Vec<Group>, PublishError> {
    let read = tokio::task::spawn_blocking(move || wal.read(from, READ_BYTES)).await;
    Ok(read.map_err(|_ended| PublishError::Runtime)??)
}

/// Every record with its offset.
pub(super) fn records(groups: Vec<Group>) -> impl Iterator<Item = (Offset, Bytes)> {
    groups
        .into_iter()
        .flat_map(|group| (group.first..).zip(group.records))
}

/// The lane, one of so many, and the day of a record.
pub(super) fn place(record: &[u8], lanes: usize) -> (usize, Day) {
    let (lane, received_at) = record::place(record);
    (lane_index(lane, lanes), Day::of(received_at))
}

/// A record that names no lane of this log cannot be read; lane 0 carries it to a worker, who reports it.
fn lane_index(lane: Lane, lanes: usize) -> usize {
    let lane = usize::from(lane.0);
    if lane < lanes { lane } else { 0 }
}
