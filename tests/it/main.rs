//! Everything that runs in the test process.
