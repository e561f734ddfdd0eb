//! How many connections an address may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use super::quota::one_sender;
use crate::config::IngressConfig;

/// The places of every address. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Places(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    max: usize,
    /// They speak for many, and are not counted.
    trusted: Vec<IpNet>,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    pub(super) fn new(config: &IngressConfig) -> Self {
        Self(config.guard.connections_per_address_max.map(|max| {
            Arc::new(Inner {
                max,
                trusted: config.trusted_proxies.clone(),
                taken: Mutex::default(),
            })
        }))
    }

    /// A place for a connection of this address; `None`: it has as many as it may have.
    pub(super) fn take(&self, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        let counted = self.0.as_ref();
        let counted = counted.filter(|all| !all.trusted.iter().any(|net| net.contains(&peer)));
        let Some(all) = counted else {
            return Some(Place(None));
        };
        let sender = one_sender(peer);
        let mut taken = all.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let places = taken.entry(sender).or_default();
        if *places >= all.max {
            return None;
        }
        *places += 1;
        drop(taken);
        Some(Place(Some((Arc::clone(all), sender))))
    }
}

/// One connection of an address, as long as it lives.
#[derive(Debug)]
pub(super) struct Place(Option<(Arc<Inner>, IpAddr)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((all, sender)) = &self.0 else {
            return;
        };
        let mut taken = all.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = taken.get_mut(sender) {
            *places -= 1;
            if *places == 0 {
                taken.remove(sender);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let places = Places(Some(Arc::new(Inner {
            max: 2,
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
            taken: Mutex::default(),
        })));
        let take = |address: &str| places.take(address.parse().unwrap());
        let (one, two) = (take("192.0.2.1"), take("::ffff:192.0.2.1"));
        assert!(one.is_some() && two.is_some() && take("192.0.2.1").is_none());
        assert!(take("192.0.2.2").is_some());
        drop(one);
        assert!(take("192.0.2.1").is_some());
        let proxies: Vec<_> = (0..5).map(|_| take("10.1.2.3")).collect();
        assert!(proxies.iter().all(Option::is_some));
        drop((two, proxies));
        let taken = places.0.as_ref().unwrap().taken.lock().unwrap().len();
        assert_eq!(taken, 0, "an address that is gone is forgotten");
    }
}
