//! Write keys with the real binary: the tool that makes them, the file that changes under a running gateway, the column, the start that
//! is refused, and nothing of a key in anything that is shown.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::docs::scrape;
use crate::doors::send_to;
use crate::personal_data::assert_clean;
use crate::support::gateway::{DEBUG, Endpoints, Gateway, START_TIMEOUT};
use crate::support::{clients, warehouse};

/// How long a change of a file may take to be in force.
const WITHIN: Duration = Duration::from_secs(20);

/// `eventkit keys` with a file; what it printed.
pub(crate) async fn keys(file: &Path, arguments: &[&str], input: &str) -> String {
    use tokio::io::AsyncWriteExt as _;

    let mut tool = Command::new(env!("CARGO_BIN_EXE_eventkit"))
        .arg("keys")
        .args(arguments)
        .env_clear()
        .env("EVENTKIT_WRITE_KEYS_FILE", file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = tool.stdin.take().unwrap();
    // A tool that reads nothing may have ended already.
    drop(stdin.write_all(input.as_bytes()).await);
    drop(stdin);
    let output = tool.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A gateway that asks for keys, below a folder, and one that it knows, of the source `shop`. The file of keys lies in the folder.
pub(crate) async fn keyed_gateway(
    dir: &Path,
    more: &[(&str, &str)],
) -> (Gateway, Endpoints, String) {
    let file = dir.join("keys.json");
    let key = keys(&file, &["add", "--source", "shop"], "").await;
    let file = file.display().to_string();
    let settings = [more, &[("EVENTKIT_WRITE_KEYS_FILE", file.as_str())]].concat();
    let (gateway, endpoints) = Gateway::start(&dir.join("data"), &settings).await.unwrap();
    (gateway, endpoints, key.trim().to_owned())
}

async fn post(endpoints: &Endpoints, key: &str, id: &str) -> u16 {
    let body = json!({"type": "track", "messageId": id, "userId": "u", "event": "e"});
    let http = clients::Http::new(endpoints);
    let headers = [("x-write-key", key)];
    let answer = http
        .exchange_with(
            http::Method::POST,
            "/collect",
            &headers,
            body.to_string().into(),
        )
        .await
        .unwrap();
    answer.status().as_u16()
}

/// Asks until the answer is this one. Only an answer shows what is in force.
async fn until(endpoints: &Endpoints, key: &str, status: u16) {
    let since = Instant::now();
    while post(endpoints, key, "again").await != status {
        assert!(since.elapsed() < WITHIN, "{status} is not answered");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Puts another file in the place of one, whole from the first look at it on: one that is looked at while it is being written is refused
/// once more than it should be.
fn replace(file: &Path, bytes: impl AsRef<[u8]>) {
    let aside = file.with_extension("aside");
    std::fs::write(&aside, bytes).unwrap();
    std::fs::rename(&aside, file).unwrap();
}

async fn until_metric(endpoints: &Endpoints, line: &str) {
    let since = Instant::now();
    while !scrape(&endpoints.admin).await.contains(line) {
        assert!(since.elapsed() < WITHIN, "{line} is not shown");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_changed_file_is_in_force_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("keys.json"), dir.path().join("data"));
    let (gateway, endpoints, first) = keyed_gateway(dir.path(), &[]).await;
    let first = first.as_str();
    assert_eq!(post(&endpoints, first, "m").await, 202);
    assert_eq!(post(&endpoints, "nobodys", "m").await, 401);

    let made = keys(&file, &["add", "--source", "app", "--json"], "").await;
    let made: Value = serde_json::from_str(&made).unwrap();
    let (second, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    until(&endpoints, second, 202).await;
    // The same id once more, under another source.
    assert_eq!(post(&endpoints, second, "m").await, 202);

    let good = std::fs::read(&file).unwrap();
    replace(&file, b"{\"version\":1,\"keys\":[");
    until_metric(&endpoints, "keys_reloads_total{outcome=\"refused\"} 1").await;
    assert_eq!(post(&endpoints, first, "m2").await, 202);
    std::fs::remove_file(&file).unwrap();
    until_metric(&endpoints, "keys_reloads_total{outcome=\"refused\"} 2").await;
    assert_eq!(post(&endpoints, second, "m2").await, 202);
    replace(&file, good);
    keys(&file, &["revoke", id], "").await;
    until(&endpoints, second, 401).await;
    assert_eq!(post(&endpoints, first, "m3").await, 202);
    until_metric(&endpoints, "eventkit_ingress_keys 1\n").await;

    let ended = gateway.terminate(START_TIMEOUT).await.unwrap();
    assert!(ended.status.success(), "{}", ended.said);
    assert_eq!(ended.alarms.len(), 2, "{:?}", ended.alarms);
    let connection = warehouse::open(&data).unwrap();
    let sql =
        "select source || ' ' || message_id from events where message_id <> 'again' order by 1";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    let rows: Vec<String> = rows.collect::<Result<_, _>>().unwrap();
    assert_eq!(rows, ["app m", "app m2", "shop m", "shop m2", "shop m3"]);
}

#[tokio::test]
async fn a_change_refuses_no_request_that_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let (_gateway, endpoints, key) = keyed_gateway(dir.path(), &[]).await;
    let sending = async {
        let since = Instant::now();
        let mut sent = 0_u32;
        while since.elapsed() < Duration::from_secs(4) {
            assert_eq!(post(&endpoints, &key, &format!("m{sent}")).await, 202);
            sent += 1;
        }
    };
    let changing = async {
        for n in 0..3 {
            keys(&file, &["add", "--source", &format!("s{n}")], "").await;
            sleep(Duration::from_millis(1_100)).await;
        }
    };
    tokio::join!(sending, changing);
    until_metric(&endpoints, "eventkit_ingress_keys 4\n").await;
}

#[tokio::test]
async fn serve_does_not_start_open_unless_that_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let local = ("EVENTKIT_EVENT_STORE", "local");
    let everywhere = ("EVENTKIT_HTTP_ADDR", "0.0.0.0:0");
    let spawn = |settings: &[(&str, &str)]| {
        Gateway::spawn_as("serve", &dir.path().join("data"), settings).unwrap()
    };
    let ended = spawn(&[local, everywhere])
        .ended(START_TIMEOUT)
        .await
        .unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.said);
    assert!(
        ended.said.contains("EVENTKIT_WRITE_KEYS_FILE"),
        "{}",
        ended.said
    );
    let missing = dir.path().join("missing.json").display().to_string();
    let keyed = ("EVENTKIT_WRITE_KEYS_FILE", missing.as_str());
    let ended = spawn(&[local, everywhere, keyed])
        .ended(START_TIMEOUT)
        .await
        .unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
    assert!(ended.said.contains("missing.json"), "{}", ended.said);

    // Meant, and said once.
    let meant = ("EVENTKIT_ALLOW_ANONYMOUS", "true");
    for settings in [vec![local, DEBUG], vec![local, meant, DEBUG]] {
        let mut gateway = spawn(&settings);
        gateway.ready(START_TIMEOUT).await.unwrap();
        let said = gateway
            .heard()
            .iter()
            .filter(|line| line.contains("no write key is needed"))
            .count();
        assert_eq!(said, 1);
        gateway.terminate(START_TIMEOUT).await.unwrap();
    }
}

#[tokio::test]
async fn the_admin_port_asks_for_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let token = ("EVENTKIT_ADMIN_TOKEN", "0123456789abcdef");
    let (gateway, endpoints) = Gateway::start(dir.path(), &[token]).await.unwrap();
    let admin = Endpoints {
        http: endpoints.admin.clone(),
        ..endpoints.clone()
    };
    let http = clients::Http::new(&admin);
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let answer = http.exchange_with(http::Method::GET, path, headers, Default::default());
        answer.await.unwrap().status().as_u16()
    };
    let bearer = ("authorization", "Bearer 0123456789abcdef");
    for path in ["/metrics", "/admin/wal/stat", "/admin/log-level"] {
        assert_eq!(get(path, &[]).await, 401, "{path}");
        assert_eq!(get(path, &[bearer]).await, 200, "{path}");
    }
    assert_eq!(get("/ready", &[]).await, 200);
    // The tools take it from the environment.
    for (set, code) in [(true, Some(0)), (false, Some(1))] {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_eventkit"));
        tool.args(["wal", "stat"])
            .arg(dir.path().join("wal"))
            .env_clear();
        if set {
            tool.env(token.0, token.1);
        }
        let output = tool.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), code, "{said}");
        assert!(!said.contains(token.1), "{said}");
    }
    gateway.kill().await.unwrap();
}

