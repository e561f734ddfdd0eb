//! The queue before the client: when batches leave, what a full queue does, and that each event has exactly one outcome.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventkit::client::{
    BatchOptions, Batcher, Client, EnqueueError, Event, FlushError, OnOutcome, Options, Outcome,
    RetryPolicy, Rpc, WhenFull,
};
use futures::FutureExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Act, RPCS, events, gateway, ids, in_between, options, stored};

/// Far more than anything here takes.
const WITHIN: Duration = Duration::from_secs(30);
const AT_ONCE: Duration = Duration::from_millis(20);
/// No batch waits so long.
const NEVER: Duration = Duration::from_secs(3_600);

/// What each event was told, in order.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<(String, Outcome)>>>);

impl Told {
    fn tell(&self) -> OnOutcome {
        let told = Arc::clone(&self.0);
        OnOutcome::new(move |event: &Event, outcome: &Outcome| {
            let entry = (event.message_id().to_owned(), outcome.clone());
            told.lock().unwrap().push(entry);
        })
    }

    /// Each event's outcome; panics when one has two.
    fn by_id(&self) -> BTreeMap<String, Outcome> {
        let mut all = BTreeMap::new();
        for (id, outcome) in self.0.lock().unwrap().iter() {
            assert!(all.insert(id.clone(), outcome.clone()).is_none(), "{id}");
        }
        all
    }
}

async fn enqueue(queue: &Batcher, events: &[Event]) {
    for event in events {
        let put = queue.enqueue(event.clone());
        tokio::time::timeout(WITHIN, put).await.unwrap().unwrap();
    }
}

/// A port that takes connections and never answers.
async fn silent() -> (TcpListener, Options) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let options = options(listener.local_addr().unwrap(), Rpc::Http);
    (listener, options)
}

#[tokio::test]
async fn a_batch_leaves_by_its_events_its_bytes_its_age_or_a_flush() {
    let batch = || BatchOptions {
        age_max: NEVER,
        ..BatchOptions::default()
    };
    let by_count = BatchOptions {
        batch_events: 10,
        ..batch()
    };
    let by_bytes = BatchOptions {
        // Each event has more than 900, so that three are enough.
        batch_bytes: 2_500,
        ..batch()
    };
    let by_age = BatchOptions {
        age_max: AT_ONCE,
        ..batch()
    };
    for (options_of, count, requests) in [(by_count, 30, 3), (by_bytes, 9, 3), (by_age, 5, 1)] {
        let gateway = gateway().await;
        let client = Client::new(options(gateway.addr, Rpc::Unary)).unwrap();
        let (tell, mut told) = mpsc::channel(100);
        let queue = client.batching(BatchOptions {
            on_outcome: OnOutcome::new(move |_event, outcome: &Outcome| {
                tell.try_send(outcome.clone()).unwrap();
            }),
            ..options_of.clone()
        });
        enqueue(&queue, &events("m", count)).await;
        for _event in 0..count {
            let outcome = tokio::time::timeout(WITHIN, told.recv()).await.unwrap();
            assert_eq!(outcome, Some(Outcome::Accepted), "{options_of:?}");
        }
        assert_eq!(queue.client().stats().requests, requests, "{options_of:?}");
    }
    let gateway = gateway().await;
    let client = Client::new(options(gateway.addr, Rpc::Http)).unwrap();
    let queue = client.batching(batch());
    enqueue(&queue, &events("m", 5)).await;
    assert_eq!(queue.waiting().0, 5);
    queue.flush(WITHIN).await.unwrap();
    assert_eq!(queue.waiting(), (0, 0));
    assert_eq!(stored(&gateway.wal).len(), 5);
    // Nothing to wait for.
    queue.flush(WITHIN).await.unwrap();
    assert_eq!(queue.client().stats().requests, 1);
}

