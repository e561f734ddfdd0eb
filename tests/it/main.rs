//! Everything that runs in the test process.

mod store;