/// Sends with a key in every place; no answer has it.
async fn show_everywhere(endpoints: &Endpoints, key: &str, is_wrong: bool) {
    let one = json!({"type": "track", "messageId": "m", "writeKey": key}).to_string();
    let basic = STANDARD.encode(format!("{key}:"));
    for (path, header, body) in [
        (
            "/collect".to_owned(),
            format!("Authorization: Basic {basic}"),
            "{}".to_owned(),
        ),
        (
            "/v1/track".to_owned(),
            format!("Authorization: Bearer {key}"),
            "{}".to_owned(),
        ),
        (
            "/api/s/track".to_owned(),
            format!("X-Write-Key: {key}"),
            "{}".to_owned(),
        ),
        (
            format!("/v1/track?writeKey={key}"),
            "X-A: b".to_owned(),
            "{}".to_owned(),
        ),
        ("/collect".to_owned(), "X-A: b".to_owned(), one),
        (
            format!("/projects/{key}/settings"),
            "X-A: b".to_owned(),
            String::new(),
        ),
    ] {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = send_to(endpoints.http.parse().unwrap(), request.as_bytes()).await;
        let expected = if is_wrong { 401..402 } else { 200..203 };
        assert!(expected.contains(&answer.status()), "{path}: {answer:?}");
        // Its owner asked with it for the settings, which say it again.
        if !path.ends_with("/settings") {
            assert_clean(&String::from_utf8_lossy(&answer.body), &path);
        }
    }
    let mut client = clients::grpc(endpoints).unwrap();
    let mut request = tonic::Request::new(eventkit::proto::v1::CollectRequest::default());
    request
        .metadata_mut()
        .insert("x-write-key", key.parse().unwrap());
    if let Err(status) = client.collect(request).await {
        assert_clean(&format!("{status:?}"), "a status");
    }
}

