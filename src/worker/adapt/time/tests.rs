use super::*;

const SECOND: i64 = 1_000_000;
/// 2024-05-01T12:30:00Z.
const NOON: Micros = 1_714_566_600 * SECOND;

#[test]
fn times_are_iso_8601_or_unix() {
    let cases: &[(&str, Result<Micros, TimeError>)] = &[
        ("2024-05-01T12:30:00Z", Ok(NOON)),
        ("2024-05-01t12:30:00z", Ok(NOON)),
        ("2024-05-01 12:30:00", Ok(NOON)),
        ("2024-05-01T12:30", Ok(NOON)),
        (" 2024-05-01T12:30:00Z ", Ok(NOON)),
        ("2024-05-01T12:30:00.5Z", Ok(NOON + 500_000)),
        ("2024-05-01T12:30:00,5Z", Ok(NOON + 500_000)),
        ("2024-05-01T12:30:00.123456789Z", Ok(NOON + 123_456)),
        ("2024-05-01T14:30:00+02:00", Ok(NOON)),
        ("2024-05-01T14:30:00+0200", Ok(NOON)),
        ("2024-05-01T14:30:00+02", Ok(NOON)),
        ("2024-05-01T07:00:00.000-05:30", Ok(NOON)),
        ("2024-05-01", Ok(NOON - 45_000 * SECOND)),
        ("2024-02-29T00:00:00Z", Ok(1_709_164_800 * SECOND)),
        // A leap second is the first of the next minute.
        ("2016-12-31T23:59:60Z", Ok(1_483_228_800 * SECOND)),
        ("0001-01-01T00:00:00Z", Ok(EARLIEST)),
        ("9999-12-31T23:59:59.999999Z", Ok(LATEST)),
        ("1714566600", Ok(NOON)),
        ("1714566600.25", Ok(NOON + 250_000)),
        ("1714566600000", Ok(NOON)),
        ("1714566600000.25", Ok(NOON + 250)),
        ("1.7145666e9", Ok(NOON)),
        ("17145666E2", Ok(NOON)),
        ("0", Ok(0)),
        ("-1.5", Ok(-1_500_000)),
        ("0.0000019", Ok(1)),
        ("99999999999", Ok(99_999_999_999 * SECOND)),
        ("100000000000", Ok(100_000_000 * SECOND)),
        ("-99999999999", Err(TimeError::OutOfRange)),
        ("0000-12-31T00:00:00Z", Err(TimeError::OutOfRange)),
        ("0001-01-01T00:00:00+00:01", Err(TimeError::OutOfRange)),
        ("9999-12-31T23:59:59-00:01", Err(TimeError::OutOfRange)),
        // Microseconds and nanoseconds are not taken for milliseconds of the year 56,000.
        ("1714566600000000", Err(TimeError::OutOfRange)),
        ("1714566600000000000", Err(TimeError::OutOfRange)),
        ("1e400", Err(TimeError::OutOfRange)),
        ("1e2147483647", Err(TimeError::OutOfRange)),
        ("1e-2147483647", Ok(0)),
        ("", Err(TimeError::Unreadable)),
        ("now", Err(TimeError::Unreadable)),
        ("NaN", Err(TimeError::Unreadable)),
        ("1e", Err(TimeError::Unreadable)),
        ("--1", Err(TimeError::Unreadable)),
        ("1.", Err(TimeError::Unreadable)),
        (".5", Err(TimeError::Unreadable)),
        ("0x10", Err(TimeError::Unreadable)),
        ("2023-02-29", Err(TimeError::Unreadable)),
        ("2024-13-01", Err(TimeError::Unreadable)),
        ("2024-5-1", Err(TimeError::Unreadable)),
        ("12024-05-01", Err(TimeError::Unreadable)),
        ("2024-05-01T24:00:00Z", Err(TimeError::Unreadable)),
        ("2024-05-01T12:60:00Z", Err(TimeError::Unreadable)),
        ("2024-05-01T12:30:61Z", Err(TimeError::Unreadable)),
        ("2024-05-01T12:30:00.Z", Err(TimeError::Unreadable)),
        ("2024-05-01T12:30:00Zulu", Err(TimeError::Unreadable)),
        ("2024-05-01T12:30:00+25:00", Err(TimeError::Unreadable)),
        ("2024-05-01T", Err(TimeError::Unreadable)),
        ("2024-05-01T12", Err(TimeError::Unreadable)),
        ("２０２４-05-01", Err(TimeError::Unreadable)),
        ("May 1, 2024", Err(TimeError::Unreadable)),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text), *expected, "{text:?}");
    }
}

