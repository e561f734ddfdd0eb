//! Faults of the disk below the gateway.

use crate::scenario::Scenario;

/// The scenarios of this family.
pub(crate) fn scenarios() -> Vec<Scenario> {
    Vec::new()
}
