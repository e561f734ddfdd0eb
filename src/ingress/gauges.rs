//! What shows how full the doors are, beside their limits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Inner;

impl Inner {
    /// Registers the gauges. They hold what they look at, and not the gateway.
    pub(super) fn observe(&self) {
        let metrics = &self.metrics;
        let (connections, bytes) = (self.config.connections_max, self.config.in_flight_bytes_max);
        metrics.observe(
            "eventkit_ingress_connections_limit",
            "The most open connections",
            vec![],
            move || gauge(connections),
        );
        metrics.observe(
            "eventkit_ingress_in_flight_bytes_limit",
            "Bytes of request bodies under way at which work is shed",
            vec![],
            move || gauge(bytes),
        );
        let in_flight = self.in_flight.clone();
        metrics.observe(
            "eventkit_ingress_in_flight_bytes",
            "Bytes of request bodies under way, and of answers that were not taken yet",
            vec![],
            move || gauge(in_flight.used()),
        );
        let open = Arc::downgrade(&self.open);
        metrics.observe(
            "eventkit_ingress_connections",
            "Open connections",
            vec![],
            // One reference is the gateway's own.
            move || gauge(open.strong_count().saturating_sub(1)),
        );
        self.observe_addresses();
        let figures = Arc::clone(&self.figures);
        metrics.observe_counts(
            "eventkit_ingress_client_figures",
            "Figures that SDKs sent about themselves, which are not stored",
            vec![vec![]],
            move |_only| figures.load(Ordering::Relaxed),
        );
    }

    fn observe_addresses(&self) {
        let Some(addresses) = self.addresses.clone() else {
            return;
        };
        let max = self.config.guard.addresses_max;
        self.metrics.observe(
            "eventkit_ingress_rate_addresses",
            "Addresses whose rate is counted",
            vec![],
            move || gauge(addresses.known()),
        );
        self.metrics.observe(
            "eventkit_ingress_rate_addresses_limit",
            "The most addresses whose rate is counted",
            vec![],
            move || gauge(max),
        );
    }

    pub(super) fn observe_keys(&self) {
        let keys = self.keys.clone();
        self.metrics.observe(
            "eventkit_ingress_keys",
            "Write keys in force",
            vec![],
            move || gauge(keys.count()),
        );
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge of a limit in use, far below 2^53"
)]
fn gauge(value: usize) -> f64 {
    value as f64
}
