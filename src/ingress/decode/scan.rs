//! Splits a JSON body into its events with one pass over the bytes, and measures each on the way.
//!
//! The scanner knows strings, brackets, commas and colons, nothing else. So an event that is not valid JSON can still
//! be told from its neighbours and be refused alone; only a body whose *outline* is broken (empty, cut off, something
//! after its end, a bare scalar, brackets that do not close, an array with nothing between two commas) is refused as
//! a whole. It needs no stack and allocates nothing but the list, whatever the nesting.

/// How deep and how wide a piece of JSON is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The deepest nesting of objects and arrays; an object without either in it has 1.
    pub depth: usize,
    /// The keys of all objects together.
    pub keys: usize,
}

/// One item of a body: an event, or what stands in the place of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Its bytes as the client wrote them, without the space around them; never empty.
    pub bytes: &'a [u8],
    /// How deep and wide it is; exact when the item is valid JSON.
    pub extent: Extent,
}

/// Why a body has no items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Nothing but space.
    #[error("the body is empty")]
    Empty,
    /// It begins with something else than `{` or `[`.
    #[error("the body is neither a JSON object nor an array")]
    NotABatch,
    /// It ends within its object or array.
    #[error("the body is cut off: its object or array does not end")]
    CutOff,
    /// Something follows its object or array.
    #[error("something follows the end of the object or array at byte {at}")]
    Trailing {
        /// Where it begins.
        at: usize,
    },
    /// A bracket, brace or comma stands where none can stand.
    #[error("unexpected bracket or comma at byte {at}")]
    Unexpected {
        /// Where it stands.
        at: usize,
    },
    /// The array has more items than the limit; not counted further.
    #[error("the body carries more than {max} events")]
    TooMany {
        /// The limit.
        max: usize,
    },
}

/// The items of a body that is one JSON object or an array. A byte order mark at the start is passed over.
///
/// # Errors
///
/// [`SplitError`]; the body is to be refused as a whole.
pub fn split(body: &[u8], events_max: usize) -> Result<Vec<Item<'_>>, SplitError> {
    let start = start(body);
    let (items, end) = match body.get(start) {
        None => return Err(SplitError::Empty),
        Some(b'{') => {
            let (item, end) = measure(body, start, Outline::Object)?;
            (vec![item], end)
        }
        Some(b'[') => array(body, start + 1, events_max)?,
        Some(_) => return Err(SplitError::NotABatch),
    };
    let at = skip_space(body, end);
    match body.get(at) {
        None => Ok(items),
        Some(_) => Err(SplitError::Trailing { at }),
    }
}

/// One member of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its key as the client wrote it, quotes included.
    pub key: &'a [u8],
    /// Its value as the client wrote it; never empty.
    pub value: &'a [u8],
    /// Where the value begins in the body.
    pub value_at: usize,
}

/// Shows the top-level members of a body that is one object, in order. Of a body that is valid JSON none is left out.
///
/// # Errors
///
/// [`SplitError`]; what was shown until then is of no use.
pub fn members<'a>(body: &'a [u8], mut show: impl FnMut(Member<'a>)) -> Result<(), SplitError> {
    let start = start(body);
    match body.get(start) {
        None => return Err(SplitError::Empty),
        Some(b'{') => {}
        Some(_) => return Err(SplitError::NotABatch),
    }
    let expect = |at: usize, wanted: u8| match body.get(at) {
        Some(byte) if *byte == wanted => Ok(at + 1),
        Some(_) => Err(SplitError::Unexpected { at }),
        None => Err(SplitError::CutOff),
    };
    let mut at = skip_space(body, start + 1);
    if body.get(at) != Some(&b'}') {
        loop {
            let key_end = string_end(body, expect(at, b'"')?).ok_or(SplitError::CutOff)?;
            let value_at = skip_space(body, expect(skip_space(body, key_end), b':')?);
            let (item, end) = measure(body, value_at, Outline::Member)?;
            show(Member {
                key: body.get(at..key_end).unwrap_or_default(),
                value: item.bytes,
                value_at,
            });
            // `measure` stops at a comma or at the object's own brace.
            if body.get(end) == Some(&b'}') {
                at = end;
                break;
            }
            at = skip_space(body, end + 1);
        }
    }
    let at = skip_space(body, at + 1);
    match body.get(at) {
        None => Ok(()),
        Some(_) => Err(SplitError::Trailing { at }),
    }
}

/// The extent of bytes that need not be JSON: strings are passed over, a string without end ends with the bytes, a
/// closing bracket too many closes nothing.
#[must_use]
pub fn extent(bytes: &[u8]) -> Extent {
    let mut extent = Extent::default();
    let (mut depth, mut at) = (0usize, 0);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at).unwrap_or(bytes.len()),
            b'{' | b'[' => {
                depth += 1;
                extent.depth = extent.depth.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' => extent.keys += 1,
            _ => {}
        }
    }
    extent
}

