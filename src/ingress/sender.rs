//! Who is behind a request, for events that cannot say it themselves.
//!
//! A browser or a telephone does not know its own address; a server that reports for others must not have its own put in
//! their place. So address and user agent are looked at only when a client itself is the sender: by the path, which
//! some SDKs have to themselves, or because a browser's header says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::extract::ConnectInfo;
use http::header::{ORIGIN, USER_AGENT};
use http::{Extensions, HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::event::Client;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What jitsu-js asks for: `keep`, `remove` or `stripLastOctet`.
const X_IP_POLICY: HeaderName = HeaderName::from_static("x-ip-policy");

/// The longest user agent that is kept. Each event of a request carries it.
const USER_AGENT_BYTES_MAX: usize = 512;

/// What a path says about who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// SDKs of browsers and telephones.
    Client,
    /// SDKs of servers.
    Server,
    /// Anyone: a browser's header decides.
    Anyone,
}

/// The client that sent a request; empty where it was a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sender {
    ip: Option<String>,
    user_agent: Option<String>,
}

impl Sender {
    /// Whoever sent a request, as far as these proxies' word goes.
    pub(super) fn of(
        headers: &HeaderMap,
        extensions: &Extensions,
        party: Party,
        trusted: &[IpNet],
    ) -> Self {
        let is_client = match party {
            Party::Client => true,
            Party::Server => false,
            // Every browser sends it with every POST. `Sec-Fetch-Mode`, Node.js sends as well.
            Party::Anyone => headers.contains_key(ORIGIN),
        };
        if !is_client {
            return Self::default();
        }
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        let ip = peer
            .map(|ConnectInfo(peer)| behind(peer.ip(), headers, trusted))
            .and_then(|ip| policed(ip, headers));
        Self {
            ip: ip.map(|ip| ip.to_string()),
            user_agent: user_agent(headers),
        }
    }

    /// The same for an event.
    pub(super) fn client(&self) -> Client<'_> {
        Client {
            ip: self.ip.as_deref(),
            user_agent: self.user_agent.as_deref(),
        }
    }
}

/// Whom the trusted proxies speak for: the last address of `X-Forwarded-For`, read from its end, that is none of theirs.
/// What stands before that, the client may have written itself.
pub(super) fn behind(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut ip = peer.to_canonical();
    let is_trusted = |ip: IpAddr| trusted.iter().any(|network| network.contains(&ip));
    let values: Vec<&str> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .map(|value| value.to_str().unwrap_or_default())
        .collect();
    let named = values.iter().rev().flat_map(|value| value.rsplit(','));
    for name in named {
        if !is_trusted(ip) {
            return ip;
        }
        match address(name.trim()) {
            Some(next) => ip = next,
            None => return ip,
        }
    }
    ip
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let within = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip = match within.unwrap_or(text).parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_with_port) => text.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(ip.to_canonical())
}

