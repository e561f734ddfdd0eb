//! Readiness: a gateway is ready when its log is usable, not full, and not draining. Everything else that is wrong shows
//! as `degraded` and keeps the gateway in the balancer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Every component that can be degraded.
pub const COMPONENTS: [&str; 6] = [
    "store",
    "warehouse",
    "pubsub topic",
    "pubsub subscription",
    "pubsub pull",
    "pubsub messages",
];

/// What readiness is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why no new work is taken, by component; empty means ready.
    pub not_ready: BTreeMap<&'static str, String>,
    /// What does not work although work is taken, by component.
    pub degraded: BTreeMap<&'static str, String>,
}

impl Readiness {
    /// Whether new work is taken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.not_ready.is_empty()
    }
}

/// Shared by all who know or ask about it.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<Mutex<Readiness>>,
    changed: watch::Sender<bool>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            changed: watch::Sender::new(true),
        }
    }
}

impl Health {
    /// Takes the component out of readiness (with a reason), or puts it back (`None`).
    pub fn not_ready(&self, component: &'static str, reason: Option<String>) {
        self.update(|state| set(&mut state.not_ready, component, reason));
    }

    /// Marks the component as degraded (with a reason), or as well again (`None`).
    pub fn degraded(&self, component: &'static str, reason: Option<String>) {
        debug_assert!(
            COMPONENTS.contains(&component),
            "{component} has no gauge: name it above"
        );
        self.update(|state| set(&mut state.degraded, component, reason));
    }

    /// How things stand.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether new work is taken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.changed.borrow()
    }

    /// Whether the component is degraded.
    #[must_use]
    pub fn is_degraded(&self, component: &str) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.degraded.contains_key(component)
    }

    /// Follows whether the gateway is ready.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.changed.subscribe()
    }

    fn update(&self, change: impl FnOnce(&mut Readiness)) {
        let ready = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            state.is_ready()
        };
        self.changed
            .send_if_modified(|current| std::mem::replace(current, ready) != ready);
    }
}

fn set(map: &mut BTreeMap<&'static str, String>, component: &'static str, reason: Option<String>) {
    match reason {
        Some(reason) => map.insert(component, reason),
        None => map.remove(component),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_is_down_degrades_and_stays_ready() {
        let health = Health::default();
        health.degraded("store", Some("unavailable".into()));
        assert!(health.readiness().is_ready());
        health.not_ready("log", Some("full".into()));
        assert!(!health.readiness().is_ready());
        health.not_ready("log", None);
        health.degraded("store", None);
        assert_eq!(health.readiness(), Readiness::default());
    }
}
