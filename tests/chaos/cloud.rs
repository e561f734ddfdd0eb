//! The cloud's back ends under load: each part of the path a process of its own, Pub/Sub or the process itself between them,
//! every store behind them. Processes are killed and stopped, lines break, stores fall ill, a subscription is deleted.
//!
//! A scenario needs the emulators of its services (`tests/support/emulators.rs`); whatever it makes there has a name of its own.
//! The engine of the log matters little here and takes turns.

use crate::scenario::{Engine, Scenario, Settings};

mod back;
mod documents;
mod double;
mod front;
mod frozen;
mod kills;
mod line;
mod outages;
mod relay;
mod runs;
mod set;
mod steps;
mod tables;

/// The scenarios of this family. Of bad lines, ill services and more than one of a kind the short form has one, whose turn it is.
pub(crate) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let mut scenarios = kills::scenarios(settings);
    scenarios.extend(steps::scenarios(settings));
    let mut others = outages::scenarios(settings);
    others.extend(double::scenarios(settings));
    if settings.long {
        others.extend(relay::scenarios(settings));
    } else {
        let turn = usize::try_from(settings.seed % (others.len() as u64)).unwrap_or_default();
        others = vec![others.swap_remove(turn)];
    }
    scenarios.extend(others);
    scenarios
}

/// The engine whose turn it is.
fn engine(settings: &Settings, turn: u64) -> Engine {
    let [sled, sqlite] = Engine::BOTH;
    if (settings.seed + turn).is_multiple_of(2) {
        sled
    } else {
        sqlite
    }
}
