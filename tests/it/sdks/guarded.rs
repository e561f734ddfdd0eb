//! The SDKs at a gateway that asks for keys: with one that is slower than they are, and on a page that may not use it.

use std::path::PathBuf;

use serde_json::Value;

use super::columns::assert_all_six;
use super::*;
use crate::keys::keys;

const SHOP: &str = "http://shop.example";
const THIEF: &str = "http://thief.example";

/// How many events a key may send in a second. After the first five together the next are refused for four seconds, which a busy
/// machine does not let pass unused; after one alone for one, which it would have to let pass five times.
const EACH_SECOND: &str = "1";
const AT_A_TIME: usize = 5;
/// Of one who sends the rest beside the first, which either may overtake: whichever comes first, the other is refused for two seconds.
const HALF_AT_A_TIME: usize = 3;

/// A gateway that knows one key for each of some sources.
struct Guarded {
    dir: tempfile::TempDir,
    gateway: Gateway,
    http: String,
    keys: Vec<(&'static str, String)>,
}

/// Applications in one process, each with its source, behind a port of its own.
struct Running {
    driver: Driver,
    senders: Vec<Sender>,
}

struct Sender {
    app: App,
    source: &'static str,
    front: Front,
}

impl Guarded {
    /// Each source has a key of this rate for pages of the shop.
    async fn start(sources: &[(&'static str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        let mut known = Vec::new();
        for (source, each_second) in sources {
            let add = [
                "add",
                "--source",
                source,
                "--origin",
                SHOP,
                "--events-per-second",
                each_second,
            ];
            let key = keys(&file, &add, "").await;
            known.push((*source, key.trim().to_owned()));
        }
        let file = file.display().to_string();
        let settings = [
            ("EVENTKIT_WRITE_KEYS_FILE", file.as_str()),
            ("EVENTKIT_RATE_BURST", "1"),
        ];
        let started = Gateway::start(&dir.path().join("data"), &settings).await;
        let (gateway, endpoints) = started.unwrap();
        Self {
            dir,
            gateway,
            http: endpoints.http,
            keys: known,
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts applications with the key of their source; pages come from an origin.
    async fn run(&self, senders: &[(Sdk, &'static str, &'static str)]) -> Option<Running> {
        let started = senders.iter().map(async |(sdk, source, origin)| {
            let front = Front::to(&self.http, &[]).await;
            let key = self.keys.iter().find(|(of, _)| of == source);
            let mut app = App {
                key: key.expect("it was made").1.clone(),
                origin: Some(origin),
                ..App::new(*sdk, front.addr, "all")
            };
            match *sdk {
                // What leaves with its page leaves at once.
                UNLOAD => {}
                NODE => app.size = HALF_AT_A_TIME,
                _ => app.size = AT_A_TIME,
            }
            Sender { app, source, front }
        });
        let senders = join_all(started).await;
        let apps: Vec<App> = senders.iter().map(|sender| sender.app.clone()).collect();
        let driver = Driver::start(&apps)?;
        Some(Running { driver, senders })
    }

    async fn has(&self, expected: u64, running: &[Running]) {
        let held = || warehouse::counts(&self.data());
        let said = || running.iter().map(|running| running.driver.said());
        until(
            || held().0 >= expected,
            || {
                format!(
                    "{:?} of {expected}: {:?}",
                    held(),
                    said().collect::<Vec<_>>()
                )
            },
        )
        .await;
    }

    /// Lets it end; the rows of each source.
    async fn end(self, expected: u64) -> impl Fn(&str) -> Vec<Value> {
        let data = self.data();
        let keys: Vec<&str> = self.keys.iter().map(|(_, key)| key.as_str()).collect();
        let rows = rows_of(self.gateway, &data, expected, &keys).await;
        move |source| {
            let of_source = rows.iter().filter(|row| row["source"] == source);
            of_source.cloned().collect()
        }
    }
}

/// The gateway itself told it to wait, as long as it takes and no longer, and took everything once.
fn assert_slowed(sender: &Sender, requests: usize) {
    let Sender { app, front, .. } = sender;
    let (refused, taken): (Vec<_>, Vec<_>) = front
        .seen()
        .into_iter()
        .partition(|seen| seen.status() == Some(429));
    assert!(!refused.is_empty(), "{app:?}");
    for seen in refused {
        let answer = seen.answer.as_ref().unwrap();
        let header = |name: &str| {
            let value = answer.headers().get(name);
            value.map_or("", |value| value.to_str().unwrap())
        };
        // Whole seconds, which no SDK takes for a date.
        let wait = header("retry-after");
        assert!(["1", "2", "3", "4"].contains(&wait), "{answer:?}");
        assert!(header("x-ratelimit-reset").parse::<u64>().is_ok());
        assert_eq!(seen.told()["code"], "rate_limited");
        if let Sdk::Browser(_) = app.sdk {
            assert_eq!(header("access-control-allow-origin"), SHOP);
            let readable = header("access-control-expose-headers");
            assert!(readable.contains("Retry-After"), "{readable}");
        }
    }
    let taken: Vec<_> = taken.iter().map(Seen::status).collect();
    assert_eq!(taken, vec![Some(200); requests], "{app:?}");
}

#[tokio::test]
async fn a_server_that_is_too_fast_for_its_key_makes_one_row_of_each_call() {
    let guarded = Guarded::start(&[
        ("node", EACH_SECOND),
        ("python", EACH_SECOND),
        ("packed", EACH_SECOND),
    ])
    .await;
    let mut all = Vec::new();
    // They come from no origin, whatever their key says of pages.
    all.extend(guarded.run(&[(NODE, "node", SHOP)]).await);
    let pythons = [(PYTHON, "python", SHOP), (PYTHON_GZIP, "packed", SHOP)];
    all.extend(guarded.run(&pythons).await);
    let senders: usize = all.iter().map(|running| running.senders.len()).sum();
    let expected = senders as u64 * 6;
    guarded.has(expected, &all).await;
    let mut senders = Vec::new();
    for running in all {
        let said = running.driver.end().await;
        assert!(!said.contains("sdk error"), "{said}");
        senders.extend(running.senders);
    }
    let of_source = guarded.end(expected).await;
    for sender in &senders {
        assert_all_six(&sender.app, sender.source, &of_source(sender.source));
        assert_slowed(sender, 2);
    }
}

#[tokio::test]
async fn a_page_makes_its_rows_however_fast_it_is_and_a_page_that_stole_its_key_makes_none() {
    let guarded = Guarded::start(&[
        ("standard", EACH_SECOND),
        ("batching", EACH_SECOND),
        ("unload", EACH_SECOND),
        ("beacon", EACH_SECOND),
    ])
    .await;
    let pages = [
        (STANDARD, "standard", SHOP),
        (BATCHING, "batching", SHOP),
        (UNLOAD, "unload", SHOP),
        (BEACON, "beacon", SHOP),
        (STANDARD, "standard", THIEF),
        (BEACON, "beacon", THIEF),
    ];
    let Some(running) = guarded.run(&pages).await else {
        return;
    };
    let running = [running];
    guarded.has(24, &running).await;
    let [Running { driver, senders }] = running;
    let [standard, batching, unload, beacon, thief, thiefs_beacon] = senders.as_slice() else {
        panic!("six pages");
    };
    until(
        || thief.front.seen().len() >= 6 && !thiefs_beacon.front.seen().is_empty(),
        || driver.said(),
    )
    .await;
    let said = driver.end().await;
    let of_source = guarded.end(24).await;
    for sender in [standard, batching, unload, beacon] {
        assert_all_six(&sender.app, sender.source, &of_source(sender.source));
    }
    assert_slowed(standard, 6);
    assert_slowed(batching, 2);
    for sender in [unload, beacon] {
        let statuses: Vec<_> = sender.front.seen().iter().map(Seen::status).collect();
        assert_eq!(statuses, [Some(200)], "{:?}", sender.app);
    }

    // Refused for good, and nothing was sent again.
    for (sender, requests) in [(thief, 6), (thiefs_beacon, 1)] {
        let seen = sender.front.seen();
        assert_eq!(seen.len(), requests, "{seen:?}");
        for seen in &seen {
            assert_eq!(seen.headers["origin"], THIEF);
            assert_eq!(seen.status(), Some(403));
            assert_eq!(seen.told()["code"], "origin_not_allowed");
        }
    }
    // The SDK could read why: what it cannot read it takes for a broken network, and tries again.
    let failed: Vec<_> = said
        .lines()
        .filter(|line| line.contains("sdk error"))
        .collect();
    assert_eq!(failed.len(), 6, "{said}");
    assert!(failed.iter().all(|line| line.contains("403")), "{said}");
}
