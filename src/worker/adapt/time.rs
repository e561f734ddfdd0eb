//! When it happened: reading what clients write, and correcting their clocks.
//!
//! A time is given as ISO 8601 (`2024-05-01T12:30:00.123Z`; `T` or a space; seconds, fraction and offset optional; no offset
//! means UTC; the date alone means its midnight) or as Unix time, a number or a numeric string, fraction allowed.
//! Unix time below [`SECONDS_BELOW`] in magnitude is seconds (up to the year 5138), anything else milliseconds (from March
//! 1973 on). More precision than a microsecond is cut off. Only the years 1 to 9999 are times: no warehouse holds others.

use chrono::NaiveDate;

use crate::event::Micros;

/// 0001-01-01T00:00:00Z.
pub const EARLIEST: Micros = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z.
pub const LATEST: Micros = 253_402_300_799_999_999;

/// Unix time of a smaller magnitude is in seconds, else in milliseconds.
pub const SECONDS_BELOW: i128 = 100_000_000_000;

/// Digits of a number that are looked at; those beyond lie far below a microsecond.
const DIGITS_MAX: usize = 30;

/// Why a value is not a time. The text follows the field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Neither ISO 8601 nor Unix time.
    #[error("is neither ISO 8601 nor Unix time")]
    Unreadable,
    /// It is a time, but none that a warehouse holds.
    #[error("lies outside the years 1 to 9999")]
    OutOfRange,
}

/// What is known about when an event happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// By the gateway's clock.
    pub(super) received_at: Micros,
    /// When the client says it sent the request.
    pub(super) sent_at: Option<Micros>,
    /// The event's `timestamp`.
    pub(super) timestamp: Option<Micros>,
    /// The event's `originalTimestamp`.
    pub(super) original: Option<Micros>,
}

/// What is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Corrected {
    pub(super) timestamp: Micros,
    pub(super) original_timestamp: Option<Micros>,
    pub(super) sent_at: Option<Micros>,
}

impl Times {
    /// As Segment does: `timestamp = received_at - (sent_at - original)`, where the original is `originalTimestamp`, else
    /// `timestamp`: both clocks are the client's, so that their error cancels out. Without `sent_at` the client's
    /// time stands as it is, and without any time it is when the event was received. The client's own value is kept.
    ///
    /// A correction that leads out of the years 1 to 9999 stems from a meaningless `sent_at`: the client's time then
    /// stands uncorrected, and the event is not lost for it. So does a `sent_at` out of that range, which is dropped.
    pub(super) fn corrected(self) -> Corrected {
        let sent_at = self.sent_at.filter(|at| in_range(*at));
        let original = self.original.or(self.timestamp);
        let corrected = original.zip(sent_at).and_then(|(original, sent_at)| {
            let elapsed = sent_at.checked_sub(original)?;
            self.received_at
                .checked_sub(elapsed)
                .filter(|at| in_range(*at))
        });
        Corrected {
            timestamp: corrected
                .or(self.timestamp)
                .or(self.original)
                .unwrap_or(self.received_at),
            original_timestamp: original,
            sent_at,
        }
    }
}

/// Whether a warehouse holds the time.
#[must_use]
pub fn in_range(at: Micros) -> bool {
    (EARLIEST..=LATEST).contains(&at)
}

/// Seconds and nanoseconds since 1970, as protobuf has them.
///
/// # Errors
///
/// [`TimeError`].
pub fn from_parts(seconds: i64, nanos: i32) -> Result<Micros, TimeError> {
    if !(0..1_000_000_000).contains(&nanos) {
        return Err(TimeError::Unreadable);
    }
    checked(i128::from(seconds) * 1_000_000 + i128::from(nanos / 1_000))
}

/// Reads a time.
///
/// # Errors
///
/// [`TimeError`].
pub fn parse(text: &str) -> Result<Micros, TimeError> {
    let text = text.trim();
    match unix(text) {
        Some(micros) => checked(micros),
        None => checked(iso(text).ok_or(TimeError::Unreadable)?),
    }
}

fn checked(micros: i128) -> Result<Micros, TimeError> {
    Micros::try_from(micros)
        .ok()
        .filter(|at| in_range(*at))
        .ok_or(TimeError::OutOfRange)
}

