//! Where the emulators of the cloud services answer, if they do.
//!
//! `eval "$(scripts/emulators env)"` says it to a test; `make test` starts them itself. A test that needs one and has none fails with
//! `CI=true`; elsewhere it is listed in `target/not-run.txt`, which `make test` shows at its end.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use eventkit::config::Endpoint;

use crate::support::gateway::setting;

/// Cloud Storage: the URL, `http://host:port` without a slash at the end. `None`: return, it is on the list of what was not run.
pub(crate) fn storage() -> Option<String> {
    find(
        setting,
        "STORAGE_EMULATOR_HOST",
        "tests against Cloud Storage",
    )
}

/// Firestore.
pub(crate) fn firestore() -> Option<String> {
    find(
        setting,
        "FIRESTORE_EMULATOR_HOST",
        "tests against Firestore",
    )
}

/// Pub/Sub.
pub(crate) fn pubsub() -> Option<String> {
    find(setting, "PUBSUB_EMULATOR_HOST", "tests against Pub/Sub")
}

/// BigQuery. It reads `gs://` from what the Cloud Storage emulator holds: a test that loads needs both.
pub(crate) fn bigquery() -> Option<String> {
    find(setting, "BIGQUERY_EMULATOR_HOST", "tests against BigQuery")
}

/// What a variable says; `setting` reads the environment.
pub(crate) fn find(
    setting: impl Fn(&str) -> Option<String>,
    variable: &'static str,
    what: &str,
) -> Option<String> {
    let value = setting(variable).filter(|value| !value.trim().is_empty());
    if let Some(value) = value {
        return Endpoint::emulator(&value).url().map(str::to_owned);
    }
    assert_ne!(
        setting("CI").as_deref(),
        Some("true"),
        "{variable} is not set: `scripts/emulators up` starts what this machine can have, `scripts/emulators env` names it"
    );
    not_run(variable, what);
    None
}

/// Says it once for each emulator and test binary, at the place that outlives the binary.
pub(crate) fn not_run(variable: &'static str, what: &str) {
    let line = format!("{what} (no {variable}: `scripts/emulators up` says why)");
    list_not_run(variable, &line);
}

/// The same for whatever else a machine may not have.
pub(crate) fn list_not_run(missing: &'static str, line: &str) {
    static SAID: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.contains(&missing) {
        return;
    }
    said.push(missing);
    let line = format!("{line}\n");
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("not-run.txt");
    if std::fs::read_to_string(&list).is_ok_and(|listed| listed.contains(&line)) {
        return;
    }
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(list)
        .and_then(|mut list| list.write_all(line.as_bytes()))
        .expect("write to target/not-run.txt, which make test shows");
    std::io::stderr()
        .write_all(format!("NOT RUN: {line}").as_bytes())
        .expect("write to stderr");
}
