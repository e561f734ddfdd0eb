//! Who may come in: keys, rates, TLS, and what one address or stream may take.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::Profile;
use super::reader::Reader;
use super::settings::{self, Setting};
use super::stages::Config;

/// How much a second; `None`: as much as comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Events.
    pub events: Option<u64>,
    /// Bytes of events.
    pub bytes: Option<u64>,
}

impl Rates {
    /// Whether nothing is limited.
    #[must_use]
    pub fn are_unlimited(self) -> bool {
        self == Self::default()
    }
}

/// Who may come in, and how fast.
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// The file of write keys.
    pub keys_file: Option<PathBuf>,
    /// Whether a key is needed where there are some.
    pub anonymous: bool,
    /// How fast a key may be whose entry does not say it.
    pub key_rates: Rates,
    /// How fast an address may be.
    pub address_rates: Rates,
    /// For how long either may be faster.
    pub burst: Duration,
    /// The most addresses whose rate is counted.
    pub addresses_max: usize,
    /// The most bytes of bodies under way for one of several keys.
    pub key_in_flight_bytes_max: usize,
    /// The most connections of one address; `None`: half of all.
    pub connections_per_address_max: Option<usize>,
    /// The most bytes of bodies under way for one address's requests without a key.
    pub address_in_flight_bytes_max: usize,
    /// How often an HTTP/2 peer is asked whether it is still there.
    pub keepalive_interval: Duration,
    /// How long it may take to say so.
    pub keepalive_timeout: Duration,
    /// How long a stream may be open; `None`: for ever.
    pub stream_age_max: Option<Duration>,
    /// How long a connection takes new requests, about; `None`: for ever.
    pub connection_age_max: Option<Duration>,
    /// Certificates; `None`: the ports speak in clear.
    pub tls: Option<TlsConfig>,
}

/// Open to everyone, as in `dev`.
impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            keys_file: None,
            anonymous: false,
            key_rates: Rates::default(),
            address_rates: Rates::default(),
            burst: Duration::from_secs(5),
            addresses_max: 10_000,
            key_in_flight_bytes_max: usize::MAX,
            connections_per_address_max: None,
            address_in_flight_bytes_max: usize::MAX,
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            stream_age_max: None,
            connection_age_max: None,
            tls: None,
        }
    }
}

/// The certificates of the public ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate and those between it and its root.
    pub certificates: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The roots of clients' certificates; `None`: nobody is asked for one.
    pub client_roots: Option<PathBuf>,
    /// Whether a client may do without.
    pub clients_optional: bool,
}

pub(super) fn guard(reader: &mut Reader<'_>, in_flight: usize, body: usize) -> GuardConfig {
    let rates = |reader: &mut Reader<'_>, events, bytes| Rates {
        events: reader.count_if_set(events),
        bytes: reader.count_if_set(bytes),
    };
    let share = (in_flight / 2).max(body);
    GuardConfig {
        keys_file: reader.path_if_set(&settings::WRITE_KEYS_FILE),
        anonymous: reader.bool(&settings::ALLOW_ANONYMOUS),
        key_rates: rates(
            reader,
            &settings::KEY_EVENTS_PER_SECOND,
            &settings::KEY_BYTES_PER_SECOND,
        ),
        address_rates: rates(
            reader,
            &settings::ADDRESS_EVENTS_PER_SECOND,
            &settings::ADDRESS_BYTES_PER_SECOND,
        ),
        burst: reader.time(&settings::RATE_BURST),
        addresses_max: reader.count(&settings::RATE_ADDRESSES),
        key_in_flight_bytes_max: reader
            .count_if_set(&settings::MAX_KEY_IN_FLIGHT_BYTES)
            .unwrap_or(share),
        connections_per_address_max: reader.count_if_set(&settings::MAX_ADDRESS_CONNECTIONS),
        address_in_flight_bytes_max: reader
            .count_if_set(&settings::MAX_ADDRESS_IN_FLIGHT_BYTES)
            .unwrap_or(share),
        keepalive_interval: reader.time(&settings::KEEPALIVE_INTERVAL),
        keepalive_timeout: reader.time(&settings::KEEPALIVE_TIMEOUT),
        stream_age_max: reader.time_if_set(&settings::MAX_STREAM_AGE),
        connection_age_max: reader.time_if_set(&settings::MAX_CONNECTION_AGE),
        tls: tls(reader),
    }
}

