//! A manifest: the recorded list of objects that one load takes.

use std::num::NonZeroUsize;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::store::{Table, Traces};

/// The version of the file's format.
pub const VERSION: u32 = 1;

/// The folder of all manifests.
pub const FOLDER: &str = "manifests/";

/// The highest number: what every warehouse can hold as a signed integer.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// Which objects are loaded together, under which number. Written once, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version of this file: 1.
    pub version: u32,
    /// Its place in the order of manifests, from 1.
    pub number: u64,
    /// Which attempt at its objects this is, from 1: a warehouse's job that failed for good is never repeated under its
    /// own name, so the next attempt has a manifest of its own.
    pub attempt: u32,
    /// When it was made, ISO 8601; for people.
    pub created_at: String,
    /// The objects, in the order of their markers' names.
    pub objects: Vec<ManifestObject>,
}

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestObject {
    /// The table its rows belong to.
    pub table: Table,
    /// Its name.
    pub object: String,
    /// The UTC day on which its events were received, `YYYY-MM-DD`.
    pub day: String,
    /// Rows in it, as its marker says.
    pub rows: u64,
    /// Its bytes, as its marker says.
    pub bytes: u64,
    /// The marker to remove once the warehouse has recorded the object.
    pub marker: String,
    /// The recorded requests that its events came in, as its marker says.
    #[serde(default, skip_serializing_if = "Traces::is_empty")]
    pub traces: Traces,
}

/// Why a file in `manifests/` is not read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not a manifest.
    #[error("not a manifest")]
    Malformed(#[from] serde_json::Error),
    /// Its number is not the one in its name.
    #[error("the file of manifest {named} holds number {held}")]
    Number {
        /// The number in the name.
        named: u64,
        /// The number in the file.
        held: u64,
    },
    /// A later version of this program wrote it: that one must complete it.
    #[error("manifest format {0} is not known here")]
    Newer(u32),
}

impl Manifest {
    /// The name of a manifest's file: `manifests/<20 digits>.json`, so that names sort as numbers do.
    #[must_use]
    pub fn name(number: u64) -> String {
        format!("{FOLDER}{number:020}.json")
    }

    /// The number in a file's name; `None` for files that are none of ours.
    #[must_use]
    pub fn number_of(name: &str) -> Option<u64> {
        let digits = name.strip_prefix(FOLDER)?.strip_suffix(".json")?;
        if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok().filter(|&number| number <= NUMBER_MAX)
    }

