//! Kills the real binary and compares.
fn main() {}
