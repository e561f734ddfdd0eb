//! The document at `/openapi.json`, as it was reviewed; and the real binary, held to it by schemathesis.
//!
//! `scripts/setup` installs schemathesis; `tests/openapi/` has its version, its settings and what it has to know beside the document. Without it
//! the tests fail with `CI=true` and are listed as not run elsewhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::keys::keyed_gateway;
use crate::sdks::driver;
use crate::support::clients;
use crate::support::gateway::{Endpoints, Gateway};

/// How long schemathesis may take, on a machine that is busy; alone it takes a fraction of it.
const ENDS_WITHIN: Duration = Duration::from_secs(240);

/// A limit that it can reach.
const LIMIT: (&str, &str) = ("EVENTKIT_MAX_BATCH_EVENTS", "20");

async fn document(endpoints: &Endpoints) -> Value {
    let http = clients::Http::new(endpoints);
    let (status, document) = http.get("/openapi.json").await.unwrap();
    assert_eq!(status, 200);
    document
}

/// JSON on few lines: what fits on one stands on one.
fn written(value: &Value, depth: usize, text: &mut String) {
    let (flat, indent) = (value.to_string(), "  ".repeat(depth + 1));
    let (open, close, members): (_, _, Vec<(String, &Value)>) = match value {
        Value::Object(members) if flat.len() > 110 => {
            let named = members
                .iter()
                .map(|(name, value)| (format!("{name}: "), value));
            ("{", "}", named.collect())
        }
        Value::Array(items) if flat.len() > 110 => {
            let items = items.iter().map(|item| (String::new(), item));
            ("[", "]", items.collect())
        }
        _ => {
            text.push_str(&flat);
            return;
        }
    };
    text.push_str(open);
    for (name, member) in members {
        write!(text, "\n{indent}{name}").unwrap();
        written(member, depth + 1, text);
    }
    write!(text, "\n{}{close}", "  ".repeat(depth)).unwrap();
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(to) => document.pointer(to.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

#[tokio::test]
async fn the_document_is_what_was_reviewed() {
    let dir = tempfile::tempdir().unwrap();
    let (_gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    let mut text = String::new();
    written(&document(&endpoints).await, 0, &mut text);
    insta::assert_snapshot!("openapi", text);
}

#[tokio::test]
async fn whoever_asks_gets_it_wherever_he_asks_from() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = ("EVENTKIT_HTTP_PREFIX", "/first/party");
    let (_gateway, endpoints, _key) = keyed_gateway(dir.path(), &[prefix]).await;
    let http = clients::Http::new(&endpoints);
    for path in ["/openapi.json", "/first/party/openapi.json"] {
        let headers = [("origin", "https://shop.example")];
        let answer = http
            .exchange_with(Method::GET, path, &headers, Bytes::new())
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(
            header("access-control-allow-origin"),
            "https://shop.example"
        );
        assert!(!header("x-request-id").is_empty());
        let document: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(document["servers"][1]["url"], "/first/party");
        // With keys, and without strangers, there is no way in without one.
        let ways = &document["paths"]["/collect"]["post"]["security"];
        assert_eq!(ways.as_array().unwrap().len(), 4, "{ways}");
    }
}

#[tokio::test]
async fn every_path_of_the_document_answers_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let (_gateway, endpoints) = Gateway::start(dir.path(), &[LIMIT]).await.unwrap();
    let (document, http) = (document(&endpoints).await, clients::Http::new(&endpoints));
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = resolved(&document, item).as_object().unwrap();
        for (method, operation) in methods {
            let named = path.replace("{stream}", "shop").replace("{key}", "any");
            let query = if path.contains("pixel") {
                "?userId=u&event=e"
            } else {
                ""
            };
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let body = match path.trim_end_matches('/').rsplit('/').next() {
                _ if method != Method::POST => String::new(),
                Some("batch" | "b" | "import") => json!({"batch": [{"userId": "u"}]}).to_string(),
                _ => json!({"userId": "u"}).to_string(),
            };
            let (target, asked) = (format!("{named}{query}"), method.clone());
            let answer = http
                .exchange(method, &target, body.into())
                .await
                .unwrap_or_else(|error| panic!("{asked} {target}: {error:#}"));
            let status = answer.status().as_u16();
            let documented = &operation["responses"][status.to_string()];
            assert!((200..300).contains(&status), "{asked} {target}: {status}");
            assert!(documented.is_object(), "{asked} {target}: {status}");
        }
    }
}

