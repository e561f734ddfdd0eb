//! Every program of `examples/`, with its language's own libraries and with stubs made from `proto/`, against the real binary: what goes in is one
//! row each, also when answers are lost and the gateway ends in the middle.
//!
//! `scripts/setup` installs what they need and makes the stubs. What is missing fails with `CI=true` and is listed as not run elsewhere.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::sdks::driver::{self, Driver};
use crate::sdks::front::{Fault, Front};
use crate::support::gateway::Gateway;
use crate::support::warehouse;

mod relay;

use relay::Relay;

/// How long everything may take: clients wait between their tries, and the machine may be busy.
const ROWS_WITHIN: Duration = Duration::from_secs(90);
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// How many users the lines are about.
const USERS: usize = 7;

/// An example that streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Example {
    Python,
    Node,
    Go,
    Rust,
}

const ALL: [Example; 4] = [Example::Python, Example::Node, Example::Go, Example::Rust];

/// A program of `examples/rust`, which cargo builds beside the tests.
fn built(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let built = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        built.exists(),
        "{} is missing: cargo build --examples",
        built.display()
    );
    built
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// Where the set-up puts what an example needs.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/examples")
}

/// Whether the set-up of an example came to its end.
fn is_set_up(name: &'static str) -> bool {
    let is_there = tools().join(name).with_extension("stamp").exists();
    if !is_there {
        driver::missing(
            name,
            &format!("the program of examples/{name} (scripts/setup says why)"),
        );
    }
    is_there
}

impl Example {
    /// The gateway's address as it is told.
    fn address(self, grpc: impl std::fmt::Display) -> String {
        match self {
            Self::Rust => format!("grpc://{grpc}"),
            Self::Python | Self::Node | Self::Go => grpc.to_string(),
        }
    }

    /// The command as its README has it, to which the address is added; `None`: it is listed as not run.
    async fn command(self) -> Option<Command> {
        let name = match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Go => "go",
            Self::Rust => return Some(Command::new(built("send"))),
        };
        if !is_set_up(name) {
            return None;
        }
        let (sources, tools) = (sources().join(name), tools().join(name));
        Some(match self {
            Self::Python => {
                let mut command = Command::new(tools.join("venv/bin/python"));
                command.env("PYTHONPATH", tools.join("stubs"));
                command.arg(sources.join("send.py"));
                command
            }
            Self::Node => {
                // Node looks for packages beside the script.
                let script = tools.join("send.mjs");
                driver::place(&sources.join("send.mjs"), &script);
                let mut command = Command::new("node");
                let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
                command.env("PROTO_DIR", proto).arg(script);
                command
            }
            Self::Rust => return None,
            Self::Go => {
                driver::place(&sources.join("main.go"), &tools.join("main.go"));
                let output = Command::new("go")
                    .args(["build", "-o", "bin/send", "."])
                    .current_dir(&tools)
                    .output()
                    .await
                    .unwrap();
                assert!(output.status.success(), "{output:?}");
                Command::new(tools.join("bin/send"))
            }
        })
    }
}

/// Lines as the examples read them: `n` stands in each.
fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.fold(String::new(), |mut lines, n| {
        let user = n % USERS;
        writeln!(
            lines,
            r#"{{"userId":"u{user}","event":"Counted","properties":{{"n":{n}}}}}"#
        )
        .unwrap();
        lines
    })
}

/// The counts of an example's last line.
fn counts(said: &str) -> [u64; 3] {
    let line = said
        .lines()
        .find(|line| line.starts_with("accepted "))
        .unwrap_or_else(|| panic!("{said}"));
    let words: Vec<&str> = line.split(' ').collect();
    ["accepted", "duplicate", "rejected"].map(|name| {
        let at = words.iter().position(|word| *word == name).unwrap();
        words[at + 1].parse().unwrap()
    })
}

/// A gateway whose rows are looked at.
struct Scene {
    dir: tempfile::TempDir,
    gateway: Gateway,
}

