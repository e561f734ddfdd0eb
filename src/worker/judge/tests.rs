use super::*;
use crate::event::TraceLink;
use crate::proto::log::Record;
use crate::wal::record::encode;
use prost::Message as _;

const RECEIVED: i64 = 1_714_566_600_000_000;

fn place() -> Place<'static> {
    Place {
        log_id: LogId(9),
        lane: Lane(3),
        offset: 42,
        day: Day::of(RECEIVED),
        node: "node-a",
    }
}

fn event(payload: &[u8]) -> Event<'_> {
    Event {
        format: PayloadFormat::Json,
        payload,
        source: "web",
        message_id: "m-1",
        message_id_assigned: false,
        stream: "events",
        kind: None,
        lane: Lane(3),
        received_at: RECEIVED,
        sent_at: None,
        trace: Some(TraceLink {
            trace_id: [0xab; 16],
            span_id: [1; 8],
            flags: 1,
        }),
        batch_context: &[],
        batch_integrations: &[],
        client: Default::default(),
    }
}

fn record(event: &Event<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(event, &mut bytes);
    bytes
}

#[test]
fn a_good_event_becomes_a_row_with_all_that_the_gateway_decided() {
    let payload = br#"{"type":"track","event":"Signed Up","userId":7}"#;
    let row = judge(&record(&event(payload)), &place()).unwrap();
    assert_eq!(
        (row.source.as_str(), row.message_id.as_str()),
        ("web", "m-1")
    );
    assert_eq!(
        (row.kind.as_str(), row.stream.as_str()),
        ("track", "events")
    );
    assert_eq!(row.user_id.as_deref(), Some("7"));
    assert_eq!((row.timestamp, row.received_at), (RECEIVED, RECEIVED));
    assert_eq!((row.log_id, row.lane, row.offset), (LogId(9), Lane(3), 42));
    assert_eq!(row.node, "node-a");
    assert_eq!(row.trace_id.unwrap(), "ab".repeat(16));
}

#[test]
fn a_bad_event_becomes_an_error_row_with_its_own_bytes() {
    let payload = br#"{"type":"track", "event":"Signed Up"}"#;
    let row = judge(&record(&event(payload)), &place()).unwrap_err();
    let expected = ErrorRow {
        log_id: LogId(9),
        offset: 42,
        original_hash: format!("{:016x}", xxh3_64(payload)),
        original: payload.to_vec(),
        original_format: "json".into(),
        stage: "validate".into(),
        code: "missing_field".into(),
        reason: "user_id or anonymous_id is required".into(),
        source: "web".into(),
        message_id: "m-1".into(),
        stream: "events".into(),
        received_at: RECEIVED,
        node: "node-a".into(),
        lane: Lane(3),
        trace_id: Some("ab".repeat(16)),
    };
    assert_eq!(*row, expected);
}

#[test]
fn a_record_that_cannot_be_read_is_kept_whole() {
    let unknown = Record {
        format: 9,
        message_id: "m".into(),
        stream: "s".into(),
        ..Record::default()
    };
    for bytes in [
        unknown.encode_to_vec(),
        b"\xff\xff\xff".to_vec(),
        Vec::new(),
    ] {
        let row = judge(&bytes, &place()).unwrap_err();
        assert_eq!(row.original, bytes);
        assert_eq!(
            (&*row.original_format, &*row.code),
            ("record", "invalid_payload")
        );
        assert_eq!(
            (row.source.as_str(), row.stream.as_str()),
            ("default", "default")
        );
        // It must land in its batch's day.
        assert_eq!(Day::of(row.received_at), place().day);
    }
}

#[test]
fn a_time_that_no_warehouse_holds_reaches_neither_row() {
    let wild = Event {
        received_at: i64::MAX,
        ..event(b"{}")
    };
    let row = judge(&record(&wild), &place()).unwrap_err();
    assert_eq!(&*row.code, "invalid_timestamp");
    assert_eq!(Day::of(row.received_at), place().day);
}

#[test]
fn a_panic_is_an_error_row_of_that_event() {
    let bytes = record(&event(b"{\"secret\":1}"));
    let panics: Judge = |_, _| panic!("on purpose");
    let row = judge_isolated(panics, &bytes, &place()).unwrap_err();
    assert_eq!((&*row.stage, &*row.code), ("adapt", "worker_panicked"));
    assert_eq!(
        (row.original.as_slice(), &*row.original_format),
        (&b"{\"secret\":1}"[..], "json")
    );
    let row = judge_isolated(panics, b"\xff", &place()).unwrap_err();
    assert_eq!(
        (row.original.as_slice(), &*row.original_format),
        (&b"\xff"[..], "record")
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_have_an_outcome(payload in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        // Every damage is judged, never panics, and keeps its bytes.
        if let Err(row) = judge(&payload, &place())
            && row.original_format == "record"
        {
            proptest::prop_assert_eq!(&row.original, &payload);
        }
        for format in [PayloadFormat::Json, PayloadFormat::Event] {
            let event = Event { format, ..event(&payload) };
            if let Err(row) = judge(&record(&event), &place()) {
                proptest::prop_assert_eq!(&row.original, &payload);
            }
        }
    }
}
