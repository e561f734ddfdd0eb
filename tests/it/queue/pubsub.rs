//! What is Pub/Sub's own: a subscription that is missing, unfit or replaced, and messages that are not what was sealed.

use eventkit::config::{BatchRules, Endpoint};
use eventkit::lifecycle::Health;
use eventkit::queue::Verdict;
use eventkit::queue::gather::Rules;
use eventkit::queue::pubsub::{PubSubOptions, PubSubProducer, SetUpError, consumers, set_up};
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{Message, Subscription};
use google_cloud_pubsub::subscriber::MessageStream;
use google_cloud_pubsub::subscriber::handler::Handler;

use super::*;
use crate::support::emulators;

/// A lease is 20 s; see `queue/pubsub/consumer.rs`.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(26);

fn rules() -> Rules {
    Rules {
        run: BatchRules {
            events: 4,
            events_age: Duration::from_millis(10),
            events_max: usize::MAX,
            bytes: 1 << 20,
            age: Duration::from_millis(50),
        },
        budget_bytes: 1 << 20,
        budget_messages: 1_000,
    }
}

/// A topic and a subscription of its own; `None` without an emulator.
pub(super) fn options() -> Option<PubSubOptions> {
    let url = emulators::pubsub()?;
    let name = uuid::Uuid::new_v4().simple();
    Some(PubSubOptions {
        project: "eventkit-test".to_owned(),
        topic: format!("topic-{name}"),
        subscription: format!("subscription-{name}"),
        create: true,
        retention: Duration::from_secs(3_600),
        verify_every: Duration::from_secs(1),
        endpoint: Endpoint::emulator(&url),
    })
}

/// The same for somebody who makes nothing.
fn look_only(options: &PubSubOptions) -> PubSubOptions {
    PubSubOptions {
        create: false,
        ..options.clone()
    }
}

async fn producer(options: &PubSubOptions) -> (PubSubProducer, Health) {
    let found = set_up(options).await.unwrap();
    let health = Health::default();
    let producer = PubSubProducer::new(
        options.clone(),
        "a node".into(),
        Some(found),
        (health.clone(), Metrics::new()),
        CancellationToken::new(),
    );
    (producer, health)
}

fn consumer(options: &PubSubOptions) -> (Box<dyn Consumer>, AbortOnDropHandle<()>) {
    counted_consumer(options, &Metrics::new())
}

fn counted_consumer(
    options: &PubSubOptions,
    metrics: &Metrics,
) -> (Box<dyn Consumer>, AbortOnDropHandle<()>) {
    consumer_until(options, metrics, rules(), CancellationToken::new())
}

fn consumer_until(
    options: &PubSubOptions,
    metrics: &Metrics,
    rules: Rules,
    stop: CancellationToken,
) -> (Box<dyn Consumer>, AbortOnDropHandle<()>) {
    let (puller, ends) = consumers(
        1,
        options.clone(),
        rules,
        Health::default(),
        metrics.clone(),
    );
    let feeder = task(puller.run(stop, CancellationToken::new()));
    (Box::new(ends.into_iter().next().unwrap()), feeder)
}

pub(super) async fn queue() -> Option<Queue> {
    let options = options()?;
    let (producer, _health) = producer(&options).await;
    let (consumer, feeder) = consumer(&options);
    Some(Queue {
        kind: "Pub/Sub",
        producer: Arc::new(producer),
        consumer,
        _feeder: Some(feeder),
    })
}

async fn admin(options: &PubSubOptions) -> SubscriptionAdmin {
    SubscriptionAdmin::builder()
        .with_endpoint(options.endpoint.url().unwrap())
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await
        .unwrap()
}

fn path(options: &PubSubOptions) -> String {
    format!(
        "projects/{}/subscriptions/{}",
        options.project, options.subscription
    )
}

async fn delete_subscription(options: &PubSubOptions) {
    let delete = admin(options).await.delete_subscription();
    delete.set_subscription(path(options)).send().await.unwrap();
}

