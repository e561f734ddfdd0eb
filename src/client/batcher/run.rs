//! The queue's task: gathers, sends, tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::super::{Delivery, Event, Outcome};
use super::{Item, Queued, Room, Shared};
use crate::clock::sleep_until;

/// What happens next.
enum Next {
    Stop,
    Item(Option<Item>),
    /// A batch has its outcomes.
    Done(u64, Delivery),
    /// The gathered batch is to leave.
    Leave,
}

struct Run {
    shared: Arc<Shared>,
    gathered: Vec<Event>,
    /// The room of each of them.
    rooms: Vec<Room>,
    bytes: usize,
    /// When the first of the gathered was, or when somebody does not want to wait for more.
    due: Option<Instant>,
    /// The number of the batch that is being gathered.
    number: u64,
    under_way: FuturesUnordered<BoxFuture<'static, (u64, Delivery)>>,
    /// What is under way, to be told its outcome.
    sent: BTreeMap<u64, (Arc<[Event]>, Vec<Room>)>,
    /// Those who wait until every batch below this number has its outcomes.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
}

/// Gathers and sends until nobody can enqueue any more and everything has its outcome, or until told to stop.
pub(super) async fn run(shared: Arc<Shared>, mut items: mpsc::Receiver<Item>) {
    let stop = shared.stop.clone();
    let ended = shared.ended.clone().drop_guard();
    let mut run = Run {
        shared,
        gathered: Vec::new(),
        rooms: Vec::new(),
        bytes: 0,
        due: None,
        number: 0,
        under_way: FuturesUnordered::new(),
        sent: BTreeMap::new(),
        flushes: Vec::new(),
    };
    let mut open = true;
    while open || !run.gathered.is_empty() || !run.under_way.is_empty() {
        let can_send = run.under_way.len() < run.shared.options.concurrency.max(1);
        let is_full = run.is_full();
        let due = match is_full || !open {
            true => run.due.map(|_later| Instant::now()),
            false => run.due,
        };
        let next = tokio::select! {
            biased;
            // Cancel safe: a token stays cancelled.
            () = stop.cancelled() => Next::Stop,
            // Cancel safe: what is under way stays there.
            Some((number, delivery)) = run.under_way.next() => Next::Done(number, delivery),
            // Cancel safe: the moment stays the same.
            () = sleep_until(due), if can_send => Next::Leave,
            // Cancel safe: an item that was not taken stays in the channel.
            item = items.recv(), if open && !is_full => Next::Item(item),
        };
        match next {
            Next::Stop => break,
            Next::Item(None) => open = false,
            Next::Item(Some(Item::Event(queued))) => run.gather(queued),
            Next::Item(Some(Item::Flush(tell))) => run.flush(tell),
            Next::Leave => run.leave(),
            Next::Done(number, delivery) => run.done(number, &delivery),
        }
    }
    items.close();
    while let Ok(item) = items.try_recv() {
        if let Item::Event(queued) = item {
            run.gather(queued);
        }
    }
    run.give_up();
    drop(ended);
}

impl Run {
    fn is_full(&self) -> bool {
        let options = &self.shared.options;
        let events = self.gathered.len();
        events > 0 && (events >= options.batch_events || self.bytes >= options.batch_bytes)
    }

    fn gather(&mut self, queued: Queued) {
        self.bytes += queued.room.bytes.num_permits();
        self.due
            .get_or_insert_with(|| Instant::now() + self.shared.options.age_max);
        self.gathered.push(queued.event);
        self.rooms.push(queued.room);
    }

    fn flush(&mut self, tell: oneshot::Sender<()>) {
        if !self.gathered.is_empty() {
            self.due = Some(Instant::now());
        }
        let below = self.number + u64::from(!self.gathered.is_empty());
        self.flushes.push((below, tell));
        self.answer_flushes();
    }

    fn leave(&mut self) {
        self.due = None;
        self.bytes = 0;
        let events: Arc<[Event]> = std::mem::take(&mut self.gathered).into();
        let rooms = std::mem::take(&mut self.rooms);
        let (number, client) = (self.number, self.shared.client.clone());
        self.number += 1;
        self.sent.insert(number, (Arc::clone(&events), rooms));
        self.under_way.push(Box::pin(
            async move { (number, client.send(&events).await) },
        ));
    }

    fn done(&mut self, number: u64, delivery: &Delivery) {
        if let Some((events, rooms)) = self.sent.remove(&number) {
            for (event, outcome) in events.iter().zip(&delivery.outcomes) {
                self.shared.tell(event, outcome);
            }
            drop(rooms);
        }
        self.answer_flushes();
    }

    /// Tells those who wait for nothing any more.
    fn answer_flushes(&mut self) {
        let gathering = (!self.gathered.is_empty()).then_some(self.number);
        let oldest = self.sent.keys().next().copied().or(gathering);
        let done = self.flushes.extract_if(.., |(below, _tell)| {
            oldest.is_none_or(|oldest| oldest >= *below)
        });
        for (_below, tell) in done {
            // Whoever ran out of time is gone.
            tell.send(()).unwrap_or_default();
        }
    }

    /// Tells what has no outcome that it is not known.
    fn give_up(self) {
        let unknown = Outcome::Unacknowledged {
            reason: "the queue was closed before it was answered".into(),
        };
        drop(self.under_way);
        let sent = self.sent.values().flat_map(|(events, _rooms)| &**events);
        for event in sent.chain(&self.gathered) {
            self.shared.counts().ended([&unknown]);
            self.shared.tell(event, &unknown);
        }
    }
}
