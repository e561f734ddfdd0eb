//! What the log tools show to people.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat};
use serde::Deserialize;
use serde_json::Value;

/// [`crate::wal::inspect::Verification`], as it is read back.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) groups: u64,
    pub(super) records: u64,
    pub(super) problems: Vec<String>,
}

/// [`crate::wal::inspect::Line`], as it is read back.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    pub(super) offset: u64,
    lane: u16,
    source: String,
    message_id: String,
    stream: String,
    received_at_us: i64,
    format: String,
    payload_bytes: u64,
    #[serde(default)]
    payload: Option<String>,
}

/// The figures in the order in which they are asked about.
const FIGURES: [(&str, &str); 14] = [
    ("log_id", "log id"),
    ("format", "format version"),
    ("lanes", "lanes"),
    ("first_offset", "first offset"),
    ("next_offset", "next offset"),
    ("checkpoint", "checkpoint"),
    ("mark_next_offset", "mark"),
    ("records", "records"),
    ("unsettled_records", "not settled"),
    ("groups", "groups"),
    ("stored_bytes", "bytes stored"),
    ("plain_bytes", "bytes of records"),
    ("open_seals", "open seals"),
    ("oldest_received_at_us", "oldest record"),
];

pub(super) fn stat(stat: &Value, out: &mut dyn Write) -> io::Result<()> {
    for (key, label) in FIGURES {
        let text = match stat.get(key) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => match value.as_i64() {
                Some(at) if key.ends_with("_us") => time(at),
                Some(size) if key.ends_with("_bytes") => bytes(size),
                _ => value.to_string(),
            },
        };
        writeln!(out, "{label:<16}  {text}")?;
    }
    Ok(())
}

pub(super) fn verification(found: &Found, repair: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "records read: {}, in group commits: {}",
        found.records, found.groups
    )?;
    match found.problems.len() {
        0 => return writeln!(out, "the log is whole"),
        1 => writeln!(out, "1 problem:")?,
        count => writeln!(out, "{count} problems:")?,
    }
    found
        .problems
        .iter()
        .try_for_each(|problem| writeln!(out, "  {problem}"))?;
    writeln!(out, "`{repair}` saves what can be read and deletes nothing")
}

pub(super) fn dump_heading(payload: bool, out: &mut dyn Write) -> io::Result<()> {
    let last = if payload { "  payload" } else { "" };
    writeln!(
        out,
        "{:>12}  {:>4}  {:<27}  {:<6}  {:>8}  {:<16}  {:<16}  {:<36}{last}",
        "offset", "lane", "received", "format", "bytes", "source", "stream", "message id"
    )
}

pub(super) fn record(record: &Record, out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        "{:>12}  {:>4}  {:<27}  {:<6}  {:>8}  {:<16}  {:<16}  {:<36}",
        record.offset,
        record.lane,
        time(record.received_at_us),
        record.format,
        record.payload_bytes,
        printable(&record.source),
        printable(&record.stream),
        printable(&record.message_id),
    )?;
    match &record.payload {
        Some(payload) => writeln!(out, "  {}", printable(payload)),
        None => writeln!(out),
    }
}

/// Clients choose these texts; a terminal must not be steered by them.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn time(at: i64) -> String {
    DateTime::from_timestamp_micros(at).map_or_else(
        || format!("{at} us"),
        |at| at.to_rfc3339_opts(SecondsFormat::Micros, true),
    )
}

fn bytes(size: i64) -> String {
    for (unit, name) in [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ] {
        if size >= unit {
            let tenths = size.saturating_mul(10) / unit;
            return format!("{size} ({}.{} {name})", tenths / 10, tenths % 10);
        }
    }
    size.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::inspect;

    fn text(show: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        show(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_figure_of_a_log_is_shown() {
        let figures = inspect::Stat {
            log_id: "00c0ffee".into(),
            format: 1,
            lanes: 16,
            first_offset: 100,
            next_offset: 200,
            checkpoint: 150,
            mark_next_offset: None,
            records: 100,
            unsettled_records: 50,
            groups: 7,
            stored_bytes: 1536,
            plain_bytes: 12,
            open_seals: 3,
            oldest_received_at_us: Some(1_000_000),
        };
        let value = serde_json::to_value(&figures).unwrap();
        assert_eq!(value.as_object().unwrap().len(), FIGURES.len());
        let shown = text(|out| stat(&value, out));
        assert_eq!(shown.lines().count(), FIGURES.len());
        for line in [
            "log id            00c0ffee",
            "mark              -",
            "bytes stored      1536 (1.5 KiB)",
            "bytes of records  12",
            "oldest record     1970-01-01T00:00:01.000000Z",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{shown}");
        }
    }

    #[test]
    fn a_record_stays_on_its_line_whatever_a_client_wrote() {
        let line = inspect::Line {
            offset: 3,
            lane: 4,
            source: "default".into(),
            message_id: "a\nb\u{1b}[31m".into(),
            stream: "events".into(),
            received_at_us: 0,
            format: "json",
            payload_bytes: 2,
            payload: Some("{}".into()),
        };
        let json = serde_json::to_string(&line).unwrap();
        let shown = text(|out| record(&serde_json::from_str(&json).unwrap(), out));
        assert_eq!(shown.lines().count(), 1);
        assert!(shown.contains("a\\nb\\u{1b}[31m"), "{shown}");
        assert!(shown.ends_with("  {}\n"), "{shown}");
    }

    #[test]
    fn problems_are_listed() {
        let found = |problems| Found {
            groups: 1,
            records: 2,
            problems,
        };
        assert!(text(|out| verification(&found(vec![]), "", out)).ends_with("the log is whole\n"));
        let problems = vec!["offset 5: gap".into()];
        let shown = text(|out| verification(&found(problems), "eventkit wal repair x", out));
        assert!(shown.contains("1 problem:\n  offset 5: gap\n"), "{shown}");
        assert!(shown.contains("`eventkit wal repair x`"), "{shown}");
    }
}
