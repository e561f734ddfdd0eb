//! Descriptors: as many as the system lets this process have, and no more connections than leave some for files. Without that the
//! log, the store and the warehouse would be the first to fail when clients come in numbers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// How many are kept for everything that is no connection of a client: log, store, warehouse, back ends, listeners, the admin port.
const RESERVED: usize = 128;

/// The same configuration with as many connections as there can be.
pub(super) fn within_limit(mut config: Config) -> Config {
    let Some(limit) = raised() else {
        return config;
    };
    let wanted = config.ingress.connections_max;
    let room = room(limit);
    if room < wanted {
        tracing::warn!(
            descriptors = limit,
            wanted,
            connections = room,
            "connections_limited_by_descriptors"
        );
        config.ingress.connections_max = room;
    }
    config
}

/// How many connections so many descriptors are enough for.
fn room(limit: usize) -> usize {
    limit.saturating_sub(RESERVED).max(limit / 2).max(1)
}

/// Asks for as many as may be had without privileges; how many that is. `None`: there is no limit.
fn raised() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Refused, it stays what it is.
    let in_force = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "descriptors_not_raised");
            limit.current
        }
    };
    in_force.and_then(|limit| usize::try_from(limit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files() {
        for (limit, connections) in [
            (0, 1),
            (1, 1),
            (64, 32),
            (256, 128),
            (1_024, 896),
            (65_536, 65_408),
        ] {
            assert_eq!(room(limit), connections, "{limit}");
        }
    }
}