#[tokio::test]
async fn a_subscription_that_keeps_messages_for_another_time_is_the_same_one() {
    let Some(options) = options() else { return };
    let (producer, _health) = producer(&options).await;
    assert_eq!(producer.verify().await, Verdict::Owned);
    let day = google_cloud_wkt::Duration::clamp(86_400, 0);
    let changed = Subscription::new()
        .set_name(path(&options))
        .set_message_retention_duration(day);
    let mask = google_cloud_wkt::FieldMask::default().set_paths(["message_retention_duration"]);
    let update = admin(&options).await.update_subscription();
    let updated = update.set_subscription(changed).set_update_mask(mask);
    let updated = updated.send().await.unwrap();
    assert_eq!(updated.message_retention_duration, Some(day));
    assert_eq!(producer.verify().await, Verdict::Owned);
}

#[tokio::test]
async fn what_was_published_while_the_subscription_was_missing_is_lost_and_said_to_be() {
    let Some(options) = options() else { return };
    let (producer, health) = producer(&options).await;
    assert_eq!(producer.verify().await, Verdict::Owned);
    let log_id = LogId::random();
    delete_subscription(&options).await;
    producer.send(batch(log_id, 0, 0)).await.unwrap();
    // It is made again, and is known to be another one.
    assert_eq!(producer.verify().await, Verdict::Lost);
    producer.send(batch(log_id, 0, 0)).await.unwrap();
    assert_eq!(producer.verify().await, Verdict::Owned);
    assert!(health.readiness().degraded.is_empty());
    let (mut consumer, _feeder) = consumer(&options);
    let delivery = timeout(SOON, consumer.receive()).await.unwrap().unwrap();
    assert_eq!(delivery.batch, batch(log_id, 0, 0));
    assert_eq!(delivery.node.as_deref(), Some("a node"));
}

#[tokio::test]
async fn a_subscription_whose_topic_was_deleted_is_said_to_be_one_and_can_be_emptied() {
    let Some(options) = options() else { return };
    let (producer, _health) = producer(&options).await;
    let log_id = LogId::random();
    producer.send(batch(log_id, 0, 0)).await.unwrap();
    let topics = TopicAdmin::builder()
        .with_endpoint(options.endpoint.url().unwrap())
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await
        .unwrap();
    let topic = format!("projects/{}/topics/{}", options.project, options.topic);
    let delete = topics.delete_topic().set_topic(topic);
    delete.send().await.unwrap();

    let looked = set_up(&options).await;
    assert!(
        matches!(looked, Err(SetUpError::Orphaned { .. })),
        "{looked:?}"
    );
    assert_eq!(producer.verify().await, Verdict::Unknown);
    let (mut consumer, _feeder) = consumer(&options);
    let delivery = timeout(SOON, consumer.receive()).await.unwrap().unwrap();
    assert_eq!(delivery.batch, batch(log_id, 0, 0));
    delivery.ack();
}

#[tokio::test]
async fn a_subscription_that_somebody_else_made_again_is_noticed() {
    let Some(options) = options() else { return };
    let (producer, _health) = producer(&options).await;
    assert_eq!(producer.verify().await, Verdict::Owned);
    delete_subscription(&options).await;
    set_up(&options).await.unwrap();
    assert_eq!(producer.verify().await, Verdict::Lost);
    assert_eq!(producer.verify().await, Verdict::Owned);
}

#[tokio::test]
async fn without_leave_to_make_it_the_producer_waits_for_a_missing_subscription() {
    let Some(options) = options() else { return };
    set_up(&options).await.unwrap();
    let look_only = look_only(&options);
    let (producer, health) = producer(&look_only).await;
    delete_subscription(&options).await;
    assert_eq!(producer.verify().await, Verdict::Unknown);
    let said = health.readiness().degraded;
    assert!(
        said["pubsub subscription"].contains("EVENTKIT_PUBSUB_CREATE"),
        "{said:?}"
    );
    set_up(&options).await.unwrap();
    assert_eq!(producer.verify().await, Verdict::Lost);
    assert_eq!(producer.verify().await, Verdict::Owned);
}