/// What the client wants to be kept of its address.
fn policed(ip: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
    let policy = headers.get(X_IP_POLICY).map_or(&b""[..], |v| v.as_bytes());
    if policy.eq_ignore_ascii_case(b"remove") {
        return None;
    }
    if !policy.eq_ignore_ascii_case(b"stripLastOctet") {
        return Some(ip);
    }
    Some(match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        // The half that names a machine.
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    })
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let mut text = headers.get(USER_AGENT)?.to_str().ok()?.trim().to_owned();
    // ASCII, so that any length is a boundary.
    text.truncate(USER_AGENT_BYTES_MAX);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn of(request: &Request<()>, party: Party, trusted: &[IpNet]) -> Sender {
        Sender::of(request.headers(), request.extensions(), party, trusted)
    }

    fn request(peer: &str, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let peer: SocketAddr = peer.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    }

    fn ip(peer: &str, headers: &[(&'static str, &str)], trusted: &[&str]) -> Option<String> {
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        of(&request(peer, headers), Party::Client, &trusted).ip
    }

    #[test]
    fn an_address_is_taken_from_trusted_proxies_alone() {
        const FORWARDED: &str = "x-forwarded-for";
        let ours: &[&str] = &["10.0.0.0/8", "::1/128"];
        let cases: &[(&str, &[&str], &[&str], &str)] = &[
            ("192.0.2.1:80", &[], ours, "192.0.2.1"),
            ("192.0.2.1:80", &["203.0.113.9"], ours, "192.0.2.1"),
            ("192.0.2.1:80", &["203.0.113.9"], &[], "192.0.2.1"),
            ("10.0.0.1:80", &["203.0.113.9"], ours, "203.0.113.9"),
            ("10.0.0.1:80", &["203.0.113.9"], &[], "10.0.0.1"),
            ("10.0.0.1:80", &[], ours, "10.0.0.1"),
            (
                "10.0.0.1:80",
                &["6.6.6.6, 203.0.113.9,10.2.3.4"],
                ours,
                "203.0.113.9",
            ),
            (
                "10.0.0.1:80",
                &["6.6.6.6", "203.0.113.9", "10.2.3.4"],
                ours,
                "203.0.113.9",
            ),
            ("10.0.0.1:80", &["10.9.9.9"], ours, "10.9.9.9"),
            ("10.0.0.1:80", &["6.6.6.6, unknown"], ours, "10.0.0.1"),
            ("10.0.0.1:80", &["203.0.113.9:4711"], ours, "203.0.113.9"),
            ("[::1]:80", &["[2001:db8::1]:80"], ours, "2001:db8::1"),
            ("[::1]:80", &["[2001:db8::1]"], ours, "2001:db8::1"),
            (
                "[::ffff:10.0.0.1]:80",
                &["::ffff:192.0.2.7"],
                ours,
                "192.0.2.7",
            ),
        ];
        for (peer, values, trusted, expected) in cases {
            let headers: Vec<_> = values.iter().map(|value| (FORWARDED, *value)).collect();
            let found = ip(peer, &headers, trusted);
            assert_eq!(found.as_deref(), Some(*expected), "{peer} {values:?}");
        }
    }

    #[test]
    fn a_client_may_keep_its_address_to_itself() {
        const POLICY: &str = "x-ip-policy";
        let cases = [
            ("192.0.2.77:80", "keep", Some("192.0.2.77")),
            ("192.0.2.77:80", "remove", None),
            ("192.0.2.77:80", "stripLastOctet", Some("192.0.2.0")),
            (
                "[2001:db8:1:2:3:4:5:6]:80",
                "stripLastOctet",
                Some("2001:db8:1:2::"),
            ),
        ];
        for (peer, policy, expected) in cases {
            let found = ip(peer, &[(POLICY, policy)], &[]);
            assert_eq!(found.as_deref(), expected, "{peer} {policy}");
        }
    }

    #[test]
    fn only_a_client_has_an_address_and_a_user_agent() {
        let origin = ("origin", "https://shop.example");
        let fetch = ("sec-fetch-mode", "cors");
        let agent = ("user-agent", "Mozilla/5.0");
        type Headers<'a> = &'a [(&'static str, &'a str)];
        let cases: &[(Party, Headers<'_>, bool)] = &[
            (Party::Client, &[agent], true),
            (Party::Server, &[agent, origin], false),
            (Party::Anyone, &[agent], false),
            (Party::Anyone, &[agent, origin], true),
            (Party::Anyone, &[agent, fetch], false),
        ];
        for (party, headers, expected) in cases {
            let sender = of(&request("192.0.2.1:80", headers), *party, &[]);
            let client = Client {
                ip: Some("192.0.2.1"),
                user_agent: Some("Mozilla/5.0"),
            };
            let expected = if *expected { client } else { Client::default() };
            assert_eq!(sender.client(), expected, "{party:?} {headers:?}");
        }
    }

    #[test]
    fn a_user_agent_is_short_and_plain() {
        let long = "x".repeat(10_000);
        let cases: [(&str, Option<usize>); 4] = [
            ("", None),
            ("  ", None),
            ("Caf\u{e9}", None),
            (&long, Some(512)),
        ];
        for (value, length) in cases {
            let mut request = request("192.0.2.1:80", &[]);
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().insert(USER_AGENT, value);
            let sender = of(&request, Party::Client, &[]);
            assert_eq!(sender.user_agent.map(|text| text.len()), length);
        }
    }
}
