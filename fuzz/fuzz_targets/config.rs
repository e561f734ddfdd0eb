//! What people write: settings as lines of `NAME=value` (a flag where the line begins with a dash), and the file of write keys.
#![no_main]

use std::collections::BTreeMap;

use eventkit::config::{self, Inputs, Profile, parse, settings};
use eventkit::ingress::auth::file::KeyFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    keys(data);
    let text = String::from_utf8_lossy(data);
    let (mut env, mut flags) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        // One digit or two in the place of a name are the setting's number: names are long to guess.
        let numbered = name.trim_start_matches('-').parse::<usize>().ok();
        let setting = numbered.and_then(|number| settings::ALL.get(number).copied());
        let setting = setting.or_else(|| settings::by_env(name));
        match setting {
            Some(setting) => {
                parse::value(setting.kind, value).ok();
                if name.starts_with('-') {
                    flags.insert(setting.env, value.to_owned());
                } else {
                    env.insert(setting.env.to_owned(), value.to_owned());
                }
            }
            None => {
                env.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    for profile in [Profile::Dev, Profile::Serve] {
        let inputs = Inputs {
            profile,
            env: env.clone(),
            flags: flags.clone(),
            host_name: "host".to_owned(),
        };
        match config::validate(&inputs) {
            Ok(checked) => {
                for warning in &checked.warnings {
                    assert!(!format!("{warning:?}").is_empty());
                }
            }
            Err(problems) => assert!(!problems.to_string().is_empty()),
        }
        config::validate_without_ports(&inputs).ok();
        for resolved in inputs.resolve_all() {
            assert!(resolved.subject().contains('='));
        }
    }
});

/// A file that can be read is written as what it is.
fn keys(data: &[u8]) {
    match KeyFile::parse(data) {
        Ok(file) => assert_eq!(KeyFile::parse(&file.to_bytes()), Ok(file)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
