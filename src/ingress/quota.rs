//! Who is too fast: buckets of events and of bytes, for each write key and for each address.
//!
//! A bucket fills with its rate and holds what comes in the time of a burst. A request is taken while there is anything in the
//! bucket, and then takes all that it carries, so that what is left may be less than nothing: the next has to wait until that
//! is made up for. So a batch larger than a bucket is not refused for ever, and in the long run the rate is kept exactly.
//!
//! A bucket is one number: the moment at which it will be full again. The crate `governor` has the same arithmetic without the
//! debt (it refuses for ever what is larger than a burst), and keeps one state per key that has ever been seen; here the
//! address that was not seen for longest is forgotten.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashlink::LruCache;

use crate::config::Rates;

/// Nanoseconds since some moment before everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn after(since: Duration) -> Self {
        Self(nanos(since))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What there was too much of, and how long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) what: &'static str,
    pub(crate) per_second: u64,
    pub(crate) wait: Duration,
}

/// One limit.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// What a full bucket is worth in time.
    burst: u64,
    /// When it will be full.
    full_at: AtomicU64,
}

impl Bucket {
    fn new(per_second: u64, burst: Duration) -> Self {
        Self {
            per_second,
            burst: nanos(burst),
            full_at: AtomicU64::new(0),
        }
    }

    /// How long until there is something in it.
    fn wait(&self, now: Moment) -> Duration {
        let missing = self.full_at.load(Ordering::Relaxed).saturating_sub(now.0);
        // With the whole burst missing it is empty.
        match missing.checked_sub(self.burst) {
            None => Duration::ZERO,
            Some(beyond) => Duration::from_nanos(beyond + 1),
        }
    }

    fn take(&self, amount: u64, now: Moment) {
        let worth = u128::from(amount) * 1_000_000_000 / u128::from(self.per_second.max(1));
        let worth = u64::try_from(worth).unwrap_or(u64::MAX);
        self.full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                Some(full_at.max(now.0).saturating_add(worth))
            })
            .unwrap_or_default();
    }
}

