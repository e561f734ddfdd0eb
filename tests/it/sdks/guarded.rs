//! The real SDKs before a gateway that asks for keys, and answers for itself that somebody is too fast or on the wrong page.

use std::net::TcpListener;

use super::*;
use crate::keys::keys;
use crate::support::clients::Http;
use crate::support::gateway::Endpoints;

/// What the applications of `tests/sdks/` have as their key.
const KEY: &str = "wk-SECRET-0123456789abcdef";
/// Of that key. An SDK that waits as long as it is told waits for seconds.
const EVENTS_PER_SECOND: u64 = 4;
/// Too deep, each: they become no rows, and count.
const IN_DEBT: usize = 12;

/// A gateway that knows this one key, of the source `shop`.
async fn guarded(more: &[&str]) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let arguments = [&["add", "--source", "shop", "--existing"], more].concat();
    keys(&file, &arguments, KEY).await;
    let file = file.display().to_string();
    let settings = [
        ("EVENTKIT_WRITE_KEYS_FILE", file.as_str()),
        ("EVENTKIT_RATE_BURST", "0.5"),
    ];
    Scene::with(dir, &settings, &[]).await
}

/// Sends so much under the key that nothing more is taken for a while.
async fn go_into_debt(scene: &Scene) {
    let address = scene.front.addr.to_string();
    let http = Http::new(&Endpoints {
        grpc: address.clone(),
        admin: address.clone(),
        http: address,
    });
    let deep = format!("{}1{}", r#"{"a":"#.repeat(70), "}".repeat(70));
    let event = format!(r#"{{"type":"track","userId":"u","event":"e","properties":{deep}}}"#);
    let batch = vec![event; IN_DEBT].join(",");
    let body = format!(r#"{{"batch":[{batch}],"writeKey":"{KEY}"}}"#);
    let (status, answer) = http.post("/v1/batch", body).await.unwrap();
    assert_eq!((status, &answer["rejected"]), (200, &json!(IN_DEBT)));
}

/// All six calls of an SDK that comes too early: it is told so, waits, and each is one row.
async fn six_rows_though_too_fast(sdk: Sdk) {
    let rate = EVENTS_PER_SECOND.to_string();
    // A port that nobody has: the page's origin has to be known before there is a page.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let origin = format!("http://127.0.0.1:{port}");
    let scene = guarded(&["--events-per-second", &rate, "--origin", &origin]).await;
    go_into_debt(&scene).await;
    let Some(driver) = scene.run_on(Some(port), sdk, "all") else {
        return;
    };
    let front = &scene.front;
    let told = async {
        while !front.seen().iter().any(|seen| seen.status == Some(429)) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(ROWS_WITHIN, told)
        .await
        .unwrap_or_else(|_elapsed| panic!("{sdk:?} was not too fast:\n{}", driver.said()));
    let rows = scene.rows(driver, 6).await;
    assert_all_six(sdk, &rows);
    assert!(rows.iter().all(|row| row["source"] == "shop"), "{rows:?}");
}

#[tokio::test]
async fn servers_wait_as_long_as_the_gateway_says() {
    join(
        six_rows_though_too_fast(NODE),
        six_rows_though_too_fast(PYTHON),
    )
    .await;
}

#[tokio::test]
async fn pages_wait_as_long_as_the_gateway_says() {
    six_rows_though_too_fast(STANDARD).await;
    six_rows_though_too_fast(BATCHING).await;
}

/// The page may load its settings, can read why its events are refused, and gives up; others go on.
#[tokio::test]
async fn a_page_of_another_origin_stores_nothing() {
    let scene = guarded(&["--origin", "https://shop.example"]).await;
    let Some(page) = scene.run(BATCHING, "all") else {
        return;
    };
    let front = &scene.front;
    let refused = async {
        while !front.seen().iter().any(|seen| seen.status == Some(403)) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(ROWS_WITHIN, refused)
        .await
        .unwrap_or_else(|_elapsed| panic!("{:?}\n{}", front.seen(), page.said()));
    let Some(server) = scene.run(NODE, "all") else {
        return;
    };
    let rows = scene.rows(server, 6).await;
    assert_all_six(NODE, &rows);
    page.end().await;
}
