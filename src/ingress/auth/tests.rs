use super::file::Entry;
use super::*;
use crate::ingress::shed::Budget;

const DEFAULTS: Defaults = Defaults {
    rates: Rates {
        events: Some(100),
        bytes: None,
    },
    burst: Duration::from_secs(1),
    in_flight_bytes_max: 10,
};

fn entry(key: &str, source: &str) -> Entry {
    Entry {
        id: key.to_owned(),
        source: source.to_owned(),
        sha256: KeyHash::of(key.as_bytes()).unwrap(),
        streams: None,
        origins: None,
        events_per_second: None,
        bytes_per_second: None,
        created: None,
        revoked: None,
    }
}

fn file(keys: Vec<Entry>) -> KeyFile {
    KeyFile {
        keys,
        ..KeyFile::default()
    }
}

#[test]
fn a_key_says_whose_events_these_are_and_where_they_may_go() {
    let keys = file(vec![
        Entry {
            streams: Some(vec!["events".into()]),
            origins: Some(vec!["https://shop.example".into()]),
            ..entry("one", "shop")
        },
        entry("two", "app"),
        Entry {
            revoked: Some("2026-11-26".into()),
            ..entry("three", "old")
        },
    ]);
    let keys = Keys::of(&keys, DEFAULTS, Strangers::Refused);
    assert_eq!(keys.count(), 2);
    let one = keys.holder(b"one").unwrap();
    assert_eq!(one.source(), "shop");
    assert!(one.may_write("events") && !one.may_write("users"));
    assert!(one.may_come_from(b"https://shop.example"));
    assert!(!one.may_come_from(b"https://evil.example"));
    let two = keys.holder(b"two").unwrap();
    assert_eq!(two.source(), "app");
    assert!(two.may_write("users") && two.may_come_from(b"https://evil.example"));
    for unknown in [&b"three"[..], b"", b"One", &[b'x'; 10_000]] {
        assert!(keys.holder(unknown).is_none());
    }
    let stranger = Caller::stranger(None, None);
    assert_eq!(stranger.source(), DEFAULT_SOURCE);
    assert!(stranger.may_write("anything") && stranger.may_come_from(b"null"));
}

#[test]
fn a_change_holds_for_callers_that_are_there_already() {
    let keys = Keys::of(
        &file(vec![entry("one", "shop"), entry("two", "app")]),
        DEFAULTS,
        Strangers::Refused,
    );
    let (one, two) = (keys.holder(b"one").unwrap(), keys.holder(b"two").unwrap());
    assert!(keys.renewed(&one).unwrap().is_none());
    keys.change(&file(vec![entry("one", "boutique")]));
    let renewed = keys.renewed(&one).unwrap().unwrap();
    assert_eq!((one.source(), renewed.source()), ("shop", "boutique"));
    assert!(keys.renewed(&renewed).unwrap().is_none());
    let error = keys.renewed(&two).unwrap_err();
    assert_eq!(error.code, Code::WriteKeyUnknown);
    assert!(
        keys.renewed(&Caller::stranger(None, None))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_change_does_not_fill_a_bucket_again_unless_its_rate_is_another() {
    use super::super::quota::Moment;

    let now = Moment::after(Duration::from_secs(1_000));
    let is_spent = |keys: &Keys, key: &[u8]| {
        let caller = keys.holder(key).unwrap();
        caller
            .buckets()
            .any(|(_, buckets)| buckets.check(now).is_err())
    };
    let both = || vec![entry("one", "shop"), entry("two", "app")];
    let keys = Keys::of(&file(both()), DEFAULTS, Strangers::Refused);
    for key in [&b"one"[..], b"two"] {
        let caller = keys.holder(key).unwrap();
        for (subject, buckets) in caller.buckets() {
            assert_eq!(subject, "write key");
            buckets.take(1_000, 0, now);
        }
        assert!(is_spent(&keys, key));
    }
    let mut changed = both();
    changed[1].events_per_second = Some(7);
    keys.change(&file(changed));
    assert!(is_spent(&keys, b"one"));
    assert!(!is_spent(&keys, b"two"));
}

#[test]
fn a_share_is_for_keys_that_have_to_share() {
    let alone = Keys::of(&file(vec![entry("one", "a")]), DEFAULTS, Strangers::Refused);
    assert!(alone.holder(b"one").unwrap().share().is_none());
    alone.change(&file(vec![entry("one", "a"), entry("two", "b")]));
    let budget = Budget::new(100);
    let one = alone.holder(b"one").unwrap();
    let held = budget.take(10).unwrap();
    assert!(held.share(one.share()));
    // It goes on after a change.
    alone.change(&file(vec![entry("one", "c"), entry("two", "b")]));
    let one = alone.holder(b"one").unwrap();
    assert!(!budget.take(1).unwrap().share(one.share()));
}

#[test]
fn nothing_of_a_key_is_shown() {
    let keys = Keys::of(
        &file(vec![entry("SECRET", "a")]),
        DEFAULTS,
        Strangers::Refused,
    );
    let hash = KeyHash::of(b"SECRET").unwrap().to_string();
    let shown = format!("{keys:?} {:?}", keys.holder(b"SECRET"));
    assert!(
        !shown.contains("SECRET") && !shown.contains(&hash),
        "{shown}"
    );
}
