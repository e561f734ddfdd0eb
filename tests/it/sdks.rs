//! The real SDKs, unmodified and pinned, against the real binary: what an application does with one ends as rows, whatever
//! stands between.
//!
//! `scripts/setup` installs them; `tests/sdks/` has their versions and one small application for each. What is missing fails with
//! `CI=true` and is listed as not run elsewhere. Those that are not installed are there as the bytes that they send.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::support::gateway::Gateway;
use crate::support::warehouse;

mod columns;
pub(crate) mod driver;
pub(crate) mod front;
mod guarded;
mod matrix;
mod readme;
mod shapes;

use driver::{App, Driver, KEY, Sdk};
use front::{Fault, Front, Seen};

/// How long everything may take: clients wait between their tries, and the machine may be busy.
const ROWS_WITHIN: Duration = Duration::from_secs(90);
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

const NODE: Sdk = Sdk::Node;
const PYTHON: Sdk = Sdk::Python { gzip: false };
const PYTHON_GZIP: Sdk = Sdk::Python { gzip: true };
const STANDARD: Sdk = Sdk::Browser("standard");
const BATCHING: Sdk = Sdk::Browser("batching");
const UNLOAD: Sdk = Sdk::Browser("unload");
const BEACON: Sdk = Sdk::Browser("beacon");

/// A gateway, and what stands before it.
struct Scene {
    dir: tempfile::TempDir,
    gateway: Gateway,
    front: Front,
}

/// What a scene left behind.
struct Left {
    rows: Vec<Value>,
    /// The requests with events.
    seen: Vec<Seen>,
    /// The paths that a browser asked for first.
    asked: Vec<String>,
}

impl Scene {
    async fn set(faults: &[Fault]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
        let front = Front::to(&endpoints.http, faults).await;
        Self {
            dir,
            gateway,
            front,
        }
    }

    fn app(&self, sdk: Sdk, calls: &'static str) -> App {
        App::new(sdk, self.front.addr, calls)
    }

    /// The same after the gateway was killed and another was started in its place.
    async fn restarted(self) -> Self {
        let none: &[String] = &[];
        assert_eq!(self.gateway.kill().await.unwrap(), none);
        let (gateway, endpoints) = Gateway::start(self.dir.path(), &[]).await.unwrap();
        self.front.lead_to(&endpoints.http);
        Self { gateway, ..self }
    }

    async fn has(&self, expected: u64, driver: &Driver) {
        let held = || warehouse::counts(self.dir.path());
        until(
            || held().0 >= expected,
            || {
                let (held, said, seen) = (held(), driver.said(), self.front.seen());
                format!("{held:?} of {expected} rows; the SDK said:\n{said}the requests: {seen:?}")
            },
        )
        .await;
    }

    async fn end(self, expected: u64) -> Left {
        let rows = rows_of(self.gateway, self.dir.path(), expected, &[KEY]).await;
        Left {
            rows,
            seen: self.front.seen(),
            asked: self.front.asked(),
        }
    }
}

/// Waits for something of another process, which can only be looked at; `instead`: what there is if it does not come.
async fn until(holds: impl Fn() -> bool, instead: impl Fn() -> String) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < ROWS_WITHIN, "{}", instead());
        sleep(Duration::from_millis(20)).await;
    }
}

/// Lets a gateway end, and looks that nothing came twice and no key into its log.
async fn rows_of(gateway: Gateway, data_dir: &Path, expected: u64, keys: &[&str]) -> Vec<Value> {
    let ended = gateway.terminate(DRAIN_WITHIN).await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
    assert!(ended.alarms.is_empty(), "{:?}", ended.alarms);
    for key in keys {
        assert!(!ended.said.contains(key), "{}", ended.said);
    }
    assert_eq!(warehouse::counts(data_dir), (expected, 0));
    columns::rows(data_dir)
}

/// Waits until each scene has its rows and lets the SDK end, then the gateways: what each left behind, and what the SDK said.
async fn ended(scenes: Vec<(Scene, u64)>, driver: Driver) -> (Vec<Left>, String) {
    join_all(scenes.iter().map(|(scene, rows)| scene.has(*rows, &driver))).await;
    let said = driver.end().await;
    assert!(!said.contains("sdk error"), "{said}");
    let left = scenes.into_iter().map(|(scene, rows)| scene.end(rows));
    (join_all(left).await, said)
}
