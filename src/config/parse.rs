//! Text to values. The errors say what is wrong and what would be right, and never repeat the value: it may be secret.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::settings::Kind;

/// A value of a setting's kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of [`Kind::Text`] and [`Kind::Any`].
    Text(String),
    /// Of [`Kind::Path`].
    Path(PathBuf),
    /// Of [`Kind::Address`].
    Address(SocketAddr),
    /// Of [`Kind::Choice`]: the word as the table writes it.
    Choice(&'static str),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Count`] and [`Kind::Bytes`].
    Whole(u64),
    /// Of [`Kind::Seconds`], [`Kind::Hours`] and [`Kind::Millis`].
    Time(Duration),
}

/// Reads a value.
///
/// # Errors
///
/// What is wrong with it, and what would be right.
pub fn value(kind: Kind, text: &str) -> Result<Value, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err("is not UTF-8".into());
    }
    match kind {
        Kind::Text => {
            if text.len() > 255 || text.chars().any(char::is_control) {
                return Err("must be at most 255 bytes without control characters".into());
            }
            Ok(Value::Text(text.to_owned()))
        }
        Kind::Any => {
            if text.len() > 16 << 10 || text.chars().any(char::is_control) {
                return Err("must be at most 16 KiB without control characters".into());
            }
            Ok(Value::Text(text.to_owned()))
        }
        Kind::Path => Ok(Value::Path(PathBuf::from(text))),
        Kind::Address => address(text).map(Value::Address),
        Kind::Choice(words) => words
            .iter()
            .find(|word| word.eq_ignore_ascii_case(text))
            .map(|word| Value::Choice(word))
            .ok_or_else(|| format!("must be one of {}", words.join(", "))),
        Kind::Bool => bool(text).map(Value::Bool),
        Kind::Count(min, max) => {
            let count = text
                .parse()
                .ok()
                .filter(|count| (min..=max).contains(count));
            count.map(Value::Whole).ok_or_else(|| match max {
                u64::MAX => format!("must be a whole number from {min} up"),
                _ => format!("must be a whole number from {min} to {max}"),
            })
        }
        Kind::Bytes(min, max) => {
            let right = || {
                format!(
                    "must be a size from {} to {}, in bytes or as in 4MiB",
                    bytes_text(min),
                    bytes_text(max)
                )
            };
            let size = bytes(text).filter(|size| (min..=max).contains(size));
            size.map(Value::Whole).ok_or_else(right)
        }
        Kind::Seconds(min, max) => time(text, 1.0, min, max)
            .map(Value::Time)
            .ok_or_else(|| format!("must be a number of seconds from {min} to {max}")),
        Kind::Hours(min, max) => time(text, 3600.0, min, max)
            .map(Value::Time)
            .ok_or_else(|| format!("must be a number of hours from {min} to {max}")),
        Kind::Millis(min, max) => {
            let millis = text.parse().ok();
            let millis = millis.filter(|millis| (min..=max).contains(millis));
            millis
                .map(|millis| Value::Time(Duration::from_millis(millis)))
                .ok_or_else(|| format!("must be a number of milliseconds from {min} to {max}"))
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    // People write it, and it means one thing only; other names would need a look-up and are refused.
    text.strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
        .map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .ok_or_else(|| {
            "must be an IP address and a port, as in 127.0.0.1:8000 or [::1]:8000".into()
        })
}

fn bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

fn bytes(text: &str) -> Option<u64> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(end)?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A size in the largest unit that divides it.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|&(shift, _)| bytes > 0 && bytes.trailing_zeros() >= shift)
        .map_or_else(
            || format!("{bytes}"),
            |(shift, unit)| format!("{}{unit}", bytes >> shift),
        )
}

/// A plain number counts in the setting's own unit; `ms`, `s`, `m` and `h` may be written.
fn time(text: &str, unit_seconds: f64, min: f64, max: f64) -> Option<Duration> {
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let seconds = match unit.trim() {
        "" => unit_seconds,
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let seconds = number.trim().parse::<f64>().ok()? * seconds;
    let range = min * unit_seconds..=max * unit_seconds;
    range
        .contains(&seconds)
        .then(|| Duration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_bytes_and_units() {
        for (text, expect) in [
            ("4194304", Some(4 << 20)),
            ("4MiB", Some(4 << 20)),
            ("4 mib", Some(4 << 20)),
            ("16KiB", Some(16 << 10)),
            ("2GB", Some(2_000_000_000)),
            ("0", Some(0)),
            ("4M", None),
            ("-1", None),
            ("1.5GiB", None),
            ("MiB", None),
            ("99999999TiB", None),
            ("4\u{b5}B", None),
        ] {
            assert_eq!(bytes(text), expect, "{text}");
        }
    }

    #[test]
    fn sizes_are_written_in_the_unit_that_divides_them() {
        for (size, expect) in [
            (0, "0"),
            (1000, "1000"),
            (1024, "1KiB"),
            (8 << 20, "8MiB"),
            ((8 << 20) + 1, "8388609"),
        ] {
            assert_eq!(bytes_text(size), expect);
        }
    }

    #[test]
    fn times_are_seconds_with_fractions_or_have_a_unit() {
        let seconds = Kind::Seconds(0.01, 100.0);
        let hours = Kind::Hours(0.0, 48.0);
        for (kind, text, expect) in [
            (seconds, "0.1", Some(Duration::from_millis(100))),
            (seconds, "5.0", Some(Duration::from_secs(5))),
            (seconds, "250ms", Some(Duration::from_millis(250))),
            (seconds, "1m", Some(Duration::from_secs(60))),
            (hours, "24", Some(Duration::from_secs(86_400))),
            (hours, "0.5", Some(Duration::from_secs(1800))),
            (hours, "30m", Some(Duration::from_secs(1800))),
            (seconds, "0", None),
            (seconds, "101", None),
            (seconds, "-1", None),
            (seconds, "inf", None),
            (seconds, "NaN", None),
            (seconds, "5 parsecs", None),
            (hours, "49", None),
        ] {
            let time = value(kind, text).ok();
            assert_eq!(time, expect.map(Value::Time), "{text}");
        }
    }

    #[test]
    fn milliseconds_are_whole_and_have_no_unit() {
        for (text, expect) in [
            ("10000", Some(Duration::from_secs(10))),
            ("0", None),
            ("1.5", None),
            ("10s", None),
            ("60001", None),
        ] {
            let time = value(Kind::Millis(1, 60_000), text).ok();
            assert_eq!(time, expect.map(Value::Time), "{text}");
        }
    }

    #[test]
    fn addresses_are_numbers_or_localhost() {
        for (text, expect) in [
            ("127.0.0.1:8000", Some("127.0.0.1:8000")),
            ("localhost:0", Some("127.0.0.1:0")),
            ("[::1]:9090", Some("[::1]:9090")),
            ("8000", None),
            ("example.org:80", None),
            ("127.0.0.1:65536", None),
        ] {
            let address = address(text).ok().map(|address| address.to_string());
            assert_eq!(address.as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn words_and_truths_ignore_case() {
        let levels = Kind::Choice(&["INFO", "WARNING"]);
        assert_eq!(value(levels, "info"), Ok(Value::Choice("INFO")));
        assert_eq!(
            value(levels, "loud"),
            Err("must be one of INFO, WARNING".into())
        );
        assert_eq!(value(Kind::Bool, "True"), Ok(Value::Bool(true)));
        assert_eq!(value(Kind::Bool, "0"), Ok(Value::Bool(false)));
        assert!(value(Kind::Bool, "maybe").is_err());
    }
}
