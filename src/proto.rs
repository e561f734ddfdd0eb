//! Generated code: the wire contract of `proto/`.
//!
//! The only module whose lints are relaxed. [`v1`] is the public API with its client; [`server`] is the server's view of
//! the same API, in which each event is a slice of the request (see `build.rs`); [`log`] is the form of a record on
//! disk and in a sealed batch, [`queue`] that of a batch on its way.
#![expect(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::missing_errors_doc,
    clippy::too_many_lines,
    reason = "generated code"
)]

/// The public API, `eventkit.v1`.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/api/eventkit.v1.rs"));
}

/// The server's view of the public API: `repeated Event` is `repeated bytes`, which has the same wire form.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/eventkit.v1.rs"));
}

/// Records as they lie in the log, `eventkit.log.v1`.
pub mod log {
    include!(concat!(env!("OUT_DIR"), "/api/eventkit.log.v1.rs"));
}

/// Batches as they travel over Pub/Sub, `eventkit.queue.v1`.
pub mod queue {
    include!(concat!(env!("OUT_DIR"), "/api/eventkit.queue.v1.rs"));
}

/// Every file of `proto/` and what they import, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