#[tokio::test]
async fn a_full_queue_gives_the_event_back_or_lets_one_wait() {
    let [first, second, third] = events("m", 3).try_into().unwrap();
    let small = |when_full| BatchOptions {
        queue_events: 2,
        when_full,
        ..BatchOptions::default()
    };
    let (_listener, to_nobody) = silent().await;
    let client = Client::new(to_nobody.clone()).unwrap();
    let queue = client.batching(small(WhenFull::Refuse));
    enqueue(&queue, &[first.clone(), second.clone()]).await;
    let full = queue.enqueue(third.clone()).await;
    assert_eq!(full, Err(EnqueueError::Full(third.clone())));
    assert_eq!(queue.client().stats().refused, 1);

    let by_bytes = Client::new(to_nobody).unwrap().batching(BatchOptions {
        queue_bytes: 1_500,
        ..small(WhenFull::Refuse)
    });
    enqueue(&by_bytes, std::slice::from_ref(&first)).await;
    let full = by_bytes.enqueue(second.clone()).await;
    assert_eq!(full.unwrap_err().into_event(), second);
    let large = Event::builder("track").field("filler", "x".repeat(2_000).into());
    let refused = by_bytes.enqueue(large.build().unwrap()).await;
    assert!(matches!(refused, Err(EnqueueError::TooLarge(_))));

    let gateway = gateway().await;
    let client = Client::new(options(gateway.addr, Rpc::Http)).unwrap();
    let waits = client.batching(BatchOptions {
        age_max: NEVER,
        ..small(WhenFull::Wait)
    });
    enqueue(&waits, &[first, second]).await;
    let mut last = Box::pin(waits.enqueue(third));
    assert_eq!((&mut last).now_or_never(), None);
    waits.flush(WITHIN).await.unwrap();
    tokio::time::timeout(WITHIN, last).await.unwrap().unwrap();
    waits.flush(WITHIN).await.unwrap();
    assert_eq!(stored(&gateway.wal).len(), 3);
}

#[tokio::test]
async fn a_flush_and_a_close_have_their_time_and_nothing_is_lost_track_of() {
    let (_listener, to_nobody) = silent().await;
    let told = Told::default();
    let queue = Client::new(to_nobody).unwrap().batching(BatchOptions {
        batch_events: 2,
        concurrency: 1,
        age_max: NEVER,
        on_outcome: told.tell(),
        ..BatchOptions::default()
    });
    // Two under way, two gathered, one that waits.
    let events = events("m", 5);
    enqueue(&queue, &events).await;
    let late = Err(FlushError::Late { waiting: 5 });
    assert_eq!(queue.flush(AT_ONCE).await, late);
    assert_eq!(told.by_id(), BTreeMap::new());
    let other = queue.clone();
    assert_eq!(queue.close(AT_ONCE).await, late);
    let outcomes = told.by_id();
    assert_eq!(outcomes.len(), 5);
    for (id, outcome) in outcomes {
        assert!(
            matches!(&outcome, Outcome::Unacknowledged { reason } if reason.contains("closed")),
            "{id}: {outcome:?}"
        );
    }
    assert_eq!(queue.client().stats().unacknowledged, 5);
    assert_eq!(other.waiting(), (0, 0));
    let closed = other.enqueue(events[0].clone()).await;
    assert_eq!(closed, Err(EnqueueError::Closed(events[0].clone())));
    assert_eq!(other.flush(WITHIN).await, Err(FlushError::Closed));
}

