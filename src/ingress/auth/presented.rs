//! Where a request has its key: Basic authentication (with or without a colon), a bearer token, `X-Write-Key`, the query
//! (`writeKey`, `writekey`), in this order; then the body, which is not looked at here.
//!
//! The first place that has one decides. A bearer token that is no key of ours is passed over: it may be an OAuth token, and
//! the key stands elsewhere.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

const X_WRITE_KEY: HeaderName = HeaderName::from_static("x-write-key");

/// What a request's head says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<T> {
    /// A key that is known.
    Known(T),
    /// A key, and nobody knows it.
    Unknown,
    /// A bearer token that is no key.
    Foreign,
    /// Nothing.
    Nothing,
}

/// Looks for a key; `known` says what a key stands for.
pub(crate) fn find<T>(
    headers: &HeaderMap,
    query: Option<&str>,
    mut known: impl FnMut(&[u8]) -> Option<T>,
) -> Found<T> {
    let mut judge = |key: &[u8]| known(key).map_or(Found::Unknown, Found::Known);
    let mut found = Found::Nothing;
    for value in headers.get_all(AUTHORIZATION) {
        let value = value.as_bytes().trim_ascii();
        if let Some(encoded) = after(value, b"basic") {
            match user(encoded) {
                Some(user) if user.is_empty() => {}
                Some(user) => return judge(&user),
                None => return Found::Unknown,
            }
        } else if let Some(token) = after(value, b"bearer") {
            match judge(token) {
                Found::Known(known) => return Found::Known(known),
                Found::Unknown | Found::Foreign | Found::Nothing => found = Found::Foreign,
            }
        }
    }
    let header = headers.get(X_WRITE_KEY);
    let header = header.map(|value| value.as_bytes().trim_ascii());
    if let Some(key) = header.filter(|key| !key.is_empty()) {
        return judge(key);
    }
    let in_query = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, value)| matches!(&**name, "writeKey" | "writekey") && !value.is_empty());
    match in_query {
        Some((_, key)) => judge(key.as_bytes()),
        None => found,
    }
}

/// What follows the scheme's name and a space.
fn after<'a>(value: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let rest = rest.strip_prefix(b" ")?;
    name.eq_ignore_ascii_case(scheme).then(|| rest.trim_ascii())
}

/// The user of `user:password` in base64; the password is nobody's concern.
fn user(encoded: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let mut user = LENIENT.decode(encoded).ok()?;
    if let Some(colon) = user.iter().position(|byte| *byte == b':') {
        user.truncate(colon);
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_up(headers: &[(&'static str, &str)], query: &str) -> Found<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        find(&map, Some(query), |key| {
            let key = String::from_utf8_lossy(key).into_owned();
            key.starts_with('k').then_some(key)
        })
    }

    #[test]
    fn a_key_is_found_in_every_place_and_the_first_decides() {
        let known = |key: &str| Found::Known(key.to_owned());
        // `k1:`, `k1`, `x1:`, `:`, `k1:secret`
        let basic = ("authorization", "Basic azE6");
        type Headers<'a> = &'a [(&'static str, &'a str)];
        let cases: &[(Headers<'_>, &str, Found<String>)] = &[
            (&[], "", Found::Nothing),
            (&[basic], "", known("k1")),
            (&[("authorization", "Basic azE=")], "", known("k1")),
            (&[("authorization", "basic azE")], "", known("k1")),
            (&[("authorization", "Basic azE6c2VjcmV0")], "", known("k1")),
            (
                &[("authorization", "Basic eDE6")],
                "writeKey=k2",
                Found::Unknown,
            ),
            (
                &[("authorization", "Basic %%%")],
                "writeKey=k2",
                Found::Unknown,
            ),
            (
                &[("authorization", "Basic Og==")],
                "writeKey=k2",
                known("k2"),
            ),
            (&[("authorization", "Bearer k3")], "", known("k3")),
            (&[("authorization", "BEARER  k3 ")], "", known("k3")),
            (&[("authorization", "Bearer jwt")], "", Found::Foreign),
            (
                &[("authorization", "Bearer jwt")],
                "writeKey=k2",
                known("k2"),
            ),
            (
                &[("authorization", "Bearer jwt"), ("x-write-key", "k4")],
                "",
                known("k4"),
            ),
            (&[("x-write-key", "k4")], "writeKey=k2", known("k4")),
            (&[("x-write-key", "x4")], "writeKey=k2", Found::Unknown),
            (&[("x-write-key", "")], "writekey=k2", known("k2")),
            (&[basic, ("x-write-key", "x4")], "", known("k1")),
            (&[], "a=b&writeKey=&writekey=k%31", known("k1")),
            (&[], "writeKey=x", Found::Unknown),
            (&[("authorization", "Digest k1")], "", Found::Nothing),
            (&[("authorization", "Basic")], "", Found::Nothing),
        ];
        for (headers, query, expected) in cases {
            assert_eq!(looked_up(headers, query), *expected, "{headers:?} {query}");
        }
    }
}