impl Scene {
    async fn rows(&self, expected: usize, driver: &Driver) {
        let began = Instant::now();
        let expected = u64::try_from(expected).unwrap();
        while warehouse::counts(self.dir.path()).0 < expected {
            assert!(
                began.elapsed() < ROWS_WITHIN,
                "{:?} of {expected} rows; it said:\n{}",
                warehouse::counts(self.dir.path()),
                driver.said()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same for a page, whose one user is "ada": the numbers are 1 to 3.
    async fn end_of_page(self) {
        let found = self.numbers().await;
        let expected = [1, 2, 3].map(|n| ("ada".to_owned(), n));
        assert_eq!(found, expected);
    }

    /// Lets the gateway end: each number was one row, each user's in the order in which they were sent.
    async fn end(self, numbers: usize) {
        let expected: Vec<(String, i64)> = (0..USERS)
            .flat_map(|user| (user..numbers).step_by(USERS).map(move |n| (user, n)))
            .map(|(user, n)| (format!("u{user}"), i64::try_from(n).unwrap()))
            .collect();
        assert_eq!(self.numbers().await, expected);
    }

    /// Lets the gateway end; the number in each row, user by user.
    async fn numbers(self) -> Vec<(String, i64)> {
        let ended = self.gateway.terminate(DRAIN_WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
        let connection = warehouse::open(self.dir.path()).unwrap();
        let query = r#"SELECT user_id, json_extract(CAST(properties AS TEXT), '$.n') FROM events
            ORDER BY lane, "offset""#;
        let mut statement = connection.prepare(query).unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        let mut found: Vec<(String, i64)> = rows.map(Result::unwrap).collect();
        // Stable: the order within each user stays.
        found.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(warehouse::counts(self.dir.path()).1, 0);
        found
    }
}

async fn start(dir: &Path) -> (Gateway, String, String) {
    let (gateway, endpoints) = Gateway::start(dir, &[]).await.unwrap();
    (gateway, endpoints.grpc, endpoints.http)
}

/// What went in, and one event that no gateway takes.
async fn one_row_of_each_line(example: Example) {
    let Some(mut command) = example.command().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (gateway, grpc, _) = start(dir.path()).await;
    let mut driver = Driver::of({
        command.arg(example.address(grpc));
        command
    });
    let deep = "{\"a\":".repeat(80) + "1" + &"}".repeat(80);
    driver.feed(&lines(0..500)).await;
    driver
        .feed(&format!(
            "{{\"userId\":\"u\",\"event\":\"Deep\",\"properties\":{deep}}}\n"
        ))
        .await;
    driver.feed(&lines(500..1_000)).await;
    let said = driver.end().await;
    assert_eq!(counts(&said), [1_000, 0, 1], "{said}");
    assert!(
        said.contains("rejected ") && said.contains(": too_deep: "),
        "{said}"
    );
    Scene { dir, gateway }.end(1_000).await;
}

/// The gateway is stopped in the middle of a stream; then answers get lost, and it is killed.
async fn one_row_of_each_line_over_restarts(example: Example) {
    let Some(mut command) = example.command().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (gateway, grpc, _) = start(dir.path()).await;
    let relay = Relay::to(&grpc).await;
    command.arg(example.address(relay.addr));
    let mut driver = Driver::of(command);
    driver.feed(&lines(0..300)).await;
    let mut scene = Scene { dir, gateway };
    scene.rows(300, &driver).await;

    let ended = scene.gateway.terminate(DRAIN_WITHIN).await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
    driver.feed(&lines(300..600)).await;
    let (gateway, grpc, _) = start(scene.dir.path()).await;
    relay.lead_to(&grpc);
    scene.gateway = gateway;
    scene.rows(600, &driver).await;

    relay.keep_answers_back();
    driver.feed(&lines(600..900)).await;
    // One batch at a time is under way in Rust, so that the others wait for the answer that does not come.
    let unheard = if example == Example::Rust { 1 } else { 300 };
    scene.rows(600 + unheard, &driver).await;
    let none: &[String] = &[];
    assert_eq!(scene.gateway.kill().await.unwrap(), none);
    driver.feed(&lines(900..1_000)).await;
    let (gateway, grpc, _) = start(scene.dir.path()).await;
    relay.lead_to(&grpc);
    scene.gateway = gateway;
    let said = driver.end().await;
    let [accepted, duplicate, rejected] = counts(&said);
    assert_eq!((accepted + duplicate, rejected), (1_000, 0), "{said}");
    // These were stored, and nobody had heard of it.
    assert!(duplicate >= u64::try_from(unheard).unwrap(), "{said}");
    if example != Example::Rust {
        assert!(said.matches("batches again in").count() >= 2, "{said}");
    }
    scene.end(1_000).await;
}

/// A stream ends with its deadline, and the next one goes on.
async fn one_row_of_each_line_over_deadlines(example: Example) {
    let Some(mut command) = example.command().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (gateway, grpc, _) = start(dir.path()).await;
    command.arg(grpc).env("STREAM_SECONDS", "1");
    let mut driver = Driver::of(command);
    let scene = Scene { dir, gateway };
    let mut sent = 0;
    while driver.said().matches("batches again in").count() < 2 {
        driver.feed(&lines(sent..sent + 10)).await;
        sent += 10;
        scene.rows(sent, &driver).await;
    }
    let said = driver.end().await;
    let [accepted, duplicate, rejected] = counts(&said);
    let all = u64::try_from(sent).unwrap();
    assert_eq!((accepted + duplicate, rejected), (all, 0), "{said}");
    scene.end(sent).await;
}

#[tokio::test]
async fn each_streaming_example_makes_one_row_of_each_line_and_names_what_is_refused() {
    for example in ALL {
        one_row_of_each_line(example).await;
    }
}

#[tokio::test]
async fn python_goes_on_when_answers_are_lost_and_the_gateway_ends() {
    one_row_of_each_line_over_restarts(Example::Python).await;
}

#[tokio::test]
async fn node_goes_on_when_answers_are_lost_and_the_gateway_ends() {
    one_row_of_each_line_over_restarts(Example::Node).await;
}

#[tokio::test]
async fn go_goes_on_when_answers_are_lost_and_the_gateway_ends() {
    one_row_of_each_line_over_restarts(Example::Go).await;
}

#[tokio::test]
async fn rust_goes_on_when_answers_are_lost_and_the_gateway_ends() {
    one_row_of_each_line_over_restarts(Example::Rust).await;
}

#[tokio::test]
async fn a_single_event_of_rust_is_one_row() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, _, http) = start(dir.path()).await;
    let one = Command::new(built("one"))
        .arg(format!("http://{http}"))
        .output()
        .await
        .unwrap();
    assert!(one.status.success(), "{one:?}");
    assert_eq!(String::from_utf8(one.stdout).unwrap(), "Accepted\n");
    let ended = gateway.terminate(DRAIN_WITHIN).await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
    assert_eq!(warehouse::counts(dir.path()), (1, 0));
}

/// Rust's client gives its stream no deadline; the gateway does (`EVENTKIT_MAX_STREAM_AGE`).
#[tokio::test]
async fn each_streaming_example_goes_on_after_a_streams_deadline() {
    for example in [Example::Python, Example::Node, Example::Go] {
        one_row_of_each_line_over_deadlines(example).await;
    }
}

/// `examples/curl`, behind what may be done to its first requests.
#[tokio::test]
async fn curl_makes_one_row_of_each_line_that_is_refused_or_whose_answer_is_lost() {
    for faults in [
        &[][..],
        &[Fault::Status(503), Fault::Status(429), Fault::DropAnswer],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (gateway, _, http) = start(dir.path()).await;
        let front = Front::to(&http, faults).await;
        let mut command = Command::new("bash");
        command.arg(sources().join("curl/send.sh"));
        command.arg(format!("http://{}", front.addr));
        let mut driver = Driver::of(command);
        driver.feed(&lines(0..1_100)).await;
        let said = driver.end().await;
        // 500 lines a request.
        let seen = front.seen();
        assert_eq!(seen.len(), 3 + faults.len(), "{seen:?}");
        assert!(seen.iter().all(|seen| seen.path == "/collect"), "{seen:?}");
        assert_eq!(
            said.contains(r#""duplicate":500"#),
            !faults.is_empty(),
            "{said}"
        );
        Scene { dir, gateway }.end(1_100).await;
    }
}

/// The page of `examples/browser` in Chromium, on another origin than the gateway.
async fn page(front: &Front, clicks: usize) -> Option<Driver> {
    if !is_set_up("browser") {
        return None;
    }
    let Some(chromium) = driver::chromium() else {
        driver::missing("Chromium", "examples/browser (scripts/setup says why)");
        return None;
    };
    let (sources, site) = (sources().join("browser"), tools().join("browser"));
    for file in ["send.js", "index.html"] {
        driver::place(&sources.join(file), &site.join(file));
    }
    let bundled = Command::new(site.join("node_modules/.bin/esbuild"))
        .args([
            "send.js",
            "--bundle",
            "--format=esm",
            "--outfile=dist/send.js",
        ])
        .current_dir(&site)
        .output()
        .await
        .unwrap();
    assert!(bundled.status.success(), "{bundled:?}");
    let mut command = Command::new("node");
    command.arg(driver::page_script("shop.mjs"));
    command.arg(site).arg("index.html");
    command.arg(format!("http://{}", front.addr));
    command.arg(clicks.to_string()).env("CHROMIUM", chromium);
    Some(Driver::of(command))
}

#[tokio::test]
async fn a_page_on_another_origin_makes_one_row_of_each_event() {
    for fault in [None, Some(Fault::Status(503)), Some(Fault::DropAnswer)] {
        let dir = tempfile::tempdir().unwrap();
        let (gateway, _, http) = start(dir.path()).await;
        let front = Front::to(&http, fault.as_slice()).await;
        let Some(driver) = page(&front, 3).await else {
            return;
        };
        let scene = Scene { dir, gateway };
        scene.rows(3, &driver).await;
        let said = driver.end().await;
        assert!(said.contains("stored 3"), "{said}");
        let collect = "/eventkit.v1.IngestService/Collect";
        assert!(front.asked().iter().any(|path| path == collect), "{said}");
        for seen in front.seen() {
            assert_eq!(seen.path, collect);
            assert_eq!(seen.headers["content-type"], "application/grpc-web+proto");
            assert!(
                seen.headers.contains_key("origin") && seen.headers.contains_key("grpc-timeout")
            );
        }
        let connection = warehouse::open(scene.dir.path()).unwrap();
        let query = "SELECT count(*) FROM events WHERE json_extract(context, '$.ip') = '127.0.0.1'
            AND json_extract(context, '$.userAgent') LIKE '%Chrome%'";
        let of_clients: i64 = connection.query_row(query, [], |row| row.get(0)).unwrap();
        assert_eq!(of_clients, 3);
        drop(connection);
        scene.end_of_page().await;
    }
}

#[tokio::test]
async fn a_page_goes_on_when_an_answer_is_lost_and_the_gateway_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, _, http) = start(dir.path()).await;
    let front = Front::to(&http, &[Fault::DropAnswerAndHold]).await;
    let Some(driver) = page(&front, 3).await else {
        return;
    };
    tokio::time::timeout(ROWS_WITHIN, front.faults_done(1))
        .await
        .unwrap_or_else(|_elapsed| panic!("nothing was sent:\n{}", driver.said()));
    let none: &[String] = &[];
    assert_eq!(gateway.kill().await.unwrap(), none);
    let (gateway, _, http) = start(dir.path()).await;
    front.lead_to(&http);
    let scene = Scene { dir, gateway };
    scene.rows(3, &driver).await;
    let said = driver.end().await;
    assert!(said.contains("stored 3"), "{said}");
    scene.end_of_page().await;
}