#[tokio::test]
async fn nothing_of_a_key_is_in_anything_that_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let key = "PERSONAL-write-key-0123456789abcdef";
    let wrong = "PERSONAL-wrong-key-0123456789abcdef";
    let added = keys(&file, &["add", "--source", "shop", "--existing"], key).await;
    assert_clean(&added, "what `keys add` prints");
    assert_clean(&keys(&file, &["list"], "").await, "`keys list`");
    assert_clean(&std::fs::read_to_string(&file).unwrap(), "the file of keys");
    let setting = file.display().to_string();
    let settings = [("EVENTKIT_WRITE_KEYS_FILE", setting.as_str()), DEBUG];
    let (gateway, endpoints) = Gateway::start(&dir.path().join("data"), &settings)
        .await
        .unwrap();
    for key in [key, wrong] {
        show_everywhere(&endpoints, key, key == wrong).await;
    }
    replace(&file, format!("{{\"version\":1,\"{key}\":1}}"));
    until_metric(&endpoints, "keys_reloads_total{outcome=\"refused\"} 1").await;
    assert_clean(&scrape(&endpoints.admin).await, "/metrics");
    let ended = gateway.terminate(START_TIMEOUT).await.unwrap();
    assert!(ended.heard.len() > 20);
    assert_clean(&ended.heard.join("\n"), "the log lines");
}
