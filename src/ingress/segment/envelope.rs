//! What a body carries: one event, or many with what they share. No tree is built.

use serde_json::value::RawValue;

use super::super::admit::Shared;
use super::super::decode::scan::{self, Item, SplitError};
use super::super::decode::{Id, id_text};
use super::super::http as door;
use super::super::outcome::RequestError;
use super::super::write_key;
use crate::event::Micros;
use crate::status::Code;
use crate::worker::adapt::time;

/// What a body carries.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) items: Vec<Item<'a>>,
    pub(super) shared: Shared<'a>,
    pub(super) sent_at: Option<Micros>,
    /// The value of the body's `writeKey`.
    pub(super) write_key: Option<&'a [u8]>,
}

impl<'a> Envelope<'a> {
    /// A body that is one event, which may say itself when it was sent.
    pub(super) fn of_one(body: &'a [u8]) -> Result<Self, RequestError> {
        let (mut sent_at, mut write_key) = (None, None);
        scan::members(body, |member| {
            if member.key == br#""sentAt""# {
                sent_at = Some(member.value);
            } else if write_key::name(&member) == write_key::NAME {
                write_key = Some(member.value);
            }
        })
        .map_err(unusable)?;
        Ok(Self {
            items: scan::split(body, 1).map_err(unusable)?,
            write_key,
            sent_at: sent_at.and_then(moment),
            ..Self::default()
        })
    }

    /// `{"batch":[…],"context":…,"integrations":…,"sentAt":…}`; of a key that occurs twice the last value counts, and
    /// every other key is passed over.
    pub(super) fn read(body: &'a [u8], events_max: usize) -> Result<Self, RequestError> {
        let (mut batch, mut context, mut integrations) = (None, None, None);
        let (mut sent_at, mut write_key) = (None, None);
        scan::members(body, |member| {
            let place = match write_key::name(&member).as_ref() {
                "batch" => &mut batch,
                "context" => &mut context,
                "integrations" => &mut integrations,
                "sentAt" => &mut sent_at,
                write_key::NAME => &mut write_key,
                _ => return,
            };
            *place = Some(member.value);
        })
        .map_err(unusable)?;
        let batch = batch
            .filter(|batch| batch.starts_with(b"["))
            .ok_or_else(|| malformed("the body has no array \"batch\"").in_field("batch"))?;
        Ok(Self {
            items: scan::split(batch, events_max).map_err(unusable)?,
            shared: Shared::new(
                object("context", context)?,
                object("integrations", integrations)?,
            ),
            sent_at: sent_at.and_then(moment),
            write_key,
        })
    }
}

/// How many figures an SDK sends about itself in `series`; 0 where the body has none that can be counted.
pub(super) fn figures(body: &[u8], max: usize) -> usize {
    let mut series = None;
    let outline = scan::members(body, |member| {
        if write_key::name(&member) == "series" {
            series = Some(member.value);
        }
    });
    outline
        .ok()
        .and(series)
        .filter(|series| series.starts_with(b"["))
        .and_then(|series| scan::split(series, max).ok())
        .map_or(0, |items| items.len())
}

/// A shared part: an object, or nothing.
fn object<'a>(field: &'static str, value: Option<&'a [u8]>) -> Result<&'a [u8], RequestError> {
    let value = value.unwrap_or(b"null");
    match serde_json::from_slice::<&RawValue>(value).map(RawValue::get) {
        Ok("null") => Ok(&[]),
        Ok(json) if json.starts_with('{') => Ok(value),
        Ok(_) | Err(_) => {
            let text = format!("the batch's {field} is not a JSON object");
            Err(malformed(&text).in_field(field))
        }
    }
}

/// When the client says it sent the envelope. A time that cannot be read costs the correction, never the events.
fn moment(value: &[u8]) -> Option<Micros> {
    match id_text(serde_json::from_slice(value).ok()?) {
        Id::Text(text) => time::parse(&text).ok(),
        Id::Absent | Id::Invalid => None,
    }
}

fn unusable(error: SplitError) -> RequestError {
    match error {
        SplitError::NotABatch => malformed("the body is not a JSON object"),
        error => door::malformed(error),
    }
}

pub(super) fn malformed(what: &str) -> RequestError {
    RequestError::new(Code::MalformedRequest, format!("{what}; do not retry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Envelope<'_>, RequestError> {
        Envelope::read(body.as_bytes(), 3)
    }

    #[test]
    fn an_envelope_is_read_without_its_events() {
        let body = r#" {"writeKey":"k","sentAt":"1970-01-01T00:00:01Z","batch":[{"a":tru}, {"b":"]"},1],"x":[{}],
            "context":{"ip" : "::1"},"integrations":null} "#;
        let envelope = read(body).unwrap();
        let items: Vec<_> = envelope.items.iter().map(|item| item.bytes).collect();
        assert_eq!(items, [&br#"{"a":tru}"#[..], br#"{"b":"]"}"#, b"1"]);
        assert_eq!(envelope.shared.context, br#"{"ip" : "::1"}"#);
        assert_eq!(envelope.shared.integrations, b"");
        let extent = scan::Extent { depth: 2, keys: 1 };
        assert_eq!(envelope.shared.extent, extent);
        assert_eq!(envelope.sent_at, Some(1_000_000));

        let last = r#"{"batch":[1,2],"b\u0061tch":[],"sentAt":"soon"}"#;
        let envelope = read(last).unwrap();
        assert!(envelope.items.is_empty());
        assert_eq!(envelope.sent_at, None);
    }

    #[test]
    fn an_envelope_that_cannot_be_used_is_refused_as_a_whole() {
        let cases = [
            ("", Code::MalformedRequest),
            ("[]", Code::MalformedRequest),
            ("{}", Code::MalformedRequest),
            (r#"{"batch":{}}"#, Code::MalformedRequest),
            (r#"{"batch":[]"#, Code::MalformedRequest),
            (r#"{"batch":[{},]}"#, Code::MalformedRequest),
            (r#"{"batch":[],"context":[]}"#, Code::MalformedRequest),
            (
                r#"{"batch":[],"integrations":{"a"}}"#,
                Code::MalformedRequest,
            ),
            (r#"{"batch":[1,2,3,4]}"#, Code::TooManyEvents),
        ];
        for (body, code) in cases {
            assert_eq!(read(body).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn figures_are_counted_where_there_are_any() {
        let cases = [
            (r#"{"series":[{"type":"Counter"},{}]}"#, 2),
            (r#"{"series":[]}"#, 0),
            (r#"{"series":{}}"#, 0),
            (r#"{"series":[1,2,3,4]}"#, 0),
            ("{}", 0),
            ("", 0),
            ("nonsense", 0),
        ];
        for (body, expected) in cases {
            assert_eq!(figures(body.as_bytes(), 3), expected, "{body}");
        }
    }
}
