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
mod tests;
