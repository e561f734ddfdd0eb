//! An event as the address of a picture: Segment's `?data=` with the event in base64, or RudderStack's with a parameter for
//! each field. Pure.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::super::outcome::RequestError;
use super::envelope::malformed;

/// One transparent pixel.
pub(super) const GIF: &[u8] =
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x21\xf9\x04\x01\x00\x00\x00\x00\
    \x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b";

/// Parameters that are about the request, not the event.
const NOT_THE_EVENTS: [&str; 2] = ["writeKey", "writekey"];

/// The event's JSON.
///
/// # Errors
///
/// There is nothing, or `data` is not base64.
pub(super) fn event(query: &str) -> Result<Vec<u8>, RequestError> {
    let parameters = || form_urlencoded::parse(query.as_bytes());
    let data = parameters().find(|(name, _)| name == "data");
    if let Some((_, data)) = data {
        return decoded(&data)
            .ok_or_else(|| malformed("the parameter \"data\" is not base64").in_field("data"));
    }
    let mut event = Map::new();
    for (name, value) in parameters() {
        if NOT_THE_EVENTS.contains(&name.as_ref()) {
            continue;
        }
        let value = Value::String(value.into_owned());
        match name.split_once('.') {
            // One level is all there is: `context.ip`, `properties.price`.
            Some((part, name)) if !part.is_empty() => {
                let part = event.entry(part).or_insert_with(|| Map::new().into());
                if let Value::Object(part) = part {
                    part.insert(name.to_owned(), value);
                }
            }
            _ => drop(event.insert(name.into_owned(), value)),
        }
    }
    if event.is_empty() {
        return Err(malformed("the query holds no event"));
    }
    Ok(Value::Object(event).to_string().into_bytes())
}

/// Base64 of either alphabet, with or without padding. A `+` that nobody escaped has become a space.
fn decoded(data: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let data: String = data
        .chars()
        .map(|c| match c {
            ' ' | '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    LENIENT.decode(data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Option<String> {
        let event = event(query).ok()?;
        Some(String::from_utf8(event).unwrap())
    }

    #[test]
    fn the_event_is_in_data_or_in_the_parameters() {
        let cases = [
            ("data=eyJhIjoxfQ==", Some(r#"{"a":1}"#)),
            ("data=eyJhIjoxfQ", Some(r#"{"a":1}"#)),
            ("data=eyJhIjoxfQ%3D%3D&writeKey=secret", Some(r#"{"a":1}"#)),
            ("data=eyJhIjoiPj4%2FIn0", Some(r#"{"a":">>?"}"#)),
            ("data=eyJhIjoiPj4_In0", Some(r#"{"a":">>?"}"#)),
            ("data=eyJhIjoi4oW-In0=", Some("{\"a\":\"\u{217e}\"}")),
            ("data=eyJhIjoi4oW+In0=", Some("{\"a\":\"\u{217e}\"}")),
            ("data=%7B%7D", None),
            ("data=eyJh*", None),
            (
                "userId=u&event=Mail+Opened&properties.campaign=a%26b&context.ip=&writeKey=secret&writekey=secret",
                Some(
                    r#"{"context":{"ip":""},"event":"Mail Opened","properties":{"campaign":"a&b"},"userId":"u"}"#,
                ),
            ),
            ("a=1&a.b=2&.c=3", Some(r#"{".c":"3","a":"1"}"#)),
            ("writeKey=secret", None),
            ("", None),
        ];
        let value = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        for (query, expected) in cases {
            let found = read(query).as_deref().map(value);
            assert_eq!(found, expected.map(value), "{query}");
        }
    }

    #[test]
    fn a_query_of_dots_is_not_nested_deeper_than_once() {
        let deep = format!("{}=1", "a.".repeat(20_000));
        let expected = format!(r#"{{"a":{{"{}":"1"}}}}"#, "a.".repeat(19_999));
        assert_eq!(read(&deep), Some(expected));
    }
}
