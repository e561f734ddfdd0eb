//! The text of a key, and the hash that stands for it everywhere else.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The longest text that is looked up.
pub(crate) const KEY_BYTES_MAX: usize = 256;
/// The shortest that is taken from elsewhere: of 62 letters and digits, 22 are 128 bits.
const KEY_BYTES_MIN: usize = 22;
/// Fewer different characters than this, and it was typed, not drawn.
const DIFFERENT_MIN: usize = 8;

/// The SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key's text; `None`: no key is that long.
    #[must_use]
    pub fn of(key: &[u8]) -> Option<Self> {
        (key.len() <= KEY_BYTES_MAX).then(|| Self(Sha256::digest(key).into()))
    }

    fn parse(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        digits
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then_some(Self(bytes))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Not even the hash: it is nobody's business.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        // The text is not repeated: it may be a key that somebody put in the wrong place.
        Self::parse(&hex).ok_or_else(|| serde::de::Error::custom("no SHA-256"))
    }
}

/// A new key: 256 random bits, in characters that no header, query, path or JSON text changes.
#[must_use]
pub fn new_key() -> String {
    let bits: [u8; 32] = rand::random();
    format!("ek_{}", URL_SAFE_NO_PAD.encode(bits))
}

/// A new name for a key, by which people speak of it.
#[must_use]
pub fn new_id() -> String {
    let bits: [u8; 6] = rand::random();
    bits.iter()
        .fold(String::new(), |id, byte| format!("{id}{byte:02x}"))
}

/// What is wrong with a key from elsewhere, if anything is.
///
/// # Errors
///
/// What a key must be.
pub fn check_key(key: &str) -> Result<(), &'static str> {
    let different: BTreeSet<u8> = key.bytes().collect();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~=".contains(&byte);
    if !key.bytes().all(plain) {
        return Err("a key is made of letters, digits and -_.~= alone");
    }
    if key.len() < KEY_BYTES_MIN || different.len() < DIFFERENT_MIN {
        return Err("a key is 22 or more random characters: a shorter one can be guessed");
    }
    if key.len() > KEY_BYTES_MAX {
        return Err("a key has at most 256 characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_known_by_its_digits_and_shown_to_nobody() {
        let hash = KeyHash::of(b"abc").unwrap();
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), hex);
        assert_eq!(KeyHash::parse(&hex.to_uppercase()), Some(hash));
        assert_eq!(format!("{hash:?}"), "KeyHash(..)");
        let signed = format!("+1{}", "0".repeat(62));
        for bad in ["", "ba", &"x".repeat(64), &signed, &format!("{hex}0")] {
            assert_eq!(KeyHash::parse(bad), None, "{bad}");
        }
        assert!(KeyHash::of(&[b'x'; 257]).is_none());
    }

    #[test]
    fn a_new_key_is_long_differs_and_is_good() {
        let (one, other) = (new_key(), new_key());
        assert_ne!(one, other);
        assert_eq!(one.len(), 46);
        assert_eq!(check_key(&one), Ok(()));
        assert_ne!(new_id(), new_id());
        assert_eq!(new_id().len(), 12);
    }

    #[test]
    fn a_key_from_elsewhere_must_be_hard_to_guess_and_plain() {
        let long = "abcdefgh".repeat(33);
        for (key, good) in [
            ("0123456789abcdefABCDEF", true),
            ("N7fPqWz2LkX0vB9sT4yR8cJ1", true),
            ("0123456789abcdefABCDE", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("id:0123456789abcdefABCDEF", false),
            ("0123456789 abcdefABCDEF", false),
            (&long, false),
        ] {
            assert_eq!(check_key(key).is_ok(), good, "{key}");
        }
    }
}
