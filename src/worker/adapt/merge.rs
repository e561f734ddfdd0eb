//! The batch's shared object under an event's own.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::ingress::decode::{Id, id_text};

/// The shared bytes are not one JSON object.
#[derive(Debug)]
pub(super) struct NotAnObject;

/// The event's own object, and below it those top-level keys of the batch's that it does not have. Where only one of the
/// two is there it stays as it is, byte for byte; empty bytes and `null` are none.
pub(super) fn under(own: Option<String>, batch: &[u8]) -> Result<Option<String>, NotAnObject> {
    if batch.is_empty() {
        return Ok(own);
    }
    let shared = serde_json::from_slice::<&RawValue>(batch).map_err(|_invalid| NotAnObject)?;
    if shared.get() == "null" {
        return Ok(own);
    }
    let below = entries(shared.get())?;
    let Some(own) = own else {
        return Ok(Some(shared.get().to_owned()));
    };
    let above = entries(&own)?;
    if above.is_empty() {
        return Ok(Some(shared.get().to_owned()));
    }
    let taken: HashSet<Cow<'_, str>> = above.iter().map(|(key, _)| key_text(key)).collect();
    let missing: Vec<_> = below
        .iter()
        .filter(|(key, _)| !taken.contains(&key_text(key)))
        .collect();
    if missing.is_empty() {
        return Ok(Some(own));
    }
    let mut merged = String::with_capacity(own.len() + shared.get().len());
    // The event's own part stays byte for byte; only its closing brace moves.
    let open = own.trim_end();
    merged.push_str(open.strip_suffix('}').unwrap_or(open));
    for (key, value) in missing {
        merged.push(',');
        merged.push_str(key.get());
        merged.push(':');
        merged.push_str(value.get());
    }
    merged.push('}');
    Ok(Some(merged))
}

fn entries(json: &str) -> Result<Vec<(&RawValue, &RawValue)>, NotAnObject> {
    serde_json::from_str::<Entries<'_>>(json)
        .map(|entries| entries.0)
        .map_err(|_invalid| NotAnObject)
}

fn key_text(key: &RawValue) -> Cow<'_, str> {
    match id_text(key) {
        Id::Text(text) => text,
        Id::Absent | Id::Invalid => Cow::Borrowed(key.get()),
    }
}

/// An object's keys and values as written.
struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}
