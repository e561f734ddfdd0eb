//! Routing key → lane.
//!
//! The routing key is the first of user id, anonymous id and message id that is not empty. Its lane is
//! `xxh3_64(key as UTF-8, seed 0) mod lanes`: stable across processes, machines and versions, so that another
//! implementation can compute it. The vectors in the tests are published for that.

use xxhash_rust::xxh3::xxh3_64;

use crate::event::Lane;

/// The key whose events keep their order: user id, else anonymous id, else message id.
#[must_use]
pub fn routing_key<'a>(
    user_id: Option<&'a str>,
    anonymous_id: Option<&'a str>,
    message_id: &'a str,
) -> &'a str {
    [user_id, anonymous_id]
        .into_iter()
        .flatten()
        .find(|id| !id.is_empty())
        .unwrap_or(message_id)
}

/// The lane of a routing key among `lanes` lanes (at least one).
#[must_use]
pub fn lane(routing_key: &str, lanes: u16) -> Lane {
    let lane = xxh3_64(routing_key.as_bytes()) % u64::from(lanes.max(1));
    Lane(u16::try_from(lane).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published test vectors: (routing key, lane of 16, lane of 7). A change here breaks every user's order.
    const VECTORS: &[(&str, u16, u16)] = &[
        ("", 2, 4),
        ("a", 15, 1),
        ("user-1", 9, 3),
        ("00000000-0000-7000-8000-000000000000", 8, 1),
        ("Zoë", 14, 1),
        ("用户-42", 9, 2),
        ("user@example.com", 4, 3),
        ("0", 5, 3),
    ];

    #[test]
    fn published_vectors_hold() {
        for &(key, of_16, of_7) in VECTORS {
            assert_eq!(
                (lane(key, 16), lane(key, 7)),
                (Lane(of_16), Lane(of_7)),
                "{key:?}"
            );
        }
    }

    #[test]
    fn the_first_id_that_is_not_empty_routes() {
        assert_eq!(routing_key(Some("u"), Some("a"), "m"), "u");
        assert_eq!(routing_key(Some(""), Some("a"), "m"), "a");
        assert_eq!(routing_key(None, None, "m"), "m");
        assert_eq!(routing_key(Some(""), Some(""), "m"), "m");
    }

    #[test]
    fn no_lane_is_starved() {
        let mut counts = [0u32; 16];
        for n in 0..16_000 {
            counts[usize::from(lane(&format!("user-{n}"), 16).0)] += 1;
        }
        assert!(
            counts.iter().all(|&count| (800..1200).contains(&count)),
            "{counts:?}"
        );
    }
}
