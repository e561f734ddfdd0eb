//! Names that Firestore takes: not empty, no `/`, not `.`, `..` or `__…__`, at most 1,500 bytes. Pure.
//!
//! A document's id begins with 128 bits of a hash of its key, in hexadecimal. That alone decides; SHA-256, because clients choose
//! their ids and nobody must be able to choose one that hides another's. What follows is for people. Ids that
//! begin with a hash spread over the whole key space: sequential ones would all end up on one server.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::event::EventKey;
use crate::store::ErrorRow;

/// The longest name in bytes.
const NAME_BYTES_MAX: usize = 1_500;

/// How much of a client's id stays readable.
const TAIL_CHARS_MAX: usize = 64;

/// Streams with longer names are told apart by a hash.
const STREAM_BYTES_MAX: usize = 1_000;

/// Bytes of the hash that make a key.
const KEY_BYTES: usize = 16;

/// Whether a collection may have this name.
pub(super) fn is_collection_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains('/')
        && !matches!(name, "." | "..")
        && !is_reserved(name)
}

/// An event's document.
pub(super) fn event(key: EventKey<'_>) -> String {
    let tail = key.message_id.chars().take(TAIL_CHARS_MAX);
    let tail = tail.map(|char| if is_plain(char) { char } else { '_' });
    let hash = hash(&[key.source.as_bytes(), key.message_id.as_bytes()]);
    format!("{hash}-{}", tail.collect::<String>())
}

/// An error row's document.
pub(super) fn error(row: &ErrorRow) -> String {
    let hash = hash(&[
        &row.log_id.0.to_be_bytes(),
        &row.offset.to_be_bytes(),
        row.original_hash.as_bytes(),
    ]);
    format!("{hash}-{}-{}", row.log_id, row.offset)
}

/// A stream's document: its name, what is not plain written as `~` and two hexadecimal digits a byte. Two streams never share one.
pub(super) fn stream(name: &str) -> String {
    if name.len() > STREAM_BYTES_MAX / 3 {
        return format!("~~{}", hash(&[name.as_bytes()]));
    }
    if name.is_empty() {
        return "~".to_owned();
    }
    let reserved = is_reserved(name) || name.starts_with('.');
    let mut id = String::with_capacity(name.len());
    for (at, char) in name.char_indices() {
        if is_plain(char) && !(reserved && at == 0) {
            id.push(char);
        } else {
            escape(char, &mut id);
        }
    }
    id
}

fn escape(char: char, id: &mut String) {
    for byte in char.encode_utf8(&mut [0; 4]).bytes() {
        write!(id, "~{byte:02x}").expect("a String takes everything");
    }
}

fn is_plain(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.')
}

fn is_reserved(name: &str) -> bool {
    name.len() >= 4 && name.starts_with("__") && name.ends_with("__")
}

/// Each part is preceded by its length, so that no two lists of parts are the same bytes.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut text = String::with_capacity(2 * KEY_BYTES);
    for byte in hasher.finalize().iter().take(KEY_BYTES) {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(source: &str, message_id: &str) -> String {
        event(EventKey { source, message_id })
    }

    #[test]
    fn an_id_is_fixed_for_ever() {
        // Printed by another program: SHA-256 of 8 bytes of length and the bytes, twice.
        assert_eq!(
            id("default", "order-1"),
            "a2f3c57957c95fca3b3cff4bc4935074-order-1"
        );
    }

    #[test]
    fn ids_of_different_keys_differ_and_are_names_that_firestore_takes() {
        let long = "x".repeat(256);
        let longer = format!("{long}y");
        let keys = [
            ("a", "bc"),
            ("ab", "c"),
            ("", "abc"),
            ("a", "b/c"),
            ("a", "b_c"),
            ("a", "b\u{0}c"),
            ("a", "."),
            ("a", ".."),
            ("a", "__x__"),
            ("a", ""),
            ("a", "Grüße 🦀"),
            ("a", long.as_str()),
            ("a", longer.as_str()),
        ];
        let ids: std::collections::BTreeSet<_> = keys
            .iter()
            .map(|(source, message)| id(source, message))
            .collect();
        assert_eq!(ids.len(), keys.len());
        for id in ids {
            assert!(is_collection_name(&id) && id.is_ascii(), "{id}");
            assert!(id.len() <= 2 * KEY_BYTES + 1 + TAIL_CHARS_MAX, "{id}");
        }
        assert_eq!(id("a", "b c"), id("a", "b c"));
    }

    #[test]
    fn a_stream_keeps_its_name_where_firestore_takes_it() {
        for (name, expected) in [
            ("shop", "shop"),
            ("a.b-c_D9", "a.b-c_D9"),
            ("_x", "_x"),
            ("__x", "__x"),
            ("__x__", "~5f_x__"),
            ("____", "~5f___"),
            (".", "~2e"),
            ("..", "~2e."),
            ("a/b", "a~2fb"),
            ("a~2fb", "a~7e2fb"),
            ("ü", "~c3~bc"),
            ("", "~"),
        ] {
            assert_eq!(stream(name), expected);
            assert!(is_collection_name(expected), "{expected}");
        }
        let long = stream(&"ü".repeat(600));
        assert!(is_collection_name(&long));
        assert_ne!(long, stream(&"ü".repeat(601)));
    }

    #[test]
    fn names_that_firestore_refuses_are_known() {
        for name in ["", ".", "..", "____", "__x__", "a/b", &"x".repeat(1_501)] {
            assert!(!is_collection_name(name), "{name}");
        }
        for name in ["streams", "___", "__x", "...", &"x".repeat(1_500)] {
            assert!(is_collection_name(name), "{name}");
        }
    }
}