#[tokio::test]
async fn who_started_while_pubsub_was_out_publishes_nothing_before_the_subscription_was_seen() {
    let Some(options) = options() else { return };
    let look_only = look_only(&options);
    let (metrics, stop) = (Metrics::new(), CancellationToken::new());
    let about = (Health::default(), metrics.clone());
    let producer = PubSubProducer::new(look_only, "a node".into(), None, about, stop);
    let log_id = LogId::random();
    let sending = producer.send(batch(log_id, 0, 0));
    let making = async {
        counted(&metrics, "eventkit_queue_publish_retries_total 1").await;
        set_up(&options).await.unwrap();
    };
    let (sent, ()) = timeout(SOON, futures::future::join(sending, making))
        .await
        .unwrap();
    sent.unwrap();
    // It was there before anything was published.
    assert_eq!(producer.verify().await, Verdict::Owned);
    let (mut consumer, _feeder) = consumer(&options);
    let delivery = timeout(SOON, consumer.receive()).await.unwrap().unwrap();
    assert_eq!(delivery.batch, batch(log_id, 0, 0));
}

#[tokio::test]
async fn a_start_tells_what_is_missing_from_what_is_unfit_and_what_cannot_be_reached() {
    let Some(options) = options() else { return };
    let look_only = look_only(&options);
    let missing = set_up(&look_only).await.unwrap_err();
    assert!(matches!(missing, SetUpError::Missing { .. }), "{missing}");
    set_up(&options).await.unwrap();

    let create = admin(&options).await.create_subscription();
    let unordered = PubSubOptions {
        subscription: format!("{}-unordered", options.subscription),
        ..options.clone()
    };
    create
        .set_name(path(&unordered))
        .set_topic(format!(
            "projects/{}/topics/{}",
            options.project, options.topic
        ))
        .send()
        .await
        .unwrap();
    let unfit = set_up(&unordered).await.unwrap_err();
    assert!(unfit.to_string().contains("message order"), "{unfit}");
    assert!(!unfit.is_outage());

    // Nobody listens there.
    let nowhere = PubSubOptions {
        endpoint: Endpoint::emulator("127.0.0.1:1"),
        ..options
    };
    let out = set_up(&nowhere).await.unwrap_err();
    assert!(out.is_outage(), "{out}");
}