#[tokio::test]
async fn each_event_has_one_outcome_whatever_the_connections_do() {
    for rpc in RPCS {
        let gateway = gateway().await;
        let acts = [
            Act::Break,
            Act::LoseAnswer { stored: 1 },
            Act::Pass,
            Act::LoseAnswer { stored: 200 },
        ];
        let client = Client::new(options(in_between(&gateway, &acts).await, rpc)).unwrap();
        let told = Told::default();
        let queue = client.batching(BatchOptions {
            batch_events: 17,
            queue_events: 60,
            on_outcome: told.tell(),
            ..BatchOptions::default()
        });
        let senders: Vec<_> = (0..4).map(|n| events(&format!("s{n}"), 100)).collect();
        futures::future::join_all(senders.iter().map(|events| enqueue(&queue, events))).await;
        queue.close(WITHIN).await.unwrap();
        let outcomes = told.by_id();
        assert_eq!(outcomes.len(), 400, "{rpc:?}");
        let is_stored = |outcome| matches!(outcome, &Outcome::Accepted | &Outcome::Duplicate);
        assert!(outcomes.values().all(is_stored), "{rpc:?}: {outcomes:?}");
        let (mut found, mut expected) = (stored(&gateway.wal), ids(&senders.concat()));
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{rpc:?}");
        let stats = queue.client().stats();
        assert_eq!(stats.accepted + stats.duplicate, 400, "{rpc:?}: {stats:?}");
        assert!(
            stats.retries > 0 && stats.requests >= 24,
            "{rpc:?}: {stats:?}"
        );
    }
}

#[tokio::test]
async fn one_batch_after_the_other_keeps_the_order_of_events() {
    for rpc in RPCS {
        let gateway = gateway().await;
        let acts = [
            Act::LoseAnswer { stored: 20 },
            Act::Break,
            Act::LoseAnswer { stored: 60 },
        ];
        let client = Client::new(options(in_between(&gateway, &acts).await, rpc)).unwrap();
        let queue = client.batching(BatchOptions {
            batch_events: 10,
            concurrency: 1,
            ..BatchOptions::default()
        });
        let events = events("m", 100);
        enqueue(&queue, &events).await;
        queue.close(WITHIN).await.unwrap();
        assert_eq!(stored(&gateway.wal), ids(&events), "{rpc:?}");
    }
}

#[tokio::test]
async fn what_is_not_acknowledged_is_told_so_and_may_go_in_again() {
    let (_held, addr) = crate::support::ports::held();
    let client = Client::new(Options {
        retry: RetryPolicy {
            attempts_max: 2,
            ..RetryPolicy::default()
        },
        ..options(addr, Rpc::Http)
    });
    let told = Told::default();
    let queue = client.unwrap().batching(BatchOptions {
        on_outcome: told.tell(),
        ..BatchOptions::default()
    });
    let [event] = events("m", 1).try_into().unwrap();
    for _again in 0..2 {
        enqueue(&queue, std::slice::from_ref(&event)).await;
        queue.flush(WITHIN).await.unwrap();
    }
    let told = told.0.lock().unwrap();
    assert_eq!(told.len(), 2);
    for (id, outcome) in told.iter() {
        assert_eq!(id, event.message_id());
        assert!(
            matches!(outcome, Outcome::Unacknowledged { .. }),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_callback_that_panics_costs_nobody_anything() {
    let gateway = gateway().await;
    let client = Client::new(options(gateway.addr, Rpc::Http)).unwrap();
    let queue = client.batching(BatchOptions {
        on_outcome: OnOutcome::new(|_event, _outcome| panic!("on purpose")),
        ..BatchOptions::default()
    });
    enqueue(&queue, &events("m", 3)).await;
    queue.close(WITHIN).await.unwrap();
    assert_eq!(stored(&gateway.wal).len(), 3);
}

#[tokio::test]
async fn a_queue_that_is_dropped_still_sends_what_it_has() {
    let gateway = gateway().await;
    let client = Client::new(options(gateway.addr, Rpc::Http)).unwrap();
    let (tell, mut told) = mpsc::channel(10);
    let queue = client.batching(BatchOptions {
        age_max: NEVER,
        on_outcome: OnOutcome::new(move |_event, _outcome| tell.try_send(()).unwrap()),
        ..BatchOptions::default()
    });
    enqueue(&queue, &events("m", 3)).await;
    drop(queue);
    for _event in 0..3 {
        let outcome = tokio::time::timeout(WITHIN, told.recv()).await;
        assert_eq!(outcome.unwrap(), Some(()));
    }
    // The task has ended: it held the callback.
    assert_eq!(
        tokio::time::timeout(WITHIN, told.recv()).await.unwrap(),
        None
    );
    assert_eq!(stored(&gateway.wal).len(), 3);
}
