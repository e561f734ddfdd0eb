//! Configuration: text in, a whole configuration or every problem out.

use std::path::Path;
use std::time::Duration;

use eventkit::config::settings::{self, Fallback};
use eventkit::config::{
    Ack, BatchRules, Checked, Config, Endpoint, Engine, Inputs, LogLevel, Problems, Profile,
    PubSubOptions, QueueConfig, Rates, Role, Source, StoreConfig, WarehouseConfig, parse, validate,
    validate_without_ports,
};

fn inputs(profile: Profile, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Inputs {
    Inputs {
        profile,
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: flags
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        host_name: "a-host".to_owned(),
    }
}

fn checked(env: &[(&str, &str)]) -> Checked {
    validate(&inputs(Profile::Dev, env, &[])).unwrap()
}

fn config(env: &[(&str, &str)]) -> Config {
    checked(env).config
}

fn store_dir(config: &Config) -> &Path {
    match &config.store {
        StoreConfig::Local(dir) => dir,
        other => panic!("{other:?}"),
    }
}

/// Who may send is no question of most of these tests.
const KEYS: (&str, &str) = ("EVENTKIT_WRITE_KEYS_FILE", "/keys.json");

fn serve(env: &[(&str, &str)]) -> Config {
    let env = [env, &[KEYS]].concat();
    validate(&inputs(Profile::Serve, &env, &[])).unwrap().config
}

fn problems(profile: Profile, env: &[(&str, &str)]) -> Vec<String> {
    let env = [&[KEYS], env].concat();
    let Problems(problems) = validate(&inputs(profile, &env, &[])).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn dev_needs_no_configuration() {
    let config = config(&[]);
    assert_eq!(config.node, "a-host");
    assert_eq!(config.wal.path, Path::new("./eventkit-data/wal"));
    assert_eq!(store_dir(&config), Path::new("./eventkit-data/store"));
    let Some(WarehouseConfig::Sqlite(warehouse)) = &config.loader.warehouse else {
        panic!("{:?}", config.loader.warehouse);
    };
    assert_eq!(warehouse, Path::new("./eventkit-data/warehouse.db"));
    assert_eq!((config.role, config.ack), (Role::All, Ack::Durable));
    assert!(matches!(config.queue, QueueConfig::InProcess));
    assert_eq!(config.ingress.http_addr.to_string(), "127.0.0.1:8000");
    assert_eq!(config.ingress.grpc_addr.to_string(), "127.0.0.1:50051");
    assert_eq!(config.admin.addr.to_string(), "127.0.0.1:9090");
    assert_eq!(config.ingress.event_bytes_max, 256 << 10);
    assert_eq!(config.ingress.body_bytes_max, 4 << 20);
    assert_eq!(config.ingress.batch_events_max, 10_000);
    assert_eq!(config.ingress.depth_max, 64);
    assert_eq!(config.ingress.keys_max, 10_000);
    assert_eq!(config.ingress.connections_max, 10_000);
    assert_eq!(config.ingress.concurrent_streams_max, 200);
    assert_eq!(config.ingress.header_timeout, Duration::from_secs(10));
    assert_eq!(config.ingress.body_timeout, Duration::from_secs(30));
    assert_eq!(config.ingress.body_rate_min, 2_048);
    assert_eq!(config.ingress.idle_timeout, Duration::from_secs(300));
    assert_eq!(config.ingress.in_flight_bytes_max, 64 << 20);
    assert!(config.ingress.reflection);
    assert_eq!(config.wal.lanes, 16);
    assert_eq!(config.wal.bytes_max, None);
    assert_eq!(config.wal.retained_events_max, 100_000);
    assert_eq!(config.wal.retention, Duration::from_secs(86_400));
    assert_eq!(config.wal.cleanup_interval, Duration::from_secs(3600));
    assert_eq!(config.wal.dedup_ids_max, 2_000_000);
    assert_eq!(config.wal.ballast_bytes, 16 << 20);
    assert_eq!(
        config.publisher.batch,
        BatchRules {
            events: usize::MAX,
            events_age: Duration::from_secs(1),
            events_max: usize::MAX,
            bytes: 8 << 20,
            age: Duration::from_secs(1),
        }
    );
    assert_eq!(config.publisher.budget_bytes, 64 << 20);
    assert_eq!(config.workers, 4);
    assert_eq!(config.loader.interval, Duration::from_secs(300));
    assert_eq!(config.telemetry.level, LogLevel::Info);
    assert!(!config.telemetry.json);
    assert_eq!(config.drain_timeout, Duration::from_secs(25));
}

#[test]
fn serve_listens_on_every_address_but_for_the_admin_port() {
    let config = serve(&[("EVENTKIT_EVENT_STORE", "local")]);
    assert_eq!(config.ingress.http_addr.to_string(), "0.0.0.0:8000");
    assert_eq!(config.ingress.grpc_addr.to_string(), "0.0.0.0:50051");
    assert_eq!(config.admin.addr.to_string(), "127.0.0.1:9090");
}

#[test]
fn each_setting_of_who_may_send_has_a_place_of_its_own() {
    let config = serve(&[
        ("EVENTKIT_EVENT_STORE", "local"),
        ("EVENTKIT_KEY_EVENTS_PER_SECOND", "11"),
        ("EVENTKIT_KEY_BYTES_PER_SECOND", "12"),
        ("EVENTKIT_ADDRESS_EVENTS_PER_SECOND", "13"),
        ("EVENTKIT_ADDRESS_BYTES_PER_SECOND", "14"),
        ("EVENTKIT_RATE_BURST", "15"),
        ("EVENTKIT_RATE_ADDRESSES", "16"),
        ("EVENTKIT_MAX_KEY_IN_FLIGHT_BYTES", "17MiB"),
        ("EVENTKIT_MAX_ADDRESS_IN_FLIGHT_BYTES", "18MiB"),
        ("EVENTKIT_MAX_ADDRESS_CONNECTIONS", "19"),
        ("EVENTKIT_KEEPALIVE_INTERVAL", "20"),
        ("EVENTKIT_KEEPALIVE_TIMEOUT", "21"),
        ("EVENTKIT_MAX_STREAM_AGE", "22"),
        ("EVENTKIT_MAX_CONNECTION_AGE", "23"),
        ("EVENTKIT_HEADER_TIMEOUT", "24"),
        ("EVENTKIT_BODY_TIMEOUT", "25"),
        ("EVENTKIT_IDLE_TIMEOUT", "26"),
    ]);
    let guard = &config.ingress.guard;
    let rates = |events, bytes| Rates {
        events: Some(events),
        bytes: Some(bytes),
    };
    assert_eq!(guard.key_rates, rates(11, 12));
    assert_eq!(guard.address_rates, rates(13, 14));
    assert_eq!(guard.burst, Duration::from_secs(15));
    assert_eq!(guard.addresses_max, 16);
    assert_eq!(guard.key_in_flight_bytes_max, 17 << 20);
    assert_eq!(guard.address_in_flight_bytes_max, 18 << 20);
    assert_eq!(guard.connections_per_address_max, Some(19));
    assert_eq!(guard.keepalive_interval, Duration::from_secs(20));
    assert_eq!(guard.keepalive_timeout, Duration::from_secs(21));
    assert_eq!(guard.stream_age_max, Some(Duration::from_secs(22)));
    assert_eq!(guard.connection_age_max, Some(Duration::from_secs(23)));
    assert_eq!(config.ingress.header_timeout, Duration::from_secs(24));
    assert_eq!(config.ingress.body_timeout, Duration::from_secs(25));
    assert_eq!(config.ingress.idle_timeout, Duration::from_secs(26));
}

#[test]
fn every_default_is_a_good_value() {
    for setting in settings::ALL {
        let texts = match setting.default {
            Fallback::Is(text) => vec![text],
            Fallback::Per { dev, serve } => vec![dev, serve],
            Fallback::InDataDir(_) | Fallback::HostName | Fallback::Unset(_) => vec![],
        };
        for text in texts {
            assert_eq!(
                parse::value(setting.kind, text).err(),
                None,
                "{}",
                setting.env
            );
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_default() {
    let env = [("EVENTKIT_LANES", "8"), ("EVENTKIT_NODE", "")];
    let from_env = inputs(Profile::Dev, &env, &[]);
    let from_flag = inputs(Profile::Dev, &env, &[("EVENTKIT_LANES", "4")]);
    for (inputs, lanes, source) in [
        (inputs(Profile::Dev, &[], &[]), 16, Source::Default),
        (from_env.clone(), 8, Source::Env),
        (from_flag, 4, Source::Flag),
    ] {
        assert_eq!(inputs.resolve(&settings::LANES).source, source);
        assert_eq!(validate(&inputs).unwrap().config.wal.lanes, lanes);
    }
    // Empty is not set.
    assert_eq!(from_env.resolve(&settings::NODE).source, Source::Default);
}

#[test]
fn the_log_follows_the_data_directory_unless_it_has_a_place_of_its_own() {
    let moved = [("EVENTKIT_DATA_DIR", "/data")];
    assert_eq!(config(&moved).wal.path, Path::new("/data/wal"));
    let apart = [moved[0], ("EVENTKIT_RING_BUFFER_DB_PATH", "/fast/log")];
    let config = config(&apart);
    assert_eq!(config.wal.path, Path::new("/fast/log"));
    assert_eq!(store_dir(&config), Path::new("/data/store"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let found = problems(
        Profile::Serve,
        &[
            ("EVENTKIT_LANES", "none"),
            ("EVENTKIT_HTTP_ADDR", "8000"),
            ("EVENTKIT_EVENT_STOR", "local"),
            ("EVENTKIT_MAX_EVENT_BYTES", "8MiB"),
            ("EVENTKIT_JSON_LOGS", "perhaps"),
        ],
    );
    assert_eq!(
        found,
        [
            "EVENTKIT_EVENT_STOR: there is no such setting; did you mean EVENTKIT_EVENT_STORE?",
            "GCP_GCS_BUCKET: is required for EVENTKIT_EVENT_STORE=gcs (EVENTKIT_EVENT_STORE=local stores in the data directory)",
            "EVENTKIT_HTTP_ADDR=8000: must be an IP address and a port, as in 127.0.0.1:8000 or [::1]:8000",
            "EVENTKIT_LANES=none: must be a whole number from 1 to 1024",
            "GCP_PROJECT_ID: is required for EVENTKIT_EVENT_STORE=gcs with the warehouse (or set EVENTKIT_WAREHOUSE_ENABLED=false)",
            "GCP_BIGQUERY_DATASET: is required for EVENTKIT_EVENT_STORE=gcs with the warehouse (or set EVENTKIT_WAREHOUSE_ENABLED=false)",
            "GCP_BIGQUERY_TABLE: is required for EVENTKIT_EVENT_STORE=gcs with the warehouse (or set EVENTKIT_WAREHOUSE_ENABLED=false)",
            "EVENTKIT_JSON_LOGS=perhaps: must be true or false",
            "EVENTKIT_MAX_EVENT_BYTES=8MiB and EVENTKIT_MAX_BODY_BYTES=4MiB (the default): an event cannot be larger than the body it comes in",
        ]
    );
}

#[test]
fn a_setting_that_cannot_be_read_breaks_no_rule_as_well() {
    let found = problems(Profile::Dev, &[("EVENTKIT_MAX_BODY_BYTES", "lots")]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn contradictions_name_both_settings() {
    for (env, words) in [
        (
            vec![("EVENTKIT_MAX_BODY_BYTES", "128MiB")],
            [
                "EVENTKIT_MAX_BODY_BYTES=128MiB",
                "EVENTKIT_MAX_IN_FLIGHT_BYTES=64MiB",
            ],
        ),
        (
            vec![("EVENTKIT_BATCH_BYTES", "128KiB")],
            [
                "EVENTKIT_MAX_EVENT_BYTES=256KiB",
                "EVENTKIT_BATCH_BYTES=128KiB",
            ],
        ),
        (
            vec![("EVENTKIT_PIPELINE_BUDGET_BYTES", "4MiB")],
            [
                "EVENTKIT_BATCH_BYTES=8MiB",
                "EVENTKIT_PIPELINE_BUDGET_BYTES=4MiB",
            ],
        ),
        (
            vec![
                ("EVENTKIT_WAL_MAX_BYTES", "64MiB"),
                ("EVENTKIT_WAL_BALLAST_BYTES", "64MiB"),
            ],
            [
                "EVENTKIT_WAL_BALLAST_BYTES=64MiB",
                "EVENTKIT_WAL_MAX_BYTES=64MiB",
            ],
        ),
        (
            vec![("EVENTKIT_GRPC_ADDR", "0.0.0.0:8000")],
            [
                "EVENTKIT_HTTP_ADDR=127.0.0.1:8000",
                "EVENTKIT_GRPC_ADDR=0.0.0.0:8000",
            ],
        ),
        (
            vec![("EVENTKIT_RING_BUFFER_DB_PATH", "eventkit-data")],
            [
                "EVENTKIT_RING_BUFFER_DB_PATH=eventkit-data",
                "EVENTKIT_DATA_DIR=./eventkit-data",
            ],
        ),
        (
            vec![
                ("EVENTKIT_EVENTLOADER_BATCH_SIZE", "500"),
                ("EVENTKIT_BUFFER_MAX_SIZE", "100"),
            ],
            [
                "EVENTKIT_EVENTLOADER_BATCH_SIZE=500",
                "EVENTKIT_BUFFER_MAX_SIZE=100",
            ],
        ),
    ] {
        let found = problems(Profile::Dev, &env);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            words.iter().all(|word| found[0].contains(word)),
            "{found:?}"
        );
    }
}

#[test]
fn ports_that_any_free_number_may_take_do_not_collide() {
    let any = "127.0.0.1:0";
    config(&[
        ("EVENTKIT_HTTP_ADDR", any),
        ("EVENTKIT_GRPC_ADDR", any),
        ("EVENTKIT_ADMIN_ADDR", any),
    ]);
}

#[test]
fn dev_keeps_everything_embedded() {
    for (name, value, use_this) in [
        ("EVENTKIT_EVENT_STORE", "gcs", "EVENTKIT_EVENT_STORE=local"),
        (
            "EVENTKIT_EVENT_STORE",
            "firestore",
            "EVENTKIT_EVENT_STORE=local",
        ),
        ("EVENTKIT_QUEUE_MODE", "pubsub", "EVENTKIT_QUEUE_MODE=async"),
        ("EVENTKIT_ROLE", "worker", "EVENTKIT_ROLE=all"),
        ("EVENTKIT_ACK", "published", "EVENTKIT_ACK=durable"),
    ] {
        let found = problems(Profile::Dev, &[(name, value)]);
        let of_the_engine: Vec<_> = found
            .iter()
            .filter(|problem| problem.contains("embedded"))
            .collect();
        assert_eq!(of_the_engine.len(), 1, "{found:?}");
        assert!(
            of_the_engine[0].starts_with(&format!("{name}={value}"))
                && of_the_engine[0].ends_with(use_this),
            "{found:?}"
        );
    }
}

#[test]
fn both_engines_of_the_log_can_be_chosen_by_every_command() {
    assert_eq!(config(&[]).wal.engine, Engine::Sled);
    for (word, engine) in [("sled", Engine::Sled), ("SQLite", Engine::Sqlite)] {
        let env = [
            KEYS,
            ("EVENTKIT_EVENT_STORE", "local"),
            ("EVENTKIT_RING_BUFFER_MODE", word),
        ];
        for profile in [Profile::Dev, Profile::Serve] {
            let checked = validate(&inputs(profile, &env, &[])).unwrap();
            assert_eq!(checked.config.wal.engine, engine);
        }
    }
}

#[test]
fn only_unknown_variables_of_our_own_are_problems() {
    config(&[
        ("EVENTKIT_SERVICE_HOST", "10.0.0.1"),
        ("EVENTKIT_SERVICE_PORT_HTTP", "8000"),
        ("EVENTKIT_PORT", "tcp://10.0.0.1:8000"),
        ("EVENTKIT_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("EVENTKIT_EMPTY", ""),
        ("GCP_PROJECT_ID", "p"),
        ("PUBSUB_EMULATOR_HOST", "localhost:8085"),
        ("PATH", "/bin"),
    ]);
    for (name, hint) in [
        ("EVENTKIT_LANE", "did you mean EVENTKIT_LANES?"),
        (
            "EVENTKIT_EVENT_LOADER_BATCH_SIZE",
            "did you mean EVENTKIT_EVENTLOADER_BATCH_SIZE?",
        ),
        ("EVENTKIT_XYZZY", "`eventkit serve --help` lists them"),
    ] {
        let found = problems(Profile::Dev, &[(name, "1")]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with(name) && found[0].ends_with(hint),
            "{found:?}"
        );
    }
}

#[test]
fn deprecated_names_apply_only_when_set_and_with_a_warning() {
    let alias = checked(&[
        ("EVENTKIT_BUFFER_SIZE", "50"),
        ("EVENTKIT_BUFFER_TIMEOUT", "5.0"),
    ]);
    assert_eq!(alias.config.publisher.batch.events_max, 50);
    assert_eq!(alias.config.publisher.batch.age, Duration::from_secs(5));
    let warned: Vec<_> = alias
        .warnings
        .iter()
        .map(|warning| warning.setting)
        .collect();
    assert_eq!(warned, ["EVENTKIT_BUFFER_SIZE", "EVENTKIT_BUFFER_TIMEOUT"]);
    assert!(
        alias.warnings[0]
            .text
            .ends_with("use EVENTKIT_EVENTLOADER_BATCH_SIZE")
    );

    let both = checked(&[
        ("EVENTKIT_BUFFER_SIZE", "50"),
        ("EVENTKIT_EVENTLOADER_BATCH_SIZE", "70"),
        ("EVENTKIT_BUFFER_TIMEOUT", "5"),
        ("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "2"),
    ]);
    assert_eq!(both.config.publisher.batch.events_max, 70);
    assert_eq!(both.config.publisher.batch.age, Duration::from_secs(2));

    let cap = config(&[("EVENTKIT_BUFFER_MAX_SIZE", "1000")]);
    assert_eq!(cap.publisher.batch.events_max, 1000);
}

#[test]
fn what_has_no_effect_is_said() {
    let checked = checked(&[("EVENTKIT_RING_BUFFER_PUBLISHER_POLL_INTERVAL", "0.5")]);
    assert_eq!(checked.warnings.len(), 1);
    assert_eq!(
        checked.warnings[0].text,
        "no effect with EVENTKIT_QUEUE_MODE=async"
    );
}

#[test]
fn values_are_read_as_their_kind_says() {
    let config = config(&[
        ("EVENTKIT_MAX_BODY_BYTES", "8388608"),
        ("EVENTKIT_WAL_MAX_BYTES", "2GiB"),
        ("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "0.25"),
        ("EVENTKIT_RING_BUFFER_RETENTION_HOURS", "0.5"),
        ("EVENTKIT_LOG_LEVEL", "warning"),
        ("EVENTKIT_JSON_LOGS", "TRUE"),
        ("EVENTKIT_WAREHOUSE_ENABLED", "0"),
        ("EVENTKIT_NODE", "n1"),
    ]);
    assert_eq!(config.ingress.body_bytes_max, 8 << 20);
    assert_eq!(config.wal.bytes_max, Some(2 << 30));
    assert_eq!(config.publisher.batch.age, Duration::from_millis(250));
    assert_eq!(config.wal.retention, Duration::from_secs(1800));
    assert_eq!(config.telemetry.level, LogLevel::Warning);
    assert!(config.telemetry.json);
    assert!(config.loader.warehouse.is_none());
    assert_eq!(config.node, "n1");
}

#[test]
fn retention_is_off_or_longer_than_repeats_are_recognised() {
    let days = |text: &str| {
        let config = config(&[
            ("EVENTKIT_STORE_RETENTION_DAYS", text),
            ("EVENTKIT_WAREHOUSE_RETENTION_DAYS", text),
        ]);
        let loader = config.loader;
        assert_eq!(loader.store_retention_days, loader.warehouse_retention_days);
        loader.store_retention_days
    };
    for (text, expected) in [("", None), ("0", None), ("4", Some(4)), ("365", Some(365))] {
        assert_eq!(days(text), expected, "{text}");
    }
    for name in [
        "EVENTKIT_STORE_RETENTION_DAYS",
        "EVENTKIT_WAREHOUSE_RETENTION_DAYS",
    ] {
        for text in ["1", "3"] {
            let found = problems(Profile::Dev, &[(name, text)]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(name) && found[0].contains("4 or more"));
        }
        let found = problems(
            Profile::Dev,
            &[(name, "30"), ("EVENTKIT_WAREHOUSE_ENABLED", "false")],
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("EVENTKIT_WAREHOUSE_ENABLED=false"),
            "{found:?}"
        );
    }
}

// The three ways in which the predecessor is run, with its own variables.

const MODE_A: [(&str, &str); 9] = [
    ("STORAGE_EMULATOR_HOST", "http://localhost:9023"),
    ("GCP_PROJECT_ID", "p"),
    ("GCP_GCS_BUCKET", "b"),
    ("GCP_BIGQUERY_DATASET", "d"),
    ("GCP_BIGQUERY_TABLE", "t"),
    ("EVENTKIT_EVENT_STORE", "gcs"),
    ("EVENTKIT_WAREHOUSE_ENABLED", "true"),
    ("EVENTKIT_QUEUE_MODE", "async"),
    ("EVENTKIT_RING_BUFFER_DB_PATH", "./eventkit_ring_buffer.db"),
];

const MODE_B: [(&str, &str); 4] = [
    ("FIRESTORE_EMULATOR_HOST", "localhost:8080"),
    ("GCP_PROJECT_ID", "p"),
    ("EVENTKIT_EVENT_STORE", "firestore"),
    ("EVENTKIT_QUEUE_MODE", "async"),
];

const MODE_C: [(&str, &str); 6] = [
    ("FIRESTORE_EMULATOR_HOST", "localhost:8080"),
    ("PUBSUB_EMULATOR_HOST", "localhost:8085"),
    ("GCP_PROJECT_ID", "p"),
    ("EVENTKIT_EVENT_STORE", "firestore"),
    ("EVENTKIT_QUEUE_MODE", "pubsub"),
    ("EVENTKIT_PUBSUB_WORKERS", "3"),
];

/// The variables with some taken out and others put in.
fn but<'a>(mode: &[(&'a str, &'a str)], change: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = mode
        .iter()
        .filter(|(name, _)| change.iter().all(|(changed, _)| changed != name));
    kept.chain(change).copied().collect()
}

#[test]
fn mode_a_stores_in_cloud_storage_and_never_calls_the_real_bigquery() {
    let config = serve(&MODE_A);
    let StoreConfig::Gcs { bucket, endpoint } = &config.store else {
        panic!("{:?}", config.store);
    };
    let emulator = Endpoint::Emulator("http://localhost:9023".to_owned());
    assert_eq!((bucket.as_str(), endpoint), ("b", &emulator));
    assert_eq!(config.publisher.batch.events, 1_000);
    assert_eq!(config.publisher.batch.age, Duration::from_secs(60));
    assert_eq!(config.publisher.batch.events_max, usize::MAX);
    for (change, expected) in [
        (vec![], None),
        (
            vec![("BIGQUERY_EMULATOR_HOST", "localhost:9050")],
            Some(Endpoint::Emulator("http://localhost:9050".to_owned())),
        ),
        (vec![("STORAGE_EMULATOR_HOST", "")], Some(Endpoint::Google)),
    ] {
        let config = serve(&but(&MODE_A, &change));
        let Some(WarehouseConfig::BigQuery {
            endpoint,
            dedup_days,
            ..
        }) = config.loader.warehouse
        else {
            panic!("{change:?}");
        };
        assert_eq!((endpoint, dedup_days), (expected, 3), "{change:?}");
    }
    // What an emulator is asked as often as one likes would cost the real one its quota.
    let often = ("EVENTKIT_WAREHOUSE_LOADER_INTERVAL", "0.1");
    for (change, millis) in [
        (vec![often], 100),
        (vec![often, ("STORAGE_EMULATOR_HOST", "")], 2_000),
    ] {
        let interval = serve(&but(&MODE_A, &change)).loader.interval;
        assert_eq!(interval, Duration::from_millis(millis), "{change:?}");
    }
}

#[test]
fn mode_b_stores_in_firestore_and_has_no_warehouse() {
    let config = serve(&MODE_B);
    assert!(matches!(&config.store, StoreConfig::Firestore { project, .. } if project == "p"));
    assert!(config.loader.warehouse.is_none());
    assert_eq!(config.publisher.batch.events, 100);
    assert_eq!(config.publisher.batch.age, Duration::from_secs(5));
}

#[test]
fn mode_c_sends_small_messages_and_stores_runs_of_them() {
    let config = serve(&MODE_C);
    let QueueConfig::PubSub(pubsub) = &config.queue else {
        panic!("{:?}", config.queue);
    };
    assert!(pubsub.options.create, "with an emulator");
    assert_eq!(pubsub.run, serve(&MODE_B).publisher.batch);
    assert_eq!(config.publisher.batch.events, 100);
    assert_eq!(config.publisher.batch.age, Duration::from_millis(100));
    assert_eq!(config.publisher.batch.bytes, 1 << 20);
    assert_eq!(config.workers, 3);
    let google = [
        ("PUBSUB_EMULATOR_HOST", ""),
        ("FIRESTORE_EMULATOR_HOST", ""),
    ];
    let QueueConfig::PubSub(pubsub) = serve(&but(&MODE_C, &google)).queue else {
        panic!("pubsub");
    };
    let PubSubOptions {
        create, endpoint, ..
    } = pubsub.options;
    assert_eq!((create, endpoint), (false, Endpoint::Google));
}

#[test]
fn what_a_mode_needs_and_lacks_is_named() {
    for (mode, change, start) in [
        (
            &MODE_A[..],
            ("GCP_GCS_BUCKET", ""),
            "GCP_GCS_BUCKET: is required",
        ),
        (
            &MODE_A,
            ("GCP_BIGQUERY_TABLE", ""),
            "GCP_BIGQUERY_TABLE: is required",
        ),
        (
            &MODE_B,
            ("GCP_PROJECT_ID", ""),
            "GCP_PROJECT_ID: is required",
        ),
        (
            &MODE_C,
            ("PUBSUB_EMULATOR_HOST", ""),
            "PUBSUB_EMULATOR_HOST: is required where FIRESTORE_EMULATOR_HOST is set",
        ),
        (
            &MODE_C,
            ("FIRESTORE_EMULATOR_HOST", ""),
            "FIRESTORE_EMULATOR_HOST: is required where PUBSUB_EMULATOR_HOST is set",
        ),
        (
            &MODE_A,
            ("EVENTKIT_ROLE", "worker"),
            "EVENTKIT_ROLE=worker and EVENTKIT_QUEUE_MODE=async",
        ),
        (
            &MODE_A,
            ("EVENTKIT_ACK", "published"),
            "EVENTKIT_ACK=published and EVENTKIT_QUEUE_MODE=async",
        ),
        (
            &MODE_C,
            ("EVENTKIT_ROLE", "loader"),
            "EVENTKIT_ROLE=loader and EVENTKIT_EVENT_STORE=firestore",
        ),
        (
            &MODE_C,
            ("EVENTKIT_PUBSUB_TOPIC", "goog"),
            "EVENTKIT_PUBSUB_TOPIC=goog",
        ),
        (
            &MODE_C,
            ("EVENTKIT_PUBSUB_SUBSCRIPTION", "a b"),
            "EVENTKIT_PUBSUB_SUBSCRIPTION=a b",
        ),
    ] {
        let found = problems(Profile::Serve, &but(mode, &[change]));
        assert_eq!(found.len(), 1, "{change:?}: {found:?}");
        assert!(found[0].starts_with(start), "{found:?}");
    }
}

#[test]
fn a_part_of_the_path_needs_only_its_own_settings() {
    let pubsub = [
        ("EVENTKIT_QUEUE_MODE", "pubsub"),
        ("PUBSUB_EMULATOR_HOST", "localhost:8085"),
        ("GCP_BIGQUERY_DATASET", ""),
        ("GCP_BIGQUERY_TABLE", ""),
    ];
    for role in ["gateway", "worker"] {
        let config = serve(&but(
            &MODE_A,
            &[&pubsub[..], &[("EVENTKIT_ROLE", role)]].concat(),
        ));
        assert_eq!(config.role.as_str(), role);
        assert!(config.loader.warehouse.is_none());
    }
}

#[test]
fn nobody_opens_the_ports_of_serve_without_having_said_so() {
    let local = ("EVENTKIT_EVENT_STORE", "local");
    let anonymous = ("EVENTKIT_ALLOW_ANONYMOUS", "true");
    let loopback = [
        ("EVENTKIT_HTTP_ADDR", "127.0.0.1:8000"),
        ("EVENTKIT_GRPC_ADDR", "[::1]:50051"),
    ];
    let emulator = ("PUBSUB_EMULATOR_HOST", "localhost:8085");
    let open = "no write key is needed: anyone who reaches the ports may send";
    // Whether it starts, and whether it says that it is open.
    for (profile, env, starts, says) in [
        (Profile::Serve, vec![local], false, false),
        (Profile::Serve, vec![local, loopback[0]], false, false),
        (
            Profile::Serve,
            [vec![local], loopback.to_vec()].concat(),
            true,
            true,
        ),
        (Profile::Serve, vec![local, anonymous], true, true),
        (Profile::Serve, vec![local, emulator], true, true),
        (Profile::Serve, vec![local, KEYS], true, false),
        (Profile::Serve, vec![local, KEYS, anonymous], true, true),
        (Profile::Dev, vec![], true, false),
        (
            Profile::Dev,
            vec![("EVENTKIT_HTTP_ADDR", "0.0.0.0:8000")],
            true,
            false,
        ),
    ] {
        match validate(&inputs(profile, &env, &[])) {
            Ok(checked) => {
                let said = checked
                    .warnings
                    .iter()
                    .filter(|warning| warning.text == open);
                assert_eq!((starts, said.count()), (true, usize::from(says)), "{env:?}");
            }
            Err(problems) => {
                assert!(!starts, "{env:?}: {problems}");
                assert!(
                    problems.to_string().contains("eventkit keys add"),
                    "{problems}"
                );
            }
        }
        // What opens no port asks nobody.
        assert!(
            validate_without_ports(&inputs(profile, &env, &[])).is_ok(),
            "{env:?}"
        );
    }
}

#[test]
fn the_admin_port_is_on_loopback_or_has_a_token() {
    let (everywhere, token) = (
        ("EVENTKIT_ADMIN_ADDR", "0.0.0.0:9090"),
        ("EVENTKIT_ADMIN_TOKEN", "0123456789abcdef"),
    );
    assert_eq!(
        config(&[everywhere, token]).admin.token.as_deref(),
        Some(token.1)
    );
    for (env, word) in [
        (vec![everywhere], "set EVENTKIT_ADMIN_TOKEN"),
        (vec![("EVENTKIT_ADMIN_TOKEN", "too short")], "16 or more"),
        (
            vec![("EVENTKIT_ADMIN_TOKEN", "with a space in it")],
            "16 or more",
        ),
    ] {
        let found = problems(Profile::Dev, &env);
        assert!(found.len() == 1 && found[0].contains(word), "{found:?}");
        assert!(
            !found[0].contains("short") && !found[0].contains("space"),
            "{found:?}"
        );
    }
}

#[test]
fn certificates_come_with_their_keys() {
    let [cert, key, roots] = [
        ("EVENTKIT_TLS_CERT_FILE", "/cert.pem"),
        ("EVENTKIT_TLS_KEY_FILE", "/key.pem"),
        ("EVENTKIT_TLS_CLIENT_CA_FILE", "/roots.pem"),
    ];
    assert_eq!(config(&[]).ingress.guard.tls, None);
    let tls = config(&[cert, key, roots]).ingress.guard.tls.unwrap();
    assert_eq!(tls.client_roots.as_deref(), Some(Path::new("/roots.pem")));
    assert!(!tls.clients_optional);
    for env in [vec![cert], vec![key], vec![roots]] {
        assert_eq!(problems(Profile::Dev, &env).len(), 1, "{env:?}");
    }
}
