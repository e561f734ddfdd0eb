//! Made-up events that look like a shop's: a few busy users and many rare ones, all types, properties of all kinds.
//!
//! The same seed makes the same events with the same ids; only their timestamps are those of the run.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, Value, json};

use crate::client::{Builder, Event};
use crate::clock::Clock;

/// How many users there are.
const USERS: u32 = 5_000;

/// An event lies at most so long back, in microseconds.
const AGE_MAX: i64 = 60_000_000;

const EVENTS: &[&str] = &[
    "Product Viewed",
    "Product Added",
    "Checkout Started",
    "Order Completed",
    "Search Performed",
    "Signed Up",
];
const PAGES: &[(&str, &str)] = &[
    ("Home", "/"),
    ("Pricing", "/pricing"),
    ("Docs", "/docs/start"),
    ("Cart", "/cart"),
    ("Blog", "/blog/2024/größer-schneller"),
];
const PRODUCTS: &[&str] = &["Espresso", "Flat white", "Matcha", "Chai", "Crème brûlée"];
const PLANS: &[&str] = &["free", "pro", "team", "enterprise"];
const CITIES: &[&str] = &["Berlin", "São Paulo", "東京", "Nairobi", "Toronto"];
const AGENTS: &[&str] = &["web/4.2", "ios/3.9", "android/5.0", "server/1.1"];

/// Makes up events, one after another.
#[derive(Debug)]
pub(super) struct Generator {
    rng: StdRng,
    clock: Arc<dyn Clock>,
}

impl Generator {
    pub(super) fn new(seed: u64, clock: Arc<dyn Clock>) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            clock,
        }
    }

    /// The next event.
    pub(super) fn event(&mut self) -> Event {
        let id = uuid::Builder::from_random_bytes(self.rng.random()).into_uuid();
        let user = self.user();
        let event = match self.rng.random_range(0..100u32) {
            0..60 => self.track(),
            60..80 => self.page(),
            80..88 => self.identify(&user),
            88..94 => self.screen(),
            94..98 => self.group(),
            _ => Event::builder("alias")
                .user_id(user.clone())
                .field("previousId", format!("anon-{user}").into()),
        };
        let is_anonymous = self.rng.random_bool(0.2);
        let named = event.field("anonymousId", format!("anon-{user}").into());
        let named = if is_anonymous {
            named
        } else {
            named.user_id(user)
        };
        named
            .message_id(id.hyphenated().to_string())
            .timestamp(self.timestamp())
            .context(self.context())
            .build()
            .expect("a made-up event is one JSON object with a text as its id")
    }

    /// Few users are busy and most are rare.
    fn user(&mut self) -> String {
        let bound = self.rng.random_range(1..=USERS);
        format!("user-{}", self.rng.random_range(0..bound))
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = self.rng.random_range(0..of.len());
        *of.get(at).expect("the number is below the length")
    }

    fn timestamp(&mut self) -> String {
        let age = self.rng.random_range(0..AGE_MAX);
        let at = self.clock.now().saturating_sub(age);
        chrono::DateTime::from_timestamp_micros(at)
            .unwrap_or_default()
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    }

    fn context(&mut self) -> Map<String, Value> {
        let agent = self.pick(AGENTS);
        let city = self.pick(CITIES);
        fields([
            (
                "library",
                json!({"name": "eventkit send", "version": agent}),
            ),
            ("location", json!({"city": city})),
        ])
    }

    fn track(&mut self) -> Builder {
        let quantity = self.rng.random_range(1..=5u32);
        let cents = self.rng.random_range(99..9_999u32);
        let products: Vec<Value> = (0..self.rng.random_range(0..4u32))
            .map(|at| json!({"name": self.pick(PRODUCTS), "position": at}))
            .collect();
        let event = self.pick(EVENTS);
        Event::builder("track").event(event).properties(fields([
            ("price", json!(f64::from(cents) / 100.0)),
            ("quantity", json!(quantity)),
            ("returning", json!(self.rng.random_bool(0.4))),
            ("coupon", Value::Null),
            ("products", products.into()),
        ]))
    }

    fn page(&mut self) -> Builder {
        let (name, path) = self.pick(PAGES);
        Event::builder("page")
            .field("name", name.into())
            .field("category", "Site".into())
            .properties(fields([
                ("path", path.into()),
                ("url", format!("https://shop.example{path}").into()),
            ]))
    }

    fn screen(&mut self) -> Builder {
        let (name, _) = self.pick(PAGES);
        Event::builder("screen")
            .field("name", name.into())
            .properties(fields([("tab", json!(self.rng.random_range(0..4u32)))]))
    }

    fn identify(&mut self, user: &str) -> Builder {
        let plan = self.pick(PLANS);
        Event::builder("identify").user_id(user).traits(fields([
            ("email", format!("{user}@example.com").into()),
            ("plan", plan.into()),
        ]))
    }

    fn group(&mut self) -> Builder {
        let company = self.rng.random_range(0..200u32);
        let plan = self.pick(PLANS);
        Event::builder("group")
            .field("groupId", format!("company-{company}").into())
            .traits(fields([
                ("name", format!("Company {company}").into()),
                ("plan", plan.into()),
            ]))
    }
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::clock::ManualClock;

    fn events(seed: u64) -> Vec<Event> {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
        let mut generator = Generator::new(seed, clock);
        (0..500).map(|_| generator.event()).collect()
    }

    #[test]
    fn a_seed_makes_the_same_events_again() {
        assert_eq!(events(7), events(7));
        assert_ne!(events(7), events(8));
    }

    #[test]
    fn events_are_varied_and_their_ids_differ() {
        let events = events(1);
        let ids: BTreeSet<_> = events.iter().map(Event::message_id).collect();
        assert_eq!(ids.len(), 500);
        let mut types = BTreeSet::new();
        let mut users = BTreeSet::new();
        for event in &events {
            let json: Value = serde_json::from_slice(event.json()).unwrap();
            types.insert(json["type"].as_str().unwrap().to_owned());
            users.insert(json["userId"].as_str().map(str::to_owned));
            let kind = json["type"].as_str().unwrap();
            let needs = match kind {
                "track" => "event",
                "group" => "groupId",
                "alias" => "previousId",
                _ => "anonymousId",
            };
            assert!(json[needs].is_string(), "{json}");
        }
        assert_eq!(types.len(), 6, "{types:?}");
        assert!(users.len() > 50 && users.contains(&None), "{users:?}");
    }
}
