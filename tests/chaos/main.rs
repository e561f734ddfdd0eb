//! Does bad things to the real binary under concurrent load on every door, restarts it on the same directory, and lets the
//! oracle compare what the clients were told with what became of it. Every scenario runs on both log engines, one after the
//! other; names on the command line choose among them as in any test binary.
//!
//! `EVENTKIT_CHAOS` (`short`, or `long` for the full measure), `EVENTKIT_CHAOS_KILLS` (kills per engine in the kill loop),
//! `EVENTKIT_CHAOS_SEED` (random, printed), `EVENTKIT_CHAOS_FIGURES` (a file to which the figures are appended) and
//! `EVENTKIT_BIN` (the binary cargo built) steer it. A failed scenario keeps its directory.

#[expect(
    dead_code,
    reason = "shared with the other test binaries, which use the rest"
)]
#[path = "../support/support.rs"]
mod support;

// The load, and how a scenario is put together.
mod events;
mod load;
mod odd;
mod scenario;
// What is done to the gateway.
#[cfg(feature = "cloud")]
mod cloud;
mod faults;
mod kills;
mod outages;
mod resources;
mod signals;

use std::process::ExitCode;

use libtest_mimic::Arguments;

use crate::scenario::Settings;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each scenario wants the machine for itself.
    arguments.test_threads = Some(1);
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(error) => {
            scenario::say("chaos", &format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    if !arguments.list {
        scenario::say("chaos", &settings.to_string());
    }
    let families = [
        kills::scenarios(),
        signals::scenarios(),
        outages::scenarios(),
        resources::scenarios(),
        faults::scenarios(),
        #[cfg(feature = "cloud")]
        cloud::scenarios(&settings),
    ];
    let trials = families
        .into_iter()
        .flatten()
        .map(|scenario| scenario.trial(&settings))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