/// The items from just after a `[` to its `]`, and where that ends.
fn array(
    body: &[u8],
    start: usize,
    events_max: usize,
) -> Result<(Vec<Item<'_>>, usize), SplitError> {
    let mut items = Vec::new();
    let mut at = skip_space(body, start);
    if body.get(at) == Some(&b']') {
        return Ok((items, at + 1));
    }
    loop {
        if items.len() == events_max {
            return Err(SplitError::TooMany { max: events_max });
        }
        let (item, end) = measure(body, at, Outline::Item)?;
        items.push(item);
        // `measure` stops at a comma or at the array's own bracket.
        if body.get(end) == Some(&b']') {
            return Ok((items, end + 1));
        }
        at = skip_space(body, end + 1);
    }
}

/// What ends the thing that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outline {
    /// The brace that closes it.
    Object,
    /// A comma or a bracket that is not its own.
    Item,
    /// A comma or a brace that is not its own.
    Member,
}

impl Outline {
    /// Whether a byte outside of all brackets ends it.
    fn is_ended_by(self, byte: u8) -> bool {
        match self {
            Self::Object => false,
            Self::Item => matches!(byte, b',' | b']'),
            Self::Member => matches!(byte, b',' | b'}'),
        }
    }
}

/// Measures what begins at `start`; returns it and where it ends (for an item, where its comma or bracket stands).
fn measure(body: &[u8], start: usize, outline: Outline) -> Result<(Item<'_>, usize), SplitError> {
    let mut extent = Extent::default();
    let (mut depth, mut at) = (0usize, start);
    while let Some(&byte) = body.get(at) {
        match byte {
            b'"' => {
                at = string_end(body, at + 1).ok_or(SplitError::CutOff)?;
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                extent.depth = extent.depth.max(depth);
            }
            b',' | b']' | b'}' if depth == 0 && outline.is_ended_by(byte) => {
                let bytes = body.get(start..at).unwrap_or_default().trim_ascii_end();
                if bytes.is_empty() {
                    return Err(SplitError::Unexpected { at });
                }
                return Ok((Item { bytes, extent }, at));
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1).ok_or(SplitError::Unexpected { at })?;
                if depth == 0 && outline == Outline::Object {
                    let bytes = body.get(start..=at).unwrap_or_default();
                    return Ok((Item { bytes, extent }, at + 1));
                }
            }
            b':' => extent.keys += 1,
            _ => {}
        }
        at += 1;
    }
    Err(SplitError::CutOff)
}

