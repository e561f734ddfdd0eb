//! eventkit, the program.
fn main() {}