#[test]
fn very_long_numbers_are_cut_off_and_never_panic() {
    let fraction = format!("1714566600.{}", "9".repeat(100_000));
    assert_eq!(parse(&fraction), Ok(NOON + 999_999));
    let huge = "9".repeat(100_000);
    assert_eq!(parse(&huge), Err(TimeError::OutOfRange));
    assert_eq!(parse(&format!("0.{}1", "0".repeat(100_000))), Ok(0));
}

#[test]
fn protobuf_times_are_checked_too() {
    assert_eq!(from_parts(1, 999_999_999), Ok(1_999_999));
    assert_eq!(from_parts(-1, 500_000_000), Ok(-500_000));
    assert_eq!(from_parts(0, -1), Err(TimeError::Unreadable));
    assert_eq!(from_parts(0, 1_000_000_000), Err(TimeError::Unreadable));
    assert_eq!(from_parts(i64::MAX, 0), Err(TimeError::OutOfRange));
    assert_eq!(from_parts(i64::MIN, 0), Err(TimeError::OutOfRange));
}

#[test]
fn clocks_are_corrected_as_segment_does() {
    let minute = 60 * SECOND;
    // The client's clock is an hour ahead; it held the event for ten minutes.
    let ahead = NOON + 60 * minute;
    let held = ahead - 10 * minute;
    let base = Times {
        received_at: NOON,
        sent_at: Some(ahead),
        timestamp: None,
        original: None,
    };
    let check = |times: Times, timestamp, original_timestamp, sent_at| {
        assert_eq!(
            times.corrected(),
            Corrected {
                timestamp,
                original_timestamp,
                sent_at
            },
            "{times:?}"
        );
    };
    let timestamp = Some(held);
    let original = Some(held);
    check(
        Times { timestamp, ..base },
        NOON - 10 * minute,
        Some(held),
        Some(ahead),
    );
    check(
        Times { original, ..base },
        NOON - 10 * minute,
        Some(held),
        Some(ahead),
    );
    // Where both are given, the original is what the client's clock showed.
    let both = Times {
        timestamp: Some(7),
        original,
        ..base
    };
    check(both, NOON - 10 * minute, Some(held), Some(ahead));
    let sent_at = None;
    check(Times { sent_at, ..both }, 7, Some(held), None);
    check(
        Times {
            timestamp,
            sent_at,
            ..base
        },
        held,
        Some(held),
        None,
    );
    check(
        Times {
            original,
            sent_at,
            ..base
        },
        held,
        Some(held),
        None,
    );
    check(base, NOON, None, Some(ahead));
    check(Times { sent_at, ..base }, NOON, None, None);
}

#[test]
fn a_meaningless_sent_at_costs_the_correction_and_not_the_event() {
    let times = Times {
        received_at: NOON,
        sent_at: Some(LATEST),
        timestamp: Some(EARLIEST),
        original: None,
    };
    assert_eq!(times.corrected().timestamp, EARLIEST);
    for sent_at in [Some(i64::MAX), Some(i64::MIN)] {
        let times = Times {
            sent_at,
            timestamp: Some(NOON - 1),
            ..times
        };
        assert_eq!(times.corrected().timestamp, NOON - 1);
        assert_eq!(times.corrected().sent_at, None);
    }
}
