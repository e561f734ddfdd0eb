//! Everything that runs against real sockets, stores and the real binary, without kills.
#![cfg(test)]

#[expect(dead_code, reason = "shared with the chaos tests, which uses the rest")]
#[path = "../support/support.rs"]
mod support;

// What clients rely on.
mod descriptor;
mod doors;
// The stages, each against its neighbours.
mod wal;
mod publisher;
mod queue;
mod store;
mod stores;
mod loader;
// A store whose code panics, and the pipeline around it.
mod panics;
// How the emulators of the cloud are found.
mod emulators;
// The oracle itself, before anything relies on it.
mod oracle;
// Both doors to the warehouse, with the real binary.
mod e2e;
// The parts of the path as processes of their own.
#[cfg(feature = "cloud")]
mod roles;
// One trace from the request to the row.
mod chain;
// Who may send, and over what.
mod keys;
mod tls;
// The SDKs that other people wrote.
mod sdks;
// What a machine can read about the HTTP door, and whether it is so.
mod openapi;
// What no client should send, and what every one hears; and those who mean harm.
mod bad_input;
mod hostile;
// A log emptied without a gateway.
mod drain;
// Damaged logs, and the command that repairs them.
mod damage;
// The Rust client, and the tool that is built on it.
mod client;
mod send;
// The measuring tool; its figures are nobody's promise.
mod bench;
// Every script of `grpcurl-examples/`, every program of `examples/`.
mod grpcurl;
mod examples;
// How it is started, what it says, and the tools.
mod config;
mod cli;
mod logs;
mod health;
mod otlp;
// What it shows while it runs, and what of its clients it never shows.
mod observability;
mod personal_data;
// What the documents say about it.
mod docs;
mod running;
mod deploy;
