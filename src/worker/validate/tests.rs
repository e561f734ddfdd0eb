use super::*;

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// A draft of the type with the named columns filled.
fn draft(kind: &str, columns: &str) -> Draft {
    let has = |column: &str| {
        columns
            .split(' ')
            .any(|name| name == column)
            .then(|| "x".to_owned())
    };
    Draft {
        kind: text(kind),
        user_id: has("user_id"),
        anonymous_id: has("anonymous_id"),
        event: has("event"),
        group_id: has("group_id"),
        previous_id: has("previous_id"),
        ..Draft::default()
    }
}

#[test]
fn each_type_has_its_required_fields() {
    const SOMEBODY: Option<&str> = Some("user_id or anonymous_id is required");
    let cases = [
        ("identify", "user_id", None),
        ("identify", "anonymous_id", None),
        ("identify", "", SOMEBODY),
        ("identify", "group_id previous_id event", SOMEBODY),
        ("track", "user_id event", None),
        ("track", "anonymous_id event", None),
        ("track", "event", SOMEBODY),
        ("track", "user_id", Some("event is required for track")),
        ("page", "anonymous_id", None),
        ("page", "", SOMEBODY),
        ("screen", "user_id", None),
        ("screen", "", SOMEBODY),
        ("group", "user_id group_id", None),
        ("group", "group_id", SOMEBODY),
        ("group", "user_id", Some("group_id is required for group")),
        ("alias", "user_id previous_id", None),
        (
            "alias",
            "anonymous_id previous_id",
            Some("user_id is required for alias"),
        ),
        (
            "alias",
            "user_id",
            Some("previous_id is required for alias"),
        ),
        ("order_shipped", "", None),
        // Another spelling is another type.
        ("Track", "", None),
    ];
    for (kind, columns, reason) in cases {
        let outcome = validate(&draft(kind, columns));
        let expected = reason.map_or(Ok(()), |reason| {
            Err(Rejected {
                stage: Stage::Validate,
                code: Code::MissingField,
                reason: reason.to_owned(),
            })
        });
        assert_eq!(outcome, expected, "{kind} with {columns:?}");
    }
}

#[test]
fn an_event_without_a_type_is_none() {
    let rejected = validate(&Draft::default()).unwrap_err();
    assert_eq!(
        (rejected.code, rejected.reason.as_str()),
        (Code::MissingField, "type is required")
    );
}

#[test]
fn a_text_holds_what_its_column_holds_and_not_one_byte_more() {
    type Column = fn(&mut Draft) -> &mut Option<String>;
    let columns: [(&str, usize, Column); 8] = [
        ("type", 256, |draft| &mut draft.kind),
        ("user_id", 1_024, |draft| &mut draft.user_id),
        ("anonymous_id", 1_024, |draft| &mut draft.anonymous_id),
        ("event", 1_024, |draft| &mut draft.event),
        ("name", 1_024, |draft| &mut draft.name),
        ("category", 1_024, |draft| &mut draft.category),
        ("group_id", 1_024, |draft| &mut draft.group_id),
        ("previous_id", 1_024, |draft| &mut draft.previous_id),
    ];
    for (name, bytes_max, column) in columns {
        let mut fits = draft("custom", "");
        *column(&mut fits) = Some("é".repeat(bytes_max / 2));
        assert_eq!(validate(&fits), Ok(()), "{name}");
        *column(&mut fits) = Some(format!("{}x", "é".repeat(bytes_max / 2)));
        let rejected = validate(&fits).unwrap_err();
        assert_eq!(rejected.code, Code::FieldTooLong, "{name}");
        assert_eq!(
            rejected.reason,
            format!("{name} is longer than {bytes_max} bytes")
        );
    }
}
