//! The SDKs that are not installed for the tests, as the bytes that they send to a gateway that asks for keys: answered as each of them
//! needs it, whether it comes once or again, and rows with the right columns.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eventkit::worker::adapt::time;
use serde_json::{Value, json};

use super::columns::the;
use super::{rows_of, until};
use crate::doors::send_to;
use crate::keys::keyed_gateway;
use crate::support::warehouse;

mod table;

use table::Shape;

impl Shape {
    /// What is answered: exactly 200, JSON, `"success":true`, whatever became of single events and however often it comes.
    fn assert_answered(&self, answer: &crate::doors::Answer, status: &str) {
        assert_eq!(answer.status(), 200, "{self:?}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let told = answer.json();
        assert_eq!(told["success"], true, "{told}");
        let results = told["results"].as_array().unwrap().iter();
        let found: Vec<_> = results
            .map(|result| (result["status"].as_str().unwrap(), result["code"].as_str()))
            .collect();
        let all = [
            (status, None),
            ("rejected", Some("too_deep")),
            (status, None),
        ];
        assert_eq!(found, all[..self.events], "{self:?}");
    }

    fn assert_rows(&self, rows: &[Value]) {
        let row = the(rows, "message_id", &format!("{}-track", self.name));
        for (column, value) in [
            ("source", "shop"),
            ("type", "track"),
            ("stream", "events"),
            ("user_id", "ada"),
            ("event", "Order Placed"),
            ("original_timestamp", "2024-05-01T12:00:00.000000Z"),
        ] {
            assert_eq!(row[column], value, "{column} of {row}");
        }
        assert_eq!(row["properties"], json!({"total": 12.5}), "{row}");
        let integrations = json!({"All": true, "Mixpanel": false});
        assert_eq!(row["integrations"], integrations, "{row}");
        assert_eq!(row["context"]["library"]["name"], self.name, "{row}");
        self.assert_times(row);
        self.assert_client(row);
        if self.events == 1 {
            return;
        }
        let row = the(rows, "message_id", &format!("{}-identify", self.name));
        for (column, value) in [
            ("source", "shop"),
            ("type", "identify"),
            ("stream", "users"),
            ("user_id", "4711"),
            ("anonymous_id", "7"),
            ("original_timestamp", "2024-05-01T12:00:00.000000Z"),
        ] {
            assert_eq!(row[column], value, "{column} of {row}");
        }
        assert_eq!(row["traits"], json!({"plan": "pro"}), "{row}");
        // What all events of a batch share lies below an event's own.
        assert_eq!(row["context"]["library"], json!({"name": "mine"}), "{row}");
        assert_eq!(row["context"]["locale"], "de", "{row}");
        self.assert_times(row);
        self.assert_client(row);
    }

    /// The client's clock is corrected where it says what it showed when it sent, and only there.
    fn assert_times(&self, row: &Value) {
        let at = |column: &str| time::parse(row[column].as_str().unwrap()).unwrap();
        if self.is_dated {
            assert_eq!(row["sent_at"], "2024-05-01T12:01:00.000000Z", "{row}");
            assert_eq!(at("timestamp"), at("received_at") - 60_000_000, "{row}");
        } else {
            assert_eq!(row["sent_at"], Value::Null, "{row}");
            assert_eq!(row["timestamp"], row["original_timestamp"], "{row}");
        }
    }

    fn assert_client(&self, row: &Value) {
        let context = &row["context"];
        let text = |name: &str| context.get(name).and_then(Value::as_str);
        let agent = format!("{}/1.0", self.name);
        assert_eq!(text("ip"), self.ip, "{row}");
        let agent = self.ip.map(|_| agent);
        assert_eq!(text("userAgent"), agent.as_deref(), "{row}");
    }
}

#[tokio::test]
async fn what_other_sdks_send_is_a_row_of_each_call_however_often_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints, key) = keyed_gateway(dir.path(), &[]).await;
    let data = dir.path().join("data");
    let basic = BASE64.encode(format!("{key}:"));
    let basic = format!("Authorization: Basic {basic}\r\n");
    let shapes = table::all(&key, &basic);
    let door = endpoints.http.parse().unwrap();
    for status in ["accepted", "duplicate"] {
        for shape in &shapes {
            let answer = send_to(door, &shape.request()).await;
            shape.assert_answered(&answer, status);
        }
    }
    let expected: usize = shapes.iter().map(|shape| shape.events.min(2)).sum();
    let held = || warehouse::counts(&data);
    until(
        || held().0 >= expected as u64,
        || format!("{:?} of {expected} rows", held()),
    )
    .await;
    let rows = rows_of(gateway, &data, expected as u64, &[&key]).await;
    for shape in &shapes {
        shape.assert_rows(&rows);
    }
    assert!(!format!("{rows:?}").contains(&key));
}