fn tool() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tool = root.join(".tools/openapi/venv/bin/schemathesis");
    if !tool.exists() {
        let what = "the document at /openapi.json against the real binary";
        driver::missing("schemathesis", &format!("{what} (scripts/setup says why)"));
        return None;
    }
    Some(tool)
}

/// One path for each item of the document: the other spellings share it.
fn one_of_each(document: &Value) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let paths = document["paths"].as_object().unwrap();
    let distinct = paths
        .iter()
        .filter(|(_, item)| match item["$ref"].as_str() {
            Some(to) => seen.insert(to.to_owned()),
            None => true,
        });
    distinct.map(|(path, _)| path.as_str()).collect()
}

/// Runs it over these paths; how many requests that were, all answered as the document says.
async fn run(tool: &Path, endpoints: &Endpoints, paths: &[&str], more: &[&str]) -> usize {
    let given = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi");
    let mut command = Command::new(tool);
    command
        .arg("--config-file")
        .arg(given.join("schemathesis.toml"))
        .args(["run", &format!("http://{}/openapi.json", endpoints.http)])
        .args(["--url", &format!("http://{}", endpoints.http)])
        .args(paths.iter().flat_map(|path| ["--include-path", path]))
        .args(more)
        .env("PYTHONPATH", &given)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(ENDS_WITHIN, command.output())
        .await
        .expect("it ends in time")
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    let tested = format!("Tested: {}", operations(paths));
    assert!(said.contains(&tested), "{tested} of:\n{said}");
    let counted = said
        .lines()
        .find_map(|line| line.split_once(" generated, "));
    let (generated, rest) = counted.unwrap_or_else(|| panic!("{said}"));
    assert!(
        rest.starts_with(&format!("{} passed", generated.trim())),
        "{said}"
    );
    generated.trim().parse().unwrap()
}

/// How many operations these paths have: pixels have two.
fn operations(paths: &[&str]) -> usize {
    let pixels = paths.iter().filter(|path| path.contains("pixel"));
    paths.len() + pixels.count()
}

#[tokio::test]
async fn the_program_keeps_to_its_document() {
    let Some(tool) = tool() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[LIMIT]).await.unwrap();
    let document = document(&endpoints).await;
    let paths = one_of_each(&document);
    assert!(paths.len() > 40, "{paths:?}");
    let cases = run(&tool, &endpoints, &paths, &[]).await;
    assert!(cases > 4_000, "{cases}");
    drop(gateway);
}

#[tokio::test]
async fn nobody_gets_past_a_key_that_the_document_asks_for() {
    let Some(tool) = tool() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints, key) = keyed_gateway(dir.path(), &[LIMIT]).await;
    let paths = [
        "/collect",
        "/collect/{stream}",
        "/v1/track",
        "/v1/batch",
        "/t",
        "/b",
        "/beacon/v1/batch",
        "/pixel/v1/page",
        "/sourceConfig",
        "/v1/projects/{key}/settings",
    ];
    let key = format!("X-Write-Key: {key}");
    // It would put keys of its own beside the right one, and a bearer token that is none is passed over.
    let alone = ["--generation-with-security-parameters", "false"];
    let more = [&["--header", &key][..], &alone].concat();
    let cases = run(&tool, &endpoints, &paths, &more).await;
    assert!(cases > 1_000, "{cases}");
    drop(gateway);
}
