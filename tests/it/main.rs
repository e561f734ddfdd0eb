//! Everything that runs in the test process.

mod publisher;
mod store;
