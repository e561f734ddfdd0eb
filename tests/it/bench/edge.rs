//! `eventkit bench edge`.

use serde_json::Value;

use super::{assert_nothing_is_left, positive, run, small};

/// What the environment says about keys and certificates is not what is measured.
const ELSEWHERE: [(&str, &str); 5] = [
    ("EVENTKIT_WRITE_KEYS_FILE", "/nowhere/keys.json"),
    ("EVENTKIT_TLS_CERT_FILE", "/nowhere/certificate.pem"),
    ("EVENTKIT_TLS_KEY_FILE", "/nowhere/private.pem"),
    ("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "0.2"),
    ("EVENTKIT_ALLOW_VOLATILE_LOG", "true"),
];

#[tokio::test]
async fn the_edge_is_measured_with_keys_and_without_beside_a_crowd_and_in_a_flood() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = small(dir.path(), &["bench", "edge"]);
    command
        .args(["--rounds", "2", "--idle", "150", "--overload", "3"])
        .envs(ELSEWHERE);
    let (report, table) = run(command).await;
    assert_nothing_is_left(dir.path());

    assert_eq!(report["not_measured"].as_array().unwrap().len(), 0);
    let ways = report["ways"].as_array().unwrap();
    for (compared, way) in ways.iter().zip(["http", "bidi"]) {
        assert_eq!(compared["way"], way);
        assert_servers(compared);
    }
    assert_eq!(ways.len(), 2);
    assert_idle(&report["idle"]);
    assert_overload(&report["overload"]);

    for word in [
        "CPU ratio",
        "95 % interval",
        "memory of an idle one",
        "turned away",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert_eq!(table.matches("target: CPU ratio").count(), 2, "{table}");
}

/// Guarded servers had keys and let nobody in without one; nobody was refused or failed.
fn assert_servers(compared: &Value) {
    let rows = compared["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| &row["server"]).collect();
    assert_eq!(names, ["open", "guarded", "tls", "gzip"]);
    for row in rows {
        assert!(positive(&row["events_per_second"]["median"]), "{row}");
        let cpu = &row["server_cpu_seconds_per_million"];
        assert!(positive(&cpu["median"]), "{row}");
        assert_eq!(cpu["values"].as_array().unwrap().len(), 2, "{row}");
        assert_eq!((&row["failed"], &row["refused"]), (&0.into(), &0.into()));
        let is_open = row["server"] == "open";
        for ratio in [
            "cpu_over_baseline",
            "rate_over_baseline",
            "p99_over_baseline",
            "peak_over_baseline",
        ] {
            assert_eq!(row[ratio].is_null(), is_open, "{row}");
        }
        let is_guarded = row["server"] == "guarded";
        assert_eq!(row["keys"], if is_guarded { 8 } else { 0 }, "{row}");
        assert_eq!(positive(&row["cpu_target"]), is_guarded, "{row}");
    }
}

/// The idle ones were there to the end.
fn assert_idle(idle: &Value) {
    for figure in ["p99_alone_ms", "p99_beside_ms", "p99_over_alone"] {
        assert!(positive(&idle[figure]["median"]), "{idle}");
        assert_eq!(idle[figure]["values"].as_array().unwrap().len(), 2);
    }
    assert_eq!(idle["idle_connections"], 150);
    assert!(
        idle["connections_at_end"].as_u64().unwrap() >= 150,
        "{idle}"
    );
    assert_eq!(idle["failed"], 0, "{idle}");
}

/// The disk was slow, more was offered than it takes, and what was turned away was told when to come again.
fn assert_overload(overload: &Value) {
    // About 5,000, less where a busy machine held a sync up; one that is not slow takes a hundred times as much.
    let disk = overload["disk_events_per_second"].as_f64().unwrap();
    assert!(disk < 50_000.0, "{overload}");
    for figure in [
        "disk_events_per_second",
        "capacity_events_per_second",
        "accepted_events_per_second",
        "refused_events",
        "refused_of_probe",
        "resident_start",
        "resident_end",
    ] {
        assert!(positive(&overload[figure]), "{figure}: {overload}");
    }
    assert!(positive(&overload["refused"]["p99_ms"]), "{overload}");
    assert_eq!(overload["refused_without_retry_after"], 0, "{overload}");
    assert_eq!(overload["failed"], 0, "{overload}");
}
