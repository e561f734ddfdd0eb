//! `eventkit health`, which images and orchestrators ask.

use std::process::Output;

use tokio::process::Command;

use crate::support::gateway::Gateway;

async fn health(arguments: &[&str], admin: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eventkit"))
        .arg("health")
        .args(arguments)
        .env_clear()
        .env("EVENTKIT_ADMIN_ADDR", admin)
        // Whatever else the process it asks about was told is not its business.
        .env("EVENTKIT_EVENT_STORE", "nowhere")
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn health_is_good_while_the_process_is_ready_and_bad_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    let answer = health(&[], &endpoints.admin).await;
    let out = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(answer.status.code(), Some(0), "{out}");
    assert!(out.contains(r#""status":"ready""#), "{out}");

    let answer = health(&["--live"], &endpoints.admin).await;
    assert_eq!(answer.status.code(), Some(0));
    assert_eq!(answer.stdout, b"{\"status\":\"ok\"}\n");

    let nowhere = format!("http://{}/nowhere", endpoints.admin);
    let answer = health(&["--url", &nowhere], &endpoints.admin).await;
    let err = String::from_utf8(answer.stderr).unwrap();
    assert_eq!(answer.status.code(), Some(1), "{err}");
    assert!(err.starts_with("404"), "{err}");

    gateway.kill().await.unwrap();
    let answer = health(&[], &endpoints.admin).await;
    let err = String::from_utf8(answer.stderr).unwrap();
    assert_eq!(answer.status.code(), Some(1), "{err}");
    assert!(err.contains(&endpoints.admin), "{err}");
}

#[tokio::test]
async fn an_address_that_cannot_be_read_is_a_problem_of_the_configuration() {
    let answer = health(&[], "everywhere").await;
    let err = String::from_utf8(answer.stderr).unwrap();
    assert_eq!(answer.status.code(), Some(2), "{err}");
    assert!(err.contains("EVENTKIT_ADMIN_ADDR"), "{err}");
}
