//! The file of keys: JSON, without a single key in it. Pure.
//!
//! ```json
//! {
//!   "version": 1,
//!   "keys": [
//!     {
//!       "id": "5f0c1d9a77e2",
//!       "source": "shop-web",
//!       "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
//!       "streams": ["events", "pages"],
//!       "origins": ["https://shop.example"],
//!       "events_per_second": 1000,
//!       "bytes_per_second": 1000000,
//!       "created": "2026-11-26T04:00:00Z"
//!     }
//!   ]
//! }
//! ```
//!
//! Only `version`, `keys`, and of a key `id`, `source` and `sha256` must be there. A name that is not known is an error: a
//! misspelt `streams` would allow all of them.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::super::admit;
use super::KeyHash;
use super::origin::Origin;

/// The one version there is.
const VERSION: u32 = 1;

/// A file of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// How it is written.
    pub version: u32,
    /// The keys.
    pub keys: Vec<Entry>,
}

/// A key in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// How people call it.
    pub id: String,
    /// The source of its events; several keys may have the same.
    pub source: String,
    /// The SHA-256 of the key.
    pub sha256: KeyHash,
    /// The streams that it may write to; not there: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Vec<String>>,
    /// The origins whose pages may use it; not there: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origins: Option<Vec<String>>,
    /// How many events a second it may send; not there: as the settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<u64>,
    /// How many bytes a second it may send; not there: as the settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Since when it is not good any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

/// Why a file cannot be used. Nothing of what stands in it is repeated: it may be a key in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is not JSON, or not with these fields.
    #[error(
        "line {line}, column {column}: not as a file of keys is written: {{\"version\": 1, \"keys\": [..]}}; of a key id, source, sha256 (64 hex \
         digits), and if need be streams, origins, events_per_second, bytes_per_second, created, revoked"
    )]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// It was written by another version of the program.
    #[error("version {0} of the file of keys is not known here; this program reads version 1")]
    Version(u32),
    /// A key in it is not good.
    #[error("key {place}: {what}")]
    Entry {
        /// Which, from 1.
        place: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Default for KeyFile {
    fn default() -> Self {
        Self {
            version: VERSION,
            keys: Vec::new(),
        }
    }
}

impl KeyFile {
    /// Reads a file's bytes and judges all of it.
    ///
    /// # Errors
    ///
    /// [`FileError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, FileError> {
        let file: Self = serde_json::from_slice(bytes).map_err(|error| FileError::Syntax {
            line: error.line(),
            column: error.column(),
        })?;
        file.check()?;
        Ok(file)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    ///
    /// [`FileError`]: the first thing that is wrong.
    pub fn check(&self) -> Result<(), FileError> {
        if self.version != VERSION {
            return Err(FileError::Version(self.version));
        }
        let (mut ids, mut hashes) = (HashSet::new(), HashSet::new());
        for (place, entry) in (1..).zip(&self.keys) {
            let wrong = |what| FileError::Entry { place, what };
            entry.check().map_err(wrong)?;
            if !ids.insert(&entry.id) {
                return Err(wrong("its id is another key's, too"));
            }
            if !hashes.insert(&entry.sha256) {
                return Err(wrong("it is the same key as one before it"));
            }
        }
        Ok(())
    }

    /// The file's bytes.
    ///
    /// # Panics
    ///
    /// Never: it is text and numbers.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("text and numbers become JSON");
        bytes.push(b'\n');
        bytes
    }
}

impl Entry {
    fn check(&self) -> Result<(), &'static str> {
        if !admit::is_stream_name(&self.id) {
            return Err(
                "an id is 1 to 128 characters of A-Z a-z 0-9 _ - . and does not begin with a dot",
            );
        }
        if !admit::is_stream_name(&self.source) {
            return Err(
                "a source is 1 to 128 characters of A-Z a-z 0-9 _ - . and does not begin with a dot",
            );
        }
        if let Some(streams) = &self.streams {
            if streams.is_empty() {
                return Err(
                    "streams is empty: leave it out to allow all, revoke the key to allow none",
                );
            }
            if !streams.iter().all(|stream| admit::is_stream_name(stream)) {
                return Err(
                    "a stream name is 1 to 128 characters of A-Z a-z 0-9 _ - . and does not begin with a dot",
                );
            }
        }
        for origin in self.origins.iter().flatten() {
            Origin::parse(origin)?;
        }
        if self.events_per_second == Some(0) || self.bytes_per_second == Some(0) {
            return Err("a rate is 1 or more: leave it out for none, revoke the key to stop it");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn one(more: &str) -> Result<KeyFile, FileError> {
        let text = format!(
            r#"{{"version":1,"keys":[{{"id":"a","source":"shop","sha256":"{HASH}"{more}}}]}}"#
        );
        KeyFile::parse(text.as_bytes())
    }

    #[test]
    fn a_file_is_read_as_it_is_written() {
        let file = one(r#","streams":["a"],"origins":["https://*.a.b"],"events_per_second":5"#);
        let file = file.unwrap();
        assert_eq!(KeyFile::parse(&file.to_bytes()), Ok(file));
        let none = KeyFile::default();
        assert_eq!(KeyFile::parse(&none.to_bytes()), Ok(none));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_never_with_its_text() {
        for (more, word) in [
            (r#","stream":["SECRET"]"#, "line 1"),
            (r#","SECRET":1"#, "line 1"),
            (r#","streams":[]"#, "streams is empty"),
            (r#","streams":["a/SECRET"]"#, "stream name"),
            (r#","origins":["SECRET"]"#, "origin is"),
            (r#","events_per_second":0"#, "rate"),
            (r#","bytes_per_second":-1"#, "line 1"),
        ] {
            let error = one(more).unwrap_err().to_string();
            assert!(error.contains(word), "{more}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
        let twice = |id: &str, hash: &str| {
            format!(
                r#"{{"version":1,"keys":[{{"id":"a","source":"s","sha256":"{HASH}"}},{{"id":"{id}","source":"s","sha256":"{hash}"}}]}}"#
            )
        };
        let other = HASH.replace('b', "c");
        for (text, word) in [
            (twice("a", &other), "key 2: its id"),
            (twice("b", HASH), "key 2: it is the same key"),
            (twice("b", "SECRET"), "line 1"),
            (twice("/", &other), "key 2: an id"),
            (r#"{"version":2,"keys":[]}"#.into(), "version 2"),
            (r#"{"keys":[]}"#.into(), "line 1"),
            (String::new(), "line 1"),
            ("SECRET".into(), "line 1"),
        ] {
            let error = KeyFile::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
        assert!(KeyFile::parse(twice("b", &other).as_bytes()).is_ok());
    }
}
