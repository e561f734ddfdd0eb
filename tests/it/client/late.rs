//! Answers that do not come in time: nobody knows what became of the events, so they are sent again under the same ids.

use std::time::Duration;

use eventkit::client::{Client, Options, Outcome};
use eventkit::telemetry::Metrics;

use super::{RPCS, events, gateway_over, ids, options, send, stored};
use crate::doors::streams::{gated_wal, until};

/// How many events came in, stored or not.
fn received(metrics: &Metrics) -> usize {
    let text = metrics.render();
    let lines = text.lines();
    let counts = lines.filter_map(|line| {
        let labelled = line.strip_prefix("eventkit_events_received_total{")?;
        labelled.rsplit(' ').next()?.parse::<usize>().ok()
    });
    counts.sum()
}

#[tokio::test]
async fn an_attempt_without_an_answer_is_made_again_under_the_same_ids() {
    for rpc in RPCS {
        let (wal, log) = gated_wal();
        let gateway = gateway_over(wal).await;
        let client = Client::new(Options {
            answer_timeout: Duration::from_secs(1),
            ..options(gateway.addr, rpc)
        });
        let (client, batch) = (client.unwrap(), events("m", 20));
        // The gateway has the events and cannot say so: the disk takes its time.
        log.set(true);
        let opened = async {
            until("they came a second time", || {
                received(&gateway.metrics) >= 40
            })
            .await;
            log.set(false);
        };
        let (delivery, ()) = tokio::join!(send(&client, &batch), opened);
        assert_eq!(
            delivery.outcomes,
            vec![Outcome::Duplicate; 20],
            "{rpc:?}: {:?}",
            delivery.error
        );
        assert!(delivery.retries >= 1, "{rpc:?}: {delivery:?}");
        assert_eq!(stored(&gateway.wal), ids(&batch), "{rpc:?}");
    }
}

#[test]
fn the_usual_limits_leave_time_for_another_attempt() {
    let usual = Options::new("http://localhost:1".parse().unwrap());
    let attempts = usual.retry.elapsed_max.as_secs() / usual.answer_timeout.as_secs();
    assert!(attempts >= 3, "{usual:?}");
}
