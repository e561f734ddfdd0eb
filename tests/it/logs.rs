//! Log lines, as they are written.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use eventkit::clock::ManualClock;
use eventkit::config::LogLevel;
use eventkit::telemetry::logs::{Form, LINES_MAX, Lines, Logs, WINDOW, subscriber};
use serde_json::Value;
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
    let (subscriber, _logs) = subscriber(level, lines);
    tracing::subscriber::with_default(subscriber, write);
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
    let line: Value = serde_json::from_str(&written[0]).unwrap();
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
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
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

#[test]
fn lines_in_a_sampled_span_say_which_trace_they_belong_to() {
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let written = lines(Form::Json, LogLevel::Info, || {
        let request = tracing::info_span!(
            target: "eventkit::ingress",
            "request",
            trace_id = trace,
            span_id = tracing::field::Empty
        );
        request.record("span_id", span);
        request.in_scope(|| tracing::info!(target: "eventkit", "request_completed"));
        tracing::info!(target: "eventkit", "flush_completed");
    });
    let line: Value = serde_json::from_str(&written[0]).unwrap();
    assert_eq!(
        (&line["trace_id"], &line["span_id"]),
        (&trace.into(), &span.into())
    );
    assert!(!written[1].contains("trace_id"), "{written:?}");
}

/// Lines that are written one by one, under a clock that can be put.
struct Bench {
    capture: Capture,
    clock: ManualClock,
    logs: Logs,
    _default: tracing::subscriber::DefaultGuard,
}

impl Bench {
    fn new(level: LogLevel) -> Self {
        let (capture, clock) = (Capture::default(), ManualClock::new(0));
        let lines = Lines::new(Form::Json, capture.clone(), Arc::new(clock.clone()));
        let (subscriber, logs) = subscriber(level, lines);
        Self {
            capture,
            clock,
            logs,
            _default: tracing::subscriber::set_default(subscriber),
        }
    }

    /// What was written since the last look: each line's name, level and number of suppressed ones.
    fn taken(&self) -> Vec<(String, String, Option<u64>)> {
        let written = std::mem::take(&mut *self.capture.0.lock().unwrap());
        let lines = written.iter().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            (text("event"), text("level"), line["suppressed"].as_u64())
        });
        lines.collect()
    }
}

fn said(name: &str, level: &str, suppressed: Option<u64>) -> (String, String, Option<u64>) {
    (name.into(), level.into(), suppressed)
}

#[test]
fn of_a_repeated_warning_the_first_are_written_and_the_rest_are_counted() {
    let bench = Bench::new(LogLevel::Info);
    let lines = u64::from(LINES_MAX);
    let fail = || tracing::warn!(target: "eventkit", "store_write_failed");
    let another = || tracing::error!(target: "eventkit", "store_refuses_writes");
    let calm = || tracing::info!(target: "eventkit", "request_completed");
    for _ in 0..lines + 7 {
        fail();
        calm();
    }
    another();
    let taken = bench.taken();
    let count = |name: &str| taken.iter().filter(|line| line.0 == name).count() as u64;
    assert_eq!(count("store_write_failed"), lines);
    assert_eq!(
        count("request_completed"),
        lines + 7,
        "only warnings and errors are cut short"
    );
    assert_eq!(
        count("store_refuses_writes"),
        1,
        "another place has its own count"
    );
    assert!(taken.iter().all(|line| line.2.is_none()), "{taken:?}");

    // The next window begins with what has to be said about the last one.
    bench.clock.set(WINDOW);
    fail();
    let warning = |suppressed| said("store_write_failed", "warning", suppressed);
    assert_eq!(bench.taken(), [warning(Some(7)), warning(None)]);
    assert_eq!((bench.logs.suppressed(0), bench.logs.suppressed(1)), (0, 7));
    assert_eq!(bench.logs.written(0), 1);
}

#[test]
fn the_end_of_a_burst_is_told_without_a_next_one() {
    let bench = Bench::new(LogLevel::Info);
    let (mut sweep, mut polls) = (
        Box::pin(bench.logs.clone().sweep()),
        std::task::Context::from_waker(std::task::Waker::noop()),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let error = || tracing::error!(target: "eventkit", "log_failed");
    for _ in 0..LINES_MAX + 3 {
        error();
    }
    assert_eq!(bench.taken().len(), LINES_MAX as usize);
    let mut after = |micros: i64| {
        bench.clock.set(micros);
        runtime.block_on(async {
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
            assert!(sweep.as_mut().poll(&mut polls).is_pending());
        });
        bench.taken()
    };
    assert_eq!(after(WINDOW - 1), []);
    assert_eq!(after(WINDOW), [said("log_failed", "error", Some(3))]);
    assert_eq!(after(2 * WINDOW), []);

    // A process that ends says it, too, and a clock that is put back ends a window.
    for _ in 0..LINES_MAX + 1 {
        error();
    }
    bench.clock.set(0);
    error();
    let taken = bench.taken();
    let last = &taken[taken.len() - 2..];
    assert_eq!(
        last,
        [
            said("log_failed", "error", Some(1)),
            said("log_failed", "error", None)
        ]
    );
    for _ in 0..LINES_MAX + 4 {
        error();
    }
    bench.logs.flush();
    assert_eq!(
        bench.taken().last(),
        Some(&said("log_failed", "error", Some(5)))
    );
    bench.logs.flush();
    assert_eq!(bench.taken(), []);
}

#[test]
fn the_level_changes_while_the_program_runs_and_sighup_switches_debug_on_and_off() {
    let bench = Bench::new(LogLevel::Warning);
    let all = || {
        tracing::debug!(target: "eventkit", "debug");
        tracing::info!(target: "eventkit", "info");
        tracing::warn!(target: "eventkit", "warning");
        tracing::error!(target: "eventkit", "error");
        tracing::info!(target: "h2", "of another crate");
    };
    let written = || {
        all();
        let taken = bench.taken().into_iter();
        let levels: Vec<_> = taken
            .filter(|line| line.0 == line.1)
            .map(|line| line.0)
            .collect();
        levels.join(" ")
    };
    assert_eq!(written(), "warning error");
    bench.logs.toggle_debug("SIGHUP");
    assert_eq!(bench.logs.level(), LogLevel::Debug);
    assert_eq!(written(), "debug info warning error");
    bench.logs.toggle_debug("SIGHUP");
    assert_eq!(written(), "warning error");
    bench.logs.set_level(LogLevel::Info, "admin");
    assert_eq!(written(), "info warning error");
    bench.logs.set_level(LogLevel::Debug, "admin");
    bench.logs.toggle_debug("SIGHUP");
    assert_eq!(
        (bench.logs.level(), written().as_str()),
        (LogLevel::Info, "info warning error")
    );
    bench.logs.set_level(LogLevel::Error, "admin");
    assert_eq!(
        bench.taken().last(),
        Some(&said("log_level_changed", "warning", None))
    );
    assert_eq!(written(), "error");
}
