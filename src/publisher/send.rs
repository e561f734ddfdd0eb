//! One batch on its way to the queue.

use std::sync::Arc;

use super::PublishError;
use super::read::{place, read, records};
use super::spans;
use crate::event::Lane;
use crate::queue::{Batch, Producer, SendError, input_hash};
use crate::telemetry::Tracing;
use crate::telemetry::trace::{Contexts, Scope};
use crate::wal::{Seal, Wal};

/// Records the seal of a new batch, or fetches the events of one that was sealed before; then hands it on.
pub(super) async fn send(
    wal: Wal,
    producer: Arc<dyn Producer>,
    tracing: Tracing,
    seal: Seal,
    new: Option<(Batch, Contexts)>,
) -> Result<Lane, PublishError> {
    let (mut batch, sealed, contexts) = match new {
        Some((batch, contexts)) => {
            let span = spans::sealing(&tracing, &seal, &contexts);
            if !wal.seal(vec![seal]).await {
                span.failed("log closed");
                return Err(PublishError::LogClosed);
            }
            (batch, span.link(), contexts)
        }
        None => {
            let batch = load(wal, seal).await?;
            let records = batch.records.iter().map(|(_, record)| record.as_ref());
            let contexts = Contexts::of_records(records);
            (batch, None, contexts)
        }
    };
    let span = spans::sending(&tracing, (&seal, &producer.named()), sealed, &contexts);
    batch.sent_in.extend(span.link());
    Scope::of(&span)
        .around(producer.send(Arc::new(batch)))
        .await
        .map_err(|SendError::Closed| PublishError::QueueClosed)?;
    Ok(seal.batch.lane)
}

/// Fetches the events between a seal's offsets from the log.
async fn load(wal: Wal, seal: Seal) -> Result<Batch, PublishError> {
    let (id, lanes) = (seal.batch, usize::from(wal.lanes()));
    let mut found = Vec::new();
    let mut from = id.first;
    while from <= id.last {
        let groups = read(wal.clone(), from).await?;
        let Some(end) = groups
            .last()
            .map(|group| group.first + group.records.len() as u64)
        else {
            break;
        };
        found.extend(records(groups).filter(|(offset, bytes)| {
            (from..=id.last).contains(offset) && place(bytes, lanes).0 == usize::from(id.lane.0)
        }));
        from = end;
    }
    if found.len() as u64 != u64::from(seal.count) || input_hash(&found) != id.input_hash {
        return Err(PublishError::SealMismatch {
            lane: id.lane,
            number: id.number,
        });
    }
    Ok(Batch {
        id,
        day: seal.day,
        records: found,
        sent_in: Vec::new(),
    })
}
