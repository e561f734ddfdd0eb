//! `eventkit bench pipeline`.

use serde_json::Value;

use super::{assert_nothing_is_left, ended, positive, run, small};
use crate::support::emulators;
use crate::support::gateway::setting;

#[tokio::test]
async fn encoding_needs_no_emulator() {
    let dir = tempfile::tempdir().unwrap();
    let (report, table) = run(small(dir.path(), &["bench", "pipeline", "parquet"])).await;
    assert_nothing_is_left(dir.path());
    let sizes = report["parquet"].as_array().unwrap();
    assert_eq!(sizes.len(), 3);
    for size in sizes {
        assert!(positive(&size["events_per_core_second"]["median"]));
        assert!(positive(&size["bytes_per_event"]), "{size}");
    }
    // More rows share more: that is what larger objects are for.
    let bytes = |at: usize| sizes[at]["bytes_per_event"].as_f64().unwrap();
    assert!(bytes(2) < bytes(0), "{report}");
    assert!(table.contains("bytes per event"), "{table}");
    assert_eq!(report["backlog"], Value::Null);
}

#[tokio::test]
async fn emulators_that_are_missing_or_elsewhere_are_named_before_anything_starts() {
    for (variables, words) in [
        (
            vec![],
            vec!["PUBSUB_EMULATOR_HOST and STORAGE_EMULATOR_HOST"],
        ),
        (
            vec![("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")],
            vec!["STORAGE_EMULATOR_HOST", "scripts/emulators"],
        ),
        (
            vec![
                ("PUBSUB_EMULATOR_HOST", "pubsub.example.com:443"),
                ("STORAGE_EMULATOR_HOST", "127.0.0.1:1"),
            ],
            vec!["pubsub.example.com:443", "not on this machine"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = small(dir.path(), &["bench", "pipeline"]);
        let output = ended(command.envs(variables).spawn().unwrap()).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        for word in words {
            assert!(said.contains(word), "{said}");
        }
        assert_nothing_is_left(dir.path());
    }
}

#[tokio::test]
async fn either_queue_is_measured_and_a_backlog_is_filled_and_drained() {
    let (Some(pubsub), Some(storage)) = (emulators::pubsub(), emulators::storage()) else {
        return;
    };
    let bigquery = setting("BIGQUERY_EMULATOR_HOST");
    let dir = tempfile::tempdir().unwrap();
    let mut command = small(dir.path(), &["bench", "pipeline", "accept", "backlog"]);
    command
        .args(["--minutes", "0.05", "--load", "20"])
        .env("PUBSUB_EMULATOR_HOST", pubsub)
        .env("STORAGE_EMULATOR_HOST", storage)
        .env("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "0.2")
        .env("EVENTKIT_ALLOW_VOLATILE_LOG", "true");
    if let Some(bigquery) = &bigquery {
        command.env("BIGQUERY_EMULATOR_HOST", bigquery);
    }
    let (report, table) = run(command).await;
    assert_nothing_is_left(dir.path());

    for (accepted, way) in report["accept"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["http", "bidi"])
    {
        assert_eq!(accepted["way"], way);
        for ratio in ["pubsub_over_async", "pubsub_over_async_per_processor"] {
            assert!(positive(&accepted[ratio]["median"]), "{accepted}");
        }
        for (figures, queue) in accepted["queues"]
            .as_array()
            .unwrap()
            .iter()
            .zip(["async", "pubsub"])
        {
            assert_eq!(figures["server"], queue);
            assert!(positive(&figures["events"]), "{figures}");
            assert_eq!(figures["failed"], 0, "{figures}");
        }
    }
    assert_eq!(report["accept"].as_array().unwrap().len(), 2);

    let backlog = &report["backlog"];
    for ratio in [
        "stored_over_fill",
        "ceiling_over_fill",
        "stored_over_ceiling",
    ] {
        assert!(positive(&backlog[ratio]["median"]), "{ratio}: {backlog}");
    }
    let round = &backlog["rounds"][0];
    for figure in [
        "filled_events",
        "messages",
        "message_bytes",
        "gateway_peak_bytes",
        "worker_peak_bytes",
    ] {
        assert!(positive(&round[figure]), "{figure}: {round}");
    }
    // Everything that was accepted was stored.
    assert!(positive(&round["accepted"]), "{round}");
    assert!(round["stored"].as_f64() >= round["accepted"].as_f64());
    assert_eq!(round["not_accepted"], 0, "{round}");
    assert_eq!(round["loader"].is_object(), bigquery.is_some(), "{round}");
    for word in ["pubsub / async", "stored / filled", "target", "worker"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}
