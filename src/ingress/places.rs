//! What an address may have: so many connections, and for what comes on them so many bytes under way and places in the log's queue.
//! Without these one client could take all that there is for all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use super::quota::one_sender;
use super::shed::Share;
use crate::config::IngressConfig;

/// The places of every address. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections_max: usize,
    in_flight_bytes_max: usize,
    /// They speak for many, and are not counted.
    trusted: Vec<IpNet>,
    taken: Mutex<HashMap<IpAddr, Taken>>,
}

/// What one address has.
#[derive(Debug)]
struct Taken {
    connections: usize,
    share: Share,
}

impl Places {
    pub(super) fn new(config: &IngressConfig) -> Self {
        let told = config.guard.connections_per_address_max;
        Self(Arc::new(Inner {
            connections_max: of_one_address(told, config.connections_max),
            in_flight_bytes_max: config.guard.address_in_flight_bytes_max,
            trusted: config.trusted_proxies.clone(),
            taken: Mutex::default(),
        }))
    }

    /// A place for a connection of this address; `None`: it has as many as it may have.
    pub(super) fn take(&self, peer: IpAddr) -> Option<Place> {
        let all = &self.0;
        let peer = peer.to_canonical();
        if all.trusted.iter().any(|net| net.contains(&peer)) {
            return Some(Place(None));
        }
        let sender = one_sender(peer);
        let mut taken = all.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let address = taken.entry(sender).or_insert_with(|| Taken {
            connections: 0,
            share: Share::new(all.in_flight_bytes_max),
        });
        if address.connections >= all.connections_max {
            return None;
        }
        address.connections += 1;
        let share = address.share.clone();
        drop(taken);
        Some(Place(Some(Counted {
            all: Arc::clone(all),
            sender,
            share,
        })))
    }
}

/// How many connections an address may have, of all that there may be.
fn of_one_address(told: Option<usize>, all: usize) -> usize {
    told.unwrap_or(all.div_ceil(2))
}

/// One connection of an address, as long as it lives.
#[derive(Debug)]
pub(super) struct Place(Option<Counted>);

#[derive(Debug)]
struct Counted {
    all: Arc<Inner>,
    sender: IpAddr,
    share: Share,
}

impl Place {
    /// What its address may have under way; `None`: as much as there is.
    pub(super) fn share(&self) -> Option<&Share> {
        self.0.as_ref().map(|counted| &counted.share)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut taken = self
            .all
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = taken.get_mut(&self.sender) {
            address.connections -= 1;
            if address.connections == 0 {
                taken.remove(&self.sender);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places(Arc::new(Inner {
            connections_max: 2,
            in_flight_bytes_max: 10,
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
            taken: Mutex::default(),
        }))
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let places = places();
        let take = |address: &str| places.take(address.parse().unwrap());
        let (one, two) = (take("192.0.2.1"), take("::ffff:192.0.2.1"));
        assert!(one.is_some() && two.is_some() && take("192.0.2.1").is_none());
        assert!(take("192.0.2.2").is_some());
        drop(one);
        assert!(take("192.0.2.1").is_some());
        let proxies: Vec<_> = (0..5).map(|_| take("10.1.2.3")).collect();
        assert!(proxies.iter().all(Option::is_some));
        drop((two, proxies));
        let taken = places.0.taken.lock().unwrap().len();
        assert_eq!(taken, 0, "an address that is gone is forgotten");
    }

    #[test]
    fn the_connections_of_an_address_have_one_share() {
        let places = places();
        let take = |address: &str| places.take(address.parse().unwrap()).unwrap();
        let (one, two, other) = (take("192.0.2.1"), take("192.0.2.1"), take("192.0.2.2"));
        let held = one.share().unwrap().bytes.take(10).unwrap();
        assert!(two.share().unwrap().bytes.take(1).is_none());
        assert!(other.share().unwrap().bytes.take(10).is_some());
        drop(held);
        assert!(two.share().unwrap().bytes.take(10).is_some());
        assert!(take("10.1.2.3").share().is_none());
    }

    #[test]
    fn an_address_that_is_told_nothing_has_half_of_the_places() {
        for (told, all, expected) in [(None, 1, 1), (None, 10, 5), (None, 11, 6), (Some(3), 10, 3)]
        {
            assert_eq!(of_one_address(told, all), expected);
        }
    }
}
