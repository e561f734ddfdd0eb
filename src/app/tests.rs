use std::collections::BTreeMap;

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::doors::listen;
use super::*;
use crate::config::{Inputs, Profile, settings, validate};

/// `eventkit dev` in a directory, on any free ports.
fn config(data_dir: &std::path::Path) -> Config {
    let flags = BTreeMap::from([
        (settings::DATA_DIR.env, data_dir.display().to_string()),
        (settings::HTTP_ADDR.env, "127.0.0.1:0".to_owned()),
        (settings::GRPC_ADDR.env, "127.0.0.1:0".to_owned()),
        (settings::ADMIN_ADDR.env, "127.0.0.1:0".to_owned()),
    ]);
    let inputs = Inputs {
        profile: Profile::Dev,
        env: BTreeMap::new(),
        flags,
        host_name: "a-host".to_owned(),
    };
    validate(&inputs).unwrap().config
}

#[tokio::test]
async fn a_part_that_panics_ends_the_program_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new();
    let stop = Stop::manual();
    let (died, panics) = tokio::sync::oneshot::channel::<()>();
    shared.tasks.spawn("worker", async move {
        panics.await.unwrap();
        panic!("a fault of this program");
    });
    let health = shared.health.clone();
    let mut ready = health.subscribe();
    let run = run_with(config(dir.path()), stop.clone(), shared);
    let panic_once_it_runs = async {
        // The log's health is told when it is open, well before the doors.
        died.send(()).unwrap();
        ready.wait_for(|is_ready| !is_ready).await.unwrap();
    };
    let (ended, ()) = tokio::join!(run, panic_once_it_runs);
    assert_eq!(
        format!("{:?}", ended.unwrap()),
        format!("{:?}", ExitCode::FAILURE)
    );
    assert_eq!(health.readiness().not_ready["worker"], "failed");
    assert!(!stop.is_requested());
}

#[tokio::test]
async fn a_stop_that_was_asked_for_ends_the_program_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let stop = Stop::manual();
    stop.request();
    let ended = run_with(config(dir.path()), stop, Shared::new()).await;
    assert_eq!(
        format!("{:?}", ended.unwrap()),
        format!("{:?}", ExitCode::SUCCESS)
    );
}

#[tokio::test]
async fn a_burst_of_connections_waits_in_the_backlog() {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = listener.local_addr().unwrap();
    // Nobody accepts: what finds no place is never connected.
    let burst = futures::future::try_join_all((0..400).map(|_| TcpStream::connect(addr)));
    let connected = tokio::time::timeout(Duration::from_secs(10), burst).await;
    assert_eq!(connected.expect("all find a place").unwrap().len(), 400);
}
