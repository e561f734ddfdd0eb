//! Runs every script of `grpcurl-examples/` with real grpcurl against the real binary, and compares what it prints with
//! the block that stands under its name in `grpcurl-examples/README.md`: the page cannot go stale.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::support::gateway::{Endpoints, Gateway, SLED, SQLITE, setting};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `PATH` with the tools of this checkout in front.
fn path_with_tools() -> String {
    let tools = repository().join(".tools/bin");
    format!(
        "{}:{}",
        tools.display(),
        setting("PATH").unwrap_or_default()
    )
}

/// Whether grpcurl is there. Missing is a failure in CI; elsewhere it is said loudly.
async fn grpcurl_is_there() -> bool {
    let version = Command::new("grpcurl")
        .arg("-version")
        .env("PATH", path_with_tools())
        .stdin(Stdio::null())
        .output()
        .await;
    if version.is_ok() {
        return true;
    }
    assert_ne!(
        setting("CI").as_deref(),
        Some("true"),
        "grpcurl is missing in CI: scripts/setup installs it"
    );
    std::io::stderr()
        .write_all(b"NOT RUN: grpcurl is missing; `make setup` installs it, `make grpcurl` runs these tests\n")
        .expect("write to stderr");
    false
}

/// Every script, by its file name.
fn scripts() -> Vec<PathBuf> {
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(repository().join("grpcurl-examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sh"))
        .collect();
    scripts.sort();
    scripts
}

fn name_of(script: &Path) -> String {
    script.file_name().unwrap().to_string_lossy().into_owned()
}

/// What the page says that each script prints: the first fenced block after the heading with its name.
fn documented() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(repository().join("grpcurl-examples/README.md")).unwrap();
    let mut outputs = BTreeMap::new();
    for section in page.split("\n## ").skip(1) {
        let (heading, rest) = section.split_once('\n').unwrap();
        let Some(block) = rest.split("```").nth(1) else {
            continue;
        };
        let (_language, output) = block.split_once('\n').unwrap();
        let name = heading.trim_matches('`').to_owned();
        assert!(
            outputs.insert(name, output.to_owned()).is_none(),
            "{heading} twice"
        );
    }
    outputs
}

/// The calls in the README, each with what stands below it.
fn shown_in_readme() -> Vec<(String, String)> {
    let page = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks = page.split("```console\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let calls = blocks.filter_map(|block| block.strip_prefix("$ grpcurl ")?.split_once('\n'));
    calls
        .map(|(arguments, output)| (format!("grpcurl {arguments}"), output.to_owned()))
        .collect()
}

async fn run(script: &Path, endpoints: &Endpoints) -> String {
    let script = script.to_str().unwrap();
    printed(&[script], endpoints).await
}

/// What bash prints for these arguments.
async fn printed(arguments: &[&str], endpoints: &Endpoints) -> String {
    let output = Command::new("bash")
        .args(arguments)
        .env("PATH", path_with_tools())
        .env("EVENTKIT_HOST", &endpoints.grpc)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.is_empty(),
        "{arguments:?}: {}\n{}{stderr}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// UUIDs become one word and runs of spaces one space: grpcurl varies the latter from build to build.
fn normalised(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.trim().lines() {
        let words: Vec<String> = line.split_whitespace().map(without_uuid).collect();
        let indent = line.len() - line.trim_start().len();
        lines.push(format!("{}{}", " ".repeat(indent), words.join(" ")));
    }
    lines.join("\n")
}

/// Replaces a UUID inside a word.
fn without_uuid(word: &str) -> String {
    let is_uuid = |candidate: &str| {
        candidate.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
    };
    for start in 0..word.len().saturating_sub(35) {
        if let Some(candidate) = word.get(start..start + 36)
            && is_uuid(candidate)
        {
            return word.replace(candidate, "UUID");
        }
    }
    word.to_owned()
}

#[test]
fn every_script_has_its_output_on_the_page() {
    let scripts: Vec<String> = scripts().iter().map(|script| name_of(script)).collect();
    let documented: Vec<String> = documented().into_keys().collect();
    assert!(!scripts.is_empty());
    assert_eq!(scripts, documented);
}

#[test]
fn normalising_hides_ids_and_spacing_alone() {
    assert_eq!(
        normalised("  \"requestId\":  \"0198c0de-0000-7000-8000-000000000001\",\n"),
        "\"requestId\": \"UUID\",".to_owned()
    );
    assert_ne!(normalised("\"accepted\": 1"), normalised("\"accepted\": 2"));
}

#[tokio::test]
async fn the_readmes_calls_print_what_stands_below_them() {
    let calls = shown_in_readme();
    assert!(!calls.is_empty());
    if !grpcurl_is_there().await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    for (call, output) in calls {
        let here = call.replace("localhost:50051", &endpoints.grpc);
        assert_ne!(here, call);
        let printed = printed(&["-c", &here], &endpoints).await;
        assert_eq!(normalised(&printed), normalised(&output), "{call}");
    }
    assert_eq!(gateway.kill().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn every_script_prints_what_the_page_says() {
    if !grpcurl_is_there().await {
        return;
    }
    let documented = documented();
    let mut wrong = Vec::new();
    for (script, engine) in scripts()
        .into_iter()
        .flat_map(|script| [SLED, SQLITE].map(|e| (script.clone(), e)))
    {
        // Each on a fresh log, as the page says: a repeat would be answered as a duplicate.
        let dir = tempfile::tempdir().unwrap();
        let (gateway, endpoints) = Gateway::start(dir.path(), &[engine]).await.unwrap();
        let printed = run(&script, &endpoints).await;
        let alarms = gateway.kill().await.unwrap();
        assert_eq!(alarms, [""; 0], "{}", script.display());
        let name = name_of(&script);
        if normalised(&printed) != normalised(&documented[&name]) {
            wrong.push(format!(
                "--- {name} on {engine:?} prints\n{printed}--- the page says\n{}",
                documented[&name]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
