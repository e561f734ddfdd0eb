//! The in-process queue: bounded, lane-affine, owning nothing.
//!
//! Lane n goes to worker n mod workers, so a lane's batches meet one worker, in order. `send` resolves when the worker has
//! settled; a delivery that is given back or dropped is delivered again after a capped, jittered wait, until it is settled
//! or the worker's end is gone.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Consumer, Delivery, Producer, SendError, Settle};
use crate::backoff::Backoff;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Raised;

/// Makes a queue for so many workers (at least one): the publisher's end and one end for each worker.
#[must_use]
pub fn in_process(
    workers: usize,
    backoff: Backoff,
    metrics: Metrics,
) -> (InProcessProducer, Vec<InProcessConsumer>) {
    // A lane has one unsettled batch at a time, so that a place for each delivery under way is enough.
    let (senders, consumers) = (0..workers.max(1))
        .map(|_| {
            let (sender, receiver) = mpsc::channel(1);
            (sender, InProcessConsumer { receiver })
        })
        .unzip();
    (
        InProcessProducer {
            senders,
            backoff,
            metrics,
        },
        consumers,
    )
}

/// The publisher's end.
#[derive(Debug)]
pub struct InProcessProducer {
    senders: Vec<mpsc::Sender<Delivery>>,
    backoff: Backoff,
    metrics: Metrics,
}

#[async_trait]
impl Producer for InProcessProducer {
    async fn send(&self, batch: Arc<Batch>) -> Result<(), SendError> {
        let worker = usize::from(batch.id.lane.0) % self.senders.len().max(1);
        let sender = self.senders.get(worker).ok_or(SendError::Closed)?;
        let mut attempt = 1;
        let _held = (
            Raised::by(&self.metrics.queue_held_messages, 1),
            Raised::by(&self.metrics.queue_held_bytes, batch.bytes()),
        );
        loop {
            let (settled, outcome) = oneshot::channel();
            let settle = Box::new(InProcessSettle(settled));
            let delivery = Delivery::new(Arc::clone(&batch), attempt, settle);
            sender
                .send(delivery)
                .await
                .map_err(|_gone| SendError::Closed)?;
            if outcome.await.is_ok() {
                return Ok(());
            }
            self.metrics.queue_redeliveries.add(1, &[]);
            tokio::select! {
                // Cancel safe: it holds nothing.
                () = sender.closed() => return Err(SendError::Closed),
                // Cancel safe: a wait that is cut short is forgotten.
                () = tokio::time::sleep(self.backoff.wait(attempt)) => attempt += 1,
            }
        }
    }
}

/// A worker's end.
#[derive(Debug)]
pub struct InProcessConsumer {
    receiver: mpsc::Receiver<Delivery>,
}

#[async_trait]
impl Consumer for InProcessConsumer {
    async fn receive(&mut self) -> Option<Delivery> {
        self.receiver.recv().await
    }
}

/// Tells the sender by sending; says "not done" by being dropped.
#[derive(Debug)]
struct InProcessSettle(oneshot::Sender<()>);

impl Settle for InProcessSettle {
    fn ack(self: Box<Self>) {
        // A sender that is gone has stopped; after the next start the batch is delivered again and found done.
        self.0.send(()).unwrap_or(());
    }

    fn nack(self: Box<Self>) {}
}
