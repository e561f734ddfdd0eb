//! From bytes to events, without a tree. Pure: no I/O, no clock, no configuration but the limits that it is given.
//!
//! - [`json`] reads one JSON event into borrowed parts. The worker reads the same bytes with the same function, so the
//!   edge and the worker can never disagree about what an event says.

pub mod json;

pub use json::{DecodeError, Id, JsonEvent, id_text, json_event};
