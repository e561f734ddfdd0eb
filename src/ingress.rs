//! The doors: bytes come in, by HTTP or gRPC, and every event gets exactly one outcome.

pub mod decode;