    /// Reads the file of the manifest with this number.
    ///
    /// # Errors
    ///
    /// [`ParseError`].
    pub fn parse(number: u64, file: &[u8]) -> Result<Self, ParseError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        // The version alone first: what else a later version holds is not known here.
        let Head { version } = serde_json::from_slice(file)?;
        if version > VERSION {
            return Err(ParseError::Newer(version));
        }
        let manifest: Self = serde_json::from_slice(file)?;
        if manifest.number != number {
            return Err(ParseError::Number {
                named: number,
                held: manifest.number,
            });
        }
        Ok(manifest)
    }

    /// The file's bytes.
    ///
    /// # Panics
    ///
    /// Never: a manifest holds only texts and numbers.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("texts and numbers are always JSON")
            .into()
    }

    /// The names of the objects.
    #[must_use]
    pub fn object_names(&self) -> Vec<String> {
        self.objects.iter().map(|o| o.object.clone()).collect()
    }

    /// The rows that its objects have together.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let rows = self.objects.iter().map(|object| object.rows);
        rows.fold(0, u64::saturating_add)
    }

    /// The names as a warehouse records them.
    #[must_use]
    pub fn object_list(&self) -> String {
        serde_json::Value::from(self.object_names()).to_string()
    }

    /// Whether what is recorded under its number is about its own objects. Of one that could not be read, they are not known.
    #[must_use]
    pub fn is_of(&self, recorded: &str) -> bool {
        self.objects.is_empty() || self.object_list() == recorded
    }

    /// How its objects are taken up again when it cannot be loaded as it stands: the suspect alone and last, where it is
    /// known; else the two halves. The same for everyone who asks. A single object cannot be parted.
    #[must_use]
    pub fn parts(&self, suspect: Option<&str>) -> Option<[Vec<ManifestObject>; 2]> {
        let half = NonZeroUsize::new(self.objects.len() / 2)?;
        let (suspects, others): (Vec<_>, Vec<_>) = self
            .objects
            .iter()
            .cloned()
            .partition(|object| Some(object.object.as_str()) == suspect);
        if suspects.is_empty() || others.is_empty() {
            let (first, second) = self.objects.split_at(half.get());
            Some([first.to_vec(), second.to_vec()])
        } else {
            Some([others, suspects])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(objects: &[&str]) -> Manifest {
        Manifest {
            version: VERSION,
            number: 7,
            attempt: 1,
            created_at: "2026-01-31T00:00:00.000000Z".into(),
            objects: objects
                .iter()
                .map(|name| ManifestObject {
                    table: Table::Events,
                    object: (*name).to_owned(),
                    day: "2026-01-31".into(),
                    rows: 1,
                    bytes: 2,
                    marker: format!("inbox/{name}"),
                    traces: Traces::default(),
                })
                .collect(),
        }
    }

    #[test]
    fn the_format_on_disk_does_not_change() {
        let text = concat!(
            r#"{"version":1,"number":7,"attempt":1,"created_at":"2026-01-31T00:00:00.000000Z","objects":["#,
            r#"{"table":"events","object":"a","day":"2026-01-31","rows":1,"bytes":2,"marker":"inbox/a"}]}"#
        );
        assert_eq!(manifest(&["a"]).encode(), text);
        assert_eq!(
            Manifest::parse(7, text.as_bytes()).unwrap(),
            manifest(&["a"])
        );
    }

    #[test]
    fn damage_another_number_and_a_later_version_are_told_apart() {
        let file = manifest(&["a"]).encode();
        assert!(matches!(
            Manifest::parse(7, &file[..20]),
            Err(ParseError::Malformed(_))
        ));
        assert!(matches!(
            Manifest::parse(8, &file),
            Err(ParseError::Number { named: 8, held: 7 })
        ));
        let newer = br#"{"version":2,"number":"seven"}"#;
        assert!(matches!(
            Manifest::parse(7, newer),
            Err(ParseError::Newer(2))
        ));
    }

    #[test]
    fn names_sort_as_numbers_do_and_other_files_have_no_number() {
        assert!(Manifest::name(9) < Manifest::name(10));
        for number in [0, 1, 12_345, NUMBER_MAX] {
            assert_eq!(Manifest::number_of(&Manifest::name(number)), Some(number));
        }
        for name in [
            "manifests/1.json",
            "manifests/0000000000000000000x.json",
            "manifests/+0000000000000000001.json",
            "manifests/99999999999999999999.json",
            "manifests/18446744073709551615.json",
            "manifests/00000000000000000001.tmp",
            "00000000000000000001.json",
        ] {
            assert_eq!(Manifest::number_of(name), None, "{name}");
        }
    }

    #[test]
    fn parts_hold_every_object_once_and_each_fewer_than_the_whole() {
        for count in 2..9 {
            let names: Vec<String> = (0..count).map(|n| format!("o{n}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let whole = manifest(&names);
            for suspect in [None, Some("o1"), Some("unknown")] {
                let [first, second] = whole.parts(suspect).unwrap();
                assert!(!first.is_empty() && !second.is_empty());
                let mut all = [first, second.clone()].concat();
                all.sort_by(|a, b| a.object.cmp(&b.object));
                assert_eq!(all, whole.objects);
                if suspect == Some("o1") {
                    assert_eq!(second, [whole.objects[1].clone()]);
                }
            }
        }
        assert_eq!(manifest(&["a"]).parts(Some("a")), None);
        assert_eq!(manifest(&[]).parts(None), None);
    }
}
