//! What must hold between settings, and which variables are not settings at all.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use super::batch;
use super::raw::{Profile, Source};
use super::reader::Reader;
use super::settings::{self, Setting};
use super::stages::{Ack, Config, QueueConfig, Role, StoreConfig};

/// An unknown `EVENTKIT_*` variable is most likely a typing error, and then a setting that silently does not apply.
pub(super) fn unknown_variables(reader: &mut Reader<'_>) {
    for (name, value) in &reader.inputs.env {
        let ours = name.starts_with("EVENTKIT_");
        // Kubernetes injects these for a service that is called eventkit.
        let injected = name.starts_with("EVENTKIT_SERVICE_") || name.starts_with("EVENTKIT_PORT");
        if !ours || injected || value.trim().is_empty() || settings::by_env(name).is_some() {
            continue;
        }
        let text = match nearest(name) {
            Some(known) => format!("there is no such setting; did you mean {known}?"),
            None => "there is no such setting; `eventkit serve --help` lists them".to_owned(),
        };
        reader.problem(name.clone(), text);
    }
}

/// The known name that is most like this one, if any is like it at all.
fn nearest(name: &str) -> Option<&'static str> {
    let own = |name: &'_ str| name.trim_start_matches("EVENTKIT_").to_owned();
    settings::ALL
        .iter()
        .map(|setting| {
            let likeness = strsim::normalized_damerau_levenshtein(&own(name), &own(setting.env));
            (likeness, setting.env)
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// A prefix of paths: `/` and a plain name, once or more, or nothing.
pub(super) fn http_prefix(reader: &mut Reader<'_>) -> String {
    let prefix = reader.text(&settings::HTTP_PREFIX);
    let prefix = prefix.trim_end_matches('/');
    let plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    };
    let is_path = prefix
        .strip_prefix('/')
        .is_none_or(|names| names.split('/').all(plain));
    reader.rule(
        &[&settings::HTTP_PREFIX],
        is_path && (prefix.is_empty() || prefix.starts_with('/')),
        "must be a path of plain names, for instance /first/party",
    );
    prefix.to_owned()
}

/// Back ends that the command does not use, or that this build does not have.
pub(super) fn engines(reader: &mut Reader<'_>) {
    let embedded: [(&'static Setting, &str); 4] = [
        (&settings::EVENT_STORE, "local"),
        (&settings::QUEUE_MODE, "async"),
        (&settings::ROLE, "all"),
        (&settings::ACK, "durable"),
    ];
    let why = match reader.inputs.profile {
        Profile::Dev => "`dev` keeps everything embedded",
        Profile::Serve if cfg!(feature = "cloud") => return,
        Profile::Serve => "this build has no Google Cloud in it (the cargo feature `cloud`)",
    };
    for (setting, word) in embedded {
        let chosen = reader.choice(setting);
        let text = format!("{why}; set {}={word}", setting.env);
        reader.rule(&[setting], chosen == word, &text);
    }
}

/// Parts that need each other.
fn parts(reader: &mut Reader<'_>, config: &Config) {
    let over_pubsub = matches!(config.queue, QueueConfig::PubSub(_));
    reader.rule(
        &[&settings::ROLE, &settings::QUEUE_MODE],
        config.role == Role::All || over_pubsub,
        "the parts of the path can only be processes of their own with EVENTKIT_QUEUE_MODE=pubsub between them",
    );
    reader.rule(
        &[&settings::ACK, &settings::QUEUE_MODE],
        config.ack == Ack::Durable || over_pubsub,
        "events are published only with EVENTKIT_QUEUE_MODE=pubsub",
    );
    let firestore = matches!(config.store, StoreConfig::Firestore { .. });
    reader.rule(
        &[&settings::ROLE, &settings::EVENT_STORE],
        config.role != Role::Loader || !firestore,
        "there is nothing to load from Firestore",
    );
    let enabled = reader.bool(&settings::WAREHOUSE_ENABLED);
    reader.rule(
        &[&settings::ROLE, &settings::WAREHOUSE_ENABLED],
        config.role != Role::Loader || enabled,
        "a loader without its warehouse has nothing to do",
    );
    for setting in [&settings::PUBSUB_TOPIC, &settings::PUBSUB_SUBSCRIPTION] {
        let name = reader.text(setting);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+%".contains(&byte);
        reader.rule(
            &[setting],
            name.len() >= 3
                && name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.bytes().all(plain)
                && !name.starts_with("goog"),
            "must be a name of 3 to 255 letters, digits and -_.~+% that begins with a letter, and not with goog",
        );
    }
    batch::size_is_within_cap(reader);
}

/// Settings that cannot both be meant.
pub(super) fn contradictions(reader: &mut Reader<'_>, config: &Config) {
    let doors = &config.ingress;
    let publisher = &config.publisher;
    reader.rule(
        &[&settings::MAX_EVENT_BYTES, &settings::MAX_BODY_BYTES],
        doors.event_bytes_max <= doors.body_bytes_max,
        "an event cannot be larger than the body it comes in",
    );
    reader.rule(
        &[&settings::MAX_BODY_BYTES, &settings::MAX_IN_FLIGHT_BYTES],
        doors.body_bytes_max <= doors.in_flight_bytes_max,
        "one body must fit into what may be under way",
    );
    let batch_bytes = reader.count::<usize>(&settings::BATCH_BYTES);
    reader.rule(
        &[&settings::MAX_EVENT_BYTES, &settings::BATCH_BYTES],
        doors.event_bytes_max <= batch_bytes,
        "one event must fit into a batch",
    );
    reader.rule(
        &[&settings::BATCH_BYTES, &settings::PIPELINE_BUDGET_BYTES],
        batch_bytes <= publisher.budget_bytes,
        "one batch must fit into the pipeline's budget",
    );
    if let Some(bytes_max) = config.wal.bytes_max {
        reader.rule(
            &[&settings::WAL_BALLAST_BYTES, &settings::WAL_MAX_BYTES],
            config.wal.ballast_bytes < bytes_max,
            "the ballast must be smaller than the log",
        );
    }
    parts(reader, config);
    retention(reader, config);
    ports(reader, config);
    places(reader, config);
}

/// What must not be forgotten too soon, and what nobody would ever forget.
fn retention(reader: &mut Reader<'_>, config: &Config) {
    let loader = &config.loader;
    let dedup_days = reader.count::<u32>(&settings::WAREHOUSE_DEDUP_DAYS);
    let enabled = reader.bool(&settings::WAREHOUSE_ENABLED);
    for (setting, days) in [
        (&settings::STORE_RETENTION_DAYS, loader.store_retention_days),
        (
            &settings::WAREHOUSE_RETENTION_DAYS,
            loader.warehouse_retention_days,
        ),
    ] {
        reader.rule(
            &[setting, &settings::WAREHOUSE_DEDUP_DAYS],
            days.is_none_or(|days| days > dedup_days),
            "what repeats are recognised by must be kept for longer than that: by default for 4 or more days (0 keeps it for ever)",
        );
        reader.rule(
            &[setting, &settings::WAREHOUSE_ENABLED],
            days.is_none() || enabled,
            "only what is recorded as loaded is ever removed, and without the warehouse nothing is",
        );
    }
}

fn ports(reader: &mut Reader<'_>, config: &Config) {
    let ports = [
        (&settings::HTTP_ADDR, config.ingress.http_addr),
        (&settings::GRPC_ADDR, config.ingress.grpc_addr),
        (&settings::ADMIN_ADDR, config.admin.addr),
    ];
    for (index, (one, address)) in ports.iter().enumerate() {
        for (other, other_address) in ports.iter().skip(index + 1) {
            reader.rule(
                &[*one, *other],
                !collide(*address, *other_address),
                "two ports cannot have the same address",
            );
        }
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let every = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || every)
}

/// The log's directory holds nothing but the log.
fn places(reader: &mut Reader<'_>, config: &Config) {
    let log = plain(&config.wal.path);
    let apart = ["store", "warehouse.db"]
        .map(|name| plain(&config.data_dir.join(name)))
        .into_iter()
        .all(|path| !path.starts_with(&log) && !log.starts_with(&path));
    reader.rule(
        &[&settings::WAL_PATH, &settings::DATA_DIR],
        apart,
        "the log needs a directory of its own, apart from store/ and warehouse.db in the data directory",
    );
}

/// The path without `.` parts, so that `./a` and `a` are the same.
fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect()
}

/// What may be meant, but has a better name or no effect.
pub(super) fn warnings(reader: &mut Reader<'_>) {
    for setting in settings::ALL {
        if reader.source(setting) == Source::Default {
            continue;
        }
        if let Some(better) = setting.deprecated {
            let overridden = settings::by_env(better)
                .is_some_and(|better| reader.source(better) != Source::Default);
            let text = if overridden {
                format!("deprecated, and {better} is set as well")
            } else {
                format!("deprecated; use {better}")
            };
            reader.warn(setting, text);
        }
    }
    let pubsub = reader.choice(&settings::QUEUE_MODE) == "pubsub";
    let (idle, mode): (&[&'static Setting], _) = if pubsub {
        (&[&settings::ASYNC_WORKERS], "pubsub")
    } else {
        (
            &[
                &settings::PUBSUB_WORKERS,
                &settings::PUBLISHER_BATCH_SIZE,
                &settings::PUBLISHER_POLL_INTERVAL,
                &settings::PUBSUB_TOPIC,
                &settings::PUBSUB_SUBSCRIPTION,
                &settings::PUBSUB_CREATE,
                &settings::PUBSUB_RETENTION_HOURS,
                &settings::PUBSUB_VERIFY_INTERVAL,
            ],
            "async",
        )
    };
    for setting in idle {
        if reader.source(setting) != Source::Default {
            let text = format!("no effect with {}={mode}", settings::QUEUE_MODE.env);
            reader.warn(setting, text);
        }
    }
}
