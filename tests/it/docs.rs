//! What the documents say about the program is what the program says about itself.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use eventkit::config::settings::{ALL, Fallback, Kind, Setting};
use eventkit::ingress::outcome::RequestError;
use eventkit::status::{Code, Retry};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::clients;
use crate::support::gateway::Gateway;

mod answers;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn default(setting: &Setting) -> String {
    match setting.default {
        Fallback::Is(value) => format!("`{value}`"),
        Fallback::Per { dev, serve } => format!("`{dev}` (dev), `{serve}` (serve)"),
        Fallback::InDataDir(name) => format!("`{name}` in the data directory"),
        Fallback::HostName => "the host name".into(),
        Fallback::Unset("") => "–".into(),
        Fallback::Unset(what) => what.into(),
    }
}

fn values(kind: Kind) -> String {
    match kind {
        Kind::Choice(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", "),
        Kind::Count(min, max) => format!("{min} to {max}"),
        Kind::Bytes(min, max) => format!("{min} to {max} bytes; `4MiB` is understood"),
        Kind::Seconds(min, max) => format!("{min} to {max} seconds; `500ms`, `5m` are understood"),
        Kind::Hours(min, max) => format!("{min} to {max} hours"),
        Kind::Millis(min, max) => format!("{min} to {max} milliseconds"),
        Kind::Bool => "`true`, `false`".into(),
        Kind::Networks => "addresses and networks, with commas between".into(),
        Kind::Text | Kind::Any | Kind::Path | Kind::Address => kind.value_name().to_lowercase(),
    }
}

/// `docs/configuration.md`, as the table of settings has it.
fn configuration() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Every setting is an environment variable and a flag (`--like-this`), but for OpenTelemetry's own variables, which have no flags; a flag wins over the environment, the environment over \
         the default. `eventkit config print` shows what is in force and where it comes from, `eventkit config check` everything that is \
         wrong at once. An unknown `EVENTKIT_*` variable is an error.\n\n\
         This page is generated from the program's own table: `UPDATE_DOCS=1 cargo test --test it docs::`.\n",
    );
    let mut heading = "";
    for setting in ALL {
        if setting.heading != heading {
            heading = setting.heading;
            write!(page, "\n## {heading}\n\n| variable | flag | default | values | meaning |\n|---|---|---|---|---|\n").unwrap();
        }
        let Setting {
            env, flag, help, ..
        } = setting;
        let flag = match *flag {
            "" => "–".to_owned(),
            flag => format!("`--{flag}`"),
        };
        let instead = setting
            .deprecated
            .map(|_| "*Deprecated.* ")
            .unwrap_or_default();
        writeln!(
            page,
            "| `{env}` | {flag} | {} | {} | {instead}{help} |",
            default(setting),
            values(setting.kind)
        )
        .unwrap();
    }
    page
}

