//! The files for Docker, Kubernetes and Cloud Run, and the pages about them, name only what there is, and what they set is a configuration
//! that starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use eventkit::config::{self, Inputs, Profile, settings};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn files(dir: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(root().join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{dir} is empty");
    files
}

/// The words of capitals and underscores.
fn variables(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| {
            (word.starts_with("EVENTKIT_") && word.len() > "EVENTKIT_".len())
                || word.starts_with("GCP_")
                || (word.ends_with("_EMULATOR_HOST") && !word.starts_with('_'))
        })
        .collect()
}

#[test]
fn every_variable_that_is_named_is_a_setting() {
    let mut texts = vec![
        ("docker-compose.yml".to_owned(), read("docker-compose.yml")),
        ("Dockerfile".into(), read("Dockerfile")),
        ("docs/running.md".into(), read("docs/running.md")),
        ("docs/production.md".into(), read("docs/production.md")),
    ];
    for path in ["deploy/kubernetes", "deploy/cloudrun"]
        .into_iter()
        .flat_map(files)
    {
        texts.push((
            path.display().to_string(),
            std::fs::read_to_string(&path).unwrap(),
        ));
    }
    for (file, text) in &texts {
        for variable in variables(text) {
            assert!(
                settings::by_env(variable).is_some(),
                "{file}: there is no setting {variable}"
            );
        }
    }
}

#[test]
fn every_metric_of_the_alerts_is_documented() {
    let (page, metrics) = (read("docs/production.md"), read("docs/metrics.md"));
    let mut found = 0;
    for name in page.split(|c: char| !(c.is_ascii_lowercase() || c == '_')) {
        if name.starts_with("eventkit_") {
            found += 1;
            assert!(metrics.contains(&format!("`{name}`")), "{name}");
        }
    }
    assert!(found > 10, "{found}");
}

/// `NAME: value` in lines, and `- name: NAME` before `value: VALUE`.
fn assignments(text: &str) -> BTreeMap<String, String> {
    let plain = |value: &str| {
        let value = value.trim().trim_matches('"');
        value
            .replace("PROJECT", "project")
            .replace("BUCKET", "bucket")
    };
    let mut set = BTreeMap::new();
    let mut name = None;
    for line in text.lines().map(str::trim) {
        if let Some(of) = line.strip_prefix("- name: ") {
            name = settings::by_env(of).map(|setting| setting.env);
        } else if let Some(value) = line.strip_prefix("value: ") {
            if let Some(name) = name.take() {
                set.insert(name.to_owned(), plain(value));
            }
        } else if let Some((of, value)) = line.split_once(": ")
            && settings::by_env(of).is_some()
        {
            set.insert(of.to_owned(), plain(value));
        }
    }
    set
}

fn check(file: &str, mut env: BTreeMap<String, String>, role: &str) {
    assert!(env.len() >= 8, "{file}: {env:?}");
    env.insert("EVENTKIT_ROLE".into(), role.to_owned());
    let inputs = Inputs {
        profile: Profile::Serve,
        env,
        flags: BTreeMap::new(),
        host_name: "pod-0".into(),
    };
    if let Err(problems) = config::validate(&inputs) {
        panic!("{file} as {role}: {problems}");
    }
}

#[test]
fn what_is_deployed_can_start() {
    let settings = assignments(&read("deploy/kubernetes/settings.yaml"));
    for role in ["gateway", "worker", "loader"] {
        let file = format!("deploy/kubernetes/{role}.yaml");
        let text = read(&file);
        assert!(text.contains(&format!("--role={role}]")), "{file}");
        let mut own = settings.clone();
        own.extend(assignments(&text));
        // Its value is nobody's business.
        if text.contains("secretRef: {name: eventkit-admin}") {
            own.insert("EVENTKIT_ADMIN_TOKEN".into(), "0123456789abcdef".into());
        }
        check(&file, own, role);

        let file = format!("deploy/cloudrun/{role}.yaml");
        let text = read(&file);
        assert!(text.contains(&format!("--role={role}]")), "{file}");
        check(&file, assignments(&text), role);
    }
    let compose = read("docker-compose.yml");
    let (_, app) = compose.split_once("\n  eventkit:\n").unwrap();
    check("docker-compose.yml", assignments(app), "all");
}