// === Unix time ===

/// A decimal number of seconds or milliseconds in microseconds; saturates. `None` when it is not a number.
fn unix(text: &str) -> Option<i128> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let significant: String = whole
        .chars()
        .chain(fraction.chars())
        .take(DIGITS_MAX)
        .collect();
    let value: i128 = significant.parse().ok()?;
    // value * 10^scale is the number.
    let places = i32::try_from(whole.len()).ok()? - i32::try_from(significant.len()).ok()?;
    let scale = places.saturating_add(exponent);
    let seconds = shifted(value, scale) < SECONDS_BELOW;
    let micros = shifted(value, scale.saturating_add(if seconds { 6 } else { 3 }));
    Some(if negative { -micros } else { micros })
}

/// `value * 10^scale`, cut off at the point, saturating.
fn shifted(value: i128, scale: i32) -> i128 {
    let power = |exponent| 10_i128.checked_pow(exponent);
    match u32::try_from(scale) {
        Ok(_) if value == 0 => 0,
        Ok(up) => power(up)
            .and_then(|factor| value.checked_mul(factor))
            .unwrap_or(i128::MAX),
        Err(_) => power(scale.unsigned_abs()).map_or(0, |divisor| value / divisor),
    }
}

// === ISO 8601 ===

/// Eats a text from the left.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    /// Exactly so many digits.
    fn number(&mut self, digits: usize) -> Option<u32> {
        let (head, rest) = self.0.split_at_checked(digits)?;
        let number = head.iter().try_fold(0_u32, |number, byte| {
            let digit = char::from(*byte).to_digit(10)?;
            Some(number * 10 + digit)
        })?;
        self.0 = rest;
        Some(number)
    }

    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        bytes.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }

    /// At least one digit after the point, in microseconds; further digits are cut off.
    fn fraction(&mut self) -> Option<u32> {
        let mut micros = 0;
        let mut unit = 100_000;
        let mut digit = self.number(1)?;
        loop {
            micros += digit * unit;
            unit /= 10;
            match self.number(1) {
                Some(next) => digit = next,
                None => return Some(micros),
            }
        }
    }
}

fn iso(text: &str) -> Option<i128> {
    let mut rest = Cursor(text.as_bytes());
    let year = rest.number(4)?;
    rest.one_of(b"-")?;
    let month = rest.number(2)?;
    rest.one_of(b"-")?;
    let day = rest.number(2)?;
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    let midnight = date.and_hms_opt(0, 0, 0)?.and_utc();
    let mut micros = i128::from(midnight.timestamp()) * 1_000_000;
    if rest.one_of(b"Tt ").is_some() {
        micros += i128::from(clock(&mut rest)?);
        micros -= i128::from(offset(&mut rest)?);
    }
    rest.0.is_empty().then_some(micros)
}

/// `HH:MM[:SS[.fraction]]` in microseconds. A leap second is the first of the next minute.
fn clock(rest: &mut Cursor<'_>) -> Option<i64> {
    let hour = rest.number(2)?;
    rest.one_of(b":")?;
    let minute = rest.number(2)?;
    let (mut second, mut micros) = (0, 0);
    if rest.one_of(b":").is_some() {
        second = rest.number(2)?;
        if rest.one_of(b".,").is_some() {
            micros = rest.fraction()?;
        }
    }
    (hour < 24 && minute < 60 && second <= 60)
        .then(|| i64::from(hour * 3_600 + minute * 60 + second) * 1_000_000 + i64::from(micros))
}

/// `Z`, `±HH`, `±HHMM` or `±HH:MM` in microseconds; nothing means UTC.
fn offset(rest: &mut Cursor<'_>) -> Option<i64> {
    if rest.0.is_empty() || rest.one_of(b"Zz").is_some() {
        return Some(0);
    }
    let west = rest.one_of(b"+-")? == b'-';
    let hours = rest.number(2)?;
    let minutes = match rest.one_of(b":") {
        Some(_) => rest.number(2)?,
        None => rest.number(2).unwrap_or(0),
    };
    (hours < 24 && minutes < 60).then(|| {
        let micros = i64::from(hours * 60 + minutes) * 60_000_000;
        if west { -micros } else { micros }
    })
}

#[cfg(test)]
mod tests;
