//! Log lines, as they are written.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use eventkit::clock::ManualClock;
use eventkit::config::LogLevel;
use eventkit::telemetry::logs::{Form, Lines, subscriber};
use tracing_subscriber::fmt::MakeWriter;

/// What was written, one entry per call.
#[derive(Debug, Clone, Default)]
struct Capture(Arc<Mutex<Vec<String>>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        self.0.lock().unwrap().push(text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Capture {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn lines(form: Form, level: LogLevel, write: impl FnOnce()) -> Vec<String> {
    let capture = Capture::default();
    let clock = Arc::new(ManualClock::new(1_700_000_000_123_456));
    let lines = Lines::new(form, capture.clone(), clock);
    tracing::subscriber::with_default(subscriber(level, lines), write);
    let mut written = capture.0.lock().unwrap();
    std::mem::take(&mut *written)
}

#[test]
fn a_json_line_has_its_keys_in_order_and_its_fields_flat() {
    let written = lines(Form::Json, LogLevel::Info, || {
        tracing::info!(
            target: "eventkit::ingress::http",
            method = "POST",
            status_code = 202_u16,
            duration_ms = 1.5,
            ok = true,
            note = %"two \"words\"\n",
            level = "own",
            "request_completed"
        );
    });
    assert_eq!(
        written,
        [concat!(
            r#"{"event":"request_completed","level":"info","timestamp":"2023-11-14T22:13:20.123456Z","#,
            r#""logger":"eventkit::ingress::http","method":"POST","status_code":202,"duration_ms":1.5,"#,
            r#""ok":true,"note":"two \"words\"\n","level_":"own"}"#,
            "\n"
        )]
    );
}

#[test]
fn lines_carry_the_fields_of_their_request() {
    let written = lines(Form::Json, LogLevel::Debug, || {
        let request = tracing::info_span!(
            target: "eventkit::ingress",
            "ingest",
            request_id = "r1",
            stream = tracing::field::Empty
        );
        request.record("stream", "users");
        request.in_scope(|| {
            let inner =
                tracing::info_span!(target: "eventkit", "inner", stream = "events", lane = 3);
            inner.in_scope(|| tracing::debug!(target: "eventkit", lane = 4, "event_sequenced"));
        });
    });
    let line: serde_json::Value = serde_json::from_str(&written[0]).unwrap();
    assert_eq!(line["request_id"], "r1");
    assert_eq!(line["stream"], "events");
    assert_eq!(line["lane"], 4);
    let order = ["request_id", "stream", "lane"].map(|key| written[0].find(key).unwrap());
    assert!(order.is_sorted(), "{written:?}");
    assert_eq!(written[0].matches("\"stream\"").count(), 1);
}

#[test]
fn an_error_is_written_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("write the batch")]
    struct Outer(#[source] io::Error);

    let written = lines(Form::Json, LogLevel::Info, || {
        let error = Outer(io::Error::other("no space"));
        let error: &dyn std::error::Error = &error;
        tracing::error!(target: "eventkit", error, "store_write_failed");
    });
    assert!(
        written[0].contains(r#""error":"write the batch: no space""#),
        "{written:?}"
    );
}

#[test]
fn levels_are_named_as_they_always_were_and_the_least_one_is_chosen() {
    let all = || {
        tracing::trace!(target: "eventkit", "e");
        tracing::debug!(target: "eventkit", "e");
        tracing::info!(target: "eventkit", "e");
        tracing::warn!(target: "eventkit", "e");
        tracing::error!(target: "eventkit", "e");
    };
    let names = ["debug", "info", "warning", "error"];
    for (first, level) in [
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warning,
        LogLevel::Error,
    ]
    .into_iter()
    .enumerate()
    {
        let written: Vec<_> = lines(Form::Json, level, all)
            .iter()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["level"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(written, names[first..]);
    }
}

#[test]
fn other_crates_are_heard_only_when_they_warn() {
    let others = || {
        tracing::debug!(target: "h2::codec", "frame");
        tracing::info!(target: "tonic", "hello");
        tracing::warn!(target: "sled", "careful");
    };
    assert_eq!(lines(Form::Text, LogLevel::Debug, others).len(), 1);
    assert_eq!(lines(Form::Text, LogLevel::Error, others).len(), 0);
}

#[test]
fn text_has_colours_only_on_demand_and_no_field_can_pose_as_another() {
    let write = || tracing::warn!(target: "eventkit::wal", path = "/collect", stream = "a=1\n\u{1b}[0m", "log_full");
    let plain = lines(Form::Text, LogLevel::Info, write);
    assert_eq!(
        plain,
        [concat!(
            "2023-11-14T22:13:20.123456Z [warning] log_full                 eventkit::wal",
            " path=/collect stream=\"a=1\\n\\u{1b}[0m\"\n"
        )]
    );
    let colour = lines(Form::Colour, LogLevel::Info, write);
    assert!(colour[0].contains("\u{1b}[33mwarning"), "{colour:?}");
    assert_eq!(colour[0].lines().count(), 1);
}