#[test]
fn the_page_of_settings_is_the_table_of_settings() {
    let path = root().join("docs/configuration.md");
    #[expect(
        clippy::disallowed_methods,
        reason = "how a person asks for the page to be written"
    )]
    if std::env::var("UPDATE_DOCS").is_ok() {
        std::fs::write(&path, configuration()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(
        page == configuration(),
        "stale: UPDATE_DOCS=1 cargo test --test it docs::"
    );
}

/// A code's name in gRPC, as its specification spells it.
fn grpc_name(code: Code) -> String {
    let grpc = format!("{:?}", code.grpc());
    let letters = grpc.chars().enumerate();
    letters.fold(String::new(), |mut name, (at, c)| {
        if at > 0 && c.is_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
        name
    })
}

/// The rows of every code, as the program's own list has them.
fn codes() -> String {
    let mut rows = String::from(
        "\n| code | HTTP | gRPC | again? | what a client hears |\n|---|---|---|---|---|\n",
    );
    for &code in Code::ALL {
        let again = match (code.retry(), RequestError::from(code).retry_after()) {
            (Retry::Never, _) => "no".to_owned(),
            (Retry::SameIds, None) => "yes, same ids".to_owned(),
            (Retry::SameIds, Some(_)) if code == Code::RateLimited => {
                "yes, same ids, after the time that is told".to_owned()
            }
            (Retry::SameIds, Some(wait)) => format!("yes, same ids, after {} s", wait.as_secs()),
        };
        let (http, grpc, text) = (code.http(), grpc_name(code), code.text());
        writeln!(rows, "| `{code}` | {http} | `{grpc}` | {again} | {text} |").unwrap();
    }
    rows.push('\n');
    rows
}

#[test]
fn the_page_of_the_protocols_has_every_code_and_the_defaults_in_force() {
    const BEGIN: &str = "UPDATE_DOCS=1 cargo test --test it docs:: -->\n";
    const END: &str = "<!-- /codes -->";
    let path = root().join("docs/protocol.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (listed, after) = rest.split_once(END).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "how a person asks for the page to be written"
    )]
    if std::env::var("UPDATE_DOCS").is_ok() {
        let page = format!("{before}{BEGIN}{}{END}{after}", codes());
        std::fs::write(&path, page).unwrap();
    } else {
        assert!(
            listed == codes(),
            "stale: UPDATE_DOCS=1 cargo test --test it docs::"
        );
    }
    let (mut rows, mut named) = (0, 0);
    for line in page.lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let setting = |cell: &str| {
            let name = cell.strip_prefix('`')?.strip_suffix('`')?;
            ALL.iter().find(|setting| setting.env == name)
        };
        for (at, found) in cells
            .iter()
            .enumerate()
            .filter_map(|(at, cell)| Some((at, setting(cell)?)))
        {
            assert_eq!(cells[at + 1], default(found), "{line}");
            rows += 1;
        }
        for name in line.split('`').filter(|name| name.starts_with("EVENTKIT_")) {
            let name = name.split('=').next().unwrap();
            assert!(ALL.iter().any(|setting| setting.env == name), "{name}");
            named += 1;
        }
    }
    assert!(rows >= 14 && named > rows, "{rows} {named}");
}

/// A metric's name without what its type adds to it.
fn base(name: &str) -> &str {
    let name = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    name.strip_suffix("_total").unwrap_or(name)
}

/// The names in the first column of `docs/metrics.md`.
fn documented() -> BTreeSet<String> {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `eventkit_"));
    rows.map(|row| format!("eventkit_{}", base(row.split('`').next().unwrap())))
        .collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_metric_of_the_source_is_documented_and_no_other() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut named = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let literals = text
            .split("\"eventkit_")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        let names =
            literals.filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        named.extend(names.map(|name| format!("eventkit_{}", base(name))));
    }
    assert_eq!(named, documented());
}

/// The text of `/metrics`, asked for as plainly as can be.
pub(crate) async fn scrape(admin: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

#[tokio::test]
async fn what_a_scrape_shows_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    let http = clients::Http::new(&endpoints);
    let events = json!([
        {"type": "track", "messageId": "a", "userId": "u", "event": "e"},
        {"type": "track", "messageId": "a", "userId": "u", "event": "e"},
        {"type": "track", "messageId": "b"},
        5,
    ]);
    let answer = http.post("/collect", events.to_string()).await.unwrap();
    assert_eq!(answer.0, 202);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let text = loop {
        let text = scrape(&endpoints.admin).await;
        if text.contains("eventkit_loader_rows_merged_total{table=\"errors\"} 1") {
            break text;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "nothing was loaded: {text}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let shown = text.lines().filter(|line| !line.starts_with('#'));
    let shown: BTreeSet<String> = shown
        .filter_map(|line| line.split(['{', ' ']).next())
        .filter(|name| !name.is_empty())
        .map(|name| base(name).to_owned())
        .collect();
    let unknown: Vec<_> = shown.difference(&documented()).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for old in [
        "events_received_total",
        "events_processed_total",
        "events_failed_total",
        "queue_depth",
    ] {
        let name = format!("eventkit_{old}");
        assert!(
            text.contains(&name),
            "the predecessor's {name} is missing:\n{text}"
        );
    }
    drop(gateway);
}
