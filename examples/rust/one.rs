//! Sends one event and says what became of it.
//!
//! ```console
//! $ cargo run --example one -- http://localhost:8000
//! Accepted
//! ```

#![expect(clippy::print_stdout, reason = "a program of its own")]

use std::error::Error;

use eventkit::client::{Client, Event, Options, Outcome};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args()
        .nth(1)
        .ok_or("usage: one http://HOST:PORT")?;
    let client = Client::new(Options::new(address.parse()?))?;
    let event = Event::builder("track")
        .user_id("u1")
        .event("Signed up")
        .field("properties", [("plan", "team")].into_iter().collect())
        .build()?;
    // Retries for half a minute, under the same message id: `Options::retry` says how.
    let delivery = client.send(&[event]).await;
    for outcome in &delivery.outcomes {
        println!("{outcome:?}");
    }
    match delivery.outcomes.first() {
        Some(Outcome::Accepted | Outcome::Duplicate) => Ok(()),
        _ => Err("the event is not stored".into()),
    }
}
