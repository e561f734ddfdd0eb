//! Times as text: ISO 8601 in UTC with microseconds and `Z`, always 27 characters, so that text sorts as time does.

use chrono::{DateTime, Datelike as _, Timelike as _};

use crate::event::Micros;

/// `2026-01-31T23:59:59.000001Z`.
///
/// Years outside 0–9999 never reach a row; should one, it is written with a sign (or, beyond the calendar, as the bare
/// number) rather than lost.
pub(super) fn iso(at: Micros) -> String {
    let Some(time) = DateTime::from_timestamp_micros(at) else {
        return at.to_string();
    };
    let Ok(year @ 0..=9999) = u32::try_from(time.year()) else {
        return time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    };
    let mut text = String::with_capacity(27);
    // By hand: four of these stand in every row, and formatting by a pattern costs as much as the rest of the row.
    digits(&mut text, year, 1_000, '-');
    digits(&mut text, time.month(), 10, '-');
    digits(&mut text, time.day(), 10, 'T');
    digits(&mut text, time.hour(), 10, ':');
    digits(&mut text, time.minute(), 10, ':');
    digits(&mut text, time.second(), 10, '.');
    digits(&mut text, time.timestamp_subsec_micros(), 100_000, 'Z');
    text
}

/// Appends the number with as many digits as `unit` has, then `end`.
fn digits(text: &mut String, number: u32, unit: u32, end: char) {
    let mut unit = unit;
    while unit > 0 {
        text.push(char::from_digit(number / unit % 10, 10).unwrap_or('0'));
        unit /= 10;
    }
    text.push(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_iso_8601_and_sort_as_time_does() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (1_769_903_999_000_001, "2026-01-31T23:59:59.000001Z"),
            (-62_135_596_800_000_000, "0001-01-01T00:00:00.000000Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(iso(at), text);
            let chrono = DateTime::from_timestamp_micros(at).unwrap();
            assert_eq!(chrono.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(), text);
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_is_still_told_apart() {
        assert_eq!(
            iso(253_402_300_800_000_000),
            "+10000-01-01T00:00:00.000000Z"
        );
        assert_eq!(iso(i64::MAX), "9223372036854775807");
        assert_ne!(iso(i64::MIN), iso(i64::MIN + 1));
    }
}
