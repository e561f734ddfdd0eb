//! eventkit: a durable event-ingestion gateway.
//!
//! The modules below stand in the order of an event's path; read them top to bottom and you have followed one
//! event from the socket to the warehouse. What is promised on the way, and who owns the event at each step, is in
//! `ARCHITECTURE.md`.

// The wire contract, and the words every stage uses.
pub mod proto;
pub mod event;
pub mod status;

// 1. Bytes come in, by gRPC or HTTP; every event gets exactly one outcome.
pub mod ingress;
// 2. The routing key picks one of N lanes; a lane keeps its order.
pub mod sequencer;
// 3. The event becomes durable: one group commit for all who wait.
pub mod wal;
// 4. The durable tail is followed and cut into sealed batches per lane.
pub mod publisher;
// 5. A sealed batch travels to a worker; `Ok` means "you may forget it".
pub mod queue;
// 6. Events are adapted and validated; good and bad rows part ways.
pub mod worker;
// 7. Rows become objects under names that stand for their input.
pub mod store;
// 8. Objects become rows of the warehouse, each event once.
pub mod loader;

// What all stages share.
pub mod admin;
pub mod app;
pub mod backoff;
pub mod cli;
pub mod client;
pub mod clock;
#[cfg(feature = "cloud")]
pub mod cloud;
pub mod config;
pub mod lifecycle;
pub mod telemetry;
