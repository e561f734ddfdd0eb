//! From bytes to events, without a tree. Pure: no I/O, no clock, no configuration but the limits that it is given.
//!
//! - [`scan`] splits a body into its events and counts depth and keys on the way; one bad event never costs its
//!   neighbours.
//! - [`json`] reads one JSON event into borrowed parts. The worker reads the same bytes with the same function, so the
//!   edge and the worker can never disagree about what an event says.
//! - [`protobuf`] reads one `eventkit.v1.Event`.

pub mod json;
pub mod protobuf;
pub mod scan;

pub use json::{DecodeError, Id, JsonEvent, id_text, json_event};
