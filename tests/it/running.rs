//! The sections of `docs/running.md` as a person types them, each into a shell of its own: what stands under a command is what it prints.
//!
//! Only what would collide with other runs is changed: ports, the folder, the binary, and the names of project and bucket. Where the page
//! says how long to wait, the next command is repeated until it answers as the page says, or too long.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpSocket;
use tokio::process::Command;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::gateway::binary;
use crate::support::{emulators, ports};

/// How long a whole section may take, with every wait in it.
const SECTION_TIMEOUT: Duration = Duration::from_secs(240);
/// How often an answer is asked for, half a second apart.
const TRIES: usize = 180;

/// A command and what the page says that it prints.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    command: String,
    prints: String,
}

/// Every command of a section's blocks.
fn section(title: &str) -> Vec<Typed> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/running.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with(&format!("{title}\n")))
        .unwrap_or_else(|| panic!("there is no section {title}"));
    let mut typed: Vec<Typed> = Vec::new();
    for block in section.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match (line.strip_prefix("$ "), typed.last_mut()) {
                (Some(command), _) => typed.push(Typed {
                    command: command.to_owned(),
                    prints: String::new(),
                }),
                (None, Some(last)) => writeln!(last.prints, "{line}").unwrap(),
                (None, None) => panic!("{line:?} is printed by no command"),
            }
        }
    }
    assert!(!typed.is_empty(), "{title} has no command");
    typed
}

/// The page's names, and this run's; its ports are nobody else's for as long as the sockets are kept.
fn names() -> (Vec<(String, String)>, Vec<TcpSocket>) {
    let run = Uuid::new_v4().simple().to_string();
    let mut names = vec![
        ("target/release/eventkit".to_owned(), binary()),
        ("eventkit-events".into(), format!("running-{run}")),
        ("PROJECT_ID=local".into(), format!("PROJECT_ID=p{run}")),
        ("project=local".into(), format!("project=p{run}")),
        ("projects/local/".into(), format!("projects/p{run}/")),
    ];
    let mut kept = Vec::new();
    for port in ["8000", "50051", "9090", "9091", "9092"] {
        let (held, free) = ports::held();
        names.push((format!(":{port}"), format!(":{}", free.port())));
        kept.push(held);
    }
    (names, kept)
}

/// What the shell is given.
fn script(typed: &[Typed], names: &[(String, String)], dir: &Path) -> String {
    let rename = |text: &str| {
        names
            .iter()
            .fold(text.to_owned(), |text, (page, run)| text.replace(page, run))
    };
    let mut script = rename("export EVENTKIT_ADMIN_ADDR=127.0.0.1:9090\n");
    for (n, one) in typed.iter().enumerate() {
        let (command, out) = (rename(&one.command), dir.join(n.to_string()));
        let out = out.display();
        if command.starts_with("sleep ") {
            continue;
        }
        if let Some(server) = command.strip_suffix(" &") {
            let log = dir.join("log");
            writeln!(script, "{server} >> {} 2>&1 &", log.display()).unwrap();
        } else if command.starts_with("query ") || command.starts_with("documents ") {
            std::fs::write(dir.join(format!("{n}.expected")), &one.prints).unwrap();
            writeln!(
                script,
                "for _ in $(seq {TRIES}); do {command} > {out} 2>> {out}.err; cmp -s {out} {out}.expected && break; sleep 0.5; done"
            )
            .unwrap();
        } else {
            let failed = dir.join("failed");
            let failed = failed.display();
            writeln!(
                script,
                "{{ {command}\n}} > {out} 2>> {out}.err || echo {n} >> {failed}"
            )
            .unwrap();
        }
    }
    // The servers were told to end, and do.
    script.push_str("wait\n");
    script
}

async fn type_in(title: &str) {
    let typed = section(title);
    let dir = tempfile::tempdir().unwrap();
    let notes: PathBuf = dir.path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    let (names, _kept) = names();
    let mut shell = Command::new("bash");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EVENTKIT_") {
            shell.env_remove(name);
        }
    }
    let mut shell = shell
        .arg("-c")
        .arg(script(&typed, &names, &notes))
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let group = Pid::from_raw(i32::try_from(shell.id().unwrap()).unwrap()).unwrap();
    let ended = timeout(SECTION_TIMEOUT, shell.wait()).await;
    // Whatever is left of it; nothing, if all went well.
    let left = kill_process_group(group, Signal::KILL).is_ok();

    let read = |name: String| std::fs::read_to_string(notes.join(name)).unwrap_or_default();
    let log = read("log".into());
    let failed = read("failed".into());
    if let Some(n) = failed.lines().next() {
        let (err, one) = (
            read(format!("{n}.err")),
            &typed[n.parse::<usize>().unwrap()],
        );
        panic!("{title}: {} failed\n{err}\n{log}", one.command);
    }
    for (n, one) in typed.iter().enumerate() {
        if !one.prints.is_empty() {
            let (printed, err) = (read(n.to_string()), read(format!("{n}.err")));
            assert_eq!(
                printed, one.prints,
                "{title}: {}\n{err}\n{log}",
                one.command
            );
        }
    }
    assert!(ended.is_ok() && !left, "{title}: it does not end\n{log}");
}

#[tokio::test]
async fn cloud_storage_and_bigquery_as_typed() {
    if let (Some(_), Some(_)) = (emulators::storage(), emulators::bigquery()) {
        type_in("A. Cloud Storage and BigQuery").await;
    }
}

#[tokio::test]
async fn firestore_as_typed() {
    if emulators::firestore().is_some() {
        type_in("B. Firestore").await;
    }
}

#[tokio::test]
async fn pubsub_as_typed() {
    if let (Some(_), Some(_)) = (emulators::pubsub(), emulators::firestore()) {
        type_in("C. Pub/Sub").await;
    }
}

#[tokio::test]
async fn the_parts_over_pubsub_as_typed() {
    if let (Some(_), Some(_), Some(_)) = (
        emulators::pubsub(),
        emulators::storage(),
        emulators::bigquery(),
    ) {
        type_in("C, in parts").await;
    }
}

#[test]
fn what_stands_under_a_command_is_what_it_prints() {
    let typed = section("B. Firestore");
    let documents = typed
        .iter()
        .find(|one| one.command.starts_with("documents streams"));
    assert_eq!(
        documents.unwrap().prints,
        "order-1|ada|Order Placed|{\"total\":12.50}\n"
    );
    assert!(typed.iter().any(|one| one.command == "kill %1"));
}
