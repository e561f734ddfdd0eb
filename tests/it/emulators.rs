//! How a test finds an emulator.

use std::panic::catch_unwind;

use crate::support::emulators::find;

#[test]
fn an_emulator_is_found_with_and_without_a_scheme() {
    for value in ["127.0.0.1:9", "http://127.0.0.1:9/"] {
        let setting = |name: &str| (name == "X").then(|| value.to_owned());
        let found = find(setting, "X", "nothing");
        assert_eq!(found.as_deref(), Some("http://127.0.0.1:9"), "{value}");
    }
}

#[test]
fn an_emulator_that_is_missing_is_a_failure_in_ci() {
    for set in ["", " "] {
        let setting = move |name: &str| match name {
            "CI" => Some("true".to_owned()),
            _ => (!set.is_empty()).then(|| set.to_owned()),
        };
        let missed = catch_unwind(|| find(setting, "X", "nothing"));
        assert!(missed.is_err(), "{set:?}");
    }
}
