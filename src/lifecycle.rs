//! What keeps the program together: supervised tasks, health, and an ordered stop.
//!
//! Correctness never depends on a clean shutdown; draining only shortens the replay after the next start.

pub mod health;
pub mod signals;
pub mod tasks;

pub use health::Health;
pub use signals::Stop;
pub use tasks::Tasks;