fn tls(reader: &mut Reader<'_>) -> Option<TlsConfig> {
    let certificates = reader.path_if_set(&settings::TLS_CERT_FILE);
    let key = reader.path_if_set(&settings::TLS_KEY_FILE);
    let client_roots = reader.path_if_set(&settings::TLS_CLIENT_CA_FILE);
    let clients_optional = reader.choice(&settings::TLS_CLIENT_AUTH) == "optional";
    reader.rule(
        &[&settings::TLS_CERT_FILE, &settings::TLS_KEY_FILE],
        certificates.is_some() == key.is_some(),
        "a certificate and its key go together",
    );
    reader.rule(
        &[&settings::TLS_CLIENT_CA_FILE, &settings::TLS_CERT_FILE],
        client_roots.is_none() || certificates.is_some(),
        "clients are asked for certificates only over TLS",
    );
    Some(TlsConfig {
        certificates: certificates?,
        key: key?,
        client_roots,
        clients_optional,
    })
}

/// The variables of emulators: whoever sets one is not in production.
const EMULATORS: [&Setting; 4] = [
    &settings::STORAGE_EMULATOR,
    &settings::FIRESTORE_EMULATOR,
    &settings::PUBSUB_EMULATOR,
    &settings::BIGQUERY_EMULATOR,
];

/// Nobody opens the ports of `serve` to everyone without having said so.
pub(super) fn doors(reader: &mut Reader<'_>, config: &Config) {
    let guard = &config.ingress.guard;
    reader.rule(
        &[
            &settings::MAX_BODY_BYTES,
            &settings::MAX_KEY_IN_FLIGHT_BYTES,
        ],
        config.ingress.body_bytes_max <= guard.key_in_flight_bytes_max,
        "one body must fit into what a key may have under way",
    );
    reader.rule(
        &[
            &settings::MAX_BODY_BYTES,
            &settings::MAX_ADDRESS_IN_FLIGHT_BYTES,
        ],
        config.ingress.body_bytes_max <= guard.address_in_flight_bytes_max,
        "one body must fit into what an address may have under way",
    );
    if !config.role.takes_in() {
        return;
    }
    let closed = guard.keys_file.is_some() && !guard.anonymous;
    if closed || reader.inputs.profile == Profile::Dev {
        return;
    }
    let loopback = |addr: SocketAddr| addr.ip().is_loopback();
    let local = loopback(config.ingress.http_addr) && loopback(config.ingress.grpc_addr);
    let emulated = EMULATORS
        .iter()
        .any(|setting| reader.inputs.resolve(setting).text.is_some());
    reader.rule(
        &[&settings::HTTP_ADDR, &settings::GRPC_ADDR],
        guard.anonymous || guard.keys_file.is_some() || local || emulated,
        "anyone who reaches these ports could send: set EVENTKIT_WRITE_KEYS_FILE (`eventkit keys add` makes it), or \
         EVENTKIT_ALLOW_ANONYMOUS=true if that is meant",
    );
    reader.warn(
        &settings::ALLOW_ANONYMOUS,
        "no write key is needed: anyone who reaches the ports may send",
    );
}

/// Whoever reaches the admin port can read events.
pub(super) fn admin(reader: &mut Reader<'_>, config: &Config) {
    reader.rule(
        &[&settings::ADMIN_ADDR],
        config.admin.addr.ip().is_loopback() || config.admin.token.is_some(),
        "whoever reaches the admin port can read events: set EVENTKIT_ADMIN_TOKEN, or listen on loopback",
    );
    let token = config.admin.token.as_deref();
    reader.rule(
        &[&settings::ADMIN_TOKEN],
        token.is_none_or(|token| token.len() >= 16 && token.bytes().all(|b| b.is_ascii_graphic())),
        "must be 16 or more visible characters, and better random ones: `openssl rand -hex 32`",
    );
}
