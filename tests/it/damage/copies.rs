//! Logs that are whole and in the wrong place or time: older copies, other formats, other owners.

use std::os::unix::process::CommandExt as _;

use super::{
    Case, ENGINES, EVENTS, Gateway, Path, STORED, Template, WITHIN, clients, copy_dir, fs, rows,
    send, warehouse,
};
use crate::support::gateway::binary;

/// Alone the copy is noticed by the mark, with its mark by what the store holds.
#[tokio::test]
async fn a_log_restored_from_yesterdays_copy_loses_nothing_that_is_acknowledged_later() {
    for engine in ENGINES {
        for with_mark in [false, true] {
            let what = format!("{engine}, mark restored: {with_mark}");
            let template = Template::make(engine).await;
            let case = template.copy();
            let yesterday = tempfile::tempdir().unwrap();
            copy_dir(&case.log(), &yesterday.path().join("wal"));
            fs::copy(case.mark(), yesterday.path().join("wal.mark")).unwrap();
            // Today: two bad events and a good one, all delivered.
            let (gateway, endpoints) = Gateway::start(case.path(), &case.settings()).await.unwrap();
            let http = clients::Http::new(&endpoints);
            let bad = r#"[{"type":"track","messageId":"bad1","userId":"u"},{"type":"track","messageId":"bad2","userId":"u"}]"#;
            assert_eq!(http.post("/collect", bad).await.unwrap().0, 202);
            let ended = gateway.terminate(WITHIN).await.unwrap();
            assert_eq!(ended.status.code(), Some(0), "{what}: {}", ended.said);
            assert_eq!(warehouse::counts(case.path()), (EVENTS, 2), "{what}");

            fs::remove_dir_all(case.log()).unwrap();
            copy_dir(&yesterday.path().join("wal"), &case.log());
            if with_mark {
                fs::copy(yesterday.path().join("wal.mark"), case.mark()).unwrap();
            }
            let mut refused = Gateway::spawn(case.path(), &case.settings()).unwrap();
            assert!(refused.ready(WITHIN).await.is_err(), "{what}: it started");
            let ended = refused.ended(WITHIN).await.unwrap();
            case.assert_refusal(&ended.said, &what);
            let range = format!("ffsets {EVENTS} to {}", EVENTS + 1);
            assert!(ended.said.contains(&range), "{what}: {}", ended.said);
            assert_eq!(ended.said.contains("--new-id"), with_mark, "{what}");
            case.repair(&what, with_mark).await;

            // Good events now, under the offsets that bad ones would have had.
            let (gateway, endpoints) = Gateway::start(case.path(), &case.settings()).await.unwrap();
            let http = clients::Http::new(&endpoints);
            send(&http, EVENTS..EVENTS + 10).await;
            let ended = gateway.terminate(WITHIN).await.unwrap();
            assert_eq!(ended.status.code(), Some(0), "{what}: {}", ended.said);
            assert_eq!(
                warehouse::counts(case.path()),
                (EVENTS + 10, 2),
                "{what}: rows and error rows"
            );
        }
    }
}

/// The log's directory, its mark and everything else is as it was.
async fn assert_refused_untouched(case: &Case, texts: &[&str]) {
    let mut refused = Gateway::spawn(case.path(), &case.settings()).unwrap();
    assert!(refused.ready(WITHIN).await.is_err());
    let ended = refused.ended(WITHIN).await.unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
    for text in texts {
        assert!(ended.said.contains(text), "{text}: {}", ended.said);
    }
    let log = case.log();
    let arguments = ["wal", "repair", log.to_str().unwrap()];
    let (code, _, err) = crate::drain::run_in(&arguments, &case.settings()).await;
    assert_eq!(code, 1, "not for a repair: {err}");
}

#[tokio::test]
async fn the_predecessors_file_is_refused_and_never_repaired() {
    for engine in ENGINES {
        let case = Case {
            engine,
            dir: tempfile::tempdir().unwrap(),
        };
        // The name that the predecessor gave its file, in a directory of its own and at the log's very place.
        fs::create_dir(case.log()).unwrap();
        let file = case.log().join("eventkit_ring_buffer.db");
        fs::write(&file, b"SQLite format 3\0 and more").unwrap();
        assert_refused_untouched(&case, &["is not a log of this program", "drain it"]).await;
        assert_eq!(fs::read(&file).unwrap(), b"SQLite format 3\0 and more");
        fs::remove_dir_all(case.log()).unwrap();
        fs::write(case.log(), b"SQLite format 3\0 and more").unwrap();
        assert_refused_untouched(&case, &["is not a log of this program", "drain it"]).await;
        assert_eq!(fs::read(case.log()).unwrap(), b"SQLite format 3\0 and more");
    }
}

#[tokio::test]
async fn a_second_process_is_refused_and_the_first_goes_on() {
    for engine in ENGINES {
        let template = Template::make(engine).await;
        let case = template.copy();
        let (first, endpoints) = Gateway::start(case.path(), &case.settings()).await.unwrap();
        let log = case.log();
        let repair = ["wal", "repair", log.to_str().unwrap()];
        let (code, _, err) = crate::drain::run_in(&repair, &case.settings()).await;
        assert_eq!(code, 1);
        assert!(err.contains("in use by another process"), "{err}");
        let mut second = Gateway::spawn(case.path(), &case.settings()).unwrap();
        assert!(second.ready(WITHIN).await.is_err());
        let ended = second.ended(WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(1));
        assert!(
            ended.said.contains("in use by another process"),
            "{}",
            ended.said
        );
        let http = clients::Http::new(&endpoints);
        send(&http, EVENTS..EVENTS + 5).await;
        rows(case.path(), STORED).await;
        let ended = first.terminate(WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
        assert_eq!(warehouse::counts(case.path()), (EVENTS + 5, 0));
    }
}

/// Rights do not stop root: as root the program runs as somebody else, who may read the binary and not the directory.
#[test]
fn a_directory_without_permission_is_refused_and_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).unwrap();
    let program = dir.path().join("eventkit");
    fs::copy(binary(), &program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(arguments).env_clear().current_dir("/");
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        loop {
            match command.output() {
                // A process that another test was just starting had the copy open for writing, until it ran its own program.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                output => break output,
            }
        }
    };
    let path = data.to_str().unwrap();
    let addresses =
        ["--http-addr", "--grpc-addr", "--admin-addr"].map(|flag| [flag, "127.0.0.1:0"]);
    let arguments = [&["dev", "--data-dir", path][..], addresses.as_flattened()].concat();
    let output = run(&arguments).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(path) && said.contains("ermission denied"),
        "{said}"
    );
    assert!(is_empty(&data), "nothing was made");
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).unwrap().next().is_none()
}