pub(super) async fn publish(options: &PubSubOptions, messages: Vec<Message>) {
    let publisher = Publisher::builder(format!(
        "projects/{}/topics/{}",
        options.project, options.topic
    ))
    .with_endpoint(options.endpoint.url().unwrap())
    .with_credentials(anonymous::Builder::new().build())
    .build()
    .await
    .unwrap();
    for message in messages {
        publisher.publish(message).await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_message_becomes_a_record_for_each_offset_and_one_of_a_newer_format_waits() {
    let Some(options) = options() else { return };
    set_up(&options).await.unwrap();
    let log_id = LogId::random();
    let attributes = |number: &str| {
        [
            ("log_id", log_id.to_string()),
            ("lane", "1".to_owned()),
            ("number", number.to_owned()),
            ("first_offset", "50".to_owned()),
            ("last_offset", "52".to_owned()),
            ("day", "20000".to_owned()),
        ]
    };
    let damaged = Message::new()
        .set_data("\u{1}no batch")
        .set_ordering_key("damaged")
        .set_attributes(attributes("4"));
    // Field 1, format 77.
    let newer = Message::new()
        .set_data(vec![0x08, 77])
        .set_ordering_key("newer")
        .set_attributes(attributes("5"));
    publish(&options, vec![newer, damaged]).await;
    let metrics = Metrics::new();
    let stop = CancellationToken::new();
    let (mut consumer, feeder) = consumer_until(&options, &metrics, rules(), stop.clone());
    let delivery = timeout(SOON, consumer.receive()).await.unwrap().unwrap();
    let offsets: Vec<_> = delivery.batch.records.iter().map(|(o, _)| *o).collect();
    assert_eq!((delivery.batch.id.number, offsets), (4, vec![50, 51, 52]));
    delivery.ack();
    // Only what can be read comes after it.
    let (producer, _health) = producer(&options).await;
    producer.send(batch(log_id, 2, 0)).await.unwrap();
    let delivery = timeout(SOON, consumer.receive()).await.unwrap().unwrap();
    assert_eq!(delivery.batch.id.lane, Lane(2));
    delivery.ack();
    // And when this worker is gone, it is still there for a newer one. It ends in order: what it acknowledged does not come again.
    counted(&metrics, "eventkit_queue_messages_parked_total 1").await;
    stop.cancel();
    timeout(SOON, feeder).await.unwrap().unwrap();
    let mut stream = pull(&options).await;
    let (message, handler) = next(&mut stream).await;
    assert_eq!(message.data, vec![0x08, 77]);
    handler.ack();
}

/// The messages as they are.
pub(super) async fn pull(options: &PubSubOptions) -> MessageStream {
    let subscriber = Subscriber::builder()
        .with_endpoint(options.endpoint.url().unwrap())
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await
        .unwrap();
    subscriber.subscribe(path(options)).build()
}

pub(super) async fn next(stream: &mut MessageStream) -> (Message, Handler) {
    let next = timeout(SOON, stream.next()).await.expect("a message");
    next.unwrap().unwrap()
}

#[tokio::test]
async fn a_message_says_what_it_holds_also_when_its_body_cannot_be_read() {
    let Some(options) = options() else { return };
    let (producer, _health) = producer(&options).await;
    let log_id = LogId::random();
    let sealed = batch(log_id, 3, 7);
    producer.send(Arc::clone(&sealed)).await.unwrap();
    let mut stream = pull(&options).await;
    let (mut message, handler) = next(&mut stream).await;
    handler.ack();
    drop(stream);
    assert!(message.ordering_key.contains(&log_id.to_string()));
    let said = |name: &str| message.attributes.get(name).cloned().unwrap_or_default();
    for (name, value) in [
        ("format", "1".to_owned()),
        ("log_id", log_id.to_string()),
        ("node", "a node".to_owned()),
        ("lane", "3".to_owned()),
        ("number", "7".to_owned()),
        ("first_offset", sealed.id.first.to_string()),
        ("last_offset", sealed.id.last.to_string()),
        ("count", "2".to_owned()),
        ("day", "20000".to_owned()),
    ] {
        assert_eq!(said(name), value, "{name}");
    }
    // The last byte is of what the checksum covers.
    let mut damaged = message.data.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    message.data = damaged.into();
    message.ordering_key = "damaged".to_owned();
    let metrics = Metrics::new();
    let (mut consumer, _feeder) = counted_consumer(&options, &metrics);
    publish(&options, vec![message]).await;
    let delivery = timeout(SOON, consumer.receive()).await.unwrap().unwrap();
    assert_eq!(delivery.batch.id.number, 7);
    let offsets = delivery.batch.records.iter().map(|(offset, _)| *offset);
    assert!(offsets.eq(sealed.id.first..=sealed.id.last));
    // Asked for again once, then taken for what it is.
    counted(&metrics, "eventkit_queue_messages_damaged_total 1").await;
    delivery.ack();
}

/// Waits until a counter of the consumer's says so; the consumer tells nobody else.
async fn counted(metrics: &Metrics, line: &str) {
    let counted = async {
        while !metrics.render().contains(line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, counted).await.expect(line);
}

async fn number(consumer: &mut dyn Consumer) -> u64 {
    let delivery = timeout(SOON, consumer.receive()).await.unwrap().unwrap();
    let number = delivery.batch.id.number;
    delivery.ack();
    number
}

/// For longer than a lease lasts nobody asks for anything, as while a store is out.
#[tokio::test]
async fn a_consumer_whose_budget_is_spent_pulls_no_more_and_keeps_what_it_holds() {
    const HELD: usize = 3;
    const ALL: u16 = 8;
    let Some(options) = options() else { return };
    let (producer, _health) = producer(&options).await;
    let (log_id, metrics) = (LogId::random(), Metrics::new());
    let rules = Rules {
        budget_messages: HELD,
        ..rules()
    };
    let (mut consumer, _feeder) =
        consumer_until(&options, &metrics, rules, CancellationToken::new());
    // A lane each: a key's messages would wait for one another.
    for lane in 0..ALL {
        producer.send(batch(log_id, lane, 0)).await.unwrap();
    }
    let held = format!("eventkit_queue_held_messages {HELD}\n");
    counted(&metrics, &held).await;
    // Another client may get the others (the emulator heeds no limit, and has sent them all to the first one), and none that is held.
    let mut other = pull(&options).await;
    let mut others = std::collections::BTreeSet::new();
    let until = tokio::time::Instant::now() + LONGER_THAN_A_LEASE;
    while let Ok(message) = tokio::time::timeout_at(until, other.next()).await {
        let (message, handler) = message.unwrap().unwrap();
        assert!(others.insert(message.attributes["lane"].clone()), "twice");
        handler.ack();
    }
    assert!(metrics.render().contains(&held), "it pulled more");
    // The other one is there to the end: what it acknowledged last is under way, and without it would come again.
    while others.len() < usize::from(ALL) {
        let lane = tokio::select! {
            delivery = timeout(SOON, consumer.receive()) => {
                let delivery = delivery.unwrap().unwrap();
                let lane = delivery.batch.id.lane.to_string();
                delivery.ack();
                lane
            }
            message = other.next() => {
                let (message, handler) = message.unwrap().unwrap();
                handler.ack();
                message.attributes["lane"].clone()
            }
        };
        assert!(others.insert(lane), "what was held was given away");
    }
    assert!(
        metrics
            .render()
            .contains("eventkit_queue_redeliveries_total 0")
    );
}

#[tokio::test]
async fn a_batch_that_comes_before_one_that_precedes_it_waits_for_it() {
    let Some(options) = options() else { return };
    let (producer, _health) = producer(&options).await;
    let (log_id, metrics) = (LogId::random(), Metrics::new());
    let (mut consumer, _feeder) = counted_consumer(&options, &metrics);
    producer.send(batch(log_id, 0, 7)).await.unwrap();
    assert_eq!(number(&mut *consumer).await, 7);
    producer.send(batch(log_id, 0, 9)).await.unwrap();
    let noticed = r#"eventkit_queue_gaps_total{outcome="noticed"} 1"#;
    counted(&metrics, noticed).await;
    producer.send(batch(log_id, 0, 8)).await.unwrap();
    assert_eq!(number(&mut *consumer).await, 8);
    assert_eq!(number(&mut *consumer).await, 9);
    let given_up = r#"eventkit_queue_gaps_total{outcome="given_up"} 0"#;
    assert!(metrics.render().contains(given_up));
}

#[tokio::test]
async fn what_follows_a_damaged_message_waits_until_that_came_again() {
    let Some(options) = options() else { return };
    let (producer, _health) = producer(&options).await;
    let (log_id, metrics) = (LogId::random(), Metrics::new());
    // Under a key of its own: the others do not come again with it.
    let damaged = Message::new()
        .set_data("\u{1}no batch")
        .set_ordering_key("damaged")
        .set_attributes([
            ("log_id", log_id.to_string()),
            ("lane", "0".to_owned()),
            ("number", "4".to_owned()),
            ("first_offset", "400".to_owned()),
            ("last_offset", "401".to_owned()),
            // Another day than the next one's: were both here at once, they would otherwise be one run.
            ("day", "19999".to_owned()),
        ]);
    let (mut consumer, _feeder) = counted_consumer(&options, &metrics);
    publish(&options, vec![damaged]).await;
    counted(&metrics, "eventkit_queue_messages_damaged_total 1").await;
    producer.send(batch(log_id, 0, 5)).await.unwrap();
    assert_eq!(number(&mut *consumer).await, 4);
    assert_eq!(number(&mut *consumer).await, 5);
}