/// Where a string ends (just after its quote) whose first byte within the quotes is at `at`.
fn string_end(body: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let rest = body.get(at..)?;
        let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        at += found;
        if body.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Where a body's first word begins, after a byte order mark and space.
fn start(body: &[u8]) -> usize {
    let mark = b"\xef\xbb\xbf";
    skip_space(
        body,
        if body.starts_with(mark) {
            mark.len()
        } else {
            0
        },
    )
}

fn skip_space(body: &[u8], at: usize) -> usize {
    let rest = body.get(at..).unwrap_or_default();
    let space = rest
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
        .count();
    at + space
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(body: &[u8]) -> Result<Vec<String>, SplitError> {
        Ok(split(body, 100)?
            .into_iter()
            .map(|item| String::from_utf8_lossy(item.bytes).into_owned())
            .collect())
    }

    #[test]
    fn bodies_are_split_into_items() {
        let cases: &[(&[u8], &[&str])] = &[
            (b"{}", &["{}"]),
            (b" \r\n\t{ } \n", &["{ }"]),
            (b"\xef\xbb\xbf{\"a\":1}", &["{\"a\":1}"]),
            (b"\xef\xbb\xbf [ ]", &[]),
            (b"[]", &[]),
            (b"[{}]", &["{}"]),
            (b"[ {} , {\"a\":[1,2]} ]", &["{}", "{\"a\":[1,2]}"]),
            (b"[[[]],{}]", &["[[]]", "{}"]),
            (b"[1, null,\"x,]\" ,{}]", &["1", "null", "\"x,]\"", "{}"]),
            (
                br#"[{"a":"\"},{"},{"b":"\\"}]"#,
                &[r#"{"a":"\"},{"}"#, r#"{"b":"\\"}"#],
            ),
            // Not JSON, but where each item ends is plain.
            (b"[{\"a\":tru},{}]", &["{\"a\":tru}", "{}"]),
            (b"[{} x,{}]", &["{} x", "{}"]),
            (
                b"[{\"a\":\"\xff\0\"},{}]",
                &["{\"a\":\"\u{fffd}\0\"}", "{}"],
            ),
            (b"{\"a\":nope}", &["{\"a\":nope}"]),
        ];
        for (body, expected) in cases {
            let shown = String::from_utf8_lossy(body);
            assert_eq!(
                items(body).as_deref(),
                Ok(*expected)
                    .map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>())
                    .as_deref(),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_broken_outline_costs_the_whole_body() {
        use SplitError::{CutOff, Empty, NotABatch, Trailing, Unexpected};
        let cases: &[(&[u8], SplitError)] = &[
            (b"", Empty),
            (b" \n", Empty),
            (b"\xef\xbb\xbf", Empty),
            (b"1", NotABatch),
            (b"null", NotABatch),
            (b"\"{}\"", NotABatch),
            (b"\0{}", NotABatch),
            (b"\xff\xfe{\0}\0", NotABatch),
            (b"a=b&c=d", NotABatch),
            (b"{", CutOff),
            (b"[", CutOff),
            (b"[{}", CutOff),
            (b"[{},", CutOff),
            (b"{\"a\":\"}", CutOff),
            (b"{\"a\":\"\\", CutOff),
            (b"{\"a\":\"\\\"", CutOff),
            (b"{\"a\":[1}", CutOff),
            (b"{}{}", Trailing { at: 2 }),
            (b"{} x", Trailing { at: 3 }),
            (b"[] []", Trailing { at: 3 }),
            (b"{}\0", Trailing { at: 2 }),
            (b"[,{}]", Unexpected { at: 1 }),
            (b"[{},]", Unexpected { at: 4 }),
            (b"[{}},{}]", Unexpected { at: 3 }),
        ];
        for (body, expected) in cases {
            assert_eq!(
                items(body),
                Err(*expected),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn the_members_of_an_object_are_shown_in_order() {
        let shown = |body: &[u8]| {
            let mut found = Vec::new();
            members(body, |member| {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                let value = &body[member.value_at..];
                assert!(value.starts_with(member.value));
                found.push((text(member.key), text(member.value)));
            })?;
            Ok(found)
        };
        let cases: &[(&[u8], &[(&str, &str)])] = &[
            (b"{}", &[]),
            (b"\xef\xbb\xbf { } ", &[]),
            (br#"{"a":1}"#, &[(r#""a""#, "1")]),
            (
                br#" {"a,}" : [1,{"b":"}"}] , "\"" :"x,y" , "c":{"d":[]}} "#,
                &[
                    (r#""a,}""#, r#"[1,{"b":"}"}]"#),
                    (r#""\"""#, r#""x,y""#),
                    (r#""c""#, r#"{"d":[]}"#),
                ],
            ),
            // Not JSON, but where each value ends is plain.
            (
                br#"{"a":tru,"b":[nope],"c":1}"#,
                &[(r#""a""#, "tru"), (r#""b""#, "[nope]"), (r#""c""#, "1")],
            ),
        ];
        for (body, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(shown(body), Ok(expected));
        }
        use SplitError::{CutOff, Empty, NotABatch, Trailing, Unexpected};
        let broken: &[(&[u8], SplitError)] = &[
            (b"", Empty),
            (b"[]", NotABatch),
            (b"{", CutOff),
            (b"{\"a", CutOff),
            (b"{\"a\"", CutOff),
            (b"{\"a\":", CutOff),
            (b"{\"a\":1", CutOff),
            (b"{\"a\":1,", CutOff),
            (b"{a:1}", Unexpected { at: 1 }),
            (b"{\"a\" 1}", Unexpected { at: 5 }),
            (b"{\"a\":}", Unexpected { at: 5 }),
            (b"{\"a\":1,}", Unexpected { at: 7 }),
            (b"{\"a\":1]", Unexpected { at: 6 }),
            (b"{\"a\":1}}", Trailing { at: 7 }),
        ];
        for (body, expected) in broken {
            let found = shown(body);
            assert_eq!(found, Err(*expected), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn depth_and_keys_are_counted_outside_of_strings() {
        let cases: &[(&str, usize, usize)] = &[
            ("{}", 1, 0),
            (r#"{"a":1,"b":{"c":2}}"#, 2, 3),
            (r#"{"a":[[1],{"b":[]}]}"#, 4, 2),
            (r#"{"a:b{[":"::{{[[\"{"}"#, 1, 1),
        ];
        for (json, depth, keys) in cases {
            let expected = Extent {
                depth: *depth,
                keys: *keys,
            };
            let found = split(json.as_bytes(), 1).unwrap();
            assert_eq!(found.first().unwrap().extent, expected, "{json}");
            assert_eq!(extent(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn the_extent_of_anything_is_found() {
        assert_eq!(extent(b""), Extent::default());
        assert_eq!(extent(b"}}]]{\"a"), Extent { depth: 1, keys: 0 });
        assert_eq!(extent(b"\"\\"), Extent::default());
    }

    #[test]
    fn nesting_and_width_cost_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let found = split(deep.as_bytes(), 1).unwrap();
        assert_eq!(found.first().unwrap().extent.depth, 99_999);
        let wide = format!("{{{}\"z\":0}}", "\"a\":{},".repeat(100_000));
        let found = split(wide.as_bytes(), 1).unwrap();
        assert_eq!(found.first().unwrap().extent.keys, 100_001);
    }

    #[test]
    fn one_event_too_many_is_noticed() {
        let body = format!("[{}{{}}]", "{},".repeat(9));
        assert_eq!(split(body.as_bytes(), 10).unwrap().len(), 10);
        assert_eq!(
            split(body.as_bytes(), 9),
            Err(SplitError::TooMany { max: 9 })
        );
    }
}