/// The limits of one sender.
#[derive(Debug)]
pub(crate) struct Buckets {
    events: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Buckets {
    pub(crate) fn new(rates: Rates, burst: Duration) -> Self {
        let bucket = |rate: Option<u64>| rate.map(|rate| Bucket::new(rate, burst));
        Self {
            events: bucket(rates.events),
            bytes: bucket(rates.bytes),
        }
    }

    /// Whether the sender may send now.
    pub(crate) fn check(&self, now: Moment) -> Result<(), Exceeded> {
        let all = [("events", &self.events), ("bytes", &self.bytes)];
        let waits = all.into_iter().filter_map(|(what, bucket)| {
            let bucket = bucket.as_ref()?;
            Some(Exceeded {
                what,
                per_second: bucket.per_second,
                wait: bucket.wait(now),
            })
        });
        match waits.max_by_key(|exceeded| exceeded.wait) {
            Some(exceeded) if exceeded.wait > Duration::ZERO => Err(exceeded),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes what a request carries.
    pub(crate) fn take(&self, events: u64, bytes: u64, now: Moment) {
        for (bucket, amount) in [(&self.events, events), (&self.bytes, bytes)] {
            if let Some(bucket) = bucket {
                bucket.take(amount, now);
            }
        }
    }
}

/// The limits of addresses: of those that were seen last.
#[derive(Debug)]
pub(crate) struct Addresses {
    rates: Rates,
    burst: Duration,
    seen: Mutex<LruCache<IpAddr, Arc<Buckets>>>,
}

impl Addresses {
    /// `None`: addresses have no limit.
    pub(crate) fn new(rates: Rates, burst: Duration, addresses_max: usize) -> Option<Self> {
        (!rates.are_unlimited()).then(|| Self {
            rates,
            burst,
            seen: Mutex::new(LruCache::new(addresses_max)),
        })
    }

    /// The limits of an address.
    pub(crate) fn of(&self, address: IpAddr) -> Arc<Buckets> {
        let sender = one_sender(address);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buckets) = seen.get(&sender) {
            return Arc::clone(buckets);
        }
        let buckets = Arc::new(Buckets::new(self.rates, self.burst));
        seen.insert(sender, Arc::clone(&buckets));
        buckets
    }

    /// How many are known.
    pub(crate) fn known(&self) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len()
    }
}

/// What counts as one sender: an address, and of the sixth version the half that names a network, since whoever has that
/// has all addresses in it.
pub(crate) fn one_sender(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Moment {
        Moment::after(Duration::from_secs_f64(100.0 + seconds))
    }

    fn rates(events: u64, bytes: u64) -> Rates {
        let some = |rate| (rate > 0).then_some(rate);
        Rates {
            events: some(events),
            bytes: some(bytes),
        }
    }

    fn seconds(buckets: &Buckets, now: f64) -> Option<(&'static str, f64)> {
        let exceeded = buckets.check(at(now)).err()?;
        let tenths = (exceeded.wait.as_secs_f64() * 10.0).round();
        Some((exceeded.what, tenths / 10.0))
    }

    #[test]
    fn a_bucket_gives_a_burst_and_then_its_rate() {
        let buckets = Buckets::new(rates(10, 0), Duration::from_secs(2));
        for _event in 0..20 {
            assert_eq!(seconds(&buckets, 0.0), None);
            buckets.take(1, 1_000_000, at(0.0));
        }
        assert_eq!(seconds(&buckets, 0.0), Some(("events", 0.0)));
        let refused = |now| buckets.check(at(now)).is_err();
        assert!(refused(0.0));
        // Whoever tries all the time gets the rate, and the one that the last of it lets in.
        let mut taken = 0;
        for step in 0..1_000 {
            let now = 0.01 * f64::from(step);
            if !refused(now) {
                buckets.take(1, 0, at(now));
                taken += 1;
            }
        }
        assert!((99..=101).contains(&taken), "{taken}");
        // Nobody saves up more than a burst.
        assert!(!refused(1_000.0));
        buckets.take(20, 0, at(1_000.0));
        assert!(refused(1_000.0));
    }

    #[test]
    fn what_is_larger_than_a_bucket_is_taken_once_and_made_up_for() {
        let buckets = Buckets::new(rates(0, 100), Duration::from_secs(1));
        assert_eq!(seconds(&buckets, 0.0), None);
        buckets.take(7, 1_000, at(0.0));
        // A thousand bytes are ten seconds, of which the bucket held one.
        assert_eq!(seconds(&buckets, 0.0), Some(("bytes", 9.0)));
        assert_eq!(seconds(&buckets, 8.5), Some(("bytes", 0.5)));
        assert_eq!(seconds(&buckets, 9.1), None);
    }

    #[test]
    fn the_longer_wait_is_said() {
        let buckets = Buckets::new(rates(10, 100), Duration::from_secs(1));
        buckets.take(30, 1_000, at(0.0));
        assert_eq!(seconds(&buckets, 0.0), Some(("bytes", 9.0)));
        buckets.take(300, 0, at(0.0));
        assert_eq!(seconds(&buckets, 0.0), Some(("events", 32.0)));
        let unlimited = Buckets::new(Rates::default(), Duration::from_secs(1));
        unlimited.take(u64::MAX, u64::MAX, at(0.0));
        assert_eq!(seconds(&unlimited, 0.0), None);
    }

    #[test]
    fn amounts_beyond_all_time_do_no_harm() {
        let buckets = Buckets::new(rates(1, 1), Duration::from_secs(1));
        buckets.take(u64::MAX, u64::MAX, at(0.0));
        buckets.take(u64::MAX, u64::MAX, at(0.0));
        assert!(buckets.check(at(1e9)).is_err());
    }

    #[test]
    fn addresses_are_remembered_as_long_as_there_is_room() {
        let limits = Addresses::new(rates(1, 0), Duration::from_secs(1), 2).unwrap();
        let of = |text: &str| limits.of(text.parse().unwrap());
        let is_spent = |text: &str| of(text).check(at(0.0)).is_err();
        of("192.0.2.1").take(100, 0, at(0.0));
        of("2001:db8::1").take(100, 0, at(0.0));
        assert!(is_spent("192.0.2.1") && is_spent("::ffff:192.0.2.1"));
        assert!(is_spent("2001:db8::ffff:1"));
        // The third takes the place of the one that was not seen for longest.
        assert!(!is_spent("192.0.2.3"));
        assert_eq!(limits.known(), 2);
        assert!(is_spent("2001:db8::1"));
        assert!(!is_spent("192.0.2.1"));
        assert!(Addresses::new(Rates::default(), Duration::from_secs(1), 2).is_none());
    }
}
