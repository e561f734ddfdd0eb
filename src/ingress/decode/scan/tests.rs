//! Which bodies are split, and how; which are not.

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
    type Case = (&'static [u8], &'static [(&'static str, &'static str)]);
    let cases: &[Case] = &[
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
