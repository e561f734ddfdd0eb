//! Bodies of HTTP requests: split, judged at the edge, followed to the worker. serde_json says what is JSON.
#![no_main]

use std::fmt;

use eventkit::ingress::admit::{self, Shared};
use eventkit::ingress::decode::json_event;
use eventkit::ingress::decode::scan::{self, Extent};
use eventkit_fuzz::{LIMITS, follow};
use libfuzzer_sys::fuzz_target;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

const EVENTS_MAX: usize = 100;

fuzz_target!(|body: &[u8]| {
    let plain = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let items = scan::split(body, EVENTS_MAX);
    match is_json(plain)
        .then(|| plain.trim_ascii_start().first())
        .flatten()
    {
        Some(b'{') => assert_eq!(items.as_ref().unwrap().len(), 1),
        Some(b'[') => {
            let whole: Vec<&RawValue> = serde_json::from_slice(plain).unwrap();
            match &items {
                Ok(items) => {
                    let ours: Vec<_> = items.iter().map(|item| item.bytes).collect();
                    let theirs: Vec<_> = whole.iter().map(|raw| raw.get().as_bytes()).collect();
                    assert_eq!(ours, theirs);
                }
                Err(error) => assert!(whole.len() > EVENTS_MAX, "{error}"),
            }
        }
        Some(_) | None => {}
    }
    members(body, plain);
    // The outer members stand for what an envelope shares.
    let mut shared = [&b""[..]; 2];
    if scan::members(body, |member| match member.key {
        br#""context""# if json_event(member.value).is_ok() => shared[0] = member.value,
        br#""integrations""# if json_event(member.value).is_ok() => shared[1] = member.value,
        _ => {}
    })
    .is_err()
    {
        shared = [b""; 2];
    }
    let shared = Shared::new(shared[0], shared[1]);
    for item in items.into_iter().flatten() {
        let is_event = is_json(item.bytes) && item.bytes.first() == Some(&b'{');
        assert_eq!(json_event(item.bytes).is_ok(), is_event);
        if is_event {
            if let Some(extent) = measured(item.bytes) {
                assert_eq!(item.extent, extent);
                assert_eq!(scan::extent(item.bytes), extent);
            }
        }
        for shared in [&Shared::default(), &shared] {
            if let Ok(admitted) = admit::json(item, shared, &LIMITS) {
                follow(&admitted, shared);
            }
        }
    }
});

/// The members of an object are those that serde_json sees.
fn members(body: &[u8], plain: &[u8]) {
    struct Theirs;
    impl<'de> Visitor<'de> for Theirs {
        type Value = Vec<(&'de str, &'de str)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                all.push((key.get(), value.get()));
            }
            Ok(all)
        }
    }
    let mut ours = Vec::new();
    let shown = scan::members(body, |member| ours.push((member.key, member.value)));
    if !is_json(plain) || plain.trim_ascii_start().first() != Some(&b'{') {
        return;
    }
    shown.unwrap();
    let mut json = serde_json::Deserializer::from_slice(plain);
    let theirs = json.deserialize_map(Theirs).unwrap();
    let theirs: Vec<_> = theirs
        .into_iter()
        .map(|(key, value)| (key.as_bytes(), value.as_bytes()))
        .collect();
    assert_eq!(ours, theirs);
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// The extent as serde_json sees it; `None` where it sees none: too deep for it, or a text or number that it cannot hold.
fn measured(bytes: &[u8]) -> Option<Extent> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut extent = Extent::default();
    let walk = Walk {
        depth: 0,
        extent: &mut extent,
    };
    walk.deserialize(&mut json).ok()?;
    Some(extent)
}

struct Walk<'a> {
    depth: usize,
    extent: &'a mut Extent,
}

impl Walk<'_> {
    fn below(&mut self) -> Walk<'_> {
        let depth = self.depth + 1;
        self.extent.depth = self.extent.depth.max(depth);
        Walk {
            depth,
            extent: self.extent,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let below = self.below();
        while map.next_key::<&RawValue>()?.is_some() {
            below.extent.keys += 1;
            let value = Walk {
                depth: below.depth,
                extent: &mut *below.extent,
            };
            map.next_value_seed(value)?;
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let below = self.below();
        loop {
            let value = Walk {
                depth: below.depth,
                extent: &mut *below.extent,
            };
            if seq.next_element_seed(value)?.is_none() {
                return Ok(());
            }
        }
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}
