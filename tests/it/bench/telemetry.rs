//! `eventkit bench telemetry`.

use serde_json::Value;

use super::{assert_nothing_is_left, positive, run, small};

#[tokio::test]
async fn telemetry_is_measured_with_a_receiver_and_with_those_that_do_not_do_their_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = small(dir.path(), &["bench", "telemetry"]);
    command
        .args(["--rounds", "2"])
        // What this process exports is not what is measured.
        .env("OTEL_SDK_DISABLED", "true")
        .env("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "0.2")
        .env("EVENTKIT_ALLOW_VOLATILE_LOG", "true");
    let (report, table) = run(command).await;
    assert_nothing_is_left(dir.path());

    let ways = report["ways"].as_array().unwrap();
    for (compared, way) in ways.iter().zip(["http", "bidi"]) {
        assert_eq!(compared["way"], way);
        let rows = compared["rows"].as_array().unwrap();
        let names: Vec<_> = rows.iter().map(|row| &row["server"]).collect();
        assert_eq!(
            names,
            [
                "off",
                "one",
                "all",
                "refusing",
                "hanging",
                "failing",
                "slow",
                "restarting"
            ]
        );
        for row in rows {
            assert!(positive(&row["events_per_second"]["median"]), "{row}");
            let cpu = &row["server_cpu_seconds_per_million"];
            assert!(positive(&cpu["median"]), "{row}");
            assert_eq!(cpu["values"].as_array().unwrap().len(), 2, "{row}");
            assert_eq!(row["failed"], 0, "{row}");
            assert!(positive(&row["peak_bytes"]), "{row}");
            assert!(row["spans_dropped"].is_u64(), "{row}");
            let is_off = row["server"] == "off";
            let against = match row["server"].as_str().unwrap() {
                "off" => Value::Null,
                "one" | "all" => "off".into(),
                _ => "all".into(),
            };
            assert_eq!(row["baseline"], against, "{row}");
            for ratio in [
                "cpu_over_baseline",
                "rate_over_baseline",
                "p99_over_baseline",
                "peak_over_baseline",
            ] {
                assert_eq!(row[ratio].is_null(), is_off, "{row}");
            }
        }
        // Nothing can arrive where nobody takes it.
        for row in [&rows[0], &rows[3], &rows[4], &rows[5]] {
            assert_eq!(row["spans_received"], 0, "{row}");
        }
        assert_eq!(rows[0]["spans_dropped"], 0, "{}", rows[0]);
    }
    assert_eq!(ways.len(), 2);
    for word in ["RSS ratio", "dropped", "95 % interval"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    // What exported nothing, or dropped nothing where nobody takes it, says so instead of being within its target.
    let rows = ways.iter().flat_map(|way| way["rows"].as_array().unwrap());
    let (without, with): (Vec<_>, Vec<_>) = rows
        .filter(|row| positive(&row["cpu_target"]))
        .partition(|row| match row["server"].as_str().unwrap() {
            "refusing" | "hanging" | "failing" => row["spans_dropped"] == 0,
            _ => row["spans_received"] == 0,
        });
    assert_eq!(table.matches("NOT MEASURED").count(), without.len());
    assert_eq!(table.matches("target: CPU").count(), with.len());
}
