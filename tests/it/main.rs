//! Everything that runs in the test process.

mod descriptor;
mod doors;
mod publisher;
