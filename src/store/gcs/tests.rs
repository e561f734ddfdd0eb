use super::*;

#[test]
fn a_bucket_is_named_as_the_service_names_it() {
    for name in ["abc", "my-events.example.com", "a_1", &"a".repeat(222)] {
        assert!(is_bucket_name(name), "{name}");
    }
    for name in [
        "",
        "ab",
        "Abc",
        "a/b",
        "gs://abc",
        "-abc",
        "abc.",
        "a..b",
        "a b",
        "a?b",
        &"a".repeat(223),
    ] {
        assert!(!is_bucket_name(name), "{name}");
    }
}

#[test]
fn a_name_that_no_object_of_ours_has_is_refused() {
    for name in ["inbox/a.json", "events/dt=2024-05-01/a.parquet"] {
        assert!(checked(name).is_ok(), "{name}");
    }
    for name in ["", "/a", "a/", "a/../b", "a\nb", &"a".repeat(1_025)] {
        assert!(checked(name).is_err(), "{name}");
    }
}

#[test]
fn only_an_outage_lets_a_start_go_on() {
    let bucket = || "b".to_owned();
    let source = || refused(String::new());
    for (error, prevents) in [
        (
            CheckError::NotFound {
                bucket: bucket(),
                source: source(),
            },
            true,
        ),
        (
            CheckError::Denied {
                bucket: bucket(),
                source: source(),
            },
            true,
        ),
        (
            CheckError::Unreachable {
                bucket: bucket(),
                source: source(),
            },
            false,
        ),
    ] {
        assert_eq!(error.prevents_start(), prevents, "{error}");
    }
}
