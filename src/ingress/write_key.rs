//! Write keys are credentials: taken wherever clients put them (Basic, Bearer, `X-Write-Key`, the query, the body), stored
//! and logged nowhere.
//!
//! Headers and queries are not stored at all. An event's own bytes are, and some clients put the key there.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::value::RawValue;

use super::decode::scan::{self, Member};
use super::decode::{Id, id_text};

/// The member of a body that is a key.
pub(super) const NAME: &str = "writeKey";

/// The key in a body that is one object; of several the last one counts.
pub(super) fn of(body: &[u8]) -> Option<Cow<'_, str>> {
    let mut found = None;
    let outline = scan::members(body, |member| {
        if name(&member) == NAME {
            found = Some(member.value);
        }
    });
    outline.ok().and(found).and_then(text)
}

/// The text of a member that is a key.
pub(super) fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    match id_text(serde_json::from_slice(value).ok()?) {
        Id::Text(text) => Some(text),
        Id::Absent | Id::Invalid => None,
    }
}

/// The event with `null` in the place of every top-level `writeKey`. Bytes that are no object are left as they are: they
/// are rejected, and stored nowhere.
pub(super) fn without(event: &[u8]) -> Cow<'_, [u8]> {
    static PLAIN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(NAME));
    // All letters of the name are ASCII.
    static ESCAPED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br"\u00"));
    // Most events have neither, and this is all that they pay.
    if PLAIN.find(event).is_none() && ESCAPED.find(event).is_none() {
        return Cow::Borrowed(event);
    }
    let mut found = Vec::new();
    let outline = scan::members(event, |member| {
        if name(&member) == NAME {
            found.push((member.value_at, member.value.len()));
        }
    });
    if found.is_empty() || outline.is_err() {
        return Cow::Borrowed(event);
    }
    let mut rest = event;
    let mut kept = Vec::with_capacity(event.len());
    let mut at = 0;
    for (value_at, length) in found {
        let (before, from_value) = rest.split_at(value_at - at);
        kept.extend_from_slice(before);
        kept.extend_from_slice(b"null");
        rest = from_value.get(length..).unwrap_or_default();
        at = value_at + length;
    }
    kept.extend_from_slice(rest);
    Cow::Owned(kept)
}

/// A member's name as text; one that is none is like no other.
pub(super) fn name<'a>(member: &Member<'a>) -> Cow<'a, str> {
    match serde_json::from_slice::<&RawValue>(member.key).map(id_text) {
        Ok(Id::Text(text)) => text,
        Ok(Id::Absent | Id::Invalid) | Err(_) => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_key_is_found_at_the_top_of_a_body_alone() {
        for (body, key) in [
            (
                r#"{"batch":[{"writeKey":"inner"}],"writeKey":"k"}"#,
                Some("k"),
            ),
            (r#"{"writeKey":"a","write\u004bey":"k\u0031"}"#, Some("k1")),
            (r#"{"batch":[{"writeKey":"inner"}]}"#, None),
            (r#"[{"writeKey":"k"}]"#, None),
            (r#"{"writeKey":{"k":1}}"#, None),
            (r#"{"writeKey":null}"#, None),
            (r#"{"writeKey":"k""#, None),
            ("", None),
        ] {
            assert_eq!(of(body.as_bytes()).as_deref(), key, "{body}");
        }
    }

    #[test]
    fn a_write_key_is_cut_out_wherever_it_stands() {
        let cases = [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"writeKey":"s"}"#, r#"{"writeKey":null}"#),
            (
                r#"{"a":{"writeKey":"inner"},"write\u004bey" : "s" ,"writeKey":["s",{}]}"#,
                r#"{"a":{"writeKey":"inner"},"write\u004bey" : null ,"writeKey":null}"#,
            ),
            (r#"{"\u0077riteKey":"s"}"#, r#"{"\u0077riteKey":null}"#),
            (
                r#"{"\u0077\u0072\u0069\u0074\u0065\u004b\u0065\u0079":7}"#,
                r#"{"\u0077\u0072\u0069\u0074\u0065\u004b\u0065\u0079":null}"#,
            ),
            (r#"{"a":"\u0000"}"#, r#"{"a":"\u0000"}"#),
            (r#"{"writeKey":"s""#, r#"{"writeKey":"s""#),
            ("7", "7"),
        ];
        for (event, kept) in cases {
            let found = without(event.as_bytes());
            assert_eq!(String::from_utf8_lossy(&found), kept);
        }
    }
}
