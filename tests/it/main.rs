//! Everything that runs in the test process.

#[cfg(test)]
mod wal;
